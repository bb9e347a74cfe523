"""journal.jsonl, from which a killed alignment resumes: it lists the chunks that are done.

Pairs are aligned in chunks, and a line is added to the journal when a chunk is done: its rows as JSON, a tab, and
16 digits of the SHA-256 of the JSON. A line that was cut by a kill does not match its digits, and its chunk is done
again. A finished folder has no journal; its alignment.csv holds the same rows.
"""

import hashlib
import json
from pathlib import Path

from ..base.atomic import sha256_of
from ..base.tables import read_table
from .alignment_table import ALIGNMENT_COLUMNS
from .crops import crops_are_whole
from .pairs import PairFiles

CHUNK = 32  # largest number of pairs in one chunk
Rows = list[dict[str, str]]  # rows of alignment.csv


def chunks_of(names: list[str]) -> list[list[str]]:
    """Sorted pair_ids in chunks that are aligned together, because MTCNN's points differ by 3e-5 px with its batch.

    A chunk ends after CHUNK pairs, or earlier where a hash of the next pair_id decides so. A pair that is added or
    removed therefore changes the chunks near it and no others.
    """
    chunks: list[list[str]] = []
    for name in names:
        begins = hashlib.sha256(name.encode()).digest()[0] < 2 * 256 // CHUNK
        if begins or not chunks or len(chunks[-1]) == CHUNK:
            chunks.append([])
        chunks[-1].append(name)
    return chunks


def read_table_chunks(path: Path) -> dict[str, Rows]:
    """The rows of a finished folder's alignment.csv: first pair_id of each chunk -> the rows of the chunk."""
    rows = {row["pair_id"]: row for row in read_table(path, ["pair_id", "status"]).to_dict("records")}
    return {names[0]: [rows[name] for name in names] for names in chunks_of(list(rows))}


def read_journal(path: Path) -> dict[str, Rows]:
    """The rows of all whole lines of a journal, as of `read_table_chunks`; {} where there is no journal."""
    chunks: dict[str, Rows] = {}
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else []:
        text, _, digest = line.partition(b"\t")
        if digest != _digest(text) + b"\n":
            break
        rows = json.loads(text)
        chunks[rows[0]["pair_id"]] = rows
    return chunks


def journal_line(rows: Rows) -> str:
    """The line of the journal that holds the rows of one chunk."""
    text = json.dumps(rows)
    return f"{text}\t{_digest(text.encode()).decode()}\n"


def _digest(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest()[:16].encode()


def still_holds(rows: Rows, pairs: list[PairFiles], output_dir: Path) -> bool:
    """Whether the rows of a chunk belong to `pairs`, the inputs have the same bytes, and the crops are whole."""
    if [pair.pair_id for pair in pairs] != [row["pair_id"] for row in rows]:
        return False
    if not all(row.keys() >= set(ALIGNMENT_COLUMNS) for row in rows):  # written by an earlier version
        return False
    return all(_unchanged(pair, row, output_dir) for pair, row in zip(pairs, rows, strict=True))


def _unchanged(pair: PairFiles, row: dict[str, str], output_dir: Path) -> bool:
    if any(row[name] != value for name, value in file_hashes(pair).items()):
        return False
    if row["status"] != "ok":  # a failure may have been an accident, so it is tried again
        return row["status"] != "internal_error" and pair.status in ("ok", row["status"])
    return pair.status == "ok" and crops_are_whole(output_dir, row)


def file_hashes(files: PairFiles) -> dict[str, str]:
    """rgb_sha256 and depth_sha256 of the files of a pair, "" where there is no file that can be read."""
    hashes = {}
    for kind, path in (("rgb", files.rgb_path), ("depth", files.depth_path)):
        try:
            hashes[f"{kind}_sha256"] = sha256_of(path) if path else ""
        except OSError:
            hashes[f"{kind}_sha256"] = ""
    return hashes
