"""Averages over samples, in streaming form and vectorized."""

from __future__ import annotations

import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ald_ext.bayes import PosteriorSamples, predict, prediction


@pytest.fixture
def samples(network: nn.Module) -> PosteriorSamples:
    """20 samples of two chains; some layers are far from others."""
    torch.manual_seed(1)
    samples = PosteriorSamples()
    for number in range(20):
        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.requires_grad:
                    parameter.normal_()
            network[1].running_mean.normal_()
        samples.add(network, chain=number // 10)
    return samples


def outputs_by_hand(samples: PosteriorSamples, network: nn.Module, x: Tensor) -> Tensor:
    network.eval()
    outputs = []
    for number in range(len(samples)):
        samples.load_into(network, number)
        outputs.append(network(x).detach().double())
    return torch.stack(outputs)


@pytest.mark.parametrize("batch_size", [None, 7])
@pytest.mark.parametrize("at_once", [1, 3, 16])
def test_a_classification(
    samples: PosteriorSamples,
    network: nn.Module,
    data: tuple[Tensor, Tensor],
    batch_size: int | None,
    at_once: int,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(prediction, "samples_at_once", lambda *_: at_once)
    network.train()
    modes = [part.training for part in network.modules()]
    result = predict(samples, network, data[0], batch_size=batch_size, quantiles=[0.1, 0.5])
    assert modes == [part.training for part in network.modules()]
    probabilities = outputs_by_hand(samples, network, data[0]).softmax(2)
    mean = probabilities.mean(0)
    entropies = torch.special.entr(probabilities).sum(2)
    assert result.num_samples == 20
    torch.testing.assert_close(result.probabilities, mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(result.std, probabilities.std(0), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(result.entropy, torch.special.entr(mean).sum(1), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(result.mutual_information, result.entropy - entropies.mean(0), rtol=1e-4, atol=1e-5)
    levels = torch.tensor([0.1, 0.5], dtype=torch.float64)
    torch.testing.assert_close(result.quantiles, torch.quantile(probabilities, levels, 0), rtol=1e-4, atol=1e-5)


def test_mutual_information_is_zero_for_one_sample_and_log_2_for_two_that_are_sure_of_different_classes():
    layer, samples = nn.Linear(1, 2), PosteriorSamples()
    for logits in ([50.0, -50.0], [-50.0, 50.0]):
        with torch.no_grad():
            layer.weight.zero_()
            layer.bias.copy_(torch.tensor(logits))
        samples.add(layer)
    both, one = predict(samples, layer, torch.ones(1, 1)), predict(samples[:1], layer, torch.ones(1, 1))
    assert both.mutual_information.item() == pytest.approx(torch.tensor(2.0).log().item())
    assert both.entropy.item() == pytest.approx(torch.tensor(2.0).log().item())
    assert one.mutual_information.item() == 0
    assert one.std.tolist() == [[0, 0]]


def test_a_regression_and_a_function(samples: PosteriorSamples, network: nn.Module, data: tuple[Tensor, Tensor]):
    outputs = outputs_by_hand(samples, network, data[0])
    result = predict(samples, network, data[0], kind="regression")
    torch.testing.assert_close(result.mean, outputs.mean(0), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(result.std, outputs.std(0), rtol=1e-4, atol=1e-5)
    assert result.entropy is None
    with pytest.raises(ValueError, match="probabilities: got a mean of outputs, expected classes"):
        _ = result.probabilities
    result = predict(samples, network, data[0], kind=lambda output: output[:, 0].exp())
    torch.testing.assert_close(result.mean, outputs[..., 0].exp().mean(0), rtol=1e-4, atol=1e-5)


def test_samples_are_read_a_few_at_a_time(
    samples: PosteriorSamples, network: nn.Module, data: tuple[Tensor, Tensor], tmp_path: Path
):
    on_disk = PosteriorSamples(tmp_path)
    for number in range(20):
        samples.load_into(network, number)
        on_disk.add(network)
    alive, most = 0, 0

    class Counted(PosteriorSamples):
        def state_for(self, module: nn.Module, index: int) -> dict[str, Tensor]:
            nonlocal alive, most
            state = super().state_for(module, index)
            alive += 1
            most = max(most, alive)
            weakref.finalize(state["0.weight"], gone)
            return state

    def gone() -> None:
        nonlocal alive
        alive -= 1

    counted = Counted(tmp_path, resume=True)
    result = predict(counted, network, data[0])
    assert most <= 2 * prediction.samples_at_once(network, data[0]) < 20
    torch.testing.assert_close(result.mean, predict(samples, network, data[0]).mean, rtol=1e-5, atol=1e-6)


def test_running_statistics_are_taken_anew_for_each_sample(
    samples: PosteriorSamples, network: nn.Module, data: tuple[Tensor, Tensor]
):
    x = data[0]
    loader = DataLoader(x, len(x))  # one minibatch: its own statistics are those to be found
    result = predict(samples, network, x, batch_norm_loader=loader)
    network.train()
    outputs = []
    for number in range(20):
        samples.load_into(network, number)
        outputs.append(network(x).detach().double().softmax(1))
    # The running variance divides by n - 1, that of a minibatch by n.
    torch.testing.assert_close(result.mean, torch.stack(outputs).mean(0), rtol=0.1, atol=0.01)
    stale = predict(samples, network, x)
    assert (result.mean - torch.stack(outputs).mean(0)).abs().max() < 0.1 * (stale.mean - result.mean).abs().max()


def test_statistics_of_no_minibatches_are_refused(samples: PosteriorSamples, network: nn.Module):
    once = iter([torch.ones(4, 3)])  # there for the first sample only
    with pytest.raises(ValueError, match="batch_norm_loader: got no minibatches, expected minibatches each time"):
        predict(samples, network, torch.ones(4, 3), batch_norm_loader=once)


def test_dropout_is_off_and_networks_without_vmap_are_taken(data: tuple[Tensor, Tensor]):
    class Branching(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * (1 if self.weight.sum() > 0 else 2)

    network, samples = nn.Sequential(nn.Dropout(0.5), Branching(3, 2)), PosteriorSamples()
    for _ in range(6):
        network[1].reset_parameters()
        samples.add(network)
    with pytest.warns(UserWarning, match=r"samples are used one after another, as torch.func.vmap does not take"):
        result = predict(samples, network, data[0], kind="regression")
    expected = outputs_by_hand(samples, network, data[0]).mean(0)
    torch.testing.assert_close(result.mean, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "classes"}, r"kind: got 'classes', expected 'classification', 'regression' or a function"),
        ({"batch_size": 0}, r"batch_size: got 0, expected None or an integer > 0"),
        ({"quantiles": [0.5, 1.1]}, r"quantiles: got \[0.5, 1.1\], expected levels from 0 to 1"),
        ({"quantiles": 0.5}, r"quantiles: got 0.5, expected levels from 0 to 1"),
        ({"x": np.ones((4, 3))}, r"x: got .*, expected a tensor"),
        ({"samples": "runs/digits"}, r"samples: got 'runs/digits', expected PosteriorSamples, such as"),
        ({"samples": PosteriorSamples()}, r"samples: got none, expected one at least"),
        ({"x": torch.full((4, 3), torch.nan)}, r"outputs: got some that are not finite, expected finite numbers"),
        ({"module": nn.Linear(3, 3)}, r"PosteriorSamples: sample 0: got .* expected the names of the module"),
    ],
)
def test_bad_arguments(options: dict[str, object], message: str, samples: PosteriorSamples, network: nn.Module):
    arguments = {"samples": samples, "module": network, "x": torch.ones(4, 3), **options}
    with pytest.raises(ValueError, match=message):
        predict(**arguments)


def test_logits_of_another_shape():
    layer, samples = nn.Linear(3, 1), PosteriorSamples()
    samples.add(layer)
    with pytest.raises(ValueError, match=r"outputs: got shape \(4, 1\), expected logits \(n, 2 classes or more\)"):
        predict(samples, layer, torch.ones(4, 3))
