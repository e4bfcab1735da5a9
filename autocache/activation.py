"""Activation by environment variable: patch every model that has a spec as it is constructed.

The start-up hook calls `install` when torch is about to be imported. Nothing here, at module level
or in `install`, may import torch, wrapt or diffusers.

The point to wrap is `__init__` of the classes that specs name: it sees every way to make a model
(constructor, from_pretrained, from_config, single files, pipelines), before weights, quantization
or offloading. `DiffusionPipeline.register_modules` follows it: there a pipeline is seen together
with its scheduler, and so is a denoiser that has no spec.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import re
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Sized
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

from autocache import activation_grammar, activation_imports, activation_unmet, log
from autocache.errors import AutocacheError, DoesNotApplyError, UnknownModelError

if TYPE_CHECKING:
    from torch import nn

    from autocache.api import Patch

_PIPELINES = "diffusers.pipelines.pipeline_utils"
_DENOISER = re.compile(r"(transformer|unet|prior|denoiser|dit)(_\d+)?")

_installed = False
_busy = threading.local()
_warned: set[type] = set()
_recorded: list[nn.Module] = []


def install() -> None:
    """Watch the modules of all classes that specs name, and of diffusers' pipelines. Idempotent."""
    global _installed
    if _installed:
        return
    _installed = True
    from autocache.spec import registry

    classes: defaultdict[str, list[str]] = defaultdict(list)
    for qualified in registry.index():
        module, _, name = qualified.partition(":")
        classes[module].append(name)
    hooks: dict[str, activation_imports.Hook] = {
        module: functools.partial(_hook_classes, names=names) for module, names in classes.items()
    }
    activation_imports.watch({**hooks, _PIPELINES: _hook_pipelines})


def _hook_classes(module: ModuleType, names: list[str]) -> None:
    import wrapt

    for name in names:
        # A spec may name a class that this version of the library does not have yet.
        cls = getattr(module, name, None)
        if isinstance(cls, type):
            wrapt.wrap_function_wrapper(module, f"{name}.__init__", _patching(cls))


def _hook_pipelines(module: ModuleType) -> None:
    import wrapt

    wrapt.wrap_function_wrapper(module, "DiffusionPipeline.register_modules", _registering)


def _patching(cls: type) -> Callable[..., None]:
    def construct(wrapped: Callable[..., None], model: Any, args: Any, kwargs: Any) -> None:
        wrapped(*args, **kwargs)
        # In a subclass with a constructor of its own the model is still half built.
        owner = next(base for base in type(model).__mro__ if "__init__" in vars(base))
        if owner is cls and not _is_building_block(model):
            _patch(model)

    return construct


def _is_building_block(model: nn.Module) -> bool:
    """Whether other models are built from the class, so that this may be a part of one."""
    from autocache.spec import registry

    if _request() is None:
        return False
    spec = registry.find(type(model))
    return spec is not None and spec.building_block


def _registering(wrapped: Callable[..., None], pipeline: Any, args: Any, kwargs: Any) -> None:
    from autocache import api

    wrapped(*args, **kwargs)
    for name, component in kwargs.items():
        _visit(name, component)
    api.attach(pipeline)
    if os.environ.get("AUTOCACHE_REPORT") and _request() is not None and _first_rank():
        from autocache.reporting import watching

        watching.keep_pipeline(pipeline)


def _visit(name: str, component: Any) -> None:
    from torch import nn

    from autocache.spec import registry

    # What torch.compile returns is a module around the model.
    model = getattr(component, "_orig_mod", component)
    if not isinstance(model, nn.Module):
        return
    if registry.find(type(model)) is not None:
        _patch(model)
    elif _DENOISER.fullmatch(name):
        try:
            _patch(model)  # some strategies need no spec
        except UnknownModelError:
            _warn(name, type(model))


def _warn(name: str, cls: type) -> None:
    if cls in _warned:
        return
    _warned.add(cls)
    _say(
        f"no model spec for {cls.__name__} ({name!r} of the pipeline), so it runs as it is; "
        f"`autocache specs draft {cls.__module__}:{cls.__qualname__} -o {cls.__name__}.yaml` "
        "drafts one; set AUTOCACHE_SPECS to that file's directory"
    )


def _request() -> activation_grammar.Request | None:
    """What AUTOCACHE asks for now: a program may change or clear it between two models."""
    text = os.environ.get("AUTOCACHE", "")
    return None if activation_grammar.off(text) else activation_grammar.parse(text)


def _patch(model: nn.Module) -> None:
    """Patch a model once. Errors go to who constructs it: a typo must not pass for a speed-up.

    That a strategy does not apply to a model is only said: a program may have several kinds.
    """
    from autocache import api

    request = _request()
    if request is None or getattr(_busy, "patching", False) or api.is_patched(model):
        return
    log.configure("warning")
    _busy.patching = True  # a model that patching itself builds, to verify a spec, stays as it is
    try:
        patch = api.patch(model, request.strategy, **request.parameters)
    except DoesNotApplyError as error:
        if type(model) not in _warned:
            _warned.add(type(model))
            _say(f"{type(model).__name__} runs as it is: {error}")
        return
    finally:
        _busy.patching = False
    _say(_line(model, patch))
    _record(model)


def _line(model: nn.Module, patch: Patch) -> str:
    sizes = (len(cast("Sized", model.get_submodule(stack.path))) for stack in patch.spec.stacks)
    blocks = "+".join(map(str, sizes))
    parts = [
        f"{patch.strategy} on {type(model).__name__}",
        f"{blocks} blocks" if blocks else "",
        f"spec {patch.spec.file.name}" if patch.spec.file else "",
        f"profile {patch.profile}" if patch.profile else "",
    ]
    return ", ".join(part for part in parts if part)


def _first_rank() -> bool:
    return os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0"


def _say(text: str) -> None:
    activation_unmet.met()
    if _first_rank():
        from tqdm import tqdm  # diffusers shows a bar while it loads; a print would land inside it

        tqdm.write(f"autocache: {text}", file=sys.stderr)
        sys.stderr.flush()


def _record(model: nn.Module) -> None:
    """Keep the model for the statistics and the report at exit, when variables ask for them."""
    report = os.environ.get("AUTOCACHE_REPORT")
    if report and _first_rank():
        from autocache.reporting import watching

        watching.keep(model, report)
    path = os.environ.get("AUTOCACHE_STATS")
    if not path or not _first_rank():
        return
    if not _recorded:
        atexit.register(_write_stats, Path(path).absolute(), os.getpid())
    _recorded.append(model)


def _write_stats(path: Path, pid: int) -> None:
    from autocache import api
    from autocache.jsonable import jsonable

    if os.getpid() != pid:  # a forked worker: the parent writes
        return
    found = []
    for model in _recorded:
        with contextlib.suppress(AutocacheError):  # unpatched since
            found.append(api.stats(model))
    if path.name == "-":
        for one in found:
            print(one, file=sys.stderr, flush=True)
        return
    runs = jsonable([one.to_dict() for one in found])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(runs, indent=2, allow_nan=False) + "\n", encoding="utf-8")
