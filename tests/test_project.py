"""The project's own files agree with each other, and its scripts do what they say."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from types import SimpleNamespace

import chapters
import check_site
import nbformat
import pytest
import run_notebooks
import sphinx_pages
import stamp_address
import stamp_results
import yaml
from alone import clean_environment

import pwl_lite
from pwl_lite.records import load_records

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ADDRESS = PROJECT["tool"]["pwl"]["repository"]


def call(*command: object, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess:
    """Run a command to its end, with its output as text."""
    return subprocess.run(list(map(str, command)), cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True)


# --- files that must agree -------------------------------------------------------------------------------


def test_address_is_the_same_everywhere():
    assert not stamp_address.changes(ROOT), "run python scripts/stamp_address.py"
    assert yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"] == ADDRESS
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["repository-code"] == ADDRESS
    readme = (ROOT / "README.md").read_text()
    assert f"git clone {ADDRESS}\n" in readme
    assert f"pip install git+{ADDRESS}\n" in readme
    assert stamp_address.colab_link(ADDRESS, "01_waiting_for_weights.ipynb") in readme


def test_results_in_the_readme_are_those_of_the_records():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert stamp_results.stamped(readme) == readme, "run python scripts/stamp_results.py"


def test_version_is_the_same_everywhere():
    version = PROJECT["project"]["version"]
    assert pwl_lite.__version__ == version
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
    assert f"\n## [{version}]" in (ROOT / "CHANGELOG.md").read_text()


def test_requirements_are_pinned_and_the_package_gives_lower_bounds_only():
    text = (ROOT / "requirements.txt").read_text()
    lines = re.findall(r"^[^#\n].*$", text, flags=re.M)
    pinned = dict(re.fullmatch(r"([\w.-]+)==([\w.]+)", line).groups() for line in lines)
    assert len(pinned) == len(lines)
    for need in PROJECT["project"]["dependencies"]:
        name, bound = re.fullmatch(r"([\w-]+)>=([\d.]+)", need).groups()
        assert tuple(map(int, bound.split("."))) <= tuple(map(int, pinned[name].split("."))), need


def test_table_of_contents_names_existing_files():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    entries = [entry for part in toc["parts"] for entry in part["chapters"]]
    files = [toc["root"]] + [e["file"] for entry in entries for e in [entry, *entry.get("sections", [])]]
    assert len(set(files)) == len(files)
    for name in files:
        assert [p for p in (ROOT / "book").glob(Path(name).name + ".*") if p.suffix in (".md", ".ipynb")], name


# The two papers and their relatives; baselines of distillation; networks and data; training fast; loading fast.
WORKS = """
pwl2025 gupta2025curriculum panigrahi2025progressive allenzhu2023physics jin2019rco liu2026fapd yang2023unideal
moummad2026plants pan2023snnet xu2020theseus lee2021progressive afrabandpey2025p2u huang2018msdnet yu2019slimmable
yu2020bignas cai2020ofa
hinton2015 romero2015fitnets zagoruyko2017attention park2019rkd tian2020crd zhao2022dkd repdistiller mdistiller
simonyan2015vgg he2016resnet zagoruyko2016wide dosovitskiy2021vit krizhevsky2009cifar
jordan2024airbench airbench94muon jordan2024muon balsam2023hlb muller2019smoothing
safetensors yoshimura2025fastsafetensors runaistreamer tensorizer fu2024serverlessllm paszke2019pytorch
pwlcode progressivecode radford2019gpt2 devlin2019bert deng2009imagenet
"""


def test_every_work_that_is_spoken_of_stands_in_the_references():
    entries = (ROOT / "book" / "references.bib").read_text()
    known = set(re.findall(r"arXiv:(\d{4}\.\d{4,5})", entries))
    places = [*(ROOT / "book").glob("*.md"), *(ROOT / "book").glob("*.ipynb"), *(ROOT / "pwl_lite").rglob("*.py")]
    for path in [*places, ROOT / "README.md", ROOT / "data" / "published.csv"]:
        spoken_of = set(re.findall(r"arxiv\W{0,2}(?:org/abs/)?(\d{4}\.\d{4,5})", path.read_text(), flags=re.I))
        assert spoken_of <= known, f"{path.name}: not in book/references.bib: {spoken_of - known}"
    lists = [keys for path in places for keys in re.findall(r"{cite(?::\w+)?}`([^`]+)`", path.read_text())]
    cited = {key.strip() for keys in lists for key in keys.split(",")}
    keys = re.findall(r"^@\w+{(\w+),$", entries, flags=re.M)
    assert len(set(keys)) == len(keys)
    assert cited <= set(keys), cited - set(keys)
    assert set(WORKS.split()) <= set(keys), set(WORKS.split()) - set(keys)
    for entry in re.split(r"^(?=@)", entries, flags=re.M)[1:]:
        assert re.search(r"^  title = ", entry, flags=re.M) and re.search(r"^  author = ", entry, flags=re.M), entry
        assert re.search(r"^  (url|institution) = ", entry, flags=re.M), entry


def test_reference_describes_every_module_with_public_names():
    pages = "".join(path.read_text() for path in (ROOT / "book").glob("api*.md"))
    described = set(re.findall(r"automodule:: (pwl_lite[\w.]*)", pages))
    for module in described:
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__init__.py").is_file(), module
    for home in pwl_lite._HOMES:
        assert f"pwl_lite.{home}" in described, f"pwl_lite.{home} has public names and is in no book/api*.md"


def test_workflows_use_official_actions_and_name_no_repository():
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        text = path.read_text()
        jobs = yaml.safe_load(text)["jobs"]
        steps = [step for job in jobs.values() for step in job["steps"]]
        assert steps and all(re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"]) for step in steps if "uses" in step)
        assert "OWNER_NOT_SET" not in text and "github.com/" not in text
        targets = re.findall(r"run: make ([\w-]+)", text)
        assert targets and set(targets) <= set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.M))


def test_a_push_cuts_no_deployment_off_and_the_demo_is_tested_before_it():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "book.yml").read_text())
    uses = {name: [step.get("uses", "") for step in job["steps"]] for name, job in workflow["jobs"].items()}
    (publishing,) = [name for name in uses if any(action.startswith("actions/deploy-pages") for action in uses[name])]
    for part in (workflow, workflow["jobs"][publishing]):
        assert not part.get("concurrency", {}).get("cancel-in-progress"), part
    before = workflow["jobs"][workflow["jobs"][publishing]["needs"]]
    assert any("tests/test_web_demo.py" in step.get("run", "") for step in before["steps"])


def test_make_knows_what_pages_are_made_from():
    made_from = set(re.search(r"^SHOWN := (.*)$", (ROOT / "Makefile").read_text(), flags=re.M)[1].split())
    data = {f"data/{folder}" for folder in ("benchmarks", "plans", "results", "weights")}
    assert made_from == {"book", "scripts", "pwl_lite", "web_static", *data}


def test_help_lists_every_target():
    phony = set(re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), flags=re.M)[1].split())
    listed = set(re.findall(r"^  make ([\w-]+) ", call("make", "help").stdout, flags=re.M))
    assert listed == phony


def test_page_scripts_are_named_with_exact_versions_and_hashes():
    text = (ROOT / "web_static" / "vendor.json").read_text()
    assert "://" not in text, "no registry is named: npm knows its own"
    for package in json.loads(text)["packages"]:
        assert re.fullmatch(r"\d+\.\d+\.\d+", package["version"])
        assert re.fullmatch(r"sha512-[A-Za-z0-9+/]{86}==", package["integrity"])
        if package["name"] != "onnxruntime-web":  # without it the demo is left out; everything else has a CDN
            cdn = (ROOT / "scripts" / "sphinx_pwl.py").read_text()  # from which pages load the same version
            assert f"/{package['name']}@{package['version']}/" in cdn


def test_markdown_pages_have_alt_texts_and_no_outside_images():
    for path in [ROOT / "README.md", *(ROOT / "book").glob("*.md")]:
        text = path.read_text()
        for alt, target in re.findall(r"!\[([^\]]*)\]\(([^)\s]+)", text):
            assert len(alt) > 10, f"{path.name}: {target} has no alt text"
            assert "://" not in target, f"{path.name}: {target} is an outside image"


# --- the wheel -------------------------------------------------------------------------------------------


def test_wheel_holds_the_package_and_the_shipped_data(wheel):
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("pwl_lite/")}
    package = (ROOT / "pwl_lite").rglob("*")
    expected = {str(p.relative_to(ROOT)) for p in package if p.suffix in (".py", ".js", ".css")}
    shipped = [ROOT / "data" / "published.csv"]
    for folder in ("results", "weights", "benchmarks", "plans"):
        shipped += [path for path in (ROOT / "data" / folder).rglob("*") if path.is_file()]
    expected |= {f"pwl_lite/_data/{path.relative_to(ROOT / 'data')}" for path in shipped}
    assert inside == expected
    assert wheel.stat().st_size < 25e6


def test_installed_package_finds_its_own_records(alone, tmp_path):
    code = "import pwl_lite, pwl_lite.records as r; print(pwl_lite.__file__, r.data_folder())"
    run = subprocess.run([alone, "-c", code], cwd=tmp_path, env=clean_environment(), capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    module, data = map(Path, run.stdout.split())
    assert module.is_relative_to(alone.parent.parent)
    assert data == module.parent / "_data"


# --- scripts ---------------------------------------------------------------------------------------------


def test_stamping_changes_chapters_texts_and_nothing_else(tmp_path):
    for name in ("pyproject.toml", "_config.yml", "README.md", "CITATION.cff", "book"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    settings = tmp_path / "pyproject.toml"
    other = "https://github.com/someone-else/another.name"
    settings.write_text(settings.read_text().replace(f'repository = "{ADDRESS}"', f'repository = "{other}"'))
    script = ROOT / "scripts" / "stamp_address.py"
    check = call(sys.executable, script, "--check", "--root", tmp_path)
    assert check.returncode == 1 and "README.md" in check.stderr and "01_waiting" in check.stderr
    assert call(sys.executable, script, "--root", tmp_path).returncode == 0
    assert call(sys.executable, script, "--check", "--root", tmp_path).returncode == 0
    old = "/".join(ADDRESS.split("/")[-2:])
    for path in [p for p in tmp_path.rglob("*") if p.suffix in (".md", ".ipynb", ".yml", ".cff", ".toml")]:
        assert old not in path.read_text(), path
    nb = nbformat.read(tmp_path / "book" / "01_waiting_for_weights.ipynb", as_version=4)
    link = "github/someone-else/another.name/blob/main/book/01_waiting_for_weights.ipynb)"
    assert link in nb.cells[0].source
    assert f'"git+{other}"' in next(c for c in nb.cells if "setup" in c.metadata.get("tags", [])).source


def test_address_can_be_given_to_the_stamp(tmp_path):
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copy(ROOT / "_config.yml", tmp_path)
    script = ROOT / "scripts" / "stamp_address.py"
    other = "https://github.com/someone-else/another.name"
    assert call(sys.executable, script, "--root", tmp_path, "--address", other).returncode == 0
    assert yaml.safe_load((tmp_path / "_config.yml").read_text())["repository"]["url"] == other
    assert tomllib.loads((tmp_path / "pyproject.toml").read_text())["tool"]["pwl"]["repository"] == other
    wrong = call(sys.executable, script, "--root", tmp_path, "--address", "elsewhere")
    assert wrong.returncode != 0 and "not of the form https://github.com/OWNER/REPOSITORY" in wrong.stderr


def test_chapters_say_what_the_state_of_the_book_needs():
    for chapter in chapters.chapters(ROOT):
        assert chapter.profiles[0] == "quick" and chapter.time.startswith("under "), chapter.path.name
        headings = re.findall(r"### (Exercise \d+: [^\n\"\\]+)", chapter.path.read_text())
        assert [exercise.heading for exercise in chapter.exercises] == headings
        assert all(exercise.kinds for exercise in chapter.exercises)


def test_chapters_have_read_what_is_there():
    data = ROOT / "data"
    records = [r for path in (data / "results").iterdir() for r in load_records(path.name)]
    for chapter in chapters.chapters(ROOT):
        for name in chapter.reads:
            kind = name.split("/")[0]
            assert (data / name).is_dir() if kind == "weights" else (data / f"{name}.json").is_file(), chapter.path.name
    third, sixth, *_ = (chapter for chapter in chapters.chapters(ROOT) if chapter.path.name[:2] in ("03", "06"))
    of_third = {(r.experiment, r.dataset, r.profile) for r in records if third.uses(r)}
    assert {found for found in of_third if found[0] in ("kd", "pwl", "teacher")} == {
        ("kd", "cifar10", "cifar"),
        ("teacher", "cifar10", "cifar"),
    }
    assert ("tuning-dkd-2", "cifar10-holdout5000", "cifar") in of_third
    assert [(r.experiment, r.run) for r in records if sixth.uses(r)] == [("pwl", "cifar10-vgg-cifar-seed0")]


def test_what_a_chapter_says_of_itself(tmp_path):
    cells = [
        nbformat.v4.new_markdown_cell("# A title\n\nTime on 2 CPU cores: under a minute."),
        nbformat.v4.new_code_cell('profile = "quick"  # @param ["quick", "cifar"]\ndataset = "shapes10"'),
        nbformat.v4.new_code_cell("%pylab\nx = 1"),
        nbformat.v4.new_markdown_cell("### Exercise 1: in words\n\n<details><summary>Solution</summary>\n\nx\n\n</details>"),
        nbformat.v4.new_markdown_cell("### Exercise 2: in code"),
        nbformat.v4.new_code_cell("1 + 1"),
    ]
    cells[1].metadata.tags, cells[5].metadata.tags = ["parameters"], ["solution"]
    path = tmp_path / "01_x.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    chapter = chapters.read_chapter(path)
    assert (chapter.title, chapter.time, chapter.data) == ("A title", "under a minute", "shapes10")
    assert chapter.profiles == ("quick", "cifar")
    assert (chapter.reads, chapter.measurements) == ((), [])
    assert [(e.heading, e.kinds) for e in chapter.exercises] == [
        ("Exercise 1: in words", ("words",)),
        ("Exercise 2: in code", ("code",)),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells[1:]), path)
    with pytest.raises(ValueError, match=r"01_x.ipynb: expected a line 'Time on 2 CPU cores"):
        chapters.read_chapter(path)


def test_an_executed_chapter_tells_what_it_has_read(tmp_path):
    code = (
        "import pwl_lite as pwl\nfrom pwl_lite.records import load_measurement, load_record\n"
        'pwl.load_records("kd", dataset="shapes10"), load_record("teacher", "shapes10-vgg-quick-seed0")\n'
        'pwl.find_weights("cifar10-vgg-cifar-seed0"), load_measurement("parity")\n'
        'pwl.load_records("mine", folder="results")'  # of the reader's own: not the book's
    )
    (tmp_path / "results" / "mine").mkdir(parents=True)
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    done = run_notebooks.normalise(run_notebooks.execute(nb, tmp_path))
    assert done.metadata[run_notebooks.READS] == [
        "benchmarks/parity",
        "results/kd/shapes10-vgg-quick-seed0",
        "results/teacher/shapes10-vgg-quick-seed0",
        "weights/cifar10-vgg-cifar-seed0",
    ]


def test_runs_of_a_chapter_in_a_few_words():
    def runs_of(*experiments: str) -> list[SimpleNamespace]:
        return [SimpleNamespace(experiment=experiment) for experiment in experiments]

    every = runs_of("kd", "a-1", "a-1", "a-2", "a-3", "b-1", "b-2", "b-3", "b-4")
    assert sphinx_pages.runs(every[:1], every) == "1 run of `kd`"
    assert sphinx_pages.runs(every[:4], every) == "4 runs of `kd`, `a-1`, `a-2`"
    assert sphinx_pages.runs(every[:-1], every) == "8 runs of `kd`, `a-*`, 3 of 4 `b-*`"


def notebook_with_widgets() -> nbformat.NotebookNode:
    """Linked widgets, a stream in pieces, a solution."""
    sources = [
        "import ipywidgets as w\nbox = w.Stack([w.HTML('a'), w.Output()])\nslider = w.IntSlider(max=1)",
        "w.jslink((slider, 'value'), (box, 'selected_index'))\nw.VBox([slider, box, w.Text(), w.Text()])",
        "import time\nfor i in range(3):\n    print(i, flush=True)\n    time.sleep(0.05)",
        "1 + 1",
    ]
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    nb.cells[-1].metadata.tags = ["solution"]
    return nb


def test_executing_a_notebook_twice_gives_the_same_file(tmp_path):
    texts = []
    for _ in range(2):
        nb = run_notebooks.normalise(run_notebooks.execute(notebook_with_widgets(), tmp_path))
        nbformat.validate(nb)
        texts.append(nbformat.writes(nb))
        assert nbformat.writes(run_notebooks.normalise(nb)) == texts[-1]
    assert texts[0] == texts[1]
    view = nb.cells[1].outputs[0].data[run_notebooks.WIDGET_VIEW]["model_id"]
    state = nb.metadata.widgets[run_notebooks.WIDGET_STATE]["state"]
    assert state[view]["model_name"] == "VBoxModel"
    assert "LinkModel" in {model["model_name"] for model in state.values()}
    for model in state.values():
        for reference in run_notebooks.REFERENCE.findall(json.dumps(model)):
            assert reference in state
    assert [o.text for o in nb.cells[2].outputs] == ["0\n1\n2\n"]
    assert nb.cells[3].metadata.jupyter.source_hidden and "hide-cell" in nb.cells[3].metadata.tags


def test_without_npm_registry_the_scripts_are_left_to_cdns(tmp_path):
    run = call(
        sys.executable,
        ROOT / "scripts" / "vendor.py",
        "--into",
        tmp_path / "vendor",
        npm_config_registry="http://127.0.0.1:9",
        npm_config_cache=str(tmp_path / "npm"),  # or npm would take the packages from its own cache
    )
    assert run.returncode == 0, run.stderr
    assert "its pages load these scripts from public CDNs instead" in run.stdout
    assert not (tmp_path / "vendor").exists()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".vendor")]


def test_without_npm_registry_scripts_that_were_fetched_before_stay(tmp_path):
    old = tmp_path / "vendor"
    old.mkdir()
    (old / "COMPLETE").write_text("of an earlier list\n")
    (old / "require.js").write_text("old")
    run = call(
        sys.executable,
        ROOT / "scripts" / "vendor.py",
        "--into",
        old,
        npm_config_registry="http://127.0.0.1:9",
        npm_config_cache=str(tmp_path / "npm"),
    )
    assert run.returncode == 0, run.stderr
    assert f"with the scripts that {old} holds already" in run.stdout and "CDN" not in run.stdout
    assert sorted(p.name for p in old.iterdir()) == ["COMPLETE", "require.js"]


PAGE = """\
# A page

