"""Inputs of a forward, found by running it and reading what it complains about."""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from autocache.authoring.notation import value
from autocache.spec.schema import LATENT_NAMES

TRIES = 40
"""Forwards for each form that the latent may have."""

TOKENS, TEXT = 16, 6
_ODD = (37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97)
"""Sizes no model has, by which an error message tells what it is about."""

Inputs = dict[str, Any]

_SWITCH = re.compile(r"return_dict|kwargs|cache|controlnet|control|skip|enable|_output|residual")
_SIZES = {"height": 4, "width": 4, "num_frames": 1, "frame_rate": 25, "fps": 25}


def guessed(model: nn.Module) -> Inputs | None:
    """Arguments with which forward runs, in the notation of a proof; None when none were found."""
    parameters = {
        name: parameter
        for name, parameter in inspect.signature(model.forward).parameters.items()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }
    for latent in _latents(model, list(parameters)):
        found = _Search(model, parameters, latent).run()
        if found is not None:
            return found
    return None


def _latents(model: nn.Module, names: list[str]) -> Iterator[tuple[str, list[int]]]:
    """The latent argument, and the shapes it may have, the likeliest first."""
    name = next((n for n in LATENT_NAMES if n in names), names[0] if names else "")
    config = getattr(model, "config", None)
    channels = config.get("in_channels") if isinstance(config, Mapping) else None
    c = channels if isinstance(channels, int) else 4
    image, video, frames = [1, c, 8, 8], [1, c, 2, 8, 8], [1, 2, c, 8, 8]
    tokens, sound, last = [1, TOKENS, c], [1, c, TOKENS], [1, 2, 8, 8, c]
    packed = any(n in names for n in ("img_ids", "img_shapes", "num_frames", "position_ids"))
    if packed:
        order = [tokens, image, video]
    elif "3D" in type(model).__name__:
        order = [video, frames, last, image, tokens]
    else:
        order = [image, tokens, sound, video, frames]
    for shape in order:
        yield name, shape


