"""face3d: run any notebook, the whole demo, or one step of it without opening a notebook."""

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from .atomic import UserError
from .paths import RUNS

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="RGB-D face recognition: notebooks as parameterised runs, and the steps of the workbook as commands.",
)

Folder = Annotated[Path, typer.Option(exists=True, file_okay=False, help="folder to read")]
Unit = Annotated[str, typer.Option(help="mm, m or pixel, for a folder without dataset.json")]
Direction = Annotated[str, typer.Option(help="farther or nearer: what a larger depth value means")]


@app.command()
def run(
    notebook: Annotated[str, typer.Argument(help="a notebook, such as 30_train_softmax")],
    name: Annotated[str, typer.Argument(metavar="RUN", help="run: a folder below runs/, such as demo or demo/rgb")],
    parameter: Annotated[list[str], typer.Option("-p", metavar="NAME=VALUE", help="set a parameter; repeat for more")] = (),
    file: Annotated[Path | None, typer.Option("-f", exists=True, help="YAML file of parameters; a list of them is run in turn")] = None,
):
    """Run one notebook with papermill, strictly: unknown or mistyped parameters are errors, the exit code is true."""
    from .run import parse_parameters, read_grid, run_notebook

    given = parse_parameters(parameter)
    worst = 0
    for more in read_grid(file):
        target = more.pop("run", name)
        worst = max(worst, run_notebook(notebook, target, {**more, **given}))
    raise typer.Exit(worst)


@app.command()
def demo(
    data: Annotated[Path | None, typer.Option(envvar="FACE3D_DATA", help="folder of raw pairs; without it, synthetic faces")] = None,
    name: Annotated[str | None, typer.Option(help="the run; demo, or the data folder's name")] = None,
    depth_unit: Unit = "",
    larger_is: Direction = "",
    mode: Annotated[Literal["template", "facenet", "none"], typer.Option(help="alignment; none = the unaligned baseline")] = "template",
    seed: Annotated[int, typer.Option(help="of split and training")] = 0,
    epochs: Annotated[int, typer.Option(help="of training; 0 = the demo's own")] = 0,
):
    """Run the numbered notebooks in order and end with a table. Started again, it goes on where it stopped."""
    from .demo import run_demo

    raise typer.Exit(run_demo(data, name, depth_unit, larger_is, mode, seed, epochs))


@app.command()
def synthesise(
    output_dir: Annotated[Path, typer.Option(help="folder to write, in the raw layout")],
    subjects: Annotated[int, typer.Option(help="people")] = 100,
    images_per_session: Annotated[int, typer.Option(help="pictures of each person in each of two sessions")] = 8,
    seed: int = 0,
    workers: Annotated[int, typer.Option(help="processes; 0 = one for each core")] = 0,
):
    """Make synthetic RGB-D faces."""
    from .synthetic import make_dataset

    frame = make_dataset(output_dir, subjects, images_per_session, seed=seed, workers=workers or None)
    print(f"{len(frame)} pairs of {frame['subject_id'].nunique()} people in {output_dir}")


@app.command()
def align(
    input_dir: Folder,
    output_dir: Annotated[Path, typer.Option(help="folder to write: crops in the same layout, and alignment.csv")],
    mode: Annotated[Literal["template", "facenet", "none"] | None, typer.Option(help="facenet when --margin is given, else template")] = None,
    image_size: Annotated[int, typer.Option(help="side of the crop in pixels")] = 112,
    margin: Annotated[int | None, typer.Option(help="source pixels added to the box (mode facenet)")] = None,
    random_order: Annotated[bool, typer.Option(help="work in random order: what is there early is a fair sample")] = False,
    workers: Annotated[int, typer.Option(help="processes; 0 = one for each core")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    depth_unit: Unit = "",
    larger_is: Direction = "",
):
    """Find faces and warp colour and depth alike. Kill it anywhere and start it again: the same files come out."""
    from .align import AlignSettings, align_folder

    chosen = mode or ("template" if margin is None else "facenet")
    settings = AlignSettings(mode=chosen, image_size=image_size, margin=44 if margin is None else margin)
    table = align_folder(
        input_dir, output_dir, settings, workers=workers or None, device=device, random_order=random_order,
        depth_unit=depth_unit or None, larger_is=larger_is or None,
    )  # fmt: skip
    print(table["status"].value_counts().to_string(header=False))
    print(f"{len(table)} pairs -> {output_dir / 'alignment.csv'}")


@app.command()
def split(
    input_dir: Folder,
    output_dir: Annotated[Path, typer.Option(help="folder to write the csv files to")],
    ratios: Annotated[tuple[str, str, str], typer.Option(help="train, eval, test shares of each person's pictures")] = ("0.7", "0.2", "0.1"),
    people: Annotated[tuple[str, str, str], typer.Option(help="train, dev, test shares of the people; 1 0 0: everybody trains, as in 2019")] = ("1", "0", "0"),
    min_images: Annotated[int, typer.Option(help="a person with fewer pictures goes to dirty.csv")] = 3,
    seed: int = 0,
):
    """Write train, eval, test and dirty csv of an aligned folder (and gallery, probe, unknown for people not trained on)."""
    from dataclasses import fields

    from .splits import SplitSettings, split_folder

    division = split_folder(input_dir, output_dir, SplitSettings(ratios, people, min_images=min_images, seed=seed))
    for field in fields(division):
        print(f"{field.name:8s}{len(getattr(division, field.name)):8d}")
    print(f"-> {output_dir}")


@app.command()
def identify(
    rgb: Annotated[Path, typer.Argument(help="picture")],
    depth: Annotated[Path, typer.Argument(help="its depth: .npy or 16-bit .png")],
    name: Annotated[str, typer.Option("--run", help="run whose gallery is asked")] = "demo",
    depth_unit: Unit = "mm",
    larger_is: Direction = "farther",
    picture: Annotated[Path | None, typer.Option(help="write probe and best match side by side to this PNG")] = None,
):
    """Whose face is this? Prints the name with its score, or unknown."""
    from .identify import identify_files

    print(identify_files(RUNS / name, rgb, depth, depth_unit, larger_is, picture))


@app.command()
def forget(
    subject: Annotated[str, typer.Argument(help="name of the enrolled person")],
    name: Annotated[str, typer.Option("--run", help="run whose gallery is changed")] = "demo",
):
    """Delete a person from a gallery."""
    from .gallery import Gallery

    Gallery.open(RUNS / name / "50_predict_identity" / "gallery").forget(subject)
    print(f"{subject} is no longer in the gallery of {name}")


def main():
    """The command line; a user's mistake is one line and exit code 2, never a traceback."""
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except (json.JSONDecodeError, KeyboardInterrupt) as error:
        print(f"error: {type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
