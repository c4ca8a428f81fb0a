"""The shape that all objectives share."""

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn


class Objective(ABC):
    """Named loss terms of one batch; `training.train` minimises their sum.

    Attributes:
        model: everything that changes while training; a checkpoint holds its state.
        progress: share of the training that is done at the start of the epoch, from 0 to below 1.
        whole_batch: the terms compare images with each other, or take statistics from a batch: several processes, each with a
            share of the batch, would train by other losses than one does.
    """

    model: nn.Module
    progress: float = 0.0
    whole_batch: bool = False

    @abstractmethod
    def terms(self, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """The weighted loss terms (scalars) of one batch.

        Args:
            images: normalised, (batch, 3, height, width).
            targets: class probabilities, (batch, classes); one-hot unless the recipe smooths labels.
        """

    @property
    def teachers(self) -> list[nn.Module]:
        """Frozen networks beside `model`; `train` takes them to its device."""
        teacher = getattr(self, "teacher", None)
        return [] if teacher is None else [teacher]

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What a record needs to build this objective again: its name and every weight (JSON-able)."""

    def start_epoch(self, progress: float) -> None:
        """`train` calls this before each epoch, for objectives that change on the way."""
        self.progress = progress

    def start_step(self, progress: float) -> None:  # noqa: B027
        """`train` calls this before each step, for objectives that change within an epoch; most do not."""

    def param_groups(self) -> list[dict[str, Any]]:
        """What to optimise: `{"params": [...], "lr_scale": factor on the recipe's learning rate}`."""
        return [{"params": [p for p in self.model.parameters() if p.requires_grad], "lr_scale": 1.0}]
