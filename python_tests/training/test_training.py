"""The loop: resuming, what may not disturb it, divergence, bad input, and what it leaves behind."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import math
import os
import pickle
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

import ald_ext
from ald_ext import threads
from ald_ext.data import ImageData
from ald_ext.data import datasets as data
from ald_ext.data.image_data import binarize
from ald_ext.models import LAE, MODELS, VAE, ModelConfig, ParameterEnsemble, config_from_dict, find_model_class
from ald_ext.optim.gradient_averaging import average_gradients
from ald_ext.training import TrainingConfig, TrainingDivergedError, fit, loop, train
from ald_ext.training import run as runs
from ald_ext.training.checkpoints import load_checkpoint, trained_model
from ald_ext.training.divergence import LOOK_EVERY, DivergenceWatch
from ald_ext.training.evaluation import averaged_reconstruction_error, evaluating, reconstruction_error
from ald_ext.training.pictures import ENLARGEMENT as GRID_SCALE
from ald_ext.training.pictures import GAP, curve_images, grid, pair_up
from ald_ext.training.step import why_not_captured
from tools.kill_training import differences, without_clock

STEPS_AN_EPOCH = 3  # 50 images, 20 a minibatch: the last one is short
RESULTS = {"config.json", "metrics.json", "checkpoint.pt", "samples.png", "reconstructions.png", "curves.png"}


def few_images(_: str | None = None) -> ImageData:
    """Sixty random images: the loop's properties need no more."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (60, 1, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.zeros(60, dtype=torch.int64)
    return ImageData(images[:50], labels[:50], images[50:], labels[50:], name="few")


@pytest.fixture(autouse=True)
def few_images_dataset(monkeypatch):
    monkeypatch.setitem(data.DATASETS, "few", few_images)


@pytest.fixture
def with_pictures():
    """For tests of pictures: elsewhere none are made, as they take most of a short run's time."""


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch, request):
    if "with_pictures" not in request.fixturenames:
        monkeypatch.setattr(loop.Loop, "save_pictures", lambda self: None)


def config(network: dict | None = None, **options) -> TrainingConfig:
    options = {
        "dataset": "few",
        "epochs": 3,
        "batch_size": 20,
        "warm_up": 0,
        "schedule": "constant",
        "evaluate_every": 1,
        "threads": 1,
        **options,
    }
    network = {"latent_dim": 4, "width": 4, **(network or {})}
    if options.get("model") == "abp":
        network = {"langevin_steps": 2, "inference_steps": 2, **network}
    model_class = MODELS[options.get("model", "lae")]
    return TrainingConfig(**options, network=config_from_dict(model_class.config_class, network))


def checkpoint_of(folder: Path) -> dict:
    return without_clock(load_checkpoint(folder / "checkpoint.pt"))


class Crash(Exception):  # noqa: N818 - it is made on purpose
    """What stops a run without its doing."""


@contextlib.contextmanager
def each_step_calls(function):
    """``function(loop)`` after every step of the loop."""
    make_step = loop.Loop._make_step

    def make_and_call(self, x, index):
        make_step(self, x, index)
        function(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Loop, "_make_step", make_and_call)
        yield


def train_until(step: int, *arguments, **options) -> None:
    """A run that crashes after a step."""

    def crash(running):
        if running.run.step == step:
            raise Crash

    with each_step_calls(crash), pytest.raises(Crash):
        train(*arguments, **options, progress=False)


def first_step_of_resumed(*arguments) -> int:
    """Goes on to the end."""
    steps = []
    with each_step_calls(lambda running: steps.append(running.run.step)):
        train(*arguments, resume=True, progress=False)
    return steps[0]


# ---- resuming ----

RUNS = {
    "lae": {},
    "lae-uniform-polynomial": {"schedule": "polynomial", "decay_offset": 3.0, "network": {"dequantization": "uniform"}},
    "lae-langevin-bf16": {"bf16": True, "network": {"dequantization": "langevin"}},
    "lae-freeze-map": {"freeze_after": 5, "network": {"decoder_inference": "map"}},
    "lae-momentum": {"momentum": 0.9, "network": {"prior_eps": 0.01, "initial_spread": 1.0}},
    "clae": {"model": "clae"},
    "clae-momentum": {"model": "clae", "momentum": 0.9, "network": {"prior_eps": 0.01, "initial_spread": 1.0}},
    "clae-chains": {"model": "clae", "network": {"chains": 7, "dequantization": "uniform"}},
    "clae-generator": {"model": "clae", "network": {"prior_sampler": "generator"}},
    "clae-langevin": {"model": "clae", "network": {"prior_sampler": "langevin"}},
    "ae-polynomial": {"model": "ae", "schedule": "polynomial", "decay_offset": 3.0},
    "sparse-ae-bernoulli": {"model": "sparse-ae", "network": {"likelihood": "bernoulli"}},
    "vae": {"model": "vae"},
    "vae-uniform-bf16": {"model": "vae", "bf16": True, "network": {"dequantization": "uniform"}},
    "abp-uniform": {"model": "abp", "network": {"dequantization": "uniform"}},
    "dlgm-langevin": {"model": "dlgm", "network": {"dequantization": "langevin"}},
}

QUICK_RUNS = {
    "lae",
    "lae-momentum",
    "clae",
    "clae-generator",
    "ae-polynomial",
    "sparse-ae-bernoulli",
    "vae",
    "abp-uniform",
    "dlgm-langevin",
}


def test_every_model_is_among_the_runs():
    assert {RUNS[name].get("model", "lae") for name in QUICK_RUNS} == set(MODELS)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK_RUNS else pytest.mark.exhaustive) for name in RUNS]
)
def test_resumed_run_equals_the_uninterrupted_one_bit_for_bit(tmp_path, name):
    """Parameters, buffers, optimizer, ensemble, random state and history; from three kinds of places."""
    settings = config(**RUNS[name], epochs=4, checkpoint_every=2, ensemble_size=5, ensemble_every=2)
    train(settings, tmp_path / "whole", progress=False)
    whole = checkpoint_of(tmp_path / "whole")
    assert whole["step"] == 4 * STEPS_AN_EPOCH
    # In the middle of epoch 2, whose sums are half done; and at its end, where it is not yet evaluated.
    for crash, saved in ((5, 4), (7, 6)):
        folder = tmp_path / str(crash)
        train_until(crash, settings, folder)
        torch.manual_seed(99)  # what happens in between must not matter
        assert first_step_of_resumed(settings, folder) == saved + 1
        assert differences(whole, checkpoint_of(folder)) == []
    # Between two epochs, with more of them than were asked for at first.
    train(dataclasses.replace(settings, epochs=2), tmp_path / "more", progress=False)
    assert first_step_of_resumed(settings, tmp_path / "more") == 7
    assert differences(whole, checkpoint_of(tmp_path / "more")) == []


