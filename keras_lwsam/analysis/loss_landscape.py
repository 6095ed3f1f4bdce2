"""`loss_landscape`: the loss on a line or a plane through the weights."""

import itertools

import keras
import numpy as np
from keras import ops

from keras_lwsam import _arguments
from keras_lwsam.analysis.directions import Directions, RandomDirections
from keras_lwsam.analysis.landscape import Landscape
from keras_lwsam.analysis.objective import objective_of

# Points on each axis, of a line and of a plane.
_POINTS = {1: 41, 2: 21}


def loss_landscape(
    model,
    x=None,
    y=None,
    sample_weight=None,
    *,
    directions: Directions | None = None,
    num_points: int | None = None,
    ranges=None,
    batch_size: int = 32,
    training: bool = False,
    verbose: int = 1,
) -> Landscape:
    r"""The loss on a line or a plane through the present weights.

    $$ (a, b) \mapsto L(w + a \, d_1 + b \, d_2) $$

    The model itself does not change.

    Args:
        model: A compiled model, or an `Objective`, which holds its data.
        x: Inputs, and `y`, `sample_weight`: whatever `evaluate` takes.
        y: Targets.
        sample_weight: Weights of the samples.
        directions: Where to look: `RandomDirections` (1-D or 2-D), `LineTo`
            another model, or `TrajectoryPlane`. Defaults to
            `RandomDirections()`, a plane.
        num_points: Points on each axis, an int >= 2. Defaults to `41` on a
            line, `21` on a plane (441 evaluations of all of the data).
        ranges: A `(low, high)` pair for all directions, or a list of one for
            each. Defaults to what suits the directions.
        batch_size: Samples evaluated at a time. Defaults to `32`.
        training: Whether the network is called as in training, where BatchNorm
            needs no moving statistics. Defaults to `False`.
        verbose: `1` shows a progress bar, `0` does not.

    Returns:
        A `Landscape`: arrays, which `save` writes to a file and `plots` draws.
        A loss that is infinite or NaN stays so.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range.

    Example:

    >>> import keras, numpy as np
    >>> from keras_lwsam import analysis
    >>> model = keras.Sequential([
    ...     keras.Input((1,)), keras.layers.Dense(1, kernel_initializer="ones")
    ... ])
    >>> model.compile(loss="mse")
    >>> x, y = np.ones((4, 1)), np.zeros((4, 1))
    >>> line = analysis.loss_landscape(
    ...     model, x, y, directions=analysis.RandomDirections(1), verbose=0
    ... )
    >>> line.losses.shape, round(float(line.losses[20]), 4)
    ((41,), 1.0)

    References:
        Li, Xu, Taylor, Studer, Goldstein: Visualizing the Loss Landscape of
        Neural Nets, NeurIPS 2018, arXiv:1712.09913.
    """
    directions = RandomDirections() if directions is None else directions
    _arguments.instance(
        "directions",
        directions,
        Directions,
        "an `analysis.Directions`, such as analysis.RandomDirections(2)",
    )
    if (
        num_points is not None
        and _arguments.count("num_points", num_points) < 2
    ):
        raise ValueError(
            "`num_points` must be at least 2: both ends of an axis. "
            f"Received: num_points={num_points!r}"
        )
    if isinstance(verbose, str) or verbose not in (0, 1):
        raise ValueError(
            "`verbose` must be 0 or 1: without or with a progress bar. "
            f"Received: verbose={verbose!r}"
        )
    objective = objective_of(model, x, y, sample_weight, batch_size, training)
    frame = directions.frame(objective)
    number = len(frame.directions)
    coordinates = [
        np.linspace(low, high, num_points or _POINTS[number])
        for low, high in _checked(ranges, frame.ranges)
    ]
    shape = tuple(len(c) for c in coordinates)
    losses = np.full(shape, np.nan)
    bar = keras.utils.Progbar(losses.size, verbose=verbose, unit_name="point")
    place = _mover(objective, frame.directions)
    for index in itertools.product(*map(range, shape)):
        point = [c[i] for c, i in zip(coordinates, index, strict=True)]
        losses[index] = objective.loss(place(point))
        bar.add(1)
    return Landscape(
        losses=losses,
        coordinates=tuple(coordinates),
        labels=tuple(frame.labels),
        path=frame.path,
        path_labels=tuple(frame.path_labels),
        explained=frame.explained,
        name=frame.name,
    )


def _mover(objective, directions):
    """Function from a point of the frame to the values of all variables."""
    origin = objective.values

    moves = [
        [
            None if d[i] is None else ops.convert_to_tensor(d[i], value.dtype)
            for d in directions
        ]
        for i, value in enumerate(origin)
    ]

    def place(point):
        values = []
        for value, parts in zip(origin, moves, strict=True):
            for step, part in zip(point, parts, strict=True):
                if part is not None:
                    value = value + float(step) * part
            values.append(value)
        return values

    return place


def _checked(ranges, default):
    """One `(low, high)` pair for each direction."""
    if ranges is None:
        return default
    try:
        given = np.asarray(ranges, "float64")
    except (TypeError, ValueError):
        given = np.full((), np.nan)
    if given.shape == (2,):
        given = np.tile(given, (len(default), 1))
    if (
        given.shape != (len(default), 2)
        or not np.isfinite(given).all()
        or not (given[:, 0] < given[:, 1]).all()
    ):
        raise ValueError(
            "`ranges` must be a pair (low, high) with low < high, or one for "
            f"each of the {len(default)} directions. Received: {ranges!r}"
        )
    return given.tolist()