$x^2$ and a [link](other.md#a-place). `block` is code; Blocks, and again blocks, are words; so is MB, unlike mb or MB/s. Loading
orders have another name: path.

```{only} pdf
<a href="../book.pdf">To print</a>
```

:::{container} pwl-demo
What stands here without JavaScript.
:::
"""
GLOSSARY = """\
# Glossary

```{glossary}
block
  What is swapped.

loading order
path
  In which blocks come.

MB
  A million bytes.
```
"""


def small_book(folder: Path, vendored: bool, address: str = ADDRESS) -> Path:
    """Build some pages with the settings of this book; returns the folder of the site."""
    (folder / "book").mkdir(parents=True)
    (folder / "book" / "intro.md").write_text(PAGE)
    (folder / "book" / "other.md").write_text("# Other\n\n## A place\n\nWords.\n")
    (folder / "book" / "glossary.md").write_text(GLOSSARY)
    (folder / "book" / "references.bib").write_text("")
    nb = notebook_with_widgets()
    nb.cells = nb.cells[:2]
    nb.cells.insert(0, nbformat.v4.new_markdown_cell("# Widgets"))
    dot = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    nb.cells.append(
        nbformat.v4.new_code_cell(
            f"dot = {{'image/png': '{dot}'}}\nalt = {{'image/png': {{'alt': 'one small dot'}}}}\n"
            "display(dot, raw=True, metadata=alt)"
        )
    )
    nb = run_notebooks.normalise(run_notebooks.execute(nb, folder))
    nbformat.write(nb, folder / "book" / "widgets.ipynb")
    toc = {
        "format": "jb-book",
        "root": "book/intro",
        "chapters": [{"file": f"book/{name}"} for name in ("other", "widgets", "glossary")],
    }
    (folder / "_toc.yml").write_text(yaml.safe_dump(toc))
    (folder / "_config.yml").write_text((ROOT / "_config.yml").read_text().replace(ADDRESS, address))
    shutil.copytree(ROOT / "web_static", folder / "web_static", ignore=shutil.ignore_patterns("vendor", "pairs"))
    (folder / "scripts").symlink_to(ROOT / "scripts")
    if vendored:
        (folder / "_build").mkdir()
        (folder / "_build" / "book.pdf").write_bytes(b"%PDF-1.4 one to print")
        scripts = ("require.js", "require-config.js", "embed-amd.js", "mathjax/tex-mml-chtml.js", "COMPLETE")
        for name in scripts:
            path = folder / "web_static" / "vendor" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("")
    build = "from jupyter_book.cli.main import main; main()"
    run = call(sys.executable, "-c", build, "build", folder, "-W", "--keep-going", cwd=folder)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    return folder / "_build" / "html"


@pytest.mark.parametrize("vendored", [True, False], ids=["own scripts", "CDN scripts"])
def test_pages_load_from_their_own_site_or_from_cdns(tmp_path, vendored):
    site = small_book(tmp_path, vendored)
    page = check_site.Page(site / "book" / "widgets.html")
    scripts = [address for address in page.loads if ".js" in address]
    wanted = "vendor/embed-amd.js" if vendored else "https://cdn.jsdelivr.net/npm/@jupyter-widgets/html-manager@"
    assert sum(wanted in script for script in scripts) == 1
    outside = {a for p in ("intro", "other", "widgets") for a in check_site.Page(site / "book" / f"{p}.html").loads}
    assert any(check_site.outside(address) for address in outside) != vendored
    assert "OWNER_NOT_SET" not in (site / "book" / "intro.html").read_text()
    assert 'alt="one small dot"' in (site / "book" / "widgets.html").read_text()
    assert (site / "index.html").is_file()
    assert ((site / "book.pdf").is_file(), "../book.pdf" in intro(site)) == (vendored, vendored)  # offered where it was made
    assert check_site.problems(site) == []
    words = re.findall(r'<a class="word [^>]*href="glossary.html#([^"]*)" title="([^"]*)">([^<]*)</a>', intro(site))
    assert words == [
        ("term-block", "What is swapped.", "Blocks"),
        ("term-MB", "A million bytes.", "MB"),
        ("term-loading-order", "In which blocks come.", "Loading\norders"),  # and its other name is not linked again
    ]
    assert "Toggle hidden content" not in (site / "book" / "widgets.html").read_text()
    demo = {p: [a for a in check_site.Page(site / "book" / f"{p}.html").loads if "/demo/" in a] for p in ("intro", "other")}
    assert len(demo["intro"]) == 2 and demo["other"] == []  # script and style sheet, where there is a place for it


def test_the_book_as_one_page_links_each_word_too(tmp_path):
    small_book(tmp_path, vendored=True)
    build = "from jupyter_book.cli.main import main; main()"
    run = call(sys.executable, "-c", build, "build", tmp_path, "--builder", "singlehtml", cwd=tmp_path)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    page = (tmp_path / "_build" / "singlehtml" / "book" / "intro.html").read_text()
    assert re.findall(r'<a class="word [^>]*href="[^"]*#(term-[^"]*)"', page) == ["term-block", "term-MB", "term-loading-order"]
    assert "book.pdf" not in page  # which is made of this page


def intro(site: Path) -> str:
    return (site / "book" / "intro.html").read_text()


def test_launch_buttons_follow_the_address(tmp_path):
    site = small_book(tmp_path, vendored=True, address="https://github.com/someone-else/another")
    page = (site / "book" / "widgets.html").read_text()
    assert "https://colab.research.google.com/github/someone-else/another/blob/main/book/widgets.ipynb" in page
    assert "https://mybinder.org/v2/gh/someone-else/another/main?urlpath=tree/book/widgets.ipynb" in page
    assert "https://github.com/someone-else/another" in intro(site)


def test_check_site_finds_what_is_wrong(tmp_path):
    (tmp_path / "a.html").write_text(
        '<img src="b.png"><img src="https://example.org/c.png" alt="c"><a href="nowhere.html">x</a>'
        '<a href="#gone">y</a><a href="https://example.org">fine</a><p id="here"></p><a href="#here">fine</a>'
    )
    (tmp_path / "b.png").write_text("")
    (tmp_path / "_static" / "vendor").mkdir(parents=True)
    (tmp_path / "_static" / "vendor" / "COMPLETE").write_text("")
    pair = tmp_path / "_static" / "pairs" / "one"
    pair.mkdir(parents=True)
    (pair / "web.json").write_text('{"parts": {"student-1": {"file": "student-1.onnx"}}}')
    assert check_site.problems(tmp_path) == [
        "a.html: image without alt text: b.png",
        "a.html: loads https://example.org/c.png",
        "a.html: no such file: nowhere.html",
        "a.html: no such place: #gone",
        "_static/pairs/one/web.json: no such file: student-1.onnx",
    ]
    assert check_site.external_links(tmp_path) == ["https://example.org  a.html"]


def test_make_refuses_an_old_python_with_a_clear_message(tmp_path):
    old = tmp_path / "python3.8"
    old.write_text("#!/bin/sh\n[ \"$1\" = --version ] && echo 'Python 3.8.1' && exit 0\nexit 1\n")
    old.chmod(0o755)
    run = call("make", "install", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}")
    assert run.returncode != 0
    assert "Python 3.8.1 is too old: Python 3.11 or newer is needed" in run.stderr
    assert not (tmp_path / "venv").exists()
    run = call("make", "install", f"PYTHON={tmp_path / 'nothing'}", f"VENV={tmp_path / 'venv'}")
    assert run.returncode != 0 and "was not found; install Python 3.11" in run.stderr
