"""Aligned pairs as memory-mapped arrays, so that a batch is read by the row numbers of its pairs.

The folder of a pack holds rgb.npy (N, H, W, 3) uint8, depth.npy (N, H, W) uint16 codes, index.csv (a row for each
pair) and pack.json, which is written last: without it the pack is not complete. Code 0 means no reading. Any other
code c means the depth `near + (c - 1) * step` in the unit of the aligned depth, with the `near` and `step` of the
pair. A pair's range is spread over the codes 1 to 65535, with a step of at most 0.1 unit. Readings that lie more
than 65534 such steps behind the nearest one get the farthest code and are counted as saturated.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from ..base.atomic import replacing, require_space, sha256_of, write_json
from ..base.errors import UserError
from ..base.paths import inside
from ..base.tables import read_table, write_table

if TYPE_CHECKING:  # pandas takes half a second to import, and `face3d identify` needs no index
    import pandas as pd

CODES = 65534  # steps between the nearest and the farthest code
MAX_STEP = 0.1  # units
COLUMNS = ["pair_id", "subject_id", "near", "step", "depth_per_px", "saturated"]
Crop = tuple[str, str, np.ndarray, np.ndarray, float]  # pair_id, subject_id, rgb, depth, depth_per_px
Stored = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # colour (B, H, W, 3), codes (B, H, W), scales (B, 3)


@dataclass(frozen=True)
class Batch:
    """Pairs as tensors on one device."""

    rgb: torch.Tensor  # (B, 3, H, W) uint8
    depth: torch.Tensor  # (B, 1, H, W) float32, canonical: larger = farther, 0 = no reading
    depth_per_px: torch.Tensor  # (B,) float32, depth units per crop pixel

    def __len__(self) -> int:
        return len(self.rgb)

    def mirrored(self) -> Batch:
        """The same faces, mirrored left to right."""
        return replace(self, rgb=self.rgb.flip(3), depth=self.depth.flip(3))


def make_batch(rgb: np.ndarray, depth: np.ndarray, depth_per_px: float, device: str = "cpu") -> Batch:
    """A Batch of one aligned pair: rgb is (H, W, 3) uint8, depth (H, W) float32 canonical."""
    return Batch(
        torch.from_numpy(rgb.copy()).permute(2, 0, 1)[None].to(device),
        torch.from_numpy(depth.astype(np.float32))[None, None].to(device),
        torch.tensor([depth_per_px], dtype=torch.float32, device=device),
    )


@dataclass(frozen=True)
class Pack:
    """An opened pack. Its arrays are memory maps, or tensors on a device after `resident`."""

    folder: Path
    info: dict  # pack.json
    index: pd.DataFrame  # COLUMNS, one row per pair in the order of the arrays
    rgb: np.ndarray | torch.Tensor  # (N, H, W, 3) uint8
    depth: np.ndarray | torch.Tensor  # (N, H, W) int16, to be read as uint16 codes
    scales: np.ndarray  # (N, 3) float32: near, step, depth_per_px

    def __len__(self) -> int:
        return len(self.index)

    @classmethod
    def open(cls, folder: Path) -> Pack:
        """The pack in `folder`. Raises UserError where it is missing, incomplete or changed (sizes, index).

        `check_hashes` hashes the large files, which takes minutes for 25 GB; this method does not.
        """
        folder = Path(folder)
        try:
            info = json.loads((folder / "pack.json").read_text(encoding="utf-8"))
            rgb, codes = (np.load(folder / name, "r", allow_pickle=False) for name in ("rgb.npy", "depth.npy"))
            n, side = info["pairs"], tuple(info["size"])
            sound = rgb.shape == (n, *side, 3) and rgb.dtype == np.uint8
            sound &= codes.shape == (n, *side) and codes.dtype == np.uint16
            sound &= sha256_of(folder / "index.csv") == info["sha256"]["index.csv"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{folder}: not a complete pack ({error}): run 21_pack_dataset again") from None
        if not sound:
            raise UserError(f"{folder}: the pack was changed after it was made: run 21_pack_dataset again")
        index = read_table(folder / "index.csv", COLUMNS)
        index = index.astype({"near": float, "step": float, "depth_per_px": float, "saturated": int})
        scales = index[["near", "step", "depth_per_px"]].to_numpy(np.float32)
        return cls(folder, info, index, rgb, codes.view(np.int16), scales)

    def check_hashes(self) -> None:
        """Raise UserError unless every file's SHA-256 is the one in pack.json."""
        for name, expected in self.info["sha256"].items():
            if sha256_of(self.folder / name) != expected:
                raise UserError(f"{self.folder / name}: changed after it was made: run 21_pack_dataset again")

    def rows(self, pair_ids: Iterable[str]) -> np.ndarray:
        """The row numbers of `pair_ids`, (n,) int64 in their order. Raises UserError where one is not in the pack."""
        pair_ids = list(pair_ids)
        import pandas as pd

        rows = pd.Index(self.index["pair_id"]).get_indexer(pair_ids)
        if (missing := rows < 0).any():
            first = pair_ids[int(missing.argmax())]
            raise UserError(f"{self.folder}: {missing.sum()} pairs are not in it, as {first!r}: pack again")
        return rows

    def resident(self, device: torch.device | str) -> Pack:
        """This pack with its arrays on the GPU `device` if they fill less than half of its free memory, else itself."""
        device, n_bytes = torch.device(device), self.rgb.nbytes + self.depth.nbytes
        if device.type != "cuda" or n_bytes > torch.cuda.mem_get_info(device)[0] / 2:
            return self
        rgb, depth = (torch.from_numpy(np.array(array)).to(device) for array in (self.rgb, self.depth))
        return replace(self, rgb=rgb, depth=depth)

    def batch(self, rows: Sequence[int] | np.ndarray, device: torch.device | str = "cpu") -> Batch:
        """The pairs with these row numbers on `device`, decoded there."""
        return decode(self.read(rows), device)

    def read(self, rows: Sequence[int] | np.ndarray, pinned: bool = False) -> Stored:
        """The pairs with these row numbers as they are stored, on the device where the pack lies.

        pinned: the tensors are copies in page-locked memory, from which a GPU fetches them while it computes.
        """
        rows = np.asarray(rows)
        rgb, codes, scales = _take(self.rgb, rows), _take(self.depth, rows), torch.from_numpy(self.scales[rows])
        if pinned and rgb.device.type == "cpu":
            return rgb.pin_memory(), codes.pin_memory(), scales.pin_memory()
        return rgb, codes, scales.pin_memory() if pinned else scales


