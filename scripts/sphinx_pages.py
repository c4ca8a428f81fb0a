"""Sphinx directives for pages that are made from the book's own files while it is built (loaded by sphinx_pwl.py).

    {exercises}  all exercises, with links
    {state}      each chapter's time, profile, data, and the commits of the records and measurements that it reads
    {runs}       what the records are
    {names}      everything that hangs on `pwl_lite`, with the first sentence of its docstring
"""

import inspect
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from chapters import Chapter, chapters
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class GeneratedText(SphinxDirective):
    """A directive whose content is Markdown made by `lines()`."""

    def run(self) -> list[nodes.Node]:
        root = Path(self.env.srcdir)
        self.env.note_dependency(str(root / "_toc.yml"))
        container = nodes.container()
        source, number = self.get_source_info()
        text = "\n".join(self.lines(root)).splitlines()
        self.state.nested_parse(StringList(text, source), number, container)
        return container.children

    def lines(self, root: Path) -> list[str]:
        raise NotImplementedError

    def chapters(self, root: Path) -> list[Chapter]:
        """All chapters; the page is made anew when one of them changes."""
        found = chapters(root)
        for chapter in found:
            self.env.note_dependency(str(chapter.path))
        return found

    def records(self, root: Path) -> list[Any]:
        """All records that come with the book; the page is made anew when one of them changes."""
        from pwl_lite.records import load_records

        folder = root / "data" / "results"
        for path in folder.glob("*/*.json"):
            self.env.note_dependency(str(path))
        names = sorted(path.name for path in folder.iterdir() if path.is_dir())
        return [record for name in names for record in load_records(name, folder)]

    def measurements(self, root: Path) -> dict[str, dict[str, Any]]:
        """Environments of what was measured by the scripts of `benchmarks/`; the page is made anew when one changes."""
        found = {}
        for path in sorted((root / "data" / "benchmarks").glob("*.json")):
            self.env.note_dependency(str(path))
            found[path.stem] = json.loads(path.read_text(encoding="utf-8"))["environment"]
        return found

    def commits(self, environments: list[dict[str, Any]]) -> str:
        """The commits that records or measurements were made with, as links once the repository's address is set."""
        address = str(self.config.html_theme_options.get("repository_url", "OWNER_NOT_SET"))
        found = dict.fromkeys(str(environment["commit"]) for environment in environments)
        if "OWNER_NOT_SET" in address:
            return ", ".join(f"`{commit}`" for commit in found)
        return ", ".join(f"[`{commit}`]({address}/commit/{commit.removesuffix('-dirty')})" for commit in found)


class Exercises(GeneratedText):
    def lines(self, root: Path) -> list[str]:
        found = []
        for chapter in self.chapters(root):
            found.append(f"- [{chapter.title}]({chapter.path.name})")
            for exercise in chapter.exercises:
                slug = _slug(exercise.heading)
                kinds = " and ".join(exercise.kinds)
                found.append(
                    f"  - [{exercise.heading}]({chapter.path.name}#{slug}) (solution in {kinds})"
                )
        return found


class State(GeneratedText):
    def lines(self, root: Path) -> list[str]:
        records, measurements = self.records(root), self.measurements(root)
        found = ["| chapter | time | profile | data | records and measurements |", "|---|---|---|---|---|"]
        for chapter in self.chapters(root):
            sources = []
            if read := [record for record in records if chapter.uses(record)]:
                sources.append(f"{runs(read, records)}, commit {self.commits([r.environment for r in read])}")
            if chapter.measurements:
                names = ", ".join(f"`{name}`" for name in chapter.measurements)
                commits = self.commits([measurements[name] for name in chapter.measurements])
                sources.append(f"measured: {names}, commit {commits}")
            cells = [
                f"[{chapter.title}]({chapter.path.name})",
                chapter.time,
                f"`{chapter.profiles[0]}`",
                chapter.data,
                "; ".join(sources) or "none",
            ]
            found.append(f"| {' | '.join(cells)} |")
        return found


