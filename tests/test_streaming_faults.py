"""`ProgressiveModel` against servers and disks that misbehave: it answers, says what is wrong, and finishes when it can."""

import json
import os
import pickle
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from itertools import pairwise

import fsspec
import pytest
import torch
from streaming_for_tests import (
    IMAGES,
    META,
    SHORT_PAUSES,
    STUDENT,
    TEACHER,
    assert_answers,
    edit_manifest,
    expected_logits,
    opened,
    pair,
    replace_shard,
    save,
    shards_of,
    wait_for,
)

from pwl_lite import sources
from pwl_lite.errors import StoreError, StreamingError
from pwl_lite.manifest import MANIFEST, needed_shards, read_manifest
from pwl_lite.server import FAULTS, Fault, ShardServer
from pwl_lite.sources import LARGEST_MANIFEST, Fetcher, Source, default_cache
from pwl_lite.store import save_blocks
from pwl_lite.streaming import ProgressiveModel
from pwl_lite.swapnet import path

HARMLESS = {"drip", "no-ranges"}  # slow, or of no account for a file that is asked for from its beginning
SHARD = "teacher-2.safetensors"


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(sources, "PAUSES", SHORT_PAUSES)


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


@pytest.fixture(scope="module")
def long_folder(tmp_path_factory):
    """Its teacher-3 has some 60 kB: it arrives in several pieces, of which the last may be lost with a connection."""
    folder = tmp_path_factory.mktemp("saved") / "long"
    save_blocks(pair(0, {**TEACHER, "layers": ["5 M", "40 M", "40 M"]}), folder, **META)
    return folder


def failures_of(kind: str, times: int) -> int:
    """The tries that fail by a fault: the HTTP client itself asks a second time where a connection ends without an answer."""
    return 0 if kind in HARMLESS else times // 2 if kind == "refused" else times


def names_of_files(folder) -> set[str]:
    return {entry["sha256"] + ".safetensors" for entry in read_manifest(folder)["shards"].values()}


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


# ---- each fault


@pytest.mark.parametrize(
    ("kind", "times"), [(kind, times) for kind in FAULTS for times in (1, 3) if (kind, times) != ("drip", 3)]
)
def test_a_fault_of_a_teacher_shard(server, expected, kind, times):
    """The last good composition answers during the fault, tries are counted, and in the end the whole teacher is there."""
    failures = []
    during = []

    def note(event):
        if event.kind == "failure":
            failures.append(event)

    server.faults[SHARD] = Fault(kind, times)
    with opened(server.url, on_event=note) as model:
        model.load_teacher()
        while (served := model.answer(IMAGES))[1] in ("SSS", "TSS"):
            during.append(served)
            time.sleep(0.002)
        assert model.wait("TTT", timeout=30) == "TTT"
        assert_answers(model, expected, "TTT")
        status = model.status
        assert status.failures == len(failures) == failures_of(kind, times)
        assert status.last_error is None and status.bytes_done == status.bytes_total
    assert during
    for logits, composition in during:  # a shard is fetched while the ones before it are put to use
        assert torch.equal(logits, expected[composition])
    pauses = [float(event.text.rpartition(" after ")[2].removesuffix(" s")) for event in failures]
    if kind in ("stall", "reset", "truncated"):  # a part may have come: who gets on does not wait longer and longer
        grown = dict(pairwise(SHORT_PAUSES))
        assert pauses[0] == SHORT_PAUSES[0]
        assert all(b in (SHORT_PAUSES[0], grown[a]) for a, b in pairwise(pauses))
    else:
        assert pauses == list(SHORT_PAUSES[: len(failures)])
    assert shards_of(server.requests).count("teacher-2") == (1 if kind in HARMLESS else times + 1)


@pytest.mark.parametrize(
    ("file", "kind"),
    # a manifest has no checksum of its own: where damage leaves it valid, the shards do not fit it
    [(file, kind) for file in (MANIFEST, "student-2.safetensors") for kind in FAULTS if (file, kind) != (MANIFEST, "damaged")],
)
def test_a_fault_while_opening(server, expected, kind, file):
    server.faults[file] = Fault(kind, times=2)
    with opened(server.url, patience=20) as model:
        assert_answers(model, expected, "SSS")
        assert model.status.failures == failures_of(kind, 2)
        model.load_teacher()
        model.wait("TTT", timeout=20)
        assert_answers(model, expected, "TTT")


