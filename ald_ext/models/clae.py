"""The contrastive Langevin autoencoder (paper: Section 5, Algorithm 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from ..settings import setting
from .adaptive_langevin import AdaptiveLangevin, PersistentChains
from .config import ModelConfig
from .lae import LAEConfig, SampledByLangevin, scale_to_spread, spread
from .likelihoods import at_least_float32
from .networks import MLP


@dataclass(frozen=True)
class CLAEConfig(LAEConfig):
    """Settings of a contrastive Langevin autoencoder.

    Args:
        energy_units: hidden units of the energy f_z and of the sampler f_z|u.
        energy_layers: hidden layers of the energy f_z and of the sampler f_z|u.
        sampler_inputs: dimension d_u of the sampler's inputs, and so of the surface on which its states lie; the paper
            has 8.
        chains: number k of fixed inputs u, or of chains; None stands for the number n of data.
        tilt: True for p(z) ∝ exp(-f_z(z)) N(z; 0, I), which can always be normalized; False for p(z) ∝ exp(-f_z(z)),
            the paper's; None for a tilt with Langevin dynamics only. An f_z of tanh is bounded, so chains without a
            tilt wander off for ever; the amortized sampler stays near the data, where training lowers the energy.
        prior_sampler: "amortized" for f_z|u of k fixed inputs, whose noise has the temperature n/k (Eq. 15);
            "generator" for its limit k → ∞, which is a GAN's generator: inputs are drawn anew in each step, and there
            is no noise (Appendix E); "langevin" for Langevin dynamics of k chains (Eq. 14).
        prior_steps: steps of the Langevin dynamics of the prior for each minibatch.
        prior_step_size: step size of the Langevin dynamics of the prior.
        energy_smoothness: γ of the prior on f_z, which adds (γ/2) (‖∇f_z(z)‖² + ‖∇f_z(z⁻)‖²) / 2 to the loss. With 0,
            the paper's form, the energy finds ever steeper ways to tell z from z⁻, and energies and sampler run away
            from each other (Mescheder et al. 2018 show it for GANs).
        spectral_normalization: divide each weight matrix of f_z by its largest singular value (Miyato et al. 2018), so
            that f_z is no steeper than 1 anywhere; goes in the place of ``energy_smoothness``, or beside it.
    """

    energy_units: int = setting(128, at_least=1)
    energy_layers: int = setting(2, at_least=0, at_most=1000)
    sampler_inputs: int = setting(32, at_least=1)
    chains: int | None = setting(None, at_least=1, at_most=2**24)
    tilt: bool | None = None
    prior_sampler: str = setting("amortized", choices=("amortized", "generator", "langevin"))
    prior_steps: int = setting(5, at_least=1)
    prior_step_size: float = setting(0.05, above=0)
    energy_smoothness: float = setting(0.3, at_least=0)
    spectral_normalization: bool = False

    @property
    def is_tilted(self) -> bool:
        """Whether N(0, I) is a factor of p(z)."""
        return self.prior_sampler == "langevin" if self.tilt is None else self.tilt

    @property
    def num_chains(self) -> int:
        """The number k of chains. ValueError if neither it nor the number of data is given."""
        if self.num_data is None and self.chains is None:
            self._require("num_data", False, "it, or chains, to be given")
        return self.chains or self.num_data or 0


class CLAE(SampledByLangevin):
    """An LAE whose prior is an energy-based model p(z) ∝ exp(-E(z)), sampled by amortized Langevin dynamics.

    E(z) = f_z(z), plus ‖z‖²/2 with the tilt. The loss of a minibatch is the mean of (Eq. 17)

        -log p(x | z) + E(z) - E(z⁻),      z = f_z|x(x),      z⁻ = f_z|u(u)

    plus the term of ``energy_smoothness``. Encoder, decoder and energy lower it; the sampler f_z|u, whose samples
    should have low energy, raises it (Eqs. 15, 17). One optimizer does both, because the gradient's sign is reversed
    between f_z|u and E. :class:`ald_ext.PSGLD` with ``num_data`` = n moves all of them. The potential of f_z|u is the
    sum of E over its k chains, so :meth:`parameter_groups` gives it the temperature n/k: 1 where k = n, 0 where k → ∞.

    The score is the pseudo potential -log p(x | z) + E(z): as p(z) ∝ exp(-E(z)), the energy's sign in Eq. 18 is a
    misprint.

    ``diagnostics`` holds the mean energies of data and sampler, their gap (data minus sampler), and the spreads
    (standard deviation over a minibatch, averaged over coordinates) of z and z⁻. At equilibrium the gap is near 0, and
    the spreads agree.
    """

    name: ClassVar = "clae"
    config_class: ClassVar[type[ModelConfig]] = CLAEConfig
    divergence_remedies: ClassVar = ("the tilt",)
    config: CLAEConfig
    inputs: Tensor

    def __init__(self, config: ModelConfig | None = None, **options: Any) -> None:
        super().__init__(config, **options)
        settings = self.config
        hidden = (settings.energy_units, settings.energy_layers)
        self.energy_network = MLP(settings.latent_dim, 1, *hidden)
        if settings.spectral_normalization:
            for layer in self.energy_network:
                if isinstance(layer, nn.Linear):
                    spectral_norm(layer)
        if settings.prior_sampler != "langevin":
            self.sampler = MLP(settings.sampler_inputs, settings.latent_dim, *hidden)
        if settings.prior_sampler == "amortized":
            self.register_buffer("inputs", torch.randn(settings.num_chains, settings.sampler_inputs))
        elif settings.prior_sampler == "langevin":
            dynamics = AdaptiveLangevin(settings.prior_step_size, target_acceptance=None)
            self.prior_chains = PersistentChains(settings.num_chains, settings.latent_dim, dynamics)
            self.why_not_captured = "its prior's Langevin steps are counted on the host"  # type: ignore[misc]

    def energy(self, z: Tensor) -> Tensor:
        """Return the energy E(z), (N, d_z) -> (N,)."""
        energy = self.energy_network(z).squeeze(1)
        return energy + z.square().sum(1) / 2 if self.config.is_tilted else energy

    def log_prior(self, z: Tensor) -> Tensor:
        """Return -E(z), which is log p(z) up to an unknown constant, (N, d_z) -> (N,)."""
        return -self.energy(z)

    def prior_states(self, chains: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return z⁻ of some chains, (m,) -> (m, d_z): f_z|u of their inputs, or their current Langevin states.

        A generator has no chains: it gives as many new draws.
        """
        if self.config.prior_sampler == "langevin":
            return self.prior_chains.z[chains]
        return at_least_float32(self.sampler(self._sampler_inputs(chains, generator)))

    def _sampler_inputs(self, chains: Tensor, generator: torch.Generator | None = None) -> Tensor:
        if self.config.prior_sampler == "amortized":
            return self.inputs[chains]
        like = next(self.sampler.parameters())
        size = len(chains), self.config.sampler_inputs
        return torch.randn(size, generator=generator, device=like.device, dtype=like.dtype)

    def loss(self, x: Tensor, index: Tensor | None = None) -> Tensor:
        """Return Eq. 17 of a minibatch; ``index`` names its chains where each datum has one, else they are drawn."""
        z = self.encode(x)
        energy = self.energy(z)
        if self.config.prior_sampler == "generator":
            index = torch.arange(len(x), device=x.device)
        elif index is None or self.config.num_chains != self.config.num_data:
            index = torch.randint(self.config.num_chains, (len(x),), device=x.device)
        negative = self._negative_samples(index)
        negative_energy = self.energy(negative)
        likelihood = self.negative_log_likelihood(x, z)
        with torch.no_grad():
            self.diagnostics = {
                "energy_data": energy.mean(),
                "energy_sampler": negative_energy.mean(),
                "energy_gap": energy.mean() - negative_energy.mean(),
                "spread_data": spread(z),
                "spread_sampler": spread(negative),
            }
        loss = (likelihood + energy).mean() - negative_energy.mean()
        smoothness = self.config.energy_smoothness
        return loss + smoothness / 2 * self.steepness(torch.cat([z, negative])) if smoothness else loss

    def steepness(self, z: Tensor) -> Tensor:
        """Return the mean of ‖∇f_z(z)‖², differentiable in the energy's parameters and not in z."""
        return at_least_float32(self.energy_network.input_gradient(z.detach())).square().sum(1).mean()

    def _negative_samples(self, chains: Tensor) -> Tensor:
        if self.config.prior_sampler != "langevin":
            z = self.prior_states(chains)
            return 2 * z.detach() - z  # z to the last bit, with the gradient of -z
        return self.prior_chains.advance(lambda _, z: self.energy(z), None, chains, self.config.prior_steps)

    def sample_prior(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Return states of ``count`` chains drawn at random, without replacement as long as there are enough.

        A generator's inputs are drawn anew.
        """
        device = next(self.parameters()).device
        if self.config.prior_sampler == "generator":
            return self.prior_states(torch.arange(count, device=device), generator)
        chains = self.config.num_chains
        order = [torch.randperm(chains, generator=generator, device=device) for _ in range(-(-count // chains))]
        return self.prior_states(torch.cat(order)[:count])

    def initialize(self, x: Tensor) -> None:
        super().initialize(x)
        if self.config.prior_sampler != "langevin":
            amortized = self.config.prior_sampler == "amortized"
            inputs = self.inputs[: len(x)] if amortized else self._sampler_inputs(torch.arange(len(x), device=x.device))
            scale_to_spread(self.sampler, inputs, self.config.initial_spread)

    def parameter_groups(self, num_data: int) -> list[dict[str, Any]]:
        """Return groups as of an LAE, with f_z|u apart at the temperature n/k, or 0 for a generator, where it is not 1.

        Eq. 15 adds the noise √(2η) ξ to -η Σ_i ∇E(f_z|u(u_i)), a sum over k inputs. A step of lr along the gradient of
        their mean has η = lr/k, and so noise of variance 2 lr/k, which is n/k times the optimizer's 2 lr/n.
        """
        groups, config = super().parameter_groups(num_data), self.config
        if config.prior_sampler == "langevin":
            return groups
        temperature = 0.0 if config.prior_sampler == "generator" else num_data / config.num_chains
        sampler = {id(parameter) for parameter in self.sampler.parameters()} if temperature != 1 else set()
        for place, group in reversed([*enumerate(groups)]):
            if params := [parameter for parameter in group["params"] if id(parameter) in sampler]:
                group["params"] = [parameter for parameter in group["params"] if id(parameter) not in sampler]
                groups.insert(place + 1, {**group, "params": params, "temperature": temperature})
        return groups
