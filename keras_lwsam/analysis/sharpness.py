"""How much the loss rises nearby: in the worst direction, and on average."""

from typing import NamedTuple

import numpy as np

from keras_lwsam import _arguments
from keras_lwsam.analysis.objective import objective_of


class Estimate(NamedTuple):
    """A mean of random draws.

    Attributes:
        mean: The mean.
        error: Its standard error; NaN for a single draw.
    """

    mean: float
    error: float

    @classmethod
    def of(cls, draws) -> "Estimate":
        """The estimate from a list of independent draws."""
        draws = np.asarray(draws, "float64")
        # A draw may be infinite, or none.
        with np.errstate(invalid="ignore"):
            mean = float(draws.mean())
            if len(draws) < 2:
                return cls(mean, np.nan)
            return cls(mean, float(draws.std(ddof=1) / np.sqrt(len(draws))))


def sharpness(
    model,
    x=None,
    y=None,
    sample_weight=None,
    *,
    rho: float = 0.05,
    layers: str | list[str] | None = None,
    batch_size: int = 32,
    training: bool = False,
) -> float:
    r"""The rise of the loss at SAM's perturbation.

    $$ L(w + \epsilon_S) - L(w), \qquad
       \epsilon_S = \rho \, \nabla_S L(w) / \lVert \nabla_S L(w) \rVert_2 $$

    with the gradient of all of the data. 0 where the gradient is.

    Args:
        model: A compiled model, or an `Objective`, which holds its data.
        x: Inputs, and `y`, `sample_weight`: whatever `evaluate` takes.
        y: Targets.
        sample_weight: Weights of the samples.
        rho: Radius, in units of the weights, a float >= 0. Defaults to `0.05`.
        layers: Path of the layer S that is moved, or a list of paths;
            `None`: all.
        batch_size: Samples evaluated at a time. Defaults to `32`.
        training: Whether the network is called as in training. Defaults to
            `False`.

    Returns:
        A float, in the units of the loss.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If `rho` is negative, a path unknown, or the model not
            compiled.

    Example:

    >>> import keras, numpy as np
    >>> from keras_lwsam import analysis
    >>> model = keras.Sequential([
    ...     keras.Input((1,)), keras.layers.Dense(1, kernel_initializer="ones")
    ... ])
    >>> model.compile(loss="mse")
    >>> x, y = np.ones((4, 1)), np.zeros((4, 1))
    >>> round(analysis.sharpness(model, x, y, rho=0.1), 4)
    0.3028

    References:
        Foret, Kleiner, Mobahi, Neyshabur: Sharpness-Aware Minimization for
        Efficiently Improving Generalization, ICLR 2021, arXiv:2010.01412.
    """
    rho = _arguments.real("rho", rho, minimum=0.0)
    objective = objective_of(model, x, y, sample_weight, batch_size, training)
    places = objective.places(layers)
    gradient = np.where(places, objective.gradient(), 0.0)
    return rise_along(objective, gradient, rho, objective.loss())


def rise_along(objective, gradient, rho, loss):
    """The rise of the loss, of length `rho` along a gradient."""
    norm = np.linalg.norm(gradient)
    if norm == 0.0 or rho == 0.0:
        return 0.0
    return objective.loss(objective.moved(gradient * (rho / norm))) - loss


def average_sharpness(
    model,
    x=None,
    y=None,
    sample_weight=None,
    *,
    stddev: float = 0.01,
    num_samples: int = 10,
    layers: str | list[str] | None = None,
    seed: int = 0,
    batch_size: int = 32,
    training: bool = False,
) -> Estimate:
    r"""The mean rise of the loss under Gaussian noise on the weights.

    $$ E_{\delta \sim N(0, \sigma^2 I)} [L(w + \delta)] - L(w) $$

    Each draw is taken with both signs, which leaves the mean as it is and
    takes the slope out of its spread. For small noise it is about
    $\sigma^2 / 2$ times the trace of the Hessian.

    Args:
        model: A compiled model, or an `Objective`, which holds its data.
        x: Inputs, and `y`, `sample_weight`: whatever `evaluate` takes.
        y: Targets.
        sample_weight: Weights of the samples.
        stddev: Standard deviation of the noise on each weight, in units of
            the weights, a float >= 0. Defaults to `0.01`. (The noise on n
            weights is about `stddev` times the root of n long.)
        num_samples: Number of draws, a positive int. Defaults to `10`.
        layers: As of `sharpness`.
        seed: Seed of the draws, a non-negative int. Defaults to `0`.
        batch_size: Samples evaluated at a time. Defaults to `32`.
        training: As of `sharpness`.

    Returns:
        An `Estimate`, with `mean` and `error` in the units of the loss.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range.

    Example:

    >>> import keras, numpy as np
    >>> from keras_lwsam import analysis
    >>> model = keras.Sequential([
    ...     keras.Input((1,)), keras.layers.Dense(1, use_bias=False)
    ... ])
    >>> model.compile(loss="mse")
    >>> x, y = np.ones((4, 1)), np.zeros((4, 1))
    >>> rise = analysis.average_sharpness(model, x, y, num_samples=100)
    >>> abs(rise.mean - 0.01**2) < 4 * rise.error
    True
    """
    stddev = _arguments.real("stddev", stddev, minimum=0.0)
    _arguments.count("num_samples", num_samples)
    _arguments.count("seed", seed, minimum=0)
    objective = objective_of(model, x, y, sample_weight, batch_size, training)
    places = objective.places(layers)
    draws = gaussian_rises(
        objective, places, stddev, num_samples, seed, objective.loss()
    )
    return Estimate.of(draws)


def gaussian_rises(objective, places, stddev, num_samples, seed, loss):
    """The rises of single draws, a list."""
    generator = np.random.default_rng(seed)
    rises = []
    for _ in range(num_samples):
        noise = generator.normal(0.0, stddev, objective.size) * places
        there, back = (
            objective.loss(objective.moved(sign * noise)) for sign in (1, -1)
        )
        rises.append((there - loss) / 2.0 + (back - loss) / 2.0)
    return rises
