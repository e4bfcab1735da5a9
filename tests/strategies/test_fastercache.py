"""FasterCache under guidance of either kind, and without."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from pipelines.tiny_pipelines import make, run

import autocache
from autocache.errors import ParameterError, PatchError
from autocache.how import Frequency, Reuse
from autocache.spec.schema import Spec
from autocache.when import Interval
from autocache.where import Guidance
from tiny import build

WIDE: dict[str, Any] = {"guidance_window": (-1, 1001), "attention_window": (-1, 1001)}
TIMES = [950 - 80 * step for step in range(12)]


def actions(patch: autocache.Patch, denoiser: int = 0) -> dict[str, str]:
    """Per guidance branch one letter a step: C computed, p predicted, of the latest generation."""
    steps = patch.stats().steps
    mine = [s for s in steps if s.generation == steps[-1].generation]
    found: dict[str, str] = {}
    for step in mine:
        found[step.branch] = found.get(step.branch, "") + (
            "C" if step.action == "computed" else "p"
        )
    return found


def moved(inputs: Any, time: float, step: int) -> dict[str, Any]:
    given = inputs(time)
    return given | {"hidden_states": given["hidden_states"] * (1 + 0.1 * step)}


class Reference:
    """Section 15.2 of the algorithm reference in a straight line, for a call per branch."""

    def __init__(self, model: Any, interval: int, window: tuple, low: tuple, high: tuple) -> None:
        self.model, self.interval, self.window = model, interval, window
        self.low, self.high = low, high
        self.count = 0
        self.delta: tuple[Any, Any] = (None, None)

    @staticmethod
    def split(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        height, width = x.shape[-2:]
        spectrum = torch.fft.fftshift(torch.fft.fft2(x), dim=(-2, -1))
        radius = min(height, width) // 5
        mask = torch.zeros(height, width)
        for i in range(height):
            for j in range(width):
                mask[i, j] = (i - height // 2) ** 2 + (j - width // 2) ** 2 <= radius**2
        return spectrum * mask, spectrum * (1 - mask)

    @staticmethod
    def weight(rule: tuple, time: float) -> float:
        alpha, (start, end) = rule
        return alpha if start < time < end else 1.0

    def step(
        self, cond: dict, uncond: dict, time: float
    ) -> tuple[torch.Tensor, torch.Tensor, bool]:
        start, end = self.window
        skip = self.count > 0 and start < time < end and self.count % self.interval != 0
        skip = skip and self.delta[0] is not None
        c = self.model(**cond)[0]
        low, high = self.split(c)
        if skip:
            delta_low, delta_high = self.delta
            delta_low = delta_low * self.weight(self.low, time)
            delta_high = delta_high * self.weight(self.high, time)
            self.delta = delta_low, delta_high
            spectrum = torch.fft.ifftshift(low + delta_low + high + delta_high, dim=(-2, -1))
            u = torch.fft.ifft2(spectrum).real
        else:
            u = self.model(**uncond)[0]
            other_low, other_high = self.split(u)
            self.delta = other_low - low, other_high - high
        self.count += 1
        return u, c, skip


def pair(inputs: Any, time: float, step: int) -> tuple[dict, dict]:
    cond = moved(inputs, time, step)
    return cond, cond | {"encoder_hidden_states": -cond["encoder_hidden_states"]}


@pytest.mark.parametrize("named", [True, False])
@torch.no_grad()
def test_a_call_per_branch_follows_the_reference(named):
    """The unconditional call is left out and predicted, as the pseudo-code has it.

    The tolerance is the rounding of complex float32 transforms.
    """
    model: Any
    model, inputs = build("WanTransformer3DModel")
    rules: dict[str, Any] = {"low": (1.3, (300, 901)), "high": (0.8, (-1, 601))}
    reference = Reference(copy.deepcopy(model), 4, (100, 900), **rules)
    patch = autocache.patch(
        model,
        "fastercache",
        attention=False,
        guidance=None if named else "sequential",
        guidance_interval=4,
        guidance_window=(100, 900),
        alpha_low=1.3,
        alpha_high=0.8,
        low_window=(300, 901),
        high_window=(-1, 601),
    )
    skips = ""
    for step, time in enumerate(TIMES):
        cond, uncond = pair(inputs, time, step)
        with model.cache_context("cond" if named else None):
            c = model(**cond)[0]
        with model.cache_context("uncond" if named else None):
            u = model(**uncond)[0]
        expected_u, expected_c, skip = reference.step(cond, uncond, time)
        assert torch.equal(c, expected_c)
        torch.testing.assert_close(u, expected_u, rtol=1e-5, atol=1e-5)
        skips += "p" if skip else "C"
    assert actions(patch) == dict(
        zip(("cond", "uncond") if named else ("0", "1"), ("C" * 12, skips), strict=True)
    )
    assert skips == "CpppCpppCppC"
    stats = patch.stats()
    assert (stats.denoiser.run, stats.denoiser.total) == (24 - skips.count("p"), 24)
    assert {s.sites["guidance"] for s in stats.steps if s.whole} == {"predicted"}


@torch.no_grad()
def test_a_call_per_branch_equals_one_batch():
    """Both kinds of guidance predict the same, attention included.

    The tolerance is that of matrix products of another batch size.
    """
    name = "CogVideoXTransformer3DModel"
    batched, inputs = build(name)
    single = copy.deepcopy(batched)
    options: dict[str, Any] = {**WIDE, "guidance_interval": 4, "attention_interval": 3}
    patches = [
        autocache.patch(batched, "fastercache", guidance="batched", **options),
        autocache.patch(single, "fastercache", guidance="sequential", **options),
    ]
    for step, time in enumerate(TIMES):
        given = moved(inputs, time, step)
        halves = [
            {k: v.chunk(2)[n] if isinstance(v, torch.Tensor) else v for k, v in given.items()}
            for n in (0, 1)
        ]
        together = batched(**given)[0]
        conditional = single(**halves[1])[0]
        apart = torch.cat([single(**halves[0])[0], conditional])
        torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)
    batch, one = patches[0].stats(), patches[1].stats()
    assert actions(patches[0]) == {"0": "Cppp" * 3}
    assert actions(patches[1])["1"] == "Cppp" * 3
    assert batch.attention.total - batch.attention.run > 0
    skipped = {s.step: s.attention_skipped for s in batch.steps}
    assert {s.step: s.attention_skipped for s in one.steps if s.branch == "0"} == skipped


def test_pipeline_with_a_call_per_branch():
    """Wan's two experts: the second starts with both branches computed, on the same clock."""
    pipe = make("wan")
    plain = run(pipe, steps=10, guided=True)
    patch = autocache.patch(pipe, "fastercache", guidance_interval=4, **WIDE)
    first = run(pipe, steps=10, guided=True)
    stats = patch.stats()
    unconditional = [s for s in stats.steps if s.branch == "uncond"]
    assert [s.step for s in unconditional] == list(range(10))
    assert actions(patch)["uncond"] == "CpppCCppCp"
    assert [s.whole for s in unconditional] == [s.action == "predicted" for s in unconditional]
    assert not any(s.whole for s in stats.steps if s.branch == "cond")
    # Attention stands in only beside an unconditional branch that is predicted, never in it.
    assert {s.step for s in stats.steps if s.branch == "cond" and s.attention_skipped} == {
        1,
        3,
        7,
        9,
    }
    assert not torch.equal(first, plain)
    assert torch.equal(run(pipe, steps=10, guided=True), first)
    patch.unpatch()
    assert torch.equal(run(pipe, steps=10, guided=True), plain)


