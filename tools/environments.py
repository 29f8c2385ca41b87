"""Pythons of this machine, torch's releases, virtual environments by uv, and packages built in them."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
OLDEST_TORCH = (2, 11)
BUILD_REQUIREMENTS = ("--group", f"{ROOT / 'pyproject.toml'}:build")


class StepFailedError(Exception):
    """A command of a step failed; the text says which and where its output is."""


def run(step: str, command: list[str | Path], log: Path, *, cwd: Path | None = None, **environment: str) -> None:
    """Runs a command with its output in a file, and raises StepFailedError, with its last line, where it fails."""
    log.parent.mkdir(parents=True, exist_ok=True)
    variables = {"UV_LINK_MODE": "hardlink", "UV_PYTHON_DOWNLOADS": "never", **os.environ, **environment}
    for name in ("VIRTUAL_ENV", "PYTHONPATH"):
        variables.pop(name, None)
    with log.open("w") as file:
        print("$", *command, file=file, flush=True)
        code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, cwd=cwd, env=variables).returncode
    if code:
        last_line = log.read_text(errors="replace").strip().splitlines()[-1]
        raise StepFailedError(f"{step}: {last_line} (exit code {code}; all of it: {log})")


def find_uv() -> str:
    """uv, beside this Python or on PATH."""
    uv = shutil.which("uv", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if uv is None:
        sys.exit("uv not found. Install it: pip install --group release (pip 25.1 or newer)")
    return uv


def find_pythons() -> dict[str, str]:
    """An interpreter of each version of PYTHONS that this machine has.

    Looked for in the environment variable PYTHONS (paths), then this Python, PATH, pyenv's folder and /usr/bin.
    """
    candidates = [*os.environ.get("PYTHONS", "").split(), sys.executable]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    for version in PYTHONS:
        candidates += filter(None, [shutil.which(f"python{version}")])
        candidates += sorted(map(str, pyenv.glob(f"{version}.*/bin/python{version}")))
        candidates.append(f"/usr/bin/python{version}")
    found: dict[str, str] = {}
    for candidate in candidates:
        code = "import sys, venv; print('%d.%d' % sys.version_info[:2], sys._base_executable)"
        try:
            answer = subprocess.run([candidate, "-c", code], capture_output=True, text=True, timeout=60, check=True)
        except (OSError, subprocess.SubprocessError):
            continue  # absent, or a shim of pyenv's for a version that is not there
        version, executable = answer.stdout.strip().split(maxsplit=1)
        if version in PYTHONS:
            found.setdefault(version, executable)
    return {version: found[version] for version in PYTHONS if version in found}


def torch_releases(python: str) -> list[str]:
    """The newest release of each minor version from the oldest supported on that has a wheel for that Python."""
    command = [sys.executable, "-m", "pip", "index", "versions", "torch", "--json"]
    command += ["--python-version", python, "--only-binary", ":all:"]
    answer = subprocess.run(command, capture_output=True, text=True)
    if answer.returncode:
        sys.exit(f"the index does not tell torch's releases: {answer.stderr.strip()}")
    newest: dict[tuple[int, int], str] = {}
    for text in reversed(json.loads(answer.stdout)["versions"]):  # the newest comes first
        if release := re.fullmatch(r"(\d+)\.(\d+)\.\d+", text):
            newest[int(release[1]), int(release[2])] = text
    return [text for minor, text in newest.items() if minor >= OLDEST_TORCH]


def make_environment(folder: Path, python: str, *requirements: str, log: Path) -> Path:
    """A fresh virtual environment with these packages (as uv's command line names them); its Python."""
    shutil.rmtree(folder, ignore_errors=True)
    run("making the environment", [find_uv(), "venv", "--python", python, folder], log)
    install(folder / "bin" / "python", *requirements, log=log)
    return folder / "bin" / "python"


def install(python: Path, *requirements: str | Path, log: Path) -> None:
    run("installing packages", [find_uv(), "pip", "install", "--python", python, *requirements], log)


def build_sdist(folder: Path, log: Path) -> Path:
    """The source distribution of this checkout; made by setuptools of this Python, without isolation."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.tar.gz"):
        old.unlink()
    command = [find_uv(), "build", "--sdist", "--no-build-isolation", "--python", sys.executable]
    run("building the source distribution", [*command, "--out-dir", folder, ROOT], log)
    return next(folder.glob("*.tar.gz"))


def unpack(sdist: Path, folder: Path) -> Path:
    """Unpacks it into an empty folder; the folder of setup.py."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.unpack_archive(sdist, folder)
    return next(path.parent for path in folder.glob("*/setup.py"))


def build_wheel(python: Path, source: Path, folder: Path, log: Path, **environment: str) -> Path:
    """Builds in an environment that has the build requirements and torch; the wheel."""
    shutil.rmtree(folder, ignore_errors=True)
    command = [find_uv(), "build", "--wheel", "--no-build-isolation", "--python", python, "--out-dir", folder, source]
    run("building the wheel", command, log, **environment)
    return next(folder.glob("*.whl"))


def nvcc_version() -> str | None:
    """The version, such as 13.0, of the nvcc that setup.py would find; None without one."""
    if os.environ.get("ALD_EXT_CUDA") == "0":
        return None
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    candidates = [shutil.which("nvcc"), *(f"{home}/bin/nvcc" for home in homes if home)]
    nvcc = next((candidate for candidate in candidates if candidate and Path(candidate).is_file()), None)
    if nvcc is None:
        return None
    match = re.search(r"release (\d+\.\d+)", subprocess.check_output([nvcc, "--version"], text=True))
    return match[1] if match else None
