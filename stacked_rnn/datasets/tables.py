"""Tables and objects in files: TSV, CSV and JSONL, gzipped or not."""

import csv
import io
import json
import pathlib
import sys

from stacked_rnn.configs import UserError
from stacked_rnn.utils import text_files

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_NAMES = {",": "commas", "\t": "tabs", ";": "semicolons"}


def find(source, flag) -> list[text_files.TextFile]:
    """The files that a list of paths and globs means: one at least."""
    return [
        file
        for part in text_files.parts(source)
        for file in text_files.find(part, flag)
    ]


def kind(file, flag) -> str:
    """.tsv, .csv or .jsonl, by which a file is read; empty: none of these.

    The name of a file says so; of what comes through a pipe, its first line.
    """
    suffix = pathlib.Path(file.name.removesuffix(".gz")).suffix.lower()
    if suffix in {*_DELIMITERS, ".jsonl"}:
        return suffix
    if file.is_stream:
        line = next(text_files.read_lines(file, flag), "")
        for sign, found in (("\t", ".tsv"), (",", ".csv")):
            if sign in line and not line.startswith("{"):
                return found
        return ".jsonl" if line.startswith("{") else ""
    return ""


def read_fields(file, fields, flag, hint, default_header=None):
    """Yields (where, values) of each row of a table, or of JSON objects.

    Args:
        file: a `TextFile` that has a `kind`.
        fields: names of the columns, or fields, whose values are wanted.
        flag: what an error calls the file.
        hint: the end of an error: which flags name the fields.
        default_header: the names of the columns of a table whose first line
            has not all `fields`; None: the first line names them in any case.

    Raises:
        UserError: naming the file and the line.
    """
    if kind(file, flag) == ".jsonl":
        rows = _read_json(file, flag)
    else:
        rows = _read_table(file, fields, flag, hint, default_header)
    for number, row in rows:
        where = f"{file.name}, line {number}"
        for name in fields:
            if row.get(name) is None:
                there = ", ".join(map(str, row)) or "none"
                why = (
                    f"the field {name!r} is null"
                    if name in row
                    else f"no field {name!r} (there are {there})"
                )
                raise UserError(f"--{flag}: {where}: {why}: {hint}")
            if isinstance(row[name], str):
                check_text(row[name], name, where, flag)
        yield where, [row[name] for name in fields]


def check_string(value, name, where, flag, hint) -> None:
    """Raises a `UserError` for a value of another kind, as JSON has them."""
    if not isinstance(value, str):
        raise UserError(f"--{flag}: {where}: {name} is no string: {hint}")


def check_text(value, name, where, flag) -> None:
    """Raises a `UserError` for a string that is no text."""
    if "\0" in value:
        raise UserError(
            f"--{flag}: {where}: a zero byte in {name!r}: leave it out"
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"--{flag}: {where}: half a character in {name!r} "
            f"(\\u{ord(value[error.start]):x}): write both halves, or neither"
        ) from None


def _read_json(file, flag):
    for number, line in enumerate(text_files.read_lines(file, flag), 1):
        if not line.strip():
            continue
        where = f"--{flag}: {file.name}, line {number}"
        try:
            row = json.loads(line, object_pairs_hook=_unique)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        except ValueError as error:
            raise UserError(f"{where}: not JSON ({error})") from None
        except RecursionError:
            raise UserError(f"{where}: nested too deep") from None
        if not isinstance(row, dict):
            raise UserError(f"{where}: expected a JSON object")
        yield number, row


def _unique(pairs):
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"two fields of the name {twice!r}: leave one out")
    return row


