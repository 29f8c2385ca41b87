"""The models' potentials, losses, shapes and options."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Laplace, Normal

import ald_ext
from ald_ext import ops
from ald_ext.dequantization import scale_pixels
from ald_ext.models import (
    ABP,
    AE,
    CLAE,
    DLGM,
    LAE,
    MODELS,
    VAE,
    LatentVariableModel,
    ModelConfig,
    ParameterEnsemble,
    SparseAE,
    load_model,
    save_model,
)
from ald_ext.models.adaptive_langevin import ADAPTATION_RATE, AdaptiveLangevin
from ald_ext.models.lae import leverage_temperature, scale_to_spread
from ald_ext.samplers import MALA, GaussianPotential

NUM_DATA = 20


def make_images(count: int = 4, channels: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, channels, 32, 32), dtype=torch.uint8, generator=generator)


@pytest.fixture
def images() -> Tensor:
    return make_images()


def make_model(name: str, **options) -> LatentVariableModel:
    torch.manual_seed(0)
    return MODELS[name](**{"latent_dim": 5, "width": 4, "num_data": NUM_DATA, **options})


def index_of(x: Tensor) -> Tensor:
    return torch.arange(len(x)) + 3


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


# --- all models ---


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dequantization", ["none", "uniform", "langevin"])
def test_shapes_and_gradients(name, channels, dequantization):
    model = make_model(name, shape=(channels, 32, 32), dequantization=dequantization)
    x = make_images(3, channels)
    assert model.encode(x).shape == (3, 5)
    reconstruction = model.reconstruct(x)
    assert reconstruction.shape == x.shape
    assert 0 <= reconstruction.min() <= reconstruction.max() <= 1
    assert model.score(x).shape == model.reconstruction_error(x).shape == (3,)
    assert model.infer(x, 2).shape == (3, 5)
    assert model.interpolate(x[:1], x[1:2], 4).shape == (1, 4, channels, 32, 32)
    model.loss(x, index_of(x)).backward()
    missing = [key for key, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []


@pytest.mark.parametrize("name", MODELS)
def test_forward_is_the_loss_so_that_wrappers_can_call_it(name):
    x = make_images(3)
    expected = make_model(name).loss(x, index_of(x))
    assert torch.equal(make_model(name)(x, index=index_of(x)), expected)
    if name == "lae":
        compiled = torch.compile(make_model(name), backend="aot_eager")(x)
        torch.testing.assert_close(compiled, expected)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "options", [{}, {"likelihood": "gaussian", "learned_scale": True}, {"likelihood": "bernoulli"}]
)
def test_likelihoods_and_mlps(name, options):
    model = make_model(name, network="mlp", hidden_units=6, shape=(3, 8, 6), **options)
    x = torch.randint(0, 256, (4, 3, 8, 6), dtype=torch.uint8)
    loss = model.loss(x, index_of(x))
    loss.backward()
    assert loss.isfinite()
    assert model.reconstruct(x).shape == x.shape


@pytest.mark.parametrize("name", MODELS)
def test_real_data(name):
    model = make_model(name, network="mlp", hidden_units=6, shape=(7,), data="real")
    x = torch.randn(4, 7)
    model.loss(x, index_of(x)).backward()
    assert torch.equal(model.to_brightness(x), x)
    torch.testing.assert_close(model.reconstruct(x), model.decoder(model.encode(x)))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in MODELS),
        *((name, options) for name in ("lae", "clae") for options in ({"encoder_temperature": 3}, {"prior_eps": 0.1})),
    ],
)
def test_every_parameter_is_in_one_group(name, options):
    model = make_model(name, **options)
    groups = model.parameter_groups(NUM_DATA)
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters() if parameter.requires_grad)


@pytest.mark.parametrize("name", [name for name in MODELS if MODELS[name].encoder_outputs])
def test_networks_of_ones_own(name, images):
    class Own(nn.Module):
        def __init__(self, inputs: int, shape: tuple[int, ...]) -> None:
            super().__init__()
            self.linear, self.shape = nn.Linear(inputs, math.prod(shape)), shape

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x.flatten(1)).view(-1, *self.shape)

    outputs = MODELS[name].encoder_outputs * 5
    model = make_model(name, encoder=Own(1024, (outputs,)), decoder=Own(5, (1, 32, 32)))
    model.loss(images, index_of(images)).backward()
    assert model.reconstruct(images).shape == images.shape
    assert not any(isinstance(module, nn.Conv2d) for module in model.modules())


@pytest.mark.parametrize("name", MODELS)
def test_files_keep_a_model(name, images, tmp_path):
    model = make_model(name, dequantization="langevin")
    save_model(model, tmp_path / "model.pt")
    torch.manual_seed(7)
    loaded = load_model(tmp_path / "model.pt")
    assert type(loaded) is type(model)
    assert loaded.config == model.config
    assert torch.equal(loaded.reconstruct(images), model.reconstruct(images))


def test_files_of_models_with_other_networks_say_so(tmp_path):
    save_model(AE(latent_dim=5, width=4, encoder=nn.Sequential(nn.Flatten(), nn.Linear(1024, 5))), tmp_path / "m.pt")
    with pytest.raises(ValueError, match="with encoder of its own, expected load_model\\(path, encoder=…\\)"):
        load_model(tmp_path / "m.pt")
    loaded = load_model(tmp_path / "m.pt", encoder=nn.Sequential(nn.Flatten(), nn.Linear(1024, 5)))
    assert loaded.encode(make_images()).shape == (4, 5)


@pytest.mark.parametrize("name", [name for name in MODELS if MODELS[name].has_prior])
def test_samples_are_a_function_of_the_generator(name):
    model = make_model(name)
    first = model.sample(6, torch.Generator().manual_seed(3))
    assert first.shape == (6, 1, 32, 32)
    assert torch.equal(first, model.sample(6, torch.Generator().manual_seed(3)))
    assert not torch.equal(first, model.sample(6, torch.Generator().manual_seed(4)))


@pytest.mark.parametrize("model", [AE, SparseAE])
def test_an_autoencoder_has_nothing_to_sample(model):
    with pytest.raises(ValueError, match="has no prior to sample"):
        model(latent_dim=5, width=4).sample(3)


@pytest.mark.parametrize("name", MODELS)
def test_16_bit_networks_give_losses_in_32_bits(name, images):
    model = make_model(name)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss(images, index_of(images))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, make_model(name).loss(images, index_of(images)), rtol=0.05, atol=1.0)


@pytest.mark.parametrize("name", MODELS)
def test_brightness_is_seen_as_the_pixels_are(name, images):
    model = make_model(name)
    torch.testing.assert_close(model.reconstruct(images / 255), model.reconstruct(images), rtol=1e-4, atol=1e-5)


# --- LAE and AE ---


def test_lae_potential_is_prior_plus_likelihood(images):
    model = make_model("lae", precision_prior="jeffreys")
    z = model.encoder(scale_pixels(images))
    likelihood = ops.marginal_gaussian_log_prob(scale_pixels(images), model.decoder(z), "jeffreys")
    prior = Normal(0.0, 1.0).log_prob(z).sum(1)
    torch.testing.assert_close(model.potential(images), -likelihood - prior)
    torch.testing.assert_close(model.potential(images, z), -likelihood - prior)
    torch.testing.assert_close(model.observed_potential(model.observe(images), z), -likelihood - prior)
    torch.testing.assert_close(model.loss(images), model.potential(images).mean())
    torch.testing.assert_close(model.score(images), model.potential(images))


def test_ae_is_the_lae_without_prior(images):
    lae, ae = make_model("lae"), make_model("ae")
    ae.load_state_dict({k: v for k, v in lae.state_dict().items() if not k.startswith("prior")})
    # Two float32 losses near 1e3, whose rounding is 6e-5, are subtracted.
    difference = lae.loss(images) - ae.loss(images)
    torch.testing.assert_close(difference, -lae.prior.log_prob(lae.encode(images)).mean(), atol=1e-3, rtol=1e-4)


def test_sparse_prior_is_a_laplace_up_to_its_constant(images):
    model = make_model("sparse-ae", sparsity=2.0)
    z = model.encode(images)
    expected = Laplace(0.0, 0.5).log_prob(z).sum(1) - 5 * math.log(2 / 2)
    torch.testing.assert_close(model.log_prior(z), expected)
    assert make_model("ae").config.sparsity == 0 < make_model("sparse-ae").config.sparsity


@pytest.mark.parametrize(
    ("inference", "temperature", "decay"), [("bayes", None, 1 / 80), ("map", 0.0, 1 / 80), ("mle", 0.0, None)]
)
@pytest.mark.parametrize("name", ["lae", "clae"])
def test_the_decoder_is_sampled_or_optimized(name, inference, temperature, decay):
    model = make_model(name, decoder_inference=inference, decoder_prior_scale=2.0)
    others, decoder = model.parameter_groups(NUM_DATA)
    assert {id(p) for p in decoder["params"]} == {id(p) for p in model.decoder.parameters()}
    assert (decoder.get("temperature"), decoder.get("weight_decay")) == (temperature, decay)
    assert set(others) == {"params"}


@pytest.mark.parametrize("name", ["lae", "clae"])
@pytest.mark.parametrize(("given", "expected"), [(3.0, 3.0), (0.0, 0.0), (None, 1000 / 64)])
def test_temperature_of_the_encoder(name, given, expected):
    """None: 1,000 data and the 4 x 4 x 4 inputs of the last convolution."""
    model = make_model(name, encoder_temperature=given, num_data=1000)
    others, encoder, decoder = model.parameter_groups(1000)
    assert encoder["temperature"] == expected
    assert {id(p) for p in encoder["params"]} == {id(p) for p in model.encoder.parameters()}
    assert "temperature" not in others | decoder


@pytest.mark.parametrize(("name", "modules"), [("lae", ["prior"]), ("clae", ["energy_network", "sampler"])])
def test_the_prior_may_have_an_eps_of_its_own(name, modules):
    model = make_model(name, prior_eps=0.02)
    others, prior, decoder = model.parameter_groups(NUM_DATA)
    assert (prior["eps"], prior["momentum"]) == (0.02, 0.0)
    expected = {id(p) for module in modules for p in getattr(model, module).parameters()}
    assert {id(p) for p in prior["params"]} == expected
    assert not {"eps", "momentum"} & set(others | decoder)


@pytest.mark.parametrize("name", ["lae", "clae"])
def test_training_may_begin_with_a_given_spread(name, images):
    def spread(z: Tensor) -> float:
        return z.std(0, correction=0).mean().item()

    model = make_model(name, initial_spread=2.0)
    before, direction = spread(model.encode(images)), model.encode(images)
    model.initialize(images)
    assert before < 1 < spread(model.encode(images)) == pytest.approx(2, rel=1e-4)
    torch.testing.assert_close(model.encode(images), direction * (2 / before), rtol=1e-4, atol=1e-5)
    if name == "clae":
        assert spread(model.prior_states(torch.arange(len(images)))) == pytest.approx(2, rel=1e-4)
    model.initialize(images[:1])  # all the same z: nothing to scale by
    assert spread(model.encode(images)) == pytest.approx(2, rel=1e-4)
    unscaled = make_model(name)
    unscaled.initialize(images)
    torch.testing.assert_close(unscaled.encode(images), direction)


def test_only_networks_with_a_linear_layer_can_be_scaled():
    with pytest.raises(ValueError, match="initial_spread: network: got Tanh, expected a linear or Conv2d layer"):
        scale_to_spread(nn.Tanh(), torch.arange(4.0).view(2, 2), 2.0)


def test_few_data_leave_the_temperature_alone():
    assert leverage_temperature(make_model("lae").encoder, 60) == 1
    assert leverage_temperature(nn.Flatten(), 60) == 1
    assert len(make_model("lae", encoder_temperature=None).parameter_groups(60)) == 2


def test_leverage_temperature_restores_the_variance_of_a_linear_encoder():
    """z_i = w g_i under U_i = (z_i - c_i)²/2, whose posterior has variance 1: on average over data 1 at n/p, p/n at 1.

    SGLD of exact gradients; with step size h a mode of curvature k has 1/(1 - h k/2) times its variance. Chains are
    rows of the weight. The mean over n data of squared deviations is T/n times a sum over p modes, so its standard
    error over m samples that are independent is √(2/(p m)) of it.
    """
    torch.manual_seed(0)
    num_data, features, chains, draws, thinning = 60, 4, 200, 40, 60
    g = torch.linalg.qr(torch.randn(num_data, features, dtype=torch.float64))[0] * num_data**0.5
    encoder = nn.Linear(features, chains, bias=False, dtype=torch.float64)
    targets = torch.randn(num_data, dtype=torch.float64)
    best = torch.linalg.lstsq(g, targets[:, None]).solution[:, 0]
    step_size = 0.1  # of the mean potential, whose curvature is 1 in every direction
    temperature = leverage_temperature(encoder, num_data)
    assert temperature == num_data / features
    optimizer = ald_ext.SGLD(encoder.parameters(), step_size, num_data=num_data, temperature=temperature, seed=0)
    squares = []
    for step in range(thinning * (draws + 1)):
        encoder.weight.grad = (encoder.weight.detach() @ g.T - targets) @ g / num_data
        optimizer.step()
        if step >= thinning and step % thinning == 0:
            squares.append(((encoder.weight.detach() - best) @ g.T).square().mean())
    variance = torch.stack(squares).mean().item() * (1 - step_size / 2)
    assert abs(variance - 1) < 5 * (2 / (features * chains * len(squares))) ** 0.5


def test_noise_reaches_the_sampled_parameters_only(images):
    """Zero gradients leave the noise alone: with MLE the decoder stays where it is, the encoder does not."""
    model = make_model("lae", decoder_inference="mle")
    optimizer = ald_ext.PSGLD(model.parameter_groups(NUM_DATA), 1e-3, num_data=NUM_DATA, seed=0)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    moved = {name.split(".")[0] for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"encoder", "prior"}


def test_decoder_prior_is_that_of_the_whole_potential(images):
    """n times the mean potential's gradient, with weight decay, is the gradient of Σ U_i - log p(θ)."""
    model = make_model("lae", decoder_prior_scale=0.5)
    group = model.parameter_groups(NUM_DATA)[1]
    weight = next(model.decoder.parameters())
    by_decay = NUM_DATA * group["weight_decay"] * weight
    log_prior = Normal(0.0, 0.5).log_prob(weight).sum()
    (by_prior,) = torch.autograd.grad(-log_prior, weight)
    torch.testing.assert_close(by_decay, by_prior)


