"""The script of benchmarks runs and says what it measured where. What it measures is not tested: that is the machine's."""

import json
import subprocess
import sys
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch

from pwl_lite.errors import TrainingError
from pwl_lite.language_training import SequenceLog
from pwl_lite.objectives import KD, CurriculumExtraction, PCACurriculum, Supervised
from pwl_lite.parity import SparseParity, Stack, Transition, parity_mlp
from pwl_lite.parity_training import Hidden, Labels, StreamLog

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "run.py"


def test_the_input_is_measured_against_the_step_it_feeds(tmp_path):
    command = [sys.executable, str(SCRIPT), "--only", "input", "--repeats", "3", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("*.json")
    measured = json.loads(path.read_text())
    assert measured["environment"]["threads"] > 0 and measured["environment"]["torch"]
    step, batch = (measured["results"]["input"][way] for way in ("training step", "input"))
    assert step["n"] == batch["n"] == 3
    assert step["median"] > 5 * batch["median"] > 0  # the input is never the bottleneck
    low, high = step["quartiles"]
    assert low <= step["median"] <= high


def test_too_few_repeats_are_refused(tmp_path):
    command = [sys.executable, str(SCRIPT), "--repeats", "2", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "--repeats 2: expected at least 3" in done.stderr
    assert not list(tmp_path.iterdir())


def script(name, monkeypatch):
    spec = spec_from_file_location(f"{name}_benchmark", SCRIPT.with_name(f"{name}.py"))
    module = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
    monkeypatch.syspath_prepend(SCRIPT.parent)  # as for a script that is called
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def parity(monkeypatch):
    return script("parity", monkeypatch)


@pytest.fixture
def transformers(monkeypatch):
    return script("transformers", monkeypatch)


def test_parity_is_measured_in_slices(parity, tmp_path):
    """A call without time does nothing, one with time all that is left; what is there is not trained again."""
    sizes = {"teacher_width": 128, "budget": 12_800, "teacher_budget": 64_000, "first": 1600}
    point = parity.Point(n=10, k=3, width=16, rates=(0.2, 0.5), tuning_budget=6400, **sizes)
    path, said = tmp_path / "parity.json", []
    assert not parity.measure([point], path, [0, 1], 1600, minutes=0, say=said.append) and "call again" in said[0]
    assert not path.exists()
    assert parity.measure([point], path, [0, 1], 1600, minutes=10, say=said.append)
    found = json.loads(path.read_text())
    entry = found["points"]["n=10,k=3,width=16"]
    assert found["environment"]["torch"] and list(entry["methods"]) == list(parity.ALL)
    peaks = entry["teacher"]["support inside"]
    assert len(peaks) == 2 and 0 < min(peaks) <= max(peaks) <= 1 and max(peaks) > 0.03  # chance gives about 0.01
    for method in entry["methods"].values():
        rates = sorted(map(float, method["tries"]))
        assert {0.2, 0.5} <= set(rates) and len(rates) <= 4 and method["lr"] in rates
        assert len(rates) == 4 or rates[0] < method["lr"] < rates[-1]  # the best one is not at an edge, if two more sufficed
        assert method["teacher"] == entry["teacher"]["sha256"]
        for samples, accuracy in zip(method["samples to 99 %"], method["accuracy at the end"], strict=True):
            assert samples is None or samples <= method["budget"]
            assert 0.4 < accuracy <= 1
        curve = method["curve"]
        assert curve["samples"] == sorted(set(curve["samples"])) and curve["samples"][0] == 0
        for values in (curve["accuracy"], curve["support"]):
            assert len(values) == 2 and all(len(row) == len(curve["samples"]) for row in values)
        assert [row[-1] for row in curve["accuracy"]] == pytest.approx(method["accuracy at the end"], abs=1e-3)
    assert None not in entry["methods"]["extraction, gaussian, 4"]["samples to 99 %"]
    before = path.read_text()
    del found["points"]["n=10,k=3,width=16"]["methods"]["one-shot"]
    path.write_text(json.dumps(found))
    assert parity.measure([point], path, [0, 1], 1600, minutes=10, say=said.append)
    again, first = (json.loads(text)["points"]["n=10,k=3,width=16"]["methods"] for text in (path.read_text(), before))
    assert again["one-shot"]["samples to 99 %"] == first["one-shot"]["samples to 99 %"]  # the same teachers, the same students
    assert again["one-shot"]["teacher"] == first["one-shot"]["teacher"]
    with pytest.raises(SystemExit, match="was measured with other settings; choose another --out, or delete the file"):
        parity.measure([replace(point, first=3200)], path, [0, 1], 1600, minutes=10)


def test_a_parity_method_is_the_stages_that_its_name_says(parity):
    """The teachers are not trained: two seeds, 23 checkpoints that can be told from each other."""
    point = parity.Point(n=6, k=2, width=4, budget=16_000, first=1600)
    task = SparseParity(6, 2, seed=0)
    checkpoints = [Stack.of([parity_mlp(6, 4, seed=10 * entry + seed) for seed in (0, 1)]) for entry in range(23)]
    teachers = object.__new__(parity.Teachers)
    teachers.point, teachers.task = point, task
    rising = torch.full((23, 2), 0.5)
    rising[5:, 0], rising[3:, 1] = 0.6, 0.6
    samples = [320 * entry for entry in range(23)]
    teachers.log = StreamLog(task, (0, 1), samples=samples, accuracy=rising, checkpoints=checkpoints)
    teachers.transitions = [Transition(3, 7, 9), Transition(2, 5, 11)]  # before, inside, after
    teachers.final = teachers.log.checkpoint([22, 22])

    def entry_of(network, seed):
        return next(e for e, stack in enumerate(checkpoints) if torch.equal(stack.weights[0][seed], network.weights[0][seed]))

    def told(method):
        stages = teachers.stages(method, point.budget)
        who = [None if isinstance(stage, Labels) else [entry_of(stage.teacher, seed) for seed in (0, 1)] for stage in stages]
        return [(type(stage).__name__, entries, stage.samples) for stage, entries in zip(stages, who)]

    rest = ("Outputs", [22, 22], 14_400)
    assert told("cross entropy") == [("Labels", None, 16_000)]
    assert told("one-shot") == [("Outputs", [22, 22], 16_000)]
    assert told("two checkpoints: before") == [("Outputs", [3, 2], 1600), rest]
    assert told("two checkpoints: inside") == [("Outputs", [7, 5], 1600), rest]
    assert told("two checkpoints: after") == [("Outputs", [9, 11], 1600), rest]
    assert told("progressive, a grid") == [*(("Outputs", [entry, entry], 640) for entry in range(2, 21, 2)), rest]
    across = [[5, 3], [6, 5], [7, 7], [8, 9], [9, 11]]  # evenly from the rise to the end of each teacher's transition
    for method, pace in (("progressive, the transition", 320), ("progressive, the transition, slowly", 1600)):
        assert told(method) == [*(("Outputs", entries, pace) for entries in across), rest]
    for method, options in parity.ONE_SHOT.items():
        assert told(method) == told("one-shot")
        (stage,) = teachers.stages(method, point.budget)
        assert stage.temperature == options.get("temperature", 1.0) and stage.alpha == options.get("alpha", 1.0)
    hidden = {
        "extraction, no projection": {"projection": "none"},
        "extraction, pca in steps": {"projection": "pca", "steps": 4},
        "extraction, until it has settled": {"patience": 3, "samples": 4000},
        "extraction, cosine": {"loss": "cosine"},
        "extraction, no readout": {"readout": False},
        "extraction, 3,200 samples": {"samples": 3200},
        "extraction, 6,400 samples": {"samples": 6400},
        "extraction, 25,600 samples": {"samples": 25_600},
    }
    for kind in ("gaussian", "sign", "orthogonal", "pca"):
        hidden |= {f"extraction, {kind}, {dim}": {"projection": kind, "dim": dim} for dim in (4, 32, 128)}
    assert set(hidden) == {method for method in parity.ALL if method.startswith("extraction")}
    for method, options in hidden.items():
        assert told(method) == [("Hidden", [22, 22], options.get("samples", 1600)), rest]
        assert teachers.stages(method, point.budget)[0] == replace(Hidden(teachers.final, 1600), **options)
    for method, layers in (("layer 1", [1]), ("layer 2", [2]), ("layer after layer", [1, 2])):  # equally long in all
        *stages, last = teachers.stages(f"extraction, {method}", point.budget)
        assert [stage.layer for stage in stages] == layers and sum(stage.samples for stage in stages) == 1600
        assert all(stage.dim == 32 for stage in stages) and last.samples == 14_400


def test_a_rate_at_the_edge_is_not_the_end(parity):
    """The score is lowest at 2: found from either side by steps of a factor of two, or as far as they reach."""

    def score(rate):
        return abs(rate - 2)

    assert list(parity.tuned((1.0, 2.0, 4.0), score)) == [1.0, 2.0, 4.0]  # nothing beyond
    assert list(parity.tuned((0.5, 1.0), score)) == [0.5, 1.0, 2.0, 4.0]
    assert list(parity.tuned((8.0, 16.0), score)) == [8.0, 16.0, 4.0, 2.0]
    assert list(parity.tuned((0.25,), score)) == [0.25, 0.5, 1.0]
    assert list(parity.tuned((0.25, 0.5), score, most=0)) == [0.25, 0.5]


def test_a_thinned_curve_keeps_what_moves(parity):
    """400 entries of a flat line with one step and one peak: both are there, and little else."""
    accuracy = torch.full((400, 2), 0.5)
    accuracy[300:, 0] = 1.0
    bits = torch.zeros(400, 2, 6)
    bits[123, 1] = 0.04  # less than counts as a move, but the highest
    log = StreamLog(SparseParity(6, 2, seed=0), (0, 1), samples=[10 * i for i in range(400)], accuracy=accuracy, bits=bits)
    curve = parity.thinned(log)
    assert {0, 1230, 3000, 3990} <= set(curve["samples"]) and len(curve["samples"]) < 60
    assert max(curve["support"][1]) == 0.04 and curve["accuracy"][0][curve["samples"].index(3000)] == 1.0


def test_two_processes_find_what_one_does(parity, tmp_path):
    sizes = {"teacher_width": 128, "budget": 6400, "teacher_budget": 64_000, "first": 1600}
    point = parity.Point(n=10, k=3, width=16, rates=(0.5,), methods=parity.SLOPE, **sizes)
    found = []
    for jobs in (1, 2):
        path = tmp_path / f"{jobs}.json"
        assert parity.measure([point], path, [0, 1], 1600, minutes=10, jobs=jobs, say=lambda _: None)
        methods = json.loads(path.read_text())["points"][point.name]["methods"]
        assert tuple(methods) == parity.SLOPE
        found.append({name: {k: v for k, v in method.items() if k != "seconds"} for name, method in methods.items()})
    assert found[0] == found[1]


def test_a_failure_in_a_process_is_told(parity):
    with pytest.raises(ZeroDivisionError):
        list(parity.side_by_side(lambda name: 1 // 0, ["a", "b"], jobs=2, end=float("inf")))
    assert list(parity.side_by_side(len, ["a", "bc"], jobs=2, end=0.0)) == []
    assert sorted(parity.side_by_side(len, ["a", "bc", "def"], jobs=2, end=float("inf"))) == [("a", 1), ("bc", 2), ("def", 3)]


def test_a_point_that_is_not_there_is_refused(parity, capsys):
    with pytest.raises(SystemExit):
        parity.main(["--only", "n=51,k=5,width=32"])
    assert "invalid choice: 'n=51,k=5,width=32'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        parity.main(["--seeds", "0"])
    assert "--seeds 0: expected at least 1" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        parity.main(["--jobs", "0"])
    assert "--jobs 0: expected at least 1" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["parity", "language"])
def test_transformers_are_measured_in_slices(transformers, tmp_path, name):
    task = transformers.Parity(n=5, k=2) if name == "parity" else transformers.Language(levels=2, symbols=3)
    methods = ("cross entropy", "progressive, a grid", "extraction, sign", "principal components in steps")
    about = {"log_every": 640, "rates": (0.003, 0.01), "tuning_seeds": 1, "methods": methods}
    sizes = transformers.Sizes(6400, teacher_budget=6400, first=0.25, **about)
    path, said = tmp_path / "transformers.json", []
    assert not transformers.measure(name, task, sizes, 2, path, minutes=0, say=said.append) and "call again" in said[0]
    assert not path.exists()
    assert transformers.measure(name, task, sizes, 2, path, minutes=10, say=said.append)
    entry = json.loads(path.read_text())["tasks"][name]
    assert tuple(entry["methods"]) == methods
    assert len(set(entry["teachers"]["state"])) == 2
    for entries in entry["teachers"]["checkpoints"].values():
        assert len(entries) == 2 and all(0 <= n <= 6400 for row in entries for n in row)
    for method in entry["methods"].values():
        rates = sorted(map(float, method["tries"]))
        assert {0.003, 0.01} <= set(rates) and len(rates) <= 4 and method["lr"] in rates
        assert len(method[task.figure]) == 2 and all(value is None or value >= 0 for value in method[task.figure])
        for curves in method["curves"].values():
            assert len(curves) == 2 and max(map(len, curves)) == len(method["samples"])
    if name == "language":  # a student of a good teacher is far better than one who knows nothing
        for method in entry["methods"].values():
            assert max(method[task.figure]) < 0.5 * method["curves"]["excess"][0][0]
    before = path.read_text()
    assert transformers.measure(name, task, sizes, 2, path, minutes=10, say=said.append) and path.read_text() == before
    with pytest.raises(SystemExit, match="was measured with other settings; choose another --out, or delete the file"):
        transformers.measure(name, task, sizes, 3, path, minutes=10)


def test_a_transformers_method_is_the_objective_that_its_name_says(transformers):
    task = transformers.Parity(n=5, k=2)
    *kept, student = (task.network(width, seed) for seed, width in enumerate((16,) * 8 + (8,)))
    log = SequenceLog(samples=[800 * i for i in range(8)], checkpoints=kept)
    moments = {"before": [1], "inside": [2, 4], "after": [5], "grid": [1, 2, 4, 5, 6]}
    teacher = transformers.Teacher(kept[-1], log, moments)
    made = {method: transformers.objective_of(method, teacher, student, 0.25, seed=7) for method in transformers.METHODS}
    assert isinstance(made["cross entropy"], Supervised) and made["cross entropy"].model is student
    assert isinstance(made["one-shot"], KD) and made["one-shot"].teacher is kept[-1]
    for method, entries in (("checkpoint before", [1]), ("progressive", [2, 4]), ("checkpoint after", [5])):
        assert made[method].teachers == [*(kept[e] for e in entries), kept[-1]]
        assert made[method].shares == [*[0.25 / len(entries)] * len(entries), 0.75]
    assert made["progressive, a grid"].shares == pytest.approx([0.05] * 5 + [0.75])
    told = {
        "extraction": {"projection": "gaussian"},
        "extraction, no projection": {"projection": "none"},
        "extraction, sign": {"projection": "sign"},
        "extraction, orthogonal": {"projection": "orthogonal"},
        "extraction, pca": {"projection": "pca"},
        "extraction, 4 numbers": {"projection": "gaussian", "dim": 4},
        "extraction, cosine": {"projection": "gaussian", "loss": "cosine"},
    }
    assert set(told) == {method for method in made if method.startswith("extraction")}
    for method, options in told.items():
        assert isinstance(made[method], CurriculumExtraction) and made[method].teacher is kept[-1]
        found = made[method].settings()
        wanted = {"dim": None, "loss": "mse", "blocks": [1], "shares": [0.25], "seed": 7, "readout": True} | options
        assert {key: found[key] for key in wanted} == wanted
    in_steps = made["principal components in steps"]
    assert isinstance(in_steps, PCACurriculum) and (in_steps.block, in_steps.until, in_steps.steps) == (1, 0.25, 4)
    for method, objective in made.items():
        if method != "cross entropy":
            assert objective.settings()["alpha"] == objective.settings()["temperature"] == 1.0


def test_a_rate_at_which_a_student_diverges_is_passed_over(transformers):
    task = transformers.Parity(n=5, k=2)
    sizes = transformers.Sizes(1280, teacher_budget=6400, first=0.25, log_every=640, rates=(0.003, 0.01, 1e30), tuning_seeds=1)
    teacher = transformers.teacher_of(task, 0, sizes)
    with pytest.raises(TrainingError, match="the loss is nan by step 20"):
        transformers.student_of(task, "one-shot", teacher, 1e30, 1000, sizes)
    found = transformers.trained(task, "one-shot", [teacher], sizes)
    assert found["tries"]["1e+30"] == [None] and found["lr"] <= 0.01


def test_a_task_that_is_not_there_is_refused(transformers, capsys):
    with pytest.raises(SystemExit):
        transformers.main(["--only", "chess"])
    assert "invalid choice: 'chess'" in capsys.readouterr().err
