"""The commands of `face3d` that enrol people and recognise them. Each imports what it needs when it is called.

Exit codes: 0, the answer is yes (somebody is accepted, all pictures are enrolled, all pairs were answered); 3, it is no
(nobody who is enrolled, two people, a picture that was refused); 2, the command or its input is wrong; 1, the machine failed.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .base.errors import UserError
from .cli_said import print_json, progress, say_answers, say_enrolled, say_faces, say_match

if TYPE_CHECKING:
    from .evaluate.embeddings import Embeddings
    from .serve.gallery import Gallery
    from .serve.people import People
    from .serve.reading import Declared

commands = typer.Typer()  # of the first level
gallery = typer.Typer(no_args_is_help=True, help="Look at a gallery of enrolled people, check it, and change it.")
commands.add_typer(gallery, name="gallery")
NO = 3  # the exit code of an answer that is no

GalleryFolder = Annotated[Path, typer.Option("--gallery", help="folder of the gallery; made when somebody is enrolled")]
There = Annotated[Path, typer.Option("--gallery", help="folder of the gallery")]
Model = Annotated[
    str,
    typer.Option(
        help="pretrained, one of `face3d models list`, RUN:MODEL as demo:rgbd/30_train_softmax, or a folder with card.json"
    ),
]
Json = Annotated[bool, typer.Option("--json", help="print JSON and nothing else, errors included")]
Unit = Annotated[str, typer.Option(help="mm, m or pixel, where no dataset.json says it")]
Direction = Annotated[str, typer.Option(help="farther or nearer: what a larger depth value means")]
Scale = Annotated[
    float | None,
    typer.Option(
        callback=lambda value: _above_zero(value),
        help="number in a depth file times this factor = depth in the unit; default 1",
    ),
]
Threshold = Annotated[float | None, typer.Option(help="a fixed threshold instead")]
MissingDepth = Annotated[
    bool, typer.Option("--allow-missing-depth", help="without depth answer by colour alone, liveness unasked")
]

NoLiveness = Annotated[
    bool, typer.Option("--no-liveness", help="do not ask whether depth shows a face or a photograph that is held up")
]
SearchBy = Annotated[
    str,
    typer.Option(
        help="memory, faiss, faiss-pq (approximate), or a Qdrant server such as http://localhost:6333, which gets a copy "
        "of the templates (with --gallery)"
    ),
]


@commands.command()
def enroll(
    folder: GalleryFolder,
    source: Annotated[
        Path, typer.Argument(metavar="FOLDER|RGB", help="a folder per person, as raw data; or a picture")
    ],
    depth: Annotated[Path | None, typer.Argument(help="the picture's depth: .npy or 16-bit .png")] = None,
    name: Annotated[str, typer.Option(help="the person in the picture")] = "",
    model: Model = "",
    far: Annotated[
        float | None, typer.Option(help="share of strangers who may be accepted; 0.01 for a new gallery")
    ] = None,
    threshold: Threshold = None,
    strangers: Annotated[
        Path | None,
        typer.Option(help="folder of people who will not be enrolled, by whose scores thresholds are chosen"),
    ] = None,
    keep_crops: Annotated[
        bool,
        typer.Option(
            "--keep-crops",
            help="also keep the pixels of the faces, not encrypted, so that the model can be changed later",
        ),
    ] = False,
    anyway: Annotated[bool, typer.Option("--anyway", help="enrol pictures that are refused for their quality")] = False,
    as_json: Json = False,
    depth_unit: Unit = "",
    larger_is: Direction = "",
    depth_scale: Scale = None,
) -> None:
    """Enrol people from one pair, or from a folder that holds a folder per person. Nothing is trained.

    Each picture is judged first; what is refused is said with what to do. Exit code 3: a picture was not enrolled.

    Example: face3d enroll faces --gallery people
    Example: face3d enroll anna.png anna.npy --name anna --gallery people
    """
    if source.is_dir() and (name or depth):
        raise UserError(f"{source}: a folder names its people itself: leave out --name and DEPTH")
    if not source.is_dir() and not (name and depth):
        raise UserError(f"{source}: give a folder, or a picture with its depth and --name")
    declared = (depth_unit or None, larger_is or None, depth_scale or None)
    people, choose = _open_to_enrol(folder, model, (far, threshold, strangers, keep_crops), declared, as_json)
    if depth is None:
        from .serve.batches import enrol_folder

        done = enrol_folder(people, source, declared, anyway, progress(as_json), choose)
    else:
        from .serve.names import checked

        name, seen = checked(name), people.see(source, depth, declared)
        choose()
        done = people.enrol_seen(name, [seen], anyway)
    say_enrolled(people, done, as_json)
    raise typer.Exit(NO if any(one.status == "refused" for one in done) else 0)


@commands.command()
def identify(
    rgb: Annotated[
        Path, typer.Argument(metavar="RGB|FOLDER|CSV", help="picture; or many: a folder per person, or a csv")
    ],
    depth: Annotated[Path | None, typer.Argument(help="its depth: .npy or 16-bit .png")] = None,
    folder: Annotated[Path | None, typer.Option("--gallery", help="folder of the gallery that is asked")] = None,
    name: Annotated[str, typer.Option("--run", help="run whose gallery is asked, without --gallery")] = "demo",
    k: Annotated[int, typer.Option("--top", min=1, help="how many of the nearest people are named")] = 5,
    search: SearchBy = "memory",
    as_json: Json = False,
    allow_missing_depth: MissingDepth = False,
    no_liveness: NoLiveness = False,
    depth_unit: Unit = "",
    larger_is: Direction = "",
    depth_scale: Scale = None,
    picture: Annotated[
        Path | None, typer.Option(help="write probe and best match side by side to this PNG (with --run)")
    ] = None,
) -> None:
    """Whose face is this? Says who is accepted, or that nobody is, with the score and the nearest of the enrolled.

    Exit code 0: somebody is accepted (of many pairs: all were answered); 3: nobody who is enrolled. A csv has the columns rgb
    and depth, with paths from its own folder.

    Example: face3d identify anna2.png anna2.npy --gallery people
    Example: face3d identify probes.csv --gallery people --json
    """
    declared = (depth_unit or None, larger_is or None, depth_scale or None)
    if folder is None:
        if search != "memory":
            raise UserError("--search belongs to --gallery: the gallery of a run is searched in memory")
        _identify_in_run(rgb, depth, name, declared, picture, as_json, not no_liveness)
        return
    if picture:
        raise UserError("--picture belongs to --run: a gallery keeps no pictures")
    from .serve.gallery import exists, open_gallery
    from .serve.people import People
    from .serve.reading import existing

    if not exists(folder):
        open_gallery(folder)  # says what makes one, before anything slow
    if rgb.is_dir() or rgb.suffix.lower() == ".csv":
        if depth:
            raise UserError(f"{rgb}: names its depth maps itself: leave out DEPTH")
        from .serve.batches import identify_many, pairs_of

        pairs = pairs_of(rgb)
        asked = (declared, k, allow_missing_depth, not no_liveness)
        people = People.open(folder, search=search)
        rows = identify_many(people, pairs, *asked, progress(as_json))
        say_answers(rows, as_json, people.names if rgb.is_dir() else ())
        raise typer.Exit(0 if all(row["error"] is None for row in rows) else NO)
    rgb = existing(rgb, "picture")
    if depth is None and not allow_missing_depth:
        raise UserError(f"{rgb}: its depth is not named: give the file beside it")
    depth = existing(depth, "depth") if depth else None
    people = People.open(folder, search=search)
    match = people.identify(rgb, depth, declared, k, allow_missing_depth, not no_liveness)
    say_match(match, people.gallery.note, as_json)
    raise typer.Exit(0 if match.known else NO)


@commands.command()
def verify(
    rgb: Annotated[Path, typer.Argument(help="picture")],
    depth: Annotated[Path, typer.Argument(help="its depth")],
    rgb2: Annotated[Path, typer.Argument(help="another picture")],
    depth2: Annotated[Path, typer.Argument(help="its depth")],
    model: Model = "pretrained",
    far: Annotated[float | None, typer.Option(help="share of two people who may pass as one; 0.01 by default")] = None,
    threshold: Threshold = None,
    as_json: Json = False,
    allow_missing_depth: MissingDepth = False,
    no_liveness: NoLiveness = False,
    depth_unit: Unit = "",
    larger_is: Direction = "",
    depth_scale: Scale = None,
) -> None:
    """Do two pairs show the same person? Exit code 0: yes; 3: no.

    Example: face3d verify anna1.png anna1.npy anna2.png anna2.npy
    Example: face3d verify anna1.png anna1.npy anna2.png anna2.npy --far 0.001
    """
    _one_of(far, threshold)
    from .serve.reading import existing, naming, open_pair

    declared = (depth_unit or None, larger_is or None, depth_scale or None)
    files = [
        (existing(rgb, "picture"), existing(depth, "depth")),
        (existing(rgb2, "picture"), existing(depth2, "depth")),
    ]
    pairs = [open_pair(*pair, declared)[0] for pair in files]
    from .serve.people import verify as compare
    from .serve.recogniser import Recogniser
    from .serve.threshold import FAR

    recogniser = Recogniser.load(model)
    seen = []
    for (file, _), pair in zip(files, pairs, strict=True):
        with naming(file):
            seen.append(recogniser.see(pair, allow_missing_depth=allow_missing_depth))
    a, b = seen
    verdict = compare(recogniser, a, b, FAR if far is None else far, threshold, not no_liveness)
    if as_json:
        print_json(verdict)
    else:
        said = "the same person" if verdict.same else verdict.refused or "two people"
        print(f"{said}   score {verdict.score:.3f}   threshold {verdict.threshold:.3f} ({verdict.note})")
        for (file, _), count in zip(files, verdict.faces, strict=True):
            say_faces(count, str(file))
    raise typer.Exit(0 if verdict.same else NO)


@gallery.command()
@commands.command()
def forget(
    person: Annotated[str, typer.Argument(help="name of the enrolled person")],
    name: Annotated[str, typer.Option("--run", help="run whose gallery is changed, without --gallery")] = "demo",
    folder: Annotated[Path | None, typer.Option("--gallery", help="folder of the gallery that is changed")] = None,
    picture: Annotated[
        str | None, typer.Option(help="forget only this picture of the person, as `face3d gallery list` names it")
    ] = None,
    as_json: Json = False,
) -> None:
    """Delete a person, or one picture of a person, from a gallery: nothing of it stays in any of the gallery's files.

    `face3d gallery forget` is the same command.

    Example: face3d forget anna --gallery people
    """
    from .serve import gallery as store
    from .serve.identify import gallery_folder

    forgotten = store.forget(folder or gallery_folder(name), person, picture)
    if as_json:
        print_json({"forgotten": forgotten, "picture": picture})
        return
    print(f"{picture or forgotten} is no longer in the gallery of {folder or name}")
    if folder is None:
        print("the raw pictures and the tables, figures and executed notebooks of the run still show the person")


@gallery.command("list")
def list_people(folder: There, as_json: Json = False) -> None:
    """Who is enrolled, with how many pictures, and the threshold with what it was chosen on.

    Example: face3d gallery list --gallery people
    """
    from .serve.gallery import open_gallery

    found = open_gallery(folder)
    people = [
        {"name": name, "pictures": [picture.pair_id for picture in shown]}
        for name, shown in zip(found.names, found.pictures, strict=True)
    ]
    if as_json:
        keys = ("model", "model_id", "threshold", "development_far", "note", "keep_crops")
        print_json({**{key: getattr(found, key) for key in keys}, "people": people})
        return
    print(f"{len(people)} people   model {found.model}   threshold {found.threshold:.3f} ({found.note})")
    for person in people:
        print(f"{person['name']}   {len(person['pictures'])}: {', '.join(person['pictures'])}")


@gallery.command()
def check(
    folder: There,
    strangers: Annotated[
        Path | None, typer.Option(help="folder of people who are not enrolled, as raw data, who are asked as well")
    ] = None,
    as_json: Json = False,
    depth_unit: Unit = "",
    larger_is: Direction = "",
    depth_scale: Scale = None,
) -> None:
    """Does it work on my gallery? Each enrolled picture is asked for as if it were new, and as if it were a stranger's.

    Rates have 95 % intervals over people. What so few pictures cannot say is left out, with the reason.

    Example: face3d gallery check --gallery people --strangers other_faces
    """
    from .serve.check import check as look
    from .serve.check_shown import as_text
    from .serve.gallery import open_gallery

    found, vectors = open_gallery(folder), None
    if strangers:
        declared = (depth_unit or None, larger_is or None, depth_scale or None)
        vectors = _seen_by(found, folder, strangers, declared, as_json)
    result = look(found, vectors)
    print_json(result) if as_json else print(as_text(result))


@gallery.command("threshold")
def choose_threshold(
    folder: There,
    far: Annotated[float | None, typer.Option(help="share of strangers who may be accepted")] = None,
    threshold: Threshold = None,
    strangers: Annotated[
        Path | None, typer.Option(help="folder of other people before your camera, by whose scores it is chosen")
    ] = None,
    as_json: Json = False,
    depth_unit: Unit = "",
    larger_is: Direction = "",
    depth_scale: Scale = None,
) -> None:
    """Choose from which score on the gallery names anybody. What is chosen also holds for people who are enrolled later.

    Example: face3d gallery threshold --gallery people --far 0.001
    Example: face3d gallery threshold --gallery people --strangers other_faces
    """
    from .serve.gallery import open_gallery
    from .serve.threshold import choose

    _one_of(far, threshold)
    found, table = open_gallery(folder), None
    if far is None and threshold is None and strangers is None:
        raise UserError("nothing to choose by: give --far, --threshold or --strangers")
    if strangers:
        from .serve.strangers import Strangers

        declared = (depth_unit or None, larger_is or None, depth_scale or None)
        table = Strangers.measure(_seen_by(found, folder, strangers, declared, as_json), strangers.name)
    found = choose(folder, far, threshold, table)
    if as_json:
        print_json({"threshold": found.threshold, "development_far": found.development_far, "note": found.note})
    else:
        print(f"threshold {found.threshold:.3f} ({found.note})")


@gallery.command()
def rename(
    folder: There,
    name: Annotated[str, typer.Argument(help="name of the enrolled person")],
    new: Annotated[str, typer.Argument(help="the new name")],
    as_json: Json = False,
) -> None:
    """Give an enrolled person another name.

    Example: face3d gallery rename anna "Anna Smith" --gallery people
    """
    from .serve.gallery import change

    found = change(folder, lambda before: before.rename(name, new))
    print_json({"people": list(found.names)}) if as_json else print(f"{name} is now called {new}")


@gallery.command()
def sync(
    folder: There,
    drop: Annotated[bool, typer.Option("--drop", help="delete the copy from the server")] = False,
    gone: Annotated[bool, typer.Option("--gone", help="the server no longer exists: forget its address")] = False,
    as_json: Json = False,
) -> None:
    """Make the server that has a copy of a gallery hold exactly its templates (identify --search makes the first copy).

    Example: face3d gallery sync --gallery people
    """
    from .serve.searched import copy_to, drop_copy

    at = drop_copy(folder, gone) if drop or gone else copy_to(folder).server
    done = "forgotten" if gone else "deleted" if drop else "up to date"
    print_json({"copy": at, "is": done}) if as_json else print(f"the copy at {at} is {done}")


@gallery.command("re-embed")
def re_embed(folder: There, model: Model, as_json: Json = False) -> None:
    """Move a gallery to another model, from the pixels that --keep-crops kept. The threshold is chosen anew.

    Example: face3d gallery re-embed --gallery people --model demo:rgbd/30_train_softmax
    """
    from .serve import people
    from .serve.gallery import open_gallery
    from .serve.recogniser import Recogniser

    open_gallery(folder)
    moved = people.re_embed(folder, Recogniser.load(model), progress(as_json))
    if as_json:
        print_json({"model": moved.model, "model_id": moved.model_id, "threshold": moved.threshold, "note": moved.note})
    else:
        print(f"{len(moved.names)} people   model {moved.model}   threshold {moved.threshold:.3f} ({moved.note})")


def _open_to_enrol(
    folder: Path,
    model: str,
    chosen: tuple[float | None, float | None, Path | None, bool],
    declared: "Declared",
    as_json: bool,
) -> "tuple[People, Callable[[], None]]":
    """(the gallery, what gives it far, threshold, strangers and keep_crops as they were chosen if it is there already).

    The second is called when the pictures have been found usable, so that a mistake changes nothing.
    """
    from .serve.batches import strangers_of
    from .serve.gallery import exists, open_gallery
    from .serve.people import People
    from .serve.recogniser import DEFAULT, Recogniser
    from .serve.strangers import Strangers
    from .serve.threshold import FAR

    far, threshold, strangers, keep_crops = chosen
    _one_of(far, threshold)
    recogniser = Recogniser.load(model) if model else None
    table = None
    if strangers:
        recogniser = recogniser or Recogniser.load(open_gallery(folder).model if exists(folder) else DEFAULT)
        vectors = strangers_of(strangers, recogniser, declared, progress(as_json))
        table = Strangers.measure(vectors, strangers.name)
    people = People.open(folder, recogniser, FAR if far is None else far, threshold, keep_crops, table)

    def choose() -> None:
        if exists(folder) and (keep_crops or any(value is not None for value in (far, threshold, table))):
            people.choose(far, threshold, table, keep_crops or None)

    return people, choose


def _seen_by(gallery: "Gallery", folder: Path, strangers: Path, declared: "Declared", as_json: bool) -> "Embeddings":
    """The vectors of a folder of people, by the model of the gallery in `folder`."""
    from .serve.batches import strangers_of
    from .serve.recogniser import Recogniser

    recogniser = Recogniser.load(gallery.model)
    gallery.require_model(recogniser.model_id, folder)
    return strangers_of(strangers, recogniser, declared, progress(as_json))


def _one_of(far: float | None, threshold: float | None) -> None:
    if far is not None and threshold is not None:
        raise UserError("--far chooses a threshold and --threshold gives one: leave one of them out")


def _identify_in_run(
    rgb: Path,
    depth: Path | None,
    run: str,
    declared: "Declared",
    picture: Path | None,
    as_json: bool,
    liveness: bool,
) -> None:
    from .serve.identify import check_target, existing, identify, write_comparison

    if depth is None:
        raise UserError(f"{rgb}: its depth is not named: give the file beside it")
    rgb, depth = existing(rgb, "picture"), existing(depth, "depth")
    if picture:
        check_target(picture, run, rgb, depth)
    answer = identify(run, rgb, depth, declared, liveness)
    say_match(answer.match, answer.note, as_json)
    if picture:
        write_comparison(picture, answer)
        if not as_json:
            print(f"-> {picture}")
    raise typer.Exit(0 if answer.match.known else NO)


def _above_zero(value: float | None) -> float | None:
    if value is not None and not 0 < value < float("inf"):
        raise UserError(f"--depth-scale {value:g}: a number above 0 is expected, such as 0.1")
    return value
