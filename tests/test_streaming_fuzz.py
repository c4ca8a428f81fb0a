"""`ProgressiveModel` driven at random and fed with damage: an error or right weights; no crash, hang or wrong tensor."""

import copy
import hashlib
import json
import random
import resource
import shutil
import time
import zlib
from threading import Event as Flag

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test
from streaming_for_tests import (
    COMPOSITIONS,
    IMAGES,
    SHORT_PAUSES,
    TEACHER,
    assert_answers,
    edit_manifest,
    expected_logits,
    opened,
    save,
)

from pwl_lite import sources
from pwl_lite.errors import CompositionError, NetworkError, PWLError, StoreError, StreamingError, UnknownNameError
from pwl_lite.manifest import MANIFEST, needed_shards, parse_manifest, read_manifest
from pwl_lite.networks import build_network
from pwl_lite.precision import SCALE
from pwl_lite.server import FAULTS, Fault, ShardServer
from pwl_lite.sources import Fetcher, Source
from pwl_lite.store import load_blocks
from pwl_lite.streaming import ProgressiveModel
from pwl_lite.swapnet import covers

LONGEST = 5.0  # seconds for one damaged file: far more than any needs, far less than a hang


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(sources, "PAUSES", SHORT_PAUSES)


@pytest.fixture(scope="module", params=["float32", "int8"])
def folder(request, tmp_path_factory):
    return save(tmp_path_factory.mktemp("saved") / "net", dtype=getattr(torch, request.param))


@pytest.fixture(scope="module")
def plain_folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("saved") / "plain")


# ---- damage


HUGE = [10**6, 2**31, 10**9, 2**63, 10**18, 10**30, 10**400, 1e308, float("inf"), float("nan"), float("-inf")]
WRONG = [
    None, True, False, -1, 0, 1, 2, 3, 3.5, "", "x", "T" * 500, "9" * 5000, "8 M", "8s M 8", "M", "1000000 M", "../x", "\0",
    [], {}, [[]], [None], ["8 M"] * 2000, [10**9] * 3, [1] * 3, list(range(1200)), {"a": 1}, {"family": "vit"},
]  # fmt: skip


def nested(depth: int) -> object:
    value: object = 1
    for i in range(depth):
        value = [value] if i % 2 else {"x": value}
    return value


def places(value: object, at: tuple = ()) -> list[tuple]:
    """The paths to all values in a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path for key, inner in items for path in [(*at, key), *places(inner, (*at, key))]]


def damage_json(value: object, choose: random.Random) -> object:
    value = json.loads(json.dumps(value))
    for _ in range(choose.choice([1, 1, 1, 2, 4])):
        found = places(value)
        if not found:
            return value
        *way, last = choose.choice(found)
        inner = value
        for key in way:
            inner = inner[key]
        kind = choose.randrange(5)
        if kind == 0:
            del inner[last]
        elif kind == 1:
            inner[last] = choose.choice(HUGE)
        elif kind == 2:
            inner[last] = nested(choose.choice([1, 3, 50]))
        elif kind == 3 and isinstance(inner, dict):
            inner[choose.choice([*inner, "new"])] = inner.pop(last)
        else:
            inner[last] = copy.deepcopy(choose.choice(WRONG))
    return value


def damage_bytes(data: bytes, choose: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(choose.choice([1, 1, 2, 10])):
        at = choose.randrange(len(changed) + 1)
        kind = choose.randrange(5)
        if kind == 0:
            del changed[at:]
        elif kind == 1:
            changed[at:at] = choose.randbytes(choose.choice([1, 8, 200]))
        elif kind == 2:
            del changed[at : at + choose.choice([1, 8, 100])]
        elif at < len(changed):
            changed[at] ^= 1 << choose.randrange(8)
    return bytes(changed)


def damage_header(data: bytes, choose: random.Random) -> bytes:
    """A shard whose header says something else."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    kind = choose.randrange(4)
    if kind == 0:
        a, b = choose.choice(list(header)), choose.choice(list(header))
        header[a], header[b] = header[b], header[a]
    elif kind == 1:
        types = [
            "F64",
            "F32",
            "F16",
            "BF16",
            "I64",
            "I32",
            "I8",
            "U8",
            "BOOL",
            "F8_E4M3",
            "F8_E5M2",
            "C64",
            "U16",
            "F4",
            "X",
            3,
        ]
        header[choose.choice(list(header))]["dtype"] = choose.choice(types)
    elif kind == 2:
        name = choose.choice(list(header))
        count = header[name]["data_offsets"][1] - header[name]["data_offsets"][0]
        header[name].update(dtype=choose.choice(["U8", "I8", "BOOL", "F8_E4M3"]), shape=[count])
    else:
        header = damage_json(header, choose)
    text = json.dumps(header).encode()
    stated = choose.choice([len(text)] * 6 + [0, 1, len(text) - 1, len(text) + 1, 2**40, 2**64 - 1])
    return stated.to_bytes(8, "little") + text + data[8 + length :]


