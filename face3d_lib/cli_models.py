"""The commands of `face3d` that fetch, publish and import models. Each imports what it needs when it is called."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from .base.errors import UserError

models = typer.Typer(no_args_is_help=True, help="Models that others trained: list, get, publish, import them.")
Source = Annotated[str, typer.Option("--from", help="a folder, an address (https://...), or hf:USER/REPOSITORY")]
Json = Annotated[bool, typer.Option("--json", help="print JSON and nothing else")]


@models.command("list")
def list_models(source: Source = "", as_json: Json = False) -> None:
    """Which models there are: those that come along, those in the cache, and those of a source.

    Example: face3d models list --from https://example.org/models
    """
    from .serve.shelf import at_hand

    cards = at_hand()
    rows = [_row(name, where, card) for name, (where, card) in cards.items()]
    if source:
        from .serve.zoo import read_index

        rows += [
            {"model": name, "where": source, "weights_sha256": entry.weights_sha256, "n_bytes": entry.n_bytes}
            for name, entry in read_index(source).models.items()
            if name not in cards
        ]
    if as_json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    for row in rows:
        sees = f"{row['modality']} {row['backbone']}" if "modality" in row else f"{row['n_bytes'] / 1e6:.1f} MB"
        print(
            f"{row['model']:24s}{sees:16s}{str(row['weights_sha256'])[:12]}   {row['where']:14s}{row.get('data', '')}".rstrip()
        )


def _row(name: str, where: str, card: dict[str, Any]) -> dict[str, Any]:
    """What `--json` prints of a model, from its card as JSON."""
    network = {key: card["architecture"].get(key) for key in ("modality", "backbone")}
    facts = {key: card.get(key) for key in ("weights_sha256", "metrics")}
    return {"model": name, "where": where} | network | facts | (card.get("about") or {})


@models.command()
def get(
    name: Annotated[str, typer.Argument(help="the model's name at the source")],
    source: Source = "",
    as_json: Json = False,
) -> None:
    """Fetch a model into the cache, once. What was cut goes on where it stopped; what was altered is refused.

    Example: face3d models get lab-rgbd --from https://example.org/models
    """
    from .serve.zoo import get_model
    from .train.model_files import read_card

    folder = get_model(name, source)
    card = read_card(folder)
    if as_json:
        print(
            json.dumps(
                {"folder": str(folder)} | _row(name, "in the cache", card.model_dump(mode="json")),
                indent=2,
                ensure_ascii=False,
            )
        )
        return
    print(f"{name} -> {folder}")
    for what, text in (card.about.model_dump() if card.about else {}).items():
        print(f"{what}: {text}")
    print(f"use it as: --model {name}")


@models.command()
def push(
    model: Annotated[str, typer.Argument(help="a model's folder, or RUN:MODEL")],
    to: Annotated[str, typer.Option(help="a folder, or hf:USER/REPOSITORY")],
    name: Annotated[str, typer.Option(help="what the model is called there")],
    data: Annotated[str, typer.Option(help="what it was trained on")],
    protocol: Annotated[str, typer.Option(help="how its metrics were measured")],
    licence: Annotated[str, typer.Option(help="under which the weights may be used")],
    command: Annotated[str, typer.Option(help="the command that trained it")],
    half: Annotated[bool, typer.Option("--half", help="publish float16 weights, of half the size")] = False,
    as_json: Json = False,
) -> None:
    """Publish a model: weights, card and index. Nothing is published without data, protocol, licence and command.

    The names of the people whom it was trained on stay here, as does the classifier that names them.

    Example: face3d models push demo:rgbd/30_train_softmax --to models --name demo-rgbd --data "synthetic faces" --protocol
    "people never seen" --licence CC0-1.0 --command "make demo"
    """
    from .serve.models import folder_of
    from .serve.zoo import for_others, push_model
    from .train.model_files import About, read_card

    folder = folder_of(model)
    told = {"data": data, "protocol": protocol, "licence": licence, "command": command}
    if empty := [what for what, text in told.items() if not text.strip()]:
        raise UserError(f"--{empty[0]}: must not be empty: say it in a few words")
    about = About(**told)
    with for_others(folder, half) as published:
        push_model(published, read_card(published), to, name, about)
    if as_json:
        print(json.dumps({"model": name, "to": to} | about.model_dump(), indent=2, ensure_ascii=False))
    else:
        print(f"{model} -> {to}/{name}; get it by: face3d models get {name} --from {to}")


@models.command("import")
def import_checkpoint(
    file: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="a .pkl or .pth file of the legacy project")
    ],
    classes: Annotated[
        Path,
        typer.Option(exists=True, dir_okay=False, help="the people it was trained on: one name a line, in their order"),
    ],
    out: Annotated[Path, typer.Option(help="folder to write")],
    as_json: Json = False,
) -> None:
    """Import a checkpoint of the legacy project: the weights of a ResNet-50 that sees colour and depth in four channels.

    Example: face3d models import resnet50.pkl --classes people.txt --out legacy
    """
    from .serve.models import import_legacy

    names = [line.strip() for line in classes.read_text(encoding="utf-8").splitlines() if line.strip()]
    card = import_legacy(file, names, out)
    if as_json:
        print(
            json.dumps(
                {"folder": str(out)} | _row(out.name, str(out), card.model_dump(mode="json")),
                indent=2,
                ensure_ascii=False,
            )
        )
    else:
        print(f"{file} -> {out}: {len(card.classes)} people, crops of mode {card.alignment.mode}")
