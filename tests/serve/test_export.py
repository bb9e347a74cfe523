"""An ONNX file gives PyTorch's embeddings, for any batch, from raw crops and from raw pictures, without PyTorch."""

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from functools import cache
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx.helper import set_model_props
from typer.testing import CliRunner

from face3d_lib import cli
from face3d_lib.base.errors import UserError
from face3d_lib.base.paths import ROOT
from face3d_lib.data.crops import align_pair
from face3d_lib.data.faces import Detection, Faces
from face3d_lib.data.pack import Batch, make_batch
from face3d_lib.data.pairs import RGBDPair
from face3d_lib.data.warp import AlignSettings, reference_of, warp_matrix
from face3d_lib.evaluate.embed import embed_batch
from face3d_lib.serve import export
from face3d_lib.serve.onnx_page import FaceNetwork, block_means, similarity
from face3d_lib.serve.recogniser import Recogniser
from face3d_lib.synthetic import camera
from face3d_lib.train import model_files
from face3d_lib.train.embedder import Architecture, Embedder

NETWORKS = {  # every modality, both backbones that are exported most, and every translation that ONNX lacks
    "rgbd": (Architecture("rgbd", embedding_size=32), AlignSettings()),
    "early": (Architecture("rgbd", fusion="early", encoding="nose_depth", embedding_size=32), AlignSettings()),
    "depth": (Architecture("depth", encoding="depth_angles", embedding_size=32), AlignSettings("dlib")),
    "rgb": (Architecture("rgb", backbone="dlib"), AlignSettings("dlib")),
}
PAGE = ROOT / "face3d_lib" / "serve" / "onnx_page.py"
BLOCKED = ("torch", "face3d_lib", "PIL", "scipy", "skimage", "onnx", "pandas")


def card_of(network, settings, unit="mm"):
    source = {"settings_hash": settings.hash(), "alignment": vars(settings), "depth_unit": unit}
    card = model_files.make_card(network, SimpleNamespace(info={"source": source, "sha256": {}}), [], {}, {})
    return card.model_copy(update={"weights_sha256": "0" * 64})


@cache
def synthetic(subject=0, image=0):
    """A raw pair with its true points, as if a detector had found them."""
    made = camera.pair(3, subject, image)
    pair = RGBDPair(f"p{subject}/{image}", f"p{subject}", made.rgb, made.depth.astype(np.float32), "mm", "", "")
    points = made.landmarks.astype(np.float64)
    return pair, points, Faces([Detection(np.array([*points.min(0), *points.max(0)]), points, 1.0)])


