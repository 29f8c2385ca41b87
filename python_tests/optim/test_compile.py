"""Steps under torch.compile and in CUDA graphs: the bits of eager steps, from one graph whatever lr and step are."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import torch
from optim.optimizers import EVERY_KIND, OPTIMIZERS, network
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from ald_ext import ops

#: Steps until nothing is left to compile: a first one that makes states has a graph of its own.
WARM_UP = 2


@dataclass(frozen=True)
class Lr:
    """How lr is given."""

    name: str

    def make(self, value: float, device: torch.device) -> float | Tensor:
        if self.name == "float":
            return value
        dtype = torch.float64 if self.name.endswith("64") else torch.float32
        return torch.tensor(value, dtype=dtype, device=device if self.name.startswith("device") else "cpu")


LRS = [Lr("float"), Lr("cpu 64"), Lr("device 32")]
EVERY_LR = pytest.mark.parametrize("lr", LRS, ids=lambda lr: lr.name)


@dataclass(frozen=True)
class Compilation:
    """A backend of torch.compile, and an optimizer for it. inductor takes seconds: it gets fewer."""

    backend: str
    capturable: bool
    lr: Lr

    def __str__(self) -> str:
        return f"{self.backend}{'-capturable' if self.capturable else ''}-{self.lr.name}"

    def counter(self) -> CompileCounterWithBackend:
        """The backend, which counts how often it is called (twice a graph, where dynamo starts over)."""
        torch._dynamo.reset()
        return CompileCounterWithBackend(self.backend)


COMPILATIONS = [
    *(Compilation("aot_eager", capturable, lr) for capturable in (False, True) for lr in LRS),
    Compilation("inductor", False, LRS[0]),
    Compilation("inductor", True, LRS[1]),
]


def compilations(chosen: list[Compilation]) -> pytest.MarkDecorator:
    """Parametrizes; inductor starts compilers."""
    marks = {"aot_eager": (), "inductor": pytest.mark.processes}
    params = [pytest.param(each, id=str(each), marks=marks[each.backend]) for each in chosen]
    return pytest.mark.parametrize("compilation", params)


#: The larger graphs of a whole training step, one for each backend and kind of clock.
FEW_COMPILATIONS = [COMPILATIONS[0], COMPILATIONS[4], *COMPILATIONS[6:]]


class Training:
    """A model, its optimizer, and steps of which the whole or the last part may be compiled."""

    def __init__(
        self,
        kind: str,
        device: torch.device,
        lr: float | Tensor = 0.01,
        dtype: torch.dtype = torch.float32,
        slope: float = 1.0,
        **options: Any,
    ) -> None:
        self.model = network(device, dtype)
        self.params = list(self.model.parameters())
        self.optimizer = OPTIMIZERS[kind](self.params, lr, num_data=50, seed=3, **options)
        self.x = torch.linspace(-2, 2, 48).reshape(8, 6).sin().to(device, dtype)
        self.slope = slope  # 0: no gradient, only noise

    def loss(self) -> Tensor:
        return self.slope * (self.model(self.x) - self.x[:, :3] ** 2).square().mean()

    def whole_step(self) -> Tensor:
        loss = self.loss()
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def run(self, steps: int, compiled: Callable[[], Any] | None = None, whole: bool = False) -> None:
        for _ in range(steps):
            self.optimizer.zero_grad()
            if whole:
                (compiled or self.whole_step)()
            else:
                self.loss().backward()
                (compiled or self.optimizer.step)()

    def everything(self) -> list[Tensor]:
        states = [state for entry in self.optimizer.state.values() for state in entry.values()]
        return [*(param.detach() for param in self.params), *states, *(g["step"] for g in self.optimizer.param_groups)]


def assert_same(got: Training, expected: Training) -> None:
    for index, (a, b) in enumerate(zip(got.everything(), expected.everything(), strict=True)):
        assert torch.equal(a.cpu(), b.cpu()), f"tensor {index}"


@pytest.fixture
def traced_backward() -> Iterator[None]:
    """Lets dynamo trace backward()."""
    if not hasattr(torch._dynamo.config, "trace_autograd_ops"):
        pytest.skip("needs torch._dynamo.config.trace_autograd_ops: this torch does not trace backward()")
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        yield


def compiled(function: Callable[[], Any]) -> Callable[[], Any]:
    """By AOTAutograd, which functionalizes what is in place; quick, as it compiles no code."""
    torch._dynamo.reset()
    return torch.compile(function, fullgraph=True, backend="aot_eager")


# --- optimizer.step() ---


def pair(kind: str, device: torch.device, compilation: Compilation, **options: Any) -> tuple[Training, Training]:
    lr, capturable = compilation.lr, compilation.capturable
    one, two = (Training(kind, device, lr.make(0.01, device), capturable=capturable, **options) for _ in range(2))
    return one, two


@EVERY_KIND
@compilations(COMPILATIONS)
def test_a_compiled_optimizer(device: torch.device, kind: str, compilation: Compilation) -> None:
    """The same gradients, then the same bits; a new value in an lr tensor compiles nothing."""
    eager, training = pair(kind, device, compilation)
    counter = compilation.counter()
    step = torch.compile(training.optimizer.step, fullgraph=True, backend=counter)
    training.run(WARM_UP, step)
    eager.run(WARM_UP)
    graphs = counter.frame_count
    assert graphs >= 1
    for factor in (1.0, 0.5, 3.0):
        for each in (training, eager):
            if isinstance(each.optimizer.param_groups[0]["lr"], Tensor):
                each.optimizer.param_groups[0]["lr"].mul_(factor)
        with torch._dynamo.config.patch(error_on_recompile=True):
            training.run(1, step)
        eager.run(1)
        assert_same(training, eager)
    assert counter.frame_count == graphs
    (group,) = training.optimizer.param_groups
    assert group["step"].dtype == torch.int64
    assert group["step"].item() == WARM_UP + 3
    # torch.compile of torch 2.13 leaves every group that it traced capturable; that of 2.15 does not.
    assert group["capturable"] or not compilation.capturable


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@EVERY_KIND
def test_dtypes(device: torch.device, kind: str, dtype: torch.dtype) -> None:
    eager, training = (Training(kind, device, dtype=dtype) for _ in range(2))
    training.run(4, compiled(training.optimizer.step))
    eager.run(4)
    assert_same(training, eager)


@EVERY_KIND
def test_a_float_lr_may_change(device: torch.device, kind: str) -> None:
    """It is a constant of the graph, or its variable: the bits are right either way."""
    eager, training = (Training(kind, device, 0.01) for _ in range(2))
    step = compiled(training.optimizer.step)
    for lr in (0.01, 0.02, 0.005, 0.0):
        for each, call in ((training, step), (eager, None)):
            each.optimizer.param_groups[0]["lr"] = lr
            each.run(1, call)
        assert_same(training, eager)


@EVERY_KIND
def test_compiled_and_eager_steps_in_turn(device: torch.device, kind: str) -> None:
    """The counters and states of the one are those of the other."""
    eager, training = (Training(kind, device) for _ in range(2))
    step = compiled(training.optimizer.step)
    for calls in ([step] * 2, [None] * 3, [step], [None] * 2, [step] * 2):
        for call in calls:
            training.run(1, call)
            eager.run(1)
            assert_same(training, eager)


@pytest.mark.parametrize("how", ["freeze_after", "freeze_preconditioner"])
def test_a_compiled_optimizer_freezes(device: torch.device, how: str) -> None:
    options: dict[str, Any] = {"freeze_after": 4} if how == "freeze_after" else {}
    eager, training = (Training("psgld", device, **options) for _ in range(2))
    step = compiled(training.optimizer.step)
    averages = []
    for number in range(1, 8):
        training.run(1, step)
        eager.run(1)
        assert_same(training, eager)
        averages.append(training.optimizer.state[training.params[0]]["square_avg"].clone())
        if number == 4 and how == "freeze_preconditioner":
            training.optimizer.freeze_preconditioner()
            eager.optimizer.freeze_preconditioner()
    assert torch.equal(averages[3], averages[-1])
    assert not torch.equal(averages[2], averages[3])


@EVERY_KIND
def test_groups_and_missing_gradients(device: torch.device, kind: str) -> None:
    """Two groups, the lr of one a tensor; a parameter without gradient."""

    def make() -> Training:
        training = Training(kind, device, torch.tensor(0.01))
        training.params.append(nn.Parameter(torch.ones(4, 3, device=device)))
        training.optimizer.add_param_group({"params": training.params[-1:], "lr": 0.5})
        return training

    eager, training = make(), make()
    calls = (eager.optimizer.step, compiled(training.optimizer.step))
    for number in range(4):
        for each, call in zip((eager, training), calls, strict=True):
            each.optimizer.zero_grad()
            each.loss().backward()
            each.params[1].grad = None
            each.params[-1].grad = (number + each.params[-1].detach()).sin()
            call()
        assert_same(training, eager)


@EVERY_KIND
def test_autograd_notices_a_compiled_step(device: torch.device, kind: str) -> None:
    training = Training(kind, device)
    step = compiled(training.optimizer.step)
    training.run(2, step)
    loss = training.loss()
    step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@EVERY_KIND
def test_a_bad_lr_tensor_in_a_compiled_step(kind: str) -> None:
    """On the CPU, whose values are looked at when the graph runs."""
    training = Training(kind, torch.device("cpu"), torch.tensor(0.01))
    step = compiled(training.optimizer.step)
    training.run(2, step)
    before = [tensor.clone() for tensor in training.everything()[:-1]]
    training.optimizer.param_groups[0]["lr"].fill_(float("nan"))
    with pytest.raises(RuntimeError, match=rf"ald_ext::{kind}_step_: lr: got nan, expected a finite number >= 0"):
        training.run(1, step)
    assert all(torch.equal(a, b) for a, b in zip(training.everything()[:-1], before, strict=True))


# --- The whole step, with backward() ---


@EVERY_KIND
@compilations(FEW_COMPILATIONS)
def test_a_compiled_training_step_has_the_noise_of_an_eager_one(
    device: torch.device, traced_backward: None, kind: str, compilation: Compilation
) -> None:
    """Zero gradients: parameters are the sum of their noise, bit for bit."""
    eager, training = pair(kind, device, compilation, slope=0.0)
    start = [param.detach().clone() for param in training.params]
    counter = compilation.counter()
    step = torch.compile(training.whole_step, fullgraph=True, backend=counter)
    training.run(WARM_UP, step, whole=True)
    graphs = counter.frame_count
    assert graphs >= 1
    with torch._dynamo.config.patch(error_on_recompile=True):
        training.run(3, step, whole=True)
    eager.run(WARM_UP + 3, whole=True)
    assert counter.frame_count == graphs
    assert_same(training, eager)
    assert training.optimizer.param_groups[0]["step"].item() == WARM_UP + 3
    assert not any(torch.equal(a, b) for a, b in zip(training.params, start, strict=True))


@EVERY_KIND
@compilations(FEW_COMPILATIONS[1::2])
def test_a_compiled_training_step_trains(
    device: torch.device, traced_backward: None, kind: str, compilation: Compilation
) -> None:
    """In float64, under an lr that changes: compiled sums of gradients differ in their last bits alone."""
    eager, training = pair(kind, device, compilation, dtype=torch.float64)
    counter = compilation.counter()
    step = torch.compile(training.whole_step, fullgraph=True, backend=counter)
    graphs = []
    for number in range(6):
        for each, call in ((training, step), (eager, None)):
            each.optimizer.param_groups[0]["lr"].fill_(0.05 * 0.9**number)
            each.run(1, call, whole=True)
        graphs.append(counter.frame_count)
    assert graphs[WARM_UP - 1 :] == [graphs[-1]] * (6 - WARM_UP + 1)
    for a, b in zip(training.params, eager.params, strict=True):
        # Six steps of sums of at most 48 terms, and tanh, all below 10, in float64.
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    assert training.optimizer.param_groups[0]["step"].item() == 6


# --- CUDA graphs ---


@contextlib.contextmanager
def side_stream() -> Iterator[None]:
    """As torch asks for before a capture."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream().wait_stream(stream)


