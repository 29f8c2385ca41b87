"""suggest_settings against Gaussian posteriors, whose discretized chains are known exactly."""

from __future__ import annotations

import json
import math
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from ald_ext import PSGLD, SGHMC, SGLD, SGNHT
from ald_ext.bayes import suggest_settings
from ald_ext.bayes.short_chains import MOST_HEAT, Trial
from ald_ext.bayes.suggestion import choose

#: Elements of θ, each of which is a chain of its own, and data.
D, N = 2000, 24
LRS = (0.1, 0.2, 0.4, 0.8)
MEASUREMENTS = 8


class Mean(nn.Module):
    """θ - x, so that the mean of half its square is the potential per datum of N(x; θ, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(D))

    def forward(self, x: Tensor) -> Tensor:
        return self.theta - x


def half_square(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs.square().sum(1).mean() / 2


def make_loader(batch_size: int = N, **options: Any) -> DataLoader[Any]:
    data = torch.randn(N, D, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(data, torch.zeros(N)), batch_size, **options)


def suggest(loader: Any = None, loss: Any = half_square, **options: Any) -> Any:
    options = {"lrs": LRS, "num_steps": 400, "warm_up": 0, "tolerance": 0.2, **options}
    return suggest_settings(Mean(), loss, make_loader() if loader is None else loader, **options)


def test_sgld_has_the_heat_of_its_finite_step() -> None:
    """The stationary variance of a step lr on curvature 1 is 1/(1 - lr/2) times that of the posterior."""
    suggestion = suggest()
    for trial in suggestion.trials:
        expected = 1 / (1 - trial.lr / 2)
        assert abs(trial.temperature - expected) < 5 * expected * math.sqrt(2 / (D * MEASUREMENTS))
    assert suggestion.settings == {"lr": 0.2, "num_data": N, "temperature": 1.0}
    assert any("0.4" in reason for reason in suggestion.reasons)


@pytest.mark.parametrize("optimizer", [SGHMC, SGNHT])
def test_momenta_have_the_temperature_that_was_asked_for(optimizer: Any) -> None:
    (trial,) = suggest(optimizer=optimizer, lrs=[0.04], temperature=0.5, tolerance=1.0, num_steps=800).trials
    deviation = 0.5 * math.sqrt(2 / (D * MEASUREMENTS))
    assert abs(trial.kinetic_temperature - 0.5) < 5 * deviation
    assert abs(trial.temperature - 0.5) < 5 * deviation
    assert trial.judged_temperature == max(trial.temperature, trial.kinetic_temperature)


def test_stiff_directions_may_be_hotter_the_fewer_they_are() -> None:
    """Of D curvatures, one is 100: the mean heat is D·100/(99 + D) times less than that of the stiffest."""
    curvatures = torch.ones(D)
    curvatures[0] = 100

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return (curvatures * outputs.square()).sum(1).mean() / 2

    for tolerance, expected in ((0.01, 1 + 0.01 * D * 100 / (99 + D)), (0.2, 1 + MOST_HEAT)):
        suggestion = suggest(loss=loss, lrs=[0.001, 0.1], num_steps=16, tolerance=tolerance)
        assert suggestion.largest_temperature == pytest.approx(expected, rel=1e-3)
    assert suggest(num_steps=16).largest_temperature == pytest.approx(1.2, rel=1e-3)


def made_up(lr: float, heat: float | None, eps: float | None = None, movement: float = 1.0) -> Trial:
    return Trial(lr, eps, heat is None, judged_temperature=heat, movement=movement)


@pytest.mark.parametrize(
    ("heats", "chosen", "following"),
    [
        ([0.6, 0.8, 1.2, 3.0], 2, 3),
        ([0.6, 0.8, 1.2, None], 2, 3),
        ([0.6, 3.0, 1.2, 1.1], 0, 1),  # not past one that is hot
        ([4.0, 2.0, 0.6, 1.2], 3, None),  # small ones that have not forgotten where they began
        ([0.9, 6.0, 188.0, 0.8], 0, 1),  # a large one that has come to rest far away
    ],
)
def test_the_last_lr_before_a_hot_one_is_chosen(heats: list[float | None], chosen: int, following: int | None) -> None:
    trials = [made_up(2.0**place, heat) for place, heat in enumerate(heats)]
    assert choose(trials, 1.5) == (trials[chosen], None if following is None else trials[following])


def test_a_ruined_chain_that_is_cool_is_not_chosen() -> None:
    """Where all chains but that are too hot, from the smallest lr on."""
    trials = [made_up(2.0**place, heat) for place, heat in enumerate([60.0, 188.0, 1.4])]
    with pytest.raises(ValueError, match="a temperature of 60 at the smallest, 1,"):
        choose(trials, 1.5)


def test_of_several_eps_the_one_that_moves_farthest_is_chosen() -> None:
    trials = [made_up(1, 0.9, 0.1, 2.0), made_up(2, 9.0, 0.1, 8.0), made_up(1, 0.9, 0.01, 3.0), made_up(2, None, 0.01)]
    assert choose(trials, 1.5) == (trials[2], trials[3])


def test_a_chain_that_momenta_do_not_show_to_be_ruined_is_not_chosen() -> None:
    """A classifier with a wide prior: SGHMC's momenta are at T where its positions are far too hot."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 5, generator=generator)
    loader = DataLoader(TensorDataset(x, (x[:, 0] > x[:, 1].abs()).long()), 50, shuffle=True, generator=generator)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 50), nn.ReLU(), nn.Linear(50, 2))
    groups = [{"params": list(network.parameters()), "weight_decay": 1e-4}]
    options = {"optimizer": SGHMC, "params": groups, "lrs": [0.07, 0.3], "warm_up": 500}
    suggestion = suggest_settings(network, nn.functional.cross_entropy, loader, **options)
    good, ruined = suggestion.trials
    assert ruined.kinetic_temperature < 1.5
    assert ruined.temperature > suggestion.largest_temperature
    assert ruined.loss > 2 * good.loss
    assert suggestion.settings["lr"] == 0.07
    assert f"the loss {ruined.loss:.3g}" in suggestion.reasons[-1]


