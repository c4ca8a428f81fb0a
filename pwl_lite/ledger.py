"""The reproduction ledger: every published number that this book is about, as far as it could be found, beside ours."""

import inspect
import math
import statistics
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from itertools import pairwise
from typing import Any

import pandas as pd

from .blocknet import num_params
from .errors import RecordError
from .language_training import SequenceSettings
from .networks import FAMILIES, build_pair
from .objectives import KD, ProgressiveDistillation
from .objectives.sampling import CUT_SHARE
from .parity_training import StreamSettings
from .profiles import PROFILES, get_profile
from .records import Record, data_folder, load_measurement, load_records


def published() -> pd.DataFrame:
    """What the papers and their authors' code say: one row per number, with columns `paper`, `table`, `network`, `dataset`,
    `quantity`, `value`, `unit` and `remark` (contradictions within a source, what is worked out from it, what ours does
    otherwise)."""
    return pd.read_csv(data_folder() / "published.csv", keep_default_na=False)


def ledger() -> pd.DataFrame:
    """`published()` with four more columns.

    Returns:
        `ours` (mean over seeds; NaN where nothing was run), `n` (how many runs; 0 for what follows from the code), `gap`
        (ours minus theirs, unless both count something out of different totals) and `reason` (why there is a gap, or why
        nothing was run).
    """
    table = published()
    found = [_ours(row) for row in table.itertuples()]
    table["ours"] = [f[0] for f in found]
    table["n"] = pd.array([f[1] for f in found], dtype="Int64")
    table["gap"] = (table.ours - table.value).mask(table.unit.str.startswith("of"))  # counts of different totals
    table["reason"] = ["; ".join(filter(None, (f[2], row.remark))) for f, row in zip(found, table.itertuples(), strict=True)]
    return table.drop(columns="remark")


Found = tuple[float, int | None, str]


def _ours(row: Any) -> Found:
    """(value, n, reason) for one row of `published()`."""
    if row.paper.startswith("Progressive Weight Loading"):
        return _PWL.get(row.table, _not_run)(row)
    if row.paper.startswith("Progressive distillation"):
        return _CURRICULA[row.table](row)
    return _not_run(row)


def _not_run(row: Any) -> Found:
    for start, reason in _NOT_RUN.items():
        if row.paper.startswith(start):
            return float("nan"), None, reason
    return float("nan"), None, ""


_NOT_RUN = {
    "Distillation baselines": "not run: these pairs on CIFAR-100 need a GPU for days",
}


def _accuracy(row: Any) -> Found:
    records, profile = _pwl_records(row.network, row.dataset)
    if not records:
        return float("nan"), None, f"not run: no {row.network} on {row.dataset} yet"
    values = [record.lattice[row.quantity] for record in records]
    return statistics.fmean(values), _seeds(records, row.quantity), "" if profile == "paper" else _scale(records[0])


def _loading_orders(row: Any) -> Found:
    """What the paper's tables say of orders, for our lattices: the same question, over all pairs that were run."""
    means = [_mean_lattice(r) for r in (_pwl_records(f, d)[0] for f in FAMILIES for d in ("cifar10", "cifar100")) if r]
    if not means:
        return float("nan"), None, "not run"
    if row.unit.startswith("of"):
        prefix = [[m[c] for c in ("SSSS", "TSSS", "TTSS", "TTTS", "TTTT")] for m in means]
        dips = sum(any(b < a for a, b in pairwise(p)) for p in prefix)
        return dips, len(means), f"of {len(means)} pairs that were run"
    compositions = ("SSST", "SSTT", "STTT") if "suffix" in row.quantity else ("STSS", "SSTS", "STTS")
    losses = [m["SSSS"] - m[c] for m in means for c in compositions]
    return max(losses), len(means), f"of {len(means)} pairs that were run; below 0 is a gain"


