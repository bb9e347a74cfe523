"""Reading pairs: every kind of file gets the pixels that it means, or one status and one line."""

import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from bad_inputs import (
    SENTINEL,
    bad_depths,
    bad_pictures,
    bomb,
    chunk,
    declare,
    depth_of,
    image_bytes,
    npy_bytes,
    status_of,
    texture,
    write_pair,
)
from PIL import Image, ImageOps

from face3d_lib.base.errors import UserError
from face3d_lib.data.convention import DepthConvention, read_convention
from face3d_lib.data.decoding import OFFSET, read_depth, read_one_of_each, read_pair, read_pairs, read_rgb
from face3d_lib.data.pairs import (
    BadPair,
    find_pairs,
    require_usable,
    single_pair,
    tally,
)

MM = DepthConvention("mm", "farther")
SHAPE = (48, 40)


def test_every_bad_picture_gets_its_status_and_none_is_run(tmp_path):
    for name, (data, status) in bad_pictures(tmp_path).items():
        (tmp_path / name).write_bytes(data)
        assert status_of(read_rgb, tmp_path / name) == status, name
    assert not (tmp_path / SENTINEL).exists()


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb(10_000, 8_800))  # 88 Mpx: Pillow itself does not even warn
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    assert status_of(read_rgb, path) == "too_large"
    assert time.process_time() - start < 0.5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB; 88 Mpx would be 264 MB


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA", "CMYK", "1"])
def test_pixel_modes_are_converted_on_purpose(tmp_path, mode):
    rgb = texture(64, 64)
    picture = Image.fromarray(rgb)
    if mode in ("L", "LA", "1"):
        expected = np.repeat(np.asarray(picture.convert("L"))[..., None], 3, 2).astype(float)
    else:
        expected = rgb.astype(float)
    if mode == "CMYK":
        path = tmp_path / "a.jpg"
        picture.convert(mode).save(path, quality=98)
    else:
        path = tmp_path / "a.png"
        picture.convert(mode).save(path)
    read = read_rgb(path)
    assert (read.shape, read.dtype) == ((64, 64, 3), np.uint8)
    assert abs(read.mean() - expected.mean()) < 2
    if mode in ("L", "RGB", "RGBA"):
        assert np.array_equal(read, expected)


def test_a_transparent_colour_of_a_palette_keeps_its_colour(tmp_path):
    picture = Image.fromarray(texture(32, 32)).convert("P", palette=Image.Palette.ADAPTIVE)
    picture.save(tmp_path / "a.png", transparency=3)
    assert np.array_equal(read_rgb(tmp_path / "a.png"), np.asarray(picture.convert("RGB")))


def test_16_bit_grey_is_scaled_and_not_clipped(tmp_path):
    grey = np.array([[0, 257, 1000], [30_000, 65_278, 65_535]], np.uint16)
    Image.fromarray(grey).save(tmp_path / "a.png")
    assert read_rgb(tmp_path / "a.png")[..., 0].tolist() == [[0, 1, 4], [117, 254, 255]]  # x / 257, rounded


def test_the_content_decides_and_not_the_name(tmp_path):
    (tmp_path / "a.jpg").write_bytes(image_bytes(texture(), "PNG"))
    assert np.array_equal(read_rgb(tmp_path / "a.jpg"), texture())


def exif_turned(rgb, orientation):
    """The raster that a camera stores so that `orientation` shows `rgb`, by Pillow's own table."""
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Image.Transpose members that undo exif_transpose
    picture = Image.fromarray(rgb)
    return picture if orientation == 1 else picture.transpose(Image.Transpose(back[orientation]))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone_for_colour_and_for_stored_depth(tmp_path, orientation):
    rgb, depth = texture(), depth_of(SHAPE)
    stored = exif_turned(rgb, orientation)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "p" / "a.png"
    path.parent.mkdir()
    stored.save(path, exif=exif)
    assert np.array_equal(np.asarray(ImageOps.exif_transpose(Image.open(path))), rgb)  # the test's own table is right
    np.save(path.with_suffix(".npy"), depth)
    pair = read_pair(single_pair(path, path.with_suffix(".npy")), MM)
    assert np.array_equal(pair.rgb, rgb)
    assert np.array_equal(pair.depth, depth)  # depth as displayed is taken as it is
    if orientation >= 5:  # depth as stored can be told apart by its shape
        np.save(path.with_suffix(".npy"), np.asarray(exif_turned(depth.astype(np.int32), orientation)))
        assert np.array_equal(read_pair(single_pair(path, path.with_suffix(".npy")), MM).depth, depth)


