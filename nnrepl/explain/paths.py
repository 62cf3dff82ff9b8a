"""Paths: the way that gradients take through the backward pass."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from nnrepl.record.gradient_names import without_sign
from nnrepl.record.stack import is_module, is_module_type
from nnrepl.record.vjp import Rule
from nnrepl.session.errors import NoGradient, NotYet, UserError
from nnrepl.session.reading import Reading
from nnrepl.tape import GRADIENT_PASS, Activation, Op, Pass, Value


def rule_of(op: Op) -> Rule | None:
    """Return the rule of a backward op: what it differentiates, and how."""
    rule = op.args[0] if op.args else None
    return rule if type(rule) is Rule else None


def upstream(op: Op) -> tuple[Value, ...]:
    """Return the gradients that go into a backward op."""
    rule = rule_of(op)
    if rule is not None:
        return op.inputs[: len(rule.outputs) + len(rule.continued)]
    if op.operation.kind == "accumulate":
        return op.inputs
    return tuple(value for value in op.inputs if _is_gradient(value))


def _is_gradient(value: Value) -> bool:
    return value.gradient_of is not None or (value.op is not None and value.op.phase == "backward")


def cone(gradients: Iterable[Value]) -> list[Op]:
    """Return the backward ops that lead to some gradients, in order of execution."""
    found: set[Op] = set()
    stack = list(gradients)
    while stack:
        op = stack.pop().op
        if op is not None and op.phase == "backward" and op not in found:
            found.add(op)
            stack.extend(upstream(op))
    return sorted(found, key=lambda op: op.position)


def path(gradient: Value, choose: Callable[[tuple[Value, ...]], Value]) -> list[Value]:
    """One way from where the sweep began to a gradient: at each op, `choose` says which gradient to follow."""
    way = [gradient]
    while True:
        op = way[-1].op
        before = upstream(op) if op is not None and op.phase == "backward" else ()
        if not before:
            return way[::-1]
        way.append(choose(before))


def gradient_of(session: Reading, value: Value) -> Value:
    """Return the whole gradient of a value, also one that lies ahead in a recorded pass; where this step has taken
    none, the last one: that is what is asked about between steps, and at the end of a program.

    Raises:
        NoGradient: If none flows to it.
        NotYet: If its pass has not been recorded, and there was none before.
    """
    found = differentiated(session, value)
    if found is not None:
        pass_, target = found
        return pass_.grads[target.canonical][-1]
    try:
        return session.lookup.gradient(value, session.cursor)
    except NotYet as answer:
        if answer.last is None:
            raise
        return answer.last


def differentiated(session: Reading, value: Value) -> tuple[Pass, Value] | None:
    """Return the pass that has a gradient for a value, that of the cursor or another of this step (in the setup: the
    first one), and the value as it is there: a parameter enters each pass as a leaf of its own. None if no pass before
    the cursor or in this step has."""
    pass_ = last_pass_with(session, value)
    if pass_ is not None:
        return pass_, value
    step = session.tape.steps.at(session.cursor)
    end = step.end if step.number else len(session.tape)
    passes = (one for one in session.lookup.passes_of(value, end - 1) if one[0].start >= step.start)
    found = [(pass_, target) for pass_, target in passes if pass_.grads.get(target.canonical)]
    return found[0 if step.number else -1] if found else None


def last_pass_with(session: Reading, value: Value) -> Pass | None:
    """Return the gradient pass that a value belongs to: the one of the cursor, if it has a gradient for it."""
    passes = [
        pass_ for pass_ in session.tape.passes if pass_.kind == GRADIENT_PASS and pass_.grads.get(value.canonical)
    ]
    here = session.pass_
    return here if here in passes else next((p for p in reversed(passes) if p.start <= session.cursor), None)


def value_of(session: Reading, text: str) -> Value:
    """Return a value of the tape by its name, also one that lies ahead in what is recorded.

    Raises:
        UserError: If nothing is called so.
    """
    lookup, scope = session.lookup, session.where().scope
    pass_ = session.pass_
    try:
        value = session.named(text)
        if pass_ is None or not _is_older(value, pass_):
            return value
    except NotYet as answer:
        if answer.maker is not None and len(answer.maker.outputs) == 1:
            return answer.maker.outputs[0]
    except NoGradient:
        raise
    except UserError:
        unused = next((leaf for one in session.tape.passes for leaf in one.wrt if leaf.name == text), None)
        if unused is None:
            raise
        return unused
    end = pass_.end if pass_ is not None and pass_.end > session.cursor else len(session.tape)
    try:
        return lookup.by_words(text, end, scope)
    except NotYet:
        return lookup.by_words(text, len(session.tape))


def _is_older(value: Value, pass_: Pass) -> bool:
    """Whether a value was made before this pass, so that a newer one of its name may be in it."""
    return value.op is not None and value.op.position < pass_.start


def target_of(session: Reading, text: str) -> Value:
    """Return what `why` and `explain` are asked about: `z1`, `#12`, `grad(weights1)`, on either side of the cursor; for
    any other place, the result of the op there.

    Raises:
        NoGradient: If it is a gradient, and none flows there.
        UserError: If nothing is called so.
    """
    text = text.strip()
    inner = inner_of_gradient(text)
    if inner is not None:
        return gradient_of(session, value_of(session, inner))
    try:
        return value_of(session, text)
    except NoGradient:
        raise
    except UserError as unknown:
        return main_output(_op_at(session, text, unknown))


def _op_at(session: Reading, text: str, unknown: UserError) -> Op:
    """Return the op at a place that is no value's name. Raises UserError, or `unknown` if it is no place either."""
    try:
        return session.op_at(text)
    except UserError as refused:
        named = isinstance(unknown, NotYet) or re.fullmatch(r"[\w@]+", text)
        raise (_of_element(session, text) or (unknown if named else refused)) from None


