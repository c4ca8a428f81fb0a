"""`pwl bench load`: how long a network takes to answer, ours against loading the teacher alone as everybody does.

Each measurement is a process of its own, which imports what its loader needs, waits for its turn, then loads, answers for one
image and prints its seconds as one line of JSON. Loaders take turns, so that a machine that slows down slows them all. Nothing
else should run meanwhile.

The link is a `ShardServer` in the parent process. The teacher alone comes over the same client, one file in one request, and is
read from memory; `torch.load(mmap=True)` needs a file, so there it is first written to one. Nobody caches on disk.
"""

import json
import math
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .bench_tasks import ALONE, OURS, UNVERIFIED, Task
from .errors import PWLError, UnknownNameError
from .server import ShardServer

DISK, COLD = "disk, warm", "disk, cold"
LARGE = (  # layers of a VGG of 100 MB of float32, and of a student of a tenth of it
    ("128 M 256 512 M", "512 512 512", "512 M 512 512", "512 512 512 M 512"),
    ("64 M 128 M", "256", "256 M", "384 M 192"),
)
TINY = (("16 M 64", "128 M", "128", "128 M"), ("16 M 16", "32 M", "32", "32 M"))
SLOW = 8.0  # seconds of transfer from which loaders run side by side, each with a link of its own
APART = 3.0  # seconds between their starts, so that no two are busy with more than receiving at the same time
IMPORTS = """
import json, sys, time
start = time.perf_counter()
import torch
torch_there = time.perf_counter()
import pwl_lite.streaming
seconds = {"import torch": torch_there - start, "import": time.perf_counter() - torch_there}
print(json.dumps({**seconds, "unwanted": sorted({"matplotlib", "pandas", "torchvision"} & set(sys.modules))}))
"""


@dataclass(frozen=True)
class Pair:
    """A folder with the shards of a pair, and with its teacher alone in the files of `ALONE`."""

    name: str
    folder: Path
    manifest: dict

    @property
    def bytes(self) -> dict[str, int]:
        """What is stored of the student and the teacher, and `all` that loading in prefix order fetches."""
        from .manifest import has_converters, needed_shards
        from .swapnet import path

        n, shards = self.manifest["num_blocks"], self.manifest["shards"]

        def stored(*compositions: str) -> int:
            needed = (needed_shards(composition, has_converters(self.manifest)) for composition in compositions)
            return sum(shards[name]["bytes"] for name in set().union(*needed))

        return {"student": stored("S" * n), "teacher": stored("T" * n), "all": stored(*path("prefix", n))}


def make_pair(name: str, folder: Path) -> Pair:
    """Put a pair into a folder: `cifar` is the one that comes with the book, `large` and `tiny` have random weights."""
    import safetensors.torch
    import torch

    from .manifest import read_manifest
    from .networks import build_network
    from .records import find_weights
    from .store import save_blocks
    from .swapnet import SwapNet

    if name == "cifar":
        shutil.copytree(find_weights("cifar10-vgg-cifar-seed0"), folder)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            pair = (build_network({"family": "vgg", "layers": layers}) for layers in (LARGE if name == "large" else TINY))
            save_blocks(SwapNet(*pair), folder, classes=list("0123456789"), mean=[0.5] * 3, std=[0.25] * 3)
    manifest, state = read_manifest(folder), {}
    for i in range(manifest["num_blocks"]):
        shard = safetensors.torch.load_file(folder / f"teacher-{i + 1}.safetensors")
        state |= {re.sub("^block", f"blocks.{i}", key): tensor.clone() for key, tensor in shard.items()}
    torch.save(state, folder / ALONE["torch.load"])
    safetensors.torch.save_file(state, folder / ALONE["safetensors"])
    for file in folder.iterdir():
        with open(file, "rb+") as written:
            os.fsync(written.fileno())
    return Pair(name, folder, manifest)


def python(*words: str) -> subprocess.Popen:
    """A fresh process that can import this package."""
    roots = [str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, roots))}
    env.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package is not compiled at each start
    env["MALLOC_ARENA_MAX"] = "1"  # as chapter 6 advises: else glibc keeps a heap for each thread that has run
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, *words], stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=env)


class Worker:
    """A fresh process, which imports what a kind of task needs, then waits for the task. A context manager: it ends with it.

    Args:
        kind: one of `bench_tasks.WORK`.
        place: `disk` or `link`.
    """

    def __init__(self, kind: str, place: str):
        self.kind, self._process = kind, python("-m", "pwl_lite.bench_tasks", kind, place)

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.communicate()

    def ready(self) -> None:
        """Wait until the imports are done."""
        self._process.stdout.readline()

    def do(self, task: Task) -> Task:
        """The answer to the task. Raises PWLError where it fails."""
        out, err = self._process.communicate(json.dumps(task) + "\n")
        if self._process.returncode != 0:
            raise PWLError(f"measuring {self.kind} at {task['place']} failed: {(err.strip() or '?').splitlines()[-1]}")
        return json.loads(out.splitlines()[-1])


