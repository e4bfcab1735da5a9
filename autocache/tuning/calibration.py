"""What a calibration made: tables, what they are worth, and the YAML that holds them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import autocache
from autocache.authoring.yaml_writer import Noted
from autocache.errors import ParameterError
from autocache.spec.tables import MagCacheTable, TeaCacheTable
from autocache.targets import modules, uncompiled
from autocache.tuning import calibration_file

if TYPE_CHECKING:
    from autocache.spec.schema import Spec
    from autocache.tuning.calibrate_magcache import MagCacheFit
    from autocache.tuning.calibrate_teacache import TeaCacheFit
    from autocache.tuning.recording import Series
    from autocache.tuning.workload import Workload


@dataclass(frozen=True)
class Calibrated:
    """One table for one spec."""

    spec: Spec
    strategy: str
    table: TeaCacheTable | MagCacheTable
    fit: TeaCacheFit | MagCacheFit
    notes: tuple[str, ...] = ()

    @property
    def keys(self) -> dict[str, Any]:
        """The table as it stands in a spec, with the notes as comments."""
        keys = self.table.model_dump(mode="json", exclude_unset=True, exclude_none=True)
        second = list(keys)[1]
        return keys | {second: Noted(keys[second], self.notes)}


@dataclass(frozen=True)
class Calibration:
    """The tables of one run.

    >>> made = autocache.calibrate(pipe, prompts)  # doctest: +SKIP
    >>> autocache.patch(pipe, "teacache", **made.parameters("teacache"))  # doctest: +SKIP
    """

    made: tuple[Calibrated, ...]
    refused: Mapping[str, str] = field(default_factory=dict)
    """Why a table that was asked for is not among them, by strategy and model."""

    @property
    def tables(self) -> tuple[TeaCacheTable | MagCacheTable, ...]:
        """As the spec's lists `teacache` and `magcache` hold them."""
        return tuple(one.table for one in self.made)

    @property
    def report(self) -> str:
        """What each table is worth, line by line."""
        return "\n".join(f"{one.strategy} on {one.spec.name}: {one.fit}" for one in self.made)

    def parameters(self, strategy: str) -> dict[str, Any]:
        """What `autocache.patch(pipe, strategy, ...)` takes to use the table without a spec file.

        Raises:
            ParameterError: no table was made for the strategy, or for several models.
        """
        found = [one.table for one in self.made if one.strategy == strategy]
        if len(found) != 1:
            raise ParameterError(
                f"{len(found)} tables were made for {strategy!r}; expected one"
                + ("; write the specs instead" if found else "")
            )
        table = found[0]
        if isinstance(table, MagCacheTable):
            return {"ratios": {branch: tuple(row) for branch, row in table.ratios.items()}}
        given: dict[str, Any] = {"probe": table.probe, "coefficients": tuple(table.coefficients)}
        given["warmup_steps"] = table.warmup_steps
        return given | ({"threshold": table.thresholds[0]} if table.thresholds else {})

    def to_yaml(self) -> str:
        """The lists to put into specs, by hand or with `write`."""
        parts = []
        for one in self.made:
            parts.append(f"# For the spec of {one.spec.name}.\n")
            parts.append(calibration_file.snippet(one.strategy, one.keys))
        return "".join(parts)

    def write(self, path: str | Path) -> list[Path]:
        """Put the tables into spec files, each first of its list, and leave all else as it is.

        Args:
            path: a directory, or where there is one model its file, `<class>.yaml`. A file that
                does not exist becomes a copy of the spec that the model has now. A table of the
                same id is replaced.

        Returns:
            The files. They take effect with their directory in AUTOCACHE_SPECS, or one of them by
            `autocache.patch(pipe, ..., spec=file)`.

        Raises:
            SpecError: a file is no valid spec, or is not written so that a table can be added.
            ParameterError: the model's spec is in no file, or a file is to hold several.
        """
        texts: dict[Path, str] = {}
        for one in self.made:
            file = self._file(Path(path), one.spec)
            text = texts.get(file) or _text(file if file.exists() else one.spec.file, one.spec)
            texts[file] = calibration_file.inserted(text, file, one.strategy, one.keys)
        for file, text in texts.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        return list(texts)

    def _file(self, path: Path, spec: Spec) -> Path:
        if path.suffix not in (".yaml", ".yml"):
            return path / (spec.file.name if spec.file else f"{spec.name}.yaml")
        if len({one.spec.model for one in self.made}) > 1:
            raise ParameterError(f"{path}: there are tables for several specs; give a directory")
        return path


