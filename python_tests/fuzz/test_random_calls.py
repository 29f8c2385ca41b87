"""Random calls of the ops give what the reference gives, and planted faults are found; `make fuzz` makes 1e5."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ald_ext import PSGLD, SGHMC, SGLD, SGNHT, ops
from tools.fuzz import calls
from tools.fuzz.calls import DRAWERS, check_call, make_call
from tools.fuzz.page import fuzz_page
from tools.fuzz.tensors import draw_shape, laid_out

PAGES = Path(__file__).resolve().parents[2] / "docs/results"


def differences(numbers: range, name: str = "") -> list[str]:
    made = ((number, make_call(1, number)) for number in numbers)
    return [f"{number}, {c.name}: {text}" for number, c in made if name in ("", c.name) for text in check_call(c)]


@pytest.mark.exhaustive
def test_2000_random_calls() -> None:
    assert differences(range(2000)) == []


def test_every_function_is_called_and_spoilt() -> None:
    seen = Counter((call.name, bool(call.spoilt)) for call in (make_call(1, number) for number in range(300)))
    assert set(seen) == {(name, spoilt) for name in DRAWERS for spoilt in (False, True)}


def inexact(function: Any, *args: Any, **kwargs: Any) -> Tensor:
    result: Tensor = function(*args, **kwargs)
    return result * (1 + 1e-3)


def tied_to_the_layout(function: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    result: Tensor = function(x, *args, **kwargs)
    return result if x.is_contiguous() else result + 1e-6


def writing_to_its_argument(function: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    result: Tensor = function(x, *args, **kwargs)
    x.detach().view(-1)[-1:].fill_(7) if x.is_contiguous() else None
    return result


@pytest.mark.parametrize("fault", [inexact, tied_to_the_layout, writing_to_its_argument])
def test_planted_faults_are_found(monkeypatch: pytest.MonkeyPatch, fault: Any) -> None:
    right = ops.marginal_gaussian_log_prob
    assert differences(range(300), "marginal_gaussian_log_prob") == []

    def wrong(x: Any, mean: Any, prior: Any) -> Any:
        return fault(right, x, mean, prior) if isinstance(x, Tensor) else right(x, mean, prior)

    monkeypatch.setattr(ops, "marginal_gaussian_log_prob", wrong)
    assert differences(range(300), "marginal_gaussian_log_prob")


def test_anchors_that_are_not_heeded_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = calls.anchored_step
    assert differences(range(100), "sgld_anchored_step_") == []

    def wrong(name: str, **arguments: Any) -> None:
        right(name, **{**arguments, "localization": 0.0 * arguments["localization"]})

    monkeypatch.setattr(calls, "anchored_step", wrong)
    assert differences(range(100), "sgld_anchored_step_")


@pytest.mark.parametrize("number", range(20))
def test_groups_with_and_without_anchors(number: int) -> None:
    """Parameters of random shapes, layouts and dtypes: the kernels' steps are the reference's but for rounding, and
    those of the group without localization are as if the other had none, either."""
    draw, generator = random.Random(number), torch.Generator().manual_seed(number)
    optimizer_class = draw.choice([SGLD, PSGLD, SGHMC, SGNHT])
    params, anchors = [], []
    for _ in range(draw.randrange(2, 6)):
        shape, dtype = draw_shape(draw), draw.choice([torch.float32, torch.float64])
        values = torch.randn((2, *shape), dtype=dtype, generator=generator)
        params.append(laid_out(draw, values[0], dense=True, written=True))
        anchors.append(values[1])
    cut, steps = draw.randrange(1, len(params)), []
    options: dict[str, Any] = {"lr": 0.01, "num_data": 10, "seed": number}
    for fused, localization in ((True, 3.0), (False, 3.0), (True, 0.0)):
        copies = [torch.empty_like(param).copy_(param).requires_grad_() for param in params]
        groups = [{"params": copies[:cut]}, {"params": copies[cut:], "localization": localization}]
        given = anchors if localization else None
        optimizer = optimizer_class(groups, **options, fused=fused, anchors=given)
        for _ in range(3):
            for param in copies:
                param.grad = torch.full_like(param, 0.1)
            optimizer.step()
        steps.append([param.detach() for param in copies])
    for fused, plain in zip(steps[0], steps[1], strict=True):
        torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-5)
    if optimizer_class is not SGNHT:  # whose groups have a thermostat in common
        assert all(torch.equal(one, other) for one, other in zip(steps[0][:cut], steps[2][:cut], strict=True))
    moved = [one for one, other in zip(steps[0][cut:], steps[2][cut:], strict=True) if not torch.equal(one, other)]
    assert moved or not any(param.numel() for param in params[cut:])


def test_steps_that_refuse_after_they_wrote_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = ops.latent_langevin_step_

    def wrong(z: Any, *args: Any, **kwargs: Any) -> None:
        if isinstance(z, Tensor) and z.is_floating_point() and not z.is_meta and not z.is_sparse:
            torch._neg_view(z).add_(1)
        right(z, *args, **kwargs)

    monkeypatch.setattr(ops, "latent_langevin_step_", wrong)
    assert any("though the call was refused" in text for text in differences(range(300), "latent_langevin_step_"))


def test_the_page_is_that_of_the_file() -> None:
    results = json.loads((PAGES / "fuzz.json").read_text())
    assert fuzz_page(results) == (PAGES / "fuzz.md").read_text(), "make fuzz writes it again"
    assert results["sanitized"]
    assert results["differences"] == []
