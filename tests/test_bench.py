"""`pwl bench load` measures what it says and writes it down. How fast anything is, is not tested: that is the machine's."""

import json
import os
from argparse import Namespace
from contextlib import nullcontext

import pytest

from pwl_lite import bench, bench_tasks
from pwl_lite.__main__ import main
from pwl_lite.server import ShardServer


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """What the real command writes, with tiny networks and one link."""
    out = tmp_path_factory.mktemp("bench") / "load.json"
    assert main(["bench", "load", "--quick", "--links", "2", "--out", str(out)]) == 0
    assert [file.name for file in out.parent.iterdir()] == ["load.json"]  # nothing temporary is left
    return json.loads(out.read_text())


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return bench.make_pair("tiny", tmp_path_factory.mktemp("pairs") / "tiny")


def test_the_result_says_what_was_measured_where(measured):
    about, settings, results = (measured[key] for key in ("environment", "settings", "results"))
    assert about["threads"] > 0 and about["torch"] and about["device"]
    assert settings["runs"] == 1 and settings["quick"] and settings["links"] == [2.0]
    assert "posix_fadvise" in settings["cold"] or "copy" in settings["cold"]
    assert set(results) == {"cores", "pairs", "imports", "loads", "requests", "memory", "bytes", "goals"}
    assert {(x["place"], x["loader"]) for x in results["loads"]} == {
        ("disk, warm", "ours"),
        ("disk, warm", "ours, verify=False"),
        ("disk, warm", "safetensors"),
        ("disk, cold", "safetensors"),
        ("2 MB/s", "ours"),
        ("2 MB/s", "safetensors"),
    }
    for goal in results["goals"]:
        assert goal["limit"] > 0 and goal["met"] == (goal["found"] <= goal["limit"])


def test_times_are_positive_and_in_order(measured):
    for row in measured["results"]["loads"]:
        for key in {"first", "whole"} & set(row):
            low, high = row[key]["quartiles"]
            assert 0 < low <= row[key]["median"] <= high and row[key]["n"] == 1
        assert ("first" in row) == row["loader"].startswith("ours")
    imports = measured["results"]["imports"]
    assert imports["import torch"]["median"] > imports["import"]["median"] > 0
    assert imports["unwanted"] == []  # neither matplotlib, pandas nor torchvision


def test_on_a_limited_link_the_student_answers_long_before_the_teacher(measured):
    results = measured["results"]
    times = {row["loader"]: row for row in results["loads"] if row["place"] == "2 MB/s"}
    assert times["ours"]["first"]["median"] < times["ours"]["whole"]["median"] / 2
    assert times["ours"]["first"]["median"] < times["safetensors"]["whole"]["median"]
    for loader, key in (("ours", "all"), ("safetensors", "teacher")):
        assert times[loader]["whole"]["median"] > 0.9 * results["pairs"]["tiny"][key] / 2e6  # the link was limited


def test_requests_while_streaming_are_compared_with_those_at_rest(measured):
    rows, cores = measured["results"]["requests"], measured["results"]["cores"]
    assert [row["cores"] for row in rows] == sorted({max(1, cores - 1), cores})  # one core left to what streams, and none
    for row in rows:
        assert row["place"] == "2 MB/s"
        assert {"SSSS", "TSSS"} <= set(row["compositions"]) <= {"SSSS", "TSSS", "TTSS", "TTTS", "TTTT"}
        for composition in row["compositions"].values():
            for state in ("streaming", "rest"):
                assert 0 < composition[state]["p50"] <= composition[state]["p99"] and composition[state]["n"] > 0
            assert composition["ratio of p99"] > 0
        assert 0 < row["longest"]["swaps"] < 1 and 0 <= row["longest"]["pauses"] < 10


def test_memory_is_compared_with_the_weights(measured):
    (row,) = measured["results"]["memory"]
    assert row["peak"] >= row["teacher"] > row["largest shard"] > row["student"] > 0
    assert row["peak"] >= row["unloaded"]


def test_bytes_are_those_of_real_shards(measured):
    sizes = {row["precision"]: row for row in measured["results"]["bytes"]["precisions"]}
    assert list(sizes) == ["float32", "float16", "bfloat16", "int8", "student int8, teacher float16"]
    for row in sizes.values():
        assert row["all"] > row["teacher"] + row["student"] > row["teacher"] > row["student"] > 0
        assert row["added"] == pytest.approx(100 * (row["all"] / row["teacher"] - 1), abs=0.01)
    assert sizes["float32"]["teacher"] > 1.9 * sizes["float16"]["teacher"] > 3.5 * sizes["int8"]["teacher"]
    mixed = sizes["student int8, teacher float16"]
    assert mixed["teacher"] == sizes["float16"]["teacher"] and mixed["student"] == sizes["int8"]["student"]


