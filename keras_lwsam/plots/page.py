"""A report of a run, or of several, as one page of HTML."""

import os
import pathlib
import uuid

from keras_lwsam.plots import _html, _sections
from keras_lwsam.plots.run import directory, read_all


def report(
    run_dir: str | os.PathLike, path: str | os.PathLike | None = None
) -> pathlib.Path:
    """Writes one self-contained page about a run, or about several.

    It has the configuration, the last numbers, and pictures of the course of
    training, the norms of the layers, sharpness and loss landscapes, as far as
    the run recorded them; of several runs first a comparison. The pictures are
    in the page, which refers to nothing outside it and runs no script.

    Args:
        run_dir: Directory of a run, as `read_run` takes it, or a directory of
            such directories.
        path: File to write, which appears as a whole or not at all. Defaults
            to `None`: `report.html` in `run_dir`.

    Returns:
        The path of the page.

    Raises:
        ImportError: If matplotlib is not installed.
        TypeError: If `run_dir` or `path` is not a path.
        ValueError: If `run_dir` holds no run or a malformed file, or `path`
            is a directory or in none.

    Example:

    >>> import pathlib, tempfile
    >>> from keras_lwsam import plots
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     text = "epoch,loss\\n0,2.5\\n1,1.5\\n"
    ...     _ = pathlib.Path(folder, "history.csv").write_text(text)
    ...     page = plots.report(folder)
    ...     page.name, "<script" in page.read_text()
    ('report.html', False)
    """
    folder = directory(run_dir)
    target = _target(folder, path)
    runs = read_all(folder)
    sections = [(name, _sections.of_run(run)) for name, run in runs.items()]
    title = f"Training report: {next(iter(runs))}"
    if len(runs) > 1:
        title = f"Training report: {len(runs)} runs"
        sections.insert(0, ("Comparison", _sections.of_comparison(runs)))
    _write(target, _html.page(title, sections))
    return target


def _target(folder, path):
    if path is None:
        return folder / "report.html"
    if not isinstance(path, str | os.PathLike):
        raise TypeError(
            "`path` must be the path of a file, or None for `report.html` in "
            f"`run_dir`. Received: path={path!r} (of type "
            f"{type(path).__name__})"
        )
    target = pathlib.Path(path)
    if target.is_dir() or not target.parent.is_dir():
        raise ValueError(
            "`path` must be a file in a directory that exists. "
            f"Received: path={str(path)!r}"
        )
    return target


def _write(target, text):
    """Writes beside the file first: a reader never sees a half of it."""
    beside = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, target)
    finally:
        beside.unlink(missing_ok=True)
