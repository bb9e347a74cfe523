"""The parameters of a notebook: declared in its tagged cell, set by a command line or a YAML file, and checked."""

import ast
import difflib
import io
import keyword
import tokenize
from pathlib import Path
from types import GenericAlias
from typing import TYPE_CHECKING, Annotated, Any, Literal

from ..base import paths
from ..base.errors import UserError, first_line

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo


def find_notebook(name: str | Path) -> Path:
    """The notebook file: a path, or a name in notebooks/ with or without .ipynb."""
    for path in (Path(name), paths.NOTEBOOKS / f"{Path(name).stem}.ipynb"):
        if path.suffix == ".ipynb" and path.is_file():
            return path.resolve()
    names = [path.stem for path in sorted(paths.NOTEBOOKS.glob("*.ipynb"))]
    near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.3) or names
    raise UserError(f"there is no notebook {name}; in notebooks/ there is {', '.join(near) or 'none'}")


def read_cells(notebook: Path) -> list:
    """The cells of a notebook file; UserError when the file is not a notebook."""
    import nbformat

    try:
        return nbformat.read(notebook, as_version=4).cells
    except Exception as error:  # for a damaged file nbformat raises many kinds of exception
        raise UserError(f"{notebook}: not a readable notebook ({first_line(str(error))})") from None


def parameter_model(notebook: Path) -> "type[BaseModel]":
    """The pydantic model of a notebook's parameters; see `model_of_cells`."""
    return model_of_cells(read_cells(notebook), notebook.name)


def model_of_cells(cells: list, name: str) -> "type[BaseModel]":
    """A pydantic model of the cell tagged `parameters`: title = type as written, description = the comment.

    Every statement must be `name: type = literal`; anything else there, or no `run: str`, is a UserError, which calls
    the notebook `name`.
    """
    from pydantic import ConfigDict, create_model

    sources = [c.source for c in cells if "parameters" in c.metadata.get("tags", [])]
    if len(sources) != 1:
        raise UserError(f"{name}: one cell must be tagged `parameters`, {len(sources)} are")
    try:
        statements, comments = ast.parse(sources[0]).body, trailing_comments(sources[0])
    except SyntaxError as error:
        raise UserError(f"{name}: the cell tagged `parameters` is not Python: {error}") from None
    fields: dict[str, Any] = {}
    for statement in statements:
        try:
            parameter, kind, field = _declared(statement, comments)
            fields[parameter] = (kind, field)
        except (TypeError, ValueError):
            wrong = ast.unparse(statement).splitlines()[0]
            message = f"{name}: a parameter is `name: type = literal`, not `{wrong}`"
            raise UserError(message) from None
    if "run" not in fields:
        raise UserError(f"{name}: the parameters must declare `run: str`")
    config = ConfigDict(extra="forbid", validate_default=True, protected_namespaces=())
    return create_model(Path(name).stem, __config__=config, **fields)


def _declared(statement: ast.stmt, comments: dict[int, str]) -> "tuple[str, Any, FieldInfo]":
    """Name, type and field of a parameter's declaration; ValueError or TypeError if the statement is none."""
    from pydantic import Field

    match statement:
        case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation, value=ast.expr() as value):
            title, comment = ast.unparse(annotation), comments.get(statement.end_lineno or 0, "")
            return name, _kind(annotation), Field(ast.literal_eval(value), title=title, description=comment)
    raise ValueError


def _kind(node: ast.expr) -> Any:
    """The type of an annotation, as pydantic reads it: numbers, text, list, Literal, unions; else ValueError."""
    from pydantic import BeforeValidator, Field

    number = BeforeValidator(_refuse_bool)
    match node:
        case ast.Name(id="int"):
            return Annotated[int, number]
        case ast.Name(id="float"):
            return Annotated[float, number, Field(allow_inf_nan=False)]
        case ast.Name(id="str" | "bool" as name):
            return {"str": str, "bool": bool}[name]
        case ast.Constant(value=None):
            return None
        case ast.Subscript(value=ast.Name(id="list"), slice=inner):
            return GenericAlias(list, (_kind(inner),))
        case ast.Subscript(value=ast.Name(id="Literal"), slice=inner):
            return Literal[ast.literal_eval(inner)]
        case ast.BinOp(op=ast.BitOr(), left=left, right=right):
            return _kind(left) | _kind(right)
    raise ValueError


def _refuse_bool(value: object) -> object:
    if isinstance(value, bool):  # pydantic, like Python, takes True for 1
        raise ValueError("not a truth value")
    return value


