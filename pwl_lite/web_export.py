"""A pair for web browsers: each of its shards as an ONNX file, and `web.json` that says what they are.

    web.json
    student-1.onnx .. student-N.onnx, teacher-1.onnx .. teacher-N.onnx
    encoder-1.onnx .. encoder-(N-1).onnx, decoder-1.onnx .. decoder-(N-1).onnx   none for a pair without converters
    sheet.png                                                                    test images, where a split is given

Each file takes `x` (batch, ...) and gives `y` (batch, ...), so that onnxruntime-web, or any other ONNX runtime, runs a
composition by chaining its files. Images are expected scaled to 0 .. 1 and normalised with mean and std of `web.json`.
"""

import hashlib
import io
import json
import os
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from .blocknet import BlockNet, feature_shapes
from .datasets import Split
from .errors import DataError, PWLError, StoreError
from .files import atomic_path
from .manifest import read_manifest
from .store import load_blocks
from .swapnet import SwapNet

if TYPE_CHECKING:
    from onnx import GraphProto

INDEX = "web.json"
SCHEMA = 1
OPSET = 17  # every ONNX runtime of the last years knows it
COLUMNS = 20  # images in a row of the sheet


def export_web(folder: str | os.PathLike, target: str | os.PathLike, sheet: Split | None = None) -> dict[str, Any]:
    """Write the pair of `folder` for browsers; return what is now in `web.json`, which is put in place last.

    Args:
        folder: a teacher and a student, as `save_blocks` wrote them.
        target: made if missing; earlier files of the same names are replaced.
        sheet: images (and labels) to classify in the page. Their pixels go into `sheet.png`: take some that may be passed on.

    Raises:
        StoreError: not a pair, or a damaged one.
        DataError: the sheet is of other classes or sizes than the pair's.
        PWLError: the package `onnx` is not installed.
        SaveError: the target cannot be written.
    """
    folder, target = Path(folder), Path(target)
    manifest = read_manifest(folder)
    if manifest["kind"] != "swapnet":
        raise StoreError(f"{folder}: holds a single network; expected a teacher, a student and converters")
    if sheet is not None and list(sheet.classes) != manifest["classes"]:
        raise DataError(f"sheet with the classes {list(sheet.classes)[:3]}...: expected those of {folder}")
    if sheet is not None and list(sheet.images.shape[1:]) != manifest["input_shape"]:
        raise DataError(f"sheet of {tuple(sheet.images.shape[1:])} images: expected {tuple(manifest['input_shape'])}")
    about = {key: manifest[key] for key in ("num_blocks", "classes", "mean", "std", "input_shape")}
    index = {"schema": SCHEMA, "name": folder.name, **about, "lattice": manifest["extra"].get("lattice"), "parts": {}}
    with ExitStack() as stack:  # left in reverse order: the index is put in place last
        index_file = stack.enter_context(atomic_path(target / INDEX))
        for name, (module, example) in pair_parts(load_blocks(folder)).items():
            content = to_onnx(module, example)
            digest = hashlib.sha256(content).hexdigest()
            index["parts"][name] = {"file": f"{name}.onnx", "bytes": len(content), "sha256": digest}
            stack.enter_context(atomic_path(target / f"{name}.onnx")).write_bytes(content)
        if sheet is not None:
            labels = sheet.labels.tolist()
            index["sheet"] = {"file": "sheet.png", "columns": COLUMNS, "labels": labels}
            stack.enter_context(atomic_path(target / "sheet.png")).write_bytes(sheet_png(sheet))
        index_file.write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    return index


def pair_parts(net: SwapNet) -> dict[str, tuple[nn.Module, torch.Tensor]]:
    """{name of the shard: (module, an example of its input)}: blocks with `embed` or `head`, and converters, if any."""
    parts: dict[str, tuple[nn.Module, torch.Tensor]] = {}
    shapes = {"teacher": feature_shapes(net.teacher), "student": feature_shapes(net.student)}
    for kind in ("student", "teacher"):
        network: BlockNet = getattr(net, kind)
        last = network.num_blocks - 1
        for i, block in enumerate(network.blocks):
            ends = [network.embed] if i == 0 else [], [network.head] if i == last else []
            shape = network.input_shape if i == 0 else shapes[kind][i - 1]
            parts[f"{kind}-{i + 1}"] = nn.Sequential(*ends[0], block, *ends[1]).eval(), torch.rand(2, *shape)
    if not net.identity:
        for direction, source in (("encoder", "teacher"), ("decoder", "student")):
            for i, converter in enumerate(net.converters):
                module = getattr(converter, direction).eval()
                parts[f"{direction}-{i + 1}"] = module, torch.rand(2, *shapes[source][i])
    return parts


def to_onnx(module: nn.Module, example: torch.Tensor) -> bytes:
    """A module in evaluation mode as an ONNX file; any number of inputs of the example's shape can be given at once.

    Weights that are float16 without loss, as all that we ship are, are stored so: half the bytes, the same numbers.

    Raises:
        PWLError: the package `onnx` is not installed.
    """
    try:
        import onnx
    except ModuleNotFoundError:
        raise PWLError("writing ONNX files needs the package onnx; install it: pip install onnx") from None
    buffer = io.BytesIO()
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # a fused transformer layer is one operator that ONNX does not have
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # the exporter that needs no further packages is the older one, and says so
            torch.onnx.export(
                module,
                (example,),
                buffer,
                dynamo=False,
                opset_version=OPSET,
                input_names=["x"],
                output_names=["y"],
                dynamic_axes={"x": {0: "batch"}, "y": {0: "batch"}},
                # leaves batch norms beside their convolutions: folded into them, the weights would need all their bits
                training=torch.onnx.TrainingMode.PRESERVE,
                do_constant_folding=False,
            )
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    model = onnx.load_from_string(buffer.getvalue())
    _halve(model.graph)
    onnx.checker.check_model(model)
    return model.SerializeToString(deterministic=True)


def _halve(graph: "GraphProto") -> None:
    """Store weights in float16 where that loses nothing; a cast in front brings them back, once, when a session is made."""
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for weight in graph.initializer:
        if weight.data_type != TensorProto.FLOAT or len(weight.dims) < 2:
            continue
        values = numpy_helper.to_array(weight)
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if np.array_equal(half.astype(np.float32), values):
            name = weight.name
            weight.CopyFrom(numpy_helper.from_array(half, f"{name}_half"))
            casts.append(helper.make_node("Cast", [weight.name], [name], to=TensorProto.FLOAT, name=f"{name}_cast"))
    nodes = [*casts, *graph.node]  # in the order in which they are needed
    del graph.node[:]
    graph.node.extend(nodes)


def sheet_png(split: Split) -> bytes:
    """The images of a split side by side, `COLUMNS` in a row, as a PNG."""
    from PIL import Image

    n, channels, height, width = split.images.shape
    if channels != 3:
        raise DataError(f"images of {channels} channels: expected 3, which a page can show")
    rows = -(-n // COLUMNS)
    tiles = np.zeros((rows * COLUMNS, height, width, 3), np.uint8)
    tiles[:n] = split.images.permute(0, 2, 3, 1).cpu().numpy()
    tiles = tiles.reshape(rows, COLUMNS, height, width, 3).transpose(0, 2, 1, 3, 4)
    file = io.BytesIO()
    Image.fromarray(tiles.reshape(rows * height, COLUMNS * width, 3)).save(file, "PNG", optimize=True)
    return file.getvalue()
