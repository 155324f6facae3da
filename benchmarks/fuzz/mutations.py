"""Ways in which a file goes wrong: on disks, in transfers, under editors and in hostile hands."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

Mutation = Callable[[bytes, random.Random], bytes]


def flip_bit(data: bytes, rng: random.Random) -> bytes:
    """One bit anywhere."""
    place = rng.randrange(len(data))
    return data[:place] + bytes([data[place] ^ (1 << rng.randrange(8))]) + data[place + 1 :]


def set_bytes(data: bytes, rng: random.Random) -> bytes:
    """A few bytes replaced by others."""
    start, stop = _slice(data, rng, 8)
    return data[:start] + rng.randbytes(stop - start) + data[stop:]


def truncate(data: bytes, rng: random.Random) -> bytes:
    """Cut off at any place."""
    return data[: rng.randrange(len(data))]


def delete(data: bytes, rng: random.Random) -> bytes:
    """A stretch left out."""
    start, stop = _slice(data, rng, 200)
    return data[:start] + data[stop:]


def insert(data: bytes, rng: random.Random) -> bytes:
    """Bytes of nowhere put in."""
    place = rng.randrange(len(data) + 1)
    return data[:place] + rng.randbytes(rng.randint(1, 40)) + data[place:]


def repeat(data: bytes, rng: random.Random) -> bytes:
    """A stretch twice."""
    start, stop = _slice(data, rng, 200)
    return data[:stop] + data[start:]


def swap(data: bytes, rng: random.Random) -> bytes:
    """Two stretches change places."""
    a, b = sorted((_slice(data, rng, 60), _slice(data, rng, 60)))
    if a[1] > b[0]:
        return flip_bit(data, rng)
    return data[: a[0]] + data[b[0] : b[1]] + data[a[1] : b[0]] + data[a[0] : a[1]] + data[b[1] :]


def zero_block(data: bytes, rng: random.Random) -> bytes:
    """A block never written."""
    start, stop = _slice(data, rng, 512)
    return data[:start] + bytes(stop - start) + data[stop:]


def append(data: bytes, rng: random.Random) -> bytes:
    """Something more at the end."""
    return data + rng.choice([rng.randbytes(20), b"\n{}", data[: rng.randint(1, 100)], b"]" * 50])


def change_digit(data: bytes, rng: random.Random) -> bytes:
    """Another digit in a number."""
    places = [match.start() for match in re.finditer(rb"[0-9]", data)]
    if not places:
        return flip_bit(data, rng)
    place = rng.choice(places)
    other = rng.choice([digit for digit in b"0123456789" if digit != data[place]])
    return data[:place] + bytes([other]) + data[place + 1 :]


def absurd_number(data: bytes, rng: random.Random) -> bytes:
    """A number that nothing can have measured."""
    numbers = list(re.finditer(rb"-?[0-9]+(\.[0-9]+)?", data))
    if not numbers:
        return set_bytes(data, rng)
    found = rng.choice(numbers)
    absurd = rng.choice([b"NaN", b"-1", b"7.9", b"1e999", b"9" * 5000, b"null", b'"word"', b"[]", b"true"])
    return data[: found.start()] + absurd + data[found.end() :]


def rename_word(data: bytes, rng: random.Random) -> bytes:
    """A letter of a word changed."""
    words = list(re.finditer(rb"[A-Za-z_]{3,}", data))
    if not words:
        return flip_bit(data, rng)
    found = rng.choice(words)
    place = rng.randrange(found.start(), found.end())
    return data[:place] + bytes([rng.randrange(97, 123)]) + data[place + 1 :]


def delete_line(data: bytes, rng: random.Random) -> bytes:
    """A line missing."""
    lines = data.splitlines(keepends=True)
    del lines[rng.randrange(len(lines))]
    return b"".join(lines)


def nest(data: bytes, rng: random.Random) -> bytes:
    """Brackets without end somewhere."""
    place = rng.randrange(len(data) + 1)
    depth = rng.choice([50, 2000, 100_000])
    return data[:place] + rng.choice([b"[" * depth, b"[" * depth + b"]" * depth, b'{"a":' * depth]) + data[place:]


MUTATIONS: dict[str, Mutation] = {
    mutation.__name__: mutation
    for mutation in (
        *(flip_bit, set_bytes, truncate, delete, insert, repeat, swap, zero_block, append),
        *(change_digit, absurd_number, rename_word, delete_line, nest),
    )
}
"""By name."""


def _slice(data: bytes, rng: random.Random, longest: int) -> tuple[int, int]:
    start = rng.randrange(len(data))
    return start, min(len(data), start + rng.randint(1, longest))
