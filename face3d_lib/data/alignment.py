"""Raw pairs -> aligned pairs: faces found in colour, then one warp for colour and depth.

`align_folder` writes the raw layout again plus alignment.csv with a row for every input. The folder is a
function of the inputs and the settings alone: not of the number of processes, the order, or how often the run
was killed.
"""

import errno
import hashlib
import io
import json
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from tqdm.auto import tqdm

from ..base.atomic import sha256_of, write_json, write_text
from ..base.errors import UserError
from ..base.paths import inside
from ..base.processes import cores, only_writer, run_tasks
from ..base.tables import POINTS, read_table, write_table
from .alignment_table import ALIGNMENT_COLUMNS, MATRIX, check_alignment
from .decoding import read_pair
from .depth_check import depth_marks
from .faces import BATCH_PIXELS, Faces, choose_face, find_faces, load_detector
from .pairs import BadPair, DepthConvention, PairFiles, RGBDPair, find_pairs, read_convention
from .warp import MM_PER_TEMPLATE_PX, AlignSettings, nearest, source_of, template_transform, warp_matrix, warp_pair

UNALIGNED_WIDTH_MM = 250.0  # what a portrait photo shows from side to side; mode "none" knows no points
CHUNK = 32  # most pairs in one line of the journal
CROPS = (("rgb", ".png"), ("depth", ".npy"))  # the files of an aligned pair
MIN_CROP_READINGS = 0.02  # share of crop pixels with a depth below which the face counts as not measured


def align_pair(pair: RGBDPair, found: Faces | None, settings: AlignSettings, row: dict) -> tuple:
    """Crops (S, S, 3) uint8 and (S, S) float32 of a pair; what is learnt on the way is written into `row`.

    depth_per_px is how many units of depth one crop pixel is wide: for "mm", EYES_MM over the distance
    between the eyes that the template gives a face of this size (mode "none": UNALIGNED_WIDTH_MM over the
    crop); depth in "pixel" is rescaled to crop pixels, so 1. Raises BadPair: no_face, internal_error,
    bad_depth.
    """
    row |= {"height": pair.rgb.shape[0], "width": pair.rgb.shape[1]}
    face = None
    if settings.mode != "none":
        if found.error:
            raise BadPair("internal_error", found.error)
        row |= {"n_faces": len(found.faces), "found_at": found.found_at}
        if not found.faces:
            raise BadPair("no_face", f"no face of {settings.min_face_size} px or more was found")
        chosen, row["choice"] = choose_face(found.faces, pair.rgb.shape)
        face = found.faces[chosen]
        row["probability"] = face.probability
        row |= dict(zip(("box_left", "box_top", "box_right", "box_bottom"), face.box.tolist(), strict=True))
        row |= dict(zip(POINTS, face.points.ravel().tolist(), strict=True))
    matrix = warp_matrix(settings, pair.rgb.shape, face)
    row |= dict(zip(MATRIX, matrix.ravel().tolist(), strict=True))
    rgb, depth = warp_pair(pair.rgb, pair.depth, matrix, settings.image_size)
    valid = float((depth > 0).mean())
    row["valid_depth"] = round(valid, 6)
    if valid < MIN_CROP_READINGS:
        raise BadPair("bad_depth", f"{valid:.1%} of the crop's pixels hold a depth: record it again")
    scale = float(np.sqrt(np.linalg.det(matrix[:, :2])))  # crop px per source px
    if face is None:
        depth_per_px = UNALIGNED_WIDTH_MM / settings.image_size
    else:
        plain = settings.mode == "template" and settings.image_size == 112
        template = matrix if plain else template_transform(face.points)
        template_scale = float(np.sqrt(np.linalg.det(template[:, :2])))
        depth_per_px = MM_PER_TEMPLATE_PX * template_scale / scale
        upright = depth if plain else nearest(pair.depth, *source_of(template, 112))[0]
        per_px = 1 / template_scale if pair.depth_unit == "pixel" else MM_PER_TEMPLATE_PX
        row |= depth_marks(upright, face.points @ template[:, :2].T + template[:, 2], per_px)
    if pair.depth_unit == "pixel":
        depth, depth_per_px = depth * np.float32(scale), 1.0
    row["depth_per_px"] = round(depth_per_px, 9)
    return rgb, depth


