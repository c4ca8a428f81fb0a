"""Shards in memory: they arrive in pages of their own, are read there, and their tensors get pages where they have to move.

The pages go back to the system when the last tensor is gone; what is freed in the heap of the C library often stays with it.

The format is safetensors (https://huggingface.co/docs/safetensors): the length of a header (8 bytes, little-endian), the header
(JSON: name -> type, shape, first and last offset), then the numbers. Its own library reads files or copies; this reads memory.
"""

import json
import math
import mmap
import os
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .errors import StoreError

Buffer = mmap.mmap | bytearray
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
LARGE = 1 << 16  # bytes from which a tensor gets pages of its own
ALIGNED = 64  # torch's own tensors begin at multiples of so many bytes
MOST_DIMENSIONS = 16


def to_shard(tensors: Mapping[str, Tensor]) -> bytes:
    """The bytes of a shard. Numbers begin at multiples of 64 bytes, so that what is mapped or has arrived can be used where it
    lies; tensors that are no multiple of it long come last, those of wide types first.

    Args:
        tensors: on the CPU.

    Raises:
        StoreError: a type that is not in `DTYPES`.
    """
    place = {name: (tensor.nbytes % ALIGNED > 0, -tensor.itemsize, name) for name, tensor in tensors.items()}
    header, end, ordered = {}, 0, sorted(tensors, key=place.__getitem__)
    for name in ordered:
        tensor, start = tensors[name], end
        end += tensor.nbytes
        if tensor.dtype not in NAMES:
            known = ", ".join(str(dtype)[6:] for dtype in NAMES)
            raise StoreError(f"{name} is {str(tensor.dtype)[6:]}, which shards cannot hold: expected one of {known}")
        header[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNED)  # the format allows for spaces there
    numbers = (tensors[name].flatten().view(torch.uint8).numpy().tobytes() for name in ordered)
    return b"".join([len(text).to_bytes(8, "little"), text, *numbers])


def own_pages(length: int) -> mmap.mmap:
    """Memory of at least `length` bytes, all 0, that goes back to the system as a whole once nobody refers to it."""
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_ANONYMOUS") else {}
    return mmap.mmap(-1, max(length, 1), **private)


def read_into_pages(path: Path) -> tuple[Buffer, int]:
    """The content of a file, and its length. Raises OSError."""
    with open(path, "rb", buffering=0) as file:
        length = os.fstat(file.fileno()).st_size
        buffer, read = own_pages(length), 0
        with memoryview(buffer) as view:
            while read < length and (n := file.readinto(view[read:length])):
                read += n
    return buffer, read


def map_file(path: Path) -> tuple[Buffer, int]:
    """A file's own pages, which the system reads while the program goes on, and its length. Raises OSError."""
    with open(path, "rb") as file:
        length = os.fstat(file.fileno()).st_size
        if not length:
            return bytearray(), length
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    if hasattr(mmap, "MADV_WILLNEED"):  # else they are read when they are used first, and each page fault waits for the disk
        with suppress(OSError):  # a hint that some file systems do not take
            mapped.madvise(mmap.MADV_WILLNEED)
    return mapped, length


def inflate(buffer: Buffer, length: int, inflated: int, source: str) -> Buffer:
    """What the first `length` bytes are compressed of, in pages of its own: exactly `inflated` bytes, or an error.

    Raises:
        StoreError: it is damaged, or has more or fewer bytes.
    """
    at, stream = 0, zlib.decompressobj()
    try:
        whole = own_pages(inflated)
        with memoryview(buffer) as view:
            rest: Any = view[:length]
            while not stream.eof and (piece := stream.decompress(rest, LARGE)):
                if at + len(piece) > inflated:
                    raise ValueError(f"over {inflated:,} bytes")
                whole[at : at + len(piece)] = piece
                at, rest = at + len(piece), stream.unconsumed_tail
            del rest
        if not stream.eof or at != inflated or stream.unused_data:
            raise ValueError(f"{at:,} bytes, expected {inflated:,}")
    except (zlib.error, ValueError, OSError, OverflowError) as error:  # the latter two: no such memory
        raise StoreError(f"{source}: cannot be inflated ({error}); copy it again") from error
    return whole


