"""load_dataset: the cache, the download (from a local server), image folders, splits and augmentation."""

import functools
import hashlib
import http.server
import io
import json
import os
import pickle
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pwl_lite import cifar, datasets
from pwl_lite._compat import import_torchvision
from pwl_lite.cifar import cache_folder
from pwl_lite.datasets import Dataset, Split, augment, load_dataset
from pwl_lite.errors import DataError, UnknownNameError

FILES = ["classes.json", "test_images.npy", "test_labels.npy", "train_images.npy", "train_labels.npy"]
NAMES_10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def random_images(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)


def write_cache(folder: Path, train: int = 40, test: int = 20) -> Path:
    """A small but complete cache folder, every class in it."""
    folder.mkdir(parents=True)
    for split, n in (("train", train), ("test", test)):
        np.save(folder / f"{split}_images.npy", random_images(n, seed=n))
        np.save(folder / f"{split}_labels.npy", (np.arange(n) % 10).astype(np.uint8))
    (folder / "classes.json").write_text(json.dumps(NAMES_10))
    return folder


def small_data(train: int = 40, test: int = 20) -> Dataset:
    """A data set in which every image can be told from every other."""
    arrays = {
        "train": (random_images(train, seed=1), np.arange(train) % 10),
        "test": (random_images(test, seed=2), np.arange(test) % 10),
    }
    return datasets._dataset("made", arrays, tuple(NAMES_10), "made for a test")


# ---- the cache


def test_a_cache_hit_gives_the_arrays_as_contiguous_tensors(tmp_path):
    folder = write_cache(tmp_path / "cifar10")
    data = load_dataset("cifar10", cache=tmp_path, download=False)
    for split, n in ((data.train, 40), (data.test, 20)):
        assert split.images.dtype == torch.uint8 and split.images.shape == (n, 3, 32, 32)
        assert split.images.is_contiguous()
        assert split.labels.dtype == torch.int64 and len(split) == n
    stored = np.load(folder / "train_images.npy")
    assert np.array_equal(data.train.images.permute(0, 2, 3, 1).numpy(), stored)
    assert data.classes == tuple(NAMES_10) and data.num_classes == 10
    assert data.test.mean == data.train.mean == data.mean
    data.train.images.zero_()  # the tensors are a copy: the files stay as they are
    assert np.array_equal(np.load(folder / "train_images.npy"), stored)


def test_the_cache_is_memory_mapped(tmp_path):
    arrays, _ = cifar._read_cache("cifar10", write_cache(tmp_path / "cifar10"))
    assert all(isinstance(array, np.memmap) for pair in arrays.values() for array in pair)


def test_a_cache_hit_imports_no_torchvision(tmp_path):
    write_cache(tmp_path / "cifar10")
    code = "import sys; from pwl_lite.datasets import load_dataset; load_dataset('cifar10'); "
    code += "sys.exit('torchvision' in sys.modules)"
    environment = os.environ | {"PWL_DATA_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def test_the_cache_folder_is_that_of_the_environment_or_of_the_checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PWL_DATA_DIR", str(tmp_path / "elsewhere"))
    assert cache_folder() == tmp_path / "elsewhere"
    monkeypatch.delenv("PWL_DATA_DIR")
    module = tmp_path / "checkout" / "pwl_lite" / "cifar.py"
    monkeypatch.setattr(cifar, "__file__", str(module))
    assert cache_folder() == tmp_path / "data" / "cache"  # installed somewhere: the current folder
    module.parent.mkdir(parents=True)
    (tmp_path / "checkout" / "pyproject.toml").touch()
    assert cache_folder() == tmp_path / "checkout" / "data" / "cache"


def stored(name: str, array: np.ndarray):
    return name, lambda folder: np.save(folder / name, array, allow_pickle=True)


