"""What a method is: a short program from gradients to an update."""

import abc
from typing import Any, NamedTuple

from keras_lwsam import _arguments
from keras_lwsam._tensors import add, global_norm, restrict
from keras_lwsam.perturbations import along_gradient


class Update(NamedTuple):
    """What a method hands back for one training step.

    Attributes:
        gradients: What the optimizer applies: a list with one entry a weight,
            `None` for a weight that this step leaves alone.
        state: The method's new state, of the structure of
            `Method.initial_state`.
        displacement: Added to the weights after the optimizer's update: a list
            like `gradients`, or `None`.
        sharpness: Scalar, loss at the perturbed weights minus clean loss, or
            `None` where the step has no perturbation.
        gradient_norm: Scalar, norm of the clean gradient over the perturbed
            weights, or `None` likewise.
    """

    gradients: list
    state: Any = ()
    displacement: list | None = None
    sharpness: Any = None
    gradient_norm: Any = None


class Method(abc.ABC):
    """What becomes of the gradients in one training step.

    A method is an immutable description. It is handed a `step` and writes its
    algorithm in terms of one primitive, the gradients of the loss *at* given
    values, *with respect to* given weights:

    ```python
    clean = step.gradients(at=step.values, wrt=step.ascent)
    sharp = step.gradients(at=..., wrt=step.weights)
    ```

    The first call in a step is the one that counts: its loss and predictions
    are logged and its BatchNorm and random-seed updates are kept.

    Subclasses implement `update` (or, far more often, the two parts of
    `TwoGradientMethod`) and `get_config`.
    """

    @property
    def is_plain(self) -> bool:
        """Whether every step equals one of the base optimizer.

        Known before the step is traced, so that such a step computes one
        gradient and is bit for bit that of `keras.Model.fit`.
        """
        return False

    def initial_state(self, weights) -> Any:
        """The state before the first step: any structure of arrays.

        Args:
            weights: List of the network's weights, as Keras variables.

        Returns:
            A structure (nested lists, tuples, dicts) of arrays; `()` for a
            method without memory. It becomes non-trainable variables of the
            `LWSAMModel`: saved, restored and mirrored with it.
        """
        return ()

    @abc.abstractmethod
    def update(self, step) -> Update:
        """Runs the method's program for one batch.

        Args:
            step: The `Step` at hand: `gradients(at, wrt)`, `values`, `state`,
                and the index lists `selected`, `ascent` and `weights`.

        Returns:
            An `Update`.
        """

    @abc.abstractmethod
    def get_config(self) -> dict:
        """The constructor's arguments, as JSON-compatible values."""

    @classmethod
    def from_config(cls, config: dict) -> "Method":
        """The method that `get_config` describes."""
        return cls(**config)

    def __eq__(self, other):
        return (
            type(self) is type(other)
            and self.get_config() == other.get_config()
        )

    def __hash__(self):
        return hash(repr(self))

    def __repr__(self):
        arguments = (f"{k}={v!r}" for k, v in self.get_config().items())
        return f"{type(self).__name__}({', '.join(arguments)})"


class TwoGradientMethod(Method):
    r"""A clean gradient, a perturbation, a sharp gradient, a combination.

    $$ g = \nabla L(w), \quad \epsilon = \mathrm{perturb}(w, g), \quad
       \tilde g = \nabla L(w + \epsilon), \quad
       \mathrm{combine}(g, \tilde g) $$

    Subclasses override `perturb`, `combine`, or both.

    Args:
        rho: Radius of the perturbation, a non-negative float.
    """

    def __init__(self, rho: float):
        self.rho = _arguments.real("rho", rho, minimum=0.0)

    @property
    def is_plain(self) -> bool:
        return self.rho == 0.0

    def perturb(self, values, gradients, state):
        """`(epsilon, new state)` from weights, clean gradient and state."""
        return along_gradient(gradients, self.rho), state

    def combine(self, clean, sharp):
        """The gradient to apply, from the clean and the sharp one."""
        return sharp

    def update(self, step) -> Update:
        clean = step.gradients(at=step.values, wrt=step.ascent)
        epsilon, state = self.perturb(step.values, clean.gradients, step.state)
        epsilon = restrict(epsilon, step.selected)
        sharp = step.gradients(at=add(step.values, epsilon), wrt=step.weights)
        return Update(
            gradients=self.combine(
                restrict(clean.gradients, step.selected), sharp.gradients
            ),
            state=state,
            sharpness=sharp.loss - clean.loss,
            gradient_norm=global_norm(restrict(clean.gradients, step.selected)),
        )

    def get_config(self) -> dict:
        return {"rho": self.rho}