def weights_of(data: bytes) -> dict[str, torch.Tensor]:
    """What a shard holds, read by other means than those that are tested."""
    raw = safetensors.torch.load(data)
    weights = {name: tensor for name, tensor in raw.items() if not name.endswith(SCALE)}
    for name in weights:
        if name + SCALE in raw:
            scale = raw[name + SCALE]
            weights[name] = torch.stack([row.float() * s for row, s in zip(raw[name], scale)])
    return weights


def same(loaded: torch.Tensor, stored: torch.Tensor) -> bool:
    return loaded.shape == stored.shape and torch.equal(
        loaded.nan_to_num(7.0) if loaded.is_floating_point() else loaded,
        stored.to(loaded.dtype).nan_to_num(7.0) if loaded.is_floating_point() else stored.to(loaded.dtype),
    )


def assert_holds(model: ProgressiveModel, weights: dict[str, dict[str, torch.Tensor]]) -> None:
    for name, part in model._held.items():
        state = part.state_dict()
        assert state and set(state) == set(weights[name])
        for key, tensor in state.items():
            assert same(tensor, weights[name][key]), (name, key)


class _Watch:
    """Each case ends in time, and all together take no memory worth speaking of."""

    def __enter__(self):
        self.longest, self.before = 0.0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return self

    def __call__(self, action):
        started = time.monotonic()
        try:
            return action()
        finally:
            self.longest = max(self.longest, time.monotonic() - started)
            assert self.longest < LONGEST

    def __exit__(self, *error):
        if error[0] is None:
            assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - self.before < 300_000  # kB


def test_what_is_compared_can_differ(folder):
    weights = {name: weights_of((folder / f"{name}.safetensors").read_bytes()) for name in read_manifest(folder)["shards"]}
    with opened(folder) as model:
        model.load_teacher((2, 1, 3), background=False)
        assert_holds(model, weights)
        model.unload_to("STS")
        assert_holds(model, weights)
        with torch.no_grad():
            next(iter(model._held["decoder-1"].parameters())).view(-1)[0] += 1e-3
        with pytest.raises(AssertionError):
            assert_holds(model, weights)


# ---- damaged manifests


def try_folder(folder, weights, verify: bool) -> str:
    """Open, load and answer with what lies in the folder; what came of it."""
    try:
        with opened(folder, verify=verify, patience=0.0) as model:
            assert_holds(model, weights)
            try:
                model(IMAGES)
                model.load_teacher(background=False, patience=0.0)
            except RuntimeError:
                return "weights right, images of another shape"  # a config may say how often to pool
            assert_holds(model, weights)
            model(IMAGES)
            return "loaded"
    except PWLError as error:
        assert str(error)
        return type(error).__name__


@pytest.mark.parametrize("kind", ["values", "bytes"])
def test_damaged_manifests(plain_folder, tmp_path, kind):
    shutil.copytree(plain_folder, tmp_path / "net")
    weights = {
        name: weights_of((plain_folder / f"{name}.safetensors").read_bytes()) for name in read_manifest(plain_folder)["shards"]
    }
    text = (plain_folder / MANIFEST).read_bytes()
    choose = random.Random(kind)
    results: dict[str, int] = {}
    with _Watch() as watch:
        for i in range(500):
            if kind == "values":
                damaged = json.dumps(damage_json(json.loads(text), choose)).encode()
            else:
                damaged = damage_bytes(text, choose)
            (tmp_path / "net" / MANIFEST).write_bytes(damaged)
            result = watch(lambda: try_folder(tmp_path / "net", weights, verify=i % 2 == 0))  # noqa: B023
            results[result] = results.get(result, 0) + 1
    assert results["loaded"] > 0 and results["StoreError"] > 100, results  # both ways out were taken


