"""Program: frozen parameters, layers in the wrong mode, evaluations forced inside of a pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import mlx.core as mx

from nnrepl.explain import words
from nnrepl.explain.disconnected import leads_to_loss
from nnrepl.explain.health.report import NOTE, WARNING, Check, Checkup, Finding, findings
from nnrepl.explain.paths import root_modules
from nnrepl.ops import Trait, has
from nnrepl.record import segments as sources
from nnrepl.record import trees
from nnrepl.record.recorder import current
from nnrepl.record.stack import is_module, is_module_type
from nnrepl.tape import GRADIENT_PASS, RUN_PASS, Leaf, Mark, Op, Pass, Tracer, Value
from nnrepl.tape.claims import Claim, Possibility

_eval = mx.eval


def frozen(case: Checkup) -> Iterator[Finding]:
    """Parameters that the pass uses but does not differentiate: meant in fine-tuning, a mistake elsewhere."""
    kept = _untrained(case, {leaf.name for leaf in case.pass_.wrt})
    if kept:
        yield from findings(_are_frozen(case, kept), "frozen", f"why grad({next(iter(kept))}) is none", None, NOTE)


def _are_frozen(case: Checkup, kept: dict[str, mx.array]) -> Claim[str]:
    """Claim that the pass takes parameters, and that no gradient of them was asked for in it; nor in any other pass,
    where that is said."""
    held = {id(array) for array in kept.values()}

    def holds() -> bool:
        asked = {id(one) for leaf in case.pass_.wrt for one in _held(leaf)}
        return (
            all(map(_taken(case), kept.values()))
            and not held & asked
            and not any(leaf.name in kept for leaf in case.pass_.wrt)
        )

    passes = [pass_ for pass_ in case.session.tape.passes if pass_.kind == GRADIENT_PASS]
    ever = {id(one) for pass_ in passes for leaf in pass_.wrt for one in _held(leaf)}
    trained = "not trained by it" if held & ever or any(leaf.name in kept for one in passes for leaf in one.wrt) else (
        "no pass on the tape trains " + ("it" if len(kept) == 1 else "them"))  # fmt: skip
    names = list(kept)
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return Claim("finding: frozen", holds, lambda: (
        f"{shown} {'is' if len(names) == 1 else 'are'} frozen: used by the pass, and {trained}"))  # fmt: skip


def _held(value: Value | None) -> Iterator[Any]:
    """Yield the arrays of the program's that a tensor of the tape stands for."""
    while value is not None:
        if value.held is not None:
            yield value.held
        value = value.origin


def _taken(case: Checkup) -> Callable[[mx.array], bool]:
    """Return what tells whether the forward pass takes an array of the program's. The tape may hold a copy of that: its
    recorder knows which value it is."""
    inputs = {value for op in case.pass_.forward for value in op.inputs}
    arrays, values = {id(one) for value in inputs for one in _held(value)}, {value.canonical for value in inputs}
    recorder = current()
    live = {} if recorder is None else recorder.live

    def takes(array: mx.array) -> bool:
        value = live.get(id(array))
        return id(array) in arrays or (value is not None and value.canonical in values)

    return takes


def _untrained(case: Checkup, wrt: set[str]) -> dict[str, mx.array]:
    """Return the parameters of the model that the pass takes and does not train, by their names, without statistics
    and quantized weights."""
    taken = _taken(case)
    used: dict[str, mx.array] = {}
    for root in root_modules(case.pass_):
        trainable = {id(array) for _, array in _flat(root.trainable_parameters())}
        for path, array in _flat(root.parameters()):
            name = case.session.names.path_from(root, path)
            of_interest = id(array) not in trainable and taken(array) and name not in wrt
            if of_interest and mx.issubdtype(array.dtype, mx.inexact) and not _is_state(name):
                used[name] = array
    return used


def _is_state(name: str) -> bool:
    last = name.rpartition(".")[2]
    return last.startswith(("running_", "_")) or last in ("scales", "biases")


def _flat(tree: Any) -> list[tuple[str, Any]]:
    return list(trees.paths(tree))