@pytest.mark.parametrize("kind", sorted(set(FAULTS) - HARMLESS))
def test_a_fault_that_stays(server, expected, kind):
    """Who loads gives up when patience is over; who loads for ever finishes when the fault has gone."""
    events = []
    server.faults[SHARD] = Fault(kind)
    with opened(server.url, on_event=events.append, timeout=0.1) as model:
        model.load_teacher(patience=0.15)
        with pytest.raises(StreamingError, match=r"TTT was not reached, TSS answers: gave up after \d+ tries: "):
            model.wait("TTT", timeout=20)
        wait_for(lambda: events[-1].kind == "stopped")
        assert "gave up" in events[-1].text and events[-1].text == model.status.last_error
        assert not model.status.loading and model.status.failures > 0
        with pytest.raises(StreamingError, match="gave up"):
            model.load_teacher(background=False, patience=0.1)
        assert_answers(model, expected, "TSS")
        model.load_teacher()
        failures = model.status.failures
        wait_for(lambda: model.status.failures > failures + 1)
        assert model.status.loading and "tried again after" in model.status.last_error
        assert_answers(model, expected, "TSS")
        server.faults.clear()
        model.wait("TTT", timeout=20)
        assert_answers(model, expected, "TTT")
        wait_for(lambda: events[-1].kind == "done")
        assert model.status.last_error is None


@pytest.mark.parametrize("kind", sorted(set(FAULTS) - HARMLESS))
def test_a_fault_while_unloading(server, expected, kind):
    """Student blocks have to come again: until they are there, the teacher's go on answering."""
    with opened(server.url, timeout=0.1) as model:
        model.load_teacher()
        model.wait("TTT", timeout=20)
        server.faults["student-2.safetensors"] = Fault(kind)
        with pytest.raises(StreamingError, match="gave up"):
            model.unload_to("SSS", patience=0.1)
        assert_answers(model, expected, "TTT")
        server.faults["student-2.safetensors"].times = 1
        model.unload_to("SSS")
        assert_answers(model, expected, "SSS")
        assert set(model._held) == set(needed_shards("SSS"))


@pytest.mark.parametrize("kind", ["truncated", "reset", "stall"])
def test_it_goes_on_where_the_connection_broke(long_folder, kind):
    expected = expected_logits(long_folder)
    size = read_manifest(long_folder)["shards"]["teacher-3"]["bytes"]
    with ShardServer(long_folder, bytes_per_second=1_000_000) as server, opened(server.url) as model:
        server.faults["teacher-3.safetensors"] = Fault(kind, times=2)
        model.load_teacher()
        model.wait("TTT", timeout=20)
        assert_answers(model, expected, "TTT")
        assert model.status.failures == 2 and model.status.bytes_done == model.status.bytes_total
    starts = [first for file, first in server.requests if file == "teacher-3.safetensors"]
    assert len(starts) == 3 and 0 == starts[0] < starts[1] <= size // 2 and starts[1] < starts[2] < size
    if kind == "stall":
        assert starts[1] == size // 2


def test_pauses_stay_short_while_a_transfer_gets_on(long_folder):
    """A link that breaks often is not one that is down."""
    pauses = []
    fetcher = Fetcher(Source((server := ShardServer(long_folder)).url, timeout=0.1), None)
    fetcher.on_error = lambda reason, pause: pauses.append(pause)
    with server:
        server.faults["teacher-3.safetensors"] = Fault("stall", times=4)  # each time the first half of the rest arrives
        entry = read_manifest(long_folder)["shards"]["teacher-3"]
        fetcher.shard(entry, 10**6, threading.Event(), None)
    assert pauses == [sources.PAUSES[0]] * 4


def test_a_server_without_ranges_sends_all_again(long_folder):
    expected = expected_logits(long_folder)
    file = "teacher-3.safetensors"

    def note(event):
        if event.kind == "failure":
            server.faults[file] = Fault("no-ranges")

    with ShardServer(long_folder, bytes_per_second=1_000_000) as server, opened(server.url, on_event=note) as model:
        server.faults[file] = Fault("truncated", times=1)
        model.load_teacher()
        model.wait("TTT", timeout=20)
        assert_answers(model, expected, "TTT")
        assert model.status.failures == 1 and model.status.bytes_done == model.status.bytes_total
    starts = [first for asked, first in server.requests if asked == file]
    assert len(starts) == 2 and starts[1] > 0


