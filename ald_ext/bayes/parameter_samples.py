"""Samples of a module's parameters: kept in bounded memory or on disk, counted by chains, loaded into a module again.

Note [What a sample holds]
    A sample has the parameters and buffers of a module, by the names that they have without wrappers. What is bit for
    bit as in the first sample of its chain, such as frozen layers and constant buffers, is kept once for the chain. On
    disk, a chain is a folder ``chain-0000`` of files ``sample-000000.safetensors``, numbered by the place of the sample
    among those that were offered; the first has all tensors, a later one what differs from it.

Note [Bounded number of samples]
    The samples offered to a chain are counted from 0, and every s-th is kept, at first s = 1. When ``max_samples`` are
    there and another is due, every second is dropped and s is doubled. So the samples are always spread evenly over
    the whole run, whose length need not be known.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor, nn

from ..optim.names import clean_name
from ..settings import parse_json, require
from .sample_files import check_fits, read_header, read_sample, write_sample

CHAIN_FOLDER, SAMPLE_FILE = re.compile(r"chain-(\d{4,})"), re.compile(r"sample-(\d{6,})\.safetensors")
#: The trace of a run, in the folder of its first chain.
TRACE_FILE = "trace.json"


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers of a module, by their names without wrappers."""
    tensors = [*module.named_parameters(), *module.named_buffers()]
    return {clean_name(name): tensor.detach() for name, tensor in tensors}


