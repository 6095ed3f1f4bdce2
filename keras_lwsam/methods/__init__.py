"""Methods: what becomes of the gradients in a training step."""

import difflib
import inspect

from keras_lwsam.methods.adaptive_policy import AESAM, AELookSAM
from keras_lwsam.methods.amp import AMP
from keras_lwsam.methods.asam import ASAM
from keras_lwsam.methods.base import Method, TwoGradientMethod, Update
from keras_lwsam.methods.bisam import BiSAM
from keras_lwsam.methods.composed import BatchSplits, Scheduled
from keras_lwsam.methods.delta_sam import DeltaSAM
from keras_lwsam.methods.entropy_sgd import EntropySGD
from keras_lwsam.methods.esam import ESAM
from keras_lwsam.methods.friendly_sam import FriendlySAM, VaSSO
from keras_lwsam.methods.gam import GAM
from keras_lwsam.methods.gnp import GNP
from keras_lwsam.methods.gsam import GSAM
from keras_lwsam.methods.imbsam import ImbSAM
from keras_lwsam.methods.look_sam import LookSAM
from keras_lwsam.methods.momentum_sam import AsyncSAM, MomentumSAM
from keras_lwsam.methods.sam import SAM
from keras_lwsam.methods.sampa import SAMPa
from keras_lwsam.methods.sample_selection import AUSAM, KSAM
from keras_lwsam.methods.slsam import SLSAM
from keras_lwsam.methods.smooth_out import SmoothOut
from keras_lwsam.methods.sparse_sam import DynamicSparseSAM, FisherSparseSAM
from keras_lwsam.methods.stable_sam import Renormalized, StableSAM
from keras_lwsam.methods.wsam import WSAM

__all__ = [
    "AESAM",
    "AMP",
    "ASAM",
    "AUSAM",
    "ESAM",
    "GAM",
    "GNP",
    "GSAM",
    "KSAM",
    "SAM",
    "SLSAM",
    "WSAM",
    "AELookSAM",
    "AsyncSAM",
    "BatchSplits",
    "BiSAM",
    "DeltaSAM",
    "DynamicSparseSAM",
    "EntropySGD",
    "FisherSparseSAM",
    "FriendlySAM",
    "ImbSAM",
    "LookSAM",
    "Method",
    "MomentumSAM",
    "Renormalized",
    "SAMPa",
    "Scheduled",
    "SmoothOut",
    "StableSAM",
    "TwoGradientMethod",
    "Update",
    "VaSSO",
    "compose",
    "get",
]

# What `method="..."` may name.
NAMES = {
    "ae_look_sam": AELookSAM,
    "aesam": AESAM,
    "amp": AMP,
    "asam": ASAM,
    "async_sam": AsyncSAM,
    "ausam": AUSAM,
    "bisam": BiSAM,
    "delta_sam": DeltaSAM,
    "dynamic_sparse_sam": DynamicSparseSAM,
    "entropy_sgd": EntropySGD,
    "esam": ESAM,
    "fisher_sparse_sam": FisherSparseSAM,
    "friendly_sam": FriendlySAM,
    "gam": GAM,
    "gnp": GNP,
    "gsam": GSAM,
    "imbsam": ImbSAM,
    "ksam": KSAM,
    "look_sam": LookSAM,
    "momentum_sam": MomentumSAM,
    "sam": SAM,
    "sampa": SAMPa,
    "slsam": SLSAM,
    "smooth_out": SmoothOut,
    "stable_sam": StableSAM,
    "vasso": VaSSO,
    "wsam": WSAM,
}


def get(method, rho=None) -> Method:
    """The method that the arguments of `LWSAMModel` describe.

    Args:
        method: A name, such as `"sam"`, or a `Method`.
        rho: Radius for a method given by name; its own default if `None`.

    Returns:
        A `Method`.

    Raises:
        TypeError: If `method` is neither a name nor a `Method`.
        ValueError: If the name is unknown, or `rho` accompanies a `Method`.

    Example:

    >>> from keras_lwsam import methods
    >>> methods.get("gnp", rho=0.05)
    GNP(rho=0.05, alpha=0.8)
    """
    if isinstance(method, Method):
        if rho is not None:
            raise ValueError(
                "`rho` is given twice: a `Method` instance has its own "
                f"radius. Write `method={type(method).__name__}(rho={rho!r})` "
                f"and leave `rho` out. Received: method={method!r}, "
                f"rho={rho!r}"
            )
        return method
    if not isinstance(method, str):
        raise TypeError(
            "`method` must be a name such as 'sam' or an instance of a class "
            "of `keras_lwsam.methods`, such as `methods.SAM(rho=0.05)`. "
            f"Received: method={method!r} (of type {type(method).__name__})"
        )
    chosen = NAMES[name_of(method)]
    if rho is None:
        return chosen()
    if "rho" not in inspect.signature(chosen).parameters:
        raise ValueError(
            f"The method {method!r} has no radius `rho`; it is "
            f"{inspect.signature(chosen)}. Give an instance, "
            f"`method=methods.{chosen.__name__}(...)`. Received: rho={rho!r}"
        )
    return chosen(rho=rho)


def compose(method, schedule=None, num_batch_splits=None) -> Method:
    """A method that acts when it shall, on the parts of the batch it shall.

    Args:
        method: A `Method`.
        schedule: A `schedules.Schedule`, or `None` for always.
        num_batch_splits: Number of parts of the batch, or `None` for one.

    Returns:
        A `Method`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If `num_batch_splits` is not positive.

    Example:

    >>> from keras_lwsam import methods, schedules
    >>> methods.compose(methods.SAM(), num_batch_splits=2)
    BatchSplits(method=SAM(rho=0.05), num_batch_splits=2)
    """
    if num_batch_splits is not None:
        method = BatchSplits(method, num_batch_splits)
    if schedule is not None:
        # Outside: a step that is not perturbed takes the batch whole.
        method = Scheduled(method, schedule)
    return method


def name_of(text: str) -> str:
    """The name in `NAMES` that a text means.

    `"look_sam"` is LookSAM; `"looksam"` and `"look-sam"` can be nothing else.

    Args:
        text: The text.

    Raises:
        ValueError: If it is no method.
    """
    plain = {_plain(name): name for name in NAMES}
    if _plain(text) not in plain:
        near = difflib.get_close_matches(
            _plain(text.lower()), plain, cutoff=0.4
        )
        hint = " or ".join(repr(plain[name]) for name in near)
        raise ValueError(
            f"`method` names no method of this library. "
            f"{f'Did you mean {hint}? ' if near else ''}"
            f"The names are: {', '.join(sorted(NAMES))}. "
            f"Received: method={text!r}"
        )
    return plain[_plain(text)]


def _plain(name):
    return name.replace("_", "").replace("-", "")