def test_damage_begins_anew(server, folder):
    server.faults[SHARD] = Fault("damaged", times=2)
    done = []
    with opened(server.url, on_event=lambda e: done.append(e.bytes) if e.kind == "failure" else None) as model:
        model.load_teacher(background=False)
        assert model.status.bytes_done == model.status.bytes_total
    assert [first for file, first in server.requests if file == SHARD] == [0, 0, 0]
    encoder = read_manifest(folder)["shards"]["encoder-2"]["bytes"]  # which comes at the same time
    assert done[1] - done[0] in (0, encoder)  # nothing of the damaged shard counts


def test_damage_in_the_first_half_of_a_broken_transfer(long_folder, tmp_path):
    """The joined pieces are compared as a whole, and fetched anew if they do not fit."""
    expected = expected_logits(long_folder)
    shutil.copytree(long_folder, tmp_path / "net")
    file = "teacher-3.safetensors"
    original = (long_folder / file).read_bytes()
    (tmp_path / "net" / file).write_bytes(original[:99] + bytes([original[99] ^ 255]) + original[100:])

    def heal(event):
        if event.kind == "failure":
            (tmp_path / "net" / file).write_bytes(original)

    with ShardServer(tmp_path / "net", bytes_per_second=1_000_000) as server, opened(server.url, on_event=heal) as model:
        server.faults[file] = Fault("truncated", times=1)
        model.load_teacher()
        model.wait("TTT", timeout=20)
        assert_answers(model, expected, "TTT")
        assert model.status.failures == 2 and model.status.bytes_done == model.status.bytes_total
    starts = [first for asked, first in server.requests if asked == file]
    assert len(starts) == 3 and starts[0] == starts[2] == 0 < starts[1]


def test_a_slow_link_is_no_failure(tmp_path):
    """Patience counts failures in a row: a broken connection after a long time with bytes is the first of them."""
    torch.manual_seed(0)
    wide = {**STUDENT, "layers": ["3 M", "60 M", "60"]}
    save_blocks(pair(0, {**TEACHER, "layers": ["5 M", "8 M", "40"]}, wide), tmp_path, **META)
    size = read_manifest(tmp_path)["shards"]["student-3"]["bytes"]
    with ShardServer(tmp_path, bytes_per_second=size / 0.8) as server:
        server.faults["student-3.safetensors"] = Fault("truncated", times=2)
        with opened(server.url, patience=0.25) as model:
            assert model.status.failures == 2


def test_faults_everywhere_at_once(server, expected):
    """All shards, one fault after the other."""
    kinds = [kind for kind in FAULTS if kind not in ("drip",)]
    for i, name in enumerate(read_manifest(server.folder)["shards"]):
        server.faults[f"{name}.safetensors"] = Fault(kinds[i % len(kinds)], times=1 + i % 2)
    with opened(server.url, timeout=0.2, patience=20) as model:
        for order in ("prefix", "suffix", (2, 1, 3)):
            model.load_teacher(order)
            while model.status.loading:
                assert_answers(model, expected)
            assert_answers(model, expected, "TTT")
            model.unload_to("SSS")
            assert_answers(model, expected, "SSS")


# ---- servers that come and go


def test_a_server_gone_for_good(folder, expected):
    events = []
    server = ShardServer(folder, bytes_per_second=15_000)
    with opened(server.url, on_event=events.append) as model:
        model.load_teacher(patience=0.5)
        model.wait("TSS", timeout=20)
        server.close()
        good = model.composition
        with pytest.raises(StreamingError, match=f"TTT was not reached, {good} answers: gave up after .* tries"):
            model.wait("TTT", timeout=20)
        wait_for(lambda: events[-1].kind == "stopped")
        assert_answers(model, expected, good)
        pauses = [event.text.rpartition(" after ")[2] for event in events if event.kind == "failure"]
        on_their_way = pauses.count("0.01 s")  # both shards of a step, if the small one has not arrived
        assert on_their_way in (1, 2) and pauses.count("0.02 s") == on_their_way
        assert set(pauses) == {"0.01 s", "0.02 s", "0.03 s"} and pauses[-1] == "0.03 s"


def test_a_server_that_comes_back(folder, expected):
    server = ShardServer(folder, bytes_per_second=15_000)
    with opened(server.url) as model:
        model.load_teacher()
        model.wait("TSS", timeout=20)
        server.close()
        wait_for(lambda: model.status.failures > 2)
        assert model.status.loading
        assert_answers(model, expected)
        with ShardServer(folder, port=int(server.url.rpartition(":")[2])):
            model.wait("TTT", timeout=20)
            assert_answers(model, expected, "TTT")


