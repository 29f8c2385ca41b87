"""Builds ald_ext._C, and ald_ext._C_cuda wherever nvcc is found, by driving CMakeLists.txt with Ninja.

ALD_EXT_CUDA=0 leaves the CUDA module out, ALD_EXT_CUDA=1 demands it. TORCH_CUDA_ARCH_LIST names the architectures, as
for torch's own extensions ("9.0", "8.0;9.0+PTX", "Hopper"); the default is the visible GPUs', or a portable list.
MAX_JOBS bounds the compilers that run at once. What was built is loaded and tried in a process of its own before it is
installed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import setuptools
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
#: With AddressSanitizer, without which Python does not load the modules: for tools/fuzz.
SANITIZED = os.environ.get("ALD_EXT_SANITIZE") == "1"
OLDEST_TORCH = (2, 11)
OLDEST_SETUPTOOLS = 77
PORTABLE_CUDA_ARCHITECTURES = "7.5;8.0;9.0+PTX"
#: Names that TORCH_CUDA_ARCH_LIST may have, as torch's own extensions read them (torch.utils.cpp_extension).
NAMED_CUDA_ARCHITECTURES = {
    "Maxwell": "5.0;5.2+PTX",
    "Maxwell+Tegra": "5.3",
    "Pascal": "6.0;6.1+PTX",
    "Volta": "7.0+PTX",
    "Volta+Tegra": "7.2",
    "Turing": "7.5+PTX",
    "Ampere": "8.0;8.6+PTX",
    "Ampere+Tegra": "8.7",
    "Ada": "8.9+PTX",
    "Hopper": "9.0+PTX",
    "Blackwell": "10.0;10.3;12.0;12.1+PTX",
    "Blackwell+Tegra": "11.0",
    "Rubin": "10.7+PTX",
}


def require_setuptools() -> None:
    """Stops an older one, which would refuse pyproject.toml with a riddle."""
    if int(setuptools.__version__.split(".")[0]) < OLDEST_SETUPTOOLS:
        sys.exit(
            f"ald_ext: building needs setuptools {OLDEST_SETUPTOOLS} or newer, got {setuptools.__version__}. "
            f"Upgrade it: pip install 'setuptools>={OLDEST_SETUPTOOLS},<82' (torch 2.11 and 2.12 ask for less than 82)"
        )


def import_torch():
    """torch, or an error that says how to get it."""
    try:
        import torch
    except ImportError as error:
        sys.exit(
            "ald_ext: building needs PyTorch, and this Python cannot import it "
            f"({error}). Install it first (pip install torch), then: pip install --no-build-isolation ."
        )
    version = tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])
    if version < OLDEST_TORCH:
        oldest = ".".join(map(str, OLDEST_TORCH))
        sys.exit(
            f"ald_ext: building needs PyTorch {oldest} or newer (its stable ABI), got {torch.__version__}. "
            f"Upgrade it: pip install --upgrade 'torch>={oldest}'"
        )
    return torch


def require_compiler() -> None:
    """Stops with the fix where there is no C++ compiler."""
    compiler = os.environ.get("CXX", "c++").split()[0]
    if shutil.which(compiler) is None and shutil.which("g++") is None and shutil.which("clang++") is None:
        sys.exit(
            f"ald_ext: no C++ compiler found (looked for {compiler}, g++, clang++). Install one (Debian/Ubuntu: "
            "apt install g++; Fedora: dnf install gcc-c++; conda: conda install cxx-compiler) or name it in CXX."
        )


def find_tool(name: str) -> str:
    """cmake or ninja: beside this Python, where pip puts it even if PATH does not lead there, or on PATH."""
    scripts = sysconfig.get_path("scripts")
    tool = shutil.which(name, path=os.pathsep.join([scripts, os.environ.get("PATH", "")]))
    if tool is None:
        sys.exit(f"ald_ext: {name} not found. Install it: pip install {name}")
    return tool


def find_nvcc() -> str | None:
    """nvcc from PATH, CUDA_HOME or /usr/local/cuda, unless ALD_EXT_CUDA=0."""
    choice = os.environ.get("ALD_EXT_CUDA", "")
    if choice not in ("", "0", "1"):
        sys.exit(f"ald_ext: ALD_EXT_CUDA is {choice!r}, expected 0, 1 or unset")
    if choice == "0":
        return None
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    candidates = [shutil.which("nvcc"), *(str(Path(home) / "bin" / "nvcc") for home in homes if home)]
    nvcc = next((candidate for candidate in candidates if candidate and Path(candidate).is_file()), None)
    if nvcc is None and choice == "1":
        sys.exit(
            "ald_ext: ALD_EXT_CUDA=1, but nvcc was found neither on PATH nor under CUDA_HOME or /usr/local/cuda. "
            "Install the CUDA toolkit, or unset ALD_EXT_CUDA for a CPU package."
        )
    return nvcc


def cuda_architectures(torch, nvcc: str) -> str:
    """CMake's list for TORCH_CUDA_ARCH_LIST: "8.0;9.0+PTX" becomes 80-real;90-real;90-virtual."""
    names, source = os.environ.get("TORCH_CUDA_ARCH_LIST", "").strip(" ,;"), "TORCH_CUDA_ARCH_LIST has"
    names = "" if names == "native" else names
    if not names and torch.cuda.is_available():
        capabilities = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
        names, source = ";".join(f"{major}.{minor}" for major, minor in sorted(capabilities)), "the visible GPUs have"
    elif not names:
        names, source = PORTABLE_CUDA_ARCHITECTURES, "the default list has"
    known = nvcc_architectures(nvcc)
    names = ";".join(NAMED_CUDA_ARCHITECTURES.get(name, name) for name in re.split(r"[;,\s]+", names))
    architectures, unknown = [], []
    for name in names.split(";"):
        match = re.fullmatch(r"(\d+)\.(\d)([af]?)(\+PTX)?", name)
        if match is None:
            sys.exit(
                f"ald_ext: TORCH_CUDA_ARCH_LIST has {name!r}, expected numbers like 8.0, 9.0a or 9.0+PTX, or names: "
                f"{', '.join(NAMED_CUDA_ARCHITECTURES)}"
            )
        major, minor, variant, ptx = match.groups()
        if known and (int(major), int(minor)) not in known:
            unknown.append(f"{major}.{minor}")
        architectures += [f"{major}{minor}{variant}-{kind}" for kind in ("real", "virtual") if kind == "real" or ptx]
    if unknown:
        sys.exit(
            f"ald_ext: {source} {', '.join(unknown)}, which {nvcc} does not compile for; it knows "
            f"{', '.join(f'{major}.{minor}' for major, minor in sorted(known))}. Name only these in "
            "TORCH_CUDA_ARCH_LIST, name another CUDA toolkit in CUDA_HOME, or build for the CPU: ALD_EXT_CUDA=0"
        )
    return ";".join(dict.fromkeys(architectures))