def modes(case: Checkup) -> Iterator[Finding]:
    """Dropout and BatchNorm in the wrong mode: asleep while training, awake while evaluating. What they did is read
    from their ops: their own switch may have been turned since."""
    calls = _calls(case.pass_)
    awake = {at for at, (_, ops) in calls.items() if _is_awake(ops)}
    for root in root_modules(case.pass_):
        moded = [(name or type(one).__name__, one) for name, one in root.named_modules() if _has_mode(one)]
        still = [(name, one) for name, one in moded if id(one) in calls and id(one) not in awake]
        # A Dropout that sleeps makes no op, as one that is not called: told where nothing of its model is awake.
        silent = [] if any(id(one) in awake for _, one in moded) else [
            (name, one) for name, one in moded if id(one) not in calls and not one.training]  # fmt: skip
        if still:
            first = calls[id(still[0][1])][1][0]
            level = WARNING if any(_trains(one) for _, one in still) else NOTE
            yield from findings(_are_asleep(still, calls), "wrong mode", f"ops {first.label}", first, level)
        elif silent:
            yield from findings(_may_be_asleep(case, silent), "wrong mode", f"ops {case.pass_.ops[0].label}")
    yield from _left_awake(case)


def _are_asleep(still: list[tuple[str, Any]], calls: Calls) -> Claim[str]:
    """Claim that layers made ops in a pass, and none of those that training makes."""
    one = len(still) == 1
    return Claim("finding: asleep", lambda: not any(_is_awake(calls[id(layer)][1]) for _, layer in still), lambda: (
        f"{', '.join(name for name, _ in still[:3])} {'is' if one else 'are'} in evaluation mode during training: call "
        "model.train() before"))  # fmt: skip


def _may_be_asleep(case: Checkup, silent: list[tuple[str, Any]]) -> Claim[str]:
    """Claim that layers made no op in a pass, which may be because they sleep."""
    own = {id(layer) for _, layer in silent}
    one = len(silent) == 1
    return Possibility("finding: asleep or not called", lambda: not own & set(_calls(case.pass_)), lambda: (
        f"{', '.join(name for name, _ in silent[:3])} {'makes' if one else 'make'} no op in {case.pass_.address}, and "
        f"{'is' if one else 'are'} in evaluation mode now: call model.train() before, if that is where it should "
        "work"))  # fmt: skip


def _left_awake(case: Checkup) -> Iterator[Finding]:
    """Find a stretch without gradients, since the gradient pass before or later, of which no gradient pass takes
    anything, in which a layer trains."""
    since = (case.before or case.pass_).start  # what is evaluated before a gradient call belongs to its step
    for pass_ in case.session.tape.passes:
        if pass_.kind != RUN_PASS or pass_.start <= since:
            continue
        for owner, ops in _calls(pass_).values():
            if _is_awake(ops) and not _feeds_a_pass(case, ops):
                yield from findings(_is_training(type(owner).__name__, ops, pass_), "wrong mode",
                                    f"list {ops[0].label}", ops[0])  # fmt: skip
                return


def _is_training(kind: str, ops: list[Op], pass_: Pass) -> Claim[str]:
    """Claim that a layer does what it does in training only, where no gradient is taken."""
    own = {id(op) for op in pass_.ops}
    holds = not pass_.wrt and all(id(op) in own for op in ops)
    return Claim("finding: awake", lambda: holds and _is_awake(ops), lambda: (
        f"{kind} is in training mode in {pass_.address}, where no gradient is taken ({ops[0].label}, "
        f"{words.place(ops[0].source)}): call model.eval() before evaluating"))  # fmt: skip


def _feeds_a_pass(case: Checkup, ops: list[Op]) -> bool:
    """Whether a gradient pass takes what is made of what some ops make: what a generator makes for its judge is
    training as well."""
    stack, seen = [out for op in ops for out in op.outputs], set(ops)
    while stack:
        for user in case.session.tape.consumers(stack.pop()):
            if user.pass_.kind == GRADIENT_PASS:
                return True
            if user not in seen:
                seen.add(user)
                stack.extend(user.outputs)
    return False


Calls = dict[int, tuple[Any, list[Op]]]
"""The ops that layers have made, by the `id` of each."""


def _calls(pass_: Pass) -> Calls:
    """Return what Dropouts and BatchNorms made in a pass, its backward part apart."""
    found: Calls = {}
    for op in pass_.ops:
        owner = op.scope.owner if op.scope is not None and op.phase != "backward" else None
        if is_module(owner) and _has_mode(owner):
            found.setdefault(id(owner), (owner, []))[1].append(op)
    return found