def test_damaged_manifests_and_all_at_once(plain_folder, tmp_path):
    """`load_blocks` reads the same manifests."""
    shutil.copytree(plain_folder, tmp_path / "net")
    state = load_blocks(plain_folder).state_dict()
    manifest = json.loads((plain_folder / MANIFEST).read_bytes())
    choose = random.Random(1)
    loaded = 0
    with _Watch() as watch:
        for _ in range(300):
            (tmp_path / "net" / MANIFEST).write_text(json.dumps(damage_json(manifest, choose)))
            try:
                net = watch(lambda: load_blocks(tmp_path / "net"))
            except PWLError:
                continue
            loaded += 1
            assert all(same(tensor, state[name]) for name, tensor in net.state_dict().items())
    assert loaded > 10


def test_damaged_manifests_as_text(plain_folder):
    text = (plain_folder / MANIFEST).read_bytes()
    choose = random.Random(2)
    refused = 0
    with _Watch() as watch:
        for _ in range(1500):
            try:
                watch(lambda: parse_manifest(damage_bytes(text, choose), "here"))
            except StoreError:
                refused += 1
    assert 500 < refused < 1500


@pytest.mark.parametrize(
    "config",
    [
        {"family": "resnet", "widths": [8, 8, 8], "depths": [10**9, 1, 1]},
        {"family": "resnet", "widths": [8, 8, 8], "depths": [10**30, 1, 1]},
        {"family": "resnet", "widths": [8, 8, 8], "depths": [400, 400, 400]},
        {"family": "resnet", "widths": [8] * 2000, "depths": [1] * 2000},
        {"family": "resnet", "widths": [10**9, 8, 8], "depths": [1, 1, 1]},
        {"family": "resnet", "widths": [2**20, 2**20, 2**20], "depths": [1, 1, 1]},
        {"family": "resnet", "widths": "888", "depths": [1, 1, 1]},
        {"family": "vgg", "layers": ["8 " * 2000 + "8", "8", "8"]},
        {"family": "vgg", "layers": ["8"] * 10**5},
        {"family": "vgg", "layers": ["9" * 30, "8", "8"]},
        {"family": "vgg", "layers": ["9" * 5000, "8", "8"]},
        {"family": "vgg", "layers": ["99999999", "99999999", "99999999"]},
        {"family": "vgg", "layers": ["8", "8", "8"], "num_classes": 10**18},
        {"family": "vgg", "layers": ["8", "8", "8"], "num_classes": 2**20},
        {"family": "vgg", "layers": ["8", "8", "8"], "num_classes": -1},
        {"family": "vgg", "layers": ["8", "8", "8"], "num_classes": "3"},
        {"family": "vgg", "layers": ["8", "8", "8"], "logit_scale": [1.0]},
        {"family": "vgg", "layers": ["8", "8", "8"], "logit_scale": float("nan")},
        {"family": "vgg", "layers": ["8", "8", "8"], "norm_scale": "no"},
        {"family": "vgg", "layers": [["8"], "8", "8"]},
        {"family": "vgg", "layers": {"8": 1}},
        {"family": "vgg", "layers": ["8", "8", "8"], "stem": 10**12},
        {"family": "vgg", "layers": ["8", "8", "8"], "new": 1},
        {"family": "vit", "width": 8, "depths": [1, 1, 1], "heads": 0},
        {"family": "vit", "width": 8, "depths": [1, 1, 1], "heads": 2, "patch": 0},
        {"family": "vit", "width": 8, "depths": [1, 10**9, 1], "heads": 2},
        {"family": "vit", "width": 2**20, "depths": [1, 1, 1], "heads": 2},
        {"family": "vit", "width": 8, "depths": [1, 1, 1], "heads": 2, "image_size": 10**12},
        {"family": "vit", "width": 8, "depths": [1, 1, 1], "heads": 2, "image_size": 2**20},
        {"family": "vit", "width": 8, "depths": [1, 1, 1], "heads": 2, "mlp_ratio": float("inf")},
        {"family": "vit", "width": 8, "depths": [1, 1, 1], "heads": 2, "mlp_ratio": 1e300},
        {"family": "vit", "width": 8, "depths": [1, 1, 1], "heads": 2, "pool": ["mean"]},
        {"family": ["vgg"], "layers": ["8", "8", "8"]},
        {"family": None},
        {},
    ],
    ids=lambda config: str(config)[:60],
)  # fmt: skip
def test_configs_that_would_keep_a_machine_busy(plain_folder, tmp_path, config):
    shutil.copytree(plain_folder, tmp_path / "net")
    edit_manifest(tmp_path / "net", lambda manifest: manifest["networks"].update(teacher=config))
    with _Watch() as watch:
        for load in (load_blocks, lambda folder: opened(folder, patience=0.0).__enter__()):
            with pytest.raises(StoreError, match=r"teacher (cannot be built|has)"):
                watch(lambda: load(tmp_path / "net"))  # noqa: B023


