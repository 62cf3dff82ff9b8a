"""Renamed: a change that gives one variable or entry another tensor, in a call of which no Python runs.

What a compiled function has recorded is repeated op by op. Which ops read a tensor by the name that the user has given
another one, and which by another (`self.cache[0]` beside `k`), the source says of the line that made each op.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import takewhile
from types import CodeType

from nnrepl.classes import dataclass
from nnrepl.record import segments as sources
from nnrepl.tape import Activation, Op, Operation, Value

PATHS = (ast.Name, ast.Attribute, ast.Subscript)


@dataclass(frozen=True, slots=True)
class NameChange:
    """One such change.

    Attributes:
        scope: The call whose name it is.
        target: What is assigned to, as text.
        is_variable: Whether that is a variable, and no attribute or entry.
        old: What all else still holds.
        since: The position, in the earlier run, of the op that comes after it.
    """

    scope: Activation | None
    target: str
    is_variable: bool
    old: Value
    since: int

    def is_other(self, text: str | None, op: Op) -> bool:
        """Whether what an op of the earlier run reads as `text` holds the old tensor: it is something else than what
        is assigned to, and has not got what it holds since."""
        path, own = [] if op.scope is None else op.scope.path(), [] if self.scope is None else self.scope.path()
        depth = len(list(takewhile(lambda pair: pair[0] is pair[1], zip(path, own))))
        for inner in reversed(path[depth:]):  # what a function further in was handed
            text = None if text is None else _handed(inner, text)
        if text is None or not path or (text == self.target and depth == len(own)):
            return False  # in another call the same name is another variable
        # Another entry may be what is assigned to in another spelling.
        if not self.is_variable and not text.isidentifier():
            bindings = op.tape.bindings
            changed = any(at <= op.position for at, *_ in bindings.holds[bindings.first_hold_from(self.since + 1) :])
            if changed or not are_apart(self.target, text):
                return False
        return not _is_bound_since(op, path[:depth][-1] if depth else path[-1], _root(text), self.since)


def read_elsewhere(op: Op, renamed: Mapping[Value, NameChange]) -> dict[int, Value]:
    """Return what the arguments of an op of the earlier run are that its line reads by another name than one that was
    given another tensor, by their numbers.

    Args:
        renamed: The values of the earlier run of which a name was given another.
    """
    if op.scope is None:
        return {}
    code = op.scope.code
    nodes = operand_nodes(sources.node_at(code, sources.span_of(code, op.lasti)), op.operation, len(op.args))
    return {
        at: renamed[part].old
        for at, (part, node) in enumerate(zip(op.args, nodes))
        if isinstance(part, Value)
        and part in renamed
        and renamed[part].is_other(ast.unparse(node) if isinstance(node, PATHS) else None, op)
    }


def reads_untold(ops: Iterable[Op], value: Value, target: str, since: int) -> bool:
    """Whether one of some ops takes a value of which its source does not tell whether it is what `target` holds: what
    a call gives, another spelling of an entry, or a variable that has got it since a position otherwise than from
    there."""
    for op in ops:
        if op.of is not None or op.scope is None or all(part is not value for part in op.args):
            continue
        code = op.scope.code
        nodes = operand_nodes(sources.node_at(code, sources.span_of(code, op.lasti)), op.operation, len(op.args))
        for part, node in zip(op.args, nodes):
            text = ast.unparse(node) if part is value and isinstance(node, PATHS) else ""
            if part is value and isinstance(node, ast.Call):
                return True
            if text and not (text.isidentifier() or target.isidentifier() or text == target or are_apart(target, text)):
                return True
            if text.isidentifier() and _is_given_otherwise(op, text, target, since):
                return True
    return False


def _is_given_otherwise(op: Op, name: str, target: str, since: int) -> bool:
    """Whether a variable that an op reads has got what it holds since a position, and by something else than the name
    that is assigned to: by a call that gives the same tensor, by another name of it."""
    scope = op.scope
    while scope is not None and _is_bound_since(op, scope, name, since):
        given = _assigned(scope.code, name)
        if name not in scope.code.co_varnames[: scope.code.co_argcount] or given:
            return not given or any(text != target for text in given)
        node = _handed_to(scope, name)
        if not isinstance(node, ast.Name):
            return isinstance(node, ast.Call)
        scope, name = scope.parent, node.id
    return False


def _assigned(code: CodeType, name: str) -> list[str]:
    """Return what a function assigns to a variable, as text."""
    lines = [line for _, _, line in code.co_lines() if line is not None]
    found = []
    for node in sources.nodes_of(code):
        if isinstance(node, (ast.Assign, ast.AnnAssign, ast.NamedExpr)) and min(lines) <= node.lineno <= max(lines):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if node.value is not None and any(ast.unparse(part) == name for part in targets):
                found.append(ast.unparse(node.value))
    return found


def are_apart(path: str, other: str) -> bool:
    """Whether two paths lead to different entries of one container, whatever is in it: other keys that are written out
    or other attributes, after the same steps."""
    steps, others = _steps(path), _steps(other)
    if steps[0] != others[0]:  # two variables may hold one container
        return False
    for step, beside in zip(steps, others):
        if step != beside:
            return type(step) is type(beside)
    return False


def _steps(path: str) -> list[object]:
    """Return the steps of a path: the variable, then attributes (as a tuple of one) and keys; what is none ends it."""
    node: ast.expr = ast.parse(path, mode="eval").body
    steps: list[object] = []
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        key = node.slice if isinstance(node, ast.Subscript) else None
        if key is not None and not (isinstance(key, ast.Constant) and type(key.value) in (str, int)):
            steps.clear()  # what comes after it may be anywhere
        else:
            steps.insert(0, (node.attr,) if isinstance(node, ast.Attribute) else key.value)  # type: ignore[union-attr]
        node = node.value
    return [node.id if isinstance(node, ast.Name) else node, *steps]


def _root(text: str) -> str:
    return text.partition(".")[0].partition("[")[0]


def _is_bound_since(op: Op, scope: Activation, name: str, since: int) -> bool:
    """Whether a variable has got what it holds at an op after a position: maybe from what was assigned to there."""
    bindings = op.tape.bindings
    noted = bindings.log[bindings.first_from(since + 1) :]
    return any(at <= op.position and there is scope and variable == name for at, there, variable, _ in noted)


def _handed(call: Activation, text: str) -> str | None:
    """Return what the caller calls what a function reads as `text`; None if it was handed nothing by that name."""
    root = _root(text)
    if root not in (*call.code.co_varnames, *call.code.co_cellvars):
        return text  # a global, or a variable of a function around it
    handed = _handed_to(call, root)
    return ast.unparse(handed) + text[len(root) :] if isinstance(handed, PATHS) else None


def _handed_to(call: Activation, name: str) -> ast.expr | None:
    """Return what stands in the caller's source for an argument of a function."""
    if call.parent is None:
        return None
    node = sources.node_at(call.parent.code, sources.span_of(call.parent.code, call.lasti))
    if not isinstance(node, ast.Call):
        return None
    names, given = list(call.code.co_varnames[: call.code.co_argcount]), list(node.args)
    if len(given) < len(names) and names[0] == "self":
        method = isinstance(node.func, ast.Attribute) and node.func.attr == call.code.co_name
        given.insert(0, node.func.value if method else node.func)  # type: ignore[attr-defined]
    found: dict[str | None, ast.expr] = dict(zip(names, given))
    found.update((keyword.arg, keyword.value) for keyword in node.keywords)
    return found.get(name)


