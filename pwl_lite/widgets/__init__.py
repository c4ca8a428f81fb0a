"""Interactive views of the book. All data are in the widgets' state, so they also work without a kernel."""

from .composition_picker import CompositionPicker, picker_samples
from .stepper import stepper

__all__ = ["CompositionPicker", "picker_samples", "stepper"]
