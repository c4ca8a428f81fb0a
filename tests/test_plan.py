"""Plans: one command does what is left of a table."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from networks_for_tests import STUDENT, TEACHER, tiny_data

import pwl_lite as pwl
from pwl_lite.errors import TrainingError, TrainingPaused, UnknownNameError
from pwl_lite.objectives import OBJECTIVES, build_objective
from pwl_lite.plan import Plan, Run, left, read_plan, run_plan
from pwl_lite.profiles import Profile

RECIPE = pwl.Recipe(epochs=1, batch_size=16, lr=0.02)
PROFILE = Profile("tiny", "tiny", (TEACHER, STUDENT), RECIPE, RECIPE)
RUNS = (
    Run("kd", 0, {"name": "kd"}),
    Run("kd", 1, {"name": "kd"}),
    Run("fitnet", 0, {"name": "fitnet", "weight": 10.0}),
    Run("no-sync", 0, {"name": "progressive", "sync": 0.0, "sample": "even_composition"}, {"epochs": 2}),
)
PLAN = Plan(PROFILE, "tiny", 0, RUNS)


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[1] / "data" / "plans").glob("*.json")), ids=lambda p: p.stem)
def test_the_plans_of_the_book_can_be_run(path):
    """Every run's objective can be built with its settings, on the networks of the plan's profile."""
    plan = read_plan(path)
    assert len({(run.experiment, run.seed) for run in plan.runs}) == len(plan.runs) > 0
    trained = set()
    for run in plan.runs:
        for option in ("start", "training_of"):  # what a run needs stands before it
            assert run.options.get(option) is None or (run.options[option], run.seed) in trained
        trained.add((run.experiment, run.seed))
        if run.seed == 0:
            replace(plan.profile.student, **run.recipe)
            teacher, student = (pwl.build_network(config) for config in plan.profile.pair)
            settings = build_objective(teacher=teacher, student=student, **run.objective).settings()
            assert settings.items() >= run.objective.items()


def test_a_plan_leaves_a_record_for_each_run_and_then_nothing_is_left(tmp_path):
    data = tiny_data()
    records = run_plan(PLAN, tmp_path, data, progress=False)
    assert [(r.experiment, r.seed) for r in records] == [(run.experiment, run.seed) for run in RUNS]
    assert records[2].objective["weight"] == 10.0 and set(records[2].lattice) == {"SSSS"}
    assert records[3].objective["sync"] == 0 and records[3].objective["sample"] == "even_composition"
    assert len(records[3].history) == 2 and len(records[3].lattice) == 16
    assert len({r.objective["teacher"] for r in records}) == 1  # all of one teacher
    assert run_plan(PLAN, tmp_path, data, progress=False) == []
    (tmp_path / "results" / "kd" / "tiny-vgg-tiny-seed1.json").unlink()
    assert list(left(PLAN, tmp_path)) == [RUNS[1]]


def test_a_plan_keeps_its_teacher_for_the_next_one(tmp_path):
    data = tiny_data()
    (first, *_) = run_plan(PLAN, tmp_path, data, progress=False)
    record = pwl.load_record("teacher", "tiny-vgg-tiny-seed0", tmp_path / "results")
    kept = pwl.load_blocks(tmp_path / "weights" / record.weights)
    assert pwl.state_hash(kept) == first.objective["teacher"]
    shutil.rmtree(tmp_path / "cache")  # no checkpoint is left
    more = replace(PLAN, runs=[replace(RUNS[0], experiment="again")])
    (again,) = run_plan(more, tmp_path, data, progress=False)
    assert again.objective["teacher"] == first.objective["teacher"] and again.lattice == first.lattice
    assert pwl.load_record("teacher", record.run, tmp_path / "results") == record  # it was not trained again


def test_a_plan_in_slices_gives_the_same_lattices(tmp_path):
    data = tiny_data()
    whole = run_plan(PLAN, tmp_path / "whole", data, progress=False)
    for _ in range(20):
        try:
            run_plan(PLAN, tmp_path / "parts", data, max_minutes=0, progress=False)
            break
        except TrainingPaused:
            pass
    for record in whole:
        part = pwl.load_record(record.experiment, record.run, tmp_path / "parts" / "results")
        assert part.lattice == record.lattice


def test_a_record_of_other_settings_is_not_taken_for_done(tmp_path):
    run_plan(Plan(PROFILE, "tiny", 0, RUNS[2:3]), tmp_path, tiny_data(), progress=False)
    other = Plan(PROFILE, "tiny", 0, (Run("fitnet", 0, {"name": "fitnet", "weight": 7.0}),))
    with pytest.raises(TrainingError, match=r"fitnet/tiny-vgg-tiny-seed0: weight is 10.0, the plan says 7.0"):
        run_plan(other, tmp_path, tiny_data(), progress=False)


def test_a_record_of_another_recipe_or_option_is_not_taken_for_done(tmp_path):
    run_plan(Plan(PROFILE, "tiny", 0, RUNS[:1]), tmp_path, tiny_data(), progress=False)
    longer = replace(PROFILE, student=replace(RECIPE, epochs=3))
    with pytest.raises(TrainingError, match=r"kd/tiny-vgg-tiny-seed0: recipe.epochs is 1, the plan says 3"):
        list(left(Plan(longer, "tiny", 0, RUNS[:1]), tmp_path))
    stitched = Run("kd", 0, {"name": "kd"}, options={"stitch": True})
    with pytest.raises(TrainingError, match=r"stitch is None, the plan says True"):
        list(left(Plan(PROFILE, "tiny", 0, (stitched,)), tmp_path))


def test_a_drifting_teacher_drifts_in_its_own_run_only_and_can_be_resumed(tmp_path):
    drifting = Run("drifting", 0, {"name": "progressive", "drifting_teacher": True}, {"epochs": 2})
    plan = Plan(PROFILE, "tiny", 0, (drifting, RUNS[0]))
    data = tiny_data()
    with pytest.raises(TrainingPaused):
        while True:
            run_plan(plan, tmp_path / "parts", data, max_minutes=0, progress=False)
            if (tmp_path / "parts" / "results" / "kd").exists():
                break
    for _ in range(5):
        try:
            run_plan(plan, tmp_path / "parts", data, max_minutes=0, progress=False)
        except TrainingPaused:
            continue
    drifted, kd = run_plan(plan, tmp_path / "whole", data, progress=False)
    (alone,) = run_plan(Plan(PROFILE, "tiny", 0, RUNS[:1]), tmp_path / "alone", data, progress=False)
    assert kd.lattice == alone.lattice and kd.objective == alone.objective
    assert drifted.objective["teacher"] == kd.objective["teacher"]  # what it was when it began
    in_parts = pwl.load_record("drifting", drifted.run, tmp_path / "parts" / "results")
    assert in_parts.lattice == drifted.lattice and in_parts.objective == drifted.objective


def test_nothing_starts_from_half_a_training(tmp_path):
    first, second = Run("first", 0, {"name": "kd"}, {"epochs": 2}), Run("second", 0, {"name": "kd"}, options={"start": "first"})
    teacher = Run("other", 0, {"name": "kd"})
    run_plan(Plan(PROFILE, "tiny", 0, (teacher,)), tmp_path, tiny_data(), progress=False)
    with pytest.raises(TrainingPaused):
        run_plan(Plan(PROFILE, "tiny", 0, (first,)), tmp_path, tiny_data(), max_minutes=0, progress=False)
    with pytest.raises(TrainingError, match=r"start from experiment 'first': 1 of 2 epochs are done; finish it first"):
        run_plan(Plan(PROFILE, "tiny", 0, (second,)), tmp_path, tiny_data(), progress=False)


def test_settings_are_chosen_on_held_out_training_images(tmp_path):
    data = tiny_data()
    plan = Plan(PROFILE, "tiny", 0, (Run("tries", 0, {"name": "kd"}),), hold_out=30)
    (record,) = run_plan(plan, tmp_path, data, progress=False)
    assert record.run == "tiny-holdout30-vgg-tiny-seed0" and record.dataset == "tiny-holdout30"
    assert record.environment["data_sha256"] == data.hold_out(30).sha256
    teacher = pwl.load_record("teacher", "tiny-vgg-tiny-seed0", tmp_path / "results")
    assert teacher.environment["data_sha256"] == data.sha256
    assert list(left(plan, tmp_path)) == []


def write(tmp_path, **changes):
    plan = {"profile": "quick", "seeds": [0, 1], "runs": [{"experiment": "kd", "objective": {"name": "kd"}}], **changes}
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan))
    return path


def test_a_plan_is_read_from_a_file(tmp_path):
    runs = [
        {"experiment": "kd", "objective": {"name": "kd"}},
        {"experiment": "short", "objective": {"name": "kd", "alpha": 0.9}, "recipe": {"epochs": 2}, "seeds": [5]},
    ]
    plan = read_plan(write(tmp_path, runs=runs, family="resnet", teacher_seed=3))
    assert plan.profile.family == "resnet" and plan.dataset == "shapes10" and plan.teacher_seed == 3
    assert plan.runs == (
        Run("kd", 0, {"name": "kd"}),
        Run("kd", 1, {"name": "kd"}),
        Run("short", 5, {"name": "kd", "alpha": 0.9}, {"epochs": 2}),
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"run": []}, "unknown run; expected .*runs"),
        ({"runs": [{"experiment": "kd"}]}, "run 1: missing objective"),
        ({"runs": [{"experiment": "kd", "objective": {}}]}, "run 1, objective: missing name"),
        ({"runs": [{"experiment": "kd", "objective": {"name": "kd"}, "recipe": {"epoch": 2}}]}, "recipe: unknown epoch"),
        ({"runs": ["kd"]}, "run 1: a str, expected an object"),
        ({"seeds": 3}, r"run 1: seeds = 3, expected a list of whole numbers"),
        ({"seeds": ["0"]}, r"run 1: seeds = \['0'\], expected a list of whole numbers"),
        ({"runs": [{"experiment": "x", "objective": {"name": "kd"}, "recipe": {"epochs": "2"}}]}, "epochs = '2': expected a"),
    ],
)
def test_a_wrong_plan_is_named(tmp_path, changes, message):
    with pytest.raises(TrainingError, match=message):
        read_plan(write(tmp_path, **changes))


def test_a_plan_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(TrainingError, match="no such file"):
        read_plan(tmp_path / "none.json")
    (tmp_path / "half.json").write_text('{"profile": "qui')
    with pytest.raises(TrainingError, match=r"half.json: cannot be read as JSON"):
        read_plan(tmp_path / "half.json")
    with pytest.raises(UnknownNameError, match="profile 'large'"):
        read_plan(write(tmp_path, profile="large"))
    with pytest.raises(UnknownNameError, match="run 1: objective 'magic': expected one of supervised, kd"):
        read_plan(write(tmp_path, runs=[{"experiment": "x", "objective": {"name": "magic"}}]))


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name != "supervised"])
def test_an_objective_is_built_again_from_its_name(name):
    teacher, student = (pwl.build_network({**config, "num_classes": 3}) for config in (TEACHER, STUDENT))
    assert build_objective(name, teacher, student).settings()["name"] == name


def test_an_unknown_objective_or_setting_is_named():
    with pytest.raises(UnknownNameError, match="objective 'magic': expected one of supervised, kd"):
        build_objective("magic", None, None)
    teacher, student = (pwl.build_network({**config, "num_classes": 3}) for config in (TEACHER, STUDENT))
    with pytest.raises(TrainingError, match=r"objective kd .*'beta'"):
        build_objective("kd", teacher, student, beta=3)
    with pytest.raises(UnknownNameError, match="sample 'odd': expected one of random_composition"):
        build_objective("progressive", teacher, student, sample="odd")


def test_the_options_of_a_run(tmp_path):
    """A stitch, a warm start, a recalibration: each does what it says, and the record says so."""
    data, recipe = tiny_data(), {"epochs": 1}
    progressive = {"name": "progressive", "draws": 1, "sync": 0.5}  # stitched converters of tiny networks are far off at first
    plan = Plan(
        PROFILE,
        "tiny",
        0,
        (
            Run("kd", 0, {"name": "kd"}, recipe),
            Run("stitched", 0, {"name": "kd"}, recipe, {"stitch": True, "training_of": "kd"}),
            Run("warm", 0, progressive, recipe, {"start": "kd", "stitch": True}),
            Run("warm-recalibrated", 0, progressive, recipe, {"recalibrate": True, "training_of": "warm"}),
        ),
    )
    kd, stitched, warm, recalibrated = run_plan(plan, tmp_path, data, progress=False)
    assert stitched.lattice["SSSS"] == kd.lattice["SSSS"] and len(stitched.lattice) == 16
    assert stitched.history == kd.history  # nothing was trained twice
    assert stitched.objective["stitch"] and warm.objective["start"] == "kd"
    assert recalibrated.history == warm.history and recalibrated.objective["recalibrate"]
    assert recalibrated.lattice["TTTT"] == warm.lattice["TTTT"] and recalibrated.lattice != warm.lattice
    assert list(left(plan, tmp_path)) == []


def test_a_curve_holds_the_accuracy_after_each_epoch_and_changes_nothing_else(tmp_path):
    data, kd = tiny_data(), {"name": "kd"}
    recipe = {"epochs": 8, "lr": 0.1}  # long enough to learn something, whatever the rounding
    runs = (Run("plain", 0, kd, recipe), Run("curve", 0, kd, recipe, {"curve": True}))
    plain, curve = run_plan(Plan(PROFILE, "tiny", 0, runs), tmp_path, data, progress=False)
    assert curve.lattice == plain.lattice
    assert [epoch["loss"] for epoch in curve.history] == [epoch["loss"] for epoch in plain.history]
    assert all("accuracy" not in epoch for epoch in plain.history)
    assert len({epoch["accuracy"] for epoch in curve.history}) > 1
    # the shipped weights are rounded to half precision, which can turn an image of the few
    assert curve.history[-1]["accuracy"] == pytest.approx(curve.lattice["SSSS"], abs=100 / len(data.test) + 0.01)


def test_a_start_that_was_not_trained_is_named(tmp_path):
    plan = Plan(PROFILE, "tiny", 0, (Run("warm", 0, {"name": "kd"}, {}, {"start": "never"}),))
    with pytest.raises(TrainingError, match=r"start from experiment 'never': no checkpoint .*train it first"):
        run_plan(plan, tmp_path, tiny_data(), progress=False)


def test_a_checkpoint_that_began_otherwise_is_not_gone_on_from(tmp_path):
    """Deleting a record is not enough where the plan now says another start: the checkpoint is of the old one."""
    data, first, fresh = tiny_data(), Run("first", 0, {"name": "kd"}), Run("then", 0, {"name": "kd"}, {"epochs": 2})
    _, record = run_plan(Plan(PROFILE, "tiny", 0, (first, fresh)), tmp_path, data, progress=False)
    (tmp_path / "results" / "then" / f"{record.run}.json").unlink()
    warm = replace(fresh, options={"start": "first"})
    with pytest.raises(TrainingError, match=r"is of another run \(begins.start: None there, 'first' here, begins.weights: "):
        run_plan(Plan(PROFILE, "tiny", 0, (warm,)), tmp_path, data, progress=False)
    pair = {"name": "progressive", "identity": False}
    stitched = Run("pair", 0, pair, {"lr": 0.001}, {"stitch": True})
    run_plan(Plan(PROFILE, "tiny", 0, (stitched,)), tmp_path, data, progress=False)
    (tmp_path / "results" / "pair" / f"{record.run}.json").unlink()
    with pytest.raises(TrainingError, match=r"is of another run \(begins.stitch: True there, None here\)"):
        run_plan(Plan(PROFILE, "tiny", 0, (replace(stitched, options={}),)), tmp_path, data, progress=False)
