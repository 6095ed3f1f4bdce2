"""What a method is: a short program from gradients to an update."""

import abc
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import keras

from keras_lwsam import schedules
from keras_lwsam._tensors import add, global_norm, restrict
from keras_lwsam.perturbations import along_gradient

register = keras.saving.register_keras_serializable(package="keras_lwsam")


class Views(NamedTuple):
    """What a step saw on its way, for whoever watches: three lists.

    Each has an entry a weight, `None` where there is none.

    Attributes:
        perturbation: What was added to the weights.
        clean: The gradient of the loss where the perturbation starts.
        sharp: The gradient where it ends.
        share: The part of the samples that it was on.
    """

    perturbation: list
    clean: list
    sharp: list
    share: Any = 1.0


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
        gradient_norm: Scalar, norm over the perturbed weights of the gradient
            that the perturbation was made of, or `None` likewise.
        measured: List of gradients like `gradients`, of which the norms of the
            layers are taken; `None`: of those.
        active: List of boolean scalars: a weight where it is false keeps its
            value and the optimizer's memory of it. `None`: all are active.
        afterwards: Function of a `Step` at the updated weights, with `state`
            as its state, to the state to keep; or `None`.
        views: Tuple of `Views`, one a perturbation; empty where the step has
            none.
    """

    gradients: list
    state: Any = ()
    displacement: list | None = None
    sharpness: Any = None
    gradient_norm: Any = None
    measured: list | None = None
    active: list | None = None
    afterwards: Callable | None = None
    views: tuple = ()


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

    Subclasses implement `update` or, far more often, the two parts of
    `TwoGradientMethod`. An attribute of the name of each argument of the
    constructor makes them comparable, printable and saveable.
    """

    needs_previous_batch = False
    """Whether `step.previous` is used."""

    takes_clean_gradient = True
    """Whether `Update.gradient_norm`, if given, is that of the loss itself."""

    @property
    def is_plain(self) -> bool:
        """Whether every step equals one of the base optimizer.

        Known before the step is traced, so that such a step computes one
        gradient and is bit for bit that of `keras.Model.fit`.
        """
        return False

    def phase(self, clock) -> Any:
        """Which of its programs the next step runs, known before it.

        A method that takes different steps at different times says here which
        one is next, and reads it as `step.phase`. The compiled step is
        specialised to it: what it does not need, it does not compute.

        Args:
            clock: A `schedules.Clock`.

        Returns:
            A hashable value, of few different ones; `None` for a method all of
            whose steps are alike.
        """
        return None

    def initial_state(self, weights) -> Any:
        """The state before the first step: any structure of arrays.

        Args:
            weights: List of the network's weights, as Keras variables.

        Returns:
            A structure (nested lists, tuples, dicts) of arrays of floats; `()`
            for a method without memory. It becomes non-trainable variables of
            the `LWSAMModel`: saved, restored and mirrored with it.
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

    def rest(self, step) -> Update:
        """What happens in a step that a schedule leaves without perturbation.

        One gradient, handed to the optimizer as it is.
        """
        descent = step.gradients(at=step.values, wrt=step.weights)
        return Update(gradients=descent.gradients, state=step.state)

    def get_config(self) -> dict:
        """The constructor's arguments, as JSON-compatible values."""
        return {
            name: keras.saving.serialize_keras_object(value)
            for name, value in self._parameters().items()
        }

    @classmethod
    def from_config(cls, config: dict) -> "Method":
        """The method that `get_config` describes."""
        return cls(**keras.saving.deserialize_keras_object(config))

    def _parameters(self):
        names = inspect.signature(type(self).__init__).parameters
        return {n: getattr(self, n) for n in names if n != "self"}

    def __eq__(self, other):
        return (
            type(self) is type(other)
            and self.get_config() == other.get_config()
        )

    def __hash__(self):
        return hash(repr(self))

    def __repr__(self):
        arguments = (f"{k}={v!r}" for k, v in self._parameters().items())
        return f"{type(self).__name__}({', '.join(arguments)})"


class TwoGradientMethod(Method):
    r"""A clean gradient, a perturbation, a sharp gradient, a combination.

    $$ g = \nabla L(w), \quad \epsilon = \mathrm{perturb}(w, g), \quad
       \tilde g = \nabla L(w + \epsilon), \quad
       \mathrm{combine}(g, \tilde g) $$

    Subclasses override `perturb`, `combine`, or both; `displace` where the rule
    has a part outside the optimizer.

    Args:
        rho: Radius of the perturbation, a non-negative float, or a schedule of
            one (see `schedules`).
    """

    def __init__(self, rho):
        self.rho = schedules.check_rho("rho", rho)

    @property
    def is_plain(self) -> bool:
        return schedules.is_zero(self.rho)

    def perturb(self, step, gradients):
        """`(epsilon, new state)`, from the step and its clean gradient."""
        return along_gradient(gradients, step.radius(self.rho)), step.state

    def combine(self, clean, sharp):
        """The gradient to apply, from the clean and the sharp one."""
        return sharp

    def afterwards(self, step, clean):
        """What follows the update, as in `Update.afterwards`; or `None`."""
        return None

    def remember(self, state, clean, sharp):
        """The state to keep, from that of `perturb` and both gradients."""
        return state

    def displace(self, step, clean, sharp):
        """What is added to the weights after the update; `None`: nothing."""
        return None

    def descend(self, step, clean_loss, gradients) -> Update:
        """SAM's step, perturbed along gradients of another kind."""
        epsilon = along_gradient(gradients, step.radius(self.rho))
        sharp = step.gradients(at=displaced(step, epsilon), wrt=step.weights)
        return Update(
            gradients=sharp.gradients,
            state=step.state,
            sharpness=sharp.loss - clean_loss,
            gradient_norm=global_norm(restrict(gradients, step.selected)),
            views=seen(step, epsilon, sharp=sharp),
        )

    def update(self, step) -> Update:
        clean = step.gradients(at=step.values, wrt=step.ascent)
        epsilon, state = self.perturb(step, clean.gradients)
        sharp = step.gradients(at=displaced(step, epsilon), wrt=step.weights)
        known = restrict(clean.gradients, step.selected)
        return Update(
            gradients=self.combine(known, sharp.gradients),
            state=self.remember(state, known, sharp.gradients),
            displacement=self.displace(step, known, sharp.gradients),
            sharpness=sharp.loss - clean.loss,
            gradient_norm=global_norm(known),
            afterwards=self.afterwards(step, known),
            views=seen(step, epsilon, clean, sharp),
        )


def displaced(step, epsilon):
    """The step's values, those of the selected weights moved by `epsilon`."""
    return add(step.values, restrict(epsilon, step.selected))


def seen(step, epsilon, clean=None, sharp=None):
    """The `views` of an update.

    Args:
        step: The `Step`.
        epsilon: List, the perturbation, of which that of the selected weights
            was added.
        clean: The evaluation where it starts, if there was one of the loss.
        sharp: The evaluation where it ends.
    """
    nothing = [None] * len(epsilon)
    return (
        Views(
            perturbation=restrict(epsilon, step.selected),
            clean=nothing if clean is None else clean.gradients,
            sharp=nothing if sharp is None else sharp.gradients,
        ),
    )
