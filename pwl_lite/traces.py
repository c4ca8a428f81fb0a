"""What a reader of a progressively loaded model sees over time: runs over a real, slow link on this machine, as traces."""

import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from .manifest import read_manifest
from .orders import plan_order
from .server import Fault, ShardServer
from .sources import Source
from .streaming import Event, ProgressiveModel

NO_FAULT = "none"


@dataclass(frozen=True)
class Trace:
    """One run.

    Attributes:
        link: bytes per second.
        order: as given to `load_teacher`.
        fault: kind of fault of one teacher shard, or `none`.
        steps: `[seconds, composition, accuracy in percent, bytes]` at each change of what answers.
        notes: `[seconds, text]`: what went wrong on the way.
        teacher_only: seconds that the teacher's shards alone take over the same link.
    """

    link: float
    order: str
    fault: str
    steps: list[list[Any]]
    notes: list[list[Any]]
    teacher_only: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def stream(
    folder: str | Path,
    link: float,
    order: str = "prefix",
    fault: str = NO_FAULT,
    times: int = 2,
    teacher_only: float | None = None,
) -> Trace:
    """Open a folder of shards over a link of `link` bytes per second, load the teacher, and note what answers when.

    Args:
        folder: with a measured lattice in the manifest's `extra`.
        link: bytes per second.
        order: as in `ProgressiveModel.load_teacher`.
        fault: one of `server.FAULTS`, which befalls the second teacher shard on the way; `drip` the smallest one (a large one
            would drip for half an hour).
        times: how often it does.
        teacher_only: if it is known already; else it is measured.

    Raises:
        StoreError, StreamingError, UnknownNameError: as the parts do.
    """
    lattice = read_manifest(folder)["extra"]["lattice"]
    events: list[Event] = []
    with ShardServer(folder, link) as server:
        with ProgressiveModel.open(server.url, cache=False, timeout=0.5, on_event=events.append) as model:
            first = [model.status.bytes_done]
            if fault != NO_FAULT:
                server.faults[_shard_for(fault, model, order)] = Fault(fault, times)
            model.load_teacher(order, background=False)
        server.faults.clear()  # what is left of it must not befall the teacher alone
        if teacher_only is None:
            teacher_only = seconds_for_teacher(server.url, model.num_blocks)
    swaps = [event for event in events if event.kind == "swap"]
    steps = [[round(e.seconds, 3), e.composition, lattice[e.composition], e.bytes] for e in swaps]
    steps[0][3] = first[0]
    notes = [[round(e.seconds, 3), e.text] for e in events if e.kind == "failure"]
    return Trace(link, order, fault, steps, notes, round(teacher_only, 3))


def _shard_for(fault: str, model: ProgressiveModel, order: str) -> str:
    """The file of the teacher shard that a fault befalls."""
    shards = model.manifest["shards"]
    start, goal = model.composition, "T" * model.num_blocks
    way = plan_order(order, start, goal, model.lattice, lambda name: shards[name]["bytes"] if name in shards else None)
    arriving = [
        next(i for i, pair in enumerate(zip(old, new), 1) if pair == ("S", "T")) for old, new in pairwise([start, *way])
    ]
    if fault == "drip":
        number = min(arriving, key=lambda i: shards[f"teacher-{i}"]["bytes"])
    else:
        number = arriving[:2][-1]
    return f"teacher-{number}.safetensors"


def seconds_for_teacher(url: str, num_blocks: int) -> float:
    """Seconds to fetch the teacher's shards alone, without anything that is to answer before."""
    source, started = Source(url), time.perf_counter()
    for number in range(1, num_blocks + 1):
        for _ in source.chunks(f"teacher-{number}.safetensors"):
            pass
    return time.perf_counter() - started
