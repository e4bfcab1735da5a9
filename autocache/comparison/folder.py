"""Where a comparison is kept, so that one that was interrupted goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autocache.errors import ParameterError

if TYPE_CHECKING:
    import numpy as np

QUESTION = "question.json"


class Folder:
    """What has been measured so far, in files that are either whole or not there.

    Raises:
        ParameterError: the folder cannot be written to, holds something else, or holds the answer
            to another question.
    """

    def __init__(self, path: Path, question: Mapping[str, Any]) -> None:
        self.path = path
        asked = json.loads(json.dumps(question))
        with _said(path):
            (path / "runs").mkdir(parents=True, exist_ok=True)
            file = path / QUESTION
            before = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
        if before is None:
            self._write(file, json.dumps(asked, indent=1).encode())
        elif changed := _changed(before, asked):
            raise ParameterError(
                f"{path} holds a comparison with {'; '.join(changed)}; figures of the two cannot "
                "be mixed: name another folder (--out), or remove this one"
            )

    def read(self, key: str) -> dict[str, Any]:
        """What is known of a run; empty where it has not been made."""
        file = self.path / "runs" / f"{key}.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}

    def write(self, key: str, known: Mapping[str, Any]) -> None:
        """Keep what is known of a run."""
        self._write(self.path / "runs" / f"{key}.json", json.dumps(known, indent=1).encode())

    def read_samples(self, key: str) -> list[np.ndarray]:
        """What a run drew."""
        import numpy as np

        with np.load(self.path / "runs" / f"{key}.npz") as kept:
            return [kept[f"arr_{place}"] for place in range(len(kept.files))]

    def write_samples(self, key: str, samples: Sequence[np.ndarray]) -> None:
        """Keep what a run drew, as raw floats."""
        import io

        import numpy as np

        buffer = io.BytesIO()
        np.savez(buffer, *samples)
        self._write(self.path / "runs" / f"{key}.npz", buffer.getvalue())

    def _write(self, file: Path, content: bytes) -> None:
        with _said(self.path):
            part = file.with_name(f"{file.name}.part")
            part.write_bytes(content)
            part.replace(file)


@contextmanager
def _said(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise ParameterError(f"{path}: cannot keep the comparison there: {error}") from error


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs, in words."""
    return [
        f"{name}={_short(before.get(name))} and not {_short(now.get(name))}"
        for name in {**before, **now}
        if before.get(name) != now.get(name)
    ]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:76]} ..."
