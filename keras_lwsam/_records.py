"""Tables that grow while training: in memory, in a file, in TensorBoard."""

import csv
import math
import os
import pathlib

from keras_lwsam import _tensorboard


class Table:
    """Rows of one kind, and the CSV file that they are written to.

    Args:
        columns: Names of the columns, in order; one is `epoch`.
        csv_path: The file; `None`: none.

    Attributes:
        rows: List of dicts.
    """

    def __init__(self, columns, csv_path=None):
        self.columns = tuple(columns)
        self.rows = []
        self._csv_path = csv_path

    def begin(self, epoch):
        """Begins the file; where training goes on, behind what was before.

        Args:
            epoch: The first epoch to come.
        """
        if self._csv_path is None:
            return
        path = pathlib.Path(self._csv_path)
        path.parent.mkdir(parents=True, exist_ok=True)
        before = rows_before(path, epoch)
        if before and tuple(before[0]) != self.columns:
            # Other things were measured then: they are kept in a file of
            # their own.
            os.replace(path, beside(path, f"until_epoch_{epoch}"))
            before = []
        write(path, self.columns, before)

    def extend(self, rows):
        """Adds rows."""
        self.rows.extend(rows)
        if self._csv_path is not None:
            with open(self._csv_path, "a", newline="") as file:
                csv.DictWriter(file, self.columns).writerows(rows)


def write(path, columns, rows):
    """Writes a whole table, completely or not at all."""
    unfinished = pathlib.Path(f"{path}.unfinished")
    with open(unfinished, "w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    os.replace(unfinished, path)


def rows_before(path, epoch):
    """Rows of the epochs before this one, of a table that a run left behind.

    Args:
        path: The file, which may be missing or cut off.
        epoch: The first epoch to come; in the first one of all, nothing was
            before.
    """
    if epoch < 1 or not pathlib.Path(path).exists():
        return []
    with open(path, newline="") as file:
        # Of a line that was cut off, the last columns are missing.
        rows = [r for r in csv.DictReader(file) if None not in r.values()]
    return [row for row in rows if int(row["epoch"]) < epoch]


def beside(csv_path, word):
    """The path of a second table: `name_word.csv` next to `name.csv`."""
    if csv_path is None:
        return None
    path = pathlib.Path(csv_path)
    return path.with_name(f"{path.stem}_{word}{path.suffix}")


def scalars(tags, layer_rows, model_rows):
    """Dict from tag to number: `<tag>/<layer>`, and `<tag>` for the model.

    Args:
        tags: Dict from column to tag.
        layer_rows: Rows with a `layer`.
        model_rows: Rows without.
    """
    found = {}
    for row in [*layer_rows, *model_rows]:
        suffix = f"/{row['layer']}" if "layer" in row else ""
        for column, tag in tags.items():
            found[tag + suffix] = row[column]
    return found


class Scalars:
    """TensorBoard scalars in a directory, which is opened when written to.

    Args:
        log_dir: The directory; `None`: nothing is written.
    """

    def __init__(self, log_dir):
        self._log_dir = log_dir
        self._writer = None

    def write(self, numbers, step):
        """Writes a dict from tag to number, at a step; NaN is left out."""
        if self._log_dir is None:
            return
        if self._writer is None:
            self._writer = _tensorboard.summary_writer(self._log_dir)
        known = {t: n for t, n in numbers.items() if not math.isnan(n)}
        _tensorboard.write_scalars(self._writer, known, step)

    def close(self):
        """Ends the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
