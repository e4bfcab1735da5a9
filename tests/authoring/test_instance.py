"""Tiny models, inputs and pipelines as a spec's proof describes them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from autocache.authoring.instance import (
    class_of,
    inputs_of,
    model_of,
    pipeline_of,
    run_loop,
    tensor,
    value,
)
from autocache.errors import SpecError
from autocache.spec import registry
from autocache.spec.schema import Spec


class Gated(nn.Module):
    """A gate of zeros, weights that nobody initialised, and one that somebody did."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(width))
        self.open = nn.Parameter(torch.empty(width))
        self.ones = nn.Parameter(torch.ones(width))
        self.register_buffer("table", torch.empty(width))

    def forward(self, x: Any, timestep: Any, return_dict: bool = True) -> Any:
        return x


def _spec(**proof: Any) -> Spec:
    described = {"schema": 1, "model": f"{__name__}:Gated", "no_blocks": "it has none"}
    return Spec.model_validate(described | {"proof": {"package": "ours 1", **proof}})


def test_a_tensor_is_filled_as_described() -> None:
    """One number, all of them, integers below a bound, or noise that the key and seed decide."""
    assert tensor({"shape": [2], "value": 0.5}).tolist() == [0.5, 0.5]
    assert tensor({"shape": [2, 1], "values": [1, 2], "dtype": "int64"}).tolist() == [[1], [2]]
    drawn = tensor({"shape": [50], "below": 3, "dtype": "int64"})
    assert drawn.unique().tolist() == [0, 1, 2]
    noise = [
        tensor({"shape": [8]}, key=k, seed=s) for k, s in [("a", 0), ("a", 0), ("b", 0), ("a", 1)]
    ]
    assert torch.equal(noise[0], noise[1])
    assert not torch.equal(noise[0], noise[2])
    assert not torch.equal(noise[0], noise[3])


def test_attributes_are_set_on_what_was_built() -> None:
    """By their paths; one that leads nowhere is named."""
    described = {
        "class": f"{__name__}:Gated",
        "attributes": {"scale": 2.0, "gate.note": {"shape": [2], "value": 1}},
    }
    made = value(described)
    assert made.scale == 2.0
    assert made.gate.note.tolist() == [1.0, 1.0]
    with pytest.raises(SpecError, match=r"attributes\.gates\.note: cannot be set"):
        value(described | {"attributes": {"gates.note": 1}})
    with pytest.raises(SpecError, match="no 'atributes'; did you mean 'attributes'"):
        value({"class": f"{__name__}:Gated", "atributes": {}})


def test_a_value_is_described_at_any_depth() -> None:
    """Lists, mappings, tuples, objects and numbered keys are gone through."""
    described = {
        "list": [{"shape": [1], "value": 2}, 7],
        "of": {"0": {"tuple": [1, 4]}},
        "object": {"class": "types:SimpleNamespace", "config": {"16": "kept", "x": {"shape": [2]}}},
    }
    made = value(described)
    assert made["list"][0].tolist() == [2.0]
    assert made["list"][1] == 7
    assert made["of"] == {0: (1, 4)}
    assert vars(made["object"])["16"] == "kept"
    assert made["object"].x.shape == (2,)
    assert value(described)["object"] is not made["object"]


@pytest.mark.parametrize(
    ("described", "said"),
    [
        ({"a": {"shape": [1], "valeu": 1}}, r"k\.a: a tensor has no 'valeu'; did you mean 'value'"),
        ({"a": {"shape": [1], "value": 1, "below": 2}}, r"k\.a: give one of"),
        ({"a": [{"shape": [-1]}]}, r"k\.a\[0\]: shape is \[-1\]"),
        ({"a": {"shape": [1], "dtype": "flaot32"}}, r"k\.a: dtype 'flaot32'.*did you mean"),
        ({"a": {"shape": [3], "values": [1, 2]}}, r"k\.a: no tensor of shape \[3\]"),
        ({"a": {"shape": [1], "dtype": "int64"}}, r"k\.a: .*give value, values or below"),
        (
            {"a": {"class": "types:SimpelNamespace"}},
            r"k\.a\.class: .*mean 'SimpleNamespace'",
        ),
        ({"a": {"class": "nowhere_at_all:X"}}, r"k\.a\.class: cannot import nowhere_at_all"),
        ({"a": {"class": "torch.nn:Linear"}}, r"k\.a\.class: cannot build Linear: TypeError"),
    ],
)
def test_an_error_names_the_key(described: Any, said: str) -> None:
    """What is wrong with a description is said with the place it has."""
    with pytest.raises(SpecError, match=said):
        value(described, key="k")


