"""Random calls of every function of ald_ext.ops, right ones and spoilt ones, and what each of them has to give."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ald_ext import ops, reference
from ald_ext.ops.library import PARAMETER_DTYPES
from ald_ext.ops.steps import _run_unrecorded_step

from .tensors import copied, draw_shape, draw_values, laid_out, same_bits

FLOATS = (torch.float32, torch.float64)
#: How far results may be from the reference's, as a share of the largest term of a sum.
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-9, torch.bfloat16: 2.0**-6, torch.float16: 2.0**-9}
PRIORS = ("flat", "jeffreys", (2.0, 0.5), (0.01, 100.0))

#: Of a step, in the order in which it takes them.
STEP_LISTS = ("params", "grads", "square_avgs", "momenta", "anchors")

Arguments = dict[str, Any]


@dataclass
class Call:
    """A call of a function of ald_ext.ops.

    ``written`` names the arguments that it writes to; others stay as they are. ``expected`` gives, from copies of the
    arguments, for every result the reference's and the size of the terms that it is a sum of.
    """

    name: str
    arguments: Arguments
    expected: Callable[[Arguments, list[Tensor]], list[tuple[Tensor, Tensor]]]
    written: tuple[str, ...] = ()
    differentiated: tuple[str, ...] = ()
    spoilt: str = ""

    def run(self, arguments: Arguments) -> list[Tensor]:
        """Return what is returned, or what is written to; and gradients of the sum of it."""
        leaves = [] if self.spoilt else [arguments[name] for name in self.differentiated]
        for leaf in leaves:
            leaf.requires_grad_()
        function = getattr(ops, self.name, None) or functools.partial(anchored_step, self.name)
        result = function(**arguments)
        if self.written:
            return [tensor for name in self.written for tensor in tensors_of(arguments[name])]
        results = list(result) if isinstance(result, tuple) else [result]
        if leaves:
            results += torch.autograd.grad([r.sum() for r in results], leaves)
        return [result.detach() for result in results]


def anchored_step(name: str, **arguments: Any) -> None:
    """Run a step with anchors, which has no function of its own, by what runs the steps that have."""
    lists = {argument: arguments.pop(argument) for argument in STEP_LISTS if argument in arguments}
    _run_unrecorded_step(name, lists, **{"row_lengths": None, "row_strides": None, **arguments})


def tensors_of(value: Any) -> list[Tensor]:
    """Return the tensors of an argument."""
    items = value if isinstance(value, list | tuple) else [value]
    return [item for item in items if isinstance(item, Tensor)]


def with_tensors(arguments: Arguments, change: Callable[[Tensor], Tensor]) -> Arguments:
    """Return the arguments with every tensor changed."""

    def changed(value: Any) -> Any:
        if isinstance(value, Tensor):
            return change(value)
        return [changed(item) for item in value] if isinstance(value, list) else value

    return {name: changed(value) for name, value in arguments.items()}


# --- What is drawn ---


def noise_key(draw: random.Random) -> dict[str, int]:
    """Return a seed and a step, near either end of their ranges too."""
    seed = draw.choice([0, 1, draw.getrandbits(63), 2**63 - 1])
    return {"seed": seed, "step": draw.choice([0, 1, draw.getrandbits(40), 2**40 - 1])}


def draw_normal(draw: random.Random) -> Call:
    n, dtype = draw.choice([0, 1, 17, 64, 200]), draw.choice(FLOATS)
    arguments = {
        "n": n,
        "dtype": dtype,
        "parameter": draw.choice([0, 3, 2**44 - 1]),
        "offset": draw.choice([0, 5, 63, 2**32 - 7, 2**41 - n]),
        **noise_key(draw),
    }
    return Call("normal", arguments, lambda given, _: [(reference.normal(**given), torch.tensor(1.0))])


def draw_latent_normal(draw: random.Random) -> Call:
    index = torch.tensor([draw.choice([0, 1, 2**33, 2**44 - 1]) for _ in range(draw.randrange(5))], dtype=torch.int64)
    arguments = {
        "index": laid_out(draw, index),
        "count": draw.choice([0, 1, 17, 64, 100]),
        "dtype": draw.choice(FLOATS),
        "offset": draw.choice([0, 5, 2**41 - 100]),
        **noise_key(draw),
    }
    return Call("latent_normal", arguments, lambda given, _: [(reference.latent_normal(**given), torch.tensor(1.0))])


def draw_latent_step(draw: random.Random, name: str) -> Call:
    dtype, shape = draw.choice(FLOATS), draw_shape(draw, at_least=1)
    index = torch.tensor([draw.randrange(2**44) for _ in range(shape[0])], dtype=torch.int64)
    arguments: Arguments = {
        "z": laid_out(draw, draw_values(draw, shape, dtype), dense=True, written=True).contiguous(),
        "grad": laid_out(draw, draw_values(draw, shape, dtype)),
        "index": laid_out(draw, index),
        "lr": draw.choice([0.0, 1e-3, 0.5]),
        "temperature": draw.choice([0.0, 1.0, 3.0]),
        "offset": draw.choice([0, 7]),
        **noise_key(draw),
    }
    written: tuple[str, ...] = ("z",)
    if name == "latent_underdamped_step_":
        written = ("z", "momenta")
        arguments["momenta"] = draw_values(draw, shape, dtype)
        arguments["momentum"] = draw.choice([0.0, 0.9])
    return Call(name, arguments, functools.partial(expected_latent_step, name), written)


def expected_latent_step(name: str, given: Arguments, _: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    h, momenta = math.sqrt(given["lr"]), given.get("momenta", given["z"])
    size = given["z"].abs() + momenta.abs() + (given["lr"] + h) * given["grad"].abs() + given["temperature"]
    getattr(reference, name)(**given)
    return [(given[argument], size) for argument in ("z", "momenta") if argument in given]


def draw_step(draw: random.Random, name: str) -> Call:
    dtype = draw.choice(PARAMETER_DTYPES)
    state_dtype = reference.compute_dtype(dtype)
    params, grads, states = [], [], []
    for _ in range(draw.choice([1, 1, 2, 3, 9])):
        shape = draw_shape(draw)
        params.append(laid_out(draw, draw_values(draw, shape, dtype), dense=True, written=True))
        grads.append(like(params[-1], draw_values(draw, shape, dtype)))
        state = draw_values(draw, shape, state_dtype)
        states.append(like(params[-1], state.square() if name.startswith("psgld") else state))
        if draw.random() < 0.1:
            grads[-1] = torch._neg_view(copied(-grads[-1]))
    arguments: Arguments = {
        "params": params,
        "grads": grads,
        "lr": draw.choice([0.0, 1e-3, 0.5]),
        "num_data": draw.choice([1.0, 1000.0]),
        "temperature": draw.choice([0.0, 1.0, 3.0]),
        "weight_decay": draw.choice([0.0, 0.1]),
        "maximize": draw.random() < 0.5,
        "noise_ids": draw.choice([None, [draw.randrange(2**44) for _ in params]]),
        "offsets": draw.choice([None, [draw.randrange(2**40) for _ in params]]),
        **noise_key(draw),
    }
    if draw.random() < 0.2:
        arguments["row_lengths"] = [draw.randrange(1, 6) for _ in params]
        arguments["row_strides"] = [length + draw.randrange(4) for length in arguments["row_lengths"]]
    if draw.random() < 0.2:
        arguments["lr"] = torch.tensor(arguments["lr"], dtype=torch.float64)
        arguments["step"] = torch.tensor(arguments["step"])
    written: tuple[str, ...] = ("params",)
    if name.startswith("psgld"):
        written = ("params", "square_avgs")
        arguments |= {"square_avgs": states, "alpha": 0.9, "eps": draw.choice([0.1, 1e-2])}
        arguments["freeze_after"] = draw.choice([-1, 0, 2**63 - 1])
    elif name.startswith("sghmc"):
        written = ("params", "momenta")
        arguments |= {"momenta": states, "momentum": draw.choice([0.0, 0.9])}
    if "anchored" in name:
        arguments["anchors"] = [like(p, draw_values(draw, tuple(p.shape), state_dtype)) for p in params]
        arguments["localization"] = draw.choice([0.0, 0.1, 30.0])
    return Call(name, arguments, functools.partial(expected_step, name), written)


def like(tensor: Tensor, values: Tensor) -> Tensor:
    """Return values in a memory of the same strides as a dense tensor."""
    return torch.empty_like(tensor, dtype=values.dtype).copy_(values)


def expected_step(name: str, given: Arguments, _: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    given = {**given, "lr": float(given["lr"]), "step": int(given["step"])}
    count = len(given["params"])
    for argument, default in (("noise_ids", range(count)), ("offsets", [0] * count)):
        given[argument] = given[argument] or default
    lr, decay = given["lr"], given["weight_decay"]
    preconditioner = 1 / given.get("eps", 1.0)
    sizes, state_sizes = [], []
    states = given.get("square_avgs", given.get("momenta", given["params"]))
    pull, anchors = given.get("localization", 0) / given["num_data"], given.get("anchors", given["params"])
    for param, grad, state, anchor in zip(given["params"], given["grads"], states, anchors, strict=True):
        compute = reference.compute_dtype(param.dtype)
        slope = grad.to(compute).abs() + (decay + pull) * param.to(compute).abs() + pull * anchor.to(compute).abs()
        noise = math.sqrt(2 * (lr + 1) * given["temperature"] * preconditioner / given["num_data"])
        speed = math.sqrt(lr) if name.startswith("sghmc") else lr * preconditioner
        momenta = state.abs() if name.startswith("sghmc") else 0
        sizes.append(param.to(compute).abs() + speed * slope + noise + momenta)
        state_sizes.append(state.abs() + slope.square() if name.startswith("psgld") else sizes[-1])
    # The kernels' own noise, or where a tensor is made of rows, which ops.normal does not know, the reference's.
    normal = lambda n, **key: (reference if "row_length" in key else ops).normal(n, **key)  # noqa: E731
    lists = [given.pop(argument) for argument in STEP_LISTS if argument in given]
    params = lists[0]
    getattr(reference, name)(*lists, normal=normal, **given)
    results = list(zip(params, sizes, strict=True))
    return results + (list(zip(states, state_sizes, strict=True)) if states is not params else [])


def draw_log_prob(draw: random.Random) -> Call:
    dtype, shape = draw.choice(FLOATS), draw_shape(draw, at_least=1)
    arguments: Arguments = {
        "x": laid_out(draw, draw_values(draw, shape, dtype)),
        "mean": laid_out(draw, draw_values(draw, shape, dtype)),
        "prior": draw.choice(PRIORS),
    }
    if draw.random() < 0.05:
        arguments["mean"] = arguments["x"].detach()
    return Call("marginal_gaussian_log_prob", arguments, expected_log_prob, differentiated=("x", "mean"))


def expected_log_prob(given: Arguments, _: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    shape, rate = ops.prior_shape_and_rate(given["prior"])
    x, mean = (given[name].detach().double().requires_grad_() for name in ("x", "mean"))
    log_prob = reference.marginal_gaussian_log_prob(x, mean, shape, rate)
    gradients = torch.autograd.grad(log_prob.sum(), (x, mean))
    row = torch.Size(x.shape[1:]).numel()
    # Sums of squares of float32 numbers are float32 too, and overflow.
    squares = (x - mean).detach().abs().reshape(len(x), -1).amax(1) if x.numel() else log_prob.detach()
    size = torch.where(squares < 1e17, log_prob.detach().abs() + 100 * (row + 1), torch.inf)
    sizes = [size, *gradient_sizes(x, mean, gradients)]
    return list(zip([log_prob.detach(), *gradients], sizes, strict=True))


def gradient_sizes(x: Tensor, mean: Tensor, gradients: tuple[Tensor, ...]) -> list[Tensor]:
    """A difference of rounded numbers is as good as they are; so is the gradient, which is a multiple of it."""
    if x.numel() == 0:
        return list(gradients)
    rows = [tensor.detach().reshape(len(x), -1) for tensor in (x, mean, gradients[-1])]
    difference = rows[0] - rows[1]
    slope = torch.where(difference == 0, 0, rows[2] / difference).abs().amax(1, keepdim=True)
    size = slope * (rows[0].abs() + rows[1].abs()) + 1e-12
    return [size.view(x.shape)] * len(gradients)


def draw_pixels(draw: random.Random, at_least: int) -> tuple[Arguments, tuple[int, ...], torch.dtype]:
    dtype, shape, bits = draw.choice(FLOATS), draw_shape(draw, at_least), draw.choice([1, 3, 7, 8])
    generator = torch.Generator().manual_seed(draw.getrandbits(32))
    x = torch.randint(0, 2**bits, shape, generator=generator).to(torch.uint8)
    h = draw_values(draw, shape, dtype)
    return {"x": laid_out(draw, x), "h": laid_out(draw, h), "bits": bits}, shape, dtype


def draw_dequantize(draw: random.Random) -> Call:
    arguments, _, _ = draw_pixels(draw, 0)
    return Call("langevin_dequantize", arguments, expected_dequantize, differentiated=("h",))


def expected_dequantize(given: Arguments, _: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    h = given["h"].detach().requires_grad_()
    y = reference.langevin_dequantize(given["x"], h, given["bits"])
    (gradient,) = torch.autograd.grad(y.sum(), h)
    bound = -math.log(reference.DEQUANTIZATION_MARGIN[h.dtype])
    at_the_margin = (h.detach().abs() - bound).abs() < 1e-3 * bound
    # log σ of the reference cancels where σ is near one: there y is a difference of logarithms of numbers near 2^bits.
    return [(y.detach(), 20 + y.detach().abs()), (gradient, torch.where(at_the_margin, torch.inf, 1.0 + gradient))]


def draw_dequantized_log_prob(draw: random.Random) -> Call:
    arguments, shape, dtype = draw_pixels(draw, 1)
    arguments |= {"mean": laid_out(draw, draw_values(draw, shape, dtype)), "prior": draw.choice(PRIORS)}
    return Call("dequantized_log_prob", arguments, expected_dequantized, differentiated=("h", "mean"))


def expected_dequantized(given: Arguments, got: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """By the two ops that it is made of, which are compared with the reference by themselves."""
    h, mean = (given[name].detach().requires_grad_() for name in ("h", "mean"))
    y = ops.langevin_dequantize(given["x"], h, given["bits"])
    log_prob = ops.marginal_gaussian_log_prob(y, mean, given["prior"])
    gradients = torch.autograd.grad([y.sum(), log_prob.sum()], (h, mean))
    nothing, slope = torch.tensor(0.0), gradients[1].abs()
    results = [y.detach(), log_prob.detach(), *gradients]
    return list(zip(results, [nothing, nothing, 1 + slope, slope], strict=True))


def draw_quantize(draw: random.Random) -> Call:
    y = draw_values(draw, draw_shape(draw), draw.choice(FLOATS))
    arguments = {"y": laid_out(draw, 3 * y), "bits": draw.choice([1, 4, 8])}
    return Call("quantize", arguments, expected_quantize)


def expected_quantize(given: Arguments, _: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    scaled = 2 ** given["bits"] * torch.sigmoid(given["y"].double())
    beside_a_border = (scaled - scaled.round()).abs() < 1e-4 * scaled
    return [(reference.quantize(given["y"].double(), given["bits"]), torch.where(beside_a_border, torch.inf, 0.0))]


DRAWERS: dict[str, Callable[[random.Random], Call]] = {
    "normal": draw_normal,
    "latent_normal": draw_latent_normal,
    **{
        name: functools.partial(draw_latent_step, name=name)
        for name in ("latent_langevin_step_", "latent_underdamped_step_")
    },
    **{
        f"{kind}_step_": functools.partial(draw_step, name=f"{kind}_step_")
        for kind in ("sgld", "psgld", "sghmc", "sgld_anchored", "psgld_anchored", "sghmc_anchored")
    },
    "marginal_gaussian_log_prob": draw_log_prob,
    "langevin_dequantize": draw_dequantize,
    "dequantized_log_prob": draw_dequantized_log_prob,
    "quantize": draw_quantize,
}

# --- What is spoilt ---

#: What may take the place of a tensor, and is to be refused wherever it does.
SPOILT_TENSORS: dict[str, Callable[[Tensor], Any]] = {
    "None": lambda _: None,
    "list": lambda t: t.tolist(),
    "sparse": lambda t: t.to_sparse(),
    "meta": lambda t: t.to("meta"),
    "half": lambda t: t.to(torch.int16),
    "complex": lambda t: torch.complex(t.float(), t.float()).conj(),
    "shape": lambda t: torch.zeros((*t.shape, 2), dtype=t.dtype),
}
#: And what may take the place of a number.
SPOILT_NUMBERS: dict[str, Any] = {
    "lr": (-0.1, math.nan, math.inf, [0.1], "0.1", None),
    "num_data": (0.0, -1.0, math.nan, None),
    "temperature": (-1.0, math.inf, math.nan, None),
    "weight_decay": (-1e-9, math.inf),
    "localization": (-1e-9, math.inf, math.nan),
    "alpha": (-0.1, 1.0, math.nan),
    "momentum": (-0.1, 1.0, math.nan),
    "eps": (-1e-9, math.nan),
    "seed": (-1, 2**63, None, 1.5),
    "step": (-1, 2**40, [1], None, 1.5),
    "offset": (-1, 2**41 + 1, 2**63 - 1),
    "noise_ids": ([-1], [2**44], [0] * 20),
    "offsets": ([-1], [2**41 + 1], [0] * 20),
    "parameter": (-1, 2**44),
    "count": (-1, 2.5, None),
    "n": (-1, 2.5, None),
    "bits": (0, 9, -(2**62), None, [8]),
    "prior": ("gamma", None, (1.0, 0.0), (1.0,), (math.nan, 1.0)),
}


def spoil(draw: random.Random, call: Call) -> None:
    """Put something into the place of one argument that is to be refused."""
    if call.written and draw.random() < 0.1 and share_memory(draw, call):
        return
    names = [name for name, value in call.arguments.items() if tensors_of(value) or name in SPOILT_NUMBERS]
    name = draw.choice(names)
    value = call.arguments[name]
    if name in call.written and draw.random() < 0.3:
        kind, change = "negated view", lambda t: torch._neg_view(t)
    elif tensors_of(value) and name not in ("lr", "step"):
        # Without another tensor beside it, one on meta is as good as any, and so is every shape.
        alone = call.name in ("quantize", "latent_normal")
        kinds = [kind for kind in SPOILT_TENSORS if not alone or kind not in ("meta", "shape")]
        kind = draw.choice(kinds)
        change = SPOILT_TENSORS[kind]
    else:
        call.arguments[name] = draw.choice(SPOILT_NUMBERS[name])
        call.spoilt = f"{name} = {call.arguments[name]!r}"
        return
    if isinstance(value, list):
        place = draw.randrange(len(value))
        call.arguments[name] = [change(item) if i == place else item for i, item in enumerate(value)]
    else:
        call.arguments[name] = change(value)
    call.spoilt = f"{name}: {kind}"


def share_memory(draw: random.Random, call: Call) -> bool:
    """Give a gradient or a momentum the memory of what is written to; False if that has none."""
    target = call.arguments[call.written[0]]
    filled = [place for place, tensor in enumerate(tensors_of(target)) if tensor.numel()]
    names = [name for name in ("grad", "grads", "momenta") if name in call.arguments]
    name = draw.choice(names)
    if not filled:
        return False
    place = draw.choice(filled)
    if isinstance(target, list):
        items = call.arguments[name]
        if items[place].dtype != target[place].dtype:
            return False
        call.arguments[name] = [target[i].detach() if i == place else item for i, item in enumerate(items)]
    else:
        call.arguments[name] = target.detach()
    call.spoilt = f"{name}: memory that is written to"
    return True


# --- One call ---

#: The share of calls that are spoilt.
SPOILT = 0.25


def make_call(seed: int, number: int) -> Call:
    """Return call ``number`` of a run; the same on every machine."""
    draw = random.Random(f"{seed}:{number}")
    call = DRAWERS[draw.choice(list(DRAWERS))](draw)
    if draw.random() < SPOILT:
        spoil(draw, call)
    return call


def check_call(call: Call) -> list[str]:
    """Make the call; return what is wrong with it, a line each."""
    before = snapshot(call.arguments)
    if call.spoilt:
        return check_refusal(call, before)
    copies, of_reference = (with_tensors(call.arguments, copied) for _ in range(2))
    try:
        got = call.run(call.arguments)
        of_copies = call.run(copies)
    except Exception as error:
        return [f"raised {type(error).__name__}: {str(error).splitlines()[0]}"]
    wrong = []
    for name, value in call.arguments.items():
        if name not in call.written and not all(map(same_bits, tensors_of(value), before[name])):
            wrong.append(f"{name} was changed")
    if not all(map(same_bits, got, of_copies)):
        wrong.append("other bits than of plain copies")
    for place, (result, (expected, size)) in enumerate(zip(got, call.expected(of_reference, got), strict=True)):
        wrong += [f"result {place}: {text}" for text in compare(result, expected, size)]
    return wrong


def snapshot(arguments: Arguments) -> dict[str, list[Tensor]]:
    """Return copies of all tensors that have values."""
    return {
        name: [t.detach().clone() for t in tensors_of(value) if t.device.type != "meta" and not t.is_sparse]
        for name, value in arguments.items()
    }


def check_refusal(call: Call, before: dict[str, list[Tensor]]) -> list[str]:
    """A spoilt call raises an error that names the function, and leaves everything as it was."""
    wrong = []
    try:
        call.run(call.arguments)
        wrong.append(f"{call.spoilt}: not refused")
    except (RuntimeError, ValueError) as error:
        if call.name.rstrip("_") not in str(error):
            wrong.append(f"{call.spoilt}: an error without the name: {str(error).splitlines()[0]}")
    except Exception as error:
        wrong.append(f"{call.spoilt}: {type(error).__name__}: {str(error).splitlines()[0]}")
    after = snapshot(call.arguments)
    for name, tensors in before.items():
        if not all(map(same_bits, tensors, after[name])):
            wrong.append(f"{call.spoilt}: {name} was changed, though the call was refused")
    return wrong


def compare(got: Tensor, expected: Tensor, size: Tensor) -> list[str]:
    """Return what is wrong with a result: values beyond the tolerance, or others that are no finite numbers."""
    if got.shape != expected.shape:
        return [f"shape {tuple(got.shape)}, expected {tuple(expected.shape)}"]
    tolerance = TOLERANCE.get(got.dtype, 0.0)
    got, expected, size = got.double(), expected.double(), size.double().expand(expected.shape)
    # Where terms are near the end of the range, or beyond, one order of operations overflows and another does not.
    clear = size.isfinite() & (size < 1e17)
    within = (got - expected).abs() <= tolerance * size + 1e-30
    wrong = clear & ~(within | (got == expected) | (got.isnan() & expected.isnan()))
    if not wrong.any():
        return []
    first = wrong.nonzero()[0].tolist()
    values = f"{got[tuple(first)].item():.9g}, expected {expected[tuple(first)].item():.9g}"
    return [f"{int(wrong.sum())} of {got.numel()} values differ, the first at {first}: {values}"]
