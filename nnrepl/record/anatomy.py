"""Anatomy: which of MLX's primitives one op is made of, and in which order they touch its inputs.

MLX's gradient walks its graph of primitives depth first over each primitive's inputs and sweeps that in
reverse (`vjp` in mlx/transforms.cpp). An op may be several primitives (`maximum` of two shapes broadcasts
first; `rms_norm` on a CPU uses its input twice), so the order in which gradients are added up is an order
of primitives, not of ops. It is read from MLX itself: the op is called on stand-ins of the same shapes, and
`mx.export_to_dot` shows what came out. Nothing is evaluated, and each kind of call is looked at once.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import field, replace
from typing import Any

import mlx.core as mx

from nnrepl.classes import dataclass
from nnrepl.record.data import Data, construct
from nnrepl.record.dot import Primitive, parse_dot
from nnrepl.tape import DrawnKey, Leaf, Op, Value

_broadcast_to, _export_to_dot = mx.broadcast_to, mx.export_to_dot


@dataclass(frozen=True, slots=True)
class Touch:
    """One step of MLX's walk through an op.

    Attributes:
        visit: The input whose history is walked now, -1 if none is.
        taps: The inputs that the primitive which comes now takes directly, in its order.
    """

    visit: int
    taps: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Outputs of an op that MLX computes, and differentiates, together.

    Attributes:
        outputs: Which outputs of the op they are.
        alias: The input that the (only) output simply is, -1 if it is a result of its own.
        twin: The other output that the (only) output simply is (both gradients of a sum), -1 if it is none.
        stopped: Whether no gradient passes (`stop_gradient`).
        walk: MLX's walk, in order.
        inputs: The inputs that gradients may reach, in the order in which they are first tapped.
        uses: How often each input is tapped; more than once means that MLX adds its parts one by one.
        simple: Whether everything happens in one primitive: no order to heed inside.
        early: The inputs of which the last tap comes after every visit: their gradients are added at once.
        variants: The same, for a walk that enters by another output than the first.
        alone: The inputs before each output, where several primitives make them.
        split: The inputs with a visit between their first tap and their last: gradients of others may come between.
        hands_on: By which inputs are asked for, whether what has arrived is itself the gradient of all of them (`add`).
    """

    outputs: tuple[int, ...]
    alias: int
    stopped: bool
    walk: tuple[Touch, ...]
    inputs: tuple[int, ...]
    uses: dict[int, int]
    simple: bool
    early: frozenset[int]
    split: frozenset[int] = frozenset()
    twin: int = -1
    variants: dict[int, Group] = field(default_factory=dict)
    alone: dict[int, frozenset[int]] = field(default_factory=dict)
    hands_on: dict[tuple[int, ...], bool] = field(default_factory=dict)

    def before(self, output: int) -> frozenset[int]:
        """Return the inputs that MLX's graph has before an output."""
        if output in self.alone:
            return self.alone[output]
        return frozenset((self.alias, *(step.visit for step in self.walk)))


def anatomy(op: Op, slots: tuple[int, ...], inputs: Sequence[Value]) -> tuple[Group, ...]:
    """Return the groups of outputs of `op`.

    Args:
        op: A recorded op.
        slots: For each of `op.inputs`, which distinct input it is (a value used twice is one).
        inputs: The distinct inputs.
    """
    if op.operation.kind in ("custom", "checkpoint"):
        return (_in_one_go(len(op.outputs), slots),)
    if op.operation.kind == "opaque":
        groups: tuple[Group, ...] = op.operation.run.groups  # type: ignore[attr-defined]
        return tuple([_renumbered(group, slots) for group in groups])
    try:
        key = (op.operation, slots, tuple(map(_freeze, op.args)), _freeze(op.kwargs) if op.kwargs else None)
        known = _KNOWN.get(key)
    except TypeError:  # an argument that cannot be hashed: looked at anew each time
        return _dissect(op, slots, inputs)
    # Drawing MLX's graph costs many times what the op does: each kind of call (operation, shapes, dtypes, constants)
    # is drawn once. What only counts up (a key, an array of numbers from outside) is no part of the kind.
    if known is None:
        known = _KNOWN[key] = _dissect(op, slots, inputs)
    return known


