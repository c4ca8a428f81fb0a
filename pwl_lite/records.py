"""Records: what a finished run leaves behind."""

import json
import os
import platform
import re
import subprocess
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from . import __version__
from .errors import RecordError, UnknownNameError
from .files import write_atomically
from .hardware import default_device, device_name

SCHEMA = 1
PACKAGE = Path(__file__).resolve().parent


@dataclass
class Record:
    """One finished run, with everything needed to trust it: `<results>/<experiment>/<run>.json`.

    Attributes:
        experiment: the folder in which it lies.
        run: its name there, such as `cifar10-vgg-seed0`.
        profile: which was asked for.
        dataset: which was asked for.
        family: of the networks that were asked for.
        seed: that was asked for.
        objective: what was minimised.
        recipe: how it was minimised.
        teacher: `{"params", "bytes", "macs"}` of the network.
        student: the same of the student; None if it took no part.
        lattice: composition -> accuracy in percent, after the last epoch, on the full test set.
        agreement: composition -> percent of the test images on which it answers as the teacher does.
        costs: composition -> `{"bytes", "macs"}` of what it runs.
        history: one entry per epoch, as `train` returns them.
        weights: name of the folder of shards in `weights/`, beside `results/`; None if none were written.
        environment: as `environment()` gives it.
        seconds: time the run took.
        finished: moment in UTC, such as `2026-11-21T14:00:00Z`.
    """

    experiment: str
    run: str
    profile: str
    dataset: str
    family: str
    seed: int
    objective: dict[str, Any]
    recipe: dict[str, Any]
    teacher: dict[str, Any] | None = None
    student: dict[str, Any] | None = None
    lattice: dict[str, float] = field(default_factory=dict)
    agreement: dict[str, float] = field(default_factory=dict)
    costs: dict[str, dict[str, int]] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    weights: str | None = None
    environment: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    finished: str = field(default_factory=lambda: f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}")
    schema: int = SCHEMA

    def save(self, folder: str | os.PathLike | None = None) -> Path:
        """Write `<folder>/<experiment>/<run>.json`, whole or not at all, and return its path.

        Args:
            folder: by default `data/results`, of the checkout or else of the current folder.

        Raises:
            RecordError: a field holds what a record may not.
            SaveError: the file cannot be written.
        """
        values = {"schema": self.schema, **asdict(self)}
        path = _path(folder or _own_data() / "results", self.experiment, self.run)
        _check(values, f"record {self.experiment}/{self.run}")
        lines = []
        for name, value in values.items():
            try:
                text = json.dumps(value, allow_nan=False, ensure_ascii=False)
                if isinstance(value, list) and value:  # one entry per line, so that diffs are small
                    rows = (json.dumps(v, allow_nan=False, ensure_ascii=False) for v in value)
                    text = "[\n  " + ",\n  ".join(rows) + "\n ]"
            except (TypeError, ValueError) as error:
                raise RecordError(f"record {self.run!r}: {name}: {error}; expected only what JSON holds") from error
            lines.append(f' "{name}": {text}')
        write_atomically(path, "{\n" + ",\n".join(lines) + "\n}\n")
        return path


def load_record(experiment: str, run: str, folder: str | os.PathLike | None = None) -> Record:
    """The record of one run, checked.

    Args:
        folder: holds the experiments; by default the results that come with the package (`find_results`).

    Raises:
        RecordError: there is none of that name (the message lists those that are there), or it is damaged, or
            of an unknown schema.
    """
    record = _load(Path(folder) if folder is not None else find_results(), experiment, run)
    if folder is None:
        _note_read("results", f"{experiment}/{run}")
    return record


def _load(root: Path, experiment: str, run: str) -> Record:
    path = _path(root, experiment, run)
    if not path.is_file():
        raise RecordError(f"no record {run!r} of {experiment!r} in {root}: there are {_listing(root, experiment)}")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RecordError(f"{path}: cannot be read as JSON ({error}); restore it or run the experiment again") from error
    _check(values, str(path))
    if (values["experiment"], values["run"]) != (experiment, run):
        found = f"{values['experiment']}/{values['run']}"
        raise RecordError(f"{path}: is of {found}, expected {experiment}/{run}; a record is never copied or renamed")
    return Record(**values)


def load_records(experiment: str, folder: str | os.PathLike | None = None, **filters: Any) -> list[Record]:
    """All records of an experiment whose fields equal `filters`, by name of the run and by seed; may be none.

    >>> load_records("pwl", dataset="cifar10", family="vgg")  # doctest: +SKIP

    Raises:
        UnknownNameError: a filter is not a field of a record.
        RecordError: there is no such experiment, or one of its records is damaged.
    """
    root = Path(folder) if folder is not None else find_results()
    for name in filters:
        if name not in FIELDS:
            raise UnknownNameError("field of a record", name, FIELDS)
    if not _path(root, experiment, "any").parent.is_dir():
        raise RecordError(f"no experiment {experiment!r} in {root}: there are {_listing(root)}")
    records = [_load(root, experiment, file.stem) for file in sorted((root / experiment).glob("*.json"))]
    records = [r for r in records if all(getattr(r, name) == value for name, value in filters.items())]
    if folder is None:
        for record in records:
            _note_read("results", f"{experiment}/{record.run}")
    return sorted(records, key=lambda r: (re.sub(r"\d+", "", r.run), r.seed))  # seed10 after seed2


