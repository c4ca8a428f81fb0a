"""The `pwl` command: train, reproduce, evaluate, prepare data, and say what this machine can do.

Everything heavy is imported where it is used, so that `pwl --help` answers at once.
"""

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from . import __version__
from .errors import CompositionError, DataError, PWLError, TrainingPaused

if TYPE_CHECKING:
    from .blocknet import BlockNet
    from .datasets import Dataset

PACKAGES = (
    "torch torchvision numpy pandas safetensors fsspec aiohttp tqdm matplotlib seaborn ipywidgets anywidget "
    "onnx jupyter-book nbval papermill"
).split()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with the words `argv` (by default those it was called with) and return its exit code.

    0: done; 2: the command, the data or a file is wrong (said in one line on stderr); 3: paused, the time given is used up;
    130: interrupted.
    """
    args = argparse.Namespace()
    try:
        args = _parser().parse_args(argv)
        with _one_voice():
            args.run(args)
        sys.stdout.flush()
    except SystemExit as end:  # argparse has said what it wants
        return int(end.code or 0)
    except TrainingPaused:
        same = "the same command with --resume" if "resume" in args else "the same command"
        print(f"pwl: paused, the time is used up; {same} goes on", file=sys.stderr)
        return 3
    except BrokenPipeError:  # whoever read the output, `head` for example, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains once more at its end
        return 0
    except PWLError as error:
        print(f"pwl: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        hint = "; the same command with --resume goes on after the last finished epoch" if "resume" in args else ""
        print(f"\npwl: interrupted{hint}", file=sys.stderr)
        return 130
    return 0


def train(args: argparse.Namespace) -> None:
    """`pwl train`: one network from labels, or from labels and a teacher; its blocks are saved."""
    from dataclasses import asdict, replace

    from .evaluation import accuracy
    from .hardware import default_device
    from .objectives import KD, Supervised
    from .profiles import get_profile
    from .records import environment
    from .reproduce import fresh_network
    from .store import save_blocks
    from .training import train

    profile = get_profile(args.profile, args.family)
    config = profile.pair[args.network == "student"]
    recipe = replace(getattr(profile, args.network), seed=args.seed)
    if args.epochs is not None:
        recipe = replace(recipe, epochs=args.epochs)
    if (args.objective == "kd") != (args.teacher is not None):
        raise PWLError(f"--objective {args.objective}: expected --teacher WEIGHTS with kd, and only with kd")
    data = _dataset(args.dataset or profile.dataset, args.root)
    net = fresh_network(config, data, args.seed)
    objective = KD(_teacher(args.teacher, data), net) if args.teacher else Supervised(net)
    name = f"{data.name}-{args.family}-{args.profile}-{args.network}-{args.objective}-seed{args.seed}"
    folder = Path(args.out or Path("runs") / "weights" / name)
    checkpoint = folder / "checkpoint.pt"

    if args.objective == "kd":
        objective.teacher.to(default_device())
    history = train(
        objective,
        data,
        recipe,
        checkpoint=checkpoint,
        resume=args.resume,
        progress=False if args.quiet else None,
    )
    percent = accuracy(net, data.test.to(default_device()))
    extra = {
        "accuracy": percent,
        "objective": objective.settings(),
        "recipe": asdict(recipe),
        "history": history,
        "environment": environment(data_sha256=data.sha256),
    }
    save_blocks(net, folder, classes=data.classes, mean=data.mean, std=data.std, extra=extra)
    checkpoint.unlink(missing_ok=True)
    print(f"{percent:.2f} % of {len(data.test):,} test images after epoch {recipe.epochs}; blocks in {folder}")


def reproduce(args: argparse.Namespace) -> None:
    """`pwl reproduce`: teacher, KD student and PWL student of a profile, as records and weights."""
    from .hardware import keep_freed_memory
    from .profiles import get_profile
    from .reproduce import reproduce

    keep_freed_memory()
    if args.profile == "speed":
        speed(args)
        return
    profile = get_profile(args.profile, args.family)  # a wrong name is better said before the data are read
    data = _dataset(args.dataset or profile.dataset, args.root)
    records = reproduce(
        profile,
        data,
        seed=args.seed,
        teacher_seed=args.teacher_seed,
        resume=args.resume,
        max_minutes=args.max_minutes,
        root=args.out,
        progress=False if args.quiet else None,
        save_weights=args.save_weights,
    )
    for name, record in records.items():
        print(f"{name} ({record.run}, {record.seconds:.0f} s)")
        for composition, percent in record.lattice.items():
            print(f"  {composition}  {percent:.2f} %")
    print(f"records in {Path(args.out) / 'results'}")


def speed(args: argparse.Namespace) -> None:
    """`pwl reproduce speed`: time to 94 % on CIFAR-10."""
    from statistics import mean, stdev

    from .speed import GOAL, reproduce_speed

    given = {"--family": args.family != "vgg", "--teacher-seed": args.teacher_seed is not None}
    given["--no-weights"] = not args.save_weights
    if flags := [flag for flag, used in given.items() if used]:
        raise PWLError(f"{', '.join(flags)}: speed trains one network of its own and keeps no weights; leave it out")
    if args.runs < 1:
        raise PWLError(f"--runs {args.runs}: expected at least 1")
    seeds = range(args.seed, args.seed + args.runs)
    data = _dataset(args.dataset or "cifar10", args.root)
    options = {"resume": args.resume, "max_minutes": args.max_minutes, "progress": False if args.quiet else None}
    percents, minutes = [], []
    for plain, with_flips in reproduce_speed(data, seeds, root=args.out, **options):
        (percent,), (flipped,) = plain.lattice.values(), with_flips.lattice.values()
        percents.append(flipped)
        minutes.append(plain.seconds / 60)
        print(f"seed {plain.seed}: {flipped:.2f} % with test-time flips, {percent:.2f} % without, {minutes[-1]:.1f} minutes")
    spread = f" ± {stdev(percents):.2f}" if len(percents) > 1 else ""
    reached = "reached" if mean(percents) >= GOAL else "missed"
    print(f"mean {mean(percents):.2f}{spread} % in {mean(minutes):.1f} minutes (n = {len(percents)}): {GOAL:.0f} % {reached}")


def plan(args: argparse.Namespace) -> None:
    """`pwl plan`: what is left of the runs in a file."""
    from .hardware import keep_freed_memory
    from .plan import left, read_plan, run_plan

    table = read_plan(args.file)
    runs = list(left(table, args.out))
    print(f"{args.file}: {len(table.runs) - len(runs)} of {len(table.runs)} runs are done")
    for run in runs:
        print(f"  left: {run.experiment}, seed {run.seed}")
    if runs and not args.dry_run:
        keep_freed_memory()
        run_plan(table, args.out, max_minutes=args.max_minutes, progress=False if args.quiet else None)
        print(f"done; records in {Path(args.out) / 'results'}")


def evaluate(args: argparse.Namespace) -> None:
    """`pwl evaluate`: accuracy of saved weights on the test images of a data set."""
    from dataclasses import replace

    from .evaluation import accuracy, evaluate_lattice
    from .hardware import default_device
    from .manifest import read_manifest
    from .store import load_blocks
    from .swapnet import SwapNet, check_composition

    folder = _weights(args.weights)
    manifest = read_manifest(folder)
    net = load_blocks(folder)
    swappable = isinstance(net, SwapNet)
    if args.composition is not None and not swappable:
        raise CompositionError(f"composition {args.composition!r}: {folder} holds a single network; leave --composition out")
    if args.composition is not None:
        check_composition(args.composition, net.num_blocks)
    data = _dataset(args.dataset, args.root)
    _check_classes(data, manifest["classes"], folder)
    # images are normalised as these weights expect it, whatever the data's own mean is
    split = replace(data.test, mean=tuple(manifest["mean"]), std=tuple(manifest["std"]))
    split = (split if args.images is None else split.subset(args.images)).to(default_device())
    net = net.to(default_device())
    if not swappable or args.composition is not None:
        percent = accuracy(net, split, args.composition)
        print(f"{args.composition or 'network'}: {percent:.2f} % of {len(split):,} test images")
        return
    table = evaluate_lattice(net, split)
    table["bytes"] = table["bytes"] / 1e6
    table["macs"] = table["macs"] / 1e6
    table.columns = ["composition", "accuracy %", "agreement %", "MB", "million MACs"]
    print(table.to_string(index=False, float_format=lambda x: f"{x:.2f}"))


def data(args: argparse.Namespace) -> None:
    """`pwl data prepare`: fill the cache."""
    from .datasets import NAMES
    from .errors import UnknownNameError

    names = [name for name in NAMES if name != "folder"]
    for name in args.names:
        if name not in names:
            raise UnknownNameError("dataset", name, names)
    for name in args.names:
        _dataset(name)


def export(args: argparse.Namespace) -> None:
    """`pwl export web`: a pair as ONNX files that browsers can load block by block."""
    from .web_export import INDEX, export_web

    if (args.dataset is None) != (args.images is None):
        raise PWLError("a sheet of test images: expected both --dataset and --images, or neither")
    folder = _weights(args.weights)
    sheet = None if args.dataset is None else _dataset(args.dataset, args.root).test.subset(args.images)
    parts = export_web(folder, args.out, sheet)["parts"]
    student, teacher = (sum(parts[n]["bytes"] for n in parts if n.startswith(kind)) for kind in ("student", "teacher"))
    print(f"{len(parts)} ONNX files and {INDEX} in {args.out}: student {student:,} bytes, teacher {teacher:,} bytes")


def bench(args: argparse.Namespace) -> None:
    """`pwl bench load`: how long loading takes, ours and the usual ways."""
    from .bench import run

    run(args)


def doctor(args: argparse.Namespace) -> None:
    """`pwl doctor`: what is installed, which data is in reach, the device and its speed features."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import torch

    from .cifar import cache_folder
    from .datasets import load_dataset
    from .hardware import cpu_flags, default_device, device_name, speed_features
    from .records import commit, data_folder

    print(f"pwl_lite {__version__} ({commit()}), Python {platform.python_version()}, {platform.system()}")
    print("\ninstalled")
    for package in PACKAGES:
        try:
            print(f"  {package:14}{version(package)}")
        except PackageNotFoundError:
            print(f"  {package:14}- (not installed)")

    device = default_device()
    units = sorted({"avx512_bf16", "amx_bf16"} & cpu_flags()) if device == "cpu" else []
    features = speed_features(device)
    print(f"\ndevice\n  {device}: {device_name(device)}, {torch.get_num_threads()} threads")
    print(f"  bf16 units: {', '.join(units) or ('see the GPU' if device == 'cuda' else 'none found')}")
    autocast, channels_last = ("on" if features[name] else "off" for name in ("bf16", "channels_last"))
    print(f"  training by default: bf16 autocast {autocast}, channels-last {channels_last}")

    print(f"\ndata (cache: {cache_folder()})\n  shapes10      built in")
    for name in ("cifar10", "cifar100"):
        try:
            found = load_dataset(name, download=False).describe().removeprefix(f"{name}: ")
        except DataError as error:
            damaged = (cache_folder() / name).exists()
            found = f"damaged: {error}" if damaged else f"not there; `pwl data prepare {name}` downloads it"
        print(f"  {name:14}{found}")

    print(f"\nrecords and weights ({data_folder()})")
    print(f"  {len(list(data_folder().glob('results/*/*.json')))} records")
    names = sorted(file.parent.name for file in data_folder().glob("weights/*/manifest.json"))
    print(f"  weights: {', '.join(names) or 'none'}")