_KNOWN: dict[Any, tuple[Group, ...]] = {}


def made_of(value: Value) -> set[Value]:
    """Return the inputs of its op that MLX's graph has before a value: `zeros_like(a)`, and `a[None] = b`, have no `a`
    there."""
    op = value.op
    if op is None or not op.inputs:
        return set()
    makers, slots = _makers(op)
    slot = value.slot if makers[value.slot].twin < 0 else makers[value.slot].twin
    reached = makers[slot].before(slot)
    return {taken for taken, slot in zip(op.inputs, slots) if slot in reached}


def is_still(value: Value, before: Value) -> bool:
    """Whether a value is another one, which ops have handed on as it was (`astype` to the dtype that it has)."""
    while value is not before and value.op is not None and value.op.inputs:
        makers, slots = _makers(value.op)
        alias = makers[value.slot].alias
        if alias < 0:
            return False
        value = value.op.inputs[slots.index(alias)]
    return value is before


def _makers(op: Op) -> tuple[dict[int, Group], tuple[int, ...]]:
    """Return the group of each output of an op, and which distinct input each of its inputs is."""
    number: dict[Value, int] = {}
    slots = tuple([number.setdefault(taken.canonical, len(number)) for taken in op.inputs])
    known = {slot: group for group in anatomy(op, slots, tuple(number)) for slot in group.outputs}
    if len(known) < len(op.outputs):  # taken from a call once its gradients were: MLX's graph of it was not read
        known = dict.fromkeys(range(len(op.outputs)), _in_one_go(len(op.outputs), slots)) | known
    return known, slots


def of_call(op: Op, forced: bool, taken: list[mx.array]) -> tuple[Group, ...]:
    """Return the groups of a call that MLX has just run by itself; the numbers of their inputs are places in
    `op.inputs`.

    They are read while MLX's graph of the call is there: when one of the results is evaluated, it is gone.

    Args:
        forced: Whether something was evaluated during the call, so that some of the graph is gone already; then
            every result may depend on every input.
        taken: What it was given for its inputs. Where a program runs again natively, that is an array of its own, with
            the numbers of the one that the tape has.
    """
    slots = tuple(range(len(op.inputs)))
    if forced:
        return (_in_one_go(len(op.outputs), slots),)
    if not _share_a_node(op.inputs, taken) and not any(map(_was_handed, op.inputs)):
        return _groups([value.array for value in op.outputs], taken)
    if op.operation.run.recipe is None:  # type: ignore[attr-defined]
        return (_in_one_go(len(op.outputs), slots),)
    distinct = tuple(dict.fromkeys(value.canonical for value in op.inputs))
    slots = tuple([distinct.index(value.canonical) for value in op.inputs])
    groups = _dissect(op, slots, distinct)
    return tuple([_renumbered(group, tuple([slots.index(slot) for slot in range(len(distinct))])) for group in groups])


def _was_handed(value: Value) -> bool:
    """Whether a value is one that MLX had handed to the function of a call: a copy, in whose place the next call takes
    what it is a copy of (`make_tracer` in mlx/transforms.cpp), so that its graph does not come by there."""
    recipe = None if value.op is None else getattr(value.op.operation.run, "recipe", None)
    if recipe is None or value.op is None or not recipe.kept:
        return False
    at = value.slot - len(value.op.outputs) + len(recipe.kept)
    return at >= 0 and (recipe.kept[at].op is None or _was_handed(recipe.kept[at]))


