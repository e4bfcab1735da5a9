"""Text to image with diffusers and nothing else: one picture per line of a prompt file.

    python examples/infer.py
    AUTOCACHE=auto:speedup=2 python examples/infer.py

Writes the pictures as PNG, the raw floats as `images.npy` and the seconds of the generation alone
(models loaded, one step run beforehand) as `timing.json`.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import FluxPipeline
from PIL import Image

HERE = Path(__file__).resolve().parent
MODEL = HERE / "models" / "shapes"
TEXT_LENGTH = 24
SIDE = 64


def generate(
    pipe: FluxPipeline, prompts: list[str], steps: int, guidance: float, seeds: list[int]
) -> np.ndarray:
    """Pictures as floats in [0, 1], (len(prompts), height, width, 3).

    The start noise of a picture comes from its own seed, so batching changes no picture's seed.
    """
    return pipe(
        prompt=prompts,
        negative_prompt=[""] * len(prompts) if guidance > 1 else None,
        true_cfg_scale=guidance,
        num_inference_steps=steps,
        height=SIDE,
        width=SIDE,
        max_sequence_length=TEXT_LENGTH,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        output_type="np",
    ).images


def main() -> None:
    """Load the pipeline, draw every prompt, write pictures and timing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=MODEL, help="folder of a diffusers FluxPipeline")
    parser.add_argument(
        "--prompts", type=Path, default=HERE / "prompts.txt", help="text file, one prompt a line"
    )
    parser.add_argument("--out", type=Path, default=Path("build/examples/infer"))
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--seed", type=int, default=0, help="of the first picture; then counted up")
    parser.add_argument("--guidance", type=float, default=1.0, help="above 1 adds a negative pass")
    parser.add_argument("--batch", type=int, default=0, help="prompts at once; 0 for all")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()

    prompts = [line.strip() for line in options.prompts.read_text().splitlines() if line.strip()]
    if not prompts:
        parser.error(f"no prompts in {options.prompts}")
    batch = options.batch or len(prompts)
    pipe = FluxPipeline.from_pretrained(options.model).to(options.device)

    pipe.set_progress_bar_config(disable=True)
    generate(pipe, prompts[:batch], 1, options.guidance, [options.seed] * len(prompts[:batch]))
    pipe.set_progress_bar_config(disable=False)

    seconds, pictures = 0.0, []
    for start in range(0, len(prompts), batch):
        chunk = prompts[start : start + batch]
        seeds = [options.seed + start + row for row in range(len(chunk))]
        began = time.perf_counter()
        pictures.append(generate(pipe, chunk, options.steps, options.guidance, seeds))
        seconds += time.perf_counter() - began
    images = np.concatenate(pictures).astype(np.float32)

    options.out.mkdir(parents=True, exist_ok=True)
    np.save(options.out / "images.npy", images)
    for row, image in enumerate(images):
        Image.fromarray((image * 255).round().astype(np.uint8)).save(options.out / f"{row:03d}.png")
    timing = {
        "seconds": seconds,
        "pictures": len(prompts),
        "steps": options.steps,
        "batch": batch,
        "threads": torch.get_num_threads(),
    }
    (options.out / "timing.json").write_text(json.dumps(timing, indent=2) + "\n")
    print(f"{len(prompts)} pictures in {seconds:.2f} s, written to {options.out}")


if __name__ == "__main__":
    main()
