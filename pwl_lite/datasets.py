"""Data sets as plain tensors: CIFAR-10/100, image folders and the built-in shapes10, by load_dataset().

A whole data set lives in memory as uint8 tensors (N x 3 x height x width). Taking a batch is an index
operation and augmentation a tensor operation, on whichever device the data is: no worker processes.
"""

import contextlib
import hashlib
import http.client
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .errors import DataError, UnknownNameError

CIFAR = {"cifar10": ("CIFAR10", 10), "cifar100": ("CIFAR100", 100)}  # torchvision's name, number of classes
NAMES = (*CIFAR, "folder", "shapes10")
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
DOWNLOAD_TIMEOUT = 30  # seconds without an answer; without it a dropped connection would wait for ever


@dataclass(frozen=True, eq=False)
class Split:
    """Images and labels of one half (train or test) of a data set, with the numbers that normalise it."""

    images: Tensor  # uint8 (N, 3, height, width), contiguous
    labels: Tensor  # int64 (N,)
    mean: tuple[float, ...]  # per channel, of the training images scaled to 0..1
    std: tuple[float, ...]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def to(self, device: torch.device | str) -> "Split":
        """The same split with its tensors on `device`."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def subset(self, n: int) -> "Split":
        """The first n images; n beyond the split's size raises DataError."""
        if not 0 < n <= len(self):
            raise DataError(f"subset of {n} images: expected 1 to {len(self)}, the size of this split")
        return replace(self, images=self.images[:n], labels=self.labels[:n])

    def take(self, index: Tensor) -> "Split":
        """The images and labels at the positions `index` (int64)."""
        return replace(self, images=self.images[index], labels=self.labels[index])

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 images (B, 3, H, W) -> float32, by the mean and the deviation of the training set."""
        mean = torch.tensor(self.mean, device=images.device).view(-1, 1, 1)
        std = torch.tensor(self.std, device=images.device).view(-1, 1, 1)
        return (images.float() - 255 * mean) / (255 * std)

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of normalised images (B, 3, H, W) and labels (B,), in order; the last may be shorter."""
        for start in range(0, len(self), size):
            yield self.normalise(self.images[start : start + size]), self.labels[start : start + size]


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training and a test split with the same classes and the same normalisation."""

    name: str
    train: Split
    test: Split
    origin: str = ""

    @property
    def classes(self) -> tuple[str, ...]:
        return self.train.classes

    @property
    def num_classes(self) -> int:
        return self.train.num_classes

    @property
    def mean(self) -> tuple[float, ...]:
        return self.train.mean

    @property
    def std(self) -> tuple[float, ...]:
        return self.train.std

    @cached_property
    def sha256(self) -> str:
        """Hash of shapes, images and labels of both splits; computed at first use."""
        digest = hashlib.sha256()
        for split in (self.train, self.test):
            for tensor in (split.images, split.labels):
                digest.update(repr(tuple(tensor.shape)).encode())
                digest.update(np.ascontiguousarray(tensor.cpu().numpy()).data)
        return digest.hexdigest()

    def to(self, device: torch.device | str) -> "Dataset":
        """The same data set with its tensors on `device`."""
        return replace(self, train=self.train.to(device), test=self.test.to(device))

    def subset(self, train: int | None = None, test: int | None = None) -> "Dataset":
        """The first `train` training and the first `test` test images; None keeps all."""
        return replace(
            self,
            train=self.train if train is None else self.train.subset(train),
            test=self.test if test is None else self.test.subset(test),
        )

    def hold_out(self, n: int, seed: int = 0) -> "Dataset":
        """For choosing settings: `test` becomes n random training images, `train` the rest of them."""
        if not 0 < n < len(self.train):
            raise DataError(f"hold_out of {n} images: expected 1 to {len(self.train) - 1}, to leave some")
        order = torch.from_numpy(np.random.default_rng(seed).permutation(len(self.train)))
        held, rest = (part.sort().values.to(self.train.labels.device) for part in (order[:n], order[n:]))
        origin = f"{self.origin}; test images held out of the training images (seed {seed})"
        return replace(self, train=self.train.take(rest), test=self.train.take(held), origin=origin)

    def describe(self) -> str:
        """One line: name, sizes, origin. No cache folder, so that notebooks print the same anywhere."""
        size = "x".join(str(side) for side in self.train.images.shape[1:])
        return (
            f"{self.name}: {len(self.train):,} training + {len(self.test):,} test images ({size}, "
            f"{self.num_classes} classes), {self.origin}"
        )


def load_dataset(
    name: str,
    root: str | os.PathLike | None = None,
    cache: str | os.PathLike | None = None,
    download: bool = True,
    seed: int = 0,
    image_size: int = 32,
) -> Dataset:
    """Load a data set: "cifar10", "cifar100", "folder" or "shapes10".

    root        for "folder": holds train/CLASS/*.png and test/CLASS/*.png (also jpg, jpeg, webp, bmp)
    cache       folder of unpacked data sets; None is cache_folder()
    download    fetch CIFAR when the cache lacks it (through torchvision, checksums verified)
    seed        of "shapes10"; the other data sets are fixed
    image_size  height and width in pixels to which "folder" scales its images

    Raises UnknownNameError for another name, DataError when the data can't be found, fetched or read.
    """
    if name not in NAMES:
        raise UnknownNameError("dataset", name, NAMES)
    if name != "folder" and root is not None:
        raise DataError(f"root={str(root)!r} with dataset {name!r}: root is for 'folder', cache for others")
    if name == "folder":
        return _load_folder(root, image_size)
    if name == "shapes10":
        from . import shapes10

        train_images, train_labels, test_images, test_labels = shapes10.make_shapes10(seed=seed)
        arrays = {"train": (train_images, train_labels), "test": (test_images, test_labels)}
        return _dataset(name, arrays, shapes10.CLASSES, f"drawn by code (seed {seed})")
    folder = (cache_folder() if cache is None else Path(cache)) / name
    if not _present(folder):
        if not download:
            raise DataError(f"dataset {name!r}: not in {folder} (download=False). {_ways_out(name, folder)}")
        _download(name, folder)
    arrays, classes = _read_cache(name, folder)
    return _dataset(name, arrays, classes, "real images, read from the cache")


def cache_folder() -> Path:
    """$PWL_DATA_DIR, or else data/cache in the checkout that holds this package or in the current folder."""
    if os.environ.get("PWL_DATA_DIR"):
        return Path(os.environ["PWL_DATA_DIR"])
    checkout = Path(__file__).resolve().parents[1]
    return (checkout if (checkout / "pyproject.toml").is_file() else Path.cwd()) / "data" / "cache"


def augment(images: Tensor, flip: bool = True, crop: int = 2, cutout: int = 0) -> Tensor:
    """Random views of a batch: uint8 images (B, 3, H, W) -> the same shape, on the same device.

    flip    mirror left and right, each image with probability 1/2
    crop    move each image by up to this many pixels in both directions; the border is filled by reflection
    cutout  side in pixels of a grey square put over a random place, cut at the edges (DeVries & Taylor, 2017)

    One gather moves and mirrors all images. Random numbers are from torch's global generator of the device.
    """
    batch, channels, height, width = images.shape
    for name, value in (("crop", crop), ("cutout", cutout)):
        if not 0 <= value < min(height, width):
            raise DataError(f"augment {name}={value}: expected 0 to {min(height, width) - 1} pixels")
    device = images.device
    if flip or crop:
        rows = torch.arange(height, device=device).expand(batch, height)
        columns = torch.arange(width, device=device).expand(batch, width)
        if crop:
            shifts = torch.randint(-crop, crop + 1, (2, batch, 1), device=device)
            rows, columns = _reflect(rows + shifts[0], height), _reflect(columns + shifts[1], width)
        if flip:
            mirrored = torch.rand(batch, 1, device=device) < 0.5
            columns = torch.where(mirrored, width - 1 - columns, columns)
        source = (rows[:, :, None] * width + columns[:, None, :]).view(batch, 1, -1).expand(-1, channels, -1)
        images = images.reshape(batch, channels, -1).gather(2, source).view(images.shape)
    if cutout:
        top, left = (torch.randint(side, (batch, 1), device=device) - cutout // 2 for side in (height, width))
        row = torch.arange(height, device=device) - top
        column = torch.arange(width, device=device) - left
        hidden = ((row >= 0) & (row < cutout))[:, :, None] & ((column >= 0) & (column < cutout))[:, None, :]
        images = images.masked_fill(hidden[:, None], 127)
    return images


def _reflect(index: Tensor, size: int) -> Tensor:
    """Positions beyond the edges mirrored back, the edge itself not repeated: -1 -> 1, size -> size - 2."""
    return (size - 1) - ((size - 1) - index.abs()).abs()


def _dataset(name: str, arrays: dict, classes: tuple[str, ...], origin: str) -> Dataset:
    """uint8 arrays (N, H, W, 3) and labels per split -> Dataset, normalised by its training images."""
    tensors = {}
    for split, (images, labels) in arrays.items():
        # the copy also detaches from a memory map, which torch would warn of as read-only
        images = np.ascontiguousarray(np.asarray(images).transpose(0, 3, 1, 2))
        tensors[split] = torch.from_numpy(images), torch.from_numpy(np.asarray(labels).astype(np.int64))
    mean, std = _mean_and_std(tensors["train"][0])
    splits = {split: Split(*pair, mean, std, tuple(classes)) for split, pair in tensors.items()}
    return Dataset(name, splits["train"], splits["test"], origin)


def _mean_and_std(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Per channel, of uint8 images (N, C, H, W) scaled to 0..1; counted in integers, exact everywhere."""
    counts = np.zeros((images.shape[1], 256), np.int64)
    for chunk in images.split(1000):
        for channel in range(len(counts)):
            counts[channel] += np.bincount(chunk[:, channel].numpy().ravel(), minlength=256)
    values, pixels = np.arange(256), counts.sum(1)
    mean = (counts * values).sum(1) / pixels
    variance = (counts * values**2).sum(1) / pixels - mean**2
    mean, std = mean / 255, np.sqrt(np.maximum(variance, 1e-6)) / 255  # not 0, also if all is one flat colour
    return tuple(mean.tolist()), tuple(std.tolist())


# ---- the cache: <cache>/<name>/{train,test}_images.npy, {train,test}_labels.npy, classes.json


def _present(folder: Path) -> bool:
    """Whether there is anything to read; a folder with some files missing is damaged, not absent."""
    return folder.is_dir() and any(folder.iterdir())


def _ways_out(name: str, folder: Path) -> str:
    return (
        f"Three ways out: place {{train,test}}_images.npy, {{train,test}}_labels.npy and classes.json in "
        f"{folder} (or set PWL_DATA_DIR to a cache that has a folder {name}); load it with download=True "
        f"where there is internet; or use load_dataset('shapes10'), which is drawn by code"
    )


def _read_cache(name: str, folder: Path) -> tuple[dict, tuple[str, ...]]:
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


# ---- image folders


def _load_folder(root: str | os.PathLike | None, image_size: int) -> Dataset:
    if root is None:
        raise DataError("dataset 'folder': expected root=FOLDER, with train/CLASS/*.png and test/CLASS/*.png")
    root = Path(root)
    if image_size < 1:
        raise DataError(f"image_size={image_size}: expected at least 1 pixel")
    for folder in (root, root / "train", root / "test"):
        if not folder.is_dir():
            expected = f"{root}/train/CLASS/*.png and {root}/test/CLASS/*.png"
            raise DataError(f"{folder}: no such folder; expected {expected}")
    classes = _class_folders(root / "train")
    arrays = {split: _read_images(root / split, classes, image_size) for split in ("train", "test")}
    return _dataset("folder", arrays, classes, f"image folder {root.name!r}")


def _class_folders(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(f.name for f in folder.iterdir() if f.is_dir() and not f.name.startswith(".")))


def _read_images(folder: Path, classes: tuple[str, ...], size: int) -> tuple[np.ndarray, np.ndarray]:
    """The central squares of all images in folder/CLASS/ -> uint8 (N, size, size, 3) in RGB, labels (N,)."""
    from PIL import Image, ImageOps

    if foreign := set(_class_folders(folder)) - set(classes):
        raise DataError(f"{folder / min(foreign)}: not a class of the training images ({', '.join(classes)})")
    images, labels = [], []
    for label, name in enumerate(classes):
        files = sorted(f for f in (folder / name).glob("*") if f.suffix.lower() in IMAGE_ENDINGS)
        if not files and (folder.name == "train" or (folder / name).is_dir()):
            raise DataError(f"{folder / name}: no images; expected {', '.join(IMAGE_ENDINGS)} files")
        for file in files:
            try:
                with Image.open(file) as image:
                    upright = ImageOps.exif_transpose(image).convert("RGB")
                images.append(np.asarray(ImageOps.fit(upright, (size, size), Image.Resampling.BILINEAR)))
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
                raise DataError(f"{file}: not readable as an image ({error}); mend or remove it") from error
            labels.append(label)
    if not images:
        raise DataError(f"{folder}: no images; expected CLASS/*.png or {', '.join(IMAGE_ENDINGS[1:])}")
    return np.stack(images), np.asarray(labels)
