"""The plane in which the weights moved while training."""

import os
import pathlib
import re

import keras
import numpy as np

from keras_lwsam._tensors import in_float32
from keras_lwsam.analysis.directions import Directions, Frame, arrays_of

# How far beyond the course of the weights the picture goes.
_MARGIN = 0.2


class TrajectoryPlane(Directions):
    r"""The plane that holds most of the course of the weights.

    From the weights $w_1, ..., w_T$ at several times, the two principal
    directions of

    $$ M = [w_1 - w, ..., w_T - w] $$

    where w are the present weights of the model, the origin of the plane.
    Directions have length 1, so distances are in units of the weights. Only
    trainable weights are compared; moving statistics stay as they are.

    Args:
        trajectory: Directory that `callbacks.TrajectoryRecorder` wrote to; or
            a list, one a time, of lists of arrays as `network.get_weights`
            returns. At least two that differ from the present weights. Points
            are labelled by the number of epochs, or by their place in the
            list.

    Raises:
        TypeError: If `trajectory` is neither.
        ValueError: If there are too few weights in it; when the landscape is
            made, if they are those of another model.

    Example:

    >>> import numpy as np
    >>> from keras_lwsam import analysis
    >>> start, middle = [np.zeros((2, 1))], [np.ones((2, 1))]
    >>> len(analysis.TrajectoryPlane([start, middle]).trajectory)
    2

    References:
        Li, Xu, Taylor, Studer, Goldstein: Visualizing the Loss Landscape of
        Neural Nets, NeurIPS 2018, arXiv:1712.09913.
    """

    def __init__(self, trajectory):
        self.times = None
        if isinstance(trajectory, str | os.PathLike):
            self.times, trajectory = load_trajectory(trajectory)
        if not isinstance(trajectory, list | tuple):
            raise TypeError(
                "`trajectory` must be the directory of a `TrajectoryRecorder`, "
                "or a list of lists of arrays. "
                f"Received: trajectory={trajectory!r} (of type "
                f"{type(trajectory).__name__})"
            )
        if len(trajectory) < 2:
            raise ValueError(
                "A plane needs the weights at two times or more: record more "
                f"epochs. Received: {len(trajectory)} of them"
            )
        self.trajectory = list(trajectory)
        self.times = self.times or list(range(len(trajectory)))

    def frame(self, objective):
        moves = {id(v) for v in objective.perturbed}
        kept = [id(v) in moves for v in objective.variables]

        def vector(model):
            arrays = arrays_of(objective, model)
            pairs = zip(arrays, kept, strict=True)
            return np.concatenate([a.reshape(-1) for a, keep in pairs if keep])

        origin = vector(objective.network)
        course = np.stack([vector(w) - origin for w in self.trajectory])
        _, lengths, rows = np.linalg.svd(course, full_matrices=False)
        if len(lengths) < 2 or lengths[1] <= 1e-6 * lengths[0]:
            raise ValueError(
                "The weights must have moved in more than one direction to "
                "span a plane. Record more of the training, or look at a line "
                "with `LineTo`. Received: a trajectory on one line"
            )
        rows = rows[:2]
        # Which way is up is left open; the first weights are at the right.
        rows = rows * np.where(rows @ course[0] < 0.0, -1.0, 1.0)[:, None]
        path, labels = course @ rows.T, list(map(str, self.times))
        if course[-1].any():
            path = np.concatenate([path, np.zeros((1, 2))])
            labels.append("now")
        low, high = path.min(0), path.max(0)
        room = _MARGIN * np.maximum(high - low, 0.1 * np.max(high - low))
        return Frame(
            directions=[_arrays(objective, kept, row) for row in rows],
            ranges=list(zip(low - room, high + room, strict=True)),
            labels=[
                f"principal direction {i + 1} (L2 distance)" for i in range(2)
            ],
            name="Loss in the plane of the training",
            path=path,
            path_labels=labels,
            explained=(lengths**2 / np.sum(lengths**2))[:2],
        )


def _arrays(objective, kept, vector):
    """A vector of perturbable weights as arrays, `None` for other variables."""
    arrays, start = [], 0
    for variable, keep in zip(objective.variables, kept, strict=True):
        if not keep:
            arrays.append(None)
            continue
        size = int(np.prod(variable.shape))
        part = vector[start : start + size]
        arrays.append(part.reshape(variable.shape))
        start += size
    return arrays


def save_weights(directory, number, network: keras.Model):
    """Writes a network's weights into a directory, completely or not at all.

    Args:
        directory: The directory, which exists.
        number: When this is: the files are read in the order of it.
        network: The `keras.Model`.
    """
    directory = pathlib.Path(directory)
    unfinished = directory / "unfinished.npz"
    # NumPy's files know no bfloat16.
    tensors = [in_float32(v.value) for v in network.weights]
    arrays = [keras.ops.convert_to_numpy(tensor) for tensor in tensors]
    np.savez(unfinished, **{f"{i}": a for i, a in enumerate(arrays)})
    os.replace(unfinished, directory / f"weights_{number:06d}.npz")


def saved_weights(directory) -> list:
    """`(number, path)` pairs of the files of `save_weights`, in order."""
    found = (
        (re.fullmatch(r"weights_(\d{6,})\.npz", path.name), path)
        for path in pathlib.Path(directory).glob("weights_*.npz")
    )
    return sorted((int(match[1]), path) for match, path in found if match)


def load_trajectory(directory) -> tuple[list, list]:
    """The numbers and the weights that `save_weights` wrote, in order."""
    files = saved_weights(directory)
    if not files:
        raise ValueError(
            "The directory must hold what `callbacks.TrajectoryRecorder` "
            f"wrote. Received: {os.fspath(directory)!r}, without such files"
        )
    trajectory = []
    for _, path in files:
        with np.load(path, allow_pickle=False) as data:
            trajectory.append([data[f"{i}"] for i in range(len(data.files))])
    return [number for number, _ in files], trajectory
