"""Tables of plain text."""

import shutil
import sys
from collections.abc import Sequence


def table(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Rows in columns, the first row being the header.

    On a terminal the first column is cut where a row would be too long.

    Args:
        rows: Rows of cells.
        left: Number of columns that are aligned to the left.

    Example:

    >>> from keras_lwsam._tables import table
    >>> print(table([["layer", "cost"], ["block_1/dense", "1.25"]]))
    layer          cost
    block_1/dense  1.25
    """
    rows = [list(map(str, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    if sys.stdout.isatty():
        columns = shutil.get_terminal_size().columns
        excess = sum(widths) + 2 * (len(widths) - 1) - columns
        if excess > 0:
            widths[0] = max(widths[0] - excess, 12)
            for row in rows:
                row[0] = shortened(row[0], widths[0])
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def shortened(text: str, width: int) -> str:
    """The end of a text, which tells paths apart.

    >>> from keras_lwsam._tables import shortened
    >>> shortened("encoder/block_1/query", 16)
    '...block_1/query'
    """
    return text if len(text) <= width else f"...{text[len(text) - width + 3 :]}"


def percent(share: float) -> str:
    """A share, such as `"12.5%"`."""
    return f"{share:.1%}"


def times(cost: float) -> str:
    """A cost relative to another, such as `"1.25"`."""
    return f"{cost:.2f}"
