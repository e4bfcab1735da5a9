"""Whether a live model, and each generation with it, is what a profile was made for."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from autocache.errors import ProfileMismatchError
from autocache.tuning.made_for import MadeFor, ModelFacts, SchedulerFacts, scale_of, versions

if TYPE_CHECKING:
    from torch import nn

    from autocache.runtime.moment import Call
    from autocache.runtime.session import Session
    from autocache.runtime.track import Track
    from autocache.strategy.composition import Composition
    from autocache.strategy.recipe import Recipe, Strategy

logger = logging.getLogger("autocache")

SAME_TIME = 1e-3
"""Timesteps that differ by no more than this share of the first are the same."""

Difference = tuple[str, str]
"""What differs, in a word, and how, in a sentence."""


class Expectations:
    """What a profile was made for, held against what it is used on; differences go to the log.

    One object serves all denoisers of a patch, so that each kind of difference is told once. What
    was fitted to a model is refused on another; in a generation unlike those that it was made for,
    `Call.unlike` tells the strategy, which goes on without what was fitted.
    """

    def __init__(self, made_for: MadeFor, name: str, strategy: Strategy | Composition) -> None:
        self.made_for = made_for
        self.name = name
        self._fitted = strategy.fitted_parameters()
        self._told: set[str] = set()

    def admit(self, model: nn.Module) -> None:
        """A model that is to be patched.

        Raises:
            ProfileMismatchError: the profile is for another class of models, or holds what was
                fitted to one of this class that was built with another configuration.
        """
        known, here = self.made_for.models, ModelFacts.of(model)
        same = [facts for facts in known if _is(model, facts.class_)]
        if known and not same:
            names = " and ".join(dict.fromkeys(facts.class_ for facts in known))
            raise ProfileMismatchError(
                f"{self.name} was made for {names}, and this is a {here.class_}; "
                "find one for this model with autocache.tune, or name a strategy"
            )
        configs = {facts.config for facts in same} - {None}
        if configs and here.config is not None and here.config not in configs:
            self._other_config(here, sorted(map(str, configs)))
        self._versions()

    def _other_config(self, here: ModelFacts, configs: list[str]) -> None:
        text = (
            f"it was made for a {here.class_.rpartition(':')[2]} of the configuration "
            f"{' or '.join(configs)}, and this one has {here.config}"
        )
        if self._fitted:
            raise ProfileMismatchError(
                f"{self.name}: {text}; {' and '.join(self._fitted)} were fitted to that model. "
                "Make a profile for this one with autocache.tune"
            )
        self._say("config", text)

    def _versions(self) -> None:
        here = versions()
        other = [
            f"{library} {version} (here {here[library]})"
            for library, version in self.made_for.versions.items()
            if here.get(library, version) != version
        ]
        if other and "versions" not in self._told:
            self._told.add("versions")
            logger.info("%s was made with %s", self.name, ", ".join(other))

    def adapted(self, recipes: tuple[Recipe, ...]) -> tuple[Recipe, ...]:
        """The recipes, their numbers of steps being those of the profile's generations."""
        steps = self.made_for.steps
        if steps is None or any(one.where.arranges for one in recipes):
            # Who chooses the steps itself counts them as it chose.
            return recipes
        return tuple(one.counted_in(steps) for one in recipes)

    def check(self, session: Session, track: Track, call: Call) -> None:
        """A denoiser call begins: look at what a generation's first calls tell.

        Raises:
            ProfileMismatchError: the outputs of the denoiser mean something else here.
        """
        if track.looked == 0:
            track.looked, track.began = 1, call.step
            found = [*self._scheduler(track), *self._latent(call), *self._scale(session)]
            if not any(part.recipe.where.arranges for part in session.parts):
                found += self._steps(track, call)
        elif track.looked == 1 and call.step > track.began:
            # How many calls a step has is known when it is over.
            track.looked = 2
            found = [*self._calls(track), *self._parts(call)]
        else:
            return
        for what, how in found:
            if what != "resolution":
                track.unlike = track.unlike or how
            self._say(what, how)
        call.unlike = track.unlike

    def _scheduler(self, track: Track) -> Iterator[Difference]:
        made, scheduler = self.made_for.scheduler, track.heard()
        if made is None or scheduler is None:
            return
        here = SchedulerFacts.of(scheduler)
        if None not in (made.predicts, here.predicts) and made.predicts != here.predicts:
            raise ProfileMismatchError(
                f"{self.name} was made for a denoiser that predicts {made.predicts}, and the "
                f"{here.class_} takes its output for {here.predicts}: it is another model, for "
                "which autocache.tune makes a profile"
            )
        if made.class_ != here.class_:
            yield "scheduler", f"the scheduler is {here.class_}, not {made.class_}"
        elif None not in (made.config, here.config) and made.config != here.config:
            yield "scheduler", f"the {here.class_} is configured in another way"

    def _steps(self, track: Track, call: Call) -> Iterator[Difference]:
        made = self.made_for
        if made.steps is None:
            return
        if call.total is None:
            yield "length", f"it is not announced whether the generation has {made.steps} steps"
        elif call.total != made.steps:
            yield "steps", f"the generation has {call.total} steps, not {made.steps}"
        elif made.times and track.heard() is not None and not _close(made.times, call):
            yield "times", "the steps are at other timesteps"

    def _latent(self, call: Call) -> Iterator[Difference]:
        here, made = latents_of(call), self.made_for.latents
        if made and any(shape not in made for shape in here):
            shown = ", ".join(map(_shape, here))
            yield "resolution", f"the latent is {shown}, not {' or '.join(map(_shape, made))}"

    def _scale(self, session: Session) -> Iterator[Difference]:
        made = self.made_for.guidance
        here = scale_of(session.pipelines)
        if made is not None and None not in (made.scale, here) and made.scale != here:
            yield "scale", f"the guidance scale is {here:g}, not {made.scale:g}"

    def _calls(self, track: Track) -> Iterator[Difference]:
        made, here = self.made_for.guidance, len(track.branches)
        if made is not None and made.calls is not None and made.calls != here:
            yield "calls", f"a step has {_count(here, 'denoiser call')}, not {made.calls}"

    def _parts(self, call: Call) -> Iterator[Difference]:
        made, here = self.made_for.guidance, parts_of(call)
        if made is not None and None not in (made.parts, here) and made.parts != here:
            yield "parts", f"a batch has {_count(here or 0, 'guidance branch')}, not {made.parts}"

    def _say(self, what: str, how: str) -> None:
        if what not in self._told:
            self._told.add(what)
            logger.warning("%s: %s; %s", self.name, how, _CONSEQUENCE.get(what, _ELSEWHERE))


