"""KerasTuner searches for method, radius and layers."""

import keras_tuner
import numpy as np
import pytest

from keras_lwsam import LWSAMModel
from tests.keras_callbacks import X, Y
from tests.support import assert_equal, build_dense, weights_of

pytestmark = pytest.mark.filterwarnings(
    # KerasTuner calls `threading.currentThread().getName()`.
    r"ignore:(currentThread|getName)\(\) is deprecated:DeprecationWarning"
)


def build(parameters):
    """The hypermodel."""
    model = build_dense(
        method=parameters.Choice("method", ["sam", "vasso"]),
        rho=parameters.Float("rho", 0.01, 0.2, sampling="log"),
        layers=parameters.Int("layers", 1, 3),
        mode={"run_eagerly": True},
    )
    # Keras restores an optimizer that has its variables.
    model.optimizer.build(model.trainable_variables)
    return model


def random_search(folder):
    """For the flattest: `sharpness` is an objective with a direction."""
    return keras_tuner.RandomSearch(
        build,
        keras_tuner.Objective("sharpness", "min"),
        max_trials=2,
        seed=1,
        directory=folder,
    )


def hyperband(folder):
    """It goes on with the better ones of its trials."""
    return keras_tuner.Hyperband(
        build, "val_loss", max_epochs=2, factor=2, seed=1, directory=folder
    )


@pytest.mark.parametrize("make", [random_search, hyperband])
def test_a_search(make, tmp_path):
    """Best parameters and best model are there, and there again later."""
    search = make(tmp_path)
    search.search(X, Y, epochs=2, validation_data=(X, Y), verbose=0)
    trials = search.oracle.trials.values()
    assert {trial.status for trial in trials} == {"COMPLETED"}
    best = min(trials, key=lambda trial: trial.score)
    (parameters,) = search.get_best_hyperparameters()
    assert parameters.values == best.hyperparameters.values
    (model,) = search.get_best_models()
    assert isinstance(model, LWSAMModel)
    assert model.method.rho == parameters["rho"]
    if make is hyperband:
        loss = float(model.evaluate(X, Y, verbose=0))
        assert loss == pytest.approx(best.score, abs=1e-6)
        begun = [t.hyperparameters.values.get("tuner/trial_id") for t in trials]
        assert any(begun)
    again = make(tmp_path)
    (known,) = again.get_best_hyperparameters()
    assert known.values == parameters.values
    (other,) = again.get_best_models()
    assert_equal(weights_of(other), weights_of(model))
    for one, two in zip(
        other.optimizer.variables, model.optimizer.variables, strict=True
    ):
        np.testing.assert_array_equal(one, two)
    assert int(other.optimizer.iterations) > 0
    other.fit(X, Y, verbose=0)
