"""What a curriculum compares: projections of a teacher's features, a student's hints, losses between their rows."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, mse_loss

from ..distributed import processes
from ..errors import TrainingError, UnknownNameError

PROJECTIONS = ("gaussian", "sign", "orthogonal", "pca", "none")


def projection_matrix(
    kind: str, channels: int, dim: int, generator: torch.Generator | None = None, rows: Tensor | None = None
) -> Tensor:
    """A matrix P (channels, dim), to be used as `rows @ P`.

    The three random kinds keep squared lengths in expectation: E ‖xP‖^2 = ‖x‖^2.

    Args:
        kind: `gaussian` (independent normal entries), `sign` (independent entries +-1 / sqrt(dim)), `orthogonal` (a random
            subspace: P^T P = channels / dim), `pca` (the leading principal components of `rows`, of length 1, the one
            with the largest variance first), or `none` (the features themselves).
        channels: length of a feature vector.
        dim: length after the projection.
        generator: of the random kinds; torch's own by default.
        rows: features (rows, channels) for `pca`, at least `dim` + 1 of them.

    Raises:
        UnknownNameError: no such kind.
        TrainingError: a dimension that this kind cannot have, or too few rows.
    """
    check_projection(kind, channels, dim)
    if kind == "none":
        return torch.eye(channels)
    if kind == "pca":
        return _principal_components(rows, dim)
    if kind == "sign":
        return (torch.randint(0, 2, (channels, dim), generator=generator) * 2.0 - 1) / dim**0.5
    normal = torch.randn(channels, dim, generator=generator)
    if kind == "gaussian":
        return normal / dim**0.5
    return torch.linalg.qr(normal).Q * (channels / dim) ** 0.5


def check_projection(kind: str, channels: int, dim: int) -> None:
    """See `projection_matrix`, which raises what this raises; of use before there are rows."""
    if kind not in PROJECTIONS:
        raise UnknownNameError("projection", kind, PROJECTIONS)
    if dim < 1:
        raise TrainingError(f"projection to dim = {dim!r}: expected at least 1")
    if kind in ("orthogonal", "pca") and dim > channels:
        raise TrainingError(
            f"{kind} projection of {channels} channels to dim = {dim}: expected at most {channels}; "
            "lower dim, or choose gaussian or sign"
        )
    if kind == "none" and dim != channels:
        raise TrainingError(f"no projection of {channels} channels, but dim = {dim}: leave dim out, or choose a projection")


def _principal_components(rows: Tensor | None, dim: int) -> Tensor:
    if rows is None or len(rows) <= dim:
        got = "no rows" if rows is None else f"{len(rows)} rows"
        raise TrainingError(
            f"pca projection to dim = {dim} from {got} of features: expected at least {dim + 1}; give more images"
        )
    centred = (rows - rows.mean(0)).double()  # the small components drown in float32
    _, vectors = torch.linalg.eigh(centred.T @ centred)  # ascending
    return vectors.flip(1)[:, :dim].to(rows.dtype)


def rows_of(features: Tensor) -> Tensor:
    """One row for each image and place: maps, tokens or vectors (batch, channels) -> (rows, channels)."""
    return (features.movedim(1, -1) if features.ndim == 4 else features).flatten(0, -2)


def standardised(rows: Tensor, centre: bool = True) -> tuple[Tensor, Tensor]:
    """(shift, factor) such that `(rows - shift) * factor` varies by 1, mean over the channels; rows (..., rows, channels).

    The channels keep their relative sizes. A squared error against such a target is the share of the variance that is
    left unexplained, and neither it nor the right learning rate depends on how large a teacher's features happen to be.

    Returns:
        shift (..., 1, channels), 0 if not `centre`; factor (..., 1, 1).
    """
    mean = rows.mean(-2, keepdim=True)
    variance = (rows - mean).square().mean((-2, -1), keepdim=True)
    return mean * centre, variance.clamp_min(1e-12).rsqrt()


def _mse(rows: Tensor, target: Tensor) -> Tensor:
    return mse_loss(rows, target, reduction="none").mean((-2, -1))


def _cosine(rows: Tensor, target: Tensor) -> Tensor:
    return (1 - cosine_similarity(rows, target, dim=-1)).mean(-1)


ROW_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mse": _mse, "cosine": _cosine}
"""Losses of rows against target rows, (..., rows, channels) -> (...)."""


class Hint(nn.Module):
    """The rows that a curriculum compares: projected features of the teacher, and the student's, through a learned map.

    student and teacher features -> two tensors (rows, dim), one row for each image and place
    """

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        projection: str,
        dim: int | None = None,
        readout: bool = True,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        dim = dim if dim is not None else teacher_channels if projection == "none" else student_channels
        check_projection(projection, teacher_channels, dim)
        if not readout and dim != student_channels:
            raise TrainingError(
                f"dim = {dim} without a readout: expected {student_channels}, the channels of the student's block; "
                "change dim, or use readout=True"
            )
        self.dim = dim
        if projection == "pca":  # waits for features
            matrix = torch.zeros(teacher_channels, dim)
        else:
            matrix = projection_matrix(projection, teacher_channels, dim, generator)
        self.kind = projection
        for name, value in (("matrix", matrix), ("shift", torch.zeros(1, dim)), ("factor", torch.ones(1, 1))):
            self.register_buffer(name, value)  # in the state, so that a resumed run has the same targets
        self.register_buffer("ready", torch.tensor(False))
        self.readout = nn.Linear(student_channels, dim) if readout else nn.Identity()

    def forward(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        rows, features = rows_of(student), rows_of(teacher).float()
        if not self.ready:
            self.fit(features)
        with torch.autocast(features.device.type, enabled=False):  # small components need more than 8 bits
            target = (features @ self.matrix - self.shift) * self.factor
            if isinstance(self.readout, nn.Linear):
                return self.readout(rows.float()), target
            return rows.float() * self.factor, target  # the same unit for both: the teacher's own scale is what is learned

    @torch.no_grad()
    def fit(self, features: Tensor) -> None:
        """Take the targets' scale, and `pca`'s components, from features (rows, channels) of the teacher."""
        if self.kind == "pca":
            self.matrix.copy_(projection_matrix("pca", features.shape[1], self.dim, rows=features))
        # without a readout there is no bias that could take a shift back
        shift, factor = standardised(features @ self.matrix, centre=isinstance(self.readout, nn.Linear))
        self.shift.copy_(shift)
        self.factor.copy_(factor)
        self.ready.fill_(True)
        for buffer in (self.matrix, self.shift, self.factor):  # several processes agree on what the first one found
            buffer.copy_(processes().mean(buffer * (processes().count if processes().main else 0)))
