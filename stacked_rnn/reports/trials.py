"""The trials of a search: a line for each, a table, and trials.csv."""

import csv
import io

from stacked_rnn.utils import files
from stacked_rnn.utils.terminal import duration

_MOST_SHOWN = 20  # trials in a table


def line(trial, info) -> str:
    """Returns a line with the values, the result and the time of a trial.

    Args:
        trial: a `training.search.Trial`.
        info: the `TaskInfo`.
    """
    result = info.quality_format.format(trial.quality)
    if trial.error:
        result = f"failed: {trial.error}"
    return (
        f"Trial {trial.number}  {in_words(trial.values)}  {result}  "
        f"{duration(trial.seconds)}"
    )


def in_words(values) -> str:
    """Returns settings in a line, as in `units=64 dropout=0.5`."""
    return " ".join(f"{name}={_text(value)}" for name, value in values.items())


def table(trials, info) -> str:
    """Returns the first trials of a list in aligned columns; see `line`."""
    rows = [
        ["trial", *trials[0].values, info.quality.replace("_", " "), "time"]
    ]
    for trial in trials[:_MOST_SHOWN]:
        result = "failed" if trial.error else f"{trial.quality:.4f}"
        values = map(_text, trial.values.values())
        time = duration(trial.seconds)
        rows.append([str(trial.number), *values, result, time])
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths))
        for row in rows
    ]
    if len(trials) > _MOST_SHOWN:
        lines.append(f"... and {len(trials) - _MOST_SHOWN} more")
    return "\n".join(lines)


def write(trials, info, path) -> None:
    """Writes all trials as a CSV file, whole or not at all; see `line`."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["trial", *trials[0].values, info.quality, "seconds", "error"]
    )
    for trial in trials:
        result = "" if trial.error else trial.quality
        values = map(_text, trial.values.values())
        seconds = round(trial.seconds, 1)
        writer.writerow([trial.number, *values, result, seconds, trial.error])
    with files.whole_file(path) as file:
        file.write(text.getvalue().encode())


def _text(value) -> str:
    if isinstance(value, float):
        return f"{value:.10g}"
    return str(value).lower() if isinstance(value, bool) else str(value)
