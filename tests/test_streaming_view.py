"""What `StreamingView` does in a browser: without a kernel, with one (played by the page), and with two views of one model."""

import json
import shutil
import subprocess
from collections.abc import Iterator

import pytest
from browser import find_browser

from pwl_lite.traces import Trace
from pwl_lite.widgets import StreamingView, kit

NODE = shutil.which("node")
CHROMIUM = find_browser()
STEPS = [[0.1, "SSSS", 50.0, 10], [0.2, "TTTT", 60.0, 20]]
SETTINGS = [(4e6, "prefix", "none"), (4e6, "best", "none"), (16e6, "prefix", "none"), (16e6, "prefix", "truncated")]
# A model as anywidget gives it to a view, and the kernel at its other end.
MODEL = """
class Model {
  constructor(state, kernel) { Object.assign(this, { state, kernel, heard: {}, sent: [] }); }
  get(name) { return this.state[name]; }
  set(name, value) {
    if (this.state[name] === value) return;
    this.state[name] = value;
    this.fire(`change:${name}`);
  }
  save_changes() {}
  send(content) {
    this.sent.push(content);
    if (this.kernel && content.ask === "hello") this.fire("msg:custom", { state: "here" });
  }
  on(event, handler) { (this.heard[event] ??= []).push(handler); }
  off(event, handler) { this.heard[event] = this.heard[event].filter((other) => other !== handler); }
  fire(event, about) { for (const handler of [...(this.heard[event] ?? [])]) handler(about); }
}
globalThis.show = async ({ script, css, state, kernel, views }) => {
  const { default: view } = await import(URL.createObjectURL(new Blob([script], { type: "text/javascript" })));
  document.head.append(Object.assign(document.createElement("style"), { textContent: css }));
  globalThis.model = new Model(state, kernel);
  globalThis.ends = Array.from({ length: views }, () => {
    const el = document.createElement("div");
    document.body.append(el);
    return view.render({ model, el });
  });
};
"""


def the_view() -> StreamingView:
    return StreamingView([Trace(*setting, STEPS, [], 0.2) for setting in SETTINGS], run=lambda *setting: None, title="a pair")


@pytest.mark.skipif(NODE is None, reason="node is not installed")
def test_the_slider_reaches_what_was_recorded_and_the_nearest_trace_is_found(tmp_path):
    (tmp_path / "view.mjs").write_text(kit.script("streaming_view"))
    program = """
        import { linkAt, sliderStep, nearest } from "./view.mjs";
        const traces = JSON.parse(process.argv[2]);
        const near = (link, order, fault, changed) => nearest(traces, { link, order, fault }, changed);
        console.log(JSON.stringify({
          recorded: [4e6, 16e6].map((link) => linkAt(sliderStep(link), [4e6, 16e6])),
          links: Array.from({ length: 41 }, (_, step) => linkAt(step, [])),
          near: [near(4e6, "prefix", "truncated", "fault"), near(16e6, "best", "none", "order"),
                 near(12e6, "prefix", "none", "link"), near(4e6, "best", "none", "order")],
        }));
    """
    (tmp_path / "ask.mjs").write_text(program)
    traces = json.dumps([dict(zip(("link", "order", "fault"), setting, strict=True)) for setting in SETTINGS])
    run = subprocess.run([NODE, "ask.mjs", traces], cwd=tmp_path, capture_output=True, text=True, check=True)
    found = json.loads(run.stdout)
    assert found["recorded"] == [4e6, 16e6] and found["near"] == [3, 1, 2, 1]
    links = found["links"]
    assert (links[0], links[-1]) == (0.5e6, 50e6) and links == sorted(set(links))


@pytest.fixture(scope="module")
def browser() -> Iterator:
    if CHROMIUM is None:
        pytest.skip("no Chromium: apt-get install chromium, or name one in PWL_BROWSER")
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install -r requirements.txt")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


