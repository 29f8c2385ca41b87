"""The cases under pytest-benchmark: ``pytest python_tests/benchmarks/test_speed.py --benchmark-enable``; without the
flag, each variant of the quick cases runs once, a smoke test.

Variants are timed one after the other here, so a machine that slows down favours the early ones: figures to quote come
from ``python -m benchmarks.speed``, which alternates.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as distributed
from pytest_benchmark.fixture import BenchmarkFixture

from ald_ext._extension import cuda_module
from benchmarks.speed.__main__ import all_cases
from benchmarks.speed.cases import SpeedCase, Variant

pytestmark = pytest.mark.exhaustive


@pytest.fixture(autouse=True)
def _no_process_group_stays() -> Iterator[None]:
    """The cases of DTensors make one."""
    yield
    if distributed.is_initialized():
        distributed.destroy_process_group()


def usable_devices() -> list[torch.device]:
    """The devices that have compiled kernels and are there."""
    names = ["cpu", "cuda"] if cuda_module is not None and torch.cuda.is_available() else ["cpu"]
    return [torch.device(name) for name in names]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    quick = not metafunc.config.getoption("benchmark_enable")
    parameters = [
        pytest.param(device, case, variant, id=id_of(device, case, variant))
        for device in usable_devices()
        for case in all_cases(device, quick)
        for variant in case.variants
    ]
    metafunc.parametrize(("device", "case", "variant"), parameters)


def id_of(device: torch.device, case: SpeedCase, variant: Variant) -> str:
    return "-".join((device.type, case.family, case.size, variant.name)).replace(" ", "_")


def test_speed(benchmark: BenchmarkFixture, device: torch.device, case: SpeedCase, variant: Variant) -> None:
    torch._dynamo.reset()
    run = case.prepare(variant, case.make_inputs())

    def run_to_the_end() -> None:
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    benchmark.group = f"{case.family}, {case.size}, {device.type}"
    benchmark(run_to_the_end)
    benchmark.extra_info["bytes"] = variant.bytes_per_element * case.elements
    if benchmark.stats is not None:
        benchmark.extra_info["ns_per_element"] = benchmark.stats.stats.median / case.elements * 1e9
