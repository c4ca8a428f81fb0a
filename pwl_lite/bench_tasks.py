"""What `pwl bench load` measures, each task in a fresh process: `python -m pwl_lite.bench_tasks KIND PLACE`.

The process imports what its task needs, says `ready`, waits for the task as a line of JSON, and answers with another one.
"""

import json
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

Task = dict[str, Any]  # what a process is to do, or its answer: only what JSON holds

ALONE = {  # loaders of the teacher alone -> its file
    "safetensors": "teacher.safetensors",
    "torch.load": "teacher.pt",
    "torch.load(mmap=True)": "teacher.pt",
}
OURS, UNVERIFIED = "ours", "ours, verify=False"


def load_ours(task: Task) -> Task:
    """A `ProgressiveModel` in prefix order: seconds until the first answer, and until the whole teacher has answered."""
    from .streaming import ProgressiveModel

    started = time.perf_counter()
    with ProgressiveModel.open(task["place"], cache=False, verify=task["loader"] != UNVERIFIED) as model:
        image = _image(model.manifest)
        model(image)
        first = time.perf_counter() - started
        model.load_teacher(background=False)
        model(image)
        return {"first": first, "whole": time.perf_counter() - started}


def load_alone(task: Task) -> Task:
    """The teacher from one file: seconds until it has answered."""
    import safetensors.torch
    import torch

    from .networks import build_network
    from .sources import Source

    manifest, loader, file = task["manifest"], task["loader"], ALONE[task["loader"]]
    started = time.perf_counter()
    with ExitStack() as stack:
        source = Source(task["place"])
        if source.folder is not None:
            content: Any = source.folder / file
        elif "mmap" in loader:
            content = Path(stack.enter_context(tempfile.TemporaryDirectory())) / file
            with open(content, "wb") as arriving:
                arriving.writelines(source.chunks(file))
        else:
            content = b"".join(source.chunks(file))
        if loader == "safetensors":
            state = (safetensors.torch.load if isinstance(content, bytes) else safetensors.torch.load_file)(content)
        else:
            import io

            opened = io.BytesIO(content) if isinstance(content, bytes) else content
            state = torch.load(opened, mmap="mmap" in loader, weights_only=True)
        with torch.device("meta"):
            net = build_network(manifest["networks"]["teacher"])
        own = net.state_dict()
        net.load_state_dict({name: tensor.to(own[name].dtype) for name, tensor in state.items()}, assign=True)
        with torch.inference_mode():
            net.eval()(_image(manifest))
        return {"whole": time.perf_counter() - started}


def serve_requests(task: Task) -> Task:
    """Requests for one image, one right after the other, while the teacher arrives; then as many of each composition at rest.

    They use as many of the processor's cores as the task says.

    Returns:
        streaming, rest: composition -> seconds of each request.
        swaps: seconds of each swap itself, from its last shard, which is ready to run, to the end of freeing what it replaces.
        pauses: at each swap, by how many seconds the slowest request that was under way, or the first one after it, took longer
            than the median of its composition at rest. This counts all that a caller feels, the work that precedes a swap too.
    """
    import torch

    from .streaming import ProgressiveModel

    torch.set_num_threads(task["cores"])
    noted: list[tuple[str, float]] = []

    def note(event: Any) -> None:
        noted.append((event.kind, time.perf_counter()))

    with ProgressiveModel.open(task["place"], cache=False, on_event=note) as model:
        image = _image(model.manifest)
        for _ in range(20):
            model(image)
        noted.clear()  # what `open` did
        model.load_teacher()
        requests = []  # (composition, start, end)
        while model.status.loading:
            start = time.perf_counter()
            _, composition = model.answer(image)
            requests.append((composition, start, time.perf_counter()))
        model.wait()
        swaps = [(last, moment) for (_, last), (kind, moment) in pairwise(noted) if kind == "swap"]
        streaming, rest = _by_composition(requests), {}
        for composition in sorted(streaming, key=lambda c: -c.count("T")):
            if composition != model.composition:
                model.unload_to(composition)
            for _ in range(20):
                model(image)
            until = time.perf_counter() + task["seconds"]
            alike = []
            while len(alike) < 20 or (len(alike) < len(streaming[composition]) and time.perf_counter() < until):
                start = time.perf_counter()
                model(image)
                alike.append((composition, start, time.perf_counter()))
            rest |= _by_composition(alike)
    pauses = []
    for _, moment in swaps:
        there = [i for i, (_, start, end) in enumerate(requests) if start <= moment <= end]
        touched = [requests[i] for i in {*there, *(i + 1 for i in there)} if i < len(requests)]
        pauses += [max(0.0, *(end - start - statistics.median(rest[c]) for c, start, end in touched))] if touched else []
    return {"streaming": streaming, "rest": rest, "swaps": [end - start for start, end in swaps], "pauses": pauses}


def memory_use(task: Task) -> Task:
    """Bytes of this process above what it has after its imports and the answers of two networks like these, which are gone
    again (resident, as the kernel counts it): at most while loading, after the first answer, and after `unload_to` the student.
    What torch takes to run such networks at all is thereby left out.

    Also what they are compared to, in bytes of weights as held in memory: student, teacher, the largest shard.
    """
    import torch

    from .hardware import give_back_memory
    from .networks import build_network
    from .streaming import ProgressiveModel

    for name in ("student", "teacher"):
        with torch.inference_mode():
            build_network(task["manifest"]["networks"][name]).eval()(_image(task["manifest"]))
    give_back_memory()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak is counted anew
    base = _resident("VmRSS")
    with ProgressiveModel.open(task["place"], cache=False) as model:
        image = _image(model.manifest)
        model(image)
        student = _resident("VmRSS")
        model.load_teacher(background=False)
        model(image)
        peak = _resident("VmHWM")
        n = model.num_blocks
        model.unload_to("S" * n)
        model(image)
        unloaded = _resident("VmRSS")
        return {
            "peak": peak - base,
            "first answer": student - base,
            "unloaded": unloaded - base,
            "student": model.memory("S" * n),
            "teacher": model.memory("T" * n),
            "largest shard": max(model._shapes.memory(name) for name in model.manifest["shards"] if name.startswith("teacher")),
        }


def _image(manifest: dict) -> Any:
    import torch

    return torch.zeros(1, *manifest["input_shape"])


def _resident(field: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at most so far."""
    return 1024 * int(re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)[1])


def _by_composition(requests: Sequence[tuple[str, float, float]]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for composition, start, end in requests:
        found.setdefault(composition, []).append(end - start)
    return found


WORK = {"ours": load_ours, "alone": load_alone, "requests": serve_requests, "memory": memory_use}


def prepare(kind: str, place: str) -> None:
    """Import what a kind of task needs at a `disk` or over a `link`."""
    import safetensors.torch  # noqa: F401
    import torch  # noqa: F401

    if kind == "alone":
        from . import networks, sources  # noqa: F401
    else:
        from . import streaming  # noqa: F401
    if place == "link":
        import aiohttp  # noqa: F401
        import fsspec.implementations.http  # noqa: F401


if __name__ == "__main__":
    prepare(*sys.argv[1:])
    print("ready", flush=True)
    print(json.dumps(WORK[sys.argv[1]](json.loads(sys.stdin.readline()))))
