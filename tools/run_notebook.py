"""Executes a notebook in a fresh kernel and keeps what it shows, for `examples/tour.ipynb`.

    python tools/run_notebook.py examples/tour.ipynb

The file is its own source: edit its cells, then run this. What changes from run to run without
saying anything, such as the times of execution, is not kept.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

STREAMS_LEFT_OUT = ("stderr",)
"""Warnings of the libraries below name the folders of the machine at hand."""


def execute(path: Path, timeout: int = 300) -> Any:
    """The notebook with its outputs, run in its own folder.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed; its traceback is the message.
    """
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    folder = {"metadata": {"path": str(path.parent)}}
    client = NotebookClient(
        notebook, timeout=timeout, kernel_name="python3", resources=folder, coalesce_streams=True
    )
    client.execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("name") not in STREAMS_LEFT_OUT]
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook


def main() -> None:
    """Execute in place."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("notebook", type=Path)
    path: Path = parser.parse_args().notebook.resolve()
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    nbformat.write(execute(path), path)
    print(f"{path.name}: {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