_SIGNS = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">="}


def operand_nodes(node: ast.AST | None, operation: Operation, count: int) -> Iterator[ast.expr | None]:
    """For each argument of an op what stands for it in the source; None where that does not tell."""
    given: list[ast.expr] = []
    if isinstance(node, ast.BinOp):  # `2 - x` is called as `x.__rsub__(2)`
        given = [node.left, node.right][:: -1 if operation.spelling.startswith("__r") else 1]
    elif isinstance(node, ast.UnaryOp):
        given = [node.operand]
    elif isinstance(node, ast.Compare):  # and `2 < x` as `x > 2`
        sign = _SIGNS.get(type(node.ops[0]), operation.spelling)
        given = [node.left, *node.comparators][:: 1 if sign == operation.spelling else -1]
    elif isinstance(node, ast.Call):
        given = list(node.args)
        if len(given) < count and isinstance(node.func, ast.Attribute):
            holder = node.func.value
            at = holder.value if isinstance(holder, ast.Subscript) else None
            given.insert(0, at.value if isinstance(at, ast.Attribute) and at.attr == "at" else holder)
    elif isinstance(node, (ast.Subscript, ast.Attribute)):
        given = [node.value]
    for number in range(count):
        yield given[number] if number < len(given) else None


def as_given(
    values: Iterable[Value], image: Callable[[Value], Value], code: CodeType | None
) -> Iterator[tuple[Value, Value]]:
    """Yield those of a function's arguments to which the user has given something else inside of it, and what stands
    for them outside. A `vjp` of its own says what the gradient of what went in is, whatever was done to it inside."""
    for value in values:
        given = now = image(value)
        edits = now.tape.notes.edits
        while given.op in edits and given.op.scope is not None:
            if all(call.code is not code for call in given.op.scope.path()):
                break
            given = edits[given.op]
        if given is not now:
            yield value, given
