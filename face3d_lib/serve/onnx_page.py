"""Embeddings of faces from a file that `face3d export` wrote, with onnxruntime and numpy alone.

This file imports nothing else of Face3D and no torch. Copy it beside the .onnx file, into any project:

    network = FaceNetwork("model.onnx")
    rgb, depth, depth_per_px = network.crop(picture, depth_map, five_points)
    embedding = network.embed(rgb[None], depth[None], [depth_per_px])[0]

The cosine of two embeddings is `a @ b`, and higher means more alike. The five points are eyes, nose tip and corners of
the mouth, as a detector of your choice finds them; the network was trained on points of MTCNN (facenet-pytorch).
"""

import json

import numpy as np
import onnxruntime

FORMAT = "face3d onnx 1"
INPUTS = {"rgb": "tensor(uint8)", "depth": "tensor(float)", "depth_per_px": "tensor(float)"}
NEAREST_MM = 20.0  # no camera reads so near: numbers below it are likely metres


class FaceNetwork:
    """The network of one file.

    facts: what the file says about itself: alignment, depth, normalisation and encoding, which are part of the graph.
    identity: what embeddings must share to be comparable. Keep it beside stored embeddings, and give it as `expected`
    when you open a file later: ValueError if the file is of another network, alignment or encoding of depth.
    """

    def __init__(self, path: str, expected: dict | None = None):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors only
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors share no other base
            reason = (str(error).splitlines() or ["empty"])[0][:200]
            raise ValueError(f"{path}: no ONNX file that can be used ({reason}): export it again") from None
        facts = json.loads(self.session.get_modelmeta().custom_metadata_map.get("face3d", "{}"))
        found = {node.name: node.type for node in self.session.get_inputs()}
        wanted = {name: kind for name, kind in INPUTS.items() if name in facts.get("inputs", {})}
        if facts.get("format") != FORMAT or found != wanted:
            has = ", ".join(f"{name} {kind}" for name, kind in found.items())
            raise ValueError(
                f"{path}: not a file that takes raw crops and encodes depth itself (format "
                f"{facts.get('format')!r}, {FORMAT!r} expected; it takes {has}): write it with face3d export"
            )
        self.facts, self.identity = facts, facts["identity"]
        for name, value in (expected or {}).items():
            if self.identity.get(name) != value:
                raise ValueError(
                    f"{path}: {name} is {self.identity.get(name)!r}, {value!r} expected: its embeddings cannot be "
                    "compared with the stored ones: embed the stored pictures again with this file"
                )

    def crop(
        self, rgb: np.ndarray, depth: np.ndarray, points: np.ndarray, unit: str = ""
    ) -> tuple[np.ndarray, np.ndarray, float]:
        """The crops of one picture: (S, S, 3) uint8 and (S, S) float32, and the depth units that a crop pixel measures.

        rgb (H, W, 3) uint8; depth (H, W), larger = farther, 0 = no reading; points (5, 2) px. unit: of depth, "mm", or "pixel" where
        one unit is as long as a pixel of the picture is wide; by default that of `facts`. Turn depth that is larger
        where it is nearer round before: `np.where(depth > 0, depth.max() + 1 - depth, 0)`. ValueError: the network
        cannot take this unit, or what is given cannot be a face.

        Colour is interpolated linearly, after whole blocks are averaged where the crop is smaller than the picture;
        depth is taken from the nearest pixel, so that every reading was measured.
        """
        alignment, about = self.facts["alignment"], self.facts["depth"]
        unit, fitting = unit or about["unit"], about.get("units", [about["unit"]])
        if unit not in fitting:
            raise ValueError(f"depth in {unit!r}: this network takes depth in {' or '.join(fitting)}")
        if alignment["template"] is None:
            raise ValueError(f"the network takes crops of alignment {alignment['mode']!r}, which uses no template")
        depth = np.nan_to_num(np.asarray(depth, np.float32), nan=0, posinf=0, neginf=0)
        if depth.shape != rgb.shape[:2] or rgb.dtype != np.uint8:
            raise ValueError(
                f"rgb (H, W, 3) uint8 and depth (H, W) expected, not {rgb.shape} {rgb.dtype}, {depth.shape}"
            )
        if unit == "mm" and 0 < depth.max() < NEAREST_MM:
            raise ValueError(f"the farthest reading is {depth.max():.3g} mm: are these metres? multiply by 1000")
        matrix, size = similarity(points, alignment["template"]), alignment["image_size"]
        scale = np.hypot(*matrix[:, 0])
        rows, columns = np.mgrid[:size, :size]
        offsets = np.stack([columns - matrix[0, 2], rows - matrix[1, 2]])
        x, y = np.tensordot(np.linalg.inv(matrix[:, :2]), offsets, 1)
        near = at(depth, np.floor(x + 0.5).astype(int), np.floor(y + 0.5).astype(int))
        block = max(1, int(np.round(1 / scale)))
        low = [max(int(np.floor(axis.min())) - block, 0) for axis in (x, y)]
        if not (low[0] < rgb.shape[1] and low[1] < rgb.shape[0] and min(x.max(), y.max()) >= 0):
            raise ValueError("the five points lie outside of the picture")
        means = block_means(rgb[low[1] :, low[0] :], block)
        x, y = (x - low[0] + 0.5) / block - 0.5, (y - low[1] + 0.5) / block - 0.5
        left, top = np.floor(x).astype(int), np.floor(y).astype(int)
        right, down = (x - left)[..., None], (y - top)[..., None]
        upper = at(means, left, top) * (1 - right) + at(means, left + 1, top) * right
        lower = at(means, left, top + 1) * (1 - right) + at(means, left + 1, top + 1) * right
        crop = (upper * (1 - down) + lower * down + 0.5).astype(np.uint8)
        if unit == "pixel":
            return crop, near * np.float32(scale), 1.0
        measure = np.hypot(*similarity(points, about["measured_by"])[:, 0])  # px of 63 mm between the eyes
        return crop, near, float(about["mm_per_px"] * measure / scale)

    def embed(
        self, rgb: np.ndarray | None = None, depth: np.ndarray | None = None, depth_per_px: object = None
    ) -> np.ndarray:
        """(B, D) float32 of unit length for B crops: rgb (B, S, S, 3) uint8, depth (B, S, S), depth_per_px (B,).

        A network of colour alone needs no depth, and one of depth alone no colour. ValueError: an input is missing or
        of another shape, or an embedding is not finite.
        """
        given = {"rgb": rgb, "depth": depth, "depth_per_px": depth_per_px}
        feed = {name: np.asarray([] if given[name] is None else given[name]) for name in self.facts["inputs"]}
        count, size = len(next(iter(feed.values()))), self.facts["alignment"]["image_size"]
        shapes = {"rgb": (count, size, size, 3), "depth": (count, size, size), "depth_per_px": (count,)}
        for name, value in feed.items():
            if not count or value.shape != shapes[name] or (name == "rgb" and value.dtype != np.uint8):
                raise ValueError(f"{name} is {value.dtype} {value.shape}: {INPUTS[name]} {shapes[name]} expected")
            feed[name] = value.astype(np.uint8 if name == "rgb" else np.float32, copy=False)
        found = self.session.run(None, feed)[0]
        if not np.isfinite(found).all():
            raise ValueError("an embedding is not finite: look at the crops")
        return found


