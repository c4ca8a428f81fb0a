"""`ProgressiveModel`: what answers, what is fetched, held and given back, and what it tells; while all goes well."""

import asyncio
import copy
import os
import random
import subprocess
import sys
import threading
import time
import warnings

import pytest
import torch
from streaming_for_tests import (
    COMPOSITIONS,
    IMAGES,
    LATTICE,
    META,
    STUDENT,
    TEACHER,
    assert_answers,
    edit_manifest,
    expected_logits,
    new_shards,
    opened,
    pair,
    save,
    shards_of,
    small,
    steps,
    swaps,
    wait_for,
)
from torch import nn

from pwl_lite import sources
from pwl_lite.blocknet import BlockNet, num_bytes, state_hash
from pwl_lite.errors import CompositionError, StoreError, StreamingError
from pwl_lite.hardware import NICE
from pwl_lite.manifest import needed_shards, read_manifest
from pwl_lite.networks import build_network
from pwl_lite.orders import best_path
from pwl_lite.records import data_folder
from pwl_lite.server import Fault, ShardServer
from pwl_lite.store import load_blocks, save_blocks
from pwl_lite.streaming import ProgressiveModel
from pwl_lite.swapnet import SwapNet, covers, path

ORDERS = ["prefix", "suffix", "contiguous", (2, 1, 3), [3, 1, 2], "best"]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(sources, "PAUSES", (0.01, 0.02, 0.05))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("saved") / "net")


@pytest.fixture(scope="module")
def expected(folder):
    return expected_logits(folder)


@pytest.fixture
def server(folder):
    with ShardServer(folder) as server:
        yield server


def size(folder, names) -> int:
    shards = read_manifest(folder)["shards"]
    return sum(shards[name]["bytes"] for name in names)


# ---- what answers


def test_the_compositions_answer_differently(expected):
    """What the other tests compare can tell compositions apart."""
    for i, a in enumerate(COMPOSITIONS):
        assert not any(torch.allclose(expected[a], expected[b], atol=1e-4) for b in COMPOSITIONS[:i])


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_every_composition_on_the_way_answers_as_swapnet_does(folder, expected, server, order):
    answers = []

    def ask(event):
        if event.kind == "swap" and (model := holder[0]):
            answers.append(model.answer(IMAGES))

    holder = [None]
    with opened(server.url, on_event=ask) as model:
        holder[0] = model
        assert_answers(model, expected, "SSS")
        model.load_teacher(order)
        assert model.wait() == model.composition == "TTT"
        assert torch.equal(model(IMAGES), load_blocks(folder).teacher(IMAGES))
    bytes_of = {name: entry["bytes"] for name, entry in read_manifest(folder)["shards"].items()}
    way = best_path(LATTICE, bytes_of.__getitem__, "SSS", "TTT") if order == "best" else path(order, 3)[1:]
    assert [composition for _, composition in answers] == way
    for logits, composition in answers:
        assert torch.equal(logits, expected[composition])
    asked = shards_of(server.requests)
    for step in steps(["SSS", *way]):  # all of a step at once, and step after step
        assert sorted(asked[: len(step)]) == sorted(step)
        del asked[: len(step)]
    assert not asked


def test_the_best_order_is_not_the_prefix_order_here(folder):
    with opened(folder) as model:
        model.load_teacher("best", background=False)
    events = []
    with opened(folder, on_event=events.append) as model:
        model.load_teacher("best", background=False)
    assert swaps(events) == path((2, 3, 1), 3)


def test_answers_have_no_gradient_and_leave_the_random_state_alone(folder):
    torch.manual_seed(3)
    after = torch.rand(2)
    torch.manual_seed(3)
    with opened(folder) as model:
        model.load_teacher(background=False)
        assert not model(IMAGES.clone().requires_grad_()).requires_grad
    assert torch.equal(torch.rand(2), after)


def test_a_batch_of_one_or_none(folder, expected):
    with opened(folder) as model:
        assert torch.allclose(model(IMAGES[:1]), expected["SSS"][:1], atol=1e-6)
        assert model(IMAGES[:0]).shape == (0, 3)


def test_a_vision_transformer_streams(tmp_path):
    vit = {"family": "vit", "depths": [1, 1, 1], "heads": 2, "num_classes": 3, "patch": 4, "image_size": 8}
    torch.manual_seed(0)
    save_blocks(SwapNet(*(build_network({**vit, "width": width}) for width in (8, 4))), tmp_path, **META)
    expected = expected_logits(tmp_path)
    with opened(tmp_path) as model:
        for order in ("contiguous", "suffix"):
            model.load_teacher(order)
            while model.status.loading:
                assert_answers(model, expected)
            assert_answers(model, expected, "TTT")
            model.unload_to("SSS")


def test_a_resnet_and_many_small_layers_stream(tmp_path):
    """The shard of many tiny layers has more bytes of names than of numbers: it must not be taken for too long."""
    resnet = {"family": "resnet", "widths": [1, 2], "num_classes": 3}
    torch.manual_seed(0)
    save_blocks(SwapNet(*(build_network({**resnet, "depths": depths}) for depths in ([120, 1], [1, 1]))), tmp_path, **META)
    assert read_manifest(tmp_path)["shards"]["teacher-1"]["bytes"] > 100_000
    with opened(tmp_path) as model:
        model.load_teacher(background=False)
        assert model.composition == "TT"


