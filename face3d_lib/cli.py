"""face3d: run any notebook, the whole demo, or one step of it without opening a notebook."""

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from .base.atomic import write_bytes, write_json
from .base.environment import data_folder, speak_utf8
from .base.errors import UserError
from .base.paths import RUNS, relative

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="RGB-D face recognition: notebooks as parameterised runs, and the steps of the workbook as commands.",
)

Folder = Annotated[Path, typer.Option(exists=True, file_okay=False, help="folder to read")]
Unit = Annotated[str, typer.Option(help="mm, m or pixel, for a folder without dataset.json")]
Mode = Annotated[
    Literal["template", "facenet", "none"],
    typer.Option(help="five points to a template; box and margin (2019); the whole picture, unaligned"),
]
Scale = Annotated[
    float | None, typer.Option(help="factor from a number in the depth files to the unit; 1 where it is not given")
]
Direction = Annotated[str, typer.Option(help="farther or nearer: what a larger depth value means")]


@app.command()
def run(
    notebook: Annotated[str, typer.Argument(help="a notebook, such as 30_train_softmax")],
    name: Annotated[str, typer.Argument(metavar="RUN", help="run: a folder below runs/, such as demo or demo/rgb")],
    parameter: Annotated[
        list[str], typer.Option("-p", metavar="NAME=VALUE", help="set a parameter; repeat for more")
    ] = (),
    file: Annotated[
        Path | None,
        typer.Option("-f", exists=True, help="YAML file of parameters; a list of them is run in turn"),
    ] = None,
):
    """Run one notebook with papermill, strictly: unknown or mistyped parameters are errors, the exit code is true."""
    from .runs.parameters import parse_parameters, read_grid
    from .runs.runner import run_grid

    raise typer.Exit(run_grid(notebook, name, parse_parameters(parameter), read_grid(file)))


@app.command()
def sweep(
    file: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="YAML grid, such as notebooks/39_compare_losses.yaml")
    ],
    name: Annotated[str, typer.Argument(metavar="RUN", help="run that holds the data and, nested, all runs")],
    jobs: Annotated[int, typer.Option(min=1, help="runs side by side")] = 1,
):
    """Train many settings over one data set; what is done is not done again, and a failure does not stop the others."""
    from .runs.sweep import run_sweep

    raise typer.Exit(run_sweep(file, name, jobs))


@app.command()
def demo(
    data: Annotated[
        Path | None,
        typer.Option(
            default_factory=data_folder,
            show_default=False,
            exists=True,
            file_okay=False,
            help="folder of raw pairs; without it that of FACE3D_DATA, else synthetic faces",
        ),
    ],
    name: Annotated[str, typer.Option(help="the run; without it demo, or the data folder's name")] = "",
    depth_unit: Unit = "",
    larger_is: Direction = "",
    depth_scale: Scale = None,
    mode: Mode = "template",
    epochs: Annotated[int, typer.Option(min=0, help="of training; 0 = as the demo does")] = 0,
    seed: Annotated[int, typer.Option(help="of split and training")] = 0,
):
    """Run the numbered notebooks in order and end with a table. Killed and started again, it goes on where it was."""
    from .runs.folders import refuse_real_faces, run_folder
    from .runs.plan import PLAN
    from .runs.record import up_to_date
    from .runs.runner import run_notebook

    name = name or (data.resolve().name if data else "demo")
    if data:
        refuse_real_faces(name)
    try:
        run_folder(name)
    except UserError as error:
        raise UserError(f"{error}; --name NAME chooses one") from None
    source = {"depth_unit": depth_unit, "larger_is": larger_is, "depth_scale": depth_scale or 0.0}
    if data:
        check_data(data, **source)
    chosen = {
        "00_look_at_pairs": {"data": str(data.resolve())} | source if data else {},
        "10_align_faces": {"mode": mode},
        "20_split_subjects": {"seed": seed},
        "30_train_softmax": {"seed": seed} | ({"epochs": epochs} if epochs else {}),
    }
    for step in PLAN:
        run_name = f"{name}/{step.nested}".rstrip("/")
        parameters = step.parameters | step.demo_parameters | chosen.get(step.notebook, {})
        if data or epochs:  # the notebooks' bounds are those of the demo as it is
            parameters |= no_expectations(step.notebook)
        if up_to_date(step.notebook, run_name, parameters):
            print(f"{step.notebook} ({run_name}): done before")
        elif code := run_notebook(step.notebook, run_name, parameters):
            print(f"stopped at {step.notebook}; the same command goes on from there", file=sys.stderr)
            raise typer.Exit(code)
    print(summary(name))


def check_data(data: Path, depth_unit: str, larger_is: str, depth_scale: float) -> None:
    """Say before the long work what a user's own folder allows; UserError where the demo could not end."""
    from .data import convention, manifest, pairs, prospects, splits

    files = pairs.find_pairs(data)
    pairs.require_usable(data, ((row.status, row.detail) for row in files))
    convention.read_convention(data, depth_unit or None, larger_is or None, depth_scale or None)
    settings = splits.SplitSettings()
    people = prospects.expected_people(files, settings)
    prospects.require_training(people, settings)
    notes = manifest.read_manifest(data, [row.pair_id for row in files]).notes
    for line in (*notes, *prospects.unmeasured(people).values()):
        print(f"note: {line}", file=sys.stderr)


