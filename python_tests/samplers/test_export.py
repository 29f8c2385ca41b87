"""Samples as InferenceData: what goes into a netCDF file comes out of it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ald_ext.samplers import SampleStorage
from ald_ext.samplers.export import save_netcdf, to_inference_data

arviz_base = pytest.importorskip("arviz_base")
xarray = pytest.importorskip("xarray")
pytest.importorskip("h5netcdf")

# ArviZ for Python 3.10 takes the trees of a package that xarray took in later.
open_datatree = getattr(xarray, "open_datatree", None) or pytest.importorskip("datatree").open_datatree


def test_dimensions_and_values() -> None:
    samples = torch.randn(7, 3, 2, 4)
    tree = to_inference_data(samples, sample_stats={"lp": samples[..., 0]}, attributes={"sampler": "HMC"})
    z = tree["posterior"]["z"]
    assert z.dims == ("chain", "draw", "datum", "latent")
    np.testing.assert_array_equal(z.values, samples.permute(2, 0, 1, 3).numpy())
    assert tree["sample_stats"]["lp"].dims == ("chain", "draw", "datum")
    np.testing.assert_array_equal(tree["sample_stats"]["lp"].values, z.values[..., 0])
    assert tree["posterior"].attrs["sampler"] == "HMC"


def test_without_chains_and_in_16_bits() -> None:
    samples = torch.randn(7, 3, 4).bfloat16()
    tree = to_inference_data(samples, name="code", sample_stats={"lp": torch.zeros(7, 3)})
    assert tree["posterior"]["code"].shape == (1, 7, 3, 4)
    assert tree["posterior"]["code"].dtype == np.float32


def test_round_trip(tmp_path: Path) -> None:
    samples = torch.randn(7, 3, 2, 4, requires_grad=True)
    path = tmp_path / "samples.nc"
    attributes = {"sampler": "MALA", "seed": 3, "step_size": torch.tensor(0.5), "frozen": True, "sizes": [1, 2]}
    save_netcdf(path, samples, sample_stats={"lp": torch.zeros(7, 3, 2)}, attributes=attributes)
    tree = arviz_base.convert_to_datatree(str(path), engine="h5netcdf")
    np.testing.assert_array_equal(tree["posterior"]["z"].values, samples.detach().permute(2, 0, 1, 3).numpy())
    found = tree["posterior"].attrs
    assert (found["sampler"], found["seed"], found["step_size"]) == ("MALA", 3, 0.5)
    assert (found["frozen"], found["sizes"]) == (1, "[1, 2]")
    assert found["torch_version"]
    assert found["ald_ext_version"]
    assert "lp" in tree["sample_stats"]
    assert [file.name for file in tmp_path.iterdir()] == ["samples.nc"]


@pytest.mark.parametrize("chains", [(), (2,)])
def test_divergences_of_a_storage(chains: tuple[int, ...], tmp_path: Path) -> None:
    """They are where NUTS has its own, in a file that xarray opens by itself, as the documentation says."""
    storage, diverging = SampleStorage(), torch.rand(7, 3, *chains) < 0.3
    for happened in diverging:
        storage.append(torch.randn(3, *chains, 4), happened)
    path = tmp_path / "samples.nc"
    save_netcdf(path, storage, sample_stats={"lp": torch.zeros(7, 3, *chains)})
    for tree in (to_inference_data(storage), open_datatree(path)):
        found = tree["sample_stats"]["diverging"]
        assert found.dims == ("chain", "draw", "datum")
        assert found.dtype == bool
        np.testing.assert_array_equal(found.values, diverging.view(7, 3, -1).permute(2, 0, 1).numpy())
        draws = storage.samples.view(7, 3, -1, 4).permute(2, 0, 1, 3).numpy()
        np.testing.assert_array_equal(tree["posterior"]["z"].values, draws)
    assert set(open_datatree(path)["sample_stats"].data_vars) == {"diverging", "lp"}
    assert "sample_stats" not in to_inference_data(storage.samples)


def test_a_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "samples.nc"
    path.write_text("precious")

    def fail(self: object, file: Path, **options: object) -> None:
        Path(file).write_text("half")
        raise OSError("disk full")

    monkeypatch.setattr(type(to_inference_data(torch.zeros(5, 2, 3))), "to_netcdf", fail)
    with pytest.raises(OSError, match="disk full"):
        save_netcdf(path, torch.zeros(5, 2, 3))
    assert path.read_text() == "precious"
    assert len(list(tmp_path.iterdir())) == 1


def test_errors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"sample_stats: lp: got shape \(7, 1, 2\), expected \(7, 3, 1\)"):
        to_inference_data(torch.zeros(7, 3, 4), sample_stats={"lp": torch.zeros(7, 1, 2)})
    with pytest.raises(ValueError, match=r"samples: got shape \(7, 3\)"):
        to_inference_data(torch.zeros(7, 3))
    monkeypatch.setitem(sys.modules, "h5netcdf", None)
    with pytest.raises(ImportError, match=r"ald_ext\[diagnostics\]"):
        save_netcdf(tmp_path / "a.nc", torch.zeros(7, 3, 4))
    monkeypatch.setitem(sys.modules, "arviz_base", None)
    with pytest.raises(ImportError, match=r"ald_ext\[diagnostics\]"):
        to_inference_data(torch.zeros(7, 3, 4))
