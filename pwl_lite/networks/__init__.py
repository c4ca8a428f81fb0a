"""The network families: each a function from a small config to a `BlockNet`."""

import dataclasses
from typing import get_args

from ..blocknet import BlockNet
from ..errors import NetworkError, UnknownNameError
from .resnet import ResNetConfig, resnet
from .vgg import VGGConfig, vgg, whiten_stem
from .vit import EncoderLayer, ViTConfig, vit

FAMILIES = {"vgg": (VGGConfig, vgg), "resnet": (ResNetConfig, resnet), "vit": (ViTConfig, vit)}
LARGEST_NUMBER = 1 << 20  # in a config: configs come from elsewhere, and must not keep a machine busy for hours
MOST_LAYERS = 1000


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
    if not isinstance(family, str) or family not in FAMILIES:
        raise UnknownNameError("family", family, FAMILIES)
    make_config, make_network = FAMILIES[family]
    for field in dataclasses.fields(make_config):
        if field.name in fields and not _is_sensible(fields[field.name], field.type, counts=field.name in ("layers", "depths")):
            raise NetworkError(
                f"config of a {family} network: {field.name} = {str(fields[field.name])[:50]}, expected {field.type} with "
                f"numbers of at most {LARGEST_NUMBER:,}, and at most {MOST_LAYERS:,} layers"
            )
    try:
        return make_network(make_config(**fields))
    except (TypeError, ArithmeticError) as error:
        raise NetworkError(f"config of a {family} network {fields}: {error}") from error


def _is_sensible(value: object, kind: object, counts: bool = False) -> bool:
    """Whether a field of a config has the right type and can be built in a moment; `counts`: it says how many layers."""
    if kind is int:
        return type(value) is int and 0 <= value <= LARGEST_NUMBER
    if kind is float:
        return type(value) in (int, float) and abs(value) <= LARGEST_NUMBER
    if kind in (bool, str):
        return type(value) is kind
    of_each = get_args(kind)[0]
    if not isinstance(value, list | tuple) or len(value) > MOST_LAYERS or not all(_is_sensible(x, of_each) for x in value):
        return False
    return not counts or sum(x if of_each is int else len(x.split()) for x in value) <= MOST_LAYERS


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
    "EncoderLayer",
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
