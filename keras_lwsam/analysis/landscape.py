"""A loss landscape: what was computed, as arrays, in memory or in a file."""

import dataclasses
import os
import zipfile
import zlib

import numpy as np

_ARRAYS = ("losses", "path", "explained")


@dataclasses.dataclass(frozen=True, eq=False)
class Landscape:
    r"""Losses on a line or on a plane through the space of the weights.

    Point $(a, b)$ stands for the weights $w + a \, d_1 + b \, d_2$.

    Attributes:
        losses: Array with an axis a direction: `losses[i]`, or `losses[i, j]`,
            is the loss at `coordinates[0][i]`, `coordinates[1][j]`.
        coordinates: Tuple of one or two vectors, increasing.
        labels: Tuple of strings: what each direction is, with its unit.
        path: Array of shape (points, directions): places to be marked, in
            order, such as where the weights were while training. Its
            directions are those of `losses`; it may have no point.
        path_labels: Tuple with a string for each point of `path`.
        explained: Vector: the share of the variance of the weights' course
            that each direction holds; empty where that has no meaning.
        name: What kind of landscape this is, for titles.

    Example:

    >>> import numpy as np
    >>> from keras_lwsam import analysis
    >>> line = np.linspace(-1.0, 1.0, 5)
    >>> bowl = analysis.Landscape(line**2, (line,), ("direction",))
    >>> bowl.losses.tolist()
    [1.0, 0.25, 0.0, 0.25, 1.0]
    """

    losses: np.ndarray
    coordinates: tuple
    labels: tuple
    path: np.ndarray | None = None
    path_labels: tuple = ()
    explained: np.ndarray | None = None
    name: str = "Loss landscape"

    def __post_init__(self):
        number = len(self.coordinates)
        given = {
            "losses": np.asarray(self.losses),
            "coordinates": tuple(np.asarray(c) for c in self.coordinates),
            "labels": tuple(map(str, self.labels)),
            "path": np.zeros((0, number)) if self.path is None else self.path,
            "path_labels": tuple(map(str, self.path_labels)),
            "explained": () if self.explained is None else self.explained,
        }
        given["path"] = np.asarray(given["path"], "float64")
        given["explained"] = np.asarray(given["explained"], "float64")
        for name, value in given.items():
            object.__setattr__(self, name, value)
        shape = tuple(len(c) for c in self.coordinates)
        if (
            self.losses.shape != shape
            or len(self.labels) != number
            or self.path.shape != (len(self.path), number)
            or len(self.path_labels) not in (0, len(self.path))
        ):
            raise ValueError(
                "A landscape must have one axis, one vector of coordinates "
                "and one label a direction, and a label for each point of its "
                "path or none. Received: losses of the shape "
                f"{self.losses.shape}, coordinates of the lengths {shape}, "
                f"{len(self.labels)} labels, a path of the shape "
                f"{self.path.shape} with {len(self.path_labels)} labels"
            )

    def save(self, path: str | os.PathLike):
        """Writes everything to a `.npz` file, without pickled objects.

        Args:
            path: The file, in a directory that exists; `.npz` is appended
                where it is missing.

        Raises:
            OSError: If it cannot be written.
        """
        np.savez(
            path,
            name=np.array(self.name),
            labels=np.array(self.labels, str),
            path_labels=np.array(self.path_labels, str),
            **{name: getattr(self, name) for name in _ARRAYS},
            **{f"coordinates_{i}": c for i, c in enumerate(self.coordinates)},
        )

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Landscape":
        """Reads what `save` wrote.

        Args:
            path: The file.

        Raises:
            ValueError: If the file is no landscape.
        """
        try:
            with open(path, "rb") as file:
                arrays = dict(np.load(file, allow_pickle=False))
                dimensions = arrays["losses"].ndim
                return cls(
                    coordinates=tuple(
                        arrays[f"coordinates_{i}"] for i in range(dimensions)
                    ),
                    labels=tuple(arrays["labels"].tolist()),
                    path_labels=tuple(arrays["path_labels"].tolist()),
                    name=str(arrays["name"]),
                    **{name: arrays[name] for name in _ARRAYS},
                )
        except (
            EOFError,
            KeyError,
            MemoryError,
            # Encrypted, or compressed in a way that Python does not know.
            RuntimeError,
            TypeError,
            ValueError,
            zipfile.BadZipFile,
            zlib.error,
        ) as error:
            raise ValueError(
                "The file must be a landscape, as `Landscape.save` writes it. "
                f"Received: {os.fspath(path)!r} ({error})"
            ) from error
