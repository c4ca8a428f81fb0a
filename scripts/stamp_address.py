"""Write the repository's address, set once in pyproject.toml ([tool.pwl]), wherever it is needed.

    python scripts/stamp_address.py            stamp it
    python scripts/stamp_address.py --check    change nothing; fail and list the files that disagree
    python scripts/stamp_address.py --address https://github.com/OWNER/REPOSITORY    set it first

In chapters it makes the Colab link of the first cell and the whole set-up cell; in text files it replaces the
address stamped last, which is [project.urls] Repository in pyproject.toml.
"""

import argparse
import json
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
from files import write_whole  # noqa: E402  (beside this script)

ADDRESS = re.compile(r"https://github\.com/([\w.-]+)/([\w.-]+)")
TEXT_FILES = ("_config.yml", "README.md", "CITATION.cff", "CONTRIBUTING.md", "CHANGELOG.md")
TEXT_PATTERNS = ("book/*.md", "pwl_lite/**/*.py")
BADGE = re.compile(r"\[Open in Colab\]\(https://colab\.research\.google\.com/github/[^\s)]+\.ipynb\)")
SETUP_CELL = """\
try:
    import pwl_lite as pwl
except ModuleNotFoundError:  # on Colab: install the package; anywhere else it is importable, nothing happens
    import os
    import subprocess
    import sys

    spec = os.environ.get("PWL_INSTALL_SPEC", "git+{address}")
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", spec], check=True)
    import pwl_lite as pwl"""


def addresses(root: Path) -> tuple[str, str]:
    """(the address wanted, the address stamped last), both from pyproject.toml."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    wanted, stamped = project["tool"]["pwl"]["repository"], project["project"]["urls"]["Repository"]
    for address in (wanted, stamped):
        if not ADDRESS.fullmatch(address):
            sys.exit(f"pyproject.toml: {address!r} is not of the form https://github.com/OWNER/REPOSITORY")
    return wanted, stamped


def set_address(root: Path, address: str) -> None:
    """Write the setting itself, [tool.pwl] repository of pyproject.toml."""
    if not ADDRESS.fullmatch(address):
        sys.exit(f"--address {address!r} is not of the form https://github.com/OWNER/REPOSITORY")
    path = root / "pyproject.toml"
    text = path.read_text(encoding="utf-8")
    new, count = re.subn(r'^repository = ".*"$', f'repository = "{address}"', text, flags=re.M)
    if count != 1:
        sys.exit(f"pyproject.toml: expected one line 'repository = ...', found {count}")
    write_whole(path, new)


def colab_link(address: str, notebook: str) -> str:
    """Where Colab opens a chapter of the main branch."""
    owner, repository = ADDRESS.fullmatch(address).groups()
    return f"https://colab.research.google.com/github/{owner}/{repository}/blob/main/book/{notebook}"


def stamp_notebook(text: str, name: str, address: str) -> str:
    """A chapter's file content with its Colab link and set-up cell made for this address."""
    notebook = json.loads(text)
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if "setup" in cell["metadata"].get("tags", []):
            stamped = SETUP_CELL.format(address=address)
        else:
            stamped = BADGE.sub(f"[Open in Colab]({colab_link(address, name)})", source)
        if stamped != source:
            cell["source"] = stamped.splitlines(keepends=True)
    if notebook == json.loads(text):
        return text
    import nbformat
    from run_notebooks import normalise  # cell ids are made from the content, which has just changed

    return nbformat.writes(normalise(nbformat.reads(json.dumps(notebook), as_version=4))) + "\n"


def stamp_text(text: str, wanted: str, stamped: str) -> str:
    """A text with the address stamped last replaced, also inside links to Colab."""
    text = re.sub(re.escape(stamped) + r"(?![\w-])", wanted, text)
    old, new = ("/".join(ADDRESS.fullmatch(a).groups()) for a in (stamped, wanted))
    return text.replace(
        f"colab.research.google.com/github/{old}/", f"colab.research.google.com/github/{new}/"
    )


def changes(root: Path) -> dict[Path, str]:
    """{file: what it should hold} for all files that disagree with the setting; pyproject.toml comes last."""
    wanted, stamped = addresses(root)
    found: dict[Path, str] = {}
    for path in sorted((root / "book").glob("*.ipynb")):
        text = path.read_text(encoding="utf-8")
        found[path] = stamp_notebook(text, path.name, wanted)
    paths = [root / name for name in TEXT_FILES] + [
        p for pattern in TEXT_PATTERNS for p in sorted(root.glob(pattern))
    ]
    for path in [*(p for p in paths if p.is_file()), root / "pyproject.toml"]:
        found[path] = stamp_text(path.read_text(encoding="utf-8"), wanted, stamped)
    return {path: text for path, text in found.items() if path.read_text(encoding="utf-8") != text}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a file disagrees")
    parser.add_argument("--address", help="the repository's address, to be set in pyproject.toml first")
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.address and arguments.check:
        parser.error("--check changes nothing, --address does: choose one")
    if arguments.address:
        set_address(arguments.root, arguments.address)
    wrong = changes(arguments.root)
    names = ", ".join(str(path.relative_to(arguments.root)) for path in wrong)
    if arguments.check:
        if wrong:
            sys.exit(f"the repository's address differs in: {names}; run python scripts/stamp_address.py")
        return
    for path, text in wrong.items():
        write_whole(path, text)
    print(f"{addresses(arguments.root)[0]} stamped into: {names or 'nothing, all agree'}")


if __name__ == "__main__":
    main()
