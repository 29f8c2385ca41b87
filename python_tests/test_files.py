"""Files that are written whole, through links and into streams, and folders with a lock."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from patience import PATIENCE

from ald_ext import files
from ald_ext.files import FolderLock, is_stream, write_atomically, write_json

#: The module alone, as the package with torch takes seconds to import.
WITH_FILES = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path(files.__file__).parent)!r})
from files import FolderLock, write_atomically
"""


def write(path: Path, text: str) -> None:
    write_atomically(path, lambda file: file.write_text(text))


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_new_file_has_the_mode_that_the_umask_leaves(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        write(tmp_path / "new.txt", "new")
    finally:
        os.umask(before)
    assert mode_of(tmp_path / "new.txt") == mode


def test_a_file_that_is_replaced_keeps_its_mode(tmp_path):
    path = tmp_path / "secret.json"
    write_json(path, 1)
    path.chmod(0o600)
    write_json(path, 2)
    assert (mode_of(path), path.read_text()) == (0o600, "2\n")


@pytest.mark.parametrize("exists", [True, False])
def test_the_target_of_a_link_is_replaced_and_the_link_stays(tmp_path, exists):
    (tmp_path / "folder").mkdir()
    target, link = tmp_path / "folder" / "target.txt", tmp_path / "link.txt"
    if exists:
        target.write_text("old")
    link.symlink_to(Path("folder", "target.txt"))
    write(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert {path.name for path in tmp_path.rglob("*")} == {"folder", "target.txt", "link.txt"}


@pytest.mark.parametrize("linked", [True, False])
def test_a_fifo_is_written_through(tmp_path, linked):
    fifo, received = tmp_path / "fifo", []
    os.mkfifo(fifo)
    reader = threading.Thread(target=lambda: received.append(fifo.read_text()), daemon=True)
    reader.start()
    path = tmp_path / "link" if linked else fifo
    if linked:
        path.symlink_to(fifo)
    write(path, "through")
    reader.join(PATIENCE)
    assert received == ["through"]
    assert stat.S_ISFIFO(fifo.stat().st_mode)
    assert is_stream(path)
    assert not is_stream(tmp_path)


def test_standard_output_that_is_a_file_is_written_to_in_its_place(tmp_path):
    code = (
        "print('before', flush=True);"
        "write_atomically(Path('/dev/stdout'), lambda file: file.write_text('contents, '));"
        "print('after')"
    )
    out = tmp_path / "out.txt"
    with open(out, "w") as file:
        subprocess.run([sys.executable, "-c", WITH_FILES + code], stdout=file, check=True, timeout=PATIENCE)
    assert out.read_text() == "before\ncontents, after\n"


def test_an_error_leaves_file_and_folder_as_they_were(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError):
        write_atomically(path, lambda file: file.write_text(str(1 // 0)))
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("file.txt", "old")]
    with pytest.raises(OSError, match="could not write"):
        write(tmp_path, "a folder is no file")


HOLD = """
lock = FolderLock(Path(sys.argv[1]))
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""


def test_a_lock_ends_with_its_process(tmp_path):
    command = [sys.executable, "-c", WITH_FILES + HOLD, tmp_path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        lock = FolderLock(tmp_path)
        with pytest.raises(BlockingIOError, match=f"out: got '{tmp_path}', to which another process is writing"):
            lock.acquire()
        process.kill()
        process.wait(PATIENCE)
    lock.acquire()
    with pytest.raises(BlockingIOError):
        FolderLock(tmp_path).acquire()
    lock.close()
    FolderLock(tmp_path).acquire()
    assert list(tmp_path.iterdir()) == []


def test_without_locks_every_process_has_one(tmp_path, monkeypatch):
    """As on Windows."""
    monkeypatch.setattr(files, "fcntl", None)
    for _ in range(2):
        FolderLock(tmp_path).acquire()
    FolderLock(tmp_path / "nowhere").acquire()
