"""Layers of the built-in networks that are computed in another way than they are defined."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ald_ext.models.networks import MLP, UpsampledConv2d


@pytest.mark.parametrize("outputs", [1, 3])
def test_upsampled_convolutions_and_their_gradients(outputs):
    layer = UpsampledConv2d(2, outputs).double()
    x = torch.randn(2, 2, 2, 3, dtype=torch.float64, requires_grad=True)

    def of_weights(x, weight, bias):
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x,))

    expected = F.conv2d(F.interpolate(x, scale_factor=2.0), layer.weight, layer.bias, padding=1)
    torch.testing.assert_close(layer(x), expected)
    assert torch.autograd.gradcheck(of_weights, (x, layer.weight, layer.bias))
    assert torch.autograd.gradgradcheck(of_weights, (x, layer.weight, layer.bias))


def test_a_layer_to_one_channel_under_transforms_and_autocast():
    layer, x = UpsampledConv2d(2, 1), torch.randn(3, 2, 4, 4)
    expected = layer(x)
    torch.testing.assert_close(torch.func.vmap(lambda each: layer(each[None])[0])(x), expected)
    with torch.autocast("cpu", torch.bfloat16):
        layer(x).sum().backward()
        torch.testing.assert_close(layer(x).float(), expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(("outputs", "hidden_layers"), [(1, 2), (2, 1), (2, 0)])
def test_input_gradients_of_mlps(outputs, hidden_layers):
    network = MLP(3, outputs, 5, hidden_layers).double()
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(network(x).sum(), x)
    torch.testing.assert_close(network.input_gradient(x), expected)