def _share_a_node(values: Sequence[Value], arrays: Sequence[mx.array]) -> bool:
    """Whether any two values are one node of MLX's graph: a parameter and the tensor that it was made of, which a
    function captures as well; a result of a checkpoint that it was given. MLX's graph then does not tell them apart."""
    alike: dict[tuple[Any, ...], dict[Value, mx.array]] = {}
    for value, array in zip(values, arrays):
        alike.setdefault((array.shape, array.dtype), {})[value.canonical] = array
    named = [array for found in alike.values() if len(found) > 1 for array in found.values()]
    if not named:
        return False
    dot = io.StringIO()
    _export_to_dot(dot, **{f"i{number}": array for number, array in enumerate(named)})
    drawn = dot.getvalue()
    return not all(f'"i{number}"' in drawn for number in range(len(named)))


def _renumbered(group: Group, slots: tuple[int, ...]) -> Group:
    """Return a group whose inputs are counted otherwise: number k is `slots[k]` now."""
    if slots == tuple(range(len(slots))):
        return group
    uses: Counter[int] = Counter()
    for slot, use in group.uses.items():
        uses[slots[slot]] += use
    return replace(
        group,
        alias=group.alias if group.alias < 0 else slots[group.alias],
        walk=tuple(
            [Touch(step.visit if step.visit < 0 else slots[step.visit], tuple([slots[k] for k in step.taps]))
             for step in group.walk]
        ),
        inputs=tuple(dict.fromkeys(slots[k] for k in group.inputs)),
        uses=dict(uses),
        early=frozenset(slots[k] for k in group.early),
        split=frozenset(slots[k] for k in group.split),
        variants={first: _renumbered(variant, slots) for first, variant in group.variants.items()},
        alone={k: frozenset(slots[at] for at in taken if at >= 0) for k, taken in group.alone.items()},
    )  # fmt: skip


def _in_one_go(outputs: int, slots: tuple[int, ...]) -> Group:
    """Return a call with a backward pass of its own: one node of MLX's graph, which takes its inputs in order."""
    taps = tuple(dict.fromkeys(slots))
    walk = (*(Touch(slot) for slot in taps), Touch(-1, taps))
    uses = dict.fromkeys(taps, 1)
    return Group(tuple(range(outputs)), -1, False, walk, taps, uses, False, frozenset(taps))


def _freeze(part: Any) -> Any:
    kind = type(part)
    if kind is Value or kind is Leaf:
        held = part.held
        return (part.shape, _TOLD(part.dtype)) if held is None else (held.shape, _TOLD(held.dtype))
    if kind is list or kind is tuple:
        return tuple([_freeze(item) for item in part])
    if kind is dict:
        return tuple([(key, _freeze(item)) for key, item in part.items()])
    if kind is slice:
        return "slice", _freeze(part.start), _freeze(part.stop), _freeze(part.step)
    if kind is DrawnKey or kind is Data:
        return kind
    if hasattr(part, "__array_interface__"):
        return "numpy", part.shape, str(part.dtype)
    if isinstance(part, Value):
        return part.shape, _TOLD(part.dtype)
    return kind, part


_DTYPES = [dtype for dtype in vars(mx).values() if isinstance(dtype, mx.Dtype)]
# MLX hands out a new object for a dtype each time, and comparing two costs more than all else here. Their hashes are
# the numbers by which MLX itself tells them apart.
_TOLD: Callable[[mx.Dtype], Any] = hash if len(set(map(hash, _DTYPES))) == len(set(_DTYPES)) else lambda dtype: dtype


# -- looking inside ----------------------------------------------------------------------------------------