# --- VAE and DLGM ---


def test_vae_bound_is_the_expected_potential_plus_divergence(images):
    model = make_model("vae")
    posterior = model.posterior(images)
    torch.manual_seed(1)
    z = posterior.mean + posterior.stddev * torch.randn(posterior.mean.shape)
    divergence = 0.5 * (posterior.variance + posterior.mean**2 - 1 - posterior.variance.log()).sum(1)
    expected = model.negative_log_likelihood(images, z) + divergence
    torch.manual_seed(1)
    torch.testing.assert_close(model.loss(images), expected.mean())
    torch.manual_seed(1)
    torch.testing.assert_close(model.negative_elbo(images), expected)
    noise = [ops.latent_normal(model.noise_index(images), z.shape[1], seed=5, step=step) for step in (1, 2)]
    expected = sum(model.negative_elbo(images, of_sample) for of_sample in noise) / 2
    torch.testing.assert_close(model.score(images, num_samples=2, seed=5), expected)


def test_dlgm_encoder_has_the_gradient_of_the_elbo_and_decoder_that_of_the_final_z(images):
    model = make_model("dlgm")
    torch.manual_seed(1)
    model.loss(images, index_of(images)).backward()
    found = gradients(model)
    # The encoder's: of -ELBO with the same draw.
    model.zero_grad()
    torch.manual_seed(1)
    posterior = model.posterior(images)
    z = posterior.mean + posterior.stddev * torch.randn_like(posterior.mean)
    entropy = posterior.entropy().sum(1)
    (model.potential(images, z) - entropy).mean().backward()
    for name, gradient in gradients(model).items():
        if name.startswith("encoder"):
            torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5)
    # The decoder's: of the potential at the z that MALA ends at, from the same start with the same noise.
    again = make_model("dlgm")
    model.zero_grad()
    final = again.dynamics.move(again.observed_potential, again.observe(images), z.detach(), index_of(images), 5)
    model.potential(images, final).mean().backward()
    for name, gradient in gradients(model).items():
        if not name.startswith("encoder"):
            torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("start", "rises"), [(1e-6, True), (0.9, False)])
