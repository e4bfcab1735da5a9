"""The whole denoiser call: nothing of it is run when it is skipped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from autocache.runtime.outputs import DENOISER, Outputs, flatten, unflatten
from autocache.where.base import Around, Where

if TYPE_CHECKING:
    from torch import nn

    from autocache.runtime.moment import Moment
    from autocache.runtime.part import Part
    from autocache.spec.bind import Bound


@dataclass(frozen=True)
class Denoiser(Where):
    """The denoiser as a whole. It needs no block list, so it serves models without a spec.

    Kept is the output, or with `residual` the output minus the latent it was computed from: in the
    channels they share, where an output has more (a learned variance) or a latent has (an image it
    is conditioned on).
    """

    residual: bool = False
    needs_spec: ClassVar[bool] = False

    def around(self, bound: Bound, part: Part) -> Around:
        return _Call(part, self.residual)

    def claims(self, bound: Bound) -> list[nn.Module]:
        return [bound.model]


class _Call:
    def __init__(self, part: Part, residual: bool) -> None:
        self.part = part
        self.residual = residual
        self.outputs = Outputs(part, DENOISER)

    def around(self, proceed: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
        moment = self.part.moment
        if moment is None:
            return proceed(*args, **kwargs)
        decision = self.part.decide(moment)
        if decision.compute or not self.outputs.ready(moment):
            moment.record.sites[self.outputs.name] = "computed"
            output = proceed(*args, **kwargs)
            if self.part.moment is not moment:
                return output
            moment.output = output
            # In a dry run nothing was filled in that could have been off.
            exact = self.residual or moment.call.dry_run
            settled = output if exact else self.outputs.settle(moment, output)
            self.outputs.keep(moment, self._shifted(moment, output, -1))
            return settled
        action = self.part.recipe.how.action
        moment.record.sites[self.outputs.name] = moment.record.action = action
        if moment.call.dry_run:
            output = proceed(*args, **kwargs)
            self.outputs.compare(moment, self._shifted(moment, output, -1))
            return output
        moment.record.skip_all()
        return self._shifted(moment, self.outputs.fill(moment), 1)

    def _shifted(self, moment: Moment, output: Any, sign: int) -> Any:
        """The output with the latents added or taken away, where residuals are kept."""
        if not self.residual or not moment.call.latents:
            return output
        leaves, shape = flatten(output)
        for nth, latent in enumerate(moment.call.latents):
            # Tokens of a vocabulary go in and their probabilities come out: there is no difference.
            if latent.is_floating_point():
                leaves[nth] = _add(leaves[nth], latent, sign)
        return unflatten(leaves, shape)


def _add(output: torch.Tensor, latent: torch.Tensor, sign: int) -> torch.Tensor:
    if output.shape == latent.shape:
        return output + latent if sign > 0 else output - latent
    shared = tuple(slice(min(a, b)) for a, b in zip(output.shape, latent.shape, strict=True))
    changed = output.clone()
    changed[shared] += sign * latent[shared]
    return changed
