"""A few numbers from every rank of a process group, and a clear end when one of them is missing."""

from __future__ import annotations

import torch
import torch.distributed as dist

from autocache.errors import RankError

TAG = 7207
"""Keeps these messages apart from those that an engine sends between the same two ranks."""

SLOTS = 16
"""Numbers in the first message, the header included: all are of one length, so that ranks that run
different programs tell each other so. More numbers follow in a second one."""

MEANS, VOTE = 0.0, 1.0
"""What an exchange is about."""


class Group:
    """The ranks that have to do the same, and this one among them.

    `device` is where numbers travel from when the group's backend takes none from the CPU.
    """

    def __init__(self, group: dist.ProcessGroup, device: torch.device) -> None:
        self.process_group = group
        self.members: list[int] = dist.get_process_group_ranks(group)
        self.size = dist.get_world_size(group)
        self.rank = dist.get_rank(group)
        self._by_host = "gloo" in dist.get_backend_config(group)
        self._device = torch.device("cpu") if self._by_host else device

    def exchange(self, kind: float, step: int, numbers: torch.Tensor) -> torch.Tensor:
        """The numbers of every rank, in float64 on the CPU: (ranks, numbers).

        Every rank of the group waits here for the others, at most as long as the group's timeout.

        Raises:
            RankError: another rank failed or did not come, or it came from somewhere else.
        """
        wide = torch.float64 if self._device.type == "cpu" else torch.float32
        numbers = numbers.flatten().to(self._device, wide)
        header = torch.tensor([kind, float(step), float(numbers.numel())])
        first = torch.zeros(SLOTS, dtype=wide, device=self._device)
        first[:3] = header.to(first)
        first[3 : 3 + numbers.numel()] = numbers[: SLOTS - 3]
        every = self._all(first, step)
        self._compare(every[:, :3], lockstep=kind == MEANS)
        found = every[:, 3 : 3 + numbers.numel()]
        if numbers.numel() <= SLOTS - 3:
            return found
        return torch.cat((found, self._all(numbers[SLOTS - 3 :].contiguous(), step)), dim=1)

    def _all(self, mine: torch.Tensor, step: int) -> torch.Tensor:
        every = mine.repeat(self.size, 1)
        if self._by_host:
            self._by_pairs(every, mine, step)
        else:
            try:
                dist.all_gather(list(every.unbind()), mine, group=self.process_group)
            except RuntimeError as error:
                others = [rank for rank in self.members if rank != dist.get_rank()]
                raise RankError(self._failed(step, f"one of ranks {others}", error)) from error
        return every.to("cpu", torch.float64)

    def _by_pairs(self, every: torch.Tensor, mine: torch.Tensor, step: int) -> None:
        """From rank to rank, so that the one that does not answer is known."""
        others = [(nth, rank) for nth, rank in enumerate(self.members) if nth != self.rank]
        asked = 0
        try:
            sent = []
            for _, asked in others:
                sent.append(dist.isend(mine, asked, self.process_group, TAG))
            for nth, asked in others:
                dist.recv(every[nth], asked, self.process_group, TAG)
        except RuntimeError as error:
            raise RankError(self._failed(step, f"rank {asked}", error)) from error
        for work in sent:
            work.wait()

    def _failed(self, step: int, who: str, error: Exception) -> str:
        said = " ".join(str(error).split())
        return (
            f"rank {dist.get_rank()} was to agree with ranks {self.members} in step {step}, and "
            f"{who} failed or did not get there within the group's timeout ({said})"
        )

    def _compare(self, headers: torch.Tensor, lockstep: bool) -> None:
        """Raises RankError when the others are not where this rank is."""
        differs = headers != headers[self.rank]
        if not lockstep:
            differs[:, 1] = False
        if differs.any():
            at = ", ".join(
                f"rank {rank} is in step {int(header[1])}"
                for rank, header in zip(self.members, headers.tolist(), strict=True)
            )
            raise RankError(
                f"the ranks of a group run different programs: {at}; give all of them the same "
                "strategy and the same number of steps, and let all of them start again when one "
                "has failed"
            )
