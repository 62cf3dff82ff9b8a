"""Divergence: where a run does something else than the tape, and in what, on both sides."""

from __future__ import annotations

from functools import lru_cache
from types import CodeType
from typing import Any

import mlx.core as mx

from nnrepl.classes import dataclass
from nnrepl.record.intake import Unwinding
from nnrepl.record.titles import message_of
from nnrepl.tape import DrawnKey, Op, Value, is_evaluated, text_of

OUTSIDE = "a clock, a generator, a file, a cache, a thread or the order of a set, say, that nnrepl cannot put back"


class CannotExchange(Unwinding):
    """An array object of the program's cannot take another shape or dtype."""


class Lost(CannotExchange):
    """Nothing of the program's is known to hold what an edit changes."""


class NotKept(Unwinding):
    """The program cannot be led on without computing anything; the message says why."""


class Diverged(Unwinding):
    """The run did something else than the tape says, for a reason that is not the edit.

    Attributes:
        difference: What.
    """

    def __init__(self, difference: OpDifference) -> None:
        self.difference = difference
        super().__init__(f"the program does not do the same when it runs again: {difference} ({OUTSIDE})")


@dataclass(frozen=True, slots=True)
class OpDifference:
    """One op that is not what it was.

    Attributes:
        expected: The op of the old tape, None if it has none there.
        found: What the program did instead, None if it did nothing.
        what: The argument that differs, on both sides, in words, or what was raised; "" if the whole op differs.
    """

    expected: Op | None
    found: Op | None
    what: str = ""

    def __str__(self) -> str:
        was = "nothing more" if self.expected is None else f"{self.expected.label} {self.expected.name}"
        if self.found is None:
            return f"where the tape has {was}, it {f'raised {self.what}' if self.what else 'called nothing'}"
        now = f"where the tape has {was}, it called {self.found.name}"
        return f"{now} with {self.what}" if self.what else now


def said_of(error: BaseException) -> str:
    """Return an exception in a sentence."""
    said = message_of(error).splitlines()
    return type(error).__name__ + (f": {said[0][:100]}" if said else "")


def compare(expected: Op, found: Op) -> OpDifference | None:
    """In what two ops differ, their inputs apart: the operation, a constant, the place. None if in nothing."""
    if not same_operation(expected, found):
        return OpDifference(expected, found)
    if len(expected.inputs) != len(found.inputs):
        what = f"{len(found.inputs)} tensors instead of {len(expected.inputs)}"
        return OpDifference(expected, found, what)
    if found.of is not None or expected.of is not None:
        return None
    pairs = [(str(number + 1), a, b) for number, (a, b) in enumerate(zip(expected.args, found.args))]
    pairs += [(name, part, found.kwargs.get(name)) for name, part in expected.kwargs.items()]
    if len(expected.args) != len(found.args) or expected.kwargs.keys() != found.kwargs.keys():
        return OpDifference(expected, found, "other arguments")
    for name, a, b in pairs:
        if not same_constant(a, b):
            keys = isinstance(a, DrawnKey) and isinstance(b, DrawnKey)
            said = _other_key(a, b) if keys else f"argument {name} = {_text(b)} instead of {_text(a)}"
            return OpDifference(expected, found, said)
    if not same_place(expected, found):
        names = expected.tape.names
        return OpDifference(
            expected, found, f"line {names.source(found).line} instead of {names.source(expected).line}"
        )
    return None


def same_operation(a: Op, b: Op) -> bool:
    """Whether two ops call the same."""
    return a.operation is b.operation or (a.operation.name == b.operation.name and a.operation.kind == b.operation.kind)


def same_place(a: Op, b: Op) -> bool:
    """Whether two ops were made at the same place of the same function. Where nothing is known of one, they were."""
    if a.scope is None or b.scope is None:
        return True
    if a.scope.code is not b.scope.code and a.scope.code != b.scope.code and not _alike(a.scope.code, b.scope.code):
        return False
    if a.lasti == b.lasti:
        return True
    # CPython 3.11 makes one call at another of its instructions once it has seen it a few times.
    places = _positions(a.scope.code)
    return places[a.lasti // 2] == places[b.lasti // 2]


def _alike(a: CodeType, b: CodeType) -> bool:
    """Whether two code objects are one text that makes other functions: what a reload has put in ahead of time."""
    return (a.co_filename, a.co_code, a.co_linetable) == (b.co_filename, b.co_code, b.co_linetable)


@lru_cache(256)
def _positions(code: CodeType) -> tuple[tuple[int | None, ...], ...]:
    """Where each instruction of a function stands in the source."""
    return tuple(code.co_positions())


def same_constant(a: Any, b: Any) -> bool:
    """Whether two arguments are the same, tensors in them apart. Objects of which nothing can be told are, if they
    are of one type."""
    if a is b or (isinstance(a, Value) and isinstance(b, Value)):
        return True
    if type(a) is not type(b):
        # A class that the program defines is another one in each run.
        kinds = [(kind.__module__, kind.__qualname__) for kind in (type(a), type(b))]
        return kinds[0] == kinds[1]
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same_constant, a, b))
    if isinstance(a, dict):
        return bool(a.keys() == b.keys()) and all(same_constant(part, b[key]) for key, part in a.items())
    if isinstance(a, slice):
        return all(map(same_constant, (a.start, a.stop, a.step), (b.start, b.stop, b.step)))
    if isinstance(a, DrawnKey):
        return bool(a.serial == b.serial)
    if isinstance(a, (float, complex)):
        return repr(a) == repr(b)  # NaN is NaN, and 0.0 is not -0.0
    if isinstance(a, _PLAIN):
        return bool(a == b)
    if hasattr(a, "__array_interface__"):
        return bool(a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes())
    if hasattr(a, "guide_key"):
        return _same_data(a, b)
    return True


_PLAIN = (int, str, bytes, type(None), type(Ellipsis), range, frozenset, mx.Dtype, mx.Device, mx.Stream)


def _same_data(a: Any, b: Any) -> bool:
    """Whether data that came from outside is the same. What nobody has read yet (a file) is not read for that: it is
    the same if the file is."""
    if a.array.shape != b.array.shape or a.array.dtype != b.array.dtype:
        return False
    if a.stamp is not None and a.stamp == b.stamp:
        return True
    if a.stamp is None and not (is_evaluated(a.array) and is_evaluated(b.array)):
        return True
    from nnrepl.record.verify import same_bits

    return bool(same_bits(a.array, b.array).item())


def _text(part: Any) -> str:
    """Return an argument in a sentence."""
    if isinstance(part, Value):
        return part.name
    if isinstance(part, DrawnKey):
        return "a random key"
    if hasattr(part, "guide_key"):
        return f"other data of shape {part.array.shape}" if part.array.size > 4 else str(part.array.tolist())
    said = text_of(part, repr)
    return said if len(said) <= 40 else said[:37] + "..."


def _other_key(was: DrawnKey, now: DrawnKey) -> str:
    """Return in what two keys that were drawn differ, as far as that is known: in the seed before."""
    seeds = [
        str(since[1]) for since in (now.serial[0], was.serial[0]) if isinstance(since, tuple) and since[0] == "seed"
    ]
    return "another random key" + (f": seed {' instead of seed '.join(seeds)}" if len(set(seeds)) == 2 else "")
