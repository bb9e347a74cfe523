"""face3d: run any notebook, the whole demo, or one step of it without opening a notebook."""

import errno
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer

from .base.environment import data_folder, speak_utf8
from .base.errors import UserError
from .cli_models import models
from .cli_serve import Scale, commands

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="RGB-D face recognition: notebooks as parameterised runs, and the steps of the workbook as commands.",
)


Folder = Annotated[Path, typer.Option(exists=True, file_okay=False, help="folder to read")]
Unit = Annotated[str, typer.Option(help="mm, m or pixel, for a folder without dataset.json")]
Mode = Annotated[
    Literal["template", "dlib", "facenet", "none"],
    typer.Option(help="crop by five points, the same as dlib's chips, by box and margin (legacy), or not at all"),
]
Direction = Annotated[str, typer.Option(help="farther or nearer: what a larger depth value means")]


@app.command()
def run(
    notebook: Annotated[str, typer.Argument(help="a notebook, such as 30_train_softmax")],
    name: Annotated[str, typer.Argument(metavar="RUN", help="run: a folder below runs/, such as demo or demo/rgb")],
    parameter: Annotated[
        list[str] | None, typer.Option("-p", metavar="NAME=VALUE", help="set a parameter; repeat for more")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "-f", exists=True, help="YAML file with parameters, or with a list of parameter sets that are run in turn"
        ),
    ] = None,
) -> None:
    """Run one notebook by papermill. A mistyped parameter is an error; the exit code is 0 only if every cell ran."""
    from .runs.parameters import parse_parameters, read_grid
    from .runs.runner import run_grid

    raise typer.Exit(run_grid(notebook, name, parse_parameters(parameter or []), read_grid(file)))


@app.command()
def sweep(
    file: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="YAML grid, such as notebooks/39_compare_losses.yaml")
    ],
    name: Annotated[str, typer.Argument(metavar="RUN", help="run that holds the data and, nested, all runs")],
    jobs: Annotated[int, typer.Option(min=1, help="runs side by side")] = 1,
) -> None:
    """Train many settings over one data set. Runs that are done are skipped, and a failure does not stop the others."""
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
            help="folder of raw pairs; default: that of FACE3D_DATA, else synthetic faces",
        ),
    ],
    name: Annotated[str, typer.Option(help="name of the run; default: demo, or the data folder's name")] = "",
    depth_unit: Unit = "",
    larger_is: Direction = "",
    depth_scale: Scale = None,
    mode: Mode = "template",
    epochs: Annotated[int, typer.Option(min=0, help="epochs of training; 0: those of the demo")] = 0,
    seed: Annotated[int, typer.Option(help="of split and training")] = 0,
) -> None:
    """Run the numbered notebooks in order and end with a table. If it was killed, the same command resumes."""
    from .demo import run_demo

    source = {"depth_unit": depth_unit, "larger_is": larger_is, "depth_scale": depth_scale or 0.0}
    raise typer.Exit(run_demo(data, name, source, {"mode": mode, "epochs": epochs, "seed": seed}))


@app.command()
def report(
    name: Annotated[str, typer.Argument(metavar="RUN", help="run that is reported, such as demo")],
    output: Annotated[Path | None, typer.Option(help="HTML file to write; default: report.html in the run")] = None,
    csv: Annotated[Path | None, typer.Option(help="folder for the tables as csv, in full precision")] = None,
    tex: Annotated[Path | None, typer.Option(help="folder for the tables as LaTeX (booktabs)")] = None,
    faces: Annotated[bool, typer.Option("--faces", help="show pictures of people who may be real")] = False,
) -> None:
    """Write all results of a run into one HTML file that opens without a network and prints well."""
    from .evaluate.report.page import report_run

    print(*report_run(name, output, csv, tex, faces), sep="\n")


@app.command()
def figures(
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="RUN...", help="runs of synthetic faces; if none is named: default and demo"),
    ] = None,
) -> None:
    """Copy the figures of runs into figures/, which git tracks, if every face in them is proved to be synthetic."""
    from .publish import publish

    for name in runs or ["default", "demo"]:
        print(f"{publish(name)} figures of {name}")


