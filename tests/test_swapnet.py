"""Networks of blocks, compositions, loading orders and the swapping of blocks."""

import math
from itertools import pairwise

import pandas as pd
import pytest
import torch
from naive_pwl import one_pass
from networks_for_tests import tiny_net, tiny_pair
from torch import nn

import pwl_lite as pwl
from pwl_lite.blocknet import BlockNet, boundary_shapes
from pwl_lite.errors import CompositionError, NetworkError, UnknownNameError
from pwl_lite.swapnet import Dip, OrderFreedom, lattice_steps


def test_parameters_bytes_and_macs_of_a_vgg_by_hand():
    net = pwl.vgg(pwl.VGGConfig(layers=("8 M", "16s"), num_classes=10))
    conv, depthwise, pointwise, norms, linear = 3 * 8 * 9, 8 * 9, 8 * 16, 2 * 8 + 2 * 16, 16 * 10 + 10
    assert pwl.num_params(net) == conv + depthwise + pointwise + norms + linear
    buffers = 4 * (2 * 8 + 2 * 16) + 2 * 8  # means and variances, and two int64 counters of batches
    assert pwl.num_bytes(net) == 4 * pwl.num_params(net) + buffers
    assert pwl.block_macs(net) == [conv * 32 * 32, (depthwise + pointwise) * 16 * 16 + 160]


def test_the_stem_counts_for_the_first_block_and_the_head_for_the_last():
    net = pwl.vgg(pwl.VGGConfig(layers=("8 M", "16"), stem=24))
    assert pwl.block_macs(net) == [24 * 12 * 31 * 31 + 24 * 8 * 9 * 31 * 31, 8 * 16 * 9 * 15 * 15 + 160]
    assert set(net.part(0)) == {"embed", "block"} and set(net.part(1)) == {"block", "head"}
    assert sum(pwl.num_bytes(net.part(i)) for i in range(2)) == pwl.num_bytes(net)


def test_features_and_head_are_the_forward_pass():
    net, _ = tiny_pair()
    images = torch.randn(2, 3, 32, 32)
    features = net.eval().features(images)
    assert len(features) == net.num_blocks
    assert torch.equal(net.head(features[-1]), net(images))
    assert boundary_shapes(net) == [tuple(f.shape[1:]) for f in features[:-1]]
    assert not net.training and all(not m.training for m in net.modules())


def test_measuring_leaves_the_network_as_it_was():
    net, _ = tiny_pair()
    net.train()
    net.blocks[1].eval()
    before = pwl.state_hash(net)
    pwl.block_macs(net)
    boundary_shapes(net)
    assert pwl.state_hash(net) == before
    assert net.blocks[0].training and not net.blocks[1].training


def test_whitening_makes_patches_uncorrelated():
    net = pwl.vgg(pwl.VGGConfig(layers=("8 M", "16"), stem=24))
    torch.manual_seed(0)
    images = nn.functional.avg_pool2d(torch.randn(64, 3, 34, 34), 3, stride=1)  # neighbours are alike, as in photographs
    images = images / images.std()
    pwl.whiten_stem(net, images)
    outputs = net.embed[0](images)[:, :12].permute(0, 2, 3, 1).flatten(0, 2)
    covariance = outputs.T @ outputs / len(outputs)
    assert (covariance - torch.eye(12)).abs().max() < 0.05
    assert not net.embed[0].weight.requires_grad


def test_whitening_needs_twice_the_values_of_a_patch():
    with pytest.raises(NetworkError, match=r"16 channels.*needs 24"):
        pwl.whiten_stem(pwl.vgg(pwl.VGGConfig(layers=("8 M", "16"), stem=16)), torch.randn(4, 3, 32, 32))


@pytest.mark.parametrize("block", ["M 64", "64M", "sixty", "", "64  M", "64 X"])
def test_a_block_that_cannot_be_read_is_named(block):
    with pytest.raises(NetworkError, match="VGG block"):
        pwl.VGGConfig(layers=("8", block))


def test_unknown_family_profile_and_config_field_are_named():
    with pytest.raises(UnknownNameError, match="family 'vg': expected one of vgg, resnet, vit"):
        pwl.build_network({"family": "vg", "layers": ["8", "8"]})
    with pytest.raises(UnknownNameError, match="family 'alexnet': expected one of vgg, resnet, vit"):
        pwl.build_pair("alexnet")
    with pytest.raises(UnknownNameError, match="profile 'huge': expected one of quick, cifar, paper"):
        pwl.build_pair("vgg", profile="huge")
    with pytest.raises(NetworkError, match="width"):
        pwl.build_network({"family": "vgg", "layers": ["8", "8"], "width": 3})


def test_one_block_is_not_swappable():
    with pytest.raises(NetworkError, match="1 blocks"):
        BlockNet(nn.Identity(), [nn.Identity()], nn.Identity())


