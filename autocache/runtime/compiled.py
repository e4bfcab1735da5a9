"""What of a patched model was compiled, module by module, and how its sites are asked there."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from autocache.runtime.intercept import intercepted, site_of

if TYPE_CHECKING:
    from autocache.runtime.intercept import Ahead
    from autocache.runtime.session import Session
    from autocache.runtime.tray import Tray

SLOT = "_compiled_call_impl"
"""Where `nn.Module.compile` puts what it made, and torch looks for it before hooks and forward."""

logger = logging.getLogger("autocache")


def reuses_memory(compiled: Any) -> bool:
    """Whether results may be written to where those of an earlier call are, as CUDA graphs do.

    Only of torch's own backend it is known when they are not.
    """
    told = getattr(compiled, "get_compiler_config", None)
    config = told() if callable(told) else None
    cudagraphs = config.get("triton.cudagraphs") if isinstance(config, Mapping) else None
    return cudagraphs is not False


class Region:
    """A compiled module with intercepted ones inside. It stands around what was compiled."""

    def __init__(self, inner: Callable[..., Any], inside: list[nn.Module]) -> None:
        self.inner = inner
        self.inside = inside

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_dynamo_compiling():
            return self.inner(*args, **kwargs)  # part of a larger region
        asked = ask(self.inside, region=True)
        try:
            output = self.inner(*args, **kwargs)
            tell(asked)
        finally:
            clear(asked)
        return output

    def __getattr__(self, name: str) -> Any:
        # It passes for what it stands around.
        return getattr(self.__dict__["inner"], name)


Asked = list[tuple[nn.Module, "Ahead", "Tray", bool]]


def ask(modules: Iterable[nn.Module], region: bool) -> Asked:
    """Ask the sites of the modules, and lay ready what they say.

    One that has to see what its module is called on stays as it was, and breaks the graph to look;
    inside a `region` that may be one graph only, so one of exact reuse there has the module run.
    """
    asked: Asked = []
    for module in modules:
        site: Any = site_of(module)
        trays = getattr(site, "trays", None)
        if trays is None:
            continue
        given, tray = site.ahead(module), trays.here
        if given is not None:
            tray.lay(given)
            asked.append((module, site, tray, True))
        elif region and site.part.recipe.where.exact:
            tray.lay(())
            asked.append((module, site, tray, False))
            site.session.compiled.tell_idle()
    return asked


def laid(modules: Iterable[nn.Module]) -> Asked:
    """What is laid ready for the modules."""
    found: Asked = []
    for module in modules:
        site: Any = site_of(module)
        trays = getattr(site, "trays", None)
        if trays is not None and trays.here.laid:
            found.append((module, site, trays.here, True))
    return found


def tell(asked: Asked) -> None:
    """Tell the sites what became of it."""
    for module, site, tray, acts in asked:
        if acts and tray.calls:
            site.after(module, tray)


def clear(asked: Asked) -> None:
    for _, _, tray, _ in asked:
        tray.clear()


class Compiled:
    """What is known to be compiled of the model of one session."""

    def __init__(self, session: Session) -> None:
        self._session = weakref.ref(session)
        self._samples: list[tuple[weakref.ref[nn.Module], Any]] | None = None
        """Of each kind of module that matters one, with what its slot held."""
        self._wrapped: weakref.WeakSet[nn.Module] = weakref.WeakSet()
        self._told = False

    def look(self) -> None:
        """See whether anything was compiled since, by one module of each kind."""
        for sample, slot in self._samples or ():
            module = sample()
            if module is not None and module.__dict__.get(SLOT) is not slot:
                self.find()
                return
        if self._samples is None:
            self.find()

    def find(self) -> None:
        """Find everything in the model that is compiled by itself."""
        session = self._session()
        model = session.model if session is not None else None
        if session is None or model is None:
            return
        made = [m for m in model.modules() if m is not model and m.__dict__.get(SLOT) is not None]
        if not made and self._samples is not None:
            return
        inside = _inside(model, session)
        for module in made:
            slot = module.__dict__[SLOT]
            inner = slot.inner if isinstance(slot, Region) else slot
            session.ledger.copies |= reuses_memory(inner)
            if module in inside:
                module.__dict__[SLOT] = Region(inner, inside[module])
                self._wrapped.add(module)
        kinds = {type(m): m for m in reversed((*inside, *session.placed))}
        self._samples = [(weakref.ref(m), m.__dict__.get(SLOT)) for m in kinds.values()]

    def begin(self) -> None:
        """A call of the whole model begins in compiled code."""
        session = self._session()
        if session is None or session.model is None:
            return
        session.ledger.copies |= reuses_memory(session.entry)
        ask(intercepted(session.model, session), region=False)

    def end(self) -> None:
        """That code has come to the end of the model."""
        session = self._session()
        if session is None or session.model is None:
            return
        asked = laid(intercepted(session.model, session))
        tell(asked)
        clear(asked)

    def leave(self) -> None:
        """Take every region off again."""
        for module in self._wrapped:
            slot = module.__dict__.get(SLOT)
            if isinstance(slot, Region):
                module.__dict__[SLOT] = slot.inner
        self._wrapped.clear()
        self._samples = None

    def tell_idle(self) -> None:
        """Modules inside a compiled one are run where they need not be: told once."""
        session = self._session()
        if session is not None and not self._told:
            self._told = True
            logger.warning(
                "%s looks at what modules are called on, which it cannot inside a compiled block: "
                "there it has them run",
                session.patch.strategy if session.patch else "the strategy",
            )


def _inside(model: nn.Module, session: Session) -> dict[nn.Module, list[nn.Module]]:
    """The modules with intercepted ones inside, each with these; not the model itself."""
    named = dict(model.named_modules(remove_duplicate=False))
    found: dict[nn.Module, dict[nn.Module, None]] = {}
    for name, module in named.items():
        site = site_of(module)
        if site is None or site.session is not session:
            continue
        while name := name.rpartition(".")[0]:
            found.setdefault(named[name], {})[module] = None
    return {module: list(inner) for module, inner in found.items()}
