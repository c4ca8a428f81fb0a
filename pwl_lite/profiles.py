"""The three profiles: for each family of networks, the data set, the networks and the recipes that belong together."""

from dataclasses import dataclass, field, replace
from typing import Any

from .errors import UnknownNameError
from .objectives import AUTHORS
from .training import Recipe

Config = dict[str, Any]


@dataclass(frozen=True)
class Profile:
    """A scale at which the book's experiments run, for one family of networks.

    Attributes:
        name: how to ask for it.
        dataset: the data set that it is made for.
        pair: configs of (teacher, student), as `networks.build_network` takes them.
        teacher: recipe of the supervised training of the teacher.
        student: recipe of every student, so that objectives are compared at the same number of steps.
        progressive: settings of `ProgressiveDistillation` that differ from its defaults.
    """

    name: str
    dataset: str
    pair: tuple[Config, Config]
    teacher: Recipe
    student: Recipe
    progressive: dict[str, Any] = field(default_factory=dict)

    @property
    def family(self) -> str:
        """Of the networks."""
        return self.pair[0]["family"]

    def with_seed(self, seed: int) -> "Profile":
        """The same profile with both recipes' seeds set."""
        return replace(self, teacher=replace(self.teacher, seed=seed), student=replace(self.student, seed=seed))


def _vgg(*layers: str, **options: Any) -> Config:
    return {"family": "vgg", "layers": layers, **options}


def _fast_vgg(*layers: str) -> Config:
    """A VGG with the means that let it learn CIFAR-10 in few epochs: see `networks.vgg`."""
    return _vgg(*layers, stem=24, norm_scale=False, logit_scale=1 / 9)


def _resnet(widths: tuple[int, ...], depths: tuple[int, ...], **options: Any) -> Config:
    return {"family": "resnet", "widths": widths, "depths": depths, **options}


def _fast_resnet(depths: tuple[int, ...], **options: Any) -> Config:
    """A ResNet that learns CIFAR-10 in few epochs: a whitening stem, and little to compute at full size."""
    return _resnet((64, 128, 256, 256), depths, stem=24, strides=(2, 2, 2, 1), **options)


def _vit(width: int, depths: tuple[int, ...], heads: int, **options: Any) -> Config:
    return {"family": "vit", "width": width, "depths": depths, "heads": heads, **options}


ONE_EACH = (1, 1, 1, 1)

_QUICK_RECIPE = Recipe(epochs=4, batch_size=128, lr=1e-2, optimizer="adamw", weight_decay=0.05)
_QUICK_VIT = replace(_QUICK_RECIPE, lr=2e-3)
_QUICK = [
    Profile("quick", "shapes10", pair, recipe, recipe, {"converter_lr": 1.0})
    for pair, recipe in (
        ((_vgg("16 M 16", "32 M 32", "64 M 64", "64 64"), _vgg("8 M 8", "16 M 16", "24 M 32s", "48s")), _QUICK_RECIPE),
        ((_resnet((16, 32, 48, 64), ONE_EACH), _resnet((8, 12, 16, 24), ONE_EACH)), _QUICK_RECIPE),
        ((_vit(64, ONE_EACH, heads=4, mlp_ratio=2.0), _vit(24, ONE_EACH, heads=2, mlp_ratio=2.0)), _QUICK_VIT),
    )
]

_CIFAR_VIT = Recipe(epochs=12, batch_size=256, lr=2e-3, optimizer="adamw", weight_decay=0.05, label_smoothing=0.1, clip=1.0)
_CIFAR = [
    Profile(
        name="cifar",
        dataset="cifar10",
        pair=(
            _fast_vgg("64 M 64", "256 M 256", "256 192 M", "256"),
            _fast_vgg("64 M 64s", "128s 128s M 192s 256s", "192s M", "224s"),
        ),
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
        student=Recipe(epochs=8, batch_size=256, optimizer="muon", lr=0.4, bias_lr=8, clip=2.0),
    ),
    Profile(
        name="cifar",
        dataset="cifar10",
        pair=(_fast_resnet((2, 2, 1, 1)), _fast_resnet(ONE_EACH, separable=True, hidden=(64, 128, 128, 128))),
        teacher=Recipe(epochs=12, batch_size=500, optimizer="muon", lr=0.1, label_smoothing=0.1, warmup=0.2, flip="alternate"),
        student=Recipe(epochs=8, batch_size=256, optimizer="muon", lr=0.1, clip=2.0),
    ),
    Profile(
        name="cifar",
        dataset="cifar10",
        pair=(_vit(128, (2, 2, 2, 2), heads=4, mlp_ratio=2.0), _vit(48, (2, 1, 1, 1), heads=3, mlp_ratio=2.0)),
        teacher=replace(_CIFAR_VIT, epochs=24),
        student=_CIFAR_VIT,
    ),
]

_PAPER_RECIPE = Recipe(epochs=160, batch_size=128, lr=0.05, schedule="cosine", crop=4)
_PAPER_VIT = replace(_PAPER_RECIPE, optimizer="adamw", lr=1e-3, weight_decay=0.05, warmup=0.1, schedule="one_cycle")
_PAPER = [
    Profile("paper", "cifar10", pair, recipe, recipe, AUTHORS)
    for pair, recipe in (
        (
            (
                _vgg("64 64 M", "128 128 M", "256 256 256 M", "512 512 512 M 512 512 512 M"),
                _vgg("64 M", "128 M", "256 M", "512 M 512 M"),
            ),
            _PAPER_RECIPE,
        ),
        ((_resnet((32, 64, 128, 256), (3, 4, 6, 3)), _resnet((32, 64, 128, 256), ONE_EACH)), _PAPER_RECIPE),
        ((_vit(192, (3, 3, 3, 3), heads=3), _vit(192, (2, 1, 1, 2), heads=3)), _PAPER_VIT),
    )
]

PROFILES: dict[str, dict[str, Profile]] = {}
for _profile in (*_QUICK, *_CIFAR, *_PAPER):
    PROFILES.setdefault(_profile.name, {})[_profile.family] = _profile


def get_profile(name: str, family: str = "vgg") -> Profile:
    """The profile of that name for a family. Raises UnknownNameError naming the valid ones."""
    if name not in PROFILES:
        raise UnknownNameError("profile", name, PROFILES)
    if family not in PROFILES[name]:
        raise UnknownNameError("family", family, PROFILES[name])
    return PROFILES[name][family]
