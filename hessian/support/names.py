"""Error messages for unknown names, with the name that was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def suggest(name: object, known: Iterable[str], label: str = "known") -> str:
    """A 'did you mean' clause for an unknown name, with everything known, for error messages.

    Args:
        name: what was given.
        known: the names there are.
        label: what the list of names is headed with.

    Returns:
        ``"; did you mean 'conv1'? (known: conv1, conv2)"``; without the question where nothing is near.
    """
    names = list(known)
    close = difflib.get_close_matches(str(name), names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"{hint} ({label}: {', '.join(names) or 'none'})"


def unknown(kind: str, name: object, known: Iterable[str], label: str = "known") -> str:
    """Message for a name that is none of the known ones: ``"unknown reward 'latancy'; did you mean 'latency'? (...)"``.

    Arguments but ``kind`` (what is named) are those of :func:`suggest`.
    """
    return f"unknown {kind} {name!r}{suggest(name, known, label)}"
