"""Is a picture good enough to be enrolled? Each finding says what was measured, what is needed and what to do.

A finding is a refusal or a warning. The limits were set on pairs of two Kinect sensors: of the first sensor's 131
pairs, whose faces measure 23 to 39 px between the eyes, they refuse 3; of the second one's 270, with faces of 11 to 26 px, turned
heads and over-exposed pictures, 64 (liveness not counted). The limit of likeness is the gallery's own threshold.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..data.convention import DepthConvention
from ..data.pairs import RGBDPair
from ..data.quality import measure_pair
from ..data.warp import source_of, template_transform
from .gallery import Gallery, Picture
from .names import letters
from .recogniser import Seen
from .strangers import shipped

if TYPE_CHECKING:
    from ..data.faces import Detection


@dataclass(frozen=True)
class Finding:
    """Something about a picture that speaks against enrolling it."""

    what: str  # the measure: "eye_px", "same_photo", ...
    refused: bool  # False: a warning
    message: str  # one line that ends in what to do
    value: float = np.nan

    def __str__(self) -> str:
        return self.message


UNLIKE = 0.1  # share of two people who are more alike than a picture that is refused as another person of the same name
# measure -> (limit of a warning, limit of a refusal, +1 where more is better, what is said, the limit, what to do)
LIMITS = {
    "eye_px": (24, 16, 1, "{value:.0f} px between the eyes", "{limit:.0f} are", "come closer"),
    "yaw_abs": (25, 45, -1, "the head is turned by {value:.0f} degrees", "{limit:.0f} are", "look at the camera"),
    "pitch_abs": (20, 35, -1, "the head is tilted by {value:.0f} degrees", "{limit:.0f} are", "look at the camera"),
    "sharpness": (0.26, 0.22, 1, "sharpness {value:.2f}", "{limit:.2f} is", "hold still, or clean and focus the lens"),
    "brightness": (60, 40, 1, "the face is dark, at grey level {value:.0f}", "{limit:.0f} is", "add light"),
    "contrast": (20, 12, 1, "contrast of {value:.0f} grey levels", "{limit:.0f} are", "add light, or clean the lens"),
    "clipped": (0.15, 0.25, -1, "{value:.0%} of the face are black or white", "{limit:.0%} are", "avoid direct light"),
    "side_light": (0.9, 1.4, -1, "one side of the face is darker by {value:.1f} of its brightness", "{limit:.1f} is", "add light from the front"),
    "probability": (0.95, 0.85, 1, "the detector is sure of the face by {value:.2f}", "{limit:.2f} is", "show the whole face"),
    "inside": (0.97, 0.85, 1, "{value:.0%} of the face lie in the picture", "{limit:.0%} are", "move into the middle of the picture"),
    "valid": (0.7, 0.4, 1, "{value:.0%} of the face have a depth", "{limit:.0%} are", "keep to the distance that the sensor can measure"),
    "noise_mm": (4, 8, -1, "depth errs by {value:.1f} mm from pixel to pixel", "{limit:.1f} are", "come closer, or average several frames"),
    "relief": (0.05, -0.05, 1, "the nose stands out by {value:.2f} of the distance between the eyes (0.3 is usual)", "{limit:.2f} is", "show a real face, or declare larger_is the other way"),
    "registration": (0.28, 0.5, -1, "the nose in depth lies {value:.2f} eye distances from that in colour", "{limit:.2f} is", "register depth to colour"),
}  # fmt: skip


def measures(seen: Seen, convention: DepthConvention) -> dict[str, float]:
    """The numbers of a picture by the names in LIMITS, and `turn_deg`; NaN where one cannot be measured."""
    if "x1" not in seen.row:  # the model takes whole pictures, in which no face was looked for
        return {}
    row, _ = measure_pair(seen.pair, seen.points, convention)
    found = {
        name: float(row.get(name, np.nan)) for name in ("eye_px", "sharpness", "brightness", "contrast", "clipped")
    }
    found |= {name: float(row.get(name, np.nan)) for name in ("side_light", "noise_mm", "turn_deg")}
    found |= {name: float(seen.row.get(name, np.nan)) for name in ("relief", "registration", "probability")}
    found["yaw_abs"] = abs(float(row.get("yaw_deg", np.nan)))
    found["pitch_abs"] = abs(float(row.get("pitch_deg", np.nan)))
    found["valid"] = 1 - float(row.get("holes", np.nan))
    found["inside"] = _inside(seen.points, seen.pair.rgb.shape)
    return found


def judge(seen: Seen, convention: DepthConvention) -> tuple[list[Finding], dict[str, float]]:
    """(what speaks against enrolling this picture, its measures). An empty list: nothing does.

    A picture in which no face is found, or whose face has no depth, does not come so far: `Recogniser.see` refuses it.
    """
    found = measures(seen, convention)
    findings = []
    for name, (warn, refuse, sign, said, bound, advice) in LIMITS.items():
        value = found.get(name, np.nan)
        if (
            np.isnan(value)
            or sign * value >= sign * warn
            or (seen.missing and name in ("relief", "registration", "valid"))
        ):
            continue
        refused = sign * value < sign * refuse
        limit = refuse if refused else warn
        wanted = bound.format(limit=limit)
        if refused:
            wanted += " needed" if sign > 0 else " the most"
        else:
            wanted = f"good {'from' if sign > 0 else 'up to'} {wanted.split()[0]}"
        message = f"{advice}: {said.format(value=_shown(value, limit, said))}, {wanted}"
        findings.append(Finding(name, refused, message, value))
    if seen.not_live:
        findings.append(Finding("liveness", True, f"show a real face: {seen.not_live}"))
    if other := _second_face(seen.faces.faces, seen):
        large = other > 0.6
        kind = "as large as" if large else "smaller than"
        count = len(seen.faces.faces)
        said = (
            f"crop the picture to one person: {count} faces, one of them {kind} the chosen one ({seen.row['choice']})"
        )
        findings.append(Finding("faces", large, said, count))
    return findings, found


def _shown(value: float, limit: float, said: str) -> float:
    """`value`, rounded away from `limit` where both would be printed alike: 23.6 of 24 px is said to be 23, not 24."""
    form = said[said.index("{value:") + 7 :].split("}")[0]  # such as .0f or .2f; % prints hundredths
    step = 10.0 ** -(int(form[1]) + 2 * form.endswith("%"))
    if f"{value:{form}}" != f"{limit:{form}}":
        return value
    return limit - step if value < limit else limit + step


def weight_of(found: dict[str, float]) -> float:
    """What a picture counts for in its person's template: 1 for a good one, down to 0.25, the more it is near a refusal.

    The weight is the mean place of its measures between the limit of a refusal and twice as far as that of a warning.
    """
    places = []
    for name, (warn, refuse, *_) in LIMITS.items():
        if not np.isnan(value := found.get(name, np.nan)):
            places.append(np.clip((value - refuse) / (2 * (warn - refuse)), 0, 1))
    return round(0.25 + 0.75 * float(np.mean(places)), 4) if places else 1.0


def not_live(seen: Seen, gallery: Gallery) -> str:
    """Why nobody may be accepted, whatever the score; "" where nothing speaks against it.

    Depth shows no face (`Seen.not_live`), or it is, byte for byte, that of an enrolled picture that shows something else.
    """
    if seen.not_live:
        return seen.not_live
    held = gallery.of_depth.get(seen.pair.depth_sha256, ())
    return next((said for picture in held if (said := frozen(seen.pair, picture))), "")


def frozen(pair: RGBDPair | Picture, other: RGBDPair | Picture) -> str:
    """Why two pictures cannot both be right: their depth is one file's, and their colours are not; "" where they can."""
    if not pair.depth_sha256 or pair.depth_sha256 != other.depth_sha256 or pair.rgb_sha256 == other.rgb_sha256:
        return ""
    return f"record it again: its depth is that of {other.pair_id!r}, so the depth camera stood still"


