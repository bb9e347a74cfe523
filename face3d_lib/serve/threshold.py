"""From which score on a gallery names anybody, and how that is chosen."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from ..base.errors import UserError
from ..evaluate.metrics.thresholds import checked_far, threshold_at_far_or_above
from ..evaluate.scores import FAILED, alarm_scores, cosine
from .gallery import Gallery, change
from .strangers import Strangers, shipped

FAR = 0.01  # share of strangers who are accepted, if nothing else is asked for
NOBODY_YET = float(np.nextafter(1, 2))  # a threshold that no score reaches


def choose(
    folder: Path,
    far: float | None = None,
    threshold: float | None = None,
    strangers: Strangers | None = None,
    keep_crops: bool | None = None,
) -> Gallery:
    """`People.choose` for the gallery of a folder, whose networks are not needed; returns the gallery."""

    def changed(gallery: Gallery) -> Gallery:
        if threshold is not None:
            gallery = replace(gallery, threshold=checked_threshold(threshold), fixed=True, note="given by hand")
        elif far is not None or strangers is not None:
            gallery = replace(
                gallery,
                fixed=False,
                development_far=gallery.development_far if far is None else checked_far(far),
                strangers=strangers or gallery.strangers,
            )
        return with_threshold(replace(gallery, keep_crops=gallery.keep_crops if keep_crops is None else keep_crops))

    return change(folder, changed)


def with_threshold(gallery: Gallery) -> Gallery:
    """The gallery with the threshold for its number of people, unless it was given by hand.

    It comes from the scores of other people: those measured for this gallery, else those that come with the model. Where
    there are none, the enrolled people are strangers to one another; a single person is then never recognised.
    """
    if gallery.fixed:
        return gallery
    far, size = gallery.development_far, max(len(gallery.names), 1)
    if table := gallery.strangers or shipped(gallery.model_id):
        threshold, reason = table.threshold(far, size)
        return replace(gallery, threshold=threshold, note=note_of(far, size, table, reason))
    if len(gallery.names) < 2:
        note = "nobody is accepted yet: a threshold needs two enrolled people, --strangers or --threshold"
        return replace(gallery, threshold=NOBODY_YET, note=note)
    names = np.array(gallery.names)
    likeness = alarm_scores(cosine(gallery.vectors, gallery.templates), names[gallery.owner], names)
    threshold, reason = threshold_at_far_or_above(likeness, far)
    note = f"for FAR {far:g}, on the {len(likeness)} pictures of the {size} enrolled people as strangers to one another"
    return replace(gallery, threshold=threshold, note=f"{note}; {reason}" if reason else note)


def note_of(far: float, size: int, table: Strangers, reason: str) -> str:
    """How a threshold was chosen from a table of strangers, in a sentence."""
    people = "1 person" if size == 1 else f"{size} people"
    note = f"for FAR {far:g} with {people}, on {table.comparisons} comparisons of {table.people} other people"
    return f"{note}; {reason}" if reason else note


def checked_threshold(threshold: float) -> float:
    """`threshold`, if it is a score. UserError where it is not: NaN would accept nobody, -2 everybody."""
    if not FAILED < threshold <= 1:
        raise UserError(
            f"threshold {threshold:g}: no score that accepts some and not all: give one above -1, at most 1"
        )
    return threshold
