"""The `pwl` command, run in this process on real (small) data, and once as a program of its own."""

import _thread
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from networks_for_tests import image_folder

from pwl_lite import speed, training
from pwl_lite.__main__ import main
from pwl_lite.blocknet import state_hash
from pwl_lite.manifest import read_manifest
from pwl_lite.profiles import get_profile
from pwl_lite.records import load_record
from pwl_lite.shapes10 import CLASSES
from pwl_lite.store import load_blocks


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Path:
    """An image folder with a little of shapes10: 160 training and 40 test images."""
    return image_folder(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="session")
def reproduced(images, tmp_path_factory) -> Path:
    """What `pwl reproduce quick` writes."""
    out = tmp_path_factory.mktemp("runs")
    assert main(f"reproduce quick --dataset folder --root {images} --seed 3 --quiet --out {out}".split()) == 0
    return out


@pytest.fixture
def pwl(capsys):
    """Run a command line; returns its exit code, standard output and standard error."""

    def run(line: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(line.split())
        return code, *capsys.readouterr()

    return run


def weights_of(out: Path) -> Path:
    (folder,) = (out / "weights").iterdir()
    return folder


# ---- what the commands do


def test_speed_says_for_each_seed_and_on_the_mean_whether_the_goal_is_reached(pwl, images, tmp_path, monkeypatch):
    quick = replace(get_profile("quick"), teacher=replace(get_profile("quick").teacher, epochs=1, batch_size=32))
    monkeypatch.setattr(speed, "SPEED", quick)
    line = f"reproduce speed --dataset folder --root {images} --seed 4 --runs 2 --quiet --out {tmp_path}"
    code, out, _ = pwl(line)
    assert code == 0
    assert re.search(r"seed 4: [\d.]+ % with test-time flips, [\d.]+ % without, 0.\d minutes\nseed 5: ", out)
    assert re.search(r"mean [\d.]+ ± [\d.]+ % in 0.\d minutes \(n = 2\): 94 % missed", out)
    code, _, error = pwl(line.replace("--runs 2", "--runs 0"))
    assert code != 0 and "--runs 0: expected at least 1" in error


def test_reproduce_writes_records_and_weights_that_evaluate_confirms(reproduced, images, pwl):
    (name,) = (f.stem for f in (reproduced / "results" / "pwl").glob("*.json"))
    assert name == "folder-vgg-quick-seed3"
    records = {kind: load_record(kind, name, reproduced / "results") for kind in ("teacher", "kd", "pwl")}
    assert records["pwl"].seed == 3 and len(records["pwl"].history) == get_profile("quick").student.epochs
    lattice = records["pwl"].lattice
    assert len(lattice) == 16 and lattice["TTTT"] == records["teacher"].lattice["TTTT"]

    code, out, _ = pwl(f"evaluate {weights_of(reproduced)} --dataset folder --root {images}")
    assert code == 0
    rows = dict(re.findall(r"^ *([ST]{4}) +([\d.]+)", out, re.MULTILINE))
    assert set(rows) == set(lattice)
    for composition, percent in rows.items():
        assert abs(float(percent) - lattice[composition]) <= 2.5  # one image of 40: the order of sums may differ
    code, one, _ = pwl(f"evaluate {weights_of(reproduced)} --dataset folder --root {images} --composition TTSS")
    assert code == 0 and f"TTSS: {rows['TTSS']} % of 40 test images" in one
    code, few, _ = pwl(f"evaluate {weights_of(reproduced)} --dataset folder --root {images} --all --images 10")
    assert code == 0 and {float(p) % 10 for p in re.findall(r"[ST]{4} +([\d.]+)", few)} == {0.0}


def test_evaluate_normalises_as_the_weights_expect(reproduced, images, pwl, tmp_path):
    folder = tmp_path / "net"
    shutil.copytree(weights_of(reproduced), folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["mean"] = [m + 5 for m in manifest["mean"]]  # nothing but darkness to these weights
    (folder / "manifest.json").write_text(json.dumps(manifest))
    tables = [pwl(f"evaluate {f} --dataset folder --root {images}")[1] for f in (weights_of(reproduced), folder)]
    assert tables[0] != tables[1]


def test_train_from_labels_then_distil(images, pwl, tmp_path):
    data = f"--dataset folder --root {images} --quiet"
    code, out, _ = pwl(f"train {data} --epochs 2 --seed 1 --out {tmp_path / 'teacher'}")
    assert code == 0 and "% of 40 test images after epoch 2" in out
    manifest = read_manifest(tmp_path / "teacher")
    assert manifest["kind"] == "network" and manifest["classes"] == sorted(CLASSES)
    assert manifest["extra"]["objective"]["name"] == "supervised" and len(manifest["extra"]["history"]) == 2
    assert not (tmp_path / "teacher" / "checkpoint.pt").exists()

    line = f"train {data} --epochs 2 --network student --objective kd --teacher {tmp_path / 'teacher'}"
    assert pwl(f"{line} --out {tmp_path / 'student'}")[0] == 0
    extra = read_manifest(tmp_path / "student")["extra"]
    assert extra["objective"]["name"] == "kd"
    assert extra["objective"]["teacher"] == state_hash(load_blocks(tmp_path / "teacher"))
    code, out, _ = pwl(f"evaluate {tmp_path / 'student'} --dataset folder --root {images}")
    assert code == 0 and f"network: {extra['accuracy']:.2f} % of 40 test images" in out


def test_distilling_from_the_teacher_of_a_pair(reproduced, images, pwl, tmp_path):
    line = f"train --dataset folder --root {images} --quiet --epochs 1 --network student --objective kd"
    assert pwl(f"{line} --teacher {weights_of(reproduced)} --out {tmp_path}")[0] == 0
    used = read_manifest(tmp_path)["extra"]["objective"]["teacher"]
    assert used == state_hash(load_blocks(weights_of(reproduced)).teacher)


def test_reproducing_in_slices_gives_the_same_records(images, reproduced, pwl, tmp_path):
    line = f"reproduce quick --dataset folder --root {images} --seed 3 --quiet --out {tmp_path} --max-minutes 0 --resume"
    epochs = [get_profile("quick").teacher.epochs] + 2 * [get_profile("quick").student.epochs]
    codes = []
    while not codes or codes[-1] == 3:
        code, _, err = pwl(line)
        codes.append(code)
        assert code == 0 or "paused, the time is used up; the same command with --resume goes on" in err
    assert codes == [3] * (len(codes) - 1) + [0] and len(codes) <= sum(epochs)
    name = "folder-vgg-quick-seed3"
    for kind in ("teacher", "kd", "pwl"):
        parts, whole = (load_record(kind, name, root / "results") for root in (tmp_path, reproduced))
        assert parts.lattice == whole.lattice


def test_a_plan_says_what_is_left_and_does_it(images, reproduced, pwl, tmp_path):
    file = tmp_path / "plan.json"
    runs = [{"experiment": "plain", "objective": {"name": "kd"}}]
    file.write_text(json.dumps({"profile": "quick", "dataset": "cifar10", "seeds": [3], "runs": runs}))
    code, out, _ = pwl(f"plan {file} --dry-run --out {tmp_path}")
    assert code == 0 and "0 of 1 runs are done" in out and "left: plain, seed 3" in out
    shutil.copytree(reproduced / "results" / "kd", tmp_path / "results" / "plain")
    record = json.loads((tmp_path / "results" / "plain" / "folder-vgg-quick-seed3.json").read_text())
    record |= {"experiment": "plain", "run": "cifar10-vgg-quick-seed3"}
    (tmp_path / "results" / "plain" / "cifar10-vgg-quick-seed3.json").write_text(json.dumps(record))
    code, out, _ = pwl(f"plan {file} --out {tmp_path}")
    assert code == 0 and "1 of 1 runs are done" in out and "left:" not in out
    code, _, err = pwl(f"plan {tmp_path / 'none.json'}")
    assert code == 2 and "no such file" in err


def test_interrupted_training_resumes_to_the_same_weights(images, pwl, tmp_path, monkeypatch):
    line = f"train --dataset folder --root {images} --quiet --epochs 12 --network student"
    assert pwl(f"{line} --out {tmp_path / 'whole'}")[0] == 0

    plain_save = training._Run.save

    def save_and_press_control_c(run, path) -> None:
        plain_save(run, path)
        _thread.interrupt_main()

    with monkeypatch.context() as patch:
        patch.setattr(training._Run, "save", save_and_press_control_c)
        code, _, err = pwl(f"{line} --out {tmp_path / 'parts'}")
    assert code == 130 and "interrupted; the same command with --resume" in err and "Traceback" not in err
    assert {f.name for f in (tmp_path / "parts").iterdir()} == {"checkpoint.pt"}
    done = torch.load(tmp_path / "parts" / "checkpoint.pt", weights_only=True)["history"]
    assert pwl(f"{line} --out {tmp_path / 'parts'} --resume")[0] == 0
    history = read_manifest(tmp_path / "parts")["extra"]["history"]
    assert len(history) == 12 and history[: len(done)] == done  # seconds included: these epochs did not run again
    whole, parts = load_blocks(tmp_path / "whole"), load_blocks(tmp_path / "parts")
    assert state_hash(whole) == state_hash(parts)


def test_data_prepare_says_what_is_there(pwl, tmp_path, monkeypatch):
    monkeypatch.setenv("PWL_DATA_DIR", str(tmp_path))
    folder = tmp_path / "cifar10"
    folder.mkdir()
    (folder / "classes.json").write_text(json.dumps([f"class {i}" for i in range(10)]))
    for split, n in (("train", 20), ("test", 10)):
        np.save(
            folder / f"{split}_images.npy",
            np.random.default_rng(n).integers(0, 256, (n, 32, 32, 3), np.uint8),
        )
        np.save(folder / f"{split}_labels.npy", np.arange(n, dtype=np.uint8) % 10)
    code, out, _ = pwl("data prepare cifar10")
    assert code == 0 and out.startswith("cifar10: 20 training + 10 test images")
    (folder / "test_labels.npy").unlink()
    code, out, err = pwl("data prepare cifar10")
    assert code == 2 and "test_labels.npy" in err and err.count("\n") == 1


def test_doctor_names_what_is_there_and_what_is_not(pwl, tmp_path, monkeypatch):
    monkeypatch.setenv("PWL_DATA_DIR", str(tmp_path))
    (tmp_path / "cifar100").mkdir()
    (tmp_path / "cifar100" / "classes.json").write_text("no JSON")
    code, out, _ = pwl("doctor")
    assert code == 0
    for pattern in (
        r"^  torch +\d+\.\d+",
        r"^  (cpu|cuda): .+, \d+ threads",
        r"bf16 units: \w+",
        r"bf16 autocast (on|off), channels-last (on|off)",
        r"^  shapes10 +built in",
        r"^  cifar10 +not there; `pwl data prepare cifar10` downloads it",
        r"^  cifar100 +damaged: .*classes\.json",
        r"^  \d+ records",
    ):
        assert re.search(pattern, out, re.MULTILINE), pattern


# ---- what is wrong is said in one line


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("reproduce qiuck", "profile 'qiuck': expected one of quick, cifar, paper"),
        ("reproduce quick --family vvg", "family 'vvg': expected one of vgg"),
        ("reproduce quick --dataset cifr", "dataset 'cifr': expected one of cifar10, cifar100, folder"),
        ("reproduce quick --dataset folder", "root=FOLDER"),
        ("train --profile tiny", "profile 'tiny': expected one of"),
        ("train --objective kd", "--objective kd: expected --teacher WEIGHTS"),
        ("train --teacher x", "--objective supervised: expected --teacher WEIGHTS with kd, and only with kd"),
        ("train --epochs 0", "epochs = 0: expected a number above 0"),
        ("train --dataset folder --root {tmp}/nowhere", "nowhere: no such folder"),
        ("evaluate nosuch --dataset shapes10", "weights 'nosuch': expected one of"),
        ("evaluate {tmp}/nowhere --dataset shapes10", "nowhere: no such folder"),
        ("evaluate {tmp} --dataset shapes10", "manifest.json: missing"),
        ("evaluate {pair} --dataset cifr", "dataset 'cifr': expected one of"),
        ("evaluate {pair} --dataset folder --composition TTX", "composition 'TTX': expected 4 letters"),
        ("evaluate {pair} --dataset folder --root {images} --images 41", "41 images: expected 1 to 40"),
        ("data prepare shapes10 mnist", "dataset 'mnist': expected one of cifar10, cifar100, shapes10"),
        ("data prepare folder", "dataset 'folder': expected one of cifar10, cifar100, shapes10"),
    ],
)  # fmt: skip
def test_mistakes_are_named_in_one_line(reproduced, images, tmp_path, pwl, line, expected):
    code, _, err = pwl(line.format(tmp=tmp_path, pair=weights_of(reproduced), images=images))
    assert code == 2
    assert err.startswith("pwl: error: ") and err.count("\n") == 1 and expected in err
    assert list(tmp_path.iterdir()) == []


