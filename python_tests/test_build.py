"""The compiled modules: what they link to, the instruction sets they choose from, and what happens without them."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from ald_ext import _extension
from ald_ext._extension import cpu_module, cuda_module

CAPABILITIES = cpu_module.build_info()["cpu_capabilities_usable"]


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


# --- The stable ABI ---


def undefined_symbols(module: ModuleType) -> str:
    command = ["nm", "-D", "--undefined-only", "--demangle", module.__file__]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.skipif(shutil.which("nm") is None, reason="nm (binutils) is missing")
@pytest.mark.parametrize("module", [cpu_module, cuda_module], ids=["_C", "_C_cuda"])
def test_no_symbol_of_the_unstable_abi(module: ModuleType | None) -> None:
    """One binary runs under every torch from 2.11 on only if it takes nothing from at:: or c10::."""
    if module is None:
        pytest.skip(f"the CUDA module did not load: {_extension.cuda_failure}")
    symbols = undefined_symbols(module)
    assert "aoti_torch_" in symbols, "nm shows no symbol of torch at all: this test sees nothing"
    assert re.findall(r".*\b(?:at|c10)::.*", symbols) == []


# --- Instruction sets ---


def test_build_info() -> None:
    info = cpu_module.build_info()
    assert info["cpu_capability"] in info["cpu_capabilities_usable"]
    assert set(info["cpu_capabilities_usable"]) <= set(info["cpu_capabilities_built"])
    assert info["cpu_capabilities_usable"][0] in ("default", "neon")
    assert info["compiler"]
    assert info["torch_built_against"]
    if "ALD_EXT_CPU_CAPABILITY" not in os.environ:
        assert info["cpu_capability"] == info["cpu_capabilities_usable"][-1], "the widest is the default choice"


# Prints the capability in use and, for each number of threads, a hash over the bits of every op's results. NaN has one
# spelling in it.
FINGERPRINT = """
import hashlib, sys, torch, ald_ext
from ald_ext import ops
from ald_ext._extension import cpu_module

SMALL, LARGE = 10007, 50021  # of which the second is divided among threads

def strange(like):
    return torch.tensor([float("inf"), float("-inf"), float("nan"), 1e30, 1e-42]).to(like.dtype)

def draw(n, step, dtype=torch.float32):
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return ops.normal(n, seed=1, step=step, offset=5, dtype=wide).to(dtype)

def steps(n, dtype):
    state_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    step = dict(lr=0.01, num_data=10, weight_decay=0.1, seed=3, step=7, offsets=[13])
    tensors = dict(step, lr=torch.tensor(0.01), step=torch.tensor(7))
    for gradient in (draw(n, 3, dtype), torch.cat([draw(n, 3, dtype)[5:], strange(draw(1, 3, dtype))])):
        for temperature in (0.0, 1.0):
            param, square_avg = draw(n, 2, dtype), draw(n, 4, state_dtype).square()
            for clock in (step, tensors):
                ops.sgld_step_([param], [gradient], temperature=temperature, **clock)
                ops.psgld_step_([param], [gradient], [square_avg], temperature=temperature, **clock)
                ops.psgld_step_([param], [gradient], [square_avg], temperature=temperature, freeze_after=-1, **clock)
                yield from (param, square_avg)

