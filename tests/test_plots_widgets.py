"""Figures and the composition picker. What the picker does in a browser is in its script; here, what it is given."""

import base64
import json
import shutil
import subprocess
from io import BytesIO
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from matplotlib import pyplot as plt
from PIL import Image
from traitlets.config import Config

import pwl_lite as pwl
from pwl_lite import plots, widgets
from pwl_lite.errors import CompositionError, DataError, PWLError
from pwl_lite.shapes10 import CLASSES, make_shapes10
from pwl_lite.swapnet import dips, path
from pwl_lite.widgets import frame_view, kit

mpl.use("Agg")

NODE = shutil.which("node")
SCRIPT = Path(widgets.__file__).parent / "composition_picker.js"
# accuracies of a real run: the prefix order dips once, the suffix order at its first step
ACCURACY = {
    "SSSS": 49.5, "TSSS": 48.25, "STSS": 46.75, "SSTS": 45.65, "SSST": 34.05, "TTSS": 58.7, "TSTS": 46.15, "TSST": 37.25,
    "STTS": 64.55, "STST": 42.75, "SSTT": 51.75, "TTTS": 76.4, "TTST": 53.35, "TSTT": 56.1, "STTT": 73.15, "TTTT": 85.4,
}  # fmt: skip


@pytest.fixture(scope="module")
def data():
    train, train_labels, test, test_labels = make_shapes10(n_train=10, n_test=60)

    def split(images, labels):
        images = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
        labels = torch.from_numpy(labels).long()
        return pwl.Split(images, labels, mean=(0.5,) * 3, std=(0.25,) * 3, classes=CLASSES)

    return pwl.Dataset("shapes10", split(train, train_labels), split(test, test_labels))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return pwl.SwapNet(*pwl.build_pair("vgg"))


@pytest.fixture
def table():
    rows = [(c, a, 50.0, 1000 * c.count("T") + 10, 5) for c, a in ACCURACY.items()]
    return pd.DataFrame(rows, columns=["composition", "accuracy", "agreement", "bytes", "macs"])


@pytest.fixture
def shell():
    """What a kernel has: with it, displayed outputs can be caught as a notebook catches them."""
    yield InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    InteractiveShell.clear_instance()


# --- plots


def test_show_gives_a_png_with_its_alt_text_and_closes_the_figure(shell):
    fig, ax = plt.subplots(figsize=(4, 2))
    ax.plot([1, 2], [3, 4])
    with capture_output() as captured:
        plots.show(fig, alt="a line that rises from 3 to 4")
    (output,) = captured.outputs
    assert output.data["text/plain"] == "a line that rises from 3 to 4"
    about = output.metadata["image/png"]
    assert about["alt"] == "a line that rises from 3 to 4"
    image = Image.open(BytesIO(base64.b64decode(output.data["image/png"])))
    assert (about["width"], about["height"]) == tuple(side * 100 // plots.DPI for side in image.size)
    assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255), "white, also on dark pages"
    assert not plt.fignum_exists(fig.number)


def test_figures_say_what_they_show():
    accuracy = {"SS": 60.0, "ST": 59.0, "TS": 70.0, "TT": 69.5}
    assert plots.lattice(accuracy).get_label() == (
        "All 4 compositions by number of teacher blocks, from SS with 60.0 % to TT with 69.5 %; the worst is ST with 59.0 %. "
        "2 of 4 steps lose accuracy, the largest from SS to ST by 1.0 points."
    )
    assert plots.lattice(accuracy | {"ST": 60.0, "TS": 69.0}).get_label().endswith("0 of 4 steps lose accuracy.")
    assert plots.loading_curves(accuracy, {"one": "prefix", "two": (2, 1)}).get_label() == (
        "Accuracy in percent against the number of teacher blocks loaded, at each composition on the way. "
        "one: 60.0, 70.0, 69.5; two: 60.0, 59.0, 69.5."
    )
    arrived = {"SS": 1e6, "ST": 2e6, "TS": 2e6, "TT": 3e6}
    assert "against the weights received, at" in plots.loading_curves(accuracy, ["prefix"], bytes=arrived).get_label()
    plt.close("all")


@pytest.mark.parametrize("alt", ["", "  figure  ", None])
def test_show_refuses_a_figure_without_a_real_alt_text(alt):
    with pytest.raises(PWLError, match="alt text"):
        plots.show(plt.figure(), alt=alt)
    plt.close("all")


