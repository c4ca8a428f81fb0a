"""Import torchvision, also where its compiled operators do not match the installed torch.

A CPU-only torch beside a torchvision wheel that was built for CUDA is a common pair. torchvision's C++ library then does
not load, and `import torchvision` fails while it registers shape functions for operators that nobody declared. Data sets,
transforms and models need none of these operators, so declaring their two schemas is enough. Where the plain import
works nothing is touched.
"""

from types import ModuleType

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_library: torch.library.Library | None = None  # a Library's declarations live as long as the object


def import_torchvision() -> ModuleType:
    """Return the module `torchvision`, with its data sets, models and transforms usable."""
    global _library
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
        _library = torch.library.Library("torchvision", "DEF")
        for schema in _SCHEMAS:
            _library.define(schema)
        import torchvision
    return torchvision
