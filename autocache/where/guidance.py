"""The unconditional branch of classifier-free guidance, predicted from the conditional one."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.utils import _pytree as pytree

from autocache.errors import DoesNotApplyError
from autocache.runtime.outputs import Outputs, flatten, note_error, unflatten
from autocache.runtime.store import Piece
from autocache.spec.bind import signature
from autocache.where.base import Around, BlockRanges, Where

if TYPE_CHECKING:
    from torch import nn

    from autocache.runtime.moment import Call, Moment
    from autocache.runtime.part import Part
    from autocache.spec.bind import Bound
    from autocache.spec.schema import Spec

GuidanceStyle = Literal["batched", "batched_conditional_first", "sequential", "none"]

GRIDS = ("BCHW", "BCFHW", "BFCHW")
"""Latent layouts whose last two axes are height and width."""

TWO_BRANCHES = ("batched", "batched_conditional_first", "sequential")
"""Styles with one conditional and one unconditional branch, run by one model."""

CONDITIONAL, UNCONDITIONAL = ("cond", "pred_cond", "0"), ("uncond", "pred_uncond", "1")
"""Names of the branches where there is a call for each: those of diffusers' pipelines and guiders,
or their place in the step."""

NAME = "guidance"

POSITIONS = re.compile(r"rotary|rope|freqs|_ids$")
"""Arguments that are about positions: their first axis may be as long as the batch by chance."""

Proceed = Callable[..., Any]


@dataclass(frozen=True)
class Guidance(Where):
    """The unconditional branch. Kept is its difference to the conditional one, in float32; what
    stands in is the conditional output of the present step plus that difference as `how` has it.

    Where a pipeline runs both branches in one batch, only the conditional half of every argument is
    run: of every tensor, also inside lists and mappings, that is as long as the latent's batch, but
    for positions (rotary embeddings, ids). The spec names arguments with the batch on a later axis
    (`batch_axes`). Where it calls the denoiser for each, the unconditional call is left out; a call
    that comes before the conditional one of its step is computed.

    `style` says how guidance is done. None asks the spec about the pipelines that run the denoiser,
    and takes a batch for a guided one only if both halves of the latent are equal, which waits for
    the device in every call. Without a known pipeline, only calls named `cond` and `uncond`, or
    `pred_cond` and `pred_uncond`, by diffusers' `cache_context` count as guided.
    """

    style: GuidanceStyle | None = None

    def around(self, bound: Bound, part: Part) -> Around:
        layout = bound.spec.latent_layout
        if part.recipe.how.spatial and layout not in GRIDS:
            found = "packs it into tokens" if layout == "tokens" else "does not say how it lies"
            raise DoesNotApplyError(
                f"the unconditional branch is predicted from the frequencies of the latent, and "
                f"{bound.spec.name} {found}: that wants a latent_layout of {', '.join(GRIDS)} in "
                "the spec; reusing attention does apply (guidance_cache=False), and so does "
                "autocache.patch(..., when=..., where=Guidance(), how=Reuse())"
            )
        return _Guided(part, self.style, bound.spec, type(bound.model))

    def claims(self, bound: Bound) -> list[nn.Module]:
        # Whatever is kept inside does not fit a batch that is a half at times.
        return [bound.model]

    def within(self, blocks: BlockRanges) -> Where:
        # Around the whole call there are none to choose; the recipe's other parts may have some.
        return self


class _Guided:
    def __init__(
        self,
        part: Part,
        style: GuidanceStyle | None,
        spec: Spec,
        model: type[nn.Module],
    ) -> None:
        self.part = part
        self.style = style
        self.facts: Mapping[str, str] = spec.guidance_styles
        self.axes = spec.batch_axes
        self.names = tuple(signature(model).positions)
        self.outputs = Outputs(part, NAME)

    def around(self, proceed: Proceed, args: tuple, kwargs: dict[str, Any]) -> Any:
        call = self.part.session.track.call
        if call is None:
            return proceed(*args, **kwargs)
        style = self._style(call)
        if style == "sequential" and call.branch in UNCONDITIONAL:
            return self._unconditional(call, proceed, args, kwargs)
        if style == "sequential" and call.branch in CONDITIONAL:
            return self._conditional(call, proceed, args, kwargs)
        if style.startswith("batched") and self._is_guided(call):
            half = 0 if style == "batched_conditional_first" else 1
            return self._batched(call, half, proceed, args, kwargs)
        call.conditional_only = True
        return proceed(*args, **kwargs)

    def _style(self, call: Call) -> str:
        if self.style is not None:
            return self.style
        styles = {
            self.facts[base.__name__]
            for pipeline in self.part.session.pipelines
            for base in type(pipeline).__mro__
            if base.__name__ in self.facts
        }
        guided = [s for s in styles if s in TWO_BRANCHES]
        if len(guided) == 1:
            return guided[0]
        named = call.branch in (*CONDITIONAL[:-1], *UNCONDITIONAL[:-1])
        return "sequential" if named else "none"

    def _is_guided(self, call: Call) -> bool:
        """Whether the batch is of two halves, for two guidance branches."""
        latent = call.latent
        if latent is None or len(latent) % 2:
            return False
        return self.style is not None or torch.equal(*latent.chunk(2))

    def _batched(
        self, call: Call, half: int, proceed: Proceed, args: tuple, kwargs: dict[str, Any]
    ) -> Any:
        moment = self._acting()
        skip = moment is not None and self._skips(moment)
        call.conditional_only = skip
        if moment is not None and skip and not call.dry_run:
            args, kwargs = self._halved(call, half, args, kwargs)
            leaves, shape = flatten(proceed(*args, **kwargs))
            predicted, _ = self._predict(moment, leaves)
            for nth in _tensors(leaves):
                pair = (leaves[nth], predicted[nth])
                leaves[nth] = torch.cat(pair if half == 0 else pair[::-1])
            return unflatten(leaves, shape)
        call.conditional_half = half
        output = proceed(*args, **kwargs)
        if moment is not None:
            leaves, shape = flatten(output)
            halves = {nth: leaves[nth].chunk(2) for nth in _tensors(leaves)}
            conditional = {nth: pair[half] for nth, pair in halves.items()}
            for nth, pair in halves.items():
                leaves[nth] = pair[1 - half]
            self._learn(moment, skip, conditional, leaves, shape)
        return output

    def _conditional(
        self, call: Call, proceed: Proceed, args: tuple, kwargs: dict[str, Any]
    ) -> Any:
        memory = self.part.shared.memory
        before, other = memory.get("conditional at"), memory.get("unconditional at")
        memory["conditional at"] = call.step
        moment = self._acting()
        skip = moment is not None and not self.part.decide(moment).compute
        # Nothing unconditional beside the conditional call before: a generation without guidance.
        call.conditional_only = skip or before != other
        output = proceed(*args, **kwargs)
        if moment is not None:
            moment.record.sites[NAME] = "computed"
            leaves, _ = flatten(output)
            memory["conditional"] = _tensors(leaves)
            pieces = [Piece((NAME, nth), leaves[nth]) for nth in memory["conditional"]]
            moment.shared.store.put_all(NAME, pieces, moment.step, exact=True)
            # What this branch has to keep for a step that skips is beside it.
            moment.kept[NAME] = True
        return output

    def _unconditional(
        self, call: Call, proceed: Proceed, args: tuple, kwargs: dict[str, Any]
    ) -> Any:
        call.unconditional = True
        self.part.shared.memory["unconditional at"] = call.step
        moment = self._acting()
        if moment is None:
            return proceed(*args, **kwargs)
        conditional = self._beside(moment)
        skip = bool(conditional) and self._skips(moment)
        if skip and not call.dry_run:
            moment.record.skip_all()
            return unflatten(*self._predict(moment, conditional))
        output = proceed(*args, **kwargs)
        if conditional:
            self._learn(moment, skip, conditional, *flatten(output))
        return output

    def _acting(self) -> Moment | None:
        """The call under way, where something is kept or skipped in it."""
        if self.part.moment is not None:
            self.part.decide(self.part.moment)
        return self.part.moment

    def _skips(self, moment: Moment) -> bool:
        return not self.part.decide(moment).compute and self.outputs.ready(moment)

    def _beside(self, moment: Moment) -> dict[int, torch.Tensor]:
        """What the conditional call of this step returned, by leaf; it is wanted only once."""
        store = moment.shared.store
        found = {}
        for nth in moment.shared.memory.pop("conditional", ()):
            for value in store.get((NAME, nth)):
                if value.step == moment.step:
                    found[nth] = value.tensor
        store.drop(NAME)
        return found

    def _predict(self, moment: Moment, conditional: Any) -> tuple[list[Any], Any]:
        """The unconditional output in leaves, from the tensors of the conditional one."""
        action = self.part.recipe.how.action
        moment.record.sites[NAME] = moment.record.action = action
        leaves, shape = flatten(self.outputs.fill(moment))
        for nth in _tensors(leaves):
            beside = conditional[nth]
            leaves[nth] = (beside + leaves[nth]).to(beside.dtype)
        return leaves, shape

    def _learn(
        self, moment: Moment, skip: bool, conditional: Any, unconditional: list[Any], shape: Any
    ) -> None:
        """Keep the difference of two computed branches; in a dry run, compare."""
        if skip:
            note_error(moment, self._predict(moment, conditional)[0], unconditional)
            return
        moment.record.sites[NAME] = "computed"
        leaves = list(unconditional)
        for nth in _tensors(leaves):
            wide = torch.promote_types(leaves[nth].dtype, torch.float32)
            leaves[nth] = leaves[nth].to(wide) - conditional[nth]
        self.outputs.keep(moment, unflatten(leaves, shape))

    def _halved(
        self, call: Call, half: int, args: tuple, kwargs: dict[str, Any]
    ) -> tuple[tuple, dict[str, Any]]:
        """The arguments of the conditional half alone."""
        assert call.latent is not None
        batch = len(call.latent)

        def halved(name: str, value: Any) -> Any:
            axis = self.axes.get(name, 0)

            def taken(leaf: Any) -> Any:
                batched = isinstance(leaf, torch.Tensor) and leaf.dim() > axis
                return leaf.chunk(2, axis)[half] if batched and leaf.shape[axis] == batch else leaf

            return value if POSITIONS.search(name) else pytree.tree_map(taken, value)

        positional = tuple(
            halved(name, value) for name, value in zip(self.names, args, strict=False)
        )
        return positional, {name: halved(name, value) for name, value in kwargs.items()}


def _tensors(leaves: list[Any]) -> list[int]:
    return [nth for nth, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
