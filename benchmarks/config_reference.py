"""The reference page of the configuration, written from the typed tree itself.

    python -m benchmarks.config_reference [--check]

writes ``docs/configuration.md``; ``--check`` only says whether it is up to date.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from rich.console import Console

from benchmarks.common.arguments import command_parser
from benchmarks.common.command import reports_errors
from benchmarks.settings.schema import Config
from hessian.support.files import write_atomic

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"
INTRODUCTION = Path(__file__).parent / "configs" / "introduction.md"
OUT_OF_DATE = 1

_TYPES = {bool: "true or false", int: "whole number", float: "number", str: "text", Path: "path"}
_BOUNDS = {Ge: ("ge", ">="), Gt: ("gt", ">"), Le: ("le", "<="), Lt: ("lt", "<")}


@reports_errors()
def main(argv: Sequence[str] | None = None) -> int:
    """Write the page; exit code 1 where ``--check`` finds it out of date."""
    parser = command_parser("benchmarks.config_reference", "Write the page.")
    parser.add_argument("--check", action="store_true", help="write nothing, say whether the page is up to date")
    arguments = parser.parse_args(argv)
    if not arguments.check:
        write_atomic(PAGE, reference_page())
        return 0
    if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == reference_page():
        return 0
    Console(stderr=True).print(f"{PAGE} is out of date: run python -m benchmarks.config_reference", style="red")
    return OUT_OF_DATE


def _roots() -> dict[str, type[BaseModel]]:
    """Configurations that a file can describe, by the title of their part."""
    from benchmarks.studies.agents.config import StudyConfig
    from benchmarks.studies.transfer.config import TransferConfig

    return {"A run": Config, "A comparison of agents": StudyConfig, "A study of transfer": TransferConfig}


def reference_page() -> str:
    """Return the whole page: the introduction, then every key of whatever a file can describe."""
    parts = [INTRODUCTION.read_text(encoding="utf-8").rstrip()]
    for title, root in _roots().items():
        parts += [f"## {title}", *_sections(root, "")]
    return "\n\n".join(parts) + "\n"


def _sections(section: type[BaseModel], path: str) -> Iterator[str]:
    """The tables of a section and of those within, depth first."""
    leaves = {name: info for name, info in section.model_fields.items() if _inner(info) is None}
    if leaves:
        yield _table(section, path, leaves)
    for name, info in section.model_fields.items():
        inner = _inner(info)
        if inner is not None:
            yield from _sections(inner, f"{path}.{name}" if path else name)


def _table(section: type[BaseModel], path: str, leaves: Mapping[str, FieldInfo]) -> str:
    rows = [
        f"| `{name}` | {type_words(info)} | {_default(info)} | {_cell(info.description or '')} |"
        for name, info in leaves.items()
    ]
    meaning = _cell((section.__doc__ or "").strip().splitlines()[0])
    heading = f"### `{path}`\n\n{meaning}\n\n" if path else f"{meaning}\n\n"
    return heading + "\n".join(["| key | type | default | meaning |", "| --- | --- | --- | --- |", *rows])


def _inner(info: FieldInfo) -> type[BaseModel] | None:
    annotation = info.annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def type_words(info: FieldInfo) -> str:
    """Return a key's type and range in words, e.g. ``number in (0, 1)``."""
    return _words(info.annotation, info.metadata)


def _words(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _words(arguments[0], [*_unfolded(arguments[1:]), *metadata])
    if origin is Literal:
        return " or ".join(f"`{choice}`" for choice in arguments)
    if origin in (Union, UnionType):
        return " or ".join(_words(part, metadata) for part in arguments if part is not NoneType)
    if origin is tuple:
        return f"list of: {_words(arguments[0])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        keys = ", ".join(f"`{name}`" for name in annotation.model_fields)
        return f"section with {keys}"
    if origin is dict or annotation is dict:
        return "mapping"
    return f"{_TYPES[annotation]}{_range(metadata)}"


def _unfolded(metadata: Sequence[Any]) -> list[Any]:
    """Constraints of ``Field(...)`` calls as single objects."""
    return [item for entry in metadata for item in (entry.metadata if isinstance(entry, FieldInfo) else [entry])]


def _range(metadata: Sequence[Any]) -> str:
    bounds = {type(item): getattr(item, _BOUNDS[type(item)][0]) for item in metadata if type(item) in _BOUNDS}
    low, high = bounds.get(Ge, bounds.get(Gt)), bounds.get(Le, bounds.get(Lt))
    if low is not None and high is not None:
        return f" in {'[' if Ge in bounds else '('}{low:g}, {high:g}{']' if Le in bounds else ')'}"
    signs = [f"{_BOUNDS[kind][1]} {value:g}" for kind, value in bounds.items()]
    return f" {signs[0]}" if signs else ""


def _default(info: FieldInfo) -> str:
    if info.default_factory is not None:
        return "empty"
    if info.default is PydanticUndefined:
        return "(needed)"
    value = info.default
    if value is None:
        return "absent"
    if isinstance(value, tuple):
        return f"`[{', '.join(map(str, value))}]`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return '`""`' if value == "" else f"`{value}`"


def _cell(text: str) -> str:
    """Docstring text as a table cell: one line, Markdown's marks."""
    text = re.sub(r":\w+:`([^`]+)`", r"`\1`", " ".join(text.split()))
    return text.replace("``", "`").replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main())
