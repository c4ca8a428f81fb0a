"""`StreamingView`: play what happened while a model was loaded over a link, and let it happen again."""

from collections.abc import Callable, Iterable
from typing import Any

import anywidget
import traitlets

from ..errors import PWLError
from ..traces import Trace
from .kit import allow_on_colab, script, style


class StreamingView(anywidget.AnyWidget):
    """A view to choose link, order and fault, and to watch accuracy rise as shards arrive.

    Without a kernel it plays the traces that it was given. With one, a button runs the chosen setting for real.

    Args:
        traces: recorded runs, see `traces.stream`.
        run: called as `run(link, order, fault)`, returns a new trace; None leaves the button out.
        title: a line above the view.

    Attributes:
        selected: number of the trace that is shown.
        moment: seconds since the start that are shown; the view moves it while it plays.

    Raises:
        PWLError: no traces.
    """

    _esm = script("streaming_view")
    _css = style("streaming_view")

    data = traitlets.Dict(help="all that the view shows").tag(sync=True)
    selected = traitlets.Int(0).tag(sync=True)
    moment = traitlets.Float(0.0).tag(sync=True)

    def __init__(self, traces: Iterable[Trace], run: Callable[[float, str, str], Trace] | None = None, title: str = ""):
        shown = [trace.as_dict() for trace in traces]
        if not shown:
            raise PWLError("no traces: expected at least one, as traces.stream gives them")
        allow_on_colab()
        self.run = run
        super().__init__(data={"title": title, "traces": shown, "live": run is not None})
        self.on_msg(self._asked)

    def _asked(self, widget: Any, content: dict[str, Any], buffers: Any) -> None:
        """The button was pressed: run it here, show what came."""
        self.send({"state": "running"})
        try:
            trace = self.run(float(content["link"]), str(content["order"]), str(content["fault"])).as_dict()
        except (PWLError, OSError) as error:
            self.send({"state": "failed", "text": str(error)})
            return
        same = [t for t in self.data["traces"] if all(t[k] == trace[k] for k in ("link", "order", "fault"))]
        self.data = {**self.data, "traces": [t for t in self.data["traces"] if t not in same] + [trace]}
        self.moment = 0.0
        self.selected = len(self.data["traces"]) - 1
        self.send({"state": "done"})

    def __repr__(self) -> str:
        return f"StreamingView({len(self.data['traces'])} traces)"