@dataclass(frozen=True)
class Stored:
    """A sample: its own tensors or the file that has them, and the first sample of the chain for all others."""

    own: dict[str, Tensor] | Path
    first: dict[str, Tensor]

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors, in the order of their names."""
        own = read_sample(self.own, "ald_ext.bayes.PosteriorSamples") if isinstance(self.own, Path) else self.own
        return dict(sorted({**self.first, **own}.items()))


class PosteriorSamples:
    """Samples of the parameters of a module, and of its buffers where they change, from one chain or several.

    A sample is kept by :meth:`add`, in any training loop, or by :func:`collect_parameters`. ``samples[i]`` is a
    dictionary of tensors, ``samples[10:20]`` are samples again, and iteration goes through all samples, chain by chain.
    What a sample holds, and where, is said in ``ald_ext/bayes/parameter_samples.py``::

        samples = PosteriorSamples()
        for step, batch in enumerate(batches):
            ...                                          # optimizer.step()
            if step > 1000 and step % 50 == 0:
                samples.add(network)
        outputs = [torch.func.functional_call(network, samples.state_for(network, i), x) for i in range(len(samples))]

    Args:
        folder: where samples are kept as safetensors files, which are written whole or not at all; None keeps them in
            memory, on the device of the module.
        max_samples: the largest number of samples of each chain, two at least; None keeps all. When there are more,
            every second is dropped, so that those that stay are spread evenly over the run.
        dtype: of floating-point tensors where they are kept, such as torch.bfloat16; None stands for their own.
        resume: continue with the samples that are in the folder, if there are any; without it they are refused.

    Attributes:
        trace: what :func:`collect_parameters` tells of its steps.

    Raises:
        ValueError: a folder with samples without ``resume``, a damaged file, or a bad number or dtype.
        ImportError: a folder without safetensors.
    """

    def __init__(
        self,
        folder: Path | str | None = None,
        *,
        max_samples: int | None = None,
        dtype: torch.dtype | None = None,
        resume: bool = False,
    ) -> None:
        owner = "ald_ext.bayes.PosteriorSamples"
        fits = max_samples is None or (isinstance(max_samples, int) and max_samples >= 2)
        require(fits, f"{owner}: max_samples", max_samples, "None or an integer > 1")
        fits = dtype is None or (isinstance(dtype, torch.dtype) and dtype.is_floating_point)
        require(fits, f"{owner}: dtype", dtype, "None or a floating-point dtype")
        self.folder = None if folder is None else Path(folder)
        self.max_samples, self.dtype = max_samples, dtype
        self.trace: list[dict[str, Any]] = []
        self._chains: dict[int, dict[int, Stored]] = {}
        self._offered: dict[int, int] = {}
        self._spacings: dict[int, int] = {}  # s of Note [Bounded number of samples]
        self._is_selection = False
        if self.folder is not None:
            found = {chain: files for chain, files in files_by_chain(self.folder).items() if files}
            got = f"{str(folder)!r} with {sum(map(len, found.values()))} samples"
            require(resume or not found, f"{owner}: folder", got, "an empty one, or resume=True to continue there")
            for chain, files in found.items():
                self._open(chain, files)
            for path in sorted(self.folder.glob(f"chain-*/{TRACE_FILE}")):
                self.trace += parse_json(path.read_bytes(), f"{owner}: folder: {path.parent.name}/{path.name}")

    @classmethod
    def load(cls, folder: Path | str) -> PosteriorSamples:
        """Return the samples of a folder, read when they are asked for. Further ones may be added.

        Raises:
            ValueError: a folder without samples, or a damaged file.
            ImportError: safetensors is missing.
        """
        samples = cls(folder, resume=True)
        expected = "one that PosteriorSamples(folder) has filled"
        require(
            len(samples), "ald_ext.bayes.PosteriorSamples.load: folder", f"{str(folder)!r} without samples", expected
        )
        return samples

    def _open(self, chain: int, files: dict[int, Path]) -> None:
        """Take over the files of a chain, but for those that a killed process was about to drop."""
        argument = "ald_ext.bayes.PosteriorSamples: folder"
        positions = sorted(files)
        first = read_sample(files[positions[0]], argument)
        spacing = positions[1] - positions[0] if len(positions) > 1 else 1
        for position in positions:
            if (position - positions[0]) % spacing:
                continue
            header = read_header(files[position], argument)
            place = f"{argument}: {files[position].parent.name}/{files[position].name}"
            expected = {name: tuple(first[name].shape) for name in header.shapes if name in first}
            fits = header.shapes == expected
            require(fits, place, "other names or shapes", f"those of {files[positions[0]].name}")
            dtype = None if header.dtype == "None" else getattr(torch, header.dtype, None)
            require(
                dtype == (self.dtype or dtype), f"{argument}: dtype", self.dtype, f"{dtype}, as of the samples there"
            )
            self.dtype = dtype
            self._chains.setdefault(chain, {})[position] = Stored(files[position], first)
        self._offered[chain], self._spacings[chain] = max(self._chains[chain]) + spacing, spacing

    # Keeping

    @torch.no_grad()
    def add(self, module: nn.Module, *, chain: int = 0) -> bool:
        """Keep the present parameters of a module as the next sample of a chain; return whether they were kept.

        Args:
            module: of the same names and shapes each time.
            chain: which chain the sample belongs to, from 0.

        Raises:
            ValueError: a chain that is no integer >= 0; other names or shapes than those of the samples before, or a
                parameter that is not finite.
            OSError: the file cannot be written.
        """
        argument = "ald_ext.bayes.PosteriorSamples.add: module"
        require(not self._is_selection, argument, "a selection of samples to add to", "all of them")
        is_number = isinstance(chain, int) and chain >= 0
        require(is_number, "ald_ext.bayes.PosteriorSamples.add: chain", chain, "an integer >= 0")
        tensors = {name: self._as_kept(tensor) for name, tensor in named_tensors(module).items()}
        for name, _ in module.named_parameters():
            finite = bool(tensors[clean_name(name)].isfinite().all())
            expected = f"finite ones: chain {chain} has diverged, try a smaller lr"
            require(finite, f"{argument}: {name}", "values that are not finite", expected)
        if (earlier := next(iter(self._all()), None)) is not None:
            shapes = {name: tuple(tensor.shape) for name, tensor in earlier.first.items()}
            check_fits(tensors, shapes, argument, "the module", "the samples before")
        kept, position = self._chains.setdefault(chain, {}), self._offered.get(chain, 0)
        self._offered[chain] = position + 1
        spacing = self._spacings.get(chain, 1)
        while self.max_samples and len(kept) >= self.max_samples and position % spacing == 0:
            for dropped in list(kept)[1::2]:  # the earliest first, so that _open sees if this was stopped
                self._drop(chain, dropped)
            spacing *= 2
        self._spacings[chain] = spacing
        if position % spacing:
            return False
        first = next(iter(kept.values())).first if kept else {}
        shared = {name for name, tensor in first.items() if torch.equal(tensor.to(tensors[name].device), tensors[name])}
        own = {name: tensor.clone() for name, tensor in tensors.items() if name not in shared}
        kept[position] = Stored(self._write(chain, position, own), first or own)
        return True

    def _as_kept(self, tensor: Tensor) -> Tensor:
        tensor = tensor if self.dtype is None or not tensor.is_floating_point() else tensor.to(self.dtype)
        return tensor if self.folder is None else tensor.cpu()

    def _write(self, chain: int, position: int, own: dict[str, Tensor]) -> dict[str, Tensor] | Path:
        if self.folder is None:
            return own
        path = self.folder / f"chain-{chain:04}" / f"sample-{position:06}.safetensors"
        expected = "a folder that one process at a time adds to"
        require(not path.exists(), "ald_ext.bayes.PosteriorSamples.add: folder", f"another {path.name}", expected)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_sample(path, own, str(self.dtype).removeprefix("torch."))
        return path

    def _drop(self, chain: int, position: int) -> None:
        stored = self._chains[chain].pop(position)
        if isinstance(stored.own, Path):
            stored.own.unlink(missing_ok=True)

    def forget_after(self, chain: int, offered: int) -> None:
        """Drop the samples of a chain from the one at place ``offered`` on, which is the next to be offered."""
        for position in list(self._chains.get(chain, {})):
            if position >= offered:
                self._drop(chain, position)
        self._offered[chain] = offered
        if not self._chains.get(chain):
            self._spacings.pop(chain, None)

    def num_offered(self, chain: int) -> int:
        """Return how many samples a chain was offered, kept or not."""
        return self._offered.get(chain, 0)

    # Choosing

    def _all(self) -> Iterator[Stored]:
        return (stored for chain in self.chains for stored in self._chains[chain].values())

    @property
    def chains(self) -> list[int]:
        """The numbers of the chains that have samples."""
        return sorted(chain for chain, kept in self._chains.items() if kept)

    def __len__(self) -> int:
        return sum(map(len, self._chains.values()))

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return (stored.tensors() for stored in self._all())

    @overload
    def __getitem__(self, index: int) -> dict[str, Tensor]: ...
    @overload
    def __getitem__(self, index: slice) -> PosteriorSamples: ...
    def __getitem__(self, index: int | slice) -> dict[str, Tensor] | PosteriorSamples:
        if isinstance(index, slice):
            return self.select(range(len(self))[index])
        return list(self._all())[index].tensors()

    def select(self, indices: Iterable[int]) -> PosteriorSamples:
        """Return some of the samples, by their indices over all chains, each once and in their order, not copied.

        Raises:
            IndexError: an index beyond the samples.
        """
        places = [(chain, position) for chain in self.chains for position in self._chains[chain]]
        return self._with([places[int(index)] for index in indices])

    def chain(self, chain: int) -> PosteriorSamples:
        """Return the samples of one chain. ValueError if it has none."""
        require(chain in self.chains, "ald_ext.bayes.PosteriorSamples.chain", chain, f"one of {self.chains}")
        return self._with([(chain, position) for position in self._chains[chain]])

    def thin(self, factor: int) -> PosteriorSamples:
        """Return every ``factor``-th sample of each chain, with the last of it. ValueError for a factor < 1."""
        require(
            isinstance(factor, int) and factor >= 1,
            "ald_ext.bayes.PosteriorSamples.thin: factor",
            factor,
            "an integer > 0",
        )
        kept = {chain: list(self._chains[chain])[::-factor][::-1] for chain in self.chains}
        return self._with([(chain, position) for chain, positions in kept.items() for position in positions])

    def _with(self, places: list[tuple[int, int]]) -> PosteriorSamples:
        chosen = PosteriorSamples(dtype=self.dtype)
        chosen.trace, chosen._is_selection = self.trace, True
        for chain, position in sorted(places):
            chosen._chains.setdefault(chain, {})[position] = self._chains[chain][position]
        return chosen

    # Using

    def state_for(self, module: nn.Module, index: int) -> dict[str, Tensor]:
        """Return a sample with the names, dtypes and devices of a module, for ``torch.func.functional_call``.

        Raises:
            ValueError: other names or shapes than the module's, or a damaged file.
            IndexError: no such sample.
        """
        own = {name: tensor.detach() for name, tensor in [*module.named_parameters(), *module.named_buffers()]}
        sample = self[index]
        shapes = {clean_name(name): tuple(tensor.shape) for name, tensor in own.items()}
        check_fits(sample, shapes, f"ald_ext.bayes.PosteriorSamples: sample {index}", "the sample", "the module")
        return {name: sample[clean_name(name)].to(tensor.device, tensor.dtype) for name, tensor in own.items()}

    @torch.no_grad()
    def load_into(self, module: nn.Module, index: int) -> None:
        """Load a sample into a module. Raises as :meth:`state_for`; the module has not changed then."""
        state = self.state_for(module, index)
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            tensor.copy_(state[name])

    def __repr__(self) -> str:
        where = "in memory" if self.folder is None else f"in {str(self.folder)!r}"
        return f"PosteriorSamples({len(self)} samples of {len(self.chains)} chains, {where})"


def files_by_chain(folder: Path) -> dict[int, dict[int, Path]]:
    """Return the sample files below a folder, by chain and place, in order."""
    folders = [(match, path) for path in folder.glob("chain-*") if (match := CHAIN_FOLDER.fullmatch(path.name))]
    return {
        int(match[1]): {
            int(found[1]): path for path in sorted(place.iterdir()) if (found := SAMPLE_FILE.fullmatch(path.name))
        }
        for match, place in sorted(folders, key=lambda pair: int(pair[0][1]))
    }