def similarity(points: np.ndarray, template: list) -> np.ndarray:
    """(2, 3): the similarity that brings `points` (5, 2) nearest to `template`, by least squares in complex numbers."""
    source, target = (np.asarray(p, np.float64) @ [1, 1j] for p in (points, template))
    apart = source - source.mean()
    turn = (apart.conj() @ (target - target.mean())) / (apart.conj() @ apart).real
    shift = target.mean() - turn * source.mean()
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


def block_means(image: np.ndarray, block: int) -> np.ndarray:
    """The mean of each block x block px of `image` (H, W, 3) uint8, rounded; the last blocks may be smaller."""
    if block == 1:
        return image
    rows, columns = (np.arange(0, side, block) for side in image.shape[:2])
    total = np.add.reduceat(np.add.reduceat(image.astype(np.float64), rows, 0), columns, 1)
    counts = (np.diff(np.append(start, side)) for start, side in zip((rows, columns), image.shape[:2], strict=True))
    return np.floor(total / np.multiply.outer(*counts)[..., None] + 0.5).astype(np.uint8)


def at(image: np.ndarray, column: np.ndarray, row: np.ndarray) -> np.ndarray:
    """The pixels of `image` (H, W, ...) at whole places; 0 outside."""
    height, width = image.shape[:2]
    within = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    found = image[np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)]
    return np.where(within.reshape(within.shape + (1,) * (image.ndim - 2)), found, 0).astype(image.dtype)
