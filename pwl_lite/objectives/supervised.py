"""Training from labels alone."""

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from .objective import Objective


class Supervised(Objective):
    """Cross entropy between the logits of `net` and the targets."""

    def __init__(self, net: nn.Module):
        self.model = net

    def terms(self, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return {"ce": cross_entropy(self.model(images).float(), targets)}

    def settings(self) -> dict[str, Any]:
        return {"name": "supervised"}
