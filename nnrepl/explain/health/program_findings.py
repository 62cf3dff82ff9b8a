"""Program: frozen parameters, layers in the wrong mode, evaluations forced inside of a pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mlx.core as mx

from nnrepl.explain import words
from nnrepl.explain.disconnected import leads_to_loss
from nnrepl.explain.health.report import NOTE, Check, Checkup, Finding
from nnrepl.explain.paths import root_modules
from nnrepl.record import segments as sources
from nnrepl.record import trees
from nnrepl.record.stack import is_module
from nnrepl.tape import RUN_PASS, Leaf, Op, Pass


def frozen(case: Checkup) -> Iterator[Finding]:
    """Parameters that the pass uses but does not differentiate: meant in fine-tuning, a mistake elsewhere."""
    wrt = {leaf.name for leaf in case.pass_.wrt}
    kept = _untrained(case, wrt)
    if kept:
        shown = ", ".join(kept[:3]) + (f" and {len(kept) - 3} more" if len(kept) > 3 else "")
        one = "is" if len(kept) == 1 else "are"
        yield Finding(
            "frozen",
            f"{shown} {one} frozen: used by the pass, but never trained",
            f"why grad({kept[0]}) is none",
            None,
            NOTE,
        )


def _untrained(case: Checkup, wrt: set[str]) -> list[str]:
    """Return the parameters of the model that are not trained, without statistics and quantized weights."""
    used: dict[str, int] = {}
    for root in root_modules(case.pass_):
        trainable = {id(array) for _, array in _flat(root.trainable_parameters())}
        for path, array in _flat(root.parameters()):
            name = case.session.names.path_from(root, path)
            if id(array) not in trainable and name not in wrt and mx.issubdtype(array.dtype, mx.inexact):
                used[name] = array.size
    kept = [name for name in used if not name.rpartition(".")[2].startswith(("running_", "_"))]
    return [name for name in kept if name.rpartition(".")[2] not in ("scales", "biases")]


def _flat(tree: Any) -> list[tuple[str, Any]]:
    return list(trees.paths(tree))


def modes(case: Checkup) -> Iterator[Finding]:
    """Dropout and BatchNorm in the wrong mode: asleep while training, awake while evaluating."""
    asleep = [
        (name, module)
        for root in root_modules(case.pass_)
        for name, module in root.named_modules()
        if _has_mode(module) and not module.training
    ]
    acting = {id(step.owner) for op in case.pass_.ops if op.scope is not None for step in op.scope.path()}
    sleeping = [
        name or type(module).__name__
        for name, module in asleep
        if type(module).__name__ == "BatchNorm" or id(module) not in acting
    ]
    if sleeping:
        yield Finding("wrong mode", f"{', '.join(sleeping[:3])} {'is' if len(sleeping) == 1 else 'are'} in "
                                    f"evaluation mode during training: "
                      "call model.train() before", f"ops {case.pass_.ops[0].label}", None)  # fmt: skip
    for pass_ in case.session.tape.passes:
        if pass_.kind == RUN_PASS and pass_.start > case.pass_.start:
            awake = _awake(pass_)
            if awake is not None:
                kind, op = awake
                yield Finding("wrong mode", f"{kind} is in training mode in {pass_.address}, where no "
                                            f"gradient is taken "
                              f"({op.label}, {words.place(op.source)}): call model.eval() before evaluating",
                              f"list {op.label}", op)  # fmt: skip
                return


def _has_mode(module: Any) -> bool:
    kind = type(module).__name__
    if kind.startswith("Dropout"):
        return getattr(module, "_p_1", 1) < 1
    return kind == "BatchNorm" and getattr(module, "track_running_stats", False)


def _awake(pass_: Pass) -> tuple[str, Op] | None:
    for op in pass_.ops:
        owner = op.scope.owner if op.scope is not None else None
        kind = type(owner).__name__
        if (kind.startswith("Dropout") and op.name == "random.bernoulli") or (
            kind == "BatchNorm" and op.name == "mean"
        ):
            return kind, op
    return None


def forced(case: Checkup) -> Iterator[Finding]:
    """Find evaluations that the program forces inside of the pass: they wait for the result each time."""
    pass_ = case.pass_
    marks = [mark for mark in case.session.tape.marks if pass_.start < mark.position < pass_.end]
    if marks:
        mark = marks[0]
        where = words.place(sources.locate(mark.scope.code, mark.lasti)) if mark.scope is not None else ""
        times = f", {len(marks)} times" if len(marks) > 1 else ""
        yield Finding("forced evaluation", f"{mark.how} at {where} evaluates inside of the pass{times}: each "
                                           f"time the program waits "
                      "for the result", f"goto {_at(case, mark.position)}", None, NOTE)  # fmt: skip


def _at(case: Checkup, position: int) -> str:
    ops = case.session.tape.ops
    return ops[min(position, len(ops) - 1)].label


def captured(case: Checkup) -> Iterator[Finding]:
    """Tensors that look like weights but are no parameters of the model: made with random numbers in setup, used by
    a matrix product, never trained."""
    known = {leaf.name for leaf in case.pass_.wrt} | set(_untrained(case, set()))
    trained = {id(leaf.held) for pass_ in case.session.tape.passes for leaf in pass_.wrt}
    trained |= {id(leaf.origin.held) for pass_ in case.session.tape.passes for leaf in pass_.wrt if leaf.origin}
    for op in case.forward:
        if op.name not in ("matmul", "addmm"):
            continue
        for taken in op.inputs:
            if isinstance(taken, Leaf) or taken.op is None or taken.op.pass_ is case.pass_:
                continue
            if taken.name in known or id(taken.held) in case.hidden or id(taken.held) in trained:
                continue
            if case.session.names.homes.objects(taken):
                continue
            if not leads_to_loss(case.session, case.pass_, taken):
                continue  # a teacher, a target, after stop_gradient
            made, owner = taken.op, taken.op.scope.owner if taken.op.scope is not None else None
            if is_module(owner) and taken.op.scope is not None and taken.op.scope.code.co_name == "__init__":
                yield Finding(
                    "hidden weight",
                    f"{words.name(taken)} was made by a Module's __init__ ({words.place(made.source)}) and is used as "
                    "a weight, but it is no parameter of what is differentiated here, and no pass trains it",
                    f"what {taken.name}", op, NOTE)  # fmt: skip
                return


CHECKS: list[Check] = [frozen, modes, forced, captured]
