"""Adopt: what happens when an array turns up in an op that the recorder has never seen."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from nnrepl.installed import is_library
from nnrepl.record import trees
from nnrepl.record.anatomy import of_call
from nnrepl.record.dot import read_graph
from nnrepl.record.frame_variables import first_argument, variables_of
from nnrepl.record.leavings import Sheet, lies_in, mark_of
from nnrepl.record.objects import object_of
from nnrepl.record.stack import is_module, is_optimizer
from nnrepl.tape import Hole, Inside, Op, Value, is_evaluated

if TYPE_CHECKING:
    from nnrepl.record.ledger import Ledger

_copy = mx.array.__copy__
_RANDOM_STATE: Any = mx.random.state


def adopt(recorder: Ledger, array: mx.array, frame: FrameType) -> Value:
    """Enter an unknown array as a leaf: a parameter, a captured array, or (what must not be) a hole.

    It is a hole if MLX's own graph shows that it was computed from recorded values, and, in a program that
    was recorded from its start, if nothing explains where it came from.
    """
    # Each draw puts a new key in its place (`PyKeySequence::next` in mlx/python/src/random.cpp): no op has made it.
    if array is _RANDOM_STATE[0]:
        return recorder.leaf(array, "constant", "random state")
    left = taken(recorder, array)
    if left is not None:
        return left
    if recorder.inside is not None and not is_evaluated(array):  # it may be a tracer: MLX's graph tells nothing there
        return recorder.leaf(array, "captured", parameter_path(array, frame) or _variable(array, frame))
    if recorder.native_until:
        return _from_native(recorder, array, frame)
    source, same = computed_from(recorder, array)
    path = parameter_path(array, frame) if source is not None and same and source.op is None else None
    if path is not None:  # a copy of the model made before, when its weights were still lazy: no gradient reaches it
        return recorder.leaf(array, "parameter", path)
    if source is not None and same:
        recorder.link(array, source)  # another Python object for it, which MLX has made
        return source
    if source is not None:
        value = recorder.leaf(array, "hole", None)
        reason = f"computed from {source.name} by something that was not recorded"
    else:
        path = parameter_path(array, frame)
        if path is not None:
            return recorder.leaf(array, "parameter", path)
        name = _variable(array, frame)
        if not recorder.strict:
            return recorder.leaf(array, "captured", name)
        value = recorder.leaf(array, "hole", name)
        reason = "made by something that was not recorded"
    recorder.tape.holes.append(Hole(value, len(recorder.tape), reason))
    return value


def taken(recorder: Ledger, array: mx.array) -> Value | None:
    """Return what an array is that was made inside of a call and is taken outside; None if it was not."""
    calls: dict[Op, None] = {}
    value = _taken(recorder, array, calls)
    _regroup(recorder, calls)
    return value


def take_all(recorder: Ledger, arrays: Iterable[mx.array]) -> None:
    """Take outside what of some arrays was made inside of calls."""
    calls: dict[Op, None] = {}
    for array in arrays:
        if id(array) in recorder.leavings.kept and id(array) not in recorder.live:
            _taken(recorder, array, calls)
    _regroup(recorder, calls)


def _taken(recorder: Ledger, array: mx.array, calls: dict[Op, None]) -> Value | None:
    """Do it for one. Calls that give more now are added to `calls`."""
    _, value = recorder.leavings.kept.get(id(array), (None, None))
    if value is None:
        return None
    sheet = recorder.tape
    if isinstance(sheet, Sheet) and value.tape is not sheet and lies_in(value, sheet.call):
        return value  # a function that runs once more finds what its earlier run, or what runs around it, has left
    pass_ = value.inside
    while pass_ is not None and not _runs_in(recorder, pass_):
        if isinstance(pass_.tape, Sheet) and isinstance(pass_.within, Inside) and pass_.call is None:
            pass_ = pass_.within  # the call that MLX ran when it came by there once more
            continue
        call = pass_.call
        found = None if call is None else _result(call, pass_, value, array, calls)
        if found is None and value.op is None:
            found = value.origin  # what went in
        if found is None:
            return None
        value, pass_ = found, found.inside
    # From here on it is an array of the tape, like any other: the next op finds it in `live`.
    del recorder.leavings.kept[id(array)]
    recorder.link(array, value)
    return value


def _runs_in(recorder: Ledger, pass_: Inside) -> bool:
    """Whether the program runs inside of a call."""
    around: Any = recorder.pass_
    while around is not None and around is not pass_:
        around = around.within
    return recorder.inside is not None and around is pass_


def _result(call: Op, pass_: Inside, inner: Value, array: mx.array, calls: dict[Op, None]) -> Value | None:
    """One more result of a call, which is added to `calls`."""
    run: Any = call.operation.run
    recipe = getattr(run, "recipe", None)
    if recipe is None or pass_.differs(inner) or not recipe.keeps(inner):
        return None
    value = Value(call, len(call.outputs), _copy(array))
    call.outputs = (*call.outputs, value)
    run.marks.append(mark_of(pass_, inner))
    calls[call] = None
    return value


def _regroup(recorder: Ledger, calls: Iterable[Op]) -> None:
    """Find out how gradients pass through calls that give more than they did."""
    pass_ = recorder.pass_
    for call in calls if recorder.differentiating or recorder.inside is not None else ():
        if pass_ is not None and call.pass_.outermost is not pass_.outermost:
            continue  # a running mean from the step before, say: the gradients there have been taken as it was then
        given = [value.array for value in call.inputs]
        run: Any = call.operation.run
        run.groups = of_call(call, any(output.evaluated for output in call.outputs), given)


def _from_native(recorder: Ledger, array: mx.array, frame: FrameType) -> Value:
    """Enter an array of which only is known that it is not recorded: the program has run natively before, and may have
    made it then. It is a hole only where MLX's graph shows that it was made since."""
    source, same = _source_since(recorder, array, frame)
    if source is not None and same:
        recorder.link(array, source)
        return source
    if source is not None:
        value = recorder.leaf(array, "hole", None)
        reason = f"computed from {source.name} by something that was not recorded"
        recorder.tape.holes.append(Hole(value, len(recorder.tape), reason))
        return value
    path = parameter_path(array, frame)
    if path is not None:
        return recorder.leaf(array, "parameter", path)
    return recorder.leaf(array, "captured", _state_path(array, frame) or _variable(array, frame))


