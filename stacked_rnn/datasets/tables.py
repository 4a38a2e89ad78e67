"""Reading fields of TSV, CSV and JSONL files, gzipped or not."""

import csv
import hashlib
import io
import json
import pathlib
import sys

from stacked_rnn.configs import UserError
from stacked_rnn.utils import text_files

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_NAMES = {",": "commas", "\t": "tabs", ";": "semicolons"}


def find(source, flag) -> list[text_files.TextFile]:
    """Returns the files that a list of paths and globs names, at least one.

    Raises:
        UserError: a path or glob names no file.
    """
    return [
        file
        for part in text_files.parts(source)
        for file in text_files.find(part, flag)
    ]


def kind(file, flag) -> str:
    """Returns a file's format: ".tsv", ".csv", ".jsonl" or "" for another.

    It is told by the file's name, or for a pipe by its first line.
    """
    suffix = pathlib.Path(file.name.removesuffix(".gz")).suffix.lower()
    if suffix in {*_DELIMITERS, ".jsonl"}:
        return suffix
    if file.is_stream:
        line = next(text_files.read_lines(file, flag), "")
        if line.startswith("{"):
            return ".jsonl"
        return ".tsv" if "\t" in line else ".csv" if "," in line else ""
    return ""


def read_fields(file, fields, flag, hint, default_header=None):
    """Yields (location, values) for each row of a table, or JSON object.

    Args:
        file: a `TextFile` whose `kind` is not "".
        fields: names of the columns or fields to read.
        flag: the flag that errors name.
        hint: the end of some errors: which flags name the fields.
        default_header: names of the columns if the first line does not contain
            all of `fields`; None: the first line must be a header.

    Yields:
        location, a string that names the file and the line, and a list with
        the value of each field: a string, or in JSONL any value but null.

    Raises:
        UserError: naming the file and the line.
    """
    if kind(file, flag) == ".jsonl":
        rows = _read_json(file, flag)
    else:
        rows = _read_table(file, fields, flag, hint, default_header)
    for line_number, row in rows:
        location = f"{file.name}, line {line_number}"
        for name in fields:
            if row.get(name) is None:
                found = ", ".join(map(str, row)) or "none"
                reason = (
                    f"the field {name!r} is null"
                    if name in row
                    else f"no field {name!r} (there are {found})"
                )
                raise UserError(f"--{flag}: {location}: {reason}: {hint}")
            if isinstance(row[name], str):
                check_text(row[name], name, location, flag)
        yield location, [row[name] for name in fields]


def digest(*columns) -> str:
    """Returns a hash of some columns of equal length, hexadecimal."""
    result = hashlib.sha256()
    for row in zip(*columns):
        result.update(repr(row).encode("utf-8", "replace"))
    return result.hexdigest()


def check_string(value, name, location, flag, hint) -> None:
    """Raises a `UserError` for a JSON value that is not a string."""
    if not isinstance(value, str):
        raise UserError(f"--{flag}: {location}: {name} is not a string: {hint}")


def check_text(value, name, location, flag) -> None:
    """Raises a `UserError` for a zero byte or a lone surrogate in a string."""
    if "\0" in value:
        raise UserError(
            f"--{flag}: {location}: a zero byte in {name!r}: leave it out"
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"--{flag}: {location}: half a character in {name!r} "
            f"(\\u{ord(value[error.start]):x}): write both halves, or neither"
        ) from None


def _read_json(file, flag):
    """Yields (line number, {field: value}) for each line that is not blank."""
    for line_number, line in enumerate(text_files.read_lines(file, flag), 1):
        if not line.strip():
            continue
        location = f"--{flag}: {file.name}, line {line_number}"
        try:
            row = json.loads(line, object_pairs_hook=_unique)
        except UserError as error:
            raise UserError(f"{location}: {error}") from None
        except ValueError as error:
            raise UserError(f"{location}: not JSON ({error})") from None
        except RecursionError:
            raise UserError(f"{location}: nested too deeply") from None
        if not isinstance(row, dict):
            raise UserError(f"{location}: expected a JSON object")
        yield line_number, row


def _unique(pairs):
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"two fields are named {twice!r}: leave one out")
    return row


