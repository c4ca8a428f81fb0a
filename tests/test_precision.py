"""Weights in fewer bytes: what is stored is what rounding gives, and what is loaded is what is stored."""

import json

import pytest
import safetensors.torch
import torch
from streaming_for_tests import IMAGES, META, assert_answers, expected_logits, opened, pair, replace_shard
from torch import nn

from pwl_lite.convert import bytes_on_the_way, convert
from pwl_lite.errors import StoreError, UnknownNameError
from pwl_lite.manifest import read_manifest
from pwl_lite.precision import (
    PRECISIONS,
    SCALE,
    dequantise,
    from_store,
    is_weight,
    precision_of,
    quantise,
    round_weights,
    to_store,
)
from pwl_lite.records import find_weights
from pwl_lite.store import load_blocks, save_blocks, shard_parts
from pwl_lite.streaming import ProgressiveModel

KINDS = ["teacher", "student", "encoder", "decoder"]
MIXED = {"student": torch.int8, "teacher": torch.float16, "encoder": torch.bfloat16}
ALL = [torch.float32, torch.float16, torch.bfloat16, torch.int8, MIXED]


def sizes(folder) -> dict[str, int]:
    return {name: entry["bytes"] for name, entry in read_manifest(folder)["shards"].items()}


def holding(values: list, name: str = "weight") -> nn.Module:
    """A module with one parameter."""
    module = nn.Module()
    module.register_parameter(name, nn.Parameter(torch.tensor(values)))
    return module


# ---- int8


def test_quantise_by_hand():
    weight = torch.tensor([[127.0, -63.6, 0.4, 0.6], [-31.75, 0.25, 0.1, 15.9], [0.0, 0.0, 0.0, 0.0]])
    steps, scale = quantise(weight)
    assert steps.dtype == torch.int8 and scale.dtype == torch.float16
    assert scale.tolist() == [1.0, 0.25, 1.0]
    assert steps.tolist() == [[127, -64, 0, 1], [-127, 1, 0, 64], [0, 0, 0, 0]]
    expected = torch.tensor([[127.0, -64.0, 0.0, 1.0], [-31.75, 0.25, 0.0, 16.0], [0.0, 0.0, 0.0, 0.0]])
    assert torch.allclose(dequantise(steps, scale), expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(5, 7), (4, 3, 3, 3), (6, 1, 3, 3), (1, 2), (2, 3, 2)])
def test_quantised_weights_are_at_most_half_a_step_away(shape):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 3
    steps, scale = quantise(weight)
    assert steps.shape == weight.shape and scale.shape == shape[:1]
    error = (dequantise(steps, scale) - weight).abs().flatten(1).amax(1)
    assert (error <= scale.float() * 0.5001).all()
    assert (steps.flatten(1).abs().amax(1) == 127).all()


def test_rounding_twice_is_rounding_once():
    for dtype in PRECISIONS.values():
        layer = nn.Conv2d(5, 4, 3)
        round_weights(layer, dtype)
        once = layer.weight.clone()
        round_weights(layer, dtype)
        assert torch.allclose(layer.weight, once, rtol=1e-6, atol=0)


def test_channels_of_zeros_and_tiny_values():
    weight = torch.tensor([[0.0, 0.0], [1e-44, 0.0], [1e-30, -1e-30]])
    steps, scale = quantise(weight)
    assert scale.dtype == torch.float32  # float16 would make zeros of them
    loaded = dequantise(steps, scale)
    assert loaded.isfinite().all() and torch.allclose(loaded[2], weight[2], rtol=0.01, atol=0) and not loaded[0].any()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_int8_cannot_hold_what_is_not_finite(value):
    with pytest.raises(StoreError, match=r"here: head\.weight has values that are not finite, which int8 cannot hold"):
        to_store(nn.ModuleDict({"head": holding([[1.0, value]])}), torch.int8, "here")


def test_half_precision_cannot_hold_what_is_too_large():
    with pytest.raises(StoreError, match=r"here: w has values beyond torch\.float16"):
        to_store(holding([[1e5]], "w"), torch.float16, "here")
    assert to_store(holding([[1e5]], "w"), torch.bfloat16, "here")["w"].isfinite().all()
    stored = to_store(holding([[float("inf"), 2.0]], "w"), torch.float16, "here")["w"]
    assert stored[0, 0] == float("inf")  # it was so before


