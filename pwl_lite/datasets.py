"""Data sets as plain tensors: CIFAR-10/100, image folders and the built-in shapes10, by load_dataset().

A whole data set lives in memory as uint8 tensors (N x 3 x height x width). Taking a batch is an index
operation and augmentation a tensor operation, on whichever device the data is: no worker processes.
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .cifar import CIFAR, read_cifar
from .errors import DataError, UnknownNameError
from .image_folder import read_image_folder

NAMES = (*CIFAR, "folder", "shapes10")


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

    Args:
        name: which one.
        root: for "folder", holds `train/CLASS/*.png` and `test/CLASS/*.png` (also jpg, jpeg, webp, bmp).
        cache: folder of unpacked data sets; None is `cache_folder()`.
        download: fetch CIFAR when the cache lacks it (through torchvision, checksums verified).
        seed: of "shapes10"; the other data sets are fixed.
        image_size: height and width in pixels to which "folder" scales its images.

    Raises:
        UnknownNameError: another name.
        DataError: the data can't be found, fetched or read.
    """
    if name not in NAMES:
        raise UnknownNameError("dataset", name, NAMES)
    if name != "folder" and root is not None:
        raise DataError(f"root={str(root)!r} with dataset {name!r}: root is for 'folder', cache for others")
    if name == "folder":
        arrays, classes = read_image_folder(root, image_size)
        return _dataset(name, arrays, classes, f"image folder {Path(root).name!r}")
    if name == "shapes10":
        from . import shapes10

        train_images, train_labels, test_images, test_labels = shapes10.make_shapes10(seed=seed)
        arrays = {"train": (train_images, train_labels), "test": (test_images, test_labels)}
        return _dataset(name, arrays, shapes10.CLASSES, f"drawn by code (seed {seed})")
    arrays, classes = read_cifar(name, cache, download)
    return _dataset(name, arrays, classes, "real images, read from the cache")


def augment(images: Tensor, flip: bool | Tensor = True, crop: int = 2, cutout: int = 0) -> Tensor:
    """Random views of a batch: uint8 images (B, 3, H, W) -> the same shape, on the same device.

    One gather moves and mirrors all images. Random numbers are from torch's global generator of the device.

    Args:
        images: the batch.
        flip: mirror left and right, each image with probability 1/2; or which images to mirror, a bool tensor (B,).
        crop: move each image by up to this many pixels in both directions; the border is filled by reflection.
        cutout: side in pixels of a grey square put over a random place, cut at the edges (DeVries & Taylor, 2017).

    Raises:
        DataError: more pixels than an image has, or a `flip` that does not fit the batch.
    """
    batch, channels, height, width = images.shape
    for name, value in (("crop", crop), ("cutout", cutout)):
        if not 0 <= value < min(height, width):
            raise DataError(f"augment {name}={value}: expected 0 to {min(height, width) - 1} pixels")
    device = images.device
    some = isinstance(flip, Tensor)
    if some and (flip.shape != (batch,) or flip.dtype != torch.bool):
        raise DataError(f"augment flip: {flip.dtype} of shape {tuple(flip.shape)}, expected a bool for each of {batch} images")
    if some or flip or crop:
        rows = torch.arange(height, device=device).expand(batch, height)
        columns = torch.arange(width, device=device).expand(batch, width)
        if crop:
            shifts = torch.randint(-crop, crop + 1, (2, batch, 1), device=device)
            rows, columns = _reflect(rows + shifts[0], height), _reflect(columns + shifts[1], width)
        if some or flip:
            mirrored = flip[:, None] if some else torch.rand(batch, 1, device=device) < 0.5
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