# ---- what is fetched and held


def test_opening_fetches_the_student_and_nothing_else(server):
    with opened(server.url):
        pass
    assert sorted(shards_of(server.requests)) == ["student-1", "student-2", "student-3"]


def test_prefix_needs_no_decoder_and_one_encoder_at_a_time(server):
    converters = []
    holder = []

    def note(event):
        if holder:
            converters.append({name for name in holder[0]._held if name.startswith(("encoder", "decoder"))})

    with opened(server.url, on_event=note) as model:
        holder.append(model)
        model.load_teacher("prefix", background=False)
    asked = shards_of(server.requests)
    assert not [name for name in asked if name.startswith("decoder")]
    assert set(asked[3:5]) == {"teacher-1", "encoder-1"} and set(asked[5:7]) == {"teacher-2", "encoder-2"}
    assert asked[7:] == ["teacher-3"]
    assert {"encoder-1"} in converters and {"encoder-2"} in converters
    at_swaps = [held for held in converters if len(held) > 1]
    assert all(held == {"encoder-1", "encoder-2"} for held in at_swaps)  # the moment before a swap, in which both are there


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_only_what_answers_is_held(folder, order):
    held = []
    holder = []

    def note(event):
        if event.kind == "swap" and holder:
            held.append((event.composition, set(holder[0]._held)))

    with opened(folder, on_event=note) as model:
        holder.append(model)
        model.load_teacher(order, background=False)
        model.unload_to("STS")
    assert len(held) == 4
    for composition, names in held:
        assert names == set(needed_shards(composition))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has priorities of threads")
def test_what_loads_steps_aside_for_requests(folder):
    """The threads that load have a lower priority than the one that asks, whose own stays as it was."""

    def priority() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    before, seen = priority(), {}
    with opened(folder, on_event=lambda event: seen.setdefault(threading.current_thread().name, priority())) as model:
        model.load_teacher(background=False)
    assert seen["pwl-loading"] == max(before, NICE) and priority() == before


def test_freed_blocks_are_really_gone(folder):
    import gc
    import weakref

    with opened(folder) as model:
        student = [weakref.ref(t) for part in model._held.values() for t in part.state_dict().values()]
        student += [weakref.ref(part) for part in model._held.values()]
        model.load_teacher(background=False)
        wait_for(lambda: not model.status.loading)
        gc.collect()
        assert not any(ref() is not None for ref in student)
        teacher = [weakref.ref(part) for part in model._held.values()]
        model.unload_to("SSS")
        gc.collect()
        assert not any(ref() is not None for ref in teacher)
        left = [weakref.ref(part) for part in model._held.values()]
    gc.collect()
    assert not any(ref() is not None for ref in left)


@pytest.mark.parametrize("composition", ["SSS", "TSS", "SST", "STS", "TST", "TTT"])
def test_unloading_gives_back_and_goes_on_answering(folder, expected, composition):
    with opened(folder) as model:
        model.load_teacher(background=False)
        model.unload_to(composition)
        assert_answers(model, expected, composition)
        assert set(model._held) == set(needed_shards(composition))
        assert not model.status.loading
        model.load_teacher("suffix", background=False)
        assert_answers(model, expected, "TTT")


def test_what_is_not_there_cannot_be_unloaded_to(folder, expected):
    with opened(folder) as model:
        model.load_teacher(background=False)
        model.unload_to("TSS")
        with pytest.raises(CompositionError, match=r"'STS': TSS answers, which lacks some .*load_teacher"):
            model.unload_to("STS")
        with pytest.raises(CompositionError, match=r"'TTSS': expected 3 letters"):
            model.unload_to("TTSS")
        assert_answers(model, expected, "TSS")


def test_a_wrong_order_or_composition_does_not_stop_what_is_loading(folder, expected):
    with ShardServer(folder, bytes_per_second=20_000) as server, opened(server.url) as model:
        model.load_teacher()
        for wrong in ("TTTT", "XYZ", "STT"):
            with pytest.raises(CompositionError):
                model.unload_to(wrong)
        with pytest.raises(CompositionError):
            model.load_teacher("backwards")
        assert model.status.loading
        model.wait("TTT", timeout=20)
        assert_answers(model, expected, "TTT")


@pytest.mark.parametrize("order", ["backwards", "", (1, 2), (1, 1, 2), (0, 1, 2), (1, 2, 3, 4), ("a", 1, 2), 3, None], ids=str)
def test_no_such_order(folder, order):
    with opened(folder) as model:
        with pytest.raises(CompositionError, match="loading order"):
            model.load_teacher(order)
        assert model.composition == "SSS" and not model.status.loading


def test_names_of_orders_are_listed(folder):
    with opened(folder) as model, pytest.raises(CompositionError, match="'backwards': expected 'best', 'prefix', 'suffix'"):
        model.load_teacher("backwards")