def _source_since(recorder: Ledger, array: mx.array, frame: FrameType) -> tuple[Value | None, bool]:
    """Return what `computed_from` does of what has been recorded since the program last ran natively. The arrays that
    lie beside this one are looked at with it: MLX's graph is drawn whole, however little of it is asked for, and a
    program that does not evaluate its weights has a long one."""
    if is_evaluated(array):
        return None, False
    # An `id` is another array's once the first one has died: the reference tells which one it was.
    known = recorder.older.get(id(array))
    if known is not None and known() is array:
        return None, False
    graph = _Graph(recorder, [array, *_beside(recorder, array, frame)], recorder.native_until)
    later = graph.later()
    for other, node in zip(graph.arrays, graph.heads):
        if node not in later:
            recorder.older[id(other)] = weakref.ref(other)
    return graph.source(graph.heads[0])


def _beside(recorder: Ledger, array: mx.array, frame: FrameType | None) -> Iterator[mx.array]:
    """Yield the other arrays that are not evaluated, and not known, in what the functions that run have been given."""
    seen = {id(array)}
    while frame is not None:
        code = frame.f_code
        if code.co_argcount and (is_library(code.co_filename) or frame.f_globals.get("__name__", "")[:7] == "nnrepl."):
            for name in code.co_varnames[: code.co_argcount]:
                for other in _arrays_in(frame.f_locals.get(name)):
                    if id(other) not in seen and id(other) not in recorder.live and not is_evaluated(other):
                        seen.add(id(other))
                        yield other
        frame = frame.f_back


def _arrays_in(thing: Any) -> list[mx.array]:
    held = thing.state if is_optimizer(thing) else thing
    return trees.arrays(held) if isinstance(held, (dict, list, tuple)) else []


def computed_from(recorder: Ledger, array: mx.array) -> tuple[Value | None, bool]:
    """Return a recorded value that an unevaluated array depends on in MLX's own lazy graph, if there is one, and
    whether the array is that very value. What came in from outside does not count, unless it is being differentiated:
    the array may have been made of it before the recording began."""
    # `eval_impl` (mlx/transforms.cpp) detaches what it has evaluated: such an array has no graph any more.
    if is_evaluated(array):
        return None, False
    graph = _Graph(recorder, [array], 0)
    return graph.source(graph.heads[0])


