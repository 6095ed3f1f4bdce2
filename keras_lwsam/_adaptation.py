"""Which layers are perturbed now, and when they are chosen again."""

import numpy as np

from keras_lwsam._layers import perturbable
from keras_lwsam.selection import Observations


class Adaptation:
    """The course of a selection over a training run. Python, between steps.

    Args:
        selection: A `selection.Selection`.
        layers: The network's layers, as `all_layers` gives them.
        trainable: The network's trainable variables.
        price: As of `selection.Observations`.

    Attributes:
        all_layers: The network's layers.
        layers: Those that can be perturbed now, input side first.
        selected: Positions of the perturbed ones in `layers`.
    """

    def __init__(self, selection, layers, trainable, price=None):
        self.selection = selection
        self.price = price
        self.refreshes = 0
        self.steps = 0
        self.all_layers = layers
        self.layers = perturbable(layers, trainable)
        self.selected = self._first_choice()

    def follow(self, trainable):
        """Takes note of layers that were frozen or thawed since."""
        paths = self.selected_paths
        self.layers = perturbable(self.all_layers, trainable)
        self._select(paths)

    def _select(self, paths):
        """The layers of these paths, if all can be perturbed now."""
        kept = tuple(i for i, p in enumerate(self.layer_paths) if p in paths)
        # Before norms decide, what is frozen now may decide otherwise.
        if self.refreshes and len(kept) == len(paths):
            self.selected = kept
        else:
            self.selected = self._first_choice()

    def _first_choice(self):
        """The selection while no norms are known."""
        return self.selection.resolve(
            self.layers, Observations(price=self.price)
        )

    @property
    def layer_paths(self) -> list[str]:
        return [layer.path for layer in self.layers]

    @property
    def selected_paths(self) -> list[str]:
        return [self.layers[i].path for i in self.selected]

    def weight_indices(self) -> tuple[int, ...]:
        """Positions, among all weights, of those that are perturbed."""
        return tuple(
            index
            for position in self.selected
            for index in self.layers[position]
            .only(self.selection.includes)
            .indices
        )

    def perturbable_indices(self) -> tuple[int, ...]:
        """Positions, among all weights, of those that could be perturbed."""
        return tuple(i for layer in self.layers for i in layer.indices)

    def is_due(self, at_epoch: bool) -> bool:
        """Whether it is time to choose again."""
        refresh = self.selection.refresh
        if at_epoch or refresh is None:
            return refresh == "epoch"
        return refresh != "epoch" and self.steps >= refresh

    def refresh(self, squared_norms):
        """Chooses again.

        Args:
            squared_norms: Array with an entry a weight, or `None` if no step
                has been measured since the last time.
        """
        refreshes = self.refreshes + 1
        self.selected = self.selection.resolve(
            self.layers,
            Observations(
                squared_norms,
                tuple(self.selected_paths),
                refreshes,
                self.price,
            ),
        )
        self.refreshes, self.steps = refreshes, 0

    def to_array(self) -> np.ndarray:
        """Everything that resuming needs, as integers.

        Layers are counted among all, so that freezing does not renumber them.
        """
        selected = self.selected_paths
        positions = [
            i for i, x in enumerate(self.all_layers) if x.path in selected
        ]
        return np.array([self.refreshes, self.steps, *positions], "int64")

    def check_array(self, array):
        """Refuses what `to_array` of such a network cannot have given."""
        array = np.asarray(array)
        if array.ndim != 1 or len(array) < 2 or (array < 0).any():
            raise ValueError(
                "The saved selection is damaged: expected at least two "
                f"non-negative integers. Received: {array!r}"
            )
        if (array[2:] >= len(self.all_layers)).any():
            raise ValueError(
                "The saved selection is that of another network: this one has "
                f"{len(self.all_layers)} layers with weights. "
                f"Received: positions {array[2:].tolist()}"
            )

    def from_array(self, array):
        """Continues where `to_array` was."""
        self.refreshes, self.steps, *positions = (int(x) for x in array)
        self._select([self.all_layers[i].path for i in positions])
