"""Samplers of latent variables; :mod:`ald_ext.samplers.potential` says what potentials, sums and means are."""

from .adaptation import warm_up
from .amortized import AmortizedLangevin, sampler_from_encoder
from .captured import CapturedPotential
from .chains import chains_of_rank, gather_chains, load_chains, save_chains
from .check import CheckReport, CheckRun, check_optimizer, check_sampler
from .collection import Collector, Sampler, SampleStorage, Sink, collect
from .datapoint import DatapointSampler
from .diagnostics import (
    TemperatureEstimate,
    configurational_temperature,
    effective_sample_size,
    exact_laplacian,
    hutchinson_laplacian,
    monte_carlo_standard_error,
    potential_gradient,
    r_hat,
    summarize,
    virial_temperature,
)
from .dynamic_hmc import DynamicHMC
from .export import save_netcdf, to_inference_data
from .features import RandomFourierFeatures, WhitenedFeatures, tanh_network
from .hmc import HMC, MALA
from .langevin import LangevinDynamics, UnderdampedLangevin
from .last_layer import LastLayerALD, LastLayerSGALD
from .metropolis import MetropolisSampler
from .posterior import Posterior, sample
from .potential import (
    GaussianPotential,
    LinearGaussianPotential,
    Potential,
    posterior_potential,
    potential_and_gradient,
    prior_potential,
)
from .residual import ResidualALD
from .streaming import StreamingMoments
from .transforms import TransformedPotential
from .variational import GaussianEncoder, fit_variational, negative_elbo

__all__ = [
    "HMC",
    "MALA",
    "AmortizedLangevin",
    "CapturedPotential",
    "CheckReport",
    "CheckRun",
    "Collector",
    "DatapointSampler",
    "DynamicHMC",
    "GaussianEncoder",
    "GaussianPotential",
    "LangevinDynamics",
    "LastLayerALD",
    "LastLayerSGALD",
    "LinearGaussianPotential",
    "MetropolisSampler",
    "Posterior",
    "Potential",
    "RandomFourierFeatures",
    "ResidualALD",
    "SampleStorage",
    "Sampler",
    "Sink",
    "StreamingMoments",
    "TemperatureEstimate",
    "TransformedPotential",
    "UnderdampedLangevin",
    "WhitenedFeatures",
    "chains_of_rank",
    "check_optimizer",
    "check_sampler",
    "collect",
    "configurational_temperature",
    "effective_sample_size",
    "exact_laplacian",
    "fit_variational",
    "gather_chains",
    "hutchinson_laplacian",
    "load_chains",
    "monte_carlo_standard_error",
    "negative_elbo",
    "posterior_potential",
    "potential_and_gradient",
    "potential_gradient",
    "prior_potential",
    "r_hat",
    "sample",
    "sampler_from_encoder",
    "save_chains",
    "save_netcdf",
    "summarize",
    "tanh_network",
    "to_inference_data",
    "virial_temperature",
    "warm_up",
]
