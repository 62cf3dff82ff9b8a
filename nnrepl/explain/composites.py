"""Composites: a function or a module of the program as a whole, before the ops that it consists of."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass

from nnrepl.explain import surprise, words
from nnrepl.explain.cases import Names
from nnrepl.explain.explanation import Explanation, Symbol, origin_of
from nnrepl.explain.links import shown
from nnrepl.explain.look import Look
from nnrepl.ops.layers import LAYERS, LOSSES, Whole
from nnrepl.session.entered import InModule
from nnrepl.session.errors import UserError
from nnrepl.session.parsed import dotted
from nnrepl.session.reading import Reading
from nnrepl.tape import Activation, Op, Value

_LINES = 14


@dataclass(frozen=True, slots=True)
class CompositeCall:
    """One call of a function or a module that made ops.

    Attributes:
        title: The name it was asked by: `loss_fn`, `layers.0`.
        kind: The module's class, "" for a function.
        scope: The call.
        ops: The forward ops that were made in it.
    """

    title: str
    kind: str
    scope: Activation
    ops: list[Op]


def find_call(session: Reading, text: str) -> CompositeCall | None:
    """Return the call of a function (`loss_fn`, `Net.__call__`) or a module (`layers.0`): at the cursor, else the last
    one before, else the next; None if nothing recorded is called so."""
    text = dotted(text)
    if not re.fullmatch(r"[\w.]+", text):
        return None
    module = _module(session, text)
    found: dict[Activation, CompositeCall] = {}
    for op in session.tape.ops:
        if op.of is not None or op.phase == "backward" or op.scope is None:
            continue
        call = _called(session, op, text, module)
        if call is not None:
            found.setdefault(call[0], CompositeCall(text, call[1], call[0], [])).ops.append(op)
    calls = list(found.values())
    if not calls:
        return None
    here = session.cursor
    around = [call for call in calls if call.ops[0].position <= here <= call.ops[-1].position + 1]
    before = [call for call in calls if call.ops[0].position <= here]
    return around[-1] if around else before[-1] if before else calls[0]


def _module(session: Reading, text: str) -> InModule | None:
    """Return the module that a path means, bare or from the variable that holds its model."""
    try:
        place = session.place(text)
    except UserError:
        return None
    return place if isinstance(place, InModule) else None


def _called(session: Reading, op: Op, text: str, module: InModule | None) -> tuple[Activation, str] | None:
    assert op.scope is not None
    for path, step in session.names.calls(op):
        if (path == text and path) or (module is not None and module.accepts(step)):
            return step, type(step.owner).__name__
    for step in op.scope.path():
        qualified = getattr(step.code, "co_qualname", step.code.co_name)
        if text in (step.code.co_name, qualified):
            return step, ""
    return None


def explain_call(session: Reading, call: CompositeCall) -> Explanation:
    """Return a call as a whole: what it computes, from what, in which steps, and how the loss depends on its result."""
    look = Look(session)
    first, last = call.ops[0], call.ops[-1]
    code = call.scope.code
    where = f"{os.path.basename(code.co_filename)}:{code.co_firstlineno}"
    span = f"{first.label}" if first is last else f"{first.label} to {last.label}"
    kind = f", {call.kind}" if call.kind else ""
    found = Explanation(None, title=f"{call.title}{kind}: {span}, {where}")
    whole = _known(call)
    results = _results(call)
    taken = _taken(call)
    names = Names([value for op in call.ops for value in (*op.inputs, *op.outputs)], results)
    if whole is not None:
        found.rule = [f"{names(results[0]) if results else 'y'} = {whole.text}"]
        found.words = f"This is {whole.name}. {whole.words}"
    else:
        found.words = f"{len(call.ops)} ops make {_list(results, names)} out of {_list(taken, names)}."
    found.symbols = [
        Symbol(names(value), f"{tuple(value.shape)} {words.dtype(value.dtype)}", origin_of(value)) for value in taken
    ]
    cross_entropy = surprise.find(call.ops) if whole is LOSSES["cross_entropy"] else None
    if cross_entropy is not None:
        row = surprise.largest(look, cross_entropy)
        found.lines = [*surprise.forward(look, cross_entropy, row, names), *_reduced(look, call, cross_entropy, names)]
        found.whole = surprise.whole_backward(look, cross_entropy, row, names)
    found.steps = _steps(session, look, call, names)
    found.chain = _effect(look, session, [*results[:1], *taken], names)
    found.notes.append(f"explain {first.label} explains its first op with numbers.")
    found.ops = look.ops
    return found


def _reduced(look: Look, call: CompositeCall, whole: surprise.CrossEntropy, names: Names) -> list[str]:
    """Return what becomes of the losses of the rows at the end of a cross-entropy."""
    last = call.ops[-1]
    if last.name not in ("mean", "sum") or last.inputs[:1] != (whole.loss,):
        return []
    look.see(last.outputs)
    end = words.number(look.numbers([last.outputs[0].array])[0])
    return [f"{names(last.outputs[0])} = the {last.name} of all {whole.loss.size} of {names(whole.loss)} = {end}"]


def _known(call: CompositeCall) -> Whole | None:
    if call.kind:
        return LAYERS.get(call.kind)
    # A function of the program that is only called like one of MLX's is not known.
    file = call.scope.code.co_filename.replace("\\", "/")
    return LOSSES.get(call.scope.code.co_name) if file.endswith("mlx/nn/losses.py") else None


def _taken(call: CompositeCall) -> list[Value]:
    """Return what the call used that it did not make itself."""
    own = set(call.ops)
    return list(dict.fromkeys(value for op in call.ops for value in op.inputs if value.op not in own))


def _results(call: CompositeCall) -> list[Value]:
    """Return what the call made that was used outside of it (or not at all): the last one first."""
    own = set(call.ops)
    made = [value for op in call.ops for value in op.outputs]
    used = {value for value in made if any(user in own for user in value.consumers)}
    return [value for value in reversed(made) if value not in used]


def _list(values: list[Value], names: Names) -> str:
    named = [names(value) for value in values[:4]]
    return (", ".join(named) + (", …" if len(values) > 4 else "")) or "nothing"


def _steps(session: Reading, look: Look, call: CompositeCall, names: Names) -> list[str]:
    """Return the parts of the call in order: an op, or a module that it calls, a line."""
    parts: list[tuple[str, list[Op]]] = []
    count = Counter(inner for op in call.ops if (inner := _inner(op, call)) is not None)
    for op in call.ops:
        part = _part(session, op, call, count)
        if part and parts and parts[-1][0] == part:
            parts[-1][1].append(op)
        else:
            parts.append((part, [op]))
    kept = parts if len(parts) <= _LINES else [*parts[: _LINES // 2], ("…", []), *parts[-_LINES // 2 :]]
    outputs = [ops[-1].outputs[0] for _, ops in kept if ops and ops[-1].outputs]
    look.stats(outputs)
    lines = []
    for part, ops in kept:
        if not ops:
            lines.append(f"… {len(parts) - len(kept) + 1} more …")
            continue
        output = ops[-1].outputs[0] if ops[-1].outputs else None
        result = "" if output is None else f" = {shown(look, output)}"
        name = "" if output is None else f"{names(output)} = "
        lines.append(f"{name}{part or words.call(ops[-1], names)}{result}")
    return lines


def _part(session: Reading, op: Op, call: CompositeCall, count: Counter[Activation]) -> str:
    """Return the module or the function inside of the call in which an op was made, "" for an op of the call's own.

    Args:
        count: How many ops each call that it makes has made; a function with one op is that op.
    """
    inner = _inner(op, call)
    if inner is None:
        return ""
    for path, step in session.names.calls(op):
        if step is inner:
            kind = type(step.owner).__name__
            return f"{path} ({kind})" if path else kind
    return f"{inner.code.co_name}(…)" if count[inner] > 1 else ""


def _inner(op: Op, call: CompositeCall) -> Activation | None:
    """Return the outermost call inside of a call in which an op was made; None where that is the call itself."""
    steps = op.scope.path() if op.scope is not None else []
    inside = [step for step in steps if step is not call.scope and step.within(call.scope)]
    return next((step for step in inside if not step.code.co_name.startswith("<")), None)


def _effect(look: Look, session: Reading, values: list[Value], names: Names) -> list[str]:
    """How the loss depends on what came out, and on what went in."""
    lines = []
    for value in values[:5]:
        grads = [pass_.grads.get(value.canonical) for pass_ in session.tape.passes]
        last = next((found[-1] for found in grads if found), None)
        if last is not None:
            lines.append(f"∂L/∂{names(value)} = {shown(look, last)}")
    return lines
