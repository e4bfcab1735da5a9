"""Every lie in a spec is found, by the check that is there for it."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from autocache.authoring.verify import Report, as_json, table, verify, verify_pipeline
from autocache.errors import SpecError
from autocache.spec import registry
from autocache.spec.schema import Spec
from autocache.where.blocks import BlockSite
from autocache.where.denoiser import _Call
from autocache.where.span import Span

FLUX, WAN = "FluxTransformer2DModel", "WanTransformer3DModel"
UNET, DIT = "UNet2DConditionModel", "DiTTransformer2DModel"
COGVIDEO = "CogVideoXTransformer3DModel"

Edit = Callable[[dict[str, Any]], None]


def _edited(name: str, edit: Edit) -> Spec:
    """A bundled spec with some of its facts changed."""
    facts = copy.deepcopy(registry.resolve(name, None).model_dump(by_alias=True))
    edit(facts)
    return Spec.model_validate(facts)


def _set(*path: Any) -> Edit:
    """Puts the last value at the path of the others; a missing value is deleted."""
    *within, key, new = path

    def edit(facts: dict[str, Any]) -> None:
        part: Any = facts
        for name in within:
            part = part[name]
        part[key] = new

    return edit


def _found(report: Report, check: str) -> str:
    """Why a check failed. No other check failed before it."""
    failed = [found.name for found in report.failed]
    assert failed, f"nothing failed\n{report}"
    assert check in failed, str(report)
    return next(found.reason for found in report.failed if found.name == check)


@pytest.mark.parametrize("name", [FLUX, WAN, UNET])
def test_the_truth_passes(name: str) -> None:
    """Nothing fails of a spec as it is, and what has no subject is not applicable."""
    (report,) = verify(name, pipelines=False)
    assert not report.failed, str(report)
    outcomes = {check.name: check.outcome for check in report.checks}
    assert outcomes["builds and binds"] == "passed"
    assert outcomes["levels"] == ("passed" if name == UNET else "not applicable")
    assert outcomes["ranges"] == ("not applicable" if name == UNET else "passed")


LIES: dict[str, tuple[str, Edit, str, str]] = {
    "path": (
        WAN,
        _set("stacks", 0, "path", "block"),
        "builds and binds",
        "no 'block'; did you mean 'blocks'",
    ),
    "proof": (WAN, _set("proof", None), "builds and binds", "no proof; add one"),
    "config": (
        WAN,
        _set("proof", "config", "num_layer", 3),
        "builds and binds",
        "config: cannot build WanTransformer3DModel: TypeError: .*num_layer",
    ),
    "inputs": (
        WAN,
        _set("proof", "inputs", "timestep", {"shape": [1, 2]}),
        "builds and binds",
        r"Error: .* \(in .*\.py:\d+\)",
    ),
    "latent layout": (
        WAN,
        _set("latent_layout", "BCHW"),
        "builds and binds",
        "latent_layout is BCHW, but the latent has 5 dimensions",
    ),
    "signature": (
        WAN,
        _set("proof", "signatures", "WanTransformerBlock", ["hidden_states"]),
        "signatures",
        r"WanTransformerBlock.forward takes \[hidden_states, .*recorded is \[hidden_states\]",
    ),
    "no signature": (
        WAN,
        _set("proof", "signatures", {}),
        "signatures",
        r"not recorded; add WanTransformerBlock: \[hidden_states, ",
    ),
    "return order": (
        FLUX,
        _set("stacks", 0, "returns", ["hidden_states", "encoder_hidden_states"]),
        "streams",
        r"transformer_blocks\[0\]: what it returns as hidden_states the next block receives as "
        "encoder_hidden_states; check the order",
    ),
    "missing stream": (
        FLUX,
        _set("stacks", 0, "returns", "hidden_states"),
        "streams",
        "returns 2 values, stated is one",
    ),
    "stream stated as null": (
        FLUX,
        lambda facts: facts["stacks"][0].update(returns=[None, "hidden_states"], each=True),
        "streams",
        "stated as null is what the next block receives as encoder_hidden_states",
    ),
    "long skip connections": (
        "HunyuanDiT2DModel",
        _set("stacks", 0, "each", False),
        "ranges",
        r"blocks\[\d:\d\]: step 1: .*long skip connection.*each: true",
    ),
    "attention twice": (
        WAN,
        _set("stacks", 0, "attention", {"attn1": "self", "attn1.to_q": "self"}),
        "attention",
        r"blocks\.0\.attn1\.to_q is declared twice, by itself or within another",
    ),
    "probe of no tensor": (
        FLUX,
        _set("probes", "modulated_input", {"argument": "image_rotary_emb"}),
        "probes",
        "modulated_input: is a tuple, not a floating tensor",
    ),
    "probe that stands still": (
        WAN,
        _set("probes", "modulated_input", {"argument": "encoder_hidden_states"}),
        "probes",
        "modulated_input: is the same in two steps",
    ),
    "invariant": (
        FLUX,
        _set("invariant", ["context_embedder", "x_embedder"]),
        "invariant",
        "x_embedder changes with the timestep or the latent",
    ),
    "invariant that never runs": (
        FLUX,
        _set("invariant", ["transformer_blocks"]),
        "invariant",
        "transformer_blocks never runs",
    ),
    "layers of a level": (
        UNET,
        _set("unet", "layers", ["resnets"]),
        "levels",
        r"cut at branch 0: step 1: inside the cut ran up_blocks.*attentions.*name all layers",
    ),
    "latent": (
        FLUX,
        lambda facts: facts.update(latent="pooled_projections", latent_layout=None),
        "whole calls",
        "ValueError",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_found(lie: str) -> None:
    """The check that is there for it fails, and says what differs."""
    name, edit, check, said = LIES[lie]
    (report,) = verify(_edited(name, edit), pipelines=False)
    reason = _found(report, check)
    assert re.search(said, reason, re.DOTALL), reason


class Twice(nn.Module):
    """A denoiser whose blocks run one of their modules twice and another never."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_Block() for _ in range(3))
        self.once = nn.ModuleList(_Block() for _ in range(2))

    def forward(self, hidden_states: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            hidden_states = block(hidden_states, timestep)
        for block in (*self.once, *self.once):
            hidden_states = block(hidden_states, timestep)
        return hidden_states


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn, self.ff, self.idle = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, hidden_states: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        hidden_states = hidden_states + self.attn(self.attn(hidden_states)) * timestep
        return hidden_states + self.ff(hidden_states)


def _twice(path: str, **stack: Any) -> Spec:
    described = {"path": path, "block": "_Block", "streams": ["hidden_states"], **stack}
    return Spec.model_validate(
        {
            "schema": 1,
            "model": f"{__name__}:Twice",
            "stacks": [{"returns": "hidden_states", **described}],
            "proof": {
                "package": "ours 1",
                "signatures": {"_Block": ["hidden_states", "timestep"]},
                "inputs": {
                    "hidden_states": {"shape": [1, 2, 4]},
                    "timestep": {"shape": [1], "value": 0.9},
                },
            },
        }
    )


def test_modules_are_counted() -> None:
    """Attention that runs twice has no output of its own, and what never runs has none."""
    stated = {"attention": {"attn": "self"}, "feed_forward": ["ff", "idle"]}
    (report,) = verify(_twice("blocks", **stated))
    assert "blocks.2.attn runs 2 times in one call; expected once" in _found(report, "attention")
    assert "blocks.0.idle runs 0 times in one call" in _found(report, "feed-forward")
    assert {check.name for check in report.failed} == {"attention", "feed-forward"}


def test_blocks_are_counted() -> None:
    """Blocks that run twice per call have no residual of their own."""
    (report,) = verify(_twice("once"))
    reason = _found(report, "ranges")
    assert reason == "once: its blocks run 2, 2 times in one call; expected once each"


def test_a_residual_that_is_not_exact_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recomposition is compared with the definition, not with what the library says."""
    close = Span.close
    monkeypatch.setattr(
        Span, "close", lambda *given: tuple(x if x is None else x * 1.001 for x in close(*given))
    )
    (report,) = verify(WAN, pipelines=False)
    assert "blocks[0:3]: step 1: not what went in plus the residual" in _found(report, "ranges")


def test_a_skip_of_other_blocks_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which blocks ran is counted inside the model."""
    enter = BlockSite.enter

    def lets_one_run(site: Any, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
        output = enter(site, module, args, kwargs)
        if site.first:
            with torch.no_grad():
                nn.Module.__call__(module, *args, **kwargs)
        return output

    monkeypatch.setattr(BlockSite, "enter", lets_one_run)
    (report,) = verify(WAN, pipelines=False)
    assert "step 1: of blocks ran [0], expected []" in _found(report, "ranges")


def test_a_patch_that_changes_something_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never skipping must be the same bit for bit."""
    monkeypatch.setattr(BlockSite, "leave", lambda _s, _a, _k, output: output + 1e-3)
    (report,) = verify(WAN, pipelines=False)
    assert "a dry run of dit_block: step 0: tensor 0" in _found(report, "never skips")


def test_a_call_that_is_not_skipped_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may run in a skipped call."""
    monkeypatch.setattr(_Call, "around", lambda _s, proceed, args, kwargs: proceed(*args, **kwargs))
    (report,) = verify(WAN, pipelines=False)
    assert "step 1: " in _found(report, "whole calls")


PIPELINE_LIES: dict[str, tuple[str, str, Edit, str]] = {
    "branches": (
        WAN,
        "WanPipeline",
        _set("proof", "pipelines", "WanPipeline", "branches", ["cond"]),
        r"a full step has the branches \['cond', 'uncond'\], expected \['cond'\]",
    ),
    "generations": (
        WAN,
        "WanPipeline",
        _set("proof", "pipelines", "WanPipeline", "generations", 2),
        r"1 generation\(s\) were seen, expected 2",
    ),
    "sequential": (
        COGVIDEO,
        "CogVideoXPipeline",
        _set("guidance", "CogVideoXPipeline", "sequential"),
        r"declared sequential, but a full step makes 1 call\(s\)",
    ),
    "embedded": (
        COGVIDEO,
        "CogVideoXPipeline",
        _set("guidance", "CogVideoXPipeline", "embedded"),
        r"declared embedded, but the latents are 2 time\(s\) in the batch",
    ),
    "batched": (
        WAN,
        "WanPipeline",
        _set("guidance", "WanPipeline", "batched"),
        r"declared batched, but a full step makes 2 call\(s\)",
    ),
    "order of halves": (
        COGVIDEO,
        "CogVideoXPipeline",
        _set("guidance", "CogVideoXPipeline", "batched_conditional_first"),
        "the conditional half comes last",
    ),
    "no style": (
        WAN,
        "WanPipeline",
        lambda facts: facts["guidance"].pop("WanPipeline"),
        "guidance does not say how WanPipeline does it",
    ),
    "time": (
        FLUX,
        "FluxPipeline",
        _set("timestep_scale", 1.0),
        "timestep is 1000 times the argument plus .*, declared are timestep_scale 1",
    ),
    "component": (
        WAN,
        "WanPipeline",
        _set("proof", "pipelines", "WanPipeline", "components", "transformr", "denoiser"),
        "cannot build WanPipeline: TypeError: .*transformr",
    ),
    "size": (
        FLUX,
        "FluxPipeline",
        lambda facts: facts["proof"]["pipelines"]["FluxPipeline"]["call"].update(height=8),
        "what comes out is empty",
    ),
}


@pytest.mark.parametrize("lie", PIPELINE_LIES)
def test_a_lie_about_a_pipeline_is_found(lie: str) -> None:
    """In the pipeline's own loop."""
    name, label, edit, said = PIPELINE_LIES[lie]
    report = verify_pipeline(_edited(name, edit), label)
    reason = _found(report, f"pipeline {label}")
    assert re.search(said, reason, re.DOTALL), reason


def test_the_truth_about_a_pipeline_passes() -> None:
    """Two experts on one scheduler, each with its own residuals."""
    assert not verify_pipeline(WAN, "two experts").failed


def test_a_skip_in_a_call_that_writes_caches_is_found() -> None:
    """Calls that the spec does not name are taken for steps."""
    name, label = "AnyFlowFARTransformer3DModel", "AnyFlowFARPipeline"
    report = verify_pipeline(_edited(name, _set("compute_when", {})), label)
    assert "5 generation(s) were seen, expected 3" in _found(report, f"pipeline {label}")


def test_an_unknown_pipeline_is_an_error() -> None:
    """Not a report: there is nothing to report on."""
    with pytest.raises(SpecError, match="did you mean 'WanPipeline'"):
        verify_pipeline(WAN, "WanPipelin")


def test_reports_can_be_read_by_people_and_programs() -> None:
    """A line for each spec and the reasons below it; as JSON everything."""
    lie = _edited(WAN, _set("probes", "modulated_input", {"argument": "encoder_hidden_states"}))
    reports = verify([WAN, lie], pipelines=False)
    first, second, third = table(reports).splitlines()
    assert first.startswith(WAN)
    assert " proven " in first
    assert "1 FAILED" in second
    assert third.strip().startswith("probes: modulated_input: is the same")
    proven, failed = json.loads(json.dumps(as_json(reports)))
    assert proven["proven"] is True
    assert proven["file"].endswith(f"{WAN}.yaml")
    assert failed["proven"] is False
    assert {check["outcome"] for check in failed["checks"]} == {
        "passed",
        "failed",
        "not applicable",
    }