@dataclass(frozen=True)
class Job:
    """What every chunk of one run has in common."""

    input_dir: Path
    output_dir: Path
    settings: AlignSettings
    convention: DepthConvention
    device: str = "cpu"


def align_folder(
    input_dir: Path,
    output_dir: Path,
    settings: AlignSettings,
    workers: int | None = None,
    device: str = "cpu",
    random_order: bool = False,
    depth_unit: str | None = None,
    larger_is: str | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Align all pairs below `input_dir` into `output_dir`; returns alignment.csv as text, a row for each.

    Writes `<subject>/<name>.png` and `.npy` (float32, larger = farther, 0 = no reading), dataset.json,
    alignment.csv. Killed and started again it goes on; finished, it does nothing while the input files'
    hashes stay the same, and does anew only the chunks of pairs where something was added, altered or
    removed. While alignment.csv is there, the folder is finished. `workers`: processes (None: one per core,
    fewer for small folders; 1: this process). Raises UserError for other settings than the folder's, a second
    writer, or folders inside one another.
    """
    pairs = find_pairs(input_dir)
    if not pairs:
        raise UserError(f"{input_dir}: no pairs: it should hold <person>/<name>.png beside <person>/<name>.npy")
    convention = read_convention(input_dir, depth_unit, larger_is)
    job = _open_job(Path(input_dir), Path(output_dir), settings, convention, device)
    try:
        with only_writer(job.output_dir):
            return _align_pairs(pairs, job, workers, random_order, progress)
    except OSError as error:  # the disk is full or gone; what a pair itself does wrong is a row
        fix = "mend that, then run the same command again"
        raise UserError(f"{output_dir}: cannot be written ({error.strerror or error}): {fix}") from error


def chunks_of(names: list[str]) -> list[list[str]]:
    """Sorted pair_ids in pieces that are aligned together: MTCNN's points differ by 3e-5 px with its batch.

    A piece ends where a hash of the pair_id says so, and after CHUNK pairs: so a pair that comes or goes
    alters the pieces near it and no others.
    """
    chunks: list[list[str]] = []
    for name in names:
        begins = hashlib.sha256(name.encode()).digest()[0] < 2 * 256 // CHUNK
        if begins or not chunks or len(chunks[-1]) == CHUNK:
            chunks.append([])
        chunks[-1].append(name)
    return chunks


def align_chunk(pairs: list[PairFiles], job: Job, detector) -> list[dict]:
    """Align these pairs and write their crops; a row of text (ALIGNMENT_COLUMNS) for each, in their order."""
    rows, held = [], []

    def flush():
        found = [None] * len(held)
        if detector is not None and held:
            found = find_faces([pair.rgb for pair, _ in held], detector, job.settings.min_face_size)
        for (pair, row), faces in zip(held, found, strict=True):
            crops = _or_status(row, align_pair, pair, faces, job.settings, row)
            if crops is not None:
                row |= _write_crops(job.output_dir, pair.pair_id, *crops)
        held.clear()

    for files in pairs:
        row = {"pair_id": files.pair_id, "subject_id": files.subject_id, "status": "ok"}
        for kind, path in (("rgb", files.rgb_path), ("depth", files.depth_path)):
            row[f"{kind}_path"] = path.relative_to(job.input_dir).as_posix() if path else ""
        rows.append(row)
        pair = _or_status(row, read_pair, files, job.convention)
        if pair is None:
            row |= _hashes(files)
            continue
        row |= {"rgb_sha256": pair.rgb_sha256, "depth_sha256": pair.depth_sha256}
        if held and sum(p.depth.size for p, _ in held) + pair.depth.size > BATCH_PIXELS:
            flush()
        held.append((pair, row))
    flush()
    for row in rows:
        if row["status"] != "ok":
            _remove_crops(job.output_dir, row["pair_id"])
    return [{name: str(row.get(name, "")) for name in ALIGNMENT_COLUMNS} for row in rows]


def _or_status(row: dict, function, *arguments):
    """`function(*arguments)`; None where it fails, and why in `row`: one pair never ends the run."""
    try:
        return function(*arguments)
    except BadPair as error:
        row |= {"status": error.status, "detail": " ".join(str(error).split())}
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        row |= {"status": "internal_error", "detail": text}
    return None


def _write_crops(folder: Path, pair_id: str, rgb: np.ndarray, depth: np.ndarray) -> dict:
    """Write both crops, each whole or not at all, and return their hashes.

    Without fsync, which takes longer than finding the face: a folder is taken up again only where the hashes
    agree, and one sync of the disk stands before alignment.csv.
    """
    picture, numbers = io.BytesIO(), io.BytesIO()
    Image.fromarray(rgb).save(picture, "PNG", compress_level=1)
    np.save(numbers, depth, allow_pickle=False)
    hashes = {}
    for (kind, suffix), data in zip(CROPS, (picture.getvalue(), numbers.getvalue()), strict=True):
        path = folder / f"{pair_id}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        sibling = path.with_name(f".new-{os.getpid()}")
        sibling.write_bytes(data)
        os.replace(sibling, path)
        hashes[f"aligned_{kind}_sha256"] = hashlib.sha256(data).hexdigest()
    return hashes


def _remove_crops(folder: Path, pair_id: str) -> None:
    """Take away the crops of an input that is no more, or that can no longer be aligned."""
    for _, suffix in CROPS:
        try:
            (folder / f"{pair_id}{suffix}").unlink(missing_ok=True)
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:  # an escaped name can be too long for a file, so there is none
                raise


def _hashes(files: PairFiles) -> dict:
    """rgb_sha256 and depth_sha256 of the input files, "" where there is none that can be read."""
    hashes = {}
    for kind, path in (("rgb", files.rgb_path), ("depth", files.depth_path)):
        try:
            hashes[f"{kind}_sha256"] = sha256_of(path) if path else ""
        except OSError:
            hashes[f"{kind}_sha256"] = ""
    return hashes


def _open_job(
    input_dir: Path, output_dir: Path, settings: AlignSettings, convention: DepthConvention, device: str
) -> Job:
    """Check the two folders and the settings against what lies in the output folder; nothing is written."""
    job = Job(input_dir, output_dir, settings, convention, str(device))
    source, target = input_dir.resolve(), output_dir.resolve()
    if source.is_relative_to(target) or target.is_relative_to(source):
        raise UserError(f"{output_dir}: inside or around the input folder: choose one beside {input_dir}")
    if output_dir.exists() and not output_dir.is_dir():
        raise UserError(f"{output_dir}: is a file: choose a folder for the aligned pairs")
    written = output_dir / "dataset.json"
    if written.exists():
        try:
            before = json.loads(written.read_text(encoding="utf-8"))
        except ValueError:
            before = None
        if before != _description(job):
            raise UserError(f"{output_dir}: holds pairs of other settings: choose another folder or delete this one")
    elif output_dir.is_dir() and any(path.is_dir() for path in output_dir.glob("[!.]*")):
        raise UserError(f"{output_dir}: holds other folders: choose an empty folder for the aligned pairs")
    return job


def _description(job: Job) -> dict:
    """dataset.json of an aligned folder; also the mark by which it is known."""
    return {
        "depth_unit": "pixel" if job.convention.unit == "pixel" else "mm",
        "larger_is": "farther",
        "source_depth": asdict(job.convention),
        "aligned": asdict(job.settings),
        "settings_hash": job.settings.hash(),
    }


def _align_pairs(
    pairs: list[PairFiles], job: Job, workers: int | None, random_order: bool, progress: bool
) -> pd.DataFrame:
    table, journal = job.output_dir / "alignment.csv", job.output_dir / "journal.jsonl"
    finished = table.exists()
    before = _chunks_of_table(table) if finished else _read_journal(journal)
    files = {pair.pair_id: pair for pair in pairs}
    chunks = chunks_of(list(files))
    done, waiting = [], []
    for names in chunks:
        rows = before.get(names[0], [])
        same = names == [row["pair_id"] for row in rows] and all(row.keys() >= set(ALIGNMENT_COLUMNS) for row in rows)
        if same and all(_unchanged(files[row["pair_id"]], row, job.output_dir) for row in rows):
            done.append(rows)
        else:
            waiting.append([files[name] for name in names])
    old = {row["pair_id"] for rows in before.values() for row in rows}
    if old and old.isdisjoint(files):
        raise UserError(f"{job.output_dir}: holds pairs of another input: choose another folder or delete this one")
    if finished and not waiting and old <= set(files):
        journal.unlink(missing_ok=True)
        return _table_of(done, files)

    for pair_id in old - set(files):
        inside(job.output_dir, pair_id, where=table.name)  # a table that somebody wrote deletes nothing else
        _remove_crops(job.output_dir, pair_id)
        with suppress(OSError):  # other pairs are there
            (job.output_dir / pair_id).parent.rmdir()
    write_json(job.output_dir / "dataset.json", _description(job))
    write_text(journal, "".join(map(_journal_line, done)))
    table.unlink(missing_ok=True)
    if random_order:
        random.shuffle(waiting)
    with (
        open(journal, "a", encoding="utf-8") as lines,
        tqdm(desc="align", unit="pair", total=len(pairs), disable=not progress) as bar,
    ):
        bar.update(sum(map(len, done)))
        for rows in _run(waiting, job, workers):
            lines.write(_journal_line(rows))
            lines.flush()
            os.fsync(lines.fileno())
            done.append(rows)
            bar.update(len(rows))
    frame = _table_of(done, files)
    os.sync()  # the crops reach the disk before the table that vouches for them
    write_table(table, frame)
    journal.unlink()
    return frame


def _table_of(done: list[list[dict]], files: dict[str, PairFiles]) -> pd.DataFrame:
    """The rows of all chunks as one checked table in the order of the inputs, each in exactly one row."""
    rows = sorted((row for rows in done for row in rows), key=lambda row: row["pair_id"])
    frame = check_alignment(pd.DataFrame(rows, columns=ALIGNMENT_COLUMNS, dtype=str))
    if list(frame["pair_id"]) != list(files) or frame["status"].value_counts().sum() != len(files):
        raise AssertionError(f"{len(frame)} rows for {len(files)} inputs")
    return frame


def _chunks_of_table(path: Path) -> dict[str, list[dict]]:
    """first pair_id -> rows, for each chunk of a finished folder."""
    rows = {row["pair_id"]: row for row in read_table(path, ["pair_id"]).to_dict("records")}
    return {names[0]: [rows[name] for name in names] for names in chunks_of(list(rows))}


def _read_journal(path: Path) -> dict[str, list[dict]]:
    """first pair_id -> rows, for each whole line; a line that a kill tore is done again."""
    chunks = {}
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else []:
        text, _, digest = line.partition(b"\t")
        if digest != hashlib.sha256(text).hexdigest()[:16].encode() + b"\n":
            break
        rows = json.loads(text)
        chunks[rows[0]["pair_id"]] = rows
    return chunks


def _journal_line(rows: list[dict]) -> str:
    text = json.dumps(rows)
    return f"{text}\t{hashlib.sha256(text.encode()).hexdigest()[:16]}\n"


def _unchanged(pair: PairFiles, row: dict, output_dir: Path) -> bool:
    """Whether `row` still holds: the input's files have the same bytes and its crops are whole."""
    if any(row[name] != value for name, value in _hashes(pair).items()):
        return False
    if row["status"] != "ok":  # what went wrong by accident is tried again
        return row["status"] != "internal_error" and (pair.status in ("ok", row["status"]))
    for kind, suffix in CROPS:
        path = output_dir / f"{pair.pair_id}{suffix}"
        if not path.is_file() or sha256_of(path) != row[f"aligned_{kind}_sha256"]:
            return False
    return pair.status == "ok"


def _run(chunks: list[list[PairFiles]], job: Job, workers: int | None) -> Iterator[list[dict]]:
    """Rows of each chunk as it is done, in whatever order."""
    if workers is None:  # a process of its own takes seconds to import torch
        workers = min(cores(), sum(map(len, chunks)) // 400)
    try:
        yield from run_tasks(partial(_aligner, job), chunks, workers)
    except UserError as error:
        raise UserError(f"{job.output_dir}: {error}") from None


@contextmanager
def _aligner(job: Job) -> Iterator[Callable[[list[PairFiles]], list[dict]]]:
    """`align_chunk` for this process, with torch on one thread: the same results for any number of processes."""
    if job.settings.mode == "none":
        yield partial(align_chunk, job=job, detector=None)
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield partial(align_chunk, job=job, detector=load_detector(job.device))
    finally:
        torch.set_num_threads(before)