def test_vectors_beside_int8_weights_are_halves_where_they_fit():
    net = nn.Sequential(nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3))
    net[1].running_var.copy_(torch.tensor([1.0, 2.0, 65_504.0]))
    net[1].running_mean.copy_(torch.tensor([0.1, 7e4, 1.0]))  # 70,000 is beyond float16
    net[1].weight.data.copy_(torch.tensor([1.0, float("nan"), 1.0]))
    stored = to_store(net, torch.int8, "here")
    halves = {name for name, tensor in stored.items() if tensor.dtype == torch.float16}
    assert halves == {"0.bias", "0.weight" + SCALE, "1.bias", "1.running_var"}
    assert stored["1.num_batches_tracked"].dtype == torch.int64
    loaded = from_store(stored, "here")
    assert {name: t.dtype for name, t in loaded.items()} == {name: t.dtype for name, t in net.state_dict().items()}
    assert torch.allclose(loaded["0.bias"], net[0].bias, rtol=2**-11, atol=2**-25)
    assert torch.equal(loaded["1.running_var"], net[1].running_var)
    wider = to_store(net, torch.float16, "here")
    assert [name for name, tensor in wider.items() if tensor.dtype == torch.float16] == ["0.weight"]


@pytest.mark.parametrize(
    "change",
    [
        {"w": None}, {"w": torch.ones(2, 3)}, {"w": torch.ones(2, dtype=torch.int8)}, {"w" + SCALE: torch.ones(3)},
        {"w" + SCALE: torch.ones(2, 1)}, {"w" + SCALE: torch.tensor(1.0)}, {"w" + SCALE: torch.ones(2, dtype=torch.int64)},
        {"w" + SCALE: torch.ones(2, dtype=torch.float64)}, {"w" + SCALE: torch.ones(2).to(torch.float8_e4m3fn)},
        {"w" + SCALE: torch.ones(2, dtype=torch.complex64)}, {"w" + SCALE: torch.empty(0)}, {SCALE: torch.ones(2)},
        {"w" + SCALE + SCALE: torch.ones(2)},
    ],
    ids=str,
)  # fmt: skip
def test_scales_that_fit_no_weight_are_refused(change):
    good = {"w": torch.ones(2, 3, dtype=torch.int8), "w" + SCALE: torch.ones(2), "b": torch.ones(2)}
    assert set(from_store(good, "here")) == {"w", "b"}
    assert set(from_store(good | {"w" + SCALE: torch.ones(2).half()}, "here")) == {"w", "b"}
    damaged = {name: tensor for name, tensor in (good | change).items() if tensor is not None}
    with pytest.raises(StoreError, match=r"here: '.*::scale' fits no int8 weight"):
        from_store(damaged, "here")


# ---- of which type


def test_types_by_kind_of_shard():
    assert precision_of("student-2", MIXED) == torch.int8 and precision_of("teacher-10", MIXED) == torch.float16
    assert precision_of("decoder-1", MIXED) is None and precision_of("network-1", None) is None
    assert precision_of("network-1", torch.bfloat16) == torch.bfloat16
    with pytest.raises(UnknownNameError, match="kind of shard 'students': expected one of teacher, student, encoder"):
        precision_of("student-2", {"students": torch.int8})
    for wrong in (torch.float64, torch.int16, torch.bool, "int8"):
        with pytest.raises(UnknownNameError, match=r"precision .*: expected one of float32, float16, bfloat16, int8"):
            precision_of("student-1", {"student": wrong})


def test_only_matrices_and_filters_are_stored_smaller():
    layer = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3))
    assert [is_weight(p) for p in layer.parameters()] == [True, False, False, False]


# ---- saved, loaded, streamed


@pytest.mark.parametrize("dtype", ALL, ids=str)
def test_what_is_stored_is_what_rounding_gives(tmp_path, dtype):
    net = pair()
    save_blocks(net, tmp_path, dtype=dtype, **META)
    rounded = pair()
    for name, part in shard_parts(rounded).items():
        if precision_of(name, dtype) is not None:
            round_weights(part, precision_of(name, dtype))
    loaded, full = load_blocks(tmp_path).state_dict(), net.state_dict()
    for name, tensor in rounded.state_dict().items():
        assert torch.equal(loaded[name], tensor) and loaded[name].dtype == full[name].dtype, name
    assert any(not torch.equal(loaded[name], full[name]) for name in full) == (dtype != torch.float32)


