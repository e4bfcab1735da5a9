"""What a rule reads off its tensors, where several ranks work on one generation."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from autocache.runtime.exchange import Group


class Ranks:
    """This process alone: nothing is exchanged. A rule asks `moment.call.ranks` in any case."""

    coupled: frozenset[int] = frozenset()
    """The parts of the strategy whose decision all ranks have to share, by number."""
    units: frozenset[int] = frozenset()
    """The modules, by id, that must not run on some ranks only: they fetch weights from all."""
    splits = False
    """What enters a block may be a share of the tokens only from that block on."""

    def at(self, step: int) -> Ranks:
        """The same, in a step of the generation."""
        return self

    def means(
        self, *tensors: torch.Tensor, dims: tuple[int, ...] | None = None
    ) -> tuple[torch.Tensor, ...]:
        """The mean of each tensor over `dims` (None: all), its other ranks' shares included.

        Alone it stays on the device, and nothing waits for it. Of several ranks all get the very
        same numbers, in float64 on the CPU.

        Raises:
            RankError: another rank failed, is late, or is elsewhere.
        """
        return tuple(tensor.mean(dims) for tensor in tensors)

    def largest(self, tensor: torch.Tensor) -> float:
        """The largest element on any rank; not a number where there is such a one."""
        return float(tensor.max())

    def tokens(self, tensor: torch.Tensor) -> torch.Tensor:
        """All tokens of a stream inside the blocks, (batch, tokens, ...), of which this rank may
        have a share."""
        return tensor

    def any_computes(self, compute: bool, kept: object) -> bool:
        """Whether this rank or another one has to compute, or they have not `kept` the same: what
        is missing on one is computed there."""
        return compute


ALONE = Ranks()


class Shared(Ranks):
    """Ranks that share the work of one generation (`work`), or weights for one each (`weights`).

    Those that share the work do the same in each step, so they all read the numbers of the whole.
    Those that share weights have unrelated prompts: each reads its own numbers, and where one has
    to compute a module whose weights it fetches from the others, all do. With a limit on memory
    (`limited`) the former too may not have kept the same.
    """

    def __init__(
        self,
        work: Sequence[Group],
        weights: Sequence[Group] = (),
        coupled: frozenset[int] = frozenset(),
        units: frozenset[int] = frozenset(),
        splits: bool = False,
        limited: bool = False,
    ) -> None:
        self._work, self._voters = work, (*weights, *(work if limited else ()))
        self.coupled, self.units, self.splits = coupled, units, splits
        self._step = 0

    def at(self, step: int) -> Shared:
        self._step = step
        return self

    def means(
        self, *tensors: torch.Tensor, dims: tuple[int, ...] | None = None
    ) -> tuple[torch.Tensor, ...]:
        own = super().means(*tensors, dims=dims)
        if not self._work:
            return own
        means = torch.cat([mean.float().flatten().cpu().double() for mean in own])
        counts = torch.cat(
            [
                torch.full((mean.numel(),), tensor.numel() / mean.numel(), dtype=torch.float64)
                for mean, tensor in zip(own, tensors, strict=True)
            ]
        )
        from autocache.runtime.exchange import MEANS

        for group in self._work:
            every = group.exchange(MEANS, self._step, torch.cat((means, counts)))
            shares, sizes = every.chunk(2, dim=1)
            counts = sizes.sum(0)
            means = (shares * sizes).sum(0) / counts
        parts = means.split([mean.numel() for mean in own])
        return tuple(part.reshape(mean.shape) for part, mean in zip(parts, own, strict=True))

    def largest(self, tensor: torch.Tensor) -> float:
        from autocache.runtime.exchange import MEANS

        most = tensor.max().float().cpu().double().reshape(1)
        for group in self._work:
            # torch's maximum is not a number where one of them is not.
            most = group.exchange(MEANS, self._step, most).max().reshape(1)
        return float(most)

    def tokens(self, tensor: torch.Tensor) -> torch.Tensor:
        if not self.splits:
            return tensor
        from autocache.runtime.parallelism import gather

        for group in self._work:
            tensor = gather(tensor, group)
        return tensor

    def any_computes(self, compute: bool, kept: object) -> bool:
        from autocache.runtime.exchange import VOTE

        # Short enough to be exact in float32.
        what = zlib.crc32(repr(kept).encode()) & 0xFFFFFF
        for group in self._voters:
            vote = torch.tensor([float(compute), float(what)])
            every = group.exchange(VOTE, self._step, vote)
            compute = bool(every[:, 0].any() or (every[:, 1] != what).any())
        return compute
