"""The crops of one pair: their scale, and what they hold in every mode."""

import json

import numpy as np
import torch
from aligning import TEMPLATE, face_at, run, similarity
from bad_inputs import declare, depth_of, face, texture, write_pair
from PIL import Image

from face3d_lib.base.tables import POINTS
from face3d_lib.data import warp
from face3d_lib.data.alignment_table import MATRIX
from face3d_lib.data.crops import align_pair
from face3d_lib.data.faces import Detection, Faces, find_faces
from face3d_lib.data.pairs import RGBDPair
from face3d_lib.data.warp import EYES_MM, AlignSettings

torch.set_num_threads(1)


def test_depth_scale_of_each_mode():
    """A face that is the template itself, 1.6 times as large, has eyes 63 mm apart in every mode's crop."""
    found = Faces([face_at(similarity(0, 1.6, [30, 30]))], "native")
    eyes = found.faces[0].points[1] - found.faces[0].points[0]
    for settings in (TEMPLATE, AlignSettings(image_size=224), AlignSettings("facenet", image_size=182)):
        for unit in ("mm", "pixel"):
            pair = RGBDPair("p/a", "p", texture(260, 260), depth_of((260, 260)).astype(np.float32), unit, "", "")
            row = {}
            _, depth = align_pair(pair, found, settings, row)
            matrix = np.array([row[name] for name in MATRIX]).reshape(2, 3)
            scale = np.sqrt(np.linalg.det(matrix[:, :2]))
            if unit == "mm":
                assert np.isclose(row["depth_per_px"] * scale * np.hypot(*eyes), EYES_MM, rtol=1e-3)
                assert set(depth.ravel()) <= set(pair.depth.ravel()) | {0}
            else:
                assert row["depth_per_px"] == 1
                back = (depth / np.float32(scale)).round(2)
                assert set(back.ravel()) <= set(pair.depth.ravel()) | {0}
    assert np.isclose(warp.MM_PER_TEMPLATE_PX, 63 / 35.2377, rtol=1e-4)


def test_a_set_without_a_face_says_what_its_pictures_are_like(tmp_path, detector):
    root = declare(tmp_path / "in")
    for name, seen in (("ir/face", face(96)), ("ir/a", texture(96, 96))):
        infrared = (seen.mean(2) * 16).astype(np.uint16)  # 12 bits in a file of 16
        write_pair(root, name, infrared, depth_of((96, 96)))
    write_pair(root, "small/a", texture(24, 24))
    write_pair(root, "nobody/a", texture(96, 96))
    rows = run(root, tmp_path / "out").set_index("pair_id")
    details = rows["detail"]
    assert tuple(rows.loc["ir/face", ["status", "found_at"]]) == ("ok", "lit")
    assert "the picture is dark, 99 % of its pixels are at 13 of 255 or below (infrared" in details["ir/a"]
    assert "only 24 x 24 px" in details["small/a"]
    assert "upright" in details["nobody/a"]


def test_exif_orientations_give_the_same_crop(tmp_path, detector):
    root = declare(tmp_path / "in")
    rgb, back = face(120)[:, 5:], {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    for orientation in range(1, 9):
        write_pair(root, f"p/{orientation}", rgb)
        exif = Image.Exif()
        exif[0x0112] = orientation
        picture = Image.fromarray(rgb)
        if orientation > 1:
            picture = picture.transpose(Image.Transpose(back[orientation]))
        picture.save(root / f"p/{orientation}.png", exif=exif)
    frame = run(root, tmp_path / "out")
    assert set(frame["status"]) == {"ok"}
    crops = [np.asarray(Image.open(tmp_path / f"out/p/{k}.png")).astype(int) for k in range(1, 9)]
    depths = [np.load(tmp_path / f"out/p/{k}.npy") for k in range(1, 9)]
    for crop, depth in zip(crops, depths, strict=True):
        assert abs(crop - crops[0]).max() <= 1
        assert (depth != depths[0]).mean() < 0.01


def test_depth_in_pixels_nearer_is_turned_and_rescaled(tmp_path, detector):
    root = declare(tmp_path / "in", "pixel", "nearer")
    near = np.where(depth_of((160, 160), 0) % 11 == 0, 0, depth_of((160, 160), 10) / 10.0)
    write_pair(root, "p/a", face(160), near)
    row = run(root, tmp_path / "out").iloc[0]
    assert row["status"] == "ok"
    scale = np.hypot(float(row["m00"]), float(row["m10"]))
    depth = np.load(tmp_path / "out/p/a.npy")
    assert 0 < (depth == 0).mean() < 0.5
    given = set(np.round(near[near > 0], 1))
    assert set(np.round(4096 - depth[depth > 0] / scale, 1)) <= given
    assert (row["depth_per_px"], json.loads((tmp_path / "out/dataset.json").read_text())["depth_unit"]) == (
        "1.0",
        "pixel",
    )


def test_roll_is_taken_out_of_rotated_photos(shared_data, tmp_path, detector):
    frame = run(shared_data / "lfw_rgbd_rotated", tmp_path / "out")
    ok = frame[frame["status"] == "ok"]
    assert len(ok) >= 118

    def roll(points):
        eyes = points[1] - points[0]
        return abs(np.degrees(np.arctan2(eyes[1], eyes[0])))

    before = [roll(points) for points in ok[POINTS].astype(float).to_numpy().reshape(-1, 5, 2)]
    crops = [np.asarray(Image.open(tmp_path / f"out/{name}.png")) for name in ok["pair_id"]]
    found = [one for one in find_faces(crops, detector) if one.faces]
    after = [roll(one.faces[0].points) for one in found]
    assert len(found) >= 0.95 * len(crops)
    assert np.median(before) > 12
    assert np.median(after) < 3


def test_what_lies_at_the_points_lands_on_the_template():
    """The whole way of one pair, against marks: a shift of one pixel in warp or template is seen here."""
    turn = np.radians(12)
    similarity = 1.6 * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    points = warp.TEMPLATE_112 @ similarity.T + [70, 40]
    y, x = np.mgrid[:300, :300]
    rgb, depth = np.zeros((300, 300, 3)), np.full((300, 300), 900, np.float32)
    for px, py in points:
        away = np.hypot(x - px, y - py)
        rgb += (255 * np.exp(-((away / 3) ** 2)))[..., None]
        depth[away < 4] = 700
    pair = RGBDPair("p/a", "p", rgb.clip(0, 255).astype(np.uint8), depth, "mm", "", "")
    found = Faces([Detection(np.array([70.0, 40, 260, 260]), points, 0.99)], "native")
    colour, distance = align_pair(pair, found, AlignSettings(), {})
    v, u = np.mgrid[:112, :112]
    for place in warp.TEMPLATE_112:
        near = np.hypot(u - place[0], v - place[1]) < 8
        for weight in (colour[..., 0].astype(float), (distance == 700).astype(float)):
            mass = weight * near
            centre = [(mass * u).sum() / mass.sum(), (mass * v).sum() / mass.sum()]
            assert np.abs(centre - place).max() < 0.5
