"""What is run to measure: a pipeline, the inputs it gets, and the noise they start from."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from autocache.errors import ParameterError
from autocache.strategy.auto import Auto
from autocache.targets import denoisers, uncompiled
from autocache.tuning.compute import Compute

if TYPE_CHECKING:
    from torch import nn

Input = str | Mapping[str, Any]
"""A prompt, or the arguments of one call of the pipeline."""


@dataclass(frozen=True)
class Drawn:
    """What one run over all inputs gave."""

    samples: list[np.ndarray]
    """One for each input: a picture or clip with values in [0, 1], or a latent."""
    seconds: float
    compute: int | None
    """Multiplications of the denoisers' matrix products, convolutions and attention, two for each;
    None where they were not counted."""


class Workload:
    """A pipeline and its inputs; every run starts from the same noise.

    Args:
        pipe: a diffusers pipeline, patched or not.
        inputs: prompts, or for each call the mapping of its arguments.
        call: arguments that go with every call (height, guidance_scale, num_inference_steps).
        seed: of the first input's noise; the others count on from it.
        batch: prompts drawn in one call; an input that is a mapping is a call by itself.

    Raises:
        ParameterError: there are no inputs.
    """

    def __init__(
        self,
        pipe: Any,
        inputs: Sequence[Input],
        *,
        call: Mapping[str, Any] | None = None,
        seed: int = 0,
        batch: int = 8,
    ) -> None:
        if isinstance(inputs, (str, Mapping)) or not inputs:
            raise ParameterError("inputs: expected a list of prompts or of mappings, not empty")
        self.pipe = pipe
        self.inputs = list(inputs)
        self.call = dict(call or {})
        self.seed = seed
        self.batch = batch

    @property
    def denoisers(self) -> list[nn.Module]:
        """The models in it that a strategy may act on."""
        return [uncompiled(model) for model in denoisers(self.pipe, None, Auto.create())]

    def among(self, first: int, end: int) -> Workload:
        """The same of some of the inputs, each from the noise it has here."""
        part = Workload(
            self.pipe, self.inputs[first:end], call=self.call, seed=self.seed + first, batch=1
        )
        part.batch = self.batch
        return part

    def run(self, *, pictures: bool = True, count: bool = False, **arguments: Any) -> Drawn:
        """Draw every input: pictures, or with `pictures=False` latents, which spares the decoder.

        `count` has the compute counted, which takes time of its own. Further arguments replace
        those of the calls.
        """
        counter = Compute(self.denoisers) if count else None
        began = time.perf_counter()
        with counter or contextlib.nullcontext():
            drawn = [self.draw(call, pictures=pictures, **arguments) for call in self.calls()]
        seconds = time.perf_counter() - began
        samples = [one for call in drawn for one in call]
        return Drawn(samples, seconds, counter.spent if counter else None)

    def calls(self) -> Iterator[dict[str, Any]]:
        """The arguments of each call of the pipeline, its noise among them."""
        pending: list[tuple[int, str]] = []
        for seed, given in enumerate(self.inputs, self.seed):
            if isinstance(given, str):
                pending.append((seed, given))
                if len(pending) == self.batch:
                    yield self._prompts(pending)
                    pending = []
                continue
            if pending:
                yield self._prompts(pending)
                pending = []
            yield {**self.call, **given, "generator": _noise(seed)}
        if pending:
            yield self._prompts(pending)

    def _prompts(self, chosen: Sequence[tuple[int, str]]) -> dict[str, Any]:
        noise = [_noise(seed) for seed, _ in chosen]
        return {**self.call, "prompt": [text for _, text in chosen], "generator": noise}

    def draw(
        self, call: Mapping[str, Any], *, pictures: bool = True, **arguments: Any
    ) -> list[np.ndarray]:
        """What one of the calls draws, an array for each input."""
        kind = "np" if pictures else "latent"
        returned = self.pipe(**{**call, "output_type": kind, **arguments, "return_dict": False})
        return [_array(one) for one in returned[0]]


def _noise(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _array(sample: Any) -> np.ndarray:
    if isinstance(sample, torch.Tensor):
        sample = sample.detach().float().cpu().numpy()
    return np.asarray(sample, dtype=np.float32)
