"""Several processes train as one does: real processes, started by Accelerate, that talk to each other."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from networks_for_tests import image_folder, tiny_data, tiny_pair

import pwl_lite as pwl
from pwl_lite import distributed, training
from pwl_lite.distributed import Processes, processes
from pwl_lite.errors import TrainingError
from pwl_lite.objectives import build_objective

SCRIPT = str(Path(__file__).with_name("train_in_processes.py"))
LAUNCH = ["-m", "accelerate.commands.accelerate_cli", "launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
LAUNCH += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]


def python(*words: str) -> subprocess.CompletedProcess:
    # one thread each, without a GPU, over the loopback: the same on every machine
    variables = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true", "GLOO_SOCKET_IFNAME": "lo"}
    environment = {**os.environ, **(variables if sys.platform == "linux" else {**variables, "GLOO_SOCKET_IFNAME": "lo0"})}
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, env=environment, timeout=300)


def losses(folder: Path) -> list[dict[str, float]]:
    return json.loads((folder / "losses.json").read_text())["losses"]


def assert_same_losses(a: list[dict[str, float]], b: list[dict[str, float]]) -> None:
    assert len(a) == len(b) == 20
    for step, (one, other) in enumerate(zip(a, b, strict=True), start=1):
        assert one == pytest.approx(other, abs=1e-4), f"step {step}"


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    ended = python(SCRIPT, str(folder))
    assert ended.returncode == 0, ended.stderr
    return folder


def test_two_processes_have_the_losses_of_one_even_if_one_is_killed_on_the_way(alone, tmp_path):
    killed = python(*LAUNCH, SCRIPT, str(tmp_path), "--die-after", "7")
    assert killed.returncode != 0
    assert not (tmp_path / "losses.json").exists()
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["history"]
    assert len(saved) == 7
    ended = python(*LAUNCH, SCRIPT, str(tmp_path))
    assert ended.returncode == 0, ended.stderr
    assert_same_losses(losses(tmp_path), losses(alone))
    assert losses(alone)[0]["kd"] > 2 * losses(alone)[-1]["kd"]  # they have learnt, so there was something to get wrong


def test_the_command_runs_in_two_processes_and_speaks_with_one_voice(tmp_path):
    words = ["-m", "pwl_lite", "train", "--epochs", "1", "--quiet", "--network", "student", "--out", str(tmp_path)]
    ended = python(*LAUNCH, *words)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("after epoch 1") == 1
    assert pwl.load_blocks(tmp_path).num_blocks == 4
    assert not list(tmp_path.glob(".*"))  # nothing half-written is left by either


def test_a_whole_reproduction_in_two_processes_leaves_the_files_of_one(tmp_path):
    line = f"-m pwl_lite reproduce quick --dataset folder --root {image_folder(tmp_path / 'images')} --quiet --out"
    ended = python(*LAUNCH, *line.split(), str(tmp_path / "two"))
    assert ended.returncode == 0, ended.stderr
    for name in ("teacher", "kd", "pwl"):
        assert ended.stdout.count(f"{name} (folder-vgg-quick-seed0, ") == 1
    assert python(*line.split(), str(tmp_path / "one")).returncode == 0
    files = [sorted(p.relative_to(tmp_path / out) for p in (tmp_path / out).rglob("*")) for out in ("two", "one")]
    assert files[0] == files[1]
    for name in ("teacher", "kd", "pwl"):
        two, one = (pwl.load_record(name, "folder-vgg-quick-seed0", tmp_path / out / "results") for out in ("two", "one"))
        assert two.lattice.keys() == one.lattice.keys() and two.recipe == one.recipe
        assert [set(epoch["loss"]) for epoch in two.history] == [set(epoch["loss"]) for epoch in one.history]
        if name == "teacher":  # of a fresh network; what comes later magnifies rounding
            assert two.history[0]["loss"] == pytest.approx(one.history[0]["loss"], rel=0.01)


def test_alone_nothing_is_shared():
    assert processes() == Processes(0, 1)
    net = tiny_pair()[1]
    norms = [type(m) for m in net.modules()]
    distributed.share_batch_norm(net)
    assert [type(m) for m in net.modules()] == norms


def test_shares_are_a_partition_also_of_each_part_of_the_batch():
    batch = torch.arange(24)
    shares = [Processes(i, 3).share(batch) for i in range(3)]
    assert sorted(torch.cat(shares).tolist()) == batch.tolist()
    quarters = [torch.cat([share[2 * k : 2 * k + 2] for share in shares]) for k in range(4)]
    assert all(sorted(q.tolist()) == list(range(6 * k, 6 * k + 6)) for k, q in enumerate(quarters))


def test_a_batch_that_cannot_be_shared_evenly_is_refused(monkeypatch):
    monkeypatch.setattr(training, "processes", lambda: Processes(0, 3))
    with pytest.raises(TrainingError, match="batch_size = 16: expected a multiple of the 3 processes"):
        pwl.train(pwl.Supervised(tiny_pair()[1]), tiny_data(), pwl.Recipe(epochs=1, batch_size=16))


@pytest.mark.parametrize("name", ["relational", "crd", "extraction", "pca"])
def test_what_needs_the_whole_batch_is_refused(monkeypatch, name):
    monkeypatch.setattr(training, "processes", lambda: Processes(0, 2))
    objective = build_objective(name, *tiny_pair())
    with pytest.raises(TrainingError, match=r"in 2 processes: it needs all images of a batch in one; start a single one"):
        pwl.train(objective, tiny_data(), pwl.Recipe(epochs=1, batch_size=16))


def test_shared_norms_can_take_the_plain_mean_of_all_batches(monkeypatch):
    monkeypatch.setattr(distributed, "_mean_over_processes", lambda values: values)
    plain = torch.nn.BatchNorm2d(3, momentum=None)
    shared = distributed._SharedBatchNorm2d.of(torch.nn.BatchNorm2d(3, momentum=None))
    for _ in range(3):
        images = torch.randn(4, 3, 5, 5)
        torch.testing.assert_close(shared(images), plain(images), rtol=1e-4, atol=1e-5)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(shared.state_dict()[name], value, rtol=1e-4, atol=1e-5)


def test_without_accelerate_the_way_out_is_named(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(TrainingError, match="pip install accelerate"):
        processes.__wrapped__()
