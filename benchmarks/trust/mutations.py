"""Ways to spoil the content of a file, each a function of the content and a generator of random numbers."""

import random
import re
import struct
from collections.abc import Callable, Sequence
from typing import Any

Mutation = Callable[[bytes, random.Random, Sequence[bytes]], bytes]

# Numbers at and beyond the ends of what programs count with, and what only looks like a number.
NUMBERS: tuple[str, ...] = (
    *(
        "0",
        "-0",
        "-0.0",
        "-1",
        "1",
        "2",
        "3",
        "0.5",
        "1e400",
        "-1e400",
        "1e308",
        "-1e308",
        "1e-400",
        "5e-324",
    ),
    *("nan", "NaN", "-nan", "inf", "-inf", "Infinity", "1e12", "1.0000001e12", "1e38", "4e38", "1e-45"),
    *(str(2**k) for k in (15, 16, 31, 32, 53, 63, 64)),
    *(str(-(2**k)) for k in (31, 63, 64)),
    *("9" * 400, "9" * 5000, "0" * 5000 + "1", "0." + "3" * 5000, "1_000", "0x10", "1e", "+", "--1", "1,5"),
    *("١٢٣", "½", "²", "１", "true", "None", "1d5", "1e5.5", "00000000001"),
)
# Pieces that mean something to a reader, to a terminal, or to the machinery of text.
PIECES: tuple[bytes, ...] = (
    *(b"\0", b"\x1b[2J\x1b]0;owned\x07", b"\x07", b"\x7f", b"\x9b31m", b"\xff\xfe", b"\xe9", b"\xc3", b"\r"),
    *(
        b"\r\n",
        b"\n\n",
        b"\x0b",
        b"\x0c",
        b"\x1c",
        b"\x85",
        b'"',
        b"'",
        b"''",
        b"#",
        b";",
        b"@",
        b":mrcs",
        b"/",
    ),
    *(b"data_", b"\ndata_\n", b"\nloop_\n", b"\n_rlnImageName\n", b"_rlnVoltage #1\n", b"../", b"=", b"\\"),
    *(b"[", b"]", b"{", b"}", b",", b".", b" ", b"\t", b"%s", b"{0}", b"<script>", b"&amp;", b"null", b"-"),
    *(
        text.encode()
        for text in ("\u202e", "\u2028", "\x85", "\ufeff", "\u00a0", "😀", "e\u0301", "Å", "\ufffd")
    ),
    *("\udcff".encode(errors="surrogatepass"), b"A" * 70000, b"[" * 3000, b"{" * 3000, b"a." * 3000),
    *(b"[[" * 2000 + b"]]" * 2000, b" " * 70000, b"\n" * 3000, b"'" * 3001, b"1 " * 3000),
)
_NUMBER = re.compile(rb"[-+]?[0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?")
_WORD = re.compile(rb"[^\s]+")
# No file grows beyond.
LARGEST = 1 << 20


def spoiled(
    content: bytes, rng: random.Random, others: Sequence[bytes], mutations: Sequence[Mutation]
) -> bytes:
    """A content after one mutation, or a few.

    Parameters
    ----------
    content
        What is mutated.
    rng
        What decides.
    others
        Contents of files of the same kind, of which pieces may be taken.
    mutations
        The mutations to draw from.
    """
    for _ in range(1 + min(int(rng.expovariate(1.0)), 5)):
        content = rng.choice(mutations)(content, rng, others)[:LARGEST]
    return content


def _span(content: bytes, rng: random.Random) -> tuple[int, int]:
    """Beginning and end of a piece, which is short more often than long."""
    start = rng.randrange(len(content) + 1)
    return start, min(len(content), start + int(2 ** rng.uniform(0.0, 12.0)))


