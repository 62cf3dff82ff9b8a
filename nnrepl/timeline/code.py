"""Code: which version of the program's source a timeline runs, and from where on.

A change of the source holds from one position of the tape on: the program runs the old code up to there, and the new
code in every call that begins after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from nnrepl.classes import dataclass
from nnrepl.replay.divergence import CannotExchange


@dataclass(frozen=True, eq=False, slots=True)
class CodeChange:
    """A change of the program's source.

    Attributes:
        text: What changed, as timelines call it: `reload: Net.__call__`.
        said: What was and what was not taken over, a line each.
        position: The op from which on it holds.
        entering: Whether it holds from the entry of the gradient call that begins there; else from the end of the op
            before on.
        texts: What the files that change say from then on.
        left: What of them was not taken over.
        early: Whether a piece of it holds from the program's start: definitions that nothing had made yet.
        prepare: Tells that a run from the start is about to begin that will come to the change.
        take: Brings a program to the new source. The argument says whether there is a living one, or only one that is
            about to start. Doing it twice is the same as once.
        give_back: Brings it back to the old source.
        once: Whether it is done once where the program comes by (a statement), so that only a run from the start is
            without it.
        inside: Whether its line lies inside of the call at the position, which MLX runs by itself.
        at_once: Whether it was made where the program waits, which cannot run again for it.
        passing: Whether it changes a tensor, by its name in a call, and nothing that outlives the call.
        wait: Waits for the line before which it is to be done, once the op before has been made, and calls what it is
            given there; None where it waits for none.
    """

    text: str
    said: tuple[str, ...]
    position: int
    entering: bool
    texts: Mapping[str, str]
    left: tuple[str, ...]
    early: bool
    prepare: Callable[[], None]
    take: Callable[[bool], None]
    give_back: Callable[[bool], None]
    once: bool = False
    wait: Callable[[Callable[[], None]], None] | None = None
    at_once: bool = False
    inside: bool = False
    passing: bool = False

    def is_behind(self, position: int) -> bool:
        """Whether a run from a position on comes to it: also right there, where it waits for its line."""
        return self.position > position or (self.position == position and self.wait is not None)


def recalled(text: str, said: tuple[str, ...], position: int) -> CodeChange:
    """Return a change of which only is known what it was: on a saved tape, where nothing runs."""
    return CodeChange(text, said, position, False, {}, (), False, _nothing, _ignore, _ignore)


def _nothing() -> None:
    """There is no program."""


def _ignore(alive: bool) -> None:
    """There is no program."""


class SourceChanges:
    """The changes of the source that hold in the program as it stands, and those that it will come to.

    Attributes:
        wanted: Those that are to hold on the timeline to which the program is about to come.
        held: Those that hold.
    """

    def __init__(self) -> None:
        self.wanted: Sequence[CodeChange] = ()
        self.held: tuple[CodeChange, ...] = ()
        self._ahead: list[CodeChange] = []
        self._taking = False

    @property
    def awaits(self) -> bool:
        """Whether there are any that the program will come to."""
        return bool(self._ahead)

    def start(self) -> None:
        """Note that the program is about to run from its start, along `wanted`."""
        for change in self._ahead:
            change.prepare()  # it may wait for its line still
        for change in reversed(self.held):
            change.give_back(False)
        self.held = ()
        self._ahead = list(self.wanted)
        for change in self._ahead:
            change.prepare()
        self.reach(0, alive=False)

    def stand(self, position: int) -> None:
        """Note that the living program stands at a position, on the timeline of `wanted`."""
        wanted = tuple(change for change in self.wanted if not change.is_behind(position))
        same = _common(self.held, wanted)
        for change in reversed(self.held[same:]):
            change.give_back(True)
        for change in wanted:  # also those that hold: putting a world back takes away what they had added to classes
            if not change.once:
                change.take(True)
        self.held = wanted
        for change in self._ahead:
            change.prepare()
        self._ahead = [change for change in self.wanted if change.is_behind(position)]
        for change in self._ahead:
            change.prepare()

    def leave(self, position: int) -> None:
        """Take back what is done once after a position, to which the living program is about to be put back:
        it may have given variables something that nothing else puts back."""
        for change in reversed(self.held):
            if change.once and change.is_behind(position):
                change.give_back(True)
        self.held = tuple([change for change in self.held if not (change.once and change.is_behind(position))])

    def moment(self) -> Callable[[], None]:
        """Return what brings back what holds now, and what is still to come, where a run has not come to its end."""
        held, ahead = self.held, list(self._ahead)

        def come_back() -> None:
            self.wanted = (*held, *ahead)
            for change in self._ahead:
                change.prepare()  # it may wait for its line still
            for change in reversed(self.held):
                if change not in held and not change.once:
                    change.give_back(True)
            for change in held:
                if not change.once:
                    change.take(True)
            self.held, self._ahead = held, ahead

        return come_back

    def reach(
        self, position: int, *, entering: bool = False, alive: bool = True, due: bool = False, came: bool = False
    ) -> None:
        """Note that the program has come to a position of the tape.

        Args:
            due: Whether the op there is about to be made; else only the op before has been.
            came: Whether the line is about to run for which a change waits.

        Raises:
            CannotExchange: If the program has not come by that, though it was bound to.
        """
        while self._ahead and self._ahead[0].position <= position and not self._taking:
            change = self._ahead[0]
            if change.inside and not came and position > change.position:
                raise CannotExchange(f"{change.text} cannot be done here: the call does not come by that line again")
            if change.wait is not None and not came and (change.inside or not due):
                change.wait(partial(self.reach, position, due=True, came=True))  # whatever comes before its line
                return
            if change.position == position and change.wait is None and change.entering and not entering:
                return
            self._ahead.pop(0)
            self._taking = True  # a line's own ops come by here
            try:
                change.take(alive)
            finally:
                self._taking = False
            self.held += (change,)

    def has_line(self, start: int, end: int, passing: bool = False) -> bool:
        """Whether something is to be done once from one position on, before another; that only changes a tensor
        (`passing`)."""
        ahead = [change for change in self._ahead if change.once and (change.passing or not passing)]
        return any(start <= change.position < end for change in ahead)

    def restate(self, codes: Mapping[CodeChange, CodeChange]) -> None:
        """Note that changes are the same at other places, since the tape has got more ops before them."""
        self.wanted = tuple([codes.get(change, change) for change in self.wanted])
        self.held = tuple([codes.get(change, change) for change in self.held])
        self._ahead = [codes.get(change, change) for change in self._ahead]

    def same_behind(self, start: int) -> bool:
        """Whether what is done once after a position has been done as it is wanted."""
        done = [
            [change for change in some if change.once and change.is_behind(start)] for some in (self.held, self.wanted)
        ]
        return done[0] == done[1]

    def exchange(self, wanted: Sequence[CodeChange]) -> None:
        """Let those changes that were made at once hold that are wanted, and no others of them."""
        for change in reversed(self.held):
            if change.at_once and change not in wanted:
                change.give_back(True)
        kept = [change for change in self.held if not change.at_once or change in wanted]
        for change in wanted:
            if change.at_once and change not in kept:
                change.take(True)
                kept.append(change)
        self.held = tuple(kept)

    def anew(self, start: int, within: bool) -> bool:
        """Whether only a run from the program's start comes to `wanted`, not one from position `start`.

        Args:
            within: Whether a run from `start` may do what is done once after it.
        """
        held, wanted = self.held, self.wanted
        return any(change.early and change not in held for change in wanted) or any(
            change.once and (not within if change.is_behind(start) else (change in held) != (change in wanted))
            for change in (*held, *wanted)
        )


def _common(a: Iterable[CodeChange], b: Iterable[CodeChange]) -> int:
    """How many changes two timelines begin with alike."""
    count = 0
    for one, other in zip(a, b):
        if one is not other:
            break
        count += 1
    return count
