"""`FrameView`: prepared frames and the controls that choose among them; `stepper` and `chooser` show one."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from typing import Any

import anywidget
import traitlets
from IPython.display import display

from ..errors import PWLError
from .kit import allow_on_colab, script, style


class FrameView(anywidget.AnyWidget):
    """Frames of HTML, one for each choice of one or more controls.

    Args:
        controls: label of each control -> the values that it offers.
        frames: one frame for each combination of values, as HTML, the last control counting fastest.
        sliders: labels of the controls that are sliders; the others are lists.
        title: a line above the view.

    Attributes:
        chosen: for each control the 0-based number of its value; setting it moves the view.

    Raises:
        PWLError: a control without values, not one frame for each combination, a slider that is no control.
    """

    _esm = script("frame_view")
    _css = style("frame_view")

    data = traitlets.Dict(help="all that the view shows").tag(sync=True)
    chosen = traitlets.List(traitlets.Int(), help="number of the value of each control").tag(sync=True)

    def __init__(
        self,
        controls: Mapping[str, Iterable[object]],
        frames: Sequence[str],
        sliders: Sequence[str] = (),
        title: str = "",
    ):
        offered = {label: [str(value) for value in values] for label, values in controls.items()}
        combinations = len(list(product(*offered.values())))
        if not offered or not combinations:
            raise PWLError(f"controls {offered}: expected at least one, each with values to choose from")
        if len(frames) != combinations:
            raise PWLError(f"{len(frames)} frames: expected one for each of {combinations} choices of {', '.join(offered)}")
        if unknown := set(sliders) - set(offered):
            raise PWLError(f"slider {min(unknown)!r}: expected one of {', '.join(offered)}")
        allow_on_colab()
        entries = [{"label": k, "values": values, "slider": k in sliders} for k, values in offered.items()]
        data: dict[str, Any] = {"title": title, "controls": entries, "frames": list(frames)}
        different = list(dict.fromkeys(frames))
        if len(different) < len(frames):  # a page carries equal frames once
            number = {frame: i for i, frame in enumerate(different)}
            data |= {"frames": different, "frame_of": [number[frame] for frame in frames]}
        super().__init__(data=data, chosen=[0] * len(entries))

    @traitlets.validate("chosen")
    def _in_range(self, proposal: dict[str, Any]) -> list[int]:
        chosen, controls = proposal["value"], self.data["controls"]
        sizes = [len(control["values"]) for control in controls]
        if len(chosen) != len(sizes) or not all(0 <= i < size for i, size in zip(chosen, sizes, strict=True)):
            raise PWLError(f"chosen {chosen}: expected {len(sizes)} numbers below {sizes}")
        return chosen

    def __repr__(self) -> str:
        return f"FrameView({len(self.data['frames'])} frames)"


def stepper(label: str, frames: Mapping[object, str], text: str) -> None:
    """Display a slider that steps through prepared frames.

    Args:
        label: what the slider sets.
        frames: value of the slider -> what is shown for it, as HTML.
        text: says in words what is seen, where widgets cannot be shown.
    """
    _show(FrameView({label: list(frames)}, list(frames.values()), sliders=[label]), text)


def chooser(controls: Mapping[str, Iterable[object]], frame: Callable[..., str], text: str, start: Sequence[int] = ()) -> None:
    """Display lists to choose from, and the frame of what is chosen.

    Args:
        controls: label of each list -> its values.
        frame: called with one value of each list, gives HTML.
        text: as in `stepper`.
        start: numbers of the values that are chosen at first; by default the first of each list.
    """
    view = FrameView(controls, [frame(*values) for values in product(*controls.values())])
    if start:
        view.chosen = list(start)
    _show(view, text)


def _show(view: FrameView, text: str) -> None:
    shown = {"version_major": 2, "version_minor": 0, "model_id": view.model_id}
    display({"application/vnd.jupyter.widget-view+json": shown, "text/plain": text}, raw=True)
