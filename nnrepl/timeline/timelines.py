"""Timelines: the tapes of a session, each grown from another by one edit.

A timeline shares with its parent everything before the edit: the same values, on the same arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import field
from typing import TYPE_CHECKING

from nnrepl.classes import dataclass
from nnrepl.record.names import ProgramNames
from nnrepl.record.needs import needs
from nnrepl.replay.run import Run
from nnrepl.tape import Op, Tape, Value
from nnrepl.timeline.code import CodeChange
from nnrepl.timeline.edits import Edit
from nnrepl.timeline.typed_cells import Cell

if TYPE_CHECKING:
    from nnrepl.timeline.cut_short import CutShort


@dataclass(eq=False, slots=True)
class Timeline:
    """A tape with its edits.

    Attributes:
        number: What people call it by: 1 is the run without edits.
        tape: Its ops.
        names: What its values are called.
        parent: The timeline that it branched off, None for the first.
        edit: The change of a value that it began with.
        code: The change of the program's source that it began with instead.
        codes: The changes of the source that hold on it, in order.
        seen: How far the user has been on it.
        ended: Whether the program has run to its end on it.
        cells: What was typed as the program's next lines, in order.
        starts: Where on the tape those cells begin that have begun.
        cut: What Ctrl-C has ended of it, and where: by cell, None for the program itself.
        inherited: How many of the cells had been typed before the timeline began.
    """

    number: int
    tape: Tape
    names: ProgramNames
    parent: Timeline | None = None
    edit: Edit | None = None
    code: CodeChange | None = None
    codes: tuple[CodeChange, ...] = ()
    seen: int = 0
    ended: bool = False
    cells: list[Cell] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    cut: dict[Cell | None, CutShort] = field(default_factory=dict)
    inherited: int = 0

    @property
    def extent(self) -> str:
        """How far it goes: `step 3 · update`."""
        if not self.tape.ops:
            return "its start"
        last = self.tape.ops[-1]
        updated = self.ended and last.pass_.by_hand  # natively nobody saw it
        return last.phase if last.phase == "setup" else f"{last.step.title} · {'update' if updated else last.phase}"

    @property
    def began(self) -> Edit | CodeChange | None:
        """What it began with; None for the first."""
        return self.edit if self.code is None else self.code

    @property
    def line(self) -> list[Timeline]:
        """It and those that it came from, itself first."""
        return [self, *([] if self.parent is None else self.parent.line)]

    @property
    def below(self) -> list[Cell]:
        """The cells that have still to run."""
        return self.cells[len(self.starts) :]

    def dependents(self) -> list[Op]:
        """Return the ops after the edit whose results depend on it."""
        if self.edit is None:
            return []
        return dependents(self.tape, [self.tape.ops[self.edit.position + len(self.edit.ops) - 1]])

    def lost(self) -> list[Edit | CodeChange]:
        """Return the changes of the timeline before that lie after this one: they are not made again."""
        began = self.began
        lost: list[Edit | CodeChange] = []
        timeline = self.parent
        while began is not None and timeline is not None and timeline.began is not None:
            if timeline.began.position > began.position:
                lost.append(timeline.began)
            timeline = timeline.parent
        return lost

    def along(self) -> Run:
        """Return what leads the program to its end, where it is as it was."""
        end = len(self.tape)
        if self.ended:
            seen = self.seen + (self.seen >= end)  # at the end, what was printed after the last op as well
        else:
            seen = min(self.seen, end - 1)  # after the last op nothing has been printed yet
        return Run(self.tape, end, (), end, seen=seen)

    @property
    def depth(self) -> int:
        """How many edits it has."""
        return 0 if self.parent is None else self.parent.depth + 1


class Timelines:
    """All timelines of a session.

    Attributes:
        current: The one that the user looks at.
        live: The one on which the program stands.
    """

    def __init__(self, tape: Tape, names: ProgramNames) -> None:
        self.current = self.live = Timeline(1, tape, names)
        self._all = [self.current]
        self._undone: list[Timeline | tuple[Cell, ...]] = []

    def __len__(self) -> int:
        return len(self._all)

    def __getitem__(self, number: int) -> Timeline:
        """Return the timeline with a number. Raises IndexError."""
        if not 1 <= number <= len(self._all):
            raise IndexError(number)
        return self._all[number - 1]

    def __iter__(self) -> Iterator[Timeline]:
        return iter(self._all)

    def drop(self, timeline: Timeline) -> None:
        """Forget the newest timeline: what should have happened on it did not."""
        self._all.remove(timeline)
        assert timeline.parent is not None
        self.current = self.live = timeline.parent

    def branch(self, tape: Tape, names: ProgramNames, began: Edit | CodeChange) -> Timeline:
        """Take the new timeline that a change has made for the current one; the program stands on it."""
        edit, code = (None, began) if isinstance(began, CodeChange) else (began, None)
        parent = self.current
        made = Timeline(len(self._all) + 1, tape, names, parent, edit, code, self.codes_with(began))
        made.cells, made.starts, made.inherited = list(parent.cells), list(parent.starts), len(parent.cells)
        made.cut = dict(parent.cut)
        self._all.append(made)
        self._undone.clear()
        self.current = self.live = made
        return made

    def codes_with(self, began: Edit | CodeChange) -> tuple[CodeChange, ...]:
        """Return the changes of the source that hold after a change that is made now: what lies further on is not made
        again."""
        before = tuple(code for code in self.current.codes if code.position <= began.position)
        return (*before, began) if isinstance(began, CodeChange) else before

    def codes_for(self, line: Timeline | None, began: Edit | CodeChange | None) -> tuple[CodeChange, ...]:
        """Return the changes of the source that hold on a timeline, or on one that a change made now is to begin."""
        return line.codes if line is not None else self.current.codes if began is None else self.codes_with(began)

    def undo(self) -> Timeline | None:
        """Go to the timeline before the last edit; None if there is none."""
        parent = self.current.parent
        if parent is not None:
            self._undone.append(self.current)
            self.current = parent
        return parent

    def bookmark(self) -> Callable[[Tape], bool]:
        """Give what goes back to the timeline that the user looks at now, if it still has a tape and none has been made
        meanwhile; returns whether it did."""
        count, line, undone = len(self._all), self.current, list(self._undone)

        def back(tape: Tape) -> bool:
            if len(self._all) != count or line.tape is not tape:
                return False
            self.current, self._undone = line, undone
            return True

        return back

    def taken_back(self, cells: tuple[Cell, ...]) -> None:
        """Cells have been taken back from the current timeline."""
        self._undone.append(cells)

    def redo(self) -> Timeline | tuple[Cell, ...] | None:
        """Go back to the timeline that `undo` left, or give the cells that it took back; None if there is neither."""
        if not self._undone:
            return None
        found = self._undone.pop()
        if isinstance(found, Timeline):
            self.current = found
        return found

    @property
    def undone(self) -> Timeline | tuple[Cell, ...] | None:
        """What `redo` would go back to; None if there is nothing."""
        return self._undone[-1] if self._undone else None

    @property
    def can_redo_cells(self) -> bool:
        """Whether the last thing that `undo` did was to take cells back."""
        return bool(self._undone) and isinstance(self._undone[-1], tuple)

    def typed(self) -> None:
        """Something is typed after what was taken back: that is gone."""
        self._undone.clear()

    def switch(self, timeline: Timeline) -> None:
        """Look at another timeline."""
        # The one that is looked at already is come to once more where a step had to be opened on the way: after
        # `undo` there is still something to redo.
        if timeline is not self.current:
            self._undone.clear()
        self.current = timeline

    def children(self, timeline: Timeline) -> list[Timeline]:
        """Return the timelines that branched off one."""
        return [other for other in self._all if other.parent is timeline]


def dependents(tape: Tape, changes: Collection[Op]) -> list[Op]:
    """Return the ops of a tape whose results depend on those of some ops that change values, in order."""
    leaves: dict[Value, list[Value]] = {}
    for pass_ in tape.passes:
        for leaf in pass_.wrt:
            if leaf.origin is not None:
                leaves.setdefault(leaf.origin, []).append(leaf)
    changed: set[Value] = set()
    found = []
    for op in tape.ops[min([op.position for op in changes], default=len(tape)) :]:
        if op not in changes:
            if not any([value in changed for value in needs(op)]):
                continue
            found.append(op)
        for value in op.outputs:
            changed.add(value)
            changed.update(leaves.get(value, ()))
    return found
