"""Left outside: what a program leaves outside of itself, in Python's own modules and in those of packages.

It adds handlers to loggers, registers functions for the end, sets variables of the environment, puts functions of its
own in the place of others (`builtins.print = loud`, `json.dumps = short`). None of that lies in its own world, and it
does so again when it runs again from its start: what it had left would be there twice, and a line be logged twice. So
that is taken out before.
"""

from __future__ import annotations

import atexit
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from operator import is_
from types import FrameType, FunctionType, MethodType, ModuleType
from typing import Any

from nnrepl.replay.readings import is_programs
from nnrepl.replay.world import is_foreign
from nnrepl.tape import UNBOUND

_getframe = sys._getframe
_OF_A_LOGGER = ("addHandler", "removeHandler", "addFilter", "removeFilter", "setLevel")
_STATE = ("level", "propagate", "disabled")
_HELD = ("handlers", "filters")


class LeftOutside:
    """What Python's modules, and those of packages, hold before a program begins, and what it has changed there."""

    def __init__(self) -> None:
        self._modules: dict[int, tuple[ModuleType, dict[str, Any]]] = {}
        self._loggers: dict[int, tuple[Any, dict[str, Any]]] = {}
        self._at_exit: list[functools.partial[Any]] = []
        self._registered = 0
        self._environment = dict(os.environ)
        self._watching: ExitStack | None = None
        for module in list(sys.modules.values()):
            if isinstance(module, ModuleType):
                self.keep(module)

    def put_back(self) -> None:
        """Take out what the program has left: it begins again from its start."""
        for module, before in self._modules.values():
            _put_back(module, before)
        for name in os.environ.keys() | self._environment.keys():
            if os.environ.get(name) != self._environment.get(name):
                _set_variable(name, self._environment.get(name))
        self._registered = 0
        for logger, state in self._loggers.values():
            for name in _HELD:
                getattr(logger, name)[:] = state[name]
            vars(logger).update({name: state[name] for name in _STATE})
            logger.manager._clear_cache()  # of which levels are on

    def keep(self, module: ModuleType) -> None:
        """Remember what a module of a library holds: it has just been imported, or was before the program began."""
        # Those of nnrepl hold what they have of the program on purpose; of MLX more is put back (`libraries.py`).
        if module.__name__.partition(".")[0] not in ("nnrepl", "mlx"):
            self._modules[id(module)] = module, dict(vars(module))
        if module.__name__ == "logging" and self._watching is not None:
            self._watch_loggers(module, self._watching)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Note what the program leaves, inside."""
        outer = self._watching
        with ExitStack() as stack:
            self._watching = stack
            self._instead(stack, atexit, "register", self._registering)
            self._instead(stack, atexit, "unregister", self._unregistering)
            logging = sys.modules.get("logging")
            if logging is not None:
                self._watch_loggers(logging, stack)
            stack.enter_context(_signals())
            try:
                yield
            finally:
                self._watching = outer

    def _watch_loggers(self, logging: ModuleType, stack: ExitStack) -> None:
        for name in _OF_A_LOGGER:
            self._instead(stack, logging.Logger, name, self._changing)
        self._instead(stack, logging.Manager, "getLogger", self._giving)

    @staticmethod
    def _instead(stack: ExitStack, holder: Any, name: str, made: Callable[[Any], Any]) -> None:
        """Put what is made of a function in its place, for as long as a stack lasts."""
        had, original = vars(holder).get(name, UNBOUND), getattr(holder, name)
        setattr(holder, name, made(original))
        stack.callback(delattr, holder, name) if had is UNBOUND else stack.callback(setattr, holder, name, had)

    # -- what stands in ---------------------------------------------------------------------------------

    def _registering(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Return what registers a function for the end, in the place of the one that the run before had there. Where
        the program does not come by again, that one stays: it has been at its end once."""

        @functools.wraps(original)
        def register(function: Callable[..., Any], /, *given: Any, **named: Any) -> Any:
            if not is_programs(_getframe(1).f_code.co_filename):
                return original(function, *given, **named)
            call = functools.partial(function, *given, **named)  # by itself: one function may be registered twice
            original(call)
            for before in self._at_exit[self._registered : self._registered + 1]:
                atexit.unregister(before)  # ours is a call that no other equals
            self._at_exit[self._registered : self._registered + 1] = [call]
            self._registered += 1
            return function

        return register

    def _unregistering(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def unregister(function: Callable[..., Any], /) -> None:
            original(function)
            for call in [call for call in self._at_exit if call.func == function]:
                original(call)

        return unregister

    def _changing(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Return a method of a logger that notes the logger as it is before the program first changes it."""

        @functools.wraps(original)
        def changed(logger: Any, *given: Any, **named: Any) -> Any:
            if _by_program(_getframe(1)):
                self._note(logger)
            return original(logger, *given, **named)

        return changed

    def _giving(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Return what gives a logger, and notes it as it is when the program first gets it: from then on the program
        may set what it likes in it."""

        @functools.wraps(original)
        def given(manager: Any, name: str) -> Any:
            logger = original(manager, name)
            if _by_program(_getframe(1)):
                self._note(logger)
            return logger

        return given

    def _note(self, logger: Any) -> None:
        if id(logger) not in self._loggers:
            state = {name: getattr(logger, name) for name in _STATE}
            self._loggers[id(logger)] = logger, {**state, **{name: list(getattr(logger, name)) for name in _HELD}}


def _by_program(frame: FrameType | None) -> bool:
    """Whether it is the program that calls something of `logging`, also through what that offers (`basicConfig`). What
    a library does to its loggers it may do once for all, and not in a run again."""
    own = (os.path.dirname(__file__), os.path.dirname(str(sys.modules["logging"].__file__)))
    while frame is not None and frame.f_code.co_filename.startswith(own):
        frame = frame.f_back
    return frame is not None and is_programs(frame.f_code.co_filename)


@contextmanager
def _signals() -> Iterator[None]:
    """Stop the timers that the program has set inside, and give signals their handlers back: a program that is broken
    off does not come by the lines in which it does so itself, and an alarm that nobody handles ends the process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # Ctrl-C is nnrepl's.
    numbers = [number for number in signal.valid_signals() if number != signal.SIGINT]
    before = {number: signal.getsignal(number) for number in numbers}
    timers = [which for which in _TIMERS if not any(signal.getitimer(which))]
    try:
        yield
    finally:
        for which in timers:
            signal.setitimer(which, 0)
        for number, handler in before.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)


_TIMERS = [getattr(signal, name) for name in ("ITIMER_REAL", "ITIMER_VIRTUAL", "ITIMER_PROF") if hasattr(signal, name)]


def _put_back(module: ModuleType, before: dict[str, Any]) -> None:
    """Take out of a library's module what the program has put there: what the library itself has changed (something
    that it has found out once for all) stays."""
    now = vars(module)
    if len(now) == len(before) and all(map(is_, now, before)) and all(map(is_, now.values(), before.values())):
        return  # as nearly every one of a thousand modules: Python looks through them here without running a line
    for name, thing in list(now.items()):
        was = before.get(name, UNBOUND)
        if thing is not was and _is_made_by_program(thing):
            if was is UNBOUND:
                delattr(module, name)
            else:
                setattr(module, name, was)


def _is_made_by_program(thing: Any) -> bool:
    """Whether a function, a class or an object comes from the program's code."""
    if isinstance(thing, FunctionType):
        inner = getattr(thing, "__wrapped__", None)
        return is_programs(thing.__code__.co_filename) or (inner is not None and _is_made_by_program(inner))
    if isinstance(thing, MethodType):
        return _is_made_by_program(thing.__func__) or _is_made_by_program(thing.__self__)
    if isinstance(thing, functools.partial):
        return _is_made_by_program(thing.func)
    if isinstance(thing, ModuleType):  # one of a package becomes an attribute of that by being imported
        return False
    kind = thing if isinstance(thing, type) else type(thing)
    return not is_foreign(kind.__module__, getattr(sys.modules.get(kind.__module__), "__file__", None))


def _set_variable(name: str, was: str | None) -> None:
    if was is None:
        del os.environ[name]
    else:
        os.environ[name] = was
