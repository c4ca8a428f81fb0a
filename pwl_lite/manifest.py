"""`manifest.json`: what a folder of shards says about itself, and how much of it is believed.

A manifest comes from elsewhere, so each of its values is checked before anything is built or read by it.
"""

import json
import math
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from .errors import StoreError

MANIFEST = "manifest.json"
SCHEMA = 3
LARGEST_IMAGE = 1 << 24  # numbers: more than any network here is made for, and few enough for a test run with zeros
MOST_DEFLATED = 1032  # deflate writes 258 bytes in two bits at best (RFC 1951)
NETWORKS = {"swapnet": ("teacher", "student"), "network": ("network",)}  # kind -> the networks it is made of
DIRECTIONS = ("encoder", "decoder")  # of a converter


def read_manifest(folder: str | os.PathLike) -> dict:
    """The manifest of a folder of shards, checked: schema, keys, types, and that no shard lies elsewhere.

    Raises:
        StoreError: folder or manifest missing, not JSON, of an unknown schema, or not like `save_blocks`'.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    if not folder.is_dir():
        problem = "not a folder" if folder.exists() else "no such folder"
        raise StoreError(f"{folder}: {problem}; expected one made by save_blocks")
    try:
        return parse_manifest(path.read_bytes(), str(path))
    except FileNotFoundError:
        raise StoreError(f"{path}: missing; written last, so this save is incomplete: save it again") from None
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error}); save or copy it again") from error


def parse_manifest(text: bytes, source: str) -> dict:
    """The manifest in the bytes of a file, checked; `source` names it in errors. Raises StoreError."""
    try:
        manifest = json.loads(text.decode())
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{source}: cannot be read as JSON ({error}); save or copy it again") from error
    return check_manifest(manifest, source)


def check_manifest(manifest: object, source: str) -> dict:
    """Return `manifest` if it is like `save_blocks`'; `source` names it in errors. Raises StoreError."""

    def expect(condition: bool, found: str, expected: str) -> None:
        if not condition:
            raise StoreError(f"{source}: {found}, expected {expected}")

    expect(isinstance(manifest, dict), f"a {type(manifest).__name__}", "an object")
    expect("schema" in manifest, "key 'schema' is missing", f"schema {SCHEMA}")
    schema = manifest["schema"]
    expect(_whole(schema) and schema == SCHEMA, f"schema {schema!r}", f"{SCHEMA}; is it of another version?")
    missing = set(KEYS) - set(manifest)
    expect(not missing, f"missing {some(missing)}", f"the keys {', '.join(KEYS)}")
    for key, (fits, expected) in KEYS.items():
        expect(fits(manifest[key]), f"{key} {manifest[key]!r}", expected)
    mean, std, kind = manifest["mean"], manifest["std"], manifest["kind"]
    expect(len(mean) == len(std), f"mean {mean!r} and std {std!r}", "as many of one as of the other")
    n = manifest["num_blocks"]
    shards = shard_names(kind, n, converters=has_converters(manifest))
    for key, names in (("networks", NETWORKS[kind]), ("features", NETWORKS[kind]), ("shards", shards)):
        missing, unknown = set(names) - set(manifest[key]), set(manifest[key]) - set(names)
        expect(not missing, f"{key} without {some(missing)}", f"all of {', '.join(names)}")
        expect(not unknown, f"{key} with {some(unknown)}", f"only {', '.join(names)}")
    for name, shapes in manifest["features"].items():
        expect(len(shapes) == n, f"{len(shapes)} features of {name}", f"the shapes of {n}")
    if kind == "swapnet" and not has_converters(manifest):
        student, teacher = (manifest["features"][name][:-1] for name in ("student", "teacher"))
        expect(student == teacher, f"no converters, and features {student} and {teacher}", "converters, or the same of both")
    for name, entry in manifest["shards"].items():
        for key, (fits, expected) in SHARD_KEYS.items():
            found = entry.get(key) if isinstance(entry, dict) else entry
            expect(fits(found), f"shard {name!r} with {key} {found!r}", expected)
        whole = entry.get("inflated", 0)
        limit = MOST_DEFLATED * entry["bytes"]
        expect(_whole(whole) and whole <= limit, f"shard {name!r} with inflated {whole!r}", f"a whole number up to {limit:,}")
    return manifest


