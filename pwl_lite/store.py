"""Blocks on disk: a folder with one safetensors shard per block, and `manifest.json` that says what they are.

    manifest.json
    teacher-1.safetensors .. teacher-N.safetensors        a `BlockNet` alone: network-1 .. network-N
    student-1.safetensors .. student-N.safetensors
    encoder-1.safetensors .. encoder-(N-1).safetensors    converters, teacher -> student
    decoder-1.safetensors .. decoder-(N-1).safetensors    converters, student -> teacher; a pair without has neither

The manifest is put in place last: a folder without one is incomplete. A shard holds numbers and names
only; nothing in the folder is ever unpickled or run.
"""

import hashlib
import math
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from .blocknet import BlockNet, feature_shapes
from .errors import PWLError, StoreError
from .files import atomic_path
from .manifest import (
    LARGEST_IMAGE,
    MANIFEST,
    NETWORKS,
    SCHEMA,
    check_manifest,
    has_converters,
    read_manifest,
    shard_names,
    some,
    to_json,
)
from .networks import build_network
from .precision import Precision, from_store, precision_of, to_store
from .shards import Buffer, inflate, parse_shard, read_into_pages, to_shard
from .swapnet import SwapNet


def save_blocks(
    net: SwapNet | BlockNet,
    folder: str | os.PathLike,
    *,
    classes: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
    dtype: Precision = None,
    compress: bool = False,
    extra: dict | None = None,
) -> Path:
    """Write every block of `net` as a shard, and the manifest; return the manifest's path.

    An earlier save in the same folder is replaced only when all new files lie complete beside the old ones:
    an error on the way leaves the old save as it was. Other files in the folder are left alone.

    Args:
        net: the network; it may lie on any device.
        folder: made if missing.
        classes: class names, in the order of the logits.
        mean: per channel, of images scaled to 0 .. 1.
        std: per channel; with `mean`, how images are normalised before `net` sees them.
        dtype: store weights (parameters with two or more dimensions) in this smaller type, such as `torch.float16` for half
            the bytes, or `{"student": torch.int8, "teacher": torch.float16}`; int8 makes vectors float16 too; see `precision`.
        compress: write shards compressed (deflate). Worth its time for int8, where it saves a tenth; little in wider types.
        extra: anything else worth keeping that JSON can hold.

    Raises:
        StoreError: `net` is neither a SwapNet nor a BlockNet, a weight is too large for `dtype`, or JSON
            cannot hold what the manifest should.
        UnknownNameError: a type that weights cannot be stored in.
        SaveError: the folder cannot be written (disk full, no permission, a file in its place).
    """
    folder = Path(folder)
    kind, networks = _networks_of(net)
    first = networks[NETWORKS[kind][-1]]
    manifest = {
        "schema": SCHEMA,
        "kind": kind,
        "num_blocks": first.num_blocks,
        "networks": {name: network.config for name, network in networks.items()},
        "features": {name: [list(shape) for shape in feature_shapes(network)] for name, network in networks.items()},
        "input_shape": list(first.input_shape),
        "classes": list(classes),
        "mean": [float(m) for m in mean],
        "std": [float(s) for s in std],
        "shards": {n: {"file": f"{n}.safetensors", "bytes": 0, "sha256": "0" * 64} for n in shard_parts(net)},
        "extra": extra or {},
    }
    check_manifest(manifest, "manifest to be written")
    to_json(manifest)  # what JSON cannot hold is refused before any file is made
    old = _shard_files(folder)

    made = not folder.exists()
    try:
        with ExitStack() as stack:  # left in reverse order: the manifest is put in place last
            manifest_file = stack.enter_context(atomic_path(folder / MANIFEST))
            for name, part in shard_parts(net).items():
                data = to_shard(_stored(part, precision_of(name, dtype), folder / f"{name}.safetensors"))
                entry = manifest["shards"][name]
                if compress:
                    entry |= {"file": f"{name}.safetensors.zlib", "inflated": len(data)}
                    data = zlib.compress(data, 9)
                entry["bytes"], entry["sha256"] = len(data), hashlib.sha256(data).hexdigest()
                _write(stack.enter_context(atomic_path(folder / entry["file"])), data)
            _write(manifest_file, to_json(manifest).encode())
    except PWLError:
        if made and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        raise
    for name in old - {entry["file"] for entry in manifest["shards"].values()}:  # what this save does not have
        (folder / name).unlink(missing_ok=True)
    return folder / MANIFEST