def _text(file: Path | None, spec: Spec) -> str:
    if file is None:
        raise ParameterError(
            f"the spec of {spec.name} is in no file; write one with autocache specs draft, and put "
            "it into a directory of AUTOCACHE_SPECS"
        )
    return file.read_text(encoding="utf-8-sig")


@dataclass(frozen=True)
class Made:
    """What all tables of one model have in common: which checkpoint, and how it was run."""

    workload: Workload
    identity: Mapping[str, Any]
    warmup_steps: int
    id: str | None

    def teacache(self, spec: Spec, fit: TeaCacheFit, others: Sequence[TeaCacheFit]) -> Calibrated:
        """A table of one polynomial; `others` are those of other probes."""
        table = TeaCacheTable(
            **self._named(),
            probe=fit.probe,
            coefficients=list(fit.coefficients),
            thresholds=list(fit.thresholds),
            valid_for=list(fit.valid_for),
            **({} if fit.held_out_r2 is None else {"r2": round(fit.held_out_r2, 3)}),
            **({} if self.warmup_steps == 1 else {"warmup_steps": self.warmup_steps}),
            **self._run(),
            provenance="calibrated",
            source=self._source(),
        )
        notes = [f"{fit}; {fit.pairs} pairs."]
        if fit.falling > 0 or fit.negative > 0:
            notes.append(
                f"It falls in {fit.falling:.0%} of the range and is negative in {fit.negative:.0%}."
            )
        notes += [f"Not taken: {other}." for other in others]
        return Calibrated(spec, "teacache", table, fit, tuple(notes))

    def magcache(self, spec: Spec, fit: MagCacheFit) -> Calibrated:
        """A table of ratios."""
        scheduler = self._run().get("scheduler")
        table = MagCacheTable(
            **self._named(),
            ratios={branch: list(row) for branch, row in fit.ratios.items()},
            **({} if fit.spread is None else {"spread": float(f"{fit.spread:.3g}")}),
            **({"scheduler": scheduler} if scheduler else {}),
            source=self._source(),
        )
        return Calibrated(spec, "magcache", table, fit, (f"{fit}.",))

    def _named(self) -> dict[str, Any]:
        checkpoint = next(iter(self.identity.get("checkpoints", ())), "own").rpartition("/")[2]
        return {"id": self.id or f"{checkpoint}-calibrated", **self.identity}

    def _run(self) -> dict[str, Any]:
        steps = self.workload.call.get("num_inference_steps")
        scheduler = getattr(self.workload.pipe, "scheduler", None)
        run = {"steps": steps} if isinstance(steps, int) else {}
        return run | ({"scheduler": type(scheduler).__name__} if scheduler is not None else {})

    def _source(self) -> str:
        plain = (int, float, str, bool)
        call = [f"{k}={v}" for k, v in self.workload.call.items() if isinstance(v, plain)]
        given = ", ".join([f"seed {self.workload.seed}", *call])
        count = len(self.workload.inputs)
        return f"autocache {autocache.__version__} calibrate: {count} inputs, {given}"


def identity(pipe: Any, series: Sequence[Series]) -> dict[str, Any]:
    """What tells the checkpoint: its name, or, for a model that was not loaded, its config."""
    model = series[0].model
    config = dict(getattr(model, "config", {}))
    folder = next((name for name, one in modules(pipe) if uncompiled(one) is model), "")
    name = _checkpoint(str(config.get("_name_or_path") or ""), folder)
    if name:
        return {"checkpoints": [name]}
    plain = {k: v for k, v in config.items() if k[:1] != "_" and isinstance(v, (bool, int, str))}
    return {"match": plain}


def _checkpoint(path: str, folder: str) -> str | None:
    """`owner/name` of what is in the hub's cache or is on the hub, or the name of a directory."""
    parts = [part for part in re.split(r"[/\\]", path) if part not in ("", ".")]
    cached = next((part for part in parts if part.startswith("models--")), None)
    if cached is not None:
        return "/".join(cached.split("--")[1:])
    if parts and parts[-1] == folder:
        parts.pop()
    elif re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", path) and not Path(path).exists():
        return path
    return parts[-1] if parts else None
