"""Programs for what `check` says: each kind of its sentences is so in one of them, and not in another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx

import nnrepl
from nnrepl.explain.check import check_op, check_pass
from nnrepl.explain.check_found import Checked, CheckReport, Element, Near, Rounded, _worst, beside, details, verdict
from nnrepl.explain.differences import CentralDifference
from nnrepl.tape import Value, claims
from tests.support import OpenSession

W = mx.array([[0.5, -1.0, 2.0], [2.0, 0.25, 1.0], [-0.75, 1.5, 0.3]])


def told(report: CheckReport) -> str:
    """All that is said of it, in a line."""
    said = [line for one in report.checked for line in (verdict(one), *details(one))]
    return " ".join(" ".join([*said, *beside(report)]).replace("−", "-").split())


def checked(fn: Callable[[mx.array], mx.array], of: mx.array = W, op: str = "") -> Callable[[Path], str]:
    def program(folder: Path) -> str:
        session = OpenSession(nnrepl.trace(fn, of, wrt=0))
        pass_ = session.tape.passes[0]
        if op:
            return told(check_op(session, next(one for one in pass_.forward if one.operation.kind == op)))
        return told(check_pass(session, pass_, [leaf for leaf in pass_.wrt if pass_.grads.get(leaf)]))

    return program


@mx.custom_function
def own(w: mx.array) -> mx.array:
    return mx.sin(w)


@own.vjp
def _own(w: mx.array, g: mx.array, out: mx.array) -> mx.array:
    return g * 1.5


def slope(value: float, **more: float) -> CentralDifference:
    return CentralDifference(**{"value": value, "left": value, "right": value, "doubt": 0.0, "jump": 0.0, **more})


def reports(folder: Path) -> str:
    """What seldom happens: numbers that a check may come to, and others that it may not."""
    of: Value = nnrepl.trace(lambda w: mx.sin(w).sum(), W, wrt=0).ops[0].inputs[0]
    right, off = Element((0, 0), 1.0, slope(1.0), 1e-3), Element((0, 1), 2.0, slope(1.0), 1e-3)
    kink = Element((0, 2), 0.5, slope(0.5, left=0.0, right=1.0, jump=1.0), 1e-3)
    none = Element((1, 0), float("nan"), slope(1.0))
    found: list[dict[str, Any]] = [
        {"elements": [right], "near": [Near(off, slope(2.0))]}, {"elements": [right], "near": [Near(off, slope(1.0))]},
        {"elements": [right, kink], "kinks": [kink] * 4}, {"elements": [right], "kinks": [right]},
        {"elements": [right], "rounded": [Rounded(off, 1.0)]}, {"elements": [right], "rounded": [Rounded(off, 2.0)]},
        {"elements": [right, off], "rough": [off]}, {"elements": [off], "rough": [off]},
        {"elements": [right, none], "undefined": [none]}, {"elements": [right], "undefined": [right]},
        {"elements": [right], "wrong": [right]}, {"elements": [off]},
    ]  # fmt: skip
    several = [Checked("∂L/∂w", of, **one) for one in found]
    assert not claims.say(_worst(several[0], off))
    return told(CheckReport(several, left=2)) + told(CheckReport([Checked("∂L/∂w", of, elements=[right])], left=0))


CHECKS: list[Callable[[Path], str]] = [
    checked(lambda w: mx.sin(w).sum()),
    checked(lambda w: mx.sin(w).sum(), W * mx.nan),
    checked(lambda w: mx.maximum(w - 0.5, 0).sum()),
    checked(lambda w: (mx.sin(w) * mx.stop_gradient(w)).sum()),
    checked(lambda w: own(w * 2).sum()),
    checked(lambda w: own(w * 2).sum(), op="custom"),
    checked(lambda w: mx.sin(w).sum(), mx.zeros((0, 3))),
    checked(lambda w: mx.real(w * w).sum(), W.astype(mx.complex64)),
    reports,
]
