"""Surfaces of triangles as points: a smooth mesh, points spread evenly over it, and the depth that a camera sees."""

import numpy as np
from scipy.sparse import csr_array

from .fields import f32


def loop_subdivision(faces: np.ndarray, count: int) -> tuple[csr_array, np.ndarray]:
    """(matrix from `count` vertices to those of the finer mesh, its faces (4 F, 3)); `faces` is (F, 3).

    Loop 1987 (Smooth subdivision surfaces based on triangles), with the borders of Hoppe et al. 1994, section 4.1.
    """
    halves = np.stack([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]], 1)  # (F, 3, 2)
    edges, inverse, times = np.unique(
        np.sort(halves.reshape(-1, 2), 1), axis=0, return_inverse=True, return_counts=True
    )
    inverse, border = inverse.reshape(-1, 3), times != 2
    weights: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def put(row: np.ndarray, column: np.ndarray, weight: np.ndarray | float) -> None:
        weights.append((row, column, np.broadcast_to(weight, row.shape)))

    middle = count + np.arange(len(edges))  # the new vertex of each edge
    for k in range(2):
        put(middle, edges[:, k], np.where(border, 1 / 2, 3 / 8))
    for k in range(3):  # the corner opposite to edge k of a face is vertex (k + 2) % 3
        edge = inverse[:, k]
        inner = ~border[edge]
        put(middle[edge[inner]], faces[inner, (k + 2) % 3], 1 / 8)
    on_border = np.zeros(count, bool)
    on_border[edges[border].ravel()] = True
    degree = np.bincount(edges.ravel(), minlength=count)
    beta = np.where(degree == 3, 3 / 16, 3 / (8 * np.maximum(degree, 1)))
    old = np.arange(count)
    put(old[~on_border], old[~on_border], 1 - (beta * degree)[~on_border])
    put(old[on_border], old[on_border], 1.0)
    for a, b in ((0, 1), (1, 0)):
        inner = ~on_border[edges[:, a]]
        put(edges[inner, a], edges[inner, b], beta[edges[inner, a]])
    rows, columns, values = (np.concatenate(part) for part in zip(*weights, strict=True))
    matrix = csr_array((values.astype(f32), (rows, columns)), shape=(count + len(edges), count))
    m = count + inverse
    finer = [np.stack([faces[:, k], m[:, k], m[:, (k + 2) % 3]], 1) for k in range(3)]
    return matrix, np.concatenate([*finer, m])


def spread_points(vertices: np.ndarray, faces: np.ndarray, area: float) -> tuple[csr_array, np.ndarray]:
    """Points on a mesh, one for each `area` mm^2: (matrix from vertices to N points, unit normals (N, 3)).

    The points of any prefix are spread over the mesh evenly, too. Their places in the triangles follow the sequence R2
    of Roberts 2018, which covers the plane more evenly than random numbers do.
    """
    corner = vertices[faces]
    normal = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    size = np.linalg.norm(normal, axis=1) / 2
    rng = np.random.default_rng(0)
    number = np.repeat(np.arange(len(faces)), np.floor(size / area + rng.random(len(size))).astype(int))
    n = np.arange(len(number))
    a, b = (0.5 + n * 0.7548776662466927) % 1, (0.5 + n * 0.5698402909980532) % 1
    fold = a + b > 1
    a, b = np.where(fold, 1 - a, a), np.where(fold, 1 - b, b)
    order = rng.permutation(len(number))
    weights = np.stack([1 - a - b, a, b], 1).astype(f32)[order]
    number = number[order]
    matrix = csr_array(
        (weights.ravel(), faces[number].ravel(), np.arange(0, 3 * len(n) + 1, 3)), shape=(len(n), len(vertices))
    )
    return matrix, (normal / np.maximum(2 * size, 1e-9)[:, None])[number].astype(f32)


def splat_depth(u: np.ndarray, v: np.ndarray, z: np.ndarray, size: int, near: float = 4.0) -> np.ndarray:
    """The depth (H, W) float32 mm of N points at u, v px (pixel centres at .5) and z mm; 0 where none is.

    Each point reaches the four pixels around it with bilinear weights; a pixel is the weighted mean of its points
    within `near` mm of the front-most one. A gap between the points, a pixel with five neighbours that have a depth,
    gets their mean. All points must lie at least half a pixel within the picture.
    """
    u, v = u - f32(0.5), v - f32(0.5)
    a, b = u.astype(np.int32), v.astype(np.int32)
    p, q = u - a, v - b
    cell = b * np.int32(size) + a
    own = np.full(size * size, np.inf, f32)
    np.minimum.at(own, cell, z)  # the front-most of the points whose upper left pixel this is
    front = own.copy()
    for step in (1, size, size + 1):
        np.minimum(front[step:], own[:-step], out=front[step:])
    front += f32(near)
    total, sums = np.zeros(size * size), np.zeros(size * size)
    low_p, low_q = 1 - p, 1 - q
    for step, weight in ((0, low_p * low_q), (1, p * low_q), (size, low_p * q), (size + 1, p * q)):
        at = cell + step
        weight = (weight + f32(1e-3)) * (z < front[at])
        total += np.bincount(at, weight, size * size)
        sums += np.bincount(at, weight * z, size * size)
    depth = (sums / np.maximum(total, 1e-9)).astype(f32).reshape(size, size)
    covered = np.pad(depth > 0, 1).astype(np.int8)
    lines = covered[:-2] + covered[1:-1] + covered[2:]
    gaps = np.nonzero((depth == 0) & (lines[:, :-2] + lines[:, 1:-1] + lines[:, 2:] >= 5))
    filled = []
    for row, column in zip(*gaps, strict=True):
        around = depth[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
        filled.append(around.sum() / np.count_nonzero(around))
    depth[gaps] = filled
    return depth