@pytest.mark.parametrize(
    "lattice",
    [None, [], {"SSS": 1.0}, {**LATTICE, "TTT": "high"}, {**LATTICE, "TTT": 101.0}, {**LATTICE, "TTT": None},
     {**LATTICE, "TTT": True}, {**LATTICE, "TTT": 10**400}, {c.replace("TTT", "TTX"): x for c, x in LATTICE.items()}],
    ids=["none", "list", "few", "text", "over", "null", "bool", "huge", "name"],
)  # fmt: skip
def test_best_needs_a_measured_lattice(tmp_path, lattice):
    save(tmp_path)
    edit_manifest(tmp_path, lambda manifest: manifest["extra"].update(lattice=lattice))
    with opened(tmp_path) as model:
        assert model.lattice is None
        with pytest.raises(StreamingError, match="'best': no measured lattice"):
            model.load_teacher("best")
        model.load_teacher("prefix", background=False)


def test_another_order_goes_on_from_what_is_there(folder, expected):
    events = []
    with ShardServer(folder, bytes_per_second=15_000) as server, opened(server.url, on_event=events.append) as model:
        model.load_teacher("prefix")
        model.wait("TSS", timeout=20)
        model.load_teacher("suffix")
        server.bytes_per_second = None
        model.wait("TTT", timeout=20)
        assert_answers(model, expected, "TTT")
    assert swaps(events) == ["SSS", "TSS", "TST", "TTT"]
    assert shards_of(server.requests).count("teacher-1") == 1


def test_waiting_goes_on_when_another_order_is_asked_for(folder):
    with ShardServer(folder, bytes_per_second=15_000) as server, opened(server.url) as model:
        model.load_teacher("prefix")
        reached = []
        waiting = threading.Thread(target=lambda: reached.append(model.wait("TTT", timeout=20)))
        waiting.start()
        for order in ("suffix", "contiguous", "prefix"):
            model.load_teacher(order)
            time.sleep(0.02)
        assert waiting.is_alive()
        server.bytes_per_second = None
        waiting.join(20)
    assert reached == ["TTT"]


# ---- memory


def test_memory_is_that_of_the_weights(folder):
    net = load_blocks(folder)
    with opened(folder) as model:
        assert model.memory("SSS") == num_bytes(net.student) and model.memory("TTT") == num_bytes(net.teacher)
        converters = num_bytes(net.converters[0].decoder) + num_bytes(net.converters[1].encoder)
        parts = [net.student.part(0), net.teacher.part(1), net.student.part(2)]
        assert model.memory("STS") == converters + sum(map(num_bytes, parts))
        with pytest.raises(CompositionError):
            model.memory("STSS")


@pytest.mark.parametrize("measured", [True, False])
@pytest.mark.parametrize("order", ["prefix", "suffix", "best"])
def test_with_a_memory_budget_the_best_that_fits_answers(tmp_path, measured, order):
    save(tmp_path, extra={"lattice": LATTICE if measured else None})
    expected = expected_logits(tmp_path)
    with opened(tmp_path) as model:
        memory = {c: model.memory(c) for c in COMPOSITIONS}
    if order == "best" and not measured:
        return
    reached = set()
    for budget in sorted(memory.values()):
        if budget < memory["SSS"]:
            continue
        events = []
        with opened(tmp_path, memory_budget=budget, on_event=events.append) as model:
            model.load_teacher(order, background=False)
            fitting = [c for c in COMPOSITIONS if memory[c] <= budget]
            worth = LATTICE.__getitem__ if measured else lambda c: c.count("T")
            assert worth(model.composition) == max(map(worth, fitting))
            assert model.status.goal == model.composition
            assert_answers(model, expected)
            reached.add(model.composition)
        assert all(memory[c] <= budget for c in swaps(events))
    assert {"SSS", "TTT"} < reached


def test_converters_may_need_more_than_the_goal(tmp_path):
    """Where the way to a goal that fits leads over compositions that don't, these are passed over."""
    teacher, student = {**TEACHER, "layers": ["6 M", "6 M", "6 M"]}, {**STUDENT, "layers": ["6 M", "5 M", "6 M"]}
    save_blocks(pair(0, teacher, student), tmp_path, **META)
    with opened(tmp_path) as model:
        memory = {c: model.memory(c) for c in COMPOSITIONS}
    assert memory["TTT"] < memory["TST"]
    events = []
    with opened(tmp_path, memory_budget=memory["TTT"], on_event=events.append) as model:
        model.load_teacher((1, 3, 2), background=False)
        assert model.composition == "TTT"
        with pytest.raises(StreamingError, match=rf"unload_to\('TST'\): {memory['TST']:,} bytes are needed"):
            model.unload_to("TST")
        assert model.composition == "TTT"
    assert "TST" not in swaps(events)


def test_a_budget_below_the_student_is_an_error(folder):
    with opened(folder) as model:
        needed = model.memory("SSS")
    with pytest.raises(StreamingError, match=rf"memory_budget = {needed - 1:,}: the student alone needs {needed:,} bytes"):
        ProgressiveModel.open(folder, memory_budget=needed - 1)


