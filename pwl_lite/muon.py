"""Muon for the filters of a network, SGD for everything else, as one optimizer.

Muon (Jordan and others, 2024, https://kellerjordan.github.io/posts/muon/) replaces the step of a weight matrix by the nearest
orthogonal matrix: all directions of the matrix learn at the same pace, and far fewer steps are needed. `torch.optim.Muon` takes
matrices only; here the filters of a convolution are shown to it as one, a row per output channel.
"""

from typing import Any

import torch
from torch import Tensor, nn

from .errors import TrainingError


def is_filter(parameter: Tensor) -> bool:
    """Whether Muon is for it: the filters of a convolution that mixes channels (those of a depthwise one are no matrix)."""
    return parameter.ndim == 4 and parameter.shape[1] > 1


class MuonSGD(torch.optim.SGD):
    """Groups marked `"muon": True` are stepped by Muon, all others by SGD with Nesterov momentum.

    Args:
        groups: as for SGD. Learning rates may be changed in `param_groups` at any time, as schedulers do.
        momentum: of SGD.
        muon_momentum: of Muon.

    Raises:
        TrainingError: this torch has no Muon yet.

    Source: Muon on filters beside Nesterov SGD on the rest, and the momentum of 0.6, are of Keller Jordan's cifar10-airbench.
    """

    def __init__(self, groups: list[dict[str, Any]], momentum: float, muon_momentum: float = 0.6):
        super().__init__(groups, lr=0.0, momentum=momentum, nesterov=momentum > 0)
        if not hasattr(torch.optim, "Muon"):
            raise TrainingError(f"optimizer 'muon': torch {torch.__version__} has none; expected torch 2.9 or newer, or 'sgd'")
        twins = [{"params": [nn.Parameter(_matrix(p.data, p)) for p in g["params"]]} for g in self._filters()]
        self.muon = torch.optim.Muon(twins, momentum=muon_momentum) if twins else None

    def _filters(self) -> list[dict[str, Any]]:
        return [group for group in self.param_groups if group.get("muon")]

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        if self.muon:
            for group, twins in zip(self._filters(), self.muon.param_groups, strict=True):
                twins["lr"], twins["weight_decay"] = group["lr"], group["weight_decay"]
                for p, twin in zip(group["params"], twins["params"], strict=True):
                    twin.data = _matrix(p.data, p)  # the same memory, so what Muon changes is the filter itself
                    twin.grad = None if p.grad is None else _matrix(p.grad, p)
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


def _matrix(values: Tensor, filters: Tensor) -> Tensor:
    """Values (out, in, height, width) as a matrix (out, in x height x width), in the order in which `filters` lie in memory.

    Which order does not matter to Muon, but weights, gradients and momentum must have the same.
    """
    return (values if filters.is_contiguous() else values.movedim(1, -1)).flatten(1)
