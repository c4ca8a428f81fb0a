"""Figures of the book: matplotlib figures with an alt text, readable without colour and on dark pages."""

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from IPython.display import display
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

from .errors import CompositionError, PWLError
from .records import Record
from .swapnet import all_compositions, lattice_steps, path

# Okabe and Ito's colours, told apart by all common kinds of colour vision; markers and dashes say it again.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (3, 1)), (0, (1, 1)))
DIP = "#D55E00"
STYLE = {
    "figure.facecolor": "white",  # also on dark pages: a transparent figure would hide its dark labels there
    "axes.facecolor": "white",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e3e3e3",
    "axes.axisbelow": True,
    "font.size": 10,
    "legend.frameon": False,
}
DPI = 150

Accuracies = Mapping[str, float] | pd.DataFrame | Record
Order = str | Sequence[int]


def show(fig: Figure, alt: str | None = None) -> None:
    """Display a figure as a PNG with an alternative text, and close it.

    Args:
        fig: any matplotlib figure.
        alt: what a reader who cannot see the figure must know: what is drawn, and what it shows. It stands in
            the output's metadata, from where the rendered book takes it, and is the output's text form. By default
            the figure's label; `lattice` and `loading_curves` put into theirs what they show.

    Raises:
        PWLError: `alt` is too short to say anything.
    """
    alt = fig.get_label() if alt is None else alt
    if not isinstance(alt, str) or len(alt.strip()) < 10:
        raise PWLError(f"alt text {alt!r}: expected a sentence that says what the figure shows")
    drawn, small = BytesIO(), BytesIO()
    fig.savefig(drawn, format="png", dpi=DPI, bbox_inches="tight", facecolor="white")
    plt.close(fig)
    image = Image.open(drawn).convert("RGB")
    image.quantize(256, dither=Image.Dither.NONE).save(small, format="PNG", optimize=True)  # a third of the bytes
    width, height = (side * 100 // DPI for side in image.size)  # 100 pixels of the page to the inch
    metadata = {"image/png": {"alt": alt, "width": width, "height": height}}
    display({"image/png": b64encode(small.getvalue()).decode(), "text/plain": alt}, raw=True, metadata=metadata)


def accuracies(lattice: Accuracies) -> dict[str, float]:
    """Composition -> accuracy in percent, from a table of `evaluate_lattice`, a record or a mapping.

    Raises:
        CompositionError: it does not hold all 2^N compositions of N blocks.
    """
    if isinstance(lattice, pd.DataFrame):
        found = dict(zip(lattice["composition"], lattice["accuracy"], strict=True))
    else:
        found = dict(lattice.lattice if isinstance(lattice, Record) else lattice)
    num_blocks = len(next(iter(found), ""))
    missing = sorted(set(all_compositions(num_blocks)) - set(found)) if num_blocks else ["all"]
    if missing:
        raise CompositionError(f"lattice without {', '.join(missing[:3])}: expected all 2^{num_blocks} compositions")
    return {c: float(found[c]) for c in all_compositions(num_blocks)}


def lattice(values: Accuracies, title: str = "") -> Figure:
    """All 2^N compositions, by number of teacher blocks, joined where one more block is loaded.

    The colour of a node is its accuracy, also written in it. A grey line is a step that loses no accuracy;
    a dashed, wider line is a dip: the wider, the more points are lost.
    """
    accuracy = accuracies(values)
    n = len(next(iter(accuracy)))
    columns = [sorted((c for c in accuracy if c.count("T") == k), key=_t_first) for k in range(n + 1)]
    place = {c: (k, (len(col) - 1) / 2 - i) for k, col in enumerate(columns) for i, c in enumerate(col)}
    tallest = max(map(len, columns))
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        fig, ax = plt.subplots(figsize=(7.2, 0.75 * tallest + 0.9), layout="constrained")
        for before, after in lattice_steps(n):
            lost = accuracy[before] - accuracy[after]
            look = {"color": "#b5b5b5", "lw": 0.9}
            if lost > 0:
                look = {"color": DIP, "lw": min(1.2 + 0.5 * lost, 5), "ls": (0, (3, 1.5))}
            (x0, y0), (x1, y1) = place[before], place[after]
            ax.plot([x0, x1], [y0, y1], zorder=1 + (lost > 0), **look)
        norm = mpl.colors.Normalize(min(accuracy.values()), max(accuracy.values()))
        cmap = mpl.colormaps["cividis"]
        for c, (x, y) in place.items():
            text = "white" if norm(accuracy[c]) < 0.55 else "black"
            box = {"boxstyle": "round,pad=0.3", "fc": cmap(norm(accuracy[c])), "ec": "#333333", "lw": 0.6}
            size = 9 if tallest <= 10 else 6
            label = f"{c}\n{accuracy[c]:.1f}"
            ax.text(x, y, label, ha="center", va="center", color=text, fontsize=size, bbox=box, zorder=4)
        ax.plot([], [], color="#b5b5b5", lw=0.9, label="one more teacher block: no loss")
        ax.plot([], [], color=DIP, lw=2, ls=(0, (3, 1.5)), label="a dip (wider: more points lost)")
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2)
        fig.colorbar(mpl.cm.ScalarMappable(norm, cmap), ax=ax, label="accuracy (%)", fraction=0.04, pad=0.02)
        ax.set(xlim=(-0.45, n + 0.45), ylim=(-tallest / 2 - 0.1, tallest / 2 + 0.1), title=title)
        ax.set(xlabel="number of teacher blocks", yticks=[], xticks=range(n + 1))
        ax.spines["left"].set_visible(False)
    fig.set_label(_lattice_in_words(accuracy))
    return fig


