"""Assigned: what an assignment at the prompt changes."""

from __future__ import annotations

import ast
from typing import Any

import mlx.core as mx

from nnrepl.record import segments as sources
from nnrepl.record.renamed import reads_untold
from nnrepl.record.repeat import Repetition
from nnrepl.replay.divergence import same_place
from nnrepl.replay.second_run import in_repeated_block
from nnrepl.session.errors import NotYet, UserError
from nnrepl.session.parsed import Assignment, Parsed
from nnrepl.session.reading import Reading
from nnrepl.tape import GRADIENT_PASS, Leaf, Pass, Value


def is_set(session: Reading, parsed: Parsed) -> bool:
    """Whether a property takes what is assigned, and does with it what it will: `learning_rate` of an optimizer
    keeps it, that of several hands it on.

    Raises:
        UserError: If it is an item of a tuple, which takes nothing.
    """
    path = parsed.only()
    if not isinstance(path, (ast.Attribute, ast.Subscript)):
        return False
    try:
        holder = session.expressions.evaluate(parsed.of(path.value), session.where())
    except Exception:  # a path of a model's that no variable leads to
        return False
    if isinstance(path, ast.Subscript):
        if isinstance(holder, tuple):
            raise UserError(
                f"TypeError: {type(holder).__name__!r} object does not support item assignment; "
                f"{parsed.text}[...] = changes the numbers in place"
            )
        return False
    found = getattr(type(holder), path.attr, None)
    setter = found.fset if isinstance(found, property) else None
    return setter is not None and getattr(setter, "__qualname__", "") != "Optimizer.learning_rate"


def value_named(session: Reading, parsed: Parsed) -> Value | None:
    """Return the value of the tape that is written so; None if it is something else.

    Raises:
        NotYet: If it lies ahead of the cursor.
    """
    try:
        result = session.expressions.evaluate(parsed, session.where())
    except UserError:
        raise
    except Exception:  # whatever it is, it is no value of the tape: Python will say what is wrong
        return None
    if not isinstance(result, mx.array):
        return None
    value = session.expressions.value_of(result)
    if value is None and session.recorder is not None:
        value = session.recorder.live.get(id(result))
    if value is not None and value.op is not None and value.op.position >= session.cursor:
        raise NotYet(f"{parsed.text} lies ahead: {value.op.label} ({value.op.name}) will make it")
    return value


def check_begun(value: Value, name: str, pass_: Pass | None) -> None:
    """Raise UserError for a change of what a backward pass has begun with outside of it: nothing else takes that."""
    if isinstance(value, Leaf) and value.kind == "seed" and (pass_ is None or pass_.kind != GRADIENT_PASS):
        raise UserError(
            f"{name} is what a backward pass began with, and that is over: nothing takes it any more; "
            "goto backward leads to where it can be changed"
        )


def is_alias(session: Reading, variable: Parsed, value: Value) -> bool:
    """Whether what is differentiated goes here by another name than the one by which it came in."""
    if not variable.is_name or value.label is None or _stands_outside(session, value):
        return False
    return value.label.rpartition(".")[2] != variable.text or _is_handed_on(session, variable.text, value)


def _stands_outside(session: Reading, value: Value) -> bool:
    """Whether the user stands in a function that makes the gradient call: what it holds by any name goes in."""
    pass_, scope = session.pass_, session.where().scope
    if pass_ is None or pass_.scope is None or value not in pass_.wrt:
        return False
    return scope in pass_.scope.path()


def _is_entering(session: Reading, value: Value) -> bool:
    """Whether the gradient call in which the cursor stands differentiates a value."""
    pass_ = session.pass_
    return pass_ is not None and value in pass_.wrt and session.cursor < pass_.end


def _is_handed_on(session: Reading, name: str, value: Value) -> bool:
    """Whether a variable of a function holds what its callers hold by other names: a line there gives it another
    tensor, and leaves theirs alone."""
    pass_, origin, frames = session.pass_, value.origin, session.lookup.frames
    if pass_ is None or origin is None or value not in pass_.wrt:
        return False
    if frames.in_frames(name, session.cursor, session.where().scope) is None:  # a path of a model's
        return False
    try:
        outside = frames.in_frames(name, pass_.start, pass_.scope)
    except NotYet:
        outside = None
    return outside is None or outside.thing is not origin