def test_the_same_figure_gives_the_same_bytes(shell):
    pngs = []
    for _ in range(2):
        with capture_output() as captured:
            plots.show(plots.lattice(ACCURACY), alt="the lattice of a run")
        pngs.append(captured.outputs[0].data["image/png"])
    assert pngs[0] == pngs[1]


def test_lattice_shows_every_composition_and_marks_exactly_the_dips():
    fig = plots.lattice(ACCURACY)
    ax = fig.axes[0]
    labels = {text.get_text() for text in ax.texts}
    assert labels == {f"{c}\n{a:.1f}" for c, a in ACCURACY.items()}
    edges = [line for line in ax.lines if len(line.get_xdata())]
    dashed = [line for line in edges if line.get_linestyle() != "-"]
    up = [(c, c[:i] + "T" + c[i + 1 :]) for c in ACCURACY for i in range(4) if c[i] == "S"]
    losing = [(a, b) for a, b in up if ACCURACY[b] < ACCURACY[a]]
    assert len(edges) == len(up) == 32
    assert len(dashed) == len(losing) > 0
    assert all(line.get_color() == plots.DIP for line in dashed)
    plt.close(fig)


def test_loading_curves_follow_the_orders_and_ring_the_dips(table):
    orders = {"prefix": "prefix", "mine": (2, 3, 1, 4)}
    fig = plots.loading_curves(table, orders)
    ax = fig.axes[0]
    for line, order in zip(ax.lines, orders.values(), strict=True):
        assert list(line.get_ydata()) == [ACCURACY[c] for c in path(order, 4)]
    assert len({line.get_marker() for line in ax.lines}) == 2, "told apart without colour"
    rings = sorted(map(tuple, ax.collections[0].get_offsets().tolist()))
    expected = sorted((d.after.count("T"), ACCURACY[d.after]) for o in orders.values() for d in dips(ACCURACY, o))
    assert np.allclose(rings, expected)
    plt.close(fig)


def test_loading_curves_over_bytes(table):
    arrived = {c: 250_000 * (1 + c.count("T")) for c in ACCURACY}
    fig = plots.loading_curves(table, ["suffix"], bytes=arrived)
    assert list(fig.axes[0].lines[0].get_xdata()) == [0.25, 0.5, 0.75, 1.0, 1.25]
    assert "MB" in fig.axes[0].get_xlabel()
    plt.close(fig)


def test_history_draws_every_term():
    entries = [{"epoch": i, "loss": {"ce": 1 / i, "kd": 2 / i}} for i in (1, 2, 3)]
    fig = plots.history(entries)
    assert [line.get_label() for line in fig.axes[0].lines] == ["ce", "kd"]
    assert list(fig.axes[0].lines[1].get_ydata()) == [2, 1, 2 / 3]
    plt.close(fig)
    with pytest.raises(PWLError, match="without entries"):
        plots.history([])


def test_an_incomplete_lattice_is_refused():
    part = {c: a for c, a in ACCURACY.items() if c != "TSST"}
    for action in (plots.lattice, plots.loading_curves):
        with pytest.raises(CompositionError, match="TSST"):
            action(part)
    with pytest.raises(CompositionError):
        plots.lattice({})


# --- the picker


def test_the_state_is_json_and_holds_the_whole_table(table):
    picker = pwl.CompositionPicker(table, title="a run")
    state = json.loads(json.dumps(picker.get_state(["data", "composition", "order", "loaded"]), allow_nan=False))
    assert (state["composition"], state["order"], state["loaded"]) == ("SSSS", "prefix", 0)
    assert state["data"]["rows"]["TTSS"] == {"accuracy": 58.7, "agreement": 50.0, "bytes": 2010.0, "macs": 5.0}
    assert len(state["data"]["rows"]) == 16
    assert state["data"]["orders"]["contiguous"] == list(pwl.loading_order("contiguous", 4))
    assert state["data"]["names"] == ["block 1", "block 2", "block 3", "block 4"]


def test_composition_order_and_loaded_stay_in_step(table):
    picker = pwl.CompositionPicker(table)
    picker.loaded = 2
    assert picker.composition == "TTSS"
    picker.order = (4, 2, 1, 3)
    assert (picker.order, picker.composition) == ([4, 2, 1, 3], "STST")
    picker.composition = "STTT"  # not on this order's way
    assert picker.loaded == 3
    picker.loaded = 1
    assert picker.composition == "SSST"
    picker.order = "suffix"
    picker.loaded = 4
    assert picker.composition == "TTTT"


