"""What setup.py says where it cannot build."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from patience import PATIENCE

SETUP = Path(__file__).resolve().parent.parent / "setup.py"

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(not SETUP.is_file(), reason="setup.py is not here: an installed package is tested"),
]


def build(folder: Path, fake_torch: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs build_ext with the output in `folder`; `fake_torch` is the source of a module that stands for torch."""
    variables = {**os.environ, **environment}
    if fake_torch is not None:
        (folder / "torch.py").write_text(fake_torch)
        variables["PYTHONPATH"] = str(folder)
    command = [
        sys.executable,
        str(SETUP),
        "build_ext",
        "--build-lib",
        str(folder),
        "--build-temp",
        str(folder / "build"),
    ]
    return subprocess.run(command, capture_output=True, text=True, env=variables, cwd=folder, timeout=PATIENCE)


def assert_refused(result: subprocess.CompletedProcess[str], message: str, folder: Path) -> None:
    assert result.returncode != 0
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(folder.glob("ald_ext/_C*"))


@pytest.mark.parametrize(
    ("fake_torch", "environment", "message"),
    [
        ("raise ImportError('no torch')", {}, "Install it first (pip install torch)"),
        ("__version__ = '2.5.1+cu121'", {}, "PyTorch 2.11 or newer (its stable ABI), got 2.5.1+cu121. Upgrade it: pip"),
        (None, {"PATH": "", "CXX": "none"}, "no C++ compiler found (looked for none, g++, clang++)"),
        (None, {"ALD_EXT_CUDA": "yes"}, "ALD_EXT_CUDA is 'yes', expected 0, 1 or unset"),
    ],
)
def test_a_build_that_cannot_be_says_why_and_what_to_do(tmp_path, fake_torch, environment, message):
    assert_refused(build(tmp_path, fake_torch, **environment), message, tmp_path)


@pytest.mark.skipif(
    shutil.which("nvcc") is None or torch.version.cuda is None, reason="needs nvcc and a CUDA build of torch"
)
def test_unknown_architectures_are_refused(tmp_path):
    result = build(tmp_path, ALD_EXT_CUDA="1", TORCH_CUDA_ARCH_LIST="Hopper")
    assert_refused(result, "TORCH_CUDA_ARCH_LIST has 'Hopper', expected numbers like 8.0 or 9.0+PTX", tmp_path)


@pytest.mark.skipif(Path("/usr/local/cuda/bin/nvcc").exists(), reason="setup.py finds the nvcc of /usr/local/cuda")
def test_demanding_cuda_without_nvcc_is_refused(tmp_path):
    result = build(tmp_path, ALD_EXT_CUDA="1", PATH="/usr/bin:/bin", CUDA_HOME="/nowhere", CUDA_PATH="/nowhere")
    assert_refused(result, "nvcc was found neither on PATH nor under CUDA_HOME or /usr/local/cuda", tmp_path)
