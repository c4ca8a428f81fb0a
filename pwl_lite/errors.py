"""The errors that the package raises on purpose: each names the value, what was expected and the way out."""

from collections.abc import Iterable


class PWLError(ValueError):
    """Base of every deliberate error of `pwl_lite`."""


class CompositionError(PWLError):
    """A composition or loading order that does not fit the network."""


class NetworkError(PWLError):
    """Two networks that cannot be swapped block by block, or a network description that cannot be built."""


class DataError(PWLError):
    """A data set that is missing, damaged or out of reach."""


class StoreError(PWLError):
    """A folder of shards that is missing, damaged or made for other networks."""


class StreamingError(PWLError):
    """Weights that do not arrive, or a model that has been closed."""


class RecordError(PWLError):
    """A record of a run that is missing, damaged or of an unknown schema."""


class ClaimError(PWLError):
    """A number in the prose that the records do not bear out."""


class TrainingError(PWLError):
    """A training run that cannot start, go on or be resumed."""


class TrainingPaused(PWLError):
    """The time that a training was given is used up; its checkpoint is there to go on from."""


class SaveError(PWLError):
    """A file that could not be written; what stood there before is untouched."""


class UnknownNameError(PWLError):
    """A name that is not among the known ones.

    >>> raise UnknownNameError("profile", "tiny", ["quick", "cifar", "paper"])
    Traceback (most recent call last):
    ...
    pwl_lite.errors.UnknownNameError: profile 'tiny': expected one of quick, cifar, paper
    """

    def __init__(self, kind: str, name: object, valid: Iterable[str]):
        super().__init__(f"{kind} {name!r}: expected one of {', '.join(valid)}")