class _Search:
    def __init__(
        self,
        model: nn.Module,
        parameters: Mapping[str, inspect.Parameter],
        latent: tuple[str, list[int]],
    ) -> None:
        self.model = model
        self.parameters = parameters
        self.odd = iter(_ODD)
        self.axes = _axes(model)
        self.latent, shape = latent
        self.given: Inputs = {self.latent: {"shape": shape}}

    def run(self) -> Inputs | None:
        for name, parameter in self.parameters.items():
            needed = parameter.default is parameter.empty
            if name not in self.given and (needed or _USUAL.fullmatch(name)):
                self._add(name)
        seen: set[str] = set()
        for _ in range(TRIES):
            error = self._error()
            if error is None:
                return self.given
            state = repr(self.given)
            if state in seen or not self._repair(error):
                return None
            seen.add(state)
        return None

    def _error(self) -> str | None:
        quiet = io.StringIO()
        try:
            with warnings.catch_warnings(), torch.no_grad(), contextlib.redirect_stderr(quiet):
                warnings.simplefilter("ignore")
                self.model(**value(copy.deepcopy(self.given), key="inputs"))
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return None

    def _add(self, name: str) -> None:
        made = self._made(name, str(self.parameters[name].annotation))
        if made is not None:
            self.given[name] = made

    def _made(self, name: str, annotation: str) -> Any:
        """A first try for an argument, by its name."""
        if name in _SIZES:
            return _SIZES[name]
        for pattern, made in _BY_NAME:
            if re.search(pattern, name):
                return copy.deepcopy(made)
        if re.search(r"time|^t$|sigma", name):
            whole = {"dtype": "int64"} if "LongTensor" in annotation else {}
            return {"shape": [1], **whole, "value": 500}
        if re.search(r"ids$", name) and re.search(r"img|image|txt|text", name):
            return {"shape": [TEXT if name[0] == "t" else TOKENS, self.axes]}
        if re.search(r"pooled|embedding", name):
            return {"shape": [1, next(self.odd, 101)]}
        sequence = re.search(r"hidden_states|embed|text|context|caption|encoder|cond", name)
        if sequence or "Tensor" in annotation:
            return {"shape": [1, TEXT, next(self.odd, 101)]}
        return None

    def _repair(self, error: str) -> bool:
        """Change the inputs as a complaint suggests; False when it suggests nothing."""
        if self._resized(error) or self._retyped(error) or self._reshaped(error):
            return True
        wanted = r"NoneType|(?:must|should|have to|need)\b.*(?:pass|provid|given)|required"
        return bool(re.search(wanted, error)) and self._one_more(error)

    def _resized(self, error: str) -> bool:
        for pattern, wrong, right in _SIZE_ERRORS:
            found = re.search(pattern, error)
            if found and self._resize(int(found[wrong]), int(found[right])):
                return True
        found = re.search(r"tensor a \((\d+)\) must match .*tensor b \((\d+)\)", error)
        if not found:
            return False
        one, two = int(found[1]), int(found[2])
        return self._resize(one, two) or self._resize(two, one) or self._lengthen(two - one)

    def _resize(self, wrong: int, right: int) -> bool:
        """Give an argument the size that is wanted, if it is clear which one is meant."""
        for name, made in self.given.items():
            shape = made.get("shape") if isinstance(made, dict) else None
            if shape and wrong in shape[1:] and (wrong in _ODD or name == self.latent):
                shape[shape.index(wrong, 1) if name == self.latent else shape.index(wrong)] = right
                return True
        return False

    def _lengthen(self, by: int) -> bool:
        """Make the text as long as the model's own length of it."""
        changed = False
        for made in self.given.values():
            shape = made.get("shape") if isinstance(made, dict) else None
            if by > 0 and shape and len(shape) in (2, 3) and shape[1] == TEXT:
                shape[1] += by
                changed = True
        return changed

    def _retyped(self, error: str) -> bool:
        """Whole numbers in place of real ones, or the reverse."""
        if re.search(r"scalar types?: Long|expected.*Long|indices must be|index tensors?", error):
            return self._change(r"ids|label|token|time|index", {"dtype": "int64", "value": 1}, ())
        if re.search(r"same dtype, but got (?:Long|long)", error):
            return self._change(r"time|^t$", {}, ("dtype",))
        if re.search(r"same dtype, but got [bB]ool|Subtraction.*bool|Negation.*bool", error):
            return self._change(r"mask", {"dtype": "int64", "value": 1}, ())
        return False

    def _change(self, pattern: str, items: dict[str, Any], dropped: tuple[str, ...]) -> bool:
        for name, made in self.given.items():
            if name == self.latent or not isinstance(made, dict) or not re.search(pattern, name):
                continue
            changed = {k: v for k, v in {**made, **items}.items() if k not in dropped}
            if "shape" in made and changed != made:
                self.given[name] = changed
                return True
        return False

    def _reshaped(self, error: str) -> bool:
        """The other forms that arguments of a few names may have."""
        shapes = self.given.get("img_shapes")
        if shapes == [[1, 4, 4]] and re.search(r"int.* (?:iterable|object)", error):
            self.given["img_shapes"] = [[[1, 4, 4]]]
            return True
        extra = self.given.get("added_cond_kwargs")
        if extra == _CONDITIONS and "NoneType" in error:
            self.given["added_cond_kwargs"] = {
                "resolution": {"shape": [1, 2], "value": 64},
                "aspect_ratio": {"shape": [1, 1], "value": 1},
            }
            return True
        return False

    def _one_more(self, error: str) -> bool:
        """One more optional argument that changes the complaint, one it names if there is any."""
        open_ones = [n for n in self.parameters if n not in self.given and not _SWITCH.search(n)]
        open_ones.sort(key=lambda name: name not in error)
        for name in open_ones:
            self._add(name)
            if name in self.given:
                if self._error() != error:
                    return True
                del self.given[name]
        return False


def _axes(model: nn.Module) -> int:
    """How many numbers tell the position of a token."""
    config = getattr(model, "config", None)
    items = config.items() if isinstance(config, Mapping) else ()
    sizes = [len(v) for n, v in items if "axes" in n and isinstance(v, list | tuple)]
    return sizes[0] if sizes else 3


_CONDITIONS = {"resolution": None, "aspect_ratio": None}
_BY_NAME: tuple[tuple[str, Any], ...] = (
    (r"mask", {"shape": [1, TEXT], "dtype": "bool", "value": True}),
    (r"added_time_ids", {"shape": [1, 3]}),
    (r"^guidance$", {"shape": [1], "value": 3.5}),
    (r"^img_shapes$", [[1, 4, 4]]),
    (r"label", {"shape": [1], "dtype": "int64", "value": 1}),
    (r"^added_cond_kwargs$", _CONDITIONS),
    (r"original_size|target_size|crop", {"shape": [1, 2], "dtype": "int64", "value": 64}),
)
"""First tries for arguments of these names."""

_SIZE_ERRORS = (
    (r"cannot be multiplied \(\d+x(\d+) and (\d+)x\d+\)", 1, 2),
    (r"normalized_shape=\[(\d+)\].*size\[(?:\d+, )*(\d+)\]", 2, 1),
    (r"to have (\d+) channels, but got (\d+) channels", 2, 1),
    (r"reduction dim, but got \[\d+, (\d+)\] X \[(\d+), \d+\]", 1, 2),
    (r"Expected size (\d+) but got size (\d+)", 2, 1),
)
"""What torch says of a size, and which number of it is the wrong one and which the right."""


_USUAL = re.compile(
    r"timesteps?|t|(?:encoder_)?hidden_states|pooled_projections|img_ids|txt_ids|img_shapes"
    r"|height|width|num_frames|encoder_hidden_states_mask|added_cond_kwargs"
)
"""Arguments that all pipelines give, though they have defaults."""
