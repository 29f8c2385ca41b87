"""What setup.py says where it cannot build, and how it tries what it built."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import setuptools
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
        (None, {"MAX_JOBS": "0"}, "MAX_JOBS is '0', expected a number of compilers from 1 on, or unset"),
        (None, {"MAX_JOBS": "all"}, "MAX_JOBS is 'all', expected a number of compilers from 1 on, or unset"),
    ],
)
def test_a_build_that_cannot_be_says_why_and_what_to_do(tmp_path, fake_torch, environment, message):
    assert_refused(build(tmp_path, fake_torch, **environment), message, tmp_path)


@pytest.mark.skipif(Path("/usr/local/cuda/bin/nvcc").exists(), reason="setup.py finds the nvcc of /usr/local/cuda")
def test_demanding_cuda_without_nvcc_is_refused(tmp_path):
    result = build(tmp_path, ALD_EXT_CUDA="1", PATH="/usr/bin:/bin", CUDA_HOME="/nowhere", CUDA_PATH="/nowhere")
    assert_refused(result, "nvcc was found neither on PATH nor under CUDA_HOME or /usr/local/cuda", tmp_path)


CUDA_TORCH = """
from types import SimpleNamespace
__version__ = "2.11.0"
version = SimpleNamespace(cuda="13.0")
cuda = SimpleNamespace(is_available=lambda: {visible}, device_count=lambda: 1, get_device_capability=lambda i: (6, 1))
"""


@pytest.mark.parametrize(
    ("visible", "asked", "message"),
    [
        (
            False,
            "6.0 7.0 8.0+PTX",
            "TORCH_CUDA_ARCH_LIST has 6.0, 7.0, which {nvcc} does not compile for; it knows 7.5",
        ),
        (
            False,
            " ",
            "the default list has 9.0, which {nvcc} does not compile for; it knows 7.5, 8.0, 10.0, 12.1. Name",
        ),
        (True, "", "the visible GPUs have 6.1, which {nvcc} does not compile for; it knows 7.5, 8.0, 10.0, 12.1. Name"),
    ],
)
def test_architectures_that_nvcc_lacks_are_refused(tmp_path, visible, asked, message):
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text("#!/bin/sh\necho compute_75; echo compute_80; echo compute_100; echo compute_121\n")
    nvcc.chmod(0o755)
    path = f"{nvcc.parent}{os.pathsep}{os.environ['PATH']}"
    result = build(tmp_path, CUDA_TORCH.format(visible=visible), TORCH_CUDA_ARCH_LIST=asked, PATH=path)
    assert_refused(result, message.format(nvcc=nvcc), tmp_path)
    assert "name another CUDA toolkit in CUDA_HOME, or build for the CPU: ALD_EXT_CUDA=0" in result.stderr


# --- Functions of setup.py ---


@pytest.fixture(scope="module")
def functions() -> SimpleNamespace:
    """What setup.py defines, without a build."""
    from distutils.core import run_setup  # setuptools' own, as setuptools is imported

    distribution = run_setup(str(SETUP), stop_after="init")
    return SimpleNamespace(**distribution.cmdclass["build_ext"].run.__globals__)


def refusal_of(function: Callable[..., object], *arguments: object) -> str:
    with pytest.raises(SystemExit) as refusal:
        function(*arguments)
    return str(refusal.value)


def torch_that_sees(*capabilities: tuple[int, int]) -> SimpleNamespace:
    cuda = SimpleNamespace(
        is_available=lambda: bool(capabilities),
        device_count=lambda: len(capabilities),
        get_device_capability=lambda device: capabilities[device],
    )
    return SimpleNamespace(cuda=cuda)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("9.0", "90-real"),
        ("8.0;9.0+PTX", "80-real;90-real;90-virtual"),
        ("9.0a 10.0f", "90a-real;100f-real"),
        ("Hopper", "90-real;90-virtual"),
        ("Ampere, Ampere+Tegra", "80-real;86-real;86-virtual;87-real"),
        ("Hopper;9.0", "90-real;90-virtual"),
        ("native", "61-real;90-real"),
        ("", "61-real;90-real"),
    ],
)
def test_architectures_are_read_as_torch_reads_them(functions, monkeypatch, asked, expected):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", asked)
    monkeypatch.setitem(functions.cuda_architectures.__globals__, "nvcc_architectures", lambda nvcc: set())
    assert functions.cuda_architectures(torch_that_sees((9, 0), (6, 1), (9, 0)), "nvcc") == expected


def test_unknown_architectures_are_refused(functions, monkeypatch):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0 Grace")
    monkeypatch.setitem(functions.cuda_architectures.__globals__, "nvcc_architectures", lambda nvcc: set())
    message = refusal_of(functions.cuda_architectures, torch_that_sees(), "nvcc")
    assert "TORCH_CUDA_ARCH_LIST has 'Grace', expected numbers like 8.0, 9.0a or 9.0+PTX, or names: Maxwell" in message


def test_an_old_setuptools_is_refused(functions, monkeypatch):
    monkeypatch.setattr(setuptools, "__version__", "65.5.0")
    message = refusal_of(functions.require_setuptools)
    assert "needs setuptools 77 or newer, got 65.5.0. Upgrade it: pip install 'setuptools>=77,<82'" in message


@pytest.mark.parametrize(
    ("torch_source", "reason"),
    [
        (None, "trying them failed: ImportError: "),
        (
            "import os; os.kill(os.getpid(), 11)",
            f"trying them was ended by signal {int(signal.SIGSEGV)}: it printed no",
        ),
    ],
    ids=["no library", "segmentation fault"],
)
def test_a_module_that_does_not_work_is_not_installed(functions, tmp_path, monkeypatch, torch_source, reason):
    module = tmp_path / "ald_ext" / "_C.cpython.so"
    module.parent.mkdir()
    module.write_text("not a library")
    if torch_source is not None:
        (tmp_path / "torch.py").write_text(torch_source)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert reason in refusal_of(functions.try_modules, module.parent, tmp_path)
    assert not module.exists()


# --- A compiler that links the C++ runtime statically ---

TESTS_OF = """
import sys, pytest
from ald_ext._extension import cpu_module
assert cpu_module.__file__ == sys.argv[1], f"tested {cpu_module.__file__}"
sys.exit(pytest.main(sys.argv[2:]))
"""

COMPILER = """#!/bin/sh
exec 9> "{lock}"
flock --nonblock 9 || touch "{overlap}"
c++ "$@" -O0
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the linker's options are GNU's")
def test_a_static_cpp_runtime(tmp_path):
    """Relocatable toolchains link so. A refused argument ended the process, or its message ended at the first number.

    The compilers run one by one, as MAX_JOBS asks, and do not optimize, which takes less time.
    """
    package, compiler = tmp_path / "ald_ext", tmp_path / "compiler"
    shutil.copytree(SETUP.parent / "ald_ext", package, ignore=shutil.ignore_patterns("_C*", "__pycache__"))
    compiler.write_text(COMPILER.format(lock=tmp_path / "lock", overlap=tmp_path / "overlap"))
    compiler.chmod(0o755)
    static = "-static-libstdc++ -static-libgcc"
    built = build(tmp_path, ALD_EXT_CUDA="0", LDFLAGS=static, MAX_JOBS="1", CXX=str(compiler))
    assert built.returncode == 0, built.stderr
    assert not (tmp_path / "overlap").exists(), "two compilers ran at once, though MAX_JOBS is 1"
    (module,) = package.glob("_C*")
    needed = subprocess.run(["readelf", "--dynamic", str(module)], capture_output=True, text=True, check=True).stdout
    assert "NEEDED" in needed
    assert "libstdc++" not in needed
    assert "libgcc" not in needed

    tests = Path(__file__).resolve().parent
    refusals = [str(tests / name) for name in ("ops/test_errors.py", "optim/test_errors.py")]
    run = subprocess.run(
        [sys.executable, "-c", TESTS_OF, str(module), "-q", "-p", "no:cacheprovider", *refusals],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        timeout=600,
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
