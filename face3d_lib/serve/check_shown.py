"""The check of a gallery as a table, as text and as one picture: for the command line, notebook 50 and the application."""

import html
from typing import TYPE_CHECKING

import numpy as np

from ..evaluate.intervals import Interval
from .check import Check

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WORDS = {
    "own person": "with the other pictures\nof the same person",
    "another person": "with the most similar\nother enrolled person",
    "strangers": "pictures of strangers, with the\nmost similar enrolled person",
}


def rows(found: Check) -> list[tuple[str, str]]:
    """(what was asked, what came out) in words, line by line; the advice comes last."""
    each = ", ".join(
        f"{_people(people)} with {n} {'picture' if n == 1 else 'pictures'}" for n, people in found.pictures_each.items()
    )
    lines = [
        ("enrolled", each or "nobody"),
        ("threshold", f"{found.threshold:.3f}{f' {found.note}' if found.note else ''}"),
        ("pictures that get the right name, each from the person's other pictures", _rate(found.right)),
        ("pictures that get another person's name", _rate(found.wrong)),
        ("pictures that get a name while their own person is left out", _rate(found.alarms)),
    ]
    if "strangers" in found.scores:
        lines.append(("pictures of strangers that get a name", _rate(found.strangers)))
    if not np.isnan(found.highest_stranger[0]):
        score, picture, person = found.highest_stranger
        whose = "a stranger" if "strangers" in found.scores else "somebody who is left out"
        passes = "and would get that name" if score >= found.threshold else "and gets no name"
        lines.append((f"highest score of {whose}", f"{score:.3f}: {picture} is most like {person}, {passes}"))
    if not np.isnan(found.closest[0]):
        score, one, other = found.closest
        lines.append(("the two enrolled people who are most alike", f"{one} and {other}, {score:.3f}"))
    share, low, high = found.expected_alarms
    expected = f"{_percent(share)} (95 % interval {_percent(low)} to {_percent(high)})"
    if np.isnan(share):
        expected = f"not known: {found.reasons['expected_alarms']}"
    whose = f", by the scores of {found.source}" if found.source else ""
    lines.append((f"strangers who will get a name{whose}", expected))
    for far, limit in found.thresholds.items():
        said = f"{limit.threshold:.3f} (95 % interval of the share: {_percent(limit.low)} to {_percent(limit.high)})"
        because = f"; {limit.reason}" if limit.reason else ""
        if not np.isnan(limit.threshold):
            lines.append((f"threshold at which {_percent(far)} of the strangers get a name", said + because))
    if found.by_pictures:
        shares = ", ".join(f"{_percent(part)} with {n}" for n, part in found.by_pictures.items())
        lines.append(("right names by the number of pictures of each person", shares))
    more = found.one_more
    gain = [f"{100 * part:+.1f} %" for part in (more.value, more.low, more.high)]
    added = f"{gain[0]} of right names (95 % interval {gain[1]} to {gain[2]})"
    if np.isnan(more.value):
        added = f"not known: {found.reasons['one_more']}"
    elif more.low <= 0:
        added += ": no gain is shown"
    lines.append(("what one more picture of each person brings", added))
    return lines + [("advice", line) for line in found.advice]


def as_text(found: Check) -> str:
    """The check in lines."""
    return "\n".join(f"{what}: {said}" for what, said in rows(found))


def as_html(found: Check) -> str:
    """The check as a table."""
    cell = "text-align:left;vertical-align:top;padding:2px 8px;white-space:normal"
    lines = (
        f'<tr><td style="{cell}">{html.escape(what)}</td><td style="{cell}">{html.escape(said)}</td></tr>'
        for what, said in rows(found)
    )
    return f'<table class="face3d-check" style="line-height:1.4">{"".join(lines)}</table>'


def draw(found: Check) -> "Figure":
    """The scores of pictures with their own person, with others and with strangers, beside the thresholds.

    Drawn apart from pyplot, so that nothing stays open.
    """
    from matplotlib.figure import Figure

    from ..evaluate.pictures import BLUE, GREY, ORANGE, RED, literal, short

    colours = {"own person": BLUE, "another person": GREY, "strangers": RED}
    figure = Figure(figsize=(8.4, 2.9), layout="constrained")
    ax = figure.add_subplot()
    shown = {name: np.asarray(scores) for name, scores in found.scores.items() if len(scores)}
    for place, (name, scores) in enumerate(reversed(shown.items())):
        spread = (np.arange(len(scores)) * 0.618) % 1 - 0.5  # evenly, and the same each time
        ax.scatter(scores, place + 0.55 * spread, s=14, color=colours[name], alpha=0.7, linewidths=0)
    ax.set_yticks(range(len(shown)), [WORDS[name] for name in reversed(shown)], fontsize=9)
    ax.axvline(found.threshold, color="black", linewidth=1.5, label=f"threshold in use, {found.threshold:.3f}")
    for (far, limit), style in zip(found.thresholds.items(), ("--", "-.", ":"), strict=True):
        if not np.isnan(limit.threshold):
            ax.axvline(
                limit.threshold,
                color=ORANGE,
                linewidth=1.5,
                linestyle=style,
                label=f"for {_percent(far)} of strangers, {limit.threshold:.3f}",
            )
    if not np.isnan(found.closest[0]):
        score, one, other = found.closest
        who = literal(f"{short(one, 12)} and {short(other, 12)}")
        ax.plot(score, len(shown) - 0.45, "v", color="black", label=f"most alike: {who}, {score:.3f}")
    ax.set(xlabel="score", ylim=(-0.6, max(len(shown), 1) - 0.3))
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=8, frameon=False)
    return figure


def _people(number: int) -> str:
    return "1 person" if number == 1 else f"{number} people"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _rate(found: Interval) -> str:
    if np.isnan(found.value):
        return f"not known: {found.reason}"
    return f"{_percent(found.value)} (95 % interval {_percent(found.low)} to {_percent(found.high)})"