def parse_shard(buffer: Buffer, length: int, source: str) -> dict[str, Tensor]:
    """The tensors of a shard by name, as views of its first `length` bytes. `source` names it in errors.

    Raises:
        StoreError: not safetensors: a header that is none, an unknown type, or numbers that overlap, leave gaps or lie outside.
    """
    try:
        header, start = _header(buffer, length)
        tensors, end = {}, 0
        for name, (dtype, shape, first, last) in sorted(header.items(), key=lambda item: item[1][2:]):
            if first != end or last - first != math.prod(shape) * dtype.itemsize or start + last > length:
                raise ValueError(f"the numbers of {name!r} do not lie where they should")
            tensors[name], end = _view(buffer, dtype, shape, start + first), last
        if start + end != length:
            raise ValueError(f"{length - start} bytes of numbers, expected {end}")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise StoreError(f"{source}: not a safetensors file ({error}); nothing else is ever read") from error
    return tensors


def _header(buffer: Buffer, length: int) -> tuple[dict[str, tuple[torch.dtype, list[int], int, int]], int]:
    """Type, shape and offsets of each tensor, and where the numbers begin. Raises ValueError, KeyError, TypeError."""
    start = 8 + int.from_bytes(buffer[:8], "little")
    if not 8 < start <= length:
        raise ValueError("its header is longer than the file")
    entries = json.loads(bytes(buffer[8:start]), object_pairs_hook=_without_repeats)
    if not isinstance(entries, dict):
        raise ValueError(f"its header is a {type(entries).__name__}")
    header = {}
    for name, entry in entries.items():
        if name == "__metadata__":
            continue
        if set(entry) != {"dtype", "shape", "data_offsets"} or entry["dtype"] not in DTYPES:
            raise ValueError(f"{name!r} is {str(entry)[:80]}")
        shape, (first, last) = entry["shape"], entry["data_offsets"]
        if not all(type(n) is int and 0 <= n <= length for n in (*shape, first, last)) or len(shape) > MOST_DIMENSIONS:
            raise ValueError(f"{name!r} has the shape {str(shape)[:80]} at {first} to {last}")
        header[name] = (DTYPES[entry["dtype"]], shape, first, last)
    return header, start


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len(found := dict(pairs)) != len(pairs):
        raise ValueError("a name appears twice")
    return found


def _view(buffer: Buffer, dtype: torch.dtype, shape: Sequence[int], offset: int) -> Tensor:
    count = math.prod(shape)
    if count == 0:
        return torch.empty(shape, dtype=dtype)
    if offset % dtype.itemsize:  # never in what `save_blocks` writes; processors want numbers at multiples of their size
        buffer, offset = bytearray(buffer[offset : offset + count * dtype.itemsize]), 0
    return torch.frombuffer(buffer, dtype=dtype, count=count, offset=offset).view(shape)


def empty_pages(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A tensor to be filled; a large one in pages of its own."""
    length = math.prod(shape) * dtype.itemsize
    return torch.empty(shape, dtype=dtype) if length < LARGE else _view(own_pages(length), dtype, shape, 0)


def settle(tensors: Mapping[str, Tensor], dtypes: Mapping[str, torch.dtype]) -> dict[str, Tensor]:
    """The tensors in the types in which they are used, and where torch would put them.

    Kernels of torch's libraries choose their way by where numbers begin; elsewhere, the last bits of an output may differ. So
    what begins elsewhere, or has another type, is copied. Where that is so of a large one, all are: a small view would keep all
    pages in which the shard has arrived.
    """
    copied = {n for n, dtype in dtypes.items() if tensors[n].dtype != dtype or tensors[n].data_ptr() % ALIGNED}
    if any(tensors[name].nbytes >= LARGE for name in copied) or not any(t.nbytes >= LARGE for t in tensors.values()):
        copied = set(dtypes) if copied else copied
    return {
        name: empty_pages(tensors[name].shape, dtype).copy_(tensors[name]) if name in copied else tensors[name]
        for name, dtype in dtypes.items()
    }
