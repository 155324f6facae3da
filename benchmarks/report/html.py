"""The blocks of a page: text that is escaped unless it is known to be HTML, tables, pictures, sections."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from matplotlib.figure import Figure

STYLE = Path(__file__).with_name("report.css")


class Html(str):
    """Text that is HTML already; everything else is escaped where it is put in."""


def escape(content: object) -> Html:
    """Return content as HTML: as it is if it is HTML, else its text, escaped."""
    return content if isinstance(content, Html) else Html(html.escape(str(content)))


def join(parts: Iterable[object]) -> Html:
    """Return parts one after the other, each escaped where it must be."""
    return Html("".join(escape(part) for part in parts))


def tag(name: str, *content: object, **attributes: object) -> Html:
    """Return an element.

    Args:
        name: of the element.
        *content: what is inside.
        **attributes: escaped; a trailing underscore is dropped (``class_``), other underscores become hyphens.
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{given}>{join(content)}</{name}>")


def paragraph(*content: object, kind: str | None = None) -> Html:
    """Return a paragraph."""
    return tag("p", *content, class_=kind)


def code(text: object) -> Html:
    """Return a word of code."""
    return tag("code", text)


def listing(text: str, label: str) -> Html:
    """Return a block of code that scrolls."""
    return tag("pre", tag("code", text), tabindex=0, role="region", aria_label=label)


def bullets(items: Iterable[object]) -> Html:
    """Return a list."""
    return tag("ul", *(tag("li", item) for item in items))


def details(summary: str, *content: object) -> Html:
    """Return something that opens on demand."""
    return tag("details", tag("summary", summary), *content)


def section(name: str, title: str, *content: object) -> Html:
    """Return a section that the table of contents can name."""
    return tag("section", tag("h2", title, id=name), *content, aria_labelledby=name)


def table(caption: object, headings: Sequence[object], rows: Iterable[Sequence[object]]) -> Html:
    """Return a table that scrolls where the screen is narrow; the first cell of a row is its heading.

    Args:
        caption: what it shows, with units.
        headings: a text a column.
        rows: cells, one a column; those of :func:`tag` with ``td`` keep their attributes.
    """
    head = tag("thead", tag("tr", *(tag("th", heading, scope="col") for heading in headings)))
    body = tag("tbody", *(tag("tr", tag("th", row[0], scope="row"), *map(_cell, row[1:])) for row in rows))
    label = html.unescape(str(caption))
    return tag(
        "div",
        tag("table", tag("caption", tag("span", caption)), head, body),
        class_="wide",
        role="region",
        aria_label=label,
        tabindex=0,
    )


def _cell(content: object) -> Html:
    return content if isinstance(content, Html) and content.startswith("<td") else tag("td", content)


def share_cell(text: str, share: float) -> Html:
    """Return a table cell with a bar behind its text.

    Args:
        text: of the cell.
        share: length of the bar, in [0, 1].
    """
    return tag("td", text, class_="share", style=f"--share:{100 * min(max(share, 0.0), 1.0):.1f}%")


def picture(figure: Figure, alt: str, caption: str) -> Html:
    """Return a figure as an inline picture.

    Args:
        figure: what to draw.
        alt: what it says, for those who cannot see it.
        caption: below it.
    """
    drawn = io.BytesIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None})
    return embedded(drawn.getvalue(), "image/svg+xml", alt, caption)


def embedded(data: bytes, media_type: str, alt: str, caption: str) -> Html:
    """Return a picture file as an inline picture; scripts in it do not run."""
    source = f"data:{media_type};base64,{base64.b64encode(data).decode()}"
    image = Html(f'<img src="{source}" alt="{html.escape(alt)}">')
    frame = tag("div", image, class_="wide", role="region", aria_label=caption, tabindex=0)
    return tag("figure", frame, tag("figcaption", caption))


def document(title: str, lead: object, sections: Sequence[tuple[str, str, Html]]) -> str:
    """Return a whole page that needs nothing else.

    Args:
        title: of the page.
        lead: what stands below it.
        sections: (id, title, content) of each.
    """
    contents = tag(
        "nav",
        tag("ol", *(tag("li", tag("a", text, href=f"#{name}")) for name, text, _ in sections)),
        aria_label="Contents",
    )
    body = join(section(name, text, content) for name, text, content in sections)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        # Nothing may be loaded and no script may run, whatever a result file says.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">\n"
        f"{tag('title', title)}\n<style>\n{STYLE.read_text(encoding='utf-8')}</style>\n</head>\n<body>\n"
        f"{tag('header', tag('h1', title), lead)}\n{contents}\n{tag('main', body)}\n</body>\n</html>\n"
    )