def trailing_comments(source: str) -> dict[int, str]:
    """Line number -> comment on that line."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}


def check_parameters(model: "type[BaseModel]", values: dict, strict: bool = False) -> dict:
    """All parameters of a notebook: its defaults, replaced by `values`; text becomes the declared type, unless strict.

    UserError names the parameter, its type and the value; for an unknown parameter, the nearest ones and all declared.
    """
    from pydantic import ValidationError

    fields = model.model_fields
    for name in values:
        if not name.isidentifier() or keyword.iskeyword(name):
            raise UserError(f"{name!r} cannot be the name of a parameter")
        if name not in fields:
            near = difflib.get_close_matches(name, fields, cutoff=0.5)
            hint = f" (did you mean {' or '.join(near)}?)" if near else ""
            declared = [f"  {n}: {f.title} = {f.default!r}  # {f.description}" for n, f in fields.items()]
            raise UserError("\n".join([f"{model.__name__} has no parameter {name}{hint}; it declares", *declared]))
    if not strict:
        values = {name: _from_text(value, fields[name].title or "") for name, value in values.items()}
    try:
        return model.model_validate(values, strict=strict).model_dump()
    except ValidationError as error:
        first = error.errors()[0]
        name, given = str(first["loc"][0]), first["input"]
        wrong = f"{model.__name__}: parameter {name} is {given!r} ({type(given).__name__})"
        raise UserError(f"{wrong}; {fields[name].title} is declared: {first['msg']}") from None


def parameters_for(notebook: Path, run: str, given: dict | None = None) -> dict:
    """All parameters with which `notebook` runs in `run`: `given` (values or text) over its own defaults.

    A relative path means one in the folder from which the command was called, not in that of the notebook. A
    parameter is a path where its comment says so: one with "folder of ..." always holds a folder, and one with
    "file with ..." holds a file where such a file exists, else a name. UserError as `check_parameters`.
    """
    model = parameter_model(notebook)
    values = check_parameters(model, dict(given or {}) | {"run": run})
    for name in (given or {}).keys() - {"run"}:
        comment, value = model.model_fields[name].description or "", values[name]
        if isinstance(value, str) and value:
            path = Path(value).expanduser()
            if is_folder(model.model_fields[name]) or ("file with " in comment and path.is_file()):
                values[name] = str(path.absolute())
    return values


def is_folder(field: "FieldInfo") -> bool:
    """Whether a field of a parameter model holds a folder: its comment says "folder of ..."."""
    return "folder of " in (field.description or "")


def as_words(parameters: dict) -> list[str]:
    """Parameters as the words of a command line: ["-p", "epochs=3", "-p", "models=a,b"]."""
    texts = {
        name: ",".join(map(str, value)) if isinstance(value, list) else value for name, value in parameters.items()
    }
    return [word for name, text in texts.items() for word in ("-p", f"{name}={text}")]


def _from_text(value: object, title: str) -> object:
    """Text of a command line in a form that pydantic reads: "none" is None, and a list may be a,b or [1, 2]."""
    if not isinstance(value, str) or title == "str":
        return value
    if "None" in title and value.lower() in ("none", "null", "~", ""):
        return None
    if title.startswith("list["):
        inside = value.strip().removeprefix("[").removesuffix("]")
        return [part.strip(" '\"") for part in inside.split(",")] if inside else []
    if title.startswith("Literal["):
        choices = ast.literal_eval(title.removeprefix("Literal[").partition("]")[0] + ",")
        return next((choice for choice in choices if str(choice) == value), value)
    return value


def parse_parameters(pairs: list[str]) -> dict[str, str]:
    """["lr=1e-3", "modality=rgb"] of a command line as a dict of text; UserError for anything else."""
    values = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise UserError(f"-p {pair}: name=value expected")
        if name == "run":
            raise UserError(f"-p {pair}: the run is named by the argument RUN")
        if name in values:
            raise UserError(f"-p {pair}: {name} is given twice")
        values[name] = value
    return values


def read_yaml(path: Path) -> dict | list | str | None:
    """A YAML file in which every value is the text that is written there, in lists and mappings.

    YAML itself would take 010 for 8, 2024-01-01 for a date and 1e-3 for a text. Here a value is later converted to the
    type that its parameter declares. UserError where the file cannot be read.
    """
    import yaml

    try:
        return yaml.BaseLoader(Path(path).read_text(encoding="utf-8")).get_single_data()
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: {' '.join(str(error).split())[:160]}: a YAML file is expected") from None


def read_grid(path: Path | None) -> list[dict]:
    """The parameter sets of a YAML file: one mapping, or a list of them; without a file one empty set."""
    if path is None:
        return [{}]
    entries = read_yaml(path)
    entries = [entries] if isinstance(entries, dict) else entries
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"{path}: a mapping of parameters, or a list of mappings, is expected")
    return entries
