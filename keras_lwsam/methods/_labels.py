"""The labels and logits of methods that look at classes."""

import keras
from keras import ops, tree


def class_indices(method, y, num_classes=None, rank=None):
    """Integer class indices, from integer or one-hot labels.

    Args:
        method: Name of the method that asks, for the error.
        y: The labels of a batch.
        num_classes: Number of classes, the width of one-hot labels.
        rank: Number of dimensions of one-hot labels, if known: as many
            positions as classes do not make labels one-hot.

    Raises:
        ValueError: If `y` is neither.
    """
    if tree.is_nested(y) or y is None:
        raise _no_labels(method, f"labels of the structure {_shapes(y)}")
    shape, dtype = tuple(y.shape), ops.dtype(y)
    is_wide = len(shape) >= 2 and shape[-1] == num_classes != 1
    if is_wide and rank in (None, len(shape)):
        return ops.argmax(y, axis=-1)
    if not dtype.startswith(("int", "uint")):
        raise _no_labels(method, f"labels of dtype {dtype} and shape {shape}")
    if len(shape) == 2 and shape[-1] == 1:
        y = ops.squeeze(y, axis=-1)
    return ops.cast(y, "int32")


def logits_of(method, predictions, loss):
    """The logits in what a network returned.

    Args:
        method: Name of the method that asks, for the error.
        predictions: What the network returned.
        loss: The compiled loss, which tells whether those are logits.

    Raises:
        ValueError: If they are not, as far as can be told.
    """
    if tree.is_nested(predictions):
        raise ValueError(
            f"{method} needs a network of one output, the logits. "
            f"Received: outputs of the structure {_shapes(predictions)}"
        )
    # Keras keeps the logits of a softmax at the end of a network.
    logits = getattr(predictions, "_keras_logits", predictions)
    if logits is predictions and takes_probabilities(loss):
        raise ValueError(
            f"{method} needs logits. Leave out the last softmax and compile "
            "with a loss of `from_logits=True`. "
            f"Received: loss={loss!r}, which takes probabilities"
        )
    return logits


def takes_probabilities(loss):
    """Whether a loss of Keras expects probabilities, not logits."""
    flat = tree.flatten(loss)
    loss = flat[0] if len(flat) == 1 else loss
    if isinstance(loss, str):
        loss = keras.losses.get(loss)
    if callable(loss) and not isinstance(loss, keras.Loss):
        return getattr(loss, "__name__", "").endswith("crossentropy")
    return getattr(loss, "from_logits", None) is False


def _no_labels(method, received):
    return ValueError(
        f"{method} needs class labels: integers, or one-hot vectors as wide as "
        f"the number of classes. Received: {received}"
    )


def _shapes(structure):
    return tree.map_structure(
        lambda x: tuple(getattr(x, "shape", ())), structure
    )
