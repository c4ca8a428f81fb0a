"""Every chapter: its form as committed, and a run of it alone, as on Colab.

Alone means: copied to an empty folder, executed by papermill with the quick profile in an environment where
pwl_lite comes from the built wheel (tests/alone.py). The limits hold on 2 CPU cores; PWL_TIME_FACTOR
stretches them on slower machines.
"""

import ast
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import nbformat
import papermill
import pytest
import run_notebooks
import stamp_address
from alone import clean_environment

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = sorted((ROOT / "book").glob("*.ipynb"))
PARAMETERS = {"profile": "quick"}
SECONDS_EACH, SECONDS_ALL = 60, 48 * len(CHAPTERS)
TIME_FACTOR = float(os.environ.get("PWL_TIME_FACTOR", "1.5"))
seconds: dict[str, float] = {}

each_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)


def tags(cell) -> list[str]:
    return cell.metadata.get("tags", [])


def code_cells(nb) -> list:
    return [cell for cell in nb.cells if cell.cell_type == "code"]


def assert_executed(nb) -> None:
    """All code cells ran, in order, and none ended in an error."""
    cells = [cell for cell in code_cells(nb) if cell.source.strip()]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        assert not [o for o in cell.outputs if o.output_type == "error"], f"an error in: {cell.source[:200]}"


def assert_alt_texts(nb) -> None:
    """Every image has an alt text: outputs in their metadata, HTML and Markdown in the usual places."""
    for cell in nb.cells:
        texts = [cell.source] if cell.cell_type == "markdown" else []
        for output in cell.get("outputs", []):
            for mime, content in output.get("data", {}).items():
                if mime.startswith("image/"):
                    alt = output.metadata.get(mime, {}).get("alt", "")
                    assert len(alt) > 10, (
                        f"{mime} without an alt text (pwl.plots.show sets it) in: {cell.source[:200]}"
                    )
                elif mime in ("text/html", "text/markdown"):
                    texts.append(content)
        for text in texts:
            assert not re.search(r"!\[\s*\]\(", text), f"![]( without an alt text in: {text[:200]}"
            assert "![" not in text or not re.search(r"!\[[^\]]*\]\(https?:", text), (
                f"an outside image in: {text[:200]}"
            )
            for image in re.findall(r"<img\b[^>]*>", text):
                assert re.search(r"alt=[\"'][^\"']+", image), f"<img> without an alt text: {image[:200]}"
                assert not re.search(r"src=[\"'](https?:)?//", image), f"an outside image: {image[:200]}"


def test_there_are_chapters_and_the_table_of_contents_lists_them():
    toc = (ROOT / "_toc.yml").read_text()
    assert len(CHAPTERS) >= 5
    assert re.findall(r"file: book/(\d\d_\w+)", toc) == [path.stem for path in CHAPTERS]


@each_chapter
def test_committed_outputs(path):
    nb = nbformat.read(path, as_version=4)
    nbformat.validate(nb)
    assert_executed(nb)
    assert_alt_texts(nb)
    normal = nbformat.writes(run_notebooks.normalise(nb)) + "\n"
    assert normal == path.read_text(encoding="utf-8"), "not as `make notebooks` writes it"


@each_chapter
def test_head_of_the_chapter(path):
    nb = nbformat.read(path, as_version=4)
    address = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pwl"]["repository"]
    first = nb.cells[0]
    assert first.cell_type == "markdown" and first.source.startswith("# ")
    titles = [
        c.source for c in nb.cells if c.cell_type == "markdown" and re.search(r"^# ", c.source, flags=re.M)
    ]
    assert len(titles) == 1, "one level-1 heading a chapter"
    assert f"[Open in Colab]({stamp_address.colab_link(address, path.name)})" in first.source
    setup = code_cells(nb)[0]
    assert "setup" in tags(setup)
    assert setup.source == stamp_address.SETUP_CELL.format(address=address)
    assert setup.outputs == []


@each_chapter
def test_parameters_cell(path):
    """Literals only, `quick` as committed, and papermill can set exactly the names that exist."""
    (cell,) = [c for c in code_cells(nbformat.read(path, as_version=4)) if "parameters" in tags(c)]
    values = {}
    for statement in ast.parse(cell.source).body:
        assert isinstance(statement, ast.Assign) and len(statement.targets) == 1, cell.source
        values[statement.targets[0].id] = ast.literal_eval(statement.value)
    assert values["profile"] == "quick"
    assert set(papermill.inspect_notebook(str(path))) == set(values)


