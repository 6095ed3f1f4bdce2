"""One table of all methods, which one contract runs through."""

from typing import NamedTuple

import numpy as np
import pytest

from keras_lwsam import methods


class Case(NamedTuple):
    """A method and what is expected of it.

    Attributes:
        make: Function without arguments to the method.
        plain: Function without arguments to the method that is the base
            optimizer, bit for bit; `None` if there is none.
        normalizes: Whether the perturbation does not depend on the scale of
            the loss.
        passes: Forward and backward passes of a step that perturbs all layers.
        traces: How many different steps there are to trace.
        moves_all: Whether passes move weights that are not selected.
    """

    make: object
    plain: object = None
    normalizes: bool = True
    passes: tuple[int, int] = (2, 2)
    traces: int = 1
    moves_all: bool = False


def _samples():
    generator = np.random.default_rng(5)
    x = generator.normal(size=(4, 10)).astype("float32")
    return x, np.arange(4)


CASES = {
    "sam": Case(lambda: methods.SAM(0.1), lambda: methods.SAM(0.0)),
    "gnp": Case(lambda: methods.GNP(0.1), lambda: methods.GNP(0.0)),
    "asam": Case(lambda: methods.ASAM(0.5), lambda: methods.ASAM(0.0)),
    "gsam": Case(lambda: methods.GSAM(0.1), lambda: methods.GSAM(0.0)),
    "stable_sam": Case(
        lambda: methods.StableSAM(0.2),
        lambda: methods.StableSAM(0.0),
        normalizes=False,
    ),
    "sampa": Case(lambda: methods.SAMPa(0.1), moves_all=True),
    "fisher_sparse_sam": Case(
        lambda: methods.FisherSparseSAM(
            0.1, num_samples=4, refresh=3, samples=_samples()
        ),
        lambda: methods.FisherSparseSAM(0.0),
        traces=3,
    ),
    "dynamic_sparse_sam": Case(
        lambda: methods.DynamicSparseSAM(0.1, refresh=2),
        lambda: methods.DynamicSparseSAM(0.1, sparsity=1.0),
        traces=3,
    ),
    "esam": Case(lambda: methods.ESAM(0.1), passes=(3, 2)),
    "look_sam": Case(
        lambda: methods.LookSAM(0.1, k=2),
        lambda: methods.LookSAM(0.0),
        traces=2,
    ),
    "aesam": Case(lambda: methods.AESAM(0.1), lambda: methods.AESAM(0.0)),
    "ae_look_sam": Case(
        lambda: methods.AELookSAM(0.1), lambda: methods.AELookSAM(0.0)
    ),
    "ksam": Case(lambda: methods.KSAM(0.1), passes=(3, 2)),
    "ausam": Case(lambda: methods.AUSAM(0.1), passes=(3, 2)),
    "friendly_sam": Case(
        lambda: methods.FriendlySAM(0.1), lambda: methods.FriendlySAM(0.0)
    ),
    "bisam": Case(lambda: methods.BiSAM(0.1), lambda: methods.BiSAM(0.0)),
    "gam": Case(methods.GAM, passes=(4, 4)),
    "amp": Case(methods.AMP, normalizes=False),
    "imbsam": Case(
        lambda: methods.ImbSAM([30, 20, 10, 5], 0.1),
        lambda: methods.ImbSAM([30, 30, 30, 30], 0.1),
        passes=(2, 3),
    ),
    "delta_sam": Case(
        lambda: methods.DeltaSAM(0.1), lambda: methods.DeltaSAM(0.0)
    ),
    "smooth_out": Case(
        lambda: methods.SmoothOut(0.05),
        lambda: methods.SmoothOut(0.0),
        passes=(1, 1),
    ),
    "entropy_sgd": Case(lambda: methods.EntropySGD(steps=3), normalizes=False),
    "slsam": Case(lambda: methods.SLSAM(0.1, share=0.5)),
    "momentum_sam": Case(
        methods.MomentumSAM,
        lambda: methods.MomentumSAM(0.0),
        passes=(1, 1),
    ),
    "vasso": Case(lambda: methods.VaSSO(0.1), lambda: methods.VaSSO(0.0)),
    "wsam": Case(lambda: methods.WSAM(0.1), lambda: methods.WSAM(0.0)),
    "async_sam": Case(
        lambda: methods.AsyncSAM(0.1),
        lambda: methods.AsyncSAM(0.0),
        passes=(1, 1),
    ),
}

# One of each kind of program: two gradients, memory, two batches, two climbs,
# parts of the batch, a loop, steps that differ, a condition, a mask, noise.
KINDS = (
    "sam",
    "vasso",
    "sampa",
    "gam",
    "esam",
    "entropy_sgd",
    "look_sam",
    "aesam",
    "dynamic_sparse_sam",
    "smooth_out",
)


def daily(parameters, is_daily):
    """All of them; but only some are tested every day.

    Args:
        parameters: Tuples of arguments of a test.
        is_daily: Function of those.
    """
    return [
        p if is_daily(*p) else pytest.param(*p, marks=pytest.mark.exhaustive)
        for p in parameters
    ]


def methods_daily(names, of=CASES):
    """A test of each method, by name, of which these are tested every day."""
    return pytest.mark.parametrize(
        "name",
        [
            name
            if name in names
            else pytest.param(name, marks=pytest.mark.exhaustive)
            for name in of
        ],
    )
