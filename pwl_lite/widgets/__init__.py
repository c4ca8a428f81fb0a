"""Interactive views of the book. All data are in the widgets' state, so they also work without a kernel."""

from .composition_picker import CompositionPicker, picker_samples
from .frame_view import FrameView, chooser, stepper
from .streaming_view import StreamingView

__all__ = ["CompositionPicker", "FrameView", "StreamingView", "chooser", "picker_samples", "stepper"]