def cropped(settings, n):
    """A batch of n aligned pairs of as many people."""
    batches = []
    for subject in range(n):
        pair, _, found = synthetic(subject)
        row = {}
        rgb, depth = align_pair(pair, found, settings, row)
        batches.append(make_batch(rgb, depth, row["depth_per_px"]))
    return Batch(*(torch.cat([getattr(b, name) for b in batches]) for name in ("rgb", "depth", "depth_per_px")))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(network, card, file) by name; statistics of batches are those of faces, so that embeddings differ."""
    folder, made = tmp_path_factory.mktemp("onnx"), {}
    for name, (architecture, settings) in NETWORKS.items():
        torch.manual_seed(0)
        network = Embedder(architecture).train()
        crops = cropped(settings, 4)
        with torch.no_grad():
            for _ in range(20):
                network(crops)
        card = card_of(network.eval(), settings)
        made[name] = network, card, export.export_model(Recogniser.of(name, network, card), folder / f"{name}.onnx")
    return made


@pytest.mark.parametrize("name", NETWORKS)
def test_a_file_gives_the_embeddings_of_pytorch_for_any_batch(exported, name):
    network, card, file = exported[name]
    session = onnxruntime.InferenceSession(file.path)
    crops = cropped(card.alignment, 7)
    crops.depth[5] = 0  # the depth camera failed
    crops.depth[6, :, 40:60] = 0
    for size in (1, 2, 7):
        batch = Batch(crops.rgb[:size], crops.depth[:size], crops.depth_per_px[:size])
        found = session.run(None, export.inputs_of(batch, network.architecture.modality))[0]
        wanted = embed_batch(network, batch).numpy()
        assert found.shape == (size, network.architecture.embedding_size)
        assert np.abs(found - wanted).max() <= 1e-5
    assert np.linalg.norm(wanted[0] - wanted[1]) > 1e-3, "all pairs get one embedding: equality would show nothing"
    assert file.difference <= 1e-5
    assert file.n_bytes == file.path.stat().st_size


def test_the_default_of_two_networks_is_one_file_for_the_same_gallery(tmp_path):
    """Vectors of the file are those that a gallery of "pretrained" holds, shares and all."""
    recogniser = Recogniser.load()
    assert len(recogniser.parts) == 2
    file = export.export_model(recogniser, tmp_path / "pretrained.onnx")
    page = FaceNetwork(file.path, {"model_id": recogniser.model_id})
    pair, points, found = synthetic(0)
    seen = recogniser.see(pair, found)
    rgb, depth, depth_per_px = page.crop(pair.rgb, pair.depth, points)
    vector = page.embed(rgb[None], depth[None], [depth_per_px])[0]
    assert vector @ seen.vector > 0.999
    crops = cropped(recogniser.alignment, 3)
    exact = page.embed(**export.inputs_of(crops, "rgbd"))
    assert np.abs(exact - recogniser.vectors(crops)).max() <= 1e-5
    assert np.linalg.norm(exact[:, :128], axis=1) == pytest.approx(np.sqrt(recogniser.parts[0].share), abs=1e-3)


def test_depth_in_pixels_gives_the_vector_of_the_library(exported):
    """The page took every depth for mm: the cosine with the library's vector fell to .988 on such data."""
    network, card, file = exported["rgbd"]
    page = FaceNetwork(file.path)
    pair, points, found = synthetic(0)
    per_px = 63.0 / np.linalg.norm(points[1] - points[0])  # mm
    in_pixels = replace(pair, depth=pair.depth / np.float32(per_px), depth_unit="pixel")
    wanted = Recogniser.of("rgbd", network, card).see(in_pixels, found).vector
    rgb, depth, depth_per_px = page.crop(pair.rgb, in_pixels.depth, points, "pixel")
    assert page.embed(rgb[None], depth[None], [depth_per_px])[0] @ wanted > 0.9999
    rgb, depth, depth_per_px = page.crop(pair.rgb, in_pixels.depth, points)
    assert page.embed(rgb[None], depth[None], [depth_per_px])[0] @ wanted < 0.9999, "the unit makes a difference"
    nearer = np.where(in_pixels.depth > 0, 2000 - in_pixels.depth, 0)
    turned = np.where(nearer > 0, nearer.max() + 1 - nearer, 0)
    rgb, depth, depth_per_px = page.crop(pair.rgb, turned, points, "pixel")
    assert page.embed(rgb[None], depth[None], [depth_per_px])[0] @ wanted > 0.9999
    with pytest.raises(ValueError, match="takes depth in mm"):
        FaceNetwork(exported["early"][2].path).crop(pair.rgb, in_pixels.depth, points, "pixel")


def test_the_median_of_readings_is_that_of_torch():
    class Median(torch.nn.Module):
        def forward(self, x):
            return x.nanmedian(1).values

    x = torch.tensor([[3.0, 1, 2, 9], [torch.nan, 5, 4, 1], [torch.nan, torch.nan, 7, 2], [torch.nan] * 4])
    rows = {0: torch.export.Dim("rows")}
    with export.quiet():
        program = torch.onnx.export(
            Median(), (x[:2],), dynamo=True, opset_version=export.OPSET, dynamic_shapes=(rows,), verbose=False,
            custom_translation_table={torch.ops.aten.nanmedian.dim: export._nanmedian},
        )  # fmt: skip
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    found = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    assert found.tolist() == [2, 4, 2, np.inf]
    assert x.nanmedian(1).values[:3].tolist() == [2, 4, 2]


def test_the_file_says_what_it_takes(exported):
    network, card, file = exported["depth"]
    facts = json.loads({p.key: p.value for p in onnx.load(file.path).metadata_props}["face3d"])
    assert facts["identity"] == {
        "model_id": Recogniser.of("depth", network, card).model_id,
        "settings_hash": card.settings_hash,
        "encoding": "depth_angles",
    }
    assert facts["alignment"]["image_size"] == 224
    assert list(facts["inputs"]) == ["depth", "depth_per_px"]
    assert facts["networks"][0]["mean"] == network.mean.flatten().tolist()
    assert facts["networks"][0]["weights_sha256"] == "0" * 64
    colour = export.facts(Recogniser.of("rgb", *exported["rgb"][:2]), "float32")
    assert json.loads(json.dumps(colour))["identity"]["encoding"] is None


