"""Where figures come from: machine, versions, commit."""

import os
import platform
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

import ald_ext
from ald_ext._extension import cpu_module, cuda_module

REPOSITORY = Path(__file__).resolve().parent.parent
#: What is measured and what measures; changes elsewhere do not make a commit "dirty".
MEASURED_PATHS = (
    "ald_ext",
    "csrc",
    "benchmarks",
    "tools/noise",
    "setup.py",
    "CMakeLists.txt",
    ":(exclude)benchmarks/results",
)


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
        "cores": usable_cores(),
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
            "gpu_driver": gpu_driver(),
        }
    return machine


def gpu_driver() -> str:
    """The version of NVIDIA's driver; "unknown" where nvidia-smi does not tell."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    except (OSError, subprocess.CalledProcessError):
        lines = []
    return lines[0] if lines else "unknown"


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Cores that this process may use, which may be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
    try:
        commit = git("rev-parse", "HEAD")
        return f"{commit}-dirty" if git("status", "--porcelain", "--", *MEASURED_PATHS) else commit
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def git(*arguments: str) -> str:
    command = ["git", "-C", str(REPOSITORY), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
