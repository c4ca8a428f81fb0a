"""CIFAR-10 and CIFAR-100: the cache of unpacked arrays, filled through torchvision where it is empty.

    <cache>/<name>/{train,test}_images.npy     uint8 (N, 32, 32, 3)
    <cache>/<name>/{train,test}_labels.npy     uint8 (N,)
    <cache>/<name>/classes.json                the class names, in the order of the labels
"""

import contextlib
import http.client
import json
import os
import shutil
import socket
import tempfile
from pathlib import Path

import numpy as np

from .errors import DataError

CIFAR = {"cifar10": ("CIFAR10", 10), "cifar100": ("CIFAR100", 100)}  # torchvision's name, number of classes
DOWNLOAD_TIMEOUT = 30  # seconds without an answer; without it a dropped connection would wait for ever

Arrays = dict[str, tuple[np.ndarray, np.ndarray]]  # split -> images (N, height, width, 3), labels (N,)


def read_cifar(name: str, cache: str | os.PathLike | None = None, download: bool = True) -> tuple[Arrays, tuple[str, ...]]:
    """Images and labels of both splits (memory-mapped), and the class names.

    Args:
        name: `cifar10` or `cifar100`.
        cache: folder of unpacked data sets; None is `cache_folder()`.
        download: fetch what the cache lacks (checksums verified).

    Raises:
        DataError: not there and not to be fetched, or damaged.
    """
    folder = (cache_folder() if cache is None else Path(cache)) / name
    if not _present(folder):
        if not download:
            raise DataError(f"dataset {name!r}: not in {folder} (download=False). {_ways_out(name, folder)}")
        _download(name, folder)
    return _read_cache(name, folder)


def cache_folder() -> Path:
    """$PWL_DATA_DIR, or else data/cache in the checkout that holds this package or in the current folder."""
    if os.environ.get("PWL_DATA_DIR"):
        return Path(os.environ["PWL_DATA_DIR"])
    checkout = Path(__file__).resolve().parents[1]
    return (checkout if (checkout / "pyproject.toml").is_file() else Path.cwd()) / "data" / "cache"


def _present(folder: Path) -> bool:
    """Whether there is anything to read; a folder with some files missing is damaged, not absent."""
    return folder.is_dir() and any(folder.iterdir())


def _ways_out(name: str, folder: Path) -> str:
    return (
        f"Three ways out: place {{train,test}}_images.npy, {{train,test}}_labels.npy and classes.json in "
        f"{folder} (or set PWL_DATA_DIR to a cache that has a folder {name}); load it with download=True "
        f"where there is internet; or use load_dataset('shapes10'), which is drawn by code"
    )


def _read_cache(name: str, folder: Path) -> tuple[Arrays, tuple[str, ...]]:
    """Memory-map the arrays of one data set and check them; DataError names the first file that is wrong."""

    def check(good: bool, file: str, reason: str) -> None:
        if not good:
            raise DataError(f"{folder / file}: {reason}. Delete {folder} to have it downloaded again")

    def read(file: str) -> object:
        check((folder / file).is_file(), file, f"missing from the cache of {name!r}")
        try:
            if file.endswith(".json"):
                return json.loads((folder / file).read_text(encoding="utf-8"))
            return np.load(folder / file, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            check(False, file, f"not readable ({error})")

    classes, count = read("classes.json"), CIFAR[name][1]
    named = isinstance(classes, list) and len(classes) == count and all(isinstance(c, str) for c in classes)
    check(named, "classes.json", f"expected a list of {count} class names")
    arrays = {}
    for split in ("train", "test"):
        file = f"{split}_images.npy"
        images = read(file)
        good = images.dtype == np.uint8 and images.shape[1:] == (32, 32, 3) and len(images) > 0
        check(good, file, f"expected uint8 (N, 32, 32, 3), found {images.dtype} {images.shape}")
        file = f"{split}_labels.npy"
        labels = read(file)
        good = labels.dtype == np.uint8 and labels.shape == images.shape[:1]
        check(good, file, f"expected uint8 ({len(images)},), found {labels.dtype} {labels.shape}")
        check(labels.max() < count, file, f"label {labels.max()}: expected 0 to {count - 1}")
        arrays[split] = images, labels
    return arrays, tuple(classes)


def _download(name: str, folder: Path) -> None:
    """Fetch CIFAR through torchvision (it verifies checksums) into the cache, whole or not at all."""
    work = None
    timeout = socket.getdefaulttimeout()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder.parent))
        socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
        _fetch_cifar(CIFAR[name][0], work / "download", work / "ready")
        with contextlib.suppress(OSError):
            folder.rmdir()  # an empty folder would stop the rename on some systems
        try:
            os.rename(work / "ready", folder)
        except OSError:
            if not _present(folder):  # present: another process finished the same download first
                raise
    except (OSError, RuntimeError, ValueError, ImportError, http.client.HTTPException) as error:
        reason = f"{type(error).__name__}: {error}"
        message = f"dataset {name!r}: not in {folder}, and the download failed ({reason})"
        raise DataError(f"{message}. {_ways_out(name, folder)}") from error
    finally:
        socket.setdefaulttimeout(timeout)
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)


def _fetch_cifar(class_name: str, download: Path, ready: Path) -> None:
    """Download and unpack one CIFAR set and write its five files into the folder `ready`."""
    from ._compat import import_torchvision  # only here: a cache hit needs no torchvision

    maker = getattr(import_torchvision().datasets, class_name)
    ready.mkdir()
    for split in ("train", "test"):
        part = maker(str(download), train=split == "train", download=True)
        np.save(ready / f"{split}_images.npy", part.data)
        np.save(ready / f"{split}_labels.npy", np.asarray(part.targets, np.uint8))
    (ready / "classes.json").write_text(json.dumps(part.classes), encoding="utf-8")
    for file in ready.iterdir():
        with open(file, "rb+") as handle:
            os.fsync(handle.fileno())  # the bytes must be on the disk before the name is
