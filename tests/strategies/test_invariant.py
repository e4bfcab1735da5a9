"""What does not depend on time runs once, and nothing else changes."""

from __future__ import annotations

import contextlib
from collections import Counter

import pytest
import torch
from accelerate import cpu_offload
from peft import LoraConfig
from pipelines.tiny_pipelines import BUILDERS, denoisers, make, run
from torch import nn

import autocache
import tiny
from autocache.errors import ParameterError
from autocache.spec import registry
from autocache.spec.bind import named

FLUX, WAN = "FluxTransformer2DModel", "WanTransformer3DModel"
STEPS = 6


def listed(model: nn.Module) -> dict[str, nn.Module]:
    """What the model's spec lists, by hand."""
    spec = registry.find(model)
    assert spec is not None
    assert spec.invariant
    return {name: m for pattern in spec.invariant for name, m in named(model, pattern)}


@contextlib.contextmanager
def ran(*models: nn.Module):
    """How often each listed module really ran, per model."""
    counts = [Counter(dict.fromkeys(listed(model), 0)) for model in models]
    handles = []
    for model, count in zip(models, counts, strict=True):
        for name, module in listed(model).items():

            def hook(*_, name=name, count=count):
                count[name] += 1

            handles.append(module.register_forward_hook(hook))
    yield counts
    for handle in handles:
        handle.remove()


def times(name: str) -> list[float]:
    scale = 1 if name.startswith(("Flux", "Qwen")) else 100
    return [(0.9 - 0.1 * step) * scale for step in range(STEPS)]


def fixed(name: str, **overrides):
    """A model and a loop that hands it the very same conditioning in every step."""
    model, inputs = tiny.build(name, **overrides)
    given = inputs(1)

    def loop(between=lambda step: None) -> torch.Tensor:
        outputs = []
        for step, time in enumerate(times(name)):
            timestep = torch.full_like(given["timestep"], time)
            outputs.append(model(**given | {"timestep": timestep})[0].clone())
            between(step)
        return torch.stack(outputs)

    return model, given, loop


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("name", BUILDERS)
def test_a_pipeline_runs_them_once_per_generation_and_branch(name, guided):
    """Bit for bit the plain result; every listed module runs once for each expert and branch."""
    plain = run(make(name), steps=STEPS, guided=guided)
    pipe = make(name)
    patch = autocache.patch(pipe, "invariant")
    for _ in range(2):
        with ran(*denoisers(pipe)) as counts:
            assert torch.equal(run(pipe, steps=STEPS, guided=guided), plain)
        branches = 2 if guided and name not in ("cogvideox", "dit") else 1
        assert all(set(count.values()) == {branches} for count in counts)
    stats = patch.stats()
    assert stats.bytes_held == 0 < stats.bytes_peak
    # The blocks were computed, and the record says so; the sites tell what was not.
    assert {step.action for step in stats.steps} == {"computed"}
    assert stats.blocks.share == 1
    assert {done for step in stats.steps for done in step.sites.values()} == {"computed", "reused"}
    assert "nothing was skipped" not in str(stats)
    patch.unpatch()
    with ran(*denoisers(pipe)) as counts:
        assert torch.equal(run(pipe, steps=STEPS, guided=guided), plain)
    assert all(value > branches for count in counts for value in count.values())


@pytest.mark.parametrize("name", tiny.NAMES)
def test_a_bare_loop(name):
    """Every model, called on the same conditioning: once; on copies of it: in each step."""
    model, _, loop = fixed(name)
    with torch.no_grad():
        plain = loop()
        with autocache.patched(model, "invariant", dry_run=True) as patch, ran(model) as (count,):
            assert torch.equal(loop(), plain)
            assert min(count.values()) == STEPS
            errors = {step.error for step in patch.stats().steps}
            assert errors - {None} == {0.0}
        with autocache.patched(model, "invariant"), ran(model) as (count,):
            assert torch.equal(loop(), plain)
            assert set(count.values()) == {1}
        with autocache.patched(model, "invariant") as patch, ran(model) as (count,):
            _, inputs = tiny.build(name)
            for time in times(name):
                model(**inputs(time))
            assert min(count.values()) == STEPS
            # What is made anew each time is not kept for ever.
            assert patch.stats().bytes_held < patch.stats().bytes_peak


def test_memory_is_the_outputs():
    """Wan: the embedded text, and three of its size per block."""
    model, _, loop = fixed(WAN)
    text = 12 * 24 * 4
    with autocache.patched(model, "invariant") as patch, torch.no_grad():
        loop()
        assert patch.stats().bytes_peak == (1 + 3 * 3) * text