def _size(row: Any) -> Found:
    teacher, student = _paper_sizes(row.network)
    value = {
        "teacher parameters": teacher / 1e6,
        "student parameters": student / 1e6,
        "student's share of the teacher's parameters": 100 * student / teacher,
        "parameters moved in all, of the teacher's": 100 * (1 + student / teacher),
    }[row.quantity]
    return value, 0, "networks of the `paper` profile"


def _setting(row: Any) -> Found:
    """The same setting in the `paper` profile, which follows the authors."""
    profile = get_profile("paper", "vgg" if row.network == "all" else row.network)
    values = {**_defaults(KD), **_defaults(ProgressiveDistillation), **profile.progressive, **asdict(profile.student)}
    values["weight of the labels"] = 1 - values["alpha"]
    values["share of the compositions that are one cut"] = CUT_SHARE
    value = values.get(row.quantity, float("nan"))
    return value, 0, "setting of the `paper` profile" if row.quantity in values else ""


def _blocks(row: Any) -> Found:
    return build_pair(row.network, profile="paper")[0].num_blocks, 0, ""


def _shape(row: Any) -> Found:
    """Width and layers of a stage: of a VGG between two poolings, of a ResNet at one resolution, of a transformer all."""
    config = get_profile("paper", row.network).pair["student" in row.quantity]
    if row.network == "vgg":
        stages = [(int(words[0]), len(words)) for words in map(str.split, " ".join(config["layers"]).split("M")) if words]
    elif row.network == "resnet":
        stages = list(zip(config["widths"], config["depths"], strict=True))
    else:
        stages = [(config["width"], sum(config["depths"]))]
    width, layers = stages[int(row.quantity.rpartition(" ")[2]) - 1]
    return width if row.quantity.startswith("width") else layers, 0, "networks of the `paper` profile"


_PWL: dict[str, Callable[[Any], Found]] = {
    "accuracy": _accuracy,
    "accuracy, contiguous table": _accuracy,
    "loading orders": _loading_orders,
    "size": _size,
    "setting": _setting,
    "blocks": _blocks,
    "shape": _shape,
}


def _benchmark(name: str) -> dict[str, Any] | None:
    """What a script of `benchmarks/` has measured; None if it was not run."""
    return load_measurement(name) if (data_folder() / "benchmarks" / f"{name}.json").exists() else None


def _million(samples: list[float | None]) -> float:
    """Median over the seeds, those that did not get there counted as infinite."""
    return statistics.median(math.inf if s is None else s for s in samples) / 1e6


def _found(row: Any, settings: dict[str, float], measured: dict[str, float], n: int, scale: str) -> Found:
    """The value of one row, and what it is."""
    if row.quantity in settings:
        smaller = "ours is smaller, to run in minutes on a CPU"
        reasons = {-1: smaller, 0: "", 1: "a choice of ours at the smaller size"}
        ours = settings[row.quantity]
        return ours, 0, reasons[(ours > row.value) - (ours < row.value)]
    value = measured.get(row.quantity, math.nan)
    if math.isinf(value):
        return math.nan, n, f"{scale}: half of the seeds or more not within the budget"
    return value, n, scale


def _sparse_parity(row: Any) -> Found:
    found = _benchmark("parity")
    if found is None:
        return math.nan, None, "not run: `benchmarks/parity.py`"
    point = next(iter(found["points"].values()))
    settings, methods = point["settings"], point["methods"]
    curve = methods["cross entropy"]["curve"]
    rising = [next((n for n, a in zip(curve["samples"], row_, strict=True) if a >= 0.55), None) for row_ in curve["accuracy"]]
    ends = {m: methods[m]["accuracy at the end"] for m in ("one-shot", "two checkpoints: before", "two checkpoints: after")}
    rates = [method["lr"] for method in methods.values()]
    ours = {
        "bits": settings["n"],
        "support": settings["k"],
        "width of the teacher": settings["teacher_width"],
        "width of the student": settings["width"],
        "width of the student in the scripts": settings["width"],
        "batch": StreamSettings().batch_size,
        "lowest learning rate": min(rates),
        "highest learning rate": max(rates),
        "samples at most": settings["budget"] / 1e6,
    }
    measured = {
        "samples to 100 %, progressive": _million(methods["progressive, a grid"]["samples to 99 %"]),
        "one-shot at 20 million samples": 100 * statistics.fmean(ends["one-shot"]),
        "samples when cross entropy starts to rise": _million(rising),
        "samples to 100 %, two checkpoints": _million(methods["two checkpoints: inside"]["samples to 99 %"]),
        "accuracy with a checkpoint from before or after the transition": 100
        * statistics.fmean([*ends["two checkpoints: before"], *ends["two checkpoints: after"]]),
        "correlation with support bits in the transition": statistics.fmean(point["teacher"]["support inside"]),
    }
    scale = f"smaller: n = {settings['n']}, k = {settings['k']}; ends at 99 % or {settings['budget'] / 1e6:g} million samples"
    return _found(row, ours, measured, len(settings["seeds"]), scale)


