"""Steps with a compiled loss: what they compute, when there are any, and what resuming and a failure do with them."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

import pytest
import torch
from torch.distributions import Distribution

from ald_ext.data import ImageData
from ald_ext.models import LAE, MODELS, config_from_dict, find_model_class
from ald_ext.training import TrainingConfig, train
from ald_ext.training.checkpoints import load_checkpoint
from ald_ext.training.run import Run, start_run
from ald_ext.training.step import STEPS_THAT_PAY, why_not_compiled
from tools.kill_training import differences, without_clock


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))


@pytest.fixture
def compiles_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of the rest, in which a loss that is compiled is the eager one."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests without a C++ compiler: what is compiled is traced with its gradients, and run by eager kernels."""
    compile_ = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda f, **_: compile_(f, backend="aot_eager", fullgraph=True, dynamic=False)
    )


def images() -> ImageData:
    """Fifty of them, so that the last minibatch of 20 is short."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(0, 256, (60, 1, 4, 4), dtype=torch.uint8, generator=generator)
    return ImageData(drawn[:50], None, drawn[50:], None, name="few")


def config(model: str = "lae", network: dict | None = None, **options) -> TrainingConfig:
    options = {"epochs": 2, "batch_size": 20, "warm_up": 0, "threads": 1, "evaluate_every": 1, **options}
    network = {"network": "mlp", "latent_dim": 2, "hidden_units": 4, "hidden_layers": 1, **(network or {})}
    return TrainingConfig(model=model, **options, network=config_from_dict(MODELS[model].config_class, network))


def after_an_epoch(settings: TrainingConfig) -> tuple[Run, list[float], torch.Tensor]:
    """The run, the losses of its steps, and what is drawn after them."""
    run = start_run(settings, images())
    batches = enumerate(run.batches.epoch(0), 1)
    return run, [float(run.training_step(step, *batch)) for step, batch in batches], torch.rand(3)


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize(
    ("model", "network"),
    [
        ("lae", {"dequantization": "langevin"}),
        ("clae", {"chains": 7, "energy_units": 4}),
        ("vae", {"dequantization": "uniform"}),
    ],
)
def test_compiled_steps_are_the_eager_ones_up_to_rounding(model, network):
    """With the same draws: of chains, of a VAE's z and of the noise of pixels."""
    validated = Distribution._validate_args
    eager, losses, draws = after_an_epoch(config(model, network, compile=False))
    compiled, compiled_losses, compiled_draws = after_an_epoch(config(model, network, compile=True))
    assert compiled.training_step.compiled
    assert compiled.training_step.compiled_loss is not None
    assert Distribution._validate_args == validated
    torch.testing.assert_close(compiled_losses, losses, rtol=1e-5, atol=0)
    assert torch.equal(compiled_draws, draws)
    torch.testing.assert_close(compiled.model.state_dict(), eager.model.state_dict(), rtol=1e-4, atol=1e-6)
    assert set(compiled.model.diagnostics) == set(eager.model.diagnostics)


@pytest.mark.processes
def test_a_second_run_with_other_settings_has_a_loss_of_its_own():
    """What is compiled has no guards, so it may not be shared."""
    _, eager, _ = after_an_epoch(config(compile=False))
    _, compiled, _ = after_an_epoch(config(compile=True))
    torch.testing.assert_close(compiled, eager, rtol=1e-5, atol=0)
    _, in_bf16, _ = after_an_epoch(config(compile=True, bf16=True))
    assert all(one != other for one, other in zip(in_bf16, compiled, strict=True))


@pytest.mark.usefixtures("traced")
def test_a_resumed_compiled_run_goes_on_bit_for_bit(tmp_path):
    data = images()
    train(config(compile=True), tmp_path / "whole", data=data, progress=False)
    settings = config(compile=True, schedule_epochs=2)
    train(dataclasses.replace(settings, epochs=1), tmp_path / "parts", data=data, progress=False)
    metrics = train(
        dataclasses.replace(settings, compile=None), tmp_path / "parts", data=data, resume=True, progress=False
    )
    assert metrics["compiled"] is True
    whole, parts = (without_clock(load_checkpoint(tmp_path / name / "checkpoint.pt")) for name in ("whole", "parts"))
    for state in (whole, parts):
        state["config"]["schedule_epochs"] = 2
    assert differences(whole, parts) == []


