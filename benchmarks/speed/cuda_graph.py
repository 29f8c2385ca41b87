"""A step of an optimizer captured in a CUDA graph: the kernels that it launches, counted, and the time of a replay."""

import ctypes
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch.optim import Optimizer

from ..harness import Case, Key
from ..measurement import Run, Samples
from ..names import ADAM, CUDA_GRAPH, IN_TENSORS, PSGLD, SGD, SGLD
from .update import IN_TENSORS_NUMELS, OPTIMIZERS, UpdateInputs

#: Torch asks for some before a capture: lazy initialization is not part of the graph.
WARM_UP_STEPS = 3
CHECKED_REPLAYS = 2

#: CUgraphNodeType of kernels, in cuda.h.
KERNEL_NODE = 0

#: Ours and torch's.
COMPARED = ((PSGLD, ADAM), (SGLD, SGD))


class GraphCase(Case):
    """Replays of a captured step of each optimizer."""

    family, sizes = CUDA_GRAPH, (IN_TENSORS,)

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.nodes: dict[str, dict[str, int]] = {}
        self.owners: list[Optimizer] = []  # of the memory that replays read and write

    def preparations(self) -> Mapping[Key, Callable[[], Run]]:
        return {(IN_TENSORS, name): partial(self.prepare, name) for pair in COMPARED for name in pair}

    def prepare(self, name: str) -> Run:
        """The replay, which was found to go on where the steps before it ended, with fresh noise."""
        inputs, expected = (UpdateInputs(IN_TENSORS_NUMELS, self.device) for _ in range(2))
        # SGD counts no steps, and so has no number of them to keep on the device.
        options = {} if name == SGD else {"capturable": True}
        optimizer, eager = (OPTIMIZERS[name](each.params, **options) for each in (inputs, expected))
        graph = capture(optimizer.step)
        for _ in range(CHECKED_REPLAYS):
            graph.replay()
        for _ in range(WARM_UP_STEPS + CHECKED_REPLAYS):
            eager.step()
        torch.testing.assert_close(inputs.params, expected.params, rtol=1e-5, atol=1e-7)
        self.nodes[name] = count_nodes(graph)
        self.owners.append(optimizer)
        return graph.replay

    def row(self, key: Key, samples: Samples) -> dict[str, Any]:
        return {"elements": sum(IN_TENSORS_NUMELS), **self.nodes[key[1]]}

    def ratios(self) -> list[tuple[Key, Key]]:
        return [((IN_TENSORS, ours), (IN_TENSORS, peer)) for ours, peer in COMPARED]


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
    kinds: Counter[int] = Counter()
    for node in nodes:
        kind = ctypes.c_int()
        call(driver.cuGraphNodeGetType, ctypes.c_void_p(node), ctypes.byref(kind))
        kinds[kind.value] += 1
    return {"kernels_per_step": kinds[KERNEL_NODE], "other_nodes_per_step": kinds.total() - kinds[KERNEL_NODE]}


def call(function: Callable[..., int], *arguments: Any) -> None:
    """A function of the driver, whose failure is an exception."""
    if status := function(*arguments):
        raise RuntimeError(f"CUDA driver: a function of the graph failed with CUresult {status}")
