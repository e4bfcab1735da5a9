"""The levels of a UNet: DeepCache at every cut, against what skip connections ask for."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from autocache.authoring.checks.subject import NotApplicable, Subject, counted, difference
from autocache.errors import ParameterError
from autocache.spec.levels import Layer, UNet


def levels(subject: Subject) -> Iterator[str]:
    """Never skipping is the plain model; at a cut runs what is outside it, on the kept feature."""
    unet = subject.bound.unet
    if unet is None:
        raise NotApplicable("no levels of a UNet are declared")
    model = subject.fresh()
    subject.patch(model, "deepcache", interval=1)
    for step in (0, 1):
        differs = difference(subject.call(model, step), subject.plain[step])
        if differs:
            yield f"deepcache with interval=1: step {step}: {differs}"
    for branch in range(len(_cuts(unet)) - (unet.middle is None)):
        try:
            yield from _cut(subject, unet, branch)
        except ParameterError as error:
            # Deeper levels may be uncuttable; the first cut is what a UNet is declared for.
            if branch == 0:
                yield f"deepcache does not apply: {error}"
            return


def _cuts(unet: UNet) -> list[tuple[int, int]]:
    """Where skip connections come in on the way up, outermost first: depth, and the number of the
    layer counted from the end of its block."""
    return [
        (depth, layer)
        for depth, level in enumerate(unet.levels)
        for layer in range(len(level.up_layers) if unet.by_layer else 1)
    ]


def _cut(subject: Subject, unet: UNet, branch: int) -> Iterator[str]:
    model, plain = subject.fresh(), subject.fresh()
    subject.patch(model, "deepcache", interval=2, branch=branch)
    reference = _Kept(plain.get_submodule(_before(unet, branch)))
    at = f"cut at branch {branch}"
    for step in (0, 1, 2):
        reference.filling = skip = step == 1
        with counted(model) as ran:
            output = subject.call(model, step)
        expected = _outer(unet, branch) if skip else set(unet.layers)
        got = {name for name in unet.layers if ran[name]}
        if got != expected:
            wrong = ", ".join(sorted(got ^ expected))
            yield f"{at}: step {step}: wrongly run or left out: {wrong}"
            return
        beside = _beside(subject, unet, expected, ran) if skip else []
        if beside:
            yield f"{at}: step {step}: inside the cut ran {', '.join(beside[:3])}; name all layers"
            return
        differs = difference(output, subject.call(plain, step))
        if differs:
            yield f"{at}: step {step}: not the outer layers on the feature: {differs}"
            return
        if skip and difference(output, subject.plain[step]) is None:
            yield f"{at}: what is inside makes no difference to the output"


def _beside(subject: Subject, unet: UNet, outer: set[str], ran: Mapping[str, int]) -> list[str]:
    """What ran although a full call runs it among what is skipped."""
    order = list(subject.runs)
    skipped = [nth for nth, name in enumerate(order) if name in set(unet.layers) - outer]
    between = order[skipped[0] : skipped[-1] + 1]
    # The rest of the last layer, and what comes after it in its block.
    following = order[skipped[-1] + 1 :]
    for name in following:
        if name in outer:
            break
        between.append(name)
    around = tuple(outer)
    return [
        name
        for name in between
        if ran[name] and not any(inner == name or inner.startswith(f"{name}.") for inner in around)
    ]


def _outer(unet: UNet, branch: int) -> set[str]:
    """The layers that run: the last ones of the up path, and those of the down path that feed them
    by skip connections. Of layers the convolution before the first one is such a connection."""
    if not unet.by_layer:
        deeper = unet.levels[branch + 1 :]
        inside = {
            name
            for level in deeper
            for layer in (*level.down_layers, *level.up_layers)
            for name in layer
        }
        # Beside the outer levels, down blocks that nothing on the way up faces always run.
        middle = () if unet.middle is None else (f"{unet.middle}.",)
        return {name for name in unet.layers if name not in inside and not name.startswith(middle)}
    skips: list[Layer] = []
    for level in unet.levels:
        skips += [*level.down_layers, *([level.downsamplers] if level.downsamplers else [])]
    ups = [layer for level in unet.levels for layer in reversed(level.up_layers)]
    running = {name for layer in [*skips[:branch], *ups[: branch + 1]] for name in layer}
    return running & set(unet.layers)


def _before(unet: UNet, branch: int) -> str:
    """The module whose output the running layers go on from: the layer before, or the block."""
    depth, layer = _cuts(unet)[branch]
    level = unet.levels[depth]
    if unet.by_layer and layer < len(level.up_layers) - 1:
        return level.up_layers[-2 - layer][-1]
    deeper = unet.levels[depth + 1 :]
    return deeper[0].up[-1] if deeper else str(unet.middle)


class _Kept:
    """A module whose output is, on demand, that of the last step that counted."""

    def __init__(self, module: nn.Module) -> None:
        self.filling = False
        self.kept: Any = None
        module.register_forward_hook(self._leaves)

    def _leaves(self, module: nn.Module, args: tuple, output: Any) -> Any:
        if self.filling:
            return self.kept
        self.kept = copy.deepcopy(output)
        return None