@contextlib.contextmanager
def _one_voice() -> Iterator[None]:
    """Inside, only the main one of several processes prints; errors are printed by all."""
    from .distributed import processes

    with contextlib.ExitStack() as stack:
        if not processes().main:
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
        yield


def _dataset(name: str, root: str | None = None) -> "Dataset":
    from .datasets import load_dataset
    from .distributed import processes

    if not processes().main:
        processes().wait()  # the main one downloads, then the others read
    data = load_dataset(name, root=root)
    if processes().main:
        processes().wait()
    print(data.describe(), flush=True)
    return data


def _weights(name: str) -> Path:
    """A folder of shards, given as a path or as the name of weights that come with the book."""
    from .records import find_weights

    path = Path(name)
    return path if path.exists() or len(path.parts) > 1 else find_weights(name)


def _teacher(name: str, data: "Dataset") -> "BlockNet":
    from .manifest import read_manifest
    from .store import load_blocks
    from .swapnet import SwapNet

    folder = _weights(name)
    _check_classes(data, read_manifest(folder)["classes"], folder)
    net = load_blocks(folder)
    return net.teacher if isinstance(net, SwapNet) else net


def _check_classes(data: "Dataset", classes: list[str], folder: Path) -> None:
    if list(data.classes) != classes:
        found, expected = (f"{', '.join(names[:3])}, ... ({len(names)})" for names in (data.classes, classes))
        raise DataError(f"dataset {data.name!r} has the classes {found}: expected those of {folder}, {expected}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pwl", description="Progressive Weight Loading, hands on: train, reproduce, evaluate."
    )
    parser.add_argument("--version", action="version", version=f"pwl_lite {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, run, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        sub.set_defaults(run=run)
        return sub

    def add_data(sub: argparse.ArgumentParser, **settings) -> None:
        sub.add_argument("--dataset", help="cifar10, cifar100, shapes10 or folder", **settings)
        sub.add_argument("--root", metavar="FOLDER", help="of the data set `folder`: holds train/CLASS/*.png and test/...")

    def add_run(sub: argparse.ArgumentParser) -> None:
        add_data(sub)
        sub.add_argument("--family", default="vgg", help="of the networks (default: vgg)")
        sub.add_argument("--seed", type=int, default=0)
        sub.add_argument("--resume", action="store_true", help="go on after the last finished epoch of this run")
        sub.add_argument("--quiet", action="store_true", help="no progress bar")

    sub = command("train", train, "train one network and save its blocks")
    add_run(sub)
    sub.add_argument("--profile", default="quick", help="quick, cifar or paper (default: quick)")
    sub.add_argument("--network", choices=("teacher", "student"), default="teacher", help="of the profile's pair")
    sub.add_argument("--objective", choices=("supervised", "kd"), default="supervised")
    sub.add_argument("--teacher", metavar="WEIGHTS", help="for kd: a folder of blocks, or the name of shipped weights")
    sub.add_argument("--epochs", type=int, help="instead of the profile's")
    sub.add_argument("--out", metavar="FOLDER", help="default: runs/weights/<name of the run>")

    sub = command("reproduce", reproduce, "train teacher, KD student and PWL student of a profile; write records")
    sub.add_argument("profile", metavar="PROFILE", help="quick, cifar or paper; or speed: time to 94 %% on CIFAR-10")
    sub.add_argument("--runs", type=int, default=5, metavar="N", help="seeds from --seed on, for speed only (default: 5)")
    add_run(sub)
    sub.add_argument("--teacher-seed", type=int, metavar="N", help="use, or first train, the teacher of this seed")
    sub.add_argument("--max-minutes", type=float, metavar="N", help="stop before one more epoch would take longer than this")
    sub.add_argument("--no-weights", dest="save_weights", action="store_false", help="write records only")
    sub.add_argument("--out", metavar="FOLDER", default="runs", help="gets results/ and weights/ (default: runs)")

    sub = command("plan", plan, "train what is left of the runs in a file")
    sub.add_argument("file", metavar="FILE", help="a plan in JSON")
    sub.add_argument("--dry-run", action="store_true", help="only say what is left")
    sub.add_argument("--quiet", action="store_true", help="no progress bar")
    sub.add_argument("--max-minutes", type=float, metavar="N", help="stop before one more epoch would take longer than this")
    sub.add_argument("--out", metavar="FOLDER", default="runs", help="gets results/ (default: runs)")

    sub = command("evaluate", evaluate, "accuracy of saved weights: of all compositions, or of one")
    sub.add_argument("weights", metavar="WEIGHTS", help="a folder of blocks, or the name of shipped weights")
    add_data(sub, required=True)
    which = sub.add_mutually_exclusive_group()
    which.add_argument("--composition", metavar="TTSS", help="only this one")
    which.add_argument("--all", action="store_true", help="the whole lattice (default)")
    sub.add_argument("--images", type=int, metavar="N", help="only the first N test images")

    sub = command("data", data, "fill the data cache")
    actions = sub.add_subparsers(required=True, metavar="prepare")
    prepare = actions.add_parser("prepare", help="download and unpack data sets, or check those that are there")
    prepare.add_argument("names", nargs="+", metavar="NAME", help="cifar10, cifar100, shapes10")

    sub = command("export", export, "write a pair for other programs")
    web = sub.add_subparsers(required=True, metavar="web").add_parser("web", help="for browsers: each block as an ONNX file")
    web.add_argument("weights", metavar="WEIGHTS", help="a folder of blocks, or the name of shipped weights")
    web.add_argument("--out", metavar="FOLDER", required=True)
    add_data(web)
    web.add_argument("--images", type=int, metavar="N", help="with --dataset: add its first N test images, as a sheet")

    sub = command("bench", bench, "measure on this machine")
    load = sub.add_subparsers(required=True, metavar="load").add_parser("load", help="loading, against the usual loaders")
    load.add_argument("--runs", type=int, default=7, metavar="N", help="of each measurement (default: 7)")
    load.add_argument("--links", default="2,10,50", metavar="RATES", help="of a limited link, in MB/s (default: 2,10,50)")
    load.add_argument("--pairs", default="cifar,large", metavar="NAMES", help="of networks (default: cifar,large)")
    load.add_argument("--out", metavar="FILE", help="default: data/benchmarks/load-<machine>.json")
    load.add_argument("--quick", action="store_true", help="once, tiny networks, one link: to try the command itself")

    command("doctor", doctor, "what is installed, which data is in reach, device and speed features")
    return parser


if __name__ == "__main__":
    sys.exit(main())