def test_what_the_resumed_runs_are_compared_in_is_there(tmp_path):
    """Else the comparison would say nothing."""
    train(config(model="abp", epochs=2), tmp_path / "abp", progress=False)
    model = load_checkpoint(tmp_path / "abp" / "checkpoint.pt")["model"]
    assert model["chains.z"].shape == (50, 4)
    assert len(model["chains.z"].unique(dim=0)) == 50
    train(config(ensemble_size=2, ensemble_every=2), tmp_path / "lae", progress=False)
    checkpoint = load_checkpoint(tmp_path / "lae" / "checkpoint.pt")
    assert all(state["square_avg"].any() for state in checkpoint["optimizer"]["state"].values())
    assert len(checkpoint["ensemble"]["samples"]) == 2
    assert [row["epoch"] for row in checkpoint["history"]] == [1, 2, 3]
    assert all(math.isfinite(row["loss"]) for row in checkpoint["history"])


def test_cosine_schedule_resumes_where_the_epochs_stay_the_same(tmp_path):
    settings = config(schedule="cosine", final_lr=0.1, lr=1e-3, checkpoint_every=2)
    train(settings, tmp_path / "whole", progress=False)
    train_until(5, settings, tmp_path / "parts")
    train(settings, tmp_path / "parts", resume=True, progress=False)
    assert differences(checkpoint_of(tmp_path / "whole"), checkpoint_of(tmp_path / "parts")) == []


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"schedule": "constant"}, [1.0] * 8),
        ({"schedule": "constant", "warm_up": 4}, [0.25, 0.5, 0.75] + [1.0] * 5),
        ({"schedule": "polynomial", "decay_offset": 2.0, "decay_exponent": 0.75}, None),
        ({"schedule": "cosine", "final_lr": 0.5}, None),
    ],
)
def test_learning_rates_of_the_steps(options, expected):
    if options["schedule"] == "polynomial":
        expected = [(1 + step / 2) ** -0.75 for step in range(8)]
    if options["schedule"] == "cosine":
        expected = [0.5 + 0.25 * (1 + math.cos(math.pi * step / 7)) for step in range(8)]
    parameter = nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    scheduler = runs.make_scheduler(optimizer, config(**options), 8)
    rates = []
    for _ in range(8):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx(expected)


def test_psgld_is_given_running_means_of_the_gradients():
    """Against the reference's step of means computed here; a group without momentum has its gradients as they are."""
    torch.manual_seed(0)
    start = torch.randn(2, 3, dtype=torch.float64)
    averaged, plain, idle = (nn.Parameter(start[0].clone()), nn.Parameter(start[1].clone()), nn.Parameter(start[0]))
    groups = [{"params": [averaged, idle]}, {"params": [plain], "momentum": 0.0}]
    optimizer = ald_ext.PSGLD(groups, lr=0.1, num_data=7, alpha=0.8, eps=0.2, seed=3)
    optimizer.register_step_pre_hook(partial(average_gradients, 0.75))
    expected, squares, mean = start.clone(), torch.zeros_like(start), torch.zeros(3, dtype=torch.float64)
    for step in range(1, 6):
        gradients = torch.randn(2, 3, dtype=torch.float64)
        averaged.grad, plain.grad = gradients[0].clone(), gradients[1].clone()
        optimizer.step()
        mean = 0.75 * mean + 0.25 * gradients[0]
        settings = {"lr": 0.1, "num_data": 7, "temperature": 1.0, "weight_decay": 0.0, "maximize": False}
        settings |= {"alpha": 0.8, "eps": 0.2, "freeze_after": step, "seed": 3, "step": step}
        arguments = list(expected), [mean, gradients[1]], list(squares)
        ald_ext.reference.psgld_step_(*arguments, **settings, noise_ids=[0, 2], offsets=[0, 0])
        torch.testing.assert_close(torch.stack([averaged, plain]), expected)
    assert set(optimizer.state[averaged]) == {"square_avg", "gradient_mean"}
    assert set(optimizer.state[plain]) == {"square_avg"}
    assert idle not in optimizer.state


def test_small_steps_with_momentum_sample_the_target():
    """θ ← θ - a·m + √(2a) ξ with m ← μ m + (1-μ) θ, on N(0, 1): against the stationary variance of this recursion,
    which a → 0 takes to 1.

    Its draws of 4,000 chains are independent; their mean square has the standard error √(2/4000) of its mean.
    """
    step_size, momentum, chains = 0.02, 0.9, 4000
    transition = torch.tensor([[1 - step_size * (1 - momentum), -step_size * momentum], [1 - momentum, momentum]])
    transition = transition.double()
    noise = torch.tensor([2 * step_size, 0, 0, 0], dtype=torch.float64)
    stationary = torch.linalg.solve(torch.eye(4, dtype=torch.float64) - torch.kron(transition, transition), noise)
    variance = stationary[0].item()
    assert variance == pytest.approx(1, abs=0.2)
    theta = nn.Parameter(torch.zeros(chains))
    optimizer = ald_ext.PSGLD([theta], lr=step_size, num_data=1, eps=1.0, freeze_after=0, seed=0)
    optimizer.register_step_pre_hook(partial(average_gradients, momentum))
    for _ in range(400):
        theta.grad = theta.detach().clone()
        optimizer.step()
    error = theta.detach().double().square().mean().item() / variance - 1
    assert abs(error) < 5 * (2 / chains) ** 0.5


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    first = train(config(), tmp_path, progress=False)
    before = checkpoint_of(tmp_path)
    again = train(config(), tmp_path, resume=True, progress=False)
    assert differences(before, checkpoint_of(tmp_path)) == []
    assert again["history"] == first["history"]


def test_a_run_that_is_resumed_to_end_early_is_evaluated(tmp_path):
    train_until(7, config(epochs=9, evaluate_every=9), tmp_path)
    metrics = train(config(epochs=2, evaluate_every=9), tmp_path, resume=True, progress=False)
    assert metrics["epochs"] == 2
    assert metrics["test_re"] > 0


