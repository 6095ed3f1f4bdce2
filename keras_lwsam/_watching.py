"""What can be seen of a model's training, layer by layer."""

import numpy as np

from keras_lwsam import _layers


class IsWatched:
    """The part of `LWSAMModel` that shows what its steps measured."""

    @property
    def watched(self):
        """Whether steps without perturbation are measured too, and of every
        step what it saw on its way."""
        return self._training.watched

    @watched.setter
    def watched(self, value):
        self._training.watched = value

    @property
    def layer_gradient_norms(self) -> dict[str, float]:
        return self._by_path(self._state.latest())

    @property
    def epoch_layer_gradient_norms(self) -> dict[str, float]:
        """Root mean square of each layer's gradient norm in this epoch."""
        return self._by_path(self._squared_norms(of_epoch=True))

    def measurements(self, of_epoch: bool) -> tuple[dict, dict]:
        """What a `LayerNormTracker` records.

        Args:
            of_epoch: Whether the root mean square over the steps of this epoch
                is wanted, or the latest step.

        Returns:
            Dict from layer path to a dict of `gradient_norm`, `update_norm`,
            `perturbation_norm` and `cosine`, and such a dict for the whole
            model. Without a gradient norm before the first step.
        """
        views = self._state.views(of_epoch)
        views["gradient"] = self._squared_norms(of_epoch)
        layers = self._adaptation.layers
        by_path = {
            layer.path: _summary(views, list(layer.indices)) for layer in layers
        }
        everything = [i for layer in layers for i in layer.indices]
        return by_path, _summary(views, everything)

    def _squared_norms(self, of_epoch):
        if not of_epoch:
            return self._state.latest()
        squared_norms = self._state.epoch_mean()
        if squared_norms is None:
            return np.zeros(len(self._weights_of_network))
        return squared_norms

    def _by_path(self, squared_norms):
        norms = _layers.gradient_norms(self._adaptation.layers, squared_norms)
        return dict(zip(self.layer_paths, map(float, norms), strict=True))


def _summary(views, indices):
    """Norms, and the cosine of clean and sharp gradient, over some weights."""
    total = {
        name: np.sum(array[indices], dtype="float64")
        for name, array in views.items()
    }
    length = np.sqrt(total["clean"] * total["sharp"])
    return {
        **{
            f"{name}_norm": float(np.sqrt(total[name]))
            for name in ("gradient", "update", "perturbation")
        },
        "cosine": float(total["alignment"] / length) if length else np.nan,
    }
