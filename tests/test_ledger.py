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
    ("paper", "count"),
    [("Progressive Weight Loading", 6 * 11 + 4 + 3 + 12 + 2 + 16 + 30), ("Distillation baselines", 4 * 6 + 7)],
)
def test_the_published_tables_are_complete(paper, count):
    assert published().paper.str.startswith(paper).sum() == count


def test_some_published_numbers():
    numbers = published().set_index(["table", "network", "dataset", "quantity"]).value
    assert numbers["accuracy", "vit", "cifar10", "STTS"] == 78.2
    assert numbers["accuracy", "resnet", "cifar100", "STTT"] == 74.5
    assert numbers["accuracy", "ResNet56 -> ResNet20", "cifar100", "dkd"] == 71.97


def test_the_networks_of_the_paper_profile_have_the_published_shape(book):
    shapes = book[book.table == "shape"]
    assert len(shapes) == 5 * 3 + 4 * 3 + 3 and (shapes.gap == 0).all()
    settings = book[(book.paper.str.startswith("Progressive Weight")) & (book.table == "setting") & book.ours.notna()]
    assert len(settings) == 13 and (settings.gap.abs() < 1e-9).all()


def test_counts_of_different_totals_have_no_gap(book):
    row = book[book.quantity.str.startswith("table columns in which")].iloc[0]
    assert row.unit == "of 6" and row.n < 6 and row.gap != row.gap


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


def test_rows_of_sparse_parity_are_those_of_the_benchmark(monkeypatch):
    curve = {"samples": [0, 10, 20], "accuracy": [[0.5, 0.6, 1], [0.5, 0.5, 0.5]]}
    methods = {
        name: {"lr": lr, "samples to 99 %": to, "accuracy at the end": ends, "curve": curve}
        for name, lr, to, ends, curve in (
            ("cross entropy", 0.5, [900_000, None], [1.0, 0.5], curve),
            ("one-shot", 1.0, [None, None], [0.5, 0.6], {}),
            ("two checkpoints: before", 0.25, [None, None], [0.5, 0.6], {}),
            ("two checkpoints: after", 0.5, [None, None], [0.7, 1.0], {}),
            ("two checkpoints: inside", 0.5, [100_000, 300_000], [1.0, 1.0], {}),
            ("progressive, a grid", 0.5, [400_000, 600_000], [1.0, 1.0], {}),
        )
    }
    settings = {"n": 50, "k": 5, "width": 32, "teacher_width": 256, "budget": 1_000_000, "seeds": [0, 1]}
    point = {"settings": settings, "methods": methods, "teacher": {"support inside": [0.1, 0.3]}}
    monkeypatch.setattr(module, "_benchmark", lambda name: {"points": {"a": point}} if name == "parity" else None)
    rows = published().query("table == 'sparse parity'")
    found = {row.quantity: module._ours(row) for row in rows.itertuples()}
    assert found["bits"][:2] == (50, 0) and found["lowest learning rate"][0] == 0.25
    assert found["samples to 100 %, progressive"][:2] == (0.5, 2)
    assert found["samples to 100 %, two checkpoints"][0] == pytest.approx(0.2)
    assert found["one-shot at 20 million samples"][0] == pytest.approx(55)
    assert found["accuracy with a checkpoint from before or after the transition"][0] == pytest.approx(70)
    assert found["correlation with support bits in the transition"][0] == pytest.approx(0.2)
    value, n, reason = found["samples when cross entropy starts to rise"]
    assert math.isnan(value) and n == 2 and "half of the seeds or more not within the budget" in reason
    assert all(found[quantity][2] for quantity in rows.quantity)
    (row,) = published().query("table == 'GPT-2 on parity' and quantity == 'batch'").itertuples()
    assert module._ours(row)[2] == "not run: `benchmarks/transformers.py`"


def test_rows_of_transformers_are_those_of_the_benchmark(monkeypatch):
    methods = {
        "progressive": {"lr": 0.01, "samples to 99 %": [7200, 9600, None]},
        "one-shot": {"lr": 0.01, "samples to 99 %": [None, 8000, None]},
    }
    settings = {"n": 12, "k": 3, "budget": 38_400, "seeds": 3}
    tasks = {name: {"settings": settings, "methods": methods} for name in ("parity", "language")}
    monkeypatch.setattr(module, "_benchmark", lambda name: {"tasks": tasks})
    rows = published().query("table == 'GPT-2 on parity'")
    found = {row.quantity: module._ours(row) for row in rows.itertuples()}
    assert found["samples to 100 %, progressive"][:2] == (0.0096, 3)
    assert found["samples without success, one-shot"][:2] == (0.0384, 3)
    assert "n = 12, k = 3" in found["samples to 100 %, progressive"][2]
    assert "2 of 3 without success" in found["samples without success, one-shot"][2]
    assert found["heads of the student"][:2] == (2, 0) and found["learning rate"][0] == 0.01
    grammar = published().query("table.str.startswith('PCFG')")
    assert all(module._ours(row)[2] for row in grammar.itertuples())