def test_noise_of_minibatches_is_set_beside_the_injected_noise() -> None:
    """Both are known: the variance of the minibatches' means, and 2·T/(lr·N). The former heats the chain."""
    loader = make_loader(2, shuffle=True)
    trial = suggest(loader, lrs=[0.4, 1.9], tolerance=100.0).trials[0]
    data = loader.dataset.tensors[0]
    expected = 0.4 * (data.var(0).sum() / 2) / (2 / N * D)  # of a mean of two data, drawn without replacement
    assert trial.noise_ratio == pytest.approx(float(expected), rel=0.02)
    quiet = suggest(lrs=[0.4, 1.9], tolerance=100.0).trials[0]
    assert quiet.noise_ratio == 0
    assert trial.temperature - quiet.temperature > 5 * math.sqrt(2 * 2 / (D * MEASUREMENTS))


def test_the_prior_is_a_part_of_the_potential() -> None:
    """Precision N·weight_decay adds to the curvature: the heat is that of lr·(1 + weight_decay)."""
    module = Mean()
    groups = [{"params": list(module.named_parameters()), "weight_decay": 2.0}]
    suggestion = suggest_settings(
        module, half_square, make_loader(), params=groups, lrs=LRS, warm_up=0, num_steps=400, tolerance=1
    )
    assert suggestion.trials[-1].diverged is (0.8 * 3 > 2)
    expected = 1 / (1 - 0.1 * 3 / 2)
    measured = suggestion.trials[0].temperature
    assert abs(measured - expected) < 5 * expected * math.sqrt(2 / (D * MEASUREMENTS))
    assert suggestion.settings["lr"] == 0.2


