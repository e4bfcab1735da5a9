"""More than one process: children of a pool, ranks of torchrun."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

Run = Callable[..., "subprocess.CompletedProcess[str]"]

MODEL = """
def build():
    from diffusers import DiTTransformer2DModel
    model = DiTTransformer2DModel(in_channels=4, out_channels=8, num_attention_heads=2,
                                  attention_head_dim=4, num_layers=3, num_embeds_ada_norm=8,
                                  patch_size=2, sample_size=8)
    from autocache import api
    return api.is_patched(model)
"""

SPAWN = (
    MODEL
    + """
if __name__ == "__main__":
    import multiprocessing, sys
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print("patched", pool.apply(build))
    print("torch here", "torch" in sys.modules)
"""
)

RANK = (
    MODEL
    + """
import os
# At once: two ranks share the output.
os.write(1, f"rank {os.environ['RANK']} patched {build()}".encode() + os.linesep.encode())
"""
)


def test_a_spawned_child_patches_its_models(run_python: Run, tmp_path: Path) -> None:
    """The child inherits the variable; the parent, which makes no model, imports no torch."""
    script = tmp_path / "script.py"
    script.write_text(SPAWN)
    done = run_python(script, AUTOCACHE="dit_block:step_interval=2")
    assert done.stdout.splitlines() == ["patched True", "torch here False"]
    assert done.stderr.count(" on DiTTransformer2DModel") == 1


def test_every_rank_patches_and_the_first_speaks(run_python: Run, tmp_path: Path) -> None:
    """Two ranks of torchrun: both patched, one line."""
    script = tmp_path / "script.py"
    script.write_text(RANK)
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    done = run_python(*torchrun, script, AUTOCACHE="dit_block:step_interval=2")
    assert sorted(done.stdout.splitlines()) == ["rank 0 patched True", "rank 1 patched True"]
    assert done.stderr.count(" on DiTTransformer2DModel") == 1
