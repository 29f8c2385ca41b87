"""The registered ops: fake kernels and version counters of those that write in place, and what is said without CUDA.

All of it follows from the schemas in csrc/ops, so that a new op that writes in place needs nothing here.

Note [Version counters]
    A C++ kernel that writes to a tensor does not tell autograd, which would then silently use the overwritten values
    of a tensor it saved. Kernels above it count the write, as torch's own in-place ops do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

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


def check_tensors(op: str, *named: tuple[str, Any]) -> None:
    """Raise a RuntimeError unless all are tensors."""
    for name, value in named:
        if not isinstance(value, Tensor):
            raise RuntimeError(f"ald_ext::{op}: {name}: got {describe(value)}, expected a tensor")


def describe(value: Any) -> str:
    """What is said of a value of a wrong type."""
    return "None" if value is None else f"a value of type {type(value).__name__}"


def is_transformed() -> bool:
    """Return True inside of forward-mode AD or a transform of torch.func, whose tangents the kernels would lose."""
    return forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()


def check_not_recorded(op: str, *written: tuple[str, Tensor]) -> None:
    """Raise a RuntimeError if autograd is recording a tensor that the op is going to write to, or follows tangents."""
    if is_transformed():
        raise RuntimeError(
            f"ald_ext::{op}: {written[0][0]}: got a call inside of torch.func or forward-mode AD, "
            "which a step in place leaves behind; expected it outside"
        )
    if torch.is_grad_enabled():
        for argument, tensor in written:
            if tensor.requires_grad:
                raise RuntimeError(
                    f"ald_ext::{op}: {argument}: got a tensor that requires grad, which autograd is recording; "
                    "expected the call under torch.no_grad()"
                )


#: What torch says of an argument that is not of the type of the schema, before it repeats the schema.
_OF_ANOTHER_TYPE = re.compile(r"(ald_ext::\w+)\(\) .*type '(.+)' for argument '(\w+)'.*\nPosition: .*\nValue: (.*)")
_KINDS = {"int": "an integer of 64 bits", "List[int]": "a list of integers of 64 bits", "float": "a number"}


def in_one_line(error: RuntimeError) -> RuntimeError:
    """The error of an op, and in the place of torch's nine lines on an argument of another type one."""
    match = _OF_ANOTHER_TYPE.match(str(error))
    if match is None:
        return error
    op, kind, argument, value = match.groups()
    return RuntimeError(f"{op}: {argument}: got {value[:100]}, expected {_KINDS.get(kind, kind)}")


def call(op: Callable[..., Any], *args: Any) -> Any:
    """Call an op that writes to nothing."""
    if torch.compiler.is_compiling():
        return op(*args)
    try:
        return op(*args)
    except RuntimeError as error:
        raise in_one_line(error) from None


def write(op: Callable[..., None], written: Sequence[Tensor], *args: Any, **kwargs: Any) -> None:
    """Call an op that writes to ``written``, and count that here: 10 µs less than through the dispatcher."""
    if torch.compiler.is_compiling():
        op(*args, **kwargs)
        return
    try:
        with torch._C._AutoDispatchBelowADInplaceOrView():
            op(*args, **kwargs)
    except RuntimeError as error:
        raise in_one_line(error) from None
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

    def resolve_bits(*args: Any, **kwargs: Any) -> None:
        values = list(args)
        for position, value in enumerate(args):
            items = value if isinstance(value, list | tuple) else [value]
            if any(isinstance(item, Tensor) and (item.is_neg() or item.is_conj()) for item in items):
                if position in mutated:
                    raise RuntimeError(
                        f"ald_ext::{short_name}: {names[position]}: got a view with the negative or conjugate bit, "
                        "expected memory that can be written to: resolve_neg() copies the view"
                    )
                resolved = [item.resolve_conj().resolve_neg() for item in items]
                values[position] = resolved if items is value else resolved[0]
        op(*values, **kwargs)

    LIBRARY.impl(op, count_versions, "ADInplaceOrView", with_keyset=True)
    # Torch's own fallback writes to copies, and of several arguments not even back.
    LIBRARY.impl(op, resolve_bits, "Negative")
    LIBRARY.impl(op, resolve_bits, "Conjugate")


def _refuse_layout(op: Any, *args: Any, **_: Any) -> None:
    """Say of which argument the layout is none that has a kernel, instead of the dispatcher's list of backends."""
    name = op._schema.name
    for argument, value in zip(op._schema.arguments, args, strict=False):
        named = named_tensors(argument.name, value) if isinstance(value, list) else [(argument.name, value)]
        for place, tensor in named:
            if not isinstance(tensor, Tensor):
                continue
            if tensor.is_nested or tensor.is_quantized:
                kind = "nested" if tensor.is_nested else "quantized"
                raise RuntimeError(f"{name}: {place}: got a {kind} tensor, expected a dense tensor")
            if tensor.layout is not torch.strided:
                raise RuntimeError(f"{name}: {place}: got a tensor of layout {tensor.layout}, expected a dense tensor")


def _fail(name: str, *args: Any, **kwargs: Any) -> None:
    """Without the CUDA module, a CUDA tensor gets the reason instead of the dispatcher's list of backends."""
    raise RuntimeError(f"ald_ext::{name}: no CUDA kernel: {cuda_failure}")


#: The dispatcher's names of what has no kernel.
NO_DENSE_TENSORS = [
    f"{kind}{device}" for kind in ("Sparse", "SparseCsr", "NestedTensor", "Quantized") for device in ("CPU", "CUDA")
]
NO_DENSE_TENSORS += ["MkldnnCPU", "AutogradNestedTensor"]

for _qualified_name in torch._C._dispatch_get_registrations_for_dispatch_key("CPU"):
    if _qualified_name.startswith("ald_ext::"):
        _full_name = _qualified_name.removeprefix("ald_ext::")
        _name, _, _overload = _full_name.partition(".")
        _op = getattr(getattr(OPS, _name), _overload or "default")
        for _layout in NO_DENSE_TENSORS:
            LIBRARY.impl(_full_name, partial(_refuse_layout, _op), _layout)
        if not _op._schema.returns:
            _register_in_place(_full_name, _op)
        if cuda_module is None:
            LIBRARY.impl(_full_name, partial(_fail, _full_name), "CUDA")