def test_an_image_is_joined_to_the_text_anew():
    """Wan with an image: its model concatenates and slices, so only the two embedders are kept."""
    overrides = {"image_dim": 8, "added_kv_proj_dim": 24, "pos_embed_seq_len": None}
    model, given, loop = fixed(WAN, **overrides)
    given["encoder_hidden_states"] = torch.randn(1, 512, 16)
    given["encoder_hidden_states_image"] = torch.randn(1, 4, 8)
    with torch.no_grad():
        plain = loop()
        with autocache.patched(model, "invariant") as patch, ran(model) as (count,):
            assert torch.equal(loop(), plain)
            held = patch.stats().bytes_held
    assert {count[f"condition_embedder.{kind}_embedder"] for kind in ("text", "image")} == {1}
    assert {n for name, n in count.items() if "attn2" in name} == {STEPS}
    assert held == (512 + 4) * 24 * 4


def test_fused_projections():
    """Fused keys and values are one module: it runs once, whatever comes behind it."""
    model, _, loop = fixed(WAN)
    for block in model.blocks:
        block.attn1.fuse_projections()
        block.attn2.fuse_projections()
    with torch.no_grad():
        plain = loop()
        with autocache.patched(model, "invariant"), ran(model) as (count,):
            assert torch.equal(loop(), plain)
    assert {n for name, n in count.items() if name.endswith("to_kv")} == {1}


def _write_prompt(model, given):
    given["encoder_hidden_states"].mul_(1.5)


def _new_prompt(model, given):
    given["encoder_hidden_states"] = given["encoder_hidden_states"] * 1.5


def _equal_copy(model, given):
    given["encoder_hidden_states"] = given["encoder_hidden_states"].clone()


def _write_weights(model, given):
    model.condition_embedder.text_embedder.linear_1.weight.mul_(1.5)
    model.blocks[1].attn2.to_v.weight.mul_(1.5)


def _new_weights(model, given):
    layer = model.blocks[1].attn2.to_k
    layer.weight = nn.Parameter(layer.weight * 1.5, requires_grad=False)


CHANGES = [_write_prompt, _new_prompt, _equal_copy, _write_weights, _new_weights]


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_in_mid_generation_is_noticed(change):
    """Inputs and weights, written into or exchanged: the module runs again, and then no more."""
    results = []
    for strategy in (None, "invariant"):
        model, given, loop = fixed(WAN)
        with torch.no_grad():
            patch = autocache.patch(model, strategy) if strategy else None
            with ran(model) as (count,):
                results.append(loop(lambda s, m=model, g=given: s == 2 and change(m, g)))
        if patch is not None:
            assert 2 in count.values()
            assert set(count.values()) <= {1, 2}
    assert torch.equal(*results)


def _adapted(model):
    targets = ["to_k", "to_v", "text_embedder.linear_1", "attn1.to_q"]
    torch.manual_seed(1)
    model.add_adapter(LoraConfig(r=2, target_modules=targets, init_lora_weights=False))


def _scaled(model):
    for module in model.modules():
        if hasattr(module, "scaling") and hasattr(module, "base_layer"):
            module.scaling["default"] *= 3


@pytest.mark.parametrize("first", ["adapter", "patch"])
def test_adapters(first):
    """LoRA loaded before the patch or after it, and rescaled on the way, stays exact."""
    results = []
    for strategy in (None, "invariant"):
        model, _, loop = fixed(WAN)
        if first == "adapter":
            _adapted(model)
        patch = autocache.patch(model, strategy) if strategy else None
        if first == "patch":
            _adapted(model)
        model.eval().requires_grad_(False)
        with torch.no_grad():
            rescaled = loop(lambda s, m=model: s == 2 and _scaled(m))
            results.append(torch.cat([rescaled, loop()]))
        if patch is not None:
            reused = Counter(d for s in patch.stats().steps for d in s.sites.values())["reused"]
            assert reused > STEPS
            patch.unpatch()
            assert not any("_autocache_site" in vars(m) for m in model.modules())
    assert torch.equal(*results)


def test_offloaded_weights():
    """Weights that are paged in for each call are exchanged each time, and taken as they are."""
    model, _, loop = fixed(WAN)
    with torch.no_grad():
        plain = loop()
        patch = autocache.patch(model, "invariant")
        cpu_offload(model, execution_device=torch.device("cpu"))
        assert torch.equal(loop(), plain)
    reused = Counter(done for step in patch.stats().steps for done in step.sites.values())
    assert reused["reused"] == (STEPS - 1) * 10


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.text = nn.Linear(4, 4)
        self.blocks = nn.ModuleList([nn.Identity()])
        self.given: dict = {}

    def forward(self, hidden_states, timestep, text):
        return hidden_states + _text(self.text, text, **self.given).sum() * timestep


def _text(module, text, **options):
    return module(text, **options)


class Options(nn.Linear):
    def forward(self, text, *, scale=1.0, options=None):
        return super().forward(text) * scale + (options.shift if options else 0)


class Shift:
    shift = 2.0


def spec():
    from autocache.spec.schema import Spec

    return Spec.model_validate(
        {
            "schema": 1,
            "model": f"{Plain.__module__}:Plain",
            "stacks": [
                {"path": "blocks", "block": "Identity", "streams": ["input"], "returns": "input"}
            ],
            "invariant": ["text"],
        }
    )


