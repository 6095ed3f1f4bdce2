"""Schedules: when to perturb, and how far.

When: `LWSAMModel(..., schedule=EverySteps(5))`. A step that takes no
perturbation costs one gradient. How far: a method's `rho` may be a number, a
`keras.optimizers.schedules.LearningRateSchedule` of the training step, or a
`Radius`.
"""

import abc
import dataclasses

import keras
import numpy as np
from keras import ops

from keras_lwsam import _arguments
from keras_lwsam._clock import Clock

__all__ = [
    "Clock",
    "EverySteps",
    "FollowLearningRate",
    "FromEpoch",
    "FromShare",
    "ProportionalToLearningRate",
    "Radius",
    "Schedule",
    "WithProbability",
]

serializable = keras.saving.register_keras_serializable(package="keras_lwsam")


class _Configured:
    def get_config(self) -> dict:
        """The constructor's arguments, as JSON-compatible values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config: dict):
        """The object that `get_config` describes."""
        return cls(**config)


class Schedule(_Configured, abc.ABC):
    """When to perturb. A small immutable object, asked before each step."""

    @abc.abstractmethod
    def perturbs(self, clock: Clock) -> bool:
        """Whether the step that comes next is perturbed.

        Args:
            clock: Where training stands: `step`, `step_of_epoch`, `epoch`,
                `epochs`, `steps_per_epoch`, `progress`.
        """


@serializable
@dataclasses.dataclass(frozen=True)
class EverySteps(Schedule):
    """Perturbs every k-th step, the first one included.

    Args:
        k: A positive int; `1` perturbs all.

    >>> from keras_lwsam import schedules
    >>> [schedules.EverySteps(2).perturbs(schedules.Clock(t)) for t in range(4)]
    [True, False, True, False]
    """

    k: int

    def __post_init__(self):
        object.__setattr__(self, "k", _arguments.count("k", self.k))

    def perturbs(self, clock):
        return clock.step % self.k == 0


@serializable
@dataclasses.dataclass(frozen=True)
class WithProbability(Schedule):
    """Perturbs a step with probability p (randomized sharpness-aware training).

    The draws are a function of the seed and the number of the step: the same
    on every replica, and in a run that was stopped and goes on.

    Args:
        p: Probability, in [0, 1].
        seed: A non-negative int.

    References:
        Zhao, Zhang, Hu: Randomized Sharpness-Aware Training for Boosting
        Computational Efficiency in Deep Learning, arXiv:2203.09962.

    >>> from keras_lwsam import schedules
    >>> schedules.WithProbability(0.5)
    WithProbability(p=0.5, seed=0)
    """

    p: float
    seed: int = 0

    def __post_init__(self):
        p = _arguments.real("p", self.p, 0.0, 1.0)
        object.__setattr__(self, "p", p)
        seed = _arguments.count("seed", self.seed, minimum=0)
        object.__setattr__(self, "seed", seed)

    def perturbs(self, clock):
        draw = np.random.default_rng([self.seed, clock.step]).random()
        return bool(draw < self.p)


@serializable
@dataclasses.dataclass(frozen=True)
class FromEpoch(Schedule):
    """Perturbs from an epoch on. `fit` counts the epochs.

    Args:
        epoch: Index of the first epoch with perturbation, a non-negative int.

    >>> from keras_lwsam import schedules
    >>> schedules.FromEpoch(5).perturbs(schedules.Clock(epoch=4))
    False
    """

    epoch: int

    def __post_init__(self):
        epoch = _arguments.count("epoch", self.epoch, minimum=0)
        object.__setattr__(self, "epoch", epoch)

    def perturbs(self, clock):
        return clock.epoch >= self.epoch


@serializable
@dataclasses.dataclass(frozen=True)
class FromShare(Schedule):
    """Perturbs from a share of the training on (late SAM).

    The length of the training is that of the present `fit`; a loop of one's
    own has none, and is not perturbed unless `share` is 0.

    Args:
        share: In [0, 1]; `0.9` perturbs the last tenth.

    >>> from keras_lwsam import schedules
    >>> schedules.FromShare(0.9).perturbs(schedules.Clock(epoch=9, epochs=10))
    True
    """

    share: float

    def __post_init__(self):
        share = _arguments.real("share", self.share, 0.0, 1.0)
        object.__setattr__(self, "share", share)

    def perturbs(self, clock):
        # In floating point 0.9 may be reached a rounding error late.
        return clock.progress >= self.share - 1e-9


class Radius(_Configured, abc.ABC):
    """A radius that changes while training."""

    @abc.abstractmethod
    def __call__(self, learning_rate):
        """The radius at a learning rate.

        Args:
            learning_rate: The optimizer's, a scalar tensor.
        """


@serializable
@dataclasses.dataclass(frozen=True)
class ProportionalToLearningRate(Radius):
    """`rho = factor * learning rate`.

    Args:
        factor: A non-negative float.

    >>> from keras_lwsam import methods, schedules
    >>> methods.SAM(schedules.ProportionalToLearningRate(0.5))
    SAM(rho=ProportionalToLearningRate(factor=0.5))
    """

    factor: float

    def __post_init__(self):
        factor = _arguments.real("factor", self.factor, 0.0)
        object.__setattr__(self, "factor", factor)

    def __call__(self, learning_rate):
        return self.factor * learning_rate


@serializable
@dataclasses.dataclass(frozen=True)
class FollowLearningRate(Radius):
    r"""The radius follows the learning rate between two bounds (GSAM).

    $$ \rho = \rho_{min} + (\rho_{max} - \rho_{min})
       \frac{lr - lr_{min}}{lr_{max} - lr_{min}} $$

    and it stays within those where the learning rate leaves its own.

    Args:
        rho_min: Radius at the smallest learning rate, a non-negative float.
        rho_max: Radius at the largest.
        lr_min: The smallest learning rate of the optimizer's schedule.
        lr_max: The largest. If it equals `lr_min`, the radius is `rho_max`.

    References:
        Zhuang et al.: Surrogate Gap Minimization Improves Sharpness-Aware
        Training, ICLR 2022, arXiv:2203.08065.

    >>> from keras_lwsam import schedules
    >>> follow = schedules.FollowLearningRate(0.02, 0.1, 0.0, 0.4)
    >>> round(float(follow(0.1)), 6)
    0.04
    """

    rho_min: float
    rho_max: float
    lr_min: float
    lr_max: float

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = _arguments.real(field.name, getattr(self, field.name), 0.0)
            object.__setattr__(self, field.name, value)
        for low, high in (("rho_min", "rho_max"), ("lr_min", "lr_max")):
            if getattr(self, low) > getattr(self, high):
                raise ValueError(
                    f"`{low}` must not exceed `{high}`. Received: {self!r}"
                )

    def __call__(self, learning_rate):
        if self.lr_max == self.lr_min:
            return self.rho_max
        share = (learning_rate - self.lr_min) / (self.lr_max - self.lr_min)
        share = ops.clip(ops.cast(share, "float32"), 0.0, 1.0)
        return self.rho_min + (self.rho_max - self.rho_min) * share


def check_rho(name, rho):
    """A radius: a non-negative float, or a schedule of one."""
    if isinstance(
        rho, Radius | keras.optimizers.schedules.LearningRateSchedule
    ):
        return rho
    if isinstance(rho, Schedule):
        raise TypeError(
            f"`{name}` says how far to perturb, not when. Give the schedule to "
            f"the model, `LWSAMModel(..., schedule={rho!r})`. "
            f"Received: {name}={rho!r}"
        )
    return _arguments.real(name, rho, minimum=0.0)


def is_zero(rho) -> bool:
    """Whether a radius is the number 0, for good."""
    return isinstance(rho, float) and rho == 0.0


def rho_at(rho, step, learning_rate):
    """The radius in a step: a float or a scalar tensor.

    Args:
        rho: What `check_rho` returned.
        step: Number of training steps taken, an int scalar tensor.
        learning_rate: The optimizer's, a scalar tensor.
    """
    if isinstance(rho, Radius):
        return rho(learning_rate)
    if isinstance(rho, keras.optimizers.schedules.LearningRateSchedule):
        return rho(step)
    return rho