def join(packs: Sequence[Pack]) -> Pack:
    """One pack with the pairs of all `packs`, in memory; its folder is that of the first.

    UserError where they were aligned with other settings or have depth in other units.
    """
    first = packs[0]
    for pack in packs:
        for key in ("settings_hash", "depth_unit"):
            if pack.info["source"][key] != first.info["source"][key]:
                raise UserError(f"{pack.folder}: {key} differs from that of {first.folder}: align both in the same way")
    import pandas as pd

    hashes = {f"{i}/{name}": sha for i, pack in enumerate(packs) for name, sha in pack.info["sha256"].items()}
    return Pack(
        first.folder,
        {**first.info, "pairs": sum(map(len, packs)), "sha256": hashes},
        pd.concat([pack.index for pack in packs], ignore_index=True),
        np.concatenate([pack.rgb for pack in packs]),
        np.concatenate([pack.depth for pack in packs]),
        np.concatenate([pack.scales for pack in packs]),
    )


def _take(array: np.ndarray | torch.Tensor, rows: np.ndarray) -> torch.Tensor:
    if isinstance(array, torch.Tensor):
        return array[torch.from_numpy(rows).to(array.device, non_blocking=True)]
    return torch.from_numpy(array[rows])


def decode(stored: Stored, device: torch.device | str) -> Batch:
    """Decode the result of `Pack.read` to a batch on `device`."""
    rgb, codes, scales = (x.to(device, non_blocking=True) for x in stored)
    near, step = scales[:, 0, None, None], scales[:, 1, None, None]
    codes = codes.to(torch.int32) & 0xFFFF
    depth = torch.where(codes > 0, near + (codes - 1) * step, 0)
    return Batch(rgb.permute(0, 3, 1, 2), depth[:, None], scales[:, 2])


def encode_codes(depth: np.ndarray) -> tuple[np.ndarray, float, float, int]:
    """(codes, near, step, number of saturated readings) of one canonical depth (H, W) float32.

    The codes are (H, W) uint16; the top of this file says what they mean.
    """
    reading = depth > 0
    near, far = (float(depth[reading].min()), float(depth[reading].max())) if reading.any() else (0.0, 0.0)
    step = min(MAX_STEP, (far - near) / CODES) or MAX_STEP
    steps = np.rint((depth.astype(np.float64) - near) / step)
    codes = np.where(reading, np.minimum(steps, CODES) + 1, 0).astype(np.uint16)
    return codes, near, step, int((reading & (steps > CODES)).sum())


