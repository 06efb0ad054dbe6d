"""The text of STAR files: every value as the characters that stand in the file, and back.

The rules are RELION's. A row is a line. Values are separated by spaces and tabs; one that begins with a
quotation mark ends at the same mark before a space or the end of the line, so that marks inside a word belong
to it. ``#`` begins a comment where a value would begin, and nowhere else. Bytes that are not UTF-8, as in
paths of old microscope computers, stay what they are.
"""

import re
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryograd.atomic import replacing
from cryograd.errors import CryogradError

if TYPE_CHECKING:
    import pandas as pd

# Bytes that are no UTF-8 become lone surrogates, as in names of files, and are written as the same bytes.
_BYTES = "surrogateescape"
_BLANK = r" \t\r\v\f"
# Lines whose values can be told apart by white space alone: nearly all.
_PLAIN = re.compile(r"[\t\r !$-&(-~]*")
_VALUE = re.compile(rf"""(["'])(.*?)\1(?=[{_BLANK}]|$)|([^{_BLANK}]+)""")
# What a value would be read as something else for, or not as one: its beginning, or white space in it.
_MARKS, _WORDS, _SPACES = "\"'#_;", ("data_", "loop_"), " \t\r\v\f"


@dataclass
class _Block:
    """A table as far as it has been read: its columns, its rows, and where they are in the file.

    The numbers of lines are those of the rows of a loop, and of the columns of what is none.
    """

    columns: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    loop: bool = False


def read_text(path: Path) -> "dict[str, pd.DataFrame]":
    """Read the tables of a STAR file by name, without ``data_``; a table that is no loop has one row.

    All values are text. Rows of tables that have one name and the same columns are joined.

    Raises
    ------
    CryogradError
        The file is not valid STAR; a table has two columns of one name; or two tables of one name differ in
        their columns.
    """
    import pandas as pd

    tables: dict[str, pd.DataFrame] = {}
    for name, block in _blocks(_lines(path), path):
        for column in block.columns:
            if not column.isprintable():
                what = f"{name} has a column whose name is no text in UTF-8: {column}"
                raise CryogradError(what, path, "rename the column")
        twice = [column for i, column in enumerate(block.columns) if column in block.columns[:i]]
        if twice:
            raise CryogradError(f"{name} has the column {twice[0]} twice", path, "remove one of the two")
        columns = pd.Index(block.columns, dtype=object)
        table = pd.DataFrame(block.rows, columns=columns, dtype=object)
        tables[name] = _joined(name, tables[name], table, path) if name in tables else table
    return tables


def text_column(values: Iterable[object]) -> "pd.Series":
    """A column of texts that stay as they are: what pandas would make of them has to be Unicode."""
    import pandas as pd

    return pd.Series(list(values), dtype=object)


def _joined(name: str, first: "pd.DataFrame", second: "pd.DataFrame", path: Path) -> "pd.DataFrame":
    """The rows of two tables of one name, as joined files have them."""
    import pandas as pd

    if not len(first.columns) or not len(second.columns):
        return first if len(first.columns) else second
    if set(first.columns) != set(second.columns):
        odd = sorted(set(first.columns) ^ set(second.columns))[0]
        raise CryogradError(
            f"data_{name} is there twice, and only one of the two has the column {odd}",
            path,
            "give both the same columns, or keep one of them",
        )
    return pd.concat([first, second.reindex(columns=first.columns)], ignore_index=True)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines of a text file that are not empty, with their numbers from 1."""
    for number, line in enumerate(_content(path).removeprefix("\ufeff").split("\n"), 1):
        if line and not line.isspace():
            yield number, line


def _content(path: Path) -> str:
    """All of a text file, from which the same bytes can be made again."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CryogradError(f"the file cannot be read ({error.strerror})", path, "check the path") from None
    if b"\0" in content:
        raise CryogradError("the file is not text", path, "give a STAR file in UTF-8, Latin-1 or ASCII")
    return content.decode("utf-8", _BYTES)


def _blocks(lines: Iterable[tuple[int, str]], path: Path) -> Iterator[tuple[str, _Block]]:
    """Names of the blocks and what is in them, in the order of the file."""
    name, block = "", None
    for number, line in lines:
        where = f"line {number} of {path}"
        words = _values(line, where)
        if not words:
            continue
        # A row may begin with a word like data_1/stack.mrcs, but has the other columns too.
        if len(words) == 1 and words[0].startswith("data_"):
            if block is not None:
                yield name, block
            name, block = words[0].removeprefix("data_"), _Block()
        elif block is not None:
            _take(block, words, name, where)
            # A line of this kind has been taken if there is one more of them now.
            if len(block.lines) < len(block.rows if block.loop else block.columns):
                block.lines.append(number)
    if block is not None:
        yield name, block


def _take(block: _Block, words: list[str], name: str, where: str) -> None:
    """Take one line into a block."""
    if words == ["loop_"]:
        if block.columns:
            remedy = "give the second a data_ name of its own"
            raise CryogradError(f"data_{name} has two tables", where, remedy)
        block.loop = True
    elif words[0].startswith("_") and not (block.loop and block.rows) and len(words) <= 2 - block.loop:
        block.columns.append(words[0][1:].partition("#")[0])
        if not block.loop:
            block.rows = [[*(block.rows[0] if block.rows else []), *(words[1:] or [""])]]
    elif not block.loop:
        what = f"data_{name} has neither a loop nor a name with one value here: {' '.join(words)[:40]}"
        raise CryogradError(what, where, "correct the line")
    elif len(words) != len(block.columns):
        raise CryogradError(
            f"a row of data_{name} has {len(words)} values, and there are {len(block.columns)} columns",
            where,
            "complete the row, and put values with spaces into quotation marks",
        )
    else:
        block.rows.append(words)


