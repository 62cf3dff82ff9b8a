"""The program's Python stack as chains of Activations, followed cheaply from op to op."""

from __future__ import annotations

import sys
from types import CodeType, FrameType
from typing import Any, Protocol

from nnrepl.installed import is_mlx
from nnrepl.record.frame_variables import GENERATOR, OPTIMIZED, first_argument
from nnrepl.tape import Activation, Op
from nnrepl.tape.turns import Places


class Watching(Protocol):
    """Who looks at the variables of frames.

    Attributes:
        notes: Whether it does, and is to be told where they are called from and when they return.
        native: Whether only calls are noticed, and no op is recorded.
    """

    notes: bool
    native: bool

    def enter(self, frame: FrameType) -> Any: ...
    def belong(self, frame: FrameType, scope: Activation) -> None: ...
    def see(self, frame: FrameType) -> None: ...
    def leave(self, frame: FrameType) -> None: ...
    def release(self, rests: bool = False) -> None: ...


UPDATES = ("update", "apply_gradients")
_PLACES = 64
"""So many places of evaluations are remembered."""


_Remembered = tuple[FrameType | None, FrameType, list[tuple[CodeType, int]], Places]
"""The frame that was known last, one from which on all stands below as it stood, what is above that, and where that is.
"""

_Step = tuple[CodeType, int, dict[str, Any], Any]
"""A function on the way to a call: its code, where it stands, its variables, and its first argument if that has to be
the same one."""
Way = tuple[list[_Step], int, "Activation | None"]
"""How a call is come to: through which functions, from where in the one below them that is known, and which call that
is."""


