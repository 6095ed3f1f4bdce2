"""What the wrapper remembers between steps, as variables of the model."""

import numpy as np
from keras import ops, tree

# Rows of the squared norms: of the latest step, summed since the epoch began,
# and summed since the last refresh of the selection.
_LATEST, _EPOCH, _WINDOW = range(3)


class State:
    """Gradient norms and the method's memory: saved, restored, mirrored.

    Args:
        add_weight: The model's `add_weight`.
        num_weights: Number of weights of the network.
        memory: The method's initial state, a structure of arrays.
    """

    def __init__(self, add_weight, num_weights, memory):
        def add(value, name):
            value = np.asarray(value)
            return add_weight(
                shape=value.shape,
                dtype=str(value.dtype),
                initializer=lambda shape, dtype: ops.convert_to_tensor(
                    value, dtype
                ),
                trainable=False,
                aggregation="mean",
                name=name,
            )

        self._norms = add(np.zeros((3, num_weights), "float32"), "norms")
        self._steps = add(np.zeros(3, "float32"), "measured_steps")
        self._memory = tree.map_structure(lambda a: add(a, "memory"), memory)

    @property
    def variables(self):
        """All of it, in a fixed order."""
        return [self._norms, self._steps, *tree.flatten(self._memory)]

    def memory(self):
        """The method's state as a structure of tensors."""
        return tree.map_structure(
            lambda variable: ops.convert_to_tensor(variable.value),
            self._memory,
        )

    def keep(self, squared_norms, old_memory, memory):
        """Notes what a step has learnt, unless it was not finite.

        Args:
            squared_norms: Vector, the squared norm of each weight's gradient.
            old_memory: The method's state before the step.
            memory: The method's state after the step.

        Returns:
            Scalar, whether the step was finite.
        """
        is_finite = ops.all(ops.isfinite(squared_norms))
        for variable, old, new in zip(
            tree.flatten(self._memory),
            tree.flatten(old_memory),
            tree.flatten(memory),
            strict=True,
        ):
            new = ops.cast(new, variable.dtype)
            variable.assign(ops.where(is_finite, new, old))
        norms = ops.convert_to_tensor(self._norms.value)
        summed = norms + squared_norms
        new = ops.stack([squared_norms, summed[_EPOCH], summed[_WINDOW]])
        self._norms.assign(ops.where(is_finite, new, norms))
        steps = ops.convert_to_tensor(self._steps.value)
        self._steps.assign(steps + ops.cast(is_finite, steps.dtype))
        return is_finite

    def latest(self):
        """Array of each weight's squared gradient norm in the latest step."""
        return ops.convert_to_numpy(self._norms)[_LATEST]

    def epoch_mean(self):
        """Their mean since the epoch began, or `None` before a step."""
        return self._mean(_EPOCH)

    def window_mean(self):
        """Their mean since the last refresh, or `None` before a step."""
        return self._mean(_WINDOW)

    def begin_epoch(self):
        """Starts the mean over the epoch again."""
        self._reset(_EPOCH)

    def begin_window(self):
        """Starts the mean since the last refresh again."""
        self._reset(_WINDOW)

    def _mean(self, row):
        steps = ops.convert_to_numpy(self._steps)[row]
        if steps == 0.0:
            return None
        return ops.convert_to_numpy(self._norms)[row] / steps

    def _reset(self, row):
        for variable in (self._norms, self._steps):
            values = ops.convert_to_numpy(variable).copy()
            values[row] = 0.0
            variable.assign(values)


def to_store(variables, seeds, progress) -> dict:
    """What is saved: a dict of arrays.

    Args:
        variables: `State.variables`.
        seeds: States of the network's random generators. Keras does not save
            them, and a run that goes on must draw what it would have drawn.
        progress: Array, where the selection stands.
    """
    store = {f"{i}": ops.convert_to_numpy(v) for i, v in enumerate(variables)}
    for i, seed in enumerate(seeds):
        store[f"seed_{i}"] = ops.convert_to_numpy(seed)
    return {**store, "selection": progress}


def from_store(store, variables, seeds) -> dict:
    """The arrays of a saved state; an error if it is not of this model."""
    expected = to_store(variables, seeds, None)
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