def _transformers(row: Any) -> Found:
    """Parity with attention; of the grammar only the sizes can be compared."""
    found = _benchmark("transformers")
    if found is None:
        return math.nan, None, "not run: `benchmarks/transformers.py`"
    task = found["tasks"]["parity" if "parity" in row.table else "language"]
    sizes, methods, n = task["settings"], task["methods"], task["settings"]["seeds"]
    ours = {"layers": 2, "head size": 8, "heads of the teacher": 4, "heads of the student": 2}
    if "parity" not in row.table:
        if row.quantity in ours:
            return _found(row, ours, {}, n, "")
        return math.nan, n, "another language and another figure, excess in nats: see chapter 10"
    ours |= {"learning rate": methods["progressive"]["lr"], "batch": SequenceSettings(1000).batch_size}
    late = methods["one-shot"]["samples to 99 %"].count(None)
    measured = {
        "samples to 100 %, progressive": _million(methods["progressive"]["samples to 99 %"]),
        "samples without success, one-shot": sizes["budget"] / 1e6 if late else math.nan,
    }
    failed = f", {late} of {n} without success" if "one-shot" in row.quantity else ""
    return _found(row, ours, measured, n, f"smaller: n = {sizes['n']}, k = {sizes['k']}; ends at 99 %{failed}")


_CURRICULA: dict[str, Callable[[Any], Found]] = {
    "sparse parity": _sparse_parity,
    "GPT-2 on parity": _transformers,
    "PCFG cfg3b, masked language model": _transformers,
}


def _pwl_records(family: str, dataset: str) -> tuple[list[Record], str]:
    """Those of the largest profile that was run on this data set."""
    for profile in reversed(PROFILES):
        try:
            records = load_records("pwl", dataset=dataset, family=family, profile=profile)
        except RecordError:
            return [], ""
        if records:
            return records, profile
    return [], ""


def _mean_lattice(records: list[Record]) -> dict[str, float]:
    return {c: statistics.fmean(r.lattice[c] for r in records) for c in records[0].lattice}


@cache
def _paper_sizes(family: str) -> tuple[int, ...]:
    """Parameters of teacher and student of the `paper` profile."""
    return tuple(num_params(net) for net in build_pair(family, profile="paper"))


def _seeds(records: list[Record], composition: str) -> int:
    """How many trainings are behind a mean: students, or teachers where no student takes part."""
    return len({r.objective["teacher"] for r in records}) if set(composition) == {"T"} else len(records)


def _scale(record: Record) -> str:
    """How a run of a smaller profile differs from the paper's."""
    theirs = get_profile("paper", record.family)
    teacher, _ = _paper_sizes(record.family)
    share = 100 * record.student["params"] / record.teacher["params"]
    return (
        f"smaller: teacher of {record.teacher['params'] / 1e6:.1f} M parameters (theirs {teacher / 1e6:.1f} M), "
        f"student of {share:.0f} %, {len(record.history)} epochs ({theirs.student.epochs})"
    )


def _defaults(of: type) -> dict[str, Any]:
    return {n: p.default for n, p in inspect.signature(of).parameters.items() if p.default is not inspect.Parameter.empty}
