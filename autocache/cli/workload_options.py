"""How a command is told which pipeline to run, on what, and how it is called."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autocache import device
from autocache.errors import ParameterError, nearest

if TYPE_CHECKING:
    from autocache.tuning.workload import Input, Workload

DTYPES = ("float32", "bfloat16", "float16")


MODEL = "directory of a diffusers pipeline, or its id on the hub"


def add_workload(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that `workload` reads."""
    parser.add_argument("model", metavar="MODEL", help=MODEL)
    add_options(parser)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Those of them that are options."""
    parser.add_argument(
        "--pipeline", metavar="CLASS", help="a pipeline class of diffusers, if not the model's own"
    )
    parser.add_argument(
        "--prompt", action="append", default=[], metavar="TEXT", help="repeat for several"
    )
    parser.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help="a prompt in each line, or as .yaml or .json a list of prompts or of mappings, each "
        "the arguments of one call",
    )
    parser.add_argument(
        "--steps", type=positive, metavar="N", help="denoising steps (default: the pipeline's)"
    )
    parser.add_argument(
        "--call",
        action="append",
        default=[],
        type=_argument,
        metavar="KEY=VALUE",
        help="an argument of every call, as YAML: --call guidance_scale=4; repeat for several",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the first input's noise")
    parser.add_argument(
        "--batch",
        type=positive,
        default=8,
        metavar="N",
        help="prompts in one call (default: %(default)s)",
    )
    parser.add_argument(
        "--dtype", choices=DTYPES, default="float32", help="of the weights (default: float32)"
    )
    parser.add_argument(
        "--device", metavar="DEVICE", help="default: the accelerator, or the cpu if there is none"
    )


def workload(options: argparse.Namespace) -> Workload:
    """The pipeline, loaded, and what it is to be run on.

    Raises:
        ParameterError: there are no inputs, a file cannot be read, or the pipeline not be loaded.
    """
    given = inputs(options)
    call = dict(options.call)
    if options.steps is not None:
        call["num_inference_steps"] = options.steps
    from autocache.tuning.workload import Workload

    pipe = _load(options)
    return Workload(pipe, given, call=call, seed=options.seed, batch=options.batch)


def inputs(options: argparse.Namespace) -> list[Input]:
    """The prompts of the command line, then those of the file."""
    found = [*options.prompt, *(read_inputs(options.prompts) if options.prompts else ())]
    if not found:
        raise ParameterError("nothing to draw: give --prompt TEXT or --prompts FILE")
    return found


def read_inputs(file: Path) -> list[Input]:
    """The prompts, or mappings of arguments, in a file.

    Raises:
        ParameterError: it cannot be read, or does not hold such.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ParameterError(f"{file}: cannot read the prompts: {error}") from None
    if file.suffix in (".yaml", ".yml", ".json"):
        return _listed(file, text)
    return [line.strip() for line in text.splitlines() if line.strip()]


def _listed(file: Path, text: str) -> list[Input]:
    import yaml

    try:
        listed = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or getattr(error, "reason", error)
        line = mark.line + 1 if mark else 1
        raise ParameterError(f"{file}:{line}: not valid YAML: {reason}") from None
    if not isinstance(listed, list):
        raise ParameterError(f"{file}: expected a list of prompts or of mappings")
    for place, item in enumerate(listed):
        named = isinstance(item, dict) and all(isinstance(key, str) for key in item)
        if not isinstance(item, str) and not named:
            raise ParameterError(
                f"{file}: item {place} is {item!r}; expected a prompt or a mapping of arguments"
            )
    return listed


def _argument(text: str) -> tuple[str, Any]:
    import yaml

    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise argparse.ArgumentTypeError(f"expected KEY=VALUE, got {text!r}")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError:
        raise argparse.ArgumentTypeError(f"the value of {text!r} is not valid YAML") from None


def positive(text: str) -> int:
    """A number of 1 or more, as `argparse` takes its types."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of 1 or more, got {text!r}")
    return int(text)


def _load(options: argparse.Namespace) -> Any:
    import torch

    cls = _class(options.pipeline)
    where = device.require(options.device or device.default())
    try:
        with warnings.catch_warnings():
            # Newer releases of diffusers have another name for it, which older ones do not know.
            warnings.filterwarnings("ignore", ".*torch_dtype", FutureWarning)
            pipe = cls.from_pretrained(options.model, torch_dtype=getattr(torch, options.dtype))
        pipe = pipe.to(where)
    except (OSError, ValueError, RuntimeError, AttributeError) as error:
        there = Path(options.model).exists()
        place = "" if there else "there is no such directory here, and as an id on the hub: "
        raise ParameterError(f"cannot load the pipeline {options.model}: {place}{error}") from error
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _class(name: str | None) -> Any:
    import diffusers

    if name is None:
        return diffusers.DiffusionPipeline
    found = getattr(diffusers, name, None)
    if found is None or not hasattr(found, "from_pretrained"):
        known = [each for each in dir(diffusers) if each.endswith("Pipeline")]
        near = nearest(name, known) if name else ""
        raise ParameterError(f"--pipeline: diffusers has no pipeline {name!r}{near}")
    return found
