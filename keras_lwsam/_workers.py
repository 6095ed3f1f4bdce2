"""What Keras lacks to train on several machines, in one place.

Two methods of the trainer of Keras 3.12 to 3.15 are replaced:

- `_maybe_symbolic_build` builds losses and metrics, under any strategy, from
  the mean of the first batch over the replicas. There is none if their parts
  have different sizes or are strings, and on several workers the batch stays
  distributed and nothing can be built.
- `_make_function`, under `tf.distribute.MultiWorkerMirroredStrategy` alone,
  averages scalar logs along an axis that they do not have.
"""

import numpy as np

from keras_lwsam import _engines, _keras


def told_by_all(model, numbers) -> np.ndarray:
    """What all workers say: integers, a row for each replica.

    Args:
        model: A `keras.Model`, made under the strategy.
        numbers: List of ints, what this worker says.
    """
    replicas = _engines.current().replicas
    strategy = _keras.distribute_strategy(model)
    if not replicas.spans_workers(strategy):
        return np.array([numbers])
    return replicas.told_by_all(numbers, strategy)


def spans_workers(network) -> bool:
    """Whether a network was made under a strategy of several machines."""
    strategy = _keras.distribute_strategy(network)
    replicas = _engines.current().replicas
    return strategy is not None and replicas.spans_workers(strategy)


def worker_name(model) -> str:
    """Which of the workers this process is; "worker_0" if there is only one."""
    strategy = _keras.distribute_strategy(model)
    resolver = getattr(strategy, "cluster_resolver", None)
    kind = getattr(resolver, "task_type", None) or "worker"
    return f"{kind}_{getattr(resolver, 'task_id', None) or 0}"


def check_agreement(model, numbers):
    """Refuses to train when the workers are not at the same point.

    They would run different programs, and wait for each other for ever.

    Args:
        model: A `keras.Model`.
        numbers: List of ints that say where this worker stands.
    """
    told = told_by_all(model, numbers)
    if (told != told[0]).any():
        raise RuntimeError(
            "The workers are not at the same point of training: they differ in "
            "the step, the epoch, or the layers to perturb. Build the same "
            "model on each, and let `keras_lwsam.callbacks.BackupAndRestore` "
            "bring them back after an interruption. "
            f"Received, from each replica: {told.tolist()}"
        )


class TrainsOnWorkers:
    """Mixed into a `keras.Model`: its `fit` and `evaluate` span machines."""

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        if _keras.distribute_strategy(self) is None:
            super()._maybe_symbolic_build(iterator, data_batch)
            return
        replicas = _engines.current().replicas
        if iterator is not None:
            _, _, batches = next(iter(iterator))
            data_batch = next(batches)
        with self.distribute_strategy.scope():
            self._symbolic_build(data_batch=replicas.local(data_batch))

    def _make_function(self, step_function, **kwargs):
        replicas = _engines.current().replicas
        if not replicas.spans_workers(_keras.distribute_strategy(self)):
            return super()._make_function(step_function, **kwargs)
        step = self._autoconvert_optionals(
            replicas.on_workers(
                step_function,
                self.distribute_strategy,
                compiles=not self.run_eagerly,
                jit_compile=self.jit_compile,
            )
        )

        def function(iterator):
            logs = step(next(iterator))
            for _, batch in zip(
                range(self.steps_per_execution - 1), iterator, strict=False
            ):
                logs = step(batch)
            return logs

        return function
