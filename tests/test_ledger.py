"""The ledger: nothing published is left out, and ours are those of the records."""

import math
import statistics

import pytest
from test_records import record

import pwl_lite as pwl
from pwl_lite import ledger as module
from pwl_lite.ledger import ledger, published


@pytest.fixture(scope="module")
def book():
    return ledger()


def test_every_published_number_has_a_row_with_ours_or_a_reason(book):
    numbers = published()
    assert len(book) == len(numbers) and (book.value == numbers.value).all()
    assert not numbers.duplicated(["paper", "table", "network", "dataset", "quantity"]).any()
    assert book.reason[book.ours.isna()].ne("").all()


@pytest.mark.parametrize(
    ("paper", "count"), [("Progressive Weight Loading", 6 * 11 + 4 + 3 + 12 + 2 + 14), ("Distillation baselines", 4 * 6 + 6)]
)
def test_the_published_tables_are_complete(paper, count):
    assert published().paper.str.startswith(paper).sum() == count


def test_some_published_numbers():
    numbers = published().set_index(["table", "network", "dataset", "quantity"]).value
    assert numbers["accuracy", "vit", "cifar10", "STTS"] == 78.2
    assert numbers["accuracy", "resnet", "cifar100", "STTT"] == 74.5
    assert numbers["accuracy", "ResNet56 -> ResNet20", "cifar100", "dkd"] == 71.97


def test_ours_is_the_mean_over_the_records(book):
    records = pwl.load_records("pwl", dataset="cifar10", family="vgg", profile="cifar")
    row = book[(book.table == "accuracy") & (book.network == "vgg") & (book.dataset == "cifar10") & (book.quantity == "TTSS")]
    mean = statistics.fmean(r.lattice["TTSS"] for r in records)
    assert float(row.ours.iloc[0]) == pytest.approx(mean)
    assert row.n.iloc[0] == len(records) and float(row.gap.iloc[0]) == pytest.approx(mean - 93.1)
    assert "smaller" in row.reason.iloc[0]


def test_a_run_of_the_paper_profile_goes_before_smaller_ones(monkeypatch):
    lattices = {"cifar": 80.0, "paper": 93.0}
    found = {
        name: [record(profile=name, lattice={"SSSS": value + seed, "TTTT": 95.0}, seed=seed) for seed in (0, 1)]
        for name, value in lattices.items()
    }
    monkeypatch.setattr(module, "load_records", lambda experiment, profile, **_: found.get(profile, []))
    row = next(published().query("table == 'accuracy' and quantity == 'SSSS'").itertuples())
    assert module._ours(row) == (93.5, 2, "")
    del found["paper"]
    assert module._ours(row)[:2] == (80.5, 2)


def test_sizes_of_the_papers_networks_follow_from_the_code(book):
    sizes = book[(book.table == "size") & (book.network != "vit")]
    assert (sizes.gap.abs() < 0.5).all() and (sizes.n == 0).all()
    assert math.isclose(sizes[sizes.quantity == "teacher parameters"].ours.iloc[0], 14.72, abs_tol=0.01)
