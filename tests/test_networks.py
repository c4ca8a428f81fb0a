"""ResNet and ViT as networks of blocks, and networks from elsewhere made swappable. (VGG: test_swapnet.)"""

import pytest
import torch
from torch import Tensor, nn

import pwl_lite as pwl
from pwl_lite._compat import import_torchvision
from pwl_lite.blocknet import BlockNet, feature_shapes
from pwl_lite.errors import NetworkError, UnknownNameError
from pwl_lite.networks import EncoderLayer
from pwl_lite.objectives.features import attention_map, embedding

models = import_torchvision().models

RESNET = {"family": "resnet", "widths": [4, 8], "depths": [1, 2], "num_classes": 10}
VIT = {"family": "vit", "width": 8, "depths": [1, 2], "heads": 2, "mlp_ratio": 2.0, "num_classes": 10}


def test_parameters_bytes_and_macs_of_a_resnet_by_hand():
    net = pwl.build_network(RESNET)
    stem, first = 3 * 4 * 9, 2 * 4 * 4 * 9
    second = 4 * 8 * 9 + 8 * 8 * 9 + 4 * 8 + 2 * 8 * 8 * 9  # the first block of the stage has a 1x1 shortcut
    channels = 4 + 2 * 4 + 5 * 8  # of all norms: the stem's, two in the first stage, three and two in the second
    head = 8 * 10 + 10
    assert pwl.num_params(net) == stem + first + second + 2 * channels + head
    norms = 3 + 5
    assert pwl.num_bytes(net) == 4 * pwl.num_params(net) + 4 * 2 * channels + 8 * norms
    assert pwl.block_macs(net) == [(stem + first) * 32 * 32, second * 16 * 16 + 8 * 10]
    assert feature_shapes(net) == [(4, 32, 32), (8, 16, 16)]


def test_parameters_and_macs_of_a_separable_resnet_by_hand():
    net = pwl.build_network({**RESNET, "separable": True})
    stem, first = 3 * 4 * 9, 2 * (4 * 9 + 4 * 4)
    down, rest, shortcut = (4 * 9 + 4 * 8), 3 * (8 * 9 + 8 * 8), 4 * 8
    channels = 4 + 2 * 4 + 5 * 8
    assert pwl.num_params(net) == stem + first + down + rest + shortcut + 2 * channels + 8 * 10 + 10
    assert pwl.block_macs(net) == [(stem + first) * 32 * 32, (down + rest + shortcut) * 16 * 16 + 8 * 10]
    assert feature_shapes(net) == [(4, 32, 32), (8, 16, 16)]


def test_parameters_and_macs_of_a_resnet_with_a_stem_strides_and_hidden_widths_by_hand():
    net = pwl.build_network({**RESNET, "stem": 24, "strides": [2, 1], "hidden": [3, 5]})
    stem = 3 * 24 * 4
    first = 24 * 3 * 9 + 3 * 4 * 9 + 24 * 4
    second = 4 * 5 * 9 + 5 * 8 * 9 + 4 * 8 + 8 * 5 * 9 + 5 * 8 * 9
    channels = (3 + 4 + 4) + (5 + 8 + 8 + 5 + 8)
    assert pwl.num_params(net) == stem + 24 + first + second + 2 * channels + 8 * 10 + 10
    assert pwl.block_macs(net) == [stem * 31 * 31 + first * 16 * 16, second * 16 * 16 + 8 * 10]
    assert feature_shapes(net) == [(4, 16, 16), (8, 16, 16)]
    assert pwl.build_network(net.config).config == net.config


@pytest.mark.parametrize("masked", [False, True])
def test_a_layer_trains_as_torchs_own_does(masked):
    """Outputs and gradients, in training mode, where ours goes its own way on a CPU."""
    torch.manual_seed(0)
    options = {"dropout": 0.0, "activation": "gelu", "batch_first": True, "norm_first": True}
    ours, theirs = EncoderLayer(12, 3, 20, **options), nn.TransformerEncoderLayer(12, 3, 20, **options)
    theirs.load_state_dict(ours.state_dict())
    tokens, results = torch.randn(4, 5, 12), []
    mask = {"src_mask": nn.Transformer.generate_square_subsequent_mask(5), "is_causal": True} if masked else {}
    for layer in (ours.train(), theirs.train()):
        x = tokens.clone().requires_grad_()
        out = layer(x, **mask)
        out.square().sum().backward()
        results.append([out.detach(), x.grad, *(p.grad for p in layer.parameters())])
    for own, expected in zip(*results, strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-4)


