"""What the tests of warp, faces, crops, depth and alignment share: small folders, and faces that lie where we say."""

from pathlib import Path

import numpy as np

from face3d_lib.base.atomic import sha256_of
from face3d_lib.data.alignment import align_folder
from face3d_lib.data.faces import Detection
from face3d_lib.data.warp import TEMPLATE_112, AlignSettings

from bad_inputs import declare, face, texture, write_pair  # isort: skip

TEMPLATE = AlignSettings()


def similarity(degrees, scale, shift):
    angle = np.radians(degrees)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.c_[turn, shift]


def apply(matrix, points):
    return points @ matrix[:, :2].T + matrix[:, 2]


def face_at(matrix):
    """A face whose points are the template's, moved by a similarity from crop to source."""
    points = apply(matrix, TEMPLATE_112)
    return Detection(np.r_[points.min(0) - 20, points.max(0) + 20], points, 0.99)


def scene(*faces, size=(240, 320)):
    """Grey with faces pasted in: (size of face, left, top) each."""
    canvas = np.full((*size, 3), 120, np.uint8)
    for side, left, top in faces:
        canvas[top : top + side, left : left + side] = face(side)
    return canvas


def tree(folder):
    """relative path -> SHA-256 of every file below `folder`, empty folders too."""
    return {
        str(path.relative_to(folder)): sha256_of(path) if path.is_file() else "folder"
        for path in sorted(Path(folder).rglob("*"))
    }


def small_set(root, people=3, images=12, size=72):
    declare(root)
    for k in range(people * images):
        rgb = np.roll(face(size), k % 5, axis=1) if k % 7 else texture(size, size, seed=k)
        write_pair(root, f"p{k // images}/{k % images:02d}", rgb)
    return root


def run(source, target, settings=TEMPLATE, workers=1, **options):
    return align_folder(source, target, settings, workers=workers, progress=False, **options)
