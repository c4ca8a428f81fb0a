"""Several processes that train one network: each takes its share of every batch, and all stay the same at every step.

`accelerate launch` (Hugging Face Accelerate) starts the processes and says to each which one it is; this module is all that
the rest of the package knows of it. In an ordinary, single process everything here does nothing.
"""

import os
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, distributed, nn

from .errors import TrainingError


@dataclass(frozen=True)
class Processes:
    """Those that run together.

    Attributes:
        index: of this one, 0-based.
        count: of all.
    """

    index: int = 0
    count: int = 1

    @property
    def main(self) -> bool:
        """Whether this one puts files in their places and speaks to the user."""
        return self.index == 0

    def share(self, batch: Tensor) -> Tensor:
        """This one's images of a batch: every `count`-th, so that any part of the batch is spread over all processes."""
        return batch[self.index :: self.count]

    def mean(self, values: Tensor) -> Tensor:
        """The mean over all processes; no gradients."""
        if self.count == 1:
            return values
        values = values.detach().clone()
        distributed.all_reduce(values)
        return values / self.count

    def average_gradients(self, model: nn.Module) -> None:
        """Replace the gradients of `model` by their means over all processes, in one exchange."""
        if self.count == 1:
            return
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        means = self.mean(torch.cat([g.flatten() for g in gradients]))
        for gradient, mean in zip(gradients, means.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def highest(self, value: float, device: torch.device) -> float:
        """The highest `value` of all processes, for decisions that all must take alike."""
        if self.count == 1:
            return value
        values = torch.tensor(value, dtype=torch.float64, device=device)
        distributed.all_reduce(values, op=distributed.ReduceOp.MAX)
        return float(values)

    def wait(self) -> None:
        """Until all others are here too."""
        if self.count > 1:
            distributed.barrier()


@cache
def processes() -> Processes:
    """Which process this is, of how many.

    Raises:
        TrainingError: started as one of several, but Accelerate is not installed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Processes()
    try:
        from accelerate import PartialState
    except ImportError as error:
        raise TrainingError(
            "started as one of several processes (WORLD_SIZE is set), which needs Hugging Face Accelerate: "
            "`pip install accelerate`, or start a single process"
        ) from error
    state = PartialState(cpu=not torch.cuda.is_available())
    return Processes(state.process_index, state.num_processes)


def share_batch_norm(model: nn.Module) -> None:
    """Let every batch norm of `model` normalise by the whole batch, not by one process's share; nothing for one process.

    torch's own `SyncBatchNorm` does the same on GPUs only; this one is tested where there is none.
    """
    if processes().count == 1:
        return
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.BatchNorm2d:
                setattr(parent, name, _SharedBatchNorm2d.of(child))


class _SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm with the statistics of all processes' images."""

    @classmethod
    def of(cls, norm: nn.BatchNorm2d) -> "_SharedBatchNorm2d":
        """One with the same parameters and running averages (the same tensors, not copies)."""
        new = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        new._parameters, new._buffers = norm._parameters, norm._buffers
        return new.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        values = x.float()
        mean = _mean_over_processes(values.mean((0, 2, 3)))
        centred = values - mean[:, None, None]
        variance = _mean_over_processes(centred.square().mean((0, 2, 3)))
        with torch.no_grad():
            count = x.numel() / x.shape[1] * processes().count
            self.num_batches_tracked += 1
            momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum  # None: the plain mean
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


def _mean_over_processes(values: Tensor) -> Tensor:
    """With gradients: what one process's images do to the losses of the others flows back to them."""
    from torch.distributed.nn.functional import all_reduce

    return all_reduce(values) / processes().count