def _is_awake(ops: list[Op]) -> bool:
    """Whether the ops of a Dropout draw a mask, or those of a BatchNorm take the mean of the batch off its numbers."""
    made = {out for op in ops if has(op.name, Trait.REDUCES) for out in op.outputs}
    return any(has(op.name, Trait.RANDOM) or (has(op.name, Trait.DIFFERENCE) and made & set(op.inputs)) for op in ops)


def _trains(layer: Any) -> bool:
    """Whether the pass differentiates a parameter of a layer; of one without parameters, whether there are none."""
    own = {id(array) for _, array in _flat(layer.trainable_parameters())}
    return bool(own) or not layer.parameters()


def _has_mode(module: Any) -> bool:
    kind = type(module).__name__
    if kind.startswith("Dropout"):
        return getattr(module, "_p_1", 1) < 1
    return kind == "BatchNorm" and getattr(module, "track_running_stats", False)


def forced(case: Checkup) -> Iterator[Finding]:
    """Find evaluations that the program forces inside of the pass: they wait for the result each time."""
    pass_ = case.pass_
    marks = [mark for mark in case.session.tape.marks if pass_.start < mark.position < pass_.end]
    if marks:
        yield from findings(
            _forces(case, marks), "forced evaluation", f"goto {_at(case, marks[0].position)}", None, NOTE
        )


def _forces(case: Checkup, marks: list[Mark]) -> Claim[str]:
    """Claim that what is evaluated at some places was made inside of the pass, or before it and not evaluated yet."""
    mark, pass_ = marks[0], case.pass_
    where = words.place(sources.locate(mark.scope.code, mark.lasti)) if mark.scope is not None else ""
    times = f", {len(marks)} times" if len(marks) > 1 else ""
    return Claim(
        "finding: forced",
        lambda: all(pass_.start < one.position < pass_.end for one in marks),
        lambda: (
            f"{mark.how} at {where} evaluates inside of the pass{times}: each time the program waits for the result"
        ),
    )


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
                command = f"what {words.reference(taken)}"
                yield from findings(_is_hidden(case, taken, made), "hidden weight", command, op, NOTE)
                return


def _is_hidden(case: Checkup, taken: Value, made: Op) -> Claim[str]:
    """Claim that no pass on the tape differentiates a tensor, nor anything that stands for it."""
    asked = {one.canonical for pass_ in case.session.tape.passes for leaf in pass_.wrt for one in (leaf, leaf.origin)
             if one is not None}  # fmt: skip
    return Claim(
        "finding: hidden weight",
        lambda: taken.canonical not in asked,
        lambda: (
            f"{words.name(taken)} was made by a Module's __init__ ({words.place(made.source)}) and is used as a weight,"
            " but it is no parameter of what is differentiated here, and no pass on the tape trains it"
        ),
    )


def left_behind(case: Checkup) -> Iterator[Finding]:
    """Find what compiled functions have left in a model or a list, and the program still holds."""
    tape, homes = case.session.tape, case.session.names.homes
    live = [one for one in tape.notes.leaves.values() if isinstance(one, Tracer)]
    there = {one: [home for home in homes.all_of(one) if home.holder.refer() is not None] for one in live}
    live = [one for one in live if there[one] or (not homes.all_of(one) and tape.bindings.naming(one))]
    live.sort(key=lambda one: not any(is_module_type(home.holder.kind) for home in there[one]))  # weights first
    for function in dict.fromkeys(one.left_by for one in live):
        left = [one for one in live if one.left_by == function]
        yield from findings(_are_left(function, left), "left behind", f"what {left[0].name}", None)


def _are_left(function: str, left: list[Tracer]) -> Claim[str]:
    """Claim that MLX cannot evaluate what a compiled function has left."""
    names = list(dict.fromkeys(one.name for one in left))
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    are = "is a tracer" if len(names) == 1 else "are tracers"
    return Claim("finding: left behind", lambda: not any(map(_can_be_evaluated, left)), lambda: (
        f"{shown} {are} that {function} left there: MLX cannot evaluate that, nor what is made of it; what a compiled "
        "function changes has to be among its outputs"))  # fmt: skip


def _can_be_evaluated(value: Value) -> bool:
    try:
        _eval(value.array)
    except RuntimeError:
        return False
    return True


CHECKS: list[Check] = [frozen, modes, forced, captured, left_behind]
