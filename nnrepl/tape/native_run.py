"""Native run: what of a native run is kept beside its tape, so that it can be run forward without computing."""

from __future__ import annotations

import marshal
import os
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from nnrepl.classes import dataclass
from nnrepl.tape.origins import Activation
from nnrepl.tape.passes import GRADIENT_PASS, Pass


class KeptPoint(Protocol):
    """A moment of which the program's tensors are kept.

    Attributes:
        number: How many gradient calls had been made before it.
        nbytes: What it holds.
    """

    number: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class ClosedCall:
    """A call as it was before its step was opened.

    Attributes:
        kind, title: Of its pass.
        by_hand: Whether weights were updated by hand behind it.
        loss: What it differentiated, if that was known.
    """

    kind: str
    title: str
    by_hand: bool
    loss: Any


@dataclass(frozen=True, slots=True)
class OpenedStep:
    """A step that ran natively and has been opened; it can be closed again.

    Attributes:
        number: Its number.
        start, end: Where on the tape the ops lie that took the place of its calls.
        calls: What stood there.
    """

    number: int
    start: int
    end: int
    calls: tuple[ClosedCall, ...]

    def moved(self, by: int) -> OpenedStep:
        """Return it where the tape has become longer before it."""
        return OpenedStep(self.number, self.start + by, self.end + by, self.calls)


@dataclass(frozen=True, slots=True)
class MadeCall:
    """A call that was recorded op by op, and may become a closed one.

    Attributes:
        start, end: Where on the tape its ops lie.
        calls: What it would be if it had run natively (`nnrepl.record.closing.Call`).
        scope, lasti: Where the program made it.
    """

    start: int
    end: int
    calls: tuple[Any, ...]
    scope: Activation | None
    lasti: int

    def moved(self, by: int) -> MadeCall:
        """Return it where the tape has become longer before it."""
        return MadeCall(self.start + by, self.end + by, self.calls, self.scope, self.lasti)


Answer = tuple[str, Any]
"""What the program asked of a tensor (`array.item`), and what it was told."""


class NativeRun:
    """What the program read from tensors while it ran natively, and the restart points of that run.

    Attributes:
        points: The restart points in order.
        room: How many bytes large answers may still take.
    """

    def __init__(self) -> None:
        self.points: list[KeptPoint] = []
        self.room = _ROOM
        self._numbers, self._starts = array("q"), array("q")
        self._asked: list[str] = []
        self._told: list[Any] = []
        self._files: dict[str, object] = {}
        self._files_before: dict[str, object] = {}
        self._read_back: set[str] = set()
        self._tape_seen = self._calls = 0
        self._begun = -1
        self._hushed = False

    def calls(self, passes: Sequence[Pass]) -> int:
        """How many gradient calls there are among the passes of a tape, always the same one that grows."""
        if self._tape_seen > len(passes):
            self._tape_seen = self._calls = 0
        for pass_ in passes[self._tape_seen :]:
            self._calls += pass_.kind == GRADIENT_PASS
        self._tape_seen = len(passes)
        return self._calls

    def recount(self) -> None:
        """Note that the tape has fewer passes than it had."""
        self._tape_seen = self._calls = 0

    def begins(self, number: int) -> None:
        """Note that a gradient call is about to be made, after so many others: what is told from here on is kept under
        it."""
        if self._numbers and self._numbers[-1] >= number:
            self._cut(number)
        self._begun = number

    def tell(self, how: str, answer: Any) -> None:
        """Note what the program has been told: small answers always, large ones as long as there is room."""
        if self._begun < 0 or self._hushed:
            return  # no gradient call has begun
        if not self._numbers or self._numbers[-1] != self._begun:
            self._numbers.append(self._begun)
            self._starts.append(len(self._told))
        if len(self._told) - self._starts[-1] <= _MANY:
            kept, size = _pack(answer)
            if size > _SMALL:
                self.room -= size
            self._asked.append(how)
            self._told.append(kept if size <= _SMALL or self.room >= 0 else UNKEPT)

    def spoil(self) -> None:
        """Note that the program has been told something of which is not known what it would be natively, and when."""
        self.tell("", UNKEPT)

    @contextmanager
    def hushed(self) -> Iterator[None]:
        """Note nothing that is told inside: it is a part of another answer."""
        before, self._hushed = self._hushed, True
        try:
            yield
        finally:
            self._hushed = before

    def wrote(self, path: str) -> None:
        """Note that the program has written tensors into a file, by its path; "" for one that it has opened itself."""
        if path:
            self._files[path] = _stamp(path)

    def loads(self, file: object) -> None:
        """Note that the program reads tensors from a file: one that it has written it needs as it was then."""
        path = os.path.abspath(os.fsdecode(file)) if isinstance(file, (str, os.PathLike)) else ""
        if path in self._files:
            self._read_back.add(path)

    def is_as_written(self, path: str) -> bool:
        """Whether a file is still as the run before has left it, and it need not be written again. One that this run
        has written itself is as an earlier step has left it: a folder of a random name is another one in each run."""
        left = self._files_before.get(path)
        return left is not None and path not in self._read_back and left == _stamp(path)

    def told(self, number: int) -> Sequence[Answer]:
        """Return what the program was told from a gradient call on up to the next one."""
        at = bisect_left(self._numbers, number)
        if at == len(self._numbers) or self._numbers[at] != number:
            return ()
        start, end = self._starts[at], self._starts[at + 1] if at + 1 < len(self._starts) else len(self._told)
        return [(how, _unpack(answer)) for how, answer in zip(self._asked[start:end], self._told[start:end])]

    def before(self, number: int) -> NativeRun:
        """Return what is kept from before a number of gradient calls."""
        twin = NativeRun()
        twin.points = [point for point in self.points if point.number < number]
        twin._numbers, twin._starts = self._numbers[:], self._starts[:]
        twin._asked, twin._told = self._asked[:], self._told[:]
        twin._files, twin._read_back, twin.room = dict(self._files), set(self._read_back), self.room
        twin._files_before = dict(self._files)
        twin._cut(number)
        twin._begun = min(self._begun, number - 1)
        return twin

    def _cut(self, number: int) -> None:
        """Forget what was told from a gradient call on, and later."""
        at = bisect_left(self._numbers, number)
        if at == len(self._numbers):
            return
        start = self._starts[at]
        del self._numbers[at:], self._starts[at:], self._asked[start:], self._told[start:]


