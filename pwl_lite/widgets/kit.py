"""What all views of the book share.

Every view is an `anywidget`: one script and one style sheet, which run in Jupyter, VS Code and Colab, and in the rendered page
without a kernel, where callbacks of ipywidgets are dead. Look and keyboard behaviour come from `kit.js` and `kit.css`,
which are put in front of each view's own, and from the browser's own sliders, lists and buttons.
"""

import sys
from pathlib import Path

HERE = Path(__file__).parent


def script(view: str) -> str:
    """The module of a view: the kit, then `<view>.js`."""
    return _joined(f"{view}.js", "kit.js")


def style(view: str) -> str:
    """The style sheet of a view: the kit's, then `<view>.css`."""
    return _joined(f"{view}.css", "kit.css")


def _joined(own: str, kit: str) -> str:
    return "\n".join((HERE / name).read_text(encoding="utf-8") for name in (kit, own))


def allow_on_colab() -> None:
    """Colab shows widgets from outside ipywidgets only after this call; elsewhere there is nothing to do."""
    if "google.colab" in sys.modules:
        try:
            from google.colab import output

            output.enable_custom_widget_manager()
        except (ImportError, AttributeError):  # an older Colab: the text form is shown instead
            pass