def find_pack(folder: Path, source: dict) -> Pack | None:
    """The pack of `folder` if it is complete and was made from `source`; None if it has to be made."""
    try:
        pack = Pack.open(folder)
    except UserError:
        return None
    return pack if pack.info["source"] == source else None


def make_pack(aligned_dir: Path, out_dir: Path, progress: bool = True) -> Pack:
    """The pack of all pairs whose status in alignment.csv is ok, in its order; it is made in `out_dir` if needed.

    A complete pack of the same alignment is returned as it is, and a pack of another alignment is replaced. Raises
    UserError, which names the file, for a crop that is missing, unreadable or changed, or that differs in size from the
    first; crops are made by the alignment, which repairs them when it runs again. Missing crops are noticed before
    anything is read. Raises UserError for a disk without room, too. A run that is killed leaves no pack.json.
    """
    aligned_dir, out_dir = Path(aligned_dir), Path(out_dir)
    table, source = _read_alignment(aligned_dir)
    _require_crops(aligned_dir, table["pair_id"])
    if pack := find_pack(out_dir, source):
        return pack
    first = read_aligned(aligned_dir, table["pair_id"].iloc[0])[1].shape

    def crops() -> Iterator[Crop]:
        for row in tqdm(table.itertuples(), "pack", len(table), disable=not progress, unit="pair"):
            hashes = (row.aligned_rgb_sha256, row.aligned_depth_sha256)
            rgb, depth = read_aligned(aligned_dir, row.pair_id, hashes)
            if depth.shape != first:
                where = aligned_dir / row.pair_id
                raise UserError(f"{where}: {depth.shape}, the pairs before are {first}: align again")
            yield row.pair_id, row.subject_id, rgb, depth, float(row.depth_per_px)

    return write_pack(out_dir, source, first, len(table), crops())


def write_pack(out_dir: Path, source: dict, size: tuple[int, int], count: int, crops: Iterable[Crop]) -> Pack:
    """The pack of `count` aligned pairs, written into `out_dir` in their order.

    source: entries of pack.json that identify the alignment: settings_hash, alignment (the settings), depth_unit, and
    what tells this pack from others. size: (H, W) of every crop. Raises UserError for a disk without room. A run that
    is killed leaves no pack.json.
    """
    (out_dir / "pack.json").unlink(missing_ok=True)  # from here on the folder is not a pack
    require_space(_existing(out_dir), 5 * count * size[0] * size[1] + (1 << 20))
    rows = []
    with (
        replacing(out_dir / "rgb.npy") as rgb_path,
        replacing(out_dir / "depth.npy") as depth_path,
        _Npy(rgb_path, (count, *size, 3), np.uint8) as rgb_file,
        _Npy(depth_path, (count, *size), np.uint16) as depth_file,
    ):
        for pair_id, subject_id, rgb, depth, depth_per_px in crops:
            codes, near, step, saturated = encode_codes(depth)
            rgb_file.write(rgb)
            depth_file.write(codes)
            rows.append([pair_id, subject_id, near, step, depth_per_px, saturated])
    import pandas as pd

    index = pd.DataFrame(rows, columns=COLUMNS)
    write_table(out_dir / "index.csv", index)
    sha256 = {"rgb.npy": rgb_file.hash.hexdigest(), "depth.npy": depth_file.hash.hexdigest()}
    sha256["index.csv"] = sha256_of(out_dir / "index.csv")
    counts = {"pairs": len(index), "subjects": index["subject_id"].nunique(), "size": list(size)}
    counts["saturated_readings"] = int(index["saturated"].sum())
    write_json(out_dir / "pack.json", {**counts, "source": source, "sha256": sha256})
    return Pack.open(out_dir)


def _require_crops(aligned_dir: Path, pair_ids: Iterable[str]) -> None:
    """Raise UserError where a crop is missing, before minutes are spent on reading the others."""
    for pair_id in pair_ids:
        for suffix in (".png", ".npy"):
            if not inside(aligned_dir, f"{pair_id}{suffix}").is_file():
                raise UserError(f"{aligned_dir / pair_id}{suffix}: is not there: align again")


