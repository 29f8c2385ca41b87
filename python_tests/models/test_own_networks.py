"""Networks of one's own, which are tried when they are given; and values without gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from ald_ext.models import ABP, AE, MODELS, VAE, LatentVariableModel, load_model, save_model


def encoder(outputs: int, inputs: int = 192) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, outputs))


def decoder(shape: tuple[int, ...] = (3, 8, 8), latent_dim: int = 5) -> nn.Module:
    return nn.Sequential(nn.Linear(latent_dim, torch.Size(shape).numel()), nn.Unflatten(1, shape))


def own(model: type[LatentVariableModel], **networks: nn.Module) -> LatentVariableModel:
    """Of 8 x 8 colour images."""
    given: dict[str, Any] = {"decoder": decoder(), **networks}
    if model.encoder_outputs:
        given.setdefault("encoder", encoder(5 * model.encoder_outputs))
    return model(shape=(3, 8, 8), latent_dim=5, num_data=4, **given)


@pytest.mark.parametrize("model", MODELS.values())
def test_every_model_takes_networks_of_any_shape(model):
    made = own(model)
    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    assert made.loss(images, torch.arange(4)).isfinite()
    assert made.reconstruct(images).shape == images.shape


@pytest.mark.parametrize("name", [name for name, model in MODELS.items() if model.encoder_outputs])
@pytest.mark.parametrize(
    ("networks", "message"),
    [
        (
            {"encoder": encoder(7)},
            r"encoder: got \(2, 7\) for inputs \(2, 3, 8, 8\), expected \(2, {outputs}\): shape is",
        ),
        (
            {"encoder": encoder(5, 64)},
            r"encoder: got an error \(mat1 and mat2 .*\) for inputs \(2, 3, 8, 8\), expected",
        ),
        ({"decoder": decoder((1, 8, 8))}, r"decoder: got \(2, 1, 8, 8\) for inputs \(2, 5\), expected \(2, 3, 8, 8\)"),
        (
            {"decoder": decoder(latent_dim=6)},
            r"decoder: got an error \(mat1 .*\) for inputs \(2, 5\), .* latent_dim 5$",
        ),
        ({"decoder": nn.LSTM(5, 5)}, r"decoder: got a tuple for inputs \(2, 5\)"),
    ],
)
def test_networks_of_other_sizes_are_named(name, networks, message):
    model = MODELS[name]
    with pytest.raises(ValueError, match=message.replace("{outputs}", str(5 * model.encoder_outputs))) as caught:
        own(model, **networks)
    assert "\n" not in str(caught.value)


def test_an_encoder_that_is_not_used_is_refused():
    with pytest.raises(
        ValueError, match="ABP: encoder: got one, expected none, as the model infers z by Langevin steps"
    ):
        own(ABP, encoder=encoder(5))


class Drawing(nn.Module):
    """Has running means and draws random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(192), nn.Dropout(), nn.Linear(192, 5))
        self.layers[1].eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x) + torch.randn(5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_trying_a_network_leaves_it_and_the_random_state_alone(dtype):
    network, other = Drawing().to(dtype), decoder()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    state = torch.get_rng_state()
    AE(shape=(3, 8, 8), latent_dim=5, encoder=network, decoder=other)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("network", [nn.LazyLinear(5), nn.Linear(192, 5, device="meta")])
def test_networks_that_cannot_be_tried_yet_are_taken(network):
    own(MODELS["ae"], encoder=nn.Sequential(nn.Flatten(), network))


def test_files_say_which_networks_they_need(tmp_path):
    save_model(own(VAE), tmp_path / "own.pt")
    save_model(VAE(latent_dim=5, width=4), tmp_path / "built-in.pt")
    with pytest.raises(ValueError, match=r"'vae' with decoder of its own, expected load_model\(path, decoder=…\)"):
        load_model(tmp_path / "own.pt", encoder=encoder(10))
    loaded = load_model(tmp_path / "own.pt", encoder=encoder(10), decoder=decoder())
    assert loaded.own_networks == ["encoder", "decoder"]
    assert load_model(tmp_path / "built-in.pt").own_networks == []


@pytest.mark.parametrize("name", MODELS)
def test_values_have_no_gradients_and_their_parts_do(name):
    model = own(MODELS[name])
    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    values = [model.reconstruct(images), model.score(images), model.interpolate(images[:2], images[2:], 3)]
    if model.has_prior:
        values.append(model.sample(2))
        assert model.decode(model.sample_prior(2)).requires_grad
    for value in values:
        assert value.numpy().shape[0] in (2, 4)
    assert model.decode(model.encode(images)).requires_grad
    assert model.potential(images).requires_grad