@pytest.mark.parametrize("loader", bench.ALONE)
@pytest.mark.parametrize("over_a_link", [False, True])
def test_every_loader_of_the_teacher_alone_answers(pair, loader, over_a_link):
    with ShardServer(pair.folder) as server:
        place = server.url if over_a_link else str(pair.folder)
        answer = bench_tasks.load_alone({"loader": loader, "place": place, "manifest": pair.manifest})
    assert 0 < answer["whole"] < 60


def test_the_teacher_alone_is_the_teacher_of_the_pair(pair):
    import safetensors.torch
    import torch

    from pwl_lite.store import load_blocks

    wanted = load_blocks(pair.folder).teacher.state_dict()
    for state in (
        safetensors.torch.load_file(pair.folder / bench.ALONE["safetensors"]),
        torch.load(pair.folder / bench.ALONE["torch.load"], weights_only=True),
    ):
        assert state.keys() == wanted.keys() and all(torch.equal(state[key], wanted[key]) for key in wanted)


def test_a_large_teacher_has_100_megabytes_and_its_student_a_tenth():
    import torch

    from pwl_lite.blocknet import num_bytes
    from pwl_lite.networks import build_network

    with torch.device("meta"):
        teacher, student = (build_network({"family": "vgg", "layers": layers}) for layers in bench.LARGE)
    assert num_bytes(teacher) == pytest.approx(100e6, rel=0.05) and num_bytes(student) == pytest.approx(10e6, rel=0.05)


class Pretence(nullcontext):
    """A worker without a process: a function says how long a task takes."""

    def __init__(self, seconds):
        super().__init__(self)
        self.seconds = seconds

    def ready(self):
        pass

    def do(self, task):
        return {"whole": self.seconds(task)}


def test_where_the_file_cache_cannot_be_dropped_there_are_fresh_copies(pair, monkeypatch):
    places = []
    monkeypatch.setattr(bench, "Worker", lambda *about: Pretence(lambda task: places.append(task["place"]) or 1.0))
    monkeypatch.setattr(bench, "forget", lambda folder: False)
    bench.measure_loads(pair, bench.COLD, ["safetensors"], runs=2)
    assert len(set(places)) == 2 and str(pair.folder) not in places and not any(map(os.path.exists, places))


def test_loaders_take_turns_and_quartiles_are_of_all_runs(pair, monkeypatch):
    seconds = iter([1.0, 10.0, 2.0, 20.0, 3.0, 30.0])
    monkeypatch.setattr(bench, "Worker", lambda *about: Pretence(lambda task: next(seconds)))
    ours, theirs = bench.measure_loads(pair, bench.DISK, ["safetensors", "torch.load"], runs=3)
    assert ours["whole"] == {"median": 2.0, "quartiles": [1.5, 2.5], "n": 3}
    assert theirs["whole"] == {"median": 20.0, "quartiles": [15.0, 25.0], "n": 3}


def test_a_goal_that_is_missed_is_said():
    whole = {"pair": "large", "place": "10 MB/s", "loader": "safetensors", "whole": {"median": 10.0}}
    ours = {**whole, "loader": "ours", "first": {"median": 1.4}, "whole": {"median": 12.0}}
    stored = {"student": 10, "teacher": 100, "all": 112}
    results = {"pairs": {"large": stored}, "loads": [whole, ours], "requests": [], "memory": []}
    first, teacher = bench.goals_of(results)
    assert first["met"] and (first["found"], first["limit"]) == (0.14, 0.15)
    assert not teacher["met"] and (teacher["found"], teacher["limit"]) == (1.2, 1.17)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--runs 0", "--runs 0: expected at least 1"),
        ("--links 2,fast", "--links '2,fast': expected rates in MB/s"),
        ("--links 0", "--links '0': expected rates in MB/s"),
        ("--links nan", "--links 'nan': expected rates in MB/s"),
        ("--pairs cifar,huge", "pair 'huge': expected one of cifar, large"),
    ],
)
def test_wrong_options_are_named_in_one_line(line, expected, capsys, tmp_path):
    assert main(["bench", "load", "--out", str(tmp_path / "x.json"), *line.split()]) == 2
    err = capsys.readouterr().err
    assert err.startswith("pwl: error: ") and err.count("\n") == 1 and expected in err
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_said_before_anything_is_measured(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(bench, "Worker", lambda *about: pytest.fail("it was measured"))
    options = Namespace(runs=1, links="2", pairs="cifar", out=str(tmp_path / "file" / "x.json"), quick=True)
    with pytest.raises(bench.PWLError, match="--out"):
        bench.run(options)


def test_a_measurement_that_fails_says_why(pair):
    with bench.Worker("alone", "disk") as worker, pytest.raises(bench.PWLError, match=r"alone at /nowhere failed: KeyError"):
        worker.do({"loader": "pickle", "place": "/nowhere", "manifest": pair.manifest})
