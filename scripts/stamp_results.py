"""Write the table of CIFAR-10 results into README.md, from the records in data/results/.

    python scripts/stamp_results.py            write it
    python scripts/stamp_results.py --check    change nothing; fail if the table is not the records'
"""

import re
import sys
from pathlib import Path
from statistics import fmean

from files import write_whole

from pwl_lite.claims import summary
from pwl_lite.records import load_records
from pwl_lite.swapnet import order_freedom, path

README = Path(__file__).resolve().parent.parent / "README.md"
MARKS = "<!-- results: written by scripts/stamp_results.py -->", "<!-- end of results -->"


def table() -> str:
    """The table, in Markdown."""
    teachers, kd, pwl = (
        load_records(e, dataset="cifar10", family="vgg", profile="cifar") for e in ("teacher", "kd", "pwl")
    )
    teacher, student = pwl[0].teacher, pwl[0].student
    rows = [
        f"CIFAR-10, VGG teacher of {teacher['params'] / 1e6:.2f} M parameters, student of "
        f"{100 * student['bytes'] / teacher['bytes']:.1f} % of its bytes; percent, mean ± deviation over seeds of the student:",
        "",
        "| | accuracy (%) |",
        "|---|---|",
        f"| teacher | {summary(next(iter(r.lattice.values())) for r in teachers)} |",
        f"| student, plain KD | {summary(next(iter(r.lattice.values())) for r in kd)} |",
    ]
    for composition in path("prefix", len(next(iter(pwl[0].lattice))))[:-1]:
        rows.append(f"| PWL, `{composition}` | {summary(r.lattice[composition] for r in pwl)} |")
    means = {c: fmean(r.lattice[c] for r in pwl) for c in pwl[0].lattice}
    free = order_freedom(means)
    below = f"more than {free.below:.2f} points below" if free.below > 0 else "below"
    rows += [
        "",
        f"In whatever order the teacher's blocks arrive, no step loses more than {free.largest.points:.2f} points,",
        f"and none of the {len(means)} compositions lies {below} the student alone (means over {len(pwl)} seeds).",
    ]
    return "\n".join(rows)


def stamped(text: str) -> str:
    """The README with the present table between the marks."""
    start, end = (re.escape(mark) for mark in MARKS)
    new, count = re.subn(f"{start}.*?{end}", lambda _: f"{MARKS[0]}\n{table()}\n{MARKS[1]}", text, flags=re.S)
    if count != 1:
        sys.exit(f"README.md: expected the marks {MARKS[0]} and {MARKS[1]} once each, found {count}")
    return new


if __name__ == "__main__":
    old = README.read_text(encoding="utf-8")
    new = stamped(old)
    if "--check" in sys.argv[1:] and new != old:
        sys.exit("README.md: its results are not those of the records; run python scripts/stamp_results.py")
    if new != old:
        write_whole(README, new)
