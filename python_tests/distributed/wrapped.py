"""Networks in every wrapper, stepped on gradients that are functions of the parameter alone, compared with one process.

What runs on the ranks of the worlds of test_wrappers.py.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy, fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

import ald_ext
from ald_ext.optim.names import clean_name

warnings.filterwarnings("ignore", module="torch")

OPTIMIZERS: dict[str, Callable[..., Any]] = {
    "sgld": ald_ext.SGLD,
    "psgld": ald_ext.PSGLD,
    "sghmc": ald_ext.SGHMC,
    "psgld, anchored": partial(ald_ext.PSGLD, localization=20.0),
}
OPTIONS = {"lr": 0.01, "num_data": 50, "weight_decay": 0.1, "seed": 3}
FLAGS: dict[str, dict[str, bool]] = {"fused": {}, "foreach": {"foreach": True}, "plain": {"fused": False}}
#: Of the compiled op; fewer of the others, which take longer.
STEPS, FEW_STEPS = 20, 3

#: The two dimensions of a mesh, by the number of processes.
MESH = {1: (1, 1), 2: (1, 2), 3: (3, 1), 4: (2, 2)}


def network(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """Sizes that no number of processes divides; always the same values."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).to(dtype)


def even_network() -> nn.Sequential:
    """FSDP2 splits columns evenly or not at all."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(12, 24), nn.Tanh(), nn.Linear(24, 36)).double()


def mesh_of_two() -> Any:
    return init_device_mesh("cpu", MESH[distributed.get_world_size()], mesh_dim_names=("rows", "columns"))


def mesh_of_one() -> Any:
    return init_device_mesh("cpu", (distributed.get_world_size(),))


def fsdp2(model: nn.Module, **options: Any) -> nn.Module:
    fully_shard(model[0], **options)
    return fully_shard(model, **options)


def fsdp1(model: nn.Module, **options: Any) -> nn.Module:
    model[0] = FullyShardedDataParallel(model[0], device_id=torch.device("cpu"), **options)
    return FullyShardedDataParallel(model, device_id=torch.device("cpu"), **options)


def tensor_parallel(model: nn.Module, mesh: Any, *styles: Any) -> nn.Module:
    return parallelize_module(model, mesh, dict(zip(("0", "2", "4"), styles, strict=True)))


def fsdp2_of_tensor_parallel(model: nn.Module) -> nn.Module:
    mesh = mesh_of_two()
    tensor_parallel(model, mesh["columns"], ColwiseParallel(), RowwiseParallel(), ColwiseParallel())
    return fsdp2(model, mesh=mesh["rows"])


#: By what is done to the network. Each has named parameters.
WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "none": lambda model: model,
    "DDP": DistributedDataParallel,
    "FSDP2": fsdp2,
    "FSDP2, 2-D mesh": lambda model: fsdp2(model, mesh=mesh_of_two()),
    "FSDP1, original": lambda model: fsdp1(model, use_orig_params=True),
    "FSDP1, flat": lambda model: fsdp1(model, use_orig_params=False),
    "FSDP1, not sharded": lambda model: fsdp1(model, use_orig_params=True, sharding_strategy=ShardingStrategy.NO_SHARD),
    "ColwiseParallel": lambda model: tensor_parallel(model, mesh_of_one(), *(ColwiseParallel() for _ in range(3))),
    "RowwiseParallel": lambda model: tensor_parallel(model, mesh_of_one(), *(RowwiseParallel() for _ in range(3))),
    "FSDP2 + TP": fsdp2_of_tensor_parallel,
}

#: Placements of one tensor on the mesh of two dimensions.
PLACEMENTS = {
    f"{first}, {second}": (first, second)
    for first, second in itertools.product((Replicate(), Shard(0), Shard(1), Shard(2)), repeat=2)
}


def give_gradients(params: Any) -> None:
    for param in params:
        param.grad = param.detach() * 1.5 + 0.25


def steps(optimizer: Any, params: Any, count: int = STEPS) -> None:
    params = list(params)
    for _ in range(count):
        give_gradients(params)
        optimizer.step()


def whole(model: nn.Module) -> dict[str, Tensor]:
    """All parameters by their clean names, on every rank."""
    if any(isinstance(module, FullyShardedDataParallel) for module in model.modules()):
        with FullyShardedDataParallel.summon_full_params(model):
            named = {name: param.detach().clone() for name, param in model.named_parameters()}
    else:
        named = {
            name: param.full_tensor() if isinstance(param, DTensor) else param.detach()
            for name, param in model.named_parameters()
        }
    return {clean_name(name): value for name, value in named.items()}


def difference(model: nn.Module, expected: dict[str, Tensor]) -> str:
    """Empty where the parameters of the model are the expected ones, bit for bit."""
    got = whole(model)
    if got.keys() != expected.keys():
        return f"got parameters {list(got)}"
    return " ".join(name for name, value in expected.items() if not torch.equal(got[name], value))


def one_process(kind: str, model: nn.Module, flags: dict[str, Any], count: int = STEPS) -> dict[str, Tensor]:
    optimizer = OPTIMIZERS[kind](model.named_parameters(), **OPTIONS, **flags)
    steps(optimizer, model.parameters(), count)
    return whole(model)


def of_wrappers() -> Iterator[tuple[str, str]]:
    for kind, (implementation, flags) in itertools.product(OPTIMIZERS, FLAGS.items()):
        count = FEW_STEPS if flags else STEPS
        expected = one_process(kind, network(), flags, count)
        for wrapper, wrap in WRAPPERS.items():
            model = wrap(network())
            ald_ext.name_parameters(model)
            optimizer = OPTIMIZERS[kind](model.parameters(), **OPTIONS, **flags)
            steps(optimizer, model.parameters(), count)
            yield f"{wrapper}/{kind}/{implementation}", difference(model, expected)

        model = fsdp2(even_network(), shard_placement_fn=lambda param: Shard(param.dim() - 1))
        optimizer = OPTIMIZERS[kind](model.named_parameters(), **OPTIONS, **flags)
        steps(optimizer, model.parameters(), count)
        expected_columns = one_process(kind, even_network(), flags, count)
        yield f"FSDP2, columns/{kind}/{implementation}", difference(model, expected_columns)

        model = network()
        ald_ext.name_parameters(model)
        redundant = ZeroRedundancyOptimizer(model.parameters(), OPTIMIZERS[kind], **OPTIONS, **flags)
        steps(redundant, model.parameters(), count)
        yield f"ZeRO/{kind}/{implementation}", difference(model, expected)

        model = network()
        ald_ext.name_parameters(model)
        for param in model.parameters():
            optimizer = OPTIMIZERS[kind]([param], **OPTIONS, **flags)
            param.register_post_accumulate_grad_hook(lambda _, optimizer=optimizer: optimizer.step())
        for _ in range(count):
            model.zero_grad()
            sum((0.75 * param.square() + 0.25 * param).sum() for param in model.parameters()).backward()
        yield f"in the backward pass/{kind}/{implementation}", difference(model, expected)


def of_placements() -> Iterator[tuple[str, str]]:
    mesh = mesh_of_two()
    for dtype in (torch.float32, torch.bfloat16):
        values = torch.linspace(-1, 1, 5 * 7 * 6).reshape(5, 7, 6).to(dtype)
        for layout, value in {"": values, ", permuted": values.permute(2, 0, 1)}.items():
            expected = value.clone()
            steps(ald_ext.PSGLD([("w", expected)], **OPTIONS), [expected])
            for name, placements in PLACEMENTS.items():
                shard = distribute_tensor(value.clone(), mesh, placements)
                steps(ald_ext.PSGLD([("w", shard)], **OPTIONS), [shard])
                equal = torch.equal(shard.full_tensor(), expected)
                yield f"{name}/{dtype}{layout}", "" if equal else "other values"


def table(folder: Path) -> dict[str, str]:
    """What differs from one process on any rank, by cell; an empty text where nothing does."""
    cells = dict([*of_wrappers(), *of_placements()])
    everybodys: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(everybodys, cells)
    return {name: " ".join(sorted({ranks[name] for ranks in everybodys})).strip() for name in cells}


def on_cuda(folder: Path) -> dict[str, str]:
    """FSDP2 on one GPU, whose shards are whole, but DTensors."""
    differences = {}
    for kind, (implementation, flags) in itertools.product(
        OPTIMIZERS, {**FLAGS, "graph": {"capturable": True}}.items()
    ):
        expected = one_process(kind, network().cuda(), flags)
        model = network().cuda()
        fully_shard(model, mesh=init_device_mesh("cuda", (1,)))
        optimizer = OPTIMIZERS[kind](model.named_parameters(), **OPTIONS, **flags)
        steps(optimizer, model.parameters())
        differences[f"{kind}/{implementation}"] = difference(model, expected)
    return differences
