"""What PyTorch asks of each of its own optimizers (test/test_optim.py), asked of ours: a table of optimizers and
options in the manner of torch.testing's database, and for every entry the same questions.

Values are tested elsewhere (test_trajectories.py has torch's trajectories and the update equation); here the
plain implementation is the oracle of the others.
"""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import settings
from optim.optimizers import network, through_a_file
from optim.optimizers import train as train_network
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from ald_ext import PSGLD, SGHMC, SGLD, ops

Options = dict[str, Any]
Optimizer = torch.optim.Optimizer

# --- The table ---

#: What every input starts from. lr is a power of two, so that it is the same number in every dtype.
BASE: Options = {"lr": 0.0625, "num_data": 20, "seed": 7}

#: Inputs that say the same as the default.
SYNONYMS: dict[str, Options] = {
    "default": {},
    "tensor_lr": {"lr": torch.tensor(0.0625)},
    "tensor_lr_float64": {"lr": torch.tensor([0.0625], dtype=torch.float64)},
    "capturable": {"capturable": True},
    "capturable_tensor_lr": {"capturable": True, "lr": torch.tensor(0.0625)},
}

INPUTS: dict[str, Options] = {
    **SYNONYMS,
    "lr": {"lr": 0.01},
    "weight_decay": {"weight_decay": 0.25},
    "maximize": {"maximize": True},
    "maximize_weight_decay": {"maximize": True, "weight_decay": 0.25},
    "num_data": {"num_data": 1e6},
    "temperature": {"temperature": 4.0},
    "cold": {"temperature": 0.0},
}

PSGLD_INPUTS: dict[str, Options] = {
    **INPUTS,
    "alpha": {"alpha": 0.5},
    "eps": {"eps": 0.5},
    "freeze_after": {"freeze_after": 1},
}


SGHMC_INPUTS: dict[str, Options] = {**INPUTS, "momentum": {"momentum": 0.5}, "no_momentum": {"momentum": 0.0}}


@dataclass(frozen=True)
class OptimizerInfo:
    """An optimizer with the inputs to run it on, and torch's optimizer that it is at temperature 0."""

    kind: type[Optimizer]
    inputs: dict[str, Options]
    torchs: type[Optimizer]
    #: Names of torch.testing's functions that list torch's inputs.
    torchs_inputs: str
    #: torch's defaults that are not ours.
    torchs_defaults: Options
    #: torch's options that ours lack.
    lacks: frozenset[str]
    #: Options that came after the first version: an old state_dict may lack them.
    newer: tuple[str, ...] = ("maximize", "foreach", "fused", "capturable")
    #: The name of the state, if there is one.
    state: str | None = None
    #: torch's lr that is ours.
    torchs_lr: Callable[[Options], Any] = lambda options: options["lr"]


DATABASE = {
    "SGLD": OptimizerInfo(
        SGLD,
        INPUTS,
        torch.optim.SGD,
        "optim_inputs_func_sgd",
        {"lr": 1e-3},
        frozenset({"momentum", "dampening", "nesterov", "differentiable"}),
    ),
    "PSGLD": OptimizerInfo(
        PSGLD,
        PSGLD_INPUTS,
        torch.optim.RMSprop,
        "optim_inputs_func_rmsprop",
        {"lr": 1e-2, "eps": 1e-8},
        frozenset({"momentum", "centered", "differentiable"}),
        ("maximize", "foreach", "fused", "capturable", "freeze_after", "frozen"),
        state="square_avg",
    ),
    "SGHMC": OptimizerInfo(
        SGHMC,
        SGHMC_INPUTS,
        torch.optim.SGD,
        "optim_inputs_func_sgd",
        {"lr": 1e-3, "momentum": 0},
        frozenset({"dampening", "nesterov", "differentiable"}),
        state="momentum_buffer",
        torchs_lr=lambda options: options["lr"] * (1 + options.get("momentum", 0)) / 2,
    ),
}

EVERY_OPTIMIZER = pytest.mark.parametrize("name", DATABASE)
EVERY_INPUT = pytest.mark.parametrize(
    ("name", "entry"), [(name, entry) for name, info in DATABASE.items() for entry in info.inputs]
)

IMPLEMENTATIONS: dict[str, Options] = {
    "default": {},
    "fused": {"fused": True},
    "foreach": {"foreach": True},
    "plain": {"fused": False},
}
EVERY_IMPLEMENTATION = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)

DTYPES = {dtype: str(dtype).removeprefix("torch.") for dtype in (torch.float32, torch.float64)}
SHORT_DTYPES = {dtype: str(dtype).removeprefix("torch.") for dtype in (torch.bfloat16, torch.float16)}
EVERY_DTYPE = pytest.mark.parametrize("dtype", [*DTYPES, *SHORT_DTYPES], ids=[*DTYPES.values(), *SHORT_DTYPES.values()])


def options_of(name: str, entry: str, implementation: str) -> Options:
    """An input of the table, copied: schedulers fill an lr tensor in place. Only the compiled op can be captured: the
    others run such an input without."""
    options = copy.deepcopy(DATABASE[name].inputs[entry])
    if implementation in ("foreach", "plain"):
        options.pop("capturable", None)
    return options


def make(name: str, params: Any, entry: str = "default", implementation: str = "default", **more: Any) -> Any:
    """An optimizer of the table."""
    options = {**BASE, **options_of(name, entry, implementation), **IMPLEMENTATIONS[implementation], **more}
    return DATABASE[name].kind(params, **options)


# --- Parameters and gradients ---