def no_expectations(notebook: str) -> dict[str, float]:
    """The parameters expect_... of a notebook, set to what every result meets."""
    from .runs.parameters import find_notebook, parameter_model

    names = [name for name in parameter_model(find_notebook(notebook)).model_fields if name.startswith("expect_")]
    return {name: 1.01 if name.endswith("_below") else -0.01 for name in names}


def summary(name: str) -> str:
    """The closing table of a demo, from the metrics.json of its stages."""
    from .runs.folders import figures_folder, find_stage

    def metrics(stage):
        folder = find_stage(name, stage)
        return json.loads((folder / "metrics.json").read_text(encoding="utf-8")) if folder else {}

    pairs, faces = metrics("00_look_at_pairs"), metrics("10_align_faces")
    verification, identification = metrics("40_evaluate_verification"), metrics("41_evaluate_identification")
    lines = [
        "",
        f"people {pairs['people']}   pairs {pairs['pairs']}   "
        f"faces found {faces['aligned']} ({faces['aligned'] / faces['pairs']:.1%})",
        f"{'':14s}{'closed-set accuracy':>21s}{'EER':>8s}{'TAR@FAR=' + format(verification['far_target'], 'g'):>14s}{'rank-1':>9s}",
    ]
    for system, rates in verification["systems"].items():
        numbers = [
            metrics(f"{system}/30_train_softmax").get("accuracy"),
            rates["eer"],
            rates["tar"],
            identification["systems"].get(system, {}).get("rank1"),
        ]
        texts = ["-" if number is None else f"{number:.3f}" for number in numbers]
        lines.append(f"{system:14s}{texts[0]:>21s}{texts[1]:>8s}{texts[2]:>14s}{texts[3]:>9s}")
    lines += [
        "closed set: people the network was trained on; EER, TAR and rank-1: people it never saw",
        f"look next: {relative(figures_folder(name, '40_evaluate_verification'))}/overview.png, and the executed",
        f"notebooks in {relative(RUNS / name)}/; make lab opens JupyterLab",
    ]
    return "\n".join(lines)


@app.command()
def synthesise(
    output_dir: Annotated[Path, typer.Option(help="folder to write, in the raw layout")],
    subjects: Annotated[int, typer.Option(help="people")] = 100,
    images_per_session: Annotated[int, typer.Option(help="pictures of each person in each of two sessions")] = 8,
    seed: int = 0,
    workers: Annotated[int, typer.Option(min=0, help="processes; 0 = one for each core")] = 0,
):
    """Make synthetic RGB-D faces."""
    from .synthetic.dataset import make_dataset

    frame = make_dataset(output_dir, subjects, images_per_session, seed=seed, workers=workers or None)
    print(f"{len(frame)} pairs of {frame['subject_id'].nunique()} people in {output_dir}")


