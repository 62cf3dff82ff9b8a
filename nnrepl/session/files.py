"""Files: written beside the old one and put in its place when complete, whatever comes in between."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

_ENDINGS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a new file to write, and put it in the place of `path` if all goes well; else `path` is as it was and
    nothing is left beside it, also where the process is told to end meanwhile.

    Raises:
        OSError: If that cannot be done.
    """
    final = os.path.realpath(path)
    if os.path.exists(final) and not os.path.isfile(final):  # a device, a pipe: nothing to replace
        yield Path(final)
        return
    part = Path(os.path.dirname(final), f".{os.path.basename(final)}.{os.getpid()}.part")
    with _ending_cleanly():
        try:
            with open(part, "xb"):  # before anything is written: what is there already is not ours
                pass
            yield part
            with open(part, "rb") as written:
                os.fsync(written.fileno())
            if os.path.exists(final):
                os.chmod(part, os.stat(final).st_mode & 0o7777)
            os.replace(part, final)
        except FileExistsError:
            raise
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file, in UTF-8, wholly or not at all. Raises OSError."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def write_private(path: Path, text: str) -> None:
    """Write a text file that only the user may read: what was typed and looked at tells of their data. Raises
    OSError."""
    private_directory(path.parent)
    with replacing(path) as part:
        part.chmod(0o600)
        part.write_text(text, encoding="utf-8")
        if path.is_file():
            path.chmod(0o600)  # `replacing` gives the new file the old one's mode


def private_directory(path: Path) -> None:
    """Make a directory into which only the user may look, and those above it that are missing. Of those that are there
    nnrepl's own, `nnrepl` and what is below it, are closed to others: older versions made them open. Raises OSError."""
    parts = (path, *path.parents)
    own = next((at for at, part in enumerate(parts) if part.name == "nnrepl"), -1)
    for at, part in reversed([*enumerate(parts)]):
        if not part.is_dir():
            part.mkdir(mode=0o700, exist_ok=True)  # `parents=True` makes those above as the umask has it
        elif at <= own:
            for_the_user_alone(part)


def for_the_user_alone(path: Path) -> None:
    """Close a file or directory to others, if it is the user's: what a link leads to is theirs to arrange."""
    found = path.lstat()
    if found.st_mode & 0o077 and not path.is_symlink() and found.st_uid == getattr(os, "getuid", int)():
        path.chmod(found.st_mode & 0o700)


@contextmanager
def _ending_cleanly() -> Iterator[None]:
    """While a file is being written, a signal that would end the process at once unwinds it instead."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {}
    try:
        for number in _ENDINGS:
            if signal.getsignal(number) is signal.SIG_DFL:
                before[number] = signal.signal(number, _end)
        yield
    except _Ended as ended:
        _put_back(before)
        os.kill(os.getpid(), ended.number)
    finally:
        _put_back(before)


def _put_back(handlers: dict[int, Any]) -> None:
    while handlers:
        signal.signal(*handlers.popitem())


class _Ended(BaseException):
    """The process has been told to end."""

    def __init__(self, number: int) -> None:
        self.number = number


def _end(number: int, frame: FrameType | None) -> None:
    raise _Ended(number)