def load_blocks(
    folder: str | os.PathLike, networks: Mapping[str, BlockNet] | None = None, *, verify: bool = True
) -> SwapNet | BlockNet:
    """The network that `save_blocks` wrote to `folder`, on the CPU and in evaluation mode.

    Class names and normalisation are in `read_manifest(folder)`.

    Args:
        folder: where manifest and shards lie.
        networks: fill these instead of building new ones: `{"teacher": ..., "student": ...}`, or
            `{"network": ...}` when a single network was saved. Needed for networks not made by this package.
            No weight in them changes unless every shard is in order.
        verify: compare the SHA-256 of every shard with the manifest; lengths and shapes are always checked.

    Raises:
        StoreError: folder, manifest or a shard is missing, damaged or made for other networks.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    for entry in manifest["shards"].values():  # before there is memory for a network as large as they claim
        with _readable(path := folder / entry["file"]):
            length = path.stat().st_size
        _check_length(length, entry, str(path))
    net = build_from_manifest(manifest, networks, source=str(folder / MANIFEST))
    contents = []
    for name, part in shard_parts(net).items():
        tensors = read_shard(folder, manifest, name, verify=verify)
        check_fits(tensors, part.state_dict(), source=str(folder / manifest["shards"][name]["file"]))
        contents.append((part, tensors))
    for part, tensors in contents:
        part.load_state_dict(tensors)
    return net.eval()


def shard_parts(net: SwapNet | BlockNet) -> dict[str, nn.Module]:
    """What each shard holds: a block with `embed` or `head` at the ends (`BlockNet.part`), or one direction of a converter."""
    kind, networks = _networks_of(net)
    n = next(iter(networks.values())).num_blocks
    parts: list[nn.Module] = [network.part(i) for network in networks.values() for i in range(n)]
    converters = isinstance(net, SwapNet) and not net.identity
    if converters:
        parts += [converter.encoder for converter in net.converters]
        parts += [converter.decoder for converter in net.converters]
    return dict(zip(shard_names(kind, n, converters), parts, strict=True))


def build_from_manifest(
    manifest: dict, networks: Mapping[str, BlockNet] | None = None, source: str = MANIFEST
) -> SwapNet | BlockNet:
    """The network that a manifest describes, its weights still to be read. The random state stays as it was.

    Raises:
        StoreError: a config is null or cannot be built, or the given `networks` are not the manifest's.
    """
    built = build_networks(manifest, networks, source)
    try:
        with torch.random.fork_rng(devices=[]):
            if manifest["kind"] == "network":
                return built["network"]
            return SwapNet(*built.values(), identity=not has_converters(manifest))
    except PWLError as error:
        raise StoreError(f"{source}: teacher and student do not fit together: {error}") from error


def build_networks(
    manifest: dict, networks: Mapping[str, BlockNet] | None, source: str, device: str = "cpu", only: str | None = None
) -> dict[str, BlockNet]:
    """The networks of a manifest by name, as `build_from_manifest` takes them; on the device `meta` without memory.

    With `only`, just the one of this name.
    """
    names, shape = NETWORKS[manifest["kind"]], manifest["input_shape"]
    if len(shape) != 3 or not 0 < math.prod(shape) <= LARGEST_IMAGE:
        raise StoreError(f"{source}: input_shape {shape}, expected (channels, height, width), {LARGEST_IMAGE:,} values at most")
    if networks is not None and set(networks) != set(names):
        raise StoreError(f"{source}: networks given for {some(networks)}, expected {some(names)}")
    built = {}
    with torch.random.fork_rng(devices=[]):  # first weights are random: loading must not shift a seeded run
        for name in [only] if only else names:
            config = manifest["networks"][name]
            if networks is None and config is None:
                given = ", ".join(f"{n!r}: net" for n in names)
                raise StoreError(
                    f"{source}: {name} has no config, since it is of none of pwl_lite's families; build it "
                    f"and give it: networks={{{given}}}"
                )
            try:
                built[name] = networks[name] if networks is not None else _build(config, name, manifest, device)
            except (TypeError, ValueError, RuntimeError) as error:  # a PWLError is a ValueError
                raise StoreError(f"{source}: {name} cannot be built: {error}") from error
            found, expected = built[name].num_blocks, manifest["num_blocks"]
            if found != expected:
                raise StoreError(f"{source}: {name} has {found} blocks, expected {expected}")
    return built


def _build(config: dict, name: str, manifest: dict, device: str) -> BlockNet:
    """A network; one with more numbers than its shards have bytes is given no memory. Raises StoreError."""
    with torch.device("meta"):
        net = build_network(config)
    numbers = sum(tensor.numel() for tensor in net.state_dict().values())
    entries = (entry for shard, entry in manifest["shards"].items() if shard.rpartition("-")[0] == name)
    stored = sum(entry.get("inflated", entry["bytes"]) for entry in entries)
    if numbers > max(stored, 1 << 20):  # a small one does no harm, and reading its shards says more
        raise StoreError(f"{numbers:,} numbers, but shards of {stored:,} bytes")
    return net if device == "meta" else build_network(config)


def read_shard(folder: str | os.PathLike, manifest: dict, name: str, verify: bool = True) -> dict[str, Tensor]:
    """The tensors of one shard, checked against the manifest. Raises StoreError naming file and reason."""
    entry = manifest["shards"][name]
    path = Path(folder) / entry["file"]
    with _readable(path):
        buffer, length = read_into_pages(path)
    check_shard(length, sha256_of(buffer, length) if verify else entry["sha256"], entry, str(path))
    return decode_shard(buffer, entry, str(path))


def sha256_of(buffer: Buffer, length: int) -> str:
    """SHA-256 of the first `length` bytes, in hex."""
    with memoryview(buffer) as view:
        return hashlib.sha256(view[:length]).hexdigest()


def decode_shard(buffer: Buffer, entry: dict, source: str) -> dict[str, Tensor]:
    """The tensors in the bytes of a shard, wherever these came from; int8 weights are multiplied out.

    Args:
        buffer: holds at least the bytes that the entry tells.
        entry: of the shard in the manifest.
        source: names the shard in errors.

    Raises:
        StoreError: not what the entry says.
    """
    length = entry["bytes"]
    if "inflated" in entry:
        buffer, length = inflate(buffer, length, entry["inflated"], source), entry["inflated"]
    return from_store(parse_shard(buffer, length, source), source)


def check_shard(length: int, sha256: str, entry: dict, source: str) -> None:
    """Compare length and SHA-256 of a shard with its entry in the manifest. Raises StoreError."""
    _check_length(length, entry, source)
    if sha256 != entry["sha256"]:
        found, expected = sha256[:12], entry["sha256"][:12]
        raise StoreError(f"{source}: damaged or of another save: SHA-256 {found}..., expected {expected}...; copy it again")


def _check_length(length: int, entry: dict, source: str) -> None:
    if length != entry["bytes"]:
        problem = "truncated" if length < entry["bytes"] else "too long"
        raise StoreError(f"{source}: {problem}: {length} bytes, expected {entry['bytes']}; copy it again")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise StoreError(f"{path}: missing, but listed in the manifest; copy the folder again") from None
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror or error})") from error


def check_fits(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: str) -> None:
    """Check names, shapes and types of a shard against the state of the part that it is for. Raises StoreError."""
    why = "it is from another network; load it with the networks it was saved from"
    if lacking := set(expected) - set(tensors):
        raise StoreError(f"{source}: lacks {some(lacking)}: {why}")
    if unknown := set(tensors) - set(expected):
        raise StoreError(f"{source}: has {some(unknown)}, which the network does not have: {why}")
    for name, wanted in expected.items():
        found = tensors[name]
        if found.shape != wanted.shape or not _holds(wanted.dtype, found.dtype):
            found, wanted = (f"{str(t.dtype)[6:]} {tuple(t.shape)}" for t in (found, wanted))
            raise StoreError(f"{source}: {name} is {found}, expected {wanted}: {why}")


def _networks_of(net: SwapNet | BlockNet) -> tuple[str, dict[str, BlockNet]]:
    if isinstance(net, SwapNet):
        return "swapnet", {"teacher": net.teacher, "student": net.student}
    if isinstance(net, BlockNet):
        return "network", {"network": net}
    raise StoreError(f"a {type(net).__name__}: expected a SwapNet or a BlockNet; cut it into blocks first")


def _stored(part: nn.Module, dtype: torch.dtype | None, file: Path) -> dict[str, Tensor]:
    """The state of `part` as its shard holds it. Raises StoreError if a weight does not fit into `dtype`."""
    state = part.state_dict() if dtype is None else to_store(part, dtype, str(file))
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}


def _holds(wide: torch.dtype, narrow: torch.dtype) -> bool:
    """Whether every value of the type `narrow` is one of `wide` too."""
    return wide.is_floating_point == narrow.is_floating_point and torch.promote_types(wide, narrow) == wide


def _shard_files(folder: Path) -> set[str]:
    try:
        return {entry["file"] for entry in read_manifest(folder)["shards"].values()}
    except StoreError:  # nothing there, or nothing that we would call ours
        return set()


def _write(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())  # a full disk may show only here: it must before the first file is replaced