PROGRAM = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ImportError(f"{name} is not here")
sys.meta_path.insert(0, Refuse())
import numpy as np
from onnx_page import FaceNetwork
network = FaceNetwork("model.onnx")
given = np.load("pair.npz")
rgb, depth, per_px = network.crop(given["rgb"], given["depth"], given["points"])
np.savez("answer.npz", rgb=rgb, depth=depth, per_px=per_px, embedding=network.embed(rgb[None], depth[None], [per_px])[0])
"""


@pytest.mark.parametrize("name", ["rgbd", "depth"])
def test_the_page_needs_neither_torch_nor_this_library(exported, tmp_path, name):
    network, card, file = exported[name]
    (tmp_path / "onnx_page.py").write_bytes(PAGE.read_bytes())
    (tmp_path / "model.onnx").write_bytes(file.path.read_bytes())
    pair, points, found = synthetic(image=2)
    np.savez(tmp_path / "pair.npz", rgb=pair.rgb, depth=pair.depth, points=points)
    program = f"BLOCKED = {BLOCKED!r}\nimport sys\nsys.path.insert(0, '.')\n{PROGRAM}"
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], cwd=tmp_path, capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    answer, row = np.load(tmp_path / "answer.npz"), {}
    rgb, depth = align_pair(pair, found, card.alignment, row)
    assert np.abs(answer["rgb"].astype(int) - rgb).max() <= 1
    assert np.array_equal(answer["depth"], depth)
    assert float(answer["per_px"]) == pytest.approx(row["depth_per_px"], abs=1e-8)
    wanted = embed_batch(network, make_batch(rgb, depth, row["depth_per_px"]))[0].numpy()
    assert float(answer["embedding"] @ wanted) > 1 - 1e-5


@pytest.mark.parametrize("zoom", [0.2, 0.5, 3.0])
def test_the_page_crops_as_the_library_does_at_any_size(exported, zoom):
    _, card, file = exported["rgbd"]
    page = FaceNetwork(file.path)
    pair, points, _ = synthetic()
    rgb = np.kron(pair.rgb, np.ones((3, 3, 1), np.uint8)) if zoom > 1 else pair.rgb[:: int(1 / zoom), :: int(1 / zoom)]
    depth = (
        np.kron(pair.depth, np.ones((3, 3), np.float32)) if zoom > 1 else pair.depth[:: int(1 / zoom), :: int(1 / zoom)]
    )
    points = points * (3 if zoom > 1 else 1 / int(1 / zoom)) + [5, -4]  # a part of the crop lies outside
    found = Faces([Detection(np.array([*points.min(0), *points.max(0)]), points, 1.0)])
    pair, row = replace(pair, rgb=np.ascontiguousarray(rgb), depth=np.ascontiguousarray(depth)), {}
    wanted_rgb, wanted_depth = align_pair(pair, found, card.alignment, row)
    rgb, depth, per_px = page.crop(pair.rgb, pair.depth, points)
    assert np.abs(rgb.astype(int) - wanted_rgb).max() <= 1
    assert np.array_equal(depth, wanted_depth)
    assert per_px == pytest.approx(row["depth_per_px"], abs=1e-8)


def test_depth_in_pixels_is_rescaled_to_crop_pixels(exported):
    _, card, file = exported["rgbd"]
    page = FaceNetwork(file.path)
    page.facts["depth"]["unit"] = "pixel"
    pair, points, found = synthetic()
    wanted = align_pair(replace(pair, depth_unit="pixel"), found, card.alignment, {})[1]
    _, depth, per_px = page.crop(pair.rgb, pair.depth, points)
    assert per_px == 1.0
    assert np.allclose(depth, wanted, rtol=1e-6)


def test_small_parts_of_the_page_are_those_of_the_library():
    points = np.array([[100.0, 120], [160, 128], [131, 160], [104, 190], [150, 196]])
    for settings in (AlignSettings(), AlignSettings("dlib"), AlignSettings("template", 80)):
        face = Detection(np.zeros(4), points, 1.0)
        matrix = similarity(points, reference_of(settings).tolist())
        assert np.allclose(matrix, warp_matrix(settings, (300, 300, 3), face), atol=1e-8)
    image = np.arange(5 * 3 * 3, dtype=np.uint8).reshape(5, 3, 3)
    assert block_means(image, 2)[..., 0].tolist() == [[6, 11], [24, 29], [38, 42]]  # 37.5 and the halves round up


def test_another_encoding_is_refused(exported, tmp_path):
    file = exported["rgbd"][2]
    same = FaceNetwork(file.path).identity
    FaceNetwork(file.path, same)
    for name, value in (("encoding", "xyz"), ("settings_hash", "f" * 16), ("model_id", "1" * 64)):
        with pytest.raises(ValueError, match=f"{name} is .* expected.*embed the stored pictures again"):
            FaceNetwork(file.path, same | {name: value})
    model = onnx.load(file.path)
    for change in ({"format": "face3d onnx 9"}, {"inputs": {"rgb": ""}}, {"inputs": {}}):
        facts = json.loads(model.metadata_props[0].value) | change
        set_model_props(other := onnx.load(file.path), {"face3d": json.dumps(facts)})
        onnx.save(other, tmp_path / "other.onnx")
        with pytest.raises(ValueError, match="not a file that takes raw crops"):
            FaceNetwork(tmp_path / "other.onnx")


@pytest.mark.parametrize("data", [b"", b"<html>login</html>", None])
def test_a_file_that_is_no_model_is_refused(exported, tmp_path, data):
    path = tmp_path / "model.onnx"
    path.write_bytes(exported["rgb"][2].path.read_bytes()[:5000] if data is None else data)
    with pytest.raises(ValueError, match=r"model\.onnx: no ONNX file that can be used"):
        FaceNetwork(path)


def test_the_page_refuses_crops_and_maps_that_do_not_fit(exported):
    page = FaceNetwork(exported["rgbd"][2].path)
    pair, points, _ = synthetic()
    rgb, depth, per_px = page.crop(pair.rgb, pair.depth, points)
    with pytest.raises(ValueError, match="are these metres"):
        page.crop(pair.rgb, pair.depth / 1000, points)
    with pytest.raises(ValueError, match=r"depth \(H, W\) expected"):
        page.crop(pair.rgb, pair.depth[1:], points)
    with pytest.raises(ValueError, match="outside of the picture"):
        page.crop(pair.rgb, pair.depth, points + 5000)
    with pytest.raises(ValueError, match="depth is"):
        page.embed(rgb[None])
    with pytest.raises(ValueError, match="rgb is"):
        page.embed(rgb[None].astype(np.float32), depth[None], [per_px])
    with pytest.raises(ValueError, match="depth_per_px is"):
        page.embed(rgb[None], depth[None], per_px)


@dataclass
class FewCrops:
    """What the export takes from a pack."""

    crops: Batch
    info: dict
    folder: str = "pack"

    def __len__(self):
        return len(self.crops)

    def batch(self, rows):
        return Batch(self.crops.rgb[rows], self.crops.depth[rows], self.crops.depth_per_px[rows])


def test_int8_is_smaller_and_nearly_the_same(exported, tmp_path):
    network, card, file = exported["rgbd"]
    crops = cropped(card.alignment, 8)
    pack = FewCrops(crops, {"source": {"settings_hash": card.settings_hash}})
    small = export.export_model(Recogniser.of("rgbd", network, card), tmp_path / "small.onnx", pack)
    assert small.precision == "int8"
    assert small.n_bytes < 0.4 * file.n_bytes
    assert small.cosine > 0.95
    found = FaceNetwork(small.path, FaceNetwork(file.path).identity)  # its embeddings may be compared with float32
    assert found.facts["precision"] == "int8"
    pack = FewCrops(crops, {"source": {"settings_hash": "other"}})
    with pytest.raises(UserError, match="another alignment"):
        export.export_model(Recogniser.of("rgbd", network, card), tmp_path / "small.onnx", pack)


def test_a_file_that_differs_is_not_written(tmp_path, monkeypatch):
    architecture, settings = NETWORKS["depth"]
    network = Embedder(architecture).eval()
    monkeypatch.setattr(export, "compared", lambda *_: (float("nan"), 1.0))
    monkeypatch.setattr(export, "translated", lambda *_: onnx.ModelProto())
    with pytest.raises(UserError, match="not written"):
        export.export_model(Recogniser.of("depth", network, card_of(network, settings)), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_the_command_and_its_mistakes(tmp_path, monkeypatch):
    torch.manual_seed(0)
    network = Embedder(Architecture("rgb"))
    model_files.save_model(tmp_path / "model", network, card_of(network, AlignSettings()))

    def face3d(*words):
        return CliRunner().invoke(cli.app, ["export", *map(str, words)])

    done = face3d(tmp_path, "--out", tmp_path / "m.onnx")
    assert done.exit_code == 0, done.output
    assert FaceNetwork(tmp_path / "m.onnx").facts["alignment"]["mode"] == "template"
    assert "float32" in done.output
    assert json.loads(face3d(tmp_path, "--out", tmp_path / "m.onnx", "--json").output)["precision"] == "float32"
    done = face3d(tmp_path, "--out", tmp_path / "m.txt")
    assert isinstance(done.exception, UserError)
    assert "ends in .onnx" in str(done.exception)
    done = face3d("nobody", "--out", tmp_path / "m.onnx")
    assert isinstance(done.exception, UserError)
    assert "no such model" in str(done.exception)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    done = face3d(tmp_path, "--out", tmp_path / "m.onnx")
    assert "pip install 'face3d[export]'" in str(done.exception)
