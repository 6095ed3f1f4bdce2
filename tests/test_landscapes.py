"""Loss landscapes: directions, losses on them, and files."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_lwsam import LWSAMModel, analysis
from tests.support import (
    assert_close,
    assert_equal,
    convolutional_network,
    cross_entropy,
    dense_network,
    image_data,
    weights_of,
)


@pytest.fixture
def float64():
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx("float32")


def compiled(network, loss="mse"):
    network.compile("sgd", loss, run_eagerly=True)
    return network


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def line(size=3):
    """A linear model of `size` weights and a bias, and its data."""
    network = keras.Sequential([keras.Input((size,)), layers.Dense(1)])
    return compiled(network), random(9, size), random(9, 1, seed=1)


def images(seed=0):
    """A convolutional network whose moving statistics are its own."""
    network = compiled(convolutional_network(seed), cross_entropy())
    x, y = image_data(12)
    network.fit(x, y, batch_size=4, verbose=0)
    return network, x, y


def landscape(*data, **kwargs):
    return analysis.loss_landscape(*data, **{"verbose": 0, **kwargs})


def loss_with(model, weights, x, y):
    """The loss at other weights, which are put in and taken out again."""
    kept = weights_of(model)
    model.set_weights(weights)
    loss = model.evaluate(x, y, verbose=0)
    model.set_weights(kept)
    return loss


# --- Random directions -----------------------------------------------------


def directions_of(network, x, y, **kwargs):
    """Pairs of a variable and what it moves by, `None` where it does not."""
    # What begins at zero would not move anyway.
    for i, variable in enumerate(network.trainable_variables):
        variable.assign(random(*variable.shape, seed=100 + i))
    objective = analysis.Objective(compiled(network), x, y)
    frame = analysis.RandomDirections(**kwargs).frame(objective)
    return [
        list(zip(objective.variables, direction, strict=True))
        for direction in frame.directions
    ]


# Axes of a filter, by layer and weight.
FILTERS = {
    "dense": (layers.Dense(4), (5, 3), {"kernel": (0,)}),
    "conv1d": (layers.Conv1D(4, 2), (5, 3), {"kernel": (0, 1)}),
    "conv2d": (layers.Conv2D(4, 2), (5, 5, 3), {"kernel": (0, 1, 2)}),
    "depthwise1d": (
        layers.DepthwiseConv1D(2, depth_multiplier=2),
        (5, 3),
        {"kernel": (0,)},
    ),
    "depthwise2d": (
        layers.DepthwiseConv2D(2, depth_multiplier=2),
        (5, 5, 3),
        {"kernel": (0, 1)},
    ),
    "separable2d": (
        layers.SeparableConv2D(4, 2),
        (5, 5, 3),
        {"depthwise_kernel": (0, 1), "pointwise_kernel": (0, 1, 2)},
    ),
    "transposed": (
        layers.Conv2DTranspose(4, 2),
        (5, 5, 3),
        {"kernel": (0, 1, 3)},
    ),
    "embedding": (layers.Embedding(7, 4), (5,), {"embeddings": (1,)}),
    "lstm": (
        layers.LSTM(4),
        (5, 3),
        {"kernel": (0,), "recurrent_kernel": (0,)},
    ),
    # Its bias has two rows.
    "gru": (
        layers.GRU(4),
        (5, 3),
        {"kernel": (0,), "recurrent_kernel": (0,)},
    ),
    "batch_norm": (layers.BatchNormalization(), (5, 3), {}),
    # Two axes, but no kernel.
    "layer_norm": (layers.LayerNormalization(axis=[1, 2]), (5, 3), {}),
}


def norms(array, axes):
    return np.sqrt(np.sum(np.square(array), axes))


@pytest.mark.parametrize("kind", FILTERS)
def test_filters_are_as_long_as_those_of_the_weights(kind):
    layer, shape, filters = FILTERS[kind]
    layer = type(layer).from_config(layer.get_config())
    inputs = keras.Input(shape)
    x = layers.Flatten()(layer(inputs))
    outputs = layers.Dense(1, use_bias=False, name="last")(x)
    network = keras.Model(inputs, outputs)
    data = np.zeros((2, *shape)), np.zeros((2, 1))
    for direction in directions_of(network, *data):
        own = {id(v) for v in layer.trainable_variables}
        moved = {
            v.name: (v, d)
            for v, d in direction
            if id(v) in own and d is not None
        }
        assert set(moved) == set(filters)
        for name, axes in filters.items():
            weight, step = moved[name]
            np.testing.assert_allclose(
                norms(step, axes), norms(weight, axes), rtol=1e-5
            )
            assert np.abs(step - np.array(weight)).max() > 0.1


def test_biases_of_attention_do_not_move():
    """They have two axes, heads and keys."""
    inputs = keras.Input((5, 4))
    x = layers.MultiHeadAttention(2, 3)(inputs, inputs)
    network = keras.Model(inputs, layers.Dense(1)(x))
    (direction,) = directions_of(
        network, random(2, 5, 4), random(2, 5, 1), dimensions=1
    )
    moved = {v.name for v, step in direction if step is not None}
    assert moved == {"kernel"}


def test_what_is_frozen_does_not_move():
    network = dense_network(sizes=(5, 6, 3))
    network.get_layer("dense1").trainable = False
    (direction,) = directions_of(
        network, random(4, 5), random(4, 3), dimensions=1
    )
    assert [step is None for _, step in direction] == [True, True, False, True]


def test_directions_are_those_of_the_seed():
    data = line()
    found = [
        landscape(
            *data, directions=analysis.RandomDirections(2, seed), num_points=3
        ).losses
        for seed in (5, 5, 6)
    ]
    assert_equal(*[[losses] for losses in found[:2]])
    assert np.abs(found[0] - found[2]).max() > 1e-3
    # The two directions are two.
    assert np.abs(found[0] - found[0].T).max() > 1e-3


@pytest.mark.parametrize("training", [False, True])
def test_the_centre_is_the_loss(training):
    model, x, y = images()
    expected = analysis.Objective(model, x, y, training=training).loss()
    found = landscape(model, x, y, num_points=3, training=training)
    assert found.losses[1, 1] == pytest.approx(expected, rel=1e-6)
    assert np.std(found.losses) > 1e-3
    np.testing.assert_array_equal(found.path, [[0.0, 0.0]])
    # Dropout draws what it drew before.
    again = landscape(model, x, y, num_points=3, training=training)
    assert_equal([again.losses], [found.losses])


@pytest.mark.parametrize("dimensions", [1, 2])
def test_a_quadratic_is_a_paraboloid(float64, dimensions):
    model, x, y = line()
    objective = analysis.Objective(model, x, y)
    directions = analysis.RandomDirections(dimensions, seed=2)
    found = landscape(objective, directions=directions, ranges=(-2.0, 3.0))
    points = {1: 41, 2: 21}[dimensions]
    assert found.losses.shape == (points,) * dimensions
    frame = directions.frame(objective)
    steps = [
        np.concatenate(
            [
                np.ravel(np.zeros(v.shape) if part is None else part)
                for v, part in zip(objective.variables, parts, strict=True)
            ]
        )
        for parts in frame.directions
    ]
    for corner in (0, points // 2, points - 1):
        step = sum(
            axis[corner] * direction
            for axis, direction in zip(found.coordinates, steps, strict=True)
        )
        expected = (
            objective.loss()
            + objective.gradient() @ step
            + step @ objective.product(step) / 2.0
        )
        np.testing.assert_allclose(
            found.losses[(corner,) * dimensions], expected, rtol=1e-12
        )
    # Third differences of a parabola are none.
    for axis in range(dimensions):
        third = np.diff(found.losses, 3, axis=axis)
        np.testing.assert_allclose(third, 0.0, atol=1e-10)


# --- The line between two models -------------------------------------------


OTHERS = {
    "wrapped": LWSAMModel,
    "arrays of a wrapped one": lambda other: LWSAMModel(other).get_weights(),
    "model": lambda other: other,
    "arrays": lambda other: other.get_weights(),
    "tuple": lambda other: tuple(other.get_weights()),
}


MORE = [pytest.param(k, marks=pytest.mark.exhaustive) for k in list(OTHERS)[2:]]


@pytest.mark.parametrize("kind", [*list(OTHERS)[:2], *MORE])
def test_the_line_to_another_model(kind):
    """Moving statistics move along."""
    model, x, y = images()
    other, _, _ = images(seed=1)
    here, there = weights_of(model), weights_of(other)
    found = landscape(
        model,
        x,
        y,
        directions=analysis.LineTo(OTHERS[kind](other)),
        num_points=5,
    )
    np.testing.assert_array_equal(
        found.coordinates[0], [-0.5, 0.0, 0.5, 1.0, 1.5]
    )
    expected = [
        loss_with(
            model,
            [(1.0 - a) * w + a * v for w, v in zip(here, there, strict=True)],
            x,
            y,
        )
        for a in found.coordinates[0]
    ]
    np.testing.assert_allclose(found.losses, expected, rtol=1e-5)
    assert found.losses[1] == analysis.Objective(model, x, y).loss()
    assert found.losses[3] == pytest.approx(
        other.evaluate(x, y, verbose=0), rel=1e-6
    )
    assert abs(found.losses[1] - found.losses[3]) > 1e-3


def test_training_needs_no_moving_statistics():
    model, x, y = images()
    other, _, _ = images(seed=1)
    before = {}
    for training in (False, True):
        before[training] = landscape(
            model,
            x,
            y,
            directions=analysis.LineTo(other),
            num_points=3,
            training=training,
        ).losses
    for variable in model.non_trainable_variables:
        if "moving" in variable.name:
            variable.assign_add(np.ones(variable.shape))
    for training in (False, True):
        after = landscape(
            model,
            x,
            y,
            directions=analysis.LineTo(other),
            num_points=3,
            training=training,
        ).losses
        assert np.array_equal(before[training], after) == training


# --- The plane of a trajectory ---------------------------------------------


POINTS = np.array([[3.0, 1.0], [2.0, -0.5], [0.5, -0.3]])


def trajectory_of(model, points=POINTS, size=1.0):
    """Weights in a plane through those of the model, at some points of it."""
    weights = weights_of(model)
    ends = np.cumsum([w.size for w in weights])
    plane, _ = np.linalg.qr(random(ends[-1], points.shape[1]))
    course = []
    for step in size * points @ plane.T:
        parts = np.split(step, ends[:-1])
        course.append(
            [
                w + p.reshape(w.shape)
                for w, p in zip(weights, parts, strict=True)
            ]
        )
    return course


def test_a_plane_goes_through_all_points_of_its_trajectory(float64):
    model = compiled(dense_network(sizes=(5, 6, 3)))
    x, y = random(8, 5), random(8, 3)
    course = trajectory_of(model)
    plane = analysis.TrajectoryPlane(course)
    found = landscape(model, x, y, directions=plane, num_points=2)
    frame = plane.frame(analysis.Objective(model, x, y))
    vectors = np.stack(
        [
            np.concatenate([part.reshape(-1) for part in direction])
            for direction in frame.directions
        ]
    )
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(2), atol=1e-12)
    # Distances are those of the weights.
    np.testing.assert_allclose(
        np.linalg.norm(found.path, axis=1),
        [*np.linalg.norm(POINTS, axis=1), 0.0],
        atol=1e-12,
    )
    np.testing.assert_allclose(np.sum(found.explained), 1.0, rtol=1e-12)
    assert found.explained[0] > found.explained[1] > 0.0
    assert found.path_labels == ("0", "1", "2", "now")
    for (low, high), values in zip(frame.ranges, found.path.T, strict=True):
        assert low < values.min() < values.max() < high
    for weights, (a, b) in zip(course, found.path[:-1], strict=True):
        corner = landscape(
            model,
            x,
            y,
            directions=plane,
            ranges=[(a, a + 1.0), (b, b + 1.0)],
            num_points=2,
        )
        np.testing.assert_allclose(
            corner.losses[0, 0], loss_with(model, weights, x, y), rtol=1e-10
        )


def test_what_a_plane_does_not_hold_is_not_explained(float64):
    model = compiled(dense_network(sizes=(5, 6, 3)))
    points = np.array([[3.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 1.0]])
    found = landscape(
        model,
        random(8, 5),
        random(8, 3),
        directions=analysis.TrajectoryPlane(trajectory_of(model, points)),
        num_points=2,
    )
    np.testing.assert_allclose(found.explained, [9 / 14, 4 / 14], rtol=1e-10)


def test_a_plane_leaves_statistics_and_frozen_weights():
    model, x, y = images()
    model.get_layer("conv1").trainable = False
    compiled(model, cross_entropy())
    before = weights_of(model)
    plane = analysis.TrajectoryPlane(trajectory_of(model))
    frame = plane.frame(analysis.Objective(model, x, y))
    a, b = frame.path[0]
    corner = landscape(
        model,
        x,
        y,
        directions=plane,
        ranges=[(a, a + 1.0), (b, b + 1.0)],
        num_points=2,
    )
    moves = {id(v) for v in model.trainable_variables}
    mixed = [
        there if id(variable) in moves else here
        for variable, here, there in zip(
            model.weights, before, plane.trajectory[0], strict=True
        )
    ]
    assert corner.losses[0, 0] == pytest.approx(
        loss_with(model, mixed, x, y), rel=1e-5
    )
    assert_equal(weights_of(model), before)


def test_trajectories_that_span_no_plane():
    model, x, y = line()
    course = trajectory_of(model, np.array([[1.0], [2.0], [-1.0]]))
    here = weights_of(model)
    alike = dense_network(sizes=(5, 6, 3)).get_weights()
    for trajectory, message in (
        (course, "a trajectory on one line"),
        ([here, here], "a trajectory on one line"),
        ([alike, alike], "built alike"),
        ([here, here[:1]], "built alike"),
    ):
        plane = analysis.TrajectoryPlane(trajectory)
        with pytest.raises(ValueError, match=message):
            landscape(model, x, y, directions=plane)
    one = [keras.Input((1,)), layers.Dense(1, use_bias=False)]
    ones = [[np.array([[w]])] for w in (1.0, 2.0)]
    with pytest.raises(ValueError, match="more than one direction"):
        landscape(
            compiled(keras.Sequential(one)),
            np.ones((2, 1)),
            np.ones((2, 1)),
            directions=analysis.TrajectoryPlane(ones),
        )


def test_trajectories_that_are_none(tmp_path):
    with pytest.raises(ValueError, match=r"two times or more. Received: 1"):
        analysis.TrajectoryPlane([[np.zeros(3)]])
    with pytest.raises(TypeError, match="Received: int"):
        analysis.TrajectoryPlane(3)
    with pytest.raises(ValueError, match="without such files"):
        analysis.TrajectoryPlane(tmp_path)


# --- Arguments -------------------------------------------------------------


BAD = [
    ({"num_points": 1}, ValueError, "at least 2. Received: 1"),
    ({"num_points": 2.5}, TypeError, "`num_points` must be a positive int"),
    ({"ranges": (1.0, -1.0)}, ValueError, "low < high"),
    ({"ranges": (0.0, 0.0)}, ValueError, "low < high"),
    ({"ranges": (0.0, np.inf)}, ValueError, "low < high"),
    ({"ranges": 1.0}, ValueError, "`ranges` must be"),
    ({"ranges": [(0.0, 1.0)]}, ValueError, "each of the 2 directions"),
    ({"ranges": "wide"}, (TypeError, ValueError), "`ranges` must be"),
    ({"ranges": [(0, 1), (2,)]}, ValueError, "`ranges` must be"),
    ({"directions": 2}, TypeError, "`directions` must be"),
    ({"directions": analysis.RandomDirections}, TypeError, "`directions` must"),
    ({"verbose": 2}, ValueError, "`verbose` must be 0 or 1"),
    ({"verbose": "1"}, (TypeError, ValueError), "`verbose` must be 0 or 1"),
    ({"training": None}, TypeError, "`training` must be True or False"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        landscape(*line(), **arguments)


def test_bad_directions():
    for dimensions in (0, 3):
        with pytest.raises(ValueError, match="`dimensions` must be"):
            analysis.RandomDirections(dimensions)
    with pytest.raises(TypeError, match="`dimensions` must be"):
        analysis.RandomDirections(2.0)
    with pytest.raises(ValueError, match="`seed` must be a non-negative int"):
        analysis.RandomDirections(seed=-1)
    with pytest.raises(TypeError, match=r"keras\.Model, or a list of arrays"):
        analysis.LineTo("model.keras")
    model, x, y = line()
    others = [line(size=4)[0], [], model.get_weights()[:1], [np.zeros(3)] * 2]
    for other in others:
        with pytest.raises(ValueError, match="built alike"):
            landscape(model, x, y, directions=analysis.LineTo(other))


def test_ranges_of_each_direction():
    found = landscape(*line(), ranges=[(0, 1), (-3, -1)], num_points=3)
    np.testing.assert_array_equal(found.coordinates[0], [0.0, 0.5, 1.0])
    np.testing.assert_array_equal(found.coordinates[1], [-3.0, -2.0, -1.0])


def test_progress_is_shown_if_wanted(capsys):
    data = line()
    capsys.readouterr()
    landscape(*data, num_points=2)
    assert capsys.readouterr().out == ""
    analysis.loss_landscape(*data, num_points=2, verbose=1)
    assert "4/4" in capsys.readouterr().out


def test_the_model_and_its_losses_beyond_float32():
    """What overflows is infinite or NaN in the picture, and no error."""
    model, x, y = line()
    before = weights_of(model)
    found = landscape(
        model,
        x,
        y,
        directions=analysis.RandomDirections(1),
        ranges=(-1e25, 1e25),
        num_points=3,
    )
    assert np.isinf(found.losses[[0, 2]]).all()
    assert np.isfinite(found.losses[1])
    assert_equal(weights_of(model), before)


def test_weights_of_16_bits_move_in_32():
    keras.config.set_dtype_policy("bfloat16")
    model, x, y = line()
    keras.config.set_dtype_policy("float32")
    copy, _, _ = line()
    copy.set_weights([w.astype("float32") for w in weights_of(model)])
    for directions in (
        analysis.RandomDirections(1),
        analysis.LineTo([np.ones((3, 1)), np.ones(1)]),
        analysis.LineTo(copy),
    ):
        ones, others = (
            landscape(m, x, y, directions=directions, num_points=5).losses
            for m in (model, copy)
        )
        np.testing.assert_allclose(ones, others, rtol=2e-2)


# --- Files -----------------------------------------------------------------


def example():
    return analysis.Landscape(
        losses=np.array([[1.0, np.nan, np.inf], [2.0, 3.0, 4.0]]),
        coordinates=([0.0, 1.0], [-1.0, 0.0, 2.5]),
        labels=("β", "second"),
        path=[[0.5, 0.5]],
        path_labels=["now"],
        explained=[0.75, 0.125],
        name="Loss of a network",
    )


@pytest.mark.parametrize("name", ["a.npz", "a"])
def test_a_file_holds_everything_without_pickles(tmp_path, name):
    saved = example()
    saved.save(tmp_path / name)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as data:
        assert all(data[key].dtype != object for key in data.files)
    loaded = analysis.Landscape.load(tmp_path / "a.npz")
    assert_equal([loaded.losses], [saved.losses])
    assert_equal(loaded.coordinates, saved.coordinates)
    assert_equal([loaded.path, loaded.explained], [[[0.5, 0.5]], [0.75, 0.125]])
    assert loaded.labels == ("β", "second")
    assert loaded.path_labels == ("now",)
    assert loaded.name == "Loss of a network"


def test_a_file_of_what_was_computed(tmp_path):
    """A line: without labels of points, and without shares."""
    found = landscape(
        *line(), directions=analysis.RandomDirections(1), num_points=3
    )
    bare = analysis.Landscape(found.losses, found.coordinates, found.labels)
    for saved in (found, bare):
        saved.save(str(tmp_path / "line.npz"))
        loaded = analysis.Landscape.load(str(tmp_path / "line.npz"))
        assert_close([loaded.losses], [saved.losses], 0.0)
        assert loaded.path.shape == (len(saved.path), 1)
        assert loaded.path_labels == saved.path_labels
        assert loaded.explained.shape == (0,)
        assert loaded.name == saved.name


def write_truncated(path):
    example().save(path)
    path.write_bytes(path.read_bytes()[:-40])


def write_without_labels(path):
    np.savez(path, losses=np.zeros(2), coordinates_0=np.zeros(2))


def write_pickled(path):
    np.savez(path, losses=np.array([{}]))


def write_array(path):
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))


def write_of_two_shapes(path):
    fields = {"labels": ["a"], "path_labels": np.zeros(0, str), "name": "a"}
    np.savez(
        path,
        losses=np.zeros(2),
        coordinates_0=np.zeros(3),
        path=np.zeros((0, 1)),
        explained=np.zeros(0),
        **fields,
    )


FOREIGN = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("loss,epoch\n1.0,2\n"),
    "truncated": write_truncated,
    "another table": write_without_labels,
    "pickled": write_pickled,
    "an array": write_array,
    "two shapes": write_of_two_shapes,
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_files_are_refused(tmp_path, kind):
    path = tmp_path / "landscape.npz"
    FOREIGN[kind](path)
    with pytest.raises(ValueError, match="landscape"):
        analysis.Landscape.load(path)


def test_landscapes_whose_parts_do_not_fit():
    one, two = np.zeros(3), np.zeros((3, 3))
    for arguments in (
        (two, (one,), ("a",)),
        (one, (np.zeros(2),), ("a",)),
        (one, (one,), ("a", "b")),
        (one, (one,), ("a",), np.zeros((2, 2))),
        (one, (one,), ("a",), np.zeros((2, 1)), ("now",)),
    ):
        with pytest.raises(ValueError, match="one axis, one vector"):
            analysis.Landscape(*arguments)
