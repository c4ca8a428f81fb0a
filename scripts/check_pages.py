"""Look at the built book with a real browser: python scripts/check_pages.py _build/html [book/intro.html ...]

On every page (or on those named):

- no request leaves the site, nothing is missing, the console stays without errors;
- axe-core finds no serious or critical violation, in light and in dark colours and on a phone, everything unfolded;
- whatever can be operated answers to the keyboard by something that changes, and lets the focus go again;
- nothing is wider than a phone of 390 pixels; figures keep their white ground in dark mode;
- a chapter weighs at most 3 MB as it is sent (compressed, as web servers do).

Besides: the search finds, and rebuilding after a change to one chapter takes under 30 s. Pictures of every page (desktop,
phone, dark) are left in _build/screenshots for people to look at. Needs Chromium (PWL_BROWSER names one that is not found).
"""

import argparse
import contextlib
import functools
import gzip
import http.server
import mimetypes
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

import vendor
from browser import OPTIONS, explanation, find_browser
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright
from playwright.sync_api import Error as BrowserError

ROOT = Path(__file__).resolve().parent.parent
# Fetched through npm when first needed, never part of the site.
AXE = {
    "name": "axe-core",
    "version": "4.14.1",
    "integrity": "sha512-FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ==",
}
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
SETTLED = "document.getAnimations().every((a) => a.playState !== 'running' || a.effect.getTiming().iterations === Infinity)"
CHAPTER_BYTES = 3e6
REBUILD_SECONDS = 30
# A word of the text, a name of the code and a word of the glossary: the page that each must lead to.
SEARCHED = {"converter": "Feature alignment", "order_freedom": "pwl_lite.swapnet.order_freedom", "whitening": "Glossary"}
WORKERS = 2
ROUNDS = 5  # of pressing what has appeared meanwhile
SOON = 300  # milliseconds
PATIENCE = 120_000  # milliseconds: a busy machine is slow, not wrong
COMPRESSED = ("text/", "application/javascript", "application/json", "image/svg")
PROGRAMS = Path(__file__).with_name("check_pages.js").read_text(encoding="utf-8")


@dataclass
class Seen:
    """What was seen on one page."""

    name: str
    problems: list[str] = field(default_factory=list)
    bytes: int = 0
    controls: int = 0
    seconds: float = 0.0


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder as a web server does: texts compressed, files kept by a browser that comes again."""

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        path = Path(self.translate_path(unquote(urlsplit(self.path).path)))
        if path.is_dir():
            path /= "index.html"
        if not path.is_file():
            self.send_error(404)
            return
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        packed = kind.startswith(COMPRESSED)
        content = compressed(path) if packed else path.read_bytes()
        self.send_response(200)
        self.send_header("Content-Type", f"{kind}; charset=utf-8" if kind.startswith("text/") else kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "max-age=3600")
        if packed:
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # the page has been left meanwhile
            self.wfile.write(content)


@functools.cache
def compressed(path: Path) -> bytes:
    return gzip.compress(path.read_bytes(), 6)


def serve(site: Path) -> tuple[http.server.ThreadingHTTPServer, str]:
    """A server of the folder, and its address."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_port}/"


def fetch_axe() -> str:
    """The text of axe-core, of the pinned version."""
    place = ROOT / ".cache" / f"axe-core-{AXE['version']}.js"
    if not place.is_file():
        place.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent) as folder:
            try:
                archives = vendor.download([AXE], Path(folder))
            except vendor.VendorError as error:
                sys.exit(f"axe-core: {error}; the check of accessibility needs it")
            vendor.unpack(archives[AXE["name"]], {"axe.min.js": ["axe.js"]}, Path(folder))
            os.replace(Path(folder) / "axe.js", place)
    return place.read_text(encoding="utf-8")