@each_chapter
def test_exercises(path):
    """3 to 5 exercises, numbered, each with a solution that is folded."""
    exercises: dict[int, list[str]] = {}
    current = None
    for cell in nbformat.read(path, as_version=4).cells:
        for part in (
            re.split(r"^(?=#{1,6} )", cell.source, flags=re.M) if cell.cell_type == "markdown" else [None]
        ):
            if part is None:
                if current is not None and "solution" in tags(cell):
                    assert {"hide-cell"} <= set(tags(cell)) and cell.metadata.jupyter.source_hidden
                    exercises[current].append("code")
                continue
            if match := re.match(r"### Exercise (\d+)\b", part):
                current = int(match[1])
                exercises[current] = []
            elif re.match(r"#{1,3} ", part):
                current = None
            if current is not None and re.search(
                r"<details>\s*<summary>Solution.*?</summary>\n\n.+?</details>", part, re.S
            ):
                exercises[current].append("words")
    assert 3 <= len(exercises) <= 5
    assert list(exercises) == list(range(1, len(exercises) + 1))
    assert all(exercises.values()), (
        f"exercises without a folded solution: {[n for n, s in exercises.items() if not s]}"
    )


@each_chapter
def test_runs_alone(path, alone, tmp_path):
    folder = tmp_path / "empty"
    folder.mkdir()
    copy = folder / path.name
    shutil.copy(path, copy)
    unknown = set(PARAMETERS) - set(papermill.inspect_notebook(str(copy)))
    assert not unknown, f"{path.name} has no parameters {unknown}"
    nb = nbformat.read(copy, as_version=4)
    nb.cells.append(nbformat.v4.new_code_cell("import pwl_lite\nprint(pwl_lite.__file__)", id="where"))
    nbformat.write(nb, copy)
    result = tmp_path / "result.ipynb"
    command = [
        alone,
        "-m",
        "papermill",
        copy,
        result,
        "--kernel",
        "python3",
        "--cwd",
        folder,
        "--no-progress-bar",
    ]
    command += ["--execution-timeout", "300", "--start-timeout", "300"]
    for name, value in PARAMETERS.items():
        command += ["--parameters_raw", name, value]
    env = {**clean_environment(), "PWL_READ_LOG": str(tmp_path / "reads")}
    run = subprocess.run(list(map(str, command)), cwd=folder, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-5000:]
    nb = nbformat.read(result, as_version=4)
    seconds[path.stem] = nb.metadata.papermill.duration
    assert_executed(nb)
    assert_alt_texts(nb)
    injected = [cell for cell in nb.cells if "injected-parameters" in tags(cell)]
    assert len(injected) == 1 and 'profile = "quick"' in injected[0].source
    where = Path(nb.cells[-1].outputs[0].text.strip())
    assert where.is_relative_to(Path(alone).parent.parent), f"the run used {where}, not the wheel"
    assert sorted(p.name for p in folder.iterdir()) == [path.name], "the chapter left files in its folder"
    committed = nbformat.read(path, as_version=4).metadata[run_notebooks.READS]
    assert run_notebooks.noted_reads(tmp_path / "reads") == committed, "it reads other records: run `make notebooks`"


def test_time_limits(capsys):
    """After all the runs above: each chapter and all together are as fast as the book promises."""
    missing = {path.stem for path in CHAPTERS} - set(seconds)
    if missing:
        pytest.skip(f"not all chapters ran in this call: {len(missing)} are missing")
    with capsys.disabled():
        lines = [
            f"  {name:32s} {value:6.1f} s"
            for name, value in [*seconds.items(), ("all", sum(seconds.values()))]
        ]
        print("\nchapters alone through papermill, quick profile:\n" + "\n".join(lines))
    slow = {name: value for name, value in seconds.items() if value > SECONDS_EACH * TIME_FACTOR}
    assert not slow, f"over {SECONDS_EACH} s x {TIME_FACTOR}: {slow} (PWL_TIME_FACTOR stretches the limit)"
    assert sum(seconds.values()) <= SECONDS_ALL * TIME_FACTOR
