"""Where figures come from: machine, versions, commit."""

import os
import platform
import re
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from torch.utils.collect_env import get_nvidia_driver_version, run

import ald_ext
from ald_ext._extension import cpu_module, cuda_module

REPOSITORY = Path(__file__).resolve().parent.parent
#: What is measured and what measures; changes elsewhere do not make a commit "dirty".
MEASURED_PATHS = [
    "ald_ext",
    "csrc",
    "benchmarks",
    "tools/noise",
    "setup.py",
    "CMakeLists.txt",
    ":(exclude)benchmarks/results",
]


def describe_run(device: torch.device, origin: str) -> dict[str, Any]:
    """What runs now, and where; ``origin`` tells where the figures come from."""
    return {
        "origin": origin,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": git_commit(),
        "machine": describe_machine(device),
        "versions": describe_versions(device),
    }


def describe_machine(device: torch.device) -> dict[str, Any]:
    build = cpu_module.build_info()
    machine: dict[str, Any] = {
        "cpu": cpu_model(),
        # Those that this process may use, which may be fewer than the machine has.
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "instruction_set": build["cpu_capability"],
        "torch_instruction_set": torch.backends.cpu.get_cpu_capability(),
        "system": platform.system(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        machine |= {
            "gpu": properties.name,
            "gpu_compute_capability": f"{properties.major}.{properties.minor}",
            "gpu_multiprocessors": properties.multi_processor_count,
            "gpu_memory_bytes": properties.total_memory,
            "gpu_driver": get_nvidia_driver_version(run) or "unknown",
        }
    return machine


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: *(.*?)\s*$", cpuinfo.read_text() if cpuinfo.exists() else "", re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()


def describe_versions(device: torch.device) -> dict[str, Any]:
    build = cpu_module.build_info()
    versions = {
        "ald_ext": ald_ext.__version__,
        "compiler": build["compiler"],
        "torch": torch.__version__,
        "torch_built_against": build["torch_built_against"],
        "python": platform.python_version(),
    }
    if device.type == "cuda":
        versions["cuda"] = torch.version.cuda
        versions["cuda_module"] = cuda_module.build_info() if cuda_module is not None else None
    return versions


def git_commit() -> str:
    """The commit, with "-dirty" where the code differs from it; "unknown" outside a checkout."""
    git, paths = ["git", "-C", str(REPOSITORY)], [*MEASURED_PATHS, ":(exclude)benchmarks/results"]
    try:
        commit = subprocess.check_output([*git, "rev-parse", "HEAD"], text=True, stderr=subprocess.DEVNULL).strip()
        changes = subprocess.check_output([*git, "status", "--porcelain", "--", *paths])
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit}-dirty" if changes else commit
