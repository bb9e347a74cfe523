"""What a gallery holds of a picture, and what it answers."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Match:
    """The result of comparing a probe with a gallery."""

    known: bool  # score >= threshold
    name: str | None  # of the person as whom the probe is accepted; None if it is rejected
    score: float  # of the best candidate, in [-1, 1]; -1 where nobody is enrolled
    threshold: float
    candidates: tuple[tuple[str, float], ...]  # the best k as (name, score), best first, accepted or not
    refused: str = ""  # why nobody is accepted whatever the score: depth shows no face
    faces: int = 1  # in the picture; one of them was compared (see `data.faces.choose_face`)

    def unless(self, refused: str) -> "Match":
        """This match where `refused` is ""; else the same scores, with nobody accepted for that reason."""
        return replace(self, known=False, name=None, refused=refused) if refused else self


@dataclass(frozen=True)
class Picture:
    """An enrolled picture: where it came from, and what its vector counts for in the person's template."""

    pair_id: str = ""  # to show; "" where it is not known
    rgb_sha256: str = ""  # of the files' bytes, so that the same photograph is known again
    depth_sha256: str = ""
    weight: float = 1.0  # by its quality, > 0
    crops: str = ""  # the file that keeps the pixels of the face; "" if they are not kept