def warm_up(training: Training) -> None:
    """Three eager steps of gradients without sums, which are the same on every stream."""
    for number in range(3):
        for param in training.params:
            param.grad = (number + 3 * param.detach()).sin()
        training.optimizer.step()


def captured(training: Training) -> torch.cuda.CUDAGraph:
    """A graph of optimizer.step() with the gradients of the last of three eager steps."""
    with side_stream():
        warm_up(training)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        training.optimizer.step()
    return graph


@pytest.mark.parametrize("dtype", ops.PARAMETER_DTYPES, ids=str)
@EVERY_LR
@EVERY_KIND
def test_replays_are_eager_steps(cuda: torch.device, kind: str, lr: Lr, dtype: torch.dtype) -> None:
    """Each replay draws fresh noise, as the counter on the device goes on."""
    eager, training = (Training(kind, cuda, lr.make(0.01, cuda), dtype, capturable=True) for _ in range(2))
    warm_up(eager)
    graph = captured(training)
    positions = []
    for _ in range(3):
        graph.replay()
        eager.optimizer.step()  # with the gradients of the third step, as the graph
        assert_same(training, eager)
        positions.append(training.params[0].detach().clone())
    assert training.optimizer.param_groups[0]["step"].device.type == "cuda"
    assert training.optimizer.param_groups[0]["step"].item() == 6
    moves = [b.double() - a.double() for a, b in pairwise(positions)]
    assert not torch.equal(moves[0], moves[1])


