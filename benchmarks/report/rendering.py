"""Templates, and pictures inside the page: nothing is loaded from elsewhere."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from benchmarks.common import numbers

TEMPLATES = Path(__file__).with_name("templates")


@dataclass(frozen=True)
class Picture:
    """A picture inside the page; scripts in it do not run.

    Attributes:
        source: its data as a URI.
        name: what it shows.
        facts: what else a template may say of it.
    """

    source: str
    name: str
    facts: Any = None

    @classmethod
    def of(cls, figure: Figure, name: str, facts: Any = None) -> Picture:
        """Return a drawn figure."""
        drawn = io.BytesIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None})
        return cls(_data_uri(drawn.getvalue(), "image/svg+xml"), name, facts)

    @classmethod
    def read(cls, path: Path, name: str) -> Picture | None:
        """Return a picture file, SVG where it is there, else PNG; None where there is neither."""
        for suffix, media_type in ((".svg", "image/svg+xml"), (".png", "image/png")):
            try:
                return cls(_data_uri(path.with_suffix(suffix).read_bytes(), media_type), name)
            except OSError:
                continue
        return None


def render_template(name: str, **content: Any) -> str:
    """Return a template of this package, filled in; text is escaped unless it is known to be HTML."""
    return _environment().get_template(name).render(**content)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=numbers.percent, span=numbers.span, count=numbers.count, plural=lambda n, what: numbers.plural(n, what)
    )
    return environment


def _data_uri(data: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"