def _read_table(file, fields, flag, hint, default_header):
    """Yields (number of the first line, {column: cell}) for each row."""
    delimiter = _DELIMITERS[kind(file, flag)]
    location = f"--{flag}: {file.name}, line"
    rows = _read_rows(file, flag, delimiter)
    line_number, first = next(rows, (1, []))
    header = _header(first, fields)
    surplus = first[len(fields) :] if default_header else []
    has_comma = delimiter == "," and any(map(str.strip, surplus))
    if header:
        for name in fields:
            if header.count(name) > 1:
                raise UserError(
                    f"{location} {line_number}: two columns are named "
                    f"{name!r}: rename one"
                )
    elif default_header and len(first) >= len(fields) and not has_comma:
        print(
            f"note: {file.name} has no header with {' and '.join(fields)}: "
            f"line {line_number} is read as a pair, "
            f"{first[0]!r} -> {first[1]!r}",
            file=sys.stderr,
        )
        header = default_header
        yield line_number, dict(zip(header, first))
    else:
        found = first
        if default_header and not has_comma:
            found = list(fields[: len(first)])
        missing = next(name for name in fields if name not in found)
        raise UserError(
            f"{location} {line_number}: no field {missing!r} (there are "
            f"{', '.join(found) or 'none'}): "
            + 'a text with commas must be quoted, "...", or ' * has_comma
            + (
                _advice_on_format(first, delimiter)
                or "the first line names the columns, such as "
                f"{' and '.join(fields)}; {hint}"
            )
        )
    # Public lists of pairs have further columns with notes, without a name.
    has_notes = not _header(first, fields) and delimiter == "\t"
    warn_of_quotes = delimiter == "\t"
    for line_number, cells in rows:
        surplus = cells[len(header) :]
        if not has_notes and any(cell.strip() for cell in surplus):
            raise UserError(
                f"{location} {line_number}: {len(cells)} cells, but the first "
                f"line has {len(header)}: a text with {_NAMES[delimiter]} "
                + (
                    'must be quoted, "..."'
                    if delimiter == ","
                    else "needs .csv or .jsonl"
                )
            )
        if warn_of_quotes and any(map(_is_quoted, cells)):
            warn_of_quotes = False
            print(
                f"warning: {file.name}, line {line_number}: a text in quotes, "
                "as in .csv files: in .tsv they are part of the text",
                file=sys.stderr,
            )
        if len(cells) < len(header) and delimiter == "\t":
            short = [cell for cell in cells if cell.startswith('"')]
            if short and short[-1].count('"') % 2:
                raise UserError(
                    f"{location} {line_number}: a quote is not closed on its "
                    "line: in .tsv each line is a row; write it as .csv"
                )
        yield line_number, dict(zip(header, cells))


def _read_rows(file, flag, delimiter):
    """Yields (number of the first line, cells) for each row with cells."""
    # Quotes have no meaning in TSV: a text may contain a single one.
    quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    # The limit is a C long, which has 32 bits on Windows.
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    lines = io.StringIO(text_files.read_text(file, flag), newline="")
    rows = csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True)
    line_number = 1
    try:
        for cells in rows:
            if cells:  # else an empty line
                yield line_number, cells
            line_number = rows.line_num + 1
    except csv.Error as error:
        location = f"--{flag}: {file.name}, line {line_number}"
        if "unexpected end" in str(error):
            raise UserError(
                f"{location}: a quote that begins here is never closed: close "
                'it, or write a quote within a cell as ""'
            ) from None
        raise UserError(
            f"{location}: {error}: a cell that contains a quote is written in "
            'quotes, "...", and the quote as ""'
        ) from None


def _header(cells, fields):
    """Returns the names of the columns, or None if a field is missing.

    Upper and lower case are not distinguished; names of fields are returned as
    `fields` spells them.
    """
    if set(fields) <= set(cells):
        return cells
    wanted = {name.casefold(): name for name in fields}
    header = [wanted.get(cell.strip().casefold(), cell) for cell in cells]
    return header if set(fields) <= set(header) else None


def _advice_on_format(cells, delimiter) -> str:
    """Explains a header without the fields: wrong quotes or delimiter."""
    if any(len(cell) > 1 and cell[0] == cell[-1] == '"' for cell in cells):
        return "quoted cells are for .csv: in .tsv quotes are part of the text"
    for other in ",\t;":
        if len(cells) == 1 and other in cells[0]:
            suffix = {",": ".csv", "\t": ".tsv"}.get(other)
            return f"its columns are separated by {_NAMES[other]}: " + (
                f"name it {suffix}"
                if suffix
                else f"write it with {_NAMES[delimiter]}"
            )
    return ""


def _is_quoted(cell):
    return len(cell) > 3 and cell[0] == cell[-1] == '"' and '""' in cell[1:-1]