@pytest.mark.parametrize("name", ["cogvideox", "dit", "sdxl"])
def test_pipeline_with_one_batch(name):
    """Video, image and UNet; DiT's pipeline puts the conditional half first."""
    pipe = make(name)
    plain = run(pipe, steps=10, guided=True, batch=2)
    patch = autocache.patch(pipe, "fastercache", guidance_interval=3, **WIDE)
    first = run(pipe, steps=10, guided=True, batch=2)
    (letters,) = actions(patch).values()
    assert letters == "CppCppCppC"
    stats = patch.stats()
    assert [s.sites["guidance"] for s in stats.steps if s.action != "computed"] == ["predicted"] * 6
    assert 0 < stats.attention.run < stats.attention.total
    assert stats.bytes_held == 0
    assert not torch.equal(first, plain)
    assert torch.equal(run(pipe, steps=10, guided=True, batch=2), first)
    patch.unpatch()
    assert torch.equal(run(pipe, steps=10, guided=True, batch=2), plain)


@torch.no_grad()
def test_the_conditional_half_is_the_one_that_is_run():
    """A skipped step of DiT runs the classes asked for, and not the null class."""
    pipe = make("dit")
    seen = []
    pipe.transformer.transformer_blocks[0].register_forward_hook(
        lambda _, __, kwargs, ___: seen.append(kwargs["class_labels"].tolist()), with_kwargs=True
    )
    autocache.patch(pipe, "fastercache", guidance_interval=2, **WIDE)
    run(pipe, steps=4, guided=True, batch=2)
    assert seen == [[3, 5, 1000, 1000], [3, 5]] * 2


