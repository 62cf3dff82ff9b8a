"""Parameters: weights that MLX does not see, and weights that were one and are two."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any

import mlx.core as mx

from nnrepl.explain import words
from nnrepl.explain.disconnected import leads_to_loss
from nnrepl.explain.health.report import NOTE, WARNING, Check, Checkup, Finding, findings
from nnrepl.explain.masks import is_mask
from nnrepl.explain.paths import calls_of, root_modules
from nnrepl.ops import Trait, has
from nnrepl.record import trees
from nnrepl.record.stack import is_module
from nnrepl.tape import Leaf, Op, Pass, Value
from nnrepl.tape.claims import Claim

_DEEP = 4


def contained(case: Checkup) -> Iterator[Finding]:
    """Layers in a tuple or in an object of the program's own: MLX looks into lists and dicts only."""
    owners = {id(step.owner) for step in calls_of(case.forward) if is_module(step.owner)}
    used = {id(taken.held) for op in case.forward for taken in op.inputs if isinstance(taken, Leaf)}
    used |= {id(taken.origin.held) for op in case.forward for taken in op.inputs if taken.origin is not None}
    for root in root_modules(case.pass_):
        for path, module in root.named_modules():
            for name, holder in _attributes(module):
                hidden = [(where, array) for where, thing in _inside(holder, name, 0)
                          for where, array in _weights(where, thing, owners, used)]  # fmt: skip
                if not hidden:
                    continue
                case.hidden |= {id(array) for _, array in hidden}
                prefix = f"{path}." if path else ""
                paths = [f"{prefix}{where}" for where, _ in hidden]
                claim = _unseen_in(root, f"{prefix}{name}", name, type(holder).__name__, paths, [a for _, a in hidden])
                yield from findings(claim, "hidden weights", "info parameters")