def test_fewer_epochs_than_were_begun_are_refused(tmp_path):
    train_until(5, config(checkpoint_every=2), tmp_path)
    with pytest.raises(ValueError, match="resume: epochs: got 1, expected >= 2, those of the checkpoint"):
        train(config(epochs=1), tmp_path, resume=True)


def test_a_state_of_a_captured_run_is_taken_by_one_that_is_not():
    """Its lr is a tensor and its groups are capturable; and the other way."""
    captured, eager = loop.start_run(config()), loop.start_run(config(lr=5e-4))
    captured.optimizer = runs.make_optimizer(captured.model, captured.config, 50, capturable=True)
    for first, second in ((captured, eager), (eager, captured)):
        own = second.optimizer.param_groups[0]["lr"]
        runs.load_optimizer(second.optimizer, first.optimizer.state_dict())
        for group in second.optimizer.param_groups:
            assert type(group["lr"]) is type(own)
            assert float(group["lr"]) == pytest.approx(4e-3)
            assert group["capturable"] is (second is captured)
    assert captured.optimizer.param_groups[0]["lr"] is own  # a graph reads this very tensor


def test_seconds_are_those_of_training(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "reconstruction_error", lambda *_: time.sleep(0.1) or 0.0)
    for name, every in (("epochs", None), ("steps", 2)):
        begun = time.perf_counter()
        run = fit(config(checkpoint_every=every), few_images())
        assert 0 < run.seconds < time.perf_counter() - begun - 0.29, name


# ---- the number of threads ----


@pytest.mark.parametrize("name", RUNS)
def test_steps_that_are_timed_are_taken_back(tmp_path, monkeypatch, name):
    """Before every step some are timed, and nothing comes of it."""
    settings = config(**RUNS[name], epochs=2, ensemble_size=5, ensemble_every=2)
    train(settings, tmp_path / "a", progress=False)
    choose, timed = threads.FastestThreads.choose, []

    def note_and_choose(*arguments, **options):
        timed.append(None)
        choose(*arguments, **options)

    monkeypatch.setattr(threads, "TRIAL_SECONDS", 1e-9)
    monkeypatch.setattr(threads.FastestThreads, "due", property(lambda self: True))
    monkeypatch.setattr(threads.FastestThreads, "choose", note_and_choose)
    train(settings, tmp_path / "b", progress=False)
    assert len(timed) == 2 * STEPS_AN_EPOCH
    assert differences(checkpoint_of(tmp_path / "a"), checkpoint_of(tmp_path / "b")) == []


@pytest.fixture
def two_threads(monkeypatch, restore_threads):
    """Are torch's, which nobody chose; and nothing is timed."""
    torch.set_num_threads(2)
    monkeypatch.setattr(threads, "INITIAL_NUMBER", 2)
    for name in threads.ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(threads.FastestThreads, "due", False)


def change_threads(running) -> None:
    """As a choice does, before the fifth step."""
    if running.run.step == 4:
        running.threads.number = 1
        torch.set_num_threads(1)


@pytest.mark.usefixtures("two_threads")
def test_a_run_resumes_with_the_number_of_threads_it_had(tmp_path):
    settings = config(threads=None)
    with each_step_calls(change_threads):
        metrics = train(settings, tmp_path / "whole", progress=False)
        assert torch.get_num_threads() == 2
        train_until(6, settings, tmp_path / "parts")
    whole = checkpoint_of(tmp_path / "whole")
    assert whole["threads_by_step"] == metrics["threads_by_step"] == [[0, 2], [4, 1]]
    assert metrics["threads"] == 1
    assert load_checkpoint(tmp_path / "parts" / "checkpoint.pt")["step"] == 4  # of the change, not of the epoch's end
    assert first_step_of_resumed(settings, tmp_path / "parts") == 5
    assert differences(whole, checkpoint_of(tmp_path / "parts")) == []


@pytest.mark.usefixtures("two_threads")
def test_another_number_of_threads_may_be_asked_for_when_a_run_is_resumed(tmp_path):
    train(config(epochs=1), tmp_path, progress=False)
    metrics = train(config(epochs=2, threads=2), tmp_path, resume=True, progress=False)
    assert metrics["threads_by_step"] == [[0, 1], [3, 2]]
    metrics = train(config(epochs=3, threads=None), tmp_path, resume=True, progress=False)
    assert metrics["threads_by_step"] == [[0, 1], [3, 2]]


@pytest.mark.usefixtures("two_threads")
def test_the_first_values_do_not_depend_on_the_number_of_threads():
    options = {"network": {"initial_spread": 1.0}}
    states = []
    for number in (1, 2, 3):
        torch.set_num_threads(number)
        states.append(loop.start_run(config(**options), few_images()).model.state_dict())
        assert torch.get_num_threads() == number
    assert differences(states[0], states[1]) == differences(states[0], states[2]) == []


@pytest.mark.usefixtures("restore_threads")
def test_a_checkpoint_of_before_threads_were_chosen_is_resumed(tmp_path):
    train(config(epochs=1), tmp_path, progress=False)
    path = tmp_path / "checkpoint.pt"
    state = load_checkpoint(path)
    del state["threads_by_step"], state["config"]["threads"]
    loop.write_tensors(path, state)
    metrics = train(config(epochs=2), tmp_path, resume=True, progress=False)
    assert metrics["threads_by_step"] == [[3, 1]]


# ---- what may not matter ----


@pytest.mark.usefixtures("with_pictures")
@pytest.mark.parametrize("model", ["lae", "vae", "clae", "abp"])
def test_evaluation_pictures_and_logs_do_not_disturb_training(tmp_path, model):
    options = {"model": model, "network": {"dequantization": "uniform"}, "epochs": 4}
    quiet = config(**options, evaluate_every=9)
    busy = config(**options, pictures_every=2, checkpoint_every=1, tensorboard=model == "lae")
    first = fit(quiet, few_images())
    train(busy, tmp_path, progress=True)
    second = load_checkpoint(tmp_path / "checkpoint.pt")
    for name in ("model", "optimizer", "scheduler", "ensemble"):
        assert differences(first.state()[name], second[name]) == []


def test_a_run_is_a_function_of_its_settings_and_leaves_the_random_state_alone(tmp_path):
    torch.manual_seed(1)
    train(config(model="vae"), tmp_path / "a", progress=False)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    train(config(model="vae"), tmp_path / "b", progress=False)
    state = fit(config(model="vae"), few_images()).state()
    train_until(2, config(model="vae"), tmp_path / "failed")
    assert torch.equal(before, torch.get_rng_state())
    first = checkpoint_of(tmp_path / "a")
    assert differences(first, checkpoint_of(tmp_path / "b")) == []
    # By now torch's generator is the caller's again.
    assert differences(first, without_clock(state)) == ["/random_state/cpu"]


