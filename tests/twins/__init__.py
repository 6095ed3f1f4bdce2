"""A second implementation of every method, of the other kind.

It shares nothing with the package but Keras. The variables of the network are
moved, the network is called, and every variable is put back from a copy; what
lies between is NumPy arithmetic in float64 on one vector with an entry per
weight. Slow, and simple enough to be seen to be right.

    logs = train(TWINS["sam"](rho=0.1), network, optimizer, batches,
                 lambda variable: True)

Random decisions are taken from `draws`, an object with `start_step()`,
`uniform(shape)` and `normal(shape)`. What each method asks for, in a step:

- ESAM: one uniform vector with an entry per trainable variable.
- SLSAM: the same.
- AUSAM: one uniform vector with an entry per sample of the batch.
- SmoothOut: one uniform tensor per selected variable, in order.
- EntropySGD: per inner step, one normal tensor per selected variable.
- DynamicSparseSAM: at step 0 the scores of the initial mask, at each refresh
  those of what is grown: one uniform vector with an entry per selected weight;
  structured, with an entry per selected variable.
"""

from tests.twins.bench import Bench, cross_entropies, train
from tests.twins.draws import Draws
from tests.twins.gradients import ASAM, GNP, GSAM, SAM, WSAM, StableSAM
from tests.twins.memories import (
    AsyncSAM,
    FriendlySAM,
    MomentumSAM,
    SAMPa,
    VaSSO,
)
from tests.twins.passes import AMP, GAM, EntropySGD, SmoothOut
from tests.twins.reuse import AESAM, AELookSAM, LookSAM
from tests.twins.samples import AUSAM, ESAM, KSAM
from tests.twins.sparse import DynamicSparseSAM, FisherSparseSAM
from tests.twins.variables import SLSAM
from tests.twins.weighted import BiSAM, DeltaSAM, ImbSAM

TWINS = {
    "sam": SAM,
    "gnp": GNP,
    "asam": ASAM,
    "gsam": GSAM,
    "stable_sam": StableSAM,
    "sampa": SAMPa,
    "fisher_sparse_sam": FisherSparseSAM,
    "dynamic_sparse_sam": DynamicSparseSAM,
    "esam": ESAM,
    "look_sam": LookSAM,
    "aesam": AESAM,
    "ae_look_sam": AELookSAM,
    "ksam": KSAM,
    "ausam": AUSAM,
    "friendly_sam": FriendlySAM,
    "bisam": BiSAM,
    "gam": GAM,
    "amp": AMP,
    "imbsam": ImbSAM,
    "delta_sam": DeltaSAM,
    "smooth_out": SmoothOut,
    "entropy_sgd": EntropySGD,
    "slsam": SLSAM,
    "momentum_sam": MomentumSAM,
    "vasso": VaSSO,
    "wsam": WSAM,
    "async_sam": AsyncSAM,
}

__all__ = ["TWINS", "Bench", "Draws", "cross_entropies", "train"]
