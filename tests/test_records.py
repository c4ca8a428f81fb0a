"""A run is read back whole or refused."""

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import pwl_lite
from pwl_lite import records
from pwl_lite.errors import RecordError, SaveError, UnknownNameError
from pwl_lite.records import Record, environment, load_record, load_records


def record(**changes) -> Record:
    values = {
        "experiment": "pwl",
        "run": "shapes10-vgg-quick-seed0",
        "profile": "quick",
        "dataset": "shapes10",
        "family": "vgg",
        "seed": 0,
        "objective": {"name": "progressive", "cross": 2.0},
        "recipe": {"epochs": 2, "lr": 0.1},
        "teacher": {"params": 10, "bytes": 40, "macs": 100},
        "student": {"params": 1, "bytes": 4, "macs": 10},
        "lattice": {"SS": 61.25, "TS": 70, "ST": 71.5, "TT": 80.0},
        "agreement": {"SS": 66.5, "TS": 75.0, "ST": 77.5, "TT": 100.0},
        "costs": {"SS": {"bytes": 4, "macs": 10}, "TT": {"bytes": 40, "macs": 100}},
        "history": [{"epoch": e, "loss": {"kd": 1.5 / e}, "lr": 0.1, "seconds": 1.25} for e in (1, 2)],
        "weights": "shapes10-vgg-quick-seed0",
        "environment": {"python": "3.11"},
        "seconds": 2.5,
    }
    return Record(**{**values, **changes})


# ---- records


def test_record_comes_back_equal(tmp_path):
    saved = record()
    path = saved.save(tmp_path)
    assert path == tmp_path / "pwl" / "shapes10-vgg-quick-seed0.json"
    assert load_record("pwl", "shapes10-vgg-quick-seed0", tmp_path) == saved
    assert load_record("pwl", "shapes10-vgg-quick-seed0", tmp_path) != record(seconds=3.0)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", saved.finished)
    content = json.loads(path.read_text())
    assert content["schema"] == 1 and content["lattice"]["TT"] == 80.0
    assert [f.name for f in path.parent.iterdir()] == [path.name]
    assert len(path.read_text().splitlines()) < 30  # one line per field and epoch: small diffs


