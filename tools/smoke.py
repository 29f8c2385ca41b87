"""What an installed package shows of itself at once: modules, a step of an optimizer, a refusal."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

import ald_ext
from ald_ext._extension import cpu_module, cuda_failure, cuda_module


def expect(holds: object, otherwise: str) -> None:
    if not holds:
        sys.exit(f"smoke test: {otherwise}")


def refusal() -> str:
    """What an op says of an argument that it does not take."""
    try:
        torch.ops.ald_ext.quantize(torch.ones(3), 9)
    except RuntimeError as error:
        return str(error)
    return "nothing"


expect(Path(ald_ext.__file__).is_relative_to(sys.prefix), f"{ald_ext.__file__} is not the installed package")
draws = ald_ext.ops.normal(100_000, seed=1, step=1)
expect(draws.mean().abs() < 0.02, f"100,000 normals have the mean {draws.mean()}")
expect((draws.std() - 1).abs() < 0.02, f"100,000 normals have the deviation {draws.std()}")

parameter = torch.nn.Parameter(torch.ones(3))
optimizer = ald_ext.PSGLD([parameter], lr=0.1, num_data=10)
parameter.square().sum().backward()
optimizer.step()
expect(parameter.isfinite().all() and (parameter != 1).all(), f"a step from ones led to {parameter.tolist()}")
expect("bits: got 9, expected 1 to 8" in refusal(), f"9 bits should be refused; it said {refusal()}")
expect("--cuda" not in sys.argv or cuda_module is not None, f"the CUDA module does not load: {cuda_failure}")

modules = "CPU and CUDA" if cuda_module is not None else "CPU"
built_against = cpu_module.build_info()["torch_built_against"]
print(f"ald_ext {ald_ext.__version__}: {modules}, built against torch {built_against}, runs under {torch.__version__}")
