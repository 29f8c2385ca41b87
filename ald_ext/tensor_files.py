"""Files of tensors and plain values: written whole or not at all, and read without trust in what they claim.

Note [Files that claim too much]
    torch.load runs no code of a file, but it compares little: not the checksums, not the length of a storage with what
    the pickle says of it (beyond whose end it reads), and some of the classes that it allows allocate whatever size
    they are told. So the archive is read by zipfile, whose members have checksums and may not be larger than the file
    together; the pickle may only make what :func:`write_tensors` writes, with storages as long as their members; and
    torch.load gets the members that were checked.
"""

from __future__ import annotations

import io
import pickletools
import re
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .files import write_atomically
from .settings import MAX_DEPTH, shortened

#: Version of the files of models and checkpoints; raised when older versions cannot read newer files, or conversely.
FORMAT = 2
#: Bytes of an element of the storages that a file may have, by their names in pickles.
ITEM_SIZES = {
    "torch DoubleStorage": 8,
    "torch LongStorage": 8,
    "torch FloatStorage": 4,
    "torch IntStorage": 4,
    "torch HalfStorage": 2,
    "torch BFloat16Storage": 2,
    "torch ShortStorage": 2,
    "torch ByteStorage": 1,
    "torch CharStorage": 1,
    "torch BoolStorage": 1,
}
#: What a pickle may call. Tensors on meta and parameters are none of ours, which only the reader of a field can say.
CALLED = {"collections OrderedDict", "torch Size"} | {
    *(f"torch._utils _rebuild_{kind}" for kind in ("tensor_v2", "parameter", "meta_tensor_no_storage")),
}
DTYPE = re.compile(r"torch (bool|(bfloat|float|int|uint)\d+)")
#: How deep tuples may be nested, which as keys are hashed by recursion.
MAX_TUPLE_DEPTH = 5
FOREIGN = "it holds other things than tensors and plain values"


def write_tensors(path: Path, contents: dict[str, Any]) -> None:
    """Write tensors and plain values, whole or not at all. OSError where that fails; an earlier file is as it was."""
    buffer = io.BytesIO()  # torch.save would report a full disk as an internal error
    torch.save(contents, buffer)
    write_atomically(path, lambda file: file.write_bytes(buffer.getbuffer()))


def read_tensors(
    path: Path,
    keys: tuple[str, ...],
    device: str | torch.device = "cpu",
    *,
    argument: str = "checkpoint",
    writer: str = "`ald-ext train`",
) -> dict[str, Any]:
    """Return what :func:`write_tensors` wrote. See Note [Files that claim too much].

    Args:
        path: the file.
        keys: entries that it has to have.
        device: device for the tensors.
        argument: the beginning of error messages.
        writer: what writes such files, for error messages.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that is corrupt, truncated, of another program or of another version.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{argument}: got {str(path)!r}, expected a file that {writer} wrote")
    try:
        archive = checked_archive(path)
        contents = torch.load(archive, map_location="cpu", weights_only=True)
        check_plain(contents, path.stat().st_size)
    except PermissionError:
        raise
    except Exception as error:  # a damaged file makes zipfile and pickle raise whatever there is
        raise ValueError(
            f"{argument}: {str(path)!r} is corrupt, truncated or of another program ({first_line(error)}); "
            f"expected a file that {writer} wrote"
        ) from error
    found = contents if isinstance(contents, dict) else {}
    version = found.get("format", FORMAT)
    if type(version) is not int or version != FORMAT:
        raise ValueError(
            f"{argument}: {str(path)!r} is of another version of ald_ext: got format {shortened(version)}, "
            f"expected {FORMAT}"
        )
    missing = sorted(set(keys) - set(found))
    if missing:
        raise ValueError(f"{argument}: {str(path)!r} is no checkpoint of ald_ext: it lacks {', '.join(missing)}")
    if torch.device(device).type != "cpu":  # only now: elsewhere a tensor beyond its storage would enlarge it
        archive.seek(0)
        found = torch.load(archive, map_location=device, weights_only=True)
    return found


def checked_archive(path: Path) -> io.BytesIO:
    """Return a copy of an archive of torch.save whose members and pickle have been checked. Raises anything."""
    copied = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(copied, "w") as copy:
        members = archive.infolist()
        roots, names = {member.filename.partition("/")[0] for member in members}, [m.filename.lower() for m in members]
        stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
        if not stored or sum(member.file_size for member in members) > path.stat().st_size:
            raise ValueError("its members are compressed, or larger than the file")
        if len(roots) != 1 or len(set(names)) < len(names):  # torch.load does not tell a from A
            raise ValueError("its members have the same names, or are in several folders")
        for member in members:
            copy.writestr(member.filename, archive.read(member))  # which compares the checksum
        root = roots.pop()
        sizes = {member.filename.removeprefix(f"{root}/"): member.file_size for member in members}
        check_pickle(archive.read(f"{root}/data.pkl"), sizes)
    copied.seek(0)
    return copied


class Item(NamedTuple):
    """What an opcode of a pickle leaves on the stack: a plain value or a name, or a tuple's items; else nothing."""

    value: Any = None
    items: tuple[Item, ...] = ()
    depth: int = 0
    size: int = 1


