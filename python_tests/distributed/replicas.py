"""Seeds and replicas on several ranks: what runs in the worlds of test_replicas.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as distributed
from distributed.wrapped import FLAGS, OPTIONS, difference, give_gradients, network, one_process, steps, whole
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor import DTensor, Partial, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from ald_ext import PSGLD, SGLD, name_parameters


def everybodys(value: Any) -> list[Any]:
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


def error_of(step: Any) -> str:
    try:
        step()
    except (RuntimeError, ValueError) as error:
        return str(error)
    return ""


def seed_of(optimizer: Any) -> int:
    return optimizer.param_groups[0]["seed"]


def step(optimizer: Any) -> None:
    give_gradients(param for group in optimizer.param_groups for param in group["params"])
    optimizer.step()


def findings(folder: Path) -> dict[str, Any]:
    """What each rank saw, in a list by rank."""
    rank = distributed.get_rank()
    torch.manual_seed(rank)
    found: dict[str, Any] = {}

    # Unseeded replicas, minibatches of each rank's own; then one rank uses its generator once more.
    model = DistributedDataParallel(network())
    optimizers = [PSGLD(model.parameters(), 0.01, num_data=50, eps=0.5) for _ in range(2)]
    found["seeds of two optimizers"] = [seed_of(optimizer) for optimizer in optimizers]
    if rank == 1:
        torch.rand(3)
    for _ in range(50):
        model.zero_grad()
        model(torch.randn(4, 6, dtype=torch.float64)).square().mean().backward()
        optimizers[0].step()
    found["parameters after 50 steps"] = [param.tolist() for param in whole(model).values()]

    # Made before the process group was.
    with mock.patch("ald_ext.optim.base.in_process_group", return_value=False):
        early = SGLD(network().parameters(), 0.1, num_data=1)
    found["made early"] = [seed_of(early), error_of(lambda: step(early)), seed_of(early)]

    # And whose first step is compiled.
    model = network()
    with mock.patch("ald_ext.optim.base.in_process_group", return_value=False):
        early = SGLD(model.named_parameters(), 0.1, num_data=1)
    compiled = torch.compile(early.step, backend="eager")
    for _ in range(2):
        give_gradients(model.parameters())
        compiled()
    found["made early, compiled"] = [param.tolist() for param in model.parameters()]

    # Names with a prefix; parameters that a wrapper replaces when the optimizer has been made; a compiled step.
    for flags in FLAGS.values():
        model = network()
        name_parameters(model, "critic")
        expected = one_process("psgld", model, flags, 3)
        wrapped = DistributedDataParallel(network())
        name_parameters(wrapped, "critic")
        steps(PSGLD(wrapped.parameters(), **OPTIONS, **flags), wrapped.parameters(), 3)
        found[f"prefix, {json.dumps(flags)}"] = difference(wrapped, expected)
        expected = one_process("psgld", network(), flags, 3)
        for already in (0, 1):
            model = network()
            optimizer = PSGLD(model.named_parameters(), **OPTIONS, **flags)
            steps(optimizer, model.parameters(), already)
            old = list(model.parameters())
            fully_shard(model)
            optimizer.param_groups[0]["params"] = list(model.parameters())
            if already:
                for param, new in zip(old, model.parameters(), strict=True):
                    square_avg = distribute_tensor(
                        optimizer.state.pop(param)["square_avg"], new.device_mesh, [Shard(0)]
                    )
                    optimizer.state[new] = {"square_avg": square_avg}
            steps(optimizer, model.parameters(), 3 - already)
            found[f"replaced after {already}, {json.dumps(flags)}"] = difference(model, expected)
        model = fully_shard(network())
        optimizer = PSGLD(model.named_parameters(), **OPTIONS, **flags)
        compiled = torch.compile(optimizer.step, backend="eager")
        for _ in range(3):
            give_gradients(model.parameters())
            compiled()
        found[f"compiled, {json.dumps(flags)}"] = difference(model, expected)

    # A rank of ZeroRedundancyOptimizer has nothing of a group; and it loads the consolidated state of rank 0.
    model = network()
    name_parameters(model)
    optimizer = PSGLD(model.parameters(), **OPTIONS)
    steps(optimizer, model.parameters(), 4)
    for first in (0, 1, 5):
        redundant_model = network()
        name_parameters(redundant_model)
        params = list(redundant_model.parameters())
        groups = [{"params": part} for part in (params[:first], params[first:]) if part]
        redundant = ZeroRedundancyOptimizer(groups, PSGLD, **OPTIONS)
        steps(redundant, params, 2)
        redundant.consolidate_state_dict(0)
        states = everybodys(redundant.state_dict() if rank == 0 else None)
        groups = [{"params": part} for part in (params[:first], params[first:]) if part]
        redundant = ZeroRedundancyOptimizer(groups, PSGLD, lr=0.5, num_data=1)
        redundant.load_state_dict(states[0])
        steps(redundant, params, 2)
        found[f"ZeRO, {first}"] = difference(redundant_model, whole(model))

    # Only some ranks make an optimizer, and nobody waits.
    if rank == 0:
        found["alone"] = error_of(lambda: step(SGLD([("alone", torch.ones(3))], 0.1, num_data=1)))
    else:
        found["alone"] = ""

    # Given seeds that differ.
    optimizer = SGLD(network().parameters(), 0.1, num_data=1, seed=rank)
    found["different seeds"] = error_of(lambda: step(optimizer))
    found["different seeds, counter"] = int(optimizer.param_groups[0]["step"])

    # One rank loads a state, the others do not.
    optimizer = SGLD(network().parameters(), 0.1, num_data=1, seed=5)
    if rank == 1:
        state = optimizer.state_dict()
        state["param_groups"][0]["step"] = torch.tensor(7)
        optimizer.load_state_dict(state)
    found["loaded on one rank"] = error_of(lambda: step(optimizer))

    # All load a state of another seed.
    optimizer = SGLD(network().parameters(), 0.1, num_data=1)
    state = optimizer.state_dict()
    state["param_groups"][0]["seed"] = 11
    step(optimizer)
    optimizer.load_state_dict(state)
    found["loaded on all"] = [error_of(lambda: step(optimizer)), seed_of(optimizer)]

    # Independent chains, also with seeds of their own.
    chains = network()
    optimizer = SGLD(chains.parameters(), 0.1, num_data=1, seed=5, chain=rank)
    step(optimizer)
    alone = network()
    single = SGLD(alone.named_parameters(), 0.1, num_data=1, seed=5, chain=rank, first_parameter=0)
    step(single)
    same = all(torch.equal(a, b) for a, b in zip(chains.parameters(), alone.parameters(), strict=True))
    found["chains"] = [same, next(chains.parameters()).flatten().tolist()]
    found["chains with seeds"] = error_of(
        lambda: step(SGLD(network().parameters(), 0.1, num_data=1, seed=rank, chain=rank))
    )

    # Parts of a model without names.
    redundant = ZeroRedundancyOptimizer(network().parameters(), SGLD, lr=0.1, num_data=1, seed=5)
    give_gradients(param for group in redundant.param_groups for param in group["params"])
    found["ZeRO without names"] = error_of(redundant.optim.step)
    for use_orig_params in (True, False):
        flat = FullyShardedDataParallel(network(), device_id=torch.device("cpu"), use_orig_params=use_orig_params)
        found[f"FSDP1 without names, {use_orig_params}"] = error_of(lambda: SGLD(flat.parameters(), 0.1, num_data=1))  # noqa: B023

    # What a DTensor's step refuses, in the second group; the first has not moved then.
    for flags in ({}, {"foreach": True}, {"fused": False}):
        sharded = fully_shard(network())
        params = list(sharded.parameters())
        optimizer = PSGLD([{"params": params[:2]}, {"params": params[2:]}], 0.1, num_data=1, seed=1, **flags)
        step(optimizer)
        before = [param.detach().full_tensor() for param in params]
        states = [optimizer.state[param]["square_avg"].full_tensor() for param in params]
        give_gradients(params)
        local = params[3].grad.to_local()
        params[3].grad = None
        spoiled = DTensor.from_local(torch.ones(7, dtype=local.dtype), params[3].device_mesh, [Partial()])
        params[3].grad = spoiled
        message = error_of(optimizer.step)
        unchanged = (
            all(torch.equal(a, b.full_tensor()) for a, b in zip(before, params, strict=True))
            and all(
                torch.equal(a, optimizer.state[b]["square_avg"].full_tensor())
                for a, b in zip(states, params, strict=True)
            )
            and [int(group["step"]) for group in optimizer.param_groups] == [1, 1]
        )
        found[f"partial gradient, {json.dumps(flags)}"] = [message, unchanged]
    # autograd notices that a step has overwritten what it saved.
    loss = params[0].square().sum()
    give_gradients(params)
    optimizer.step()
    found["overwritten"] = error_of(loss.backward)
    return {name: everybodys(value) for name, value in found.items()}