_ELSEWHERE = "what was measured of the profile need not hold here"
_CONSEQUENCE = {
    "config": "nothing in it was fitted to that model, so it goes on",
    "steps": f"numbers of steps in it mean the same share of these, and {_ELSEWHERE}",
}


def latents_of(call: Call) -> list[list[int]]:
    """The shapes of a call's latent input, without the batch; of a list, each once."""
    if call.latent is not None:
        return [list(call.latent.shape[1:])]
    shapes = [list(latent.shape) for latent in call.latents]
    return [shape for nth, shape in enumerate(shapes) if shape not in shapes[:nth]]


def parts_of(call: Call) -> int | None:
    """The guidance branches in the batch of a call; None where it cannot be told, as in the first
    step: it is how many times the batch of the scheduler's sample is in it."""
    if call.latent is None or call.sample is None or not len(call.sample):
        return None
    parts, rest = divmod(len(call.latent), len(call.sample))
    return None if rest else parts


def _close(times: list[float], call: Call) -> bool:
    near = SAME_TIME * abs(times[0])
    try:
        return all(abs(call.time_of(n) - time) <= near for n, time in enumerate(times))
    except LookupError:
        return False


def _is(model: Any, name: str) -> bool:
    """Whether a model is of a class, or of one made from it as FSDP does, wherever in its package
    the class is by now."""
    package, _, kind = name.partition(":")
    root = package.partition(".")[0]
    return any(
        base.__qualname__ == kind and base.__module__.partition(".")[0] == root
        for base in type(model).__mro__
    )


def _shape(shape: list[int]) -> str:
    return "x".join(map(str, shape))


def _count(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 'es' if what.endswith('ch') else 's'}"
