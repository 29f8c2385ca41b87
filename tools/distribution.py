"""Builds what is handed out, and tries it as its users will: `make sdist`, `make wheels`; packages are left in dist.

sdist: built, unpacked elsewhere, installed by pip with build isolation from a path with spaces, and tried; then the
README's lines of installation and its commands, in their order, in the environment that pip filled.
wheels: one for the CPU for every Python of this machine and, where nvcc is, one with the CUDA module too, whose version
has a local part, such as 0.1.0+cu130. Both are repaired by auditwheel without torch's libraries, installed in a fresh
environment without a compiler, and tried.
"""

import argparse
import os
import platform
import re
import shutil
import sys
import time
from pathlib import Path

from . import environments
from .environments import ROOT, StepFailedError, find_pythons, nvcc_version, run

DIST = ROOT / "dist"
WORK = ROOT / "build" / "distribution"
LARGEST_SDIST = 1_000_000
#: Libraries that torch brings. libtorch_cuda brings CUDA's own; our CUDA runtime is inside the module.
TORCHS_LIBRARIES = ("libtorch*.so", "libc10*.so", "libcudart.so*", "libcuda.so*")


def try_sdist() -> None:
    """Fails with a step's name where one of them fails."""
    began = time.monotonic()
    sdist = environments.build_sdist(DIST, WORK / "sdist.log")
    if sdist.stat().st_size > LARGEST_SDIST:
        raise StepFailedError(f"{sdist.name} has {sdist.stat().st_size:,} bytes, expected at most {LARGEST_SDIST:,}")
    source = environments.unpack(sdist, WORK / "a path with spaces")
    environment, log = WORK / "isolated", WORK / "isolated.log"
    shutil.rmtree(environment, ignore_errors=True)
    run("making the environment", [sys.executable, "-m", "venv", environment], log)
    python = environment / "bin" / "python"
    # pip's own resolver and isolation, as a user's. Constraints reach the isolated build only through the environment.
    file = (ROOT / "constraints.txt").as_uri()  # a path with a space would be taken for two
    constraints = {"PIP_CONSTRAINT": file, "PIP_BUILD_CONSTRAINT": file}
    run("upgrading pip", [python, "-m", "pip", "install", "--upgrade", "pip"], WORK / "pip.log", **constraints)
    installing = time.monotonic()
    run("installing in isolation", [python, "-m", "pip", "install", source], WORK / "install.log", **constraints)
    installed = time.monotonic()
    run("smoke test", [python, source / "tools" / "smoke.py"], WORK / "smoke.log", cwd=WORK)
    print((WORK / "smoke.log").read_text().splitlines()[-1])
    lines = re.findall(r"^(?:pip install|ald-ext) .*", (source / "README.md").read_text(), re.MULTILINE)
    path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    command: list[str | Path] = ["bash", "-euxc", "\n".join(lines)]
    run("the README's commands", command, WORK / "readme.log", cwd=source, PATH=path, PIP_CONSTRAINT=file)
    print(f"the README's commands: {len(lines)}, in {time.monotonic() - installed:.0f} s")
    for folder in (environment, source.parent):
        shutil.rmtree(folder)
    print(
        f"{sdist.name}: {sdist.stat().st_size:,} bytes; installed in isolation in {installed - installing:.0f} s, "
        f"all of it in {time.monotonic() - began:.0f} s"
    )


def make_wheel(version: str, interpreter: str, torch: str, sdist: Path, cuda: str | None) -> None:
    """Builds one against that torch, repairs it into dist and tries it."""
    name = f"{version}-{f'cu{cuda}'.replace('.', '') if cuda else 'cpu'}"
    logs = WORK / "logs" / name
    environment = WORK / name
    packages = (f"torch=={torch}", *environments.BUILD_REQUIREMENTS)
    python = environments.make_environment(environment, interpreter, *packages, log=logs / "environment.log")
    source = environments.unpack(sdist, environment / "source")
    if cuda:
        # A local version tells the two apart: both can be asked for by name, as torch's can.
        (source / "setup.cfg").write_text(f"[egg_info]\ntag_build = +cu{cuda.replace('.', '')}\n")
    variables = {"ALD_EXT_CUDA": "1" if cuda else "0"}
    built = environments.build_wheel(python, source, environment / "built", logs / "build.log", **variables)
    auditwheel: list[str | Path] = [sys.executable, "-m", "auditwheel", "repair", built]
    auditwheel += ["--wheel-dir", environment / "repaired"]
    auditwheel += [word for library in TORCHS_LIBRARIES for word in ("--exclude", library)]
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    run("repairing the wheel", auditwheel, logs / "repair.log", PATH=tools)
    repaired = next((environment / "repaired").glob("*.whl"))
    wheel = DIST / repaired.name
    shutil.move(repaired, wheel)
    # Tried in a fresh environment with the torch of constraints.txt and no compiler on PATH.
    (tested,) = re.findall(r"^torch==\S+", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    python = environments.make_environment(environment, interpreter, tested, log=logs / "fresh.log")
    environments.install(python, wheel, log=logs / "install.log")
    smoke: list[str | Path] = [python, ROOT / "tools" / "smoke.py", *(["--cuda"] if cuda else [])]
    run("smoke test", smoke, logs / "smoke.log", cwd=environment, PATH=str(python.parent), CUDA_HOME="", CXX="")
    said = (logs / "smoke.log").read_text().splitlines()[-1]
    print(f"{wheel.name}, {wheel.stat().st_size:,} bytes\n  {said}", flush=True)
    shutil.rmtree(environment)


def make_wheels(wanted: list[str]) -> int:
    """All of this machine's; those that fail are told at the end. The number of these."""
    pythons = {python: path for python, path in find_pythons().items() if not wanted or python in wanted}
    sdist = environments.build_sdist(DIST, WORK / "sdist.log")
    for old in DIST.glob("*.whl"):
        old.unlink()
    failures = []
    for version, interpreter in pythons.items():
        # The stable ABI's oldest: later ones run what was built against it.
        torch = environments.torch_releases(version)[0]
        for cuda in (None, nvcc_version()) if nvcc_version() else (None,):
            try:
                make_wheel(version, interpreter, torch, sdist, cuda)
            except StepFailedError as error:
                failures.append(f"Python {version}, {f'CUDA {cuda}' if cuda else 'CPU'}: {error}")
                print(failures[-1], file=sys.stderr, flush=True)
    print(f"{len(list(DIST.glob('*.whl')))} wheels in {DIST}, {len(failures)} failed")
    return len(failures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["sdist", "wheels"])
    parser.add_argument("--python", default="", help='for wheels, such as "3.11 3.12" (default: all)')
    options = parser.parse_args()
    if platform.system() != "Linux" and options.what == "wheels":
        sys.exit("wheels: manylinux wheels are built on Linux")
    try:
        sys.exit(try_sdist() if options.what == "sdist" else make_wheels(options.python.split()))
    except StepFailedError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