def nvcc_architectures(nvcc: str) -> set[tuple[int, int]]:
    """What nvcc compiles for, as compute capabilities."""
    try:
        listed = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True).stdout
    except OSError as error:
        sys.exit(f"ald_ext: {nvcc} cannot be run ({error}). Mend the CUDA toolkit, or leave CUDA out: ALD_EXT_CUDA=0")
    return {(int(major), int(minor)) for major, minor in re.findall(r"compute_(\d+)(\d)\b", listed)}


def parallel_jobs() -> list[str]:
    """What tells CMake of MAX_JOBS, which torch's own extensions heed; without it Ninja decides."""
    jobs = os.environ.get("MAX_JOBS", "").strip()
    if not jobs:
        return []
    if not jobs.isdecimal() or int(jobs) < 1:
        sys.exit(f"ald_ext: MAX_JOBS is {jobs!r}, expected a number of compilers from 1 on, or unset")
    return ["--parallel", str(int(jobs))]


def cuda_include_dirs(torch) -> list[str]:
    """The headers of pip's nvidia packages, for toolkits that lack some."""
    packages = Path(torch.__file__).resolve().parent.parent / "nvidia"
    return [str(folder) for folder in sorted(packages.glob("*/include"))]


class CMakeBuild(build_ext):
    """Runs CMake once for both modules and installs them beside the package."""

    def run(self) -> None:
        torch = import_torch()
        require_compiler()
        jobs = parallel_jobs()
        cmake = find_tool("cmake")
        target = (Path(self.build_lib) if not self.inplace else ROOT) / "ald_ext"
        build = Path(self.build_temp).resolve()
        build.mkdir(parents=True, exist_ok=True)
        target.mkdir(parents=True, exist_ok=True)
        run([cmake, "-S", str(ROOT), "-B", str(build), "-G", "Ninja", *self.definitions(torch)])
        run([cmake, "--build", str(build), *jobs])
        for stale in target.glob("_C*"):  # a CUDA module of an earlier build must not outlive a build without
            stale.unlink()
        run([cmake, "--install", str(build), "--prefix", str(target.resolve())])
        if not SANITIZED:
            try_modules(target.resolve(), build)

    def get_outputs(self) -> list[str]:
        return [str(path) for path in (Path(self.build_lib) / "ald_ext").glob("_C*")]

    def definitions(self, torch) -> list[str]:
        import pybind11

        torch_root = Path(torch.__file__).resolve().parent
        include = torch_root / "include"
        values = {
            "CMAKE_BUILD_TYPE": "Release",
            "CMAKE_MAKE_PROGRAM": find_tool("ninja"),  # a cached one may be that of an isolated build, gone since
            "ALD_EXT_TESTS": "OFF",
            "ALD_EXT_TORCH_INCLUDE_DIRS": f"{include};{include / 'torch' / 'csrc' / 'api' / 'include'}",
            "ALD_EXT_TORCH_LIBRARY_DIR": str(torch_root / "lib"),
            "ALD_EXT_TORCH_VERSION": torch.__version__,
            "ALD_EXT_PYTHON_INCLUDE_DIRS": f"{sysconfig.get_paths()['include']};{pybind11.get_include()}",
            "ALD_EXT_PYTHON_SUFFIX": sysconfig.get_config_var("EXT_SUFFIX"),
            "ALD_EXT_WITH_CUDA": "OFF",
            "ALD_EXT_SANITIZE": "ON" if SANITIZED else "OFF",
        }
        values.update(self.cuda_definitions(torch))
        return [f"-D{name}={value}" for name, value in values.items()]

    def cuda_definitions(self, torch) -> dict[str, str]:
        nvcc = find_nvcc()
        if nvcc is None:
            why = "ALD_EXT_CUDA=0" if os.environ.get("ALD_EXT_CUDA") == "0" else "nvcc was not found"
            print(f"ald_ext: {why}: building for the CPU only")
            return {}
        if torch.version.cuda is None:
            if os.environ.get("ALD_EXT_CUDA") == "1":
                sys.exit(
                    f"ald_ext: ALD_EXT_CUDA=1, but torch {torch.__version__} is a CPU build. "
                    "Install a CUDA build of torch."
                )
            print(
                f"ald_ext: torch {torch.__version__} is a CPU build: building for the CPU only, although {nvcc} exists"
            )
            return {}
        architectures = cuda_architectures(torch, nvcc)
        print(f"ald_ext: building for the CPU and CUDA ({nvcc}, architectures {architectures})")
        return {
            "ALD_EXT_WITH_CUDA": "ON",
            "CMAKE_CUDA_COMPILER": nvcc,
            "CMAKE_CUDA_ARCHITECTURES": architectures,
            "ALD_EXT_CUDA_INCLUDE_DIRS": ";".join(cuda_include_dirs(torch)),
        }