class Stack:
    """Turns the calling frame of an op into an `Activation`.

    Ops of one function call follow each other, so most look-ups are one comparison. Only when the frame
    changes is the stack walked, down to the first frame that was seen before. The frames seen last are held
    (otherwise Python could reuse their identity); `release` lets go of them. Natively none is held, and calls that are
    made through the same lines as one before come from the same `Activation`.

    Args:
        base: The frame of nnrepl's own that runs the program; nothing below it belongs to the program.
        watch: Looks at the variables of each frame when it is entered, called from, and left.
    """

    def __init__(self, base: FrameType | None, watch: Watching) -> None:
        self.frame: FrameType | None = None
        self.scope: Activation | None = None
        self.base = base
        self._watch = watch
        self._known: dict[FrameType | None, Activation | None] = {base: None}
        self._own: dict[int, tuple[bool, CodeType]] = {}
        self._kinds: dict[type, str] = {}
        self._natively: dict[int, Activation] = {}
        self._places: dict[tuple[int, int], _Remembered] = {}

    def enter(self, frame: FrameType) -> Activation | None:
        """Return the activation of `frame`, which becomes the current one."""
        if not self._watch.native:
            return self._walk(frame, held=True)
        scope = self._where_again(frame)
        if scope is None:
            scope = self._walk(frame, held=False)
            if scope is not None and scope.code is frame.f_code:
                self._natively[id(scope.code)] = scope
        return scope

    def _walk(self, frame: FrameType, held: bool) -> Activation | None:
        """Return the activation of `frame`: the stack is walked down to the first frame that is known.

        Args:
            held: Whether the frames above that are known from here on, and `frame` is the current one. One that is held
                keeps what its variables hold beyond its return: a step's gradients, into which MLX would compute.
        """
        known = self._known
        fresh: list[FrameType] = []
        below: FrameType | None = frame
        while below not in known and below is not None:
            fresh.append(below)
            below = below.f_back
        watch = self._watch
        if below is None:
            watch.release()
            known = self._known = {None: None}
        # `known` lies in the order of the stack: what is above the first frame that is seen again has returned.
        while next(reversed(known)) is not below:  # calls that have returned
            returned, _ = known.popitem()
            if returned is not None:
                watch.leave(returned)
        notes = watch.notes
        if notes and below is not None:
            watch.see(below)
        scope, caller = known[below], below
        own = self._own
        # nnrepl calls the program back (a function to be differentiated): from where the program has called nnrepl.
        while fresh and caller is not None and self._is_own(caller):
            caller = caller.f_back
        for entered in reversed(fresh):
            ours = own.get(id(entered.f_code))
            if not (self._is_own(entered) if ours is None else ours[0]):
                first = watch.enter(entered)
                scope = self._activation(scope, entered, -1 if caller is None else caller.f_lasti, first)
                if notes:
                    watch.belong(entered, scope)
                caller = entered
            if held:
                known[entered] = scope
        self.frame, self.scope = (frame, scope) if held else (None, None)
        return scope

    def _where_again(self, frame: FrameType) -> Activation | None:
        """Return the call in which a native call was made that came from where this one comes from: through the same
        lines of the same functions. Nothing that the tape knows of the two tells one from the other."""
        known = self._known
        top = next(reversed(known))
        if frame is top:
            return known[top]  # a loop of a module's own lines
        code, at = frame.f_code, frame
        found = scope = self._natively.get(id(code))
        while scope is not None and code is scope.code and at.f_globals is scope.variables:
            if scope.owner is not None and first_argument(at) is not scope.owner:
                return None
            below = at.f_back
            if below is None or below.f_lasti != scope.lasti:
                return None
            at, scope = below, scope.parent
            if at is top:
                return found if scope is known[top] else None
            code = at.f_code
        return None

    def way(self, frame: FrameType, scope: Activation | None) -> Way | None:
        """Return what tells that a later native call comes from where this one does, made in `frame` or through a
        frame of MLX's: from the call `scope`. None where nothing does."""
        top, rows = next(reversed(self._known)), list[_Step]()
        at: FrameType | None = frame
        below = scope
        while at is not None and at is not top:
            owner = None
            if below is not None and below.code is at.f_code:
                owner, below = below.owner, below.parent
            rows.append((at.f_code, at.f_lasti, at.f_globals, owner))
            at = at.f_back
        return None if at is None or below is not self._known[top] else (rows, at.f_lasti, below)

    def is_way(self, way: Way | None, frame: FrameType) -> bool:
        """Whether a native call comes from where another one came from, that is made in `frame`. It is asked at every
        step, and not more is looked at than tells it."""
        if way is None:
            return False
        rows, lasti, scope = way
        at: FrameType | None = frame
        for code, offset, variables, owner in rows:
            if at is None or at.f_code is not code or at.f_lasti != offset or at.f_globals is not variables:
                return False
            if owner is not None and first_argument(at) is not owner:
                return False
            at = at.f_back
        return at is not None and at.f_lasti == lasti and self._known.get(at, self) is scope

    def _surface(self) -> None:
        """Note the program's frames that run now: natively none is held. Ops are recorded in them next."""
        frame = outside_of_mlx(self.program_frame(sys._getframe(2)))
        if not self._is_own(frame):
            scope = self._where_again(frame)
            if scope is None:
                self._walk(frame, held=True)
            else:
                self.frame, self.scope = frame, scope
                above: list[tuple[FrameType | None, Activation | None]] = []
                at: FrameType | None = frame
                while at is not None and at not in self._known:
                    above.append((at, scope))
                    at, scope = at.f_back, None if scope is None else scope.parent
                self._known.update(reversed(above))
        self._natively.clear()  # what variables hold is noted of one call of those that were alike

    def program_frame(self, frame: FrameType) -> FrameType:
        """Return the nearest frame of the program's: the one that called into nnrepl, which called on its behalf."""
        below: FrameType | None = frame
        while below is not None and below is not self.base and self._is_own(below):
            below = below.f_back
        return frame if below is None or below is self.base else below

    def places_again(self, frame: FrameType) -> Places | None:
        """Return where the program's calls stand, that in `frame` last, if they stand there again; `frame` is one of
        the program's then."""
        memo = self._places.get((id(frame.f_code), frame.f_lasti))
        if memo is not None and memo[0] is next(reversed(self._known)):
            _, held, above, known = memo
            at: FrameType | None = frame
            for code, lasti in above:
                if at is None or at.f_code is not code or at.f_lasti != lasti:
                    break
                if at is held:
                    return known  # the same lines as the last time: what is below `held` stands where it stood
                at = at.f_back
        return None

    def places(self, frame: FrameType) -> Places:
        """Return where the program's calls stand, that in `frame` last. No frame is held for it."""
        known = self.places_again(frame)
        if known is not None:
            return known
        known = self._places_below(frame)
        if not self._watch.native or len(self._places) >= _PLACES:
            self._places.clear()
        if self._watch.native:
            self._remember(frame, known)
        return known

    def _remember(self, frame: FrameType, places: Places) -> None:
        """Keep where the calls stand that run now: natively the frame that was known last stays the last."""
        top, at = next(reversed(self._known)), frame
        above = [(at.f_code, at.f_lasti)]
        while at is not top and at.f_back is not None:
            at = at.f_back
            above.append((at.f_code, at.f_lasti))
        if at is not top:
            return
        if at.f_code.co_flags & GENERATOR:  # which may be resumed from elsewhere, in each turn by another call
            while at.f_code.co_flags & OPTIMIZED:  # down to the lines of a module
                if at.f_back is None or at.f_back is self.base:
                    return
                at = at.f_back
                above.append((at.f_code, at.f_lasti))
        self._places[id(frame.f_code), frame.f_lasti] = top, at, above, places

    def _places_below(self, frame: FrameType) -> Places:
        found = []
        below: FrameType | None = frame
        while below is not None and below is not self.base:
            if not self._is_own(below):
                found.append((below.f_code, below.f_lasti))
            below = below.f_back
        return tuple(found[::-1])

    def place(self, frame: FrameType) -> tuple[Activation | None, int]:
        """Return the call and the offset in it where an op stands that is made from `frame`; None if that is not for
        the frame to tell, since it is one of nnrepl's own."""
        if frame is not self.frame:
            if self._is_own(frame):
                return None, -1
            self.enter(frame)
        return self.scope, frame.f_lasti

    def watched(self, watch: Watching) -> dict[FrameType | None, Activation | None]:
        """Let something else look at the variables. Returns the frames that it has not seen entered."""
        if self._watch.native and not watch.native:
            self._surface()
        self._watch = watch
        return self._known

    def entered(self, frame: FrameType) -> Activation | None:
        """Return the call that runs in a frame; None where no op has been made in it."""
        return self._known.get(frame)

    def begin(self, base: FrameType) -> None:
        """Note that the program begins above this frame."""
        self.base = base
        self.release()

    def frames(self) -> list[FrameType]:
        """Return the program's frames that run now, outermost first, those of libraries among them."""
        found: list[FrameType] = []
        below: FrameType | None = sys._getframe()
        while below is not None and below is not self.base:
            if not self._is_own(below):
                found.append(below)
            below = below.f_back
        return found[::-1]

    def frame_of(self, scope: Activation | None) -> FrameType | None:
        """Return the live frame of a call, or of the nearest caller of it that still runs."""
        found = self.running(scope)
        return found[1] if found is not None else None

    def running(self, scope: Activation | None) -> tuple[Activation, FrameType] | None:
        """Return a call, or the nearest caller of it that still runs, with its live frame; None if none does."""
        while scope is not None:
            for frame, known in self._known.items():
                if known is scope and frame is not None and _is_running(frame):
                    return scope, frame
            scope = scope.parent
        return None

    def release(self, rests: bool = False) -> None:
        """Let go of the frames, and of what their local variables hold; where the program only `rests`, cells can
        come."""
        self._watch.release(rests)
        self.frame = self.scope = None
        self._known = {self.base: None}
        self._natively.clear()
        self._places.clear()

    def end(self) -> None:
        """Note that the recording is over: let go of the frame of nnrepl's own, too, which holds the run."""
        self.base = None
        self.release()

    def _is_own(self, frame: FrameType) -> bool:
        """Whether a frame belongs to nnrepl itself and not to the program."""
        code = frame.f_code  # its identity tells it, as long as it lives: to compare code takes long
        own = self._own.get(id(code))
        if own is None:
            name = frame.f_globals.get("__name__")
            own = self._own[id(code)] = isinstance(name, str) and (name == "nnrepl" or name.startswith("nnrepl.")), code
        return own[0]

    def _activation(self, parent: Activation | None, frame: FrameType, lasti: int, first: Any) -> Activation:
        """Return the call that runs in `frame`; its owner is its first argument where that is a Module or an
        Optimizer."""
        code = frame.f_code
        kind = self._kinds.get(type(first))
        if kind is None:
            kind = "module" if is_module(first) else "optimizer" if is_optimizer(first) else ""
            self._kinds[type(first)] = kind
        updating = parent is not None and parent.updating
        if kind == "optimizer" and not updating:
            updating = code.co_name in UPDATES
        return Activation(parent, code, lasti, first if kind else None, updating, frame.f_globals)