def count_calls(passes: Sequence[Pass]) -> int:
    """How many gradient calls of the top level there are among some passes."""
    return sum([pass_.kind == GRADIENT_PASS for pass_ in passes])


UNKEPT = object()
"""Stands for an answer that is too large to be kept, or of a kind that is not."""
_MANY = 65_536
"""So many answers from one gradient call to the next are kept; of a program that asks more, no more is known."""
_SMALL = 1024
_ROOM = 64 << 20


def _pack(answer: Any) -> tuple[Any, int]:
    """Return what is kept of an answer, which the program may change, and how many bytes that takes."""
    if answer is None or isinstance(answer, (bool, int, float, complex)):
        return answer, 0
    if isinstance(answer, (str, bytes)):
        return answer, len(answer)
    if isinstance(answer, list):
        packed = _Packed(marshal.dumps(answer))
        return packed, len(packed.numbers)
    if hasattr(answer, "copy") and hasattr(answer, "nbytes"):
        return answer.copy(), answer.nbytes
    return UNKEPT, 0


def _unpack(answer: Any) -> Any:
    """Return an answer that the program may have."""
    if isinstance(answer, _Packed):
        return marshal.loads(answer.numbers)
    return answer.copy() if hasattr(answer, "copy") else answer


class _Packed:
    """Lists of numbers.

    Args:
        numbers: They, as `marshal` writes them.
    """

    __slots__ = ("numbers",)

    def __init__(self, numbers: bytes) -> None:
        self.numbers = numbers


SUFFIXES = {
    "mx.save": ".npy", "mx.savez": ".npz", "mx.savez_compressed": ".npz", "mx.save_safetensors": ".safetensors",
    "mx.save_gguf": ".gguf",
}  # fmt: skip
"""What writes tensors into files, and what it adds to a name that does not end so."""


def file_of(how: str, args: tuple[Any, ...]) -> str:
    """Return into which file a call writes tensors; "" where the program gives an open one, or none."""
    file = args[0] if args else None
    if not isinstance(file, (str, os.PathLike)):
        return ""
    path, suffix = os.path.abspath(os.fsdecode(file)), SUFFIXES[how]
    return path if path.endswith(suffix) else path + suffix


def _stamp(path: str) -> object:
    """Return what tells a file from what it was at other times; None if there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
