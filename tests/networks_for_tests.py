"""Tiny networks and data that several tests share."""

from pathlib import Path

import torch
from PIL import Image

import pwl_lite as pwl
from pwl_lite.datasets import Dataset, Split
from pwl_lite.shapes10 import CLASSES as SHAPES
from pwl_lite.shapes10 import make_shapes10

TEACHER = {"family": "vgg", "layers": ["8 M", "12 M 12", "16 M", "16 16"]}
STUDENT = {"family": "vgg", "layers": ["4 M", "6s M", "8s M", "8s"]}
CLASSES = ("left", "right", "both")


def tiny_pair(seed: int = 0, num_classes: int = 3) -> tuple[pwl.BlockNet, pwl.BlockNet]:
    """A teacher and a student of four blocks whose widths differ everywhere; norms hold statistics of real passes."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        teacher = pwl.build_network({**TEACHER, "num_classes": num_classes})
        student = pwl.build_network({**STUDENT, "num_classes": num_classes})
        for net in (teacher, student):
            for _ in range(3):  # a fresh batch norm in evaluation mode is the identity, which would hide mistakes
                net.train()(torch.randn(16, 3, 32, 32))
    return teacher, student


def tiny_net(seed: int = 0) -> pwl.SwapNet:
    with torch.random.fork_rng():
        torch.manual_seed(seed + 1)
        return pwl.SwapNet(*tiny_pair(seed))


def tiny_data(train: int = 96, test: int = 40, seed: int = 0) -> Dataset:
    """Images that are bright on the left, on the right or on both sides: learnt within a few steps."""
    generator = torch.Generator().manual_seed(seed)

    def split(n: int) -> Split:
        labels = torch.arange(n) % 3
        images = torch.randint(0, 120, (n, 3, 32, 32), generator=generator)
        images[labels != 1, :, :, :16] += 120
        images[labels != 0, :, :, 16:] += 120
        return Split(images.to(torch.uint8), labels, (0.5,) * 3, (0.25,) * 3, CLASSES)

    return Dataset("tiny", split(train), split(test))


def image_folder(root: Path) -> Path:
    """A little of shapes10 as files: 160 training and 40 test images."""
    arrays = make_shapes10(n_train=160, n_test=40)
    for split, pictures, labels in (("train", *arrays[:2]), ("test", *arrays[2:])):
        for i, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
            file = root / split / SHAPES[label] / f"{i:03}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(file)
    return root