@pytest.mark.parametrize("dtype", ALL, ids=str)
@pytest.mark.parametrize("verify", [True, False])
def test_the_streaming_model_answers_as_the_loaded_network(tmp_path, dtype, verify):
    save_blocks(pair(), tmp_path, dtype=dtype, **META)
    expected = expected_logits(tmp_path)
    events = []
    with opened(tmp_path, verify=verify, on_event=events.append) as model:
        assert_answers(model, expected, "SSS")
        for order in ("prefix", "suffix", (2, 1, 3)):
            model.load_teacher(order)
            while model.status.loading:
                assert_answers(model, expected)
            assert_answers(model, expected, "TTT")
            model.unload_to("SSS")
        assert all(t.dtype == torch.float32 for part in model._held.values() for t in part.parameters())


def test_a_narrow_student_of_int8_takes_a_quarter_of_its_bytes(tmp_path):
    """Also where norms and scales are many: the shipped student."""
    folder = find_weights("cifar10-vgg-cifar-seed0")
    convert(folder, tmp_path / "wide", torch.float32)
    convert(folder, tmp_path / "narrow", torch.int8, compress=True)
    assert 4 * bytes_on_the_way(tmp_path / "narrow")["student"] < bytes_on_the_way(tmp_path / "wide")["student"]


def test_bytes_shrink(tmp_path):
    wide = {"family": "vgg", "layers": ["24 M", "32 M", "32 M"], "num_classes": 3}
    net = pair(0, wide, wide)
    total = {}
    for name, dtype in PRECISIONS.items():
        save_blocks(net, tmp_path / name, dtype=dtype, **META)
        total[name] = sum(n for shard, n in sizes(tmp_path / name).items() if shard.startswith("student"))
    assert max(total["float16"], total["bfloat16"]) < 0.6 * total["float32"]
    assert total["int8"] < 0.35 * total["float32"]


def test_only_the_kinds_that_are_named_shrink(tmp_path):
    save_blocks(pair(), tmp_path / "full", **META)
    full = sizes(tmp_path / "full")
    for kind in KINDS:
        save_blocks(pair(), tmp_path / kind, dtype={kind: torch.float16}, **META)
        smaller = {name for name, n in sizes(tmp_path / kind).items() if n < full[name]}
        assert smaller == {name for name in full if name.startswith(kind)}


def test_int8_answers_nearly_as_before(tmp_path):
    net = pair()
    save_blocks(net, tmp_path, dtype=torch.int8, **META)
    with opened(tmp_path) as model, torch.inference_mode():
        before, after = net(IMAGES, "SSS"), model(IMAGES)
        assert not torch.equal(before, after) and (before - after).abs().max() < 0.05 * before.abs().max()


@pytest.mark.parametrize("damage", ["no-scale", "no-weight", "short-scale", "swapped", "float-scale", "two-dimensions"])
@pytest.mark.parametrize("verify", [True, False])
def test_damaged_scales_in_a_shard(tmp_path, damage, verify):
    save_blocks(pair(), tmp_path, dtype=torch.int8, **META)
    tensors = safetensors.torch.load((tmp_path / "student-2.safetensors").read_bytes())
    scale = next(name for name in tensors if name.endswith(SCALE))
    weight = scale.removesuffix(SCALE)
    if damage == "no-scale":
        del tensors[scale]
    elif damage == "no-weight":
        del tensors[weight]
    elif damage == "short-scale":
        tensors[scale] = tensors[scale][:-1].clone()
    elif damage == "swapped":
        tensors[scale], tensors[weight] = tensors[weight], tensors[scale]
    elif damage == "float-scale":
        tensors[scale] = tensors[scale].to(torch.float8_e4m3fn)
    else:
        tensors[scale] = tensors[scale][:, None].clone()
    replace_shard(tmp_path, "student-2", safetensors.torch.save(tensors))
    with pytest.raises(StoreError, match="student-2"):
        load_blocks(tmp_path)
    with pytest.raises((StoreError, ValueError), match="student-2"):
        ProgressiveModel.open(tmp_path, patience=0, verify=verify)


def test_the_manifest_names_no_type(tmp_path):
    """Each tensor has its own type in the shard's header: nothing else has to be believed."""
    save_blocks(pair(), tmp_path, dtype=MIXED, **META)
    assert "int8" not in json.dumps({k: v for k, v in read_manifest(tmp_path).items() if k != "shards"})
    tensors = safetensors.torch.load((tmp_path / "student-1.safetensors").read_bytes())
    assert {t.dtype for t in tensors.values()} == {torch.int8, torch.float16, torch.int64}
