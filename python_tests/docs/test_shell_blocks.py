"""The commands of README.md and of the documentation run, in their order, in a fresh folder and a fresh environment.

The environment has what README's line of installation asks for and nothing else, linked from the one of the tests, so
that no network is needed. Blocks of "bash" are run; those of "sh" need a network, a GPU, hours, or a checkout, and only
their options are checked.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sysconfig
import venv
from pathlib import Path
from typing import Any

import pytest
from command_line import run
from docs.blocks import PAGES, README, blocks_of, installed_extras
from packaging.requirements import Requirement
from patience import PATIENCE

import ald_ext

pytestmark = pytest.mark.skipif(not README.is_file(), reason="README.md is not here: an installed package is tested")


def requirements_of(name: str, extras: set[str], found: dict[tuple[str, str], Any]) -> None:
    """Adds the distributions that ``pip install name[extras]`` installs, by name and extra, as far as they are here."""
    for extra in ["", *sorted(extras)]:
        if (name, extra) in found:
            continue
        try:
            found[name, extra] = distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # as CUDA's libraries beside a torch for the CPU; anything else will be missed by a command
        for text in distribution.requires or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                requirements_of(requirement.name, requirement.extras, found)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a virtual environment that holds the package with README's extras."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True, with_pip=False)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    found: dict[tuple[str, str], Any] = {}
    requirements_of("ald_ext", installed_extras(), found)
    for (name, _), distribution in found.items():
        if name == "ald_ext":
            continue
        for top in {file.parts[0] for file in distribution.files if file.parts[0] not in ("..", "__pycache__")}:
            link = packages / top
            if not link.exists():
                link.symlink_to(distribution.locate_file(top))
    (packages / "ald_ext.pth").write_text(str(Path(ald_ext.__file__).parent.parent))
    for name, module in (("ald-ext", "ald_ext.cli"), ("torchrun", "torch.distributed.run")):
        command = folder / "bin" / name
        command.write_text(f"#!{folder}/bin/python\nfrom {module} import main\nmain()\n")
        command.chmod(0o755)
    return folder


@pytest.mark.processes
@pytest.mark.parametrize("page", [pytest.param(page, id=page.stem) for page in PAGES if blocks_of(page, "bash")])
def test_bash_blocks(page: Path, environment: Path, tmp_path: Path) -> None:
    script = "\n".join(code for code, _ in blocks_of(page, "bash"))
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    variables["PATH"] = f"{environment / 'bin'}:{variables['PATH']}"
    variables.setdefault("OMP_NUM_THREADS", "1")  # the models are small, and other tests may have the other cores
    result = subprocess.run(
        ["bash", "-euxc", script], cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=PATIENCE
    )
    assert result.returncode == 0, f"{page.name}:\n{result.stdout}\n{result.stderr}"


def test_the_environment_has_only_what_the_installation_names(environment: Path) -> None:
    result = subprocess.run(
        [environment / "bin/python", "-c", "import pytest"], capture_output=True, text=True, timeout=PATIENCE
    )
    assert "No module named 'pytest'" in result.stderr


@pytest.mark.parametrize("page", [pytest.param(page, id=page.stem) for page in PAGES if blocks_of(page, "sh")])
def test_options_of_sh_blocks_exist(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    for code, _ in blocks_of(page, "sh"):
        for line in code.replace("\\\n", " ").splitlines():
            words = line.split("#")[0].split()
            if words[:1] == ["ald-ext"] and words[1] != "info":
                known = run(words[1], "--help").stdout
                for option in re.findall(r"(?<!\S)--[\w-]+", line.split("#")[0]):
                    assert option in known, f"{page.name}: {line}: ald-ext {words[1]} has no option {option}"
