"""A step of an optimizer captured in a CUDA graph: the kernels that it launches, counted, and the time of a replay."""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..measurement import Quantiles, measure_alternating
from ..names import ADAM, IN_TENSORS, PSGLD, SGD, SGLD
from .update import IN_TENSORS_NUMELS, LR, UpdateInputs, psgld, sgld

#: Torch asks for some before a capture: lazy initialization is not part of the graph.
WARM_UP_STEPS = 3
CHECKED_REPLAYS = 2

#: CUgraphNodeType of kernels, in cuda.h.
KERNEL_NODE = 0

COMMON = {"family": "CUDA graph", "size": IN_TENSORS, "elements": sum(IN_TENSORS_NUMELS)}

OPTIMIZERS: dict[str, Callable[[list[Tensor]], Optimizer]] = {
    PSGLD: partial(psgld, capturable=True),
    SGLD: partial(sgld, capturable=True),
    ADAM: partial(torch.optim.Adam, lr=LR, fused=True, capturable=True),
    SGD: partial(torch.optim.SGD, lr=LR, fused=True),
}


@dataclass(frozen=True)
class CapturedStep:
    """A graph, the owner of the memory that its replays read and write, and how many nodes it has."""

    graph: torch.cuda.CUDAGraph
    optimizer: Optimizer
    nodes: dict[str, int]


def measure_graphs(
    device: torch.device, budget_s: float, progress: Callable[[str], None]
) -> tuple[list[dict[str, Any]], list[str]]:
    """A row for each optimizer, and the names of those whose graph did something else than their steps."""
    captured: dict[str, CapturedStep] = {}
    rows: list[dict[str, Any]] = []
    wrong = []
    for name, make in OPTIMIZERS.items():
        try:
            captured[name] = checked_capture(make, device)
        except Exception as error:
            # An optimizer may refuse. The message may name paths of this machine: it goes to the screen alone.
            rows.append({**COMMON, "variant": name, "error": type(error).__name__})
            progress(f"CUDA graph: {name}: {error}")
            if isinstance(error, AssertionError):
                wrong.append(name)
    return rows + measured_rows(captured, device, budget_s), wrong


def measured_rows(captured: Mapping[str, CapturedStep], device: torch.device, budget_s: float) -> list[dict[str, Any]]:
    runs = {name: step.graph.replay for name, step in captured.items()}
    samples, failures = measure_alternating(runs, device, budget_s)
    measured = [
        {
            **COMMON,
            "variant": name,
            **captured[name].nodes,
            "seconds": asdict(Quantiles.of(sample.seconds)),
            "rounds": len(sample.seconds),
        }
        for name, sample in samples.items()
    ]
    return measured + [{**COMMON, "variant": name, "error": type(error).__name__} for name, error in failures.items()]


def checked_capture(make: Callable[[list[Tensor]], Optimizer], device: torch.device) -> CapturedStep:
    """One step, whose replays were found to go on where the steps before it ended, with fresh noise."""
    inputs, expected = UpdateInputs(IN_TENSORS_NUMELS, device), UpdateInputs(IN_TENSORS_NUMELS, device)
    optimizer, eager = make(inputs.params), make(expected.params)
    graph = capture(optimizer.step)
    for _ in range(CHECKED_REPLAYS):
        graph.replay()
    for _ in range(WARM_UP_STEPS + CHECKED_REPLAYS):
        eager.step()
    torch.testing.assert_close(inputs.params, expected.params, rtol=1e-5, atol=1e-7)
    return CapturedStep(graph, optimizer, count_nodes(graph))


def capture(step: Callable[[], Any]) -> torch.cuda.CUDAGraph:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP_STEPS):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph(keep_graph=True)
    with torch.cuda.graph(graph):
        step()
    graph.instantiate()
    return graph


def count_nodes(graph: torch.cuda.CUDAGraph) -> dict[str, int]:
    """The driver is asked about the graph itself, which is exact, where a profiler could miss some."""
    driver = ctypes.CDLL("libcuda.so.1")
    handle, count = ctypes.c_void_p(graph.raw_cuda_graph()), ctypes.c_size_t()
    call(driver.cuGraphGetNodes, handle, None, ctypes.byref(count))
    nodes = (ctypes.c_void_p * count.value)()
    call(driver.cuGraphGetNodes, handle, nodes, ctypes.byref(count))
    kinds = Counter(kind_of_node(driver, node) for node in nodes)
    return {"kernels_per_step": kinds[KERNEL_NODE], "other_nodes_per_step": kinds.total() - kinds[KERNEL_NODE]}


def kind_of_node(driver: ctypes.CDLL, node: int | None) -> int:
    kind = ctypes.c_int()
    call(driver.cuGraphNodeGetType, ctypes.c_void_p(node), ctypes.byref(kind))
    return kind.value


def call(function: Callable[..., int], *arguments: Any) -> None:
    """A function of the driver, whose failure is an exception."""
    if status := function(*arguments):
        raise RuntimeError(f"CUDA driver: a function of the graph failed with CUresult {status}")
