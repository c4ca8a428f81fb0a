"""Muon for the filters of a network, SGD for everything else, as one optimizer.

Muon (Jordan and others, 2024, https://kellerjordan.github.io/posts/muon/) replaces the step of a weight matrix by the nearest
orthogonal matrix: all directions of the matrix learn at the same pace, and far fewer steps are needed. `torch.optim.Muon` takes
matrices only; here the filters of a convolution are shown to it as one, a row per output channel.
"""

from typing import Any

import torch
from torch import Tensor, nn


def is_filter(parameter: Tensor) -> bool:
    """Whether Muon is for it: the filters of a convolution that mixes channels (a depthwise one is no matrix)."""
    return parameter.ndim == 4 and parameter.shape[1] > 1


class MuonSGD(torch.optim.SGD):
    """Groups marked `"muon": True` are stepped by Muon, all others by SGD with Nesterov momentum.

    Args:
        groups: as for SGD. Learning rates may be changed in `param_groups` at any time, as schedulers do.
        momentum: of SGD.
        muon_momentum: of Muon.

    Source: Muon on filters beside Nesterov SGD on the rest, with momentum 0.6 and 0.85, is how the CIFAR-10 speed record of
    Keller Jordan's cifar10-airbench was set.
    """

    def __init__(self, groups: list[dict[str, Any]], momentum: float, muon_momentum: float = 0.6):
        super().__init__(groups, lr=0.0, momentum=momentum, nesterov=momentum > 0)
        self.filters = [group for group in self.param_groups if group.get("muon")]
        twins = [{"params": [nn.Parameter(_matrix(p.data)) for p in group["params"]]} for group in self.filters]
        self.muon = torch.optim.Muon(twins, momentum=muon_momentum) if twins else None

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        if self.muon:
            for group, twins in zip(self.filters, self.muon.param_groups, strict=True):
                twins["lr"], twins["weight_decay"] = group["lr"], group["weight_decay"]
                for p, twin in zip(group["params"], twins["params"], strict=True):
                    twin.data = _matrix(p.data)  # the same memory, also after a checkpoint or another memory format
                    twin.grad = None if p.grad is None else _matrix(p.grad)
                    p.grad = None  # so that SGD passes over it
            self.muon.step()
        super().step()

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"muon": self.muon.state_dict() if self.muon else None}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        state = dict(state_dict)
        if muon := state.pop("muon"):
            self.muon.load_state_dict(muon)
        super().load_state_dict(state)
        self.filters = [group for group in self.param_groups if group.get("muon")]


def _matrix(filters: Tensor) -> Tensor:
    """Filters (out, in, height, width) as a matrix (out, in x height x width), in the order in which they lie in memory."""
    if filters.is_contiguous():
        return filters.flatten(1)
    return filters.movedim(1, -1).flatten(1)