def test_the_first_epochs_do_not_depend_on_how_many_follow():
    rows = [fit(config(epochs=epochs), few_images()).history for epochs in (2, 4)]
    assert rows[0] == rows[1][:2]


def test_every_image_is_seen_once_an_epoch_in_another_order(monkeypatch):
    make_step, seen = loop.Loop._make_step, []

    def note_and_make_step(self, x, index):
        assert torch.equal(x, few_images().train_images[index])
        seen.append(index)
        make_step(self, x, index)

    monkeypatch.setattr(loop.Loop, "_make_step", note_and_make_step)
    fit(config(), few_images())
    orders = [torch.cat(seen[first : first + STEPS_AN_EPOCH]) for first in (0, 3, 6)]
    assert all(torch.equal(order.sort().values, torch.arange(50)) for order in orders)
    assert len(torch.stack(orders).unique(dim=0)) == 3


def test_seed_and_temperature_matter():
    runs = [fit(config(**options), few_images()) for options in ({}, {"seed": 1}, {"temperature": 0.0})]
    standard, seed, cold = (run.model.encoder[0].weight for run in runs)
    assert not torch.equal(standard, seed)
    assert not torch.equal(standard, cold)


def test_evaluation_leaves_parts_of_a_network_in_their_mode():
    model = LAE(latent_dim=4, width=4)
    model.decoder.eval()
    with evaluating(model):
        assert not any(module.training for module in model.modules())
    assert model.training
    assert model.encoder.training
    assert not any(module.training for module in model.decoder.modules())


# ---- what is left behind ----


def refuse(constant: str) -> None:
    raise AssertionError(f"JSON has no {constant}")


@pytest.mark.usefixtures("with_pictures")
@pytest.mark.parametrize("model", ["lae", "clae", "abp"])
def test_results_are_complete(tmp_path, model):
    settings = config(model=model, ensemble_size=2, ensemble_every=4)
    metrics = train(settings, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == RESULTS
    assert json.loads((tmp_path / "metrics.json").read_text(), parse_constant=refuse) == metrics
    assert len(metrics["history"]) == metrics["epochs"] == 3
    assert metrics["steps"] == 3 * STEPS_AN_EPOCH
    assert metrics["train_loss"] == metrics["history"][-1]["loss"]
    assert (metrics["test_re_ensemble"] is not None) == (model != "abp")
    assert metrics["captured"] is False
    assert metrics["why_not_captured"] == "the device is no GPU"
    assert (metrics["train_images"], metrics["test_images"]) == (50, 10)
    for name in RESULTS:
        if name.endswith(".png"):
            assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    saved = TrainingConfig.load(tmp_path / "config.json")
    assert saved.lr == settings.lr
    assert saved.network == dataclasses.replace(settings.network, num_data=50)
    # The settings that were written give the same run.
    assert fit(saved, few_images()).history == metrics["history"]


def test_reported_losses_and_errors_are_those_of_the_run(tmp_path, monkeypatch):
    losses = []

    def note(running):
        losses.append({name: float(value) for name, value in running.run.totals.sums.items()})

    with each_step_calls(note):
        metrics = train(config(), tmp_path, progress=False)
    ends = losses[STEPS_AN_EPOCH - 1 :: STEPS_AN_EPOCH]
    assert [row["loss"] for row in metrics["history"]] == [sums["loss"] / 50 for sums in ends]
    model, _ = trained_model(load_checkpoint(tmp_path / "checkpoint.pt"))
    images = few_images().test_images
    with torch.no_grad():
        error = ((model.reconstruct(images) - images / 255) ** 2).mean().item()
    assert math.isclose(metrics["test_re"], error, rel_tol=1e-5)


def test_the_loss_of_an_epoch_is_the_mean_over_images():
    """A short minibatch counts less."""
    totals = loop.Totals()
    totals.add(20, torch.tensor(1.0), {"gap": torch.tensor(0.0)})
    totals.add(5, torch.tensor(6.0), {"gap": torch.tensor(5.0)})
    assert totals.means() == {"loss": 2.0, "gap": 1.0}


def test_the_ensemble_holds_the_latest_samples(tmp_path):
    weights = []
    with each_step_calls(lambda running: weights.append(running.run.model.encoder[0].weight.detach().clone())):
        metrics = train(config(ensemble_size=2, ensemble_every=4, epochs=5), tmp_path, progress=False)
    checkpoint = load_checkpoint(tmp_path / "checkpoint.pt")
    samples = checkpoint["ensemble"]["samples"]
    assert len(samples) == 2
    for sample, step in zip(samples, (8, 12), strict=True):
        assert torch.equal(sample["encoder.0.weight"], weights[step - 1])
    model, ensemble = trained_model(checkpoint)
    images = few_images().test_images
    with torch.no_grad():
        mean = ensemble.mean(model, lambda member: member.reconstruct(images))
    assert metrics["test_re_ensemble"] == pytest.approx(float((mean - images / 255).square().mean()), rel=1e-5)


def test_averaged_error_of_binary_images_is_cross_entropy():
    """In nats an image, of the mean probability; at most the mean of the samples' own, as -log is convex."""
    images = binarize(few_images().test_images, 0)
    torch.manual_seed(0)
    model = LAE(latent_dim=4, width=4, likelihood="bernoulli")
    ensemble = ParameterEnsemble(2)
    errors, means = [], []
    for _ in range(2):
        with torch.no_grad():
            for parameter in model.decoder.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
            means.append(model.reconstruct(images).double())
        ensemble.append(model)
        errors.append(reconstruction_error(model, images))
    value = averaged_reconstruction_error(model, ensemble, images)
    target, mean = images.double() / 255, (means[0] + means[1]) / 2
    expected = -(target * mean.log() + (1 - target) * (1 - mean).log()).flatten(1).sum(1).mean()
    assert value == pytest.approx(expected.item(), rel=1e-5)
    assert value < sum(errors) / 2


def logged(folder: Path):
    """The events of TensorBoard."""
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulators.EventAccumulator(str(folder / "tensorboard"), size_guidance={"images": 0})
    events.Reload()
    return events


def scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in logged(folder).Scalars(name)]


