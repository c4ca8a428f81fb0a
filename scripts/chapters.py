"""What the chapters say of themselves: exercises, time, profile, data, records and measurements that they read.

Pages of the book are made from this while it is built (sphinx_pages.py); nothing of it is written by hand twice.
"""

import ast
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from IPython.core.inputtransformer2 import TransformerManager
from run_notebooks import READS

# Data that a chapter draws itself, by what it calls.
DRAWN = {"SparseParity": "sparse parity", "Grammar": "a grammar"}


@dataclass(frozen=True)
class Exercise:
    """`number` and `title` as in its heading; `kinds` of its solutions: code, words or both."""

    number: int
    title: str
    kinds: tuple[str, ...]

    @property
    def heading(self) -> str:
        return f"Exercise {self.number}: {self.title}"


@dataclass(frozen=True)
class Chapter:
    """A notebook of the book.

    Attributes:
        path: the notebook.
        title: as `_toc.yml` has it.
        time: what it says it takes on 2 CPU cores, in its committed profile.
        profiles: the committed profile first, then the others that its parameters offer.
        data: what it trains on as committed.
        reads: what of `data/` it has read when it was executed: `results/<experiment>/<run>`, `benchmarks/<name>`,
            `weights/<name>`.
        exercises: in order.
    """

    path: Path
    title: str
    time: str
    profiles: tuple[str, ...]
    data: str
    reads: tuple[str, ...]
    exercises: tuple[Exercise, ...]

    def uses(self, record: Any) -> bool:
        """Whether the chapter reads this record (a `pwl_lite.Record`), or the weights that its run has left."""
        return f"results/{record.experiment}/{record.run}" in self.reads or f"weights/{record.weights}" in self.reads

    @property
    def measurements(self) -> list[str]:
        """Which files of `data/benchmarks` it reads, without `.json`."""
        return [name.removeprefix("benchmarks/") for name in self.reads if name.startswith("benchmarks/")]


def chapters(root: Path) -> list[Chapter]:
    """All notebooks of `_toc.yml`, in its order."""
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    entries = [entry for part in toc.get("parts", [toc]) for entry in part["chapters"]]
    paths = [(root / f"{entry['file']}.ipynb", entry.get("title", "")) for entry in entries]
    return [read_chapter(path, title) for path, title in paths if path.is_file()]


def read_chapter(path: Path, title: str = "") -> Chapter:
    """One notebook; `title` by default is its first heading.

    Raises:
        ValueError: it does not say how long it takes.
    """
    notebook = json.loads(path.read_text(encoding="utf-8"))
    cells = notebook["cells"]
    prose = "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    time = re.search(r"^Time(?: on 2 CPU cores)?: ([^.]+)\.", prose, flags=re.M)
    if not time:
        raise ValueError(f"{path.name}: expected a line 'Time on 2 CPU cores: ...' in a cell of text")
    parameters, offered = _parameters(cells)
    to_python = TransformerManager().transform_cell
    code = [ast.parse(to_python("".join(cell["source"]))) for cell in cells if cell["cell_type"] == "code"]
    calls = [node for tree in code for node in ast.walk(tree) if isinstance(node, ast.Call)]
    called = [part for call in calls for part in ast.unparse(call.func).split(".")]  # Grammar.random() too
    drawn = dict.fromkeys(DRAWN[name] for name in called if name in DRAWN)
    data = parameters.get("dataset") or ", ".join(drawn) or "none"
    return Chapter(
        path,
        title or re.search(r"^# (.+)$", prose, flags=re.M)[1],
        re.sub(r"( on 2 CPU cores| in the quick profile)", "", time[1]),
        tuple(dict.fromkeys([parameters["profile"], *offered])),
        data,
        tuple(notebook["metadata"].get(READS, [])),
        tuple(_exercises(cells)),
    )


def _parameters(cells: list[dict]) -> tuple[dict[str, Any], list[str]]:
    """The literals of the cell tagged `parameters`, and the profiles that its comment offers."""
    source = next("".join(c["source"]) for c in cells if "parameters" in c["metadata"].get("tags", []))
    values = {node.targets[0].id: ast.literal_eval(node.value) for node in ast.parse(source).body}
    offered = re.search(r"^profile = .*# @param (\[.*\])", source, flags=re.M)
    return values, json.loads(offered[1]) if offered else []


def _exercises(cells: list[dict]) -> list[Exercise]:
    """The exercises, each with the kinds of its solutions."""
    found: list[tuple[int, str, list[str]]] = []
    inside = False
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code":
            if inside and "solution" in cell["metadata"].get("tags", []):
                found[-1][2].append("code")
            continue
        for part in re.split(r"^(?=#{1,3} )", source, flags=re.M):
            if heading := re.match(r"#{1,3} (?:Exercise (\d+): (.+))?", part):
                inside = heading[1] is not None
                if inside:
                    found.append((int(heading[1]), heading[2].strip(), []))
            if inside and "<summary>Solution" in part:
                found[-1][2].append("words")
    return [Exercise(number, title, tuple(dict.fromkeys(kinds))) for number, title, kinds in found]
