"""What a selection is: which layers are perturbed."""

import abc
import dataclasses
import numbers
from collections.abc import Callable, Sequence

import keras
import numpy as np

from keras_lwsam import _arguments
from keras_lwsam._layers import LayerWeights

serializable = keras.saving.register_keras_serializable(package="keras_lwsam")


@dataclasses.dataclass(frozen=True)
class Observations:
    """What is known of the layers when a selection is resolved.

    Attributes:
        squared_gradient_norms: Array with an entry a weight of the network:
            its squared gradient norm, averaged over the steps since the last
            refresh; `None` before the first step.
        selected: Paths of the layers perturbed until now.
        refreshes: How often the selection was resolved before.
        price: Function of positions of perturbed weights, and of whether it is
            corrected by a measurement (`timed`), to the cost of a step relative
            to one of the base optimizer; `None` if it is not known.
    """

    squared_gradient_norms: np.ndarray | None = None
    selected: tuple[str, ...] = ()
    refreshes: int = 0
    price: Callable[..., float] | None = None


class Selection(abc.ABC):
    """Which layers are perturbed.

    Attributes:
        refresh: When it is resolved again while training: `None` (never),
            `"epoch"`, or a number of steps.
    """

    refresh: str | int | None = None

    @abc.abstractmethod
    def resolve(
        self,
        layers: Sequence[LayerWeights],
        observations: Observations | None = None,
    ) -> tuple[int, ...]:
        """Positions in `layers`, ascending, of the layers to perturb.

        Args:
            layers: The perturbable layers, input side first.
            observations: What is known of them.

        Raises:
            ValueError: If the layers do not allow the selection.
        """

    def includes(self, weight) -> bool:
        """Whether a weight of a selected layer is perturbed."""
        return True

    def get_config(self) -> dict:
        """The constructor's arguments, as JSON-compatible values."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
        }

    @classmethod
    def from_config(cls, config: dict) -> "Selection":
        """The selection that `get_config` describes."""
        return cls(**config)


@dataclasses.dataclass(frozen=True)
class Counted(Selection):
    """A selection of a number, or of a share, of the layers."""

    num_layers: int | float

    def __post_init__(self):
        number = check_number("num_layers", self.num_layers)
        object.__setattr__(self, "num_layers", number)

    def count(self, layers) -> int:
        """The number of layers to select."""
        return number_of(self.num_layers, layers)


def number_of(num_layers, layers) -> int:
    """The number of layers that a number, or a share, of some layers means."""
    if isinstance(num_layers, float):
        return max(1, round(num_layers * len(layers)))
    if num_layers > len(layers):
        raise ValueError(
            "`layers` (or `num_layers`) asks for more layers than there are. "
            f"Expected at most {len(layers)}, the number of perturbable "
            f"layers. Received: num_layers={num_layers}. The layer paths: "
            f"{[layer.path for layer in layers]}"
        )
    return num_layers


def check_number(name, value, minimum=0):
    """A number of layers, as an int, or a share of them, as a float."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(
            f"`{name}` must be an int, the number of layers, or a float in "
            f"(0, 1], their share. Received: {name}={value!r} "
            f"(of type {type(value).__name__})"
        )
    if isinstance(value, numbers.Integral):
        # A NumPy number would not survive JSON.
        return _arguments.count(name, value, minimum)
    if not 0.0 < value <= 1.0:
        raise ValueError(
            f"`{name}` must be in (0, 1] as a float, a share of the layers; "
            "write an int for a number of layers. "
            f"Received: {name}={value!r}"
        )
    return float(value)