def test_a_message_of_the_view_is_taken_as_it_is(table):
    """A click sends composition and loaded together; the composition need not lie on the order's way."""
    picker = pwl.CompositionPicker(table)
    picker.set_state({"composition": "STST", "loaded": 2})
    assert (picker.composition, picker.loaded) == ("STST", 2)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("composition", "TTX", "composition 'TTX': expected 4 letters"),
        ("composition", "TTTTT", "TTTTT"),
        ("order", "sideways", "loading order 'sideways'"),
        ("order", (1, 2, 2, 4), "permutation of 1 to 4"),
        ("loaded", 5, "expected 0 to 4"),
    ],
)
def test_wrong_values_are_refused_and_change_nothing(table, name, value, words):
    picker = pwl.CompositionPicker(table)
    with pytest.raises(CompositionError, match=words.replace("(", r"\(")):
        setattr(picker, name, value)
    assert (picker.composition, picker.order, picker.loaded) == ("SSSS", "prefix", 0)


def test_wrong_tables_and_names_are_refused(table):
    with pytest.raises(CompositionError, match="2\\^N"):
        pwl.CompositionPicker(table.iloc[:-1])
    with pytest.raises(CompositionError, match="accuracy"):
        pwl.CompositionPicker(table.drop(columns="accuracy"))
    with pytest.raises(PWLError, match="names"):
        pwl.CompositionPicker(table, names=["one"])


def test_text_form_is_short_and_without_ids(table):
    assert repr(pwl.CompositionPicker(table)) == "CompositionPicker(4 blocks, 'SSSS', order='prefix')"


def test_from_a_mapping_and_from_a_record():
    rows = pwl.CompositionPicker.from_lattice(ACCURACY).data["rows"]
    assert rows["TTTT"] == {"accuracy": 85.4, "agreement": None, "bytes": None, "macs": None}
    record = pwl.Record(
        experiment="pwl", run="some-run", profile="quick", dataset="shapes10", family="vgg", seed=0, objective={}, recipe={},
        lattice=ACCURACY, agreement={"TTTT": 100.0}, costs={"TTTT": {"bytes": 900, "macs": 70}},
    )  # fmt: skip
    data = pwl.CompositionPicker.from_lattice(record).data
    assert data["title"] == "pwl/some-run"
    assert data["rows"]["TTTT"] == {"accuracy": 85.4, "agreement": 100.0, "bytes": 900.0, "macs": 70.0}
    assert data["rows"]["SSSS"]["bytes"] is None and data["converters"]
    record.objective = {"name": "progressive", "identity": True}
    assert not pwl.CompositionPicker.from_lattice(record).data["converters"]


def test_samples_hold_the_right_answers_and_the_real_pixels(net, data):
    samples = pwl.widgets.picker_samples(net, data, n=6)
    assert samples["classes"] == list(CLASSES) and len(samples["images"]) == 6
    for image in samples["images"]:
        i = image["number"]
        png = base64.b64decode(image["png"].removeprefix("data:image/png;base64,"))
        pixels = torch.from_numpy(np.array(Image.open(BytesIO(png)))).permute(2, 0, 1)
        assert torch.equal(pixels, data.test.images[i])
        assert image["label"] == int(data.test.labels[i])
        for composition in ("SSSS", "TSTS", "TTTT"):
            one = pwl.Split(**{**vars(data.test), "images": data.test.images[i : i + 1], "labels": data.test.labels[:1]})
            p = pwl.predict(net, one, composition).softmax(1)[0]
            values, classes = p.topk(3)
            assert [k for k, _ in image["top"][composition]] == classes.tolist()
            assert [v for _, v in image["top"][composition]] == pytest.approx(values.tolist(), abs=2e-3)
    json.dumps(samples, allow_nan=False)


def test_photographs_are_not_put_into_notebooks(net, data):
    photographs = pwl.Dataset("cifar10", data.train, data.test)
    with pytest.raises(DataError, match="cifar10"):
        pwl.widgets.picker_samples(net, photographs)
    assert len(pwl.widgets.picker_samples(net, photographs, n=3, allow_photographs=True)["images"]) == 3


def test_no_script_asks_anybody_for_anything():
    files = [file for kind in ("*.js", "*.css") for file in SCRIPT.parent.glob(kind)]
    assert len(files) >= 8
    for file in files:
        text = file.read_text().replace("http://www.w3.org/2000/svg", "")  # a name, not an address
        assert not [word for word in ("http:", "https:", "fetch(", "import(", "url(", "@import") if word in text], file.name