def _of_element(session: Reading, text: str) -> UserError | None:
    """Return what to type instead, where an element of a tensor is meant: `z1[0, 1]`."""
    match = re.fullmatch(r"(.+?)\[([^\[\]]*)\]", text)
    if match is None:
        return None
    name, index = match.groups()
    inner = inner_of_gradient(name)
    try:
        value_of(session, name if inner is None else inner)
    except UserError:
        return None
    return UserError(f"{text} is an element of {name}, which is asked about as a whole: explain {name} at [{index}]")


def main_output(op: Op) -> Value:
    """Return the result of an op that there is most to say about. Raises UserError if it has none."""
    if not op.outputs:
        raise UserError(f"{op.label} {op.name} has no result")
    held = [value for value in op.outputs if value.size]
    return held[0] if held else op.outputs[0]


def inner_of_gradient(text: str) -> str | None:
    """`weights1` out of `grad(weights1)` or `∂L/∂weights1`; None if it is no gradient."""
    text = text.strip()
    if text.startswith("grad(") and text.endswith(")"):
        return text[5:-1].strip()
    return without_sign(text)


def same_function(session: Reading, pass_: Pass) -> list[Pass]:
    """Return the gradient passes of the function that a pass differentiates, of the same model, in order. Where the
    model is not known (in a compiled call that is repeated), the function alone counts."""
    whose = _model_of(session, pass_)
    return [
        other for other in session.tape.passes
        if other is pass_ or (other.kind == GRADIENT_PASS and other.title == pass_.title and other.code == pass_.code
                             and (whose is None or _model_of(session, other) in (None, whose)))
    ]  # fmt: skip


def leaves_later(before: Pass, after: Pass) -> dict[Value, Value]:
    """Return what was differentiated in one pass of a function, each with the same one of another: in order, where they
    go together, else by name."""
    if [leaf.shape for leaf in before.wrt] == [leaf.shape for leaf in after.wrt]:
        return dict(zip(before.wrt, after.wrt))
    named = {leaf.name: leaf for leaf in after.wrt}
    return {leaf: named[leaf.name] for leaf in before.wrt if leaf.name in named}


def calls_of(ops: Iterable[Op]) -> list[Activation]:
    """Return the calls in which ops were made, with those that called them, each once and behind its caller."""
    found: dict[Activation, None] = {}
    for scope in dict.fromkeys(op.scope for op in ops):
        if scope is not None and scope not in found:
            found |= dict.fromkeys(scope.path())
    return list(found)


def root_modules(pass_: Pass) -> list[Any]:
    """Return the outermost modules that made ops of a pass."""
    # A loss function's first argument, too, which need not hold what it calls.
    found = {id(step.owner): step.owner for step in calls_of(pass_.ops) if is_module(step.owner)}
    inner = {id(child) for root in found.values() for child in root.modules() if child is not root}
    return [root for key, root in found.items() if key not in inner]


def _model_of(session: Reading, pass_: Pass) -> Any:
    """Return the model in which the first of what was differentiated lies; None where it is in none."""
    leaf = next(iter(pass_.wrt), None)
    if leaf is None:
        return None
    home = session.names.homes.of(leaf)
    holder = None if home is None else session.names.homes.path(home)[0]
    return holder if holder is not None and is_module_type(holder.kind) else None


def gradient_pass(session: Reading) -> Pass:
    """Return the gradient pass at the cursor, else the last one before, else the first one after.

    Raises:
        UserError: If there is none.
    """
    found = gradient_pass_or_none(session)
    if found is None and not session.running:
        raise UserError("the program has taken no gradient; stats NAME and why nan look at tensors without one")
    if found is None:
        raise UserError("no gradient has been taken yet; go on until value_and_grad has been called")
    return found


def gradient_pass_or_none(session: Reading) -> Pass | None:
    """Return the same; None if there is none."""
    passes = [pass_ for pass_ in session.tape.passes if pass_.kind == GRADIENT_PASS]
    here = session.pass_
    if here in passes:
        return here
    before = [pass_ for pass_ in passes if pass_.start <= session.cursor]
    return before[-1] if before else next(iter(passes), None)