@pytest.mark.parametrize("name", ["cogvideox", "dit", "wan"])
def test_without_guidance(name):
    """No branch to predict, also in a batch of two; attention is reused at its own pace."""
    pipe = make(name)
    patch = autocache.patch(pipe, "fastercache", guidance_interval=3, **WIDE)
    run(pipe, steps=8, batch=2)
    stats = patch.stats()
    assert stats.denoiser.run == stats.denoiser.total
    assert "guidance" not in {
        k for s in stats.steps for k, v in s.sites.items() if v == "predicted"
    }
    skipped = [s.step for s in stats.steps if s.attention_skipped]
    assert skipped == [1, 3, 5, 7]


@pytest.mark.parametrize("name", ["cogvideox", "dit", "wan", "flux", "qwen", "hunyuan"])
def test_never_skipping_is_the_plain_model(name):
    pipe = make(name)
    plain = run(pipe, guided=True)
    closed = {"guidance_window": (-2, -1), "attention_window": (-2, -1)}
    for options in (closed, {"guidance_interval": 1, **WIDE, "attention_window": (-2, -1)}):
        if name in ("flux", "qwen"):
            options.pop("guidance_window")
        with autocache.patched(pipe, "fastercache", **options) as patch:
            assert torch.equal(run(pipe, guided=True), plain)
            assert patch.stats().attention.share == patch.stats().denoiser.share == 1.0
    assert torch.equal(run(pipe, guided=True), plain)


def test_distilled_models_reuse_attention():
    """Where the latent is packed into tokens only attention is reused, in every branch."""
    pipe = make("flux")
    plain = run(pipe)
    patch = autocache.patch(pipe, "fastercache", attention_window=(-1, 1001))
    out = run(pipe)
    stats = patch.stats()
    assert [s.attention_skipped for s in stats.steps] == [0, 6] * 4
    assert not torch.equal(out, plain)


@pytest.mark.parametrize("name", ["FluxTransformer2DModel", "QwenImageTransformer2DModel"])
def test_prediction_wants_a_grid(name):
    model, _ = build(name)
    with pytest.raises(ParameterError, match=r"tokens.*guidance_cache=False"):
        autocache.patch(model, "fastercache", guidance_cache=True)
    autocache.patch(model, "fastercache", guidance_cache=False)
    autocache.patch(model, when=Interval(2, start=0), where=Guidance("sequential"), how=Reuse())


def test_nothing_left():
    model, _ = build("FluxTransformer2DModel")
    with pytest.raises(ParameterError, match="neither"):
        autocache.patch(model, "fastercache", attention=False)
    with pytest.raises(ParameterError, match="temporal"):
        autocache.patch(model, "fastercache", temporal_interval=2)


class Shifted(torch.nn.Module):
    """A denoiser whose unconditional half is its conditional half plus 0.5 everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList([torch.nn.Identity()])
        self.seen: list[int] = []

    def forward(self, hidden_states: torch.Tensor, timestep: float, text: torch.Tensor) -> Any:
        self.seen.append(len(hidden_states))
        return (hidden_states.sin() + text[:, None, None, None],)


@pytest.mark.parametrize("batch", [1, 3])
@torch.no_grad()
def test_a_constant_difference_is_predicted_exactly(batch):
    """With weights of 1, up to the rounding of adding and taking away 0.5."""
    model = Shifted()
    spec = Spec.model_validate(
        {
            "schema": 1,
            "model": f"{__name__}:Shifted",
            "latent_layout": "BCHW",
            "stacks": [
                {"path": "blocks", "block": "Identity", "streams": ["input"], "returns": "input"}
            ],
        }
    )
    text = torch.cat([torch.full((batch,), 0.5), torch.zeros(batch)])
    how = Frequency(alpha_low=1.0, alpha_high=1.0)
    rule = Interval(4, start=0)
    autocache.patch(model, when=rule, where=Guidance("batched"), how=how, spec=spec)
    for step in range(8):
        half = torch.randn(batch, 4, 6, 6, generator=torch.Generator().manual_seed(step))
        latent = torch.cat([half, half])
        (out,) = model(latent, float(1000 - step), text)
        torch.testing.assert_close(out, latent.sin() + text[:, None, None, None], rtol=0, atol=1e-6)
    assert model.seen == [2 * batch, batch, batch, batch] * 2


def measured(pipe: Any) -> dict[str, int]:
    """Bytes of what each attention of the stacks returns, and of the denoiser's output as ""."""
    sizes: dict[str, int] = {}

    def measure(name: str, module: torch.nn.Module) -> None:
        def hook(_: Any, __: Any, out: Any) -> None:
            sizes.setdefault(name, sum(leaf.nbytes for leaf in out if leaf is not None))

        module.register_forward_hook(hook)

    for name, module in pipe.transformer.named_modules():
        stacked = name.startswith(("transformer_blocks", "single_transformer_blocks"))
        if not name or (stacked and name.endswith((".attn", ".attn1"))):
            measure(name, module)
    return sizes