def forget(folder: Path) -> bool:
    """Ask the system to drop the files of a folder from its cache; whether it has done so, as far as it can be told."""
    if not hasattr(os, "posix_fadvise"):
        return False
    dropped = True
    for file in filter(Path.is_file, folder.iterdir()):
        with open(file, "rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            if hasattr(os, "RWF_NOWAIT"):
                with suppress(OSError):  # BlockingIOError: it would have to wait for the disk, as it should
                    dropped &= os.preadv(opened.fileno(), [bytearray(1)], 0, os.RWF_NOWAIT) == 0
                    os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return dropped


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Median, quartiles and number of values."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return {"median": round(middle, 6), "quartiles": [round(low, 6), round(high, 6)], "n": len(values)}


def percentile(values: Sequence[float], percent: int) -> float:
    """The value that `percent` of the values do not exceed."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1] if len(values) > 1 else values[0]


def measure_loads(pair: Pair, place: str, loaders: Sequence[str], runs: int) -> list[Task]:
    """Each loader `runs` times at a place: `disk, cold`, `disk, warm` or a link such as `10 MB/s`.

    Returns:
        For each loader `whole`, and for ours `first`, the `summary` of seconds, imports not counted.
    """
    rate = _rate(place)
    slow = rate is not None and pair.bytes["teacher"] / rate > SLOW
    answers: dict[str, list[Task]] = {loader: [] for loader in loaders}

    def one(number: int, loader: str, worker: Worker) -> None:
        time.sleep(number * APART if slow else 0)
        folder = pair.folder
        with ExitStack() as stack:
            if place == COLD and not forget(folder):
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=folder.parent))) / "copy"
                shutil.copytree(pair.folder, folder)
            at = stack.enter_context(ShardServer(folder, rate)).url if rate is not None else str(folder)
            answers[loader].append(worker.do({"loader": loader, "place": at, "manifest": pair.manifest}))

    for _ in range(runs):
        with ExitStack() as stack:
            kinds = ["alone" if loader in ALONE else "ours" for loader in loaders]
            workers = [stack.enter_context(Worker(kind, "disk" if rate is None else "link")) for kind in kinds]
            for worker in workers:
                worker.ready()  # nothing is measured before all are ready
            with ThreadPoolExecutor(len(loaders) if slow else 1) as pool:
                list(pool.map(one, range(len(loaders)), loaders, workers))
    return [
        {"pair": pair.name, "place": place, "loader": loader}
        | {key: summary([answer[key] for answer in found]) for key in ("first", "whole") if key in found[0]}
        for loader, found in answers.items()
    ]


def measure_imports(runs: int) -> Task:
    """Seconds of `import torch` and of `import pwl_lite.streaming` after it; which packages that should not came along."""
    found = []
    for _ in range(runs):
        out, err = python("-c", IMPORTS).communicate()
        if not out:
            raise PWLError(f"importing torch and pwl_lite.streaming failed: {(err.strip() or '?').splitlines()[-1]}")
        found.append(json.loads(out))
    return {key: summary([x[key] for x in found]) for key in ("import torch", "import")} | {"unwanted": found[0]["unwanted"]}


def measure_over_link(pair: Pair, place: str, runs: int, kind: str, **task: Any) -> list[Task]:
    """The answers of `runs` processes to a task over a link."""
    answers = []
    for _ in range(runs):
        with ShardServer(pair.folder, _rate(place)) as server, Worker(kind, "link") as worker:
            worker.ready()
            answers.append(worker.do({"place": server.url, **task}))
    return answers


def measure_requests(pair: Pair, place: str, runs: int, seconds: float, cores: int) -> Task:
    """p50 and p99 of requests while streaming over a link and at rest, by composition; what a swap costs. All in seconds."""
    answers = measure_over_link(pair, place, runs, "requests", seconds=seconds, cores=cores)
    rows = {}
    for composition in answers[0]["streaming"]:
        both = {state: [s for a in answers for s in a[state].get(composition, [])] for state in ("streaming", "rest")}
        rows[composition] = {
            state: {"p50": round(percentile(s, 50), 6), "p99": round(percentile(s, 99), 6), "n": len(s)}
            for state, s in both.items()
        }
        rows[composition]["ratio of p99"] = round(rows[composition]["streaming"]["p99"] / rows[composition]["rest"]["p99"], 3)
    longest = {key: round(max(s for a in answers for s in a[key]), 6) for key in ("swaps", "pauses")}
    return {"pair": pair.name, "place": place, "cores": cores, "runs": runs, "compositions": rows, "longest": longest}


def measure_memory(pair: Pair, place: str, runs: int) -> Task:
    """What `memory_use` says, over a link, in bytes: the highest peak of the runs, medians of the others."""
    answers = measure_over_link(pair, place, runs, "memory", manifest=pair.manifest)
    keys = ("peak", "first answer", "unloaded", "student", "teacher", "largest shard")
    return {"pair": pair.name, "place": place, "n": runs} | {
        key: round((max if key == "peak" else statistics.median)([answer[key] for answer in answers])) for key in keys
    }


def measure_bytes(pair: Pair, folder: Path) -> list[Task]:
    """Bytes of a pair's shards when saved in each precision; `added`: percent of what is fetched over the teacher alone."""
    from .precision import PRECISIONS
    from .store import load_blocks, save_blocks

    net, found = load_blocks(pair.folder), []
    mixed = {"student": PRECISIONS["int8"], "teacher": PRECISIONS["float16"]}
    about = {key: pair.manifest[key] for key in ("classes", "mean", "std")}
    for name, dtype in {**PRECISIONS, "student int8, teacher float16": mixed}.items():
        at = folder / name
        save_blocks(net, at, **about, dtype=dtype)
        stored = Pair(pair.name, at, json.loads((at / "manifest.json").read_text())).bytes
        found.append({"precision": name, **stored, "added": round(100 * (stored["all"] / stored["teacher"] - 1), 2)})
    return found


def goals_of(results: Task) -> list[Task]:
    """What should be reached, what was found, and whether that is so; for each pair and place.

    The first answer beyond `import torch` counts the import of `pwl_lite.streaming` too.
    """
    goals: list[Task] = []

    def goal(text: str, where: str, found: float, limit: float) -> None:
        found, limit = round(found, 4), round(limit, 4)
        goals.append({"goal": text, "where": where, "found": found, "limit": limit, "met": found <= limit})

    times = {(x["pair"], x["place"], x["loader"]): x for x in results["loads"]}
    for (pair, place, loader), ours in times.items():
        where, stored = f"{pair}, {place}", results["pairs"][pair]
        alone = [times[pair, place, other]["whole"]["median"] for other in ALONE if (pair, place, other) in times]
        first, whole = (ours[key]["median"] for key in ("first", "whole")) if loader in (OURS, UNVERIFIED) else (0.0, 0.0)
        if loader == OURS and _rate(place) and alone:
            text = "time of the fastest loader of the teacher alone"
            goal(f"first answer / {text}", where, first / min(alone), stored["student"] / stored["teacher"] + 0.05)
            goal(f"whole teacher / {text}", where, whole / min(alone), stored["all"] / stored["teacher"] + 0.05)
        if loader == UNVERIFIED and (pair, place, "safetensors") in times:
            usual = times[pair, place, "safetensors"]["whole"]["median"]
            goal("whole teacher, verify=False / load_file and first inference", where, whole / usual, 1.15)
        if loader == OURS and place == DISK and pair != "large":
            beyond = results["imports"]["import"]["median"] + first
            goal("first answer beyond importing torch, in ms", where, 1e3 * beyond, 50)
    for x in results["requests"]:
        where = f"{x['pair']}, {x['place']}, requests on {x['cores']} of {results['cores']} cores"
        for composition, row in x["compositions"].items():
            goal(f"p99 of {composition} while streaming / at rest", where, row["ratio of p99"], 1.5)
        goal("longest swap itself, in ms", where, 1e3 * x["longest"]["swaps"], 2)
        goal("request at a swap beyond the median at rest, in ms", where, 1e3 * x["longest"]["pauses"], 2)
    for x in results["memory"]:
        where = f"{x['pair']}, {x['place']}"
        allowed = x["teacher"] + x["student"] + 1.1 * x["largest shard"]
        goal("peak memory / (teacher + student + 1.1 x largest shard)", where, x["peak"] / allowed, 1)
        kept = x["unloaded"] - x["first answer"]
        goal("memory kept after unload_to the student / teacher", where, kept / x["teacher"], 0.05)
    return goals


def run(args: Namespace) -> None:
    """`pwl bench load`: measure, print and write what was found.

    Args:
        args: `runs`; `links` such as "2,10,50" in MB/s; `pairs` such as "cifar,large"; `out`, a file or None for
            `data/benchmarks/load-<machine>.json`; `quick`, to try the command itself.

    Raises:
        PWLError: a wrong option, or a measurement that fails.
        SaveError: the file cannot be written.
    """
    if args.runs < 1:
        raise PWLError(f"--runs {args.runs}: expected at least 1")
    links, names = _links(args.links), [name.strip() for name in args.pairs.split(",")]
    for name in names:
        if name not in ("cifar", "large"):
            raise UnknownNameError("pair", name, ["cifar", "large"])
    runs = args.runs
    if args.quick:
        runs, links, names = 1, links[:1], ["tiny"]

    from .files import write_atomically
    from .hardware import device_name
    from .records import checkout, environment

    about = environment("cpu")
    machine = re.sub(r"\W+", "-", f"{device_name()} {about['threads']} threads").strip("-").lower()
    out = Path(args.out or (checkout() or Path.cwd()) / "data" / "benchmarks" / f"load-{machine}.json")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PWLError(f"--out {out}: {error.strerror}; expected a file in a folder that can be written") from error
    results: Task = {"cores": about["threads"], "pairs": {}, "imports": {}, "loads": [], "requests": [], "memory": []}
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="pwl-bench-") as temporary:
        pairs = [make_pair(name, Path(temporary) / name) for name in names]
        cold = "posix_fadvise" if forget(pairs[0].folder) else "a fresh copy, which may still lie in the file cache"
        if not args.quick:
            measure_imports(1)  # Python writes its compiled files
        results["imports"] = measure_imports(runs)
        for pair in pairs:
            stored = results["pairs"][pair.name] = pair.bytes
            alone = ["safetensors"] if args.quick else list(ALONE)
            for file in filter(Path.is_file, pair.folder.iterdir()):
                file.read_bytes()  # the file cache is warm
            _show(results, measure_loads(pair, DISK, [UNVERIFIED, OURS, *alone], runs))
            _show(results, measure_loads(pair, COLD, alone if args.quick else [UNVERIFIED, *alone], runs))
            seconds = {f"{link:g} MB/s": stored["teacher"] / link / 1e6 for link in links}
            for place, transfer in seconds.items():
                often = min(runs, 5 if transfer < 3 else 3 if transfer < 15 else 2)  # the slower, the less do they differ
                _show(results, measure_loads(pair, place, [OURS, *alone], often))
            lively = min(seconds, key=lambda place: abs(math.log(seconds[place] / 5)))  # long enough for many requests
            few = min(runs, 3)
            for cores in sorted({max(1, about["threads"] - 1), about["threads"]}):
                results["requests"].append(measure_requests(pair, lively, few, 0.2 if args.quick else 2.0, cores))
            results["memory"].append(measure_memory(pair, f"{max(links):g} MB/s", few))
        smallest = min(pairs, key=lambda pair: pair.bytes["teacher"])
        results["bytes"] = {"pair": smallest.name, "precisions": measure_bytes(smallest, Path(temporary) / "precisions")}
    results["goals"] = goals_of(results)
    _show_rest(results)
    settings = {"runs": runs, "links": links, "cold": cold, "quick": args.quick, "seconds": round(time.monotonic() - started)}
    write_atomically(out, json.dumps({"environment": about, "settings": settings, "results": results}, indent=1) + "\n")
    print(f"written to {out}")