def _unseen_in(root: Any, path: str, name: str, kind: str, paths: list[str], hidden: list[mx.array]) -> Claim[str]:
    """Claim that arrays are none of the parameters that MLX finds in a model."""
    shown = ", ".join(paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
    are, no, them = ("is", "is no parameter", "it") if len(paths) == 1 else ("are", "are no parameters", "them")
    return Claim("finding: hidden weights", lambda: not _found_in(root) & {id(array) for array in hidden}, lambda: (
        f"{path} is a {kind}, into which MLX does not look: {shown} {are} used by the pass, but {no} of the model, so "
        f"what trains (or saves) its parameters leaves {them} out; write a list: self.{name} = [...]"))  # fmt: skip


def _found_in(root: Any) -> set[int]:
    """Return what MLX finds in a model as its parameters."""
    return {id(array) for _, array in trees.paths(root.parameters())}


def _attributes(module: Any) -> Iterator[tuple[str, Any]]:
    """Yield what a module holds where MLX does not look for parameters."""
    for name, thing in [*dict.items(module), *vars(module).items()]:
        seen = isinstance(thing, (list, dict, mx.array)) or is_module(thing)
        if not seen and not name.startswith("_") and _is_holder(thing):
            yield name, thing


def underscored(case: Checkup) -> Iterator[Finding]:
    """Weights under a name that begins with an underscore, which MLX leaves out of the parameters. What layers of a
    kind have in common is told once."""
    homes = case.session.names.homes
    found: dict[tuple[str, bool], dict[str, tuple[Any, Op, list[Any]]]] = {}
    for op in case.forward:
        for value in _weights_of(op):
            home = homes.of(value)
            holder, path = (None, "") if home is None else homes.path(home)
            root, parts = None if holder is None else holder.refer(), path.split(".")
            at = next((at for at, part in enumerate(parts) if part.startswith("_")), None)
            if is_module(root) and at is not None and leads_to_loss(case.session, case.pass_, value):
                same = found.setdefault((parts[at], at < len(parts) - 1), {})
                same.setdefault(".".join(parts[: at + 1]), (root, op, homes.objects(value)))
    for (_, is_layer), places in found.items():
        op = next(iter(places.values()))[1]
        yield from findings(
            _underscored(places), "hidden weights", f"what {op.label}", op, WARNING if is_layer else NOTE
        )


def _underscored(places: dict[str, tuple[Any, Op, list[Any]]]) -> Claim[str]:
    """Claim that what products take is none of the parameters that MLX finds in a model."""

    def holds() -> bool:
        return not any(_found_in(root) & {id(array) for array in held} for root, _, held in places.values())

    op, names = next(iter(places.values()))[1], list(places)
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    others = f", as {'are' if more else 'is'} {names[1]}{more}," if len(names) > 1 else ""
    return Claim("finding: underscored weights", holds, lambda: (
        f"{names[0]} is used as a weight by {op.label} {words.call(op)} ({words.place(op.source)}){others} and MLX "
        "leaves what begins with an underscore out of the parameters: what trains (or saves) them leaves "
        f"{'them' if others else 'it'} out"))  # fmt: skip


def _weights_of(op: Op) -> Iterator[Value]:
    """Yield the matrices that a product takes, as they were before they were transposed."""
    for taken in op.inputs if has(op.name, Trait.PRODUCT) else ():
        while taken.op is not None and taken.op.inputs and has(taken.op.name, Trait.ARRANGES):
            taken = taken.op.inputs[0]
        if len(taken.shape) > 1:
            yield taken


def _is_holder(thing: Any) -> bool:
    """Whether something may hold layers: a tuple, a set, an object of the program's own (no function, no class)."""
    if isinstance(thing, (tuple, set, frozenset)):
        return True
    return hasattr(thing, "__dict__") and not isinstance(thing, (type, FunctionType, MethodType, ModuleType, partial))


def _inside(thing: Any, path: str, depth: int) -> Iterator[tuple[str, Any]]:
    """Yield the modules and arrays in a container, with their paths as the program writes them."""
    if depth > _DEEP:
        return
    if is_module(thing) or isinstance(thing, mx.array):
        yield path, thing
    elif isinstance(thing, (list, tuple, set, frozenset)):
        for at, item in enumerate(itertools.islice(thing, 256)):
            yield from _inside(item, f"{path}[{at}]", depth + 1)
    elif isinstance(thing, dict):
        for key, item in list(thing.items())[:256]:
            yield from _inside(item, f"{path}[{key!r}]", depth + 1)
    elif hasattr(thing, "__dict__") and not isinstance(thing, type):
        for name, item in list(vars(thing).items())[:64]:
            if isinstance(item, (list, tuple, dict, mx.array)) or is_module(item):
                yield from _inside(item, f"{path}.{name}", depth + 1)


def _weights(path: str, thing: Any, owners: set[int], used: set[int]) -> Iterator[tuple[str, mx.array]]:
    """Yield the arrays of a hidden module that has made ops of the pass, or a hidden array that an op has taken."""
    if isinstance(thing, mx.array):
        if id(thing) in used and mx.issubdtype(thing.dtype, mx.inexact):
            yield path, thing
    elif any(id(inner) in owners for inner in thing.modules()):
        for name, array in trees.paths(thing.trainable_parameters()):
            yield f"{path}.{name}", array


def tied(case: Checkup) -> Iterator[Finding]:
    """Parameters that were one array when training began: MLX differentiates and updates each of them alone."""
    first = case.series[0]
    shared: dict[Any, list[Leaf]] = {}
    for leaf in first.wrt:
        if isinstance(leaf, Leaf) and leaf.kind == "parameter" and leaf.origin is not None and leaf.size > 1:
            shared.setdefault(leaf.origin, []).append(leaf)
    for group in shared.values():
        if len(group) < 2 or is_mask(case.look, group[0]):  # a mask is told as what it is
            continue
        yield from findings(_were_one(case, first, group), "untied weights", f"p {group[0].name} - {group[1].name}")


def _were_one(case: Checkup, first: Pass, group: list[Leaf]) -> Claim[str]:
    """Claim that parameters held the same numbers when training began, and are differentiated one by one."""

    def holds() -> bool:
        case.look.see(group)
        same = [mx.array_equal(group[0].array, one.array, equal_nan=True) for one in group[1:]]
        return all(one in first.wrt for one in group) and all(case.look.numbers(same))

    names = " and ".join(leaf.name for leaf in group[:3])
    return Claim("finding: untied weights", holds, lambda: (
        f"{names} were one array when {first.address} began, and are {len(group)} parameters to MLX: each gets its own "
        f"gradient and its own update{_apart(case, [leaf.name for leaf in group])}. Keep one, and use it in both "
        "places"))  # fmt: skip


def _apart(case: Checkup, names: list[str]) -> str:
    """How far two parameters are apart in the last pass on the tape."""
    last = case.series[-1]
    leaves = {leaf.name: leaf for leaf in last.wrt}
    pair = [leaves.get(name) for name in names[:2]]
    a, b = pair
    if a is None or b is None or a.shape != b.shape or not (case.look.can_see(a) and case.look.can_see(b)):
        return ""
    case.look.see([a, b])
    far = case.look.numbers([mx.max(mx.abs(a.array - b.array))])[0]
    return f" (in {last.address} they differ by up to {words.number(far)})" if far else ""


CHECKS: list[Check] = [contained, underscored, tied]
