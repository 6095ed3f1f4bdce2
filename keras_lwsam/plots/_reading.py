"""Reading tables of numbers that a run may have been cut in."""

import csv
import io
import math

INTEGERS = ("epoch", "batch")


def rows(path, needed, texts=()):
    """The rows of a CSV file, with numbers as numbers.

    A last line without an end was cut while it was written, and is dropped.

    Args:
        path: A `pathlib.Path`.
        needed: Columns that must be there.
        texts: Columns that hold text.
    """
    data = path.read_bytes()
    whole = data[: max(data.rfind(b"\n"), data.rfind(b"\r")) + 1]
    try:
        text = io.StringIO(whole.decode("utf-8-sig"), newline="")
        lines = list(csv.reader(text))
    except (UnicodeDecodeError, csv.Error) as error:
        raise malformed(path, error) from error
    if not lines:
        return []
    header, *lines = lines
    missing = [column for column in needed if column not in header]
    if missing:
        raise malformed(
            path, f"no column {missing[0]!r} among its columns {header}"
        )
    return [
        _row(path, index, header, cells, texts)
        for index, cells in enumerate(lines, start=2)
        if cells
    ]


def malformed(path, reason):
    """The error for a file that cannot be read, to be raised."""
    return ValueError(
        f"The file {path.name!r} of the run must be as it was written while "
        "training. Restore it, or remove it to do without. "
        f"Received: {str(path)!r} ({reason})"
    )


def _row(path, index, header, cells, texts):
    if len(cells) != len(header):
        raise malformed(
            path, f"line {index} has {len(cells)} cells, not {len(header)}"
        )
    row = {}
    for column, cell in zip(header, cells, strict=True):
        try:
            row[column] = cell if column in texts else _value(column, cell)
        except ValueError as error:
            raise malformed(
                path, f"line {index}, column {column!r}: {error}"
            ) from error
    return row


def _value(column, cell):
    if column in INTEGERS:
        return None if column == "batch" and not cell else int(cell)
    if column == "selected":
        if cell not in ("True", "False"):
            raise ValueError(f"must be True or False, and is {cell!r}")
        return cell == "True"
    # So `keras.callbacks.CSVLogger` writes what is missing, and arrays.
    if cell in ("", "NA") or cell.startswith(("[", '"[')):
        return math.nan
    return float(cell)
