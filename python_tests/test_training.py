"""The loop, data, checkpoints and pictures."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch

from ald_ext.models import ModelConfig
from ald_ext.training import ImageData, TrainingConfig, TrainingDivergedError, data, load_dataset, loop, train
from ald_ext.training.checkpoints import load_checkpoint, model_of_checkpoint
from ald_ext.training.pictures import GAP, grid, pair_up

SMALL = ModelConfig(latent_dim=4, width=4)


def few_images(_: str | None) -> ImageData:
    """Sixty random images: the loop's properties need no more."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (60, 1, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.zeros(60, dtype=torch.int64)
    return ImageData(images[:50], labels[:50], images[50:], labels[50:])


@pytest.fixture(autouse=True)
def few_images_dataset(monkeypatch):
    monkeypatch.setitem(data.DATASETS, "few", few_images)


def config(**options) -> TrainingConfig:
    return TrainingConfig(**{"dataset": "few", "epochs": 3, "batch_size": 20, "network": SMALL, **options})


def final_state(folder) -> dict[str, torch.Tensor]:
    checkpoint = load_checkpoint(folder / "checkpoint.pt")
    square_avgs = {
        f"square_avg {key}": state["square_avg"]
        for key, state in checkpoint["optimizer"]["state"].items()
        if "square_avg" in state
    }
    return {**checkpoint["model"], **square_avgs}


