"""`CompositionPicker`: choose which teacher blocks are loaded, and see what that costs and gives."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import anywidget
import pandas as pd
import torch
import traitlets
from PIL import Image

from ..datasets import Dataset
from ..errors import CompositionError, DataError, PWLError
from ..evaluation import lattice_logits
from ..records import Record
from ..swapnet import SwapNet, all_compositions, check_composition, loading_order, path
from .kit import allow_on_colab, script, style

MEASURES = ("accuracy", "agreement", "bytes", "macs")
NAMED_ORDERS = ("prefix", "suffix", "contiguous")
DRAWN = ("shapes10",)  # data sets whose images are drawn by code
LOOK_AT = 400  # images among which picker_samples chooses
SHOWN = 3  # classes per composition


class CompositionPicker(anywidget.AnyWidget):
    """A view to load teacher blocks in, along an order or one by one, and to see what each composition does.

    Args:
        table: what `evaluate_lattice` gives: a row for each of the 2^N compositions with `composition` and
            `accuracy` (percent), and where known `agreement` (percent), `bytes` and `macs`.
        samples: images with the compositions' answers, see `picker_samples`.
        names: one name for each block; by default block 1 .. block N.
        title: a line above the view.
        converters: whether the pair has any: where not, none are drawn.

    Attributes:
        composition: the one shown, such as `"TTSS"`; setting it moves the view, clicks in the view set it.
        order: the loading order: `"prefix"`, `"suffix"`, `"contiguous"` or a permutation of 1 .. N.
        loaded: number of teacher blocks in the composition; setting it goes along the order. A slider of
            ipywidgets can be linked to it with `jslink`.

    Raises:
        CompositionError: a table without all compositions; a composition or order that does not fit.
        PWLError: not one name for each block.
    """

    _esm = script("composition_picker")
    _css = style("composition_picker")

    composition = traitlets.Unicode().tag(sync=True)
    order = traitlets.Any("prefix").tag(sync=True)
    loaded = traitlets.Int(0).tag(sync=True)
    data = traitlets.Dict(help="all that the view shows").tag(sync=True)

    def __init__(
        self,
        table: pd.DataFrame,
        samples: Mapping[str, Any] | None = None,
        names: Sequence[str] | None = None,
        title: str = "",
        converters: bool = True,
    ):
        rows = _rows(table)
        self.num_blocks = len(next(iter(rows)))
        names = list(names or (f"block {i}" for i in range(1, self.num_blocks + 1)))
        if len(names) != self.num_blocks:
            raise PWLError(f"names {names}: expected one for each of {self.num_blocks} blocks")
        allow_on_colab()
        data = {
            "title": title,
            "names": names,
            "rows": rows,
            "orders": {name: list(loading_order(name, self.num_blocks)) for name in NAMED_ORDERS},
            "samples": dict(samples) if samples else None,
            "converters": converters,
        }
        super().__init__(data=data, composition="S" * self.num_blocks)

    @classmethod
    def from_lattice(
        cls, lattice: Record | Mapping[str, float], title: str | None = None, **options: Any
    ) -> "CompositionPicker":
        """A view of a record with all that it measured, or of composition -> accuracy in percent alone."""
        if not isinstance(lattice, Record):
            rows = [{"composition": c, "accuracy": a} for c, a in lattice.items()]
        else:
            title = title if title is not None else f"{lattice.experiment}/{lattice.run}"
            options.setdefault("converters", not lattice.objective.get("identity", False))
            rows = [
                {
                    "composition": c,
                    "accuracy": a,
                    "agreement": lattice.agreement.get(c),
                    **lattice.costs.get(c, {}),
                }
                for c, a in lattice.lattice.items()
            ]
        return cls(pd.DataFrame(rows, dtype=object), title=title or "", **options)

    @traitlets.validate("composition")
    def _check_composition(self, proposal: Any) -> str:
        return check_composition(proposal["value"], self.num_blocks)

    @traitlets.validate("order")
    def _check_order(self, proposal: Any) -> str | list[int]:
        order = proposal["value"]
        blocks = loading_order(order, self.num_blocks)
        return order if isinstance(order, str) else list(blocks)

    @traitlets.validate("loaded")
    def _check_loaded(self, proposal: Any) -> int:
        if not 0 <= proposal["value"] <= self.num_blocks:
            raise CompositionError(f"{proposal['value']} teacher blocks: expected 0 to {self.num_blocks}")
        return proposal["value"]

    # The view keeps the three in step by the same rules, so that it also works without a kernel.
    @traitlets.observe("composition")
    def _count(self, change: Any) -> None:
        self.loaded = change["new"].count("T")

    @traitlets.observe("loaded")
    def _follow_loaded(self, change: Any) -> None:
        if self.composition.count("T") != change["new"]:
            self.composition = path(self.order, self.num_blocks)[change["new"]]

    @traitlets.observe("order")
    def _follow_order(self, change: Any) -> None:
        self.composition = path(change["new"], self.num_blocks)[self.loaded]

    def __repr__(self) -> str:
        return f"CompositionPicker({self.num_blocks} blocks, {self.composition!r}, order={self.order!r})"


def picker_samples(net: SwapNet, data: Dataset, n: int = 6, allow_photographs: bool = False) -> dict[str, Any]:
    """Test images with the three likeliest classes of every composition, for `CompositionPicker`.

    A third of the images are the first on which all compositions agree, the others the first on which they
    do not: a random choice would hardly ever show a change.

    Args:
        net: the trained network.
        data: its first 400 test images are looked at.
        n: number of images.
        allow_photographs: the pixels become part of the notebook when it is saved. Images that are not drawn
            by code may not be passed on freely, so they are refused unless this is set.

    Raises:
        DataError: images that are not drawn by code, without `allow_photographs`.
    """
    if data.name not in DRAWN and not allow_photographs:
        raise DataError(
            f"samples of {data.name!r}: expected {' or '.join(DRAWN)}, since the images are stored in the "
            "notebook; leave them out, or pass allow_photographs=True in a notebook that stays with you"
        )
    split = data.test.subset(min(LOOK_AT, len(data.test)))
    net.eval()
    device = next(net.parameters()).device
    with torch.no_grad():
        logits = lattice_logits(net, split.normalise(split.images).to(device))
        probabilities = {c: x.float().softmax(1).cpu() for c, x in logits.items()}
    answers = torch.stack([p.argmax(1) for p in probabilities.values()])
    unanimous = (answers == answers[0]).all(0)
    same, other = (where.nonzero().flatten().tolist() for where in (unanimous, ~unanimous))
    chosen = same[: max(n // 3, n - len(other))]
    chosen = sorted(chosen + other[: n - len(chosen)])
    images = [
        {
            "png": _png(split.images[i]),
            "label": int(split.labels[i]),
            "number": i,
            "top": _top(probabilities, i),
        }
        for i in chosen
    ]
    return {"classes": list(data.classes), "images": images}


def _top(probabilities: Mapping[str, torch.Tensor], image: int) -> dict[str, list[list[float]]]:
    """For each composition, the likeliest classes of one image as [class, probability]."""
    found = {}
    for composition, p in probabilities.items():
        values, classes = p[image].topk(min(SHOWN, p.shape[1]))
        found[composition] = [[int(k), round(float(v), 3)] for k, v in zip(classes, values, strict=True)]
    return found


def _png(image: torch.Tensor) -> str:
    """A uint8 image (3, height, width) as a data URI."""
    buffer = BytesIO()
    Image.fromarray(image.permute(1, 2, 0).cpu().numpy()).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + b64encode(buffer.getvalue()).decode()


def _rows(table: pd.DataFrame) -> dict[str, dict[str, float | None]]:
    """Composition -> measures that JSON can hold (None where unknown). Raises CompositionError."""
    if not {"composition", "accuracy"} <= set(table.columns):
        raise CompositionError(f"table with {list(table.columns)}: expected at least composition and accuracy")
    given = {str(row["composition"]): row for row in table.to_dict("records")}
    n = len(next(iter(given), ""))
    if n < 2 or set(given) != set(all_compositions(n)):
        raise CompositionError(f"table of {sorted(given)[:4]} ...: expected each of the 2^N compositions once")

    def number(value: Any) -> float | None:
        return None if value is None or pd.isna(value) else round(float(value), 3)

    return {c: {m: number(given[c].get(m)) for m in MEASURES} for c in all_compositions(n)}
