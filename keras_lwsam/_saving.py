"""What the wrapper saves beside the network and the optimizer: arrays."""

import contextlib

import numpy as np
from keras import ops

from keras_lwsam import _keras


def to_store(variables, seeds, others) -> dict:
    """What is saved: a dict of arrays.

    Args:
        variables: `State.variables`.
        seeds: States of the network's random generators. Keras does not save
            them, and a run that goes on must draw what it would have drawn.
        others: Dict of further arrays.
    """
    store = {f"{i}": ops.convert_to_numpy(v) for i, v in enumerate(variables)}
    for i, seed in enumerate(seeds):
        store[f"seed_{i}"] = ops.convert_to_numpy(seed)
    return {**store, **others}


def from_store(store, variables, seeds, others) -> dict:
    """The arrays of a saved state; an error if it is not of this model.

    Args:
        store: Mapping from names to arrays.
        variables: `State.variables`.
        seeds: States of the network's random generators.
        others: Names of further arrays.
    """
    expected = to_store(variables, seeds, dict.fromkeys(others))
    if set(store.keys()) != set(expected):
        raise ValueError(
            "The saved state is not that of this `LWSAMModel`. Was it saved "
            "with another method, or is it the file of a bare network? "
            f"Expected the entries {sorted(expected)}. "
            f"Received: {sorted(store.keys())}"
        )
    arrays = {name: np.asarray(store[name]) for name in expected}
    for name, present in expected.items():
        if present is not None and arrays[name].shape != present.shape:
            raise ValueError(
                "The saved state is that of another network: expected the "
                f"shape {present.shape} for the entry {name!r}. "
                f"Received: shape {arrays[name].shape}"
            )
    return arrays


@contextlib.contextmanager
def unchanged_by_errors(parts):
    """Gives the parts of a model back what they had, should loading fail.

    Keras loads part by part, and goes on where one of them refuses.

    Args:
        parts: Layers and optimizers.
    """
    kept = [_own_arrays(part) for part in parts]
    try:
        yield
    except BaseException:
        for part, arrays in zip(parts, kept, strict=True):
            part.load_own_variables(arrays)
        raise


def _own_arrays(part):
    store = {}
    part.save_own_variables(store)
    return {n: np.array(ops.convert_to_numpy(a)) for n, a in store.items()}


class SavesTraining:
    """The part of `LWSAMModel` that saves and loads the state of training."""

    def load_weights(self, filepath, skip_mismatch=False, **kwargs):
        """As Keras does it; an error leaves everything as it was."""
        parts = [*_keras.walk_layers(self), getattr(self, "optimizer", None)]
        with unchanged_by_errors([p for p in parts if p is not None]):
            super().load_weights(filepath, skip_mismatch, **kwargs)

    def save_own_variables(self, store):
        self._training.save(store, self.model)

    def load_own_variables(self, store):
        self._training.load(store, self.model)
