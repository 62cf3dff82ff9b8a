"""No gradient: parameters that the loss does not reach, and what a model keeps from training itself."""

from __future__ import annotations

import re
from collections.abc import Iterator

from mlx.utils import tree_flatten

from nnrepl.explain import words
from nnrepl.explain.answer import Cause
from nnrepl.explain.disconnected import why_none
from nnrepl.explain.health.gradient_findings import leaf_names
from nnrepl.explain.health.report import NOTE, WARNING, Check, Checkup, Finding, findings
from nnrepl.explain.paths import root_modules
from nnrepl.ops import Trait, has
from nnrepl.session.births import is_inexact
from nnrepl.tape import GRADIENT_PASS, Pass, Value
from nnrepl.tape.claims import Claim, Possibility


def missing(case: Checkup) -> Iterator[Finding]:
    """Parameters that no gradient reaches, grouped by the reason."""
    pass_ = case.pass_
    none = [leaf for leaf in pass_.wrt if not pass_.grads.get(leaf) and leaf.size and is_inexact(leaf)]
    holes = [hole for hole in case.session.tape.holes if pass_.start <= hole.position < pass_.end]
    if none and holes:
        yield from findings(
            Possibility("finding: hole", lambda: bool(holes), lambda: (
                f"{leaf_names(none)} {'has' if len(none) == 1 else 'have'} no gradient, but "
                f"{words.counted(len(holes), 'tensor')} of the pass came from something that was not recorded, so the "
                "way may lead through there")),
            "hole", "verify", None, NOTE)  # fmt: skip
        return
    frozen, trained = _paths(pass_)
    kept = [leaf for leaf in none if _is_under(leaf, frozen) and not _is_under(leaf, trained)]
    if kept:
        yield from findings(_are_kept(case, kept), "no gradient", f"why grad({kept[0].name})", None, NOTE)
    none = [leaf for leaf in none if leaf not in kept and not _learns_elsewhere(case, leaf)]
    reached = {_pattern(leaf.name) for leaf in pass_.wrt if pass_.grads.get(leaf)}
    groups: dict[object, list[tuple[Value, Cause]]] = {}
    for leaf in none[:_LOOKED]:
        why = why_none(case.session, leaf, pass_)
        sibling = why.cause == "unused" and _pattern(leaf.name) in reached
        first_word = leaf.name.partition(".")[0] if "." in leaf.name else ""
        key = why.op if why.op is not None else (why.cause, first_word)
        groups.setdefault((key, sibling), []).append((leaf, why))
    for (_, sibling), group in groups.items():  # type: ignore[misc]
        first, why = group[0]
        # What only takes part in choosing experts or positions (a router's bias) is trained in another way, if at all.
        chosen = why.op is not None and has(why.op.name, Trait.PLACES)
        reason = " ".join(why.reasons[:2] if why.cause == "unused" else why.reasons[:1]) or why.headline
        yield from findings(_never_get(case, [leaf for leaf, _ in group], reason), "no gradient",
                            f"why grad({first.name})", why.op, NOTE if chosen or sibling else WARNING)  # fmt: skip


def _learns_elsewhere(case: Checkup, leaf: Value) -> bool:
    """Whether another function of the program's teaches a weight: of two losses each has a head of its own."""
    home = case.session.names.homes.of(leaf)
    others = [other for other in case.session.tape.passes if other.kind == GRADIENT_PASS and other not in case.series]
    return home is not None and any(
        other.grads.get(one) and case.session.names.homes.of(one) == home
        for other in others for one in other.wrt if one.name == leaf.name
    )  # fmt: skip


def _paths(pass_: Pass) -> tuple[set[str], set[str]]:
    """Return the paths under which modules of MLX hold what they keep from training (the statistics of a BatchNorm),
    and those of what modules train: a frozen copy of a model has its names as well."""
    kept: set[str] = set()
    trained: set[str] = set()
    for root in root_modules(pass_):
        for path, one in root.named_modules():
            no = getattr(one, "_no_grad", ()) if type(one).__module__.startswith("mlx.") else ()
            kept.update(f"{path}.{name}".lstrip(".") for name in no)
        trained.update(pair[0] for pair in tree_flatten(root.trainable_parameters()))
    return kept, trained


def _is_under(leaf: Value, paths: set[str]) -> bool:
    """Whether a leaf is called by one of the paths, as they are or with words before."""
    return any(leaf.name == path or leaf.name.endswith(f".{path}") for path in paths)


def _are_kept(case: Checkup, leaves: list[Value]) -> Claim[str]:
    """Claim that no gradient comes to what a module of MLX keeps from training."""
    are, them = ("is", "it") if len(leaves) == 1 else ("are", "them")
    return Claim("finding: kept from training", lambda: not any(map(case.pass_.grads.get, leaves)), lambda: (
        f"{leaf_names(leaves)} {are} differentiated as well, though the model keeps {them} from training, and no "
        "gradient comes there: give the gradient call trainable_parameters()"))  # fmt: skip


def _never_get(case: Checkup, leaves: list[Value], reason: str) -> Claim[str]:
    """Claim that no gradient of some parameters is on the tape, that of no op of the pass either."""
    of = {leaf.canonical for leaf in leaves}

    def holds() -> bool:
        return not any(one.gradient_of in of for op in case.pass_.ops if op.of is not None for one in op.outputs)

    return Claim(
        "finding: no gradient",
        holds,
        lambda: (
            f"{leaf_names(leaves)} get{'s' if len(leaves) == 1 else ''} no gradient in {case.pass_.address}: {reason}"
        ),
    )


def _pattern(name: str) -> str:
    """`layers.*.weight`: what the same parameter of another layer is called as well."""
    return re.sub(r"\.\d+(?=\.|$)", ".*", name)


_LOOKED = 64
CHECKS: list[Check] = [missing]
