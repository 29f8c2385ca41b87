"""Loads the compiled modules. Importing this registers the ops of torch.ops.ald_ext."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import torch

OLDEST_TORCH = (2, 11)


def _load_cpu() -> ModuleType:
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if version < OLDEST_TORCH:
        raise ImportError(
            f"ald_ext: got torch {torch.__version__}, expected 2.11 or newer. pip install --upgrade 'torch>=2.11'"
        )
    try:
        return importlib.import_module("ald_ext._C")
    except ModuleNotFoundError as error:
        raise ImportError(f"ald_ext: the compiled module ald_ext._C is missing. {_remedy()}") from error


def _remedy() -> str:
    """How to get the CPU module: a checkout that was never built may hide the installed package."""
    here = Path(__file__).resolve().parent
    for folder in sys.path:
        installed = Path(folder, "ald_ext").resolve()
        if installed != here and any(installed.glob("_C.*")):
            return (
                f"Python imported the package from {here}, a checkout without it, and not the installed one, "
                f"{installed}. Start Python in another folder, or build the checkout: "
                "pip install --no-build-isolation -e ."
            )
    return (
        "Build it: pip install --no-build-isolation . (or -e . in a checkout), from the folder of setup.py, "
        "with torch installed first."
    )


def _load_cuda() -> tuple[ModuleType | None, str]:
    """The module, or None and the reason with its remedy."""
    try:
        return importlib.import_module("ald_ext._C_cuda"), ""
    except ModuleNotFoundError:
        return None, (
            "ald_ext was built without CUDA. Install a CUDA build of torch and nvcc, then rebuild: "
            "ALD_EXT_CUDA=1 pip install --no-build-isolation --force-reinstall --no-deps ."
        )
    except ImportError as error:
        if torch.version.cuda is None:
            return None, (
                f"the CUDA module does not load under torch {torch.__version__}, a CPU build ({error}). "
                "Install a CUDA build of torch."
            )
        return None, f"the CUDA module does not load ({error}). Rebuild ald_ext with this torch."


cpu_module = _load_cpu()
cuda_module, cuda_failure = _load_cuda()