def test_an_orientation_that_does_not_exist_is_none(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 99
    Image.fromarray(texture()).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_rgb(tmp_path / "a.png"), texture())


def test_fuzzed_pictures_end_in_pixels_or_a_status(tmp_path):
    rng = np.random.default_rng(7)
    sources = [image_bytes(texture(), "PNG"), image_bytes(texture(), "JPEG"), image_bytes(texture(), "BMP")]
    seen = set()
    for k in range(600):
        data = bytearray(sources[k % 3])
        for _ in range(rng.integers(1, 6)):
            data[rng.integers(0, min(len(data), 400))] = rng.integers(0, 256)
        path = tmp_path / "a.png"
        path.write_bytes(data)
        try:
            seen.add(read_rgb(path).dtype.name)
        except BadPair as error:
            seen.add(error.status)
    assert {"uint8", "decode_error"} <= seen <= {"uint8", "decode_error", "too_large", "unsupported_mode"}


def test_every_bad_depth_gets_its_status_and_none_is_run(tmp_path):
    for name, (data, status) in bad_depths(tmp_path).items():
        path = tmp_path / f"{name}.npy"
        path.write_bytes(data)
        assert status_of(read_depth, path, MM, SHAPE) == status, name
    assert not (tmp_path / SENTINEL).exists()