@EVERY_KIND
def test_replays_read_lr_from_the_device(cuda: torch.device, kind: str) -> None:
    eager, training = (Training(kind, cuda, torch.tensor(0.01, device=cuda), capturable=True) for _ in range(2))
    warm_up(eager)
    graph = captured(training)
    for lr in (0.02, 0.0, 0.5):
        for each in (training, eager):
            each.optimizer.param_groups[0]["lr"].fill_(lr)
        graph.replay()
        eager.optimizer.step()
        assert_same(training, eager)


@pytest.mark.parametrize("freeze_after", [3, 4, 5])
def test_replays_freeze_in_time(cuda: torch.device, freeze_after: int) -> None:
    eager, training = (Training("psgld", cuda, capturable=True, freeze_after=freeze_after) for _ in range(2))
    warm_up(eager)
    graph = captured(training)
    for _ in range(4):
        graph.replay()
        eager.optimizer.step()
        assert_same(training, eager)


@EVERY_KIND
def test_a_captured_training_step(cuda: torch.device, kind: str) -> None:
    """Forward, backward and step in one graph."""
    eager, training = (Training(kind, cuda, capturable=True) for _ in range(2))
    with side_stream():
        training.run(3, whole=True)
    training.optimizer.zero_grad()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        training.whole_step()
    for _ in range(3):
        graph.replay()
    eager.run(6, whole=True)
    assert training.optimizer.param_groups[0]["step"].item() == 6
    for a, b in zip(training.params, eager.params, strict=True):
        # Matrix products may take another algorithm under capture: six steps of lr / eps = 0.1 times gradients below
        # 10, with the roundings of sums of 48 terms: 6 · 48 · 2⁻²⁴.
        torch.testing.assert_close(a, b, rtol=0, atol=2e-5)
