"""From MindIE-SD's CacheAgent, and a model edited for it, to one call.

    pip download --no-deps mindiesd
    python examples/migrating/from_mindie_sd.py --wheel mindiesd-*.whl

Both draw the same picture from the same steps. MindIE-SD runs on Ascend; its cache is plain Python,
which is read out of the wheel here, without the rest.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
import types
from pathlib import Path
from typing import Any

from bundled import STEPS, Drawing, draw, load, report, watched
from torch import nn

import autocache

PACKAGES = ("mindiesd", "mindiesd.utils", "mindiesd.utils.logs", "mindiesd.utils.logs.logging")
SCHEDULE: dict[str, Any] = {"step_start": 6, "step_interval": 2}
BLOCKS = {"transformer_blocks": (1, 4), "single_transformer_blocks": (0, 7)}


def wheel() -> Path:
    """The file that was named, or the one that `make test` downloaded."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--wheel", type=Path, help="the file that pip downloaded")
    given = parser.parse_args().wheel
    found = [given] if given else sorted((Path(sys.prefix) / "peers").glob("mindiesd-*.whl"))
    if not found or not found[-1].is_file():
        remedy = "pip download --no-deps mindiesd, then --wheel FILE"
        print(f"this example reads MindIE-SD's wheel: {remedy}", file=sys.stderr)
        sys.exit(2)
    return found[-1]


def cache_agent(file: Path) -> Any:
    """`mindiesd.cache_agent`, its package standing in without what needs Ascend's runtime."""
    for name in PACKAGES:
        package: Any = types.ModuleType(name)
        package.__path__ = [str(file / name.replace(".", "/"))]
        # Its own logging writes files below the home directory.
        package.logger = logging.getLogger("mindiesd")
        sys.modules[name] = package
    return importlib.import_module("mindiesd.cache_agent")


class Cached(nn.Module):
    """A block that is called through an agent, which takes the latent stream to come first."""

    def __init__(self, block: nn.Module, agent: Any) -> None:
        super().__init__()
        self.block, self.agent = block, agent

    def forward(self, **given: Any) -> Any:
        return self.agent.apply(lambda *a, **kw: self.block(*a, **kw)[::-1], **given)[::-1]


def by_agent(agents: Any) -> Drawing:
    """The picture with an agent for each list of blocks, put into the model by hand."""
    pipe = load()
    module = watched(pipe)
    # before
    for path, (start, end) in BLOCKS.items():
        stack = pipe.transformer.get_submodule(path)
        config = agents.CacheConfig(
            method="dit_block_cache",
            blocks_count=len(stack),
            steps_count=STEPS,
            block_start=start,
            block_end=end,
            **SCHEDULE,
        )
        agent = agents.CacheAgent(config)
        for index, block in enumerate(stack):
            stack[index] = Cached(block, agent)
    return draw(pipe, module)


def by_patch() -> Drawing:
    """The picture with autocache."""
    pipe = load()
    # after
    autocache.patch(pipe, "dit_block", blocks=BLOCKS, **SCHEDULE)
    return draw(pipe, watched(pipe))


def main() -> None:
    """Draw with both and compare."""
    report("CacheAgent", by_agent(cache_agent(wheel())), by_patch())


if __name__ == "__main__":
    main()