def compare(gallery: Gallery, name: str, vector: np.ndarray, picture: Picture) -> list[Finding]:
    """What the gallery says against enrolling this picture under this name.

    Refused: the same photograph under another name, depth of another picture, and a picture that is unlike the person's own
    and more like somebody else, or as unlike as nine of ten other people are. Warned: too like another person (siblings are),
    or only unlike the person's own pictures.
    """
    findings = []
    own = {other for other in gallery.names if letters(other) == letters(name).strip()}
    for other, shown in zip(gallery.names, gallery.pictures, strict=True):
        for held in shown:
            same = picture.rgb_sha256 and held.rgb_sha256 == picture.rgb_sha256
            if same and other not in own:
                said = f"correct the name: the same photograph is enrolled as {other!r}"
                findings.append(Finding("same_photo", True, said))
            elif said := frozen(picture, held):
                findings.append(Finding("frozen_depth", True, said))
    if not gallery.names:
        return findings
    match = gallery.identify(vector, k=2)
    best = [(other, score) for other, score in match.candidates if other not in own]
    other, highest = best[0] if best else ("", -1.0)
    limit = gallery.threshold
    for person in own:
        score = float(gallery.templates[gallery.names.index(person)].astype(np.float64) @ vector)
        if score < limit:
            said = (
                f"check the name: unlike the other pictures of {person!r} ({score:.3f}, threshold {limit:.3f}); "
                "another person of that name needs another one"
            )
            findings.append(Finding("unlike_own", highest > score or score < _lowest_likeness(gallery), said, score))
    if highest >= limit:
        said = f"check the name: as like {other!r} as pictures of one person are ({highest:.3f}, threshold {limit:.3f})"
        findings.append(Finding("like_another", False, said, highest))
    return findings


def _lowest_likeness(gallery: Gallery) -> float:
    """The score that the share UNLIKE of comparisons of two people reach; -1 where no such comparisons are known."""
    table = gallery.strangers or shipped(gallery.model_id)
    score, unknown = table.threshold(UNLIKE, 1) if table else (-1.0, "")
    return -1.0 if unknown else score


def _inside(points: np.ndarray, shape: tuple[int, ...]) -> float:
    """The share of the face's ellipse in the 112 px template that lies within the picture."""
    x, y = source_of(template_transform(points), 112)
    rows, columns = np.mgrid[:112, :112]
    face = ((columns - 55.5) / 26) ** 2 + ((rows - 60) / 34) ** 2 < 1
    within = (x > -0.5) & (x < shape[1] - 0.5) & (y > -0.5) & (y < shape[0] - 0.5)
    return float(within[face].mean())


def _second_face(faces: "list[Detection]", seen: Seen) -> float:
    """The size of the largest other face, as a share of the size of the chosen one; 0 where there is no other."""
    chosen = seen.points
    sizes = [
        float(np.linalg.norm(face.points[1] - face.points[0]))
        for face in faces
        if not np.array_equal(face.points, chosen)
    ]
    return max(sizes, default=0.0) / max(float(np.linalg.norm(chosen[1] - chosen[0])), 1e-6)
