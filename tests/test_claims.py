"""A stale number in prose fails."""


import numpy as np
import pytest
import torch

from pwl_lite.claims import claim, summary
from pwl_lite.errors import ClaimError, PWLError, RecordError


@pytest.mark.parametrize(
    ("sentence", "actual"),
    [
        ("The teacher reaches 94.0 % on CIFAR-10.", (94.03,)),
        ("94.05 %", (94.0451,)),
        ("It has 1,234,567 parameters in 4 blocks.", (1234567, 4)),
        ("50000 images", (50_000,)),
        ("−0.31 points, or -0.31", (-0.312, -0.309)),
        ("91.20 ± 0.11 (n = 3)", (91.2049, 0.1051, 3)),
        ("91–93 % and 91-93 %", (91.4, 92.6, 91, 93)),
        ("2.3× as fast, 1.5e-5 off", (2.34, 1.52e-5)),
        ("The 4-block VGG-11 and ResNet18 of torch 2.13.0 need 7 s.", (7.2,)),
        ("half up or half even: 0.13 and 0.12", (0.125, 0.125)),
        ("(0.5,0.4)", (0.5, 0.4)),
        ("It ends with 12.", (np.float32(12.3),)),
        ("a tensor: 3.1", (torch.tensor(3.14),)),
        ("0 of 3", (0, 3)),
    ],
)
def test_true_claims_pass_and_are_printed(capsys, sentence, actual):
    claim(sentence, *actual)
    assert capsys.readouterr().out == f"✓ {sentence}\n"


@pytest.mark.parametrize(
    ("sentence", "actual", "problem"),
    [
        ("The teacher reaches 94.0 %.", (93.9,), "states 94.0, the actual value is 93.9"),
        ("94.0 %", (94.06,), "states 94.0, the actual value is 94.06"),
        ("94.05 %", (94.056,), "actual value is 94.056"),
        ("94 %", (94.6,), "actual value is 94.6"),
        ("1,234,567", (1234568,), "states 1,234,567"),
        ("+0.3 points", (-0.3,), "actual value is -0.3"),
        ("-0.3 points", (0.3,), "states -0.3"),
        ("1.5e-5", (1.6e-5,), "states 1.5e-5"),
        ("first 1, then 2", (2, 1), "states 1, the actual value is 2"),
        ("90.0", (float("nan"),), "nan"),
        ("90.0", (float("inf"),), "inf"),
        ("90.0 and 91.0", (90,), r"2 numbers \(90.0, 91.0\) for 1 values"),
        ("90.0", (90, 91), r"1 numbers \(90.0\) for 2 values"),
        ("CIFAR-10 is hard", (), r"0 numbers .* expected one value for each number, and at least one"),
        ("CIFAR-10 is hard", (10,), "0 numbers"),
    ],
)
def test_false_claims_fail(capsys, sentence, actual, problem):
    with pytest.raises(ClaimError, match=problem) as error:
        claim(sentence, *actual)
    assert repr(sentence) in str(error.value) and isinstance(error.value, PWLError)
    assert capsys.readouterr().out == ""


def test_summary_says_mean_spread_and_number():
    assert summary([91.1, 91.2, 91.3]) == "91.20 ± 0.10 (n = 3)"  # sample deviation: divided by n - 1
    assert summary([91.1, 91.3], digits=1) == "91.2 ± 0.1 (n = 2)"
    assert summary([91.1, 91.2, 91.3]) != summary([91.0, 91.2, 91.4])
    assert summary(iter([50])) == "50.00 (n = 1)"
    for values in ([], [1.0, float("nan")], [float("inf")]):
        with pytest.raises(RecordError, match="expected at least one value, all of them finite"):
            summary(values)