@app.command()
def synthesise(
    output_dir: Annotated[Path, typer.Option(help="folder to write, in the raw layout")],
    subjects: Annotated[int, typer.Option(help="people")] = 100,
    images_per_session: Annotated[int, typer.Option(help="pictures of each person in each of two sessions")] = 8,
    seed: int = 0,
    workers: Annotated[int, typer.Option(min=0, help="processes; 0 = one for each core")] = 0,
) -> None:
    """Make synthetic RGB-D faces."""
    from .synthetic.dataset import make_dataset

    frame = make_dataset(output_dir, subjects, images_per_session, seed=seed, workers=workers or None)
    print(f"{len(frame)} pairs of {frame['subject_id'].nunique()} people in {output_dir}")


@app.command()
def align(
    input_dir: Folder,
    output_dir: Annotated[Path, typer.Option(help="folder to write: crops in the same layout, and alignment.csv")],
    mode: Annotated[
        Literal["template", "dlib", "facenet", "none"] | None,
        typer.Option(help="facenet when --margin is given, else template"),
    ] = None,
    image_size: Annotated[int, typer.Option(help="side of the crop in pixels; 0: 224 in mode dlib, else 112")] = 0,
    margin: Annotated[int | None, typer.Option(help="source pixels added to the box (mode facenet)")] = None,
    random_order: Annotated[
        bool, typer.Option(help="work in random order, so that the first results are a fair sample")
    ] = False,
    workers: Annotated[int, typer.Option(min=0, help="processes; 0 = one for each core")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    depth_unit: Unit = "",
    larger_is: Direction = "",
    depth_scale: Scale = None,
) -> None:
    """Find faces and warp colour and depth alike. If it was killed, the same command resumes with the same result."""
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
        typer.Option(help="train, dev, test shares of the people; 1 0 0: everybody trains, as in the legacy project"),
    ] = ("1", "0", "0"),
    raw_dir: Annotated[
        Path | None,
        typer.Option(
            exists=True, file_okay=False, help="the folder that was aligned: its sessions, and paths for dirty.csv"
        ),
    ] = None,
    min_images: Annotated[int, typer.Option(min=1, help="a person with fewer pictures goes to dirty.csv")] = 3,
    seed: int = 0,
) -> None:
    """Write train, eval, test and dirty csv of an aligned folder; for other people gallery, probe and unknown csv."""
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


@app.command(name="evaluate")
def evaluate_files(
    file: Annotated[Path, typer.Argument(help="embeddings (.npz), a table of scores, or a list of genuine scores")],
    impostor: Annotated[Path | None, typer.Argument(metavar="[IMPOSTOR]", help="the list of impostor scores")] = None,
    protocol: Annotated[
        Path | None, typer.Option(help="pairs to compare, for embeddings: pairs.csv, or pairs.txt of LFW; default: all")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON and nothing else")] = False,
    distances: Annotated[bool, typer.Option("--distances", help="lower scores mean more alike")] = False,
    far: Annotated[
        list[float] | None, typer.Option(help="a false accept rate at which the TAR is given; repeat for more")
    ] = None,
    fta: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="failure to acquire: share of pictures in which no face was found"),
    ] = None,
    replicates: Annotated[int, typer.Option(min=2, max=100_000, help="draws of the bootstrap over people")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="seed of the bootstrap")] = 0,
) -> None:
    """Evaluate anybody's embeddings or scores: EER, AUC, d', TAR at FAR, rank-1, with intervals over people.

    An .npz holds pair_ids, subject_ids and vectors. Scores are read from the files of bob (four or five columns, csv),
    from those of pyeer (a list of genuine and a list of impostor scores), or from a csv with a header (score, label).

    Example: face3d evaluate embeddings.npz --protocol pairs.csv --json > result.json
    """
    from .evaluate.evaluation import FARS, evaluate_file
    from .runs.record import version

    found, hashes = evaluate_file(file, impostor, protocol, distances, far or FARS, fta, replicates, seed)
    if as_json:
        about = {"sha256": hashes, "seed": seed, "replicates": replicates}
        about |= {"versions": {name: version(name) for name in ("face3d", "numpy", "scipy")}}
        print(json.dumps(found.as_json() | about, indent=2, ensure_ascii=False, allow_nan=False))
        return
    for path, sha256 in hashes.items():
        print(f"{path}   SHA-256 {sha256[:16]}")
    print(found.as_text())


