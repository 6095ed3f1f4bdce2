"""Whatever data a task of KerasHub takes, its wrapper takes them likewise."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lwsam import LWSAMModel
from tests.hub_tasks import (
    IMAGES,
    LABELS,
    TEXTS,
    bert_classifier,
    small_image_classifier,
)
from tests.support import assert_equal, momentum_sgd, weights_of

# KerasHub makes a data set of arrays, and leaves `shuffle` as it is.
pytestmark = pytest.mark.filterwarnings("ignore:`shuffle=True` was passed")

WEIGHTS = np.linspace(0.5, 2.0, len(LABELS))
CLASS_WEIGHT = {0: 1.0, 1: 3.0, 2: 0.5}


def test_in_one_line():
    """Compiled as the task, on raw strings, in graph mode."""
    ends = []
    for wrap in (False, True):
        task, x, y = bert_classifier()
        model = LWSAMModel(task, rho=0.0) if wrap else task
        logs = model.fit(x, y, batch_size=2, verbose=0).history
        ends.append((logs, model.predict(x, verbose=0), weights_of(task)))
    (plain_logs, of_task, plain), (logs, predictions, wrapped) = ends
    assert {**logs, **plain_logs} == logs
    assert set(logs) - set(plain_logs) == {"sharpness", "gradient_norm"}
    np.testing.assert_array_equal(predictions, of_task)
    assert_equal(wrapped, plain)
    assert model.optimizer is not task.optimizer
    name = {"name": model.optimizer.name}
    assert {**task.optimizer.get_config(), **name} == (
        model.optimizer.get_config()
    )


def outcome(use, make, wrap):
    """The kind of error, if any; else numbers and weights that it leaves."""
    task = make()[0]
    model = task
    if wrap:
        model = LWSAMModel(task, rho=0.0, sharpness_metrics=False)
    model.compile(momentum_sgd(), run_eagerly=True)
    try:
        result = use(model)
    except Exception as error:
        return type(error), [], []
    result = getattr(result, "history", result)
    numbers = [np.asarray(part) for part in keras.tree.flatten(result)]
    return None, numbers, weights_of(task)


def assert_same(use, make=small_image_classifier):
    """The error, if there is one."""
    expected, numbers, plain = outcome(use, make, wrap=False)
    error, of_wrapper, wrapped = outcome(use, make, wrap=True)
    assert error is expected
    assert_equal(of_wrapper, numbers)
    assert_equal(wrapped, plain)
    return error


def dataset(*parts):
    return tf.data.Dataset.from_tensor_slices(parts).batch(3)


DATA = {
    "arrays": {"x": IMAGES, "y": LABELS, "batch_size": 2},
    "lists": {"x": IMAGES.tolist(), "y": LABELS.tolist()},
    "tensors": {"x": tf.constant(IMAGES), "y": tf.constant(LABELS)},
    "data set": {"x": dataset(IMAGES, LABELS, WEIGHTS)},
    "endless data set": {
        "x": dataset(IMAGES, LABELS).repeat(),
        "steps_per_epoch": 2,
        "epochs": 2,
    },
    "weights": {"x": IMAGES, "y": LABELS, "sample_weight": WEIGHTS},
    "class weights": {"x": IMAGES, "y": LABELS, "class_weight": CLASS_WEIGHT},
    "validation data": {
        "x": IMAGES,
        "y": LABELS,
        "validation_data": (IMAGES, LABELS, WEIGHTS),
        "epochs": 2,
    },
    "validation data set": {
        "x": IMAGES,
        "y": LABELS,
        "validation_data": dataset(IMAGES, LABELS),
    },
    "validation split": {"x": IMAGES, "y": LABELS, "validation_split": 0.5},
}


@pytest.mark.parametrize("data", DATA.values(), ids=DATA)
def test_every_form_of_data(data):
    assert not assert_same(lambda model: model.fit(**data, verbose=0))


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        return IMAGES, LABELS


REFUSED = {
    "PyDataset": {"x": Batches()},
    "generator": {"x": iter([(IMAGES, LABELS)])},
    "one sample": {"x": 3.0, "y": 1},
    "data set and labels": {"x": dataset(IMAGES), "y": LABELS},
    "no labels": {"x": IMAGES},
    "a dict": {"x": {"images": IMAGES}, "y": LABELS},
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED)
def test_what_the_task_refuses(data):
    assert assert_same(lambda model: model.fit(**data, verbose=0))


def test_other_methods():
    def use(model):
        return [
            model.train_on_batch(IMAGES, LABELS, WEIGHTS),
            model.train_on_batch(IMAGES, LABELS, class_weight=CLASS_WEIGHT),
            model.test_on_batch(IMAGES, LABELS, WEIGHTS),
            model.predict_on_batch(IMAGES),
            model.predict(dataset(IMAGES), verbose=0),
            model.evaluate(IMAGES, LABELS, sample_weight=WEIGHTS, verbose=0),
            model.evaluate(dataset(IMAGES, LABELS), verbose=0),
        ]

    assert not assert_same(use)


def test_preprocessed_data():
    """With the task's preprocessor taken away, as KerasHub recommends."""

    def use(model):
        getattr(model, "model", model).preprocessor = None
        return model.fit(IMAGES / 255.0, LABELS, verbose=0)

    assert not assert_same(use)


def test_a_data_set_of_strings():
    def use(model):
        return model.fit(dataset(TEXTS, LABELS), verbose=0)

    assert not assert_same(use, bert_classifier)


@pytest.mark.tensorflow
def test_strings_are_not_preprocessed_by_a_call():
    model = LWSAMModel(bert_classifier()[0])
    with pytest.raises(ValueError, match="does not apply preprocessing"):
        model(np.array(TEXTS))