def test_a_budget_with_very_many_blocks(tmp_path):
    """2^24 compositions are too many to try."""
    many = {"family": "vgg", "layers": ["2"] * 24, "num_classes": 2}
    torch.manual_seed(0)
    save_blocks(SwapNet(small(many), small(many)), tmp_path, **META)
    with opened(tmp_path) as model:
        budget = model.memory("T" * 5 + "S" * 19)
    with opened(tmp_path, memory_budget=budget) as model:
        started = time.monotonic()
        model.load_teacher()
        assert time.monotonic() - started < 5
        model.wait(timeout=20)
        assert covers(model.composition, "T" * 5 + "S" * 19) and model.memory(model.composition) <= budget


# ---- what it tells


def test_events_and_their_order(folder):
    events = []
    with opened(folder, on_event=events.append) as model:
        model.load_teacher("prefix")
        model.wait()
        wait_for(lambda: events[-1].kind == "done")
    kinds = [(event.kind, event.text or event.composition) for event in events]
    assert kinds == [
        ("shard", "student-1"), ("shard", "student-2"), ("shard", "student-3"), ("swap", "SSS"),
        ("shard", "teacher-1"), ("shard", "encoder-1"), ("swap", "TSS"),
        ("shard", "teacher-2"), ("shard", "encoder-2"), ("swap", "TTS"),
        ("shard", "teacher-3"), ("swap", "TTT"), ("done", "TTT"),
    ]  # fmt: skip
    seconds, arrived = [e.seconds for e in events], [e.bytes for e in events]
    assert seconds == sorted(seconds) and seconds[0] > 0 and arrived == sorted(arrived)
    assert size(folder, ["student-1"]) <= arrived[0] <= arrived[2] == size(folder, ["student-1", "student-2", "student-3"])
    assert arrived[-1] == size(folder, new_shards(["SSS", "TSS", "TTS", "TTT"]))
    assert [e.composition for e in events[:4]] == ["", "", "", "SSS"]


def test_status(folder):
    way = new_shards(path("prefix", 3))
    with ShardServer(folder) as server, opened(server.url) as model:
        status = model.status
        assert (status.composition, status.goal, status.loading) == ("SSS", "SSS", False)
        assert status.bytes_done == status.bytes_total == size(folder, way[:3])
        assert status.failures == 0 and status.last_error is None and status.seconds_left == 0
        server.bytes_per_second = 10_000
        model.load_teacher()
        wait_for(lambda: model.composition == "TSS")
        status = model.status
        assert status.loading and status.goal == "TTT" and status.bytes_total == size(folder, way)
        assert size(folder, way[:5]) <= status.bytes_done < status.bytes_total
        assert status.rate > 0
        assert status.seconds_left == pytest.approx((status.bytes_total - status.bytes_done) / status.rate)
        server.bytes_per_second = None
        model.wait("TTT", timeout=20)
        status = model.status
        assert status.bytes_done == status.bytes_total and not status.loading and status.composition == "TTT"
        model.unload_to("TSS")
        status = model.status
        assert status.goal == "TSS" and status.bytes_done == status.bytes_total
    assert model.status.composition == ""


def large_pair() -> SwapNet:
    """Its teacher-3 has 0.5 MB: it arrives in several pieces."""
    torch.manual_seed(0)
    options = {"family": "vgg", "num_classes": 3}
    return SwapNet(*(small({**options, "layers": layers}) for layers in (["3 M", "16 M", "900"], ["3 M", "3 M", "3"])))


def test_rate_is_that_of_the_link(tmp_path):
    save_blocks(large_pair(), tmp_path, **META)
    with ShardServer(tmp_path, bytes_per_second=400_000) as server, opened(server.url) as model:
        model.load_teacher()
        wait_for(lambda: model.status.bytes_done > 250_000)
        assert 200_000 < model.status.rate < 800_000


def test_waiting(folder):
    with ShardServer(folder) as server, opened(server.url) as model:
        assert model.wait("SSS") == model.wait() == "SSS"
        with pytest.raises(StreamingError, match="TTT was not reached, SSS answers: nothing more is being loaded"):
            model.wait("TTT")
        with pytest.raises(CompositionError, match="'T': expected 3 letters"):
            model.wait("T")
        server.bytes_per_second = 8_000
        model.load_teacher()
        with pytest.raises(TimeoutError, match=r"TTT was not reached in 0\.05 s: Status\(composition='SSS'"):
            model.wait("TTT", timeout=0.05)
        with pytest.raises(TimeoutError, match="the end of loading"):
            model.wait(timeout=0.01)
        assert covers(model.wait("TSS", timeout=20), "TSS")
        server.bytes_per_second = None
        assert model.wait("TTT", timeout=20) == "TTT"
        model.unload_to("SSS")
        with pytest.raises(StreamingError, match="TTT was not reached"):
            model.wait("TTT")


def test_waiting_for_what_the_budget_does_not_allow(folder):
    with opened(folder) as model:
        budget = model.memory("SSS")
    with opened(folder, memory_budget=budget) as model:
        model.load_teacher()
        with pytest.raises(StreamingError, match="TTT was not reached"):
            model.wait("TTT", timeout=20)


