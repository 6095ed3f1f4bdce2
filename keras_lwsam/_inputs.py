"""What a network is called on: symbolic tensors, without data."""

from collections.abc import Mapping

import keras
import numpy as np


def own(network):
    """The inputs that a network was built on.

    Args:
        network: A built `keras.Model`.

    Returns:
        A structure of `keras.KerasTensor`s.

    Raises:
        ValueError: If it does not know them.
    """
    try:
        return network.input
    except (AttributeError, ValueError):
        config = network.get_build_config() or {}
    if "input_shape" not in config:
        raise ValueError(
            f"The network {network.name!r} does not know its inputs. Build it "
            "by a call on a batch, or give `inputs`: a batch, or "
            "keras.KerasTensors in its structure. Received: inputs=None"
        )
    return _tensors(config["input_shape"], network.input_dtype)


def sized(inputs, batch_size, length):
    """Symbolic tensors like some others, with no dimension left open.

    Args:
        inputs: A structure of anything that has a shape and a dtype.
        batch_size: The first dimension, where it is open.
        length: Any other open dimension.
    """

    def close(tensor):
        shape = [length if size is None else size for size in tensor.shape]
        if shape and tensor.shape[0] is None:
            shape[0] = batch_size
        dtype = keras.backend.standardize_dtype(tensor.dtype)
        return keras.KerasTensor(tuple(shape), dtype)

    return keras.tree.map_structure(close, inputs)


def drawn(inputs, like):
    """A batch: what of some inputs is data, and draws for the rest.

    Args:
        inputs: A structure of arrays, tensors, or `keras.KerasTensor`s.
        like: The same of symbolic tensors with no dimension left open.
    """
    generator = np.random.default_rng(0)

    def draw(given, tensor):
        if not isinstance(given, keras.KerasTensor):
            return keras.ops.convert_to_tensor(given)
        # Ones are tokens of any vocabulary, and mask nothing.
        values = np.ones(tensor.shape)
        if keras.backend.is_float_dtype(tensor.dtype):
            values = generator.normal(size=tensor.shape)
        return keras.ops.cast(values, tensor.dtype)

    return keras.tree.map_structure(draw, inputs, like)


def _tensors(shape, dtype):
    """Symbolic tensors, from a structure of the shapes of a batch."""
    if isinstance(shape, Mapping):
        return {name: _tensors(part, dtype) for name, part in shape.items()}
    if all(size is None or isinstance(size, int) for size in shape):
        return keras.KerasTensor((None, *shape[1:]), dtype)
    return [_tensors(part, dtype) for part in shape]
