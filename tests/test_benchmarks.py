"""The script of benchmarks runs and says what it measured where. What it measures is not tested: that is the machine's."""

import json
import subprocess
import sys
from pathlib import Path

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
