"""Reading what a run has left in its directory."""

import dataclasses
import json
import os
import pathlib
import zipfile

from keras_lwsam.plots import _reading

CONFIGURATION = "run.json"

# Attribute, columns that must be there, columns of text.
TABLES = {
    "history.csv": ("history", ("epoch",), ()),
    "layer_norms.csv": ("layer_norms", ("epoch", "layer"), ("layer",)),
    "layer_norms_model.csv": ("layer_norms_model", ("epoch",), ()),
    "sharpness.csv": ("sharpness", ("epoch",), ()),
    "sharpness_layers.csv": (
        "sharpness_layers",
        ("epoch", "layer"),
        ("layer",),
    ),
}


@dataclasses.dataclass(frozen=True)
class Run:
    """What was recorded of one training run. Any part may be empty.

    Attributes:
        name: What the run is called.
        configuration: Nested dict of what `run.json` holds.
        history: List of dicts, a row an epoch: loss, metrics.
        layer_norms: `LayerNormTracker.history`.
        layer_norms_model: `LayerNormTracker.model_history`.
        sharpness: `SharpnessTracker.history`.
        sharpness_layers: `SharpnessTracker.layer_history`.
        landscapes: Dict from the name of each file, without `.npz`, to its
            `keras_lwsam.analysis.Landscape`.

    Example:

    >>> from keras_lwsam import plots
    >>> plots.Run("SAM", history=[{"epoch": 0, "loss": 2.0}]).layer_norms
    []
    """

    name: str
    configuration: dict = dataclasses.field(default_factory=dict)
    history: list = dataclasses.field(default_factory=list)
    layer_norms: list = dataclasses.field(default_factory=list)
    layer_norms_model: list = dataclasses.field(default_factory=list)
    sharpness: list = dataclasses.field(default_factory=list)
    sharpness_layers: list = dataclasses.field(default_factory=list)
    landscapes: dict = dataclasses.field(default_factory=dict)


def read(run_dir: str | os.PathLike) -> Run:
    """Reads the directory of a run.

    It holds any of `run.json`, `history.csv`, `layer_norms.csv`,
    `layer_norms_model.csv`, `sharpness.csv`, `sharpness_layers.csv` and `.npz`
    files of `Landscape.save`. A last line of a table that was cut while it was
    written is left out. Other files are ignored, arrays of others among them.

    Args:
        run_dir: The directory.

    Returns:
        A `Run`. Its name is that of `run.json`, else that of the directory.

    Raises:
        TypeError: If `run_dir` is not a path.
        ValueError: If it is not a directory, nothing in it belongs to a run,
            or one of the files is malformed.

    Example:

    >>> import pathlib, tempfile
    >>> from keras_lwsam import plots
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     text = "epoch,loss\\n0,2.5\\n1,1.5\\n2,"
    ...     _ = pathlib.Path(folder, "history.csv").write_text(text)
    ...     plots.read_run(folder).history
    [{'epoch': 0, 'loss': 2.5}, {'epoch': 1, 'loss': 1.5}]
    """
    folder = directory(run_dir)
    if not is_run(folder):
        raise ValueError(
            "Nothing in the directory belongs to a run. It must hold one of "
            f"{[CONFIGURATION, *TABLES]} or a saved landscape. "
            f"Received: {str(folder)!r} with {_names(folder)}"
        )
    configuration = _configuration(folder / CONFIGURATION)
    return Run(
        str(configuration.get("name", folder.resolve().name)),
        configuration,
        **{
            attribute: _reading.rows(folder / file, needed, texts)
            for file, (attribute, needed, texts) in TABLES.items()
            if (folder / file).is_file()
        },
        landscapes=_landscapes(folder),
    )


def read_all(directory_of_runs):
    """The runs of a directory, by different names: its own, or those in it."""
    folder = directory(directory_of_runs)
    folders = [folder]
    if not is_run(folder):
        folders = sorted(f for f in folder.iterdir() if is_run(f)) or [folder]
    found = {}
    for own in folders:
        run = read(own)
        taken = run.name in found
        found[f"{run.name} ({own.name})" if taken else run.name] = run
    return found


def is_run(folder):
    """Whether a directory holds any file of a run."""
    if not folder.is_dir():
        return False
    files = [folder / name for name in (CONFIGURATION, *TABLES)]
    return any(f.is_file() for f in files) or bool(_arrays(folder))


def directory(path):
    """A path of a directory, checked."""
    if not isinstance(path, str | os.PathLike):
        raise TypeError(
            "`run_dir` must be the path of a directory. "
            f"Received: run_dir={path!r} (of type {type(path).__name__})"
        )
    folder = pathlib.Path(path)
    if not folder.is_dir():
        state = "is a file" if folder.exists() else "does not exist"
        raise ValueError(
            f"`run_dir` must be a directory. Received: {str(path)!r}, "
            f"which {state}"
        )
    return folder


def _configuration(file):
    if not file.is_file():
        return {}
    try:
        configuration = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise _reading.malformed(file, error) from error
    if not isinstance(configuration, dict):
        kind = type(configuration).__name__
        raise _reading.malformed(file, f"it holds a {kind}, not an object")
    return configuration


def _landscapes(folder):
    found = {}
    for file in _arrays(folder):
        from keras_lwsam.analysis.landscape import Landscape

        try:
            # A broken archive that NumPy opens would stay open.
            zipfile.ZipFile(file).close()
            found[file.stem] = Landscape.load(file)
        except (ValueError, OSError, zipfile.BadZipFile) as error:
            raise _reading.malformed(file, error) from error
    return found


def _arrays(folder):
    """The landscapes; a file that cannot be opened may be one."""
    return [f for f in sorted(folder.glob("*.npz")) if _may_be_landscape(f)]


def _may_be_landscape(file):
    try:
        with zipfile.ZipFile(file) as archive:
            return "losses.npy" in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return True


def _names(folder):
    names = sorted(file.name for file in folder.iterdir())
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f"{names[:8]}{more}" if names else "nothing in it"
