"""Disconnected: why no gradient reaches a value: where the path to the loss ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import field

import mlx.core as mx

from nnrepl.classes import dataclass
from nnrepl.explain import words
from nnrepl.explain.answer import Cause
from nnrepl.explain.known import FIXED, bind, entry_for, listed
from nnrepl.explain.look import Look
from nnrepl.explain.outside import detours
from nnrepl.explain.paths import root_modules
from nnrepl.explain.tails import tails, told
from nnrepl.ops import Trait, has
from nnrepl.record import trees
from nnrepl.record.custom import Composite, Rerun
from nnrepl.record.gradient_names import lies_inside
from nnrepl.session.reading import Reading
from nnrepl.tape import GRADIENT_PASS, Inside, Op, Pass, Tape, Value, inside_of
from nnrepl.tape.claims import Claim, Possibility, Said, full_stop, joined, perhaps, say, say_first, stated


def why_none(session: Reading, value: Value, asked_of: Pass | None = None) -> Cause:
    """Follow a value from where it enters towards the loss, and say where its way ends.

    Args:
        asked_of: The gradient pass that is meant; else that of the cursor, or the last one that takes the value.

    The causes are told apart: "unused" in the loss, "cut" by an op that passes no gradient, cut by an "edit", used
    only as "data" (places, conditions), "frozen", never "asked" for, "lost" on the way for no reason that is known,
    "inside" of a call that MLX ran by itself, taken of its "second" run, "ruled" by what the program has written,
    "failed" with its pass; "" where the value is in no gradient pass.
    """
    if value.inside is not None:
        return _inside(value, value.inside)
    tape = session.tape
    value, namesake = _meant(tape, asked_of or session.pass_, value)
    pass_ = asked_of or _pass_of(session, value)
    if pass_ is None:  # what the last update made of a weight: it is asked about as that pass took it
        pass_, value = next(iter(session.lookup.passes_of(value, len(tape))), (None, value))
    name = value.name
    outside = say(Claim("why: in no pass", lambda: pass_ is None, lambda: (
        f"No gradient was taken in which {name} takes part.")))  # fmt: skip
    if pass_ is None:
        return Cause(joined(outside), advice=_how_to(tape, value))
    failed = say(Claim("why: pass failed", lambda: pass_.error is not None, lambda: (
        f"∂L/∂{name} was not computed: the pass ended with {type(pass_.error).__name__}. why error tells more."
    )))  # fmt: skip
    if failed:
        return Cause(failed[0], cause="failed")
    cone = _forward_cone(session, pass_, value)
    of_function = _of_function(pass_, value)
    if of_function is not None:
        return of_function
    asked = value in pass_.wrt or value.canonical in cone.asked
    if not cone.reached and not cone.edits:
        return _never_used(session, pass_, value, namesake)
    into_loss = _ancestors_of_loss(pass_)
    answer = Cause(stated(_no_gradient(pass_, value)))
    for edit in cone.edits:
        answer.op, answer.cause = answer.op or edit, "edit"
        answer.reasons += say(_cut_by_edit(tape, edit, value))
    if not cone.arrives:
        _tell_detours(session, answer, cone, pass_)
        _tell_ends(answer, cone, pass_, value)
    if not answer.cause:
        _tell_rest(session, answer, cone, pass_, value, asked, into_loss)
    holes = len(tape.holes)
    answer.reasons += say(Possibility("why: holes", lambda: holes > 0 and answer.cause == "unused", lambda: (
        f"{words.counted(holes, 'tensor')} came from something that was not recorded; the way may lead through there."
    )))  # fmt: skip
    return answer


def _no_gradient(pass_: Pass, value: Value, what: str = "no gradient flows from the loss") -> Claim[str]:
    """Claim that there is no gradient of a value in a pass: that the tape holds none."""
    return Claim("why: no gradient flows", lambda: not pass_.grads.get(value.canonical), lambda: (
        f"∂L/∂{value.name} does not exist: {what} to {value.name}."))  # fmt: skip


def _never_used(session: Reading, pass_: Pass, value: Value, namesake: Value | None) -> Cause:
    """Return that no op of a pass takes a value, and what it takes instead where that is known."""
    name, tape = value.name, session.tape

    def is_unused() -> bool:
        return not any(taken.canonical is value.canonical for op in pass_.forward for taken in op.inputs)

    head = Claim("why: never used", is_unused, lambda: (
        f"∂L/∂{name} does not exist: {name} is never used in {pass_.address}, so the loss does not depend on it."
    ))  # fmt: skip
    also = say(_namesake(tape, name, namesake)) if namesake is not None else _other_model(session, pass_, value)
    return Cause(stated(head), reasons=[*say_first(_never(tape, value, is_unused)), *also],
                 advice=perhaps(_how_to_use(value, is_unused)), cause="unused")  # fmt: skip


def _cut_by_edit(tape: Tape, edit: Op, value: Value) -> Claim[str]:
    """Claim that an edit put numbers in the place of a tensor that are not computed from a value."""
    target = tape.notes.edits[edit]
    return Claim("why: cut by an edit", lambda: not _depends(edit, value), lambda: (
        f"The edit of {target.name} ({edit.label} {words.call(edit)}) put other numbers in its place, which are not "
        f"computed from {value.name}."))  # fmt: skip


def _depends(op: Op, value: Value) -> bool:
    """Whether what an op takes was computed from a value, however far back."""
    stack, seen = list(op.inputs), set(op.inputs)
    while stack:
        at = stack.pop()
        if at.canonical is value.canonical:
            return True
        for taken in () if at.op is None else at.op.inputs:
            if taken not in seen:
                seen.add(taken)
                stack.append(taken)
    return False


def _of_function(pass_: Pass, value: Value) -> Cause | None:
    """Return what is to be said of a value that a checkpoint, or a custom function, has made in its forward run: MLX
    takes no gradient of that; None if it is none."""
    made = value.op
    if made is None or made.position >= pass_.backward:
        return None
    for call in pass_.forward:
        run = call.args[0] if call.args else None
        if isinstance(run, Composite) and made in run.ops:
            found = say_first(_of_run(call, run, value))
            return Cause(found[0], cause="second" if isinstance(run, Rerun) else "ruled") if found else None
    return None


def _of_run(call: Op, run: Composite, value: Value) -> Iterator[Claim[str]]:
    """Yield why no gradient is taken of what was made inside of a checkpoint, or of a custom function."""
    made = value.op
    assert made is not None
    no_vjp = not any(one.gradient_of is value.canonical for op in call.pass_.ops if op.of is made for one in op.outputs)
    yield Claim("why: own rule", lambda: no_vjp and not isinstance(run, Rerun), lambda: (
        f"No gradient of {value.name} is taken: it lies inside of {call.label} ({call.name}), whose gradient the "
        "program has written itself"))  # fmt: skip
    at = run.ops.index(made)
    again = run.again if isinstance(run, Rerun) else None
    second = again.ops[at] if again is not None and at < len(again.ops) else None
    yield Claim("why: second run", lambda: no_vjp and isinstance(run, Rerun), lambda: (
        f"No gradient of this {value.name} is taken: {call.label} ({call.name}) runs once more in the backward pass, "
        f"and that one's are taken{f' (here grad({second.label}))' if second is not None else ''}"))  # fmt: skip


def _inside(value: Value, inside: Inside) -> Cause:
    """Return what is to be said of a value inside of a call that MLX ran by itself."""
    differentiated = next((pass_ for pass_ in _around(inside) if pass_.roots), None)
    return Cause(stated(
        Claim("why: inside", lambda: differentiated is not inside, lambda: (
            f"No gradient of {value.name} is known: {lies_inside(inside)}.")),
        Claim("why: inside and not on the way", lambda: not inside.grads.get(value.canonical), lambda: (
            f"No gradient of {value.name} is known: what {inside.title} returns does not depend on it, or not "
            "differentiably.")),
    ), cause="inside")  # fmt: skip


def _around(inside: Inside) -> Iterator[Inside]:
    """Yield a call and those around it, outwards."""
    pass_: Pass | None = inside
    while isinstance(pass_, Inside):
        yield pass_
        pass_ = pass_.within


def _tell_detours(session: Reading, answer: Cause, cone: Cone, pass_: Pass) -> None:
    """Where the way leaves MLX and what it leads to comes back as data."""
    reached = set(cone.reached)
    for detour in detours(Look(session), pass_):
        if detour.value.op in reached:
            answer.reasons.extend(map(full_stop, say(detour.claim)))
            answer.op, answer.cause = answer.op or detour.op, "cut"


def _tell_ends(answer: Cause, cone: Cone, pass_: Pass, value: Value) -> None:
    """Note the ops at which the way ends, those first that stop it on purpose. Where the loss takes what was made after
    one of them, the others are no reason: without them no gradient would arrive either."""
    onward = _towards_loss(pass_)
    cuts = [op for op in cone.ends if any(output.canonical in onward for output in op.outputs)]
    ends = sorted(cuts or cone.ends, key=lambda op: (not has(op.name, Trait.STOPS), op.position))
    if not cuts and tails(pass_, cone.reached, cone.ends):
        return
    into_loss = set() if cuts else _ancestors_of_loss(pass_)
    for op in ends[:4]:
        answer.reasons += say(_ends_at(op, value, cone, bool(cuts) or op in into_loss))
        answer.op, answer.cause = answer.op or op, answer.cause or "cut"
    if ends and len(ends) == len(cone.reached) and all(_takes_as_data(op, value) for op in ends):
        answer.cause = "data"


def _ends_at(op: Op, value: Value, cone: Cone, counts: bool) -> Claim[str]:
    """Claim that the way of a gradient ends at an op: no gradient of what it takes comes from its results."""
    rest = "" if counts else " (and its result does not reach the loss either)"
    reached = {value.canonical, *(out.canonical for one in cone.reached for out in one.outputs)}

    def holds() -> bool:
        return not any(
            one.of is op and any(given.gradient_of in reached for given in one.outputs) for one in op.pass_.ops
        )

    return Claim("why: way ends", holds, lambda: (
        f"The way ends at {op.label} {words.call(op)}, {words.spot(op)}: {why_end(op)}{rest}"))  # fmt: skip


def _takes_as_data(op: Op, value: Value) -> bool:
    """Whether an op takes a value as places or as a condition only."""
    entry = entry_for(op)
    if not mx.issubdtype(value.dtype, mx.inexact):
        return True
    return entry is not None and has(op.name, Trait.SELECTS) and not any(
        given is value for symbol, given in bind(entry, op).items() if symbol in entry.slopes
    )  # fmt: skip


def _tell_rest(
    session: Reading, answer: Cause, cone: Cone, pass_: Pass, value: Value, asked: bool, into_loss: set[Op]
) -> None:
    """Note what is to be said where no op ends the way: nobody asked for the gradient, or the loss does not take it."""
    used = [op for op in cone.reached if op in into_loss]
    if cone.arrives or used:
        whose = _frozen_in(session, pass_, value)
        answer.reasons += say_first(_not_differentiated(pass_, value, used or cone.reached, asked, whose))
        answer.advice, answer.owner = Said() if whose or asked else _how_to(session.tape, value), whose
        answer.cause = "frozen" if whose else "lost" if asked else "asked"
        if not asked:
            answer.headline = stated(_no_gradient(pass_, value, "no gradient was taken with respect"))
        return
    last = tails(pass_, cone.reached, cone.ends)
    answer.op, answer.cause = max(cone.reached, key=lambda op: op.position), "unused"
    answer.reasons += say(_not_in_the_loss(session.tape, value, cone.reached, into_loss, last))


def _not_differentiated(pass_: Pass, value: Value, used: list[Op], asked: bool, whose: str) -> Iterator[Claim[str]]:
    """Yield why there is no gradient of what the loss does depend on."""
    by = f"{value.name} is used by {_ops(used)}"
    none = not pass_.grads.get(value.canonical)
    yield Claim("why: frozen", lambda: none and bool(whose), lambda: (
        f"{by}, but it is not among what was differentiated: it is frozen in the model ({whose}.unfreeze() lets it be "
        "trained)."))  # fmt: skip
    yield Claim("why: not asked for", lambda: none and not asked, lambda: (
        f"{by}, but it is not among what was differentiated: nobody asked for its gradient."))  # fmt: skip
    yield Claim("why: does not arrive", lambda: none and asked, lambda: (
        f"{by}; its gradient was asked for and does not arrive."))  # fmt: skip


def _not_in_the_loss(tape: Tape, value: Value, reached: list[Op], into_loss: set[Op], last: list[Op]) -> Claim[str]:
    """Claim that none of the ops that a value reaches goes into the loss."""
    ends = f": {'; '.join(told(tape, last))}" if last else ""
    return Claim("why: nothing of it in the loss", lambda: not into_loss & set(reached), lambda: (
        f"{value.name} is used by {_ops(reached)}, but nothing that is computed from it goes into the loss{ends}."
    ))  # fmt: skip


def _frozen_in(session: Reading, pass_: Pass, value: Value) -> str:
    """Return what the program calls the model (else its class) that has a value as a parameter and does not train it,
    "" if none does."""
    held = {id(one.held) for one in (value, value.origin) if one is not None and one.held is not None}
    held |= {id(array) for array in session.names.homes.objects(value)}
    for root in root_modules(pass_):
        trained = {id(array) for _, array in trees.paths(root.trainable_parameters())}
        if any(id(array) in held and id(array) not in trained for _, array in trees.paths(root.parameters())):
            return session.names.homes.name_of(root) or type(root).__name__
    return ""


def _meant(tape: Tape, here: Pass | None, value: Value) -> tuple[Value, Value | None]:
    """Return the tensor that a name means where two have it: the one that was differentiated and is not used, if the
    pass takes another of that name; and the other."""
    passes = [here] if here is not None and here.kind == GRADIENT_PASS else tape.passes
    for pass_ in passes:
        if value in pass_.wrt:
            return value, _other_of_that_name(pass_, value)
        twin = next((leaf for leaf in pass_.wrt if leaf.name == value.name and leaf is not value), None)
        if twin is not None and not tape.consumers(twin) and not pass_.grads.get(twin):
            return twin, value
    return value, None


def _other_of_that_name(pass_: Pass, value: Value) -> Value | None:
    for op in pass_.forward:
        for taken in op.inputs:
            outside = taken.op is None or taken.op.position < pass_.start
            if outside and taken is not value and taken.name == value.name:
                return taken
    return None


def _namesake(tape: Tape, name: str, other: Value) -> Claim[str]:
    """Claim that the pass takes another tensor of that name."""
    user = next((op for op in tape.consumers(other) if op.pass_.kind == GRADIENT_PASS), None)
    by = f": {user.label} {words.call(user)} ({words.place(user.source)})" if user is not None else ""
    return Claim("why: namesake", lambda: user is not None and other not in user.pass_.wrt, lambda: (
        f"The pass takes another tensor that is called {name}, and was not differentiated{by}."))  # fmt: skip


def _other_model(session: Reading, pass_: Pass, value: Value) -> list[Said]:
    """Return what the pass takes at the same path from another model, where the value's own model is not asked: one
    line."""
    homes = session.names.homes
    own = homes.of(value)
    beside = [] if own is None else [home for home in homes.at_path(homes.path(own)[1]) if home != own]
    held = {other for home in beside for _, other in homes.held(home) if other is not value}
    taken = next(((op, one) for op in pass_.forward for one in op.inputs if one in held), None)
    if taken is None:
        return []
    return say(_of_another_model(session, *taken, own))


def _of_another_model(session: Reading, op: Op, taken: Value, own: object) -> Claim[str]:
    """Claim that an op takes what belongs to another model."""
    return Claim("why: another model's", lambda: session.names.homes.of(taken) not in (None, own), lambda: (
        f"{op.label} {words.call(op)} ({words.place(op.source)}) takes {op.called(taken)}, which is another model's."
    ))  # fmt: skip


def _ops(ops: list[Op]) -> str:
    shown = ", ".join(f"{op.label} {op.name}" for op in ops[:3])
    return shown + (f" and {len(ops) - 3} more" if len(ops) > 3 else "")


def _pass_of(session: Reading, value: Value) -> Pass | None:
    """Return the gradient pass in which a value takes part; of several the one of the cursor, else the last before
    it."""
    if value.op is not None and value.op.pass_.kind == GRADIENT_PASS:
        return value.op.pass_
    stands_for = session.names.stands_for
    users = {op.pass_ for op in session.tape.consumers(value)}
    passes = [
        pass_
        for pass_ in session.tape.passes
        if pass_.kind == GRADIENT_PASS and (pass_ in users or any(stands_for(leaf, value) for leaf in pass_.wrt))
    ]
    before = [pass_ for pass_ in passes if pass_.start <= session.cursor]
    return before[-1] if before else next(iter(passes), None)


@dataclass(slots=True)
class Cone:
    """Where a value goes in the forward part of a pass.

    Attributes:
        reached: The ops that take it, or what is computed from it.
        ends: Those of them through which no gradient passes.
        edits: Edits that put something else in the place of what was computed from it.
        arrives: Whether a way leads to the loss.
        asked: What was differentiated and goes on with it.
    """

    reached: list[Op] = field(default_factory=list)
    ends: list[Op] = field(default_factory=list)
    edits: list[Op] = field(default_factory=list)
    arrives: bool = False
    asked: set[Value] = field(default_factory=set)


def _forward_cone(session: Reading, pass_: Pass, value: Value) -> Cone:
    """Follow a value through the forward ops of a pass."""
    tape = session.tape
    cone = Cone(asked={leaf for leaf in pass_.wrt if leaf is not value and session.names.stands_for(leaf, value)})
    alive = {value.canonical, *cone.asked}
    for op in pass_.forward:
        takes = any(taken.canonical in alive for taken in op.inputs)
        if op in tape.notes.edits and tape.notes.edits[op].canonical in alive and not takes:
            cone.edits.append(op)
        if not takes:
            continue
        cone.reached.append(op)
        if _stays_inside(op, alive, cone):
            continue
        if ends_here(op, alive):
            cone.ends.append(op)
        else:
            alive.update(output.canonical for output in op.outputs)
    cone.arrives = any(root.canonical in alive for root, _ in pass_.roots)
    return cone


def _stays_inside(op: Op, alive: set[Value], cone: Cone) -> bool:
    """Whether the results of a call that MLX ran by itself are known not to depend on what is alive in a way that a
    gradient could go. If so, the ops in there that take it are added to `cone`."""
    inside = inside_of(op)
    if (
        inside is None
        or inside.unfollowed
        or any(taken.canonical in alive for taken in op.inputs[: len(inside.leaves)])
    ):
        return False
    inner, reached, ends = set(alive), [], []
    for one in op.pass_.tape.ops[inside.start : inside.end]:
        if any(taken.canonical in inner for taken in one.inputs):
            reached.append(one)
            if ends_here(one, inner):
                ends.append(one)
            else:
                inner.update(output.canonical for output in one.outputs)
    if any(value.canonical in inner for value, _ in inside.results):
        return False
    cone.reached.extend(reached)
    cone.ends.extend(ends)
    return True


def leads_to_loss(session: Reading, pass_: Pass, value: Value) -> bool:
    """Whether a gradient could flow from the loss of a pass to a value, had it been asked for."""
    return _forward_cone(session, pass_, value).arrives


def ends_here(op: Op, alive: set[Value]) -> bool:
    """Whether no gradient passes from the result of an op to its living inputs."""
    if not op.outputs or not any(mx.issubdtype(output.dtype, mx.inexact) for output in op.outputs):
        return True
    if has(op.name, Trait.STOPS) or op.operation.kind == "data":
        return True
    if has(op.name, Trait.CASTS) and not mx.issubdtype(op.inputs[0].dtype, mx.inexact):
        return True
    known, selects = listed(op), has(op.name, Trait.SELECTS)
    if known is None or (known.variant is None and known.kind != FIXED and not selects):
        return False  # nearly every op of a long pass, without a look at its arguments
    entry = entry_for(op)
    if entry is not None and entry.kind == FIXED:
        return True
    if entry is not None and selects:
        first = bind(entry, op)
        carried = [given for symbol, given in first.items() if symbol in entry.slopes and isinstance(given, Value)]
        return not any(given.canonical in alive for given in carried)
    return False


def why_end(op: Op) -> str:
    """Why no gradient passes through an op, in words."""
    if has(op.name, Trait.STOPS):
        return "stop_gradient lets no gradient pass, on purpose."
    if has(op.name, Trait.PLACES):
        return "it answers with places, and a place has no slope (a softmax would be a choice that can learn)."
    if has(op.name, Trait.STEPS):
        return "it is a step function, flat everywhere: its slope is 0."
    if has(op.name, Trait.CASTS):
        return f"it makes whole numbers ({words.operand(op.outputs[0].dtype)}), which have no slope."
    if has(op.name, Trait.SELECTS):
        what = "a condition" if has(op.name, Trait.CHOOSES) else "an index"
        return f"it is only used as {what}, and {what} has no slope."
    if op.outputs and not mx.issubdtype(op.outputs[0].dtype, mx.inexact):
        return f"its result is {words.operand(op.outputs[0].dtype)}, which has no slope."
    return "no gradient passes through it."


def _towards_loss(pass_: Pass) -> set[Value]:
    """Return the values from which a gradient way leads to the loss of a pass."""
    stack = [root.canonical for root, _ in pass_.roots] or ([pass_.loss.canonical] if pass_.loss is not None else [])
    found = set(stack)
    while stack:
        op = stack.pop().op
        if op is None or op.position < pass_.start:
            continue
        inside = inside_of(op)
        inner = [] if inside is None else [value for value, _ in inside.results]
        for taken in dict.fromkeys(one.canonical for one in (*op.inputs, *inner)):
            if taken not in found and not ends_here(op, {taken}):
                found.add(taken)
                stack.append(taken)
    return found


def _ancestors_of_loss(pass_: Pass) -> set[Op]:
    found: set[Op] = set()
    stack = [root for root, _ in pass_.roots] or ([pass_.loss] if pass_.loss is not None else [])
    while stack:
        op = stack.pop().op
        if op is not None and op not in found and op.position >= pass_.start:
            found.add(op)
            stack.extend(op.inputs)
    return found


def _never(tape: Tape, value: Value, is_unused: Callable[[], bool]) -> Iterator[Claim[str]]:
    """Yield where a value is used that its pass does not take."""
    own = [value] if value.origin is None else [value, value.origin]
    elsewhere = [op for one in own for op in tape.consumers(one) if op.pass_.kind != GRADIENT_PASS
                 and (op.scope is None or not op.scope.updating)]  # fmt: skip
    yield Claim("why: used outside", lambda: bool(elsewhere) and is_unused(), lambda: (
        f"It is used only outside of the pass: {_ops(elsewhere)}."))  # fmt: skip
    yield Claim("why: no op takes it", is_unused, lambda: "No op of the pass takes it.")


def _how_to(tape: Tape, value: Value) -> Said:
    return perhaps(Claim("why: how to get one", lambda: not any(value in pass_.wrt for pass_ in tape.passes), lambda: (
        f"To get one, differentiate with respect to {value.name}: make it a parameter of the model (unfrozen) or an "
        "argument.")))  # fmt: skip


def _how_to_use(value: Value, is_unused: Callable[[], bool]) -> Claim[str]:
    return Claim("why: use it", is_unused, lambda: f"Use {value.name} in the computation of the loss, or drop it.")