def test_a_lying_header_allocates_nothing(tmp_path):
    path = tmp_path / "a.npy"
    path.write_bytes(bad_depths(tmp_path)["four_terabytes"][0])
    code = (
        "import resource, sys; from face3d_lib.data.decoding import *; from face3d_lib.data.pairs import *; from face3d_lib.data.convention import *\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 50_000_000,) * 2)\n"
        f"try: read_depth({str(path)!r}, DepthConvention('mm', 'farther'), (48, 40))\n"
        "except BadPair as error: print(error.status)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.stdout == "bad_depth\n", result.stderr


@pytest.mark.parametrize("dtype", ["<u2", ">u2", "<i4", ">i8", "<f2", "<f4", ">f4", "<f8", ">f8", "u8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_any_real_dtype_and_order_reads_alike(tmp_path, dtype, order):
    depth = np.asarray(depth_of(SHAPE), dtype=dtype, order=order)
    np.save(tmp_path / "a.npy", depth)
    read = read_depth(tmp_path / "a.npy", MM, SHAPE)
    assert (read.dtype, read.flags.c_contiguous) == (np.float32, True)
    assert np.array_equal(read, depth_of(SHAPE))


def test_other_lawful_forms_of_depth(tmp_path):
    depth = depth_of(SHAPE)
    np.save(tmp_path / "a.npy", depth[..., None])
    (tmp_path / "b.npy").write_bytes(npy_bytes(depth, version=(2, 0)))
    Image.fromarray(depth).save(tmp_path / "c.depth.png")
    np.save(tmp_path / "d.npy", depth[None])
    for name in ("a.npy", "b.npy", "c.depth.png", "d.npy"):
        assert np.array_equal(read_depth(tmp_path / name, MM, SHAPE), depth)


def test_depth_pictures_must_have_16_bits(tmp_path):
    Image.fromarray(texture()).save(tmp_path / "rgb.depth.png")
    Image.fromarray(texture()[..., 0]).save(tmp_path / "grey.depth.png")
    Image.fromarray(depth_of(SHAPE)).save(tmp_path / "cut.depth.png")
    (tmp_path / "cut.depth.png").write_bytes((tmp_path / "cut.depth.png").read_bytes()[:-20])
    (tmp_path / "bomb.depth.png").write_bytes(bomb(10_000, 10_000))
    for name in ("rgb", "grey", "cut", "bomb"):
        assert status_of(read_depth, tmp_path / f"{name}.depth.png", MM, SHAPE) == "bad_depth"


def test_what_is_no_reading_becomes_zero_and_nothing_else_does(tmp_path):
    depth = np.array([[900, np.nan, np.inf], [-np.inf, -5, 0], [800.25, 1e-3, 1e30]])
    np.save(tmp_path / "a.npy", depth)
    read = read_depth(tmp_path / "a.npy", MM, (3, 3))
    assert read.tolist() == [[900, 0, 0], [0, 0, 0], [800.25, np.float32(1e-3), 0]]
    saturated = np.array([[900, 65_535], [65_534, 800]], np.uint16)
    np.save(tmp_path / "a.npy", saturated)
    assert read_depth(tmp_path / "a.npy", MM, (2, 2)).tolist() == [[900, 0], [65_534, 800]]


def test_random_depth_is_finite_and_never_negative(tmp_path):
    rng = np.random.default_rng(3)
    for dtype in (np.float16, np.float32, np.float64, np.int16, np.uint16, np.int64):
        for _ in range(20):
            raw = rng.integers(0, 256, (12, 12 * np.dtype(dtype).itemsize), dtype=np.uint8).view(dtype)
            raw[0, :2] = 7  # never an empty map
            np.save(tmp_path / "a.npy", raw)
            for convention in (DepthConvention("pixel", "farther"), DepthConvention("pixel", "nearer")):
                read = read_depth(tmp_path / "a.npy", convention, raw.shape)
                assert np.isfinite(read).all()
                assert (read >= 0).all()
                assert (read > 0).any()


def test_metres_become_millimetres_and_a_wrong_unit_is_found(tmp_path):
    np.save(tmp_path / "a.npy", depth_of(SHAPE) / 1000)
    read = read_depth(tmp_path / "a.npy", DepthConvention("m", "farther"), SHAPE)
    assert np.allclose(read, depth_of(SHAPE), atol=1e-3)
    with pytest.raises(BadPair, match="look like metres"):
        read_depth(tmp_path / "a.npy", MM, SHAPE)
    np.save(tmp_path / "a.npy", depth_of(SHAPE))
    with pytest.raises(BadPair, match="look like millimetres"):
        read_depth(tmp_path / "a.npy", DepthConvention("m", "farther"), SHAPE)


def test_nearer_is_turned_and_keeps_differences(tmp_path):
    """The form of the legacy data: float64, 0 = nothing, larger = nearer, no unit."""
    near = np.array([[0.0, 10.5], [70.25, 90.0]])
    np.save(tmp_path / "a.npy", near)
    read = read_depth(tmp_path / "a.npy", DepthConvention("pixel", "nearer"), (2, 2))
    assert read.tolist() == [[0, OFFSET - 10.5], [OFFSET - 70.25, OFFSET - 90]]
    np.save(tmp_path / "a.npy", near * 100)  # readings above 4096: the offset grows
    read = read_depth(tmp_path / "a.npy", DepthConvention("pixel", "nearer"), (2, 2))
    assert read.tolist() == [[0, 16384 - 1050], [16384 - 7025, 16384 - 9000]]


def scene_mm():
    """A face-like map: 600 to 900 mm, a wall at 2.2 m behind it, (48, 40) float64."""
    rows, columns = np.mgrid[:48, :40]
    return np.where((columns > 5) & (columns < 35), 600 + 5 * rows + 2.0 * columns, 2200 + rows)


def read_numbers(folder, numbers, convention=MM):
    np.save(folder / "a.npy", numbers)
    return read_depth(folder / "a.npy", convention, numbers.shape)


@pytest.mark.parametrize("dtype", ["u2", "i4", "u4", "i8", "f4", "f8"])
@pytest.mark.parametrize("mark", [65535, 1023.0, 2047, 4095, 8191, 16383, 32767, -1, -999_999, 1e9])
def test_marks_of_nothing_are_no_reading_in_every_dtype(tmp_path, dtype, mark):
    info = np.iinfo(dtype) if np.dtype(dtype).kind in "iu" else np.finfo(dtype)
    if not info.min <= mark <= info.max:
        pytest.skip("the dtype cannot hold it")
    true = np.where(scene_mm() > 2000, 700 if mark < 2700 else 2000, scene_mm() * (0.5 if mark == 1023 else 1)).round()
    marked = true.copy()
    marked[10:14, 8:20] = mark
    read = read_numbers(tmp_path, marked.astype(dtype))
    assert np.array_equal(read == 0, marked == mark)
    assert np.array_equal(read[read > 0], true[marked != mark])


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("unit_mm", [1, 0.25, 0.1, 0.01])
@pytest.mark.parametrize("unit", ["m", "mm"])
def test_saturation_is_no_reading_after_conversion_either(tmp_path, dtype, unit_mm, unit):
    if 65_535 * unit_mm < 1000 or (dtype == "f2" and unit == "mm" and unit_mm == 1):
        true = np.full((48, 40), 300.0) + np.mgrid[:48, :40][0]
    else:
        true = scene_mm()
    marked = true.copy()
    marked[10:14, 8:20] = 65_535 * unit_mm
    with np.errstate(over="ignore"):
        numbers = (marked / (1000 if unit == "m" else 1)).astype(dtype)
    read = read_numbers(tmp_path, numbers, DepthConvention(unit, "farther"))
    assert np.array_equal(read == 0, marked != true)


@pytest.mark.parametrize(("dtype", "unit"), [("u2", "mm"), ("i8", "mm"), ("f4", "mm"), ("f4", "m"), ("f8", "m")])
def test_a_single_pixel_at_65535_is_no_reading(tmp_path, dtype, unit):
    """Here other readings lie close below, 60 m away: only 65535 itself is always a mark."""
    true = scene_mm()
    true[1, :2] = 60_000
    marked = true.copy()
    marked[0, 0] = 65_535
    numbers = (marked / (1000 if unit == "m" else 1)).astype(dtype)
    read = read_numbers(tmp_path, numbers, DepthConvention(unit, "farther"))
    assert np.array_equal(np.argwhere(read == 0), [[0, 0]])


def test_true_readings_are_not_taken_for_marks(tmp_path):
    """A wall at 2047 mm among others, a face at 1023 mm, a few pixels at 4095 mm, a depth of 65.535 px."""
    wall = np.full((48, 40), 2047) - np.mgrid[:48, :40][0] * 5
    face = np.full((48, 40), 1023) - (np.mgrid[:48, :40][1] % 7)
    single = scene_mm().round()
    single[0, 0] = 4095
    for true in (wall, face, single):
        for dtype in ("u2", "f4"):
            assert np.array_equal(read_numbers(tmp_path, true.astype(dtype)), true)
    pixels = 40 + np.mgrid[:48, :40][0] * 0.5
    pixels[5:9] = 65.535
    assert (read_numbers(tmp_path, pixels, DepthConvention("pixel", "farther")) > 0).all()


def test_numbers_that_the_data_set_calls_nothing_are_nothing(tmp_path):
    marked = scene_mm()
    marked[:10] = 10_000
    marked[10:12] = 1.5
    declared = DepthConvention("mm", "farther", no_reading=(10_000, 1.5))
    for dtype in ("f4", "f8"):
        read = read_numbers(tmp_path, marked.astype(dtype), declared)
        assert (read[:12] == 0).all()
        assert (read[12:] > 0).all()


@pytest.mark.parametrize(
    ("unit", "scale", "per_mm"),
    [("mm", 0.1, 10), ("mm", 0.01, 100), ("mm", 0.25, 4), ("mm", 0.2, 5), ("m", 0.0002, 5), ("mm", 10, 0.1)],
)
def test_a_scale_makes_millimetres_of_any_count(tmp_path, unit, scale, per_mm):
    (tmp_path / "dataset.json").write_text(
        f'{{"depth_unit": "{unit}", "larger_is": "farther", "depth_scale": {scale}}}'
    )
    read = read_numbers(tmp_path, scene_mm() * per_mm, read_convention(tmp_path))
    assert np.allclose(read, scene_mm(), rtol=1e-6)


@pytest.mark.parametrize(
    ("factor", "said"),
    [(1000, "0.001 mm"), (100, "0.01 mm"), (1e-3, '"depth_unit": "m" in'), (0.01, "another unit")],
)
def test_the_hint_for_a_wrong_unit_fits(tmp_path, factor, said):
    with pytest.raises(BadPair, match=said):
        read_numbers(tmp_path, scene_mm() * factor)


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "f4", "f8"])
def test_8_bit_grey_is_no_distance(tmp_path, dtype):
    grey = (scene_mm() / 10).round().clip(1, 255).astype(dtype)
    with pytest.raises(BadPair, match="8-bit grey"):
        read_numbers(tmp_path, grey)
    assert np.array_equal(read_numbers(tmp_path, grey, DepthConvention("pixel", "farther")), grey)
    assert read_numbers(tmp_path, grey, DepthConvention("mm", "farther", 10.0)).max() == 2250


@pytest.mark.parametrize("dtype", ["u2", "i2", "i4", "f4", "f8"])
def test_swapped_bytes_are_told(tmp_path, dtype):
    true = scene_mm().astype(dtype)
    with pytest.raises(BadPair, match="bytes look swapped"):
        read_numbers(tmp_path, true.byteswap())
    with pytest.raises(BadPair, match="bytes look swapped"):
        read_numbers(tmp_path, true.byteswap(), DepthConvention("pixel", "nearer"))
    shifted = ((scene_mm() / 10).round().astype(np.uint16)) << 8  # 8-bit grey times 256 is no swap
    assert (read_numbers(tmp_path, shifted, DepthConvention("pixel", "farther")) > 0).all()


def test_hashes_are_of_the_files(tmp_path):
    from face3d_lib.base.atomic import sha256_of

    write_pair(tmp_path, "p1/a", texture())
    pair = read_pair(find_pairs(tmp_path)[0], MM)
    assert pair.rgb_sha256 == sha256_of(tmp_path / "p1" / "a.png")
    assert pair.depth_sha256 == sha256_of(tmp_path / "p1" / "a.npy")
    assert (pair.pair_id, pair.subject_id, pair.depth_unit) == ("p1/a", "p1", "mm")


def test_real_sensor_depth_reads(shared_data):
    root = Path(shared_data) / "kinect_rgbd"
    pairs = find_pairs(root)
    assert {row.status for row in pairs} == {"ok"}
    pair = read_pair(pairs[0], read_convention(root))
    assert pair.depth_unit == "pixel"
    readings = pair.depth[pair.depth > 0]
    assert OFFSET - 200 < readings.min() < readings.max() < OFFSET


@pytest.mark.parametrize("kind", ["bmp", "png", "jpg"])
def test_every_promised_picture_format_is_read(tmp_path, kind):
    picture = np.full((40, 30, 3), (200, 100, 50), np.uint8)
    Image.fromarray(picture).save(tmp_path / f"x.{kind}")
    assert np.abs(read_rgb(tmp_path / f"x.{kind}").astype(int) - picture).max() <= 3


def test_the_first_picture_of_a_phone_s_mpo_is_read(tmp_path):
    first, second = (Image.new("RGB", (40, 30), colour) for colour in ("red", "blue"))
    first.save(tmp_path / "x.jpg", format="MPO", save_all=True, append_images=[second])
    assert read_rgb(tmp_path / "x.jpg")[15, 20, 0] > 200


def test_an_empty_file_says_so(tmp_path):
    (tmp_path / "x.png").write_bytes(b"")
    with pytest.raises(BadPair, match=r"x\.png") as caught:
        read_rgb(tmp_path / "x.png")
    assert caught.value.status == "decode_error"
    assert "no bytes" in str(caught.value)


def test_one_that_cannot_be_read_is_a_row_and_the_others_are_read(tmp_path, monkeypatch):
    root = declare(tmp_path)
    for name in ("a/1", "a/2", "b/1", "b/2", "c/1"):
        write_pair(root, name, texture())
    (root / "a" / "1.png").write_bytes(b"cut")
    np.save(root / "b" / "1.npy", depth_of((7, 7)))
    Image.fromarray(texture()).save(root / "stray.png")
    rows = list(read_pairs(find_pairs(root), MM))
    assert {row.pair_id: row.status for row, _ in rows} == {
        "./stray.png": "refused_path", "a/1": "decode_error", "a/2": "ok", "b/1": "shape_mismatch", "b/2": "ok",
        "c/1": "ok",
    }  # fmt: skip
    assert all((pair is not None) == (row.status == "ok") == (not row.detail) for row, pair in rows)
    assert [pair.pair_id for pair in read_one_of_each(root, find_pairs(root), MM, 2)] == ["a/2", "b/2"]
    assert [pair.pair_id for pair in read_one_of_each(root, find_pairs(root), MM, 9)] == ["a/2", "b/2", "c/1"]
    monkeypatch.setattr("face3d_lib.data.decoding._decode_rgb", lambda *_: 1 / 0)
    assert {row.status for row, _ in read_pairs(find_pairs(root), MM)} == {"internal_error", "refused_path"}


def test_a_folder_without_a_usable_pair_says_why(tmp_path):
    root = declare(tmp_path)
    for k in range(3):
        write_pair(root, f"p/{k}", texture())
        (root / "p" / f"{k}.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"none of 3 pairs can be used; 3 have the status decode_error, .*no bytes"):
        read_one_of_each(root, find_pairs(root), MM, 6)
    with pytest.raises(UserError, match="no pairs: it should hold"):
        require_usable(root, [])
    assert tally([("ok", ""), ("no_face", "a"), ("no_face", "b"), ("no_face", "b"), ("ok", "")]) == [
        ("no_face", 3, "b"),
        ("ok", 2, ""),
    ]


@pytest.mark.parametrize("block", [b"\0\0\x11\0\0\x01\x04\0", b"", bytes(8), b"II*\0\xff\xff\xff\x7f", b"not TIFF"])
def test_damaged_metadata_does_not_spoil_a_picture(tmp_path, block):
    png = image_bytes(texture(), "PNG")
    (tmp_path / "a.png").write_bytes(png[:33] + chunk(b"eXIf", block) + png[33:])
    (tmp_path / "a.jpg").write_bytes(image_bytes(texture(), "JPEG", exif=b"Exif\0\0" + block))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(read_rgb(tmp_path / "a.png"), texture())
        assert read_rgb(tmp_path / "a.jpg").shape == texture().shape
