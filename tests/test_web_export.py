"""Pairs as ONNX files: the same numbers as PyTorch's, for every family, with and without converters."""

import hashlib
import io
import json
import sys

import numpy as np
import onnx
import pytest
import torch
from networks_for_tests import CLASSES, tiny_data, tiny_net
from onnx.reference import ReferenceEvaluator
from PIL import Image

import pwl_lite as pwl
from pwl_lite.__main__ import main
from pwl_lite.errors import DataError, PWLError, StoreError
from pwl_lite.manifest import needed_shards
from pwl_lite.swapnet import all_compositions
from pwl_lite.web_export import export_web, pair_parts, to_onnx

WEIGHTS = {"mean": (0.5,) * 3, "std": (0.25,) * 3, "dtype": torch.float16}


def save(net: pwl.SwapNet, folder, classes=CLASSES):
    pwl.save_blocks(net, folder, classes=classes, **WEIGHTS)
    return folder


def without_converters(seed: int = 0) -> pwl.SwapNet:
    """A pair whose widths agree at all boundaries."""
    torch.manual_seed(seed)
    layers = [["8 M 8", "8 M", "12 M", "12"], ["8s M", "8s M", "12s M", "12s"]]
    return pwl.SwapNet(*(pwl.build_network({"family": "vgg", "layers": each, "num_classes": 3}) for each in layers))


def run(files: dict[str, bytes], composition: str, images: np.ndarray) -> np.ndarray:
    """Chain the files of a composition, as the page does."""
    x = images
    for name in needed_shards(composition):
        if name in files:
            (x,) = ReferenceEvaluator(onnx.load_from_string(files[name])).run(None, {"x": x})
    return x


@pytest.mark.parametrize("pair", [tiny_net, without_converters])
def test_all_compositions_give_the_logits_of_pytorch(pair, tmp_path):
    folder = save(pair(), tmp_path / "pair")
    net, index = pwl.load_blocks(folder), export_web(folder, tmp_path / "web")
    assert json.loads((tmp_path / "web" / "web.json").read_text()) == json.loads(json.dumps(index))
    files = {name: (tmp_path / "web" / entry["file"]).read_bytes() for name, entry in index["parts"].items()}
    for name, entry in index["parts"].items():
        assert len(files[name]) == entry["bytes"] and hashlib.sha256(files[name]).hexdigest() == entry["sha256"]
    assert len(files) == (8 if net.identity else 14) and net.identity == (pair is without_converters)
    images = torch.randn(3, 3, 32, 32)  # another number of images than the exporter has seen
    for composition in all_compositions(4):
        with torch.no_grad():
            wanted = net(images, composition).numpy()
        assert np.abs(run(files, composition, images.numpy()) - wanted).max() < 1e-4, composition


@pytest.mark.parametrize("family", ["resnet", "vit"])
def test_other_families_can_be_exported(family):
    torch.manual_seed(0)
    for name, (module, example) in pair_parts(pwl.SwapNet(*pwl.build_pair(family))).items():
        if name in ("teacher-1", "student-4", "encoder-2"):
            with torch.no_grad():
                wanted = module(example).numpy()
            (found,) = ReferenceEvaluator(onnx.load_from_string(to_onnx(module, example))).run(None, {"x": example.numpy()})
            assert np.abs(found - wanted).max() < 1e-4, name


def test_weights_that_float16_holds_take_two_bytes_and_others_four():
    layer = torch.nn.Conv2d(8, 64, 3)
    exact = len(to_onnx(layer, torch.rand(1, 8, 8, 8)))
    with torch.no_grad():
        layer.weight.copy_(layer.weight.half().float())
    assert exact - len(to_onnx(layer, torch.rand(1, 8, 8, 8))) > 1.9 * layer.weight.numel()


def test_the_sheet_shows_the_images_and_tells_their_labels(tmp_path):
    split = tiny_data().test.subset(23)
    sheet = export_web(save(tiny_net(), tmp_path / "pair"), tmp_path / "web", split)["sheet"]
    assert sheet["labels"] == split.labels.tolist() and sheet["columns"] == 20
    picture = np.asarray(Image.open(io.BytesIO((tmp_path / "web" / sheet["file"]).read_bytes())))
    assert picture.shape == (64, 640, 3)
    assert np.array_equal(picture[32:, 64:96], split.images[22].permute(1, 2, 0).numpy())


def test_what_does_not_fit_is_refused_and_leaves_nothing(tmp_path, monkeypatch):
    folder = save(tiny_net(), tmp_path / "pair")
    pwl.save_blocks(tiny_net().teacher, tmp_path / "alone", classes=CLASSES, **WEIGHTS)
    with pytest.raises(StoreError, match="holds a single network; expected a teacher, a student"):
        export_web(tmp_path / "alone", tmp_path / "web")
    other = save(tiny_net(), tmp_path / "other", classes=("a", "b", "c"))
    with pytest.raises(DataError, match=r"sheet with the classes \['left'"):
        export_web(other, tmp_path / "web", tiny_data().test)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(PWLError, match="pip install onnx"):
        export_web(folder, tmp_path / "web")
    assert not any((tmp_path / "web").glob("*"))


def test_the_command(tmp_path, capsys):
    folder = save(tiny_net(), tmp_path / "pair")
    assert main(f"export web {folder} --out {tmp_path / 'web'}".split()) == 0
    assert capsys.readouterr().out.startswith(f"14 ONNX files and web.json in {tmp_path / 'web'}: student ")
    assert "sheet" not in json.loads((tmp_path / "web" / "web.json").read_text())
    assert main(f"export web {folder} --out {tmp_path / 'web'} --dataset shapes10".split()) == 2
    assert "expected both --dataset and --images" in capsys.readouterr().err
