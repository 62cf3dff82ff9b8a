"""Function: record one call of a Python function."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import mlx.core as mx

from nnrepl.record import trees
from nnrepl.record.bounds import outside
from nnrepl.record.intake import RECORDING, Intake
from nnrepl.record.intercept import recording
from nnrepl.record.names import ProgramNames
from nnrepl.record.recorder import MUTED, Recorder
from nnrepl.record.stack import is_module
from nnrepl.record.strays import invoke
from nnrepl.record.titles import message_of, parameter_names, title
from nnrepl.record.verify import Receipt, verify
from nnrepl.replay.divergence import CannotExchange, Diverged
from nnrepl.replay.interrupts import allowed, held
from nnrepl.replay.replay import Replay
from nnrepl.replay.run import Run
from nnrepl.replay.world import World
from nnrepl.session.changes import Restarts
from nnrepl.session.errors import NoGradient, UserError
from nnrepl.session.lookup import Lookup
from nnrepl.session.natively import keeps_worlds
from nnrepl.tape import RUN_PASS, Face, Op, OpSequence, Tape, Value
from nnrepl.timeline.code import SourceChanges
from nnrepl.timeline.edits import BadEdit, make_edit, place_of, said_inside
from nnrepl.timeline.timelines import dependents


class Recorded(Face):
    """Ops that were recorded: `with nnrepl.recording() as tape: ...`.

    `print` shows them by module, with the norms of results and gradients; in a notebook modules unfold at a click.
    That computes what was not computed yet, unless it is much.

    Attributes:
        tape: The tape itself.
        names: What its values are called.
    """

    def __init__(self, tape: Tape, names: ProgramNames) -> None:
        self.tape = tape
        self.names = names
        self._lookup = Lookup(tape, names)

    @property
    def ops(self) -> Sequence[Op]:
        """The ops in order of execution: setup, forward, backward, update. Each has `label`, `name`, `phase`,
        `module`, `inputs`, `outputs` (Values), `source` (file, line, exact segment), `error`."""
        return OpSequence(self.tape)

    def __getitem__(self, name: str) -> Value:
        """Return the newest value of a name: `trace["z1"]`, `trace["layers.0.weight"]`; also `trace["z1@12"]`,
        `trace["#12"]`.

        Returns:
            A Value: `array` (lazy, in the `shape` and `dtype` of MLX), `name`, `op`, `consumers`, `evaluated`.

        Raises:
            KeyError: If nothing is called so.
        """
        try:
            return self._lookup.by_words(name, len(self.tape))
        except UserError as error:
            raise KeyError(str(error)) from None

    def __contains__(self, name: object) -> bool:
        try:
            return isinstance(name, str) and self[name] is not None
        except KeyError:
            return False

    def grad(self, of: str | Value) -> Value | None:
        """Return the gradient of the result with respect to a value.

        Args:
            of: A name as for `trace[...]`, or a Value of this recording.

        Returns:
            A Value of the shape and dtype of `of`, lazy; None where no gradient flows.

        Raises:
            KeyError: If nothing is called so.
        """
        value = self[of] if isinstance(of, str) else of
        try:
            return self._lookup.gradient(value, len(self.tape))
        except NoGradient:
            return None

    def verify(self) -> Receipt:
        """Return the receipt for the recording: every op again from its recorded inputs, the gradients against those of
        MLX's own transform, both bit by bit, and MLX's own lazy graph against the recorded ops.

        Evaluates the recording; the function is called again, quietly. `complete` tells whether all of it agrees.
        """
        return verify(self.tape, *self.tape.passes)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self.tape)} ops>"


class Trace(Recorded):
    """The recording of one call.

    What it hands out (`value`, `grads`) is lazy. Where a change sends an index outside of its axis, asking for them
    raises a UserError that names the element: MLX would read foreign memory.
    """

    def __init__(self, call: FunctionCall, tape: Tape, names: ProgramNames, value: Any, grads: Any) -> None:
        super().__init__(tape, names)
        self._value = value
        self._grads = grads
        self._call = call
        self._unchecked = False

    @property
    def value(self) -> Any:
        """What the function returned: the same bits as without nnrepl, lazy."""
        self._check()
        return self._value

    @property
    def grads(self) -> Any:
        """The tree that `nn.value_and_grad(model, fn)` or `mx.value_and_grad(fn, argnums)` would give: for each
        parameter an array of its shape and dtype, zeros where no gradient flows; None without `wrt`."""
        self._check()
        return self._grads

    def _check(self) -> None:
        """Look at the places that what depends on a change takes: whoever evaluates does not ask nnrepl before."""
        if self._unchecked:
            found = outside(dependents(self.tape, {op for op in self.tape.ops if op in self.tape.notes.edits}))
            if found is not None:
                raise UserError(found.text)
            self._unchecked = False

    def set(self, of: str | Value, new: Any) -> Trace:
        """Change a value, and everything that depends on it; nothing else is computed again.

        The change is an op of the new trace's tape. A parameter or an input is changed where it enters, the
        result of an op where it was made. The function, its arguments and the model are left as they were.

        Args:
            of: A name or a Value of this trace.
            new: An array, of any shape and dtype with which the function can go on; a number for all elements, in the
                value's own shape and dtype; or a function of the old array that gives one of these.

        Returns:
            The trace with the change: a timeline that shares its past with this one.

        Raises:
            KeyError: If nothing is called so.
            UserError: If the change cannot be made, or the function does something else when it runs again.
        """
        value = self[of] if isinstance(of, str) else of
        name = of if isinstance(of, str) else value.name
        if value.inside is not None:
            raise UserError(said_inside(name, value.inside))
        target, position = place_of(self.tape, value)
        recorder = self._call.recorder(self.tape, RECORDING)

        def compute() -> Any:
            return invoke(new, (recorder.handle(target),), {}) if callable(new) else new

        try:
            with recording(recorder):
                edit = make_edit(recorder, target, name, f"{name} = {new!r}", position, compute)
        except BadEdit as error:
            raise UserError(str(error)) from None
        changed = self._call.again(Run(self.tape, position, tuple(edit.ops), len(self.tape)))
        changed._unchecked = True
        return changed


def trace(fn: Callable[..., Any], *args: Any, wrt: Any = None, **kwargs: Any) -> Trace:
    """Call `fn(*args, **kwargs)` and record every op. Nothing is evaluated that `fn` itself does not evaluate.

    Args:
        fn: Any Python function on MLX arrays. With `wrt` it returns a scalar loss, or a tuple that begins
            with one, as for `mx.value_and_grad`.
        wrt: With respect to what gradients are taken: an `nn.Module` that `fn` uses, an index into `args`,
            several of them, or the name (or names) of keyword arguments; None for the forward pass only.

    Returns:
        The trace. Its `value` and `grads` are, bit for bit, those of plain MLX.

    Raises:
        TypeError: If `wrt` is none of these.
        Whatever `fn` raises, or MLX.
    """
    return FunctionCall(fn, args, kwargs, wrt).first()


def restarts_of(trace: Trace) -> Restarts:
    """Return what lets a session on a trace change things: its call can be made again."""
    return _CallRestarts(trace._call, trace.tape)


class FunctionCall:
    """One call of a function, which can be made again from the state in which it was first made.

    Attributes:
        lost: What cannot be put back to that state, in words.
    """

    def __init__(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], wrt: Any) -> None:
        self.fn = fn
        self.args = args
        self.kwargs = kwargs
        self.wrt = wrt
        self._roots = [fn, args, kwargs, wrt]
        self._worlds = [World(self._roots)]
        self.lost = self._worlds[0].lost

    def first(self) -> Trace:
        """Make the call, and record it."""
        names = ProgramNames()
        tape = names.tape
        recorder = Recorder(tape, strict=False)
        with recording(recorder), _same_objects(recorder, self.wrt):
            return self._run(recorder, names)

    def again(self, run: Run, codes: SourceChanges | None = None, things: Sequence[Any] = ()) -> Trace:
        """Make the call again with an edit; afterwards everything is as it was before.

        Args:
            codes: What is done in it that is no edit of a tensor.
            things: What that may change.

        Raises:
            UserError: If that cannot be done, or the function does something else when it runs again.
        """
        if self.lost:
            raise UserError(f"this cannot run again: {self.lost[0]} cannot be put back to where it was")
        codes = codes or SourceChanges()
        self._roots += things
        self._worlds += [World(things)] if things else []
        try:
            trace, replay = self._follow(run, codes)
            if replay.other_way is not None:  # because of the edit, if without it the function does the same again
                self._follow(Run(run.old, len(run.old), (), 0), codes)
        except (Diverged, CannotExchange) as error:
            raise UserError(f"{error}; nothing has changed") from None
        return trace

    def _follow(self, run: Run, codes: SourceChanges) -> tuple[Trace, Replay]:
        """Make the call again along a tape. Raises Diverged, CannotExchange."""
        old = run.old
        names = ProgramNames(old)
        tape = names.tape
        replay = Replay(run, changes=codes)
        recorder = self.recorder(tape, replay, old)
        with held():
            now = World([*self._roots, *(leaf.held for leaf in leaves_of(old))])
            for world in reversed(self._worlds):
                world.restore()
            try:
                with allowed(), recording(recorder), _same_objects(recorder, self.wrt):
                    codes.start()
                    trace = self._run(recorder, names)
                    replay.ended(recorder)
            except Exception as error:
                replay.ended(recorder, error)
                raise
            finally:
                now.restore()
                for value, array in recorder.overwritten:
                    value.held = array  # it has its old content again, and is how the program knows the value
        return trace, replay

    def recorder(self, tape: Tape, intake: Intake[Recorder], old: Tape | None = None) -> Recorder:
        """Return a recorder for another run, which knows the arrays that the function had from outside."""
        recorder = Recorder(tape, strict=False)
        recorder.intake = intake
        for leaf in leaves_of(old or tape):
            if leaf.held is not None:
                recorder.live[id(leaf.held)] = leaf
        return recorder

    def _run(self, recorder: Recorder, names: ProgramNames) -> Trace:
        recorder.stack.begin(sys._getframe())
        keeps_worlds(recorder)
        recorder.intake.enter(recorder, calling=True)
        recorder.start()
        _enter_arguments(recorder, self.fn, self.args, self.kwargs)
        value, grads = run(recorder, self.fn, self.args, self.kwargs, self.wrt)
        recorder.intake.enter(recorder)
        return Trace(self, recorder.tape, names, value, grads)


class _CallRestarts:
    """Makes a recorded call again for a session."""

    def __init__(self, call: FunctionCall, tape: Tape) -> None:
        self._call = call
        self._tape = tape

    @contextmanager
    def computing(self) -> Iterator[Recorder]:
        """Lend a recorder that knows what the call knows."""
        recorder = self._call.recorder(self._tape, RECORDING)
        recorder.mode = MUTED
        with recording(recorder):
            yield recorder

    def reaches(self, position: int) -> bool:
        """Whether what comes after a position can run again: when the call is over nothing more comes."""
        return position < len(self._tape) and not self._call.lost

    def again(self, run: Run, codes: SourceChanges, things: Iterable[Any] = ()) -> tuple[Tape, ProgramNames]:
        """Make the call again."""
        try:
            trace = self._call.again(run, codes, list(things))
        except UserError:
            raise
        except Exception as error:
            said = "".join(message_of(error).splitlines()[:1])
            raise UserError(
                f"the function refuses that ({type(error).__name__}: {said}); nothing has changed"
            ) from None
        self._tape = trace.tape
        return trace.tape, trace.names


def leaves_of(tape: Tape) -> Iterator[Value]:
    """Yield the leaves of a tape that came from outside: inputs, parameters, captured arrays."""
    seen: set[Value] = set()
    own = {leaf for pass_ in tape.passes for leaf in pass_.wrt}
    candidates = [value for op in tape.ops for value in op.inputs]
    candidates += [leaf.origin for leaf in own if leaf.origin is not None]
    for value in candidates:
        if value.op is None and value not in own and value not in seen:
            seen.add(value)
            yield value


def run(
    recorder: Recorder, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], wrt: Any
) -> tuple[Any, Any]:
    """Call a function under a recorder; returns its value and the gradients that were asked for."""
    if wrt is None:
        recorder.open_pass(RUN_PASS, title(fn))
        return invoke(fn, args, kwargs), None
    if is_module(wrt):
        transform: Any = importlib.import_module("mlx.nn.utils").value_and_grad
        value, grads = transform(wrt, fn)(*args, **kwargs)
        return value, grads
    several = list(wrt) if isinstance(wrt, (list, tuple)) else [wrt]
    numbers = [number for number in several if isinstance(number, int)]
    argnames = [name for name in several if isinstance(name, str)]
    if len(numbers) + len(argnames) != len(several):
        raise TypeError(f"wrt is an nn.Module, an argument index, a keyword's name, or several of these, not {wrt!r}")
    if isinstance(wrt, int):
        return mx.value_and_grad(fn, argnums=wrt)(*args, **kwargs)
    return mx.value_and_grad(fn, argnums=numbers or None, argnames=argnames)(*args, **kwargs)


def _enter_arguments(recorder: Recorder, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Take the arrays among the arguments in as inputs (those of a Module, as parameters), under their names."""
    try:
        labels = parameter_names(inspect.unwrap(fn), args)
    except ValueError:
        labels = [f"arg{number}" for number in range(len(args))]
    for label, arg in (*zip(labels, args), *kwargs.items()):
        for path, array in trees.paths(arg):
            if id(array) not in recorder.live:
                kind = "parameter" if is_module(arg) else "input"
                prefix = "" if is_module(arg) else label
                recorder.leaf(array, kind, ".".join(word for word in (prefix, path) if word))


@contextmanager
def _same_objects(recorder: Recorder, wrt: Any) -> Iterator[None]:
    """nn.value_and_grad leaves other array objects in the model; put the ones back that it had, except where the
    function has changed what the model holds (the statistics of a BatchNorm)."""
    before = [(holder, key, array) for holder, key, array in _slots(wrt)] if is_module(wrt) else []
    try:
        yield
    finally:
        for holder, key, array in before:
            found = dict(_items(holder)).get(key)
            now, was = recorder.live.get(id(found)), recorder.live.get(id(array))
            while now is not None and now is not was:  # a leaf of the pass, or of a checkpoint's second run in it
                now = now.origin
            if now is not None and was is not None:
                holder[key] = array


def _slots(tree: Any) -> Iterator[tuple[Any, Any, mx.array]]:
    """Every place in a tree of lists and dicts that holds an array."""
    for key, item in _items(tree):
        if isinstance(item, mx.array):
            yield tree, key, item
        else:
            yield from _slots(item)


def _items(holder: Any) -> Iterable[tuple[Any, Any]]:
    """Return what a list or a dict holds, under its keys."""
    if isinstance(holder, dict):
        return list(dict.items(holder))
    return enumerate(holder) if isinstance(holder, list) else ()