class Runs(GeneratedText):
    def lines(self, root: Path) -> list[str]:
        groups = defaultdict(list)
        for r in self.records(root):
            groups[r.experiment, f"{r.dataset}, {r.family}, `{r.profile}`"].append(r)
        found = ["| experiment | data, family, profile | seeds | minutes a run | commit |", "|---|---|---|---|---|"]
        for (experiment, what), group in groups.items():
            minutes = sorted(r.seconds / 60 for r in group)
            span = " to ".join(dict.fromkeys(f"{m:.1f}" for m in (minutes[0], minutes[-1])))
            devices = ", ".join(dict.fromkeys(str(r.environment["device"]) for r in group))
            seeds = ", ".join(str(r.seed) for r in group)
            commits = self.commits([r.environment for r in group])
            found.append(f"| `{experiment}` | {what} | {seeds} | {span} on {devices} | {commits} |")
        return found


def runs(read: list[Any], there: list[Any]) -> str:
    """`2 runs of kd, pwl`; of many experiments those with one beginning as `ablation-*`, or as `4 of 13 tuning-*`."""
    names = list(dict.fromkeys(record.experiment for record in read))
    words = {name: f"`{name}`" for name in names}
    if len(names) > 3:
        every = {record.experiment for record in there}
        for start in dict.fromkeys(name.split("-")[0] for name in names if "-" in name):
            alike = [name for name in names if name.startswith(f"{start}-")]
            others = sum(name.startswith(f"{start}-") for name in every) - len(alike)
            if len(alike) > 2:
                part = f"{len(alike)} of {len(alike) + others} `{start}-*`" if others else f"`{start}-*`"
                words |= dict.fromkeys(alike, part)
    return f"{len(read)} {'run' if len(read) == 1 else 'runs'} of {', '.join(dict.fromkeys(words.values()))}"


class Names(SphinxDirective):
    """A table of all public names: a link to the description, and its first sentence."""

    def run(self) -> list[nodes.Node]:
        import pwl_lite

        for path in Path(pwl_lite.__file__).parent.rglob("*.py"):
            self.env.note_dependency(str(path))
        rows = []
        for name in pwl_lite.__all__:
            value = getattr(pwl_lite, name)
            kind = "module" if inspect.ismodule(value) else "object"
            if kind == "object" and not callable(value):
                rows.append(f"| `{name}` | {_constant(pwl_lite, name)} |")
                continue
            target = value.__name__ if kind == "module" else f"{value.__module__}.{value.__qualname__}"
            role = "mod" if kind == "module" else "obj"
            rows.append(f"| {{py:{role}}}`{name} <{target}>` | {_summary(value)} |")
        text = ["| `pwl_lite.` | what it is |", "|---|---|", *rows]
        container = nodes.container()
        source, number = self.get_source_info()
        self.state.nested_parse(StringList(text, source), number, container)
        for reference in container.findall(lambda node: node.tagname == "pending_xref"):
            reference["refwarn"] = True  # a public name without a description is a warning
        return container.children


def _summary(value: Any) -> str:
    """The first paragraph of a docstring, on one line, for a table in Markdown."""
    paragraph = " ".join((inspect.getdoc(value) or "").split("\n\n")[0].split())
    return paragraph.replace("|", "\\|")


def _constant(package: Any, name: str) -> str:
    home = package._HOME_OF[name]
    value = getattr(package, name)
    return f"{type(value).__name__} in {{py:mod}}`pwl_lite.{home}`: {', '.join(f'`{key}`' for key in value)}"


def _slug(heading: str) -> str:
    """The anchor that MyST gives a heading."""
    from myst_parser.mdit_to_docutils.base import default_slugify

    return default_slugify(heading)


def listings_as_code(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Show the indented listings of a module's docstring as what they are; to Sphinx they are quotations."""
    if what != "module":
        return
    for number in range(len(lines) - 1, 0, -1):
        if lines[number].startswith("    ") and not lines[number - 1].strip():
            before = next((line for line in reversed(lines[:number]) if line.strip()), "")
            if before and not before.startswith(" "):
                lines[number:number] = [".. code-block:: none", ""]


def readable_signature(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """`<factory>`, as dataclasses say where a default is made anew each time, is no Python: Sphinx would print all as it is."""
    return signature and signature.replace("<factory>", "..."), returns


def setup(app: Sphinx) -> dict:
    app.connect("autodoc-process-docstring", listings_as_code)
    app.connect("autodoc-process-signature", readable_signature)
    for name, directive in (("exercises", Exercises), ("state", State), ("runs", Runs), ("names", Names)):
        app.add_directive(name, directive)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
