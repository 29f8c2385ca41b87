"""The noise: a pure function of (seed, step, parameter, element), equal to the specification.

That it is normal and independent, tools/test_noise.py tests.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ald_ext import ops, reference

WORD = 2**32 - 1
MAX_SEED, MAX_STEP, MAX_PARAMETER, MAX_ELEMENTS = 2**63 - 1, 2**40 - 1, 2**44 - 1, 2**41

#: Absolute errors against exact Box-Muller that ops.normal and csrc/math/normal.h promise.
ERROR_BOUND = {torch.float32: 1e-6, torch.float64: 1e-14}

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


@pytest.mark.parametrize(
    ("counter", "key"), [((0, 0, 0), (0, 0)), ((0, 0, 0, 2**32), (0, 0)), ((0, 0, 0, -1), (0, 0)), ((0,) * 4, (0,) * 3)]
)
def test_philox_refuses_other_words(counter: tuple[int, ...], key: tuple[int, ...]) -> None:
    with pytest.raises((TypeError, ValueError)):
        ops.philox(counter, key)


# --- Against the specification ---

KEYS = [
    {"seed": 0, "step": 0},
    {"seed": 1, "step": 1, "parameter": 3},
    {"seed": MAX_SEED, "step": MAX_STEP, "parameter": MAX_PARAMETER, "offset": MAX_ELEMENTS - 5000},
    {"seed": 2**40 + 17, "step": 2**32, "parameter": 2**32, "offset": 2**33 - 2500},
    {"seed": 5, "step": 2**32 - 1, "parameter": 2**32 - 1, "offset": 2**34 - 2500},
    {"seed": 2**32, "step": 12345, "offset": 2**37 + 1},
]


@DTYPES
@pytest.mark.parametrize("key", KEYS, ids=lambda key: f"seed{key['seed']}")
def test_equals_the_reference(device: torch.device, dtype: torch.dtype, key: dict[str, int]) -> None:
    got = ops.normal(5000, **key, dtype=dtype, device=device)
    assert got.device.type == device.type
    expected = reference.normal(5000, **key, dtype=torch.float64 if dtype == torch.float64 else dtype)
    assert (got.cpu().double() - expected.double()).abs().max() <= ERROR_BOUND[dtype]


@DTYPES
def test_equals_the_reference_for_many(dtype: torch.dtype) -> None:
    """Enough numbers to meet small radii (u near one), large ones, and every octant."""
    got = ops.normal(2**21, seed=3, step=1, dtype=dtype)
    expected = reference.normal(2**21, seed=3, step=1, dtype=dtype)
    assert (got.double() - expected.double()).abs().max() <= ERROR_BOUND[dtype]


def test_float32_and_float64_draw_different_numbers() -> None:
    single, double = (ops.normal(1000, seed=1, step=1, dtype=dtype) for dtype in (torch.float32, torch.float64))
    assert (single.double() - double).abs().median() > 0.1


@DTYPES
@pytest.mark.parametrize("n", [0, 1, 15, 16, 17, 63, 64, 65, 1001, 40000])
def test_cuda_has_the_bits_of_the_cpu(cuda: torch.device, dtype: torch.dtype, n: int) -> None:
    for key in KEYS[:2] + KEYS[3:]:
        on_gpu = ops.normal(n, **key, dtype=dtype, device=cuda).cpu()
        assert torch.equal(on_gpu, ops.normal(n, **key, dtype=dtype, device="cpu"))


# --- Nothing but the key matters ---


@given(
    offset=st.one_of(st.integers(0, 300), st.integers(2**33 - 300, 2**33), st.integers(0, MAX_ELEMENTS - 10000)),
    n=st.integers(0, 3000),
    at=st.integers(0, 3000),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_any_piece_has_the_bits_of_the_whole(
    device: torch.device, offset: int, n: int, at: int, dtype: torch.dtype
) -> None:
    cut = min(at, n)
    key: dict[str, Any] = {"seed": 9, "step": 4, "dtype": dtype, "device": device}
    whole = ops.normal(n, offset=offset, **key)
    assert torch.equal(whole[:cut], ops.normal(cut, offset=offset, **key))
    assert torch.equal(whole[cut:], ops.normal(n - cut, offset=offset + cut, **key))


@DTYPES
def test_threads_do_not_matter(restore_threads: None, dtype: torch.dtype) -> None:
    n = 300_001  # many times the work of one thread
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(ops.normal(n, seed=1, step=2, offset=3, dtype=dtype))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_no_generator_is_touched(device: torch.device) -> None:
    before = torch.get_rng_state()
    first = ops.normal(100, seed=1, step=1, device=device)
    torch.manual_seed(1234)
    again = ops.normal(100, seed=1, step=1, device=device)
    torch.manual_seed(0)
    assert torch.equal(first, again)
    assert torch.equal(before, torch.get_rng_state())


def test_default_device_and_inference_mode() -> None:
    with torch.inference_mode():
        inside = ops.normal(10, seed=1, step=1)
    assert torch.equal(inside, ops.normal(10, seed=1, step=1))
    with torch.device("meta"):
        assert ops.normal(10, seed=1, step=1).device.type == "meta"


# --- Keys out of range ---


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("seed", -1),
        ("step", -1),
        ("step", MAX_STEP + 1),
        ("parameter", -1),
        ("parameter", MAX_PARAMETER + 1),
        ("offset", -1),
        ("offset", MAX_ELEMENTS - 4),
    ],
)
def test_key_out_of_range(device: torch.device, argument: str, value: int) -> None:
    key = {"seed": 1, "step": 1, argument: value}
    with pytest.raises(RuntimeError, match=rf"ald_ext.*normal.*{argument}: got {value}, expected 0 to"):
        ops.normal(5, **key, device=device)


def test_seed_beyond_int64() -> None:
    with pytest.raises(RuntimeError, match="seed"):
        ops.normal(5, seed=2**63, step=1)


def test_negative_count() -> None:
    with pytest.raises(RuntimeError, match="n: got -1, expected an integer >= 0"):
        ops.normal(-1, seed=1, step=1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64, torch.complex64])
def test_other_dtypes_are_refused(device: torch.device, dtype: torch.dtype) -> None:
    with pytest.raises(RuntimeError, match=r"normal_: out: got dtype .* expected"):
        ops.normal(5, seed=1, step=1, dtype=dtype, device=device)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_plain_steps_draw_the_noise_of_the_fused_ones(device: torch.device, dtype: torch.dtype) -> None:
    """Of ranges and of rows, bit for bit."""
    key = {"seed": 3, "step": 9, "parameter": 2}
    whole = ops.normal(5000, **key, dtype=dtype, device=device)
    for place in ({"offset": 17}, {"offset": 17, "row_length": 7, "row_stride": 31}):
        elements = reference.elements_of_shard(1000, **place, device=device)
        got = ops.fused_normal(1000, **key, **place, dtype=dtype, device=device)
        assert torch.equal(got, whole[elements])