def flipped(content: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """One bit is another."""
    if not content:
        return content
    place = rng.randrange(len(content))
    return content[:place] + bytes([content[place] ^ (1 << rng.randrange(8))]) + content[place + 1 :]


def replaced_byte(content: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """One byte is another."""
    place = rng.randrange(len(content) + 1)
    return content[:place] + rng.randbytes(1) + content[place + 1 :]


def truncated(content: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """The end is missing, possibly everything."""
    return content[
        : rng.choice([0, rng.randrange(len(content) + 1), max(0, len(content) - rng.randrange(9))])
    ]


def removed(content: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """A piece is missing."""
    start, end = _span(content, rng)
    return content[:start] + content[end:]


def doubled(content: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """A piece is there twice, or many times."""
    start, end = _span(content, rng)
    return content[:end] + content[start:end] * rng.choice([1, 1, 2, 40]) + content[end:]


def spliced(content: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """From somewhere on it is another file."""
    other = rng.choice(others)
    return content[: rng.randrange(len(content) + 1)] + other[rng.randrange(len(other) + 1) :]


def with_piece(content: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """Something odd is put in between."""
    place = rng.choice([0, len(content), rng.randrange(len(content) + 1)])
    return content[:place] + rng.choice(PIECES) + content[place:]


def with_piece_for_word(content: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """Something odd stands in the place of a word, or is a part of it."""
    found = list(_WORD.finditer(content))
    if not found:
        return content
    start, end = rng.choice(found).span()
    kept = content[start:end] if rng.random() < 0.5 else b""
    return content[:start] + kept + rng.choice(PIECES) + content[end:]


def with_number(content: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """A number is an extreme one."""
    found = list(_NUMBER.finditer(content))
    if not found:
        return content
    start, end = rng.choice(found).span()
    return content[:start] + rng.choice(NUMBERS).encode() + content[end:]


def with_word(content: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """A word is one from elsewhere, or missing."""
    found, given = list(_WORD.finditer(content)), _WORD.findall(rng.choice(others))
    if not found or not given:
        return content
    start, end = rng.choice(found).span()
    return content[:start] + rng.choice([rng.choice(given), b""]) + content[end:]


def with_column(content: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """One column of all long rows holds one odd value."""
    lines = content.split(b"\n")
    widths = [len(line.split()) for line in lines]
    if max(widths) < 2:
        return content
    place = rng.randrange(max(widths))
    value = rng.choice([rng.choice(NUMBERS).encode(), rng.choice(PIECES[:60])])
    for number, width in enumerate(widths):
        if width == max(widths):
            words = lines[number].split()
            lines[number] = b" ".join([*words[:place], value, *words[place + 1 :]])
    return b"\n".join(lines)


def with_lines(content: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """Lines are swapped, missing, doubled, or from elsewhere."""
    lines, given = content.split(b"\n"), rng.choice(others).split(b"\n")
    first, second = rng.randrange(len(lines)), rng.randrange(len(lines))
    match rng.randrange(5):
        case 0:
            lines[first], lines[second] = lines[second], lines[first]
        case 1:
            del lines[min(first, second) : max(first, second) + 1]
        case 2:
            del lines[first]
        case 3:
            lines[first:first] = lines[min(first, second) : max(first, second) + 1]
        case _:
            lines.insert(first, rng.choice(given))
    return b"\n".join(lines)


def recoded(content: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """The lines end otherwise, or the characters are coded otherwise."""
    text = content.decode("utf-8", "surrogateescape")
    match rng.randrange(5):
        case 0:
            return content.replace(b"\n", b"\r\n")
        case 1:
            return content.replace(b"\n", b"\r")
        case 2:
            return text.encode("utf-16", "surrogatepass")
        case 3:
            return content.upper()
        case _:
            return b"\xef\xbb\xbf" + text.encode("latin-1", "replace")


def with_integer(content: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """Four bytes, most often of the first kilobyte, are an extreme whole number of either byte order."""
    return _with_packed(content, rng, rng.choice("<>") + "i", rng.choice(_INTEGERS))


def with_float(content: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """Four bytes are an extreme floating-point number of either byte order."""
    return _with_packed(content, rng, rng.choice("<>") + "f", rng.choice(_FLOATS))


_INTEGERS = (*range(-2, 17), 100, 101, 255, 256, 1024, 32767, 65536, 2**20, 2**24, 2**31 - 1, -(2**31))
_FLOATS = (
    0.0,
    -0.0,
    1.0,
    -1.0,
    1e-45,
    1e-30,
    1e30,
    3.4e38,
    -3.4e38,
    float("nan"),
    float("inf"),
    -float("inf"),
)


def _with_packed(content: bytes, rng: random.Random, kind: str, value: float) -> bytes:
    if len(content) < 4:
        return content
    end = min(len(content), rng.choice([64, 256, 1024, len(content)]))
    place = 4 * rng.randrange(max(1, end // 4))
    return content[:place] + struct.pack(kind, value) + content[place + 4 :]


BYTES: tuple[Mutation, ...] = (flipped, replaced_byte, truncated, removed, doubled, spliced, with_piece)
WORDS: tuple[Mutation, ...] = (with_number, with_number, with_piece_for_word, with_word, with_lines, recoded)
TEXT: tuple[Mutation, ...] = (*BYTES, *WORDS)
TABLES: tuple[Mutation, ...] = (*TEXT, *WORDS, with_column, with_column)
BINARY: tuple[Mutation, ...] = (*BYTES, with_integer, with_integer, with_integer, with_float, with_float)

_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 10**400, -0.0, 1e308, float("nan"), float("inf"), 5e-324),
    *("", "x" * 5000, "\x1b[2J", "\udcff", "\0", "nan", [], {}, [[]], {"": None}, [1.0] * 3, "auto"),
)


def spoiled_data(data: Any, rng: random.Random) -> Any:
    """Nested mappings and lists in which something is another value, missing, or in the wrong place."""
    if isinstance(data, dict) and data and rng.random() < 0.95:
        key = rng.choice(list(data))
        match rng.randrange(12):
            case 0:
                return {name: value for name, value in data.items() if name != key}
            case 1:
                return data | {rng.choice(["", "x", "\x1b[2J", "__class__", "self"]): data[key]}
            case _:
                return data | {key: spoiled_data(data[key], rng)}
    if isinstance(data, list | tuple) and data and rng.random() < 0.9:
        place = rng.randrange(len(data))
        values = [*data[:place], spoiled_data(data[place], rng), *data[place + 1 :]]
        match rng.randrange(8):
            case 0:
                values = values[:place]
            case 1:
                values = values * rng.choice([2, 50])
        return values
    return rng.choice(_VALUES)
