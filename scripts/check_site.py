"""Check the rendered book: python scripts/check_site.py _build/html

Every local link and file must exist, every image must have an alt text, and no page may load anything from
elsewhere (links to other sites are fine, and are listed in external-links.txt beside the folder), unless the
scripts could not be fetched at build time and come from CDNs. The networks that the demo fetches must be there too.
What only a browser can tell is checked by check_pages.py.
"""

import json
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADS = {
    "script": "src",
    "img": "src",
    "link": "href",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
}


class Page(HTMLParser):
    """What one page loads, links to and shows."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.no_alt: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors.update(values[key] for key in ("id", "name") if key in values)
        # Of the links in a page's head only style sheets and icons are loaded; rel=next and such name pages.
        loaded = tag in LOADS and (
            tag != "link" or any(word in values.get("rel", "") for word in ("style", "icon"))
        )
        if loaded and values.get(LOADS[tag]):
            self.loads.append(values[LOADS[tag]])
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
        if tag == "img" and not values.get("alt"):
            self.no_alt.append(values.get("src", "?")[:80])


def outside(address: str) -> bool:
    """Whether the browser would have to ask another host."""
    return urlsplit(address).scheme in ("http", "https") or address.startswith("//")


def read_pages(site: Path) -> dict[Path, Page]:
    """All pages of the book."""
    return {path: Page(path) for path in sorted(site.rglob("*.html")) if "_static" not in path.parts}


def external_links(site: Path) -> list[str]:
    """Links to other sites, one line each: the address and the pages that have it."""
    found: dict[str, set[str]] = {}
    for path, page in read_pages(site).items():
        for address in filter(outside, page.links):
            found.setdefault(address, set()).add(path.relative_to(site).as_posix())
    return [f"{address}  {' '.join(sorted(found[address]))}" for address in sorted(found)]


def problems(site: Path) -> list[str]:
    """Everything wrong with the pages of the book, one line each."""
    pages = read_pages(site)
    vendored = (site / "_static" / "vendor" / "COMPLETE").is_file()
    found = [] if pages else [f"{site}: no pages"]
    for path, page in pages.items():
        name = path.relative_to(site)
        found += [f"{name}: image without alt text: {source}" for source in page.no_alt]
        if vendored:
            found += [f"{name}: loads {address}" for address in page.loads if outside(address)]
        for address in page.loads + page.links:
            parts = urlsplit(address)
            if parts.scheme or address.startswith("//"):
                continue
            target = path if not parts.path else (path.parent / unquote(parts.path)).resolve()
            if not target.exists():
                found.append(f"{name}: no such file: {address}")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                found.append(f"{name}: no such place: {address}")
    return found + missing_networks(site)


def missing_networks(site: Path) -> list[str]:
    """What the demo would ask for in vain: files that the indexes of its networks name."""
    found = []
    for index in sorted(site.glob("_static/pairs/*/web.json")):
        about = json.loads(index.read_text(encoding="utf-8"))
        for entry in [*about["parts"].values(), *([about["sheet"]] if "sheet" in about else [])]:
            if not (index.parent / entry["file"]).is_file():
                found.append(f"{index.relative_to(site)}: no such file: {entry['file']}")
    return found


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    site = Path(sys.argv[1]).resolve()
    found = problems(site)
    if found:
        sys.exit("\n".join(found) + f"\n{len(found)} problems in {site}")
    links = external_links(site)
    listed = site.parent / "external-links.txt"
    listed.write_text("".join(f"{line}\n" for line in links), encoding="utf-8")
    print(f"check_site: links, images and requests of {site} are fine; {len(links)} links to other sites in {listed}")


if __name__ == "__main__":
    main()