def test_a_server_that_starts_late(folder, expected):
    port = free_port()
    with pytest.raises(StreamingError, match=r"gave up after \d+ tries: .*127\.0\.0\.1"):
        ProgressiveModel.open(f"http://127.0.0.1:{port}", patience=0.2, cache=False)
    late = []
    starting = threading.Timer(0.2, lambda: late.append(ShardServer(folder, port=port)))
    starting.start()
    with opened(f"http://127.0.0.1:{port}") as model:
        assert_answers(model, expected, "SSS")
        assert model.status.failures > 0
    late[0].close()


def test_no_such_host():
    with pytest.raises(StreamingError, match="gave up"):
        ProgressiveModel.open("http://nowhere.invalid/net", patience=0.1, cache=False)


@pytest.mark.parametrize("address", ["ftq://x/net", "http//x::y://z"])
def test_unknown_kinds_of_address(address):
    with pytest.raises(StreamingError, match=rf"source '{address}': .*expected a folder"):
        ProgressiveModel.open(address, cache=False)


def test_closing_does_not_wait_for_a_stalled_server(server):
    server.faults[SHARD] = Fault("stall")
    with opened(server.url, timeout=30) as model:
        model.load_teacher()
        model.wait("TSS", timeout=20)
        wait_for(lambda: (SHARD, 0) in server.requests)
        time.sleep(0.05)
        started = time.monotonic()
        model.unload_to("SSS")
        assert time.monotonic() - started < 2 and model.composition == "SSS"
        model.load_teacher("suffix")
        model.wait("SST", timeout=20)
        wait_for(lambda: server.requests.count((SHARD, 0)) == 2)
        started = time.monotonic()
        model.close()
        assert time.monotonic() - started < 5


# ---- what is not what it should be


def test_the_manifest_of_another_model(folder, tmp_path, expected):
    """Its shards are longer or shorter than the manifest says: the student does not open, the teacher does not swap in."""
    shutil.copytree(folder, tmp_path / "net")
    other = save(tmp_path / "other", seed=3)
    shutil.copy(other / MANIFEST, tmp_path / "net")
    with (
        ShardServer(tmp_path / "net") as server,
        pytest.raises(StreamingError, match=r"student-1\.safetensors: damaged or of an"),
    ):
        opened(server.url, patience=0.1).__enter__()
    shutil.copytree(folder, tmp_path / "mixed")
    theirs = read_manifest(other)["shards"]
    edit_manifest(tmp_path / "mixed", lambda m: m["shards"].update({k: v for k, v in theirs.items() if k == "teacher-2"}))
    with ShardServer(tmp_path / "mixed") as server, opened(server.url) as model:
        model.load_teacher(patience=0.1)
        with pytest.raises(
            StreamingError, match=r"TTT was not reached, TSS answers: gave up .*teacher-2\.safetensors: damaged"
        ):
            model.wait("TTT", timeout=20)
        assert_answers(model, expected, "TSS")


def test_a_shard_of_other_shapes_whose_manifest_fits(folder, tmp_path, expected):
    shutil.copytree(folder, tmp_path / "net")
    replace_shard(tmp_path / "net", "teacher-2", (folder / "student-2.safetensors").read_bytes())
    events = []
    with opened(tmp_path / "net", on_event=events.append) as model:
        model.load_teacher()
        with pytest.raises(StreamingError, match=r"TSS answers: .*teacher-2: .* it is from another network"):
            model.wait("TTT", timeout=20)
        wait_for(lambda: events[-1].kind == "stopped")
        assert_answers(model, expected, "TSS")
    replace_shard(tmp_path / "net", "student-2", (folder / "teacher-2.safetensors").read_bytes())
    with pytest.raises(StoreError, match=r"student-2: .* it is from another network"):
        opened(tmp_path / "net").__enter__()


def test_an_empty_converter_is_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "net")
    replace_shard(tmp_path / "net", "encoder-1", b"\x02\0\0\0\0\0\0\0{}")
    with opened(tmp_path / "net") as model:
        model.load_teacher()
        with pytest.raises(StreamingError, match=r"SSS answers: .*encoder-1: lacks"):
            model.wait("TSS", timeout=20)


