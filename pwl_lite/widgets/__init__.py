"""Interactive views of the book. All data are in the widget's state, so they also work without a kernel."""

from .composition_picker import CompositionPicker, picker_samples

__all__ = ["CompositionPicker", "picker_samples"]
