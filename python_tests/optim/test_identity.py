"""Which noise a parameter gets: names, positions, chains; and states of other optimizers and older versions."""

from __future__ import annotations

import copy
import hashlib
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from optim.optimizers import EVERY_IMPLEMENTATION, EVERY_KIND, OPTIMIZERS, mean_loss, network, through_a_file, train
from torch import Tensor, nn

from ald_ext import PSGLD, SGHMC, SGLD, name_parameters, ops
from ald_ext.optim.names import clean_name
from ald_ext.optim.shards import as_pieces, joined

OPTIONS: dict[str, Any] = {"lr": 0.01, "num_data": 50, "seed": 3}


def of_name(name: str) -> int:
    """The documented identity."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") % 2**44


def noises(optimizer: torch.optim.Optimizer, *params: Tensor) -> list[Tensor]:
    """What a step with zero gradients adds to parameters of zeros: SGLD with lr = 0.5 and num_data = 1."""
    for param in params:
        param.detach().zero_()
        param.grad = torch.zeros_like(param)
    optimizer.step()
    return [param.detach() for param in params]


def same(first: nn.Module, second: nn.Module) -> bool:
    named = dict(second.named_parameters())
    return all(torch.equal(param, named[name]) for name, param in first.named_parameters())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("0.weight", "0.weight"),
        ("module.0.weight", "0.weight"),
        ("_orig_mod.module.0.weight", "0.weight"),
        ("module._orig_mod.0._checkpoint_wrapped_module.weight", "0.weight"),
        ("_fsdp_wrapped_module.0._fsdp_wrapped_module.module.weight", "0.module.weight"),
        ("encoder.module.weight", "encoder.module.weight"),
    ],
)
def test_clean_names(name: str, expected: str) -> None:
    assert clean_name(name) == expected


@EVERY_IMPLEMENTATION
@EVERY_KIND
def test_names_make_the_order_irrelevant(kind: str, flags: dict[str, bool]) -> None:
    """Of parameters, and of groups."""
    models = [network(torch.device("cpu")) for _ in range(3)]
    named = [list(model.named_parameters()) for model in models]
    groups: list[Any] = [named[0], named[1][::-1], [{"params": named[2][2:]}, {"params": named[2][:2]}]]
    for model, params in zip(models, groups, strict=True):
        train(model, OPTIMIZERS[kind](params, **OPTIONS, **flags), 3)
    assert same(models[0], models[1])
    assert same(models[0], models[2])


def test_the_noise_of_a_name(device: torch.device) -> None:
    param = torch.zeros(100, device=device)
    optimizer = SGLD([("module.layer.weight", param)], 0.5, num_data=1, seed=9)
    (noise,) = noises(optimizer, param)
    assert torch.equal(noise.cpu(), ops.normal(100, seed=9, step=1, parameter=of_name("layer.weight")))


def test_name_parameters_goes_before_given_names_and_positions() -> None:
    model = network(torch.device("cpu"))
    name_parameters(model, prefix="net")
    for params in (model.parameters(), model.named_parameters()):
        optimizer = SGLD(params, 0.5, num_data=1, seed=9)
        (noise, *_) = noises(optimizer, *model.parameters())
        expected = ops.normal(noise.numel(), seed=9, step=1, parameter=of_name("net.0.weight"))
        assert torch.equal(noise.flatten(), expected)


def test_parts_of_a_model_have_noise_of_their_own() -> None:
    """One optimizer for each parameter, and two networks with an optimizer each, with one seed."""
    together, apart = network(torch.device("cpu")), network(torch.device("cpu"))
    train(together, SGLD(together.named_parameters(), **OPTIONS), 3)
    name_parameters(apart)
    optimizers = [SGLD([param], **OPTIONS) for param in apart.parameters()]
    for _ in range(3):
        apart.zero_grad()
        mean_loss(apart).backward()
        for optimizer in optimizers:
            optimizer.step()
    assert same(together, apart)
    networks = [nn.Linear(5, 3), nn.Linear(5, 3)]
    for prefix, part in zip("ab", networks, strict=True):
        name_parameters(part, prefix)
    first, second = (noises(SGLD(part.parameters(), 0.5, num_data=1, seed=9), part.weight)[0] for part in networks)
    assert not torch.equal(first, second)


def test_first_parameter(device: torch.device) -> None:
    """Counts positions, whatever the names."""
    params = [torch.zeros(50, device=device) for _ in range(2)]
    for given in (params, [("a", params[0]), ("b", params[1])]):
        optimizer = SGLD(given, 0.5, num_data=1, seed=9, first_parameter=7)
        for place, noise in enumerate(noises(optimizer, *params)):
            assert torch.equal(noise.cpu(), ops.normal(50, seed=9, step=1, parameter=7 + place))
    with pytest.raises(ValueError, match=r"first_parameter: got 17592186044415, expected numbers .* up to"):
        SGLD(params, 0.5, num_data=1, first_parameter=2**44 - 1)


@EVERY_KIND
def test_two_parameters_with_one_identity(kind: str) -> None:
    params = [torch.zeros(3), torch.zeros(3)]
    pairs = [("module.w", params[0]), ("w", params[1])]
    with pytest.raises(ValueError, match=r"got the same name, or number, for parameters 0 and 1.*first_parameter=0"):
        OPTIMIZERS[kind](pairs, **OPTIONS)
    OPTIMIZERS[kind](pairs, **OPTIONS, first_parameter=0)
    optimizer = OPTIMIZERS[kind](pairs[:1], **OPTIONS)
    with pytest.raises(ValueError, match="got the same name"):
        optimizer.add_param_group({"params": pairs[1:]})
    assert len(optimizer.param_groups) == 1


def test_errors_call_parameters_by_name() -> None:
    param = nn.Parameter(torch.zeros(3, 4))
    param.grad = torch.zeros(3, 4).to_sparse()
    with pytest.raises(RuntimeError, match=r"parameter layer\.weight: got a sparse gradient"):
        SGLD([("layer.weight", param)], 0.1, num_data=1).step()


# --- Chains ---


@EVERY_KIND
def test_chains(kind: str) -> None:
    """A seed of each chain, kept in the state; a chain that is given stays."""
    param = torch.zeros(50)
    text = hashlib.blake2b(b"[9, 2]", digest_size=8).digest()
    seed = int.from_bytes(text, "little") // 2
    options: dict[str, Any] = {"lr": 0.5, "num_data": 1, "temperature": 1.0}
    chains = [OPTIMIZERS[kind]([param], **options, seed=9, chain=2), OPTIMIZERS[kind]([param], **options, seed=seed)]
    assert torch.equal(noises(chains[0], param)[0].clone(), noises(chains[1], param)[0])
    assert chains[0].param_groups[0]["seed"] == 9
    state = through_a_file(chains[0].state_dict())
    for given, expected in ((None, 2), (3, 3)):
        loaded = OPTIMIZERS[kind]([param], **options, chain=given)
        loaded.load_state_dict(state)
        assert loaded.param_groups[0]["chain"] == expected
        assert loaded.param_groups[0]["seed"] == 9
    with pytest.raises(ValueError, match=r"chain: got -1, expected None or an integer >= 0"):
        OPTIMIZERS[kind]([param], **options, chain=-1)


@EVERY_KIND
def test_names_and_chains_in_a_compiled_step(kind: str) -> None:
    """Without a break of the graph; hashes are made before."""
    torch._dynamo.reset()  # its limit of recompilations counts what other tests compiled
    finals = []
    for compiled in (False, True):
        param = nn.Parameter(torch.linspace(-1, 1, 20))
        optimizer = OPTIMIZERS[kind]([("layer.weight", param)], torch.tensor(0.01), num_data=5, seed=9, chain=4)
        step = torch.compile(optimizer.step, fullgraph=True, backend="eager") if compiled else optimizer.step
        for _ in range(3):
            param.grad = param.detach().clone()
            step()
        finals.append(param.detach())
    assert torch.equal(*finals)


# --- States ---


def resumed(kind: str, state: dict[str, Any], start: nn.Module, steps: int, **options: Any) -> nn.Module:
    model = copy.deepcopy(start)
    optimizer = OPTIMIZERS[kind](model.named_parameters(), lr=0.5, num_data=50, **options)
    optimizer.load_state_dict(through_a_file(state))
    train(model, optimizer, steps)
    return model


@EVERY_KIND
@pytest.mark.parametrize("named", [False, True])
def test_states_without_first_parameter_continue_by_position(kind: str, named: bool) -> None:
    """They are of versions that knew no other rule, also where parameters had names."""
    model = network(torch.device("cpu"))
    optimizer = OPTIMIZERS[kind](model.parameters(), **OPTIONS)
    train(model, optimizer, 2)
    state, middle = through_a_file(optimizer.state_dict()), copy.deepcopy(model)
    assert "first_parameter" not in state["param_groups"][0]
    assert "chain" not in state["param_groups"][0]
    if named:
        state["param_groups"][0]["param_names"] = [name for name, _ in model.named_parameters()]
    train(model, optimizer, 2)
    assert same(model, resumed(kind, state, middle, 2))


@EVERY_KIND
def test_a_reordered_model_continues(kind: str) -> None:
    """Names bring states to their parameters; other names take the state by position, and keep its noise."""
    model = network(torch.device("cpu"))
    optimizer = OPTIMIZERS[kind](model.named_parameters(), **OPTIONS)
    train(model, optimizer, 2)
    state, middle = through_a_file(optimizer.state_dict()), copy.deepcopy(model)
    train(model, optimizer, 2)
    assert same(model, resumed(kind, state, middle, 2))
    reordered = copy.deepcopy(middle)
    groups = [{"params": list(reordered.named_parameters())[::-1]}]
    optimizer = OPTIMIZERS[kind](groups, lr=0.5, num_data=50)
    optimizer.load_state_dict(copy.deepcopy(state))
    train(reordered, optimizer, 2)
    assert same(model, reordered)
    renamed = copy.deepcopy(middle)
    optimizer = OPTIMIZERS[kind](renamed.parameters(), lr=0.5, num_data=50)
    optimizer.load_state_dict(copy.deepcopy(state))
    train(renamed, optimizer, 2)
    assert same(model, renamed)


@EVERY_KIND
def test_parameters_in_other_groups_are_refused(kind: str) -> None:
    """By their places, some would have the states and the noise of others."""
    named = [(name, torch.zeros(3)) for name in "abcd"]
    optimizers = [
        OPTIMIZERS[kind]([{"params": [named[i] for i in places]} for places in groups], **OPTIONS)
        for groups in ([(0, 1), (2, 3)], [(0, 2), (1, 3)])
    ]
    with pytest.raises(ValueError, match=r"got groups of parameters \[\['a', 'b'\], .*expected \[\['a', 'c'\]"):
        optimizers[1].load_state_dict(optimizers[0].state_dict())


def test_the_state_of_rmsprop_in_another_order() -> None:
    named = [(name, torch.zeros(3)) for name in "ab"]
    for number, (_, param) in enumerate(named):
        param.grad = torch.full((3,), float(number))
    before = torch.optim.RMSprop(named, lr=0.1)
    before.step()
    optimizer = PSGLD(named[::-1], **OPTIONS)
    with pytest.warns(UserWarning, match="RMSprop"):
        optimizer.load_state_dict(before.state_dict())
    for _, param in named:
        assert torch.equal(optimizer.state[param]["square_avg"], before.state[param]["square_avg"])


@pytest.mark.parametrize("centered", [False, True])
def test_the_state_of_rmsprop(centered: bool) -> None:
    """v is taken, and nothing else; the loss does not explode at an eps of 1e-8."""
    model = network(torch.device("cpu"))
    before = torch.optim.RMSprop(model.parameters(), lr=0.001, alpha=0.9, centered=centered, momentum=0.5)
    train(model, before, 5)
    optimizer = PSGLD(model.parameters(), 0.002, num_data=50, seed=3, alpha=0.95, eps=0.3)
    with pytest.warns(
        UserWarning, match=r"state of torch\.optim\.RMSprop: v \(square_avg\) is taken, .* keeps its own"
    ):
        optimizer.load_state_dict(before.state_dict())
    (group,) = optimizer.param_groups
    expected = {"lr": 0.002, "alpha": 0.95, "eps": 0.3, "seed": 3, "step": 0, "weight_decay": 0.0}
    assert {name: group[name] for name in expected} == expected
    for param in model.parameters():
        assert optimizer.state[param].keys() == {"square_avg"}
        assert torch.equal(optimizer.state[param]["square_avg"], before.state[param]["square_avg"])
    train(model, optimizer, 1)


def foreign(make: Callable[..., torch.optim.Optimizer]) -> dict[str, Any]:
    model = network(torch.device("cpu"))
    optimizer = make(model.parameters(), lr=0.01)
    train(model, optimizer, 2)
    return optimizer.state_dict()


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        *itertools.product(OPTIMIZERS, [torch.optim.SGD, torch.optim.Adam, torch.optim.Adadelta]),
        ("sgld", torch.optim.RMSprop),
        ("sghmc", torch.optim.RMSprop),
    ],
)
def test_states_of_other_optimizers_are_refused(kind: str, make: Callable[..., torch.optim.Optimizer]) -> None:
    optimizer = OPTIMIZERS[kind](network(torch.device("cpu")).parameters(), **OPTIONS)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=r"load_state_dict: got the state of another optimizer, with the options .*lr"):
        optimizer.load_state_dict(foreign(make))
    assert optimizer.state_dict() == before


@EVERY_KIND
def test_numbers_of_numpy(kind: str) -> None:
    """Become Python's, so that a checkpoint loads with weights_only=True; also those written to a group later."""
    optimizer = OPTIMIZERS[kind](
        [torch.zeros(3)],
        np.float64(0.1),
        num_data=np.int64(50),
        temperature=np.float32(0.5),
        seed=np.int64(7),
        weight_decay=np.float64(0.1),
    )
    assert type(optimizer.param_groups[0]["lr"]) is float
    optimizer.param_groups[0]["lr"] = np.float64(0.2)
    (group,) = through_a_file(optimizer.state_dict())["param_groups"]
    for name, expected in {"lr": 0.2, "num_data": 50, "temperature": 0.5, "seed": 7, "weight_decay": 0.1}.items():
        assert group[name] == expected
        assert type(group[name]) is type(expected)


