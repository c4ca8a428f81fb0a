"""`StreamingView`: play what happened while a model was loaded over a link, and let it happen again."""

from collections.abc import Callable, Iterable
from typing import Any

import anywidget
import traitlets

from ..errors import PWLError
from ..server import FAULTS
from ..traces import NO_FAULT, Trace
from .kit import allow_on_colab, script, style

ORDERS = ("prefix", "suffix", "contiguous", "best")


class StreamingView(anywidget.AnyWidget):
    """A view to choose link, order and fault, and to watch accuracy rise as shards arrive.

    Without a kernel it plays the traces that it was given. With one, a button runs any setting for real: every order with a
    name, every kind of fault, links from 0.5 to 50 MB/s.

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
        faults = {NO_FAULT: "", **FAULTS}
        super().__init__(
            data={"title": title, "traces": shown, "live": run is not None, "orders": list(ORDERS), "faults": faults}
        )
        self.on_msg(self._hear)

    def _hear(self, widget: Any, content: dict[str, Any], buffers: Any) -> None:
        """A view asks whether a kernel is there, or its button was pressed."""
        if content.get("ask") == "hello":
            self.send({"state": "here"})
        else:
            self._asked(content)

    def _asked(self, content: dict[str, Any]) -> None:
        """Run it here, show what came; whatever goes wrong, the view must not wait for ever."""
        self.send({"state": "running"})
        try:
            trace = self.run(float(content["link"]), str(content["order"]), str(content["fault"])).as_dict()
            same = [t for t in self.data["traces"] if all(t[k] == trace[k] for k in ("link", "order", "fault"))]
            self.data = {**self.data, "traces": [t for t in self.data["traces"] if t not in same] + [trace]}
            self.moment = 0.0
            self.selected = len(self.data["traces"]) - 1
        except BaseException as error:
            text = str(error) if isinstance(error, PWLError | OSError) else f"{type(error).__name__}: {error}".rstrip(": ")
            self.send({"state": "failed", "text": text})
            if not isinstance(error, Exception):  # the reader has interrupted the kernel
                raise
            return
        self.send({"state": "done"})

    def __repr__(self) -> str:
        return f"StreamingView({len(self.data['traces'])} traces)"
