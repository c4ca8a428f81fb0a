"""Build the rendered book: python scripts/build_book.py [--strict]

Fetches the scripts of the pages first if they are missing (scripts/vendor.py) and writes the networks of the
demo (scripts/web_pairs.py), then calls jupyter-book. Only
changed pages are rebuilt; --strict rebuilds all of them and fails on any warning.
"""

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "_build" / "html"
# Jupyter Book's own first page has neither language nor title, and lets browsers ask for an icon that is not there.
FIRST_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<title>Progressive Weight Loading, hands on</title>
<link rel="icon" href="_static/favicon.svg">
<meta http-equiv="refresh" content="0; url=book/intro.html">
<p><a href="book/intro.html">Progressive Weight Loading, hands on</a></p>
</html>
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--strict", action="store_true", help="rebuild every page; a warning is an error")
    arguments = parser.parse_args()
    started = time.perf_counter()
    for script in ("vendor.py", "web_pairs.py"):
        subprocess.run([sys.executable, str(ROOT / "scripts" / script)], check=True)
    if arguments.strict:  # pages and Sphinx's memory of them: what is gone must not stay
        for folder in (SITE, ROOT / "_build" / ".doctrees"):
            shutil.rmtree(folder, ignore_errors=True)
    options = ["--all", "-W", "--keep-going"] if arguments.strict else []
    command = [
        sys.executable,
        "-c",
        "from jupyter_book.cli.main import main; main()",
        "build",
        str(ROOT),
        *options,
    ]
    code = subprocess.run(command, cwd=ROOT).returncode
    if code != 0:
        sys.exit(f"the book was not built: jupyter-book ended with {code}, see above")
    # Sphinx copies static files only when a page has changed.
    shutil.copytree(ROOT / "web_static", SITE / "_static", dirs_exist_ok=True)
    (SITE / "index.html").write_text(FIRST_PAGE, encoding="utf-8")
    print(f"The book is ready after {time.perf_counter() - started:.0f} s. Open it in a browser:")
    print(f"    {SITE / 'index.html'}")


if __name__ == "__main__":
    main()