def test_a_view_of_frames_holds_one_for_each_choice():
    controls = {"link": ["2 MB/s", 10], "student": (5, 10, 25)}
    view = widgets.FrameView(controls, [f"<b>{i}</b>" for i in range(6)], sliders=["student"])
    assert view.data["controls"] == [
        {"label": "link", "values": ["2 MB/s", "10"], "slider": False},
        {"label": "student", "values": ["5", "10", "25"], "slider": True},
    ]
    view.chosen = [1, 2]
    for chosen in ([2, 0], [0], [0, -1]):
        with pytest.raises(PWLError, match="expected 2 numbers below"):
            view.chosen = chosen
    assert view.chosen == [1, 2]
    with pytest.raises(PWLError, match="2 frames: expected one for each of 6 choices of link, student"):
        widgets.FrameView({"link": [1, 2], "student": [1, 2, 3]}, ["", ""])
    with pytest.raises(PWLError, match="expected at least one, each with values to choose from"):
        widgets.FrameView({"link": []}, [])
    with pytest.raises(PWLError, match="slider 'speed': expected one of link"):
        widgets.FrameView({"link": [1]}, [""], sliders=["speed"])


def test_equal_frames_are_carried_once():
    view = widgets.FrameView({"method": ["labels", "extraction"], "dim": [4, 8]}, ["l", "l", "e4", "e8"])
    assert view.data["frames"] == ["l", "e4", "e8"] and view.data["frame_of"] == [0, 0, 1, 2]
    assert "frame_of" not in widgets.FrameView({"dim": [4, 8]}, ["e4", "e8"]).data


def test_a_chooser_asks_for_the_frame_of_each_combination(shell, monkeypatch):
    views, plain = [], frame_view.FrameView
    monkeypatch.setattr(frame_view, "FrameView", lambda *args, **options: views.append(plain(*args, **options)) or views[-1])
    with capture_output() as captured:
        widgets.chooser({"a": [1, 2], "b": "xy"}, lambda a, b: f"{a}{b}", "words", start=[1, 0])
        widgets.stepper("T", {1: "one", 2: "two"}, "other words")
    assert [output.data["text/plain"] for output in captured.outputs] == ["words", "other words"]
    models = [output.data["application/vnd.jupyter.widget-view+json"]["model_id"] for output in captured.outputs]
    assert models == [view.model_id for view in views]
    assert views[0].data["frames"] == ["1x", "1y", "2x", "2y"] and views[0].chosen == [1, 0]
    assert views[1].data["frames"] == ["one", "two"] and views[1].data["controls"][0]["slider"]


@pytest.mark.skipif(NODE is None, reason="node is not installed")
def test_the_script_finds_the_frame_that_python_meant(tmp_path):
    (tmp_path / "view.mjs").write_text(kit.script("frame_view"))
    program = """
        import { frameOf } from "./view.mjs";
        const controls = [2, 3, 2].map((n) => ({ values: Array(n) }));
        const found = [];
        for (const a of [0, 1]) for (const b of [0, 1, 2]) for (const c of [0, 1]) found.push(frameOf(controls, [a, b, c]));
        console.log(JSON.stringify(found));
    """
    (tmp_path / "ask.mjs").write_text(program)
    result = subprocess.run([NODE, "ask.mjs"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(result.stdout) == list(range(12))  # as itertools.product counts


@pytest.mark.skipif(NODE is None, reason="node is not installed")
def test_the_script_counts_as_the_package_does(tmp_path):
    """Orders, paths and dips are computed on both sides; they must agree."""
    (tmp_path / "picker.mjs").write_text(kit.script("composition_picker"))
    program = """
        import { path, permutations, worstDip, ticks } from "./picker.mjs";
        const rows = JSON.parse(process.argv[2]);
        const orders = permutations(4);
        console.log(JSON.stringify({ orders, paths: orders.map(path), dips: orders.map((o) => worstDip(rows, o)),
                                     ticks: ticks(34.05, 85.4) }));
    """
    (tmp_path / "ask.mjs").write_text(program)
    rows = json.dumps({c: {"accuracy": a} for c, a in ACCURACY.items()})
    result = subprocess.run([NODE, "ask.mjs", rows], cwd=tmp_path, capture_output=True, text=True, check=True)
    found = json.loads(result.stdout)
    assert sorted(map(tuple, found["orders"])) == sorted(pwl.all_orders(4))
    assert found["paths"] == [path(order, 4) for order in found["orders"]]
    expected = [max((d.points for d in dips(ACCURACY, o)), default=0) for o in found["orders"]]
    assert found["dips"] == pytest.approx(expected)
    assert found["ticks"][0] <= 34.05 and found["ticks"][-1] >= 85.4 and len(found["ticks"]) <= 8
