"""The inner part of a UNet: of it one feature map is kept, where the up path comes out of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from autocache.errors import DoesNotApplyError, ParameterError
from autocache.runtime.intercept import COMPUTE, PASS
from autocache.runtime.outputs import Outputs, flatten, unflatten
from autocache.where.base import Where, first_time

if TYPE_CHECKING:
    from torch import nn

    from autocache.runtime.intercept import Site
    from autocache.runtime.moment import Moment
    from autocache.runtime.part import Part
    from autocache.spec.bind import Bound
    from autocache.spec.levels import UNet


@dataclass(frozen=True)
class DeepFeatures(Where):
    """All of a UNet that lies deeper than layer `branch` of its up path, counted from the end.

    Branch 0 is the last layer of the last up block, and the only one that then runs. Ids go on
    through the layers of that block and then of the block before it, as many as each has: with
    three layers per up block, as in Stable Diffusion, branch 4 is the middle layer of the last but
    one. What feeds the running layers by a skip connection runs too, that is, everything before it
    in the down path. Where blocks and not layers have skip connections, the ids count blocks.
    """

    branch: int = 0

    def sites(self, bound: Bound, part: Part) -> list[tuple[nn.Module, Site]]:
        unet = bound.unet
        if unet is None:
            raise DoesNotApplyError(
                f"{bound.spec.name} has no UNet levels, so there are no deep features that skip "
                "connections go round; strategies that act on blocks (dit_block, teacache) or on "
                "sub-modules (attention) do apply to it"
            )
        depth, layer = self._depth(bound, unet)
        *skipped, cut = self._skipped(unet, depth, layer)
        before = [path for level in unet.levels[depth + 1 : depth + 2] for path in level.up][-1:]
        inner = _Inner(part, cut)
        sites: list[tuple[nn.Module, Site]] = []
        for path in skipped:
            site = (_Aside if [path] == before else _Idle)(inner, bound, path)
            sites.append((bound.model.get_submodule(path), site))
        return [*sites, (bound.model.get_submodule(cut), _Cut(inner, bound, cut))]

    @staticmethod
    def _skipped(unet: UNet, depth: int, layer: int) -> list[str]:
        """The paths of the modules to skip in the order they run; at the last is the cut."""
        level, deeper = unet.levels[depth], unet.levels[depth + 1 :]
        skipped = [*level.downsamplers]
        beside = 0
        if unet.by_layer:
            beside = len(level.up_layers) - 1 - layer
            down = [path for paths in level.down_layers[layer:] for path in paths]
            skipped = [*level.down] if layer == 0 else [*down, *skipped]
        skipped += [path for inner in deeper for path in inner.down]
        skipped += [unet.middle] if unet.middle else []
        skipped += [path for inner in reversed(deeper) for path in inner.up]
        return skipped + [path for paths in level.up_layers[:beside] for path in paths]

    def _depth(self, bound: Bound, unet: UNet) -> tuple[int, int]:
        """The level of the cut, and how many of its up layers run beside the last."""
        cuts = [
            (depth, layer)
            for depth, level in enumerate(unet.levels)
            for layer in range(len(level.up_layers) if unet.by_layer else 1)
        ]
        # Without a middle block nothing lies deeper than the first layer of the up path.
        count = len(cuts) - (unet.middle is None)
        what = "layer" if unet.by_layer else "block"
        if not 0 <= self.branch < count:
            there = f"; expected 0 (fastest) to {count - 1}" if count > 0 else ""
            raise ParameterError(
                f"branch={self.branch} is no {what} of this {bound.spec.name}, whose up path has "
                f"{max(count, 0)} to cut at{there}"
            )
        depth, layer = cuts[self.branch]
        if unet.by_layer:
            _check_layers(bound, unet, depth, layer)
        return depth, layer


def _check_layers(bound: Bound, unet: UNet, depth: int, layer: int) -> None:
    for level in unet.levels[: depth + 1]:
        if len(level.up_layers) != len(level.down_layers) + 1:
            raise ParameterError(
                f"{level.up[0]} of this {bound.spec.name} has {len(level.up_layers)} layers, and "
                f"{level.down[0]} has {len(level.down_layers)}; deep features can be cut off only "
                "where every up layer has a skip connection of its own, one more than go down"
            )
    level = unet.levels[depth]
    inside = {level.up[0]: level.up_layers if layer < len(level.up_layers) - 1 else ()}
    inside[level.down[0]] = level.down_layers if layer > 0 else ()
    for block, layers in inside.items():
        if len({len(modules) for modules in layers}) > 1:
            raise ParameterError(
                f"branch would cut inside {block} of this {bound.spec.name}, whose modules do not "
                "come in equal layers; choose one that cuts between blocks"
            )


class _Inner:
    """The modules to skip and the feature at their end: in a call all are run or none."""

    def __init__(self, part: Part, cut: str) -> None:
        self.part = part
        self.feature = Outputs(part, cut)
        self.aside: Outputs | None = None

    def skips(self, moment: Moment) -> bool:
        """Whether this call skips, decided when its first module is reached."""
        if self not in moment.flights:
            skip = not self.part.decide(moment).compute and self._ready(moment)
            moment.flights[self] = skip
            action = self.part.recipe.how.action if skip else "computed"
            moment.record.sites[self.feature.name] = moment.record.action = action
        return moment.flights[self]

    def _ready(self, moment: Moment) -> bool:
        aside = self.aside
        if aside is not None and aside.name in moment.kept and not aside.ready(moment):
            return False
        return self.feature.ready(moment)


class _Skipped:
    """One of the modules to skip."""

    def __init__(self, inner: _Inner, bound: Bound, path: str) -> None:
        self.inner = self.unit = inner
        self.part = inner.part
        self.session = inner.part.session
        self.path = path
        inside = set(bound.model.get_submodule(path).modules())
        self.blocks = sum(module in inside for module in bound.layers)
        self.attention = sum(module in inside for _, module, _ in bound.attention)
        self.feed_forward = sum(module in inside for _, module in bound.feed_forward)

    def enter(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
        moment = self.part.moment
        if moment is None:
            return PASS
        if not self.inner.skips(moment) or moment.call.dry_run:
            return COMPUTE
        if first_time(moment, self):
            moment.record.blocks_skipped += self.blocks
            moment.record.attention_skipped += self.attention
            moment.record.feed_forward_skipped += self.feed_forward
        return self.stand_in(moment)

    def leave(self, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        moment = self.part.moment
        if moment is not None:
            if self.inner.skips(moment):
                self.compare(moment, output)
            else:
                self.keep(moment, output)
        return output

    def stand_in(self, moment: Moment) -> Any:
        raise NotImplementedError

    def keep(self, moment: Moment, output: Any) -> None:
        raise NotImplementedError

    def compare(self, moment: Moment, output: Any) -> None:
        """Note the error that a dry run would have made here."""


class _Cut(_Skipped):
    """The module whose output the running layers go on from."""

    def stand_in(self, moment: Moment) -> Any:
        return self.inner.feature.fill(moment)

    def keep(self, moment: Moment, output: Any) -> None:
        self.inner.feature.keep(moment, output)

    def compare(self, moment: Moment, output: Any) -> None:
        self.inner.feature.compare(moment, output)


class _Idle(_Skipped):
    """A module whose output nobody looks at but other skipped ones: its shape will do."""

    def stand_in(self, moment: Moment) -> Any:
        blanks, shape = moment.kept[self.path]
        leaves = [leaf.make() if isinstance(leaf, Blank) else leaf for leaf in blanks]
        return unflatten(leaves, shape)

    def keep(self, moment: Moment, output: Any) -> None:
        leaves, shape = flatten(output)
        blanks = [Blank(leaf) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        moment.kept[self.path] = blanks, shape


class _Aside(_Idle):
    """The block before the one that the cut is in, which reads what it returns beside the feature:
    the image of a UNet that sums one up on its way."""

    def __init__(self, inner: _Inner, bound: Bound, path: str) -> None:
        super().__init__(inner, bound, path)
        inner.aside = self.outputs = Outputs(inner.part, f"{path} aside")

    def stand_in(self, moment: Moment) -> Any:
        kept = self.outputs.name in moment.kept
        return self.outputs.fill(moment) if kept else super().stand_in(moment)

    def keep(self, moment: Moment, output: Any) -> None:
        if isinstance(output, torch.Tensor):
            super().keep(moment, output)
        elif not self.outputs.keep(moment, output):
            # The feature alone is not enough.
            moment.kept[self.outputs.name] = None


class Blank:
    """Makes tensors like one, with nothing in them.

    Each is memory of its own, as what it stands for would be: the model may write into it, as it
    does to add the features of a T2I adapter, which an expanded scalar does not bear.
    """

    def __init__(self, like: torch.Tensor) -> None:
        self.layout = like.size(), like.stride()
        self.options = {"dtype": like.dtype, "device": like.device}

    def make(self) -> torch.Tensor:
        return torch.empty_strided(*self.layout, **self.options)