def test_weights_for_other_classes_are_refused(reproduced, images, tmp_path, pwl):
    shutil.copytree(images, tmp_path / "images")
    for split in ("train", "test"):
        (tmp_path / "images" / split / "star").rename(tmp_path / "images" / split / "zebra")
    line = f"evaluate {weights_of(reproduced)} --dataset folder --root {tmp_path / 'images'}"
    code, _, err = pwl(line)
    assert code == 2 and "dataset 'folder' has the classes" in err and "expected those of" in err


def test_composition_of_a_single_network_is_refused(images, tmp_path, pwl):
    data = f"--dataset folder --root {images}"
    assert pwl(f"train {data} --quiet --epochs 1 --network student --out {tmp_path}")[0] == 0
    code, _, err = pwl(f"evaluate {tmp_path} {data} --composition SSSS")
    assert code == 2 and "holds a single network" in err


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", "required: COMMAND"),
        ("evalute", "invalid choice: 'evalute'"),
        ("train --network both", "invalid choice: 'both' (choose from"),
        ("train --colour red", "unrecognized arguments: --colour red"),
        ("evaluate", "required: WEIGHTS"),
        ("evaluate x --dataset y --composition SS --all", "not allowed with"),
        ("data prepare", "required: NAME"),
    ],
)
def test_wrong_usage(pwl, line, expected):
    code, _, err = pwl(line)
    assert code == 2 and expected in err


