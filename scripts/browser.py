"""Finds the Chromium or Chrome of this machine."""

import os
import shutil

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
# Run as root, as in containers, Chromium has no sandbox; it only sees the book's own pages.
OPTIONS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")


def find_browser() -> str | None:
    """Its path: what PWL_BROWSER names, or the first that is on the PATH; None if there is none."""
    wanted = os.environ.get("PWL_BROWSER")
    return next(filter(None, map(shutil.which, (wanted,) if wanted else BROWSERS)), None)


def explanation() -> str:
    """What to do where `find_browser` finds none."""
    wanted = os.environ.get("PWL_BROWSER")
    return (
        f"no browser: {wanted or ' or '.join(BROWSERS)} was not found; install Chromium (Debian and Ubuntu: apt-get install "
        "chromium) or name one: PWL_BROWSER=/path/to/chrome"
    )
