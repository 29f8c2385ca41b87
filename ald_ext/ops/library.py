"""The registered ops: fake kernels and version counters of those that write in place, and what is said without CUDA.

All of it follows from the schemas in csrc/ops, so that a new op that writes in place needs nothing here.

Note [Version counters]
    A C++ kernel that writes to a tensor does not tell autograd, which would then silently use the overwritten values
    of a tensor it saved. Kernels above it count the write, as torch's own in-place ops do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .._extension import cuda_failure, cuda_module

OPS = torch.ops.ald_ext
LIBRARY = torch.library.Library("ald_ext", "FRAGMENT")

#: Devices whose tensors go to torch.ops.ald_ext; "meta" for its fake kernels.
KERNEL_DEVICES = {"cpu", "cuda", "meta"}

#: Dtypes that the parameters of a step may have. 16-bit ones are rounded stochastically, and have a float32 state.
PARAMETER_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def has_kernel(tensor: Tensor) -> bool:
    """Return True if a compiled step exists for the tensor's device and dtype."""
    return tensor.dtype in PARAMETER_DTYPES and (tensor.is_cpu or (tensor.is_cuda and cuda_module is not None))


def register_fake(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the decorated function as the fake kernel of an op: shapes and dtypes for torch.compile and "meta".

    Fake kernels also stand in where one of several tensors is on "meta", so they look at devices like the real ones.
    """
    return torch.library.register_fake(f"ald_ext::{name}", lib=LIBRARY)


def check_same_device(op: str, *named: tuple[str, Tensor]) -> None:
    """Raise a RuntimeError unless all tensors are on the device of the first."""
    first_name, first = named[0]
    for name, tensor in named[1:]:
        if tensor.device != first.device:
            raise RuntimeError(
                f"ald_ext::{op}: {name}: got a tensor on {tensor.device}, expected {first.device}, "
                f"where {first_name} is"
            )


def named_tensors(argument: str, tensors: Sequence[Tensor]) -> list[tuple[str, Tensor]]:
    return [(f"{argument}[{i}]", tensor) for i, tensor in enumerate(tensors)]


def check_not_recorded(op: str, *written: tuple[str, Tensor]) -> None:
    """Raise a RuntimeError if autograd is recording a tensor that the op is going to write to."""
    if torch.is_grad_enabled():
        for argument, tensor in written:
            if tensor.requires_grad:
                raise RuntimeError(
                    f"ald_ext::{op}: {argument}: got a tensor that requires grad, which autograd is recording; "
                    "expected the call under torch.no_grad()"
                )


def write(op: Callable[..., None], written: Sequence[Tensor], *args: Any, **kwargs: Any) -> None:
    """Call an op that writes to ``written``, and count that here: 10 µs less than through the dispatcher."""
    if torch.compiler.is_compiling():
        op(*args, **kwargs)
        return
    with torch._C._AutoDispatchBelowADInplaceOrView():
        op(*args, **kwargs)
    try:
        torch.autograd.graph.increment_version(written)
    except RuntimeError:  # tensors made under inference_mode have no version
        torch.autograd.graph.increment_version([tensor for tensor in written if not tensor.is_inference()])


def _register_in_place(name: str, op: Any) -> None:
    """Register the fake kernel and the version counting of an op that writes in place and returns nothing."""
    arguments = op._schema.arguments
    mutated = [i for i, argument in enumerate(arguments) if argument.alias_info and argument.alias_info.is_write]
    names = [argument.name for argument in arguments]
    short_name = name.partition(".")[0]

    @register_fake(name)
    def _(*args: Any, **kwargs: Any) -> None:
        tensors: list[tuple[str, Tensor]] = []
        for argument, value in zip(names, args, strict=False):
            if isinstance(value, Tensor):
                if argument not in ("lr", "step") or value.device.type != "cpu":  # the two may be on the CPU
                    tensors.append((argument, value))
            elif isinstance(value, list | tuple) and value and isinstance(value[0], Tensor):
                tensors += named_tensors(argument, value)
        check_same_device(short_name, *tensors)

    def count_versions(keyset: Any, *args: Any, **kwargs: Any) -> None:
        with torch._C._AutoDispatchBelowADInplaceOrView():
            op.redispatch(keyset & torch._C._after_ADInplaceOrView_keyset, *args, **kwargs)
        for position in mutated:
            torch.autograd.graph.increment_version(args[position])

    LIBRARY.impl(op, count_versions, "ADInplaceOrView", with_keyset=True)


def _fail(name: str, *args: Any, **kwargs: Any) -> None:
    """Without the CUDA module, a CUDA tensor gets the reason instead of the dispatcher's list of backends."""
    raise RuntimeError(f"ald_ext::{name}: no CUDA kernel: {cuda_failure}")


for _qualified_name in torch._C._dispatch_get_registrations_for_dispatch_key("CPU"):
    if _qualified_name.startswith("ald_ext::"):
        _full_name = _qualified_name.removeprefix("ald_ext::")
        _name, _, _overload = _full_name.partition(".")
        _op = getattr(getattr(OPS, _name), _overload or "default")
        if not _op._schema.returns:
            _register_in_place(_full_name, _op)
        if cuda_module is None:
            LIBRARY.impl(_full_name, partial(_fail, _full_name), "CUDA")
