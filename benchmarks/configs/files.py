"""Ready-made configurations, one YAML file a task."""

from pathlib import Path

CONFIG_DIR = Path(__file__).parent


def config_path(name: str) -> Path:
    """Return the path of a shipped configuration.

    Args:
        name: file name with or without ``.yaml``, e.g. ``"digits_resnet20"``.

    Raises:
        FileNotFoundError: no such configuration; the message lists those that exist.
    """
    path = CONFIG_DIR / (name if name.endswith(".yaml") else f"{name}.yaml")
    if not path.is_file():
        raise FileNotFoundError(f"no shipped configuration {name!r}; available: {', '.join(config_names())}")
    return path


def found_config(path: str | Path) -> Path:
    """The file that is meant: as it is if it is there, else the shipped one of that name.

    Args:
        path: a file, or a shipped configuration's name, with or without ``.yaml`` and the folder it has in a checkout.
    """
    given = Path(path)
    plain = given.parent in (Path(), Path("benchmarks/configs"))
    if given.is_file() or not plain or given.stem not in config_names():
        return given
    return CONFIG_DIR / f"{given.stem}.yaml"


def config_names() -> list[str]:
    """Return the names of the shipped configurations, sorted."""
    return sorted(path.stem for path in CONFIG_DIR.glob("*.yaml"))