def test_configs_are_checked_where_networks_are_built():
    with pytest.raises(NetworkError, match=r"config of a resnet network: depths = \[1000000\].*at most 1,000 layers"):
        build_network({"family": "resnet", "widths": [8], "depths": [1000000]})
    with pytest.raises(NetworkError, match=r"num_classes = 5000000, expected .*int.* at most 1,048,576"):
        build_network({"family": "vgg", "layers": ["8", "8"], "num_classes": 5_000_000})
    with pytest.raises(UnknownNameError, match="family None"):
        build_network({})
    assert build_network({**TEACHER, "layers": tuple(TEACHER["layers"]), "logit_scale": 1}).num_blocks == 3


@pytest.mark.parametrize("shape", [[], [3], [3, 0, 8], [3, 10**6, 10**6], [3, 8, 8, 8], [0, 0, 0], [10**30, 1, 1]], ids=str)
def test_images_of_no_sensible_shape(plain_folder, tmp_path, shape):
    shutil.copytree(plain_folder, tmp_path / "net")
    edit_manifest(tmp_path / "net", lambda manifest: manifest.update(input_shape=shape))
    with pytest.raises(StoreError, match=r"input_shape .*, expected \(channels, height, width\)"):
        opened(tmp_path / "net", patience=0.0).__enter__()


# ---- damaged shards


