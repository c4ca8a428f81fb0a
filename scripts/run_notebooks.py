"""Execute chapters and write them back in a normal form, so that diffs show only what has changed.

    python scripts/run_notebooks.py [--normalise-only | --check] [book/01_*.ipynb ...]   (default: all)

A chapter is executed with its parameters as committed (the quick profile), in book/. The normal form: cell
ids made from the cells' content; widget model ids numbered in the order in which the page shows them; no
timings, no versions; neighbouring outputs of one stream joined; solutions folded. What the cells themselves
print is left as it is.
"""

import argparse
import hashlib
import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
from files import write_whole  # noqa: E402  (beside this script)

WIDGET_STATE = "application/vnd.jupyter.widget-state+json"
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
REFERENCE = re.compile(r"IPY_MODEL_([0-9a-f]{32})")
# tqdm's "3/5 [00:01<00:02, 1.20it/s, loss=0.3]" in the state of a progress widget: other times at every run.
PROGRESS = re.compile(r"\[(?:\d+:)?\d+:\d+(?:<|&lt;)(?:(?:\d+:)?\d+:\d+|\?),[^,\]]*(?:,\s*([^\]]*))?\]")
ADDRESS = re.compile(r"\b0x[0-9a-f]{6,16}\b")
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
LANGUAGE = {
    "codemirror_mode": {"name": "ipython", "version": 3},
    "file_extension": ".py",
    "mimetype": "text/x-python",
    "name": "python",
    "nbconvert_exporter": "python",
    "pygments_lexer": "ipython3",
}
READS = "pwl_reads"  # in a chapter's metadata: the records, measurements and weights that it has read when it was executed
KEPT_CELL_METADATA = ("tags", "jupyter", "cellView", "mystnb", "editable", "slideshow", "hide_input")


def normalise(notebook: dict) -> nbformat.NotebookNode:
    """The same notebook in normal form; normalising twice changes nothing more."""
    nb = nbformat.from_dict(json.loads(json.dumps(notebook)))
    widgets, reads = nb.metadata.get("widgets", {}).get(WIDGET_STATE), nb.metadata.get(READS, [])
    nb.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": LANGUAGE, READS: reads})
    nb.nbformat, nb.nbformat_minor = 4, 5
    used: dict[str, int] = {}
    for cell in nb.cells:
        cell.source = "\n".join(
            line.rstrip() if cell.cell_type == "code" else line for line in cell.source.split("\n")
        ).rstrip("\n")
        cell.metadata = nbformat.from_dict(
            {k: v for k, v in cell.metadata.items() if k in KEPT_CELL_METADATA}
        )
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:12]
        used[digest] = used.get(digest, 0) + 1
        cell.id = digest if used[digest] == 1 else f"{digest}-{used[digest]}"
        if cell.cell_type != "code":
            continue
        if "solution" in cell.metadata.get("tags", []):
            fold(cell)
        cell.outputs = join_streams(cell.outputs)
        for output in cell.outputs:
            output.pop("transient", None)
            data = output.get("data", {})
            if WIDGET_VIEW in data and "text/plain" in data:  # shown only where the widget cannot be
                data["text/plain"] = ADDRESS.sub("0x000000000000", data["text/plain"])
            if output.output_type == "execute_result":
                output.execution_count = cell.execution_count
    if widgets is not None:
        nb.metadata.widgets = {WIDGET_STATE: widgets}
        nb = renumber_widgets(nb)
    return nb


def fold(cell: nbformat.NotebookNode) -> None:
    """Fold a solution in the rendered book (tag), in JupyterLab (source_hidden) and on Colab (cellView)."""
    cell.metadata.tags = sorted({*cell.metadata.tags, "hide-cell"})
    cell.metadata.setdefault("jupyter", {})["source_hidden"] = True
    cell.metadata.cellView = "form"


def join_streams(outputs: list) -> list:
    """Join neighbouring texts of one stream: how they arrive in pieces depends on timing."""
    joined: list = []
    for output in outputs:
        last = joined[-1] if joined else None
        if last and output.output_type == last.output_type == "stream" and output.name == last.name:
            last.text += output.text
        else:
            joined.append(output)
    return joined


def renumber_widgets(nb: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Number the widget models in the order of the views and of what these refer to: no random ids."""
    state: dict = nb.metadata.widgets[WIDGET_STATE]["state"]
    order: list[str] = []

    def visit(model: str) -> None:
        if model in state and model not in order:
            order.append(model)
            for other in REFERENCE.findall(json.dumps(state[model], sort_keys=True)):
                visit(other)

    for cell in nb.cells:
        for output in cell.get("outputs", []):
            if WIDGET_VIEW in output.get("data", {}):
                visit(output["data"][WIDGET_VIEW]["model_id"])

    def content(model: str) -> str:
        """A model's state with the known ids numbered and the unknown ones masked: the same at every run."""
        text = json.dumps(state[model], sort_keys=True)
        return REFERENCE.sub(lambda m: str(order.index(m[1])) if m[1] in order else "?", text)

    # Links between widgets are not shown themselves; they follow, sorted by what they link.
    while rest := [model for model in state if model not in order]:
        visit(min(rest, key=lambda model: (content(model), model)))
    title = nb.cells[0].source.split("\n")[0]  # no two chapters share an id: on the page of the whole book they meet
    new = {old: hashlib.md5(f"{title}, widget {i}".encode()).hexdigest() for i, old in enumerate(order)}
    for model in state.values():
        if model.get("model_name") == "OutputModel":
            model["state"]["msg_id"] = ""
        for key, value in model.get("state", {}).items():
            if isinstance(value, str):
                model["state"][key] = PROGRESS.sub(r"\1", value)
    text = json.dumps(nb)
    pattern = re.compile("|".join(map(re.escape, new)) or r"(?!)")
    return nbformat.from_dict(json.loads(pattern.sub(lambda m: new[m[0]], text)))


def execute(nb: nbformat.NotebookNode, folder: Path, timeout: float = 300) -> nbformat.NotebookNode:
    """Run all cells in a fresh kernel of this environment, and note what of the book's data they read."""
    from nbclient import NotebookClient

    nb.metadata.pop("widgets", None)
    client = NotebookClient(nb, timeout=timeout, startup_timeout=300, kernel_name="python3", record_timing=False)
    with tempfile.TemporaryDirectory() as temporary:
        log = Path(temporary) / "reads"
        # bars of finished trainings do not belong into a book
        client.execute(cwd=str(folder), env={**os.environ, "PWL_PROGRESS": "0", "PWL_READ_LOG": str(log)})
        nb.metadata[READS] = noted_reads(log)
    return nb


def noted_reads(log: Path) -> list[str]:
    """What is in a file written under $PWL_READ_LOG, such as `results/kd/cifar10-vgg-cifar-seed0`; once each, sorted."""
    return sorted(set(log.read_text(encoding="utf-8").splitlines())) if log.exists() else []


def write(nb: nbformat.NotebookNode, path: Path) -> bool:
    """Write the notebook, whole or not at all; True if the file has changed."""
    nbformat.validate(nb)
    text = nbformat.writes(nb) + "\n"
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return False
    write_whole(path, text)
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path, help="which chapters (default: all of book/)")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--normalise-only", action="store_true", help="do not execute")
    how.add_argument(
        "--check", action="store_true", help="write nothing; fail if a notebook is not in normal form"
    )
    arguments = parser.parse_args()
    paths = arguments.notebooks or sorted((ROOT / "book").glob("*.ipynb"))
    wrong = []
    for path in paths:
        nb = nbformat.read(path, as_version=4)
        if arguments.check:
            if nbformat.writes(normalise(nb)) + "\n" != path.read_text(encoding="utf-8"):
                wrong.append(path.name)
            continue
        started = time.perf_counter()
        if not arguments.normalise_only:
            nb = execute(nb, path.resolve().parent)
        changed = write(normalise(nb), path)
        print(
            f"{path.name}: {time.perf_counter() - started:.1f} s, {'written' if changed else 'unchanged'}",
            flush=True,
        )
    if wrong:
        sys.exit(
            f"not in normal form: {', '.join(wrong)}; run python scripts/run_notebooks.py --normalise-only"
        )


if __name__ == "__main__":
    main()
