"""Fill web_static/pairs/ with the networks that the demo of the pages runs.

    python scripts/web_pairs.py [--into FOLDER] [--force]

Each pair of data/weights/ that is named here becomes a folder of ONNX files (`pwl export web`); pairs.json names
them. Nothing of it is committed: it is made from the shards. Without the package onnx this says so and
ends without an error; the demo then tells readers that it is not there.
"""

import argparse
import hashlib
import json
import sys
from importlib.util import find_spec
from pathlib import Path

from files import whole_folder, write_whole

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS = ROOT / "data" / "weights"
# Folder in pairs/, weights, test images to show (only images that we have drawn ourselves may be passed on), what it is.
PAIRS = (
    ("shapes10", "shapes10-vgg-quick-seed0", 200, "shapes10: small networks, images drawn by code"),
    ("cifar10", "cifar10-vgg-cifar-seed0", 0, "CIFAR-10: larger networks, pictures of your own"),
)


def fingerprint() -> str:
    """What pairs/ is made from: this script, the code that exports and draws, and the weights."""
    code = [Path(__file__), ROOT / "pwl_lite" / "web_export.py", ROOT / "pwl_lite" / "shapes10.py"]
    manifests = [WEIGHTS / weights / "manifest.json" for _, weights, _, _ in PAIRS]
    parts = [path.read_bytes() for path in [*code, *manifests] if path.is_file()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def is_complete(folder: Path) -> bool:
    """Whether the folder was filled to the end, from what is there now."""
    index = folder / "pairs.json"
    return index.is_file() and json.loads(index.read_text())["made_from"] == fingerprint()


def fill(folder: Path) -> None:
    """Build the whole folder beside `folder`, then put it in its place."""
    sys.path.insert(0, str(ROOT))
    from pwl_lite.datasets import load_dataset
    from pwl_lite.web_export import export_web

    with whole_folder(folder) as fresh:
        made = []
        for name, weights, images, title in PAIRS:
            if not (WEIGHTS / weights).is_dir():
                print(f"web_pairs: data/weights/{weights} is not there; the demo does without {name}")
                continue
            sheet = load_dataset(name).test.subset(images) if images else None
            export_web(WEIGHTS / weights, fresh / name, sheet)
            made.append({"name": name, "title": title})
        write_whole(fresh / "pairs.json", json.dumps({"made_from": fingerprint(), "pairs": made}, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--into", type=Path, default=ROOT / "web_static" / "pairs", help="the folder to fill"
    )
    parser.add_argument("--force", action="store_true", help="make them again although everything is there")
    arguments = parser.parse_args()
    if is_complete(arguments.into) and not arguments.force:
        return
    if find_spec("onnx") is None:
        print("web_pairs: the package onnx is not installed (pip install onnx); the pages' demo is left out")
        return
    print("web_pairs: writing the networks of the demo as ONNX files ...", flush=True)
    fill(arguments.into)
    size = sum(path.stat().st_size for path in arguments.into.rglob("*") if path.is_file())
    print(f"web_pairs: {size / 1e6:.1f} MB in {arguments.into}")


if __name__ == "__main__":
    main()
