"""Result files of benchmarks with figures that are made up."""

from __future__ import annotations

from typing import Any

from benchmarks import names
from benchmarks.page import Results

GPU = {"gpu": "NVIDIA H100", "gpu_driver": "580.1"}


def quantiles(median: float) -> dict[str, float]:
    return {"median": median, "p20": 0.8 * median, "p80": 1.25 * median}


def row(family: str, size: str, elements: int, variant: str, ns: float, count: int) -> dict[str, Any]:
    where = {"family": family, "size": size, "elements": elements, "variant": variant}
    return {**where, "ns_per_element": quantiles(ns), "bytes_per_element": count, "gb_per_s": count / ns}


def ratio(family: str, size: str, numerator: str, denominator: str, value: float) -> dict[str, Any]:
    where = {"family": family, "size": size, "numerator": numerator, "denominator": denominator}
    return {**where, **quantiles(value)}


def results_of(rows: list[Any], ratios: list[Any], gpu: bool = False, **more: Any) -> Results:
    machine = {"cpu": "A CPU", "cores": 2, "threads": 2, "instruction_set": "avx2", **(GPU if gpu else {})}
    return {
        "quick": False,
        "date": "2026-01-02T03:04:05+00:00",
        "commit": "0123456789abcdef",
        "machine": machine,
        "versions": {"torch": "2.11", "python": "3.12", "ald_ext": "1", "compiler": "a compiler"},
        "rows": rows,
        "ratios": ratios,
        "left_out": [],
        **more,
    }


def cpu_results() -> Results:
    rows = [
        row(names.UPDATE, "1e7", 10**7, names.OURS, 0.6, 20),
        row(names.UPDATE, "1e7", 10**7, names.NOISE_ALONE, 0.3, 4),
    ]
    ratios = [
        ratio(names.UPDATE, "1e7", names.OURS, names.ADAM, 1.25),
        ratio(names.UPDATE, "1e7", names.IN_PLACE, names.OURS, 12.0),
        ratio(names.UPDATE, "1e7", names.COMPILED, names.OURS, 4.0),
    ]
    return results_of(rows, ratios, copy_bandwidth_gb_per_s=quantiles(40.0))


def cuda_results() -> Results:
    elements = 81380 * 3072
    rows = [
        row(names.UPDATE, "1e8", 10**8, names.OURS, 0.0055, 20),
        row(names.UPDATE, "1e8", 10**8, names.COPY, 0.002, 8),
        row(names.LIKELIHOOD, names.GIGABYTE, elements, names.FORWARD, 0.0022, 8),
        row(names.LIKELIHOOD, names.GIGABYTE, elements, names.BACKWARD, 0.006, 16),
        row(names.LIKELIHOOD, names.GIGABYTE, elements, names.COPY, 0.002, 8),
    ]
    ratios = [
        ratio(names.UPDATE, "1e8", names.COPY, names.OURS, 0.002 / 0.0055),
        ratio(names.LIKELIHOOD, names.GIGABYTE, names.COPY, names.FORWARD, 0.002 / 0.0022),
        ratio(names.LIKELIHOOD, names.GIGABYTE, names.COPY, names.BACKWARD, 0.002 / 0.006),
    ]
    rows += [
        {"family": names.CUDA_GRAPH, "size": names.IN_TENSORS, "variant": variant, "kernels_per_step": kernels}
        | {"other_nodes_per_step": 0, "seconds": quantiles(5e-6)}
        for variant, kernels in ((names.PSGLD, 1), (names.ADAM, 2))
    ]
    facts = {"copy_bandwidth_gb_per_s": quantiles(4000.0), "origin": "an afternoon on a lent machine"}
    return results_of(rows, ratios, gpu=True, **facts)


def training_results(gpu: bool = False) -> Results:
    rows = [
        {"family": names.MLP, "size": "lae", "variant": variant, "note": None, "seconds": quantiles(seconds)}
        | {"images_per_s": quantiles(100 / seconds)}
        for variant, seconds in ((names.OUR_STEP, 1e-3), (names.FOREACH_STEP, 2e-3))
    ]
    ratios = [
        ratio(names.MLP, "lae", names.FOREACH_STEP, names.OUR_STEP, 2.0),
        ratio(names.MLP, "lae", names.OUR_STEP, names.OUR_VAE_STEP, 0.8),
    ]
    settings = [{"family": names.MLP, "models": {"lae": {"network_parameters": 5_000_000}}}]
    return results_of(rows, ratios, gpu, settings=settings, origin="make gpu-check")
