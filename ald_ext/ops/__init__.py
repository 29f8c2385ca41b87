"""The ops: typed functions over ``torch.ops.ald_ext``, which also work under autograd and torch.compile.

CPU and CUDA tensors run compiled kernels (csrc/), of float32 and float64, the steps of 16-bit types too; tensors of
other devices run :mod:`ald_ext.reference`, and so do functions of any tensors inside of transforms of torch.func and
forward-mode AD, where steps in place are refused. An op that refuses its arguments raises a RuntimeError that names the
op, the argument, what was got and what was expected; nothing has changed then. The notes below are the one full
statement of what a step computes; other docstrings refer to them.

Note [The update equation]
    For a loss that is the potential per datum, L = U/N (the usual mean loss), and g = ∇L + weight_decay·θ:

        v ← αv + (1-α)g²,      G = 1/(√v + λ)      (SGLD: G = 1)
        θ ← θ - lr·G·g + √(2·lr·T·G/N) ξ,      ξ ~ N(0, I)

    ``num_data`` = N, ``temperature`` = T, ``eps`` = λ, ``alpha`` = α. With small lr the iterates sample exp(-U(θ)/T). A
    loss that is U itself (a sum) takes ``num_data=1``. ``maximize`` ascends: g = -∇L + weight_decay·θ.
    Paper: Eqs. (6), (7), (9); preconditioner of Li et al. 2016.

Note [The underdamped update]
    SGHMC, for the same L and g, with momenta p, h = √lr and μ = ``momentum``:

        p ← p - h·g                              (B)
        θ ← θ + (h/2)·p                          (A/2)
        p ← μ·p + √((1-μ²)·T/N) ξ                (O),      ξ ~ N(0, I)
        θ ← θ + (h/2)·p                          (A/2)

    Underdamped Langevin dynamics split as BAOAB (Leimkuhler & Matthews 2013), with one gradient a step: the half kicks
    that end a step and begin the next see the same θ, and are made one ("leapfrog-middle", Zhang et al. 2019). With
    lr = 0 no time goes by, and p stays as it is.

Note [The thermostat]
    SGNHT is the underdamped update with an excess friction x for each element, a = ``diffusion`` and μ = exp(-a); step
    O becomes

        x ← x + (a²/8)·(p²·N/T - 1)
        p ← exp(-x/2)·p
        p ← μ·p + √((1-μ²)·T/N) ξ                (O)
        p ← exp(-x/2)·p
        x ← x + (a²/8)·(p²·N/T - 1)

    The friction of a step is a + x. It grows where p is hotter than T/N, as noise in g makes it. Without noise
    x ~ N(0, a²/4), independent of θ and p. Ding et al. 2014, with a thermostat for each element and split as BADODAB
    (Leimkuhler & Shang 2016). With T = 0 x stays as it is, with lr = 0 p too.

Note [Anchors]
    A step with a ``localization`` γ > 0 pulls each parameter towards an anchor θ₀ of its own:

        g = ∇L + weight_decay·θ + (γ/N)(θ - θ₀)

    in the place of g. That is a Gaussian prior around θ₀, of precision γ/T where temperature = T and N·weight_decay/T
    is that of weight decay. The ops ``sgld_anchored_step_``, ``psgld_anchored_step_``, ``sghmc_anchored_step_`` and
    ``sgnht_anchored_step_`` take the anchors as the last of their lists and ``localization`` as the last of their own
    settings (:func:`run_step`); optimizers call them where ``localization`` is not 0. With T = 0 it is L2-SP (Li et
    al. 2018), a penalty on the distance from where fine-tuning begins.

Note [Noise]
    ξ for element i of parameter k at step t is a pure function of (seed, t, k, i): Philox4x32-7 keyed by the seed,
    with counter (i, k, t). Elements count in memory order, which is the usual order for a contiguous tensor. Nothing
    depends on threads, devices, how a tensor is split (``offset``), or a generator's state.
"""

from .dequantization import dequantized_log_prob, langevin_dequantize, quantize
from .latent import index_by_content, latent_langevin_step_, latent_normal, latent_underdamped_step_
from .library import KERNEL_DEVICES as KERNEL_DEVICES
from .library import PARAMETER_DTYPES as PARAMETER_DTYPES
from .library import cuda_failure as cuda_failure
from .library import has_kernel as has_kernel
from .likelihood import PrecisionPrior, marginal_gaussian_log_prob
from .likelihood import prior_shape_and_rate as prior_shape_and_rate
from .noise import draw_seed as draw_seed
from .noise import fused_normal as fused_normal
from .noise import normal, philox
from .steps import NEVER as NEVER
from .steps import accepts_step as accepts_step
from .steps import in_order as in_order
from .steps import psgld_step_, sghmc_step_, sgld_step_
from .steps import run_step as run_step

__all__ = [
    "PrecisionPrior",
    "dequantized_log_prob",
    "index_by_content",
    "langevin_dequantize",
    "latent_langevin_step_",
    "latent_normal",
    "latent_underdamped_step_",
    "marginal_gaussian_log_prob",
    "normal",
    "philox",
    "psgld_step_",
    "quantize",
    "sghmc_step_",
    "sgld_step_",
]
