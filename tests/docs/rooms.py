"""The tables of rooms in docs/development.md, as the rooms' faces describe themselves.

``python -m tests.docs.rooms`` writes them anew.
"""

from __future__ import annotations

import ast
import re

from tests.pages import DOCS, ROOT

PAGE = DOCS / "development.md"


def chapter(floor: str, rooms: tuple[str, ...]) -> str:
    """Heading and table of a floor: a row a room, with the first line of its face's docstring."""
    lines = [f"### `{floor}/`", "", "| room | what is in it |", "| --- | --- |"]
    for room in rooms:
        folder = ROOT / floor / room.replace(".", "/")
        says = (ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or "").splitlines()
        lines.append(f"| `{folder.relative_to(ROOT).as_posix()}/` | {' '.join(says[:1])} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the tables of all floors into the page."""
    from tests.docs.test_house import ROOMS

    page = PAGE.read_text()
    for floor, rooms in ROOMS.items():
        table = chapter(floor, rooms)
        page = re.sub(rf"### `{floor}/`\n\n(?:\|.*\n)+", lambda _, table=table: table, page)
    PAGE.write_text(page)


if __name__ == "__main__":
    main()