@pytest.mark.parametrize("name", ["abp", "dlgm"])
def test_step_size_follows_the_acceptance(name, start, rises, images):
    sharp = {"likelihood": "gaussian", "scale": 0.01}
    model = make_model(name, step_size=start, **sharp)
    model.loss(images, index_of(images))
    assert bool(model.diagnostics["step_size"] > start) is rises
    fixed = make_model(name, step_size=start, target_acceptance=None)
    fixed.loss(images, index_of(images))
    assert fixed.diagnostics["step_size"] == start


def test_adapted_step_size_has_the_acceptance_that_was_asked_for():
    """On a Gaussian: one step of MALA from the chains' states is accepted with probability 0.57, within 5 s.e."""
    potential = GaussianPotential(torch.zeros(20), torch.eye(20))
    dynamics = AdaptiveLangevin(0.1, 0.57, seed=0)
    z = torch.randn(200, 20, generator=torch.Generator().manual_seed(0))
    z = dynamics.move(potential, None, z, torch.arange(200), 600)
    accepted = []
    for seed in range(50):
        z = dynamics.move(potential, None, z, torch.arange(200), 1)  # one step does not adapt
        sampler = MALA(potential, None, z[:, None], step_size=float(dynamics.step_size), seed=seed)
        sampler.step()
        accepted.append(sampler.acceptance_rate.mean().item())
    standard_error = math.sqrt(0.57 * 0.43 / 200 * (1 / 50 + ADAPTATION_RATE))  # of the mean, and of the adapted size
    assert abs(sum(accepted) / 50 - 0.57) < 5 * standard_error


