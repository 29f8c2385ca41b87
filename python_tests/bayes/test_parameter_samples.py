"""Samples of parameters: kept, bounded, on disk, chosen, loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.func import functional_call

from ald_ext.bayes import PosteriorSamples


def move(network: nn.Module) -> None:
    """What a step of training does: parameters with gradient, and running statistics, change."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.add_(1)
        network(torch.randn(5, 3))


def filled(network: nn.Module, samples: PosteriorSamples, count: int, chain: int = 0) -> list[dict[str, torch.Tensor]]:
    """Offer samples, and return what they should be."""
    expected = []
    for _ in range(count):
        move(network)
        samples.add(network, chain=chain)
        tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
        expected.append({name: tensor.detach().clone() for name, tensor in tensors.items()})
    return expected


def assert_equal(found: list[dict[str, torch.Tensor]], expected: list[dict[str, torch.Tensor]]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        assert all(one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("on_disk", [False, True])
def test_samples_are_copies_of_parameters_and_buffers(network: nn.Module, tmp_path: Path, on_disk: bool):
    samples = PosteriorSamples(tmp_path if on_disk else None)
    expected = filled(network, samples, 3) + filled(network, samples, 2, chain=1)
    assert_equal(list(samples), expected)
    if on_disk:
        assert_equal(list(PosteriorSamples.load(tmp_path)), expected)
        names = load_file(tmp_path / "chain-0000" / "sample-000001.safetensors").keys()
        assert "0.weight" in names
        assert "1.running_mean" in names
        assert "3.weight" not in names, "what is as in the first sample is kept once"
        assert "mask" not in names
    samples.load_into(network, 0)
    assert all(torch.equal(tensor, expected[0][name]) for name, tensor in network.state_dict().items())
    network.eval()
    x = torch.randn(4, 3)
    output = functional_call(network, samples.state_for(network, 4), x)
    assert not torch.equal(output, network(x))
    samples.load_into(network, 4)
    assert torch.equal(output, network(x))


def test_choosing(network: nn.Module):
    samples = PosteriorSamples()
    first, second = filled(network, samples, 5, chain=2), filled(network, samples, 3, chain=7)
    assert samples.chains == [2, 7]
    assert_equal(list(samples.chain(7)), second)
    assert_equal(list(samples[1:7:2]), [first[1], first[3], second[0]])
    assert_equal(list(samples.select([6, 0])), [first[0], second[1]])
    assert_equal(list(samples.thin(2)), [first[0], first[2], first[4], second[0], second[2]])
    assert_equal(list(samples.thin(3)), [first[1], first[4], second[2]])
    assert_equal([samples[-1]], [second[-1]])
    with pytest.raises(IndexError):
        samples[8]
    with pytest.raises(ValueError, match=r"chain: got 0, expected one of \[2, 7\]"):
        samples.chain(0)
    with pytest.raises(ValueError, match="got a selection of samples to add to"):
        samples[:2].add(network)


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("limit", [2, 5, 8])
def test_a_bounded_number_is_spread_evenly_over_the_run(network: nn.Module, tmp_path: Path, on_disk: bool, limit: int):
    samples = PosteriorSamples(tmp_path if on_disk else None, max_samples=limit)
    expected = filled(network, samples, 37)
    kept = [int(sample["0.bias"][0] - expected[0]["0.bias"][0] + 0.5) for sample in samples]
    spacing = kept[1] - kept[0]
    assert kept == list(range(0, 37, spacing))
    assert limit / 2 <= len(kept) <= limit
    assert_equal(list(samples), [expected[number] for number in kept])
    if on_disk:
        again = PosteriorSamples(tmp_path, max_samples=limit, resume=True)
        assert_equal(list(again), list(samples))
        files = list(tmp_path.glob("chain-0000/*"))
        assert len(files) == len(kept)
        fewer = PosteriorSamples(tmp_path, max_samples=2, resume=True)
        filled(network, fewer, 2 * spacing)
        assert len(fewer) <= 2


def test_a_folder_that_was_left_in_the_middle_of_halving_is_read_as_halved(network: nn.Module, tmp_path: Path):
    samples = PosteriorSamples(tmp_path)
    expected = filled(network, samples, 8)
    for dropped in (1, 3):
        (tmp_path / "chain-0000" / f"sample-{dropped:06}.safetensors").unlink()
    again = PosteriorSamples(tmp_path, resume=True, max_samples=8)
    assert_equal(list(again), expected[::2])
    assert again.num_offered(0) == 8


def test_a_bounded_number_stays_even_after_samples_were_forgotten(network: nn.Module):
    """A resumed run forgets what is younger than its state, of 6 samples here 3, and offers the same ones again."""
    samples = PosteriorSamples(max_samples=2)
    for offered in (7, 4):
        expected = filled(network, samples, offered)
        assert [sample["0.bias"][0] for sample in samples][1] == expected[4 if offered == 7 else 1]["0.bias"][0]
        samples.forget_after(0, 3)


def test_dtype(network: nn.Module, tmp_path: Path):
    samples = PosteriorSamples(tmp_path, dtype=torch.bfloat16)
    (expected,) = filled(network, samples, 1)
    sample = PosteriorSamples.load(tmp_path)[0]
    assert sample["0.weight"].dtype == sample["1.running_var"].dtype == torch.bfloat16
    assert sample["1.num_batches_tracked"].dtype == torch.int64
    state = samples.state_for(network, 0)
    assert state["0.weight"].dtype == torch.float32
    assert torch.equal(state["0.weight"], expected["0.weight"].bfloat16().float())
    with pytest.raises(ValueError, match=r"dtype: got torch.float16, expected torch.bfloat16, as of the samples"):
        PosteriorSamples(tmp_path, dtype=torch.float16, resume=True)


def test_names_do_not_depend_on_wrappers():
    network, samples = nn.Linear(2, 2), PosteriorSamples()
    wrapped = nn.ModuleDict({"module": network})  # as DistributedDataParallel names it
    samples.add(wrapped)
    assert samples[0].keys() == {"weight", "bias"}
    assert samples.state_for(wrapped, 0).keys() == {"module.weight", "module.bias"}
    samples.load_into(network, 0)


def test_what_does_not_fit_is_refused(network: nn.Module, tmp_path: Path):
    samples = PosteriorSamples(tmp_path)
    filled(network, samples, 2)
    with pytest.raises(ValueError, match=r"folder: got '.*' with 2 samples, expected an empty one, or resume=True"):
        PosteriorSamples(tmp_path)
    with pytest.raises(ValueError, match=r"got \['bias', 'weight'\] in the module, expected the names of"):
        samples.add(nn.Linear(3, 8))
    other = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 3))
    other.register_buffer("mask", torch.zeros(2))
    before = other[0].bias.clone()
    with pytest.raises(ValueError, match=r"sample 1: 0.weight: got shape \(8, 3\) in the sample, expected \(8, 4\)"):
        samples.load_into(other, 1)
    assert torch.equal(other[0].bias, before)
    with torch.no_grad():
        network[0].bias[3] = torch.nan
    with pytest.raises(ValueError, match=r"0.bias: got values that are not finite, expected .* chain 0 has diverged"):
        samples.add(network)
    assert len(samples) == 2
    with pytest.raises(ValueError, match=r"load: folder: got .* without samples"):
        PosteriorSamples.load(tmp_path / "none")
    with pytest.raises(ValueError, match="add: chain: got -1, expected an integer >= 0"):
        samples.add(network, chain=-1)
    with pytest.raises(ValueError, match="max_samples: got 1, expected None or an integer > 1"):
        PosteriorSamples(max_samples=1)
    with pytest.raises(ValueError, match=r"dtype: got torch.int8, expected None or a floating-point dtype"):
        PosteriorSamples(dtype=torch.int8)


def test_damaged_files_are_refused_in_one_line(network: nn.Module, tmp_path: Path):
    filled(network, PosteriorSamples(tmp_path), 3)
    for number in range(3):
        path = tmp_path / "chain-0000" / f"sample-{number:06}.safetensors"
        whole = path.read_bytes()
        flipped = bytearray(whole)
        flipped[-3] ^= 1
        for damage in (b"", whole[: len(whole) // 2], whole + b"x", bytes(flipped), b"\xff" * 20):
            path.write_bytes(damage)
            with pytest.raises(ValueError, match=rf"chain-0000/{path.name}: got a damaged file") as caught:
                list(PosteriorSamples.load(tmp_path))
            assert "\n" not in str(caught.value)
        path.write_bytes(whole)
    assert len(list(PosteriorSamples.load(tmp_path))) == 3
