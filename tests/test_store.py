"""Blocks on disk: what is saved comes back bit for bit; nothing damaged, foreign or half-written loads."""

import hashlib
import json
import os
import pickle
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

from pwl_lite.blocknet import BlockNet, state_hash
from pwl_lite.errors import SaveError, StoreError
from pwl_lite.manifest import MANIFEST, check_manifest, read_manifest, shard_names
from pwl_lite.networks import VGGConfig, vgg
from pwl_lite.store import load_blocks, save_blocks
from pwl_lite.swapnet import SwapNet, all_compositions

META = {"classes": ["a", "b", "c"], "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.1)}
TEACHER = VGGConfig(layers=("8 M", "12 M", "12 M"), num_classes=3)
STUDENT = VGGConfig(layers=("4 M", "6s M", "6 M"), num_classes=3)


def stirred(net: nn.Module, seed: int = 0) -> nn.Module:
    """`net` with every parameter and statistic moved away from where it started."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in net.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.rand(tensor.shape, generator=generator) * 0.1)
    return net.eval()


def pair(seed: int = 0) -> SwapNet:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return stirred(SwapNet(vgg(TEACHER), vgg(STUDENT)), seed)


def plain_net() -> BlockNet:
    """A network that no family of the package can build again."""
    blocks = [nn.Conv2d(4, 4, 3, padding=1), nn.Sequential(nn.BatchNorm2d(4), nn.ReLU())]
    head = nn.Sequential(nn.Flatten(), nn.Linear(4 * 8 * 8, 3))
    return stirred(BlockNet(nn.Conv2d(3, 4, 1), blocks, head, input_shape=(3, 8, 8)))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_blocks(pair(), tmp_path / "net", **META)
    return tmp_path / "net"


def edit_manifest(folder: Path, **changes: object) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest.update(changes)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def replace_shard(folder: Path, name: str, data: bytes) -> None:
    """Put `data` in the place of a shard, with a manifest that fits, as somebody with bad intent would."""
    shards = json.loads((folder / MANIFEST).read_text())["shards"]
    shards[name].update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    (folder / f"{name}.safetensors").write_bytes(data)
    edit_manifest(folder, shards=shards)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Inside, the system refuses to let any file grow beyond `size` bytes: a disk that becomes full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# ---- what is saved comes back


def test_swapnet_comes_back_bit_for_bit(tmp_path):
    net = pair()
    manifest = save_blocks(net, tmp_path / "net", extra={"lattice": {"SSS": 50.0}}, **META)
    loaded = load_blocks(tmp_path / "net")
    assert manifest == tmp_path / "net" / MANIFEST
    assert isinstance(loaded, SwapNet) and not loaded.training
    assert state_hash(loaded) == state_hash(net) != state_hash(pair(seed=1))
    images = torch.randn(4, 3, 32, 32)
    for composition in all_compositions(3):
        assert torch.equal(loaded(images, composition), net(images, composition))
    assert not any(p.requires_grad for p in loaded.teacher.parameters())
    assert all(p.requires_grad for p in loaded.student.parameters())


def test_one_network_comes_back_bit_for_bit(tmp_path):
    net = stirred(vgg(STUDENT))
    save_blocks(net, tmp_path, **META)
    loaded = load_blocks(tmp_path)
    assert isinstance(loaded, BlockNet) and state_hash(loaded) == state_hash(net)
    assert loaded.config == net.config
    assert {f.name for f in tmp_path.glob("*.safetensors")} == {f"network-{i}.safetensors" for i in (1, 2, 3)}


def test_a_pair_without_converters_comes_back(tmp_path):
    teacher, student = stirred(vgg(STUDENT)), stirred(vgg(STUDENT))
    net = SwapNet(teacher, student, identity=True).eval()
    save_blocks(net, tmp_path, **META)
    assert {f.name.rpartition("-")[0] for f in tmp_path.glob("*.safetensors")} == {"teacher", "student"}
    loaded = load_blocks(tmp_path)
    assert loaded.identity and state_hash(loaded) == state_hash(net)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert all(torch.equal(loaded(images, c), net(images, c)) for c in all_compositions(3))


def test_a_pair_of_other_widths_needs_converters(saved):
    """A manifest that has lost them is refused."""
    manifest = json.loads((saved / MANIFEST).read_text())
    converters = [name for name in manifest["shards"] if name.startswith(("encoder", "decoder"))]
    for name in converters[:-1]:
        del manifest["shards"][name]
    with pytest.raises(StoreError, match="shards without"):
        check_manifest(manifest, "test")
    del manifest["shards"][converters[-1]]
    with pytest.raises(StoreError, match=r"no converters, and features .* expected converters, or the same of both"):
        check_manifest(manifest, "test")


def test_manifest_says_what_is_there(saved):
    manifest = read_manifest(saved)
    assert manifest["schema"] == 3 and manifest["kind"] == "swapnet" and manifest["num_blocks"] == 3
    assert manifest["classes"] == ["a", "b", "c"] and manifest["mean"] == [0.5, 0.4, 0.3]
    assert manifest["input_shape"] == [3, 32, 32]
    assert set(manifest["features"]) == {"teacher", "student"} and len(manifest["features"]["student"]) == 3
    assert list(manifest["shards"]) == shard_names("swapnet", 3)
    assert {f.name for f in saved.iterdir()} == {MANIFEST, *(e["file"] for e in manifest["shards"].values())}
    for entry in manifest["shards"].values():
        data = (saved / entry["file"]).read_bytes()
        assert len(data) == entry["bytes"] and hashlib.sha256(data).hexdigest() == entry["sha256"]


def test_channels_last_and_tied_weights_are_saved(tmp_path):
    net = plain_net().to(memory_format=torch.channels_last)
    net.blocks[1] = nn.Sequential(net.blocks[0], net.blocks[0])  # the same weights twice in one shard
    save_blocks(net, tmp_path, **META)
    loaded = load_blocks(tmp_path, networks={"network": net_like(net)})
    assert state_hash(loaded) == state_hash(net)


def net_like(net: BlockNet) -> BlockNet:
    """The same modules with other weights."""
    other = pickle.loads(pickle.dumps(net))
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    return other


def test_loading_does_not_shift_a_seeded_run(saved):
    torch.manual_seed(7)
    load_blocks(saved)
    after = torch.rand(3)
    torch.manual_seed(7)
    assert torch.equal(after, torch.rand(3))


def test_smaller_type_halves_the_weights_and_rounds_only_them(tmp_path):
    net = pair()
    save_blocks(net, tmp_path / "full", **META)
    save_blocks(net, tmp_path / "half", dtype=torch.float16, **META)
    sizes = [sum(e["bytes"] for e in read_manifest(tmp_path / name)["shards"].values()) for name in ("full", "half")]
    assert sizes[1] < 0.8 * sizes[0]
    full, half = load_blocks(tmp_path / "full").state_dict(), load_blocks(tmp_path / "half").state_dict()
    weights = {name for name, p in net.named_parameters() if p.ndim > 1}
    assert weights and any(not torch.equal(full[name], half[name]) for name in weights)
    for name, tensor in half.items():
        assert tensor.dtype == full[name].dtype
        assert torch.equal(tensor, full[name].half().float() if name in weights else full[name]), name


def test_weight_too_large_for_the_type_is_refused(tmp_path):
    net = stirred(vgg(STUDENT))
    net.blocks[1][0].weight.data[0] = 1e6
    with pytest.raises(StoreError, match=r"network-2.*0\.weight.*float16"):
        save_blocks(net, tmp_path / "net", dtype=torch.float16, **META)
    assert not (tmp_path / "net").exists()


# ---- networks that the package cannot build


def test_other_networks_are_filled_when_given(tmp_path):
    net = plain_net()
    save_blocks(net, tmp_path, **META)
    with pytest.raises(StoreError, match=r"network has no config.*networks=\{'network': net\}"):
        load_blocks(tmp_path)
    given = net_like(net)
    assert load_blocks(tmp_path, networks={"network": given}) is given
    assert state_hash(given) == state_hash(net)


def test_given_networks_must_be_those_of_the_manifest(saved):
    with pytest.raises(StoreError, match="networks given for 'network', expected 'student', 'teacher'"):
        load_blocks(saved, networks={"network": vgg(STUDENT)})
    four = VGGConfig(layers=("4 M", "6 M", "6 M", "6"), num_classes=3)
    with pytest.raises(StoreError, match="teacher has 4 blocks, expected 3"):
        load_blocks(saved, networks={"teacher": vgg(four), "student": vgg(STUDENT)})
    with pytest.raises(StoreError, match=r"student-1\.safetensors: .* is float32 \(4, 3, 3, 3\), expected .*\(8, 3"):
        load_blocks(saved, networks={"teacher": vgg(TEACHER), "student": vgg(TEACHER)})


def test_given_networks_stay_untouched_when_the_last_shard_is_damaged(saved):
    path = saved / "encoder-2.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    given = {"teacher": vgg(TEACHER), "student": vgg(STUDENT)}
    before = {name: state_hash(net) for name, net in given.items()}
    with pytest.raises(StoreError, match="encoder-2"):
        load_blocks(saved, networks=given)
    assert {name: state_hash(net) for name, net in given.items()} == before


# ---- damaged, missing and foreign shards


@pytest.mark.parametrize("position", [0, 20, -1])
def test_flipped_bit_is_noticed(saved, position):
    path = saved / "student-2.safetensors"
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreError, match=r"student-2\.safetensors: damaged.*SHA-256"):
        load_blocks(saved)


@pytest.mark.parametrize(
    ("change", "problem"),
    [(lambda d: d[:99], "truncated: 99 "), (lambda d: b"", "truncated: 0 "), (lambda d: d + d, "too long")],
)  # fmt: skip
@pytest.mark.parametrize("verify", [True, False])
def test_wrong_length_is_noticed(saved, change, problem, verify):
    path = saved / "teacher-3.safetensors"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(StoreError, match=rf"teacher-3\.safetensors: {problem}"):
        load_blocks(saved, verify=verify)


def test_missing_shard_is_named(saved):
    (saved / "teacher-2.safetensors").unlink()
    with pytest.raises(StoreError, match=r"teacher-2\.safetensors: missing"):
        load_blocks(saved)


def test_shard_of_another_save_is_noticed(saved, tmp_path):
    save_blocks(pair(seed=1), tmp_path / "other", **META)
    shutil.copy(tmp_path / "other" / "student-1.safetensors", saved)
    with pytest.raises(StoreError, match=r"student-1\.safetensors: damaged or of another save"):
        load_blocks(saved)


def test_foreign_shard_is_refused_even_if_the_manifest_fits(saved):
    replace_shard(saved, "teacher-2", (saved / "student-2.safetensors").read_bytes())
    with pytest.raises(StoreError, match=r"teacher-2\.safetensors: .*from another network"):
        load_blocks(saved)
    replace_shard(saved, "teacher-2", (saved / "teacher-3.safetensors").read_bytes())  # has a head as well
    with pytest.raises(StoreError, match=r"teacher-2\.safetensors: has 'head\.2\.bias', 'head\.2\.weight', which"):
        load_blocks(saved)
    replace_shard(saved, "teacher-3", (saved / "decoder-1.safetensors").read_bytes())
    replace_shard(saved, "teacher-2", b"\x02\0\0\0\0\0\0\0{}")  # valid, and empty
    with pytest.raises(StoreError, match=r"teacher-2\.safetensors: lacks '.*' and \d+ more"):
        load_blocks(saved)


def test_pickle_is_refused_and_does_not_run(saved, tmp_path):
    marker = tmp_path / "code has run"

    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(marker),)

    trap = pickle.dumps(Trap())
    torch.save(Trap(), tmp_path / "trap.pt")
    for data in (trap, (tmp_path / "trap.pt").read_bytes()):
        replace_shard(saved, "student-1", data)
        for verify in (True, False):
            with pytest.raises(StoreError, match=r"student-1\.safetensors: not a safetensors file"):
                load_blocks(saved, verify=verify)
        assert not marker.exists()
    pickle.loads(trap)
    assert marker.exists()  # the trap was real


# ---- the manifest


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"schema": 2}, "schema 2, expected 3"),
        ({"schema": True}, "schema True, expected 3"),
        ({"kind": "recipe"}, "kind 'recipe', expected one of swapnet, network"),
        ({"kind": "network"}, "networks without 'network', expected all of network"),
        ({"num_blocks": 4}, "shards without 'decoder-3', 'encoder-3', 'student-4' and 1 more, expected all of"),
        ({"num_blocks": "3"}, "num_blocks '3', expected a whole number"),
        ({"std": [0.1, 0.0, 0.1]}, r"std \[0.1, 0.0, 0.1\], expected a list of numbers above 0"),
        ({"mean": [0.5]}, r"mean \[0.5\] and std .*, expected as many"),
        ({"classes": "abc"}, "classes 'abc', expected a list of class names"),
        ({"shards": {}}, "shards without .* and 3 more"),
        ({"networks": {"teacher": {"family": "vgg"}, "student": None}}, "teacher cannot be built"),
        ({"networks": {"teacher": {"family": "xyz"}, "student": None}}, "family 'xyz': expected one of"),
    ],
)  # fmt: skip
def test_wrong_manifest_names_value_and_what_was_expected(saved, changes, expected):
    edit_manifest(saved, **changes)
    with pytest.raises(StoreError, match=expected) as error:
        load_blocks(saved)
    assert MANIFEST in str(error.value)


@pytest.mark.parametrize("key", ["schema", "kind", "num_blocks", "networks", "classes", "mean", "shards", "extra"])
def test_missing_key_is_named(saved, key):
    manifest = json.loads((saved / MANIFEST).read_text())
    del manifest[key]
    (saved / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(StoreError, match=f"missing.*'{key}'|'{key}' is missing"):
        read_manifest(saved)


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"', "\x00", "[" * 100_000, '{"schema": NaN}'])
def test_what_is_no_manifest_is_refused(saved, text):
    (saved / MANIFEST).write_text(text)
    with pytest.raises(StoreError, match=r"manifest\.json"):
        read_manifest(saved)


@pytest.mark.parametrize(
    "file",
    ["../outside.safetensors", "/outside.safetensors", "sub/outside.safetensors", r"..\outside.safetensors",
     "C:outside.safetensors", "..", "", ".safetensors", "outside.pt", None, 3],
)  # fmt: skip
def test_paths_out_of_the_folder_are_refused(saved, file):
    outside = saved.parent / "outside.safetensors"
    shutil.copy(saved / "teacher-1.safetensors", outside)  # it would load
    shards = read_manifest(saved)["shards"]
    shards["teacher-1"]["file"] = file
    edit_manifest(saved, shards=shards)
    with pytest.raises(StoreError, match=r"shard 'teacher-1' with file .*, expected a plain name"):
        load_blocks(saved)


def test_folder_or_manifest_missing(tmp_path):
    with pytest.raises(StoreError, match="nowhere: no such folder"):
        load_blocks(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file: not a folder"):
        load_blocks(tmp_path / "file")
    with pytest.raises(StoreError, match=r"manifest\.json: missing"):
        load_blocks(tmp_path)


# ---- saving, and saving over


def test_saving_over_replaces_all_and_leaves_other_files(saved):
    (saved / "notes.txt").write_text("mine")
    net = stirred(vgg(STUDENT), seed=3)
    save_blocks(net, saved, **META)
    assert state_hash(load_blocks(saved)) == state_hash(net)
    names = {f.name for f in saved.iterdir()}
    assert names == {MANIFEST, "notes.txt", *(f"network-{i}.safetensors" for i in (1, 2, 3))}


@pytest.mark.parametrize("size", [0, 1000, 3000])
def test_full_disk_leaves_nothing_half_written(tmp_path, size):
    with largest_file(size), pytest.raises(SaveError, match=r"could not be written"):
        save_blocks(pair(), tmp_path / "net", **META)
    assert not (tmp_path / "net").exists()


@pytest.mark.parametrize("size", [0, 1000, 3000])
def test_full_disk_leaves_the_earlier_save_as_it_was(saved, size):
    before = {f.name: f.read_bytes() for f in saved.iterdir()}
    some_fit = any(len(data) <= size for data in before.values())
    assert some_fit == (size > 0) and any(len(data) > size for data in before.values())
    with largest_file(size), pytest.raises(SaveError):
        save_blocks(pair(seed=1), saved, **META)
    assert {f.name: f.read_bytes() for f in saved.iterdir()} == before
    assert state_hash(load_blocks(saved)) == state_hash(pair())


def test_manifest_is_put_in_place_last(tmp_path):
    (tmp_path / "teacher-1.safetensors").mkdir()  # the last shard to be put in place: it cannot be
    with pytest.raises(SaveError, match="teacher-1"):
        save_blocks(pair(), tmp_path, **META)
    names = {f.name for f in tmp_path.iterdir()}
    assert "decoder-1.safetensors" in names and not {n for n in names if n.startswith(".") or n == MANIFEST}
    with pytest.raises(StoreError, match="incomplete"):
        load_blocks(tmp_path)


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "net").write_text("mine")
    with pytest.raises(SaveError, match="net"):
        save_blocks(pair(), tmp_path / "net", **META)
    assert (tmp_path / "net").read_text() == "mine"


@pytest.mark.parametrize(
    "extra", [{"x": torch.zeros(2)}, {"x": float("nan")}, {"x": {1, 2}}, ["not an object"]],
    ids=["tensor", "nan", "set", "list"],
)  # fmt: skip
def test_extra_that_json_cannot_hold(tmp_path, extra):
    with pytest.raises(StoreError, match="extra"):
        save_blocks(pair(), tmp_path / "net", extra=extra, **META)
    assert not (tmp_path / "net").exists()


def test_only_networks_made_of_blocks_are_saved(tmp_path):
    with pytest.raises(StoreError, match="a Linear: expected a SwapNet or a BlockNet"):
        save_blocks(nn.Linear(2, 2), tmp_path / "net", **META)
    assert not (tmp_path / "net").exists()