def test_the_default_grid_ends_where_steps_become_unstable() -> None:
    """2/curvature, which is 1 here, is the largest; SGHMC's is 4/curvature."""
    for optimizer, largest in ((SGLD, 2.0), (SGHMC, 4.0)):
        with torch.random.fork_rng():
            trials = suggest(lrs=None, optimizer=optimizer, tolerance=10.0, num_steps=32).trials
        assert trials[-1].lr == pytest.approx(largest, rel=1e-3)
        assert trials[0].lr == pytest.approx(largest / 512, rel=1e-3)


def test_psgld_compares_eps_with_a_preconditioner_that_stays() -> None:
    suggestion = suggest(make_loader(4, shuffle=True), optimizer=PSGLD, lrs=(0.01, 0.05), tolerance=1.0, num_steps=200)
    assert {trial.eps for trial in suggestion.trials} == {0.1, 0.01, 0.001}
    best = [trial for trial in suggestion.trials if trial.eps == suggestion.settings["eps"]]
    assert max(trial.movement for trial in best) == max(trial.movement for trial in suggestion.trials)
    PSGLD([torch.zeros(1, requires_grad=True)], **suggestion.settings)


def test_nothing_of_the_callers_changes() -> None:
    module, generator = Mean(), torch.Generator().manual_seed(3)
    loader = make_loader(4, shuffle=True, generator=generator)
    groups = [{"params": list(module.parameters()), "weight_decay": 0.5}]
    before = generator.get_state(), torch.get_rng_state()
    found = [
        suggest_settings(
            module, half_square, loader, params=groups, lrs=[0.01], warm_up=50, num_steps=32, tolerance=100.0
        )
        for _ in range(2)
    ]
    assert torch.equal(generator.get_state(), before[0])
    assert torch.equal(torch.get_rng_state(), before[1])
    assert module.theta.count_nonzero() == 0
    assert module.theta.grad is None
    assert groups == [{"params": [module.theta], "weight_decay": 0.5}]
    assert found[0] == found[1]


def test_it_is_kept_as_json_and_as_a_picture(tmp_path: Any) -> None:
    suggestion = suggest()
    suggestion.save(tmp_path / "new")
    kept = json.loads((tmp_path / "new" / "suggestion.json").read_text())
    assert kept["settings"]["lr"] == 0.2
    assert [trial["lr"] for trial in kept["trials"]] == list(LRS)
    assert (tmp_path / "new" / "suggestion.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"loss": lambda outputs, targets: outputs.square().sum() / 2, "lrs": [0.001], "tolerance": 1e9}, "got a sum"),
        ({"num_data": 100, "lrs": [0.1, 1.5]}, "num_data: got 100, expected 24"),
        ({"lrs": [0.01, 0.02]}, "the largest of the grid"),
    ],
)
def test_what_is_suspicious_is_told(options: dict[str, Any], told: str) -> None:
    with pytest.warns(UserWarning, match=told) as record:
        suggest(**{"num_steps": 64, **options})
    assert all(warning.filename == __file__ for warning in record)


