"""Models as ONNX files, for programs without PyTorch.

The graph holds everything from the aligned crop to the embedding: normalisation of colour, encoding of depth, the
network, the mean with the mirror image, and the division by the length. `onnx_page.py` reads such a file with
onnxruntime and numpy alone. The packages that write it are the extra `export` (`pip install 'face3d[export]'`).
"""

import contextlib
import io
import json
import math
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..base.atomic import write_bytes
from ..base.errors import UserError
from ..data.pack import Batch, Pack
from ..data.warp import MM_PER_TEMPLATE_PX, TEMPLATE_112, reference_of
from ..train.encodings import ENCODINGS
from .onnx_page import FORMAT
from .recogniser import Recogniser

OPSET = 18  # of the ONNX operators: antialiased resizing is new in it
BATCHES = (1, 2, 7)  # sizes at which a written file is compared with PyTorch
TOLERANCE = 1e-5  # largest difference of a number of a float32 embedding
CALIBRATION_PAIRS = 64  # crops by which the ranges of int8 are chosen
QUANTISED = ["Conv", "Gemm", "MatMul"]  # the encoding of depth stays in float32
PARTS = {"rgb": ("rgb",), "depth": ("depth", "depth_per_px"), "rgbd": ("rgb", "depth", "depth_per_px")}


class Graph(nn.Module):
    """The module that is exported: crops as in `inputs_of` -> vectors (B, D) of unit length, as `Recogniser.vectors`."""

    def __init__(self, recogniser: Recogniser):
        super().__init__()
        self.networks = nn.ModuleList(part.network.cpu().eval() for part in recogniser.parts)
        self.shares = [part.share for part in recogniser.parts]
        self.inputs = PARTS[recogniser.modality]

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        given = dict(zip(self.inputs, inputs, strict=True))
        both: dict[str, Any] = dict.fromkeys(PARTS["rgbd"])  # what no network sees stays None
        if "rgb" in given:
            rgb = given["rgb"].permute(0, 3, 1, 2)
            both["rgb"] = torch.cat([rgb, rgb.flip(3)])
        if "depth" in given:
            depth = given["depth"][:, None]
            both |= {"depth": torch.cat([depth, depth.flip(3)]), "depth_per_px": given["depth_per_px"].repeat(2)}
        pieces = []
        for network, share in zip(self.networks, self.shares, strict=True):
            found = F.normalize(network(Batch(**both)))
            pieces.append(math.sqrt(share) * F.normalize(found.reshape(2, -1, found.shape[1]).sum(0)))
        return F.normalize(torch.cat(pieces, 1))


def inputs_of(batch: Batch, modality: str) -> dict[str, np.ndarray]:
    """The inputs of the graph by name: rgb (B, H, W, 3) uint8, depth (B, H, W) float32, depth_per_px (B,) float32."""
    every = {"rgb": batch.rgb.permute(0, 2, 3, 1), "depth": batch.depth[:, 0], "depth_per_px": batch.depth_per_px}
    return {name: every[name].contiguous().cpu().numpy() for name in PARTS[modality]}


@dataclass(frozen=True)
class Exported:
    """A file that was written, and how far its embeddings are from those of PyTorch."""

    path: Path
    precision: str  # float32 or int8
    n_bytes: int
    difference: float  # largest of a number of an embedding, over batches of BATCHES pairs
    cosine: float  # lowest between the two embeddings of a pair


