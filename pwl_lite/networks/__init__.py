"""The network families: each a function from a small config to a `BlockNet`."""

from ..blocknet import BlockNet
from ..errors import NetworkError, UnknownNameError
from .resnet import ResNetConfig, resnet
from .vgg import VGGConfig, vgg, whiten_stem
from .vit import ViTConfig, vit

FAMILIES = {"vgg": (VGGConfig, vgg), "resnet": (ResNetConfig, resnet), "vit": (ViTConfig, vit)}


def build_network(config: dict) -> BlockNet:
    """Build the network that `config` describes (what `BlockNet.config` holds), with fresh random weights.

    Args:
        config: the fields of the family's config class and `"family"`, for example
            `{"family": "vgg", "layers": ["8 M 8", "16 M"], "num_classes": 10}`.

    Raises:
        UnknownNameError: the family is not known.
        NetworkError: a field is unknown, missing or wrong.
    """
    fields = dict(config)
    family = fields.pop("family", None)
    if family not in FAMILIES:
        raise UnknownNameError("family", family, FAMILIES)
    make_config, make_network = FAMILIES[family]
    try:
        return make_network(make_config(**fields))
    except TypeError as error:
        raise NetworkError(f"config of a {family} network {fields}: {error}") from error


def build_pair(family: str, profile: str = "quick", num_classes: int = 10) -> tuple[BlockNet, BlockNet]:
    """A teacher and a student of one family, cut into the same number of blocks, with fresh random weights.

    Args:
        family: one of `FAMILIES`.
        profile: `quick`, `cifar` or `paper`; see `pwl_lite.profiles`.
        num_classes: classes to tell apart.

    Raises:
        UnknownNameError: the family or the profile is not known.
    """
    from ..profiles import get_profile  # profiles hold the configs and import this module's config classes

    teacher, student = get_profile(profile, family).pair
    return build_network({**teacher, "num_classes": num_classes}), build_network({**student, "num_classes": num_classes})


__all__ = [
    "FAMILIES",
    "ResNetConfig",
    "VGGConfig",
    "ViTConfig",
    "build_network",
    "build_pair",
    "resnet",
    "vgg",
    "vit",
    "whiten_stem",
]