@pytest.mark.usefixtures("with_pictures")
@pytest.mark.parametrize("options", [{"checkpoint_every": 2}, {}])
def test_tensorboard_has_each_epoch_once_however_often_the_run_was_resumed(tmp_path, options):
    pytest.importorskip("tensorboard")
    settings = config(model="clae", tensorboard=True, pictures_every=2, epochs=4, **options)
    train_until(7, settings, tmp_path)
    train_until(10, settings, tmp_path, resume=True)
    metrics = train(settings, tmp_path, resume=True, progress=False)
    for name in ("loss", "test_re", "lr", "energy_gap", "spread_sampler"):
        expected = [(row["step"], pytest.approx(row[name])) for row in metrics["history"]]
        assert scalars(tmp_path, name) == expected
    for name in ("reconstructions", "samples"):
        assert [event.step for event in logged(tmp_path).Images(name)] == [6, 12]


def test_beginning_again_discards_the_events_of_before(tmp_path):
    pytest.importorskip("tensorboard")
    train(config(tensorboard=True), tmp_path, progress=False)
    metrics = train(config(tensorboard=True, epochs=2), tmp_path, overwrite=True, progress=False)
    assert scalars(tmp_path, "loss") == [(row["step"], pytest.approx(row["loss"])) for row in metrics["history"]]


def test_earlier_results_are_not_overwritten_unasked(tmp_path):
    train(config(epochs=2), tmp_path)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    with pytest.raises(FileExistsError, match="holds a checkpoint already, expected a new folder, --resume"):
        train(config(), tmp_path)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    train(config(epochs=1), tmp_path, overwrite=True)
    assert load_checkpoint(tmp_path / "checkpoint.pt")["epoch"] == 1


@pytest.mark.usefixtures("with_pictures")
def test_fit_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = fit(config(tensorboard=True, pictures_every=1, checkpoint_every=1), few_images())
    assert list(tmp_path.iterdir()) == []
    assert run.epoch == 3


# ---- data and networks of one's own ----


@pytest.mark.usefixtures("with_pictures")
@pytest.mark.parametrize("model", ["lae", "vae", "abp", "clae", "dlgm", "ae"])
def test_real_data(tmp_path, model):
    points = torch.randn(60, 3) * 5
    numbers = ImageData(points[:50], None, points[50:], None)
    options = {"network": "mlp", "data": "real", "hidden_units": 8, "hidden_layers": 1, "latent_dim": 2}
    metrics = train(config(model=model, network=options), tmp_path, data=numbers, progress=False)
    assert {path.name for path in tmp_path.iterdir()} >= RESULTS - {"samples.png"}
    assert metrics["test_re"] > 1  # of values of variance 25, not of brightness
    trained, _ = trained_model(load_checkpoint(tmp_path / "checkpoint.pt"))
    assert trained.config.shape == (3,)
    assert trained.reconstruct(points).shape == (60, 3)


def linear_lae(settings: ModelConfig) -> LAE:
    encoder = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(1024), nn.Dropout(0.2), nn.Linear(1024, settings.latent_dim))
    decoder = nn.Sequential(nn.Linear(settings.latent_dim, 1024), nn.Unflatten(1, settings.shape))
    return LAE(settings, encoder=encoder, decoder=decoder)


def test_networks_of_ones_own_resume_bit_for_bit(tmp_path):
    """Running means and dropout included."""
    settings = config(checkpoint_every=2)
    train(settings, tmp_path / "whole", make_model=linear_lae, progress=False)
    train_until(5, settings, tmp_path / "parts", make_model=linear_lae)
    train(settings, tmp_path / "parts", make_model=linear_lae, resume=True, progress=False)
    whole = checkpoint_of(tmp_path / "whole")
    assert differences(whole, checkpoint_of(tmp_path / "parts")) == []
    assert whole["model"]["encoder.1.num_batches_tracked"] == 9


def test_other_networks_than_the_checkpoints_are_refused(tmp_path):
    train(config(), tmp_path, make_model=linear_lae, progress=False)
    with pytest.raises(ValueError, match="resume: the checkpoint is of other networks"):
        train(config(epochs=4), tmp_path, resume=True)


# ---- divergence ----


def poison_gradient(step: int, value: float):
    """The gradient of one weight at a step; the loss is as it was."""
    eager = runs.TrainingStep._loss
    calls, hooks = [], []

    def loss(self, x, index):
        calls.append(None)
        if len(calls) == step:
            hooks.append(self.model.encoder[0].weight.register_hook(lambda gradient: torch.full_like(gradient, value)))
        elif hooks:
            hooks.pop().remove()
        return eager(self, x, index)

    return loss


@pytest.mark.parametrize(("value", "what"), [(math.inf, "parameters"), (-math.inf, "parameters"), (1e30, "optimizer")])
@pytest.mark.parametrize("step", [3, 5])
def test_an_infinite_gradient_stops_the_run_before_it_is_saved(tmp_path, monkeypatch, step, value, what):
    """1e30 has a square that is infinite, from which the preconditioner would not recover."""
    monkeypatch.setattr(runs.TrainingStep, "_loss", poison_gradient(step, value))
    weights = []
    with (
        each_step_calls(lambda running: weights.append(running.run.model.encoder[0].weight.detach().clone())),
        pytest.raises(TrainingDivergedError, match=rf"lae: diverged at step {step} \(norm of the {what}"),
    ):
        train(config(checkpoint_every=1), tmp_path, progress=False)
    checkpoint = load_checkpoint(tmp_path / "checkpoint.pt")
    assert checkpoint["step"] == step - 1
    assert torch.equal(checkpoint["model"]["encoder.0.weight"], weights[step - 2])


def test_an_infinite_gradient_shows_in_the_next_loss(tmp_path, monkeypatch):
    monkeypatch.setattr(runs.TrainingStep, "_loss", poison_gradient(4, math.inf))
    with pytest.raises(TrainingDivergedError, match=r"lae: diverged at step 5 \(loss nan"):
        train(config(), tmp_path, progress=False)
    checkpoint = load_checkpoint(tmp_path / "checkpoint.pt")
    assert checkpoint["step"] == 3
    assert all(value.isfinite().all() for value in checkpoint["model"].values())