def _lattice_in_words(accuracy: Mapping[str, float]) -> str:
    """What a drawn lattice shows."""
    student, *_, teacher = accuracy
    worst = min(accuracy, key=accuracy.__getitem__)
    steps = list(lattice_steps(len(student)))
    lost = {step: accuracy[step[0]] - accuracy[step[1]] for step in steps}
    dips = sum(points > 0 for points in lost.values())
    (before, after), points = max(lost.items(), key=lambda entry: entry[1])
    largest = f", the largest from {before} to {after} by {points:.1f} points" if dips else ""
    return (
        f"All {len(accuracy)} compositions by number of teacher blocks, from {student} with {accuracy[student]:.1f} % to "
        f"{teacher} with {accuracy[teacher]:.1f} %; the worst is {worst} with {accuracy[worst]:.1f} %. "
        f"{dips} of {len(steps)} steps lose accuracy{largest}."
    )


def loading_curves(
    values: Accuracies,
    orders: Iterable[Order] | Mapping[str, Order] = ("prefix", "suffix", "contiguous"),
    bytes: Mapping[str, float] | None = None,
    title: str = "",
) -> Figure:
    """Accuracy while teacher blocks arrive, one line for each order; a ring marks the point after a dip.

    Args:
        values: a table of `evaluate_lattice`, a record or a mapping.
        orders: loading orders (see `loading_order`), or label -> order.
        bytes: composition -> bytes that have arrived by then; they become the horizontal axis.

    Raises:
        CompositionError: an order that does not fit, or a lattice that is not complete.
    """
    accuracy = accuracies(values)
    n = len(next(iter(accuracy)))
    named = dict(orders) if isinstance(orders, Mapping) else {order_label(order): order for order in orders}
    with mpl.rc_context(STYLE):
        fig, ax = plt.subplots(figsize=(7.2, 4.2), layout="constrained")
        unit, name = _byte_unit(max(bytes.values())) if bytes else (1, "")
        rings = []
        for i, (label, order) in enumerate(named.items()):
            steps = path(order, n)
            x = [bytes[c] / unit for c in steps] if bytes else range(n + 1)
            y = [accuracy[c] for c in steps]
            k = i % len(PALETTE)
            ax.plot(x, y, marker=MARKERS[k], ls=DASHES[k], color=PALETTE[k], lw=1.8, ms=6, label=label)
            rings += [(x[j], y[j]) for j in range(1, n + 1) if y[j] < y[j - 1]]
        if rings:
            ring = {"s": 150, "fc": "none", "ec": "black", "lw": 1.2}
            ax.scatter(*np.transpose(rings), **ring, zorder=3, label="after a dip")
        ax.set(ylabel="accuracy (%)", title=title)
        ax.set_xlabel(f"weights received ({name})" if bytes else "teacher blocks loaded")
        if not bytes:
            ax.set_xticks(range(n + 1))
        ax.legend()
    said = "; ".join(f"{label}: " + ", ".join(f"{accuracy[c]:.1f}" for c in path(order, n)) for label, order in named.items())
    across = "the weights received" if bytes else "the number of teacher blocks loaded"
    fig.set_label(f"Accuracy in percent against {across}, at each composition on the way. {said}.")
    return fig


def history(entries: Sequence[Mapping[str, Any]], title: str = "") -> Figure:
    """The weighted loss terms, mean of each epoch, of what `train` returns (or of a record's `history`).

    Raises:
        PWLError: no entries.
    """
    if not entries:
        raise PWLError("history without entries: expected what train() returned, one entry per epoch")
    with mpl.rc_context(STYLE):
        fig, ax = plt.subplots(figsize=(7.2, 3.8), layout="constrained")
        for i, term in enumerate(entries[0]["loss"]):
            k = i % len(PALETTE)
            points = [(entry["epoch"], entry["loss"][term]) for entry in entries]
            if not any(value for _, value in points):
                continue  # a term that is always 0 has no place on a logarithmic axis
            look = {"marker": MARKERS[k], "ls": DASHES[k], "color": PALETTE[k], "lw": 1.6, "ms": 5}
            ax.plot(*np.transpose(points), **look, label=term)
        ax.set(xlabel="epoch", ylabel="weighted loss term (log scale)", yscale="log", title=title)
        ax.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
        ax.legend(ncols=2)
    return fig


def order_label(order: Order) -> str:
    """A loading order for people: its name, or its block numbers."""
    return order if isinstance(order, str) else ", ".join(map(str, order))


def _t_first(composition: str) -> str:
    """Sorting key that puts prefix compositions (TTSS) on top and suffix ones (SSTT) at the bottom."""
    return composition.replace("T", "A")


def _byte_unit(largest: float) -> tuple[float, str]:
    return (1e6, "MB") if largest >= 1e6 else (1e3, "kB")
