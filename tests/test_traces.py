"""Traces of real loads, the view that plays them, and networks saved in fewer bits."""

import pytest
import torch
from networks_for_tests import CLASSES, tiny_data, tiny_net

import pwl_lite as pwl
from pwl_lite.convert import accuracy_by_bits, bytes_on_the_way, convert, with_leading_bits
from pwl_lite.errors import PWLError, UnknownNameError
from pwl_lite.orders import plan_order
from pwl_lite.precision import is_weight
from pwl_lite.server import FAULTS
from pwl_lite.streaming import ProgressiveModel
from pwl_lite.traces import Trace, _shard_for, stream
from pwl_lite.widgets import StreamingView

LATTICE = {c: float(50 + i) for i, c in enumerate(pwl.all_compositions(4))}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    target = tmp_path_factory.mktemp("pair")
    about = {"classes": CLASSES, "mean": (0.5,) * 3, "std": (0.25,) * 3}
    pwl.save_blocks(tiny_net(), target, extra={"lattice": LATTICE}, **about)
    return target


def test_a_trace_tells_what_answered_when(folder):
    size = {name: entry["bytes"] for name, entry in pwl.read_manifest(folder)["shards"].items()}
    link = sum(size.values()) / 0.4
    trace = stream(folder, link, "suffix")
    assert [step[1] for step in trace.steps] == pwl.path("suffix", 4)
    assert [step[2] for step in trace.steps] == [LATTICE[c] for c in pwl.path("suffix", 4)]
    seconds, arrived = [step[0] for step in trace.steps], [step[3] for step in trace.steps]
    assert seconds == sorted(seconds) and arrived == sorted(arrived) and not trace.notes
    assert arrived[0] == sum(n for name, n in size.items() if name.startswith("student"))
    decoders = sum(n for name, n in size.items() if name.startswith("decoder"))
    assert arrived[-1] == arrived[0] + decoders + sum(n for name, n in size.items() if name.startswith("teacher"))
    for moment, n in zip(seconds, arrived, strict=True):
        assert moment >= 0.9 * n / link  # no byte comes before the link has carried it
    assert trace.teacher_only >= 0.9 * sum(n for name, n in size.items() if name.startswith("teacher")) / link


def test_a_fault_is_noted_and_survived(folder):
    trace = stream(folder, 1e7, "prefix", "damaged", teacher_only=1.0)
    assert trace.steps[-1][1] == "TTTT" and trace.teacher_only == 1.0
    assert len(trace.notes) == 2 and all("teacher-2.safetensors" in text and "SHA-256" in text for _, text in trace.notes)
    backwards = stream(folder, 1e7, "suffix", "damaged", teacher_only=1.0)
    assert len(backwards.notes) == 2 and all("teacher-3.safetensors" in text for _, text in backwards.notes)
    with pytest.raises(UnknownNameError, match="fault 'gremlins'"):
        stream(folder, 1e7, fault="gremlins")


def test_a_fault_befalls_the_second_teacher_shard_on_the_way_or_drips_from_the_smallest(folder):
    size = {name: entry["bytes"] for name, entry in pwl.read_manifest(folder)["shards"].items()}
    smallest = min(range(1, 5), key=lambda number: size[f"teacher-{number}"])
    with ProgressiveModel.open(folder) as model:
        for order in ("prefix", "suffix", "contiguous", "best"):
            way = plan_order(order, "SSSS", "TTTT", LATTICE, size.get)
            second = 1 + next(i for i in range(4) if way[0][i] != way[1][i])
            assert _shard_for("missing", model, order) == f"teacher-{second}.safetensors"
            assert _shard_for("drip", model, order) == f"teacher-{smallest}.safetensors"