def test_a_shard_that_does_not_fit_the_image(folder, tmp_path):
    """What cannot run is not swapped in, and the thread that loads says so."""
    shutil.copytree(folder, tmp_path / "net")
    edit_manifest(tmp_path / "net", lambda manifest: manifest.update(input_shape=[5, 8, 8]))
    with opened(tmp_path / "net") as model:
        model(IMAGES)  # what arrives is tried before the next request gets it
        model.load_teacher()
        with pytest.raises(StreamingError, match=r"SSS answers: .* 3 channels, but got 5"):
            model.wait("TTT", timeout=20)
        assert model.composition == "SSS"


@pytest.mark.parametrize(
    "file", ["../secret.safetensors", "/etc/secret.safetensors", "..\\secret.safetensors", "http://x/y.safetensors"]
)
def test_paths_out_of_the_folder_are_refused(folder, tmp_path, file):
    shutil.copytree(folder, tmp_path / "net")
    shutil.copy(folder / "student-1.safetensors", tmp_path / "secret.safetensors")
    edit_manifest(tmp_path / "net", lambda manifest: manifest["shards"]["student-1"].update(file=file))
    with ShardServer(tmp_path / "net") as server:
        for source, error in ((tmp_path / "net", StoreError), (server.url, StreamingError)):
            with pytest.raises(error, match=r"shard 'student-1' with file .*, expected a plain name"):
                opened(source, patience=0.05).__enter__()
        assert {file for file, _ in server.requests} == {MANIFEST}


@pytest.mark.parametrize("declared", [10**6, 10**15, 10**30])
@pytest.mark.parametrize("verify", [True, False])
def test_too_long_a_shard_is_refused_before_it_is_read(folder, tmp_path, expected, declared, verify):
    shutil.copytree(folder, tmp_path / "net")
    edit_manifest(tmp_path / "net", lambda manifest: manifest["shards"]["teacher-2"].update(bytes=declared))
    with ShardServer(tmp_path / "net") as server, opened(server.url) as model:
        model.load_teacher()
        with pytest.raises(StreamingError, match=rf"teacher-2\.safetensors: {declared:,} bytes declared, .* refused"):
            model.wait("TTT", timeout=20)
        assert_answers(model, expected, "TSS")
        assert "teacher-2" not in shards_of(server.requests)
    with opened(tmp_path / "net", verify=verify) as model:
        model.load_teacher()
        with pytest.raises(StreamingError, match="refused"):
            model.wait("TTT", timeout=20)
    edit_manifest(tmp_path / "net", lambda manifest: manifest["shards"]["student-1"].update(bytes=declared))
    with pytest.raises(StreamingError, match=r"student-1.* refused"):
        opened(tmp_path / "net", verify=verify).__enter__()


def test_too_long_a_manifest_is_refused(tmp_path):
    (tmp_path / MANIFEST).write_bytes(b" " * (LARGEST_MANIFEST + 1))
    with ShardServer(tmp_path) as server:
        for source, error in ((tmp_path, StoreError), (server.url, StreamingError)):
            with pytest.raises(error, match=f"over {LARGEST_MANIFEST:,} bytes"):
                opened(source, patience=0.01).__enter__()


def test_an_endless_body_is_left_soon(server, folder):
    """No more than the declared length and a chunk or so is taken, however much is sent."""
    server.faults[SHARD] = Fault("endless")
    taken = []
    with opened(server.url) as model:
        model._fetcher.on_bytes = taken.append
        model.load_teacher(patience=0.05)
        model.wait(timeout=20)
        assert "teacher-2.safetensors: too long" in model.status.last_error
    assert max(taken) <= sources.CHUNK


def test_nothing_is_unpickled(folder, tmp_path, expected):
    shutil.copytree(folder, tmp_path / "net")
    marker = tmp_path / "code has run"

    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(marker),)

    torch.save({"x": Trap()}, tmp_path / "trap.pt")
    for data in (pickle.dumps(Trap()), (tmp_path / "trap.pt").read_bytes()):
        replace_shard(tmp_path / "net", "teacher-2", data)
        with ShardServer(tmp_path / "net") as server:
            for source, verify in ((server.url, True), (tmp_path / "net", True), (tmp_path / "net", False)):
                with opened(source, verify=verify, cache=tmp_path / "cache") as model:
                    model.load_teacher(patience=0.05)
                    with pytest.raises(StreamingError, match=r"TSS answers: .*teacher-2\.safetensors: not a safetensors file"):
                        model.wait("TTT", timeout=20)
                    assert_answers(model, expected, "TSS")
                    assert model.status.bytes_done < model.status.bytes_total
    assert not marker.exists()
    shards = read_manifest(folder)["shards"]
    kept = ["student-1", "student-2", "student-3", "teacher-1", "encoder-1", "encoder-2"]  # what is no shard is not
    assert {file.name for file in (tmp_path / "cache").iterdir()} == {f"{shards[name]['sha256']}.safetensors" for name in kept}