def test_asyncio(folder, expected):
    async def use():
        async with ProgressiveModel.open(folder) as model:
            with pytest.raises(CompositionError):
                await model.until("TT")
            assert await model.until("SSS") == "SSS"
            model.load_teacher()
            assert covers(await model.until("TSS"), "TSS")
            assert await model.until("TTT") == await model.until() == "TTT"
            assert_answers(model, expected, "TTT")
            model.unload_to("SSS")
            with pytest.raises(StreamingError, match="TTT was not reached"):
                await model.until("TTT")
        return model

    model = asyncio.run(use())
    with pytest.raises(StreamingError, match="closed"):
        model(IMAGES)


def test_asyncio_does_other_things_while_it_waits(folder):
    async def use(url):
        async with ProgressiveModel.open(url, cache=False) as model:
            model.load_teacher()
            ticks = 0

            async def tick():
                nonlocal ticks
                while True:
                    ticks += 1
                    await asyncio.sleep(0.01)

            ticking = asyncio.create_task(tick())
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await model.until("TTT")
            ticking.cancel()
            return ticks

    with ShardServer(folder) as server:
        server.faults["teacher-1.safetensors"] = Fault("missing")
        assert asyncio.run(use(server.url)) > 2


def test_progress_bar(folder, capsys):
    with opened(folder) as model:
        model.load_teacher(background=False, progress=True)
        wait_for(lambda: "100%" in capsys.readouterr().err)
        model.unload_to("SSS")
        capsys.readouterr()
        model.load_teacher(background=False)
        assert capsys.readouterr().err == ""


def test_the_progress_bar_moves_while_a_shard_arrives(tmp_path):
    save_blocks(large_pair(), tmp_path, **META)
    with ShardServer(tmp_path, bytes_per_second=2_000_000) as server, opened(server.url) as model:
        model.load_teacher(progress=True)
        seen = set()
        while model.composition != "TTT":
            if model.composition == "TTS" and (bar := model._bar) is not None:
                seen.add(bar.n)
            time.sleep(0.005)
    assert len(seen) > 1  # all that is still to come is one shard


def test_one_piece_tells_no_rate(folder):
    with opened(folder) as model:
        model._recent.clear()
        model._arrived(1000)
        assert model.status.rate == 0 and model.status.seconds_left is None
        time.sleep(0.05)
        model._arrived(1000)
        assert 5_000 < model.status.rate <= 20_000


def test_how_it_shows_itself(folder):
    with opened(folder) as model:
        assert repr(model) == f"ProgressiveModel({str(folder)!r}, SSS)"
    assert repr(model) == f"ProgressiveModel({str(folder)!r}, closed)"


# ---- callbacks


def test_a_callback_that_raises_only_warns(folder, expected):
    def broken(event):
        raise KeyError("mine")

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with opened(folder, on_event=broken) as model:
            model.load_teacher(background=False)
            assert_answers(model, expected, "TTT")
    assert len(caught) >= 9 and all("on_event raised KeyError('mine')" in str(w.message) for w in caught)


def call_at(action, kind: str, composition: str):
    """A callback that acts once, and the list that it takes the model from."""
    holder, done = [], []

    def callback(event):
        if holder and not done and (event.kind, event.composition) == (kind, composition):
            done.append(event)
            action(holder[0])

    return callback, holder, done


@pytest.mark.parametrize("kind", ["shard", "swap", "done"])
def test_a_callback_may_close(folder, kind):
    callback, holder, done = call_at(lambda model: model.close(), kind, "TTT" if kind == "done" else "TSS")
    with opened(folder, on_event=callback) as model:
        holder.append(model)
        model.load_teacher()
        wait_for(lambda: done and not model.status.loading)
        with pytest.raises(StreamingError, match="closed"):
            model.wait("TTT", timeout=20)
        time.sleep(0.02)
        assert not model._held


@pytest.mark.parametrize("kind", ["shard", "swap", "done"])
@pytest.mark.parametrize("target", ["SSS", "same"])
def test_a_callback_may_unload(folder, expected, kind, target):
    at = "TTT" if kind == "done" else "TSS"
    goal = at if target == "same" else target
    callback, holder, done = call_at(lambda model: model.unload_to(goal), kind, at)
    with opened(folder, on_event=callback) as model:
        holder.append(model)
        model.load_teacher()
        wait_for(lambda: done and model.composition == goal and set(model._held) == set(needed_shards(goal)))
        time.sleep(0.03)  # the thread that was loading must not go on
        assert_answers(model, expected, goal)
        assert set(model._held) == set(needed_shards(goal)) and not model.status.loading
        model.load_teacher(background=False)
        assert_answers(model, expected, "TTT")


@pytest.mark.parametrize("background", [True, False])
def test_a_callback_may_load_in_another_order(folder, expected, background):
    events = []
    act, holder, _ = call_at(lambda model: model.load_teacher("suffix", background=background), "swap", "TSS")

    def callback(event):
        events.append(event)
        act(event)

    with opened(folder, on_event=callback) as model:
        holder.append(model)
        model.load_teacher("prefix")
        wait_for(lambda: model.composition == "TTT")
        assert_answers(model, expected, "TTT")
        wait_for(lambda: not model.status.loading)
    assert swaps(events) == ["SSS", "TSS", "TST", "TTT"]


