"""`examples/pipelines.py`: what an epoch shows, and how it looks."""

import argparse
import sys

import numpy as np
import pipelines
import pytest
import tensorflow as tf

from tests.examples_offline import write_digits

pytestmark = pytest.mark.tensorflow


def options(**changes):
    """A command line."""
    known = {"batch_size": 4, "limit": None, "seed": 0, "offline": "x.npz"}
    return argparse.Namespace(**{**known, "image_size": 6, **changes})


def numbers(train=18, test=7):
    """Examples that are numbers, labelled by themselves."""
    both = (
        tf.data.Dataset.from_tensor_slices((tf.range(n) * 10, tf.range(n)))
        for n in (train, test)
    )
    return pipelines.Examples(*both, train, test, classes=3, name="numbers")


def epoch(data, number):
    """The batches of an epoch."""
    data.clock.on_epoch_begin(number)
    return [y.numpy().tolist() for _, y in data.train]


def test_epochs_depend_on_seed_and_number_alone():
    data = pipelines.batches(options(), numbers())
    first, second = epoch(data, 0), epoch(data, 1)
    assert data.steps == len(data.train) == len(first) == 4
    seen = [label for batch in first for label in batch]
    assert len(set(seen)) == 16
    assert seen != sorted(seen)
    assert first != second
    tf.random.set_seed(7)
    anew = pipelines.batches(options(), numbers())
    assert (epoch(anew, 1), epoch(anew, 0)) == (second, first)
    other = pipelines.batches(options(seed=1), numbers())
    assert epoch(other, 0) != first


def test_draws_are_of_the_example():
    def augment(x, y, seed):
        return tf.random.stateless_uniform((), seed), y

    data = pipelines.batches(options(), numbers(), augment=augment)
    (x, _), *_ = list(data.train)
    assert len(set(x.numpy().tolist())) == 4
    (again, _), *_ = list(data.train)
    np.testing.assert_array_equal(x, again)
    data.clock.on_epoch_begin(1)
    (later, _), *_ = list(data.train)
    assert not np.isin(later, x).any()


def test_limit_preparation_and_mixture():
    data = pipelines.batches(
        options(limit=8),
        numbers(),
        prepare=lambda x, y: (x + 1, y),
        mix=lambda x, y: (x[::-1], y),
    )
    assert data.summary == {
        **{"name": "numbers", "train": 8, "test": 7, "classes": 3}
    }
    batches = [(x.numpy(), y.numpy()) for x, y in data.train]
    assert sorted(np.concatenate([y for _, y in batches])) == list(range(8))
    for x, y in batches:
        np.testing.assert_array_equal(x, 10 * y[::-1] + 1)
    tested = [(x.numpy().tolist(), y.numpy().tolist()) for x, y in data.test]
    assert tested == [
        ([1, 11, 21, 31], [0, 1, 2, 3]),
        ([41, 51, 61], [4, 5, 6]),
    ]


@pytest.fixture
def digits(tmp_path):
    path = write_digits(tmp_path / "digits.npz")
    args = options(offline=path)
    return args, pipelines.images(args, "cifar10")


def test_images_are_of_three_channels_and_standardized(digits):
    _, examples = digits
    assert (examples.train_size, examples.test_size) == (48, 32)
    assert (examples.classes, examples.name) == (10, "digits.npz")

    def all_of(examples):
        return np.stack([examples.decode(x) for x, _ in examples.train])

    raw = all_of(examples)
    assert raw.shape == (48, 8, 8, 3)
    assert (raw.min(), raw.max()) == (0, 1)
    standard = all_of(pipelines.standardized(examples))
    np.testing.assert_allclose(standard.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(standard.std((0, 1, 2)), 1, rtol=1e-5)
    one_hot = pipelines.one_hot(examples)
    for (_, vector), (_, label) in zip(
        one_hot.test, examples.test, strict=True
    ):
        np.testing.assert_array_equal(vector, np.eye(10)[label])


def test_crop_and_flip(digits):
    args, examples = digits
    (x, y), *_ = examples.train.take(1)
    image = examples.decode(x)
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), "reflect")
    parts = [padded[i : i + 8, j : j + 8] for i in range(3) for j in range(3)]
    for offline, possible in (
        (args.offline, [*parts, *(part[:, ::-1] for part in parts)]),
        ("", parts),
    ):
        augment = pipelines.crop_and_flip(options(offline=offline))
        found = set()
        for seed in range(60):
            shown, label = augment(image, y, tf.constant([0, seed]))
            assert label == y
            (which,) = [
                i for i, p in enumerate(possible) if np.array_equal(p, shown)
            ]
            found.add(which)
        assert len(found) > len(possible) // 2


def test_parts_of_images():
    # The value of a pixel is its column.
    image = tf.tile(tf.range(40.0)[None, :, None], (20, 1, 3))
    center, label = pipelines.center_crop(options())(image, 5)
    assert (center.shape, label) == ((6, 6, 3), 5)
    assert 11 <= float(tf.reduce_min(center)) < 14
    assert 26 <= float(tf.reduce_max(center)) <= 28
    augment = pipelines.resized_crop(options())
    widths, directions = [], set()
    for seed in range(40):
        part, _ = augment(image, 5, tf.constant([1, seed]))
        assert part.shape == (6, 6, 3)
        rows = part.numpy()[..., 0]
        np.testing.assert_array_equal(rows[1:], rows[:-1])
        steps = np.diff(rows[0])
        widths.append(abs(steps.mean()) * 6)
        directions.add(bool(steps.mean() > 0))
    assert directions == {True, False}
    # Of 8 to 100 % of 800 pixels, and not wider than 4/3 of the height.
    assert 7 < min(widths) < 14
    assert 18 < max(widths) < 27.5


def test_a_missing_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(SystemExit, match=r"keras-lwsam\[datasets\]"):
        pipelines.images(options(offline=None, data_dir=None), "cifar10")
