"""The models' potentials, shapes and options."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal

from ald_ext import ops
from ald_ext.dequantization import scale_pixels
from ald_ext.models import AE, LAE, MODELS, VAE, ModelConfig


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(0, 256, (4, 1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dequantization", ["none", "uniform", "langevin"])
def test_shapes_and_gradients(name, channels, dequantization):
    torch.manual_seed(0)
    model = MODELS[name](ModelConfig(channels=channels, latent_dim=5, width=4, dequantization=dequantization))
    x = torch.randint(0, 256, (3, channels, 32, 32), dtype=torch.uint8)
    assert model.encode(x).shape == (3, 5)
    reconstruction = model.reconstruct(x)
    assert reconstruction.shape == x.shape
    assert 0 <= reconstruction.min() <= reconstruction.max() <= 1
    model.loss(x).backward()
    missing = [key for key, parameter in model.named_parameters() if parameter.grad is None]
    assert missing == []


def test_lae_potential_is_prior_plus_likelihood(images):
    torch.manual_seed(0)
    model = LAE(latent_dim=5, width=4, precision_prior="jeffreys")
    z = model.encoder(scale_pixels(images))
    likelihood = ops.marginal_gaussian_log_prob(scale_pixels(images), model.decoder(z), "jeffreys")
    prior = Normal(0.0, 1.0).log_prob(z).sum(1)
    torch.testing.assert_close(model.potential(images), -likelihood - prior)
    torch.testing.assert_close(model.loss(images), model.potential(images).mean())


def test_ae_is_the_lae_without_prior(images):
    torch.manual_seed(0)
    lae = LAE(latent_dim=5, width=4)
    ae = AE(latent_dim=5, width=4)
    ae.load_state_dict({k: v for k, v in lae.state_dict().items() if not k.startswith("prior")})
    # Two float32 losses near 1e3, whose rounding is 6e-5, are subtracted.
    difference = lae.loss(images) - ae.loss(images)
    torch.testing.assert_close(difference, -lae.prior.log_prob(lae.encode(images)).mean(), atol=1e-3, rtol=1e-4)


def test_vae_bound_is_the_expected_potential_plus_divergence(images):
    torch.manual_seed(0)
    model = VAE(latent_dim=5, width=4)
    posterior = model.posterior(images)
    torch.manual_seed(1)
    z = posterior.mean + posterior.stddev * torch.randn(posterior.mean.shape)
    divergence = 0.5 * (posterior.variance + posterior.mean**2 - 1 - posterior.variance.log()).sum(1)
    expected = (model.negative_log_likelihood(images, z) + divergence).mean()
    torch.manual_seed(1)
    torch.testing.assert_close(model.loss(images), expected)


@pytest.mark.parametrize("name", ["lae", "vae"])
def test_samples_are_a_function_of_the_generator(name):
    torch.manual_seed(0)
    model = MODELS[name](latent_dim=5, width=4)
    first = model.sample(6, torch.Generator().manual_seed(3))
    assert first.shape == (6, 1, 32, 32)
    assert torch.equal(first, model.sample(6, torch.Generator().manual_seed(3)))
    assert not torch.equal(first, model.sample(6, torch.Generator().manual_seed(4)))


def test_an_autoencoder_has_nothing_to_sample():
    assert AE(latent_dim=5, width=4).sample(3) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width: got 0, expected >= 1"),
        ({"dequantization": "wavelet"}, "dequantization: got 'wavelet', expected one of none, uniform, langevin"),
        ({"precision_prior": (1.0, -1.0)}, "prior: got"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig(**options)