@pytest.mark.filterwarnings("error")
def test_what_is_right_is_not_told() -> None:
    suggest(make_loader(4, shuffle=True), lrs=[0.02, 1.9], num_steps=64)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"optimizer": torch.optim.SGD}, "optimizer: got .*SGD.*, expected SGLD, PSGLD, SGHMC or SGNHT"),
        ({"lrs": []}, "lrs: got \\[\\], expected finite numbers > 0, one at least"),
        ({"lrs": 0.1}, "lrs: got 0.1, expected finite numbers > 0, one at least"),
        ({"lrs": [0.1, -1.0]}, "lrs: got .*, expected finite numbers > 0"),
        ({"num_steps": 5}, "num_steps: got 5, expected an integer >= 16"),
        ({"warm_up": -1}, "warm_up: got -1, expected an integer >= 0"),
        ({"temperature": 0.0}, "temperature: got 0.0, expected a finite number > 0"),
        ({"tolerance": math.nan}, "tolerance: got nan, expected a finite number > 0"),
        ({"loss": lambda outputs, targets: outputs.square()}, "loss: got .*, expected one number"),
        ({"loss": lambda outputs, targets: 1.0}, "loss: got 1.0, expected one number"),
        ({"loss": lambda outputs, targets: outputs.sum() * math.nan}, "loss: got nan, expected a finite number"),
        ({"lrs": [3.0, 5.0]}, "lrs: got .* at the smallest, 3, expected at most 1.2: try smaller ones"),
        ({"loader": [(torch.zeros(2, D), torch.zeros(2))]}, "num_data: got None, expected a number > 0"),
        (
            {"optimizer": SGLD([nn.Parameter(torch.zeros(1))], lr=1.0, num_data=1)},
            "optimizer: got SGLD .*, expected SGLD",
        ),
        ({"loss": None}, "loss: got None, expected a function"),
        ({"loss": lambda outputs, targets: outputs.sum().detach()}, "loss: got one without gradient"),
        ({"params": [nn.Parameter(torch.zeros(3))]}, "params: got 0 of the module, expected only these"),
        (
            {"params": [{"params": iter([])}]},
            "params: got a group of something else, expected groups whose params are l",
        ),
        *(
            (
                {"params": [{"params": [nn.Parameter(torch.zeros(3))], name: value}]},
                f"params: got a group with {name}, expected none but alpha, ",
            )
            for name, value in (("localization", 2.0), ("lr", 0.1), ("temperature", 2.0), ("maximize", True))
        ),
        ({"num_data": "24"}, "num_data: got '24', expected a number > 0"),
        ({"params": []}, "params: got an empty list, expected some, or None"),
        ({"loader": iter([]), "num_data": 3}, "loader: got an iterator, expected minibatches each time"),
        ({"loader": [torch.zeros(2, D)], "num_data": 3}, "loader: minibatch: got .*, expected a tuple"),
        ({"loader": [], "num_data": 3}, "loader: got no minibatches, expected minibatches each"),
        ({"loader": 5, "num_data": 3}, "loader: got 5, expected minibatches"),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=rf"^ald_ext\.bayes(\.suggest_settings)?: {expected}.*$") as error:
        suggest(**options)
    assert "\n" not in str(error.value)


def test_nothing_is_written_without_matplotlib(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    suggestion = suggest(num_steps=16, lrs=[0.01, 1.9])
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"^ald_ext.bayes.suggest_settings: needs matplotlib: pip install"):
        suggestion.save(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_modules_without_parameters_that_move_are_refused() -> None:
    for module, got in ((abs, "<built-in function abs>"), (nn.ReLU(), "no parameter that requires a gradient")):
        with pytest.raises(ValueError, match=f"suggest_settings: module: got {got}, expected "):
            suggest_settings(module, half_square, make_loader())  # type: ignore[arg-type]


class Pair(nn.Module):
    """Two outputs of inputs in a dictionary, of which a frozen part is one."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen, self.moving = nn.Linear(3, 2).requires_grad_(False), nn.Linear(3, 2)

    def forward(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return self.frozen(inputs["x"]), self.moving(inputs["x"])


def test_inputs_and_outputs_may_be_trees_and_parts_frozen() -> None:
    module, x = Pair(), torch.randn(20, 3)
    suggestion = torch.no_grad()(suggest_settings)(  # gradients are taken wherever it is called
        module,
        lambda outputs, targets: (outputs[1] - targets["y"]).square().mean(),
        [({"x": x}, {"y": torch.zeros(20, 2), "names": ["a"] * 20})],
        params=list(module.parameters()),
        num_data=np.float32(20),
        temperature=np.float32(1),
        lrs=np.float32([1e-4, 1e-3]).tolist(),
        num_steps=16,
        tolerance=100.0,
    )
    assert all(trial.movement > 0 for trial in suggestion.trials)
    assert {type(value) for value in suggestion.settings.values()} == {float}


@pytest.mark.filterwarnings("error")
def test_a_potential_of_all_data_is_no_fault() -> None:
    """Its loss is a sum with num_data=1."""
    suggest(loss=lambda outputs, targets: outputs.square().sum() / 2, num_data=1, lrs=[0.1 / N, 1.9 / N], num_steps=64)