def loaded_part(model: ProgressiveModel, fetcher: Fetcher, watch: _Watch, name: str, entry: dict) -> torch.nn.Module | None:
    """What the model makes of a shard; None where it refuses it, with an error that names the shard."""
    try:
        return watch(lambda: model._shapes.filled(name, fetcher.shard(entry, model._shapes.largest(name), Flag(), 0.0)))
    except PWLError as error:
        assert name in str(error)
        return None


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("damage", [damage_bytes, damage_header], ids=["bytes", "header"])
def test_damaged_shards_whose_manifest_fits(folder, tmp_path, damage, verify):
    """Length and SHA-256 are right: what is loaded is what the shard holds under these names, of the right shapes."""
    manifest = read_manifest(folder)
    choose = random.Random(f"{damage.__name__} {verify}")
    outcomes: dict[bool, int] = {True: 0, False: 0}
    fetcher = Fetcher(Source(tmp_path), None, verify)
    contents = {name: (folder / f"{name}.safetensors").read_bytes() for name in manifest["shards"]}
    with opened(folder) as model, _Watch() as watch:
        for _ in range(300):
            name = choose.choice(list(contents))
            data = damage(contents[name], choose)
            (tmp_path / f"{name}.safetensors").write_bytes(data)
            entry = {"file": f"{name}.safetensors", "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            part = loaded_part(model, fetcher, watch, name, entry)
            outcomes[part is not None] += 1
            if part is None:
                continue
            weights, state = weights_of(data), part.state_dict()
            assert all(same(tensor, weights[key]) for key, tensor in state.items()) and set(state) == set(weights)
            wanted = model._shapes.state(name)
            assert all(state[key].shape == t.shape and state[key].dtype == t.dtype for key, t in wanted.items())
    assert min(outcomes.values()) > 5, outcomes


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("damage", ["within", "stream", "length"])
def test_damaged_compressed_shards_whose_manifest_fits(folder, tmp_path, damage, verify):
    """Damage before it is compressed, of what is compressed, and a false length of what comes out."""
    manifest = read_manifest(folder)
    choose = random.Random(f"{damage} {verify}")
    outcomes: dict[bool, int] = {True: 0, False: 0}
    fetcher = Fetcher(Source(tmp_path), None, verify)
    with opened(folder) as model, _Watch() as watch:
        for _ in range(300):
            name = choose.choice(list(manifest["shards"]))
            data = (folder / f"{name}.safetensors").read_bytes()
            if damage == "within":
                data = choose.choice([damage_bytes, damage_header])(data, choose)
            stream, inflated = zlib.compress(data), len(data)
            if damage == "stream":
                stream = choose.choice([damage_bytes(stream, choose), zlib.compress(data, choose.randrange(10))])
            elif damage == "length":
                inflated = choose.choice([inflated, inflated - 1, inflated + 1, 0, 1, *(n for n in HUGE if type(n) is int)])
            (tmp_path / f"{name}.zlib").write_bytes(stream)
            sha256 = hashlib.sha256(stream).hexdigest()
            entry = {"file": f"{name}.zlib", "bytes": len(stream), "inflated": inflated, "sha256": sha256}
            part = loaded_part(model, fetcher, watch, name, entry)
            outcomes[part is not None] += 1
            if part is None:
                continue
            weights = weights_of(data)
            assert all(same(tensor, weights[key]) for key, tensor in part.state_dict().items())
    assert min(outcomes.values()) > 5, outcomes


def test_what_a_folder_claims_is_compared_with_its_files_first(plain_folder, tmp_path):
    """A network of a billion numbers, and a manifest that claims shards for it."""
    shutil.copytree(plain_folder, tmp_path / "net")
    huge = {"family": "vgg", "layers": ["20000", "20000", "20000"], "num_classes": 3}

    def claim(manifest, **entry):
        manifest["networks"]["teacher"] = huge
        manifest["features"]["teacher"] = [[20000, 8, 8]] * 3
        manifest["shards"]["teacher-1"] |= entry

    edit_manifest(tmp_path / "net", lambda manifest: claim(manifest, bytes=10**12))
    with _Watch() as watch, pytest.raises(StoreError, match=r"teacher-1\.safetensors: truncated: \d+ bytes, expected 10{12}"):
        watch(lambda: load_blocks(tmp_path / "net"))
    small = read_manifest(plain_folder)["shards"]["teacher-1"]["bytes"]
    edit_manifest(tmp_path / "net", lambda manifest: claim(manifest, bytes=small, inflated=10**12))
    for load in (load_blocks, lambda folder: opened(folder, patience=0.0).__enter__()):
        with _Watch() as watch, pytest.raises(StoreError, match=r"shard 'teacher-1' with inflated 10{12}, expected a whole"):
            watch(lambda: load(tmp_path / "net"))  # noqa: B023


@pytest.mark.parametrize("verify", [True, False])
def test_damaged_shards_whose_manifest_fits_in_a_model(folder, tmp_path, verify):
    """The same with all around it: what answers before goes on answering."""
    expected = expected_logits(folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    shutil.copytree(folder, tmp_path / "net")
    choose = random.Random(verify)
    with _Watch() as watch:
        for _ in range(40):
            name = choose.choice([name for name in manifest["shards"] if not name.startswith("decoder")])
            original = (folder / f"{name}.safetensors").read_bytes()
            data = choose.choice([damage_bytes, damage_header])(original, choose)
            (tmp_path / "net" / f"{name}.safetensors").write_bytes(data)
            entry = {**manifest["shards"][name], "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            (tmp_path / "net" / MANIFEST).write_text(json.dumps({**manifest, "shards": manifest["shards"] | {name: entry}}))

            def load(name=name):
                with opened(tmp_path / "net", patience=0.0, verify=verify) as model:
                    if not name.startswith("student"):
                        assert_answers(model, expected, "SSS")
                    model.load_teacher(background=False, patience=0.0)

            try:
                watch(load)
            except PWLError as error:
                assert name in str(error)
            (tmp_path / "net" / f"{name}.safetensors").write_bytes(original)


def test_damaged_shards_are_noticed(folder, tmp_path):
    """With the true SHA-256 no damage at all gets through."""
    manifest = read_manifest(folder)
    choose = random.Random(5)
    fetcher = Fetcher(Source(tmp_path), None)
    for _ in range(300):
        name, entry = choose.choice(list(manifest["shards"].items()))
        data = (folder / entry["file"]).read_bytes()
        damaged = choose.choice([damage_bytes, damage_header])(data, choose)
        (tmp_path / entry["file"]).write_bytes(damaged)
        if damaged != data:
            with pytest.raises(StreamingError, match=f"{name}.safetensors: (truncated|too long|damaged)"):
                fetcher.shard(entry, 10**6, Flag(), 0.0)


# ---- any order of things


KINDS = sorted(set(FAULTS) - {"drip"})


class Machine(RuleBasedStateMachine):
    """A model and a server, driven at random. An open model answers as the composition that it names."""

    folder = expected = None

    @initialize()
    def start(self):
        self.server = ShardServer(self.folder)
        self.port = int(self.server.url.rpartition(":")[2])
        self.model = None
        self.cache = None

    def teardown(self):
        try:
            if self.model is not None:  # when all is well again, it finishes
                self.come_back()
                self.heal()
                self.model.load_teacher()
                assert self.model.wait("TTT", timeout=20) == "TTT"
                assert_answers(self.model, self.expected, "TTT")
                assert set(self.model._held) == set(needed_shards("TTT"))
                self.model.unload_to("SSS")
                assert set(self.model._held) == set(needed_shards("SSS"))
                self.close()
        finally:
            self.server.close()

    @rule(patience=st.sampled_from([0.0, 0.05]), budget=st.booleans())
    @precondition(lambda self: self.model is None)
    def open(self, patience, budget):
        try:
            self.model = ProgressiveModel.open(
                f"http://127.0.0.1:{self.port}", cache=False, timeout=0.05, patience=patience,
                memory_budget=10**9 if budget else None,
            )  # fmt: skip
        except StreamingError:
            assert self.server.closing.is_set() or self.server.faults
        else:
            assert self.model.composition == "SSS"

    @rule(order=st.sampled_from(["prefix", "suffix", "contiguous", "best", (2, 1, 3)]), background=st.booleans())
    @precondition(lambda self: self.model is not None)
    def load(self, order, background):
        well = not self.server.closing.is_set() and not self.server.faults
        try:
            self.model.load_teacher(order, background=background, patience=None if background else 0.05)
        except StreamingError:
            assert not well and not background
        else:
            assert background or self.model.composition == "TTT"

    @rule(composition=st.sampled_from(COMPOSITIONS))
    @precondition(lambda self: self.model is not None)
    def unload(self, composition):
        well = not self.server.closing.is_set() and not self.server.faults
        before = self.model.composition
        try:
            self.model.unload_to(composition, patience=0.05)
        except CompositionError:
            assert not covers(before, composition)
        except StreamingError:
            assert not well
        else:
            assert self.model.composition == composition
            assert set(self.model._held) == set(needed_shards(composition))
            assert not self.model.status.loading

    @rule(name=st.sampled_from([MANIFEST, *(f"{kind}-{i}.safetensors" for kind in ("teacher", "student") for i in (1, 2, 3))]),
          kind=st.sampled_from(KINDS), times=st.sampled_from([1, 2, None]))  # fmt: skip
    def fault(self, name, kind, times):
        self.server.faults[name] = Fault(kind, times)

    @rule()
    def heal(self):
        self.server.faults.clear()

    @rule()
    @precondition(lambda self: not self.server.closing.is_set())
    def vanish(self):
        self.server.close()

    @rule()
    def come_back(self):
        if self.server.closing.is_set():
            self.server = ShardServer(self.folder, port=self.port)

    @rule(until=st.sampled_from([None, *COMPOSITIONS]))
    @precondition(lambda self: self.model is not None)
    def wait(self, until):
        try:
            reached = self.model.wait(until, timeout=0.05)
        except TimeoutError:
            assert self.model.status.loading or self.model.composition == "TTT"
        except StreamingError:
            assert not self.model.status.loading and not covers(self.model.composition, until)
        else:
            assert until is None or covers(reached, until)

    @rule()
    @precondition(lambda self: self.model is not None)
    def close(self):
        self.model.close()
        with pytest.raises(StreamingError, match="closed"):
            self.model(IMAGES)
        assert not self.model._held and not self.model.status.loading
        self.model = None

    @invariant()
    def answers(self):
        if getattr(self, "model", None) is not None:
            assert_answers(self.model, self.expected)
            status = self.model.status
            assert 0 <= status.bytes_done and covers("TTT", status.composition)
            assert set(self.model._held) <= set(self.model.manifest["shards"])


def test_any_order_of_things(tmp_path, monkeypatch):
    save(tmp_path)
    monkeypatch.setattr(Machine, "folder", tmp_path)
    monkeypatch.setattr(Machine, "expected", expected_logits(tmp_path))
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=25, stateful_step_count=20, derandomize=True, deadline=None, database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip
