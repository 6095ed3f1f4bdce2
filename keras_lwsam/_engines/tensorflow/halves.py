"""Two passes at the same time, each made by half of the replicas."""

import tensorflow as tf
from keras import tree

from keras_lwsam._engines.tensorflow import batches, replicas
from keras_lwsam._tensors import scale


def side_by_side(gradients, passes):
    """The evaluations of two passes, of which each replica makes one.

    The first half of the replicas makes the first pass, on the whole of its
    batch, and the other half the other. One all-reduce tells everyone both
    losses and gradients.

    Args:
        gradients: Function `(batch, at)` to the `Evaluation` of this replica.
        passes: Two `(batch, at)` pairs.

    Returns:
        Two `Evaluation`s, with the losses and gradients of the global batches.
    """
    context = tf.distribute.get_replica_context()
    half = context.num_replicas_in_sync // 2
    mine, place = divmod(int(replicas.number()), half)
    whole = _gathered([batch for batch, _ in passes])
    part, share = batches.part(whole[mine], half, place)
    made = gradients(part, passes[mine][1])
    own = scale(made.gradients, share)
    present = [i for i, g in enumerate(own) if g is not None]
    mean = made.loss * tf.cast(share, made.loss.dtype)
    told = [*(own[i] for i in present), mean]
    nothing = [tf.zeros_like(tensor) for tensor in told]
    sent = told + nothing if mine == 0 else nothing + told
    reduced = context.all_reduce("SUM", sent)
    results = []
    for *of_all, loss in (reduced[: len(told)], reduced[len(told) :]):
        gradients = [None] * len(own)
        for i, gradient in zip(present, of_all, strict=True):
            gradients[i] = gradient
        results.append(made._replace(loss=loss, gradients=gradients))
    is_first = mine == 0
    results[0] = results[0]._replace(
        batch=part,
        weight=2.0 if is_first else 0.0,
        assignments=_of_first_half(made.assignments, is_first),
    )
    return results


def _gathered(several):
    """Global batches, from those of this replica.

    None of them is there before all are: a replica that began to compute before
    it had handed out what the other half needs would let that half wait.
    """
    whole = [replicas.gathered(batch) for batch in several]
    handed_out = [part for part in tree.flatten(whole) if part is not None]
    with tf.control_dependencies(handed_out):
        return tree.map_structure(
            lambda part: None if part is None else tf.identity(part), whole
        )


def _of_first_half(assignments, is_first):
    """Assignments that leave on all replicas what the first half found.

    Variables that are averaged over the replicas are given twice the change
    there and none elsewhere; what is counted by itself on every replica, and
    added up when it is read, is counted there alone; the others (seeds) are
    alike everywhere.
    """
    result = []
    for variable, value in assignments:
        if variable.aggregation == "mean":
            old = tf.convert_to_tensor(variable.value)
            new = old + 2.0 * (value - old) if is_first else old
            result.append((variable, new))
        elif is_first or variable.aggregation != "sum":
            result.append((variable, value))
    return result
