"""torch.compile and caching together: skipped blocks are not called, and no graph is broken.

    python examples/compile.py

torch's own compiler, inductor, wants a C++ compiler on the CPU; where there is none the blocks are
traced and run as they are (`--backend aot_eager`), which shows that it works and saves no time.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from typing import Any

import torch
from diffusers import FluxPipeline
from torch._dynamo.utils import counters

import autocache
from autocache.demo.prompts import held_out


def backend() -> str:
    """What compiles here."""
    compilers = (os.environ.get("CXX", "c++"), "g++", "clang++")
    return "inductor" if any(map(shutil.which, compilers)) else "aot_eager"


def seconds(pipe: Any) -> float:
    """Of four pictures at once."""
    began = time.perf_counter()
    pipe(
        held_out(4),
        num_inference_steps=28,
        height=64,
        width=64,
        max_sequence_length=24,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    )
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backend", default=backend(), help="of torch.compile")
    options = parser.parse_args()
    pipe = FluxPipeline.from_pretrained(autocache.demo.path())
    pipe.set_progress_bar_config(disable=True)
    seconds(pipe)  # The first pictures pay for what is set up once.
    plain = seconds(pipe)

    pipe.transformer.compile_repeated_blocks(fullgraph=True, backend=options.backend)
    print(f"compiling with {options.backend}: {seconds(pipe):.1f} s with the first pictures")
    compiled, graphs = seconds(pipe), counters["stats"]["unique_graphs"]

    patch = autocache.patch(pipe, "auto", speedup=2)
    both = seconds(pipe)
    more = counters["stats"]["unique_graphs"] - graphs
    print(f"{patch.stats().denoiser} denoiser calls run, {more} graphs more than without the patch")
    print(f"compiled {plain / compiled:.2f}, compiled and cached {plain / both:.2f} times as fast")


if __name__ == "__main__":
    main()
