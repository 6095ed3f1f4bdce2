"""Data to look at: read once, and kept."""

import keras

from keras_lwsam import _keras
from keras_lwsam._overrides import handed_over, hands_over


def batches_of(network, x, y, sample_weight, batch_size) -> list:
    """All batches of some data, as `(x, y, sample_weight)`, in order.

    Args:
        network: The network that is given the data, which may preprocess it.
        x: Whatever `evaluate` takes.
        y: Targets.
        sample_weight: Weights of the samples.
        batch_size: Samples in a batch, for arrays.
    """
    if x is None:
        raise ValueError(
            "`x` must be the inputs to look at: arrays, or a data set of "
            "batches. Received: x=None"
        )
    data = {"x": x, "y": y, "sample_weight": sample_weight}
    if not hasattr(x, "batch"):  # A data set has its batches.
        data["batch_size"] = batch_size
    data = handed_over(network, "evaluate", **data)
    x, y, sample_weight = (
        data.get(name) for name in ("x", "y", "sample_weight")
    )
    adapter = _keras.data_adapter(x, y, sample_weight, batch_size)
    # Unknown is another number.
    is_endless = hasattr(x, "cardinality") and int(x.cardinality()) == -1
    if isinstance(x, keras.utils.PyDataset):
        is_endless = adapter.num_batches is None
    if is_endless:
        raise ValueError(
            "The data must have an end: all of it is looked at. Take a part of "
            "it, such as `dataset.take(10)`. Received: an infinite data set"
        )
    adapter.on_epoch_begin()
    batches = list(_keras.batches_of(adapter))
    adapter.on_epoch_end()
    if hands_over(network, "test_step"):
        batches = [
            handed_over(network, "test_step", b)["data"] for b in batches
        ]
    batches = [keras.utils.unpack_x_y_sample_weight(b) for b in batches]
    batches = [b for b in batches if _count(b[0]) > 0]
    if not batches:
        raise ValueError("The data must have a sample. Received: no batch")
    return batches


def _count(x):
    """The number of samples of a batch."""
    parts = (part for part in keras.tree.flatten(x) if part is not None)
    return int(keras.ops.shape(next(parts))[0])
