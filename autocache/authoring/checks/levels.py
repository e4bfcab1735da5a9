"""The levels of a UNet: DeepCache at every cut, against what skip connections ask for."""

from __future__ import annotations

import copy
from collections.abc import Iterator
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
    ups = [layer for level in unet.levels for layer in reversed(level.up_layers)]
    for branch in range(len(ups) - (unet.middle is None)):
        try:
            yield from _cut(subject, unet, ups, branch)
        except ParameterError as error:
            # Deeper levels may be uncuttable; the first cut is what a UNet is declared for.
            if branch == 0:
                yield f"deepcache does not apply: {error}"
            return


def _cut(subject: Subject, unet: UNet, ups: list[Layer], branch: int) -> Iterator[str]:
    model, plain = subject.fresh(), subject.fresh()
    subject.patch(model, "deepcache", interval=2, branch=branch)
    reference = _Kept(plain.get_submodule(_before(subject, unet, ups, branch)))
    at = f"cut at branch {branch}"
    for step in (0, 1, 2):
        reference.filling = skip = step == 1
        with counted(model) as ran:
            output = subject.call(model, step)
        expected = _outer(subject, unet, ups, branch) if skip else set(unet.layers)
        got = {name for name in unet.layers if ran[name]}
        if got != expected:
            wrong = ", ".join(sorted(got ^ expected))
            yield f"{at}: step {step}: wrongly run or left out: {wrong}"
            return
        differs = difference(output, subject.call(plain, step))
        if differs:
            yield f"{at}: step {step}: not the outer layers on the feature: {differs}"
            return
        if skip and difference(output, subject.plain[step]) is None:
            yield f"{at}: what is inside makes no difference to the output"


def _outer(subject: Subject, unet: UNet, ups: list[Layer], branch: int) -> set[str]:
    """The layers that run: the last ones of the up path, and those of the down path that feed them
    by skip connections, of which the convolution before the first is one."""
    skips: list[Layer] = []
    for level in unet.levels:
        skips += [*level.down_layers, *([level.downsamplers] if level.downsamplers else [])]
    running = {name for layer in [*skips[:branch], *ups[: branch + 1]] for name in layer}
    return running & set(unet.layers)


def _before(subject: Subject, unet: UNet, ups: list[Layer], branch: int) -> str:
    """The module whose output the running layers go on from."""
    inner = ups[branch + 1][-1] if branch + 1 < len(ups) else None
    for depth, level in enumerate(unet.levels):
        if ups[branch] == level.up_layers[0]:
            # The first layer of its block: the block before it, with what it does at its end.
            deeper = unet.levels[depth + 1 :]
            return deeper[0].up if deeper else str(unet.middle)
    assert inner is not None
    return inner


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
