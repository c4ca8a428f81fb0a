"""Claims: numbers in prose, checked against what was measured."""

import math
import re
import statistics
from collections.abc import Iterable

from .errors import ClaimError, RecordError

NUMBER = re.compile(
    r"""(?<![\w.])(?<![^\W\d][-−])     # not inside a word or number, nor joined to a word as in CIFAR-10
        [-−]?                          # a sign, ASCII or typographic
        (?:\d{1,3}(?:,\d{3})+|\d+)     # 50,000 or 50000
        (?:\.\d+)?(?:[eE][-+]?\d+)?
        (?!\.?\d|,\d{3}|\w|[-−][^\W\d]) # not the start of 3.11.2, 4x or 4-block""",
    re.VERBOSE,
)


def claim(sentence: str, *actual: float) -> None:
    """Check every number in a sentence against what was measured, and print the sentence with a check mark.

    The k-th number must equal the k-th value of `actual` rounded to the digits that the sentence gives: 94.0
    stands for 93.95 to 94.05. Numbers inside words (CIFAR-10, ResNet18, 4-block) and versions do not count.

    >>> claim("The student reaches 89.4 % of 10,000 images.", 89.372, 10_000)
    ✓ The student reaches 89.4 % of 10,000 images.

    Raises:
        ClaimError: a number differs, or there are not as many numbers as values, or none.
    """
    stated = NUMBER.findall(sentence)
    if not stated or len(stated) != len(actual):
        raise ClaimError(
            f"claim {sentence!r}: {len(stated)} numbers ({', '.join(stated)}) for {len(actual)} values; "
            "expected one value for each number, and at least one"
        )
    for text, value in zip(stated, map(float, actual), strict=True):
        number, digits = float(text.replace("−", "-").replace(",", "")), _last_digit(text)
        if not abs(number - value) <= digits / 2 + 1e-9 * abs(number):  # `not <=`, so that NaN never passes
            raise ClaimError(f"claim {sentence!r}: states {text}, the actual value is {value:.10g}; correct the sentence")
    print(f"✓ {sentence}")


def _last_digit(text: str) -> float:
    """What one step of the last digit is worth: 0.01 for 94.03, 1 for 50,000, 1e-6 for 1.5e-5."""
    mantissa, _, exponent = text.lower().partition("e")
    return 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))


def summary(values: Iterable[float], digits: int = 2) -> str:
    """Mean, sample standard deviation and number of runs: `91.20 ± 0.11 (n = 3)`; no spread for a single one.

    Raises:
        RecordError: no values, or one that is not a finite number.
    """
    numbers = [float(v) for v in values]
    if not numbers or not all(map(math.isfinite, numbers)):
        raise RecordError(f"summary of {numbers}: expected at least one value, all of them finite")
    spread = f" ± {statistics.stdev(numbers):.{digits}f}" if len(numbers) > 1 else ""
    return f"{statistics.fmean(numbers):.{digits}f}{spread} (n = {len(numbers)})"
