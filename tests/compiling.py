"""Backends that run what torch.compile captured, and the ways to have a model compiled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

import tiny

TIMES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
FEW = {
    "FluxTransformer2DModel": {"num_layers": 2, "num_single_layers": 2},
    "WanTransformer3DModel": {"num_layers": 3},
    "UNet2DConditionModel": {"layers_per_block": 1},
}
"""Models of few blocks: most of the time goes into tracing them."""


class Counting:
    """Runs graphs as they are, and counts them and their calls."""

    def __init__(self) -> None:
        self.compiled = 0
        self.calls = 0

    def __call__(self, graph: torch.fx.GraphModule, example: Any) -> Callable[..., Any]:
        self.compiled += 1
        return self._counted(graph.forward)

    def _counted(self, run: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any) -> Any:
            self.calls += 1
            return run(*args)

        return called


class Overwriting(Counting):
    """Keeps memory as a CUDA graph does: inputs are copied into it, and every call leaves its
    results in the same tensors as the call before, unnoticed by their version counters.

    Where the whole model is compiled in pieces, a CUDA graph leaves alone what came out since
    `next_call` was last called; so it is here from then on.
    """

    def __init__(self) -> None:
        super().__init__()
        self.runs: Counter[int] | None = None

    def next_call(self) -> None:
        self.runs = Counter()

    def __call__(self, graph: torch.fx.GraphModule, example: Any) -> Callable[..., Any]:
        self.compiled += 1
        number = self.compiled
        results: dict[Any, torch.Tensor] = {}

        def written(nth: int, made: Any) -> Any:
            if not isinstance(made, torch.Tensor):
                return made
            turn = 0 if self.runs is None else self.runs[number]
            key = nth, turn, made.shape, made.stride(), made.dtype
            if key not in results:
                results[key] = torch.empty_strided(
                    made.size(), made.stride(), dtype=made.dtype, device=made.device
                )
            results[key].data.copy_(made)
            return results[key]

        def run(*args: Any) -> Any:
            own = [
                a.clone() if isinstance(a, torch.Tensor) and not isinstance(a, nn.Parameter) else a
                for a in args
            ]
            left = [written(nth, made) for nth, made in enumerate(graph.forward(*own))]
            if self.runs is not None:
                self.runs[number] += 1
            return left

        return self._counted(run)


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    """Nothing compiled by another test is there."""
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


def breaks() -> dict[str, int]:
    """The reasons why graphs broke, with their numbers."""
    return dict(counters["graph_break"])


def build(name: str) -> tuple[nn.Module, Any]:
    return tiny.build(name, **FEW.get(name, {}))


def loop(
    model: nn.Module,
    inputs: Any,
    times: Sequence[float] = TIMES,
    before: Callable[[], None] = lambda: None,
) -> torch.Tensor:
    """One generation; `before` is called before each step. Its outputs are copied: a compiled model
    may write over them."""
    inner = getattr(model, "_orig_mod", model)
    scale = 1.0 if hasattr(inner, "single_transformer_blocks") else 1000.0
    outputs = []
    with torch.no_grad():
        for time in times:
            before()
            outputs.append(model(**inputs(time * scale))[0].clone())
    return torch.stack(outputs)


def blocks(model: nn.Module, backend: Any, **options: Any) -> nn.Module:
    """Compiled block by block."""
    model.compile_repeated_blocks(backend=backend, fullgraph=True, **options)  # type: ignore
    return model


def whole(model: nn.Module, backend: Any) -> nn.Module:
    """Compiled as a whole, by torch.compile."""
    return torch.compile(model, backend=backend)  # type: ignore[return-value]


def in_place(model: nn.Module, backend: Any) -> nn.Module:
    """Compiled as a whole, by its own method."""
    model.compile(backend=backend)
    return model


def trace(stats: Any) -> list[Any]:
    """All that is recorded of the steps but for how long they took."""
    return [(s.step, s.branch, s.action, s.sites, s.bytes, s.blocks_skipped) for s in stats.steps]
