"""Disconnected: why no gradient reaches a value: where the path to the loss ends."""

from __future__ import annotations

import mlx.core as mx

from nnrepl.explain import words
from nnrepl.explain.answer import Answer
from nnrepl.explain.entry import FIXED, bind, entry_for
from nnrepl.session.session import Session
from nnrepl.tape import GRADIENT_PASS, Op, Pass, Tape, Value

_STEPS = ("floor", "ceil", "round", "sign", "trunc", "floor_divide")
_PLACES = ("argmax", "argmin", "argsort", "argpartition")


def why_none(session: Session, value: Value) -> Answer:
    """Follow a value from where it enters towards the loss, and name the ops where its way ends."""
    tape = session.tape
    part = _pass_of(tape, value)
    name = value.name
    if part is None:
        return Answer(f"No gradient was taken in which {name} takes part.", advice=_how_to(value))
    reached, ends, arrives = _forward_cone(tape, part, value)
    if part.error is not None:
        return Answer(
            f"∂L/∂{name} was not computed: the pass ended with {type(part.error).__name__}. why error tells more."
        )
    if not reached:
        return Answer(f"∂L/∂{name} does not exist: {name} is never used in {part.address}, so the loss does "
                      f"not depend on "
                      "it.", reasons=[_never(tape, value)], advice=_how_to_use(value), cause="unused")  # fmt: skip
    into_loss = _ancestors_of_loss(part)
    answer = Answer(f"∂L/∂{name} does not exist: no gradient flows from the loss to {name}.")
    ends = [] if arrives else ends
    for op in ends[:4]:
        where = words.place(op.source)
        onward = "" if op in into_loss else " (and its result does not reach the loss either)"
        answer.reasons.append(f"The way ends at {op.label} {words.call(op)}, {where}: {why_end(op)}{onward}")
        answer.op, answer.cause = answer.op or op, "cut"
    if not ends:
        used = [op for op in reached if op in into_loss]
        if arrives or used:
            answer.reasons.append(f"{name} is used by {_ops(used or reached)}, but it is not among what was "
                                  f"differentiated: it is "
                                  "frozen, captured as a constant, or not a parameter of the model.")  # fmt: skip
            answer.advice, answer.cause = _how_to(value), "frozen"
        else:
            last = max(reached, key=lambda op: op.position)
            answer.op, answer.cause = last, "unused"
            answer.reasons.append(f"{name} is used by {_ops(reached)}, but nothing that is computed from it "
                                  f"goes into the loss: the "
                                  f"last is {last.label} {words.call(last)}, {words.place(last.source)}.")  # fmt: skip
    if tape.holes and answer.cause == "unused":
        answer.reasons.append(
            f"{len(tape.holes)} tensors came from something that was not recorded; the way may lead through there."
        )
    return answer


def _ops(ops: list[Op]) -> str:
    shown = ", ".join(f"{op.label} {op.name}" for op in ops[:3])
    return shown + (f" and {len(ops) - 3} more" if len(ops) > 3 else "")


def _pass_of(tape: Tape, value: Value) -> Pass | None:
    if value.op is not None and value.op.part.kind == GRADIENT_PASS:
        return value.op.part
    for part in tape.passes:
        if part.kind == GRADIENT_PASS and (value in part.wrt or any(value is leaf.origin for leaf in part.wrt)):
            return part
    users = [op.part for op in value.consumers if op.part.kind == GRADIENT_PASS]
    return users[0] if users else None


def _forward_cone(tape: Tape, part: Pass, value: Value) -> tuple[list[Op], list[Op], bool]:
    """The forward ops of a pass that a value flows into, those of them through which no gradient passes, and whether
    another way leads to the loss."""
    reached: list[Op] = []
    ends: list[Op] = []
    alive = {value.canonical, *(leaf for leaf in part.wrt if leaf.origin is value)}
    for op in tape.ops[part.start : part.backward]:
        if not any(taken.canonical in alive for taken in op.inputs):
            continue
        reached.append(op)
        if ends_here(op, alive):
            ends.append(op)
        else:
            alive.update(output.canonical for output in op.outputs)
    return reached, ends, any(root.canonical in alive for root, _ in part.roots)


def ends_here(op: Op, alive: set[Value]) -> bool:
    """Whether no gradient passes from the result of an op to its living inputs."""
    if not op.outputs or not any(mx.issubdtype(output.dtype, mx.inexact) for output in op.outputs):
        return True
    if op.name == "stop_gradient" or op.operation.kind == "data":
        return True
    if op.name == "astype" and not mx.issubdtype(op.inputs[0].dtype, mx.inexact):
        return True
    entry = entry_for(op)
    if entry is not None and entry.kind == FIXED:
        return True
    if entry is not None and op.name in ("where", "take", "getitem", "take_along_axis"):
        first = bind(entry, op)
        carried = [given for symbol, given in first.items() if symbol in entry.slopes and isinstance(given, Value)]
        return not any(given.canonical in alive for given in carried)
    return False


def why_end(op: Op) -> str:
    """Why no gradient passes through an op, in words."""
    if op.name == "stop_gradient":
        return "stop_gradient lets no gradient pass, on purpose."
    if op.name in _PLACES:
        return "it answers with places, and a place has no slope. Use softmax for a choice that can learn."
    if op.name in _STEPS:
        return "it is a step function, flat everywhere: its slope is 0."
    if op.name == "astype":
        return f"it makes whole numbers ({words.operand(op.outputs[0].dtype)}), which have no slope."
    if op.name in ("take", "getitem", "take_along_axis"):
        return "it is only used as an index, and an index has no slope."
    if op.name == "where":
        return "it is only used as a condition, and a condition has no slope."
    if op.outputs and not mx.issubdtype(op.outputs[0].dtype, mx.inexact):
        return f"its result is {words.operand(op.outputs[0].dtype)}, which has no slope."
    return "no gradient passes through it."


def _ancestors_of_loss(part: Pass) -> set[Op]:
    found: set[Op] = set()
    stack = [root for root, _ in part.roots] or ([part.loss] if part.loss is not None else [])
    while stack:
        op = stack.pop().op
        if op is not None and op not in found and op.position >= part.start:
            found.add(op)
            stack.extend(op.inputs)
    return found


def _never(tape: Tape, value: Value) -> str:
    users = value.consumers
    elsewhere = [op for op in users if op.part.kind != GRADIENT_PASS]
    if elsewhere:
        return f"It is used only outside of the pass: {_ops(list(elsewhere))}."
    return "No op of the pass takes it."


def _how_to(value: Value) -> str:
    return (
        f"To get one, differentiate with respect to {value.name}: make it a parameter of the model "
        f"(unfrozen) or an argument."
    )


def _how_to_use(value: Value) -> str:
    return f"Use {value.name} in the computation of the loss, or drop it."