def test_teacher_alone_has_no_student(tmp_path):
    record(experiment="teacher", student=None, weights=None).save(tmp_path)
    assert load_record("teacher", record().run, tmp_path).student is None


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"schema": 2}, "schema 2, expected 1"),
        ({"schema": "1"}, "schema '1', expected 1"),
        ({"colour": "red"}, "unknown field colour; expected experiment, run"),
        ({"seed": "0"}, "seed is '0', expected int"),
        ({"seed": True}, "seed is True, expected int"),
        ({"student": 3}, "student is 3, expected dict or null"),
        ({"lattice": {"SX": 50.0}}, "lattice has 'SX': 50.0"),
        ({"lattice": {"SS": 101}}, "lattice has 'SS': 101"),
        ({"lattice": {"SS": None}}, "lattice has 'SS': None"),
        ({"agreement": {"SS": -0.5}}, "agreement has 'SS': -0.5"),
        ({"run": "another"}, "is of pwl/another, expected pwl/shapes10"),
    ],
)
def test_damaged_record_names_file_value_and_what_was_expected(tmp_path, changes, expected):
    path = record().save(tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(RecordError, match=re.escape(expected)) as error:
        load_record("pwl", path.stem, tmp_path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("name", ["schema", "lattice", "environment", "seed"])
def test_missing_field_is_named(tmp_path, name):
    path = record().save(tmp_path)
    content = json.loads(path.read_text())
    del content[name]
    path.write_text(json.dumps(content))
    with pytest.raises(RecordError, match=rf"{path.name}: (missing field {name}|schema None, expected 1)"):
        load_record("pwl", path.stem, tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[1]", "\x00", "[" * 100_000])
def test_what_is_no_record_is_refused(tmp_path, text):
    path = record().save(tmp_path)
    path.write_text(text)
    with pytest.raises(RecordError, match=re.escape(str(path))):
        load_record("pwl", path.stem, tmp_path)


def test_missing_record_lists_those_that_are_there(tmp_path):
    for seed in (0, 1):
        record(run=f"run-seed{seed}", seed=seed).save(tmp_path)
    record(experiment="kd").save(tmp_path)
    with pytest.raises(RecordError, match=r"no record 'run-seed2' of 'pwl'.*pwl/run-seed0, pwl/run-seed1$"):
        load_record("pwl", "run-seed2", tmp_path)
    with pytest.raises(RecordError, match=r"no experiment 'plw'.*: there are kd, pwl$"):
        load_records("plw", tmp_path)
    with pytest.raises(RecordError, match="there are none at all"):
        load_record("pwl", "run", tmp_path / "nowhere")


def test_records_by_filter_in_the_order_of_seeds(tmp_path):
    for seed in (10, 2, 0):
        record(run=f"shapes10-vgg-seed{seed}", seed=seed).save(tmp_path)
    record(run="cifar10-vgg-seed0", dataset="cifar10").save(tmp_path)
    found = load_records("pwl", tmp_path)
    assert [r.run[:8] for r in found] == ["cifar10-", "shapes10", "shapes10", "shapes10"]
    assert [r.seed for r in load_records("pwl", tmp_path, dataset="shapes10")] == [0, 2, 10]
    assert [r.seed for r in load_records("pwl", tmp_path, dataset="shapes10", seed=2)] == [2]
    assert load_records("pwl", tmp_path, dataset="cifar100") == []
    with pytest.raises(UnknownNameError, match="field of a record 'data': expected one of experiment, run"):
        load_records("pwl", tmp_path, data="cifar10")


@pytest.mark.parametrize("name", ["../x", "a/b", "", "..", ".hidden", "a b", "/x", None])
def test_names_that_are_no_file_names_are_refused(tmp_path, name):
    for changes in ({"experiment": name}, {"run": name}):
        with pytest.raises(RecordError, match="expected a name of letters"):
            record(**changes).save(tmp_path / "results")
    with pytest.raises(RecordError, match="expected a name of letters"):
        load_record("pwl", name, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"history": [{"loss": float("nan")}]}, "history"),
        ({"objective": {"net": torch.zeros(1)}}, "objective"),
        ({"seed": 0.5}, "seed is 0.5, expected int"),
        ({"schema": 7}, "schema 7, expected 1"),
        ({"lattice": {"SS": float("nan")}}, "lattice"),
    ],
)
def test_what_a_record_may_not_hold_is_not_saved(tmp_path, changes, expected):
    with pytest.raises(RecordError, match=expected):
        record(**changes).save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_full_disk_leaves_the_earlier_record(tmp_path):
    path = record().save(tmp_path)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) - 1, hard))  # no file may grow beyond this
    try:
        with pytest.raises(SaveError, match=re.escape(str(path))):
            record(seconds=30.0).save(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before and [f.name for f in path.parent.iterdir()] == [path.name]


# ---- where a run took place, and where records and weights lie


def test_environment_says_what_a_reader_needs_to_trust_a_run():
    found = environment("cpu", data_sha256="ab" * 32)
    assert set(found) == {"python", "torch", "device", "threads", "commit", "data_sha256"}
    assert found["python"] == ".".join(map(str, sys.version_info[:3])) and found["torch"] == torch.__version__
    assert found["threads"] == torch.get_num_threads() and found["data_sha256"] == "ab" * 32
    assert found["device"] and os.uname().nodename not in found["device"]
    json.dumps(found)


def ship(data: Path) -> None:
    record().save(data / "results")
    (data / "weights" / "net").mkdir(parents=True)
    (data / "weights" / "net" / "manifest.json").write_text("{}")


def test_installed_package_finds_its_own_copy_and_never_writes_into_it(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "PACKAGE", tmp_path / "site" / "pwl_lite")
    data = tmp_path / "site" / "pwl_lite" / "_data"
    with pytest.raises(RecordError, match=r"no records in .*_data.results: make them"):
        load_records("pwl")
    ship(data)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert records.data_folder() == data and records.checkout() is None
    assert [r.run for r in load_records("pwl")] == [record().run]
    assert records.find_weights("net") == data / "weights" / "net"
    assert record().save() == tmp_path / "here" / "data" / "results" / "pwl" / f"{record().run}.json"
    assert records.commit() == pwl_lite.__version__


def test_checkout_finds_its_data_and_its_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "PACKAGE", tmp_path / "pwl_lite")
    (tmp_path / "pyproject.toml").write_text("")
    ship(tmp_path / "data")
    assert records.data_folder() == tmp_path / "data"
    assert record().save() == tmp_path / "data" / "results" / "pwl" / f"{record().run}.json"

    def git(*args: str) -> str:
        settings = [
            "user.name=x",
            "user.email=x@example.org",
            "commit.gpgsign=false",
            "core.hooksPath=/dev/null",
        ]
        command = ["git", *(word for setting in settings for word in ("-c", setting)), *args]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()

    git("init", "--quiet")
    assert records.commit() == pwl_lite.__version__  # nothing committed yet: the version
    git("add", "pyproject.toml")
    git("commit", "--quiet", "-m", "start")
    head = git("rev-parse", "--short", "HEAD")
    assert records.commit() == environment("cpu")["commit"] == head
    (tmp_path / "pyproject.toml").write_text("# changed\n")
    assert records.commit() == f"{head}-dirty"


def test_missing_weights_list_those_that_are_there(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "PACKAGE", tmp_path / "pwl_lite")
    with pytest.raises(UnknownNameError, match=r"weights 'net': expected one of \(none are here"):
        records.find_weights("net")
    ship(tmp_path / "pwl_lite" / "_data")
    (tmp_path / "pwl_lite" / "_data" / "weights" / "incomplete").mkdir()
    for name in ("nut", "../results", "incomplete", "", "."):
        with pytest.raises(UnknownNameError, match=re.escape(f"weights {name!r}: expected one of net")):
            records.find_weights(name)


def test_a_measurement_that_is_not_there_or_damaged_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "PACKAGE", tmp_path / "pwl_lite")
    folder = tmp_path / "pwl_lite" / "_data" / "benchmarks"
    with pytest.raises(RecordError, match=r"no measurement 'parity' in .*benchmarks: there are none at all"):
        records.load_measurement("parity")
    folder.mkdir(parents=True)
    (folder / "parity.json").write_text('{"points": [1]}')
    (folder / "torn.json").write_text('{"points": [')
    assert records.load_measurement("parity") == {"points": [1]}
    for name in ("load", "../benchmarks/parity", ""):
        with pytest.raises(RecordError, match=re.escape(f"no measurement {name!r} in {folder}: there are parity, torn")):
            records.load_measurement(name)
    with pytest.raises(RecordError, match=r"torn.json: cannot be read as JSON"):
        records.load_measurement("torn")