TRIAL = """
import importlib.util, sys, torch

for path in sys.argv[1:]:
    spec = importlib.util.spec_from_file_location(path.rpartition("/")[2].split(".")[0], path)
    importlib.util.module_from_spec(spec)
ones = torch.ones(3)
torch.ops.ald_ext.sgld_step_([ones], [ones.clone()], lr=0.5, num_data=1, temperature=0, weight_decay=0, maximize=False,
                             seed=1, step=1, noise_ids=[0], offsets=[0])
assert ones.tolist() == [0.5] * 3, f"a step from 1 by 0.5 led to {ones.tolist()}"
try:
    torch.ops.ald_ext.quantize(ones, 9)
except RuntimeError as error:
    assert str(error).startswith("ald_ext::quantize: bits: got 9, expected 1 to 8"), f"a refusal read: {error}"
else:
    raise AssertionError("quantize took 9 bits, expected a refusal")
"""


def try_modules(folder: Path, elsewhere: Path) -> None:
    """Loads what was built, runs an op and has one refuse an argument; stops with the reason where that fails."""
    modules = sorted(map(str, folder.glob("_C*")))
    environment = {name: value for name, value in os.environ.items() if name != "ALD_EXT_CPU_CAPABILITY"}
    command = [sys.executable, "-c", TRIAL, *modules]
    trial = subprocess.run(command, capture_output=True, text=True, cwd=elsewhere, env=environment)
    if trial.returncode == 0:
        return
    how = f"was ended by signal {-trial.returncode}" if trial.returncode < 0 else "failed"
    reason = (trial.stderr.strip().splitlines() or ["it printed no reason"])[-1]
    for module in modules:
        Path(module).unlink()
    sys.exit(
        f"ald_ext: the modules were built, but trying them {how}: {reason}. Nothing is installed. "
        "Another compiler (CXX=g++) or torch may help; ALD_EXT_CUDA=0 leaves CUDA out."
    )


def run(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True)
    except subprocess.CalledProcessError as error:
        sys.exit(
            f"ald_ext: this command failed with exit code {error.returncode}; its output is above: {' '.join(command)}"
        )


require_setuptools()
setup(ext_modules=[Extension("ald_ext._C", sources=[])], cmdclass={"build_ext": CMakeBuild})