DAMAGE = {
    "file missing": ("test_images.npy", lambda folder: (folder / "test_images.npy").unlink()),
    "classes missing": ("classes.json", lambda folder: (folder / "classes.json").unlink()),
    "classes not JSON": ("classes.json", lambda folder: (folder / "classes.json").write_text('["cat",')),
    "classes too few": ("classes.json", lambda folder: (folder / "classes.json").write_text('["cat"]')),
    "float images": stored("train_images.npy", np.zeros((40, 32, 32, 3), np.float32)),
    "channels first": stored("train_images.npy", np.zeros((40, 3, 32, 32), np.uint8)),
    "no images": stored("train_images.npy", np.zeros((0, 32, 32, 3), np.uint8)),
    "wide labels": stored("train_labels.npy", np.zeros(40, np.int64)),
    "labels too few": stored("test_labels.npy", np.zeros(19, np.uint8)),
    "label too high": stored("test_labels.npy", np.full(20, 10, np.uint8)),
    "pickled": stored("test_labels.npy", np.array([{}])),
    "cut short": ("train_images.npy", lambda folder: os.truncate(folder / "train_images.npy", 5000)),
    "empty file": ("test_labels.npy", lambda folder: os.truncate(folder / "test_labels.npy", 0)),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_cache_names_the_file(tmp_path, kind):
    name, damage = DAMAGE[kind]
    damage(write_cache(tmp_path / "cifar10"))
    with pytest.raises(DataError) as caught:
        load_dataset("cifar10", cache=tmp_path)  # and does not download over it
    assert str(tmp_path / "cifar10" / name) in str(caught.value)
    assert "Delete" in str(caught.value)


def test_an_unknown_name_lists_the_valid_ones():
    expected = "dataset 'cifr': expected one of cifar10, cifar100, folder, shapes10"
    with pytest.raises(UnknownNameError, match=expected):
        load_dataset("cifr")


def assert_names_the_ways_out(message: str, folder: Path) -> None:
    for way in (str(folder), "PWL_DATA_DIR", "train,test}_images.npy", "download=True", "shapes10"):
        assert way in message


def test_absent_data_names_three_ways_out(tmp_path):
    with pytest.raises(DataError, match="dataset 'cifar100': not in") as caught:
        load_dataset("cifar100", cache=tmp_path, download=False)
    assert_names_the_ways_out(str(caught.value), tmp_path / "cifar100")
    assert list(tmp_path.iterdir()) == []


# ---- the download


class Archive:
    """A CIFAR archive in the original's form, with a few images, served by a local HTTP server."""

    def __init__(self, name: str, folder: Path):
        self.maker = getattr(import_torchvision().datasets, cifar.CIFAR[name][0])
        key = "labels" if name == "cifar10" else "fine_labels"
        self.count = cifar.CIFAR[name][1]
        self.parts = {}  # file name in the archive -> (images, labels)
        meta = self.maker.meta
        contents = {meta["filename"]: {meta["key"]: [f"c{i}" for i in range(self.count)]}}
        for seed, (file, _) in enumerate(self.maker.train_list + self.maker.test_list):
            colours = np.random.default_rng(seed).integers(0, 256, (6, 1, 1, 3), dtype=np.uint8)
            images, labels = np.broadcast_to(colours, (6, 32, 32, 3)), np.arange(6) % 4 + seed
            self.parts[file] = images, labels
            contents[file] = {"data": images.transpose(0, 3, 1, 2).reshape(6, -1), key: labels.tolist()}
        self.md5 = {}
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
            for file, content in contents.items():
                raw = pickle.dumps(content)
                self.md5[file] = hashlib.md5(raw).hexdigest()
                member = tarfile.TarInfo(f"{self.maker.base_folder}/{file}")
                member.size = len(raw)
                tar.addfile(member, io.BytesIO(raw))
        self.bytes = self.sent = buffer.getvalue()
        self.folder, self.gets = folder, 0
        archive = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(archive.bytes)))
                self.end_headers()

            def do_GET(self) -> None:
                archive.gets += 1
                self.do_HEAD()
                self.wfile.write(archive.sent)  # less than promised: the connection breaks half-way

            def log_message(self, *args: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/{self.maker.filename}"

    def point_torchvision_at_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Only the address and the checksums of the archive are other than CIFAR's."""
        lists = {
            which: [[file, self.md5[file]] for file, _ in getattr(self.maker, which)]
            for which in ("train_list", "test_list")
        }
        meta = {**self.maker.meta, "md5": self.md5[self.maker.meta["filename"]]}
        settings = {"url": self.url, "tgz_md5": hashlib.md5(self.bytes).hexdigest(), "meta": meta, **lists}
        for name, value in settings.items():
            monkeypatch.setattr(self.maker, name, value)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(params=["cifar10", "cifar100"])
def name(request) -> str:
    return request.param


@pytest.fixture
def archive(name, tmp_path, monkeypatch):
    served = Archive(name, tmp_path)
    served.point_torchvision_at_it(monkeypatch)
    yield served
    served.close()


def test_a_download_fills_the_cache_once(archive, name, tmp_path):
    cache = tmp_path / "new" / "cache"
    first = load_dataset(name, cache=cache)
    assert [f.name for f in cache.iterdir()] == [name]  # no temporary folder is left
    assert sorted(f.name for f in (cache / name).iterdir()) == FILES
    for split in ("train", "test"):
        parts = [archive.parts[file] for file, _ in getattr(archive.maker, f"{split}_list")]
        images, labels = (np.concatenate(arrays) for arrays in zip(*parts))
        stored = np.load(cache / name / f"{split}_images.npy"), np.load(cache / name / f"{split}_labels.npy")
        assert np.array_equal(stored[0], images) and np.array_equal(stored[1], labels)
        assert stored[0].dtype == stored[1].dtype == np.uint8
        assert torch.equal(getattr(first, split).images, torch.from_numpy(images).permute(0, 3, 1, 2))
    assert json.loads((cache / name / "classes.json").read_text()) == [f"c{i}" for i in range(archive.count)]
    requests = archive.gets
    assert requests > 0
    again = load_dataset(name, cache=cache)
    assert archive.gets == requests and again.sha256 == first.sha256


def assert_fails_and_leaves_nothing(name: str, cache: Path) -> str:
    with pytest.raises(DataError, match=f"dataset '{name}': not in .* and the download failed") as caught:
        load_dataset(name, cache=cache)
    assert_names_the_ways_out(str(caught.value), cache / name)
    assert not cache.is_dir() or list(cache.iterdir()) == []
    return str(caught.value)


def test_a_download_that_breaks_half_way_leaves_nothing_and_can_be_repeated(archive, name, tmp_path):
    cache = tmp_path / "cache"
    archive.sent = archive.bytes[: len(archive.bytes) // 2]
    assert_fails_and_leaves_nothing(name, cache)
    assert archive.gets > 0
    archive.sent = archive.bytes
    assert len(load_dataset(name, cache=cache).test) == 6


def test_a_download_with_other_bytes_fails_its_checksum(archive, name, tmp_path):
    wrong = bytearray(archive.bytes)
    wrong[len(wrong) // 2] ^= 1
    archive.sent = bytes(wrong)
    assert "corrupted" in assert_fails_and_leaves_nothing(name, tmp_path / "cache")


def test_a_server_out_of_reach_leaves_nothing(archive, name, tmp_path):
    archive.close()
    assert_fails_and_leaves_nothing(name, tmp_path / "cache")


def test_a_server_that_never_answers_is_given_up(archive, name, tmp_path, monkeypatch):
    monkeypatch.setattr(cifar, "DOWNLOAD_TIMEOUT", 0.5)
    # it accepts the connection and is silent
    monkeypatch.setattr(archive.server, "process_request", lambda request, address: None)
    start = time.monotonic()
    assert_fails_and_leaves_nothing(name, tmp_path / "cache")
    assert time.monotonic() - start < 25
    assert socket.getdefaulttimeout() is None


@pytest.mark.parametrize(
    ("name", "room"),
    [("cifar10", 1_000), ("cifar10", 10_000), ("cifar10", 50_000), ("cifar100", 10_000)],
    ids=["fetching", "unpacking", "saving", "unpacking CIFAR-100"],
)
def test_a_full_disk_leaves_nothing(archive, name, room, tmp_path):
    """The system itself refuses to write a file beyond `room` bytes, as it would on a full disk."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        message = assert_fails_and_leaves_nothing(name, tmp_path / "cache")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "OSError" in message
    assert len(load_dataset(name, cache=tmp_path / "cache").test) == 6  # with room again


def test_a_cache_that_cannot_be_written_is_named(archive, name, tmp_path):
    (tmp_path / "cache").write_text("a file where a folder should be")
    with pytest.raises(DataError, match="the download failed"):
        load_dataset(name, cache=tmp_path / "cache")
    assert archive.gets == 0


def test_an_empty_folder_in_the_cache_counts_as_absent(archive, name, tmp_path):
    (tmp_path / "cache" / name).mkdir(parents=True)
    assert len(load_dataset(name, cache=tmp_path / "cache").test) == 6


# ---- image folders


def write_images(root: Path) -> Path:
    """Two classes of flat colours: 3 + 2 training images, 1 + 1 test images, in several formats."""
    for file, mode, size, colour in (
        ("train/cat/a.png", "RGB", (32, 32), (200, 10, 20)),
        ("train/cat/b.JPG", "RGB", (64, 64), (190, 15, 25)),
        ("train/cat/c.bmp", "RGB", (16, 16), (210, 5, 15)),
        ("train/dog/a.webp", "RGB", (40, 40), (10, 20, 200)),
        ("train/dog/b.png", "L", (32, 32), 90),
        ("test/cat/a.jpeg", "RGB", (32, 32), (200, 10, 20)),
        ("test/dog/a.png", "RGBA", (32, 32), (10, 20, 200, 255)),
    ):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        Image.new(mode, size, colour).save(root / file)
    (root / "train" / "cat" / "notes.txt").write_text("not an image, not read")
    return root


def test_a_folder_of_images_is_read_by_class(tmp_path):
    data = load_dataset("folder", root=write_images(tmp_path / "pets"))
    assert data.classes == ("cat", "dog") and data.name == "folder"
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1] and data.test.labels.tolist() == [0, 1]
    assert data.train.images.shape == (5, 3, 32, 32) and data.train.images.is_contiguous()
    expected = [[200, 10, 20], [190, 15, 25], [210, 5, 15], [10, 20, 200], [90, 90, 90]]
    means = data.train.images.float().mean((2, 3))
    assert torch.allclose(means, torch.tensor(expected).float(), atol=4)  # JPEG and WebP are lossy
    line = "folder: 5 training + 2 test images (3x32x32, 2 classes), image folder 'pets'"
    assert data.describe() == line


def test_images_are_scaled_and_cut_to_the_central_square(tmp_path):
    root = write_images(tmp_path)
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, :20], wide[:, 40:] = 255, 255  # white sides, black middle
    Image.fromarray(wide).save(root / "test" / "cat" / "a.png")
    data = load_dataset("folder", root=root, image_size=24)
    assert data.test.images.shape == (3, 3, 24, 24)
    (image,) = (image for image in data.test.images if image[:, 12, 12].max() == 0)
    assert image[:, :, 1:-1].max() == 0  # the outermost columns mix with what was cut off


def test_a_turned_photo_is_set_upright(tmp_path):
    root = write_images(tmp_path)
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:16] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # the camera stood on its head
    Image.fromarray(pixels).save(root / "test" / "dog" / "a.png", exif=exif)
    image = load_dataset("folder", root=root).test.images[-1]
    assert image[:, :16].max() == 0 and image[:, 16:].min() == 255


def break_image(root: Path, file: str, size: int) -> None:
    os.truncate(root / file, size)


FOLDER_FAULTS = {
    "no such root": ("nowhere", lambda root: root.rename(root.with_name("renamed"))),
    "no split folders": ("train", lambda root: (root / "train").rename(root / "training")),
    "no test": ("test", lambda root: (root / "test").rename(root / "check")),
    "no classes": ("train", lambda root: [f.rename(root / f.name) for f in (root / "train").iterdir()]),
    "empty class": ("train/bird", lambda root: (root / "train" / "bird").mkdir()),
    "foreign class": ("test/bird", lambda root: (root / "test" / "dog").rename(root / "test" / "bird")),
    "empty image": ("train/dog/b.png", functools.partial(break_image, file="train/dog/b.png", size=0)),
    "image cut short": ("train/cat/c.bmp", functools.partial(break_image, file="train/cat/c.bmp", size=300)),
    "not an image": ("test/cat/a.jpeg", lambda root: (root / "test/cat/a.jpeg").write_text("hello")),
}


@pytest.mark.parametrize("kind", FOLDER_FAULTS)
def test_a_faulty_folder_is_named(tmp_path, kind):
    named, damage = FOLDER_FAULTS[kind]
    root = write_images(tmp_path / "root")
    damage(root)
    with pytest.raises(DataError) as caught:
        load_dataset("folder", root=root)
    assert str(root if named == "nowhere" else root / named) in str(caught.value)
    assert any(way in str(caught.value) for way in ("expected", "mend or remove it", "not a class of"))


def test_a_folder_needs_a_root_and_nothing_else_takes_one(tmp_path):
    with pytest.raises(DataError, match="expected root=FOLDER"):
        load_dataset("folder")
    with pytest.raises(DataError, match="root is for 'folder'"):
        load_dataset("cifar10", root=tmp_path)


# ---- splits


def test_mean_and_deviation_are_those_of_the_training_images():
    data = small_data()
    scaled = data.train.images.double() / 255
    assert data.mean == pytest.approx(scaled.mean((0, 2, 3)).tolist(), abs=1e-12)
    assert data.std == pytest.approx(scaled.std((0, 2, 3), correction=0).tolist(), abs=1e-12)
    normalised = data.train.normalise(data.train.images)
    assert normalised.dtype == torch.float32
    assert torch.allclose(normalised.mean((0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(normalised.std((0, 2, 3)), torch.ones(3), atol=1e-4)


def test_images_of_one_flat_colour_can_be_normalised():
    arrays = {split: (np.full((3, 32, 32, 3), 7, np.uint8), np.arange(3)) for split in ("train", "test")}
    data = datasets._dataset("flat", arrays, ("a", "b", "c"), "")
    assert data.train.normalise(data.train.images).isfinite().all()


def test_batches_come_in_order_and_cover_everything():
    split = small_data().train
    batches = list(split.batches(16))
    assert [len(labels) for _, labels in batches] == [16, 16, 8]
    assert torch.equal(torch.cat([images for images, _ in batches]), split.normalise(split.images))
    assert torch.equal(torch.cat([labels for _, labels in batches]), split.labels)


def rows(split: Split) -> dict[bytes, int]:
    return {image.numpy().tobytes(): int(label) for image, label in zip(split.images, split.labels)}


def test_hold_out_splits_the_training_images_without_overlap():
    data = small_data()
    held = data.hold_out(12, seed=3)
    assert (len(held.train), len(held.test)) == (28, 12)
    assert not rows(held.train).keys() & rows(held.test).keys()
    assert rows(held.train) | rows(held.test) == rows(data.train)  # labels went along
    assert held.train.images.is_contiguous()
    assert torch.equal(held.test.images, data.hold_out(12, seed=3).test.images)
    assert not torch.equal(held.test.images, data.hold_out(12, seed=4).test.images)
    assert "held out" in held.describe()
    for n in (0, 40, -1):
        with pytest.raises(DataError, match=f"hold_out of {n} images: expected 1 to 39"):
            data.hold_out(n)


def test_subset_takes_the_first_images():
    data = small_data()
    part = data.subset(train=7)
    assert (len(part.train), len(part.test)) == (7, 20)
    assert torch.equal(part.train.images, data.train.images[:7])
    assert part.mean == data.mean
    with pytest.raises(DataError, match="subset of 21 images: expected 1 to 20"):
        data.subset(test=21)


def test_sha256_covers_images_labels_and_the_split():
    data = small_data()
    digest = hashlib.sha256()
    for split in (data.train, data.test):
        digest.update(repr(tuple(split.images.shape)).encode() + split.images.numpy().tobytes())
        digest.update(repr(tuple(split.labels.shape)).encode() + split.labels.numpy().tobytes())
    assert data.sha256 == small_data().sha256 == digest.hexdigest()
    others = [small_data(), small_data(), data.subset(train=39), Dataset("made", data.test, data.train)]
    others[0].train.labels[0] += 1
    others[1].test.images[0, 0, 0, 0] ^= 1
    assert len({data.sha256, *(other.sha256 for other in others)}) == 5


def test_shapes10_through_load_dataset():
    data = load_dataset("shapes10", seed=5)
    line = "shapes10: 10,000 training + 2,000 test images (3x32x32, 10 classes), drawn by code (seed 5)"
    assert data.describe() == line
    assert data.classes[0] == "disc" and data.train.labels.bincount().tolist() == [1000] * 10
    assert data.train.images.is_contiguous() and data.train.images.shape == (10_000, 3, 32, 32)


def test_cifar10_is_the_real_one():
    """Where the cache holds it: sizes, balance and the known mean and deviation."""
    try:
        start = time.process_time()
        data = load_dataset("cifar10", download=False)
        seconds = time.process_time() - start
    except DataError as error:
        if "(download=False)" not in str(error):
            raise
        pytest.skip("CIFAR-10 is not in the cache")
    assert (len(data.train), len(data.test)) == (50_000, 10_000)
    assert data.train.labels.bincount().tolist() == [5000] * 10
    assert data.classes == tuple(NAMES_10)
    assert data.mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=5e-5)
    assert data.std == pytest.approx((0.2470, 0.2435, 0.2616), abs=5e-5)
    assert seconds < 3


# ---- augmentation


def naive_view(image: np.ndarray, down: int, right: int, crop: int, mirrored: bool) -> np.ndarray:
    """Pad by reflection, cut out, mirror: what augment does to one image (3, H, W), in the plainest way."""
    _, height, width = image.shape
    padded = np.pad(image, ((0, 0), (crop, crop), (crop, crop)), mode="reflect")
    view = padded[:, down : down + height, right : right + width]
    return view[:, :, ::-1] if mirrored else view


@pytest.mark.parametrize(("size", "crop"), [((32, 32), 2), ((9, 13), 4), ((8, 8), 7)])
def test_every_view_is_a_reflected_translation_and_all_are_equally_likely(size, crop):
    image = np.random.default_rng(0).integers(0, 256, (3, *size), dtype=np.uint8)
    expected = Counter(
        naive_view(image, down, right, crop, mirrored).tobytes()
        for down in range(2 * crop + 1)
        for right in range(2 * crop + 1)
        for mirrored in (False, True)
    )  # a view can come about in more than one way: far out, the reflection repeats itself
    each = 40
    torch.manual_seed(0)
    views = augment(torch.from_numpy(image).repeat(each * expected.total(), 1, 1, 1), flip=True, crop=crop)
    found = Counter(view.numpy().tobytes() for view in views)
    assert found.keys() == expected.keys()
    chi_squared = sum((found[view] - each * ways) ** 2 / (each * ways) for view, ways in expected.items())
    freedom = len(expected) - 1
    assert chi_squared < freedom + 5 * (2 * freedom) ** 0.5  # five standard deviations


def test_flip_alone_mirrors_about_half_of_the_images():
    images = small_data(train=400).train.images
    torch.manual_seed(0)
    views = augment(images, flip=True, crop=0)
    mirrored = (views == images.flip(3)).all((1, 2, 3))
    assert ((views == images).all((1, 2, 3)) ^ mirrored).all()
    assert 150 < mirrored.sum() < 250


def test_exactly_the_named_images_are_mirrored():
    images = small_data(train=6).train.images
    which = torch.tensor([True, False, False, True, False, True])
    views = augment(images, flip=which, crop=0)
    assert torch.equal(views[which], images[which].flip(3)) and torch.equal(views[~which], images[~which])
    with pytest.raises(DataError, match=r"augment flip: torch.bool of shape \(5,\), expected a bool for each of 6 images"):
        augment(images, flip=which[:5])


def test_no_augmentation_gives_the_same_images():
    images = small_data().train.images
    assert torch.equal(augment(images, flip=False, crop=0), images)


def test_cutout_hides_one_square_that_may_hang_over_the_edge():
    images = torch.zeros(3000, 3, 32, 32, dtype=torch.uint8)
    torch.manual_seed(0)
    hidden = augment(images, flip=False, crop=0, cutout=8)
    assert set(hidden.unique().tolist()) == {0, 127}
    mask = hidden[:, 0] == 127
    assert (hidden == hidden[:, :1]).all()  # all channels alike
    tall, wide = mask.any(2).sum(1), mask.any(1).sum(1)
    assert torch.equal(mask.sum((1, 2)), tall * wide)  # a full rectangle
    assert tall.max() == wide.max() == 8 and tall.min() < 8 and tall.min() > 0
    share = mask.float().mean(0)
    assert share.min() > 0 and share[8:24, 8:24].mean().item() == pytest.approx(64 / 1024, rel=0.1)
    assert images.max() == 0  # the argument is left alone


def test_cutout_reaches_every_pixel_of_an_oblong_image():
    torch.manual_seed(0)
    hidden = augment(torch.zeros(4000, 3, 9, 23, dtype=torch.uint8), flip=False, crop=0, cutout=4)
    assert (hidden[:, 0] == 127).any(0).all()


def test_augment_follows_the_global_seed_and_keeps_its_argument():
    images = small_data().train.images
    before = images.clone()
    torch.manual_seed(7)
    first = augment(images, cutout=4)
    torch.manual_seed(7)
    assert torch.equal(augment(images, cutout=4), first)
    assert not torch.equal(augment(images, cutout=4), first)
    assert torch.equal(images, before) and first.dtype == torch.uint8 and first.is_contiguous()


@pytest.mark.parametrize("setting", [{"crop": 32}, {"crop": -1}, {"cutout": 32}, {"cutout": -2}])
def test_augment_refuses_what_does_not_fit(setting):
    ((name, value),) = setting.items()
    with pytest.raises(DataError, match=f"augment {name}={value}: expected 0 to 31"):
        augment(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), **setting)


def test_augment_makes_20_000_images_a_second_on_one_core():
    images = torch.from_numpy(random_images(512)).permute(0, 3, 1, 2).contiguous()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        augment(images)
        start = time.process_time()
        for _ in range(10):
            augment(images)
        seconds = time.process_time() - start
    finally:
        torch.set_num_threads(threads)
    assert 10 * len(images) / seconds > 20_000


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_splits_and_augmentation_work_on_a_gpu():
    data = small_data().to("cuda")
    views = augment(data.train.images, cutout=4)
    assert views.device.type == "cuda" and data.train.normalise(views).device.type == "cuda"
    assert data.sha256 == small_data().sha256
    assert len(data.hold_out(5).test) == 5
