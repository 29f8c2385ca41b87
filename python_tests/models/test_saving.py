"""Files of models that claim more than they hold, or hold other things: one line each, before memory is taken."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from corpus.damaged import SIZES, nested, pixels, saved, trained, twice
from torch import nn

from ald_ext.models import ABP, LAE, ModelConfig, config_from_dict, load_model, save_model
from ald_ext.tensor_files import read_tensors
from ald_ext.training import TrainingConfig
from ald_ext.training.checkpoints import load_checkpoint, trained_model


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_model(LAE(shape=(1, 4, 4), **SIZES), tmp_path / "model.pt")
    return tmp_path / "model.pt"


def contents_of(path: Path) -> dict[str, Any]:
    contents: dict[str, Any] = torch.load(path, weights_only=True)
    return contents


def repacked(data: bytes, change: Any) -> bytes:
    """The archive with another pickle, and right checksums."""
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(written, "w") as copy:
        for name in archive.namelist():
            content = archive.read(name)
            copy.writestr(name, change(content) if name.endswith("data.pkl") else content)
    return written.getvalue()


def refusal(path: Path, load: Any = load_model) -> str:
    """The one line that a file is refused with, without its path."""
    with pytest.raises(ValueError, match=r"checkpoint|model|config|Config") as caught:
        load(path)
    text = str(caught.value).replace(str(path), "PATH")
    assert "\n" not in text
    assert len(text) <= 300
    return text


def test_the_directory_of_an_archive_is_not_believed(path: Path) -> None:
    """torch.load takes a member that is flagged as a folder for empty, and leaves its tensor as the memory was."""
    expected, damaged = load_model(path).state_dict(), bytearray(path.read_bytes())
    place = damaged.index(b"PK\1\2")
    while place >= 0:
        damaged[place + 38] ^= 0x10  # of the MS-DOS attributes
        place = damaged.find(b"PK\1\2", place + 4)
    path.write_bytes(damaged)
    del [torch.full_like(value, torch.nan) for value in expected.values() for _ in range(100)][:]
    assert all(torch.equal(value, expected[name]) for name, value in load_model(path).state_dict().items())


def claim(length: int) -> Any:
    """A pickle whose first storage has another number of elements."""

    def change(pickled: bytes) -> bytes:
        place = pickled.index(b"K@tq")  # 64 elements, the end of the tuple
        return pickled[:place] + b"J" + struct.pack("<i", length) + pickled[place + 2 :]

    return change


@pytest.mark.parametrize("length", [65, 10_000, 2**30, 0, -1])
def test_storages_are_as_long_as_their_data(path: Path, length: int) -> None:
    """torch.load reads as far as the pickle says, beyond the end of the data."""
    path.write_bytes(repacked(path.read_bytes(), claim(length)))
    assert "a tensor is longer or shorter than its data" in refusal(path)


def test_tensors_end_with_their_storages(path: Path) -> None:
    """On some devices torch.load would enlarge the storage."""
    path.write_bytes(
        repacked(path.read_bytes(), lambda pickled: pickled.replace(b"K\x04K\x10\x86", b"K\x05K\x10\x86", 1))
    )
    assert "is corrupt, truncated or of another program" in refusal(path)


@pytest.mark.parametrize("name", ["archive/DATA.PKL", "other/data.pkl"])
def test_there_is_one_pickle(path: Path, name: str) -> None:
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"\x80\x02N.")
    assert "its members" in refusal(path)


def test_tensors_are_moved_to_a_device(path: Path) -> None:
    assert all(value.is_meta for value in read_tensors(path, (), "meta")["model"].values())


def calling(name: str, *arguments: Any) -> bytes:
    """A pickle that calls something."""
    module, _, function = name.rpartition(".")
    return b"\x80\x02c" + f"{module}\n{function}\n".encode() + pickle.dumps(arguments, 2)[2:-1] + b"R."


def deep_tuples(depth: int) -> bytes:
    return b"\x80\x02})" + b"\x85" * depth + b"Ns."  # {(((…))): None}


def shared_tuples(depth: int) -> bytes:
    return b"\x80\x02}K\x01" + b"".join(b"q%ch%c\x86" % (level, level) for level in range(depth)) + b"Ns."


@pytest.mark.parametrize(
    ("pickled", "reason"),
    [
        (calling("torch.FloatTensor", 2**40), "other things than tensors and plain values: torch.FloatTensor"),
        (calling("builtins.bytearray", 2**40), "other things than tensors and plain values"),
        (calling("torch.storage.UntypedStorage", 2**40), "other things than tensors and plain values"),
        (calling("torch._utils._rebuild_sparse_tensor", 1), "other things than tensors and plain values"),
        (calling("os.mkdir", "x"), "other things than tensors and plain values: os.mkdir"),
        (deep_tuples(200_000), "its tuples are nested too deeply"),
        (shared_tuples(60), "its tuples are nested too deeply"),
    ],
)
def test_pickles_make_plain_values_only(path: Path, pickled: bytes, reason: str) -> None:
    path.write_bytes(repacked(path.read_bytes(), lambda _: pickled))
    assert reason in refusal(path)


@pytest.mark.parametrize("values", [twice(60), nested(200)])
def test_values_that_are_nested_without_end(path: Path, values: Any) -> None:
    path.write_bytes(saved({**contents_of(path), "more": values}))
    assert "its values are nested too deeply" in refusal(path)


def test_lists_that_are_nested_deeper_than_python_recurs(path: Path) -> None:
    path.write_bytes(repacked(path.read_bytes(), lambda _: b"\x80\x02" + b"]" * 20_000 + b"a" * 19_999 + b"."))
    assert "its values are nested too deeply" in refusal(path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_layers": 10**7}, "hidden_layers: got 10000000, expected >= 0 and <= 1000"),
        ({"hidden_units": 10**4}, "expected shape [10000, 16] as in a lae of its settings"),
        ({"latent_dim": 10**6}, "expected shape [1000000, 4] as in a lae of its settings"),
        ({"shape": (10**4, 10**4)}, "expected shape [4, 100000000] as in a lae of its settings"),
    ],
)
def test_sizes_are_compared_with_the_file(path: Path, settings: dict[str, Any], message: str) -> None:
    contents = contents_of(path)
    path.write_bytes(saved({**contents, "model_config": {**contents["model_config"], **settings}}))
    assert message in refusal(path)


def test_a_model_that_keeps_data_is_compared_with_the_file(tmp_path: Path) -> None:
    model = ABP(shape=(1, 4, 4), num_data=3, langevin_steps=1, **SIZES)
    contents = {"format": 2, "model_name": "abp", "model": model.state_dict()}
    settings = {**vars(model.config), "num_data": 10**12}
    (tmp_path / "model.pt").write_bytes(saved({**contents, "model_config": settings}))
    assert "model: chains.z: got float32 of shape [3, 2], expected shape [1000000000000, 2]" in refusal(
        tmp_path / "model.pt"
    )


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.zeros(4, 16, device="meta"), "got float32 of shape [4, 16] on meta"),
        (torch.zeros(4, 16, requires_grad=True), "got float32 of shape [4, 16] that requires"),
        (nn.Parameter(torch.zeros(4, 16)), "got float32 of shape [4, 16] that requires grad"),
        (torch.zeros(4, 15), "got float32 of shape [4, 15], expected shape [4, 16] as in"),
        (torch.zeros(4, 16, dtype=torch.int64), "got int64 of shape [4, 16], expected"),
        ([1.0], "got [1.0], expected Tensor"),
        (torch.zeros(1).expand(4, 16), "a tensor is longer than its data"),
    ],
)
def test_tensors_of_another_kind_are_named(path: Path, value: Any, message: str) -> None:
    contents = contents_of(path)
    name = next(name for name in contents["model"] if name.endswith("weight"))
    path.write_bytes(saved({**contents, "model": {**contents["model"], name: value}}))
    text = refusal(path)
    assert message in text
    assert name in text or "longer" in text


def test_a_missing_or_strange_tensor_is_named(path: Path) -> None:
    contents = contents_of(path)
    tensors = dict(contents["model"])
    tensors["colour"] = tensors.pop("decoder.0.0.bias")
    path.write_bytes(saved({**contents, "model": tensors}))
    assert "model: got a tensor 'colour', expected none as in a lae of its settings" in refusal(path)


# --- Checkpoints ---


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("model_name", ["lae"], "model_name: got ['lae'], expected str"),
        ("model_name", "x" * 10_000, "model: got 'xxxx"),
        ("model_config", 3, "model_config: got 3, expected dict[str, Any]"),
        ("config", 3, "config: got 3, expected dict[str, Any]"),
        ("totals", 3, "totals: got 3, expected an object"),
        ("totals", {"images": 3, "sums": {"loss": torch.zeros(2)}}, "totals: sums['loss']: got float32"),
        ("history", {"epoch": 1}, "history: got {'epoch': 1}, expected list[dict[str, float]]"),
        ("history", [{"loss": "low"}, {}], "history[0]['loss']: got 'low', expected float"),
        ("history", [], "checkpoint: history: got 0, expected 2 epochs"),
        ("epoch", -1, "checkpoint: epoch: got -1, expected >= 0"),
        ("random_state", [1], "random_state: got [1], expected an object"),
        ("random_state", {"cpu": torch.zeros(3)}, "expected Tensor of dtype torch.uint8 with 1 dimensions"),
        ("ensemble", [], "ensemble: got [], expected an object"),
        ("ensemble", {"samples": [3]}, "ensemble: samples[0]: got 3, expected dict[str, Tensor]"),
        ("optimizer", None, "optimizer: got None, expected an object"),
        ("optimizer", {"state": {}, "param_groups": [{"lr": 1}]}, "optimizer: param_groups[0]: got no 'params'"),
        ("scheduler", {"last_epoch": "x"}, "scheduler: got no 'base_lrs', expected list[float]"),
    ],
)
def test_fields_of_other_types_are_named(tmp_path: Path, field: str, value: Any, message: str) -> None:
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(saved({**trained("lae").state(), field: value}))
    text = refusal(path, lambda path: trained_model(load_checkpoint(path)))
    assert message in text


def test_fields_of_other_versions(tmp_path: Path) -> None:
    """Unknown ones are ignored, and those that came later may be missing."""
    state = trained("lae").state()
    del state["seconds_after_epoch"], state["threads_by_step"]
    scheduler = {**state["scheduler"], "step": 3}
    (tmp_path / "checkpoint.pt").write_bytes(saved({**state, "scheduler": scheduler, "of a later version": [1]}))
    checkpoint = load_checkpoint(tmp_path / "checkpoint.pt")
    assert "step" not in checkpoint["scheduler"]  # which would take the place of the method
    trained_model(checkpoint)


def test_samples_of_other_parameters_are_refused(tmp_path: Path) -> None:
    state = trained("lae").state()
    sample = dict(state["ensemble"]["samples"][0])
    sample["colour"] = sample.pop("decoder.0.0.bias")
    (tmp_path / "checkpoint.pt").write_bytes(saved({**state, "ensemble": {"samples": [sample]}}))
    text = refusal(tmp_path / "checkpoint.pt", lambda path: trained_model(load_checkpoint(path)))
    assert "ensemble: samples[0]: got a tensor 'colour', expected none" in text


# --- Settings ---


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"network": "mlp", "hidden_layers": 10**9}, "hidden_layers: got 1000000000, expected >= 0 and <= 1000"),
        ({"network": "mlp", "hidden_units": 10**9}, "got a network of .* weights, expected at most 4294967296"),
        ({"width": 10**6}, "got a network of .* weights, expected at most 4294967296"),
        ({"latent_dim": 10**9}, "got a network of .* weights, expected at most 4294967296"),
        ({"width": 10**30}, "width: got 1000000000000000000000000000000, expected int"),
    ],
)
def test_sizes_have_bounds(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LAE(config_from_dict(LAE.config_class, settings))


def test_models_can_be_made_on_meta() -> None:
    with torch.device("meta"):
        model = ABP(ModelConfig(shape=(1, 4, 4), num_data=10**9, **SIZES))
    assert model.chains.z.shape == (10**9, 2)
    assert not pixels(1).is_meta


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"network": ' + "[" * 10_000 + "]" * 10_000 + "}", "values nested too deeply, expected at most 50 levels"),
        ('{"network": ' + "[" * 60 + "]" * 60 + "}", "values nested too deeply, expected at most 50 levels"),
        ('{"network": {"network": "mlp", "hidden_layers": 1000000000}}', "hidden_layers: got 1000000000, expected"),
        ('{"epochs": 1' + "0" * 5000 + "}", "is no JSON file"),
        ('{"epochs": 1' + "0" * 500 + "}", "epochs: got 1000"),
        ('{"colour": 1}', "TrainingConfig: got 'colour', expected some of "),
        ('["x"]', "got ['x'], expected an object of settings"),
    ],
)
def test_damaged_settings_are_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "config.json").write_text(text)
    assert message in refusal(tmp_path / "config.json", TrainingConfig.load)