class Inspector:
    """Looks at pages in one browser."""

    def __init__(self, browser: Browser, address: str, axe: str, pictures: Path) -> None:
        self.browser, self.address, self.axe, self.pictures = browser, address, axe, pictures
        self.context = self._new_context()

    def _new_context(self) -> BrowserContext:
        context = self.browser.new_context(viewport=DESKTOP, reduced_motion="reduce")
        context.set_default_timeout(PATIENCE)
        context.add_init_script(PROGRAMS)
        return context

    def look(self, name: str) -> Seen:
        """Open a page as a new visitor does, and check all that can be seen on it."""
        seen, started = Seen(name), time.perf_counter()
        code = name.startswith("_modules/")  # listings of source code: many, all alike, without controls
        context = self.context if code else self._new_context()  # a new visitor has nothing in the cache
        page = context.new_page()
        page.set_viewport_size(DESKTOP)
        self._listen(page, seen)
        page.goto(self.address + name)
        page.wait_for_function("!document.querySelector('meta[http-equiv=refresh]')")  # the first page leads on
        try:
            page.wait_for_function("pageReady()", timeout=PATIENCE / 2)
        except BrowserError as error:
            seen.problems.append(f"widgets or formulas did not appear: {str(error).splitlines()[0]}")
        page.evaluate(self.axe)
        if not code:
            self._picture(page, name, "desktop")
        page.evaluate("unfold()")
        self._axe(page, seen, "light")
        page.set_viewport_size(PHONE)
        page.wait_for_function(SETTLED)  # the sidebars slide away
        seen.problems += [f"wider than a phone: {what}" for what in page.evaluate("tooWide()")]
        if not code:
            self._axe(page, seen, "phone")
            page.evaluate("foldAgain()")
            self._picture(page, name, "phone")
            page.set_viewport_size(DESKTOP)
            page.emulate_media(color_scheme="dark", reduced_motion="reduce")
            page.wait_for_function("document.documentElement.dataset.theme === 'dark'")
            self._picture(page, name, "dark")
            page.evaluate("unfold()")
            self._axe(page, seen, "dark")
            seen.problems += [f"dark: {what}" for what in page.evaluate("darkFigures()")]
            page.evaluate("foldAgain()")
            self._keyboard(page, seen)
            if page.query_selector(".pwl-view, .pwl-demo"):  # which look different now that they have been used
                page.evaluate("unfold()")
                self._axe(page, seen, "dark, used")
                page.emulate_media(color_scheme="light", reduced_motion="reduce")
                page.wait_for_function("document.documentElement.dataset.theme === 'light'")
                self._axe(page, seen, "light, used")
        page.close()
        if not code:
            context.close()
        if name.startswith("book/") and seen.bytes > CHAPTER_BYTES:
            seen.problems.append(f"weighs {seen.bytes / 1e6:.2f} MB, expected at most {CHAPTER_BYTES / 1e6:.0f}")
        seen.seconds = time.perf_counter() - started
        return seen

    def search(self, word: str, expected: str) -> list[str]:
        """Search by keyboard from the first page."""
        context = self.browser.new_context(viewport=DESKTOP)
        page = context.new_page()
        page.goto(self.address + "book/intro.html")
        page.keyboard.press("Control+k")
        page.keyboard.type(word)
        page.keyboard.press("Enter")
        try:
            page.wait_for_selector("#search-results li a", timeout=PATIENCE / 4)
            found = [link.inner_text() for link in page.query_selector_all("#search-results li > a")]
        except BrowserError:
            found = []
        context.close()
        if any(expected in title for title in found):
            return []
        return [f"search for {word!r}: expected {expected!r} among the results, found {found[:5] or 'nothing'}"]

    def _listen(self, page: Page, seen: Seen) -> None:
        """Note requests that leave or fail, errors in the console, and the bytes that arrive."""

        def asked(request: object) -> None:
            if not request.url.startswith((self.address, "data:", "blob:")):
                seen.problems.append(f"asks {request.url}")

        def answered(response: object) -> None:
            if response.status >= 400:
                seen.problems.append(f"{response.status} for {response.url.removeprefix(self.address)}")

        page.on("request", asked)
        page.on("response", answered)
        page.on("console", lambda m: m.type == "error" and seen.problems.append(f"console: {m.text[:200]}"))
        page.on("pageerror", lambda error: seen.problems.append(f"uncaught: {str(error)[:200]}"))
        devtools = page.context.new_cdp_session(page)
        devtools.send("Network.enable")

        def arrived(event: dict) -> None:
            seen.bytes += int(event["encodedDataLength"])

        devtools.on("Network.loadingFinished", arrived)

    def _axe(self, page: Page, seen: Seen, look: str) -> None:
        """Serious and critical violations in a look such as "light", "phone" or "dark, used"; in dark those of colours only."""
        for found in page.evaluate("violations", look):
            seen.problems.append(f"{look}: {found}")

    def _picture(self, page: Page, name: str, kind: str) -> None:
        stem = name.removesuffix(".html").replace("/", "-")
        page.screenshot(path=self.pictures / f"{stem}-{kind}.jpg", type="jpeg", quality=80, full_page=True)

    def _keyboard(self, page: Page, seen: Seen) -> None:
        """Operate every control of the article by its keys."""
        seen.problems += [f"for the mouse only: {what}" for what in page.evaluate("onlyClickable()")]
        for _ in range(ROUNDS):
            count = page.evaluate("collectControls()")
            seen.controls += count
            for i in range(count):
                self._press(page, seen, i)
            if not count:
                return
            page.wait_for_timeout(SOON)  # for what they bring

    def _press(self, page: Page, seen: Seen, i: int) -> None:
        """Operate one control by its keys, and leave it."""
        kind = page.evaluate("focusControl", i)
        if kind is None:  # another control has hidden it
            return
        keys = {"slider": ("ArrowRight", "ArrowLeft"), "select": ("ArrowDown", "ArrowUp")}.get(kind, ("Enter",))
        for key in keys:
            page.keyboard.press(key)
            if worked := page.evaluate("hasWorked", i):
                break
        if not worked:
            seen.problems.append(f"keyboard: nothing changes when {page.evaluate('nameOf', i)} gets {' or '.join(keys)}")
        if page.evaluate("focusControl", i) is None:  # it has hidden itself
            return
        page.keyboard.press("Tab")
        if page.evaluate("isFocused", i):
            seen.problems.append(f"keyboard: {page.evaluate('nameOf', i)} does not let the focus go")


