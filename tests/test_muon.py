"""Muon on filters, SGD on the rest: each as the library's own, whatever the memory format."""

import copy

import pytest
import torch
from networks_for_tests import tiny_data, tiny_pair
from torch import nn

import pwl_lite as pwl
from pwl_lite import training
from pwl_lite.errors import TrainingError
from pwl_lite.muon import MuonSGD, is_filter


def network(memory_format=torch.contiguous_format) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 6, 1), nn.Flatten(), nn.Linear(6 * 16, 2)]
    return nn.Sequential(*layers).to(memory_format=memory_format)


def steps(net: nn.Module, optimizers, n: int = 3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(n):
        images = torch.randn(4, 3, 8, 8, generator=generator)
        for optimizer in optimizers:
            optimizer.zero_grad()
        net(images).square().sum().backward()
        for optimizer in optimizers:
            optimizer.step()
    return [p.detach().clone() for p in net.parameters()]


def groups(net: nn.Module) -> list[dict]:
    filters = [p for p in net.parameters() if is_filter(p)]
    rest = [p for p in net.parameters() if not is_filter(p)]
    return [
        {"params": rest, "lr": 1e-3, "weight_decay": 0.0, "muon": False},
        {"params": filters, "lr": 0.05, "weight_decay": 0.1, "muon": True},
    ]


def test_filters_are_those_of_convolutions_that_mix_channels():
    assert [is_filter(p) for p in network().parameters()] == [True, False, False, False, True, False, False, False]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_one_optimizer_does_what_the_two_of_torch_do(memory_format):
    net = network(memory_format)
    found = steps(net, [MuonSGD(groups(net), momentum=0.8)])

    class Matrices(nn.Module):
        """The same network with its filters stored as matrices, as torch's Muon wants them."""

        def __init__(self):
            super().__init__()
            self.net = network()
            filters = [p.detach().flatten(1) for p in self.net.parameters() if is_filter(p)]
            self.filters = nn.ParameterList(map(nn.Parameter, filters))
            self.shapes = {name: p.shape for name, p in self.net.named_parameters() if is_filter(p)}

        def forward(self, x):
            values = {name: m.view(self.shapes[name]) for name, m in zip(self.shapes, self.filters, strict=True)}
            return torch.func.functional_call(self.net, values, x)

    reference = Matrices()
    rest = [p for p in reference.net.parameters() if not is_filter(p)]
    muon = torch.optim.Muon(reference.filters, lr=0.05, weight_decay=0.1, momentum=0.6)
    steps(reference, [muon, torch.optim.SGD(rest, lr=1e-3, momentum=0.8, nesterov=True)])
    expected = [*reference.filters, *rest]
    ours = [p for p in found if is_filter(p)] + [p for p in found if not is_filter(p)]
    for a, b in zip(ours, expected, strict=True):
        # bf16 inside Muon: another order of the columns rounds differently
        torch.testing.assert_close(a.reshape(b.shape), b.detach(), atol=2e-3, rtol=0)
    start = [p for p in network().parameters() if is_filter(p)]
    assert all((a - b).abs().max() > 0.02 for a, b in zip(ours, start, strict=False))  # far more than the tolerance


def test_its_state_comes_back():
    net = network()
    first = MuonSGD(groups(net), momentum=0.8)
    steps(net, [first])
    saved = copy.deepcopy({"net": net.state_dict(), "optimizer": first.state_dict()})
    expected = steps(net, [first])
    other = network()
    other.load_state_dict(saved["net"])
    second = MuonSGD(groups(other), momentum=0.8)
    second.load_state_dict(saved["optimizer"])
    assert all(torch.equal(a, b) for a, b in zip(steps(other, [second]), expected, strict=True))


def test_a_scheduler_moves_both_rates():
    net = network()
    optimizer = MuonSGD(groups(net), momentum=0.8)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0)
    before = [p.clone() for p in net.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(steps(net, [optimizer]), before, strict=True))


def test_the_recipe_gives_it_to_filters_only_and_it_learns():
    objective = pwl.Supervised(tiny_pair()[0])
    recipe = pwl.Recipe(epochs=3, batch_size=16, optimizer="muon", lr=0.05, muon_lr=0.05, flip=False)
    optimizer = training._optimizer(objective, recipe)
    assert isinstance(optimizer, MuonSGD)
    for group in optimizer.param_groups:
        assert all(is_filter(p) == group["muon"] for p in group["params"])
        assert group["lr"] == (0.05 * recipe.bias_lr if not group["muon"] else recipe.muon_lr)
    data = tiny_data(train=240)
    pwl.train(objective, data, recipe, progress=False)
    assert pwl.accuracy(objective.model, data.test) > 80


def test_an_old_torch_is_named(monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(TrainingError, match=r"optimizer 'muon': torch .* expected torch 2\.9"):
        MuonSGD(groups(network()), momentum=0.8)
