"""Keys of results kept on disk: a change of the code that decides a number changes the key."""

import importlib
import shutil
from pathlib import Path

import pytest

import hessian
from prune_gym.support.cache import NO_NUMBERS, code_digest

ROOT = Path(hessian.__file__).parent
FILES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A copy of the package under another name, to write into; only its face is imported."""
    shutil.copytree(ROOT, tmp_path / "copied_package", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "copied_package" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    return importlib.import_module("copied_package")


def test_a_change_in_any_file_of_any_room_changes_the_key(copied):
    folder = Path(copied.__file__).parent
    assert {Path(name).parts[0] for name in FILES if "/" in name} >= {"kfac", "obs", "channels", "pricing", "refit"}
    for name in FILES:
        before = code_digest(copied)
        path = folder / name
        path.write_text(path.read_text() + "# changed\n")
        changed = code_digest(copied) != before
        assert changed == (name not in NO_NUMBERS), name


def test_a_new_file_and_a_moved_one_change_the_key(copied):
    folder = Path(copied.__file__).parent
    before = code_digest(copied)
    (folder / "obs" / "new.py").write_text("")
    added = code_digest(copied)
    (folder / "obs" / "new.py").rename(folder / "kfac" / "new.py")
    assert len({before, added, code_digest(copied)}) == 3


def test_files_left_out_exist():
    assert set(FILES) >= NO_NUMBERS
