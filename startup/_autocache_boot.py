"""Start-up hook of autocache: waits for torch, and only when AUTOCACHE is set.

Standard library only, and nothing but `sys` at module level: from Python 3.15 on every start of
the interpreter imports this file (autocache.start), whether or not anyone wants autocache.
"""

import sys

_done = False


class _Torch:
    """A `sys.meta_path` finder that finds nothing: it notices the first look-up of torch."""

    def find_spec(self, name, path=None, target=None):
        """Hand over before torch is imported, so that no model class is missed."""
        if name == "torch":
            if self in sys.meta_path:
                sys.meta_path.remove(self)
            _hand_over()
        return None


def activate():
    """Prepare activation when the environment asks for it; never raises, never acts twice."""
    global _done
    if _done:  # site runs the lines of a .pth file twice in every virtual environment
        return
    _done = True
    try:
        import os

        if os.environ.get("AUTOCACHE", "").strip().lower() in ("", "off", "0"):
            return
        if os.environ.get("AUTOCACHE_DISABLE", "") not in ("", "0"):
            return
        if os.environ.get("AUTOCACHE_RUN"):
            from autocache import activation_unmet

            activation_unmet.watch()
        if "torch" in sys.modules:
            _hand_over()
        else:
            sys.meta_path.insert(0, _Torch())
    except Exception as error:
        _complain(error)


def _hand_over():
    try:
        from autocache import activation

        activation.install()
    except Exception as error:
        _complain(error)


def _complain(error):
    print("autocache: not active: %s: %s" % (type(error).__name__, error), file=sys.stderr)