@app.command()
def align(
    input_dir: Folder,
    output_dir: Annotated[Path, typer.Option(help="folder to write: crops in the same layout, and alignment.csv")],
    mode: Annotated[
        Literal["template", "facenet", "none"] | None,
        typer.Option(help="facenet when --margin is given, else template"),
    ] = None,
    image_size: Annotated[int, typer.Option(help="side of the crop in pixels")] = 112,
    margin: Annotated[int | None, typer.Option(help="source pixels added to the box (mode facenet)")] = None,
    random_order: Annotated[
        bool, typer.Option(help="work in random order: what is there early is a fair sample")
    ] = False,
    workers: Annotated[int, typer.Option(min=0, help="processes; 0 = one for each core")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    depth_unit: Unit = "",
    larger_is: Direction = "",
    depth_scale: Scale = None,
):
    """Find faces and warp colour and depth alike. Kill it anywhere and start it again: the same files come out."""
    from .data.alignment import align_folder
    from .data.convention import read_convention
    from .data.depth_check import check_depth
    from .data.warp import AlignSettings

    chosen = mode or ("template" if margin is None else "facenet")
    if margin is not None and chosen != "facenet":
        raise UserError(f"--margin belongs to --mode facenet, not to {chosen}: leave one of them out")
    settings = AlignSettings(mode=chosen, image_size=image_size, margin=44 if margin is None else margin)
    table = align_folder(
        input_dir, output_dir, settings, workers=workers or None, device=device, random_order=random_order,
        convention=read_convention(input_dir, depth_unit or None, larger_is or None, depth_scale),
    )  # fmt: skip
    print(table["status"].value_counts().to_string(header=False))
    print(f"{len(table)} pairs -> {output_dir / 'alignment.csv'}")
    for warning in check_depth(table):
        print(f"warning: {warning}", file=sys.stderr)


@app.command()
def split(
    input_dir: Folder,
    output_dir: Annotated[Path, typer.Option(help="folder to write the csv files to")],
    ratios: Annotated[tuple[str, str, str], typer.Option(help="train, eval, test shares of each person's pictures")] = (
        "0.7",
        "0.2",
        "0.1",
    ),
    people: Annotated[
        tuple[str, str, str],
        typer.Option(help="train, dev, test shares of the people; 1 0 0: everybody trains, as in 2019"),
    ] = ("1", "0", "0"),
    raw_dir: Annotated[
        Path | None,
        typer.Option(
            exists=True, file_okay=False, help="the folder that was aligned: its sessions, and paths for dirty.csv"
        ),
    ] = None,
    min_images: Annotated[int, typer.Option(min=1, help="a person with fewer pictures goes to dirty.csv")] = 3,
    seed: int = 0,
):
    """Write train, eval, test and dirty csv of an aligned folder (and gallery, probe, unknown for people not trained on)."""
    from dataclasses import fields

    from .data.manifest import read_manifest
    from .data.pairs import find_pairs
    from .data.splits import SplitSettings, split_folder

    settings = SplitSettings(ratios, people, min_images=min_images, seed=seed)
    manifest = read_manifest(raw_dir, [row.pair_id for row in find_pairs(raw_dir)]) if raw_dir else None
    for note in manifest.notes if manifest else ():
        print(f"note: {note}", file=sys.stderr)
    division = split_folder(input_dir, output_dir, settings, manifest, raw_dir)
    for field in fields(division):
        print(f"{field.name:8s}{len(getattr(division, field.name)):8d}")
    print(f"-> {output_dir}")


@app.command()
def identify(
    rgb: Annotated[Path, typer.Argument(help="picture")],
    depth: Annotated[Path, typer.Argument(help="its depth: .npy or 16-bit .png")],
    name: Annotated[str, typer.Option("--run", help="run whose gallery is asked")] = "demo",
    depth_unit: Unit = "",
    larger_is: Direction = "",
    picture: Annotated[Path | None, typer.Option(help="write probe and best match side by side to this PNG")] = None,
):
    """Whose face is this? Prints the name with its score, or unknown, and the nearest of the enrolled."""
    from .data.convention import read_convention
    from .data.decoding import read_pair
    from .data.pairs import BadPair, single_pair
    from .evaluate.embed import embed_pair
    from .runs.folders import run_folder
    from .serve.gallery import Gallery
    from .train.model_files import load_model

    stage = run_folder(name) / "50_predict_identity"
    if not (stage / "reference.json").is_file():
        raise UserError(f"run {name} has no gallery: face3d demo --name {name} makes one")
    made_with = json.loads((stage / "reference.json").read_text(encoding="utf-8"))
    network, card = load_model(run_folder(name) / made_with["model"] / "30_train_softmax" / "model")
    people = Gallery.load(stage / "gallery", card.weights_sha256)
    if picture and picture.suffix.lower() != ".png":
        raise UserError(f"--picture {picture}: a name that ends in .png is expected")
    near = [folder for folder in rgb.resolve().parents[:2] if (folder / "dataset.json").exists()]
    declared = near[0] if near else rgb.resolve().parent  # beside the picture, or above the person's folder
    probe = read_pair(single_pair(rgb, depth), read_convention(declared, depth_unit or None, larger_is or None))
    try:
        match = people.identify(embed_pair(network, probe, card.alignment))
    except BadPair as error:
        raise UserError(f"{rgb}: {error}: give another picture of the face") from None
    print(f"{match.name}   score {match.score:.3f}   threshold {match.threshold:.3f}")
    print("nearest: " + ", ".join(f"{person} {score:.3f}" for person, score in match.candidates))
    if picture:
        import matplotlib.pyplot as plt
        from PIL import Image

        from .evaluate.pictures import plot_match, png_of

        best = run_folder(name) / "10_align_faces" / "aligned" / f"{made_with['reference'][match.candidates[0][0]]}.png"
        figure, axes = plt.subplots(1, 2, figsize=(6, 3.4), layout="constrained")
        plot_match(axes, probe.rgb, Image.open(best), match)
        write_bytes(picture, png_of(figure))


@app.command()
def forget(
    person: Annotated[str, typer.Argument(help="name of the enrolled person")],
    name: Annotated[str, typer.Option("--run", help="run whose gallery is changed")] = "demo",
):
    """Delete a person from a gallery: the template and the name leave its files."""
    from .runs.folders import run_folder
    from .serve.gallery import forget

    stage = run_folder(name) / "50_predict_identity"
    forget(stage / "gallery", person)
    reference = json.loads((stage / "reference.json").read_text(encoding="utf-8"))
    reference["reference"].pop(person, None)
    write_json(stage / "reference.json", reference)
    print(f"{person} is no longer in the gallery of {name}; the raw pictures and the tables of the run still hold them")


def main():
    """The command line; a user's mistake is one line and exit code 2, never a traceback."""
    speak_utf8("face3d_lib.cli")
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except SystemExit as end:
        if end.code == 130:  # typer's code for Ctrl-C
            print("interrupted: what is written is whole, and the same command goes on from there", file=sys.stderr)
        raise
    except OSError as error:  # no such file, no permission, a full disk: the message names the file
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
