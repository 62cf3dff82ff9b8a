"""The program's Python stack as chains of Activations, followed cheaply from op to op."""

from __future__ import annotations

import sys
from types import CodeType, FrameType
from typing import Any

from nnrepl.tape import Activation

_OPTIMIZED = 0x1  # inspect.CO_OPTIMIZED: the locals live in fast slots, so `f_locals` is a copy
_UPDATES = ("update", "apply_gradients")
_CACHED_LOCALS = sys.version_info < (3, 13)


class Stack:
    """Turns the calling frame of an op into an `Activation`.

    Ops of one function call follow each other, so most look-ups are one comparison. Only when the frame
    changes is the stack walked, down to the first frame that was seen before. The frames seen last are held
    (otherwise Python could reuse their identity); `release` lets go of them.

    Args:
        base: The frame of nnrepl's own that runs the program; nothing below it belongs to the program.
    """

    def __init__(self, base: FrameType | None = None) -> None:
        self.frame: FrameType | None = None
        self.scope: Activation | None = None
        self._base = base
        self._known: dict[FrameType | None, Activation | None] = {base: None}
        self._own: dict[CodeType, bool] = {}

    def enter(self, frame: FrameType) -> Activation | None:
        """The activation of `frame`, which becomes the current one."""
        known = self._known
        fresh: list[FrameType] = []
        below: FrameType | None = frame
        while below not in known and below is not None:
            fresh.append(below)
            below = below.f_back
        if below is None:
            known = self._known = {None: None}
        while next(reversed(known)) is not below:  # calls that have returned
            known.popitem()
        scope, caller = known[below], below
        while caller is not None and self._is_own(caller):
            caller = caller.f_back
        for entered in reversed(fresh):
            if not self._is_own(entered):
                scope = _activation(scope, entered, -1 if caller is None else caller.f_lasti)
                caller = entered
            known[entered] = scope
        self.frame, self.scope = frame, scope
        return scope

    def program_frame(self, frame: FrameType) -> FrameType:
        """The nearest frame of the program's: the one that called into nnrepl, which called on its behalf."""
        below: FrameType | None = frame
        while below is not None and below is not self._base and self._is_own(below):
            below = below.f_back
        return frame if below is None or below is self._base else below

    def place(self, frame: FrameType) -> tuple[Activation | None, int]:
        """The call and the offset in it where an op stands that is made from `frame`; None if that is not for the
        frame to tell, since it is one of nnrepl's own."""
        if frame is not self.frame:
            if self._is_own(frame):
                return None, -1
            self.enter(frame)
        return self.scope, frame.f_lasti

    def begin(self, base: FrameType) -> None:
        """The program begins above this frame."""
        self._base = base
        self.release()

    def frame_of(self, scope: Activation | None) -> FrameType | None:
        """The live frame of a call, or of the nearest caller of it that still runs."""
        while scope is not None:
            for frame, known in self._known.items():
                if known is scope and frame is not None and _is_running(frame):
                    return frame
            scope = scope.parent
        return None

    def release(self) -> None:
        """Let go of the frames, and of what their local variables hold."""
        self.frame = self.scope = None
        self._known = {self._base: None}

    def _is_own(self, frame: FrameType) -> bool:
        """Whether a frame belongs to nnrepl itself and not to the program."""
        code = frame.f_code
        own = self._own.get(code)
        if own is None:
            name = frame.f_globals.get("__name__")
            own = isinstance(name, str) and (name == "nnrepl" or name.startswith("nnrepl."))
            self._own[code] = own
        return own


def _is_running(frame: FrameType) -> bool:
    below: FrameType | None = sys._getframe()
    while below is not None:
        if below is frame:
            return True
        below = below.f_back
    return False


def _activation(parent: Activation | None, frame: FrameType, lasti: int) -> Activation:
    code = frame.f_code
    owner = _owner(frame)
    updating = parent is not None and parent.updating
    if owner is not None and not updating and code.co_name in _UPDATES:
        updating = is_optimizer(owner)
    return Activation(parent, code, lasti, owner, updating, frame.f_globals)


def _owner(frame: FrameType) -> Any:
    """The `self` of a method (or the first argument of a function), where it is a Module or an Optimizer."""
    owner = first_argument(frame)
    return owner if is_module(owner) or is_optimizer(owner) else None


def first_argument(frame: FrameType) -> Any:
    """The first argument of the function that runs in `frame`, None if it takes none."""
    code = frame.f_code
    if not code.co_argcount or not code.co_flags & _OPTIMIZED:
        return None
    variables = frame.f_locals
    argument = variables.get(code.co_varnames[0])
    if _CACHED_LOCALS and sys.getrefcount(variables) <= 3:
        # Before 3.13 the frame keeps this copy of its locals, and with it every array in it, alive.
        variables.clear()
    return argument


def is_module(thing: Any) -> bool:
    """Whether `thing` is an `nn.Module`, asked without importing mlx.nn."""
    base = sys.modules.get("mlx.nn.layers.base")
    return base is not None and isinstance(thing, base.Module)


def is_optimizer(thing: Any) -> bool:
    """Whether `thing` is an optimizer of mlx.optimizers, asked without importing it."""
    base = sys.modules.get("mlx.optimizers.optimizers")
    return base is not None and isinstance(thing, (base.Optimizer, getattr(base, "MultiOptimizer", ())))
