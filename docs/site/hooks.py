"""Hooks of the site: the home page, the reference and the archive of studies are made when the site is built.

The home page is README.md, the reference lists what the packages' faces list, and the archive what is in
``benchmarks/results``: nothing is written twice.
"""

from __future__ import annotations

import ast
import json
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = ("prune_gym", "prune_gym.bench", "prune_gym.suite", "agents", "hessian", "baselines")
_LINK = re.compile(r"(?<=\]\()([^)\s]+)(?=\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made here, and the result files that pages link to."""
    made = {"index.md": (ROOT / "README.md").read_text(encoding="utf-8"), "studies/index.md": _archive()}
    made["changelog.md"] = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    made |= {f"reference/{package}.md": _reference(package) for package in PACKAGES}
    made |= {
        _place(path): path.read_text(encoding="utf-8") for path in (*RESULTS.glob("*/*.md"), *RESULTS.glob("*.md"))
    }
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    for path in sorted(RESULTS.rglob("*")):
        if path.suffix in (".json", ".png") and "cells" not in path.parts:
            files.append(File.generated(config, _published(path), abs_src_path=str(path)))
    files.append(File.generated(config, "LICENSE", abs_src_path=str(ROOT / "LICENSE")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links at where things are on the site."""
    uri = page.file.src_uri
    if uri in ("index.md", "changelog.md"):
        folder = ROOT
    elif uri.startswith("studies/") and uri != "studies/index.md":
        folder = RESULTS / Path(uri).stem
        folder = folder if folder.is_dir() else RESULTS
    else:
        folder = ROOT / "docs" / posixpath.dirname(uri)
    return _LINK.sub(lambda match: _moved(match[1], folder, uri), markdown)


def _moved(target: str, folder: Path, uri: str) -> str:
    """A link of a page that lies in a folder of the repository, as the page of the site writes it."""
    path, _, anchor = target.partition("#")
    if not path or re.match(r"\w+:", target) or uri == "studies/index.md":
        return target
    found = (folder / path).resolve()
    if not found.exists():
        return target
    place = _place(found)
    relative = posixpath.relpath(place, posixpath.dirname(uri) or ".")
    return f"{relative}#{anchor}" if anchor else relative


def _place(path: Path) -> str:
    """Where a file of the repository is on the site."""
    if path.is_relative_to(RESULTS):
        page = path.stem if path.parent == RESULTS else path.parent.name
        return f"studies/{page}.md" if path.suffix == ".md" else _published(path)
    if path.is_relative_to(ROOT / "docs"):
        return path.relative_to(ROOT / "docs").as_posix()
    return {"README.md": "index.md", "CHANGELOG.md": "changelog.md"}.get(path.name, path.name)


def _tables() -> list[Path]:
    """Markdown tables among the result files."""
    return [*RESULTS.glob("*.md"), *RESULTS.glob("*/*.md")]


def _published(path: Path) -> str:
    return f"results/{path.relative_to(RESULTS).as_posix()}"


def _reference(package: str) -> str:
    """One entry for every name that the package's face lists."""
    face = ast.parse((ROOT / package.replace(".", "/") / "__init__.py").read_text(encoding="utf-8"))
    homes, names = {}, []
    for node in ast.walk(face):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(package):
            homes |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__all__"]:
            names = ast.literal_eval(node.value)
    says = (ast.get_docstring(face) or "").strip()
    entries = [f"::: {homes.get(name, f'{package}.{name}')}" for name in names]
    return "\n\n".join([f"# `{package}`", says, *entries]) + "\n"


def _archive() -> str:
    """Every result file that is kept, with the pages and pictures that were made of it."""
    lines = [
        "# Archive of studies",
        "",
        "Every file that a number of these pages comes from.",
        "`prune-gym report benchmarks/results --out studies.html` makes one page of all runs and comparisons.",
        "",
        "| study | files |",
        "| --- | --- |",
    ]
    for path in sorted(RESULTS.iterdir()):
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if file.suffix == ".png")
            tables = sorted(path.glob("*.json"))
            page = f"[{path.name}]({path.name}.md)" if list(path.glob("*.md")) else path.name
            lines.append(
                f"| {page} | {', '.join(f'[{file.name}](../{_published(file)})' for file in [*tables, *found])} |"
            )
        elif path.suffix == ".md":
            lines.append(f"| {path.stem} | [{path.name}]({path.name}) |")
        elif path.suffix == ".json":
            kept = json.loads(path.read_text(encoding="utf-8"))
            size = f"{len(kept)} {'rows' if isinstance(kept, list) else 'entries'}"
            lines.append(f"| {path.stem} | [{path.name}](../{_published(path)}), {size} |")
    return "\n".join(lines) + "\n"
