"""A training run on several processes: which images each computes, and what they tell each other.

Note [Several processes]
    Under torchrun, or wherever torch.distributed has a default group, its processes (ranks) train one model together.
    All of them hold the model, the optimizer and the data. Each takes its part of every minibatch that a single process
    would draw, and the mean gradient over the whole minibatch moves the parameters of all by the same bits, as the
    noise is a function of the seed.

    One sum over ranks a step holds all that they exchange: gradients, loss and diagnostics, each weighted by the share
    of images; the step size of the latent variables' dynamics; and the signals that came. That is why gradients are not
    averaged by DistributedDataParallel, which gives each rank the same weight, runs forward through a wrapper, and has
    no place for the rest. The states of chains, which each rank moves for its own data, are gathered after that. So all
    ranks have the same state between two steps. A checkpoint is rank 0's, does not depend on the number of ranks, and
    resumes on any number, one included.

    Noise that is keyed by the datum is the same as on one process. What a model draws from torch's generator (a VAE's
    z, uniform dequantization) is a function of (seed, step, rank). A rank for which a short minibatch has no image
    computes all of it with the weight 0, so that its counters go on.

    Rank 0 alone evaluates, draws pictures and writes. If that fails, all ranks are told and end.
"""

from __future__ import annotations

import contextlib
import os
import re
import zlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from .. import ops
from ..models import LatentVariableModel
from ..models.adaptive_langevin import AdaptiveLangevin, PersistentChains
from ..settings import require
from ..tensor_files import first_line
from ..threads import chosen_by_user
from .divergence import LOOK_EVERY
from .interruption import SIGNALS, Interruption

if TYPE_CHECKING:
    from .config import TrainingConfig

Result = TypeVar("Result")

#: Number of images that are compared among ranks.
COMPARED_IMAGES = 500


