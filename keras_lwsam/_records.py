"""Tables that grow while training: in memory, in a file, in TensorBoard."""

import csv
import math
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
        path = self._csv_path
        if path is None:
            return
        pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
        before = rows_before(path, epoch, self.columns)
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(before)

    def extend(self, rows):
        """Adds rows."""
        self.rows.extend(rows)
        if self._csv_path is not None:
            with open(self._csv_path, "a", newline="") as file:
                csv.DictWriter(file, self.columns).writerows(rows)


def rows_before(path, epoch, columns=None):
    """Rows of the epochs before this one, of a table that a run left behind.

    Args:
        path: The file, which may be missing or cut off.
        epoch: The first epoch to come; in the first one of all, nothing was
            before.
        columns: The columns that it must have; `None`: any.
    """
    if epoch < 1 or not pathlib.Path(path).exists():
        return []
    with open(path, newline="") as file:
        reader = csv.DictReader(file)
        if columns is not None and tuple(reader.fieldnames or ()) != columns:
            return []
        # Of a line that was cut off, the last columns are missing.
        rows = [row for row in reader if None not in row.values()]
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
        tags: Dict from column to tag. What is not known (NaN) has no scalar.
        layer_rows: Rows with a `layer`.
        model_rows: Rows without.
    """
    found = {}
    for row in [*layer_rows, *model_rows]:
        suffix = f"/{row['layer']}" if "layer" in row else ""
        for column, tag in tags.items():
            if not math.isnan(row[column]):
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
        """Writes a dict from tag to number, at a step."""
        if self._log_dir is None:
            return
        if self._writer is None:
            self._writer = _tensorboard.summary_writer(self._log_dir)
        _tensorboard.write_scalars(self._writer, numbers, step)

    def close(self):
        """Ends the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