def test_memory_of_one_batch():
    """Two conditional halves of every attention output, and one float32 latent."""
    pipe = make("cogvideox")
    sizes = measured(pipe)
    patch = autocache.patch(pipe, "fastercache", guidance_interval=4, **WIDE)
    run(pipe, guided=True)
    latent = sizes.pop("")
    assert len(sizes) == 3
    assert patch.stats().bytes_peak == 2 * sum(sizes.values()) // 2 + latent // 2
    assert patch.stats().bytes_held == 0


def test_memory_of_a_call_per_branch():
    """Only the conditional branch's attention is kept; one more latent waits for its partner."""
    pipe = make("hunyuan")
    sizes = measured(pipe)
    patch = autocache.patch(pipe, "fastercache", guidance_interval=4, **WIDE)
    run(pipe, guided=True)
    latent = sizes.pop("")
    assert len(sizes) == 6
    assert patch.stats().bytes_peak == 2 * sum(sizes.values()) + 2 * latent


@pytest.mark.parametrize("name", ["cogvideox", "dit", "wan"])
def test_dry_run(name):
    pipe = make(name)
    plain = run(pipe, guided=True)
    with autocache.patched(pipe, "fastercache", guidance_interval=3, **WIDE) as wet:
        run(pipe, guided=True)
    with autocache.patched(pipe, "fastercache", guidance_interval=3, dry_run=True, **WIDE) as patch:
        assert torch.equal(run(pipe, guided=True), plain)
    steps = patch.stats().steps
    assert [s.action for s in steps] == [s.action for s in wet.stats().steps]
    errors = [s.error for s in steps if s.sites.get("guidance") == "predicted"]
    assert errors
    assert all(error is not None and 0 < error < 10 for error in errors)
    assert patch.stats().denoiser.share == 1.0


def test_limits_go_with_both_parts():
    pipe = make("cogvideox")
    patch = autocache.patch(pipe, "fastercache", warmup_steps=4, last_steps=2, **WIDE)
    run(pipe, steps=10, guided=True)
    (letters,) = actions(patch).values()
    assert letters == "CCCCpCppCC"


def test_blocks_narrow_the_attention():
    pipe = make("cogvideox")
    patch = autocache.patch(pipe, "fastercache", blocks=(0, 1), guidance_interval=4, **WIDE)
    run(pipe, guided=True)
    assert {s.attention_skipped for s in patch.stats().steps} == {0, 1}
    assert "p" in actions(patch)["cond_uncond"]


def test_no_other_strategy_inside():
    """What another strategy keeps would not fit a batch that is a half at times."""
    pipe = make("cogvideox")
    with pytest.raises(PatchError, match="cannot be combined"):
        autocache.patch(pipe, [("fastercache", {"attention": False}), "dit_block"])


def test_published_schedule():
    """CogVideoX's own, for its checkpoints; what is given goes first."""
    from diffusers import CogVideoXDDIMScheduler

    pipe = make("cogvideox")
    pipe.scheduler = CogVideoXDDIMScheduler(timestep_spacing="trailing")
    pipe.transformer.register_to_config(_name_or_path="THUDM/CogVideoX-2b")
    patch = autocache.patch(pipe, "fastercache")
    run(pipe, steps=50, guided=True)
    (letters,) = actions(patch).values()
    # Counted from 1: predicted from the 18th step on but for every fifth.
    assert letters == "".join("p" if c >= 18 and c % 5 else "C" for c in range(1, 51))
    skipped = {s.step + 1 for s in patch.stats().steps if s.attention_skipped}
    assert skipped == {c for c in range(18, 51) if c % 3 and c % 5}


def test_copies_go_their_own_way():
    pipe = make("cogvideox")
    autocache.patch(pipe, "fastercache", guidance_interval=3, **WIDE)
    expected = run(pipe, guided=True)
    assert torch.equal(run(copy.deepcopy(pipe), guided=True), expected)