def ramp(*shape: int, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """Different numbers between -2 and 2."""
    numbers = torch.linspace(-2, 2, torch.Size(shape).numel(), dtype=torch.float64, device="cpu")
    return numbers.to(device=device, dtype=dtype).reshape(shape)


def assorted(device: torch.device, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Zero dimensions, no elements (not at the end), one element, other strides, sizes beside every vector's."""
    options: Any = {"device": device, "dtype": dtype}
    return [
        ramp(**options),
        ramp(0, **options),
        ramp(1, **options),
        ramp(3, 0, 2, **options),
        ramp(2, 3, 4, 5, **options).contiguous(memory_format=torch.channels_last),
        ramp(5, 7, **options).t(),
        ramp(67, **options),
    ]


def copies(tensors: list[Tensor]) -> list[Tensor]:
    return [tensor.detach().clone(memory_format=torch.preserve_format) for tensor in tensors]


def give_gradients(params: list[Tensor], step: int, *others: list[Tensor]) -> None:
    """Gradients that depend on the parameters and the step; the others get the same. Every fourth is missing."""
    for k, param in enumerate(params):
        gradient = (3 * param.detach() + step + k).cos()
        for tensor in (param, *(other[k] for other in others)):
            # Contiguous in every other step: not the strides of each parameter.
            tensor.grad = gradient.contiguous().clone() if step % 2 else gradient.clone()
            if (step + k) % 4 == 3:
                tensor.grad = None


def train(optimizer: Any, steps: int, first: int = 0) -> list[Tensor]:
    params = [param for group in optimizer.param_groups for param in group["params"]]
    for step in range(first, first + steps):
        give_gradients(params, step)
        optimizer.step()
    return params


def steps_of(optimizer: Any) -> list[int]:
    return [int(group["step"]) for group in optimizer.param_groups]


def identical(a: Any, b: Any) -> bool:
    """Equal to the bit, with the same types, dtypes and shapes, through lists and dictionaries."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and a.device == b.device and torch.equal(a, b)
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(identical(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(identical(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def snapshot(optimizer: Any) -> Any:
    params = [param.detach().clone() for group in optimizer.param_groups for param in group["params"]]
    state = optimizer.state_dict()["state"]
    return copy.deepcopy([params, state, steps_of(optimizer)])


def test_identical_can_tell() -> None:
    one = {"a": [torch.ones(2), 1]}
    assert identical(one, copy.deepcopy(one))
    for other in ({"a": [torch.ones(2), 2]}, {"a": [torch.ones(2).double(), 1]}, {"a": [torch.ones(2)]}, {"b": 1}):
        assert not identical(one, other)


# --- The inputs ---


@EVERY_INPUT
def test_every_input_says_something(device: torch.device, name: str, entry: str) -> None:
    """Else the tests below would test the default over and over. Synonyms give the default's bits."""
    trained, default = (train(make(name, assorted(device), e), 4) for e in (entry, "default"))
    assert identical(trained, default) == (entry in SYNONYMS)


# --- Implementations agree ---

#: What two implementations may differ by in one step, where no number is above 4: four roundings, and the plain
#: version's noise (test_noise.py: 1e-6 and 1e-14 from the kernels'), whose scale here is below 0.75.
ATOL = {torch.float32: 4 * 4 * 2.0**-24 + 0.75e-6, torch.float64: 4 * 4 * 2.0**-53 + 0.75e-14}


def assert_close(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=0, atol=ATOL[expected.dtype])


def assert_rounded_alike(got: list[Tensor], expected: list[Tensor]) -> None:
    """16 bits: the same random bits decide which way to round, so only values within a float32 error of the decision
    may differ (one in a thousand, or less), and those by one unit in the last place."""
    a, b = (torch.cat([tensor.detach().flatten() for tensor in tensors]) for tensors in (got, expected))
    unit = torch.finfo(a.dtype).eps * torch.maximum(a.abs(), b.abs()).float() + torch.finfo(a.dtype).smallest_normal
    assert ((a.float() - b.float()).abs() <= unit).all()
    assert (a != b).sum() <= 0.01 * a.numel(), "not the same random bits"


def assert_states_agree(got: Any, expected: Any, params: list[Tensor], oracle: list[Tensor]) -> None:
    assert steps_of(got) == steps_of(expected)
    for param, twin in zip(params, oracle, strict=True):
        state, reference = got.state.get(param, {}), expected.state.get(twin, {})
        assert state.keys() == reference.keys()
        for key, value in reference.items():
            assert state[key].stride() == param.stride()
            assert_close(state[key], value)


def bring_together(optimizer: Any, params: list[Tensor], oracle_optimizer: Any, oracle: list[Tensor]) -> None:
    """Each step is compared from the same point: else small differences grow with the trajectory."""
    for param, twin in zip(params, oracle, strict=True):
        param.copy_(twin)
        for key, value in oracle_optimizer.state.get(twin, {}).items():
            optimizer.state[param][key].copy_(value)


@EVERY_DTYPE
@EVERY_INPUT
def test_implementations_agree(device: torch.device, name: str, entry: str, dtype: torch.dtype) -> None:
    params = {implementation: assorted(device, dtype) for implementation in IMPLEMENTATIONS}
    optimizers = {i: make(name, tensors, entry, i) for i, tensors in params.items()}
    oracle = params["plain"]
    for step in range(2):
        give_gradients(oracle, step, *(tensors for i, tensors in params.items() if i != "plain"))
        for optimizer in optimizers.values():
            optimizer.step()
        assert identical(params["default"], params["fused"]), "a fast path has the same bits"
        for implementation in ("fused", "foreach"):
            if dtype in SHORT_DTYPES:
                assert_rounded_alike(params[implementation], oracle)
            else:
                for param, expected in zip(params[implementation], oracle, strict=True):
                    assert_close(param, expected)
            assert_states_agree(optimizers[implementation], optimizers["plain"], params[implementation], oracle)
        for implementation, tensors in params.items():
            bring_together(optimizers[implementation], tensors, optimizers["plain"], oracle)


# --- torch's own database ---


@pytest.fixture(scope="module")
def torchs_database() -> ModuleType:
    """torch.testing's optimizer database (needs expecttest).

    Its import changes settings of the whole process, for the tests of other files too: they are put back.
    """
    with warnings.catch_warnings():
        from torch.testing._internal import common_optimizers
    # It freezes torch.backends' flags, and has no function that thaws them.
    torch.backends.flags_frozen.__globals__["__allow_nonbracketed_mutation_flag"] = True
    assert not torch.backends.flags_frozen()
    settings.load_profile("fixed")  # conftest's
    return common_optimizers


def torchs_inputs(database: ModuleType, info: OptimizerInfo, device: torch.device) -> list[Options]:
    """The options of torch's inputs that ours have too."""
    found = [entry.kwargs for entry in getattr(database, info.torchs_inputs)(device=device)]
    return [options for options in found if not info.lacks & options.keys()]


@EVERY_IMPLEMENTATION
@EVERY_OPTIMIZER
def test_torchs_own_inputs(device: torch.device, torchs_database: ModuleType, name: str, implementation: str) -> None:
    """Ours at temperature 0 do what torch's do, on torch's list of inputs."""
    info = DATABASE[name]
    inputs = torchs_inputs(torchs_database, info, device)
    assert len(inputs) >= 4
    for options in inputs:
        ours, theirs = assorted(device, torch.float64), assorted(device, torch.float64)
        shared = {**info.torchs_defaults, **options}
        cold = {**shared, "num_data": 3, "temperature": 0.0, **IMPLEMENTATIONS[implementation]}
        if implementation in ("foreach", "plain"):
            cold.pop("capturable", None)
        optimizer = info.kind(ours, **cold)
        reference = info.torchs(theirs, **{**shared, "lr": info.torchs_lr(shared)})
        for step in range(4):
            # Gradients that do not depend on the parameters: with eps = 1e-8 the map from g to the update is steep.
            for k, (a, b) in enumerate(zip(ours, theirs, strict=True)):
                a.grad = (torch.ones_like(a) + k).mul(step + 1).cos()
                b.grad = a.grad.clone()
            optimizer.step()
            reference.step()
        for a, b in zip(ours, theirs, strict=True):
            # Four steps of a few roundings of numbers below 4.
            torch.testing.assert_close(a, b, rtol=0, atol=16 * 4 * 2.0**-53)


#: What ours say where they do not leave it to torch's base class.
OUR_WORDS = {"Tensor lr must be 1-element": "lr: got a tensor of 2 elements, expected one"}


@EVERY_OPTIMIZER
def test_torchs_own_error_inputs(torchs_database: ModuleType, name: str) -> None:
    errors = torchs_database.get_error_inputs_for_all_optims("cpu", torch.float32)
    assert errors
    for error in errors:
        entry = error.optimizer_error_input
        params = [torch.zeros(2)] if entry.params is None else entry.params
        expectation = pytest.warns if issubclass(error.error_type, Warning) else pytest.raises
        with expectation(error.error_type, match=OUR_WORDS.get(error.error_regex, error.error_regex)):
            DATABASE[name].kind(params, **{**BASE, **entry.kwargs})


@EVERY_OPTIMIZER
def test_no_differentiable_steps(name: str) -> None:
    with pytest.raises(TypeError, match="differentiable"):
        make(name, [torch.zeros(2)], differentiable=True)


# --- Changes between two steps ---
#
# A step keeps nothing of the one before it but states and counters, whatever changes between the two.


def change(**options: Any) -> Callable[[Any], None]:
    return lambda optimizer: optimizer.param_groups[0].update(options)


def first_with_state(optimizer: Any) -> Tensor:
    return next(param for param in optimizer.param_groups[0]["params"] if param in optimizer.state)


def replace_state(optimizer: Any) -> None:
    for entry in optimizer.state.values():
        entry.update({key: 2 * value for key, value in entry.items()})


def drop_one_state(optimizer: Any) -> None:
    if optimizer.state:
        del optimizer.state[first_with_state(optimizer)]


def empty_one_state(optimizer: Any) -> None:
    if optimizer.state:
        optimizer.state[first_with_state(optimizer)].clear()


def replace_memory(optimizer: Any) -> None:
    for param in optimizer.param_groups[0]["params"]:
        param.data = param.data.clone() + 1


def change_layout(optimizer: Any) -> None:
    for param in optimizer.param_groups[0]["params"]:
        if param.dim() == 2:
            param.data = param.data.t().contiguous().t()


def add_a_parameter(optimizer: Any) -> None:
    params = optimizer.param_groups[0]["params"]
    params.append(torch.ones_like(params[-1]))


#: What a user or a scheduler may do between two steps.
CHANGES: dict[str, Callable[[Any], None]] = {
    "nothing": lambda optimizer: None,
    "lr": change(lr=0.01),
    "lr_of_zero": change(lr=0.0),
    "lr_as_an_integer": change(lr=1),
    "lr_as_a_tensor": lambda optimizer: optimizer.param_groups[0].update(lr=torch.tensor(0.01)),
    "num_data": change(num_data=3),
    "temperature": change(temperature=0.0),
    "weight_decay": change(weight_decay=0.5),
    "maximize": change(maximize=True),
    "seed": change(seed=8),
    "foreach": change(foreach=True),
    "plain": change(fused=False),
    "capturable": change(capturable=True),
    "frozen": change(frozen=True),
    "alpha": change(alpha=0.5),
    "eps": change(eps=0.5),
    "counter": lambda optimizer: optimizer.param_groups[0]["step"].fill_(2**39),
    "counter_as_an_integer": change(step=2**39),
    "state_replaced": replace_state,
    "state_dropped": drop_one_state,
    "state_emptied": empty_one_state,
    "all_state_dropped": lambda optimizer: optimizer.state.clear(),
    "memory_replaced": replace_memory,
    "layout": change_layout,
    "parameter_added": add_a_parameter,
    "parameter_removed": lambda optimizer: optimizer.state.pop(optimizer.param_groups[0]["params"].pop(), None),
    "parameters_reordered": lambda optimizer: optimizer.param_groups[0]["params"].reverse(),
    "group_added": lambda optimizer: optimizer.add_param_group(
        {"params": [torch.ones_like(optimizer.param_groups[0]["params"][0])]}
    ),
}


def repeat(name: str, params: list[Tensor], what: str, forget: bool) -> Any:
    """Three steps, the change, and three more; ``forget`` makes each the first after a loading.

    In the first three and the fourth the same gradients are missing and all have the parameters' strides (steps 0 and 4
    of give_gradients); then strides change, and others are missing.
    """
    optimizer = make(name, params)
    for step in (0, 4, 8, 12, 13, 6):
        if step == 12:
            CHANGES[what](optimizer)
        if forget:
            optimizer.load_state_dict(optimizer.state_dict())
        for group in optimizer.param_groups:
            give_gradients(group["params"], step)
        optimizer.step()
    return optimizer


@pytest.mark.parametrize("what", CHANGES)
@EVERY_OPTIMIZER
def test_a_change_between_steps(device: torch.device, name: str, what: str) -> None:
    repeated, checked = (repeat(name, assorted(device), what, forget) for forget in (False, True))
    assert identical(snapshot(repeated), snapshot(checked))


# --- The right direction ---


def regression_loss(params: list[Tensor]) -> Tensor:
    weight, bias = params
    inputs = torch.linspace(-1, 1, 5, dtype=weight.dtype, device=weight.device)
    return (weight.mv(inputs) + bias).square().mean()


def regression(device: torch.device, transposed: bool = False) -> list[Tensor]:
    weight = ramp(5, 10, device=device).t() if transposed else ramp(10, 5, device=device)
    return [weight.requires_grad_(), ramp(10, device=device).requires_grad_()]


# --- lr as a tensor ---


@pytest.mark.parametrize("on_device", [False, True], ids=["cpu_lr", "lr_on_device"])
@pytest.mark.parametrize(("shape", "lr_dtype"), [((), torch.float32), ((1,), torch.float64)], ids=str)
@EVERY_IMPLEMENTATION
@EVERY_OPTIMIZER
def test_tensor_lr(
    device: torch.device, name: str, implementation: str, shape: tuple[int, ...], lr_dtype: torch.dtype, on_device: bool
) -> None:
    """The float's bits, for every dtype of parameters, with several groups on one tensor; and lr stays what it was."""
    lr = torch.full(shape, 0.0625, dtype=lr_dtype, device=device if on_device else "cpu")
    results = []
    for value in (0.0625, lr):
        params = [ramp(20, device=device, dtype=dtype) for dtype in (*DTYPES, *SHORT_DTYPES)]
        groups = [{"params": params[:1]}, {"params": params[1:]}]
        results.append(train(make(name, groups, "default", implementation, lr=value), 3))
    assert identical(results[0], results[1])
    assert identical(lr, torch.full_like(lr, 0.0625))


@EVERY_IMPLEMENTATION
@EVERY_OPTIMIZER
def test_a_tensor_lr_is_read_at_every_step(device: torch.device, name: str, implementation: str) -> None:
    results = []
    for as_tensor in (False, True):
        params = assorted(device)
        optimizer = make(name, params, "default", implementation, lr=torch.tensor(0.0625) if as_tensor else 0.0625)
        for step, lr in enumerate((0.0625, 0.25, 0.0)):
            group = optimizer.param_groups[0]
            group["lr"] = group["lr"].fill_(lr) if as_tensor else lr
            give_gradients(params, step)
            optimizer.step()
        results.append(params)
    assert identical(results[0], results[1])


# --- Parameter groups ---


def train_groups(groups: list[Options], optimizer: Any) -> None:
    """Each group gets the gradients that it would get alone."""
    for step in range(3):
        for group in groups:
            give_gradients(group["params"], step)
        optimizer.step()


@EVERY_IMPLEMENTATION
@EVERY_OPTIMIZER
def test_each_group_has_its_options(device: torch.device, name: str, implementation: str) -> None:
    """A group for each input of the table does what it does alone, behind as many parameters without gradient."""

    def group_of(entry: str) -> Options:
        return {"params": assorted(device), **options_of(name, entry, implementation)}

    entries = list(DATABASE[name].inputs)
    optimizer = make(name, [group_of(entry) for entry in entries], "default", implementation)
    train_groups(optimizer.param_groups, optimizer)
    for i, entry in enumerate(entries):
        idle = [torch.zeros(1, device=device) for group in optimizer.param_groups[:i] for _ in group["params"]]
        before = [{"params": idle}] if idle else []
        alone = make(name, [*before, group_of(entry)], "default", implementation)
        train_groups(alone.param_groups[-1:], alone)
        assert identical(alone.param_groups[-1]["params"], optimizer.param_groups[i]["params"]), entry


@EVERY_OPTIMIZER
def test_a_group_with_an_lr_of_zero_stays(device: torch.device, name: str) -> None:
    params = assorted(device)
    before = copies(params[3:])
    train(make(name, [{"params": params[:3]}, {"params": params[3:], "lr": 0.0}]), 3)
    assert identical(copies(params[3:]), before)


@EVERY_INPUT
def test_every_group_counts_its_own_steps(device: torch.device, name: str, entry: str) -> None:
    params = assorted(device)
    optimizer = make(name, [{"params": params[:2]}, {"params": params[2:4]}], entry)
    train(optimizer, 3)
    optimizer.add_param_group({"params": params[4:]})
    train(optimizer, 2, first=3)
    assert steps_of(optimizer) == [5, 5, 2]
    counters = [group["step"] for group in optimizer.param_groups]
    assert len({id(counter) for counter in [*counters, optimizer.defaults["step"]]}) == 4, "counters are not shared"
    assert int(optimizer.defaults["step"]) == 0, "the next group begins at 0"


@EVERY_INPUT
def test_the_counter_is_exact(device: torch.device, name: str, entry: str) -> None:
    """An integer of 64 bits; on the device only where CUDA graphs need it there."""
    optimizer = make(name, assorted(device), entry)
    train(optimizer, 2)
    counter = optimizer.param_groups[0]["step"]
    assert isinstance(counter, Tensor)
    assert (counter.dtype, counter.dim(), int(counter)) == (torch.int64, 0, 2)
    assert counter.device.type == (device.type if "capturable" in entry else "cpu")


@EVERY_OPTIMIZER
def test_a_new_group_changes_nothing_for_the_others(device: torch.device, name: str) -> None:
    alone, joined = assorted(device), assorted(device)
    train(make(name, alone), 5)
    optimizer = make(name, joined)
    train(optimizer, 3)
    optimizer.add_param_group({"params": [ramp(9, device=device)], "weight_decay": 0.5})
    train(optimizer, 2, first=3)
    assert identical(alone, joined)
    assert optimizer.param_groups[1]["seed"] == BASE["seed"]
    assert optimizer.param_groups[1]["lr"] == BASE["lr"]


# --- How parameters are given ---


NAMES = ["0.weight", "0.bias", "2.weight", "2.bias"]

GIVEN: dict[str, Callable[[nn.Module], Any]] = {
    "list": lambda model: list(model.parameters()),
    "tuple": lambda model: tuple(model.parameters()),
    "generator": lambda model: model.parameters(),
    "dictionary_values": lambda model: dict(model.named_parameters()).values(),
    "named": lambda model: model.named_parameters(),
    "group_of_a_generator": lambda model: [{"params": model.parameters()}],
    "group_of_named": lambda model: [{"params": model.named_parameters()}],
    "groups_of_single_tensors": lambda model: [{"params": param} for param in model.parameters()],
    "generator_of_groups": lambda model: ({"params": [param]} for param in model.parameters()),
    "groups_of_named": lambda model: [{"params": [pair]} for pair in model.named_parameters()],
}


@pytest.mark.parametrize("how", GIVEN)
@EVERY_OPTIMIZER
def test_params_in_every_form(device: torch.device, name: str, how: str) -> None:
    """The noise depends on names, or on the place in the list of all parameters, not on groups."""
    model, expected = network(device), network(device)
    optimizer = make(name, GIVEN[how](model))
    train_network(model, optimizer, 3)
    train_network(expected, make(name, GIVEN["named" if "named" in how else "list"](expected)), 3)
    assert identical(list(model.state_dict().values()), list(expected.state_dict().values()))
    names = [name for group in optimizer.param_groups for name in group.get("param_names", [])]
    assert names == (NAMES if "named" in how else [])


@EVERY_OPTIMIZER
def test_named_and_nameless_groups_do_not_mix(device: torch.device, name: str) -> None:
    model = network(device)
    optimizer = make(name, model.named_parameters())
    with pytest.raises(ValueError, match="all optimizer param groups should be with/without names"):
        optimizer.add_param_group({"params": [ramp(2, device=device)]})
    assert len(optimizer.param_groups) == 1


@EVERY_OPTIMIZER
def test_what_is_no_leaf_is_refused(device: torch.device, name: str) -> None:
    leaf = ramp(3, device=device).requires_grad_()
    with pytest.raises(ValueError, match="non-leaf"):
        make(name, [2 * leaf])


@EVERY_OPTIMIZER
def test_tied_parameters_count_once(device: torch.device, name: str) -> None:
    first, second = (nn.Linear(3, 3, bias=False, device=device) for _ in range(2))
    second.weight = first.weight
    optimizer = make(name, nn.Sequential(first, second).parameters())
    assert len(optimizer.param_groups[0]["params"]) == 1


@pytest.mark.parametrize("implementation", ["default", "fused"])
@EVERY_OPTIMIZER
def test_thousands_of_tiny_tensors(device: torch.device, name: str, implementation: str) -> None:
    """More than any table of pointers that goes to one kernel launch. With gradients of zero a step adds the noise."""
    params = [torch.zeros(k % 3, device=device) for k in range(3000)]
    for param in params:
        param.grad = torch.zeros_like(param)
    # Exactly: √(2·lr·T/N) = 1 and √G = √(1/eps) = 2; h/2 = 1.
    scale, exact = {
        "SGLD": (1, {"lr": 0.5}),
        "PSGLD": (2, {"lr": 0.5, "eps": 0.25}),
        "SGHMC": (1, {"lr": 4.0, "momentum": 0.0}),
    }[name]
    make(name, params, "default", implementation, num_data=1, **exact).step()
    expected = [scale * ops.normal(k % 3, seed=7, step=1, parameter=k, device=device) for k in range(3000)]
    assert identical(params, expected)


# --- Parameters of several kinds in one optimizer ---


@EVERY_IMPLEMENTATION
@EVERY_OPTIMIZER
def test_mixed_dtypes(device: torch.device, name: str, implementation: str) -> None:
    """Each does what it does alone in its place; the others have no gradient then."""
    dtypes = [*DTYPES, *SHORT_DTYPES, *DTYPES]
    gradients = [ramp(20, device=device, dtype=dtype).cos() for dtype in dtypes]

    def run(with_gradient: set[int]) -> list[Tensor]:
        params = [ramp(20, device=device, dtype=dtype) for dtype in dtypes]
        for k in with_gradient:
            params[k].grad = gradients[k].clone()
        optimizer = make(name, params, "default", implementation)
        optimizer.step()
        optimizer.step()
        return params

    together = run(set(range(len(dtypes))))
    for k in range(len(dtypes)):
        assert identical(together[k], run({k})[k])


@EVERY_OPTIMIZER
def test_meta_beside_real_parameters(device: torch.device, name: str) -> None:
    params, expected = assorted(device), assorted(device)
    mixed = [ramp(4, device=torch.device("meta")), *params]
    optimizer, other = make(name, mixed), make(name, [ramp(4, device=device), *expected])
    for step in range(3):
        give_gradients(params, step, expected)
        mixed[0].grad = torch.zeros_like(mixed[0])
        optimizer.step()
        other.step()
    assert identical(params, expected)


@EVERY_OPTIMIZER
def test_cpu_beside_cuda_parameters(cuda: torch.device, name: str) -> None:
    """One optimizer of both, as with all on the CPU: the same bits."""
    cpu = torch.device("cpu")

    def run(second: torch.device) -> list[Tensor]:
        params = [*assorted(cpu, torch.float64), *assorted(second, torch.float64)]
        optimizer = make(name, params)
        for step in range(3):
            for param in params:
                # Of the CPU's cosine for both.
                param.grad = (param.cpu() + step).cos().to(param.device)
            optimizer.step()
        return [param.cpu() for param in params]

    assert identical(run(cuda), run(cpu))


@EVERY_DTYPE
@EVERY_IMPLEMENTATION
@EVERY_OPTIMIZER
def test_state_of_every_dtype(device: torch.device, name: str, implementation: str, dtype: torch.dtype) -> None:
    """float32 for 16 bits; the parameter's strides."""
    optimizer = make(name, assorted(device, dtype), "default", implementation)
    for param in train(optimizer, 4):
        state = optimizer.state.get(param, {})
        assert list(state) == ([DATABASE[name].state] if DATABASE[name].state else [])
        for value in state.values():
            assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
            assert (value.device, value.shape, value.stride()) == (param.device, param.shape, param.stride())


# --- What cannot be stepped is refused before anything has changed ---


def step_or_nothing(optimizer: Any) -> str | None:
    """The error of a step, which has then changed nothing; None if it worked."""
    before, message = snapshot(optimizer), None
    try:
        optimizer.step()
    except RuntimeError as error:
        message = str(error)
    assert message is None or identical(snapshot(optimizer), before), f"the step was torn: {message}"
    return message


def beside(name: str, implementation: str, device: torch.device, *odd: Tensor) -> Any:
    """An optimizer with good parameters in a group of their own and in the odd ones' group, all with a gradient."""
    good = [ramp(5, device=device) for _ in range(2)]
    for param in good:
        param.grad = torch.ones_like(param)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of duplicates
        return make(name, [{"params": [*good[1:], *odd]}, {"params": good[:1]}], "default", implementation)


@EVERY_IMPLEMENTATION
@EVERY_OPTIMIZER
def test_integers_without_gradient_are_fine(device: torch.device, name: str, implementation: str) -> None:
    counts = torch.arange(3, device=device)
    optimizer = beside(name, implementation, device, counts)
    assert step_or_nothing(optimizer) is None
    assert counts.tolist() == [0, 1, 2]
    assert counts not in optimizer.state


@EVERY_IMPLEMENTATION
@EVERY_OPTIMIZER
def test_a_parameter_twice_in_a_group(device: torch.device, name: str, implementation: str) -> None:
    """torch warns of it when the group is made. A step is made, or refused as a whole."""
    param = ramp(4, device=device)
    param.grad = torch.ones_like(param)
    step_or_nothing(beside(name, implementation, device, param, param))


@pytest.mark.parametrize(("start", "later"), [(torch.float32, torch.float64), (torch.float64, torch.float32)], ids=str)
@EVERY_IMPLEMENTATION
@EVERY_OPTIMIZER
def test_a_model_that_changes_its_dtype(
    device: torch.device, name: str, implementation: str, start: torch.dtype, later: torch.dtype
) -> None:
    """model.double() after some steps: the state, of the old dtype, is cast, or the step is refused as a whole."""
    layer = nn.Linear(3, 2, device=device, dtype=start)
    optimizer = beside(name, implementation, device, *layer.parameters())
    for dtype in (start, later):
        optimizer.zero_grad()
        layer.to(dtype)
        for group in optimizer.param_groups:
            for param in group["params"]:
                param.grad = torch.ones_like(param)
        if step_or_nothing(optimizer) is None:
            assert all(param.isfinite().all() for param in layer.parameters())


# --- State dicts ---


COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
    "file": through_a_file,
}


@EVERY_INPUT
def test_state_dicts_survive(device: torch.device, name: str, entry: str) -> None:
    """Copying, pickling, and a file that is read with weights_only=True."""
    optimizer = make(name, assorted(device), entry)
    train(optimizer, 3)
    state = optimizer.state_dict()
    for how, copied in COPIES.items():
        assert identical(copied(state), state), how


def without_names(state: Options) -> Options:
    groups = [{key: value for key, value in group.items() if key != "param_names"} for group in state["param_groups"]]
    return {**state, "param_groups": groups}


@pytest.mark.parametrize(
    ("name", "entry", "named"),
    [(name, entry, (False, False)) for name, info in DATABASE.items() for entry in info.inputs]
    + [(name, "default", named) for name in DATABASE for named in ((False, True), (True, False), (True, True))],
    ids=str,
)
def test_a_loaded_state_continues(device: torch.device, name: str, entry: str, named: tuple[bool, bool]) -> None:
    models = [network(device) for _ in range(2)]
    optimizers = [
        make(name, model.named_parameters() if with_names else model.parameters(), entry, **more)
        for model, with_names, more in zip(models, named, ({}, {"seed": 99}), strict=True)
    ]
    train_network(models[0], optimizers[0], 3)
    models[1].load_state_dict(models[0].state_dict())
    saved = copy.deepcopy(optimizers[0].state_dict())
    optimizers[1].load_state_dict(saved)
    assert identical(saved, optimizers[0].state_dict()), "loading leaves what it reads alone"
    for model, optimizer in zip(models, optimizers, strict=True):
        train_network(model, optimizer, 3)
    states = [without_names(optimizer.state_dict()) for optimizer in optimizers]
    assert identical(states[0], states[1])
    assert identical(list(models[0].parameters()), list(models[1].parameters()))
    if any(named):
        assert optimizers[1].param_groups[0]["param_names"] == NAMES


@EVERY_DTYPE
@EVERY_IMPLEMENTATION
@EVERY_OPTIMIZER
def test_resume_is_bitwise(device: torch.device, name: str, implementation: str, dtype: torch.dtype) -> None:
    """Through a file, into another seed: state of 16-bit parameters is not rounded to 16 bits on its way, and a
    preconditioner freezes in time."""

    def start(params: list[Tensor], seed: int | None) -> Any:
        groups = [{"params": params[:4]}, {"params": params[4:], "lr": 0.25}]
        own = {"freeze_after": 4} if name == "PSGLD" else {}
        return make(name, groups, "default", implementation, seed=seed, **own)

    optimizer = start(assorted(device, dtype), None)
    params = train(optimizer, 3)
    saved = through_a_file(optimizer.state_dict())
    resumed = copies(params)
    other = start(resumed, 99)
    other.load_state_dict(saved)
    train(optimizer, 3, first=3)
    train(other, 3, first=3)
    assert identical(resumed, params)
    assert identical(other.state_dict(), optimizer.state_dict())


@pytest.mark.parametrize("later", [*DTYPES, *SHORT_DTYPES], ids=str)
@pytest.mark.parametrize("saved", [*DTYPES, *SHORT_DTYPES], ids=str)
def test_state_is_cast_on_loading(device: torch.device, saved: torch.dtype, later: torch.dtype) -> None:
    """To the dtype of the state of the new parameters, which is not always theirs; and not by way of theirs."""
    optimizer = make("PSGLD", assorted(device, saved))
    params = train(optimizer, 3)
    moved = [param.detach().to(later) for param in params]
    other = make("PSGLD", moved)
    other.load_state_dict(through_a_file(optimizer.state_dict()))
    wanted = torch.float64 if later == torch.float64 else torch.float32
    for param, twin in zip(params, moved, strict=True):
        expected = {key: value.to(wanted) for key, value in optimizer.state.get(param, {}).items()}
        assert identical(dict(other.state.get(twin, {})), expected)
    train(other, 2, first=3)
    assert steps_of(other) == [5]
    assert other.param_groups[0]["step"].dtype == torch.int64


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("to_cuda", [True, False])
@EVERY_OPTIMIZER
def test_loading_on_another_device(cuda: torch.device, name: str, to_cuda: bool, capturable: bool) -> None:
    """The run goes on with the same bits, and the counter where it belongs."""
    start, end = (torch.device("cpu"), cuda) if to_cuda else (cuda, torch.device("cpu"))
    optimizer = make(name, assorted(start, torch.float64), capturable=capturable)
    params = train(optimizer, 3)
    moved = [param.detach().to(end) for param in params]
    other = make(name, moved, capturable=capturable)
    other.load_state_dict(through_a_file(optimizer.state_dict()))
    gradients = [ramp(*param.shape, device=start, dtype=torch.float64).cos() for param in params]
    for tensors in (params, moved):
        for param, gradient in zip(tensors, gradients, strict=True):
            param.grad = gradient.to(param.device)
    optimizer.step()
    other.step()
    assert identical([param.cpu() for param in moved], [param.cpu() for param in params])
    assert other.param_groups[0]["step"].device.type == (end.type if capturable else "cpu")


def aliases(optimizer: Any, other: Any) -> tuple[bool, bool]:
    """Whether a state_dict has the optimizer's own state tensors, and whether loading it shares them."""
    (param,), (twin,) = optimizer.param_groups[0]["params"], other.param_groups[0]["params"]
    state = optimizer.state_dict()
    other.load_state_dict(state)
    saved = state["state"][0]["square_avg"]
    return saved is optimizer.state[param]["square_avg"], other.state[twin]["square_avg"] is saved


def test_state_dicts_alias_as_torchs(device: torch.device) -> None:
    """A state_dict is a view of the running state, not a copy: torch's users copy it, and so do ours."""
    found = []
    for kind, options in ((torch.optim.RMSprop, {"lr": 0.1}), (PSGLD, BASE)):
        optimizers = [kind([ramp(5, device=device)], **options) for _ in range(2)]
        train(optimizers[0], 1)
        found.append(aliases(*optimizers))
    assert found[0] == found[1]


@EVERY_INPUT
def test_a_loaded_counter_is_not_shared(device: torch.device, name: str, entry: str) -> None:
    optimizer, other = (make(name, assorted(device), entry) for _ in range(2))
    train(optimizer, 3)
    other.load_state_dict(optimizer.state_dict())
    train(other, 2)
    assert (steps_of(optimizer), steps_of(other)) == ([3], [5])


@EVERY_INPUT
def test_an_older_state_dict(device: torch.device, name: str, entry: str) -> None:
    """Options that came later get the new optimizer's value, and a counter that is still a plain integer goes on."""
    optimizer = make(name, assorted(device), entry)
    params = train(optimizer, 3)
    old = copy.deepcopy(optimizer.state_dict())
    for group in old["param_groups"]:
        group["step"] = int(group["step"])
        for option in DATABASE[name].newer:
            del group[option]
    resumed = copies(params)
    other = make(name, resumed, entry)
    other.load_state_dict(through_a_file(old))
    train(optimizer, 3, first=3)
    train(other, 3, first=3)
    assert identical(resumed, params)
    assert identical(other.state_dict(), optimizer.state_dict())


@EVERY_OPTIMIZER
def test_a_state_dict_without_counter(device: torch.device, name: str) -> None:
    """Every group begins at 0, on a counter of its own."""
    params = assorted(device)
    optimizer = make(name, [{"params": params[:3]}, {"params": params[3:]}])
    state = copy.deepcopy(optimizer.state_dict())
    for group in state["param_groups"]:
        del group["step"]
    optimizer.load_state_dict(state)
    train(optimizer, 2)
    assert steps_of(optimizer) == [2, 2]
    assert int(optimizer.defaults["step"]) == 0


@EVERY_OPTIMIZER
def test_a_state_dict_of_other_groups_is_refused(device: torch.device, name: str) -> None:
    one = make(name, assorted(device))
    two = make(name, [{"params": tensor} for tensor in assorted(device)])
    with pytest.raises(ValueError, match="different number of parameter groups"):
        one.load_state_dict(two.state_dict())
    with pytest.raises(ValueError, match="doesn't match the size of optimizer's group"):
        one.load_state_dict(make(name, assorted(device)[1:]).state_dict())


@pytest.mark.parametrize("kind_of_step", ["before_the_first", "after_some"])
@EVERY_OPTIMIZER
def test_distributed_checkpoints_do_not_disturb(device: torch.device, name: str, kind_of_step: str) -> None:
    """torch.distributed.checkpoint, which FSDP's users save with, asks for a state that is never empty: where it finds
    none it takes a step with lr = 0 to make it. The run goes on as if nothing had been saved."""
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    models = [network(device) for _ in range(2)]
    optimizers = [make(name, model.parameters()) for model in models]
    steps = 3 if kind_of_step == "after_some" else 0
    for model, optimizer in zip(models, optimizers, strict=True):
        train_network(model, optimizer, steps)
        optimizer.zero_grad()
    get_optimizer_state_dict(models[0], optimizers[0])
    assert steps_of(optimizers[0]) == [steps]
    for model, optimizer in zip(models, optimizers, strict=True):
        train_network(model, optimizer, 2)
    assert identical(list(models[0].parameters()), list(models[1].parameters()))


@EVERY_OPTIMIZER
def test_distributed_checkpoints_resume(device: torch.device, name: str) -> None:
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

    models = [network(device) for _ in range(2)]
    optimizers = [make(name, model.parameters(), seed=seed) for model, seed in zip(models, (7, 99), strict=True)]
    train_network(models[0], optimizers[0], 3)
    optimizers[0].zero_grad()
    saved = through_a_file([models[0].state_dict(), get_optimizer_state_dict(models[0], optimizers[0])])
    models[1].load_state_dict(saved[0])
    set_optimizer_state_dict(models[1], optimizers[1], saved[1])
    for model, optimizer in zip(models, optimizers, strict=True):
        train_network(model, optimizer, 2)
    assert identical(list(models[0].parameters()), list(models[1].parameters()))


# --- Hooks ---


@EVERY_OPTIMIZER
def test_state_dict_hooks(device: torch.device, name: str) -> None:
    optimizer = make(name, assorted(device))
    optimizer.register_state_dict_pre_hook(lambda o: o.state.update(mark=1))
    assert optimizer.state_dict()["state"]["mark"] == 1

    def post(_: Any, state: Options) -> Options:
        return {**state, "mark": state["state"].pop("mark")}

    optimizer.register_state_dict_post_hook(post)
    assert optimizer.state_dict()["mark"] == 1


@EVERY_DTYPE
def test_load_state_dict_hooks_decide_the_state(device: torch.device, dtype: torch.dtype) -> None:
    """What a pre-hook returns is loaded, not what it was given; what a post-hook changes stays."""
    optimizer, other = (make("PSGLD", assorted(device, dtype)) for _ in range(2))
    params = train(optimizer, 3)

    def doubled(_: Any, state: Options) -> Options:
        entries = {k: {key: 2 * value for key, value in entry.items()} for k, entry in state["state"].items()}
        return {**state, "state": entries}

    def add_one(loaded: Any) -> None:
        for entry in loaded.state.values():
            entry["square_avg"] += 1

    other.register_load_state_dict_pre_hook(doubled)
    other.register_load_state_dict_post_hook(add_one)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for param, twin in zip(params, other.param_groups[0]["params"], strict=True):
        if param in optimizer.state:
            assert identical(other.state[twin]["square_avg"], 2 * optimizer.state[param]["square_avg"] + 1)


@pytest.mark.parametrize("prepend", [False, True])
@EVERY_OPTIMIZER
def test_load_state_dict_hooks(device: torch.device, name: str, prepend: bool) -> None:
    """Pre-hooks may write to what is loaded or return another; post-hooks see the result. In their order."""
    optimizer = make(name, assorted(device))
    seen: list[float] = []

    def write(_: Any, state: Options) -> None:
        state["param_groups"][0]["lr"] = 0.002

    def replace(_: Any, state: Options) -> Options:
        state = copy.deepcopy(state)
        state["param_groups"][0]["lr"] = 0.003
        return state

    optimizer.register_load_state_dict_pre_hook(write)
    optimizer.register_load_state_dict_pre_hook(replace, prepend=prepend)
    optimizer.register_load_state_dict_post_hook(lambda o: seen.append(o.param_groups[0]["lr"]))
    optimizer.register_load_state_dict_post_hook(lambda _: seen.append(-1), prepend=prepend)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    last = 0.002 if prepend else 0.003
    assert seen == ([-1, last] if prepend else [last, -1])
    train(optimizer, 1)


@EVERY_IMPLEMENTATION
@EVERY_OPTIMIZER
def test_step_hooks_in_their_order(device: torch.device, name: str, implementation: str) -> None:
    """Global before, own before, own after, global after: for ours, and for torch's beside it, until removed."""
    optimizers = [make(name, assorted(device), "default", implementation), torch.optim.SGD(assorted(device), lr=0.1)]
    seen: list[tuple[int, str]] = []

    def note(what: str) -> Callable[..., None]:
        return lambda optimizer, args, kwargs: seen.append((optimizers.index(optimizer), what))

    handles = [
        register_optimizer_step_pre_hook(note("global before")),
        register_optimizer_step_post_hook(note("global after")),
    ]
    for optimizer in optimizers:
        handles.append(optimizer.register_step_pre_hook(note("before")))
        handles.append(optimizer.register_step_post_hook(note("after")))
    try:
        for optimizer in optimizers:
            train(optimizer, 1)
    finally:
        for handle in handles:
            handle.remove()
    order = ["global before", "before", "after", "global after"]
    assert seen == [(i, what) for i in range(2) for what in order]
    for optimizer in optimizers:
        train(optimizer, 1)
    assert len(seen) == 8


@EVERY_OPTIMIZER
@pytest.mark.parametrize("register", ["register_step_pre_hook", "register_step_post_hook"])
@pytest.mark.parametrize("of_all", [False, True])
def test_each_kind_of_step_hook_alone(device: torch.device, name: str, register: str, of_all: bool) -> None:
    optimizer = make(name, assorted(device))
    train(optimizer, 1)
    of_all_optimizers = {
        "register_step_pre_hook": register_optimizer_step_pre_hook,
        "register_step_post_hook": register_optimizer_step_post_hook,
    }
    seen: list[Any] = []
    handle = (of_all_optimizers[register] if of_all else getattr(optimizer, register))(lambda *args: seen.append(args))
    try:
        train(optimizer, 2)
    finally:
        handle.remove()
    train(optimizer, 1)
    assert seen == [(optimizer, (optimizer,), {})] * 2


@EVERY_OPTIMIZER
def test_profilers_see_steps(device: torch.device, name: str) -> None:
    optimizer = make(name, assorted(device))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        train(optimizer, 2)
    train(optimizer, 1)
    counts = {event.key: event.count for event in profile.key_averages()}
    assert counts[f"Optimizer.step#{name}.step"] == 2


@EVERY_OPTIMIZER
def test_a_pre_hook_may_give_the_closure(device: torch.device, name: str) -> None:
    optimizer = make(name, assorted(device))
    optimizer.register_step_pre_hook(lambda o, args, kwargs: (args, {"closure": lambda: 3.5}))
    assert optimizer.step() == 3.5


# --- Copies, printing, gradients to zero ---


@EVERY_INPUT
def test_printing(device: torch.device, name: str, entry: str) -> None:
    text = repr(make(name, assorted(device), entry))
    assert text.startswith(f"{name} (\nParameter Group 0\n")
    assert all(f"    {option}: " in text for option in ("lr", "num_data", "seed", "step", "temperature"))


@pytest.mark.parametrize("set_to_none", [True, False])
@EVERY_IMPLEMENTATION
@EVERY_OPTIMIZER
def test_zero_grad(device: torch.device, name: str, implementation: str, set_to_none: bool) -> None:
    """None is no step for a parameter; zero is a step, of noise and weight decay."""
    params = assorted(device)
    optimizer = make(name, params, "default", implementation)
    train(optimizer, 2)
    had_gradient = [param.grad is not None for param in params]
    before = copies(params)
    optimizer.zero_grad(set_to_none=set_to_none)
    optimizer.step()
    for param, old, had in zip(params, before, had_gradient, strict=True):
        if set_to_none or not had:
            assert param.grad is None
            assert torch.equal(param, old)
        else:
            assert (param.grad == 0).all()
            assert (param != old).all()
    assert steps_of(optimizer) == [3]


# --- Memory, profiler ---


def allocated_bytes(device: torch.device, function: Callable[[], Any]) -> int:
    """CUDA: by how much the peak rises. CPU: all that is allocated, whether or not it is given back."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        function()
        return int(torch.cuda.max_memory_allocated() - before)
    with torch.autograd.profiler.profile(profile_memory=True) as profile:
        function()
    return sum(max(0, event.self_cpu_memory_usage) for event in profile.function_events)


@pytest.mark.parametrize("entry", ["default", "maximize_weight_decay", "capturable_tensor_lr"])
@pytest.mark.parametrize("implementation", ["default", "fused"])
@EVERY_DTYPE
@EVERY_OPTIMIZER
def test_a_fused_step_allocates_nothing(
    device: torch.device, name: str, implementation: str, entry: str, dtype: torch.dtype
) -> None:
    """Of the parameters' size: less than 1% of it."""
    params = [torch.zeros(100_000, device=device, dtype=dtype) for _ in range(4)]
    for param in params:
        param.grad = torch.ones_like(param)
    optimizer = make(name, params, entry, implementation)
    optimizer.step()  # makes the state
    size = sum(param.nbytes for param in params)
    assert allocated_bytes(device, lambda: [param.clone() for param in params]) >= size, "the count does not count"
    assert allocated_bytes(device, optimizer.step) < size / 100


@EVERY_IMPLEMENTATION
@EVERY_OPTIMIZER
def test_the_name_in_the_profiler(device: torch.device, name: str, implementation: str) -> None:
    param = ramp(3, device=device).requires_grad_()
    optimizer = make(name, [param], "default", implementation)
    param.grad = torch.ones_like(param)
    with torch.autograd.profiler.profile() as profile:
        optimizer.step()
        optimizer.zero_grad()
    names = [event.name for event in profile.function_events]
    assert names.count(f"Optimizer.step#{name}.step") == 1
    assert names.count(f"Optimizer.zero_grad#{name}.zero_grad") == 1


# --- Mixed precision ---


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@EVERY_IMPLEMENTATION
@EVERY_OPTIMIZER
def test_grad_scaler(device: torch.device, name: str, implementation: str, dtype: torch.dtype) -> None:
    """A power of two as scale changes no bit; a step with an infinite gradient is not made, and not counted."""
    params, expected = ([tensor.to(dtype).requires_grad_() for tensor in regression(device)] for _ in range(2))
    params, expected = ([tensor.detach().requires_grad_() for tensor in tensors] for tensors in (params, expected))
    optimizer, other = (make(name, tensors, "default", implementation) for tensors in (params, expected))
    scaler = torch.amp.GradScaler(device.type, init_scale=1024.0)
    for _ in range(3):
        for each in (optimizer, other):
            each.zero_grad()
        scaler.scale(regression_loss(params)).backward()
        scaler.step(optimizer)
        scaler.update()
        regression_loss(expected).backward()
        other.step()
    assert identical(copies(params), copies(expected))

    before = snapshot(optimizer)
    scaler.scale(regression_loss(params)).backward()
    assert params[1].grad is not None
    params[1].grad[2] = float("inf")
    scaler.step(optimizer)
    scaler.update()
    assert identical(snapshot(optimizer), before)
    assert scaler.get_scale() == 512.0


# --- Modes and defaults of torch ---


@EVERY_IMPLEMENTATION
@EVERY_OPTIMIZER
def test_inference_mode(device: torch.device, name: str, implementation: str) -> None:
    """Samplers that know their gradients run under it."""
    expected = train(make(name, assorted(device), "default", implementation), 3)
    with torch.inference_mode():
        params = train(make(name, assorted(device), "default", implementation), 3)
        assert all(param.is_inference() for param in params)
        assert identical(params, expected)


@EVERY_OPTIMIZER
def test_in_and_out_of_inference_mode(device: torch.device, name: str) -> None:
    """Its counter is made anew where it could not be advanced."""
    expected, params = assorted(device), assorted(device)
    train(make(name, expected), 4)
    with torch.inference_mode():
        optimizer = make(name, params)
    train(optimizer, 2)
    if not DATABASE[name].state:  # states made there cannot be used outside
        with torch.inference_mode():
            train(optimizer, 1, first=2)
        train(optimizer, 1, first=3)
        assert identical(params, expected)
    assert steps_of(optimizer) == [2 if DATABASE[name].state else 4]


@pytest.mark.parametrize("default", [torch.float64, torch.float16], ids=str)
@EVERY_DTYPE
@pytest.mark.parametrize("implementation", ["default", "plain"])
@EVERY_OPTIMIZER
def test_default_dtype(
    device: torch.device, name: str, implementation: str, dtype: torch.dtype, default: torch.dtype
) -> None:
    """It changes no bit and no state's dtype."""
    optimizer = make(name, assorted(device, dtype), "weight_decay", implementation)
    train(optimizer, 2)
    usual = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        other = make(name, assorted(device, dtype), "weight_decay", implementation)
        train(other, 2)
    finally:
        torch.set_default_dtype(usual)
    assert identical(snapshot(other), snapshot(optimizer))


@EVERY_INPUT
def test_default_device(device: torch.device, name: str, entry: str) -> None:
    """Under torch.device("meta") what an optimizer makes for itself is still where it belongs."""
    optimizer = make(name, assorted(device), entry)
    train(optimizer, 2)
    params = assorted(device)
    with torch.device("meta"):
        other = make(name, params, entry)
        state = copy.deepcopy(other.state_dict())
        train(other, 1)
        other.load_state_dict(state)
        for param, fresh in zip(params, assorted(device), strict=True):
            param.copy_(fresh)
        train(other, 2)
    assert identical(snapshot(other), snapshot(optimizer))