def test_the_view_runs_what_is_asked_for(monkeypatch):
    one = Trace(1e6, "prefix", "none", [[0.1, "SSSS", 50.0, 10], [0.2, "TTTT", 60.0, 20]], [], 0.2)
    again = Trace(1e6, "prefix", "none", [[0.3, "SSSS", 50.0, 10]], [], 0.4)
    other = Trace(1e6, "best", "none", [[0.3, "SSSS", 50.0, 10]], [], 0.4)
    asked, sent = [], []

    def run(link, order, fault):
        asked.append((link, order, fault))
        if fault == "gremlins":
            raise UnknownNameError("fault", fault, ["none"])
        return again if order == "prefix" else other

    view = StreamingView([one], run=run, title="a title")
    monkeypatch.setattr(view, "send", sent.append)
    given = {"title": "a title", "traces": [one.as_dict()], "live": True}
    assert {key: view.data[key] for key in given} == given
    assert view.data["orders"] == ["prefix", "suffix", "contiguous", "best"]
    assert list(view.data["faults"]) == ["none", *FAULTS]
    view._hear(view, {"ask": "hello"}, None)
    assert sent.pop() == {"state": "here"} and not asked
    view._hear(view, {"ask": "run", "link": 1000000, "order": "prefix", "fault": "none"}, None)
    assert asked == [(1e6, "prefix", "none")] and view.data["traces"] == [again.as_dict()]
    view._hear(view, {"ask": "run", "link": 1000000, "order": "best", "fault": "none"}, None)
    assert view.data["traces"][view.selected] == other.as_dict() and len(view.data["traces"]) == 2
    view._hear(view, {"ask": "run", "link": 1000000, "order": "best", "fault": "gremlins"}, None)
    assert [message["state"] for message in sent] == ["running", "done"] * 2 + ["running", "failed"]
    assert "gremlins" in sent[-1]["text"]
    assert not StreamingView([one]).data["live"]
    with pytest.raises(PWLError, match="no traces"):
        StreamingView([])


@pytest.mark.parametrize(
    ("error", "words"),
    [(ZeroDivisionError("no bytes"), "ZeroDivisionError: no bytes"), (KeyboardInterrupt(), "KeyboardInterrupt")],
)
def test_whatever_goes_wrong_the_view_hears_of_it(monkeypatch, error, words):
    def run(link, order, fault):
        raise error

    sent = []
    view = StreamingView([Trace(1e6, "prefix", "none", [[0.1, "SSSS", 50.0, 10]], [], 0.2)], run=run)
    monkeypatch.setattr(view, "send", sent.append)
    try:
        view._hear(view, {"ask": "run", "link": 1000000, "order": "prefix", "fault": "none"}, None)
    except KeyboardInterrupt:  # goes on to where the kernel deals with it
        assert isinstance(error, KeyboardInterrupt)
    view._hear(view, {"ask": "run"}, None)  # a message that lacks what is needed
    failed = [{"state": "failed", "text": text} for text in (words, "KeyError: 'link'")]
    assert sent == [{"state": "running"}, failed[0], {"state": "running"}, failed[1]]


def test_converted_networks_are_measured_as_stored(folder, tmp_path):
    data = tiny_data()
    lattice = convert(folder, tmp_path / "int8", torch.int8, data)
    assert pwl.read_manifest(tmp_path / "int8")["extra"]["lattice"] == lattice
    stored = pwl.evaluate_lattice(pwl.load_blocks(tmp_path / "int8"), data.test).set_index("composition").accuracy
    assert lattice == stored.round(2).to_dict()
    assert convert(folder, tmp_path / "half", torch.float16) is None
    assert "lattice" not in pwl.read_manifest(tmp_path / "half")["extra"]
    sizes = [bytes_on_the_way(at) for at in (folder, tmp_path / "half", tmp_path / "int8")]
    for key in ("student", "teacher", "prefix", "all"):
        assert sizes[0][key] > sizes[1][key]
    assert sizes[1]["teacher"] > sizes[2]["teacher"]  # the tiny student's scales weigh more than what int8 saves
    assert sizes[0]["prefix"] < sizes[0]["all"]  # decoders are not on the way


def test_leading_bits_come_nearer_to_the_teacher(folder):
    net = pwl.load_blocks(folder)
    whole = [p for p in net.teacher.parameters() if is_weight(p)]
    errors = []
    for bits in (2, 4, 6, 8):
        coarse = [p for p in with_leading_bits(net, bits).teacher.parameters() if is_weight(p)]
        assert all(len(p[0].unique()) <= 2**bits for p in coarse)
        errors.append(max(float((a - b).abs().max()) for a, b in zip(whole, coarse, strict=True)))
    assert errors == sorted(errors, reverse=True) and errors[-1] < errors[0] / 30
    assert set(accuracy_by_bits(net, tiny_data(), range(7, 9))) == {7, 8}


def test_what_is_missing_of_a_weight_is_the_middle_of_what_it_may_be(folder):
    net = pwl.load_blocks(folder)
    weight = next(p for p in net.teacher.parameters() if is_weight(p))
    with torch.no_grad():
        row = weight[0].flatten()
        row.zero_()
        row[:4] = torch.tensor([127.0, 6.0, 5.0, -8.0])  # int8 with a scale of 1
        weight[0] = row.view_as(weight[0])
    coarse = next(p for p in with_leading_bits(net, 6).teacher.parameters() if is_weight(p))[0].flatten()
    assert coarse[:5].tolist() == [125.5, 5.5, 5.5, -6.5, 1.5]  # steps of 4: 124 to 127, 4 to 7, -8 to -5, 0 to 3
