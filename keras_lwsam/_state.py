"""What the wrapper remembers between steps, as variables of the model."""

import itertools
from typing import Any, NamedTuple

import numpy as np
from keras import ops, tree

from keras_lwsam import _random

# Rows of the squared norms: of the latest step, summed since the epoch began,
# and summed since the last refresh of the selection.
_LATEST, _EPOCH, _WINDOW = range(3)

# What is kept of each weight, of the latest step and over the epoch, where
# somebody watches: squared norms, and an inner product of two gradients.
_VIEWS = ("perturbation", "clean", "sharp", "alignment", "update")


class Time(NamedTuple):
    """When a step happens, as tensors.

    Attributes:
        step: Number of training steps taken before, an int.
        progress: Share of the training that is done, 0 if not known.
        epoch_progress: The same when the epoch began.
        seed: What random draws start from, an int.
    """

    step: Any
    progress: Any
    epoch_progress: Any
    seed: Any


class State:
    """Norms, time and the method's memory: saved, restored, mirrored.

    Args:
        add_weight: The model's `add_weight`.
        num_weights: Number of weights of the network.
        memory: The method's initial state, a structure of arrays.
    """

    def __init__(self, add_weight, num_weights, memory):
        def add(value, name, aggregation="mean"):
            value = np.asarray(value)
            return add_weight(
                shape=value.shape,
                dtype=str(value.dtype),
                initializer=lambda shape, dtype: ops.convert_to_tensor(
                    value, dtype
                ),
                trainable=False,
                aggregation=aggregation,
                name=name,
            )

        def add_count(value, name):
            value = np.asarray(value, "int32")
            return add(value, name, "only_first_replica")

        self._norms = add(np.zeros((3, num_weights), "float32"), "norms")
        self._steps = add(np.zeros(3, "float32"), "measured_steps")
        # Begun again with each epoch, and so not saved.
        self._views = add(
            np.zeros((2, len(_VIEWS), num_weights), "float32"), "views"
        )
        self._step = add_count(0, "step")
        self._seed = add_count(_random.peek(), "seed")
        # Progress, progress when the epoch began, progress of a step.
        self._progress = add(np.zeros(3, "float32"), "progress")
        # By a name each: Keras's state trees are by paths.
        names = (f"memory_{i}" for i in itertools.count())
        self._memory = tree.map_structure(lambda a: add(a, next(names)), memory)

    @property
    def variables(self):
        """What is saved, in a fixed order."""
        return [
            self._norms,
            self._steps,
            self._step,
            self._seed,
            self._progress,
            *tree.flatten(self._memory),
        ]

    def time(self) -> Time:
        """When the step at hand happens."""
        progress = ops.convert_to_tensor(self._progress.value)
        return Time(
            ops.convert_to_tensor(self._step.value),
            progress[0],
            progress[1],
            ops.convert_to_tensor(self._seed.value),
        )

    def advance(self):
        """Notes that a step was taken."""
        self._step.assign(ops.convert_to_tensor(self._step.value) + 1)
        progress = ops.convert_to_tensor(self._progress.value)
        done = ops.minimum(progress[0] + progress[2], 1.0)
        self._progress.assign(ops.stack([done, progress[1], progress[2]]))

    def memory(self):
        """The method's state as a structure of tensors."""
        return tree.map_structure(
            lambda variable: ops.convert_to_tensor(variable.value),
            self._memory,
        )

    def keep(self, assign, squared_norms, is_finite, old_memory, memory):
        """Notes what a step has learnt, unless it was not finite.

        Args:
            assign: Function of `(variable, value)` pairs, for the memory.
            squared_norms: Vector, the squared norm of each weight's gradient.
            is_finite: Boolean scalar.
            old_memory: The method's state before the step.
            memory: The method's state after the step.
        """
        assign(
            [
                (
                    variable,
                    ops.where(is_finite, ops.cast(new, variable.dtype), old),
                )
                for variable, old, new in zip(
                    tree.flatten(self._memory),
                    tree.flatten(old_memory),
                    tree.flatten(memory),
                    strict=True,
                )
            ]
        )
        norms = ops.convert_to_tensor(self._norms.value)
        summed = norms + squared_norms
        new = ops.stack([squared_norms, summed[_EPOCH], summed[_WINDOW]])
        self._norms.assign(ops.where(is_finite, new, norms))
        steps = ops.convert_to_tensor(self._steps.value)
        self._steps.assign(steps + ops.cast(is_finite, steps.dtype))

    def keep_views(self, views, is_finite):
        """Notes what a step saw, unless it was not finite.

        Args:
            views: Dict of vectors with an entry a weight.
            is_finite: Boolean scalar.
        """
        seen = ops.stack([views[name] for name in _VIEWS])
        old = ops.convert_to_tensor(self._views.value)
        new = ops.stack([seen, old[_EPOCH] + seen])
        self._views.assign(ops.where(is_finite, new, old))

    def latest(self):
        """Array of each weight's squared gradient norm in the latest step."""
        return ops.convert_to_numpy(self._norms)[_LATEST]

    def epoch_mean(self):
        """Their mean since the epoch began, or `None` before a step."""
        return self._mean(_EPOCH)

    def window_mean(self):
        """Their mean since the last refresh, or `None` before a step."""
        return self._mean(_WINDOW)

    def views(self, of_epoch):
        """What was seen, a dict of vectors with an entry a weight.

        Args:
            of_epoch: Whether the mean over the epoch is wanted, or the latest
                step.
        """
        arrays = ops.convert_to_numpy(self._views)[_EPOCH * of_epoch]
        steps = ops.convert_to_numpy(self._steps)[_EPOCH]
        if of_epoch:
            arrays = arrays / max(steps, 1.0)
        return dict(zip(_VIEWS, arrays, strict=True))

    def begin_epoch(self):
        """Starts the means over the epoch again."""
        self._reset(_EPOCH)
        self._views.assign(np.zeros(self._views.shape, "float32"))

    def steps_taken(self) -> int:
        """Number of training steps taken."""
        return int(ops.convert_to_numpy(self._step))

    def set_progress(self, clock):
        """Notes where training stands."""
        self._progress.assign(
            np.array(
                [clock.progress, clock.progress, clock.progress_per_step],
                "float32",
            )
        )

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
