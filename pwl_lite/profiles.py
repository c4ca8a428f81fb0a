"""The three profiles: data set, networks and recipes that belong together."""

from dataclasses import dataclass, field, replace
from typing import Any

from .errors import UnknownNameError
from .training import Recipe


@dataclass(frozen=True)
class Profile:
    """A scale at which the book's experiments run.

    Attributes:
        name: how to ask for it.
        dataset: the data set that it is made for.
        networks: family -> configs of (teacher, student), as `networks.build_network` takes them.
        teacher: recipe of the supervised training of the teacher.
        student: recipe of every student, so that objectives are compared at the same number of steps.
        progressive: settings of `ProgressiveDistillation` that differ from the authors'.
    """

    name: str
    dataset: str
    networks: dict[str, tuple[dict[str, Any], dict[str, Any]]]
    teacher: Recipe
    student: Recipe
    progressive: dict[str, Any] = field(default_factory=dict)

    def pair(self, family: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Configs of (teacher, student). Raises UnknownNameError if the profile has no such family."""
        if family not in self.networks:
            raise UnknownNameError("family", family, self.networks)
        return self.networks[family]

    def with_seed(self, seed: int) -> "Profile":
        """The same profile with both recipes' seeds set."""
        return replace(self, teacher=replace(self.teacher, seed=seed), student=replace(self.student, seed=seed))


def _vgg(*layers: str, **options: Any) -> dict[str, Any]:
    return {"family": "vgg", "layers": layers, **options}


def _fast_vgg(*layers: str) -> dict[str, Any]:
    """A VGG with the means that let it learn CIFAR-10 in few epochs: see `networks.vgg`."""
    return _vgg(*layers, stem=24, norm_scale=False, logit_scale=1 / 9)


QUICK = Profile(
    name="quick",
    dataset="shapes10",
    networks={"vgg": (_vgg("16 M 16", "32 M 32", "64 M 64", "64 64"), _vgg("8 M 8", "16 M 16", "24 M 32s", "48s"))},
    teacher=Recipe(epochs=4, batch_size=128, lr=1e-2, optimizer="adamw", weight_decay=0.05),
    student=Recipe(epochs=4, batch_size=128, lr=1e-2, optimizer="adamw", weight_decay=0.05),
    progressive={"converter_lr": 1.0},
)

CIFAR = Profile(
    name="cifar",
    dataset="cifar10",
    networks={
        "vgg": (
            _fast_vgg("64 M 64", "256 M 256", "256 192 M", "256"),
            _fast_vgg("64 M 64s", "128s M 128s", "192s 192s M", "224s 224s"),
        )
    },
    teacher=Recipe(
        epochs=48,
        batch_size=512,
        lr=0.5,
        momentum=0.85,
        bias_lr=32,
        weight_decay=1e-3,
        label_smoothing=0.1,
        warmup=0.2,
        crop=4,
        cutout=8,
    ),
    student=Recipe(epochs=12, batch_size=256, lr=0.4, bias_lr=8),
    progressive={"converter_lr": 0.05, "cross": 1.0, "running_norm_from": 0.5},
)

PAPER = Profile(
    name="paper",
    dataset="cifar10",
    networks={
        "vgg": (
            _vgg("64 64 M", "128 128 M", "256 256 256 M", "512 512 512 M 512 512 512 M"),
            _vgg("64 M", "128 M", "256 M", "512 M 512 M"),
        )
    },
    teacher=Recipe(epochs=160, batch_size=128, lr=0.05, schedule="cosine", crop=4),
    student=Recipe(epochs=160, batch_size=128, lr=0.05, schedule="cosine", crop=4),
)

PROFILES = {profile.name: profile for profile in (QUICK, CIFAR, PAPER)}


def get_profile(name: str) -> Profile:
    """The profile of that name. Raises UnknownNameError naming the valid ones."""
    if name not in PROFILES:
        raise UnknownNameError("profile", name, PROFILES)
    return PROFILES[name]