def look_at(names: list[str], browser: str, address: str, axe: str, pictures: Path) -> list[Seen]:
    """Check pages one after the other in a browser of their own."""
    with sync_playwright() as playwright:
        with playwright.chromium.launch(executable_path=browser, args=list(OPTIONS)) as started:
            inspector = Inspector(started, address, axe, pictures)
            seen = []
            for name in names:
                seen.append(inspector.look(name))
                one = seen[-1]
                print(f"{one.name}: {one.bytes / 1e6:.2f} MB, {one.controls} controls, {one.seconds:.1f} s", flush=True)
                for problem in one.problems:
                    print(f"    {problem}", flush=True)
            return seen


def look_for(searched: dict[str, str], browser: str, address: str) -> list[str]:
    """Search for words, each with what must be among the results, in a browser of its own."""
    with sync_playwright() as playwright:
        with playwright.chromium.launch(executable_path=browser, args=list(OPTIONS)) as started:
            inspector = Inspector(started, address, "", Path())
            return [problem for word, expected in searched.items() for problem in inspector.search(word, expected)]


def rebuild(chapter: Path) -> list[str]:
    """Build again after a change of one chapter; its time stamp is restored."""
    before = chapter.stat()
    started = time.perf_counter()
    os.utime(chapter)
    try:
        run = subprocess.run([sys.executable, str(ROOT / "scripts" / "build_book.py")], capture_output=True, text=True)
    finally:
        os.utime(chapter, ns=(before.st_atime_ns, before.st_mtime_ns))
    seconds = time.perf_counter() - started
    print(f"rebuilding after a change of {chapter.name}: {seconds:.0f} s", flush=True)
    if run.returncode != 0:
        return [f"rebuilding failed: {run.stdout[-500:]}{run.stderr[-500:]}"]
    return [] if seconds < REBUILD_SECONDS else [f"rebuilding took {seconds:.0f} s, expected under {REBUILD_SECONDS}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("site", type=Path)
    parser.add_argument("pages", nargs="*", help="only these, such as book/intro.html (default: all)")
    arguments = parser.parse_args()
    site = arguments.site.resolve()
    started = time.perf_counter()
    if not (site / "_static" / "vendor" / "COMPLETE").is_file():
        sys.exit(f"{site} loads scripts from CDNs: fill web_static/vendor (scripts/vendor.py, needs npm) and build again")
    browser = find_browser() or sys.exit(explanation())
    axe = fetch_axe()
    pictures = site.parent / "screenshots"
    shutil.rmtree(pictures, ignore_errors=True)
    pictures.mkdir(parents=True)
    every = sorted(p.relative_to(site).as_posix() for p in site.rglob("*.html") if "_static" not in p.parts)
    # The longest first, so that both browsers end at about the same time.
    names = sorted(arguments.pages or every, key=lambda name: -(site / name).stat().st_size)
    server, address = serve(site)
    with ThreadPoolExecutor(WORKERS) as pool:
        shares = [names[i::WORKERS] for i in range(WORKERS)]
        jobs = [pool.submit(look_at, share, browser, address, axe, pictures) for share in shares if share]
        seen = sorted((one for job in jobs for one in job.result()), key=lambda one: one.name)
        problems = pool.submit(look_for, SEARCHED, browser, address).result()
    server.shutdown()
    for one in seen:
        problems += [f"{one.name}: {problem}" for problem in one.problems]
    if not arguments.pages:
        problems += rebuild(next((ROOT / "book").glob("05_*.ipynb")))
    if problems:
        sys.exit("\n".join(problems) + f"\n{len(problems)} problems in {site}; pictures in {pictures}")
    print(f"check_pages: {len(seen)} pages are fine, {time.perf_counter() - started:.0f} s; pictures in {pictures}")


if __name__ == "__main__":
    main()