def _whole(x: object) -> bool:
    return type(x) is int and x >= 0


def _number(x: object) -> bool:
    return type(x) in (int, float) and abs(x) < 1e300  # neither NaN nor a whole number too large for a float


def _features(x: object) -> bool:
    """A shape of one image's features: (channels, height, width) or (tokens, channels)."""
    return isinstance(x, list) and len(x) in (2, 3) and all(map(_whole, x)) and 0 < math.prod(x) <= LARGEST_IMAGE


def _list(fits: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda values: isinstance(values, list) and all(map(fits, values))


def _dict(fits: Callable[[object], bool] = lambda x: True) -> Callable[[object], bool]:
    return lambda values: isinstance(values, dict) and all(map(fits, values.values()))


KEYS = {  # of the manifest beside `schema`: what each may hold, and how to say so
    "kind": (lambda x: isinstance(x, str) and x in NETWORKS, f"one of {', '.join(NETWORKS)}"),
    "num_blocks": (lambda x: _whole(x) and 2 <= x <= 1000, "a whole number from 2 to 1000"),
    "networks": (_dict(lambda x: x is None or isinstance(x, dict)), "an object with configs (or null)"),
    "features": (_dict(lambda x: isinstance(x, list) and all(map(_features, x))), "an object with shapes, for each network"),
    "input_shape": (_list(_whole), "a list of whole numbers"),
    "classes": (_list(lambda x: isinstance(x, str)), "a list of class names"),
    "mean": (_list(_number), "a list of numbers"),
    "std": (_list(lambda x: _number(x) and x > 0), "a list of numbers above 0"),
    "shards": (_dict(), "an object with an entry for each shard"),
    "extra": (_dict(), "an object"),
}
SHARD_KEYS = {
    "file": (
        lambda x: isinstance(x, str) and bool(re.fullmatch(r"[\w-][\w.-]*\.safetensors(\.zlib)?", x)),
        "a plain name that ends in '.safetensors' or '.safetensors.zlib', of a file in the folder itself",
    ),
    "bytes": (_whole, "a whole number"),
    "sha256": (lambda x: isinstance(x, str) and bool(re.fullmatch("[0-9a-f]{64}", x)), "64 hex digits"),
}


def has_converters(manifest: dict) -> bool:
    """Whether any converter is among the shards: a pair whose features go over as they are has none."""
    return any(name.startswith(DIRECTIONS) for name in manifest["shards"])


def shard_names(kind: str, num_blocks: int, converters: bool = True) -> list[str]:
    """The names of all shards: network by network, then encoders and decoders of the N - 1 boundaries, if a pair has any."""
    names = [f"{network}-{i}" for network in NETWORKS[kind] for i in range(1, num_blocks + 1)]
    directions = DIRECTIONS if kind == "swapnet" and converters else ()
    return names + [f"{direction}-{i}" for direction in directions for i in range(1, num_blocks)]


def needed_shards(composition: str, converters: bool = True) -> list[str]:
    """The names of the shards that a composition runs, in the order in which it runs them."""
    names = []
    for number, letter in enumerate(composition, start=1):
        if converters and number > 1 and letter != composition[number - 2]:
            names.append(f"{'encoder' if letter == 'S' else 'decoder'}-{number - 1}")
        names.append(f"{'teacher' if letter == 'T' else 'student'}-{number}")
    return names


def to_json(manifest: dict) -> str:
    """The manifest as text. Raises StoreError if it holds what JSON cannot."""
    try:
        return json.dumps(manifest, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise StoreError(f"manifest: {error}; expected in extra and configs only what JSON holds") from error


def some(names: Iterable[str]) -> str:
    """Names for an error message: three of them at most."""
    names = sorted(map(repr, names))
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
