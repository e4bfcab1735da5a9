"""The code blocks of README and docs, and which of them a test of their own runs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from scripts import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^( *)```(.*)\n((?:.*\n)*?)\1```$", re.MULTILINE)

# By the page and the first line of the block: the test that runs what it shows.
ELSEWHERE = {
    # Hours of measurement.
    ("benchmarks.md", "python benchmarks/quality.py"): (
        "benchmarks/test_quality.py::test_the_commands_of_the_page"
    ),
    ("benchmarks.md", "python benchmarks/overhead.py"): (
        "benchmarks/test_overhead.py::test_the_commands_of_the_page"
    ),
    ("benchmarks.md", "python benchmarks/scale.py"): (
        "benchmarks/test_scale.py::test_the_commands_of_the_page"
    ),
    ("benchmarks.md", "python benchmarks/gpu.py"): (
        "benchmarks/test_gpu.py::test_the_commands_of_the_page"
    ),
    ("README.md", "make demo"): "test_readme.py::test_the_two_commands_are_make_targets",
    ("index.md", "git clone"): "activation/test_wheel.py::test_data_travels_with_the_package",
    ("adding_a_model.md", "git clone"): (
        "activation/test_wheel.py::test_data_travels_with_the_package"
    ),
    # It takes processes that know each other.
    ("parallel.md", "group = "): (
        "company/test_parallel.py::test_a_branch_on_each_process_decides_as_both_in_one_batch"
    ),
    # diffusers offloads to the host from an accelerator alone.
    ("offload.md", "pipe = "): "company/test_offload.py::test_three_generations",
    # It serves until it is stopped.
    ("serving.md", "python examples/server.py"): (
        "company/test_server.py::test_concurrent_clients_get_the_pictures_of_serial_runs"
    ),
    # The files it reads are in the text around it, and a model of the reader's own.
    ("adding_a_model.md", "autocache specs draft Ernie"): (
        "test_cli_specs.py::test_a_draft_takes_a_config_and_inputs"
    ),
    # Half a minute of attempts to build a model that cannot be built.
    ("adding_a_model.md", "$ autocache specs draft HiDream"): (
        "authoring/test_draft.py::test_what_cannot_be_run_is_asked_and_not_guessed"
    ),
    # The checks of this repository themselves, tests among them.
    ("adding_a_model.md", "autocache specs validate model_specs"): (
        "authoring/test_validate.py::test_the_bundled_specs_are_valid"
    ),
    ("adding_a_model.md", "AUTOCACHE=dit_block AUTOCACHE_SPECS"): (
        "test_custom_model.py::test_the_script_is_accelerated_by_its_spec_alone"
    ),
    # The measurements on a model that a table can be fitted to.
    ("calibrating.md", "autocache calibrate owner/name"): (
        "test_calibrating_page.py::test_a_command_is_one_that_the_command_line_takes"
    ),
    ("calibrating.md", "$ autocache calibrate"): (
        "tuning/test_calibrate.py::test_a_probe_of_noise_is_refused"
    ),
}


@dataclass(frozen=True)
class Block:
    """A fenced block: the page's name, the line it starts at, its language and its text."""

    page: str
    line: int
    language: str
    text: str

    @property
    def elsewhere(self) -> str | None:
        """The test that runs it, if that of all blocks does not."""
        starts = [(page, head) for page, head in ELSEWHERE if page == self.page]
        found = [ELSEWHERE[key] for key in starts if self.text.startswith(key[1])]
        return found[0] if found else None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """All of a page's blocks, the tool's invisible indentation taken off."""
    text = page.read_text(encoding="utf-8")
    name = "README.md" if page.parent == ROOT else str(page.relative_to(ROOT / "docs"))
    return [
        Block(name, text.count("\n", 0, found.start()) + 2, found[2].strip(), found[3])
        for found in FENCE.finditer(text)
    ]


BLOCKS = [block for page in PAGES for block in blocks(page)]
RUN = [block for block in BLOCKS if block.elsewhere is None]
SCRIPT = """
import autocache, torch
from diffusers import FluxPipeline

pipe = FluxPipeline.from_pretrained(autocache.demo.path("shapes"))
small = {"num_inference_steps": 4, "height": 64, "width": 64, "max_sequence_length": 24}
pipe("a red circle", **small)
"""
"""The `infer.py` that pages speak of."""


def of(*languages: str) -> list[Block]:
    """The blocks in these languages that no other test runs."""
    return [block for block in RUN if block.language in languages]
