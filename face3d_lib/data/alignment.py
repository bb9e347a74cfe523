"""Raw pairs -> aligned pairs: faces found in colour, then one warp for colour and depth.

`align_folder` writes the raw layout again, and alignment.csv with a row for every input. Its output depends
on the inputs and the settings alone; the number of processes, the order of the work, and how often it was killed make
no difference.
"""

import hashlib
import json
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from ..base.atomic import write_json, write_text
from ..base.errors import UserError
from ..base.paths import inside
from ..base.processes import cores, only_writer, run_tasks
from ..base.tables import write_table
from .alignment_table import ALIGNMENT_COLUMNS, check_alignment, require_limits
from .convention import DepthConvention, read_convention
from .crops import align_pair, remove_crops, write_crops
from .decoding import read_pairs
from .faces import BATCH_PIXELS, Faces, find_faces, load_detector
from .journal import Rows, chunks_of, file_hashes, journal_line, read_journal, read_table_chunks, still_holds
from .pairs import BadPair, PairFiles, RGBDPair, failure, find_pairs
from .warp import AlignSettings


@dataclass(frozen=True)
class Job:
    """The folders and settings that all chunks of one alignment share."""

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
    convention: DepthConvention | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Align all pairs below `input_dir` into `output_dir`; returns alignment.csv as text, a row for each input.

    Writes `<person>/<name>.png` and `.npy` (float32, larger = farther, 0 = no reading), dataset.json and
    alignment.csv. If it was killed and is started again, it resumes. Once it is finished (alignment.csv exists), it
    does nothing while the hashes of the input files stay the same; otherwise it aligns again only the chunks of pairs
    in which a file was added, altered or removed.

    `workers`: number of processes (None: one for each core, fewer for small folders; 1: this process). `convention`:
    the meaning of the depth numbers (None: as dataset.json in `input_dir` declares). Raises UserError where the output
    folder holds pairs of other settings or inputs, where another process writes there, where one of the folders lies in
    the other, or where the disk is full.
    """
    input_dir, output_dir = Path(input_dir), Path(output_dir)
    pairs = find_pairs(input_dir)
    if not pairs:
        raise UserError(f"{input_dir}: no pairs: it should hold <person>/<name>.png beside <person>/<name>.npy")
    job = Job(input_dir, output_dir, settings, convention or read_convention(input_dir), str(device))
    _require_fitting_folders(job)
    try:
        with only_writer(output_dir):
            return _align_pairs(pairs, job, workers, random_order, progress)
    except OSError as error:  # the disk is full or gone; a bad pair is a row and raises nothing
        fix = "mend that, then run the same command again"
        raise UserError(f"{output_dir}: cannot be written ({error.strerror or error}): {fix}") from error


def align_chunk(pairs: list[PairFiles], job: Job, detector: Any) -> Rows:
    """Align these pairs and write their crops; a row of text (ALIGNMENT_COLUMNS) for each, in their order."""
    rows: list[dict[str, Any]] = []
    held: list[tuple[RGBDPair, dict[str, Any]]] = []  # pairs that are read and wait for the detector

    def flush() -> None:
        found: list[Faces | None] = [None] * len(held)
        if detector is not None and held:
            found = [*find_faces([pair.rgb for pair, _ in held], detector, job.settings.min_face_size)]
        for (pair, row), faces in zip(held, found, strict=True):
            try:
                crops = align_pair(pair, faces, job.settings, row)
                require_limits(row)
            except Exception as error:  # one pair never stops the run
                row["status"], row["detail"] = failure(error)
                continue
            try:
                row |= write_crops(job.output_dir, pair.pair_id, *crops)
            except BadPair as error:  # a full disk raises no BadPair, so it stops the run
                row["status"], row["detail"] = failure(error)
        held.clear()

    for files, pair in read_pairs(pairs, job.convention):
        row = {name: getattr(files, name) for name in ("pair_id", "subject_id", "status", "detail")}
        for kind, path in (("rgb", files.rgb_path), ("depth", files.depth_path)):
            row[f"{kind}_path"] = path.relative_to(job.input_dir).as_posix() if path else ""
        rows.append(row)
        if pair is None:
            row |= file_hashes(files)
            continue
        row |= {"rgb_sha256": pair.rgb_sha256, "depth_sha256": pair.depth_sha256}
        row["depth_map_sha256"] = hashlib.sha256(pair.depth.data).hexdigest()
        if held and sum(other.depth.size for other, _ in held) + pair.depth.size > BATCH_PIXELS:
            flush()
        held.append((pair, row))
    flush()
    for row in rows:
        if row["status"] != "ok":
            remove_crops(job.output_dir, row["pair_id"])
    return [{name: str(row.get(name, "")) for name in ALIGNMENT_COLUMNS} for row in rows]


def _require_fitting_folders(job: Job) -> None:
    """Raise UserError where the output folder is not free for this job; nothing is written."""
    source, target, output_dir = job.input_dir.resolve(), job.output_dir.resolve(), job.output_dir
    if source.is_relative_to(target) or target.is_relative_to(source):
        raise UserError(f"{output_dir}: inside or around the input folder: choose one beside {job.input_dir}")
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


def _description(job: Job) -> dict[str, Any]:
    """The content of dataset.json of an aligned folder, by which such a folder is recognised."""
    return {
        "depth_unit": "pixel" if job.convention.unit == "pixel" else "mm",
        "larger_is": "farther",
        "source_depth": job.convention.described(),
        "aligned": asdict(job.settings),
        "settings_hash": job.settings.hash(),
    }


def _align_pairs(
    pairs: list[PairFiles], job: Job, workers: int | None, random_order: bool, progress: bool
) -> pd.DataFrame:
    """`align_folder`, once this process is the only writer of the output folder."""
    table, journal = job.output_dir / "alignment.csv", job.output_dir / "journal.jsonl"
    finished = table.exists()
    before = read_table_chunks(table) if finished else read_journal(journal)
    files = {pair.pair_id: pair for pair in pairs}
    done, waiting = [], []
    for names in chunks_of(list(files)):
        chunk, rows = [files[name] for name in names], before.get(names[0], [])
        if still_holds(rows, chunk, job.output_dir):
            done.append(rows)
        else:
            waiting.append(chunk)
    old = {row["pair_id"]: row["status"] for rows in before.values() for row in rows}
    if old and old.keys().isdisjoint(files):
        raise UserError(f"{job.output_dir}: holds pairs of another input: choose another folder or delete this one")
    if finished and not waiting and old.keys() <= files.keys():
        journal.unlink(missing_ok=True)
        return _table_of(done, files)

    _remove_gone(job.output_dir, [name for name, status in old.items() if status == "ok" and name not in files])
    write_json(job.output_dir / "dataset.json", _description(job))
    write_text(journal, "".join(map(journal_line, done)))
    table.unlink(missing_ok=True)
    if random_order:
        random.shuffle(waiting)
    with (
        open(journal, "a", encoding="utf-8") as lines,
        tqdm(desc="align", unit="pair", total=len(pairs), disable=not progress) as bar,
    ):
        bar.update(sum(map(len, done)))
        for rows in _run(waiting, job, workers):
            lines.write(journal_line(rows))
            lines.flush()
            os.fsync(lines.fileno())
            done.append(rows)
            bar.update(len(rows))
    frame = _table_of(done, files)
    os.sync()  # the crops are on the disk before the table that holds their hashes
    write_table(table, frame)
    journal.unlink()
    return frame


def _remove_gone(output_dir: Path, pair_ids: list[str]) -> None:
    """Delete the crops of inputs that no longer exist, and the folders of people that are empty afterwards."""
    for pair_id in pair_ids:
        inside(output_dir, pair_id, where="alignment.csv")  # an edited table cannot delete other files
        remove_crops(output_dir, pair_id)
        with suppress(OSError):  # the folder holds other pairs
            (output_dir / pair_id).parent.rmdir()


def _table_of(done: list[Rows], files: dict[str, PairFiles]) -> pd.DataFrame:
    """The rows of all chunks as one checked table in the order of the inputs, each input in exactly one row."""
    rows = sorted((row for rows in done for row in rows), key=lambda row: row["pair_id"])
    frame = check_alignment(pd.DataFrame(rows, columns=ALIGNMENT_COLUMNS, dtype=str))
    if list(frame["pair_id"]) != list(files) or frame["status"].value_counts().sum() != len(files):
        raise AssertionError(f"{len(frame)} rows for {len(files)} inputs")
    return frame


def _run(chunks: list[list[PairFiles]], job: Job, workers: int | None) -> Iterator[Rows]:
    """Yield the rows of each chunk as it is done, in any order."""
    if workers is None:  # each further process takes seconds to import torch
        workers = min(cores(), sum(map(len, chunks)) // 400)
    try:
        yield from run_tasks(partial(_aligner, job), chunks, workers)
    except UserError as error:
        raise UserError(f"{job.output_dir}: {error}") from None


@contextmanager
def _aligner(job: Job) -> Iterator[Callable[[list[PairFiles]], Rows]]:
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