# --- Several groups ---


@EVERY_IMPLEMENTATION
@pytest.mark.parametrize("kind", [SGLD, PSGLD, SGHMC])
def test_a_refused_group_leaves_the_groups_before_it(device: torch.device, kind: Any, flags: dict[str, bool]) -> None:
    """The first step of all, and a later one."""
    params = [nn.Parameter(torch.ones(4, device=device)) for _ in range(3)]
    optimizer = kind([{"params": [param]} for param in params], 0.1, num_data=10, seed=1, **flags)
    for steps in (0, 1):
        for param in params:
            param.grad = torch.ones_like(param)
        before, state = [param.detach().clone() for param in params], copy.deepcopy(optimizer.state_dict())
        optimizer.param_groups[2]["params"].append(params[0].detach()[1:])  # shares memory only with another group
        optimizer.param_groups[2]["params"].append(torch.ones(3, 6, device=device)[:, ::2])
        for bad in optimizer.param_groups[2]["params"][1:]:
            bad.grad = torch.ones_like(bad)
        with pytest.raises(RuntimeError, match=r"parameter 4: got strides"):
            optimizer.step()
        del optimizer.param_groups[2]["params"][1:]
        assert all(torch.equal(a, b) for a, b in zip(before, params, strict=True))
        assert str(optimizer.state_dict()) == str(state)
        assert [int(group["step"]) for group in optimizer.param_groups] == [steps] * 3
        optimizer.step()


