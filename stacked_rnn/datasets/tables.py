"""Tables and objects in files: TSV, CSV and JSONL, gzipped or not."""

import csv
import gzip
import io
import json
import pathlib
import sys

from stacked_rnn.configs import UserError
from stacked_rnn.datasets import corpora

_DELIMITERS = {".csv": ",", ".tsv": "\t"}


def find(part, flag) -> list[str]:
    """The paths that a path or glob means: one at least."""
    paths = corpora.expand(part)
    if not paths:
        raise UserError(f"--{flag}={part}: no such file")
    return paths


def kind(path) -> str:
    """.tsv, .csv or .jsonl, by which a file is read; empty: none of these."""
    suffix = pathlib.Path(path.removesuffix(".gz")).suffix.lower()
    return suffix if suffix in {*_DELIMITERS, ".jsonl"} else ""


def read_text(path, flag) -> str:
    """A file's text, without a byte-order mark."""
    open_file = gzip.open if str(path).endswith(".gz") else open
    with corpora.named_errors(path, flag), open_file(path, "rb") as file:
        content = file.read()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"--{flag}: {path} is not UTF-8 text (byte {error.start}): convert "
            "it to UTF-8"
        ) from None


def read_lines(path, flag):
    r"""Those that end in \n, \r or \r\n: not all that `splitlines` takes."""
    for line in io.StringIO(read_text(path, flag), newline=None):
        yield line.removesuffix("\n")


def read_fields(path, fields, flag, hint, default_header=None):
    """Yields (where, values) of each row of a table, or of JSON objects.

    Args:
        path: of a file that has a `kind`.
        fields: names of the columns, or fields, whose values are wanted.
        flag: what an error calls the file.
        hint: the end of an error: which flags name the fields.
        default_header: the names of the columns of a table whose first line
            has not all `fields`; None: the first line names them in any case.

    Raises:
        UserError: naming the file and the line.
    """
    if kind(path) == ".jsonl":
        rows = _read_json(path, flag)
    else:
        rows = _read_table(path, fields, flag, default_header)
    for number, row in rows:
        where = f"{path}, line {number}"
        for name in fields:
            if row.get(name) is None:
                there = ", ".join(map(str, row)) or "none"
                raise UserError(
                    f"--{flag}: {where}: no field {name!r} (there are {there}):"
                    f" {hint}"
                )
        yield where, [row[name] for name in fields]


def check_string(value, name, where, flag, hint) -> None:
    """Raises a `UserError` for a value of another kind, as JSON has them."""
    if not isinstance(value, str):
        raise UserError(f"--{flag}: {where}: {name} is no string: {hint}")


def _read_json(path, flag):
    for number, line in enumerate(read_lines(path, flag), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(
                f"--{flag}: {path}, line {number}: not JSON ({error})"
            ) from None
        if not isinstance(row, dict):
            raise UserError(
                f"--{flag}: {path}, line {number}: expected a JSON object"
            )
        yield number, row


def _read_table(path, fields, flag, default_header):
    delimiter = _DELIMITERS[kind(path)]
    # Quotes mean nothing in TSV: a text may have one alone.
    quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    lines = io.StringIO(read_text(path, flag), newline="")
    rows = csv.reader(lines, delimiter=delimiter, quoting=quoting)
    csv.field_size_limit(sys.maxsize)
    try:
        header = next(rows, [])
        if default_header and not set(fields) <= set(header):
            yield rows.line_num, dict(zip(default_header, header))
            header = default_header
        for cells in rows:
            if cells:  # else an empty line
                yield rows.line_num, dict(zip(header, cells))
    except csv.Error as error:
        raise UserError(
            f"--{flag}: {path}, line {rows.line_num}: {error}"
        ) from None
