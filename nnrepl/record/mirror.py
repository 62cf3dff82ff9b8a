"""Mirror: a block that runs twice has a change in it twice.

The backward pass of a checkpoint runs its function again. A change that was made between the ops of the first run
stands in the function, as it were: the second run meets it at the same place. So does a line that the user has typed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from nnrepl.record import repeat
from nnrepl.record.runs_twice import LineTwice
from nnrepl.tape import Op, Value

if TYPE_CHECKING:
    from nnrepl.record.recorder import Recorder


@contextmanager
def mirrored(
    recorder: Recorder, first: Sequence[Op], now: dict[Value, Value], lines: Sequence[LineTwice]
) -> Iterator[None]:
    """Take what comes as a second run of the ops of `first`: the changes among them are made again, and the lines run.

    Args:
        now: Which value stands for which one of the first run.
    """
    if not lines and not any(op in recorder.tape.notes.inserted for op in first):
        yield
        return
    mirror = Mirror(recorder, first, now, lines)
    recorder.mirrors.append(mirror)
    mirror.passed()
    try:
        yield
    finally:
        recorder.mirrors.remove(mirror)


class Mirror:
    """Watches a second run, and makes the changes of the first one in it."""

    def __init__(
        self, recorder: Recorder, first: Sequence[Op], now: dict[Value, Value], lines: Sequence[LineTwice]
    ) -> None:
        self._recorder = recorder
        self._lines = list(lines)
        self._running = False
        self._first = first
        self._now = now
        self._start = len(recorder.tape)
        self._seen = 0

    def due(self, exchange: Callable[[Value, Value], None]) -> None:
        """Make the changes that stand where the second run stands now.

        Args:
            exchange: Lets everything that held one value hold another.
        """
        tape, first = self._recorder.tape, self._first
        while True:
            second = tape.ops[self._start :]
            for old, new in zip(first[self._seen :], second[self._seen :]):
                self._now.update(zip(old.outputs, new.outputs))
            self._seen = len(second)
            if self._seen >= len(first) or first[self._seen] not in tape.notes.inserted:
                return
            target = self._make(first[self._seen])
            if target is not None:
                exchange(target, tape.ops[-1].outputs[0])

    def passed(self, due: bool = False) -> None:
        """Run the lines that stand where the second run stands now.

        Args:
            due: Whether the op there is about to be made, or its line to be run.
        """
        recorder = self._recorder
        while self._lines and not self._running and self._lines[0].after <= len(recorder.tape) - self._start:
            wait = self._lines[0].wait
            if wait is not None and not due:
                wait(lambda: self.passed(due=True))
                return
            line = self._lines.pop(0)
            self._running = True  # its own ops come by here
            try:
                line.run()
            finally:
                self._running = False

    def _make(self, old: Op) -> Value | None:
        """Put a change on the tape. Returns what it changes, if it does."""
        recorder, now = self._recorder, self._now
        tape, notes = recorder.tape, recorder.tape.notes
        inputs = tuple([now.get(value, value) for value in old.inputs])
        new = Op(old.operation, repeat.exchange(old.args, now), repeat.exchange(old.kwargs, now), inputs)
        new.scope, new.lasti = old.scope, old.lasti
        assert recorder.pass_ is not None
        new.pass_, new.position = recorder.pass_, len(tape)
        notes.carry_all(old, new, now)
        with recorder.muted():
            arrays = new.compute()
        new.outputs = tuple([Value(new, slot, array) for slot, array in enumerate(arrays)])
        for before, value in zip(old.outputs, new.outputs):
            notes.carry_value(before, value)
        tape.ops.append(new)
        return notes.edits.get(new)