def _is_running(frame: FrameType) -> bool:
    below: FrameType | None = sys._getframe()
    while below is not None:
        if below is frame:
            return True
        below = below.f_back
    return False


def was_at(op: Op, scope: Activation, frame: FrameType) -> bool:
    """Whether a call, whose frame has ended, ended where it had made an op: the program was stopped there."""
    lasti = op.lasti
    for made in [] if op.scope is None else reversed(op.scope.path()):
        if made is scope:
            return frame.f_lasti == lasti
        lasti = made.lasti
    return False


def is_call(step: Activation) -> bool:
    """Whether a call with a module as its first argument is that of the module itself: MLX makes the `__call__` of an
    activation out of a lambda."""
    own = getattr(type(step.owner), "__call__", None)  # noqa: B004 - its code is asked for, not whether it can be called
    return step.code.co_name == "__call__" or getattr(own, "__code__", None) is step.code


def is_module(thing: Any) -> bool:
    """Whether `thing` is an `nn.Module`, asked without importing mlx.nn."""
    base = sys.modules.get("mlx.nn.layers.base")
    return base is not None and isinstance(thing, base.Module)


def is_module_type(kind: type) -> bool:
    """Whether a type is that of an `nn.Module`, asked without importing mlx.nn."""
    base = sys.modules.get("mlx.nn.layers.base")
    return base is not None and issubclass(kind, base.Module)


def is_optimizer(thing: Any) -> bool:
    """Whether `thing` is an optimizer of mlx.optimizers, asked without importing it."""
    base = sys.modules.get("mlx.optimizers.optimizers")
    return base is not None and isinstance(thing, (base.Optimizer, getattr(base, "MultiOptimizer", ())))


def outside_of_mlx(frame: FrameType) -> FrameType:
    """Return the nearest frame that is not MLX's, where a call is made through one."""
    if not is_mlx(frame.f_code.co_filename):
        return frame
    found = frame.f_back
    while found is not None and is_mlx(found.f_code.co_filename):
        found = found.f_back
    return frame if found is None or str(found.f_globals.get("__name__")).startswith("nnrepl.") else found
