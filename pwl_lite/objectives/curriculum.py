"""Curricula for a student: a teacher's checkpoints in turn, its layers in turn, its principal components in turn."""

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from ..blocknet import BlockNet, state_hash
from ..errors import TrainingError, UnknownNameError
from .features import FeatureDistillation, matched_channels
from .kd import KD
from .objective import Objective
from .projections import ROW_LOSSES, Hint, check_projection


class Curriculum(Objective):
    """An objective that follows the progress of the training step by step, not epoch by epoch."""

    def start_step(self, progress: float) -> None:
        self.progress = progress


class ProgressiveCheckpoints(Curriculum):
    """Progressive distillation: Hinton's KD from one checkpoint of the teacher after the other.

    Early checkpoints show simple parts of the solution that the trained teacher's outputs hide: an implicit curriculum.

    Source: Panigrahi, Liu, Malladi, Risteski, Goel, *Progressive distillation induces an implicit curriculum*,
    arXiv 2410.05464. The paper uses the teacher's word alone (`alpha=1`).

    Args:
        checkpoints: networks from the teacher's training, earliest first, the trained teacher last; all are frozen.
        student: the network to train.
        shares: of the training, one for each checkpoint, 1 in all; by default all the same.
        alpha, temperature: as in `KD`.

    Raises:
        TrainingError: no checkpoints, or shares that do not fit.
    """

    def __init__(
        self,
        checkpoints: Sequence[nn.Module],
        student: nn.Module,
        shares: Sequence[float] | None = None,
        alpha: float = 0.6,
        temperature: float = 2.0,
    ):
        if not checkpoints:
            raise TrainingError("no checkpoints: expected at least one, the trained teacher; for it alone KD does the same")
        self.shares = [1 / len(checkpoints)] * len(checkpoints) if shares is None else list(shares)
        if len(self.shares) != len(checkpoints):
            raise TrainingError(f"shares = {self.shares}: expected {len(checkpoints)} numbers, one for each checkpoint")
        check_shares(self.shares)
        if not math.isclose(sum(self.shares), 1, abs_tol=1e-6):
            raise TrainingError(f"shares = {self.shares}: expected 1 in all, not {sum(self.shares):g}")
        self.stages = [KD(checkpoint, student, alpha, temperature) for checkpoint in checkpoints]
        self.model = student

    @property
    def teachers(self) -> list[nn.Module]:
        return [stage.teacher for stage in self.stages]

    def terms(self, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
        stage = min(stage_at(self.progress, self.shares), len(self.stages) - 1)  # the sum of the shares may be 0.999...
        return self.stages[stage].terms(images, targets)

    def settings(self) -> dict[str, Any]:
        checkpoints = [state_hash(stage.teacher) for stage in self.stages]
        return {**self.stages[-1].settings(), "name": "checkpoints", "checkpoints": checkpoints, "shares": self.shares}


class CurriculumExtraction(Curriculum):
    """Curriculum extraction: match random projections of the teacher's blocks, one block after the other, then its outputs.

    While the projection of a block is matched nothing else is: neither labels nor outputs are used, and the student's
    later blocks rest. Afterwards the student learns by Hinton's KD. No checkpoints are needed, only the trained teacher.

    Source: Gupta, Karmalkar, *Efficient Knowledge Distillation via Curriculum Extraction*, arXiv 2503.17494. Dimensions,
    lengths of the stages and the loss are this book's choice.

    Args:
        teacher: trained network, frozen from here on.
        student: the network to train.
        blocks: numbers 1 .. N of the blocks to match, in turn; by default all but the last, whose features go through
            nothing but the head.
        shares: of the training, one for each block; what they leave is for the outputs. By default half in equal parts.
        projection: kind, see `projection_matrix`. The stage's first batch gives the targets' scale, and components for `pca`.
        dim: of the projected features, one number for all blocks or a list with one for each; by default as many as the
            student's block has channels, or all for `none`.
        loss: `mse` (of targets that vary by 1, so 1 is as good as a constant) or `cosine`; one for all blocks, or a list with
            one for each.
        readout: the student's features go through a learned linear map before they are compared; it is thrown away
            later. Without it they are compared as they are, so `dim` must be the student's number of channels.
        alpha, temperature: of the last stage, as in `KD`.
        seed: of the random projections.
        patience: end a block's stage before its share is used up, as soon as its loss has stopped falling for so many windows
            (see `has_settled`); what is left over is for the outputs. 0 for never.
        window: steps over which the loss is averaged for that.

    Raises:
        NetworkError: there is no such block, or features differ in height or width.
        TrainingError: no blocks, or shares, losses, dimensions, `patience` or `window` that do not fit.
        UnknownNameError: no such projection or loss.
    """

    whole_batch = True  # a stage takes scale and components from its first batch

    def __init__(
        self,
        teacher: BlockNet,
        student: BlockNet,
        blocks: Sequence[int] | None = None,
        shares: Sequence[float] | None = None,
        projection: str = "gaussian",
        dim: int | Sequence[int] | None = None,
        loss: str | Sequence[str] = "mse",
        readout: bool = True,
        alpha: float = 0.6,
        temperature: float = 2.0,
        seed: int = 0,
        patience: int = 0,
        window: int = 50,
    ):
        self.blocks = list(range(1, student.num_blocks)) if blocks is None else list(blocks)
        if not self.blocks:
            raise TrainingError("blocks = []: expected at least one; without any, KD does the same")
        self.shares = [0.5 / len(self.blocks)] * len(self.blocks) if shares is None else list(shares)
        self.losses = [loss] * len(self.blocks) if isinstance(loss, str) else list(loss)
        dims = [dim] * len(self.blocks) if dim is None or isinstance(dim, int) else list(dim)
        given = (("shares", self.shares, "numbers"), ("loss", self.losses, "names"), ("dim", dims, "numbers"))
        for name, values, kind in given:
            if len(values) != len(self.blocks):
                expected = f"{len(self.blocks)} {kind}, one for each block of {self.blocks}"
                raise TrainingError(f"{name} = {values}: expected {expected}")
        check_shares(self.shares)
        for name in self.losses:
            if name not in ROW_LOSSES:
                raise UnknownNameError("loss", name, ROW_LOSSES)
        self.kd = KD(teacher, student, alpha, temperature)
        self.teacher, self.student = teacher, student
        self.options = {"projection": projection, "dim": dim, "readout": readout, "seed": seed}
        if patience:
            self.options |= {"patience": patience, "window": window}
        generator = torch.Generator().manual_seed(seed)
        channels = [matched_channels(student, teacher, block) for block in self.blocks]
        hints = [Hint(s, t, projection, d, readout, generator) for (s, t), d in zip(channels, dims, strict=True)]
        device = next(student.parameters()).device
        self.model = nn.ModuleDict({"student": student, "hints": nn.ModuleList(hints).to(device)})
        self.stages = Stages(self.shares, patience, window)
        self.stage = 0
        if patience:  # what it has seen is part of a checkpoint
            self.model["stages"] = self.stages

    def start_step(self, progress: float) -> None:
        super().start_step(progress)
        self.stage = self.stages.advance(progress)

    def terms(self, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
        # all terms at all times, 0 where they rest, so that an epoch in which a stage ends has a mean of each
        terms = {f"block {block}": images.new_zeros(()) for block in self.blocks}
        if self.stage == len(self.blocks):
            return {**terms, **self.kd.terms(images, targets)}
        block = self.blocks[self.stage]
        with torch.no_grad():
            target = features_after(self.teacher, block, images)
        rows = self.model["hints"][self.stage](features_after(self.student, block, images), target)
        loss = ROW_LOSSES[self.losses[self.stage]](*rows)
        self.stages.note(loss)
        terms |= {"ce": images.new_zeros(()), "kd": images.new_zeros(())}
        return {**terms, f"block {block}": loss}

    def settings(self) -> dict[str, Any]:
        loss = self.losses[0] if len(set(self.losses)) == 1 else self.losses
        own = {"name": "extraction", "blocks": self.blocks, "shares": self.shares, "loss": loss, **self.options}
        return {**self.kd.settings(), **own}


class Stages(nn.Module):
    """Which stage a training is in: each ends when its share is used up, or as soon as its loss has settled.

    A module, so that a checkpoint holds what it has seen, and a resumed training goes on in the same stage.

    Args:
        shares: of the training, the most that each stage may take; after the last one comes the rest.
        patience: windows in which the loss has not fallen after which a stage ends, see `has_settled`; 0 for never.
        window: steps over which the loss is averaged.
    """

    def __init__(self, shares: Sequence[float], patience: int = 0, window: int = 50):
        super().__init__()
        if patience < 0 or window < 1:
            raise TrainingError(f"patience = {patience}, window = {window}: expected at least 0, and at least 1")
        self.shares, self.patience, self.window = list(shares), patience, window
        self._begin(0, 0.0)

    def advance(self, progress: float) -> int:
        """Come to `progress` (0 to 1, 0 begins anew): the 0-based stage there; `len(shares)` after all of them."""
        if not self.patience:
            return stage_at(progress, self.shares)
        if progress == 0:
            self._begin(0, 0.0)
        if self.number < len(self.shares) and has_settled(self.means, self.patience):
            self._begin(self.number + 1, progress)
        while self.number < len(self.shares) and progress >= self.began + self.shares[self.number] - 1e-9:
            self._begin(self.number + 1, self.began + self.shares[self.number])
        return self.number

    def note(self, loss: Tensor) -> None:
        """Take the loss of a step of the present stage."""
        if self.patience:
            self.losses.append(loss.detach())
            if len(self.losses) == self.window:
                self.means.append(torch.stack([each.to(loss.device) for each in self.losses]).mean().item())
                self.losses = []

    def _begin(self, number: int, progress: float) -> None:
        self.number, self.began = number, progress
        self.means: list[float] = []  # of the loss in the windows of this stage
        self.losses: list[Tensor] = []  # of the steps since the last one

    def get_extra_state(self) -> Tensor:
        losses = [loss.item() for loss in self.losses]
        return torch.tensor([self.number, self.began, len(self.means), *self.means, *losses], dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        number, began, count, *seen = state.tolist()
        self._begin(int(number), began)
        self.means, self.losses = seen[: int(count)], [torch.tensor(loss) for loss in seen[int(count) :]]


class PCACurriculum(Curriculum, FeatureDistillation):
    """Labels and KD, and a hint whose target grows: first the teacher's strongest principal components, later all.

    The student's features, through a learned linear map, match the first components of one block; they are released in
    equal steps, as many more at each. The components are those of the first batch.

    Source of the idea: Federated Adaptive Progressive Distillation (FAPD), arXiv 2603.20296, where components are released
    when a federation's accuracy has settled; here they are at fixed shares of the training.

    Args:
        teacher, student, weight, alpha, temperature: as in `FeatureDistillation`.
        block: number 1 .. N of the block whose output is matched; by default the last.
        dim: components that are released in the end; by default as many as the student's block has channels.
        steps: in how many parts they are released; 1 for all from the start.
        until: share of the training after which all are released.

    Raises:
        NetworkError: there is no such block, or features differ in height or width.
        TrainingError: `dim`, `steps` or `until` are out of range.
    """

    name = "pca"
    whole_batch = True  # the components are those of its first batch

    def __init__(
        self,
        teacher: BlockNet,
        student: BlockNet,
        weight: float = 1.0,
        block: int | None = None,
        dim: int | None = None,
        steps: int = 4,
        until: float = 0.5,
        **options: Any,
    ):
        super().__init__(teacher, student, weight, **options)
        self.block = student.num_blocks if block is None else block
        s, t = matched_channels(student, teacher, self.block)
        self.dim = min(s, t) if dim is None else dim
        check_projection("pca", t, self.dim)
        if not 1 <= steps <= self.dim:
            raise TrainingError(f"steps = {steps!r}: expected 1 to {self.dim}, the number of components")
        if not 0 <= until <= 1:
            raise TrainingError(f"until = {until!r}: expected a share of the training from 0 (all at once) to 1")
        self.steps, self.until = steps, until
        device = next(student.parameters()).device
        self.model = nn.ModuleDict({"student": student, "hint": Hint(s, t, "pca", self.dim).to(device)})

    @property
    def released(self) -> int:
        """Components that are matched now."""
        if self.progress >= self.until:
            return self.dim
        step = 1 + math.floor(self.progress / self.until * (self.steps - 1) + 1e-9)  # the last begins at `until`
        return math.ceil(self.dim * step / self.steps)

    def feature_term(self, student: list[Tensor], teacher: list[Tensor], labels: Tensor) -> Tensor:
        rows, target = self.model["hint"](student[self.block - 1], teacher[self.block - 1])
        return (rows - target)[:, : self.released].square().sum(1).mean() / self.dim

    def settings(self) -> dict[str, Any]:
        own = {"block": self.block, "dim": self.dim, "steps": self.steps, "until": self.until}
        return {**super().settings(), **own}


def features_after(net: BlockNet, block: int, images: Tensor) -> Tensor:
    """The output of block `block` (1 .. N) for images (batch, ...); later blocks do not run."""
    x = net.embed(images)
    for module in net.blocks[:block]:
        x = module(x)
    return x


def stage_at(progress: float, shares: Sequence[float]) -> int:
    """The 0-based stage at `progress` (0 to 1); `len(shares)` after all of them."""
    return sum(progress >= end - 1e-9 for end in accumulate(shares))  # 0.1 + 0.2 is a little more than 0.3


def has_settled(losses: Sequence[float], patience: int, fall: float = 0.01) -> bool:
    """Whether a loss has stopped falling: the last `patience` are not below the lowest before by a share of `fall`.

    Args:
        losses: so far, positive.
        patience: how many of the last to look at, at least 1; with no more losses than that the answer is no.
        fall: share of the lowest one by which a new one has to be lower.
    """
    return len(losses) > patience and min(losses[-patience:]) > (1 - fall) * min(losses[:-patience])


def check_shares(shares: Sequence[float]) -> None:
    """Raises TrainingError unless all are positive and together at most 1."""
    if any(not share > 0 for share in shares) or sum(shares) > 1 + 1e-6:
        raise TrainingError(f"shares = {list(shares)}: expected positive numbers, together at most 1")
