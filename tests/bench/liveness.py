"""Errors of the liveness check: BPCER, and APCER of each kind of attack, with intervals over people.

    make liveness SENSORS="'NAME=FOLDER' ..."

The threshold is chosen on the first synthetic people and measured on others, and on real pairs in raw folders, whose depth is
replaced by that of an attack with the holes and the noise of their sensor. Writes figures/recorded/liveness.json; a run
without folders keeps their columns.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from face3d_lib.base.atomic import write_json
from face3d_lib.base.paths import FIGURES
from face3d_lib.data.convention import read_convention
from face3d_lib.data.decoding import read_pairs
from face3d_lib.data.faces import choose_face, find_faces, load_detector
from face3d_lib.data.pairs import find_pairs
from face3d_lib.evaluate.intervals import mean_bootstrap
from face3d_lib.evaluate.metrics.presentation import BONA_FIDE, accepted, apcer, bpcer, threshold_at_apcer
from face3d_lib.serve.liveness import THRESHOLD, check_liveness
from face3d_lib.synthetic.attacks import SPECIES, attack_surface, attacked, held_before
from face3d_lib.synthetic.camera import pair

PEOPLE, IMAGES, TARGET = 60, 2, 0.02  # people of each half, pictures of each, APCER at which the threshold is chosen
SHEETS = ("flat", "tilted", "bent", "cut_out")  # on which it is chosen
POINT_ERROR = 0.03  # eye distances, standard deviation of the points: about that of the detector
REPLICATES = 1000
INSIDE_OUT = "inside_out"
HELD = SPECIES | {INSIDE_OUT: "a face, its depth turned inside out as by a wrong `larger_is`"}


def scored(rows: list, who: str, species: str, depth: np.ndarray, points: np.ndarray, unit: str) -> None:
    found = check_liveness(depth.astype(np.float32), points, unit)
    rows.append({"subject": who, "species": species, "score": found.score})


def turned(depth: np.ndarray) -> np.ndarray:
    """The depth map with near and far exchanged about its median; what has no reading keeps none."""
    read = depth > 0
    return np.where(read, np.maximum(2 * np.median(depth[read]) - depth, 1e-3), 0)


def synthetic(seed: int) -> pd.DataFrame:
    rows: list = []
    for subject in range(PEOPLE):
        for image in range(IMAGES):
            made = pair(seed, subject, image)
            eyes = float(np.linalg.norm(made.landmarks[1] - made.landmarks[0]))
            points = made.landmarks + np.random.default_rng([seed, subject, image]).normal(
                0, POINT_ERROR * eyes, (5, 2)
            )
            scored(rows, str(subject), BONA_FIDE, made.depth, points, "mm")
            scored(rows, str(subject), INSIDE_OUT, turned(made.depth), points, "mm")
            for species in SPECIES:
                scored(
                    rows, str(subject), species, attacked(made, species, IMAGES * subject + image).depth, points, "mm"
                )
    return pd.DataFrame(rows)


def measured(root: Path) -> pd.DataFrame:
    rows: list = []
    convention, detector = read_convention(root), load_detector()
    for number, (row, found) in enumerate(read_pairs(find_pairs(root), convention)):
        faces = find_faces([found.rgb], detector, 20)[0].faces if found is not None else []
        if not faces or found is None:
            continue
        points = faces[choose_face(faces, found.rgb.shape)[0]].points
        per_px = 1.0 if found.depth_unit == "pixel" else 63 / float(np.linalg.norm(points[1] - points[0]))
        scored(rows, row.subject_id, BONA_FIDE, found.depth, points, found.depth_unit)
        scored(rows, row.subject_id, INSIDE_OUT, turned(found.depth), points, found.depth_unit)
        rng = np.random.default_rng([7, number])
        for species in SPECIES:
            surface, lost = attack_surface(species, found.depth, points, per_px, rng)
            scored(rows, row.subject_id, species, held_before(found.depth, surface, lost), points, found.depth_unit)
    return pd.DataFrame(rows)


def rates(found: pd.DataFrame, threshold: float) -> dict[str, list[float]]:
    """Error rate with its interval by species; of bona fide presentations BPCER, of all others APCER."""
    made = {}
    for species, part in found.groupby("species", sort=False):
        wrong = accepted(part["score"], threshold) != (species == BONA_FIDE)
        rate = mean_bootstrap(wrong, part["subject"].to_numpy(), REPLICATES)
        made[str(species)] = [round(value, 4) for value in (rate.value, rate.low, rate.high)]
    every = apcer(found["score"], found["species"], threshold) | {
        BONA_FIDE: bpcer(found["score"], found["species"], threshold)
    }
    assert all(abs(every[name] - values[0]) < 1e-4 for name, values in made.items())
    return made


def main() -> None:
    tuned = synthetic(11)
    chosen = threshold_at_apcer(tuned.loc[tuned["species"].isin(SHEETS), "score"], TARGET)
    print(f"threshold chosen on {PEOPLE} people: {chosen:.4f}; the library has {THRESHOLD}")
    named = dict(word.split("=", 1) for word in sys.argv[1:])
    tables = {"synthetic": synthetic(12)} | {name: measured(Path(folder)) for name, folder in named.items()}
    path = FIGURES / "recorded" / "liveness.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"facts": {}, "rows": []}
    kept = {row["held before the camera"]: row for row in before["rows"]}
    facts = before["facts"] | {"threshold": THRESHOLD, "target": TARGET, "tuned_on": PEOPLE}
    found = {name: rates(table, THRESHOLD) for name, table in tables.items()}
    for name, table in tables.items():
        real, short = table[table["species"] == BONA_FIDE], name.lower().replace(" ", "_")
        facts |= {f"{short}_pairs": len(real), f"{short}_people": real["subject"].nunique()}
    rows = []
    for species in (BONA_FIDE, *HELD):
        what = "a face" if species == BONA_FIDE else HELD[species]
        row = kept.get(what, {}) | {
            "held before the camera": what,
            "rate": "BPCER" if species == BONA_FIDE else "APCER",
        }
        rows.append(row | {name: of[species] for name, of in found.items()})
    command = "make liveness SENSORS=\"'Kinect=FOLDER' 'Kinect v2=FOLDER'\""
    write_json(path, {"command": command, "measured_on": "CPU, float64", "facts": facts, "rows": rows})
    print(pd.DataFrame(rows).to_string(index=False))


if __name__ == "__main__":
    main()
