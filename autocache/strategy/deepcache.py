"""DeepCache: skip the inner part of a UNet and go on from the feature map that came out of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from autocache.how import Reuse
from autocache.strategy.recipe import Recipe, Strategy
from autocache.strategy.tunable import Range, Tunable
from autocache.when import Centred, Interval
from autocache.where import DeepFeatures

if TYPE_CHECKING:
    from autocache.spec.bind import Bound


class DeepCache(Strategy):
    """Skip the inner part of a UNet, and go on from the feature map that last came out of it.

    The first step and every `interval`-th after it are computed in full. The others run the input
    convolution, the outermost layers up to the cut at `branch`, and the output convolution.

    Formula: y[i] = outer(x[i], inner[k]), k the last full step of 0, N, 2N, ...; with
    schedule="centred" of 0 and center + z^power, z being ceil(steps / N) - 1 equidistant numbers.

    Memory: s, the one feature map at the cut, for each guidance branch, however large the UNet.

    Choose it: for UNets, such as Stable Diffusion and SDXL. A diffusion transformer has no levels
    to cut between.

    Source: DeepCache, arXiv 2312.00858. Its code takes the real part of a complex power, as we do;
    `signed_power` follows the paper's text. Where no power gives enough steps we fall back on the
    uniform schedule; upstream raises an error.
    """

    name: ClassVar[str] = "deepcache"
    tunable: ClassVar[Mapping[str, Tunable]] = {
        "interval": Range(2, 8, whole=True, about="speedup"),
        "branch": Range(0, 2, whole=True),
        "warmup_steps": Range(0.0, 0.3, of="steps", usual=0.0),
    }

    interval: int = Field(3, ge=1, description="steps per full one; 1 never skips")
    branch: int = Field(
        0, ge=0, description="layer of the up path to cut at, from its end; 0 is the fastest"
    )
    schedule: Literal["uniform", "centred"] = Field(
        "uniform", description="full steps evenly spaced, or densest around `center`"
    )
    center: int | None = Field(
        None, ge=0, description="step with the densest full ones; None is at 0.3 of all steps"
    )
    power: float = Field(1.4, gt=1, description="how fast full steps thin out around `center`")
    signed_power: bool = Field(False, description="steps before `center` mirror those after it")

    @model_validator(mode="after")
    def _centred_only(self) -> DeepCache:
        given = self.model_fields_set & {"center", "power", "signed_power"}
        if given and self.schedule == "uniform":
            raise ValueError(f"{', '.join(sorted(given))}: only with schedule='centred'")
        return self

    def recipe(self, bound: Bound, config: Mapping[str, Any]) -> Recipe:
        when = Interval(self.interval, start=0)
        if self.schedule == "centred":
            when = Centred(self.interval, self.center, self.power, self.signed_power)
        return Recipe(when=when, where=DeepFeatures(self.branch), how=Reuse())