def test_a_callback_cannot_wait_for_its_own_thread(folder):
    problems = []

    def wait(model):
        with pytest.raises(StreamingError, match="on_event") as error:
            model.wait("TTT")
        problems.append(error)

    callback, holder, _ = call_at(wait, "swap", "TSS")
    with opened(folder, on_event=callback) as model:
        holder.append(model)
        model.load_teacher()
        assert model.wait("TTT", timeout=20) == "TTT"
    assert problems


@pytest.mark.filterwarnings("ignore:on_event raised StreamingError")  # the callback may find that the model is closed
@pytest.mark.parametrize("action", ["close", "unload"])
def test_a_callback_and_another_thread_at_once(folder, action):
    """Both stop the thread that loads; one of them is called by it."""
    for _ in range(10):
        entered, go = threading.Event(), threading.Event()

        def act(model):
            try:
                model.close() if action == "close" else model.unload_to("SSS")
            except StreamingError:
                pass  # the other one came later

        def wait_and_act(model):
            entered.set()  # noqa: B023
            go.wait(5)  # noqa: B023
            act(model)

        callback, holder, _ = call_at(wait_and_act, "swap", "TSS")
        with opened(folder, on_event=callback) as model:
            holder.append(model)
            model.load_teacher()
            assert entered.wait(10)
            threads = [threading.Thread(target=act, args=(model,)), threading.Thread(target=go.set)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(10)
                assert not thread.is_alive()


# ---- closing


def test_closing(folder):
    with ShardServer(folder, bytes_per_second=20_000) as server:
        model = ProgressiveModel.open(server.url, cache=False)
        model.load_teacher()
        model.close()
        model.close()
        assert not model._held and not model.status.loading
        assert not [t for t in threading.enumerate() if t.name == "pwl-loading"]
        asked = len(server.requests)
        for call in (
            lambda: model(IMAGES), lambda: model.answer(IMAGES), lambda: model.composition, lambda: model.load_teacher(),
            lambda: model.unload_to("SSS"), lambda: model.wait(), lambda: model.wait("SSS"), lambda: asyncio.run(model.until()),
        ):  # fmt: skip
            with pytest.raises(StreamingError, match="the model is closed; open it again"):
                call()
        assert len(server.requests) == asked
        with model:
            pass


def test_unloading_wakes_who_waits(folder):
    """Even if what is to answer instead cannot come."""
    with ShardServer(folder) as server, opened(server.url) as model:
        server.faults["teacher-2.safetensors"] = server.faults["student-1.safetensors"] = Fault("missing")
        model.load_teacher()
        model.wait("TSS", timeout=20)
        caught = []

        def wait():
            with pytest.raises(StreamingError, match="TTT was not reached, TSS answers"):
                model.wait("TTT")
            caught.append(True)

        waiting = threading.Thread(target=wait)
        waiting.start()
        time.sleep(0.02)
        with pytest.raises(StreamingError, match="gave up after 1 tries"):
            model.unload_to("SSS", patience=0)
        waiting.join(10)
        assert caught


def test_closing_wakes_who_waits(folder):
    with ShardServer(folder) as server:
        server.faults["teacher-1.safetensors"] = Fault("missing")
        model = ProgressiveModel.open(server.url, cache=False)
        model.load_teacher()
        caught = []

        def wait():
            with pytest.raises(StreamingError, match="closed") as error:
                model.wait("TTT")
            caught.append(error)

        waiting = threading.Thread(target=wait)
        waiting.start()
        time.sleep(0.02)
        model.close()
        waiting.join(10)
        assert caught


def test_a_request_under_way_ends_well_when_all_is_closed(folder, expected):
    """A request keeps what it began with."""
    model = ProgressiveModel.open(folder)
    serving = model._answering()
    model.close()
    with torch.inference_mode():
        assert torch.equal(serving(IMAGES), expected["SSS"])


# ---- networks that the package cannot build


def plain(width: int, seed: int) -> BlockNet:
    torch.manual_seed(seed)
    blocks = [nn.Sequential(nn.Conv2d(4, width, 3, padding=1), nn.ReLU()), nn.Sequential(nn.BatchNorm2d(width), nn.ReLU())]
    head = nn.Sequential(nn.Flatten(), nn.Linear(width * 64, 3))
    return BlockNet(nn.Conv2d(3, 4, 1), blocks, head, input_shape=(3, 8, 8))


def given_pair() -> dict[str, BlockNet]:
    return {"teacher": plain(6, 1).eval(), "student": plain(4, 2).eval()}


@pytest.fixture
def given(tmp_path):
    networks = given_pair()
    net = SwapNet(**networks).eval()
    save_blocks(net, tmp_path / "given", **META)
    with torch.inference_mode():
        return tmp_path / "given", {c: net(IMAGES, c) for c in ("SS", "TS", "ST", "TT")}


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_given_networks_are_filled_and_stay_as_they_are(given, device):
    folder, expected = given
    networks = {name: net.to(device) for name, net in {"teacher": plain(6, 8), "student": plain(4, 9)}.items()}
    modes = {name: [m.training for m in net.modules()] for name, net in networks.items()}
    before = {name: state_hash(net) for name, net in networks.items()} if device == "cpu" else None
    tensors = {name: dict(net.named_parameters()) for name, net in networks.items()}
    with opened(folder, networks=networks) as model:
        assert_answers(model, expected, "SS")
        for order in ("prefix", "suffix"):
            model.load_teacher(order)
            while model.status.loading:
                assert_answers(model, expected)
            assert_answers(model, expected, "TT")
            model.unload_to("ST")
            assert_answers(model, expected, "ST")
            model.unload_to("SS")
    if before:
        assert {name: state_hash(net) for name, net in networks.items()} == before
    for name, net in networks.items():
        assert all(parameter is tensors[name][key] for key, parameter in net.named_parameters())
        assert all(p.device.type == device and p.requires_grad for p in net.parameters())
        assert [m.training for m in net.modules()] == modes[name]


def test_networks_must_be_given_where_there_is_no_config(given):
    with pytest.raises(StoreError, match=r"student has no config.*networks=\{'teacher': net, 'student': net\}"):
        ProgressiveModel.open(given[0])
    with pytest.raises(StoreError, match="networks given for 'student', expected 'student', 'teacher'"):
        ProgressiveModel.open(given[0], networks={"student": plain(4, 1)})


def test_given_networks_of_other_shapes_are_refused(given):
    with pytest.raises(StoreError, match=r"student-1: .* expected .*another network"):
        ProgressiveModel.open(given[0], networks={"teacher": plain(6, 1), "student": plain(5, 2)})
    networks = {"teacher": plain(7, 1), "student": plain(4, 2)}
    with opened(given[0], networks=networks) as model:
        model.load_teacher()
        with pytest.raises(StreamingError, match=r"teacher-1: .* expected"):
            model.wait("TT", timeout=20)
        assert_answers(model, given[1], "SS")


class Shifting(nn.Module):
    """Adds something that is not saved with the weights."""

    def __init__(self, channels: int):
        super().__init__()
        self.register_buffer("shift", torch.full((1, channels, 1, 1), 0.5), persistent=False)

    def forward(self, x):
        return x + self.shift


def shifting_pair() -> dict[str, BlockNet]:
    networks = given_pair()
    for net, width in zip(networks.values(), (6, 4)):
        net.blocks[1].append(Shifting(width))
    return networks


def test_buffers_that_are_not_saved(tmp_path):
    networks = shifting_pair()
    net = SwapNet(**networks).eval()
    save_blocks(net, tmp_path, **META)
    on_meta = {name: copy.deepcopy(network).to("meta") for name, network in networks.items()}
    with pytest.raises(StoreError, match=r"student-2: the buffers \['block.2.shift'\] are not saved.* make them persistent"):
        ProgressiveModel.open(tmp_path, networks=on_meta)
    with opened(tmp_path, networks=shifting_pair()) as model:  # the given networks have them
        for composition in ("SS", "TS", "TT"):
            if composition != "SS":
                model.load_teacher(background=False) if composition == "TT" else None
            if composition == model.composition:
                with torch.inference_mode():
                    assert torch.equal(model(IMAGES), net(IMAGES, composition))
        model.unload_to("TS")
        with torch.inference_mode():
            assert torch.equal(model(IMAGES), net(IMAGES, "TS"))


def test_a_pair_without_converters(tmp_path):
    torch.manual_seed(0)
    net = SwapNet(small(TEACHER), small(TEACHER), identity=True).eval()
    save_blocks(net, tmp_path, **META, extra={"lattice": LATTICE})
    with opened(tmp_path) as model:
        model.load_teacher("best")
        while model.status.loading:
            logits, composition = model.answer(IMAGES)
            with torch.inference_mode():
                assert torch.equal(logits, net(IMAGES, composition))
        model.unload_to("STS")
        with torch.inference_mode():
            assert torch.equal(model(IMAGES), net(IMAGES, "STS"))


def test_a_single_network_is_not_a_pair(tmp_path):
    save_blocks(vgg_of(STUDENT), tmp_path, **META)
    with pytest.raises(StoreError, match="holds a single network; expected a teacher, a student and converters"):
        ProgressiveModel.open(tmp_path)


def vgg_of(config: dict) -> BlockNet:
    torch.manual_seed(0)
    return build_network(config)


# ---- many at once


def test_eight_threads_predict_while_a_thousand_swaps_happen(folder):
    """Each answer is that of one whole composition, and of the one that it names."""
    net, image = load_blocks(folder), IMAGES[:1]
    with torch.inference_mode():
        expected = {c: net(image, c) for c in COMPOSITIONS}
    choose = random.Random(0)
    swapped, wrong, answers, seen = [], [], [0] * 8, set()  # `wrong` holds what a thread raised as well
    over = threading.Event()

    def predict(i):
        while not over.wait(0.01):  # leave some of the processor to the thread that loads
            try:
                logits, composition = model.answer(image)
            except Exception as error:
                return wrong.append(error)
            seen.add(composition)
            answers[i] += 1
            if not torch.equal(logits, expected[composition]):
                wrong.append(composition)

    interval = sys.getswitchinterval()
    with opened(folder, verify=False, on_event=lambda e: swapped.append(e) if e.kind == "swap" else None) as model:
        threads = [threading.Thread(target=predict, args=(i,)) for i in range(8)]
        try:
            sys.setswitchinterval(1e-5)  # more turns, in more places
            for thread in threads:
                thread.start()
            while len(swapped) < 1000:
                model.load_teacher(choose.choice(["prefix", "suffix", "contiguous", "best", (2, 1, 3)]))
                if choose.random() < 0.7:
                    model.wait(choose.choice(["TTT", None]))
                if choose.random() < 0.9:
                    model.unload_to("".join(choose.choice("ST") if c == "T" else "S" for c in model.composition))
        finally:
            over.set()
            sys.setswitchinterval(interval)
            for thread in threads:
                thread.join(20)
    assert not wrong
    assert min(answers) > 50 and len(seen) == 8


def test_who_is_taken_over_before_anything_was_moved_says_so(folder, expected):
    """Another thread loads the teacher, and frees the student, between the two halves of a call that asks for the student."""
    with opened(folder) as model:
        plain = model._fetch

        def fetch(names, stop, patience):
            model._fetch = plain
            other = threading.Thread(target=model.load_teacher, kwargs={"background": False})
            other.start()
            other.join(20)
            return plain(names, stop, patience)

        model._fetch = fetch
        with pytest.raises(StreamingError, match="stopped: the model was closed or asked for something else"):
            model.unload_to("SSS")
        assert_answers(model, expected, "TTT")


def test_several_threads_load_unload_and_close(folder, expected):
    """Whoever asks last is followed; nobody waits for ever; nothing is held in the end."""
    for seed in range(3):
        model = ProgressiveModel.open(folder, cache=False, verify=False)
        problems = []

        def act(seed):
            choose = random.Random(seed)
            for _ in range(15):
                try:
                    if choose.random() < 0.5:
                        model.load_teacher(choose.choice(["prefix", "suffix"]), background=choose.random() < 0.5)  # noqa: B023
                    else:
                        model.unload_to("SSS")  # noqa: B023
                    assert_answers(model, expected)  # noqa: B023
                except StreamingError:
                    pass  # another thread asked for something else
                except BaseException as error:
                    problems.append(error)  # noqa: B023
                    raise

        threads = [threading.Thread(target=act, args=(10 * seed + i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()
        assert not problems
        model.load_teacher(background=False)
        assert_answers(model, expected, "TTT")
        assert set(model._held) == set(needed_shards("TTT"))
        model.close()


# ---- the module


def test_neither_the_import_nor_a_local_folder_needs_anything_heavy(folder):
    code = (
        "import sys, pwl_lite.streaming; "
        "heavy = {'matplotlib', 'pandas', 'torchvision', 'fsspec', 'aiohttp', 'seaborn', 'IPython'}; "
        "print('import', *heavy & set(sys.modules)); "
        "import torch; "
        f"model = pwl_lite.streaming.ProgressiveModel.open({str(folder)!r}); "
        "model.load_teacher(background=False); model(torch.zeros(1, 3, 8, 8)); "
        "print(model.composition, *heavy & set(sys.modules))"
    )
    called = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert called.stdout.split("\n") == ["import", "TTT", ""]


ENDS_WHILE_LOADING = """
import os, sys, time
import torch
from pwl_lite.streaming import ProgressiveModel
torch.set_num_threads(1)
for i in range(20):
    child = os.fork()
    if not child:
        model = ProgressiveModel.open(sys.argv[1], cache=False)
        model.load_teacher()
        time.sleep(0.002 * i)
        sys.exit()
    print(os.waitpid(child, 0)[1])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="starts 20 processes that share one import of torch")
def test_a_program_that_ends_while_its_model_loads_ends_well():
    weights = data_folder() / "weights" / "cifar10-vgg-cifar-seed0"  # large enough for a thread to be inside torch
    call = [sys.executable, "-c", ENDS_WHILE_LOADING, weights]
    ended = subprocess.run(call, capture_output=True, text=True, check=True, env=os.environ)
    assert ended.stdout.split() == ["0"] * 20 and not ended.stderr


def test_a_load_that_is_taken_over_just_before_a_swap(folder, expected):
    """All of the next step is here already: the new load needs nothing for it, and goes on to the one after."""
    holder = []

    def once_more(event):
        if event.text == "encoder-1" and len(holder) == 1:
            holder.append(event)
            holder[0].load_teacher("prefix")

    with opened(folder, on_event=once_more) as model:
        holder.append(model)
        model.load_teacher("prefix")
        wait_for(lambda: len(holder) == 2)
        assert model.wait("TTT", timeout=20) == "TTT"
        assert_answers(model, expected, "TTT")