def computed(model, options, *, steps=4, context=torch.no_grad) -> list[str]:
    """What was done with the module at each step, its options being those given per step."""
    text, x = torch.ones(1, 4), torch.zeros(1, 4)
    with autocache.patched(model, "invariant", spec=spec()) as patch, context():
        for step in range(steps):
            model.given = options(step)
            model(x, 1 - 0.1 * step, text)
        return [record.sites.get("text", "-") for record in patch.stats().steps]


def test_arguments_that_are_no_tensors():
    """Equal numbers are the same input, another number is not, and an object is never sure."""
    model = Plain().eval()
    model.text = Options(4, 4).eval()
    again = ["computed", "reused", "reused", "reused"]
    assert computed(model, lambda step: {"scale": 2.0}) == again
    assert computed(model, lambda step: {"scale": 2.0 if step < 2 else 3.0}) == [
        *("computed", "reused", "computed", "reused")
    ]
    assert computed(model, lambda step: {"scale": step + 1.0}) == ["computed"] * 4
    assert computed(model, lambda step: {"scale": (1, 1.0, True, 1)[step]}) == ["computed"] * 4
    shift = Shift()
    assert computed(model, lambda step: {"options": shift}) == ["computed"] * 4


def test_modes_in_which_nothing_is_sure():
    """Under gradients, in inference mode and in training everything is computed."""
    model = Plain().eval()
    nothing = {"-"}
    assert set(computed(model, lambda step: {}, context=torch.enable_grad)) == nothing
    assert set(computed(model, lambda step: {}, context=torch.inference_mode)) == nothing
    assert computed(model, lambda step: {}) == ["computed", "reused", "reused", "reused"]
    model.text = nn.Sequential(nn.Linear(4, 4), nn.Dropout())
    assert set(computed(model.train(), lambda step: {})) == {"computed"}
    assert computed(model.eval(), lambda step: {}) == ["computed", "reused", "reused", "reused"]


def test_an_output_that_is_written_into_is_not_reused():
    """A model that works in place on what the module returned gets a fresh one each time."""

    class Writes(Plain):
        def forward(self, hidden_states, timestep, text):
            return hidden_states + self.text(text).mul_(timestep)

    model, text, x = Writes().eval(), torch.ones(1, 4), torch.zeros(1, 4)
    with torch.no_grad():
        plain = [model(x, 1 - 0.1 * step, text) for step in range(5)]
        with autocache.patched(model, "invariant", spec=spec()):
            again = [model(x, 1 - 0.1 * step, text) for step in range(5)]
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))


def test_a_recycled_object_is_another():
    """A tensor made where a dead one was is not taken for it."""
    model, x = Plain().eval(), torch.zeros(1, 4)
    with torch.no_grad(), autocache.patched(model, "invariant", spec=spec()):
        results = [model(x, 1 - 0.1 * s, torch.full((1, 4), float(s))) for s in range(6)]
        again = [
            Plain.forward(model, x, 1 - 0.1 * s, torch.full((1, 4), float(s))) for s in range(6)
        ]
    assert all(torch.equal(a, b) for a, b in zip(results, again, strict=True))


def test_blocks_and_models_without_any():
    """`blocks` leaves the other blocks' modules alone; what does not apply is said."""
    model, _, loop = fixed(WAN)
    with (
        torch.no_grad(),
        autocache.patched(model, "invariant", blocks=(1, 2)),
        ran(model) as (count,),
    ):
        loop()
    # The text is embedded anew in each step, so what is behind it sees another tensor.
    assert count["condition_embedder.text_embedder"] == STEPS
    flux, _ = tiny.build(FLUX)
    with pytest.raises(ParameterError, match=r"no invariant module of Flux.* inside the chosen"):
        autocache.patch(flux, "invariant", blocks=(0, 2))
    with pytest.raises(ParameterError, match="lists no module whose inputs stay the same"):
        autocache.patch(Plain(), "invariant", spec=spec().model_copy(update={"invariant": []}))


@pytest.mark.parametrize("strategy", ["teacache", "attention", "dit_block", "easycache", "adastep"])
@pytest.mark.parametrize("name", ["flux", "wan", "hunyuan"])
def test_it_composes_with_every_other_strategy(name, strategy):
    """Beside another strategy nothing changes but the modules that need not run."""
    options = {
        "adastep": {"threshold": 0.5},
        "easycache": {"threshold": 0.5},
        "teacache": {"coefficients": (1.0, 0.0)},
    }.get(strategy, {})
    alone = make(name)
    with autocache.patched(alone, strategy, **options) as patch:
        expected = run(alone, steps=10, guided=True)
        reference = patch.stats()
    pipe = make(name)
    with autocache.patched(pipe, [(strategy, options), "invariant"]) as patch:
        with ran(*denoisers(pipe)) as counts:
            assert torch.equal(run(pipe, steps=10, guided=True), expected)
        stats = patch.stats()
    assert [s.action for s in stats.steps] == [s.action for s in reference.steps]
    assert (stats.blocks, stats.attention) == (reference.blocks, reference.attention)
    assert all(set(count.values()) == {2} for count in counts)
