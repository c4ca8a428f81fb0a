"""Build the whole book as one page to print: python scripts/build_single_page.py

The page is _build/singlehtml/book.html; where Chromium is found it is printed into _build/book.pdf as well.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from browser import OPTIONS, explanation, find_browser

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "_build" / "singlehtml"
PAGE = FOLDER / "book.html"
PDF = ROOT / "_build" / "book.pdf"
PATIENCE = 600  # seconds
LOADING = 30_000  # milliseconds of the page's own time for widgets and formulas to appear


def main() -> None:
    PDF.unlink(missing_ok=True)  # an old one must not be published with new pages
    subprocess.run([sys.executable, str(ROOT / "scripts" / "vendor.py")], check=True)
    build = "from jupyter_book.cli.main import main; main()"
    command = [sys.executable, "-c", build, "build", str(ROOT), "--builder", "singlehtml"]
    code = subprocess.run(command, cwd=ROOT).returncode
    if code != 0:
        sys.exit(f"the page was not built: jupyter-book ended with {code}, see above")
    # Sphinx names the page after its first document, in book/, but its links are those of a page beside that folder.
    (FOLDER / "book" / "intro.html").replace(PAGE)
    (FOLDER / "index.html").unlink(missing_ok=True)
    shutil.copytree(ROOT / "web_static", FOLDER / "_static", dirs_exist_ok=True)
    print(f"The book on one page: {PAGE}")
    browser = find_browser()
    if browser is None:
        print(f"Not printed: {explanation()}")
        return
    options = ["--headless", *OPTIONS, "--no-pdf-header-footer", f"--virtual-time-budget={LOADING}"]
    command = [browser, *options, f"--print-to-pdf={PDF}", PAGE.as_uri()]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        sys.exit(f"the page was not printed within {PATIENCE} s: print {PAGE} from a browser")
    if run.returncode != 0 or not PDF.is_file():
        sys.exit(f"the page was not printed: {browser} ended with {run.returncode}: {run.stderr[-500:]}")
    print(f"Printed: {PDF} ({PDF.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    main()