# --- ABP ---


def test_abp_moves_the_chains_of_its_minibatch_only(images):
    model = make_model("abp")
    before, index = model.chains.z.clone(), index_of(images)
    model.loss(images, index)
    others = torch.ones(NUM_DATA, dtype=torch.bool)
    others[index] = False
    assert torch.equal(model.chains.z[others], before[others])
    assert (model.chains.z[index] != before[index]).all()


def test_abp_takes_the_langevin_steps_of_its_equation(images):
    model = make_model("abp", langevin_steps=3, step_size=0.01, target_acceptance=None)
    index, seed = index_of(images), int(model.chains.dynamics.seed)
    z = model.chains.z[index].clone()
    for step in (1, 2, 3):
        z.requires_grad_()
        (gradient,) = torch.autograd.grad(model.potential(images, z).sum(), z)
        noise = ops.latent_normal(index, 5, seed=seed, step=step)
        z = (z - 0.01 * gradient + math.sqrt(0.02) * noise).detach()
    loss = model.loss(images, index)
    torch.testing.assert_close(model.chains.z[index], z, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(loss, model.potential(images, z).mean(), rtol=1e-4, atol=1e-2)


def test_abp_noise_is_keyed_by_datum_not_by_place(images):
    first, second = make_model("abp"), make_model("abp")
    order = torch.tensor([2, 0, 3, 1])
    first.loss(images, index_of(images))
    second.loss(images[order], index_of(images)[order])
    torch.testing.assert_close(first.chains.z, second.chains.z, rtol=1e-4, atol=1e-4)


def test_abp_needs_to_know_its_data(images):
    with pytest.raises(ValueError, match="num_data: got None, expected the number of training data"):
        ABP(latent_dim=5, width=4)
    with pytest.raises(ValueError, match="index: got None"):
        make_model("abp").loss(images)


# --- CLAE ---


def test_clae_signs(images):
    """Eq. 17: encoder, decoder and energy descend L, the sampler ascends it: it descends E at its own samples."""
    model, index = make_model("clae", energy_smoothness=0.0), index_of(images)
    loss = model.loss(images, index)
    loss.backward()
    found = gradients(model)
    model.zero_grad()
    z, negative = model.encode(images), model.sampler(model.inputs[index])
    equation = (model.negative_log_likelihood(images, z) + model.energy(z) - model.energy(negative)).mean()
    torch.testing.assert_close(loss, equation)
    equation.backward()
    for name, gradient in gradients(model).items():
        sign = -1 if name.startswith("sampler") else 1
        torch.testing.assert_close(found[name], sign * gradient, rtol=1e-4, atol=1e-6)
    model.zero_grad()
    model.energy(model.sampler(model.inputs[index])).mean().backward()
    for name, gradient in gradients(model).items():
        if name.startswith("sampler"):
            torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


def test_clae_score_adds_the_energy(images):
    """The sign printed in Eq. 18 is wrong: p(z) ∝ exp(-E(z))."""
    model = make_model("clae")
    z = model.encode(images)
    torch.testing.assert_close(model.score(images), model.negative_log_likelihood(images, z) + model.energy(z))


def test_clae_smoothness_is_the_squared_gradient_of_the_energy(images):
    model, plain = make_model("clae", energy_smoothness=0.5), make_model("clae", energy_smoothness=0.0)
    index = index_of(images)
    z = torch.cat([model.encode(images), model.sampler(model.inputs[index])]).detach()
    gradient = torch.func.vmap(torch.func.grad(lambda point: model.energy_network(point)[0]))(z)
    penalty = 0.25 * gradient.square().sum(1).mean()
    difference = model.loss(images, index) - plain.loss(images, index)
    torch.testing.assert_close(difference, penalty, rtol=1e-2, atol=2e-4)  # of losses near 1e3
    model.steepness(z).backward()
    assert {name.split(".")[0] for name in gradients(model)} == {"energy_network"}


def test_the_tilt_is_half_the_squared_norm():
    tilted, plain = make_model("clae", tilt=True), make_model("clae")
    z = torch.randn(6, 5)
    torch.testing.assert_close(tilted.energy(z) - plain.energy(z), z.square().sum(1) / 2)


def test_clae_diagnostics(images):
    model, index = make_model("clae"), index_of(images)
    model.loss(images, index)
    z, negative = model.encode(images), model.sampler(model.inputs[index])
    expected = {
        "energy_data": model.energy(z).mean(),
        "energy_sampler": model.energy(negative).mean(),
        "energy_gap": model.energy(z).mean() - model.energy(negative).mean(),
        "spread_data": z.std(0, correction=0).mean(),
        "spread_sampler": negative.std(0, correction=0).mean(),
    }
    assert model.diagnostics.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(model.diagnostics[name], value.detach())


def test_plain_langevin_dynamics_sample_the_prior(images):
    """Eq. 14 on the tilt alone, N(0, I): the chains' moments, within 5 standard errors."""
    model = make_model("clae", prior_sampler="langevin", num_data=4000, prior_steps=200, prior_step_size=0.05)
    with torch.no_grad():
        for parameter in model.energy_network.parameters():
            parameter.zero_()
    chains = torch.arange(4000)
    z = model._negative_samples(chains)
    variance = 1 / (1 - 0.05 / 2)  # of Langevin dynamics with this step, on a unit Gaussian
    assert z.mean().abs() < 5 * math.sqrt(variance / z.numel())
    assert abs(z.square().mean() - variance) < 5 * variance * math.sqrt(2 / z.numel())
    assert torch.equal(model.prior_states(chains), z)


def test_other_numbers_of_chains(images):
    model = make_model("clae", chains=7)
    assert model.inputs.shape == (7, 32)
    negative_samples, seen = model._negative_samples, []
    model._negative_samples = lambda chains: seen.append(chains) or negative_samples(chains)
    many = images.repeat(40, 1, 1, 1)
    model.loss(many, index_of(many))
    assert seen[0].unique().tolist() == list(range(7))
    assert model.sample_prior(20).shape == (20, 5)  # more than there are chains
    states = model.sample_prior(7).unique(dim=0)
    assert len(states) == 7
    with pytest.raises(ValueError, match="num_data: got None, expected it, or chains"):
        CLAE(latent_dim=5, width=4)


@pytest.mark.parametrize("options", [{}, {"prior_eps": 0.1}, {"encoder_temperature": 3.0}])
@pytest.mark.parametrize(
    ("sampler", "temperature"),
    [({"chains": 7}, NUM_DATA / 7), ({"chains": 10 * NUM_DATA}, 0.1), ({"prior_sampler": "generator"}, 0.0)],
)
def test_temperature_of_the_sampler(sampler, temperature, options):
    """n/k, and 0 in the limit; for k = n, and all other parameters, the groups are those of every other model."""
    model, plain = make_model("clae", **sampler, **options), make_model("clae", chains=NUM_DATA, **options)
    groups, expected = ([options_of(group) for group in each.parameter_groups(NUM_DATA)] for each in (model, plain))
    as_lae = super(CLAE, plain).parameter_groups(NUM_DATA)
    assert plain.parameter_groups(NUM_DATA) == as_lae
    of_sampler = {id(parameter) for parameter in model.sampler.parameters()}
    (own,) = [group for group in model.parameter_groups(NUM_DATA) if {id(p) for p in group["params"]} & of_sampler]
    assert {id(parameter) for parameter in own["params"]} == of_sampler
    assert own["temperature"] == temperature
    assert own.get("eps") == options.get("prior_eps")
    groups.remove(options_of(own))
    assert groups == expected


def options_of(group):
    return {name: value for name, value in group.items() if name != "params"}


@pytest.mark.parametrize("chains", [3, 60, 240])
def test_the_noise_of_the_sampler_is_that_of_its_chains(chains):
    """z_i = W g_i under E(z) = ‖z‖²/2: W follows Eq. 15, and the variance of z is min(p, k)/k on average over chains.

    SGLD of the mean energy's gradient, whose curvatures are the eigenvalues h of Σ g_i g_iᵀ / k: a mode has the
    variance 1/(k h (1 - lr h/2)), of which z has h. Its average over chains and coordinates sums up p χ² variables, so
    that its standard error over m independent draws of d coordinates is √(2/(p m d)) of it.
    """
    torch.manual_seed(0)
    num_data, inputs, coordinates, draws, thinning = 60, 4, 100, 30, 30
    sizes = {"network": "mlp", "hidden_units": 2, "hidden_layers": 0, "shape": (2,), "data": "real"}
    options = {"chains": chains, "tilt": True, "energy_layers": 0, "sampler_inputs": inputs, "latent_dim": coordinates}
    model = CLAE(**sizes, **options, num_data=num_data).double()
    for parameter in model.energy_network.parameters():
        parameter.requires_grad_(False).zero_()
    g = torch.cat([model.inputs, torch.ones(chains, 1)], 1).double()
    curvatures = torch.linalg.eigvalsh(g.T @ g / chains).clamp_min(0)
    curvatures = curvatures[curvatures > 1e-9]
    lr = 0.5 / curvatures.max().item()
    groups = [group for group in model.parameter_groups(num_data) if group["params"]]
    optimizer = ald_ext.SGLD(groups, lr=lr, num_data=num_data, seed=1)
    squares = []
    for step in range((draws + 5) * thinning):
        optimizer.zero_grad()
        z = model.prior_states(torch.arange(chains))
        model.energy(z).mean().backward()
        if step >= 5 * thinning and step % thinning == 0:
            squares.append(z.detach().square().mean())
        optimizer.step()
    expected = (1 / (1 - lr * curvatures / 2)).sum() / chains
    error = expected * math.sqrt(2 / (len(curvatures) * draws * coordinates))
    assert len(curvatures) == min(inputs + 1, chains)
    assert abs(torch.stack(squares).mean() - expected) < 5 * error


def test_a_generator_draws_its_inputs_anew(images):
    """In each step from torch's generator, and for samples from the one that is given; it needs no number of data."""
    model = make_model("clae", prior_sampler="generator", num_data=None, energy_smoothness=0.0, initial_spread=2.0)
    model.initialize(make_images(500))
    assert "inputs" not in dict(model.named_buffers())
    torch.manual_seed(0)
    first, second = model.loss(images), model.loss(images)
    torch.manual_seed(0)
    inputs = torch.randn(2, len(images), 32)
    z, energies = model.encode(images), model.energy(model.sampler(inputs.flatten(0, 1))).view(2, -1)
    others = (model.negative_log_likelihood(images, z) + model.energy(z)).mean()
    torch.testing.assert_close(torch.stack([first, second]), others - energies.mean(1))
    assert first != second
    states = [model.sample_prior(500, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(states[0], states[1])
    assert len(torch.cat(states).unique(dim=0)) == 1000
    # Scaled on 500 other draws: the standard deviations of both have a standard error of 1/√1000 of them.
    assert states[0].std(0, correction=0).mean().item() == pytest.approx(2, rel=5 * (2 / 1000) ** 0.5)


# --- likelihoods ---


def test_gaussian_likelihood_is_the_gaussian(images):
    model = make_model("lae", likelihood="gaussian", scale=0.3)
    z = model.encode(images)
    expected = Normal(model.decoder(z), 0.3).log_prob(scale_pixels(images)).flatten(1).sum(1)
    torch.testing.assert_close(model.likelihood.log_prob(images, model.output(z)), expected)
    assert not model.likelihood.log_scale.requires_grad
    assert make_model("lae", likelihood="gaussian", learned_scale=True).likelihood.log_scale.requires_grad


def test_bernoulli_likelihood_and_its_error():
    model = make_model("lae", likelihood="bernoulli")
    x = (make_images() > 127).to(torch.uint8) * 255
    logits = model.output(model.encode(x))
    expected = Bernoulli(logits=logits).log_prob(x / 255).flatten(1).sum(1)
    torch.testing.assert_close(model.likelihood.log_prob(x, logits), expected)
    torch.testing.assert_close(model.reconstruction_error(x), -expected)
    torch.testing.assert_close(model.reconstruct(x), logits.sigmoid())


@pytest.mark.parametrize("prior", ["flat", "jeffreys", (2.0, 0.5)])
def test_langevin_dequantization_is_one_density(images, prior):
    """The op that dequantizes and evaluates at once gives what the two steps give, with gradients for ξ."""
    model = make_model("lae", dequantization="langevin", precision_prior=prior)
    output = model.output(model.encode(images))
    observed = model.likelihood.observe(images)
    torch.testing.assert_close(
        model.likelihood.log_prob(images, output), ops.marginal_gaussian_log_prob(observed, output, prior)
    )
    assert torch.equal(ops.quantize(observed.detach()), images)


def test_floats_have_no_bins(images):
    model = make_model("lae", dequantization="uniform")
    with pytest.raises(TypeError, match=r"x: got torch.float32, expected torch.uint8"):
        model.loss(images / 255)


@pytest.mark.parametrize("name", MODELS)
def test_a_bounded_mean(images, name):
    """It lies within the range of pixels, is what the linear one was before tanh, and learns."""
    linear, bounded = (make_model(name, decoder_output=output) for output in ("linear", "tanh"))
    z = torch.randn(3, 5) * 100
    assert torch.equal(bounded.output(z), linear.output(z).tanh())
    assert bounded.output(z).abs().max() <= 1
    bounded.loss(images, index_of(images)).backward()
    assert all(gradient.isfinite().all() for gradient in gradients(bounded).values())


# --- inference, ensembles ---


def test_refinement_lowers_the_potential_of_a_poor_start(images):
    model = make_model("lae")
    with torch.no_grad():
        model.encoder[-2].bias += 3
        start = model.potential(images).mean()
    moved = model.infer(images, 200, step_size=1e-3)
    assert model.potential(images, moved).mean() < start - 5
    assert torch.equal(model.infer(images, 0), model.encode(images))
    with pytest.raises(ValueError, match="num_steps: got -1"):
        model.infer(images, -1)


def test_refinement_is_a_function_of_the_seed(images):
    model = make_model("lae")
    assert torch.equal(model.infer(images, 5, seed=1), model.infer(images, 5, seed=1))
    assert not torch.equal(model.infer(images, 5, seed=1), model.infer(images, 5, seed=2))


def test_interpolation_ends_at_the_reconstructions(images):
    model = make_model("lae")
    row = model.interpolate(images[:2], images[2:], 3)
    torch.testing.assert_close(row[:, 0], model.reconstruct(images[:2]))
    torch.testing.assert_close(row[:, -1], model.reconstruct(images[2:]))
    middle = (model.encode(images[:2]) + model.encode(images[2:])) / 2
    torch.testing.assert_close(row[:, 1], model.decode(middle))
    with pytest.raises(ValueError, match="count: got 1, expected >= 2"):
        model.interpolate(images[:2], images[2:], 1)


def test_an_ensemble_averages_predictions_of_its_latest_samples(images):
    model, ensemble = make_model("lae"), ParameterEnsemble(2)
    with pytest.raises(ValueError, match="no samples yet"):
        ensemble.mean(model, lambda member: member.reconstruct(images))
    predictions = []
    for _ in range(3):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
            predictions.append(model.reconstruct(images))
        ensemble.append(model)
    assert len(ensemble) == 2
    mean = ensemble.mean(model, lambda member: member.reconstruct(images))
    torch.testing.assert_close(mean, (predictions[1] + predictions[2]) / 2)
    again = ParameterEnsemble(2)
    again.load_state_dict(ensemble.state_dict())
    assert torch.equal(again.mean(model, lambda member: member.reconstruct(images)), mean)
    torch.testing.assert_close(model.reconstruct(images), predictions[2])  # the model itself is left alone


# --- settings ---


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lae", {"width": 0}, "width: got 0, expected >= 1"),
        ("lae", {"decoder_output": "relu"}, "decoder_output: got 'relu', expected one of linear, tanh"),
        ("lae", {"decoder_output": "tanh", "likelihood": "bernoulli"}, "decoder_output: got 'tanh', expected linear"),
        ("lae", {"decoder_output": "tanh", "dequantization": "langevin"}, "got 'tanh', expected linear"),
        ("lae", {"decoder_output": "tanh", "data": "real"}, "decoder_output: got 'tanh', expected linear"),
        (
            "lae",
            {"dequantization": "wavelet"},
            "dequantization: got 'wavelet', expected one of none, uniform, langevin",
        ),
        ("lae", {"likelihood": "poisson"}, "likelihood: got 'poisson', expected one of marginal-gaussian, gaussian"),
        ("lae", {"network": "transformer"}, "network: got 'transformer', expected one of conv, mlp"),
        ("lae", {"precision_prior": (1.0, -1.0)}, "prior: got"),
        ("lae", {"likelihood": "bernoulli", "dequantization": "uniform"}, "expected none: bernoulli data are discrete"),
        ("lae", {"data": "real", "dequantization": "langevin"}, "expected none: real data are continuous already"),
        ("lae", {"shape": ()}, "shape: got ()"),
        ("lae", {"encoder_temperature": -1.0}, "encoder_temperature: got -1.0, expected None or >= 0"),
        ("lae", {"prior_eps": 0.0}, "prior_eps: got 0.0, expected None or > 0"),
        ("clae", {"initial_spread": -1.0}, "initial_spread: got -1.0, expected None or > 0"),
        ("lae", {"decoder_inference": "hmc"}, "decoder_inference: got 'hmc', expected one of bayes, map, mle"),
        (
            "clae",
            {"prior_sampler": "gibbs"},
            "prior_sampler: got 'gibbs', expected one of amortized, generator, langevin",
        ),
        ("abp", {"langevin_steps": 0}, "langevin_steps: got 0, expected >= 1"),
        ("dlgm", {"target_acceptance": 1.0}, "target_acceptance: got 1.0, expected None or > 0 and < 1"),
        ("sparse-ae", {"sparsity": -1.0}, "sparsity: got -1.0, expected >= 0"),
        ("lae", {"shape": (1, 28, 28)}, r"expected (C, 32, 32) for the network 'conv'; 'mlp' takes any shape"),
    ],
)
def test_bad_options_are_refused(name, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make_model(name, **options)


def test_a_plain_config_becomes_the_models_own():
    model = CLAE(ModelConfig(latent_dim=5, width=4, num_data=9))
    assert model.config.num_chains == 9
    assert isinstance(DLGM(ModelConfig(width=4)).config, DLGM.config_class)
    assert isinstance(VAE(ModelConfig(width=4)).config, ModelConfig)
    with pytest.raises(ValueError, match="'sparsity'"):
        LAE(SparseAE.config_class())
    with pytest.raises(ValueError, match="LAE: latent_dim, width: got settings beside config, expected either"):
        LAE(ModelConfig(), latent_dim=5, width=4)
