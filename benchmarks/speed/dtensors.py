"""Steps of DTensors, the shards that FSDP2 and tensor parallelism make: each variant on 1e6 elements of its own."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore

import ald_ext

from .. import names
from ..measurement import Run
from .cases import SpeedCase, Variant
from .update import LR, PSGLD_OPTIONS, SGLD_OPTIONS

#: Rows and columns of a shard, which is the first of two of its parameter.
COUNT, SIDE = 32, 177


class Shards:
    """Values and gradients of the shards; and a process group that says to be two, of which the other is not there."""

    def __init__(self, device: torch.device) -> None:
        if not distributed.is_initialized():
            distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
        self.mesh = init_device_mesh(device.type, (2,))
        self.values, self.grads = torch.randn(2, COUNT, SIDE, SIDE, device=device)

    def params(self, dim: int) -> list[Tensor]:
        """Rows (dim 0) or columns (dim 1) of parameters of twice the size, with gradients."""
        params: list[Tensor] = []
        for tensors in zip(self.values, self.grads, strict=True):
            value, grad = (DTensor.from_local(tensor.clone(), self.mesh, [Shard(dim)]) for tensor in tensors)
            params.append(value.requires_grad_())
            params[-1].grad = grad
        return params


def prepare(make: Callable[..., torch.optim.Optimizer], dim: int, inputs: Shards) -> Run:
    optimizer = make(inputs.params(dim))

    def run() -> list[Tensor]:
        optimizer.step()
        return [param.to_local() for param in optimizer.param_groups[0]["params"]]

    return run


def check(make: Callable[..., torch.optim.Optimizer], dim: int, inputs: Shards, run: Callable[[], Any]) -> None:
    """The shards are those of whole parameters, after their first step."""
    wholes = [torch.cat([value, value], dim).requires_grad_() for value in inputs.values]
    for whole, grad in zip(wholes, inputs.grads, strict=True):
        whole.grad = torch.cat([grad, grad], dim)
    make(wholes).step()
    torch.testing.assert_close(run(), [whole.narrow(dim, 0, SIDE).detach() for whole in wholes])


def dtensor_cases(device: torch.device, quick: bool) -> list[SpeedCase]:
    makes: dict[str, tuple[Callable[..., torch.optim.Optimizer], int, int, tuple[str, ...]]] = {
        names.ADAM: (partial(torch.optim.Adam, lr=LR, fused=True), 0, 7, ()),
        names.PSGLD: (partial(ald_ext.PSGLD, **PSGLD_OPTIONS), 0, 5, (names.ADAM,)),
        names.SGLD: (partial(ald_ext.SGLD, **SGLD_OPTIONS), 0, 3, (names.ADAM,)),
        names.PSGLD + names.COLUMNS: (partial(ald_ext.PSGLD, **PSGLD_OPTIONS), 1, 5, (names.PSGLD,)),
        names.SGLD + names.COLUMNS: (partial(ald_ext.SGLD, **SGLD_OPTIONS), 1, 3, (names.SGLD,)),
    }
    variants = [
        Variant(name, 4 * words, partial(prepare, make, dim), partial(check, make, dim), over)
        for name, (make, dim, words, over) in makes.items()
    ]
    count = COUNT * SIDE * SIDE
    return [SpeedCase(names.DTENSORS, "1e6 in 32 tensors", count, partial(Shards, device), variants)]
