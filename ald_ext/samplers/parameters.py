"""Named parameters of any shapes and constraints as the one unconstrained vector that samplers move.

Note [Structures of parameters]
    Parameters are a tensor, or a dictionary of such structures. A constrained parameter is the image of a free one
    by ``biject_to``, whose log determinant belongs to the density (ald_ext.samplers.transforms, Note [Constrained
    variables]). All unconstrained ones, flattened and joined, are the vector y.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Transform, biject_to
from torch.distributions.constraints import Constraint, real

from ..settings import require, shortened


def leaves(structure: Any, name: str = "") -> dict[str, Any]:
    """Return the leaves of a structure by their names, which are keys joined by points; a lone leaf has the name "".

    ValueError if two leaves have the same name.
    """
    if not isinstance(structure, Mapping):
        return {name: structure}
    found: dict[str, Any] = {}
    for key, value in structure.items():
        for path, leaf in leaves(value, f"{name}.{key}".lstrip(".")).items():
            expected = "names, which are keys joined by points, that differ"
            require(path not in found, "ald_ext.samplers.sample: parameters", f"two of the name {path!r}", expected)
            found[path] = leaf
    return found


def structured(structure: Any, values: Mapping[str, Any], name: str = "") -> Any:
    """Return values by their names, as :func:`leaves` gives them, in a structure."""
    if not isinstance(structure, Mapping):
        return values[name]
    return {key: structured(value, values, f"{name}.{key}".lstrip(".")) for key, value in structure.items()}


class ParameterSpace:
    """The bijection between vectors y and structures of parameters.

    Args:
        owner: the beginning of error messages.
        shapes: a structure whose leaves are shapes of one parameter each.
        constraints: a structure with the constraints of some of them; None stands for no constraints.

    Raises:
        ValueError: no shape, a constraint of no parameter, or one that has no bijection or does not fit the shape.
    """

    def __init__(self, owner: str, shapes: Any, constraints: Any = None) -> None:
        self.shapes = {name: self._checked_shape(owner, name, shape) for name, shape in leaves(shapes).items()}
        self.structure = shapes
        given = leaves({} if constraints is None else constraints)
        self.constraints = {name: given.get(name, real) for name in self.shapes}
        self.transforms: dict[str, Transform] = {}
        self.unconstrained_shapes: dict[str, torch.Size] = {}
        for name in given:
            known = ", ".join(map(repr, self.shapes))
            require(name in self.shapes, f"{owner}: constraints", f"that of {name!r}", f"those of some of {known}")
        for name, shape in self.shapes.items():
            argument, constraint = f"{owner}: constraints: {name}".rstrip(": "), self.constraints[name]
            try:
                require(isinstance(constraint, Constraint), argument, shortened(constraint), "a Constraint")
                self.transforms[name] = biject_to(constraint)
                free = torch.Size(self.transforms[name].inverse_shape(shape))
                self.unconstrained_shapes[name] = free
                if self.transforms[name].forward_shape(free) != shape:  # where bounds have more dimensions
                    raise NotImplementedError
            except (NotImplementedError, ValueError, RuntimeError) as error:
                if str(error).startswith(owner):
                    raise
                got, expected = f"{constraint} of shape {tuple(shape)}", "one that biject_to knows, and that fits"
                raise ValueError(f"{argument}: got {got}, expected {expected}") from error
        self.sizes = [shape.numel() for shape in self.unconstrained_shapes.values()]
        self.dimension = sum(self.sizes)
        require(self.dimension > 0, f"{owner}: parameters", "no element", "one at least")

    def constrain(self, y: Tensor) -> tuple[Any, Tensor]:
        """Return the structure of y, (..., d), with leaves (..., *shape), and the log determinants, (...)."""
        batch, values, total = y.shape[:-1], {}, y.new_zeros(y.shape[:-1])
        parts = y.split(self.sizes, -1)
        for (name, transform), part in zip(self.transforms.items(), parts, strict=True):
            free = part.reshape(batch + self.unconstrained_shapes[name])
            values[name] = transform(free)
            log_det = transform.log_abs_det_jacobian(free, values[name])
            total = total + log_det.reshape(*batch, -1).sum(-1)
        return structured(self.structure, values), total

    def unconstrain(self, owner: str, name: str, values: Tensor) -> Tensor:
        """Return the part of y, (batch, size), of a parameter's values (batch, *shape). ValueError if outside."""
        constraint = self.constraints[name]
        free = self.transforms[name].inv(values)
        inside = bool(constraint.check(values).all()) and bool(free.isfinite().all())
        require(inside, owner, "values outside or on the boundary", f"all inside of {constraint}")
        return free.reshape(len(values), -1)

    @staticmethod
    def _checked_shape(owner: str, name: str, shape: Any) -> torch.Size:
        argument = f"{owner}: parameters: {name}".rstrip(": ")
        sizes = (shape,) if isinstance(shape, int) else shape
        fits = isinstance(sizes, (tuple, list)) and all(type(size) is int and size > 0 for size in sizes)
        require(fits, argument, shortened(shape), "a shape such as (3,), or a tensor with a start for each chain")
        return torch.Size(sizes)


def batched_log_density(
    owner: str, space: ParameterSpace, log_density: Callable[[Any], Tensor], *, batched: bool
) -> Callable[[Tensor], Tensor]:
    """Return the log density of vectors y, (batch, d) → (batch,).

    Args:
        owner: the beginning of error messages.
        space: the bijection.
        log_density: a function of one structure of parameters that returns one number, or, if ``batched``, of a
            structure whose leaves have an axis (batch,) in front, that returns (batch,).
        batched: which of them it is.

    Raises:
        ValueError: in a call, if the function returns something else, or cannot run under vmap.
    """
    argument = f"{owner}: log_density"

    def density(y: Tensor) -> Tensor:
        values, log_det = space.constrain(y)
        try:
            result = log_density(values) if batched else torch.func.vmap(log_density)(values)
        except (RuntimeError, ValueError) as error:
            if "vmap" not in str(error) and "data pointer" not in str(error):  # the second is what NumPy asks for
                raise
            reason = " ".join(str(error).split())[:200]
            expected = "tensor operations without branches on values, or a function of batches with batched=True"
            raise ValueError(f"{argument}: got one that vmap cannot run ({reason}), expected {expected}") from error
        fits = isinstance(result, Tensor) and result.numel() == len(y) and (batched or result.dim() <= 2)
        shape = tuple(result.shape if batched else result.shape[1:]) if isinstance(result, Tensor) else type(result)
        expected = f"({len(y)},)" if batched else "one number, summed over all data"
        require(fits, argument, f"a result of shape {shape}", expected)
        return result.reshape(len(y)) + log_det

    return density
