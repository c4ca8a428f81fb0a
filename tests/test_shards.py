"""Shards in memory: the same tensors as the safetensors library reads, without a copy; compressed ones; damaged ones."""

import gc
import json
import struct
import zlib
from pathlib import Path

import pytest
import safetensors.torch
import torch
from streaming_for_tests import IMAGES, META, TEACHER, expected_logits, pair

from pwl_lite.errors import PWLError, StoreError
from pwl_lite.manifest import read_manifest
from pwl_lite.shards import (
    DTYPES,
    LARGE,
    empty_pages,
    inflate,
    map_file,
    own_pages,
    parse_shard,
    read_into_pages,
    settle,
    to_shard,
)
from pwl_lite.store import load_blocks, save_blocks
from pwl_lite.streaming import ProgressiveModel


def in_pages(data: bytes):
    buffer = own_pages(len(data))
    buffer[: len(data)] = data
    return buffer


def shard(header: dict | bytes, numbers: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + numbers


def values_of(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    return (100 * torch.rand(shape)).to(dtype)


def test_all_types_and_shapes_as_the_library_reads_them(tmp_path):
    tensors = {
        f"{name} {shape}": values_of(dtype, *shape) for name, dtype in DTYPES.items() for shape in ((), (0, 3), (5,), (2, 3, 4))
    }
    data = safetensors.torch.save(tensors, metadata={"format": "pt"})
    (tmp_path / "x").write_bytes(data)
    wanted = safetensors.torch.load(data)
    for buffer, length in ((in_pages(data), len(data)), read_into_pages(tmp_path / "x"), map_file(tmp_path / "x")):
        found = parse_shard(buffer, length, "x")
        assert length == len(data) and set(found) == set(wanted)
        for name, tensor in wanted.items():
            assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name


def test_the_library_reads_what_is_written(tmp_path):
    tensors = {
        f"{name} {shape}": values_of(dtype, *shape) for name, dtype in DTYPES.items() for shape in ((), (0, 3), (5,), (2, 3, 4))
    }
    tensors["not in a row"] = torch.arange(12.0).view(3, 4).T
    data = to_shard(tensors)
    (tmp_path / "x.safetensors").write_bytes(data)
    loads = safetensors.torch.load(data), safetensors.torch.load_file(tmp_path / "x.safetensors")
    for found in (*loads, parse_shard(in_pages(data), len(data), "x")):
        assert set(found) == set(tensors)
        for name, tensor in tensors.items():
            assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name
    with pytest.raises(StoreError, match=r"^a is complex64, which shards cannot hold: expected one of float64, float32,"):
        to_shard({"a": torch.zeros(2, dtype=torch.complex64)})


def test_large_tensors_are_used_where_they_lie_and_small_ones_moved_where_they_must(tmp_path):
    tensors = {"norm": torch.rand(24), "count": torch.tensor(3), "weight": torch.rand(64, 3, 10, 10), "bias": torch.rand(64)}
    (tmp_path / "x").write_bytes(to_shard(tensors))
    buffer, length = map_file(tmp_path / "x")
    lying = parse_shard(buffer, length, "x")
    settled = settle(lying, {name: tensor.dtype for name, tensor in tensors.items()})
    there = {name for name in tensors if settled[name].data_ptr() == lying[name].data_ptr()}
    assert {"weight", "bias"} <= there
    for name, tensor in tensors.items():
        assert torch.equal(settled[name], tensor) and settled[name].data_ptr() % 64 == 0, name


def test_tensors_are_views_of_what_arrived():
    data = safetensors.torch.save({"a": torch.arange(6.0).view(2, 3)})
    buffer = in_pages(data)
    tensor = parse_shard(buffer, len(data), "x")["a"]
    tensor[1, 2] = 7.0
    assert struct.unpack("<f", buffer[len(data) - 4 : len(data)])[0] == 7.0


def test_pages_go_back_when_the_last_tensor_is_gone():
    def resident() -> int:
        return 4096 * int(Path("/proc/self/statm").read_text().split()[1])

    if not Path("/proc/self/statm").exists():
        pytest.skip("the system does not tell")
    data = safetensors.torch.save({"a": torch.ones(8_000_000), "b": torch.ones(3)})
    before = resident()
    tensors = parse_shard(in_pages(data), len(data), "x")
    assert resident() - before > 30e6
    kept = settle(tensors, {"a": torch.float64, "b": torch.float32})["b"]  # a copy: it keeps nothing else
    del tensors
    gc.collect()
    assert resident() - before < 2e6 and kept.sum() == 3


def test_settled_tensors_begin_where_torch_puts_them():
    tensors = {"a": torch.arange(3.0), "b": torch.rand(100_000), "c": torch.rand(5, 7)}
    data = safetensors.torch.save(tensors)
    found = settle(parse_shard(in_pages(data), len(data), "x"), {name: torch.float32 for name in tensors})
    assert all(torch.equal(found[name], tensor) and found[name].data_ptr() % 64 == 0 for name, tensor in tensors.items())


def test_large_tensors_get_pages_of_their_own():
    for shape in ((LARGE // 4,), (3, 2), (0,)):
        assert empty_pages(shape, torch.float32).shape == shape


STRICTER = (r"\[2, 1, 1, 1", "more")  # dimensions, and keys, that `save_blocks` never writes: here the library is not so strict
GOOD = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "header is longer"),
        (b"\x01\0\0", "header is longer"),
        (struct.pack("<Q", 2**63) + b"{}", "header is longer"),
        (shard(b"[]"), "its header is a list"),
        (shard(b'{"a": ' * 5000), "not a safetensors file"),
        (shard(b'{"a":1,"a":2}'), "a name appears twice"),
        (shard(GOOD, bytes(7)), "do not lie where they should"),
        (shard(GOOD, bytes(9)), "numbers, expected 8"),
        (shard({"a": {**GOOD["a"], "dtype": "F128"}}, bytes(8)), "F128"),
        (shard({"a": {**GOOD["a"], "shape": [3]}}, bytes(8)), "do not lie where they should"),
        (shard({"a": {**GOOD["a"], "shape": [-2]}}, bytes(8)), "shape"),
        (shard({"a": {**GOOD["a"], "shape": [True, 2]}}, bytes(8)), "shape"),
        (shard({"a": {**GOOD["a"], "shape": [2] + [1] * 16}}, bytes(8)), r"\[2, 1, 1, 1"),
        (shard({"a": {**GOOD["a"], "data_offsets": [4, 12]}}, bytes(12)), "do not lie where they should"),
        (shard({**GOOD, "b": GOOD["a"]}, bytes(8)), "do not lie where they should"),
        (shard({"a": {**GOOD["a"], "more": 1}}, bytes(8)), "more"),
    ],
)
def test_what_is_no_safetensors_is_refused(data, problem):
    with pytest.raises(StoreError, match=f"x: not a safetensors file .*{problem}|x: {problem}"):
        parse_shard(in_pages(data), len(data), "x")
    if problem not in STRICTER:
        with pytest.raises(Exception):  # noqa: B017 - the library has errors of its own
            safetensors.torch.load(data)


def test_numbers_that_begin_at_an_odd_place():
    header = {
        "a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        "b": {"dtype": "F32", "shape": [1], "data_offsets": [1, 5]},
    }
    data = shard(header, b"\x07" + struct.pack("<f", 2.5))
    found = parse_shard(in_pages(data), len(data), "x")
    assert found["a"].item() == 7 and found["b"].item() == 2.5


# ---- compressed


@pytest.mark.parametrize("dtype", [None, torch.int8], ids=str)
def test_a_compressed_pair_answers_as_a_plain_one(tmp_path, dtype):
    net = pair(0, {**TEACHER, "layers": ["20 M", "30 M", "40"]})
    plain, compressed = tmp_path / "plain", tmp_path / "compressed"
    save_blocks(net, plain, dtype=dtype, **META)
    save_blocks(net, compressed, dtype=dtype, compress=True, **META)
    expected = expected_logits(plain)
    entries = [read_manifest(folder)["shards"]["teacher-3"] for folder in (plain, compressed)]
    assert entries[1]["inflated"] == entries[0]["bytes"] > entries[1]["bytes"]
    loaded = load_blocks(compressed)
    with torch.inference_mode():
        assert torch.equal(loaded(IMAGES, "TST"), expected["TST"])
    for verify in (True, False):
        with ProgressiveModel.open(compressed, verify=verify) as model:
            assert torch.equal(model(IMAGES), expected["SSS"])
            model.load_teacher(background=False)
            assert torch.equal(model(IMAGES), expected["TTT"])
            assert model.status.bytes_done == model.status.bytes_total
    save_blocks(net, compressed, dtype=dtype, **META)
    assert not list(compressed.glob("*.zlib"))  # of the save before


def test_what_cannot_be_inflated_is_refused():
    whole = zlib.compress(bytes(range(256)) * 1000)
    assert inflate(in_pages(whole), len(whole), 256_000, "x")[:256_000] == bytes(range(256)) * 1000
    for data, inflated in (
        (whole, 255_999),  # too long
        (whole, 256_001),  # too short
        (whole[:-5], 256_000),
        (whole + b"more", 256_000),
        (whole[:50] + b"\xff" * 5 + whole[55:], 256_000),
        (b"", 0),
        (whole, 10**30),  # more than any memory
        (zlib.compress(bytes(10**8)), 1000),  # a bomb: no more than 1000 bytes and a piece are ever made
    ):
        with pytest.raises(PWLError, match="x: cannot be inflated"):
            inflate(in_pages(data), len(data), inflated, "x")