@contextlib.contextmanager
def process_group(device: str) -> Iterator[None]:
    """Provide the process group of torchrun's environment, with NCCL on GPUs, each that of its LOCAL_RANK.

    Where the environment names no other process, this does nothing.

    Args:
        device: "cpu", "cuda" or "cuda:1".

    Raises:
        ValueError: a GPU with a number, or fewer GPUs than processes on this machine.
        ConnectionError: the environment names other processes that cannot be reached.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    backend = "gloo"
    if torch.device(device).type == "cuda":
        local, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
        require(device == "cuda", "device", f"{device!r} in several processes", "cuda: each takes a GPU of its own")
        require(local <= gpus, "nproc-per-node", f"{local} with {gpus} GPUs here", f"at most {gpus}, or --device cpu")
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        backend = "cpu:gloo,cuda:nccl"
    try:
        dist.init_process_group(backend)
    except (ValueError, RuntimeError) as error:
        raise ConnectionError(
            f"WORLD_SIZE: got {os.environ['WORLD_SIZE']} in the environment, but no process group "
            f"({first_line(error)}); expected to be started by torchrun, or WORLD_SIZE unset for one process"
        ) from error
    try:
        yield
    finally:
        dist.destroy_process_group()


class Ranks:
    """The processes that train one model together: those of torch.distributed's default group, or this one alone.

    See Note [Several processes].

    Attributes:
        rank: number of this process.
        count: number of processes.
        interruption: the signals that ask this process to stop.
    """

    def __init__(self) -> None:
        together = dist.is_available() and dist.is_initialized()
        self.rank, self.count = (dist.get_rank(), dist.get_world_size()) if together else (0, 1)
        self.interruption = Interruption(patient=self.count > 1)
        self._signals = torch.zeros(len(SIGNALS))  # of all ranks

    def check_same(self, config: TrainingConfig, images: Tensor, step: int) -> None:
        """Raise a ValueError if the ranks' settings, training images or numbers of steps done differ."""
        if self.count == 1:
            return
        checksum = zlib.crc32(images[:COMPARED_IMAGES].numpy().tobytes())
        of_a_machine = dict.fromkeys(("device", "dataset", "data_root"))
        facts = {**config.to_dict(), **of_a_machine, "steps done": step}
        facts["training images"] = (tuple(images.shape), checksum)
        of_all: list[Any] = [None] * self.count
        self._collectively(dist.all_gather_object, of_all, facts)
        different = [name for name in facts if any(other[name] != facts[name] for other in of_all)]
        expected = "the same on all ranks, which train one model together"
        require(not different, f"rank {self.rank}", f"other {', '.join(different)} than another rank", expected)

    def broadcast(self, model: LatentVariableModel) -> None:
        """Give all ranks the parameters and buffers of rank 0."""
        if self.count > 1:
            for tensor in model.state_dict().values():
                self._collectively(dist.broadcast, tensor, 0)

    def threads(self, fixed: int | None) -> int | None:
        """Return the number of threads for every rank: ``fixed``, or rank 0's part of its machine's; None if alone."""
        if self.count == 1 or fixed is not None:
            return fixed
        number = torch.get_num_threads()
        local = 1 if chosen_by_user() else int(os.environ.get("LOCAL_WORLD_SIZE", self.count))
        return self.once(lambda: max(1, number // local))

    def seed_draws(self, seed: int, step: int) -> None:
        """Seed torch's generators for this rank's draws in a step; alone they go on as they are."""
        if self.count > 1:
            low, high, *_ = ops.philox((step % 2**32, step >> 32, self.rank, 0), (seed % 2**32, seed >> 32))
            torch.manual_seed(low + (high << 32))

    def average(self, model: LatentVariableModel, loss: Tensor, share: float) -> Tensor:
        """Make everything that a step computed that of the whole minibatch, and return its loss, detached.

        Args:
            model: the model, whose gradients are those of ``loss``.
            loss: mean over this rank's images, times ``share``.
            share: share of the minibatch's images that are this rank's.
        """
        loss = loss.detach()
        if self.count == 1:
            return loss
        loss = loss.clone()
        modules = list(model.modules())
        adapted = [m.step_size for m in modules if isinstance(m, AdaptiveLangevin) and m.target_acceptance is not None]
        for step_size in adapted:
            step_size.mul_(share)
        model.diagnostics = {name: value * share for name, value in model.diagnostics.items()}
        self._signals = loss.new_tensor([float(self.interruption.signal_number == number) for number in SIGNALS])
        learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
        unreached = [parameter for parameter in learning if parameter.grad is None]  # by this rank's data, at least
        reached = loss.new_tensor([float(parameter.grad is not None) for parameter in learning])
        for parameter in unreached:
            parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in learning if parameter.grad is not None]
        self._sum([loss, *gradients, *adapted, *model.diagnostics.values(), self._signals, reached])
        if unreached:
            for parameter, number in zip(learning, reached.tolist(), strict=True):
                parameter.grad = parameter.grad if number else None
        for chains in modules:
            if isinstance(chains, PersistentChains):
                self._gather(chains)
        return loss

    def agreed_signal(self, step: int) -> int | None:
        """Return the signal that asked any rank to stop, the same on all; a GPU is waited for every few steps only."""
        if self.count == 1:
            return self.interruption.signal_number
        if self._signals.is_cuda and step % LOOK_EVERY:
            return None
        return next((number for number, count in zip(SIGNALS, self._signals.tolist(), strict=True) if count), None)

    def once(self, function: Callable[[], Result]) -> Result:
        """Call a function on rank 0 while the others wait, and return its result on all.

        Raises:
            ConnectionError: it failed on rank 0, which raises its error; or a process is gone.
        """
        if self.count == 1:
            return function()
        outcome: list[Any] = [None, None]
        failure: Exception | None = None
        if self.rank == 0:
            try:
                outcome[0] = function()
            except Exception as error:
                failure, outcome[1] = error, f"{type(error).__name__}: {first_line(error)}"
        self._collectively(dist.broadcast_object_list, outcome, 0)
        if failure is not None:
            raise failure
        if outcome[1] is not None:
            raise ConnectionError(f"rank {self.rank}: rank 0 ended the run ({outcome[1]})")
        return outcome[0]  # type: ignore[no-any-return]

    def _sum(self, tensors: list[Tensor]) -> None:
        """Replace tensors by their sums over ranks, in the first one's dtype."""
        flat = torch.cat([tensor.flatten().to(tensors[0].dtype) for tensor in tensors])
        self._collectively(dist.all_reduce, flat)
        for tensor, total in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(total.view_as(tensor))

    def _gather(self, chains: PersistentChains) -> None:
        """Take over the states of the chains that each rank moved, the last rank's where several moved one."""
        of_all: list[Any] = [None] * self.count
        self._collectively(dist.all_gather_object, of_all, (chains.moved.cpu(), chains.z[chains.moved].cpu()))
        for index, z in of_all:
            chains.z[index.to(chains.z.device)] = z.to(chains.z.device)

    def _collectively(self, collective: Callable[..., Any], *arguments: Any) -> None:
        try:
            collective(*arguments)
        except RuntimeError as error:
            reason = re.sub(r"^\[\S+\] |\. .*", "", first_line(error))  # without gloo's place in its source and advice
            raise ConnectionError(
                f"rank {self.rank}: another process of the run is gone ({reason}); its message says why; "
                "--resume goes on from the last checkpoint"
            ) from error
