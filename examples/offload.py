"""Weights that lie on the disk until a block needs them: blocks that are skipped are not read.

    python examples/offload.py

diffusers brings the blocks of the denoiser one by one, to the accelerator or, where there is none,
into memory. What autocache itself holds is kept to a limit besides.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxPipeline
from diffusers.hooks.group_offloading import ModuleGroup

import autocache
from autocache.demo.prompts import held_out


def draw(pipe: Any) -> float:
    """Seconds of four pictures."""
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


def counted() -> list[str]:
    """A list that grows by one with each group of weights that diffusers brings."""
    brought: list[str] = []
    bring = ModuleGroup.onload_

    def noted(group: Any) -> None:
        brought.append(group.group_id)
        bring(group)

    ModuleGroup.onload_ = noted
    return brought


def main() -> None:
    here = torch.accelerator.current_accelerator() or torch.device("cpu")
    pipe = FluxPipeline.from_pretrained(autocache.demo.path()).to(here)
    pipe.set_progress_bar_config(disable=True)
    brought = counted()
    with tempfile.TemporaryDirectory() as folder:
        pipe.transformer.enable_group_offload(
            onload_device=here,
            offload_type="block_level",
            num_blocks_per_group=1,
            offload_to_disk_path=str(Path(folder) / "weights"),
        )
        draw(pipe)  # The first pictures pay for what is set up once.
        brought.clear()
        without, all_of_them = draw(pipe), len(brought)

        patch = autocache.patch(pipe, "dit_block", step_interval=2, memory_limit="64MiB")

        brought.clear()
        seconds = draw(pipe)
    print(patch.stats())
    print(f"weights brought {len(brought)} times instead of {all_of_them}")
    print(f"{without / seconds:.2f} times as fast")


if __name__ == "__main__":
    main()