@pytest.mark.parametrize(("profile", "family"), [(name, family) for name, each in pwl.PROFILES.items() for family in each])
def test_every_profile_builds_a_pair_that_can_be_swapped(profile, family):
    teacher, student = pwl.build_pair(family, profile, num_classes=7)
    net = pwl.SwapNet(teacher, student)
    with torch.no_grad():
        assert net.eval()(torch.zeros(1, 3, 32, 32), "TS" * (net.num_blocks // 2)).shape == (1, 7)


def test_the_cifar_pair_keeps_its_budgets():
    teacher, student = pwl.build_pair("vgg", "cifar")
    assert pwl.num_params(teacher) <= 2_500_000
    assert pwl.num_bytes(student) <= 0.10 * pwl.num_bytes(teacher)


@pytest.mark.parametrize(
    ("family", "teacher_millions", "student_millions"), [("vgg", 14.7, 3.9), ("resnet", 5.3, 1.2), ("vit", 5.4, 2.7)]
)
def test_the_paper_pairs_have_the_papers_widths_and_depths(family, teacher_millions, student_millions):
    # the paper's ViT (5.5 and 2.9) sees 224 x 224 images, so it has more positions and larger patches
    teacher, student = pwl.build_pair(family, "paper")
    assert pwl.num_params(teacher) / 1e6 == pytest.approx(teacher_millions, abs=0.06)
    assert pwl.num_params(student) / 1e6 == pytest.approx(student_millions, abs=0.06)


@pytest.mark.parametrize("composition", pwl.all_compositions(4))
def test_compositions_run_the_blocks_that_they_name(composition):
    net = tiny_net().eval()
    images = torch.randn(3, 3, 32, 32)
    assert torch.equal(net(images, composition), one_pass(net, images, composition))


def test_the_ends_of_the_lattice_are_the_two_networks_bit_for_bit():
    teacher, student = tiny_pair()
    net = pwl.SwapNet(teacher, student).eval()
    images = torch.randn(5, 3, 32, 32)
    assert torch.equal(net(images, "TTTT"), teacher(images))
    assert torch.equal(net(images, "SSSS"), student(images))


def test_training_mode_does_not_reach_the_teacher():
    net = tiny_net().train()
    assert net.student.training and not any(m.training for m in net.teacher.modules())
    assert not any(p.requires_grad for p in net.teacher.parameters())


@pytest.mark.parametrize("composition", ["TTX", "TTTTT", "tsss", "", None, 5])
def test_a_wrong_composition_is_named(composition):
    with pytest.raises(CompositionError, match=r"composition .*: expected 4 letters of 'S' and 'T'"):
        tiny_net()(torch.zeros(1, 3, 32, 32), composition)


def test_networks_that_do_not_fit_are_refused():
    teacher, _ = tiny_pair()
    with pytest.raises(NetworkError, match="4 blocks and a student of 2"):
        pwl.SwapNet(teacher, pwl.vgg(pwl.VGGConfig(layers=("8 M", "8 M"))))
    with pytest.raises(NetworkError, match=r"after block 1 .*\(32, 32\).*\(16, 16\)"):
        pwl.SwapNet(teacher, pwl.vgg(pwl.VGGConfig(layers=("8", "8 M", "8 M", "8 M"))))


def test_all_compositions():
    assert pwl.all_compositions(2) == ["SS", "TS", "ST", "TT"]
    assert len(set(pwl.all_compositions(5))) == 32


def test_loading_orders():
    assert pwl.loading_order("prefix", 4) == (1, 2, 3, 4)
    assert pwl.loading_order("suffix", 4) == (4, 3, 2, 1)
    assert pwl.loading_order("contiguous", 4) == (2, 3, 1, 4)
    assert pwl.loading_order([3, 1, 2], 3) == (3, 1, 2)
    assert len(pwl.all_orders(4)) == math.factorial(4)
    assert len(pwl.contiguous_orders(4)) == 8 and pwl.loading_order("contiguous", 4) in pwl.contiguous_orders(4)
    assert (1, 3, 2, 4) not in pwl.contiguous_orders(4)


@pytest.mark.parametrize("order", ["random", [1, 2], [1, 2, 3, 3], [0, 1, 2, 3]])
def test_a_wrong_order_is_named(order):
    with pytest.raises(CompositionError, match=r"loading order .*expected 'prefix', 'suffix', 'contiguous' or a permutation"):
        pwl.loading_order(order, 4)


def test_paths_and_dips():
    assert pwl.path("prefix", 3) == ["SSS", "TSS", "TTS", "TTT"]
    assert pwl.path("suffix", 3) == ["SSS", "SST", "STT", "TTT"]
    assert pwl.path((2, 1, 3), 3) == ["SSS", "STS", "TTS", "TTT"]
    accuracy = {"SS": 90.0, "TS": 89.5, "ST": 91.0, "TT": 92.0}
    assert pwl.dips(accuracy, "prefix") == [Dip("SS", "TS", 0.5)]
    assert pwl.dips(accuracy, "suffix") == []


def test_how_far_a_lattice_is_from_being_loadable_in_any_order():
    found = pwl.order_freedom({"SS": 90.0, "TS": 89.5, "ST": 91.0, "TT": 88.0})
    assert found == OrderFreedom(90.0, "TT", 2.0, Dip("ST", "TT", 3.0))
    found = pwl.order_freedom({"SS": 90.0, "TS": 91.0, "ST": 90.5, "TT": 92.0})
    assert found == OrderFreedom(90.0, "SS", 0.0, Dip("SS", "ST", -0.5))
    assert pwl.order_freedom(pd.Series({"SS": 90.0, "TS": 91.0, "ST": 90.5, "TT": 92.0})) == found
    assert len(lattice_steps(4)) == 4 * 2**3  # each of 4 blocks, whatever the other 3 are
    every = {step for order in pwl.all_orders(3) for step in pairwise(pwl.path(order, 3))}
    assert every == set(lattice_steps(3))
    with pytest.raises(KeyError):
        pwl.order_freedom({"SS": 90.0, "TT": 92.0})