def test_parameters_that_are_no_numbers_are_neither_evaluated_nor_saved(tmp_path, monkeypatch):
    """As a GPU's step leaves them, where gradients are not looked at."""
    train(config(epochs=1), tmp_path, progress=False)
    good = (tmp_path / "checkpoint.pt").read_bytes()

    def spoil(running):
        if running.run.step == 2 * STEPS_AN_EPOCH:
            with torch.no_grad():
                running.run.model.encoder[0].weight[0, 0, 0, 0] = math.nan

    monkeypatch.setattr(loop, "reconstruction_error", lambda *_: pytest.fail("it was evaluated"))
    with each_step_calls(spoil), pytest.raises(TrainingDivergedError, match=r"at step 6 \(norm of the parameters nan"):
        train(config(), tmp_path, resume=True, progress=False)
    assert (tmp_path / "checkpoint.pt").read_bytes() == good


@pytest.mark.parametrize("model", ["lae", "vae"])
def test_a_huge_lr_diverges_with_a_remedy(model):
    with pytest.raises(TrainingDivergedError, match=rf"{model}: diverged at step \d+ .*Try a smaller lr"):
        fit(config(model=model, lr=1e12, network={"likelihood": "gaussian"}), few_images())


def test_energies_that_ran_away_stop_a_clae():
    def raise_energy(running):
        if running.run.step == 2:
            with torch.no_grad():
                running.run.model.energy_network[-1].bias.fill_(2e4)

    with (
        each_step_calls(raise_energy),
        pytest.raises(TrainingDivergedError, match=r"clae: diverged at step 3 \(.*energy_data 2e\+04.*or the tilt"),
    ):
        fit(config(model="clae"), few_images())


def test_a_loss_beyond_the_limit_is_divergence():
    with pytest.raises(TrainingDivergedError, match="diverged at step 1"):
        fit(config(divergence_limit=1e-3), few_images())


def test_a_gpus_watch_remembers_the_first_bad_step():
    """Its branch runs on the CPU too."""
    watch = DivergenceWatch(config())
    watch.immediate = False
    good, bad = torch.tensor(1.0), torch.tensor(math.nan)
    for step in range(1, LOOK_EVERY):
        watch.observe(step, bad if step in (7, 9) else good, {})
    with pytest.raises(TrainingDivergedError, match="diverged at step 7 "):
        watch.observe(LOOK_EVERY, good, {"gap": good})


@pytest.mark.parametrize(
    ("every", "message"),
    [(None, r"diverged at step 5 \(not finite"), (1, r"diverged at step 4 \(norm of the parameters nan")],
)
def test_a_gpus_divergence_is_seen_before_the_checkpoint(tmp_path, monkeypatch, every, message):
    """Step 4 makes bad parameters, which step 5 notices, or the checkpoint."""
    train(config(epochs=1), tmp_path, progress=False)
    good = (tmp_path / "checkpoint.pt").read_bytes()
    monkeypatch.setattr(runs.TrainingStep, "_loss", poison_gradient(1, math.inf))
    start = loop.start_run

    def start_as_on_a_gpu(*arguments):
        run = start(*arguments)
        run.training_step.watch.immediate = False
        return run

    monkeypatch.setattr(loop, "start_run", start_as_on_a_gpu)
    with pytest.raises(TrainingDivergedError, match=message):
        train(config(checkpoint_every=every), tmp_path, resume=True, progress=False)
    assert (tmp_path / "checkpoint.pt").read_bytes() == good


# ---- capture ----


@pytest.mark.parametrize(
    ("model", "options", "reason"),
    [
        ("lae", {"device": "cuda"}, None),
        ("lae", {"device": "cuda", "capture": True}, None),
        ("lae", {"device": "cuda:1", "capture": False}, "not asked for"),
        ("lae", {"device": "cpu"}, "the device is no GPU"),
        ("abp", {"device": "cuda"}, "counted on the host"),
        ("dlgm", {"device": "cuda"}, "counted on the host"),
        ("clae", {"device": "cuda"}, None),
        (
            "clae",
            {"device": "cuda", "network": {"prior_sampler": "langevin"}},
            "Langevin steps are counted on the host",
        ),
    ],
)
def test_why_steps_are_not_captured(model, options, reason):
    settings = config(model=model, **options)
    made = find_model_class(model)(dataclasses.replace(settings.network, num_data=5))
    found = why_not_captured(made, settings)
    assert found is None if reason is None else found.endswith(reason)
    if reason is not None and "capture" not in options:
        with pytest.raises(ValueError, match=f"TrainingConfig: capture: got True .*, expected False: .*{reason}"):
            why_not_captured(made, dataclasses.replace(settings, capture=True))


