"""One picture for each line of a prompt file, spread over as many processes as there are.

    torchrun --nproc-per-node 2 examples/many_prompts.py \\
        --prompts examples/prompts.txt --out build/many_prompts \\
        --call height=64 --call width=64 --call max_sequence_length=24

`python` in place of `torchrun --nproc-per-node 2` draws in one process, and
`accelerate launch --num_processes=4` is right on a machine with four accelerators. `--model` takes
any other diffusers pipeline.

Every process has the pipeline to itself, on a device of its own, and patches it. Each prompt is
drawn alone and from its own seed, so no picture depends on how many processes there are.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from diffusers import DiffusionPipeline

import autocache


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    bundled = autocache.demo.path()
    parser.add_argument("--model", default=bundled, help="folder or name of a diffusers pipeline")
    parser.add_argument("--prompts", type=Path, required=True, help="text file, one prompt a line")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--strategy", default="auto", help="a name or a profile; 'none' for none")
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--seed", type=int, default=0, help="of the first picture; then counted up")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument(
        "--call",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a further argument of the pipeline's call, as in guidance_scale=3.5",
    )
    return parser.parse_args()


def argument(text: str) -> tuple[str, Any]:
    """A name and its value: a number, true, false or null where it reads as one."""
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def main() -> None:
    """Draw this process's share of the prompts."""
    given = options()
    further = dict(map(argument, given.call))
    prompts = [line.strip() for line in given.prompts.read_text().splitlines() if line.strip()]
    given.out.mkdir(parents=True, exist_ok=True)

    # Without an accelerator it would take the process for the only one.
    processes = PartialState(cpu=not torch.accelerator.is_available())
    dtype = getattr(torch, given.dtype)
    pipe: Any = DiffusionPipeline.from_pretrained(given.model, torch_dtype=dtype).to(
        processes.device
    )
    pipe.set_progress_bar_config(disable=not processes.is_main_process)
    if given.strategy != "none":
        autocache.patch(pipe, given.strategy)

    numbered = list(enumerate(prompts))
    with processes.split_between_processes(numbered) as share:
        for number, prompt in share:
            noise = torch.Generator().manual_seed(given.seed + number)
            called = {"num_inference_steps": given.steps, "generator": noise, **further}
            pipe(prompt, **called).images[0].save(given.out / f"{number:04d}.png")

    ran = str(autocache.stats(pipe).blocks) if autocache.is_patched(pipe) else "all"
    every = gather_object([(processes.process_index, len(share), ran)])
    if processes.is_main_process:
        for index, drawn, ran in every:
            print(f"process {index}: {drawn} pictures, {ran} block calls run")
        print(f"{len(prompts)} pictures in {given.out}")
    if processes.num_processes > 1:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
