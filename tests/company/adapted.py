"""Adapters for tiny pipelines, and generations whose every step is counted from outside."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from pipelines import tiny_pipelines
from pipelines.tiny_pipelines import denoisers, run

from devices import DEVICE

STEPS = 6

INSIDE = {
    "FluxTransformerBlock": ("norm2", "attn.norm_q"),
    "FluxSingleTransformerBlock": ("act_mlp", "attn.norm_q"),
    "WanTransformerBlock": ("norm3", "attn1.norm_q"),
    "JointTransformerBlock": ("norm2", "attn.norm_q"),
    "BasicTransformerBlock": ("norm3", "attn1.to_out.1"),
}
"""Per block class, what runs once whenever the block, or its self-attention, does: no adapter or
quantizer puts another module in its place."""

TARGETS = {
    "flux": ("to_k", "to_out.0", "proj_mlp", "linear_1", "context_embedder"),
    "wan": ("to_k", "to_v", "linear_1"),
    "sd": ("attn2.to_k", "attn2.to_v"),
}
"""Among them are modules that strategies skip: `proj_mlp` in Flux, and what is invariant."""

STRATEGIES: dict[str, dict[str, dict[str, Any]]] = {
    "flux": {
        "dit_block": {"step_start": 0, "step_interval": 2},
        "teacache": {"coefficients": (1.0, 0.0), "threshold": 0.6},
        "fora": {"interval": 2},
        "auto": {"speedup": 3.0},
        "invariant": {},
    },
    "wan": {
        "fbcache": {"threshold": 0.9},
        "attention": {"step_start": 0, "step_interval": 2},
        "invariant": {},
    },
    "sd": {
        "deepcache": {"interval": 3},
        "attention": {"step_start": 0, "step_interval": 2},
        "auto": {"speedup": 3.0},
        "invariant": {},
    },
}
"""Per pipeline, strategies on blocks, probes, attention, the whole call and lossless reuse."""

PAIRS = [(name, strategy) for name, known in STRATEGIES.items() for strategy in known]


def make(name: str) -> Any:
    """A pipeline smaller still than the other tests': these generate a great many times."""
    if name == "flux":
        pipe: Any = tiny_pipelines.flux(num_layers=2, num_single_layers=2)
    elif name == "sd":
        pipe = tiny_pipelines.stable_diffusion(
            layers_per_block=1,
            block_out_channels=(8, 12),
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        )
    else:
        pipe = tiny_pipelines.BUILDERS[name]()
    if name == "wan":
        pipe.register_modules(transformer_2=None)
        pipe.register_to_config(boundary_ratio=None)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(DEVICE)


def lora(name: str, seed: int, rank: int = 2) -> dict[str, torch.Tensor]:
    """The weights of an adapter as `load_lora_weights` takes them; it does change the output."""
    pipe = make(name)
    model = denoisers(pipe)[0]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LoraConfig(
            r=rank, lora_alpha=rank, target_modules=list(TARGETS[name]), init_lora_weights=False
        )
        model.add_adapter(config, "made")  # type: ignore[operator]
    weights = get_peft_model_state_dict(model, adapter_name="made")
    prefix = "unet" if hasattr(pipe, "unet") else "transformer"
    return {f"{prefix}.{key}": value.detach().clone() for key, value in weights.items()}


class Generation:
    """What came out, and how many blocks and self-attentions ran in each step."""

    def __init__(self, output: torch.Tensor, ran: list[dict[str, int]]) -> None:
        self.output = output
        self.ran = ran

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Generation):
            return NotImplemented
        return torch.equal(self.output, other.output) and self.ran == other.ran

    __hash__ = None  # type: ignore[assignment]

    def total(self, kind: str) -> int:
        return sum(step[kind] for step in self.ran)

    @property
    def first(self) -> dict[str, int]:
        """What ran in the first step, which computes all."""
        return self.ran[0]


@contextlib.contextmanager
def watched(pipe: Any) -> Iterator[Counter[str]]:
    """Counts what runs inside the blocks, by torch's own hooks."""
    counts: Counter[str] = Counter()
    handles = []

    def count(module: torch.nn.Module, kind: str) -> None:
        def hook(*_: Any) -> None:
            counts[kind] += 1

        handles.append(module.register_forward_hook(hook))

    for model in denoisers(pipe):
        for module in list(model.modules()):
            inside = INSIDE.get(type(module).__name__)
            if inside is not None:
                for path, kind in zip(inside, ("block", "attention"), strict=True):
                    count(module.get_submodule(path), kind)
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()


def generate(
    pipe: Any,
    after: Callable[[int], dict[str, Any] | None] = lambda step: None,
    *,
    steps: int = STEPS,
    **options: Any,
) -> Generation:
    """One generation; `after` is called at the end of each step, as a user's callback is."""
    ran: list[dict[str, int]] = []
    with watched(pipe) as counts:
        before: Counter[str] = Counter()

        def ended(_: Any, step: int, time: Any, given: dict[str, Any]) -> dict[str, Any]:
            ran.append({kind: counts[kind] - before[kind] for kind in ("block", "attention")})
            before.update({kind: counts[kind] - before[kind] for kind in list(counts)})
            return after(step) or {}

        output = run(pipe, steps=steps, callback_on_step_end=ended, **options)
    return Generation(output, ran)