def _values(line: str, where: str) -> list[str]:
    """Values of a line, without what is commented out."""
    if _PLAIN.fullmatch(line):
        return line.split()
    values = []
    for match in _VALUE.finditer(line):
        quote, quoted, bare = match.groups()
        if quote:
            values.append(quoted)
        elif bare[0] == "#":
            break
        elif bare[0] in "\"'":
            raise CryogradError("a quotation mark is not closed", where, "close it, or remove it")
        else:
            values.append(bare)
    return values


def write_star(path: Path, blocks: "Mapping[str, pd.DataFrame | Mapping[str, float]]") -> None:
    """Write tables as the loops, and mappings as single numbers, of a STAR file.

    The file appears complete or not at all. It holds no date, so that the same tables give the same bytes.
    Text is written as it is, and numbers in the shortest form that reads back the same.

    Raises
    ------
    CryogradError
        A text cannot stand in a STAR file.
    """
    _write_lines(Path(path), star_lines(blocks, Path(path)))


def write_rows(path: Path, source: Path, name: str, kept: Container[int], images: Mapping[int, str]) -> None:
    """Write a STAR file without some rows of a table; all else stays as it is, character for character.

    Parameters
    ----------
    path
        File to write, which appears complete or not at all; its folder is made.
    source
        STAR file that can be read.
    name
        Name of the table.
    kept
        Numbers of the rows that stay, from 0.
    images
        New values of ``rlnImageName`` by the number of their row.

    Raises
    ------
    CryogradError
        A new name cannot stand in a STAR file.
    """
    dropped: set[int] = set()
    changed: dict[int, str] = {}
    lines = _content(source).removesuffix("\n").split("\n")
    for row, block, numbers in _rows_with_lines(source, name):
        place = block.columns.index("rlnImageName")
        if row not in kept:
            dropped.update(numbers)
        elif row in images:
            line, word = (numbers[0], place) if block.loop else (numbers[place], 1)
            start, end = [found.span() for found in _VALUE.finditer(lines[line - 1])][word]
            text = _quoted(images[row], "rlnImageName", path)
            changed[line] = lines[line - 1][:start] + text + lines[line - 1][end:]
    _write_lines(path, (changed.get(n, line) for n, line in enumerate(lines, 1) if n not in dropped))


def _rows_with_lines(path: Path, name: str) -> Iterator[tuple[int, _Block, list[int]]]:
    """Rows of the tables of one name: their numbers from 0, their blocks, and their lines in the file."""
    row = 0
    for found, block in _blocks(_lines(path), path):
        if found == name and block.columns:
            for lines in ([line] for line in block.lines) if block.loop else (block.lines,):
                yield row, block, lines
                row += 1


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write lines to a file that appears complete or not at all; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        replacing(path) as temporary,
        temporary.open("w", encoding="utf-8", errors=_BYTES, newline="\n") as file,
    ):
        file.writelines(line + "\n" for line in lines)


def star_lines(blocks: "Mapping[str, pd.DataFrame | Mapping[str, float]]", path: Path) -> Iterator[str]:
    """Lines of the STAR file that `write_star` writes."""
    for name, block in blocks.items():
        yield from ("", "# version 30001", "", f"data_{name}", "")
        if isinstance(block, Mapping):
            yield from (f"_{label} {value}" for label, value in block.items())
        else:
            yield "loop_"
            yield from (f"_{column} #{i}" for i, column in enumerate(block.columns, 1))
            columns = [_written(block[column], path) for column in block.columns]
            yield from ("\t".join(row) for row in zip(*columns, strict=True))
        yield ""


def _written(column: Any, path: Path) -> list[str]:
    """Values of a column as they are written."""
    from pandas.api.types import is_numeric_dtype

    if is_numeric_dtype(column):
        return column.to_numpy().astype(str).tolist()
    texts = list(map(str, column.tolist()))
    # All at once, as nearly all columns have nothing odd in any value.
    whole = "\n".join(texts)
    if whole.count("\n") < len(texts) and _is_bare("".join({text[:1] or " " for text in texts}), whole):
        return texts
    return [_quoted(text, column.name, path) for text in texts]


def _is_bare(beginnings: str, text: str) -> bool:
    """Whether text needs no quotation marks, by the characters that values in it begin with."""
    if any(mark in beginnings for mark in _MARKS + " ") or any(space in text for space in _SPACES):
        return False
    return not any(word in text.lower() for word in _WORDS)


def _quoted(text: str, column: object, path: Path) -> str:
    """A text in quotation marks, where it needs any."""
    if "\n" not in text:
        if _is_bare(text[:1] or " ", text):
            return text
        for quote in "\"'":
            # A mark before white space would end the text.
            if not re.search(rf"{quote}[{_BLANK}]", text):
                return f"{quote}{text}{quote}"
    what = f"a value of {column} cannot stand in a STAR file: {text}"
    raise CryogradError(what, path, "rename what it names")