def export_model(recogniser: Recogniser, path: Path, calibrate: Pack | None = None) -> Exported:
    """Write a recogniser, of one network or of several, to `path` (.onnx), whole or not at all, and compare it with PyTorch.

    calibrate: crops such as the network was trained on; the layers are then stored and computed in int8, a quarter of
    the size, with ranges chosen on these crops. UserError: the packages are missing, the crops are of another
    alignment, or a float32 file differs from PyTorch by more than TOLERANCE (nothing is written).
    """
    path = Path(path)
    if path.suffix != ".onnx":
        raise UserError(f"{path}: a name that ends in .onnx is expected")
    try:
        import onnx
        import onnxruntime  # noqa: F401 (asked for before minutes are spent)
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"export needs {error.name}: pip install 'face3d[export]', or make env") from None
    if calibrate is not None and calibrate.info["source"]["settings_hash"] != recogniser.alignment.hash():
        raise UserError(f"{calibrate.folder}: its crops are of another alignment than the model's: give its own pack")
    crops = _crops(recogniser, calibrate)
    model = translated(recogniser, crops)
    if calibrate is not None:
        model = quantised(model, inputs_of(crops, recogniser.modality))
    precision = "float32" if calibrate is None else "int8"
    onnx.helper.set_model_props(model, {"face3d": json.dumps(facts(recogniser, precision))})
    data = model.SerializeToString()
    difference, cosine = compared(data, recogniser, crops)
    if calibrate is None and not difference <= TOLERANCE:
        raise UserError(f"{path}: not written, it would differ from PyTorch by {difference:.1e}: report this model")
    write_bytes(path, data)
    return Exported(path, precision, len(data), difference, cosine)


def facts(recogniser: Recogniser, precision: str) -> dict:
    """What the metadata of the file say, as JSON; `onnx_page.py` follows them."""
    settings, unit, template = recogniser.alignment, recogniser.depth_unit, reference_of(recogniser.alignment)
    described = {
        "rgb": "(B, S, S, 3) uint8, red, green and blue of the aligned crop",
        "depth": f"(B, S, S) float32 {unit}, larger = farther, 0 = no reading",
        "depth_per_px": "(B,) float32, units of depth that one pixel of the crop measures across the face",
    }
    encodings = [part.network.architecture.encoding for part in recogniser.parts if part.modality != "rgb"]
    return {
        "format": FORMAT,
        "identity": {
            "model_id": recogniser.model_id,
            "settings_hash": settings.hash(),
            "encoding": ", ".join(encodings) or None,
        },
        "precision": precision,
        "networks": [
            {
                "weights_sha256": part.weights_sha256,
                "share": part.share,
                "architecture": asdict(part.network.architecture),
                "mean": part.network.mean.flatten().tolist(),
                "deviation": part.network.deviation.flatten().tolist(),
            }
            for part in recogniser.parts
        ],
        "inputs": {name: described[name] for name in PARTS[recogniser.modality]},
        "output": f"embedding (B, {recogniser.size}) float32 of unit length; the cosine of two is their product",
        "alignment": asdict(settings)
        | {"template": template if template is None else template.tolist(), "points": "eyes, nose, corners of mouth"},
        "normalised_inside_the_graph": True,
        "depth": {
            "unit": unit,
            "units": ["mm", "pixel"] if all(ENCODINGS[name].unit == "any" for name in encodings) else [unit],
            "encoded_inside_the_graph": bool(encodings),
            "measured_by": TEMPLATE_112.tolist(),  # its eyes lie 63 mm apart
            "mm_per_px": MM_PER_TEMPLATE_PX,
        },
    }


def translated(recogniser: Recogniser, crops: Batch) -> Any:
    """The recogniser as an onnx.ModelProto with a dynamic batch; `crops` show the size of a crop."""
    modality = recogniser.modality
    example = tuple(torch.from_numpy(value[:2]) for value in inputs_of(crops, modality).values())
    sizes = tuple({0: torch.export.Dim("batch")} for _ in example)
    with quiet(), torch.no_grad():
        program = torch.onnx.export(
            Graph(recogniser).eval(),
            example,
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=list(PARTS[modality]),
            output_names=["embedding"],
            dynamic_shapes=(sizes,),
            custom_translation_table={
                torch.ops.aten.nanmedian.dim: _nanmedian,
                torch.ops.prims.hypot.default: _hypot,
            },
        )
    assert program is not None
    return program.model_proto


