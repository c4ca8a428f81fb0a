"""Interactive views of the book. All data are in the widgets' state, so they also work without a kernel."""

from .composition_picker import CompositionPicker, picker_samples
from .stepper import stepper
from .streaming_view import StreamingView

__all__ = ["CompositionPicker", "StreamingView", "picker_samples", "stepper"]