def latent_steps(n, dtype):
    for dimension in (1, 2, 3, 7, 16, 17, 65, 10_000):
        index = torch.arange(n // dimension) * 2**40 % 2**44
        z, momenta, grad = (draw(len(index) * dimension, k, dtype).reshape(-1, dimension) for k in (10, 11, 12))
        ops.latent_langevin_step_(z, grad, index, lr=0.1, seed=1, step=2)
        ops.latent_underdamped_step_(z, momenta, grad, index, lr=0.1, momentum=0.9, seed=1, step=3)
        yield from (z, momenta, ops.latent_normal(index, dimension, seed=1, step=4, dtype=dtype))

def likelihoods(n, dtype):
    for shape in ((1, n), (n // 7, 7)):
        x, mean = (draw(n // 7 * 7 if shape[1] == 7 else n, k, dtype).reshape(shape) for k in (5, 6))
        x.requires_grad_(), mean.requires_grad_()
        for scale in (1.0, 1e25):
            value = ops.marginal_gaussian_log_prob(x, scale * mean)
            yield from (value, *torch.autograd.grad(value.sum(), (x, mean)))

def dequantizations(n, dtype):
    pixels, h = (torch.arange(n) % 256).to(torch.uint8), (20 * draw(n, 7, dtype)).requires_grad_()
    y = ops.langevin_dequantize(pixels, h)
    yield from (y, torch.autograd.grad(y.sum(), h)[0], ops.quantize(draw(n, 8, dtype)))
    mean = draw(n, 9, dtype).reshape(1, n).requires_grad_()
    y, value = ops.dequantized_log_prob(pixels.reshape(1, n), h.reshape(1, n), mean)
    yield from (y, value, *torch.autograd.grad(value.sum(), (h, mean)))

def everything():
    for n in (SMALL, LARGE):
        for dtype in ops.PARAMETER_DTYPES:
            yield from steps(n, dtype)
        for dtype in (torch.float32, torch.float64):
            yield draw(n, 1, dtype)
            yield from latent_steps(n, dtype)
            yield from likelihoods(n, dtype)
            yield from dequantizations(n, dtype)

def fingerprint():
    hashed = hashlib.sha256()
    for tensor in everything():
        tensor = tensor.detach().contiguous()
        if tensor.is_floating_point():
            tensor = torch.where(tensor.isnan(), torch.full_like(tensor, 12345.0), tensor)
        hashed.update(tensor.view(torch.uint8).numpy().tobytes())
    return hashed.hexdigest()

hashes = []
for threads in (1, 2, 3):
    torch.set_num_threads(threads)
    hashes.append(fingerprint())
print(cpu_module.build_info()["cpu_capability"], *hashes)
"""


@functools.cache
def fingerprints(capability: str) -> list[str]:
    """For 1, 2 and 3 threads."""
    finished = run_python(FINGERPRINT, ALD_EXT_CPU_CAPABILITY=capability)
    assert finished.returncode == 0, finished.stderr
    in_use, *hashes = finished.stdout.split()
    assert in_use == capability
    assert len(hashes) == 3
    return hashes


@pytest.mark.processes
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_every_instruction_set_and_number_of_threads_gives_the_same_bits(capability: str) -> None:
    """All equal one, so all pairs are equal."""
    assert fingerprints(capability) == [fingerprints(CAPABILITIES[0])[0]] * 3


@pytest.mark.processes
def test_unknown_capability_is_a_clear_error() -> None:
    finished = run_python("import ald_ext", ALD_EXT_CPU_CAPABILITY="sse9")
    assert finished.returncode != 0
    last_line = finished.stderr.strip().splitlines()[-1]
    for part in ("ALD_EXT_CPU_CAPABILITY", "'sse9'", "expected", *CAPABILITIES):
        assert part in last_line


# --- Without compiled modules ---


def test_missing_cpu_module_says_how_to_build_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ald_ext._C", None)
    with pytest.raises(ImportError, match=r"ald_ext\._C is missing.*pip install"):
        _extension._load_cpu()


def test_a_checkout_that_hides_the_installed_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`pip install .`, then `import ald_ext` in the checkout: building again would not help."""
    installed = tmp_path / "ald_ext"
    installed.mkdir()
    (installed / "_C.cpython.so").touch()
    monkeypatch.setitem(sys.modules, "ald_ext._C", None)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    with pytest.raises(ImportError) as refusal:
        _extension._load_cpu()
    here = Path(_extension.__file__).parent
    assert f"imported the package from {here}" in str(refusal.value)
    assert f"not the installed one, {installed}. Start Python in another folder" in str(refusal.value)


def test_old_torch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.10.1+cpu")
    with pytest.raises(ImportError, match=r"got torch 2\.10\.1.*expected 2\.11"):
        _extension._load_cpu()


WITHOUT_CUDA_MODULE = """
import sys
sys.modules["ald_ext._C_cuda"] = None
import torch, ald_ext
from ald_ext import ops
assert ops.normal(3, seed=1, step=1).shape == (3,)
cuda_keys = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
try:
    # As for a CUDA tensor, but without a GPU.
    torch.ops.ald_ext.quantize.default.redispatch(cuda_keys, torch.zeros(3), 8)
except RuntimeError as error:
    print(error)
"""


@pytest.mark.processes
def test_without_the_cuda_module_the_cpu_works_and_cuda_names_the_cause() -> None:
    finished = run_python(WITHOUT_CUDA_MODULE)
    assert finished.returncode == 0, finished.stderr
    assert re.search(r"ald_ext::quantize: no CUDA kernel: .*ALD_EXT_CUDA=1 pip install", finished.stdout)