def assert_same_bits(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [key for key in first if not torch.equal(first[key], second[key])] == []


def test_results_are_complete(tmp_path):
    metrics = train(config(), tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"config.json", "metrics.json", "checkpoint.pt", "samples.png", "reconstructions.png"}
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    assert len(metrics["history"]) == metrics["epochs"] == 3
    assert TrainingConfig.from_dict(json.loads((tmp_path / "config.json").read_text())) == config()
    for name in ("samples.png", "reconstructions.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_reported_error_is_that_of_the_saved_model(tmp_path):
    metrics = train(config(), tmp_path)
    model, _ = model_of_checkpoint(load_checkpoint(tmp_path / "checkpoint.pt"))
    images = few_images(None).test_images
    with torch.no_grad():
        error = ((model.reconstruct(images) - images / 255) ** 2).mean().item()
    assert math.isclose(metrics["test_re"], error, rel_tol=1e-5)


@pytest.mark.parametrize("model", ["lae", "ae", "vae"])
@pytest.mark.parametrize("dequantization", ["none", "uniform"])
def test_resumed_run_equals_the_uninterrupted_one_bit_for_bit(tmp_path, model, dequantization):
    network = dataclasses.replace(SMALL, dequantization=dequantization)
    train(config(model=model, network=network, epochs=4), tmp_path / "whole")
    train(config(model=model, network=network, epochs=2), tmp_path / "parts")
    torch.manual_seed(99)  # what happens in between must not matter
    train(config(model=model, network=network, epochs=4), tmp_path / "parts", resume=True)
    assert_same_bits(final_state(tmp_path / "whole"), final_state(tmp_path / "parts"))


def test_a_run_is_a_function_of_its_settings_and_leaves_the_random_state_alone(tmp_path):
    torch.manual_seed(1)
    train(config(), tmp_path / "a")
    torch.manual_seed(2)
    before = torch.get_rng_state()
    train(config(), tmp_path / "b")
    assert torch.equal(before, torch.get_rng_state())
    assert_same_bits(final_state(tmp_path / "a"), final_state(tmp_path / "b"))


def test_seed_and_temperature_matter(tmp_path):
    for name, options in {"a": {}, "seed": {"seed": 1}, "cold": {"temperature": 0.0}}.items():
        train(config(**options), tmp_path / name)
    a, seed, cold = (final_state(tmp_path / name) for name in ("a", "seed", "cold"))
    assert not torch.equal(a["encoder.0.weight"], seed["encoder.0.weight"])
    assert not torch.equal(a["encoder.0.weight"], cold["encoder.0.weight"])


def test_earlier_results_are_not_overwritten_unasked(tmp_path):
    train(config(), tmp_path)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    with pytest.raises(FileExistsError, match="holds a checkpoint already, expected a new folder, --resume"):
        train(config(), tmp_path)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    train(config(epochs=1), tmp_path, overwrite=True)
    assert load_checkpoint(tmp_path / "checkpoint.pt")["epoch"] == 1


def test_divergence_is_caught_and_the_last_good_checkpoint_kept(tmp_path):
    train(config(epochs=1), tmp_path)
    checkpoint = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    good = (tmp_path / "checkpoint.pt").read_bytes()
    run = loop.resume_run(tmp_path / "checkpoint.pt", 2, "cpu")
    with torch.no_grad():
        run.model.encoder[0].weight.fill_(float("nan"))
    with pytest.raises(TrainingDivergedError, match=r"epoch 2: the loss is nan. Try a smaller lr"):
        loop.run_epochs(run, tmp_path / "checkpoint.pt")
    assert (tmp_path / "checkpoint.pt").read_bytes() == good
    assert checkpoint["epoch"] == 1


@pytest.mark.parametrize("damage", ["truncated", "zeros", "text", "other", "empty"])
def test_damaged_checkpoints_give_one_clear_error(tmp_path, damage):
    train(config(epochs=1), tmp_path)
    path = tmp_path / "checkpoint.pt"
    whole = path.read_bytes()
    if damage == "other":
        torch.save({"weights": torch.zeros(2)}, path)
    else:
        contents = {"truncated": whole[: len(whole) // 2], "zeros": bytes(1000), "text": b"hello", "empty": b""}
        path.write_bytes(contents[damage])
    damaged = path.read_bytes()
    with pytest.raises(ValueError, match=r"checkpoint: .*checkpoint.pt' is"):
        train(config(epochs=2), tmp_path, resume=True)
    assert path.read_bytes() == damaged


def test_flipped_bits_in_a_checkpoint_are_noticed(tmp_path):
    train(config(epochs=1), tmp_path)
    path = tmp_path / "checkpoint.pt"
    contents = bytearray(path.read_bytes())
    contents[:64] = bytes(64)
    path.write_bytes(contents)
    with pytest.raises(ValueError, match="is corrupt, truncated or of another program"):
        load_checkpoint(path)


def test_checkpoints_run_no_code(tmp_path):
    path = tmp_path / "checkpoint.pt"
    torch.save({"model": few_images}, path)
    with pytest.raises(ValueError, match="corrupt, truncated or of another program"):
        load_checkpoint(path)


def test_missing_checkpoint_and_folder_give_clear_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"checkpoint: got .* expected a file that `ald-ext train` wrote"):
        train(config(), tmp_path / "new", resume=True)
    with pytest.raises(FileNotFoundError, match=r"data_root: got .*nowhere', expected a folder that exists"):
        train(config(dataset="mnist", data_root=str(tmp_path / "nowhere")), tmp_path / "new")
    with pytest.raises(ValueError, match="dataset: got 'mnits', expected one of mnist5k, mnist"):
        load_dataset("mnits")
    assert not (tmp_path / "new").exists()


def test_a_folder_without_mnist_is_named(tmp_path):
    pytest.importorskip("torchvision", reason="needs torchvision, which reads MNIST", exc_type=ImportError)
    with pytest.raises(FileNotFoundError, match="found no MNIST under"):
        load_dataset("mnist", str(tmp_path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "gan"}, "model: got 'gan', expected one of lae, ae, vae"),
        ({"epochs": 0}, "epochs: got 0, expected >= 1"),
        ({"batch_size": -1}, "batch_size: got -1"),
        ({"lr": -1.0}, "lr: got -1.0, expected a finite number > 0"),
        ({"seed": -1}, "seed: got -1"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        config(**options)


def test_every_image_is_seen_once_an_epoch_in_another_order():
    first, second = (torch.cat(loop.batches(50, 20, seed=0, epoch=epoch)) for epoch in (0, 1))
    assert torch.equal(first.sort().values, torch.arange(50))
    assert not torch.equal(first, second)
    assert torch.equal(first, torch.cat(loop.batches(50, 20, seed=0, epoch=0)))


def test_embedded_digits_are_complete_and_split_without_overlap():
    digits = load_dataset("mnist5k")
    assert digits.train_images.shape == (4500, 1, 32, 32)
    assert digits.test_images.shape == (500, 1, 32, 32)
    images = torch.cat([digits.train_images, digits.test_images]).flatten(1)
    assert len(images.unique(dim=0)) == 5000
    assert digits.train_images.dtype == torch.uint8
    assert digits.train_images.max() == 255
    assert torch.cat([digits.train_labels, digits.test_labels]).bincount().tolist() == [500] * 10
    border = digits.train_images[:, :, [0, 1, -2, -1], :]
    assert border.max() == 0


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


def test_reconstructions_stand_below_their_originals():
    originals, reconstructions = torch.zeros(20, 1, 2, 2), torch.ones(20, 1, 2, 2)
    rows = pair_up(originals, reconstructions, columns=10).view(4, 10, -1)[..., 0]
    assert rows[:, 0].tolist() == [0, 1, 0, 1]


def test_lae_learns_real_digits(tmp_path):
    """Two epochs on real digits halve the error of a blank image (0.084 on these digits)."""
    digits = load_dataset("mnist5k")
    blank = (digits.test_images / 255).square().mean().item()
    metrics = train(TrainingConfig(epochs=2), tmp_path)
    assert metrics["test_re"] < blank / 2
