"""Image folders as data sets: train/CLASS/*.png and test/CLASS/*.png, and other common endings."""

import os
from pathlib import Path

import numpy as np

from .cifar import Arrays
from .errors import DataError

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def read_image_folder(root: str | os.PathLike | None, image_size: int) -> tuple[Arrays, tuple[str, ...]]:
    """Images and labels of both splits, and the class names: those of the folders, in alphabetical order.

    Args:
        root: holds train/CLASS/*.png and test/CLASS/*.png.
        image_size: height and width in pixels; of each image the central square is taken and scaled.

    Raises:
        DataError: a folder is missing or without images, a class is not among the training ones, a file is no image.
    """
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
    return arrays, classes


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