def check_pickle(pickled: bytes, sizes: dict[str, int]) -> None:
    """Raise a ValueError (or IndexError, KeyError) for a pickle that makes more than tensors and plain values.

    Args:
        pickled: the pickle.
        sizes: the bytes of each member of the archive.
    """
    stack: list[Item] = []
    memo: dict[int, Item] = {}
    marks: list[int] = []
    value: Any
    for opcode, value, _ in pickletools.genops(pickled):
        name = opcode.name
        if name.endswith("PUT"):
            memo[value] = stack[-1]
            continue
        if name == "MARK":
            marks.append(len(stack))
            continue
        slices = pickletools.stackslice in opcode.stack_before
        # The slice stands for itself and its mark.
        taken = (len(stack) - marks.pop() - 2 if slices else 0) + len(opcode.stack_before)
        items = tuple(stack[len(stack) - taken :])
        del stack[len(stack) - taken :]
        item = memo[value] if name.endswith("GET") else Item(value)
        if name == "GLOBAL" and not (value in CALLED or value in ITEM_SIZES or DTYPE.fullmatch(value)):
            raise ValueError(f"{FOREIGN}: {value.replace(' ', '.')}")
        if name == "REDUCE" and items[0].value not in CALLED:
            raise ValueError(FOREIGN)
        if name == "BINPERSID":  # of ("storage", its class, the member's name, the device, the number of elements)
            kind, storage, member, _, count = (part.value for part in items[0].items)
            if kind != "storage" or sizes[f"data/{member}"] != count * ITEM_SIZES[storage]:
                raise ValueError("a tensor is longer or shorter than its data")
        if name.startswith("TUPLE"):
            depth, size = 1 + max((part.depth for part in items), default=0), 1 + sum(part.size for part in items)
            if depth > MAX_TUPLE_DEPTH or size > len(pickled):
                raise ValueError("its tuples are nested too deeply")
            item = Item(None, items, depth, size)
        stack += [item] * len(opcode.stack_after)


def check_plain(contents: Any, limit: int) -> None:
    """Raise a ValueError for other things than tensors and plain values, or for more of them than ``limit``.

    What is shared counts each time: lists that hold others twice, again and again, need few bytes.
    """
    found, count = [(contents, 0)], 0
    while found:
        value, depth = found.pop()
        count += 1
        if depth > MAX_DEPTH or count + len(found) > limit:
            raise ValueError("its values are nested too deeply")
        if isinstance(value, dict):
            found += [(item, depth + 1) for pair in value.items() for item in pair]
        elif isinstance(value, (list, tuple)):
            found += [(item, depth + 1) for item in value]
        elif isinstance(value, Tensor):
            if value.numel() * value.element_size() > value.untyped_storage().nbytes():
                raise ValueError("a tensor is longer than its data")
        elif value is not None and type(value) not in (bool, int, float, str):
            raise ValueError(FOREIGN)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, at most 120 characters of it, or the error's type."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return line if len(line) <= 120 else f"{line[:120]}…"