def stand_in(shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
    """Return an array of a given shape and dtype that takes no memory and is never evaluated."""
    return _broadcast_to(construct(0, dtype), shape)


def graph(outputs: dict[str, mx.array], inputs: dict[str, mx.array]) -> list[str | Primitive]:
    """MLX's walk through the graph between `inputs` and `outputs`, depth first over each primitive's inputs:
    the primitives in the order in which they are left, and the names of inputs where they are first met.
    What lies before the inputs is not part of it."""
    dot = io.StringIO()
    _export_to_dot(dot, **outputs, **inputs)
    made_by = {name: step for step in parse_dot(dot.getvalue()) for name in step.outputs}
    steps: list[str | Primitive] = []
    seen: set[str | Primitive] = set()

    def arrive(name: str) -> None:
        step: str | Primitive | None = name if name in inputs else made_by.get(name)
        if step is None or step in seen:
            return
        seen.add(step)
        if isinstance(step, str):
            steps.append(step)
        else:
            stack.append((step, 0))

    for output in outputs:
        stack: list[tuple[Primitive, int]] = []
        arrive(output)
        while stack:
            step, at = stack.pop()
            if at < len(step.inputs):
                stack.append((step, at + 1))
                arrive(step.inputs[at])
            else:
                steps.append(step)
    return steps


def _dissect(op: Op, slots: tuple[int, ...], inputs: Sequence[Value]) -> tuple[Group, ...]:
    """Return the groups of an op, from a call of its own on stand-ins."""
    stands = [stand_in(value.shape, value.dtype) for value in inputs]
    index = dict(zip(op.inputs, slots, strict=True))
    return _groups(op.compute(lambda value: stands[index[value]]), stands)


def _groups(outputs: list[mx.array], inputs: list[mx.array]) -> tuple[Group, ...]:
    leaves = {f"i{slot}": array for slot, array in enumerate(inputs)}
    made_by = {
        name: step for step in graph(_named(outputs, range(len(outputs))), leaves)
        if isinstance(step, Primitive) for name in step.outputs
    }  # fmt: skip
    families: dict[Primitive, list[int]] = {}
    groups: list[Group] = []
    for k, output in enumerate(outputs):
        maker = made_by.get(f"o{k}")
        if maker is None:
            groups.append(_unmade(k, output, inputs) or _twin(k, outputs, made_by) or _constant(k))
        elif maker.label == "StopGradient":  # what value_and_grad returns besides the loss
            groups.append(replace(_group(_named(outputs, (k,)), leaves), stopped=True))
        else:
            families.setdefault(maker, []).append(k)
    alone = [family for maker, family in families.items() if not _reaches(maker, made_by, leaves)]
    if alone:  # zeros, where no gradient flows inside: they do not belong with the others
        groups += [_group(_named(outputs, family), leaves) for family in alone]
        families = {maker: family for maker, family in families.items() if family not in alone}
    if len(families) > 1 and _share(list(families), made_by):
        return (_merged(outputs, sorted(k for family in families.values() for k in family), leaves), *groups)
    return (*(_group(_named(outputs, family), leaves) for family in families.values()), *groups)


def _merged(outputs: list[mx.array], family: list[int], leaves: dict[str, mx.array]) -> Group:
    """One group for outputs that different primitives make, which have primitives before them in common: the order
    inside depends on which of them is needed first."""
    walks = {first: [first, *(k for k in family if k != first)] for first in family}
    groups = {first: _group(_named(outputs, order), leaves) for first, order in walks.items()}
    alone = {k: _group(_named(outputs, (k,)), leaves).before(k) for k in family}
    return replace(groups[family[0]], variants=groups, alone=alone)


def _named(outputs: list[mx.array], which: Iterable[int]) -> dict[str, mx.array]:
    return {f"o{k}": outputs[k] for k in which}


def _group(outputs: dict[str, mx.array], leaves: dict[str, mx.array]) -> Group:
    walk: list[Touch] = []
    steps = list(graph(outputs, leaves))
    differentiated = _differentiated(outputs, [step for step in steps if isinstance(step, Primitive)])
    for step in steps:
        if isinstance(step, str):
            walk.append(Touch(int(step[1:])))
            continue
        taps = tuple(int(name[1:]) for name in step.inputs if name in leaves)
        if taps and step in differentiated:
            walk.append(Touch(-1, taps))
    uses = Counter(slot for step in walk for slot in step.taps)
    tapping = [step for step in walk if step.taps]
    visits = [at for at, step in enumerate(walk) if step.visit >= 0]
    tapped = {slot: [at for at, step in enumerate(walk) if slot in step.taps] for slot in uses}
    # A tap after the last visit: no gradient of another op can come between it and the next, so MLX adds them in a row.
    last_visit = max((at for at, step in enumerate(walk) if step.visit >= 0), default=-1)
    return Group(
        outputs=tuple(int(name[1:]) for name in outputs),
        alias=-1,
        stopped=False,
        walk=tuple(walk),
        inputs=tuple(uses),
        uses=dict(uses),
        # One primitive takes each input once, and last of all: what its VJP gives needs no order among its parts.
        simple=len(tapping) == 1 and walk[-1] is tapping[0] and all(use == 1 for use in uses.values()),
        early=frozenset(slot for at, step in enumerate(walk) if at > last_visit for slot in step.taps),
        split=frozenset(slot for slot, at in tapped.items() if any(at[0] < visit < at[-1] for visit in visits)),
    )


def _differentiated(outputs: Iterable[str], steps: list[Primitive]) -> set[Primitive]:
    """Return the primitives that MLX differentiates: it walks through a `stop_gradient`, but what is only there behind
    one gives nothing to what it was made of, not even zeros (`vjp` in mlx/transforms.cpp): a rule of the program's own
    there does not run."""
    made_by = {name: step for step in steps for name in step.outputs}
    found: set[Primitive] = set()
    pending = [made_by[name] for name in outputs if name in made_by]
    while pending:
        step = pending.pop()
        if step not in found and step.label != "StopGradient":
            found.add(step)
            pending.extend(made_by[name] for name in step.inputs if name in made_by)
    return found


def _unmade(output: int, array: mx.array, inputs: list[mx.array]) -> Group | None:
    """Return an output that is one of the inputs; None if it is not."""
    slot = next((slot for slot, stand in enumerate(inputs) if is_node(array, stand)), -1)
    return None if slot < 0 else replace(_constant(output), alias=slot, stopped=False, inputs=(slot,), uses={slot: 1})


def _twin(output: int, outputs: list[mx.array], made_by: dict[str, Primitive]) -> Group | None:
    """Return an output that is another output of the call; None if it is not. MLX draws one node for both."""
    drawn = [k for k in range(len(outputs)) if f"o{k}" in made_by]
    twin = next((k for k in drawn if is_node(outputs[output], outputs[k])), -1)
    return None if twin < 0 else replace(_constant(output), twin=twin)


def _constant(output: int) -> Group:
    """Return an output that is made of nothing: no gradient passes."""
    return Group((output,), -1, True, (), (), {}, False, frozenset())


def is_node(array: mx.array, other: mx.array) -> bool:
    """Whether two Python objects are the same node of MLX's graph: of two names, only one is drawn then."""
    # MLX names a node once (`export_to_dot` in mlx/graph_utils.cpp): of two names for one, the first is not drawn.
    dot = io.StringIO()
    _export_to_dot(dot, a=array, b=other)
    return '"a"' not in dot.getvalue()


def _behind(root: Primitive, made_by: dict[str, Primitive]) -> set[Primitive]:
    """Return a primitive and all that lies before it."""
    reached: set[Primitive] = set()
    pending = [root]
    while pending:
        step = pending.pop()
        if step not in reached:
            reached.add(step)
            pending.extend(made_by[name] for name in step.inputs if name in made_by)
    return reached


def _reaches(root: Primitive, made_by: dict[str, Primitive], leaves: dict[str, mx.array]) -> bool:
    """Whether any of the leaves lies before a primitive."""
    return any(name in leaves for step in _behind(root, made_by) for name in step.inputs)


def _share(roots: list[Primitive], made_by: dict[str, Primitive]) -> bool:
    """Whether primitives that make different outputs have primitives before them in common."""
    seen: set[Primitive] = set()
    for root in roots:
        reached = _behind(root, made_by)
        if seen & reached:
            return True
        seen |= reached
    return False