def _links(text: str) -> list[float]:
    """Rates in MB/s from words such as "2,10,50". Raises PWLError."""
    try:
        links = [float(word) for word in text.split(",")]
    except ValueError:
        links = []
    if not links or not all(math.isfinite(link) and link > 0 for link in links):
        raise PWLError(f"--links {text!r}: expected rates in MB/s with commas between them, such as '2,10,50'")
    return links


def _rate(place: str) -> float | None:
    """Bytes per second of a link; None for a disk."""
    return 1e6 * float(place.split()[0]) if place.endswith("MB/s") else None


def _show(results: Task, rows: list[Task]) -> None:
    """Add rows to the results, and print them."""
    results["loads"] += rows
    print(f"{rows[0]['pair']}, {rows[0]['place']}: seconds to the first answer, and of the whole teacher")
    for row in rows:
        first = f"{row['first']['median']:9.4f}" if "first" in row else " " * 9
        low, high = row["whole"]["quartiles"]
        whole = f"{row['whole']['median']:9.4f} ({low:.4f} to {high:.4f}, n = {row['whole']['n']})"
        print(f"  {row['loader']:24}{first}  {whole}", flush=True)


def _show_rest(results: Task) -> None:
    for row in results["bytes"]["precisions"]:
        sizes = ", ".join(f"{key} {row[key] / 1e6:.2f}" for key in ("student", "teacher", "all"))
        print(f"{results['bytes']['pair']}, {row['precision']}: {sizes} MB; {row['added']} % more than the teacher alone")
    for row in results["goals"]:
        verdict = "met" if row["met"] else "MISSED"
        print(f"  {verdict:7} {row['found']:9.3f}  (at most {row['limit']:.3f})  {row['where']}: {row['goal']}")