# --- Descriptions of shards ---


@pytest.mark.parametrize("seed", range(20))
def test_pieces_are_the_elements(seed: int) -> None:
    """Whatever elements a tensor holds, in the order of its memory."""
    generator = torch.Generator().manual_seed(seed)
    size = [[5], [4, 6], [3, 4, 5], [2, 3, 4, 3]][seed % 4]
    whole = torch.arange(torch.Size(size).numel()).view(size)
    for dim in range(whole.dim()):
        kept = torch.rand(whole.shape[dim], generator=generator) < 0.7
        whole = whole.index_select(dim, kept.nonzero().flatten())
    indices = whole.flatten()
    found: list[int] = []
    for piece in as_pieces(*joined(indices, torch.ones_like(indices))):
        assert piece.begin == len(found)
        for i in range(piece.end - piece.begin):
            row = (i // piece.row_length) * piece.row_stride + i % piece.row_length if piece.row_length else i
            found.append(piece.offset + row)
    assert found == indices.tolist()


def test_columns_are_one_piece() -> None:
    whole = torch.arange(7 * 9).view(7, 9)
    for part in (whole[:, 2:5], whole[1:, 3:4], whole[2:6]):
        indices = part.flatten()
        assert len(as_pieces(*joined(indices, torch.ones_like(indices)))) == 1