@pytest.mark.usefixtures("traced")
def test_compiling_leaves_the_buffers_of_a_loss_as_they_were():
    network = {"chains": 7, "energy_units": 4, "spectral_normalization": True}
    run = start_run(config("clae", network, compile=True), images())
    before = {name: buffer.clone() for name, buffer in run.model.named_buffers()}
    with contextlib.closing(run.batches.epoch(0)) as minibatches:
        run.training_step._compile(*next(minibatches))
    assert run.training_step.compiled
    assert all(torch.equal(buffer, before[name]) for name, buffer in run.model.named_buffers())


def test_networks_of_ones_own_are_compiled_only_where_that_is_asked_for(monkeypatch):
    monkeypatch.setitem(STEPS_THAT_PAY, "mlp", 1)
    assert start_run(config(), images()).training_step.compiled
    assert not start_run(config(), images(), make_model=LAE).training_step.compiled
    assert start_run(config(compile=True), images(), make_model=LAE).training_step.compiled


@pytest.mark.usefixtures("compiles_nothing")
def test_resuming_the_other_way_is_told(tmp_path):
    train(config(compile=True, epochs=1, schedule="constant"), tmp_path, data=images(), progress=False)
    with pytest.warns(UserWarning, match="from step 3 on compile is False and was True"):
        metrics = train(
            config(compile=False, schedule="constant"), tmp_path, data=images(), resume=True, progress=False
        )
    assert metrics["compiled"] is False
    assert metrics["changes"] == [{"step": 3, "setting": "compile", "before": True, "after": False}]


def test_a_loss_that_cannot_be_compiled_runs_eagerly_with_the_same_draws(monkeypatch):
    def fails(function, **_):
        def loss(x, index):
            function(x, index)  # which draws
            raise RuntimeError("InvalidCxxCompiler: no compiler\nand more lines")

        return loss

    settings = config("vae", compile=True)
    _, losses, draws = after_an_epoch(dataclasses.replace(settings, compile=False))
    monkeypatch.setattr(torch, "compile", fails)
    with pytest.warns(UserWarning, match="steps run eagerly, as compiling .* failed: .*: no compiler$") as told:
        run, eager_losses, eager_draws = after_an_epoch(settings)
    assert len(told) == 1
    assert not run.training_step.compiled
    assert eager_losses == losses
    assert torch.equal(eager_draws, draws)


CONVOLUTIONAL = config(network={"network": "conv", "width": 1})


@pytest.mark.parametrize(
    ("settings", "more", "reason"),
    [
        (CONVOLUTIONAL, {"num_steps": STEPS_THAT_PAY["conv"]}, None),
        (CONVOLUTIONAL, {"num_steps": STEPS_THAT_PAY["conv"] - 1}, "too few"),
        (config(), {"num_steps": 10**9}, "too few"),
        (config(), {"num_steps": 10, "begun": True}, None),
        (config(), {"num_steps": 10**6, "begun": False}, "not asked for"),
        (config(device="cuda"), {"num_steps": 10**6}, "not measured"),
        (config(device="cuda", compile=True), {"num_steps": 10}, None),
        (config(compile=False), {"num_steps": 10**6}, "not asked for"),
        (config(compile=True), {"num_steps": 10}, None),
        (config(), {"num_steps": 10**6, "num_ranks": 2}, "several processes"),
        (config("abp"), {"num_steps": 10**6}, "counted on the host"),
        (config("dlgm"), {"num_steps": 10**6}, "counted on the host"),
        (config("clae", {"prior_sampler": "langevin"}), {"num_steps": 10**6}, "counted on the host"),
    ],
)
def test_why_a_loss_is_not_compiled(settings, more, reason):
    model = find_model_class(settings.model)(dataclasses.replace(settings.network, num_data=5))
    found = why_not_compiled(model, settings, **more)
    assert found is None if reason is None else reason in found


def test_asking_in_vain_is_refused():
    with pytest.raises(ValueError, match="TrainingConfig: compile: got True for model 'abp', expected False: its Lang"):
        start_run(config("abp", compile=True), images())
