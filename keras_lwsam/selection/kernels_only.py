"""A selection of kernels, without biases and normalization."""

import dataclasses

import keras

from keras_lwsam.selection.base import Selection, serializable


@serializable
@dataclasses.dataclass(frozen=True)
class KernelsOnly(Selection):
    """Of another selection's layers, the weights of two or more dimensions.

    Biases and normalization parameters are not perturbed and do not count in
    the norms by which layers are chosen; a layer without a kernel is no
    candidate.

    Args:
        selection: A `Selection`.

    >>> from keras_lwsam import selection
    >>> selection.KernelsOnly(selection.OutputSide(2))
    KernelsOnly(selection=OutputSide(num_layers=2))
    """

    selection: Selection

    def __post_init__(self):
        if not isinstance(self.selection, Selection):
            raise TypeError(
                "`selection` must be a `Selection`, such as "
                "selection.LargestGradientNorm(3). "
                f"Received: selection={self.selection!r}"
            )

    @property
    def refresh(self):
        return self.selection.refresh

    def includes(self, weight):
        return len(weight.shape) > 1 and self.selection.includes(weight)

    def resolve(self, layers, observations=None):
        positions = [
            i
            for i, layer in enumerate(layers)
            if any(self.includes(weight) for weight in layer.weights)
        ]
        if not positions:
            raise ValueError(
                "`layers` selects no trainable layer: none has a kernel, a "
                "weight of two or more dimensions. Received: "
                f"{self!r}. The layer paths: {[x.path for x in layers]}"
            )
        chosen = self.selection.resolve(
            [layers[i].only(self.includes) for i in positions],
            observations,
        )
        return tuple(positions[i] for i in chosen)

    def get_config(self):
        return {
            "selection": keras.saving.serialize_keras_object(self.selection)
        }

    @classmethod
    def from_config(cls, config):
        inner = config["selection"]
        return cls(keras.saving.deserialize_keras_object(inner))