def test_a_layer_leaves_to_torch_what_it_does_not_know():
    """A mask of padding, or the norm last: torch's way, in training too."""
    torch.manual_seed(0)
    tokens, padding = torch.randn(2, 5, 8), torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    for options, mask in (({"norm_first": True}, {"src_key_padding_mask": padding}), ({"norm_first": False}, {})):
        kinds = EncoderLayer, nn.TransformerEncoderLayer
        ours, theirs = (kind(8, 2, 16, dropout=0.0, batch_first=True, **options) for kind in kinds)
        theirs.load_state_dict(ours.state_dict())
        torch.testing.assert_close(ours.train()(tokens, **mask), theirs.train()(tokens, **mask))


def test_dropout_acts_on_attention_while_a_layer_trains():
    layer = EncoderLayer(8, 2, 16, dropout=0.5, batch_first=True, norm_first=True)
    tokens = torch.randn(2, 3, 8)
    with torch.no_grad():
        assert not torch.equal(layer.train()(tokens), layer(tokens))
        assert torch.equal(layer.eval()(tokens), layer(tokens))


def test_a_vit_trains_with_the_attention_that_it_answers_with():
    torch.manual_seed(0)
    net = pwl.build_network(VIT)
    images = torch.randn(2, 3, 32, 32)
    assert torch.allclose(net.train()(images), net.eval()(images), atol=1e-5)


def test_a_fresh_resnet_keeps_the_size_of_its_signal():
    """He's start: before the norms, a convolution's output is about as large as its input, depthwise ones included."""
    torch.manual_seed(0)
    for separable in (False, True):
        net = pwl.build_network({"family": "resnet", "widths": [64, 64], "depths": [1, 1], "separable": separable})
        x = torch.randn(8, 64, 16, 16)
        for convolution in [m for m in net.blocks[0][0].residual if isinstance(m, nn.Conv2d)]:
            assert 0.9 < float(convolution(x).detach().std()) / 2**0.5 < 1.1
            x = torch.randn_like(x)


@pytest.mark.parametrize("pool", ["mean", "class"])
def test_parameters_bytes_and_macs_of_a_vit_by_hand(pool):
    net = pwl.build_network({**VIT, "pool": pool})
    patches, tokens = 64, 64 + (pool == "class")
    project, places, class_token = 3 * 16 * 8, tokens * 8, 8 * (pool == "class")
    attention, mlp, norms = (3 + 1) * 8 * 8, 2 * 8 * 16, 2 * 2 * 8
    layer = attention + 4 * 8 + mlp + 16 + 8 + norms
    assert pwl.num_params(net) == project + 8 + places + class_token + 3 * layer + 16 + 8 * 10 + 10
    assert pwl.num_bytes(net) == 4 * pwl.num_params(net)
    macs = tokens * (attention + mlp) + 2 * tokens * tokens * 8  # the products of queries with keys and of weights with values
    assert pwl.block_macs(net) == [patches * project + macs, 2 * macs + 8 * 10]
    assert feature_shapes(net) == [(tokens, 8)] * 2


def test_the_final_norm_of_the_vit_is_applied():
    net = pwl.build_network(VIT).eval()
    tokens = torch.randn(2, 64, 8)
    assert torch.allclose(net.head(tokens), net.head(5 * tokens), atol=1e-4)  # a layer norm does not see the scale
    nn.init.constant_(net.head.norm.weight, 0.0)
    assert torch.allclose(net.head(tokens), net.head.classifier.bias.expand(2, -1))


def test_the_vit_pools_what_it_is_told_to():
    tokens = torch.randn(2, 65, 8)
    changed = tokens.clone()
    changed[:, 1:] += 1 + torch.rand(2, 64, 8)
    for pool, same in (("class", True), ("mean", False)):
        head = pwl.build_network({**VIT, "pool": pool}).eval().head
        assert torch.allclose(head(tokens), head(changed)) == same


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({**RESNET, "depths": [1]}, r"widths \[4, 8\] and depths \[1\]"),
        ({**RESNET, "depths": [1, 0]}, r"depths \[1, 0\]"),
        ({**RESNET, "hidden": [4]}, r"widths \[4, 8\] and depths \[1, 2\] and hidden \[4\]"),
        ({**RESNET, "widths": [], "depths": []}, "expected as many of the one as of the other, all above 0"),
        ({**VIT, "heads": 3}, "width 8 with 3 heads"),
        ({**VIT, "patch": 5}, "32 pixels in patches of 5"),
        ({**VIT, "depth": 5}, "unexpected keyword argument 'depth'"),
    ],
)
def test_a_wrong_config_is_named(config, message):
    with pytest.raises(NetworkError, match=message):
        pwl.build_network(config)


def test_an_unknown_pooling_is_named():
    with pytest.raises(UnknownNameError, match="pool 'max': expected one of mean, class"):
        pwl.build_network({**VIT, "pool": "max"})


