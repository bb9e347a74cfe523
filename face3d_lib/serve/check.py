"""Does it work on my gallery? What the enrolled pictures themselves say about the gallery that they make.

Every picture is asked for as if it were new: against its own person's other pictures, and against everybody else, for whom
it is a stranger. What so few pictures cannot say is NaN, and `reasons` says why. The network has seen none of the people, so
these are honest rates; but pictures of one sitting are more alike than those of another day.
"""

from dataclasses import dataclass, field

import numpy as np

from ..base.errors import UserError
from ..evaluate.embeddings import Embeddings
from ..evaluate.intervals import Interval, mean_bootstrap
from ..evaluate.scores import FAILED, cosine
from .gallery import Gallery
from .names import letters
from .strangers import Strangers, shipped

FEWEST_PEOPLE = 5  # of whom a rate is believed
MOST_SCORES = 5_000_000  # that are computed after each enrolment, to tell whether the threshold fits
FARS = (0.1, 0.01, 0.001)
DRAWS = 20  # of which pictures make a smaller template


@dataclass(frozen=True)
class Limit:
    """A threshold, and the 95 % interval of the share of strangers who reach it; NaN where `reason` says why."""

    threshold: float
    low: float
    high: float
    reason: str = ""  # also where the threshold is another one than was asked for


@dataclass(frozen=True)
class Check:
    """What a gallery's pictures say about it. Rates are shares in [0, 1], NaN where `reasons` says why."""

    people: int
    pictures: int
    pictures_each: dict[int, int]  # pictures -> number of people who have so many
    threshold: float
    note: str  # how the threshold was chosen
    right: Interval  # pictures that get the right name from the person's other pictures
    wrong: Interval  # pictures that get another enrolled person's name, their own person being enrolled
    alarms: Interval  # pictures that somebody else's name is given to where their own person is not enrolled
    strangers: Interval  # pictures of the strangers that were given whom the gallery accepts
    highest_stranger: tuple[float, str, str]  # score, picture, and the person whom it is most like
    closest: tuple[float, str, str]  # the two people whose templates are most alike
    by_pictures: dict[int, float]  # pictures in a template -> share of right names
    one_more: (
        Interval  # share of right names that one more picture of each person added, in the last step of `by_pictures`
    )
    expected_alarms: tuple[float, float, float]  # share of other people accepted, by measured strangers, with interval
    thresholds: dict[float, Limit]  # FAR -> threshold for this gallery's size
    source: str  # whose scores the last two come from
    scores: dict[
        str, np.ndarray
    ]  # of each picture with its "own person", the most similar "another person"; of "strangers"
    advice: list[str] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)


def check(gallery: Gallery, strangers: Embeddings | None = None, replicates: int = 1000, seed: int = 0) -> Check:
    """What the pictures of a gallery say about it.

    strangers: people who are not enrolled, by the gallery's model, who are asked as well. Where neither the gallery nor its
    model comes with scores of other people, thresholds are chosen by theirs. replicates, seed: of the bootstrap
    over people. UserError where one of the strangers has the name of an enrolled person.
    """
    owner, names = gallery.owner, gallery.names
    reasons: dict[str, str] = {}
    counts = np.array([len(shown) for shown in gallery.pictures])
    scores = _left_out(gallery)  # (N, G)
    own = scores[np.arange(len(owner)), owner] if len(owner) else np.empty(0)
    others = _of_others(scores, owner)
    best_other = others.max(axis=1, initial=FAILED)
    asked = counts[owner] > 1 if len(owner) else np.empty(0, bool)
    accepted = np.maximum(own, best_other) >= gallery.threshold
    right = _share((accepted & (own > best_other))[asked], owner[asked], "right", reasons, replicates, seed)
    wrong = _share((accepted & (own <= best_other))[asked], owner[asked], "wrong", reasons, replicates, seed)
    if len(names) > 1:
        alarms = _share(best_other >= gallery.threshold, owner, "alarms", reasons, replicates, seed)
    else:
        alarms = _share(np.empty(0, bool), owner[:0], "alarms", reasons, replicates, seed)
    asked_strangers = _of_strangers(gallery, strangers, reasons, replicates, seed)
    table = gallery.strangers or shipped(gallery.model_id)
    if table is None and strangers is not None and len(set(strangers.subject_ids.tolist())) > 1:
        table = Strangers.measure(strangers, "the strangers who were asked")
    by_pictures, one_more = _by_pictures(gallery, reasons, replicates, seed)
    expected, thresholds = _by_strangers(gallery, table, reasons)
    found = Check(
        len(names), len(owner), {int(n): int((counts == n).sum()) for n in np.unique(counts)}, gallery.threshold, gallery.note, right, wrong, alarms, asked_strangers, _highest(gallery, best_other, others, strangers), _closest(gallery),
        by_pictures, one_more, expected, thresholds, table.source if table else "",
        _scores(own[asked], best_other, gallery, strangers), [], reasons,
    )  # fmt: skip
    found.advice.extend(_advice(found, gallery))
    return found


