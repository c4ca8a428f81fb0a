"""Plans: all runs of a table in one file, so that one command does what is left.

    {"profile": "cifar", "family": "vgg", "teacher_seed": 0, "seeds": [0, 1, 2],
     "runs": [{"experiment": "kd", "objective": {"name": "kd"}},
              {"experiment": "no-sync", "objective": {"name": "progressive", "sync": 0}, "recipe": {"epochs": 6}}]}

`dataset` may be named too, and each run may have `seeds` and `options` (of `Runner.student`) of its own. With
`"hold_out": 5000` students are measured on that many training images, held out from them, instead of the test images: for
choosing settings. A run is done when its record is there.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from .datasets import Dataset, load_dataset
from .errors import RecordError, TrainingError, UnknownNameError
from .objectives import OBJECTIVES
from .profiles import Profile, get_profile
from .records import Record, load_record
from .reproduce import Runner, run_name
from .training import Recipe


@dataclass(frozen=True)
class Run:
    """One student to be trained: `<results>/<experiment>/...seed<seed>.json`.

    Attributes:
        experiment: name of the table's row, and folder of the record.
        seed: of the student.
        objective: `name` and settings, see `objectives.build_objective`.
        recipe: changes to the profile's recipe for students.
        options: of `Runner.student`: `start`, `stitch`, `recalibrate`, `training_of`, `curve`, `save_weights`.
    """

    experiment: str
    seed: int
    objective: dict[str, Any]
    recipe: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


OPTIONS = {"start", "stitch", "recalibrate", "training_of", "curve", "save_weights"}


@dataclass(frozen=True)
class Plan:
    """All runs of a table: students of one teacher, on one data set.

    Attributes:
        profile: networks and recipes.
        dataset: its name.
        teacher_seed: which teacher.
        hold_out: training images to measure on, see `Dataset.hold_out`; 0 for the test split. The teacher has seen them.
        runs: what is to be trained, in this order.
    """

    profile: Profile
    dataset: str
    teacher_seed: int
    runs: tuple[Run, ...]
    hold_out: int = 0

    def data_name(self) -> str:
        """Of the data set in the names of the runs."""
        return f"{self.dataset}-holdout{self.hold_out}" if self.hold_out else self.dataset


def read_plan(path: str | os.PathLike) -> Plan:
    """The plan in a file.

    Raises:
        TrainingError: no such file, no JSON, or a key is missing, unknown or wrong.
        UnknownNameError: no such profile, family or objective.
    """
    path = Path(path)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TrainingError(f"plan {path}: no such file") from None
    except (OSError, ValueError) as error:
        raise TrainingError(f"plan {path}: cannot be read as JSON ({error})") from error
    _check(values, {"profile", "runs"}, {"family", "dataset", "teacher_seed", "seeds", "hold_out"}, f"plan {path}")
    profile = get_profile(values["profile"], values.get("family", "vgg"))
    recipe_fields = {f.name for f in fields(Recipe)} - {"seed"}
    runs = []
    for i, entry in enumerate(values["runs"], start=1):
        source = f"plan {path}, run {i}"
        _check(entry, {"experiment", "objective"}, {"seeds", "recipe", "options"}, source)
        _check(entry["objective"], {"name"}, None, f"{source}, objective")
        _check(entry.get("recipe", {}), set(), recipe_fields, f"{source}, recipe")
        _check(entry.get("options", {}), set(), OPTIONS, f"{source}, options")
        if entry["objective"]["name"] not in OBJECTIVES:
            raise UnknownNameError(f"{source}: objective", entry["objective"]["name"], OBJECTIVES)
        replace(profile.student, **entry.get("recipe", {}))  # which checks the values
        for seed in _seeds(entry.get("seeds", values.get("seeds", [0])), source):
            recipe, options = entry.get("recipe", {}), entry.get("options", {})
            runs.append(Run(entry["experiment"], seed, entry["objective"], recipe, options))
    return Plan(
        profile=profile,
        dataset=values.get("dataset", profile.dataset),
        teacher_seed=values.get("teacher_seed", 0),
        runs=tuple(runs),
        hold_out=values.get("hold_out", 0),
    )


def left(plan: Plan, root: str | Path) -> Iterator[Run]:
    """The runs of a plan that have no record in `root` yet.

    Raises:
        TrainingError: a record is of another recipe, of other options, or of other settings than the plan names.
    """
    for run in plan.runs:
        name = run_name(plan.data_name(), plan.profile, run.seed)
        try:
            record = load_record(run.experiment, name, Path(root) / "results")
        except RecordError:
            yield run
            continue
        of_machine = {key: record.recipe[key] for key in ("precision", "channels_last")}
        recipe = asdict(replace(plan.profile.student, seed=run.seed, **{**of_machine, **run.recipe}))
        options = {key: run.options.get(key) for key in OPTIONS - {"save_weights", "curve"}}  # these two change no number
        wanted = {**run.objective, **options, **{f"recipe.{key}": value for key, value in recipe.items()}}
        stored = {**record.objective, **{f"recipe.{key}": value for key, value in record.recipe.items()}}
        for key, value in wanted.items():
            if stored.get(key) != value:
                raise TrainingError(
                    f"record {run.experiment}/{name}: {key} is {stored.get(key)!r}, the plan says {value!r}; "
                    "give the experiment another name, or delete the record"
                )


def run_plan(
    plan: Plan,
    root: str | Path = "runs",
    data: Dataset | None = None,
    max_minutes: float | None = None,
    progress: bool | None = None,
) -> list[Record]:
    """Train what is left of a plan, and first its teacher if its weights are nowhere; they are kept for later plans.

    An interrupted run goes on from its checkpoint.

    Args:
        plan: what to run.
        root, max_minutes, progress: as in `reproduce`.
        data: by default loaded by the plan's name.

    Returns:
        The records of the runs that were left.

    Raises:
        TrainingPaused: `max_minutes` are used up; the same call goes on.
    """
    runs = list(left(plan, root))
    if not runs:
        return []
    data = load_dataset(plan.dataset) if data is None else data
    runner = Runner(plan.profile, data, root, progress, max_minutes)
    stored = runner.stored_teacher(plan.teacher_seed)
    teacher, _ = stored or runner.teacher(plan.teacher_seed, resume=True, save_weights=True)
    if plan.hold_out:
        runner.measure_on(replace(data.hold_out(plan.hold_out), name=plan.data_name()))
    return [runner.student(r.experiment, r.objective, teacher, r.seed, resume=True, **r.options, **r.recipe) for r in runs]


def _seeds(values: Any, source: str) -> list[int]:
    if not isinstance(values, list) or not all(type(seed) is int and seed >= 0 for seed in values):
        raise TrainingError(f"{source}: seeds = {values!r}, expected a list of whole numbers such as [0, 1, 2]")
    return values


def _check(values: Any, needed: set[str], allowed: set[str] | None, source: str) -> None:
    """Check the keys of an object; `allowed` None allows any beside the needed ones."""
    if not isinstance(values, dict):
        raise TrainingError(f"{source}: a {type(values).__name__}, expected an object")
    missing, unknown = needed - set(values), set() if allowed is None else set(values) - needed - allowed
    for problem, keys in (("missing", missing), ("unknown", unknown)):
        if keys:
            expected = ", ".join(sorted(needed | (allowed or set())))
            raise TrainingError(f"{source}: {problem} {', '.join(sorted(keys))}; expected {expected}")
