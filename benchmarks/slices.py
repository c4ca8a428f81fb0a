"""What the scripts with long trainings share: options, the choice of a learning rate, and trainings side by side in slices."""

import argparse
import math
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

import torch

FOLDER = Path(__file__).resolve().parents[1] / "data" / "benchmarks"
FORK = "fork" in multiprocessing.get_all_start_methods()
_work: Callable[[str], Any]  # of this process and of its copies: so nothing needs to be sent to them but a name


def options(about: str, kind: str, names: Sequence[str], file: str, arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line of a script: `only` (some of `names`, each a `kind`), `seeds`, `jobs`, `max_minutes`, `out`."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    only = {"nargs": "+", "choices": names, "default": names, "metavar": kind.upper()}
    parser.add_argument("--only", **only, help=f"some of {', '.join(names)}")
    parser.add_argument("--seeds", type=int, default=5, help="trainings of each method (default 5)")
    cores = (os.cpu_count() or 1) if FORK else 1
    parser.add_argument("--jobs", type=int, default=cores, help="methods at a time, a core each (default: all cores)")
    parser.add_argument("--max-minutes", type=float, default=math.inf, help="begin no method after so many minutes")
    parser.add_argument("--out", type=Path, default=FOLDER, help=f"folder of {file}")
    found = parser.parse_args(arguments)
    for name in ("seeds", "jobs"):
        if getattr(found, name) < 1:
            parser.error(f"--{name} {getattr(found, name)}: expected at least 1")
    if found.jobs > 1 and not FORK:
        parser.error(f"--jobs {found.jobs}: this system cannot copy processes; expected 1")
    return found


def tuned(rates: Sequence[float], score: Callable[[float], Any], most: int = 2) -> dict[float, Any]:
    """The score of each learning rate, the lower the better, and of up to `most` further ones while the best is at an edge.

    A method whose best rate is the largest or the smallest that was tried might do better beyond: so each may go on, by
    steps of a factor of two.
    """
    scores = {rate: score(rate) for rate in rates}
    for _ in range(most):
        best = min(scores, key=scores.__getitem__)
        if min(scores) < best < max(scores):
            break
        further = 2 * best if best == max(scores) else best / 2
        scores[further] = score(further)
    return scores


def side_by_side(work: Callable[[str], Any], names: Sequence[str], jobs: int, end: float) -> Iterator[tuple[str, Any]]:
    """`work(name)` for each name, in as many processes of one thread: (name, result) as each is done.

    Args:
        work: is called in copies of this process, so it may use whatever is there. Its results are sent back.
        names: what to call it with.
        jobs: how many at a time; with 1 it is called in this process.
        end: when `time.perf_counter()` says so, nothing more begins.
    """
    global _work
    _work = work
    if jobs == 1:
        for name in names:
            if time.perf_counter() >= end:
                return
            yield name, work(name)
        return
    waiting, running = list(names), {}
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("fork")) as pool:
        while True:
            while waiting and len(running) < jobs and time.perf_counter() < end:
                name = waiting.pop(0)
                running[pool.submit(_call, name)] = name
            if not running:
                return
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(done), done.result()


def _call(name: str) -> Any:
    torch.set_num_threads(1)  # a copied process has no others
    return _work(name)
