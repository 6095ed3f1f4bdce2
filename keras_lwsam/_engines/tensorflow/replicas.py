"""What the replicas tell each other, on one machine and on several."""

import functools

import tensorflow as tf
from keras import tree

from keras_lwsam._engines.tensorflow import batches


def number():
    """Which replica this is, known when its program is traced."""
    context = tf.distribute.get_replica_context()
    return tf.get_static_value(context.replica_id_in_sync_group)


def is_tracing():
    """Whether Python runs to trace a graph, on the first replica here."""
    if not tf.distribute.has_strategy():
        return tf.inside_function()
    here = tf.distribute.get_strategy().extended.worker_devices
    return tf.inside_function() and number() % len(here) == 0


def mean(tensors):
    """Each tensor, averaged over the replicas; `None` stays `None`."""
    context = tf.distribute.get_replica_context()
    present = [i for i, t in enumerate(tensors) if t is not None]
    if context.num_replicas_in_sync == 1 or not present:
        return tensors
    reduced = context.all_reduce("MEAN", [tensors[i] for i in present])
    result = list(tensors)
    for i, tensor in zip(present, reduced, strict=True):
        result[i] = tensor
    return result


def spans_workers(strategy):
    """Whether the replicas of a strategy may be on several machines."""
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def local(batch):
    """The part of a batch that the first replica here is given."""

    def first(part):
        if isinstance(part, tf.distribute.DistributedValues):
            return part.values[0]
        return part

    return tree.map_structure(first, batch)


def on_workers(step, strategy, compiles, **options):
    """A function from a batch to the logs of a step, the mean over replicas.

    Args:
        step: Function from a replica's part of a batch to a dict of scalars.
        strategy: The `tf.distribute` strategy.
        compiles: Whether to trace the step.
        **options: Further arguments of `tf.function`.
    """

    def on_replica(batch):
        context = tf.distribute.get_replica_context()
        return context.all_reduce("MEAN", step(batch))

    def on_batch(batch):
        return local(strategy.run(on_replica, args=(batch,)))

    if compiles:
        on_batch = tf.function(
            on_batch, autograph=False, reduce_retracing=True, **options
        )
    return on_batch


def told_by_all(numbers, strategy):
    """What the replicas of all workers say: an array with a row for each.

    Args:
        numbers: List of ints, what this worker says.
        strategy: The `tf.distribute` strategy.
    """
    told = _gathering(strategy)(tf.constant([numbers], "int64"))
    return local(told).numpy()


@functools.lru_cache(maxsize=4)
def _gathering(strategy):
    return tf.function(
        lambda row: strategy.run(all_gather, args=(row,)), autograph=False
    )


def all_gather(tensor):
    """The tensors of all replicas, one after the other in their first axis."""
    # What comes from outside the step is on no device yet, as it must be here.
    placed = tf.identity(tensor)
    return tf.distribute.get_replica_context().all_gather(placed, axis=0)


def gathered(batch):
    """The batches of all replicas as one."""
    return tree.map_structure(
        lambda part: None if part is None else all_gather(part), batch
    )


def part_of(batch, indices):
    """What this replica evaluates of some samples of the global batch.

    Args:
        batch: That of this replica.
        indices: Vector of positions in the global batch.

    Returns:
        A batch, and its share of the samples.
    """
    taken = batches.take(gathered(batch), indices)
    count = tf.distribute.get_strategy().num_replicas_in_sync
    return batches.part(taken, count, int(number()))
