"""MindIE-SD's CacheAgent, its cache classes read from the wheel, without Ascend's runtime."""

from __future__ import annotations

import contextlib
import importlib
import logging
import sys
import types
from collections.abc import Iterator
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from torch import nn

from cases import Case
from variants import Variant, on_a_copy

PACKAGE = "mindiesd"
STACKS = {
    "shapes": ("transformer_blocks", "single_transformer_blocks"),
    "shapes_wan": ("blocks",),
}
ATTENTION = {"shapes": ("attn",), "shapes_wan": ("attn1",)}


def mindiesd_rows(case: Case, guidance: bool, steps: int) -> dict[str, list[Variant] | str]:
    """Its two ways: ranges of blocks, and attention."""
    names = ("MindIE-SD dit_block", "MindIE-SD attention")
    if case.denoiser == "unet":
        return dict.fromkeys(names, "for the blocks of transformers alone")
    if not _wheel():
        return dict.fromkeys(names, "its wheel is not in the environment's folder `peers`")
    branches = 2 if guidance and case.branches == "separate" else 1

    def variants(method: str, schedules: list[dict[str, int]]) -> list[Variant]:
        return [
            Variant(
                lambda pipe, given: _installed(pipe, case, branches, steps, given),
                {"method": method, **schedule},
            )
            for schedule in schedules
        ]

    ranges = [
        {"step_start": start, "step_interval": interval, "block_start": first}
        for start, interval, first in product((0, 2), (2, 3, 4, 5), (0, 1))
    ]
    attention = [{"step_start": 1, "step_interval": interval} for interval in (2, 6)]
    found = variants("dit_block_cache", ranges), variants("attention_cache", attention)
    return dict(zip(names, found, strict=True))


def _wheel() -> Path | None:
    found = sorted((Path(sys.prefix) / "peers").glob(f"{PACKAGE}-*.whl"))
    return found[-1] if found else None


@cache
def _agents() -> Any:
    for name in (
        PACKAGE,
        f"{PACKAGE}.utils",
        f"{PACKAGE}.utils.logs",
        f"{PACKAGE}.utils.logs.logging",
    ):
        package: Any = types.ModuleType(name)
        package.__path__ = [str(_wheel()) + "/" + name.replace(".", "/")]
        # Its own logging writes files below the home directory.
        package.logger = logging.getLogger(PACKAGE)
        sys.modules[name] = package
    return importlib.import_module(f"{PACKAGE}.cache_agent")


class _Turns:
    """An agent for each branch of guidance, new ones for every generation.

    An agent counts steps by the blocks it was called for, so it must see one branch alone.
    """

    def __init__(self, branches: int, steps: int, config: Any) -> None:
        self.branches, self.steps, self.config = branches, steps, config
        self.calls = -1
        self.agents: list[Any] = []

    def advance(self, *_: Any) -> None:
        """A call of the model begins."""
        self.calls = (self.calls + 1) % (self.branches * self.steps)
        if self.calls == 0:
            made = range(self.branches)
            self.agents = [_agents().CacheAgent(self.config) for _ in made]

    def apply(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        """The call of a block or an attention through the agent whose turn it is."""
        return self.agents[self.calls % self.branches].apply(function, *args, **kwargs)


class _Block(nn.Module):
    def __init__(self, block: nn.Module, turns: _Turns, encoder_first: bool) -> None:
        super().__init__()
        self.block, self.turns, self.encoder_first = block, turns, encoder_first

    def forward(self, hidden_states: Any, encoder_hidden_states: Any, *rest: Any, **kw: Any) -> Any:
        """Its signature is that of the blocks; the agent takes streams by name."""
        streams = {"hidden_states": hidden_states, "encoder_hidden_states": encoder_hidden_states}
        if not self.encoder_first:
            return self.turns.apply(self.block, *rest, **streams, **kw)
        # The agent has the stream of the latents first.
        hidden, encoder = self.turns.apply(
            lambda *a, **k: self.block(*a, **k)[::-1], **streams, **kw
        )
        return encoder, hidden


class _Attention(nn.Module):
    def __init__(self, inner: nn.Module, turns: _Turns) -> None:
        super().__init__()
        self.inner, self.turns = inner, turns

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the attention's own."""
        return self.turns.apply(self.inner, *args, **kwargs)


@contextlib.contextmanager
def _installed(
    pipe: Any, case: Case, branches: int, steps: int, given: dict[str, Any]
) -> Iterator[None]:
    schedule = dict(given)
    method = schedule.pop("method")
    with on_a_copy(pipe, case.denoiser):
        model = getattr(pipe, case.denoiser)
        for path in STACKS[case.name]:
            stack = model.get_submodule(path)
            ends = {"block_end": len(stack)} if method == "dit_block_cache" else {}
            config = _agents().CacheConfig(method, len(stack), steps, **schedule, **ends)
            turns = _Turns(branches, steps, config)
            model.register_forward_pre_hook(turns.advance)
            for index, block in enumerate(stack):
                if method == "dit_block_cache":
                    stack[index] = _Block(block, turns, case.name == "shapes")
                    continue
                for name in ATTENTION[case.name]:
                    setattr(block, name, _Attention(block.get_submodule(name), turns))
        yield