def test_capture_on_the_cpu_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="capture: got True for model 'lae', expected False: the device is no GPU"):
        train(config(capture=True), tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ---- bad input ----


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """An LAE of one epoch."""
    out = tmp_path_factory.mktemp("trained") / "lae"
    train(config(epochs=1), out, data=few_images(), progress=False)
    return out


@pytest.fixture
def copied(trained, tmp_path) -> Path:
    """The checkpoint alone, to be spoiled."""
    (tmp_path / "checkpoint.pt").write_bytes((trained / "checkpoint.pt").read_bytes())
    return tmp_path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "vae"}, "got model='vae', expected model='lae'"),
        ({"model": "abp"}, "got model='abp', expected model='lae'"),
        ({"lr": 0.5, "seed": 1}, "got lr=0.5, seed=1, expected lr=0.004, seed=0"),
        ({"batch_size": 10}, "got batch_size=10, expected batch_size=20"),
        ({"network": {"width": 5}}, "got network.width=5, expected network.width=4"),
        ({"schedule": "cosine"}, "got schedule='cosine', expected schedule='constant'"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(copied, options, message):
    before = (copied / "checkpoint.pt").read_bytes()
    with pytest.raises(ValueError, match=f"^resume: the checkpoint is of another run: {message}$"):
        train(config(**options), copied, resume=True)
    assert {path.name: path.read_bytes() for path in copied.iterdir()} == {"checkpoint.pt": before}


@pytest.mark.parametrize(
    ("contents", "message"), [({"weights": torch.zeros(2)}, ": it lacks batch, config, ensemble"), ([1, 2], "")]
)
def test_files_of_other_programs_are_no_checkpoints(tmp_path, contents, message):
    torch.save(contents, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match=f"is no checkpoint of ald_ext{message}"):
        load_checkpoint(tmp_path / "checkpoint.pt")


@pytest.mark.parametrize("version", [1, 3, None, "2"])
def test_checkpoints_of_other_versions_are_refused(copied, version):
    path = copied / "checkpoint.pt"
    torch.save({**torch.load(path, weights_only=True), "format": version}, path)
    with pytest.raises(ValueError, match=f"of another version of ald_ext: got format {version!r}, expected 2"):
        train(config(), copied, resume=True)


def spoiled(whole: bytes, damage: str) -> bytes:
    other = {"truncated": whole[:-1000], "half": whole[: len(whole) // 2], "zeros": bytes(len(whole))}
    return {**other, "text": b"hello", "empty": b"", "pickle": pickle.dumps({"format": 2})}[damage]


@pytest.mark.parametrize("damage", ["truncated", "half", "zeros", "text", "empty", "pickle"])
def test_damaged_checkpoints_give_one_clear_error(copied, damage):
    path = copied / "checkpoint.pt"
    path.write_bytes(spoiled(path.read_bytes(), damage))
    with pytest.raises(ValueError, match="is corrupt, truncated or of another program") as caught:
        train(config(), copied, resume=True)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_flipped_bits_are_found_or_do_not_matter(copied):
    """torch.load does not look at the checksums: most flips would give other parameters without a word."""
    path = copied / "checkpoint.pt"
    whole, contents = path.read_bytes(), load_checkpoint(path)
    places = torch.randint(8 * len(whole), (60,), generator=torch.Generator().manual_seed(0)).tolist()
    refused = 0
    for place in places:
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        try:
            assert differences(contents, load_checkpoint(path)) == [], place
        except ValueError:
            refused += 1
    assert refused > len(places) / 2  # the others are in the padding between tensors


class Code:
    """What runs a function when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_checkpoints_run_no_code(copied):
    path, trace = copied / "checkpoint.pt", copied / "trace"
    torch.save({**torch.load(path, weights_only=True), "history": Code(trace)}, path)
    with pytest.raises(ValueError, match="it holds other things than tensors and plain values") as caught:
        train(config(), copied, resume=True)
    assert not trace.exists()
    assert "trust" not in str(caught.value)  # torch's advice is to load the file nevertheless


def test_missing_checkpoint_and_data_give_clear_errors_and_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"checkpoint: got .* expected a file that `ald-ext train` wrote"):
        train(config(), tmp_path / "new", resume=True)
    with pytest.raises(FileNotFoundError, match=r"data_root: got .*nowhere', expected a folder that exists"):
        train(config(dataset="mnist", data_root=str(tmp_path / "nowhere")), tmp_path / "new")
    with pytest.raises(ValueError, match="dataset: got 'mnits', expected one of mnist5k, mnist"):
        train(config(dataset="mnits"), tmp_path / "new")
    with pytest.raises(ValueError, match="batch_size: got 51, expected 1 to 50, the number of training images"):
        train(config(batch_size=51), tmp_path / "new")
    images = few_images().train_images
    with pytest.raises(ValueError, match="data: got no test images, expected one at least"):
        train(config(), tmp_path / "new", data=ImageData(images, None, images[:0], None))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "gan"}, f"model: got 'gan', expected one of {', '.join(MODELS)}"),
        ({"epochs": 0}, "epochs: got 0, expected None or >= 1"),
        ({"batch_size": -1}, "batch_size: got -1"),
        ({"threads": 0}, "threads: got 0, expected None or >= 1"),
        ({"lr": -1.0}, "lr: got -1.0, expected a finite number > 0"),
        ({"lr": math.nan}, "lr: got nan, expected a finite number > 0"),
        ({"seed": -1}, "seed: got -1"),
        ({"checkpoint_every": 0}, "checkpoint_every: got 0, expected None or >= 1"),
        ({"schedule": "linear"}, "schedule: got 'linear', expected one of constant, cosine, polynomial"),
        ({"final_lr": 0.0}, "final_lr: got 0.0"),
        ({"decay_exponent": 0.5}, "decay_exponent: got 0.5, expected > 0.5 and <= 1"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no JSON file"),
        ("\x00\x01", "is no JSON file"),
        ("[1, 2]", "got .1, 2., expected an object of settings"),
        ('{"epochs": true}', "TrainingConfig: epochs: got True, expected int or None"),
        ('{"lr": "fast"}', "TrainingConfig: lr: got 'fast', expected float"),
        ('{"model": ["lae"]}', r"TrainingConfig: model: got \['lae'\], expected str"),
        ('{"model": "gan"}', "model: got 'gan', expected one of lae"),
        ('{"colour": 1, "epochs": 2}', "TrainingConfig: got 'colour', expected some of alpha, "),
        ('{"network": 3}', "TrainingConfig: network: got 3, expected an object"),
        ('{"network": {"depth": 3}}', "ald_ext.models.LAEConfig: got 'depth', expected some of "),
        ('{"network": {"width": "4"}}', "ald_ext.models.LAEConfig: width: got '4', expected int"),
        ('{"model": "vae", "network": {"decoder_inference": "map"}}', "ModelConfig: got 'decoder_inference'"),
        ('{"seed": -1}', "seed: got -1"),
    ],
)
def test_bad_files_of_settings_are_refused(tmp_path, text, message):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        TrainingConfig.load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options", [*RUNS.values(), {"network": {"precision_prior": (2.0, 0.5), "shape": (3, 32, 32)}}]
)
def test_settings_survive_a_file(tmp_path, options):
    settings = config(**options)
    settings.save(tmp_path / "config.json")
    assert TrainingConfig.load(tmp_path / "config.json") == settings


# ---- disks and folders ----


def full_disk(self: Path, contents: bytes | str, *arguments, **options):
    """Takes half of a file."""
    half = contents[: len(contents) // 2]
    with open(self, "wb" if isinstance(half, bytes | memoryview) else "w") as file:
        file.write(half)
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("method", "name"),
    [("write_bytes", "checkpoint.pt"), ("write_text", "config.json"), ("write_text", "metrics.json")],
)
def test_a_full_disk_is_named_with_the_file_and_leaves_the_earlier_one(tmp_path, monkeypatch, method, name):
    train(config(epochs=1), tmp_path, progress=False)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    if name == "metrics.json":
        monkeypatch.setattr(TrainingConfig, "save", lambda self, path: None)
    monkeypatch.setattr(Path, method, full_disk)
    with pytest.raises(OSError, match=rf"could not write \(No space left on device\).*{name}") as caught:
        train(config(epochs=2), tmp_path, resume=True, progress=False)
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(tmp_path / name)
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert after.keys() == before.keys()  # no temporary files
    assert after[name] == before[name]
    assert load_checkpoint(tmp_path / "checkpoint.pt")["epoch"] == (2 if name == "metrics.json" else 1)


def test_a_folder_that_cannot_be_written_is_named_before_training(tmp_path, monkeypatch):
    open_file = os.open

    def refuse_new_files(path, flags, *mode):
        if flags & os.O_CREAT:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return open_file(path, flags, *mode)

    monkeypatch.setattr(os, "open", refuse_new_files)
    with each_step_calls(lambda _: pytest.fail("a step was made")), pytest.raises(PermissionError) as caught:
        train(config(), tmp_path / "locked")
    assert "could not write (Permission denied)" in str(caught.value)
    assert str(tmp_path / "locked") in str(caught.value)
    assert list((tmp_path / "locked").iterdir()) == []


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(ValueError, match=f"out: got '{tmp_path}/out', which is a file, expected a folder"):
        train(config(), tmp_path / "out")


def test_leftovers_of_a_killed_run_are_removed_at_the_next_start(tmp_path):
    train(config(epochs=1), tmp_path, progress=False)
    names = {path.name for path in tmp_path.iterdir()}
    for name in RESULTS:
        stem, _, suffix = name.partition(".")
        (tmp_path / f".{stem}-ab12_x.{suffix}").write_bytes(b"half")
    for other in (".hidden", ".notes-1.txt"):
        (tmp_path / other).write_text("the user's own")
    train(config(epochs=2), tmp_path, resume=True, progress=False)
    assert {path.name for path in tmp_path.iterdir()} == names | {".hidden", ".notes-1.txt"}


# ---- pictures ----


def test_grid_places_images_row_by_row():
    images = torch.arange(3).view(3, 1, 1, 1).expand(3, 1, 4, 4) / 4
    table = grid(images, columns=2)
    size = 2 * (4 + 2 * GAP)
    assert table.shape == (2 * size, 2 * size, 3)
    middle = size // 2
    assert [table[middle, middle, 0], table[middle, size + middle, 0], table[size + middle, middle, 0]] == [
        0,
        0.25,
        0.5,
    ]
    assert table[size + middle, size + middle, 0] == 1  # an empty place is white


@pytest.mark.parametrize("count", [1, 3, 10, 13, 20])
def test_reconstructions_stand_below_their_originals(count):
    originals = torch.arange(count).float().view(-1, 1, 1, 1) / 100
    cells = pair_up(originals, originals + 0.5, columns=10).flatten()
    rows = torch.cat([cells, torch.full((-len(cells) % 10,), math.nan)]).view(-1, 2, 10)
    torch.testing.assert_close(rows[:, 0], rows[:, 1] - 0.5, equal_nan=True)
    assert rows[:, 0].flatten().tolist()[:count] == originals.flatten().tolist()
    assert rows[:, 0].flatten()[count:].isnan().all()
    size = GRID_SCALE * (1 + 2 * GAP)
    table = grid(pair_up(originals, originals + 0.5))
    assert table.shape == (2 * len(rows) * size, 10 * size, 3)
    assert (table[-size:, ((count - 1) % 10 + 1) * size :] == 1).all()  # places of no pair are white


@pytest.mark.parametrize("shape", [(40,), (1, 40), (2, 40), (3,)])
def test_signals_are_drawn_as_curves(shape):
    """A rising line goes from the lower left corner to the upper right one, and a constant one is level."""
    length = shape[-1]
    rising = torch.linspace(-5, 5, length).expand(shape)
    images = curve_images(torch.stack([rising, torch.full(shape, -5.0)]).view(2, -1, length))
    ink = images[:, 0] == 0
    assert images.shape == (2, 1, 32, max(length, 32))
    assert ink.any(1).all()  # every column
    assert ink[0, 31, 0]
    assert ink[0, 0, -1]
    assert not ink[0, 0, 0]
    assert ink[1].nonzero()[:, 0].unique().tolist() == [31]
    assert grid(torch.randn(13, *shape)).shape[0] == 2 * 2 * (32 + 2 * GAP)
    assert grid(torch.full((2, *shape), math.nan)).min() == 1


def test_lae_learns_real_digits(tmp_path):
    """Two epochs on real digits halve the error of a blank image (0.084 on these digits)."""
    digits = data.load_dataset("mnist5k")
    blank = (digits.test_images / 255).square().mean().item()
    run = fit(TrainingConfig(epochs=2), digits)
    assert run.history[-1]["test_re"] < blank / 2


def test_a_vaes_reconstruction_error_needs_no_random_numbers():
    model = VAE(latent_dim=4, width=4)
    images = few_images().test_images
    assert loop.reconstruction_error(model, images) == loop.reconstruction_error(model, images)


@pytest.mark.parametrize("name", ["vae", "lae"])
def test_a_run_of_steps_ends_inside_an_epoch_and_resumes_bit_for_bit(tmp_path, name):
    """Seven steps are two epochs of three minibatches, the last of 10 images, and one minibatch more."""
    settings = config(model=name, epochs=None, steps=7, schedule="cosine", checkpoint_every=1)
    metrics = train(settings, tmp_path / "whole", progress=False)
    assert (metrics["steps"], metrics["epochs"]) == (7, 3)
    assert metrics["images_per_second"] == pytest.approx(120 / metrics["seconds"])
    last = metrics["history"][-1]
    assert last["lr"] == pytest.approx(settings.final_lr * settings.lr), "the schedule ends with the last step"
    assert "test_re" in last
    train_until(6, settings, tmp_path / "resumed")
    train(settings, tmp_path / "resumed", resume=True, progress=False)
    assert differences(*(checkpoint_of(tmp_path / each) for each in ("whole", "resumed"))) == []


@pytest.mark.parametrize(
    ("epochs", "steps", "expected"),
    [(3, None, (3, 9, 150)), (None, 7, (3, 7, 120)), (None, 6, (2, 6, 100)), (2, 7, (2, 6, 100)), (2, 4, (2, 4, 70))],
)
def test_the_length_of_a_run(epochs, steps, expected):
    assert config(epochs=epochs, steps=steps).length(50) == expected


def test_another_number_of_steps_is_another_run(tmp_path):
    train(config(epochs=None, steps=4), tmp_path, progress=False)
    with pytest.raises(ValueError, match="steps=5, expected steps=4"):
        train(config(epochs=None, steps=5), tmp_path, resume=True, progress=False)
    told = []
    train(config(epochs=None, steps=4), tmp_path, resume=True, progress=told.append)
    assert told == [50 + 20], "of the second epoch only the images of its one minibatch"