def opened(browser, kernel: bool, views: int = 1):
    view = the_view()
    page = browser.new_page()
    page.add_script_tag(content=MODEL)
    state = {"data": view.data, "selected": 0, "moment": 0.0}
    about = {"script": kit.script("streaming_view"), "css": kit.style("streaming_view"), "state": state}
    page.evaluate("(about) => show(about)", {**about, "kernel": kernel, "views": views})
    return page


def chosen(page) -> list[str]:
    return page.locator("select").evaluate_all("lists => lists.map((list) => list.value)")


@pytest.mark.slow
def test_without_a_kernel_only_what_was_recorded_is_offered_and_nothing_can_be_run(browser):
    page = opened(browser, kernel=False)
    offered = page.locator("select").evaluate_all("lists => lists.map((list) => Array.from(list.options, (o) => o.value))")
    assert offered == [["4000000", "16000000"], ["prefix", "best"], ["none", "truncated"]]
    assert page.get_by_role("button", name="Run it for real").is_disabled()
    assert page.get_by_text("needs a running kernel").is_visible()
    page.get_by_label("Fault").select_option("truncated")
    assert chosen(page) == ["4000000", "prefix", "truncated"], "the choice stays, whatever is shown"
    assert page.locator(".pwl-shown").inner_text() == "Shown: 16 MB/s, order prefix, fault truncated"
    assert "was not recorded" in page.locator(".pwl-say").inner_text()
    page.get_by_label("Link").select_option("16000000")
    assert page.locator(".pwl-say").inner_text() == "" and page.evaluate("model.get('selected')") == 3
    page.close()


@pytest.mark.slow
def test_with_a_kernel_any_setting_is_asked_for_as_it_was_chosen(browser):
    page = opened(browser, kernel=True)
    assert page.get_by_text("needs a running kernel").count() == 0
    page.get_by_label("Fault").select_option("stall")
    page.get_by_label("Order").select_option("contiguous")
    link = page.get_by_label("Link")
    link.press("Home")
    assert link.get_attribute("aria-valuetext") == "500 kB/s"
    link.press("ArrowRight")
    page.get_by_role("button", name="Run it for real").click()
    wanted = {"link": 560_000, "order": "contiguous", "fault": "stall"}
    assert page.evaluate("model.sent") == [{"ask": "hello"}, {"ask": "run", **wanted}]
    came = Trace(560_000, "contiguous", "stall", STEPS, [], 0.2).as_dict()
    page.evaluate("""(trace) => {
      model.fire("msg:custom", { state: "running" });
      model.set("data", { ...model.get("data"), traces: [...model.get("data").traces, trace] });
      model.set("moment", 0);
      model.set("selected", model.get("data").traces.length - 1);
      model.fire("msg:custom", { state: "done" });
    }""", came)  # fmt: skip
    assert page.locator(".pwl-shown").inner_text() == "Shown: 560 kB/s, order contiguous, fault stall"
    assert chosen(page) == ["contiguous", "stall"] and link.get_attribute("aria-valuetext") == "560 kB/s"
    page.wait_for_function("model.get('moment') > 0")  # it plays
    page.evaluate("model.fire('msg:custom', { state: 'failed', text: 'the reason' })")
    assert "It has failed: the reason" in page.locator(".pwl-say").inner_text()
    page.close()


@pytest.mark.slow
def test_two_views_of_one_model_show_the_same_and_leave_nothing_behind(browser):
    page = opened(browser, kernel=True, views=2)
    page.locator(".pwl-stream").first.get_by_label("Order").select_option("best")
    assert page.locator(".pwl-shown").all_inner_texts() == ["Shown: 4 MB/s, order best, no fault"] * 2
    assert chosen(page) == ["best", "none"] * 2
    page.evaluate("ends[0]()")
    page.locator(".pwl-stream").last.get_by_label("Order").select_option("prefix")
    assert page.locator(".pwl-shown").first.inner_text() == "Shown: 4 MB/s, order best, no fault", "it has ended"
    page.evaluate("ends[1]()")
    assert page.evaluate("Object.values(model.heard).flat().length") == 0
    page.close()