PAIRS = {
    "resnet": (RESNET, {**RESNET, "widths": [3, 5], "depths": [1, 1]}),
    "vit": (VIT, {**VIT, "width": 6, "depths": [1, 1]}),
    "vit, class token": ({**VIT, "pool": "class"}, {**VIT, "pool": "class", "width": 6, "depths": [1, 1]}),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_a_pair_trains_by_pwl_and_comes_back_from_disk(pair, tmp_path):
    from networks_for_tests import tiny_data

    torch.manual_seed(0)
    data = tiny_data()
    net = pwl.SwapNet(*(pwl.build_network({**config, "num_classes": 3}) for config in PAIRS[pair]))
    recipe = pwl.Recipe(epochs=3, batch_size=16, lr=3e-3, optimizer="adamw")
    history = pwl.train(pwl.ProgressiveDistillation(net, converter_lr=1.0), data, recipe, progress=False)
    assert history[-1]["loss"]["sync"] < history[0]["loss"]["sync"]
    assert history[-1]["loss"]["reconstruction"] < history[0]["loss"]["reconstruction"]
    pwl.save_blocks(net, tmp_path, classes=data.classes, mean=data.mean, std=data.std)
    assert pwl.state_hash(pwl.load_blocks(tmp_path)) == pwl.state_hash(net)
    lattice = pwl.evaluate_lattice(net, data.test).set_index("composition")
    assert lattice.agreement["TT"] == 100


def test_tokens_and_maps_do_not_fit_together():
    with pytest.raises(NetworkError, match=r"student's features are 64 tokens, the teacher's \(32, 32\) in height and width"):
        pwl.SwapNet(pwl.build_network(RESNET), pwl.build_network(VIT))


def test_features_of_tokens_and_of_maps_mean_the_same():
    maps = torch.randn(2, 5, 3, 4)
    tokens = maps.flatten(2).transpose(1, 2)
    assert torch.allclose(attention_map(maps), attention_map(tokens))
    assert torch.allclose(embedding([maps]), embedding([tokens]), atol=1e-6)


# ---------------------------------------------------------------- networks from elsewhere


def wrapped_resnet18(net: nn.Module) -> BlockNet:
    embed = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
    head = nn.Sequential(net.avgpool, nn.Flatten(), net.fc)
    return BlockNet(embed, [net.layer1, net.layer2, net.layer3, net.layer4], head, input_shape=(3, 224, 224))


class Tokens(nn.Module):
    """What torchvision's ViT does in front of its layers."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.project, self.class_token, self.positions = net.conv_proj, net.class_token, net.encoder.pos_embedding

    def forward(self, images: Tensor) -> Tensor:
        patches = self.project(images).flatten(2).transpose(1, 2)
        return torch.cat([self.class_token.expand(len(images), -1, -1), patches], dim=1) + self.positions


class FirstToken(nn.Module):
    def forward(self, tokens: Tensor) -> Tensor:
        return tokens[:, 0]


def wrapped_vit(net: nn.Module, blocks: int = 4) -> BlockNet:
    layers = list(net.encoder.layers)
    per_block = len(layers) // blocks
    groups = [nn.Sequential(*layers[i : i + per_block]) for i in range(0, len(layers), per_block)]
    head = nn.Sequential(net.encoder.ln, FirstToken(), net.heads)
    return BlockNet(Tokens(net), groups, head, input_shape=(3, net.image_size, net.image_size))


@pytest.mark.parametrize(("build", "wrap"), [(models.resnet18, wrapped_resnet18), (models.vit_b_16, wrapped_vit)])
@torch.no_grad()
def test_an_unmodified_torchvision_network_is_swappable(build, wrap):
    torch.manual_seed(0)
    original = build(weights=None).eval()
    teacher = wrap(original)
    if build is models.resnet18:
        student = wrap(models.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1]))
    else:
        student = wrap(models.VisionTransformer(224, 16, num_layers=4, num_heads=2, hidden_dim=32, mlp_dim=64))
    net = pwl.SwapNet(teacher, student).eval()
    images = torch.randn(2, 3, 224, 224)
    assert torch.equal(net(images, "TTTT"), original(images))
    assert sum(p.numel() for p in original.parameters()) == pwl.num_params(teacher)
    assert net(images, "TSST").shape == (2, 1000)


def test_descriptions_that_would_lose_a_part_are_refused():
    with pytest.raises(NetworkError, match=r"VGG block '64 M M': expected convolutions .* with or without one 'M' behind each"):
        pwl.build_network({"family": "vgg", "layers": ["64 M M", "64"]})
    with pytest.raises(NetworkError, match=r"dropout = 2: expected a share from 0 to below 1"):
        pwl.build_network({"family": "vit", "width": 8, "depths": [1, 1], "heads": 2, "dropout": 2})


def test_only_a_stem_is_whitened_no_patches_of_a_transformer():
    net = pwl.build_network({"family": "vit", "width": 24, "depths": [1, 1], "heads": 2, "patch": 2})
    before = pwl.state_hash(net)
    pwl.whiten_stem(net, torch.randn(8, 3, 32, 32))
    assert pwl.state_hash(net) == before and net.embed.patches.weight.requires_grad