# ---- other places


def test_a_folder_by_its_url(folder, expected):
    with opened(f"file://{folder}") as model:
        model.load_teacher(background=False)
        assert_answers(model, expected, "TTT")


def test_a_folder_by_relative_path(folder, expected, monkeypatch):
    monkeypatch.chdir(folder.parent)
    with opened(folder.name) as model:
        assert_answers(model, expected, "SSS")


def test_another_file_system(folder, expected, tmp_path):
    """Anything that fsspec knows; its files are cached as those of a web server are."""
    memory = fsspec.filesystem("memory")
    memory.put(str(folder), "/bucket/net", recursive=True)
    try:
        with opened("memory://bucket/net", cache=tmp_path / "cache") as model:
            model.load_teacher(background=False)
            assert_answers(model, expected, "TTT")
            assert model.status.bytes_done == model.status.bytes_total
        memory.rm("/bucket/net/teacher-2.safetensors")
        with opened("memory://bucket/net") as model:
            model.load_teacher(patience=0.05)
            with pytest.raises(StreamingError, match=r"TSS answers: gave up .*: memory://bucket/net: FileNotFoundError"):
                model.wait("TTT", timeout=20)
            with open(folder / "teacher-2.safetensors", "rb") as data, memory.open("/bucket/net/" + SHARD, "wb") as copy:
                copy.write(data.read())
            model.load_teacher(background=False)
            assert_answers(model, expected, "TTT")
        memory.rm("/bucket/net/teacher-2.safetensors")
        with opened("memory://bucket/net", cache=tmp_path / "cache") as model:
            model.load_teacher(background=False)
            assert_answers(model, expected, "TTT")
    finally:
        memory.rm("/bucket", recursive=True)


def test_mapped_shards_answer_as_read_ones(folder, expected):
    with opened(folder, verify=False) as model:
        for order in ("prefix", "suffix", (2, 1, 3)):
            model.load_teacher(order)
            while model.status.loading:
                assert_answers(model, expected)
            assert_answers(model, expected, "TTT")
            model.unload_to("SSS")
        assert model.status.bytes_done == model.status.bytes_total


def test_faults_of_a_local_folder(folder, tmp_path, expected):
    """A disk that is not there yet, or a copy that is not finished: it is tried again as a server is."""
    for verify in (True, False):
        net = tmp_path / str(verify)
        shutil.copytree(folder, net)
        (net / SHARD).unlink()
        (net / "teacher-3.safetensors").write_bytes(b"")
        with opened(net, verify=verify) as model:
            model.load_teacher()
            wait_for(lambda: model.status.failures > 1)
            assert "FileNotFoundError" in model.status.last_error
            assert_answers(model, expected, "TSS")
            shutil.copy(folder / SHARD, net)
            wait_for(lambda: model.composition == "TTS")
            shutil.copy(folder / "teacher-3.safetensors", net)
            model.wait("TTT", timeout=20)
            assert_answers(model, expected, "TTT")


def test_a_folder_that_is_not_there(tmp_path):
    begun = time.monotonic()
    for source, problem in (
        (tmp_path / "nowhere", "no such folder"),
        (f"file://{tmp_path}/nowhere", "no such folder"),
        (tmp_path, "manifest.json: missing"),
    ):
        with pytest.raises(StoreError, match=problem):
            ProgressiveModel.open(source, patience=20)
    assert time.monotonic() - begun < 5  # nobody waits for what will not come


