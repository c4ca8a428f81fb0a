"""Progressive Weight Loading, hands on: the small package behind the book.

Everything a chapter needs hangs on this module: `import pwl_lite as pwl`. Modules are imported when first used, so that
a program that only serves a model does not pay for training, plotting or data sets.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "blocknet": ["BlockNet", "block_macs", "num_bytes", "num_params", "state_hash"],
    "networks": [
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
    ],
    "swapnet": [
        "Converter",
        "SwapNet",
        "all_compositions",
        "all_orders",
        "check_composition",
        "contiguous_orders",
        "dips",
        "loading_order",
        "order_freedom",
        "path",
    ],
    "datasets": ["Dataset", "Split", "augment", "load_dataset"],
    "objectives": [
        "AUTHORS",
        "CRD",
        "DKD",
        "KD",
        "AttentionTransfer",
        "CurriculumExtraction",
        "FitNet",
        "Objective",
        "PCACurriculum",
        "ProgressiveCheckpoints",
        "ProgressiveDistillation",
        "RelationalKD",
        "Supervised",
    ],
    "parity": ["SparseParity", "parity_mlp"],
    "parity_training": ["StreamSettings", "train_stream"],
    "grammar": ["Grammar"],
    "language": ["TransformerConfig", "transformer"],
    "language_training": ["SequenceSettings", "train_sequences"],
    "manifest": ["read_manifest"],
    "stitching": ["fit_converters"],
    "training": ["Recipe", "train"],
    "evaluation": ["accuracy", "evaluate_lattice", "predict"],
    "streaming": ["ProgressiveModel"],
    "server": ["Fault", "ShardServer"],
    "orders": ["best_path"],
    "convert": ["convert"],
    "store": ["load_blocks", "save_blocks"],
    "web_export": ["export_web"],
    "records": ["Record", "find_weights", "load_record", "load_records"],
    "claims": ["claim", "summary"],
    "profiles": ["PROFILES", "get_profile"],
    "errors": ["PWLError"],
    "widgets": ["CompositionPicker"],
}
_MODULES = (*_HOMES, "plots", "reproduce")
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted({*_HOME_OF, *_MODULES})


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        value = getattr(import_module(f".{_HOME_OF[name]}", __name__), name)
    elif name in _MODULES:
        value = import_module(f".{name}", __name__)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
