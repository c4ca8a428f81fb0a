"""What the tests of streaming share: a tiny pair saved to a folder, what it should answer, and ways to wait for things."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from pwl_lite.blocknet import BlockNet
from pwl_lite.manifest import MANIFEST, needed_shards
from pwl_lite.networks import build_network
from pwl_lite.store import load_blocks, save_blocks
from pwl_lite.streaming import Event, ProgressiveModel
from pwl_lite.swapnet import SwapNet, all_compositions, path

META = {"classes": ["a", "b", "c"], "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.1)}
TEACHER = {"family": "vgg", "layers": ["5 M", "6 M", "6 M"], "num_classes": 3}
STUDENT = {"family": "vgg", "layers": ["3 M", "4 M", "4 M"], "num_classes": 3}
IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(5))
COMPOSITIONS = all_compositions(3)
LATTICE = {c: 50.0 + 10 * i for i, c in enumerate(path((2, 3, 1), 3))}
LATTICE = {c: LATTICE.get(c, 40.0) for c in COMPOSITIONS}  # a dip on every way but that by blocks 2, 3, 1
SHORT_PAUSES = (0.01, 0.02, 0.03)


def small(config: dict) -> BlockNet:
    net = build_network(config)
    net.input_shape = (3, 8, 8)
    return net


def pair(seed: int = 0, teacher: dict = TEACHER, student: dict = STUDENT) -> SwapNet:
    """Two networks whose norms hold statistics of real passes, and converters."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        networks = small(teacher), small(student)
        for net in networks:
            net.train()
            for _ in range(3):
                net(torch.randn(16, 3, 8, 8))
        return SwapNet(*networks).eval()


def save(folder: Path, seed: int = 0, **options: object) -> Path:
    save_blocks(pair(seed), folder, **{**META, "extra": {"lattice": LATTICE}, **options})
    return folder


@torch.inference_mode()
def expected_logits(folder: Path) -> dict[str, Tensor]:
    """What each composition answers, by the network itself."""
    net = load_blocks(folder).eval()
    return {c: net(IMAGES, c) for c in all_compositions(net.num_blocks)}


def assert_answers(model: ProgressiveModel, expected: dict[str, Tensor], composition: str | None = None) -> None:
    """The model answers bit for bit what the composition that it names does."""
    logits, answering = model.answer(IMAGES)
    assert torch.equal(logits, expected[answering]), answering
    assert composition is None or answering == composition


def wait_for(condition: Callable[[], object], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.002)


def shards_of(requests: list[tuple[str, int]]) -> list[str]:
    """The names of the shards that were asked for."""
    return [file.removesuffix(".safetensors") for file, _ in requests if file != MANIFEST]


def steps(compositions: list[str]) -> list[list[str]]:
    """What is fetched for each of the compositions that a way goes through."""
    before = [[], *map(needed_shards, compositions)]
    return [[name for name in new if name not in old] for old, new in pairwise(before)]


def new_shards(compositions: list[str]) -> list[str]:
    """What is fetched on the way through compositions."""
    return [name for step in steps(compositions) for name in step]


def swaps(events: list[Event]) -> list[str]:
    return [event.composition for event in events if event.kind == "swap"]


def edit_manifest(folder: Path, change: Callable[[dict], object]) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def replace_shard(folder: Path, name: str, data: bytes) -> None:
    """Put `data` in the place of a shard, with a manifest that fits, as somebody with bad intent would."""
    (folder / f"{name}.safetensors").write_bytes(data)
    entry = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    edit_manifest(folder, lambda manifest: manifest["shards"][name].update(entry))


@contextmanager
def opened(source: object, **options: object) -> Iterator[ProgressiveModel]:
    """A model without a cache that gives up soon."""
    with ProgressiveModel.open(source, **{"cache": False, "timeout": 0.3, "patience": 3.0, **options}) as model:
        yield model