def load_measurement(name: str) -> dict[str, Any]:
    """What a script of `benchmarks/` has measured, from `data/benchmarks/<name>.json` of the book.

    Raises:
        RecordError: there is none of that name (the message lists those that are there), or it is damaged.
    """
    folder = data_folder() / "benchmarks"
    known = sorted(path.stem for path in folder.glob("*.json"))
    if name not in known:
        raise RecordError(f"no measurement {name!r} in {folder}: there are {', '.join(known) or 'none at all'}")
    _note_read("benchmarks", name)
    try:
        return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RecordError(f"{folder / name}.json: cannot be read as JSON ({error}); restore it or measure again") from error


def environment(device: str | torch.device | None = None, data_sha256: str | None = None) -> dict[str, Any]:
    """Where a run took place: `{"python", "torch", "device", "threads", "commit", "data_sha256"}`.

    Args:
        device: the one trained on; by default the one that `train` takes by default.
        data_sha256: `Dataset.sha256` of the data.
    """
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": device_name(device or default_device()),
        "threads": torch.get_num_threads(),
        "commit": commit(),
        "data_sha256": data_sha256,
    }


def commit() -> str:
    """The checkout's short commit, with `-dirty` if tracked files differ from it; else the version."""
    root = checkout()
    if root is not None and (root / ".git").exists():
        command = [
            "git",
            "--no-optional-locks",
            "-C",
            str(root),
            "describe",
            "--always",
            "--dirty",
            "--exclude=*",
        ]
        try:
            return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
        except (OSError, subprocess.SubprocessError):  # no git, or nothing committed yet
            pass
    return __version__


def checkout() -> Path | None:
    """The root of the checkout that this package is part of; None when it is installed."""
    return PACKAGE.parent if (PACKAGE.parent / "pyproject.toml").is_file() else None


def data_folder() -> Path:
    """The folder of records and weights of the book: the checkout's `data` or the installed copy."""
    root = checkout()
    return root / "data" if root is not None else PACKAGE / "_data"


def find_results() -> Path:
    """The folder of the records that come with the book. Raises RecordError if there is none."""
    folder = data_folder() / "results"
    if not folder.is_dir():
        raise RecordError(f"no records in {folder}: make them with `pwl reproduce`, or install pwl_lite again")
    return folder


def find_weights(name: str) -> Path:
    """The folder of shards that come with the book under `name`, as in `Record.weights`.

    Raises:
        UnknownNameError: no such weights; lists those that are there.
    """
    root = data_folder() / "weights"
    known = sorted(manifest.parent.name for manifest in root.glob("*/manifest.json"))
    if name not in known:
        raise UnknownNameError("weights", name, known or ["(none are here; `pwl reproduce` makes some)"])
    _note_read("weights", name)
    return root / name


FIELDS = {f.name: f.type for f in fields(Record)}


def _note_read(kind: str, name: str) -> None:
    """Add a line to the file that $PWL_READ_LOG names: so a chapter that is executed tells what of the book's data it reads."""
    if log := os.environ.get("PWL_READ_LOG"):
        with open(log, "a", encoding="utf-8") as file:
            file.write(f"{kind}/{name}\n")


def _own_data() -> Path:
    """Where a run of the reader's own leaves its results: never inside an installed package."""
    return (checkout() or Path.cwd()) / "data"


def _path(root: str | os.PathLike, experiment: str, run: str) -> Path:
    for kind, name in (("experiment", experiment), ("run", run)):
        if not isinstance(name, str) or not re.fullmatch(r"[\w-][\w.-]*", name):
            raise RecordError(f"{kind} {name!r}: expected a name of letters, digits, '-', '_' and '.'")
    return Path(root) / experiment / f"{run}.json"


def _listing(root: Path, experiment: str | None = None) -> str:
    pattern = f"{experiment}/*.json" if experiment and (root / experiment).is_dir() else "*/*.json"
    found = sorted(f"{p.parent.name}/{p.stem}" for p in root.glob(pattern)) if root.is_dir() else []
    names = found if experiment else sorted({name.split("/")[0] for name in found})
    return ", ".join(names) or "none at all"


def _check(values: Any, source: str) -> None:
    """Check schema, names and types of a record's fields. `source` names it in errors."""
    if not isinstance(values, dict):
        raise RecordError(f"{source}: a {type(values).__name__}, expected an object with the fields of a record")
    schema = values.get("schema")
    if type(schema) is not int or schema != SCHEMA:
        raise RecordError(f"{source}: schema {schema!r}, expected {SCHEMA}; is it of another version of pwl_lite?")
    unknown, missing = set(values) - set(FIELDS), set(FIELDS) - set(values)
    for problem, names in (("unknown field", unknown), ("missing field", missing)):
        if names:
            raise RecordError(f"{source}: {problem} {', '.join(sorted(names))}; expected {', '.join(FIELDS)}")
    for name, value in values.items():
        kind = _KINDS.get(name, dict)
        if not isinstance(value, kind) or isinstance(value, bool):
            expected = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
            raise RecordError(f"{source}: {name} is {value!r}, expected {expected.replace('NoneType', 'null')}")
    for name in ("lattice", "agreement"):
        for composition, percent in values[name].items():
            if set(composition) - set("ST") or type(percent) not in (int, float) or not 0 <= percent <= 100:
                raise RecordError(f"{source}: {name} has {composition!r}: {percent!r}, expected letters S and T, and percent")


_KINDS: dict[str, Any] = {
    **dict.fromkeys(("experiment", "run", "profile", "dataset", "family", "finished"), str),
    **dict.fromkeys(("schema", "seed"), int),
    **dict.fromkeys(("teacher", "student"), (dict, type(None))),
    "history": list,
    "seconds": (int, float),
    "weights": (str, type(None)),
}  # all other fields are objects
