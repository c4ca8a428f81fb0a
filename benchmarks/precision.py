"""What fewer bytes cost: the shipped pair saved in each precision and measured, and its teacher with only its leading bits.

    python benchmarks/precision.py

Writes data/benchmarks/precision-<run>.json. Takes some minutes on two cores; needs CIFAR-10 (`pwl data prepare cifar10`).
"""

import json
import sys
import tempfile
from pathlib import Path

import pwl_lite as pwl
from pwl_lite.convert import accuracy_by_bits, bytes_on_the_way, convert
from pwl_lite.files import write_atomically
from pwl_lite.hardware import default_device
from pwl_lite.precision import PRECISIONS
from pwl_lite.records import environment, find_weights

ROOT = Path(__file__).resolve().parent.parent
MIXED = {"student": PRECISIONS["int8"], "teacher": PRECISIONS["float16"], "encoder": PRECISIONS["float16"]}
MIXED["decoder"] = PRECISIONS["float16"]


def main(run: str = "cifar10-vgg-cifar-seed0") -> None:
    folder, data = find_weights(run), pwl.load_dataset("cifar10")
    precisions = {**PRECISIONS, "int8 student, float16 rest": MIXED}
    rows = {}
    for name, precision in precisions.items():
        with tempfile.TemporaryDirectory() as target:
            lattice = convert(folder, target, precision, data)
            rows[name] = {"bytes": bytes_on_the_way(target), "lattice": lattice}
            convert(folder, target, precision, compress=True)
            rows[name]["compressed bytes"] = bytes_on_the_way(target)
        print(name, rows[name]["bytes"], lattice["SSSS"], lattice["TTTT"], flush=True)
    bits = {n: round(percent, 2) for n, percent in accuracy_by_bits(pwl.load_blocks(folder), data).items()}
    print("teacher, leading bits:", bits)
    about = environment(default_device(), data.sha256)
    found = {"run": run, "environment": about, "precisions": rows, "leading bits of the teacher": bits}
    write_atomically(ROOT / "data" / "benchmarks" / f"precision-{run}.json", json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
