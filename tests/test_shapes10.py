"""shapes10: the same bytes everywhere, balanced, quick to draw, and shapes that are what they are called."""

import hashlib
import math
import time

import numpy as np
import pytest

from pwl_lite import shapes10
from pwl_lite.errors import DataError
from pwl_lite.shapes10 import CLASSES, make_shapes10

# of the arrays of make_shapes10(500, 500): a change here changes every result of the quick profile
SHA256 = "7e54872b50e082263fe50af9a523f2b2de49576edfdde404235c78caebf97326"


def digest(arrays: tuple[np.ndarray, ...]) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()


@pytest.fixture(scope="module")
def small() -> tuple[np.ndarray, ...]:
    return make_shapes10(500, 500)


def test_the_same_seed_draws_the_same_bytes_on_every_machine(small):
    assert digest(small) == SHA256


def test_the_seed_changes_the_images(small):
    assert digest(make_shapes10(500, 500, seed=1)) != SHA256


def test_shapes_types_and_balance(small):
    arrays = make_shapes10(1000, 500)
    train_images, train_labels, test_images, test_labels = arrays
    assert train_images.shape == (1000, 32, 32, 3) and test_images.shape == (500, 32, 32, 3)
    assert {array.dtype for array in arrays} == {np.dtype("uint8")}
    assert np.bincount(train_labels).tolist() == [100] * 10
    assert np.bincount(test_labels).tolist() == [50] * 10
    assert len(CLASSES) == len(set(CLASSES)) == 10
    runs = np.count_nonzero(np.diff(train_labels.astype(int)))
    assert runs > 800  # labels come in random order, so that any first n images hold all classes


def test_fewer_images_are_the_first_of_more(small):
    images, labels, test_images, _ = make_shapes10(620, 30)
    assert np.array_equal(images[:500], small[0]) and np.array_equal(labels[:500], small[1])
    assert np.array_equal(test_images, small[2][:30])


def test_no_image_is_in_both_splits(small):
    train, test = ({image.tobytes() for image in images} for images in (small[0], small[2]))
    assert len(train) == len(test) == 500 and not train & test


def test_all_12_000_images_are_drawn_in_under_5_seconds_of_one_core():
    start = time.process_time()  # of this process: what else the machine does must not decide
    make_shapes10()
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    "setting",
    [{"clutter": 6}, {"occlusion": 1.0}, {"noise": 0.0}, {"contrast": 0.5}, {"hint": 1.0}, {"turn": 180}],
)
def test_every_setting_of_difficulty_changes_the_images(small, setting):
    images, labels, _, _ = make_shapes10(500, 1, **setting)
    assert np.array_equal(labels, small[1])
    assert not np.array_equal(images, small[0])


def test_noise_has_the_stated_strength(small):
    plain = {"clutter": 0, "occlusion": 0}
    clean, noisy = (make_shapes10(500, 1, noise=noise, **plain)[0].astype(int) for noise in (0, 0.2))
    inner = (clean > 60) & (clean < 195)  # nothing is cut off at black or white there
    difference = (noisy - clean)[inner] / 255
    assert abs(difference.mean()) < 1e-3
    assert 0.15 < np.abs(difference).max() <= 0.2 + 1 / 255


def test_favourite_colours_show_only_as_often_as_hinted():
    """Mean colour of the shapes of a class: apart with hint=1, alike with hint=0."""

    def spread(hint: float) -> float:
        plain = {"clutter": 0, "occlusion": 0, "noise": 0}
        images, labels, _, _ = make_shapes10(2000, 1, hint=hint, **plain)
        return np.std([images[labels == k].mean((0, 1, 2)) for k in range(10)], axis=0).max()

    assert spread(1) > 2 * spread(0)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ({"n_train": 0}, "n_train=0: expected 1"),
        ({"seed": -1}, "seed=-1: expected 0"),
        ({"clutter": -1}, "clutter=-1: expected 0 to 20"),
        ({"noise": 1.5}, "noise=1.5: expected 0 to 1"),
        ({"occlusion": float("nan")}, "occlusion=nan"),
        ({"turn": 181}, "turn=181: expected 0 to 180"),
    ],
)
def test_a_setting_out_of_range_is_named(setting, expected):
    with pytest.raises(DataError, match=expected):
        make_shapes10(**setting)


def lens(r: float, s: float, d: float) -> float:
    """Area that two discs of radius r and s share, their centres d apart."""
    a = (d * d + r * r - s * s) / (2 * d)
    parts = r * r * math.acos(a / r) - a * math.sqrt(r * r - a * a)
    b = d - a
    return parts + s * s * math.acos(b / s) - b * math.sqrt(s * s - b * b)


AREAS = {
    "disc": math.pi * 0.9**2,
    "ring": math.pi * (0.94**2 - 0.42**2),
    "crescent": math.pi * 0.95**2 - lens(0.95, 0.75, 0.5),
    "hexagon": 3 * math.sqrt(3) / 2,
    "square": 1.56**2,
    "diamond": 2 * 0.62,
    "triangle": 3 * math.sqrt(3) / 4,
    "cross": 2 * 2 * 0.72 - 0.72**2,
    "star": 5 * 0.45 * math.sin(math.radians(36)),
    "heart": 2 * 0.8**2 + math.pi * 0.4**2 * 2,
}


@pytest.mark.parametrize("name", CLASSES)
def test_every_shape_has_the_area_that_geometry_gives_it(name):
    side = np.linspace(-1.5, 1.5, 1200, dtype=np.float32)
    x, y = np.meshgrid(side, side)
    inside = shapes10._SHAPES[name](x, y) < 0
    assert inside.mean() * 9 == pytest.approx(AREAS[name], rel=0.01)


def test_the_shape_stands_in_the_image_where_its_class_says():
    """Share of the image that is far from the brightness at its border, where the ground shows."""
    images, labels, _, _ = make_shapes10(1000, 1, clutter=0, occlusion=0, noise=0, hint=0, contrast=0.5)
    covered = {}
    for label, name in enumerate(CLASSES):
        grey = images[labels == label].astype(float).mean(3)
        edges = [grey[:, 0], grey[:, -1], grey[:, :, 0], grey[:, :, -1]]
        border = np.median(np.concatenate(edges, 1), axis=1)
        covered[name] = (np.abs(grey - border[:, None, None]) > 64).mean()
    assert covered["square"] > covered["ring"] > covered["star"]
    assert covered["disc"] > covered["crescent"]