def _nanmedian(self: Any, dim: int, keepdim: bool = False) -> tuple[Any, Any]:
    """torch.nanmedian of (B, n) over its columns, which ONNX lacks: the lower of the middle values, and its place.

    A row of NaN alone gives infinity, which is as far from every reading as NaN.
    """
    import onnxscript

    op: Any = onnxscript.opset18
    reading = op.Not(op.IsNaN(self))
    known = op.Where(reading, self, op.Constant(value_float=float("inf")))
    ordered, _ = op.TopK(known, op.Shape(self, start=1), axis=1, largest=0, sorted=1)
    count = op.ReduceSum(op.Cast(reading, to=7), op.Constant(value_ints=[1]), keepdims=1)  # 7: int64
    one = op.Constant(value_int=1)
    place = op.Max(op.Div(op.Sub(count, one), op.Constant(value_int=2)), op.Constant(value_int=0))
    columns = op.Constant(value_ints=[1])
    return op.Squeeze(op.GatherElements(ordered, place, axis=1), columns), op.Squeeze(place, columns)


def _hypot(self: Any, other: Any) -> Any:
    import onnxscript

    op: Any = onnxscript.opset18
    return op.Sqrt(op.Add(op.Mul(self, self), op.Mul(other, other)))


def quantised(model: Any, inputs: dict[str, np.ndarray]) -> Any:
    """`model` with int8 weights and activations, whose ranges are those that occur for `inputs`; the rest is float32.

    Weights have 7 bits, because processors without VNNI saturate sums of 8-bit products (onnxruntime, "Quantize ONNX
    models"); the results are then the same on all of them.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.rows = iter(range(len(next(iter(inputs.values())))))

        def get_next(self) -> dict[str, np.ndarray] | None:
            row = next(self.rows, None)
            return None if row is None else {name: value[row : row + 1] for name, value in inputs.items()}

    with tempfile.TemporaryDirectory() as folder, quiet():
        whole, prepared, made = (Path(folder) / f"{name}.onnx" for name in ("whole", "prepared", "int8"))
        onnx.save(model, whole)  # given as an object, the model would lose its weights to a second file
        quant_pre_process(whole, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            made,
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=QUANTISED,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return onnx.load(made)


def compared(data: bytes, recogniser: Recogniser, crops: Batch) -> tuple[float, float]:
    """(largest difference of a number, lowest cosine) of a file's embeddings and PyTorch's, at batches of BATCHES."""
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    largest, lowest = 0.0, 1.0
    for size in BATCHES:
        batch = Batch(crops.rgb[:size], crops.depth[:size], crops.depth_per_px[:size])
        found = session.run(None, inputs_of(batch, recogniser.modality))[0]
        wanted = recogniser.vectors(batch)
        largest = max(largest, float(np.abs(found - wanted).max()))
        lowest = min(lowest, float((found * wanted).sum(1).min()))
    return largest, lowest


def _crops(recogniser: Recogniser, pack: Pack | None) -> Batch:
    """Crops for calibration and comparison: of the pack, spread over it, or else drawn, with holes and empty ones."""
    if pack is not None:
        rows = np.unique(np.linspace(0, len(pack) - 1, CALIBRATION_PAIRS).astype(int))
        return pack.batch(rows)
    rng, size, n = np.random.default_rng(0), recogniser.alignment.image_size, max(BATCHES)
    x, y = np.meshgrid(*[np.linspace(-1, 1, size)] * 2)
    depth = 700 + 60 * (x**2 + y**2) + rng.normal(0, 3, (n, size, size))
    depth[rng.random(depth.shape) < 0.1] = 0
    depth[3] = 0  # a camera that failed
    rgb = rng.integers(0, 256, (n, 3, size, size), dtype=np.uint8)
    rgb[4] = 0
    per_px = torch.full((n,), 200 / size)
    return Batch(torch.from_numpy(rgb), torch.from_numpy(depth[:, None].astype(np.float32)), per_px)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Neither the warnings nor the progress that exporting and quantising print."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