app.add_typer(models, name="models")
app.add_typer(commands)  # enroll, identify, verify, forget, gallery


@app.command(name="export")
def export_onnx(
    model: Annotated[
        str, typer.Argument(help="pretrained, another model of `face3d models list`, RUN:MODEL, or a folder")
    ],
    out: Annotated[Path, typer.Option(help="the .onnx file to write")],
    int8: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="pack of aligned pairs by which ranges of int8 are chosen"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON and nothing else")] = False,
) -> None:
    """Write a model as an ONNX file that takes raw aligned crops, and compare it with PyTorch.

    Example: face3d export pretrained --out pretrained.onnx
    Example: face3d export demo:rgbd/30_train_softmax --out model.onnx
    """
    from dataclasses import asdict

    from .data.pack import Pack
    from .serve.export import export_model
    from .serve.recogniser import Recogniser

    made = export_model(Recogniser.load(model), out, Pack.open(int8) if int8 else None)
    if as_json:
        print(json.dumps(asdict(made) | {"path": str(made.path)}, indent=2, ensure_ascii=False))
        return
    print(f"{made.path}: {made.precision}, {made.n_bytes / 1e6:.1f} MB")
    print(f"beside PyTorch: largest difference {made.difference:.1e}, lowest cosine {made.cosine:.6f}")
    print("read it with face3d_lib/serve/onnx_page.py, which needs onnxruntime and numpy alone")


def main() -> None:
    """The command line: a mistake of the user is one line and exit code 2, never a traceback; with --json it is JSON."""
    speak_utf8("face3d_lib.cli")
    try:
        code = app(
            prog_name="face3d", standalone_mode=False
        )  # else typer prints mistakes in the words as a box of text, and ends
        if sys.stdout:  # a full disk below the output is noticed here
            sys.stdout.flush()
        sys.exit(code)
    except UserError as error:
        _fail(str(error), 2)
    except USAGE_ERROR as error:
        if "\n" in error.format_message() or not error.format_message():
            error.show()  # the help, which a group of commands gives instead of an error
            sys.exit(error.exit_code)
        command = error.ctx.command_path if error.ctx else "face3d"
        _fail(f"{error.format_message().rstrip('.')}: see {command} --help", 2)
    except SystemExit as end:
        if end.code == 130:  # typer's code for Ctrl-C
            print("interrupted: files that were written are whole, and the same command resumes", file=sys.stderr)
        raise
    except BrokenPipeError:  # `face3d ... | head`: the reader of the output has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:  # no such file, no permission, a full disk: the message names the file
        where = f"{str(error.filename)[:300]}: " if error.filename else ""
        fix = FIXES.get(error.errno or 0, "")
        _fail(f"{where}{error.strerror or error}{': ' * bool(fix)}{fix}", 2 if error.errno in MISTAKES else 1)


USAGE_ERROR: Any = typer.BadParameter.__base__  # what typer raises for words that no command understands
MISTAKES = {
    number: "correct the path"
    for number in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP)
}
FIXES = MISTAKES | {
    errno.ENOSPC: "make room there, then give the same command again",
    errno.EDQUOT: "make room there, then give the same command again",
    errno.EROFS: "it can be read there but not changed: choose another place",
    errno.EACCES: "ask its owner, or choose another place",
    errno.EPERM: "ask its owner, or choose another place",
}


def _fail(message: str, code: int) -> NoReturn:
    line = " ".join(message.split())
    if "--json" in sys.argv:
        print(json.dumps({"error": line}, ensure_ascii=False))
    else:
        print(f"error: {line}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