def verify(pack: Pack, aligned_dir: Path, progress: bool = True) -> dict[str, float]:
    """Compare every pair of the pack with its aligned files.

    Returns the counts `pairs`, `colour_differs`, `holes_differ`, `depth_differs` (by more than half a step; saturated
    readings are left out) and `saturated_readings`, and `worst_error` in the unit of depth.
    """
    found: dict[str, int] = dict.fromkeys(["colour_differs", "holes_differ", "depth_differs", "saturated_readings"], 0)
    worst = 0.0
    for i, row in enumerate(tqdm(pack.index.itertuples(), "verify", len(pack), disable=not progress, unit="pair")):
        rgb, depth = read_aligned(Path(aligned_dir), row.pair_id)
        batch = pack.batch([i])
        packed = batch.depth[0, 0].numpy()
        kept = (depth > 0) & (depth <= row.near + CODES * row.step)
        error = np.abs(packed.astype(np.float64) - depth)[kept].max(initial=0)
        found["colour_differs"] += not np.array_equal(batch.rgb[0].permute(1, 2, 0).numpy(), rgb)
        found["holes_differ"] += not np.array_equal(packed == 0, depth == 0)
        found["depth_differs"] += bool(error > row.step / 2 + 1e-6 * depth.max())  # and the rounding of float32
        found["saturated_readings"] += int(((depth > 0) & ~kept).sum())
        worst = max(worst, float(error))
    return {"pairs": len(pack), **found, "worst_error": worst}


def read_aligned(aligned_dir: Path, pair_id: str, sha256: tuple | None = None) -> tuple[np.ndarray, np.ndarray]:
    """rgb (H, W, 3) uint8 and canonical depth (H, W) float32 of one aligned pair.

    `sha256`: the hashes of the colour file and of the depth file in alignment.csv. Raises UserError, which names the
    file, if one is missing, unreadable or not a crop of the alignment, or if its hash differs.
    """
    paths = [inside(aligned_dir, f"{pair_id}{suffix}") for suffix in (".png", ".npy")]
    try:
        for path, expected in zip(paths, sha256 or (None, None), strict=True):
            if expected is not None and sha256_of(path) != expected:
                raise UserError(f"{path}: changed since it was aligned: align again")
        path = paths[0]
        with Image.open(path, formats=["PNG"]) as image:
            rgb = np.asarray(image)
        path = paths[1]
        depth = np.load(path, allow_pickle=False)
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"{path}: {error}: align again") from None
    if rgb.dtype != np.uint8 or rgb.shape != (*depth.shape, 3):
        raise UserError(f"{path}: colour {rgb.shape} and depth {depth.shape} do not match: align again")
    if depth.dtype != np.float32 or not (np.isfinite(depth).all() and (depth >= 0).all()):
        raise UserError(f"{path}: aligned depth must be float32, finite and not negative: align again")
    return rgb, depth


def _read_alignment(aligned_dir: Path) -> tuple[pd.DataFrame, dict]:
    """The rows of alignment.csv with status ok, as text, and the entries that identify this alignment."""
    path = aligned_dir / "alignment.csv"
    needed = ["pair_id", "subject_id", "status", "depth_per_px", "aligned_rgb_sha256", "aligned_depth_sha256"]
    table = read_table(path, needed)
    table = table[table["status"] == "ok"]
    if table.empty:
        raise UserError(f"{path}: no row has status ok: there is nothing to pack")
    try:
        dataset = json.loads((aligned_dir / "dataset.json").read_text(encoding="utf-8"))
        facts = {"settings_hash": dataset["settings_hash"], "alignment": dataset["aligned"]}
        facts["depth_unit"] = dataset["depth_unit"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{aligned_dir}/dataset.json: not of an aligned folder ({error}): align again") from None
    return table, {"alignment_sha256": sha256_of(path), **facts}


def _existing(folder: Path) -> Path:
    return folder if folder.exists() else _existing(folder.parent)


class _Npy:
    """An .npy file that is written row by row and hashed while it is written.

    A full disk raises an OSError here; a process that writes into a memory map would be killed.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: type) -> None:
        self.hash = hashlib.sha256()
        self.file = open(path, "wb")  # noqa: SIM115 (closed by __exit__)
        header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self, header)

    def write(self, data: np.ndarray | bytes) -> None:
        data = np.ascontiguousarray(data).tobytes() if isinstance(data, np.ndarray) else data
        self.hash.update(data)
        self.file.write(data)

    def __enter__(self) -> _Npy:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