def test_a_changed_byte_on_disk_is_noticed_where_it_is_verified(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "net")
    data = bytearray((folder / "student-2.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "net" / "student-2.safetensors").write_bytes(data)
    with pytest.raises(StreamingError, match=r"student-2\.safetensors: damaged"):
        opened(tmp_path / "net", patience=0.05).__enter__()
    with opened(tmp_path / "net", verify=False):
        pass


# ---- the cache


def test_what_is_cached_is_not_fetched_again(server, folder, expected, tmp_path):
    for _ in range(2):
        with opened(server.url, cache=tmp_path / "cache") as model:
            model.load_teacher(background=False)
            assert_answers(model, expected, "TTT")
            assert model.status.bytes_done == model.status.bytes_total
        asked = shards_of(server.requests)
        server.requests.clear()
        if len(asked):
            assert set(asked) == {name for c in path("prefix", 3) for name in needed_shards(c)}
    assert not asked
    assert {f.name for f in (tmp_path / "cache").iterdir()} < names_of_files(folder)


def test_unloading_reads_from_the_cache(server, expected, tmp_path):
    with opened(server.url, cache=tmp_path / "cache") as model:
        model.load_teacher(background=False)
        server.close()
        model.unload_to("SSS")
        assert_answers(model, expected, "SSS")


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "folder"])
def test_a_damaged_copy_is_fetched_again(server, folder, expected, tmp_path, damage):
    entry = read_manifest(folder)["shards"]["student-2"]
    with opened(server.url, cache=tmp_path / "cache"):
        pass
    copy = tmp_path / "cache" / f"{entry['sha256']}.safetensors"
    data = bytearray(copy.read_bytes())
    copy.unlink()
    if damage == "folder":
        copy.mkdir()
    else:
        data[50] ^= 1
        copy.write_bytes({"flip": data, "truncate": data[: len(data) // 2], "empty": b""}[damage])
    server.requests.clear()
    with opened(server.url, cache=tmp_path / "cache") as model:
        assert_answers(model, expected, "SSS")
    assert shards_of(server.requests) == ["student-2"]
    if damage != "folder":
        assert copy.read_bytes() == (folder / "student-2.safetensors").read_bytes()


def test_where_the_cache_is(server, tmp_path, monkeypatch):
    monkeypatch.setenv("PWL_CACHE_DIR", str(tmp_path / "mine"))
    with opened(server.url, cache=True):
        pass
    assert len(list((tmp_path / "mine").iterdir())) == 3
    monkeypatch.delenv("PWL_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache() == tmp_path / "xdg" / "pwl_lite"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_cache() == tmp_path / "home" / ".cache" / "pwl_lite"


def test_local_folders_are_not_cached(folder, tmp_path):
    with opened(folder, cache=tmp_path / "cache"):
        pass
    assert not (tmp_path / "cache").exists()


def blocked_caches(tmp_path):
    (tmp_path / "file").write_text("mine")
    return {
        "a file in its place": tmp_path / "file",
        "below a file": tmp_path / "file" / "cache",
        "of the system": "/proc/cache",
    }


@pytest.mark.parametrize("place", ["a file in its place", "below a file", "of the system"])
def test_a_cache_that_cannot_be_written(server, expected, tmp_path, place):
    events = []
    with opened(server.url, cache=blocked_caches(tmp_path)[place], on_event=events.append) as model:
        assert_answers(model, expected, "SSS")
        assert "not cached" in model.status.last_error
        model.load_teacher(background=False)
        assert_answers(model, expected, "TTT")
        assert "not cached" in model.status.last_error and not model.status.loading
    assert any(e.kind == "failure" and "not cached" in e.text for e in events)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("size", [0, 1000])
def test_a_full_disk(server, expected, tmp_path, size):
    """The system refuses to let a file grow: shards that fit are cached, no other is left half-written."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        with opened(server.url, cache=tmp_path / "cache") as model:
            model.load_teacher(background=False)
            assert_answers(model, expected, "TTT")
            assert "not cached" in model.status.last_error
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert all(f.stat().st_size <= size and f.name in names_of_files(server.folder) for f in (tmp_path / "cache").iterdir())
    server.requests.clear()
    with opened(server.url, cache=tmp_path / "cache") as model:
        model.load_teacher(background=False)
        assert_answers(model, expected, "TTT")
        assert model.status.last_error is None
    assert names_of_files(server.folder) > {f.name for f in (tmp_path / "cache").iterdir()}


KILLED = """
import os, signal, sys
from pwl_lite.streaming import ProgressiveModel

written, at = 0, int(sys.argv[3])
really = os.fsync

def fsync(handle):  # called when a shard is written beside its place, before it is put there
    global written
    written += 1
    if written == at:
        os.truncate(handle, os.fstat(handle).st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)
    really(handle)

os.fsync = fsync
model = ProgressiveModel.open(sys.argv[1], cache=sys.argv[2])
model.load_teacher(background=False)
"""


def test_killed_while_caching(server, folder, expected, tmp_path):
    """No half file is taken for a whole one by the next run, and what lies about is in nobody's way."""
    at = 4  # the first shard of the teacher
    killed = subprocess.run([sys.executable, "-c", KILLED, server.url, tmp_path / "cache", str(at)])
    assert killed.returncode == -signal.SIGKILL
    left = {f.name for f in (tmp_path / "cache").iterdir()}
    assert len(left & names_of_files(folder)) == at - 1
    assert len(left - names_of_files(folder)) in (1, 2)  # the encoder that is needed with it arrives at the same time
    asked = shards_of(server.requests)
    server.requests.clear()
    with opened(server.url, cache=tmp_path / "cache") as model:
        model.load_teacher(background=False)
        assert_answers(model, expected, "TTT")
    assert asked[: at - 1] and not set(asked[: at - 1]) & set(shards_of(server.requests))
    assert {"teacher-1", "encoder-1"} <= set(shards_of(server.requests))


def test_what_killed_processes_left_in_the_cache_goes_in_time(server, expected, tmp_path):
    (cache := tmp_path / "cache").mkdir()
    old, new = (cache / f".{name}.safetensors.0.part" for name in "ab")
    for left, age in ((old, 2 * 3600), (new, 60)):  # somebody may still be writing the second
        left.write_bytes(b"half")
        os.utime(left, (time.time() - age,) * 2)
    with opened(server.url, cache=cache) as model:
        assert_answers(model, expected, "SSS")
    assert new.exists() and not old.exists()


def test_killed_at_any_moment(folder, expected, tmp_path):
    code = (
        "import sys; from pwl_lite.streaming import ProgressiveModel; "
        "m = ProgressiveModel.open(sys.argv[1], cache=sys.argv[2]); print(m.composition, flush=True); "
        "m.load_teacher(background=False); print(m.composition, flush=True)"
    )
    with ShardServer(folder, bytes_per_second=20_000) as server:
        call = [sys.executable, "-c", code, server.url, str(tmp_path / "cache")]
        with subprocess.Popen(call, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == "SSS\n"
            time.sleep(0.1)
            process.kill()
        assert process.returncode == -signal.SIGKILL
        server.bytes_per_second = None
        with opened(server.url, cache=tmp_path / "cache") as model:
            model.load_teacher(background=False)
            assert_answers(model, expected, "TTT")


def test_two_models_share_a_cache(server, expected, tmp_path):
    models = []

    def use():
        with opened(server.url, cache=tmp_path / "cache") as model:
            model.load_teacher(background=False)
            assert_answers(model, expected, "TTT")
            models.append(model.status.last_error)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert models == [None] * 4
    assert {f.name for f in (tmp_path / "cache").iterdir()} < names_of_files(server.folder)


def test_options_reach_the_file_system(server):
    """Such as a key that the server wants to see."""
    headers = {"Authorization": "Bearer key"}
    own = {"client_kwargs": {"headers": headers}}
    with opened(server.url, **own) as model:
        seen = model._source.files.client_kwargs
    assert seen["headers"] == headers and own == {"client_kwargs": {"headers": headers}}


def test_status_is_plain_json(server):
    with opened(server.url) as model:
        assert json.loads(json.dumps(asdict(model.status)))["composition"] == "SSS"


@pytest.mark.parametrize("verify", [True, False])
def test_nobody_reads_a_folder_any_more_when_loading_has_ended(folder, tmp_path, verify):
    """Its files may be replaced then, also mapped ones: a shard that is replaced while it is read ends the process."""
    shutil.copytree(folder, tmp_path / "net")
    replace_shard(tmp_path / "net", "encoder-1", b"nothing")
    with opened(tmp_path / "net", verify=verify) as model:
        for _ in range(20):
            with pytest.raises(StreamingError, match=r"encoder-1\.safetensors: not a safetensors file"):
                model.load_teacher(background=False, patience=0.0)
            assert not model._fetching
    replace_shard(tmp_path / "net", "student-2", b"nothing")
    for _ in range(20):
        with pytest.raises(StreamingError, match=r"student-2\.safetensors: not a safetensors file"):
            opened(tmp_path / "net", verify=verify, patience=0.0).__enter__()
        assert not [t for t in threading.enumerate() if t.name == "pwl-fetching"]