def _of_others(scores: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """The scores (N, G) of pictures with people, with FAILED at each picture's own person."""
    return np.where(np.arange(scores.shape[1])[None] == owner[:, None], FAILED, scores)


def embeddings(gallery: Gallery) -> Embeddings:
    """All N pictures of a gallery with their people."""
    pair_ids = [picture.pair_id for person in gallery.pictures for picture in person]
    return Embeddings(np.array(pair_ids, str), np.array(gallery.names, str)[gallery.owner], gallery.vectors)


def _left_out(gallery: Gallery) -> np.ndarray:
    """(N, G) the score of each picture with each template; with its own person's, the template without the picture.

    FAILED with one's own person where there is no other picture.
    """
    if not len(gallery.names):
        return np.empty((0, 0))
    scores = cosine(gallery.vectors, gallery.templates).astype(np.float64)
    weights = np.array([picture.weight for shown in gallery.pictures for picture in shown])
    weighted = gallery.vectors * weights[:, None].astype(np.float64)
    starts = np.flatnonzero(np.diff(gallery.owner, prepend=-1))
    rest = np.add.reduceat(weighted, starts, axis=0)[gallery.owner] - weighted  # (N, D) of the other pictures
    length = np.linalg.norm(rest, axis=1)
    product = np.einsum("nd,nd->n", rest, gallery.vectors.astype(np.float64))
    own = np.divide(product, length, out=np.full(len(rest), FAILED), where=length > 1e-6)
    scores[np.arange(len(rest)), gallery.owner] = np.clip(own, -1, 1)
    return scores


def _share(
    hits: np.ndarray, owner: np.ndarray, name: str, reasons: dict[str, str], replicates: int, seed: int
) -> Interval:
    people = len(set(owner.tolist()))
    found = mean_bootstrap(hits.astype(float), owner, replicates, seed)
    if people >= FEWEST_PEOPLE:
        return found
    what = {"alarms": "people", "strangers": "strangers"}.get(name, "people with two or more pictures")
    reasons[name] = (
        f"a rate needs {FEWEST_PEOPLE} {what}, and there {'is' if people == 1 else 'are'} {people}: enrol more"
    )
    return Interval(np.nan, np.nan, np.nan, found.level, people, found.n_replicates, reasons[name])


def _of_strangers(
    gallery: Gallery, strangers: Embeddings | None, reasons: dict[str, str], replicates: int, seed: int
) -> Interval:
    if strangers is None or not gallery.names:
        return _share(np.empty(0, bool), np.empty(0, int), "strangers", reasons, replicates, seed)
    if both := sorted({*map(letters, gallery.names)} & {letters(name) for name in strangers.subject_ids.tolist()}):
        raise UserError(f"strangers: {both[0]!r} is enrolled: name a folder of people who are not")
    accepted = cosine(strangers.vectors, gallery.templates).max(axis=1) >= gallery.threshold
    return _share(accepted, np.asarray(strangers.subject_ids), "strangers", reasons, replicates, seed)


def _highest(
    gallery: Gallery, best_other: np.ndarray, others: np.ndarray, strangers: Embeddings | None
) -> tuple[float, str, str]:
    """(score, picture, person) of the stranger who is most like somebody: a given one, else an enrolled one who is asked
    without his own template. NaN where there is none.
    """
    if strangers is not None and len(strangers) and gallery.names:
        scores = cosine(strangers.vectors, gallery.templates)
        row, column = np.unravel_index(scores.argmax(), scores.shape)
        return float(scores.max()), str(strangers.pair_ids[row]), gallery.names[column]
    if len(gallery.names) < 2:
        return np.nan, "", ""
    place = int(best_other.argmax())
    shown = [picture.pair_id for person in gallery.pictures for picture in person]
    return float(best_other[place]), shown[place], gallery.names[int(others[place].argmax())]


def _closest(gallery: Gallery) -> tuple[float, str, str]:
    """(score, name, name) of the two people whose templates are most alike; NaN for fewer than two."""
    best = (np.nan, "", "")
    for start in range(0, len(gallery.names), 1024):
        scores = cosine(gallery.templates[start : start + 1024], gallery.templates)
        rows = np.arange(len(scores))
        scores[rows, rows + start] = FAILED
        row, column = np.unravel_index(scores.argmax(), scores.shape)
        if len(gallery.names) > 1 and not scores[row, column] <= best[0]:
            best = (float(scores[row, column]), gallery.names[row + start], gallery.names[column])
    return best


def _scores(
    own: np.ndarray, best_other: np.ndarray, gallery: Gallery, strangers: Embeddings | None
) -> dict[str, np.ndarray]:
    found = {"own person": own, "another person": best_other if len(gallery.names) > 1 else np.empty(0)}
    if strangers is not None and len(strangers) and gallery.names:
        found["strangers"] = cosine(strangers.vectors, gallery.templates).max(axis=1)
    return found


def _by_pictures(
    gallery: Gallery, reasons: dict[str, str], replicates: int, seed: int
) -> tuple[dict[int, float], Interval]:
    """(pictures in a template -> share of right names, what one more added in the last step).

    Each picture is asked against templates of n other pictures of its person, drawn DRAWS times, and everybody else's own
    template; people with more than n pictures take part, and they are the same people at each n.
    """
    counts = np.array([len(shown) for shown in gallery.pictures])
    enough = [most for most in range(2, int(counts.max(initial=0)) + 1) if (counts >= most).sum() >= FEWEST_PEOPLE]
    if not enough:
        reasons["one_more"] = f"fewer than {FEWEST_PEOPLE} people have two or more pictures: enrol more pictures"
        return {}, _share(np.empty(0), np.empty(0, int), "one_more", {}, replicates, seed)
    most, random = max(enough), np.random.default_rng(seed)
    scores = cosine(gallery.vectors, gallery.templates)
    steps: list[list[float]] = []
    people = gallery.owner[counts[gallery.owner] >= most]  # of each picture that takes part
    for n in range(1, most):
        steps.append([])
        for person in np.flatnonzero(counts >= most):
            rows = np.flatnonzero(gallery.owner == person)
            for row in rows:
                other = np.delete(scores[row], person).max(initial=FAILED)
                hits = []
                for _ in range(DRAWS if n < len(rows) - 1 else 1):
                    mean = gallery.vectors[random.choice(rows[rows != row], n, replace=False)].sum(
                        axis=0, dtype=np.float64
                    )
                    own = float(mean @ gallery.vectors[row] / max(np.linalg.norm(mean), 1e-9))
                    hits.append(own >= gallery.threshold and own > other)
                steps[-1].append(float(np.mean(hits)))
    found = {n: float(np.mean(hits)) for n, hits in enumerate(steps, start=1)}
    if most < 3:
        reasons["one_more"] = f"fewer than {FEWEST_PEOPLE} people have three or more pictures: enrol more pictures"
        return found, _share(np.empty(0), np.empty(0, int), "one_more", {}, replicates, seed)
    return found, mean_bootstrap(np.subtract(steps[-1], steps[-2]), people, replicates, seed, difference=True)


def _by_strangers(
    gallery: Gallery, table: Strangers | None, reasons: dict[str, str]
) -> tuple[tuple[float, float, float], dict[float, Limit]]:
    size = len(gallery.names)
    if table is None or not size:
        why = (
            "nobody is enrolled" if not size else "no scores of other people are known for this model: give --strangers"
        )
        reasons["expected_alarms"] = reasons["thresholds"] = why
        return (np.nan, np.nan, np.nan), {far: Limit(np.nan, np.nan, np.nan, why) for far in FARS}
    expected = table.rate(gallery.threshold, size)
    if np.isnan(expected[0]):
        reasons["expected_alarms"] = f"the threshold lies above what {table.comparisons} comparisons can tell"
    limits = {}
    for far in FARS:
        threshold, reason = table.threshold(far, size)
        limits[far] = Limit(threshold, *table.rate(threshold, size)[1:], reason)
    return expected, limits


def doubt_of(gallery: Gallery) -> str:
    """Why the threshold does not fit this gallery's camera, "" where nothing shows it.

    The enrolled people are asked as strangers to one another. If more of them get a name than the threshold is meant to let
    pass, by the lower end of a 95 % interval over people, other people with another camera were no measure for it.
    """
    if gallery.fixed or len(gallery.names) < FEWEST_PEOPLE or len(gallery.vectors) * len(gallery.names) > MOST_SCORES:
        return ""
    alarms = _of_others(_left_out(gallery), gallery.owner).max(axis=1) >= gallery.threshold
    return _doubt(mean_bootstrap(alarms.astype(float), gallery.owner, 200), gallery)


def _doubt(alarms: Interval, gallery: Gallery) -> str:
    if gallery.fixed or not alarms.low > gallery.development_far:
        return ""
    return (
        f"{alarms.value:.0%} of the pictures get somebody else's name when their own person is left out, and the threshold "
        f"is meant for {gallery.development_far:.1%} of strangers: it does not fit your camera, or your people are unusually alike. Measure it with others: "
        "face3d gallery threshold --strangers FOLDER"
    )


def _advice(found: Check, gallery: Gallery) -> list[str]:
    lines = [doubt] if (doubt := _doubt(found.alarms, gallery)) else []
    if found.closest[0] >= gallery.threshold:
        score, one, other = found.closest
        lines.append(f"{one!r} and {other!r} are as alike as one person ({score:.3f}): one person twice, or siblings?")
    if single := [name for name, shown in zip(gallery.names, gallery.pictures, strict=True) if len(shown) == 1]:
        people = "1 person has" if len(single) == 1 else f"{len(single)} people have"
        lines.append(f"{people} one picture, such as {single[0]!r}: enrol a second one of each")
    if found.one_more.low > 0:
        lines.append(f"one more picture of each person may add {found.one_more.value:.1%} of right names")
    if found.right.value < 0.8:
        lines.append(
            "fewer than 80 % of the pictures get their name: enrol better pictures, measure the threshold on other people before "
            "your camera (face3d gallery threshold --strangers FOLDER), or let more strangers pass (--far)"
        )
    return lines
