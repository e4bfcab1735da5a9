"""Adapters for tiny pipelines, and generations whose every step is counted from outside."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from pipelines import tiny_pipelines
from pipelines.tiny_pipelines import denoisers, run

import autocache
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


Life = Mapping[str, Callable[[Any], Any]]
"""What happens to a pipeline, in order; a generation follows each change."""


Given = Callable[[Any], dict[str, Any]]
"""What a pipeline is called with as it is now."""


def skipping(strategy: str) -> str:
    """What a strategy leaves out, of what is counted."""
    return "attention" if strategy in ("attention", "fora") else "block"


def check_life(
    name: str,
    strategy: str,
    life: Life,
    plain: Sequence[Generation],
    *,
    off: Collection[str],
    built: Callable[[str], Any] = make,
    given: Given = lambda pipe: {},
) -> None:
    """Under one patch each generation is the very one of a patch made after the change, which does
    skip; with caching off, looked at after the changes in `off`, that of a pipeline that was never
    cached. `plain` are that one's generations."""
    parameters = STRATEGIES[name][strategy]
    kept, anew = built(name), built(name)
    patch = autocache.patch(kept, strategy, **parameters)
    for (label, change), reference in zip(life.items(), plain, strict=True):
        change(kept)
        change(anew)
        with autocache.patch(anew, strategy, **parameters):
            expected = generate(anew, **given(anew))
        assert generate(kept, **given(kept)) == expected, label
        if strategy == "invariant":
            assert torch.equal(expected.output, reference.output), label
        else:
            kind = skipping(strategy)
            assert 0 < expected.total(kind) < reference.total(kind), label
            assert not torch.equal(expected.output, reference.output), label
        if label in off:
            patch.enabled = False
            assert generate(kept, **given(kept)) == reference, label
            patch.enabled = True
    patch.unpatch()
    modules = [module for model in denoisers(kept) for module in model.modules()]
    assert not any("_autocache_site" in vars(module) for module in modules)


def uncached(
    name: str,
    life: Life,
    built: Callable[[str], Any] = make,
    given: Given = lambda pipe: {},
) -> list[Generation]:
    """The life of a pipeline that was never patched."""
    pipe = built(name)
    generations = []
    for change in life.values():
        change(pipe)
        generations.append(generate(pipe, **given(pipe)))
    return generations


def check_midway(
    name: str,
    strategy: str,
    change: Callable[[Any], Any],
    before: Callable[[Any], Any] = lambda pipe: None,
    built: Callable[[str], Any] = make,
    given: Given = lambda pipe: {},
) -> None:
    """A change in the middle of a generation: the step after it is computed, and then the strategy
    goes on as if it had been turned off and on again, which drops what is cached."""
    at = 2
    parameters = STRATEGIES[name][strategy]

    def generation(patched: bool, dropping: bool = False) -> Generation:
        pipe = built(name)
        before(pipe)
        patch = autocache.patch(pipe, strategy, **parameters) if patched else None

        def after(step: int) -> None:
            if step == at:
                change(pipe)
            if step == at and patch is not None and dropping:
                patch.enabled = False
                patch.enabled = True

        return generate(pipe, after, **given(pipe))

    plain, cached = generation(False), generation(True)
    assert cached.ran[at + 1] == cached.first
    if strategy == "invariant":
        assert torch.equal(cached.output, plain.output)
    else:
        assert cached.total(skipping(strategy)) < plain.total(skipping(strategy))
    assert cached == generation(True, dropping=True)
