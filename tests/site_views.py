"""The interactive views of the built site, operated in headless Chromium; `make site-check` runs this after building.

What a view shows must be what the notebook put there, and numbers must be those of the records. No kernel runs here.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pandas as pd
import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

import pwl_lite as pwl

ROOT = Path(__file__).parents[1]
SITE = ROOT / "_build" / "html"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ROUNDED = 0.0501  # to one digit; Python and JavaScript round a half differently
CHAPTERS = sorted((ROOT / "book").glob("*.ipynb"))


def views_of(chapter: Path, key: str) -> list[dict]:
    """The `data` of all views of a chapter that have this key in it, as the notebook holds them."""
    widgets = json.loads(chapter.read_text())["metadata"].get("widgets", {})
    states = widgets.get("application/vnd.jupyter.widget-state+json", {}).get("state", {}).values()
    return [s["state"]["data"] for s in states if key in s["state"].get("data", {})]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    place = os.environ.get("PWL_BROWSER") or next(filter(None, map(shutil.which, BROWSERS)))
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=place, args=["--no-sandbox"]) as started:
        yield started


def opened(browser: Browser, chapter: Path) -> Page:
    page = browser.new_page()
    page.set_default_timeout(60_000)
    page.goto((SITE / "book" / f"{chapter.stem}.html").as_uri())
    return page


def text_of(page: Page, html: str) -> str:
    """What a reader reads of some HTML, without spaces."""
    script = "(html) => { const node = document.createElement('div'); node.innerHTML = html; return node.textContent }"
    return page.evaluate(script, html)


def percent_in(text: str) -> float:
    return float(re.search(r"([\d.]+) %", text)[1])


def bare(text: str) -> str:
    return re.sub(r"\s", "", text)


def set_control(control: Locator, wanted: int) -> None:
    """Move one control of a view of frames to its value of this number, a slider by its keys."""
    if control.evaluate("node => node.tagName") == "SELECT":
        control.select_option(index=wanted)
        return
    control.press("Home")
    for _ in range(wanted):
        control.press("ArrowRight")


@pytest.mark.parametrize("chapter", [c for c in CHAPTERS if views_of(c, "frames")], ids=lambda c: c.stem)
def test_every_choice_shows_its_frame(browser, chapter):
    page = opened(browser, chapter)
    frames = views_of(chapter, "frames")
    expect(page.locator(".pwl-frames")).to_have_count(len(frames))
    for data in frames:
        labels = [control["label"] for control in data["controls"]]
        view = page.locator(".pwl-frames", has=page.locator(f"label:has-text({json.dumps(labels[0])})")).first
        controls = view.locator("input, select")
        expect(controls).to_have_count(len(labels))
        choices = list(product(*(range(len(control["values"])) for control in data["controls"])))
        numbers = data.get("frame_of", range(len(choices)))
        for choice, frame in zip(choices, (data["frames"][number] for number in numbers), strict=True):
            for k, wanted in enumerate(choice):
                set_control(controls.nth(k), wanted)
            shown = bare(view.locator(".pwl-frame").text_content())
            assert shown == bare(text_of(page, frame)), (chapter.stem, choice)


def test_the_ablations_show_the_means_of_their_records(browser):
    chapter = ROOT / "book" / "07_ablations.ipynb"
    page = opened(browser, chapter)
    view = page.locator(".pwl-frames", has=page.locator("label:has-text('ablation')"))
    slider = view.locator("input[type=range]")
    slider.press("Home")
    seen = set()
    for _ in views_of(chapter, "frames")[0]["frames"]:
        name = slider.get_attribute("aria-valuetext")
        seen.add(name)
        mean = pd.DataFrame([r.lattice for r in pwl.load_records(f"ablation-{name}")]).mean()
        shown = dict(re.findall(r"([ST]{4})\s*([\d.]+)", view.locator(".pwl-frame").inner_text()))
        assert shown == {c: f"{mean[c]:.1f}" for c in pwl.all_compositions(4)}, name
        slider.press("ArrowRight")
    assert len(seen) >= 8


def test_the_picker_shows_the_record_along_every_named_order_and_for_single_blocks(browser):
    chapter = ROOT / "book" / "05_progressive_swapping.ipynb"
    record = pwl.load_records("pwl", dataset="cifar10", family="vgg", profile="cifar")[0]
    page = opened(browser, chapter)
    view = page.locator(".pwl-picker").nth(1)
    accuracy = view.locator(".pwl-tile", has_text="Accuracy").locator(".pwl-value")
    slider, order = view.locator("input[type=range]"), view.locator("select")

    def check(composition: str) -> None:
        assert "".join(view.locator(".pwl-letter").all_text_contents()) == composition
        assert percent_in(accuracy.inner_text()) == pytest.approx(record.lattice[composition], abs=ROUNDED)

    for name in ("prefix", "suffix", "contiguous"):
        order.select_option(name)
        slider.press("Home")
        for composition in pwl.path(name, 4):
            check(composition)
            slider.press("ArrowRight")
    for composition in ("STTT", "STST", "SSST", "SSSS"):  # pressing blocks takes them out again
        now = "".join(view.locator(".pwl-letter").all_text_contents())
        changed = next(i for i in range(4) if now[i] != composition[i])
        view.locator("button.pwl-block").nth(changed).press("Enter")
        check(composition)


def test_the_streaming_view_plays_what_was_recorded(browser):
    chapter = ROOT / "book" / "06_streaming_weights.ipynb"
    (data,) = views_of(chapter, "traces")
    page = opened(browser, chapter)
    view = page.locator(".pwl-stream")
    link, order, fault = (view.locator("select").nth(k) for k in range(3))
    for trace in data["traces"]:
        link.select_option(value=str(trace["link"] if trace["link"] != int(trace["link"]) else int(trace["link"])))
        order.select_option(value=trace["order"])
        fault.select_option(value=trace["fault"])
        view.locator("input[type=range]").press("End")
        _, composition, percent, *_ = trace["steps"][-1]
        expect(view.locator("output")).to_contain_text(f"{composition} answers, ")
        assert percent_in(view.locator("output").inner_text()) == pytest.approx(percent, abs=ROUNDED)
        view.locator("input[type=range]").press("Home")
        expect(view.locator("output")).to_contain_text("no answer yet")
    play = view.locator(".pwl-play")
    play.press("Enter")
    expect(view.locator("output")).to_contain_text("answers", timeout=20_000)
    play.press("Enter")
    expect(play).to_contain_text("Play")