def _read_table(file, fields, flag, hint, default_header):
    """Yields (number of its first line, {column: cell}) of each row."""
    delimiter = _DELIMITERS[kind(file, flag)]
    where = f"--{flag}: {file.name}, line"
    rows = _read_rows(file, flag, delimiter)
    number, first = next(rows, (1, []))
    header = _header(first, fields)
    if header:
        for name in fields:
            if header.count(name) > 1:
                raise UserError(
                    f"{where} {number}: two columns of the name {name!r}: "
                    "rename one"
                )
    elif default_header and len(first) >= len(fields):
        print(
            f"note: {file.name} has no header with {' and '.join(fields)}: "
            f"line {number} is read as a pair, "
            f"{first[0]!r} -> {first[1]!r}",
            file=sys.stderr,
        )
        header = [*default_header, *[""] * (len(first) - len(default_header))]
        yield number, dict(zip(default_header, first))
    else:
        there = list(fields[: len(first)]) if default_header else first
        missing = next(name for name in fields if name not in there)
        raise UserError(
            f"{where} {number}: no field {missing!r} (there are "
            f"{', '.join(there) or 'none'}): "
            + (_other_format(first, delimiter) or f"{_of_header(fields)}{hint}")
        )
    # Lists of pairs on the web have columns of notes, without a name.
    may_have_more = not _header(first, fields) and delimiter == "\t"
    says_quotes = delimiter == "\t"
    for number, cells in rows:
        surplus = cells[len(header) :]
        if not may_have_more and any(cell.strip() for cell in surplus):
            raise UserError(
                f"{where} {number}: {len(cells)} cells, and the first line "
                f"has {len(header)}: a text with {_NAMES[delimiter]} in it "
                + (
                    'stands in quotes, "..."'
                    if delimiter == ","
                    else "wants .csv, or .jsonl"
                )
            )
        if says_quotes and any(map(_is_quoted, cells)):
            says_quotes = False
            print(
                f"warning: {file.name}, line {number}: a text in quotes, as "
                ".csv has them: in .tsv they are part of the text",
                file=sys.stderr,
            )
        if len(cells) < len(header) and delimiter == "\t":
            short = [cell for cell in cells if cell.startswith('"')]
            if short and short[-1].count('"') % 2:
                raise UserError(
                    f"{where} {number}: a quote that does not end in its "
                    "line: in .tsv a line is a row; write it as .csv"
                )
        yield number, dict(zip(header, cells))


def _read_rows(file, flag, delimiter):
    """Yields (number of its first line, cells) of each row that has any."""
    # Quotes mean nothing in TSV: a text may have one alone.
    quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    # A C long has 32 bits on Windows.
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    lines = io.StringIO(text_files.read_text(file, flag), newline="")
    rows = csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True)
    number = 1
    try:
        for cells in rows:
            if cells:  # else an empty line
                yield number, cells
            number = rows.line_num + 1
    except csv.Error as error:
        where = f"--{flag}: {file.name}, line {number}"
        if "unexpected end" in str(error):
            raise UserError(
                f"{where}: a quote that begins here is never closed: close "
                'it, or write a quote within a cell as ""'
            ) from None
        raise UserError(
            f'{where}: {error}: a cell with a quote in it is written "...", '
            'and the quote ""'
        ) from None


def _header(cells, fields):
    """The columns' names, `fields` as they are written there; None: no header.

    A name may have other capitals.
    """
    if set(fields) <= set(cells):
        return cells
    wanted = {name.casefold(): name for name in fields}
    header = [wanted.get(cell.strip().casefold(), cell) for cell in cells]
    return header if set(fields) <= set(header) else None


def _of_header(fields):
    return f"the first line names the columns, such as {' and '.join(fields)}; "


def _other_format(cells, delimiter) -> str:
    """What a header is in whose names are not found."""
    if any(len(cell) > 1 and cell[0] == cell[-1] == '"' for cell in cells):
        return "cells in quotes are for .csv: in .tsv they are part of the text"
    for other in ",\t;":
        if len(cells) == 1 and other in cells[0]:
            right = {",": ".csv", "\t": ".tsv"}.get(other)
            return f"its columns are separated by {_NAMES[other]}: " + (
                f"name it {right}"
                if right
                else f"write it with {_NAMES[delimiter]}"
            )
    return ""


def _is_quoted(cell):
    return len(cell) > 3 and cell[0] == cell[-1] == '"' and '""' in cell[1:-1]
