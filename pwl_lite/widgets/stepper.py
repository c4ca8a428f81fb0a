"""`stepper`: a slider over prepared pictures, which works without a kernel."""

from collections.abc import Mapping

import ipywidgets
from IPython.display import display


def stepper(label: str, frames: Mapping[object, str], text: str) -> None:
    """Display a slider that steps through prepared frames; the browser itself links the two.

    Args:
        label: what the slider sets, as HTML.
        frames: value of the slider -> what is shown for it, as HTML.
        text: says in words what is seen, where widgets cannot be shown.
    """
    slider = ipywidgets.SelectionSlider(options=[str(value) for value in frames])
    stack = ipywidgets.Stack([ipywidgets.HTML(frame) for frame in frames.values()], selected_index=0)
    ipywidgets.jslink((slider, "index"), (stack, "selected_index"))
    box = ipywidgets.VBox([ipywidgets.HBox([ipywidgets.HTML(label), slider]), stack])
    view = {"version_major": 2, "version_minor": 0, "model_id": box.model_id}
    display({"application/vnd.jupyter.widget-view+json": view, "text/plain": text}, raw=True)
