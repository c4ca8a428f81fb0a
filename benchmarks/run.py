"""How fast the parts are, against the plainest way to do the same: medians, quartiles and ratios of one run on one machine.

    python benchmarks/run.py                      # prints a table and writes data/benchmarks/<machine>.json
    python benchmarks/run.py --only step --repeats 5 --out runs/benchmarks

The two ways take turns, so that a machine that slows down slows both. Nothing else should run meanwhile.
"""

import argparse
import json
import re
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch

import pwl_lite as pwl
from pwl_lite.evaluation import lattice_logits
from pwl_lite.files import write_atomically
from pwl_lite.hardware import device_name, keep_freed_memory, speed_features
from pwl_lite.records import environment
from pwl_lite.training import _batches

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from naive_pwl import naive_terms  # noqa: E402  (the oracle of the tests is the plainest way)

Ways = dict[str, Callable[[], None]]


def paper_pair() -> pwl.SwapNet:
    torch.manual_seed(0)
    return pwl.SwapNet(*pwl.build_pair("vgg", profile="paper")).train()


def a_step(net: pwl.SwapNet, terms: Callable, images: torch.Tensor, bf16: bool = False) -> Callable[[], None]:
    """One training step: losses, gradients, update."""
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=1e-3, momentum=0.9, nesterov=True)
    targets = torch.eye(10)[torch.arange(len(images)) % 10]

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
            losses = terms(net, images, targets)
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()

    return step


def training_step() -> Ways:
    """A PWL step of the paper's VGG pair, batch 128; ours and the oracle draw the same compositions."""
    images = torch.randn(128, 3, 32, 32)
    drawn = ["TSSS", "SSST", "TTSS", "STST"]  # first switches after 1, 3, 2, 1 blocks: what random draws share on average

    def turns() -> Callable[..., str]:
        state = iter(drawn * 1000)
        return lambda *_: next(state)

    def ours(net: pwl.SwapNet) -> Callable:
        objective = pwl.ProgressiveDistillation(net, **{**pwl.AUTHORS, "sample": turns()})
        return lambda _, images, targets: objective.terms(images, targets)

    next_drawn = turns()
    ways = {"oracle": a_step(paper_pair(), lambda net, i, t: naive_terms(net, i, t, next_drawn()), images)}
    for name, bf16 in (("ours, fp32", False), ("ours, bf16", True)):
        net = paper_pair().to(memory_format=torch.channels_last)
        ways[name] = a_step(net, ours(net), images.contiguous(memory_format=torch.channels_last), bf16)
    if not speed_features()["bf16"]:
        del ways["ours, bf16"]
    return ways


def lattice() -> Ways:
    """The logits of all 16 compositions of the `cifar` VGG pair for 250 images."""
    torch.manual_seed(0)
    net = pwl.SwapNet(*pwl.build_pair("vgg", profile="cifar")).eval()
    images = torch.randn(250, 3, 32, 32)

    @torch.no_grad()
    def separately() -> None:
        for composition in pwl.all_compositions(net.num_blocks):
            net(images, composition)

    @torch.no_grad()
    def together() -> None:
        lattice_logits(net, images)

    return {"one by one": separately, "beginnings shared": together}


def input_pipeline() -> Ways:
    """256 images: augmented and normalised, against the PWL step of the `cifar` VGG pair that they feed."""
    torch.manual_seed(0)
    profile = pwl.get_profile("cifar")
    data = pwl.load_dataset("shapes10")
    split = replace(data.train, images=data.train.images[:256], labels=data.train.labels[:256])
    net = pwl.SwapNet(*pwl.build_pair("vgg", profile="cifar")).train().to(memory_format=torch.channels_last)
    objective = pwl.ProgressiveDistillation(net, **profile.progressive)
    images, _ = next(_batches(split, profile.student, torch.channels_last, epoch=1))
    step = a_step(net, lambda _, i, t: objective.terms(i, t), images, speed_features()["bf16"])
    return {"training step": step, "input": lambda: next(_batches(split, profile.student, torch.channels_last, epoch=1))}


BENCHMARKS = {"step": training_step, "lattice": lattice, "input": input_pipeline}


def measure(ways: Ways, repeats: int) -> dict[str, dict[str, float]]:
    """Seconds of each way: median and quartiles of `repeats` runs, after two to warm up."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 2):
        for name, run in ways.items():
            started = time.perf_counter()
            run()
            if turn >= 2:
                times[name].append(time.perf_counter() - started)
    found = {}
    for name, seconds in times.items():
        low, middle, high = statistics.quantiles(seconds, n=4)
        found[name] = {"median": round(middle, 5), "quartiles": [round(low, 5), round(high, 5)], "n": repeats}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=BENCHMARKS, action="append", help="this one; may be given again")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path, default=ROOT / "data" / "benchmarks")
    args = parser.parse_args()
    if args.repeats < 3:
        parser.error(f"--repeats {args.repeats}: expected at least 3, or there are no quartiles")
    keep_freed_memory()
    results = {}
    for name in args.only or BENCHMARKS:
        results[name] = found = measure(BENCHMARKS[name](), args.repeats)
        slowest = next(iter(found.values()))["median"]
        print(f"{name}: {BENCHMARKS[name].__doc__}")
        for way, seconds in found.items():
            low, high = seconds["quartiles"]
            gain = slowest / seconds["median"]
            print(f"  {way:18} {seconds['median']:8.4f} s ({low:.4f} to {high:.4f})   x {gain:.2f}", flush=True)
    machine = re.sub(r"\W+", "-", f"{device_name()} {torch.get_num_threads()} threads").strip("-").lower()
    path = args.out / f"{machine}.json"
    if path.exists() and args.only:
        results = {**json.loads(path.read_text())["results"], **results}
    about = environment("cpu")
    write_atomically(path, json.dumps({"environment": about, "results": results}, indent=1) + "\n")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