def test_a_model_has_weights_that_hide_nothing() -> None:
    """Zeros and memory nobody initialised are drawn, always the same; the rest stays."""
    spec = _spec(config={"width": 4})
    built: Any = [model_of(spec), model_of(spec), model_of(spec, seed=1)]
    model, again, other = built
    assert model.gate.all()
    assert model.open.isfinite().all()
    assert model.table.isfinite().all()
    assert model.ones.tolist() == [1.0] * 4
    assert not model.training
    assert not model.gate.requires_grad
    assert torch.equal(model.gate, again.gate)
    assert torch.equal(model.open, again.open)
    assert not torch.equal(model.gate, other.gate)
    assert model_of(spec, width=2).gate.shape == (2,)
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_model_of_real_size_is_refused() -> None:
    """A config that leaves out the number of layers does not fill the memory."""
    with pytest.raises(SpecError, match="is not tiny"):
        model_of(_spec(config={"width": 10**9}))


def test_only_time_and_latent_change_from_step_to_step() -> None:
    """Time goes on by distinct values in one direction, the latent grows, also inside lists."""
    time = {"shape": [2], "values": [44, 239], "dtype": "int64"}
    spec = _spec(inputs={"x": [{"shape": [2, 3]}], "timestep": time})
    first, second, again = inputs_of(spec), inputs_of(spec, 1), inputs_of(spec, 1)
    assert first["return_dict"] is False
    assert first["timestep"].tolist() == [44, 239]
    assert second["timestep"].tolist() == [40, 215]
    assert torch.equal(second["x"][0], first["x"][0] * 1.05)
    assert torch.equal(second["x"][0], again["x"][0])
    assert second["x"][0] is not again["x"][0]


@pytest.mark.parametrize("time", [0, 1, 7, 999, 0.0, 0.9, 1000.0, [[0.0, 0.8]]])
def test_times_are_distinct_and_in_order(time: Any) -> None:
    """Also where there are few integers, and where the generation begins at 0."""
    described = {"shape": [1, 2], "values": time} if isinstance(time, list) else time
    spec = _spec(inputs={"timestep": described})
    times = [torch.as_tensor(inputs_of(spec, step)["timestep"]).amax().item() for step in range(5)]
    assert len(set(times)) == 5
    assert times in (sorted(times), sorted(times, reverse=True))


def test_tokens_of_a_vocabulary_move_within_it() -> None:
    """A latent of integers changes without leaving its values."""
    tokens = {"shape": [1, 3], "values": [5, 6, 7], "dtype": "int64"}
    spec = _spec(inputs={"x": tokens, "timestep": 3})
    assert inputs_of(spec, 1)["x"].tolist() == [[7, 5, 6]]


def test_an_error_says_where_in_the_file() -> None:
    """The line of the part of the proof, and the key."""
    spec = registry.resolve("WanTransformer3DModel", None)
    broken = spec.model_copy(deep=True)
    assert broken.proof
    broken.proof.inputs["timestep"] = {"shape": "x"}
    with pytest.raises(SpecError, match=r"Wan.*\.yaml:\d+:\d+: inputs\.timestep: shape is 'x'"):
        inputs_of(broken)


def test_a_spec_without_proof_says_how_to_add_one() -> None:
    """The error is a template."""
    spec = _spec().model_copy(update={"proof": None})
    with pytest.raises(SpecError, match=r"(?s)no proof; add one.*config:.*inputs:"):
        model_of(spec)


def test_a_class_that_is_not_there_is_named() -> None:
    """With the line of the model key."""
    spec = _spec().model_copy(update={"model": f"{__name__}:Gatd"})
    with pytest.raises(SpecError, match=r"model: .*no 'Gatd'; did you mean 'Gated'"):
        class_of(spec)


def test_a_pipeline_runs_in_its_own_loop() -> None:
    """Equal weights, noise and conditioning on every call; options replace the call's."""
    spec = registry.resolve("WanTransformer3DModel", None)
    label = "two experts"
    pipe = pipeline_of(spec, label)
    (one,) = run_loop(spec, label, pipe)
    (other,) = run_loop(spec, label, pipeline_of(spec, label))
    assert torch.equal(one, other)
    assert not torch.equal(one, run_loop(spec, label, pipe, seed=1)[0])
    assert not torch.equal(one, run_loop(spec, label, pipe, num_inference_steps=2)[0])
    weights = [next(model.parameters()) for model in (pipe.transformer, pipe.transformer_2)]
    assert not torch.equal(*weights)


def test_an_unknown_pipeline_is_named_with_the_nearest() -> None:
    """Labels are the keys of the proof."""
    spec = registry.resolve("WanTransformer3DModel", None)
    with pytest.raises(SpecError, match="did you mean 'WanPipeline'"):
        pipeline_of(spec, "WanPipelin")
