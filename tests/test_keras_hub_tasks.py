"""Tasks of KerasHub train, and predict, on what they are given raw."""

import numpy as np
import pytest
from keras import tree

from keras_lwsam import LWSAMModel
from tests.hub_tasks import MORE_TASKS, TASKS, bert_embedder
from tests.support import assert_equal, momentum_sgd, weights_of

pytestmark = [
    # KerasHub makes a data set of arrays, and leaves `shuffle` as it is.
    pytest.mark.filterwarnings("ignore:`shuffle=True` was passed"),
    # Of a part of the backbone that the task has no use for.
    pytest.mark.filterwarnings("ignore:Gradients do not exist"),
]

EVERY_TASK = [
    *TASKS,
    *(pytest.param(f, marks=pytest.mark.exhaustive) for f in MORE_TASKS),
]


def compiled(model, make, **kwargs):
    """The model, compiled with the task's own loss where it has one."""
    if make is bert_embedder:
        kwargs["loss"] = "mse"
    model.compile(momentum_sgd(0.05), run_eagerly=True, **kwargs)
    return model


def train(model, x, y):
    """Logs of one step, of a `fit` on images, of a batch of texts."""
    if isinstance(x, np.ndarray):
        return model.fit(x, y, batch_size=len(x), verbose=0).history
    model.reset_metrics()
    return model.train_on_batch(x, y, return_dict=True)


def predict(model, x):
    if isinstance(x, np.ndarray):
        return model.predict(x, verbose=0)
    return model.predict_on_batch(x)


@pytest.mark.parametrize("make", EVERY_TASK, ids=lambda f: f.__name__)
def test_every_task(make):
    """Radius 0 is the task's own training; SAM trains it further."""
    ends = []
    for wrap in (False, True):
        task, x, y = make()
        model = task
        if wrap:
            model = LWSAMModel(task, rho=0.0, sharpness_metrics=False)
        compiled(model, make)
        logs = [train(model, x, y) for _ in range(2)]
        predictions = tree.flatten(predict(model, x))
        ends.append((logs, [*weights_of(task), *predictions]))
    (plain_logs, plain), (logs, wrapped) = ends
    assert logs == plain_logs
    assert_equal(wrapped, plain)

    model = compiled(LWSAMModel(task, layers=2, rho=0.1), make)
    before = weights_of(task)
    logs = train(model, x, y)
    assert np.isfinite(list(logs.values())).all()
    assert logs["sharpness"] != 0.0
    pairs = zip(weights_of(task), before, strict=True)
    assert np.mean([(a != b).any() for a, b in pairs]) > 0.8
