"""Embeddings of other people's systems, and the lists of pairs that are compared: pairs.csv, and LFW's pairs.txt."""

import difflib
import re
from pathlib import Path

import numpy as np
import pandas as pd

from ..base.errors import UserError
from ..base.tables import read_table
from .embeddings import Embeddings
from .score_files import numbered_lines
from .scores import UNIT_TOLERANCE

KEYS = ("pair_ids", "subject_ids", "vectors")
MODEL_KEYS = ("model", "models", "model_sha256")  # optional: what made the vectors, once or for each of them
WHOLE_NUMBER = re.compile(r"\d+")


def read_embeddings(path: Path) -> tuple[Embeddings, list[str]]:
    """(embeddings, notes) of an .npz with pair_ids (N,), subject_ids (N,) and vectors (N, D) of any length.

    The vectors are made unit length in float64 (float32 would tie scores that differ), and a note says so where they
    were not; a vector of zeros is a failure and stays zeros. Other keys are ignored. UserError, with the pair, where a
    vector is not finite, a pair occurs twice, a name is empty, or the vectors are of two models.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: not there: correct the path")
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {key: file[key] for key in (*KEYS, *MODEL_KEYS) if key in file.files}
            others = [key for key in file.files if key not in found]
    except TypeError:  # an .npy under another name
        raise UserError(
            f"{path}: one array without names: save pair_ids, subject_ids, vectors by numpy.savez"
        ) from None
    except Exception as error:  # a damaged or foreign archive raises anything: numpy parses headers as Python
        reason = str(error).partition("\n")[0]
        if "pickle" in str(error):  # numpy's message advises to unpickle, which would run what the file says
            reason = "it holds objects or no arrays"
        raise UserError(f"{path}: no embeddings that can be read ({reason}): save by numpy.savez") from None
    for key, values in found.items():
        if not isinstance(values, np.ndarray):  # numpy gives the bytes of what is no array
            raise UserError(f"{path}: {key} is no array: save pair_ids, subject_ids, vectors by numpy.savez")
    for key in KEYS:
        if key not in found:
            near = difflib.get_close_matches(key, others, 1, 0.6)
            hint = f"rename {near[0]}" if near else f"it has {', '.join(others) or 'nothing else'}"
            raise UserError(f"{path}: no array {key}: {hint}")
    vectors = found["vectors"]
    if vectors.ndim != 2 or not vectors.shape[1] or vectors.dtype.kind not in "fiu":
        raise UserError(f"{path}: vectors are {vectors.shape} {vectors.dtype}; (N, D) numbers are needed")
    names = {key: _names(found[key], len(vectors), key, path) for key in KEYS[:2]}
    pair_ids = names["pair_ids"]
    distinct, first = np.unique(pair_ids, return_index=True)
    if len(distinct) < len(pair_ids):
        again = np.setdiff1d(np.arange(len(pair_ids)), first)[0]
        raise UserError(f"{path}: pair {pair_ids[again]} occurs twice: give each embedding a name of its own")
    for key in MODEL_KEYS:
        _one_model(found.get(key), key, pair_ids, path)
    units, notes = _unit(vectors, pair_ids, path)
    return Embeddings(pair_ids, names["subject_ids"], units), notes


def _names(values: np.ndarray, n: int, key: str, path: Path) -> np.ndarray:
    """(n,) str: the names in an array of text, bytes or whole numbers."""
    if values.ndim != 1 or len(values) != n:
        raise UserError(
            f"{path}: {key} has shape {values.shape}, but there are {n} vectors: one name for each is needed"
        )
    if values.dtype.kind not in "USiu":
        raise UserError(f"{path}: {key} is of type {values.dtype}: save the names as text")
    try:
        names = np.char.decode(values, "utf-8") if values.dtype.kind == "S" else values.astype(str)
    except UnicodeDecodeError:
        raise UserError(f"{path}: {key} holds bytes that are not UTF-8: save the names as text") from None
    bad = np.array([not name.strip() or not name.isprintable() for name in names.tolist()], bool)
    if bad.any():
        raise UserError(f"{path}: {key}, row {bad.argmax()}: {str(names[bad.argmax()])!r} is no name")
    return names


def _one_model(values: np.ndarray | None, key: str, pair_ids: np.ndarray, path: Path) -> None:
    if values is None or values.ndim == 0:
        return
    different = np.flatnonzero(values != values.flat[0]) if values.size else np.empty(0, int)
    if len(different) and values.shape == pair_ids.shape:
        one, two = values[0], values[different[0]]
        raise UserError(
            f"{path}: embeddings of two models mixed: {pair_ids[0]} is of {one}, {pair_ids[different[0]]} of {two}"
        )
    if len(different):
        raise UserError(f"{path}: {key} names {len(np.unique(values))} models: keep the embeddings of one")


def _unit(vectors: np.ndarray, pair_ids: np.ndarray, path: Path) -> tuple[np.ndarray, list[str]]:
    """((N, D) float64 of unit length or zeros, notes)."""
    vectors = vectors.astype(np.float64)
    bad = ~np.isfinite(vectors).all(axis=1)
    if bad.any():
        raise UserError(
            f"{path}: the vector of {pair_ids[bad.argmax()]} holds NaN or infinity, as do {bad.sum()} of {len(vectors)}; "
            "a failure is a vector of zeros"
        )
    largest = np.abs(vectors).max(axis=1, keepdims=True)  # so that squares neither overflow nor vanish
    scaled = np.divide(vectors, largest, out=np.zeros_like(vectors), where=largest > 0)
    length = np.linalg.norm(scaled, axis=1, keepdims=True)
    units = np.divide(scaled, length, out=scaled, where=length > 0)
    notes = []
    lengths = (length * largest)[:, 0]
    if not np.allclose(lengths[lengths > 0], 1, atol=UNIT_TOLERANCE):
        low, high = lengths[lengths > 0].min(), lengths.max()
        notes.append(f"vectors of lengths {low:.4g} to {high:.4g} were made unit length: scores are cosines")
    if failed := int((lengths == 0).sum()):
        notes.append(
            f"{failed} of {len(lengths)} vectors are zeros, the first that of {pair_ids[lengths.argmin()]}: failures, "
            "which score -1 with everybody"
        )
    return units, notes


def read_protocol(path: Path, embeddings: Embeddings) -> tuple[pd.DataFrame, list[str]]:
    """(pairs, notes): the table of pairs to compare, with the columns pair_id_a, pair_id_b, same and, if any, fold.

    `path` is a pairs.csv (columns pair_id_a, pair_id_b, same; of this project's groups dev and test only test is kept,
    with a note) or a pairs.txt of LFW ("10<tab>300", then "name i j" or "name1 i name2 j"). The pictures of LFW are
    found by the person and the number at the end of pair_id ("Ann_Lee/Ann_Lee_0003.jpg"). UserError, with the line,
    where a picture is not among `embeddings`.
    """
    path = Path(path)
    first = next(numbered_lines(path), None)
    if first is None:
        raise UserError(f"{path}: empty: it must name the pairs to compare")
    if "pair_id" not in first[1] and all(WHOLE_NUMBER.fullmatch(word) for word in first[1].split()):
        return _read_lfw(path, embeddings), []
    pairs = read_table(path, ["pair_id_a", "pair_id_b", "same"])
    if not len(pairs):
        raise UserError(f"{path}: a header and no pair below it")
    notes = []
    if "group" in pairs and "test" in set(pairs["group"]):
        chosen = pairs[pairs["group"] == "test"]
        if len(chosen) < len(pairs):
            notes.append(f"{path.name}: the {len(chosen)} pairs of the group test, of {len(pairs)} pairs")
        pairs = chosen
    return pairs, notes


def _read_lfw(path: Path, embeddings: Embeddings) -> pd.DataFrame:
    """The pairs of LFW's pairs.txt (Huang et al. 2007, "Labeled Faces in the Wild"), with the fold of each."""
    places = _lfw_places(embeddings)
    lines = numbered_lines(path)
    number, text = next(lines)
    folds, size = ([1, *map(int, text.split())])[-2:] if len(text.split()) < 3 else (0, 0)
    if not folds or not size:
        raise UserError(f"{path} line {number}: {text!r}: the numbers of folds and of pairs are needed, such as 10 300")
    rows: list[tuple[str, str, str, int]] = []
    for number, text in lines:
        words = text.split("\t") if "\t" in text else text.split()
        numbers = words[1:] if len(words) == 3 else words[1::2]
        if len(words) not in (3, 4) or not all(WHOLE_NUMBER.fullmatch(word) for word in numbers):
            raise UserError(f"{path} line {number}: {text!r}: neither 'name i j' nor 'name1 i name2 j'")
        sides = [(words[0], int(words[1])), (words[-2] if len(words) == 4 else words[0], int(words[-1]))]
        for person, picture in sides:
            if (person, picture) not in places:
                raise UserError(f"{path} line {number}: no embedding of picture {picture} of {person}")
        same = len(words) == 3
        if same != (len(rows) % (2 * size) < size):
            kind = "one person" if len(rows) % (2 * size) < size else "two people"
            raise UserError(f"{path} line {number}: {text!r}: a pair of {kind} belongs here: is a line missing?")
        rows.append((places[sides[0]], places[sides[1]], "1" if same else "0", len(rows) // (2 * size)))
    if len(rows) != folds * 2 * size:
        raise UserError(f"{path}: {len(rows)} pairs, but its first line says {folds * 2 * size}: is the file whole?")
    pairs = pd.DataFrame(rows, columns=["pair_id_a", "pair_id_b", "same", "fold"])
    return pairs if folds > 1 else pairs.drop(columns="fold")


def _lfw_places(embeddings: Embeddings) -> dict[tuple[str, int], str]:
    """(person, number of the picture) -> pair_id; the person as subject_ids and as the file's name give it."""
    places: dict[tuple[str, int], str] = {}
    for pair_id, subject in zip(embeddings.pair_ids.tolist(), embeddings.subject_ids.tolist(), strict=True):
        stem = re.sub(r"\.[A-Za-z]\w*$", "", re.split(r"[/\\]", pair_id)[-1])
        found = re.fullmatch(r"(?:(.*)[_-])?0*(\d+)", stem)
        if found is None:
            continue
        for person in {subject, found[1] or subject}:
            other = places.setdefault((person, int(found[2])), pair_id)
            if other != pair_id:
                raise UserError(f"embeddings: {other} and {pair_id} may both be picture {found[2]} of {person}")
    return places