def test_a_place_that_cannot_be_written_is_named_in_one_line(images, tmp_path, pwl):
    (tmp_path / "file").write_text("")
    code, _, err = pwl(f"train --dataset folder --root {images} --quiet --epochs 1 --out {tmp_path / 'file' / 'net'}")
    assert code == 2 and err.count("\n") == 1 and "could not be written" in err


# ---- as a program


def test_help_loads_nothing_heavy():
    code = "import sys; from pwl_lite.__main__ import main; print(main(['--help']), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("0 False\n") and "reproduce" in done.stdout


def test_program_ends_with_the_exit_code_and_no_traceback():
    command = [sys.executable, "-m", "pwl_lite", "data", "prepare", "mnist"]
    root = str(Path(__file__).resolve().parents[1])
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": root})
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "dataset 'mnist'" in done.stderr


def test_a_reader_who_leaves_early_is_no_error():
    """`pwl plan FILE --dry-run | head -1`"""
    plan = Path(__file__).parents[1] / "data" / "plans" / "ablations.json"
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "pwl_lite", "plan", str(plan), "--dry-run"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_speed_says_what_it_has_no_use_for(pwl):
    code, _, err = pwl("reproduce speed --family resnet --no-weights")
    assert code == 2 and "--family, --no-weights: speed trains one network of its own and keeps no weights; leave it out" in err