def only_source_tells(session: Reading, value: Value, change: Assignment, in_part: bool, alias: bool) -> bool:
    """Whether a change lies in a compiled function that is repeated, in which no Python runs, and what has been
    recorded does not tell what reads the new tensor there.

    Args:
        alias: Whether what is differentiated goes by another name here than the one by which it came in.
    """
    tape, cursor = session.tape, session.cursor
    if in_repeated_block(tape, cursor):
        return True
    if cursor >= len(tape):
        return False
    if not (in_part or change.operator) and _is_read_before(session, change.target, value):
        return True
    start, end = next(((start, end) for start, end in tape.compiled if start <= cursor < end), (0, 0))
    again = any(same_place(tape.ops[before], tape.ops[start]) for before, _ in tape.compiled if before < start)
    repeated = _repeated_now(session)
    if (again or repeated) and _stands_outside(session, value):  # as part of something: `p["w"]` of `grad(p)`
        return True
    entering = _is_entering(session, value)
    if (again or repeated) and entering and alias and change.base is not None:  # the callers read the same container
        return True
    if in_part or change.operator is not None:
        return False
    if entering and not alias:  # it changes where it enters: all that reads it sees it
        return False
    if again and reads_untold(tape.ops[cursor:end], value, change.target.text, cursor):
        return True
    return any(_repeats_untold(session, one, value, change.target.text) for one in repeated)


def _is_read_before(session: Reading, target: Parsed, value: Value) -> bool:
    """Whether the user stands before a call, in the function that makes it, and what it is given has been computed from
    a container (`model.parameters()`), or it has put the tensor into something of its own: a line there stands before
    that as well."""
    from nnrepl.session.put_aside import put_aside

    op, scope = session.op, session.where().scope
    path = [] if op is None or op.scope is None else op.scope.path()
    call = next((call for call in path if scope is not None and call.parent is scope), None)
    before = session.tape.ops[session.cursor - 1] if session.cursor else None
    if call is None or scope is None or (before is not None and before.scope is not None and before.scope.within(call)):
        return False
    node = sources.node_at(scope.code, sources.span_of(scope.code, call.lasti))
    name = ast.unparse(target.only())
    named = node is not None and any(ast.unparse(part) == name for part in ast.walk(node))
    if not _is_entering(session, value) and put_aside(session.tape, call, value, session.cursor, named):
        return True
    if not isinstance(node, ast.Call) or target.is_name:  # a generator that stands in the line has begun
        return call.code.co_name == "<genexpr>"
    given = [*node.args, *[word.value for word in node.keywords]]
    made = [one for one in given if not isinstance(one, (ast.Name, ast.Attribute, ast.Subscript, ast.Lambda))]
    roots = {name.id for name in ast.walk(target.only()) if isinstance(name, ast.Name)}
    return any(isinstance(part, ast.Name) and part.id in roots for one in made for part in ast.walk(one))


def _repeated_now(session: Reading) -> list[Repetition]:
    """Return the compiled functions that are being repeated, and in whose call the cursor stands: of those the tape has
    no end yet."""
    sweeps = [] if session.recorder is None else session.recorder.sweeps
    running = [one for one in sweeps if isinstance(one, Repetition)]
    return [one for one in running if any(op.position <= session.cursor for op in one.made.values())]


def _repeats_untold(session: Reading, one: Repetition, value: Value, target: str) -> bool:
    """Whether that holds for what comes after the cursor in one of them: on the tape, and in what is repeated yet."""
    cursor = session.cursor
    if reads_untold(session.tape.ops[cursor:], value, target, cursor):
        return True
    came_by = max(old.position for old, new in one.made.items() if new.position <= cursor)
    ahead = [op for op in one.ops if op not in one.made]
    return any(reads_untold(ahead, old, target, came_by) for old in one.standing_for(value))


class IndexKey:
    """Gives the key of an index: `IndexKey()[1:, 0]` is `(slice(1, None), 0)`."""

    def __getitem__(self, key: Any) -> Any:
        return key
