"""Mirror: a block that runs twice has a change in it twice.

The backward pass of a checkpoint runs its function again. A change that was made between the ops of the first run
stands in the function, as it were: the second run meets it at the same place. So does a line that the user has typed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from nnrepl.record.listener import KnowsChanges
from nnrepl.record.rebuilt import exchange
from nnrepl.record.runs_twice import LineTwice
from nnrepl.tape import Activation, Op, Value

if TYPE_CHECKING:
    from nnrepl.record.recorder import Recorder


@contextmanager
def mirrored(
    recorder: Recorder,
    first: Sequence[Op],
    given: Sequence[tuple[Value, Value]],
    lines: Sequence[LineTwice],
    depths: tuple[int, int] | None,
) -> Iterator[None]:
    """Take what comes as a second run of the ops of `first`: the changes among them are made again, and the lines run.

    Args:
        given: What went into the first run, and what stands for it: one tensor may have gone in more than once.
        depths: How many calls lay around the function in its first run, and how many do now; None if no Python runs.
    """
    if not lines and not any(op in recorder.tape.notes.inserted for op in first):
        yield
        return
    mirror = Mirror(recorder, first, given, lines, depths)
    recorder.mirrors.append(mirror)
    mirror.passed()
    try:
        yield
    finally:
        recorder.mirrors.remove(mirror)


class Mirror:
    """Watches a second run, and makes the changes of the first one in it."""

    def __init__(
        self,
        recorder: Recorder,
        first: Sequence[Op],
        given: Sequence[tuple[Value, Value]],
        lines: Sequence[LineTwice],
        depths: tuple[int, int] | None,
    ) -> None:
        self._recorder = recorder
        self._depths = depths
        self._lines = list(lines)
        self._running = False
        self._first = first
        self._now = dict(given)
        self._given = given
        self._start = len(recorder.tape)
        self._seen = 0

    def due(self, changes: KnowsChanges, calling: bool) -> None:
        """Make the changes that stand where the second run stands now.

        Args:
            calling: Whether a function is about to be called.
        """
        tape, first = self._recorder.tape, self._first
        while True:
            second = tape.ops[self._start :]
            for old, new in zip(first[self._seen :], second[self._seen :]):
                self._now.update(zip(old.outputs, new.outputs))
            self._seen = len(second)
            if self._seen >= len(first) or first[self._seen] not in tape.notes.inserted:
                return
            old = first[self._seen]
            edit = next((op for op in first[self._seen :] if op in tape.notes.edits), old)
            asked = Op(edit.operation, (), {}, ())
            asked.scope = self._scope(edit)
            if calling and changes.waits(asked):
                return
            alike = [leaf for value, leaf in self._given if value is tape.notes.edits.get(edit)]
            about = changes.meant(asked, alike) if len(alike) > 1 else None
            target = self._make(old, asked.scope, {} if about is None else {tape.notes.edits[edit]: about})
            if target is not None:
                changes.effect(tape.ops[-1], target)

    def passed(self, due: bool = False, came: bool = False) -> None:
        """Run the lines that stand where the second run stands now.

        Args:
            due: Whether the op there is about to be made.
            came: Whether the line is about to run for which the first one waits.
        """
        recorder = self._recorder
        while self._lines and not self._running and self._lines[0].after <= len(recorder.tape) - self._start:
            wait = self._lines[0].wait
            if wait is not None and not came and (self._lines[0].inside or not due):
                wait(lambda: self.passed(due=True, came=True))
                return
            line = self._lines.pop(0)
            self._running = True  # its own ops come by here
            try:
                line.run()
            finally:
                self._running = False

    def _make(self, old: Op, scope: Activation | None, about: dict[Value, Value]) -> Value | None:
        """Put a change on the tape. Returns what it changes, if it does."""
        recorder, now = self._recorder, {**self._now, **about}
        tape, notes = recorder.tape, recorder.tape.notes
        inputs = tuple([now.get(value, value) for value in old.inputs])
        new = Op(old.operation, exchange(old.args, now), exchange(old.kwargs, now), inputs)
        new.scope, new.lasti = scope, old.lasti
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

    def _scope(self, op: Op) -> Activation | None:
        """Return the call of a change's line, as made from the second run; as it is where no Python runs there."""
        recorder, scope, depths = self._recorder, op.scope, self._depths
        if scope is None or scope.parent is None or depths is None or not (frames := recorder.stack.frames()):
            return scope
        recorder.stand(frames[-1])
        here = [] if recorder.stack.scope is None else recorder.stack.scope.path()
        parent = here[depths[1] - 1] if 0 < depths[1] <= len(here) else None
        running = here[depths[1] :]
        for at, call in enumerate(scope.parent.path()[depths[0] :]):
            if at >= len(running):  # it is not called yet
                parent = Activation(parent, call.code, call.lasti, call.owner, call.updating, call.variables)
            elif running[at].code == call.code:
                parent = running[at]
            else:
                return scope
        return Activation(parent, scope.code, scope.lasti, None)