class _Graph:
    """MLX's lazy graph behind some arrays, and which nodes of it are values that have been recorded.

    Args:
        since: From which position of the tape on.
    """

    def __init__(self, recorder: Ledger, arrays: list[mx.array], since: int) -> None:
        wrt = recorder.pass_.wrt if recorder.differentiating and recorder.pass_ is not None else ()
        alive = recorder.live.copy().values()  # arrays may die meanwhile, and their entries with them
        values = [
            value for value in alive if value.held is not None and value.op is not None and value.op.position >= since
        ]
        values += wrt
        before = _from_before(recorder, since) if since else []
        primitives, nodes = read_graph([*arrays, *(value.array for value in values), *before])
        many = len(arrays)
        self.arrays, self.heads = arrays, nodes[:many]
        self._made_by = {name: made for made in primitives for name in made.outputs}
        self._known = dict(zip(nodes[many:], values))
        if since:  # `astype` to the same dtype gives back what came in, which was there before
            there = set(nodes[many + len(values) :])
            self._known = {
                name: value for name, value in self._known.items() if name in self._made_by and name not in there
            }

    def source(self, head: str) -> tuple[Value | None, bool]:
        """Return a known value that a node was computed from, and whether it is that very node."""
        pending, seen = [head], set()
        while pending:
            name = pending.pop()
            if name in self._known:
                return self._known[name], name == head
            if name not in seen and name in self._made_by:
                seen.add(name)
                pending.extend(self._made_by[name].inputs)
        return None, False

    def later(self) -> set[str]:
        """Return the nodes that are known values, or were computed from some."""
        takers: dict[str, list[str]] = {}
        for name, made in self._made_by.items():
            for source in made.inputs:
                takers.setdefault(source, []).append(name)
        found, pending = set(self._known), list(self._known)
        while pending:
            fresh = [name for name in takers.get(pending.pop(), ()) if name not in found]
            found.update(fresh)
            pending += fresh
        return found


def _from_before(recorder: Ledger, since: int) -> list[mx.array]:
    """Return the lazy arrays of the program's that stand for what had been made before a position of the tape."""
    found = []
    for key, value in recorder.live.copy().items():
        if value.op is None or value.op.position < since:
            array = object_of(recorder, key, value)
            if array is not None and not is_evaluated(array):
                found.append(array)
    return found


def parameter_path(array: mx.array, frame: FrameType | None) -> str | None:
    """Return the path of `array` in the outermost Module on the stack that holds it."""
    found = None
    while frame is not None:
        owner = first_argument(frame)
        if is_module(owner):
            found = path_in(owner, array) or found
        frame = frame.f_back
    return found


def _state_path(array: mx.array, frame: FrameType) -> str | None:
    """Where the state of the optimizer that is updating holds an array: `layers.0.weight.m`, `opt.step`."""
    below: FrameType | None = frame
    while below is not None:
        owner = first_argument(below)
        if is_optimizer(owner):
            path = path_in(owner.state, array)
            if path is None or "." in path:
                return path
            name = _holding(owner, below)
            return path if name is None else f"{name}.{path}"
        below = below.f_back
    return None


def _holding(thing: Any, frame: FrameType | None) -> str | None:
    """Return the variable of the program's that holds an object, from a call outwards."""
    while frame is not None:
        own = str(frame.f_globals.get("__name__")).startswith("nnrepl.")
        if not own and not is_library(frame.f_code.co_filename):
            for scope in (frame.f_locals, frame.f_globals):
                name = next((name for name, held in list(scope.items()) if held is thing), None)
                if name is not None:
                    return name
        frame = frame.f_back
    return None


def path_in(tree: Any, array: mx.array, prefix: str = "") -> str | None:
    """Return the dotted path at which a tree of dicts and lists (a Module is a dict) holds this very object."""
    if isinstance(tree, dict):
        items: Any = dict.items(tree)
    elif isinstance(tree, (list, tuple)):
        items = enumerate(tree)
    else:
        return None
    for key, item in items:
        if item is array:
            return f"{prefix}{key}"
        if isinstance(item, (dict, list, tuple)):
            path = path_in(item, array, f"{prefix}{key}.")
            if path is not None:
                return path
    return None


def _variable(array: mx.array, frame: FrameType | None) -> str | None:
    """Return the name of a variable that holds this very object, from the innermost call outwards."""
    while frame is not None:
        own = str(frame.f_globals.get("__name__")).startswith("nnrepl.")
        local = frame.f_locals if not own and variables_of(frame.f_code) else frame.f_globals
        for scope in () if own else (local, frame.f_globals):
            for name, thing in list(scope.items()):
                if thing is array:
                    return name
                if isinstance(thing, (dict, list, tuple)) and name not in sys.modules and len(thing) < 100:
                    path = path_in(thing, array)
                    if path is not None:
                        return f"{name}.{path}"
        frame = frame.f_back
    return None
