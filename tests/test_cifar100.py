"""CIFAR-100 from the cache to the records, on a small sample of noise: 100 classes, every family, the networks of the paper."""

import json
from dataclasses import replace

import numpy as np
import pytest

import pwl_lite as pwl
from pwl_lite.profiles import PROFILES, get_profile
from pwl_lite.reproduce import reproduce

PAIRS = [(name, family) for name, families in PROFILES.items() if name != "quick" for family in families]


@pytest.fixture
def sample(tmp_path, monkeypatch):
    """A cache that holds CIFAR-100's form: 100 images of noise for training and 100 for testing, one of each class."""
    folder = tmp_path / "cache" / "cifar100"
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for split in ("train", "test"):
        np.save(folder / f"{split}_images.npy", generator.integers(0, 256, (100, 32, 32, 3), np.uint8))
        np.save(folder / f"{split}_labels.npy", np.arange(100, dtype=np.uint8))
    (folder / "classes.json").write_text(json.dumps([f"class {i}" for i in range(100)]))
    monkeypatch.setenv("PWL_DATA_DIR", str(tmp_path / "cache"))


@pytest.mark.parametrize(("name", "family"), PAIRS)
def test_cifar100_runs_through(sample, tmp_path, name, family):
    profile = get_profile(name, family)
    short = {"epochs": 1, "batch_size": 50, "lr": 1e-3}
    profile = replace(profile, teacher=replace(profile.teacher, **short), student=replace(profile.student, **short))
    records = reproduce(profile, "cifar100", root=tmp_path, progress=False)
    assert records["pwl"].run == f"cifar100-{family}-{name}-seed0"
    assert records["pwl"].teacher["config"]["num_classes"] == records["kd"].student["config"]["num_classes"] == 100
    assert len(records["pwl"].lattice) == 16
    net = pwl.load_blocks(tmp_path / "weights" / records["pwl"].weights)
    data = pwl.load_dataset("cifar100")
    assert pwl.predict(net, data.test, "TSST").shape == (100, 100)
    assert pwl.accuracy(net, data.test, "SSSS") == pytest.approx(records["pwl"].lattice["SSSS"], abs=1.01)  # one image
