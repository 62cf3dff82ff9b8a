"""Claims: each kind of sentence is checked before it is said, in programs in which it is so and others in which it is
not; and where its check says no, it is not said."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_type_hints

import mlx.core as mx
import numpy as np
import pytest
from rich.console import Console

import nnrepl
from nnrepl.commands.interpreter import Interpreter
from nnrepl.explain.answer import Cause
from nnrepl.explain.explanation import Explanation
from nnrepl.explain.forward import Growth
from nnrepl.explain.health.report import Finding
from nnrepl.explain.links import Told
from nnrepl.explain.look import Look, Stat
from nnrepl.explain.nonfinite import _all_finite
from nnrepl.explain.taught import RuleText, Taught
from nnrepl.explain.zero_reasons import Reason
from nnrepl.ops.case import Operand
from nnrepl.ops.evaluated import Defined, Definition, Disagrees, Evaluated, Line, Worked, worked_out
from nnrepl.ops.expression import Node, quantity
from nnrepl.programs.saved import open_session
from nnrepl.record.verify import TensorDifference
from nnrepl.session.counterparts import Match, Matched
from nnrepl.session.errors import UserError
from nnrepl.session.findings import Stretched, Vanished, WentBad
from nnrepl.session.reference import Compared, Verdict
from nnrepl.shell.api import answer
from nnrepl.tape import Hole, claims
from nnrepl.tape.claims import Claim, Said
from nnrepl.timeline.compare import Distance
from nnrepl.view.compared import compare_view
from nnrepl.view.diff import _lengths, diff_view
from nnrepl.view.receipt import receipt_view
from nnrepl.view.stop_list import finding_view
from nnrepl.view.theme import THEMES
from tests.explain.said_checks import CHECKS
from tests.explain.said_remarks import REMARKS
from tests.explain.said_whys import MADE, WHYS, ZEROS
from tests.explain.said_wrongly import WRONGS
from tests.explain.test_claims import ZERO, attention
from tests.support import OpenSession

ROOT = Path(nnrepl.__file__).parent
W = mx.array([[0.5, -1.0, 2.0], [2.0, 0.25, 1.0], [-0.75, 1.5, 0.3]])


CLAIMS = ("Claim", "Possibility")


@cache
def kinds() -> dict[str, str]:
    """Every kind of claim that the source has, with its file."""
    found: dict[str, str] = {}
    for path in sorted(ROOT.rglob("*.py")):
        text = path.read_text()
        for node in ast.walk(ast.parse(text)) if "Claim(" in text else ():
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in ("Claim", "Possibility")
            ):
                name = node.args[0]
                assert isinstance(name, ast.Constant), f"{path}:{node.lineno}: a kind is written out"
                assert name.value not in found, f"{name.value} is in {path} and {found[name.value]}"
                found[name.value] = str(path)
    return found


def shown(thing: Any) -> str:
    console = Console(width=200, color_system=None)
    console.push_theme(THEMES["dark"])
    with console.capture() as capture:
        console.print(thing)
    return " ".join(capture.get().replace("−", "-").split())


def lines(session: OpenSession, *typed: str) -> str:
    said = []
    for line in typed:
        try:
            said.append(shown(session.run(line)))
        except UserError as error:
            said.append(str(error))
    return " ".join(said)


def trace(fn: Callable[..., mx.array], *args: Any, wrt: Any = 0) -> OpenSession:
    return OpenSession(nnrepl.trace(fn, *args, wrt=wrt))


def plain(w: mx.array) -> mx.array:
    h = w @ w
    z = mx.tanh(h)
    return z.sum()


# -- verify ------------------------------------------------------------------------------------------------------


def verified() -> str:
    fresh = trace(lambda w: (mx.tanh(w) + mx.vmap(mx.sin)(w)).sum(), W)
    both = trace(lambda w: mx.sin(w @ w).sum(), W)
    return lines(fresh, "verify", "verify") + lines(both, "verify")


def wrongly_verified() -> str:
    """What the recording of a debugger with a fault would be told: a tape that was meddled with."""
    traced = nnrepl.trace(plain, W, wrt=0)
    receipt = traced.verify()
    bad = (TensorDifference("#1 matmul", 0.5),)
    hole = Hole(traced["h"], 0, "it came from nowhere")
    several = (
        replace(receipt, gradient_error="no"),
        replace(receipt, different=bad),
        replace(receipt, calls=1, calls_different=bad),
        replace(receipt, gradients_different=bad),
        replace(receipt, different=(replace(bad[0], unsteady=True),)),
        replace(receipt, gradients_different=(replace(bad[0], unsteady=True),)),
        replace(receipt, unaccounted=("#1 matmul also depends on x",)),
        replace(receipt, holes=(hole,)),
        replace(receipt, ops=0, uncompared=2),
        replace(receipt, unseen=2, unasked=("gradients",)),
    )
    return " ".join(shown(receipt_view(one)) for one in several)


# -- diff --------------------------------------------------------------------------------------------------------


def branching(w: mx.array) -> mx.array:
    h = w * 2
    z = mx.exp(h) if h.sum().item() > 0 else mx.sin(h)  # type: ignore[operator]
    return z.sum()


def differences() -> str:
    same, other = trace(plain, W), trace(plain, W)
    found = lines(same, "goto z", "h = h * 1", "diff") + lines(other, "goto z", "h = h * 2", "diff")
    parted = trace(branching, W)
    found += lines(parted, "goto h", "step", "h = h * -1", "diff", "diff h")
    line = same.changes.timelines.current
    found += shown(diff_view(line, line, [], 0)) + shown(diff_view(line, line, [], 7, unseen=[2]))
    longer = trace(lambda w: mx.sin(w @ w).sum() * 2, W)
    for first, second in ((other, longer), (other, other)):  # a tape that was followed less far than another
        sides = [SimpleNamespace(number=n, tape=one.tape, extent=f"step {n}", ended=False) for n, one in
                 enumerate((first, second), 1)]  # fmt: skip
        found += " ".join(shown(line) for line in _lengths(*sides))  # type: ignore[arg-type]
    sides[0].extent = sides[1].extent
    sides[1].tape = longer.tape
    return found + " ".join(shown(line) for line in _lengths(*sides))  # type: ignore[arg-type]


# -- compare -----------------------------------------------------------------------------------------------------


def compared(folder: Path, made: Callable[[mx.array], mx.array]) -> str:
    def fn(x: mx.array) -> mx.array:
        a = x * 2 + 0.125
        return a.sum()

    x = mx.array([[1.0, 2.0, -3.0], [0.5, 4.0, 1.5], [2.5, -0.5, 0.75]])
    path = folder / "r.npz"
    np.savez(path, a=np.array(made(x * 2 + 0.125)))
    session = trace(fn, x, wrt=None)
    return lines(session, "goto end", f"compare {path}")


CHANGED: list[Callable[[mx.array], mx.array]] = [
    lambda a: a,
    lambda a: a * 2,
    lambda a: a + 0.5,
    lambda a: a + mx.array([1.0, -2.0, 0.5]),
    lambda a: a * mx.array([1.0, 2.0, 0.5]),
    lambda a: a * mx.array([[1.0], [2.0], [0.5]]),
    lambda a: a.T,
    lambda a: mx.where(mx.arange(9).reshape(3, 3) == 4, a + 7, a),
    lambda a: mx.where(mx.arange(9).reshape(3, 3) == 4, mx.nan, a),
    lambda a: mx.sin(a),
]


def wrongly_compared() -> str:
    """What would be shown if a fault of nnrepl's had counted as the same what is not."""
    value = nnrepl.trace(plain, W, wrt=0)["h"]
    far = Compared(Match(value, "h", "by name"), (3, 3), (0, 1), Distance(False, 3.0, 1.0, (0, 0)), 1.0, 1e-5)
    verdicts = (Verdict([far], None, [], [], {}), Verdict([], None, [], [], {}))
    return " ".join(shown(compare_view("r.npz", one, Matched([], {}, []), [])) for one in verdicts)


# -- catch -------------------------------------------------------------------------------------------------------


def caught() -> str:
    nan = mx.array([1.0, mx.nan])

    def masked(x: mx.array) -> mx.array:
        return (mx.log(x) - 1).sum() + mx.log(x * 0).sum()

    def stretched(x: mx.array) -> mx.array:
        return (x.reshape(3, 1) - mx.array([1.0, 2.0])).sum()

    def taken(x: mx.array) -> mx.array:
        return (x * mx.array([1.0, float("nan")])).sum()

    zero = trace(lambda w: (mx.maximum(w, 0) * 2).sum(), -mx.abs(W))
    both = mx.array([[mx.nan, 1.0], [3.0, 4.0]])
    return " ".join([
        lines(trace(masked, mx.array([0.0, 1.0])), "catch nan", "catch inf", "c", "c", "c"),
        lines(trace(lambda x: mx.sqrt(x).sum(), mx.array([-1.0, 4.0])), "catch nan", "c"),
        lines(trace(lambda x: (x * 2).sum(), nan), "catch nan", "c"),
        lines(trace(taken, mx.array([1.0, 2.0])), "catch nan", "c", "c"),
        lines(trace(lambda x: mx.sqrt(x - 3).sum(), both), "catch nan", "c", "c", "c"),
        lines(trace(stretched, mx.array([1.0, 2.0, 3.0])), "catch shape", "c"),
        lines(zero, "catch zero-grad", "c"),
    ])  # fmt: skip


def wrongly_caught() -> str:
    """What would be shown if a fault of nnrepl's had found what is not so."""
    traced = nnrepl.trace(plain, W, wrt=0)
    value = traced["h"]
    assert value.op is not None
    found = [
        Vanished(value.op, value, (value,), ()),
        Vanished(value.op, traced["z"], (Zero(value),), ()),  # type: ignore[arg-type]
        WentBad("NaN", value.op, value, (0, 0), 1.0, 1, (), True, mx.isnan),
        WentBad("NaN", value.op, value, (0, 0), 1.0, 1, (), False, mx.isnan),
        WentBad("NaN", traced["z"].op, value, (0, 0), 1.0, 1, (), False, mx.isnan),  # type: ignore[arg-type]
        Stretched(value.op),
    ]
    return " ".join(shown(line) for one in found for line in finding_view(one))


class Zero:
    """A tensor that is 0 everywhere, under another's name."""

    def __init__(self, value: Any) -> None:
        self._value, self.array = value, value.array * 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._value, name)


HALF = mx.array([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
FAULTS = ("stack", "rms_norm", "attention", "attention of one", "square of zeros")
ROWS = mx.array([[1.0], [-1.0], [0.0]])
MORE: list[Callable[[mx.array], mx.array]] = [
    lambda w: mx.where(w > 0.5, 1.0, 2.0).sum(),
    lambda w: ((w.astype(mx.float16) * 1e-4) * 1e-4).sum(),
    lambda w: mx.maximum(w - 100, 0).sum(),
    lambda w: ((w * HALF) * (1 - HALF)).sum(),
    lambda w: ((w * 1e-30) * 1e-30).sum(),
    lambda w: ((mx.ones((3, 3)) + w[:1]) * ROWS).sum(),
    lambda w: attention(w, mx.ones((3, 3)), mx.ones((3, 3))),
    lambda w: attention(w, W, mx.ones((3, 3))),
    lambda w: mx.floor(w).sum(),
    lambda w: mx.softmax(w[:, :1], axis=-1).sum(),
    lambda w: mx.softmax((w * 0)[:, :2], axis=-1).sum(),
    lambda w: ((mx.ones((3, 3)) @ w) * ROWS).sum(),
    lambda w: ((w @ (mx.ones((3, 3)) * 1e-30)) * 1e-30).sum(),
    lambda w: ((w @ mx.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])) * mx.array([0.0, 1.0])).sum(),
    lambda w: mx.cumsum(w * 2, axis=0)[:0].sum() + mx.sin(w).sum() * 0,
    lambda w: mx.sort(w, axis=-1).astype(mx.int32).astype(mx.float32).sum(),
    lambda w: mx.fast.rms_norm(w * 1e-30, None, 1e-5).sum() * 1e-30,
]


def zero(fn: Callable[[mx.array], mx.array]) -> Callable[[Path], str]:
    return lambda folder: lines(trace(fn, W), "goto end", "why grad(w)")


def whys(folder: Path) -> str:
    sound, masked = trace(plain, W), trace(lambda w: mx.softmax(mx.where(W > 0, w, -mx.inf), axis=-1).sum(), W)
    whole = trace(lambda x: (x * 2).sum(), mx.array([1, 2]), wrt=None)
    sound.run(f"save {folder / 't.safetensors'}")
    loaded, _ = open_session(str(folder / "t.safetensors"))
    said = " ".join(lines(session, "why nan") for session in (sound, masked, whole))
    bad = trace(plain, W * mx.nan)  # what would be shown if a fault of nnrepl's had overlooked the NaN
    look = Look(bad)
    look.finite([value for op in bad.tape.ops for value in op.outputs])
    return said + shown(answer(Interpreter(loaded), "why nan")) + shown(_all_finite(look, bad.tape.passes))


def healths() -> str:
    dead = trace(lambda w: mx.maximum(w - 100, 0).sum(), W)
    return lines(trace(lambda w: (mx.tanh(w @ W) * 0.1).sum(), W), "health") + lines(dead, "health")


Program = Callable[[Path], str]
PROGRAMS: dict[str, list[Program]] = {
    "verify": [lambda folder: verified(), lambda folder: wrongly_verified()],
    "diff": [lambda folder: differences()],
    "compare": [*(partial(compared, made=made) for made in CHANGED), lambda folder: wrongly_compared()],
    "catch": [lambda folder: caught(), lambda folder: wrongly_caught()],
    "check": CHECKS,
    "explain": REMARKS,
    "why": [whys, *WHYS, *WRONGS],
    "health": [lambda folder: healths()],
    "0": [*(zero(fn) for fn in [*(ZERO[name][0] for name in FAULTS), *MORE]), *MADE, *ZEROS],
}


Broken = frozenset[str]


class Log:
    """What checks said, and what the claims would have said.

    Attributes:
        broken: The kinds whose checks say no, whatever is so.
        refused: Those of them that were asked, and would have been so.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.held: dict[str, set[bool]] = {}
        self.sentences: dict[str, set[str]] = {}
        self.last: dict[str, Claim[Any]] = {}
        self.broken: Broken = frozenset()
        self.refused: set[str] = set()

        def proved(claim: Claim[Any]) -> bool:
            holds = claim.holds()
            self.held.setdefault(claim.kind, set()).add(holds)
            if holds:
                what = claim.what()
                text = str(getattr(what, "text", what)).replace("−", "-")
                self.sentences.setdefault(claim.kind, set()).add(" ".join(text.split()))
                self.last[claim.kind] = claim
                if isinstance(claim, claims.Possibility):
                    assert any(hedge in text for hedge in claims.HEDGES), text
            if claim.kind not in self.broken:
                return holds
            if holds:
                self.refused.add(claim.kind)
            return False

        monkeypatch.setattr(claims, "proved", proved)

    def run(self, program: Program, folder: Path, broken: Broken = frozenset()) -> tuple[str, dict[str, str]]:
        """Return all that a program says, and of each kind that is shown in it a sentence."""
        self.sentences.clear()
        self.refused.clear()
        self.broken = broken
        text = program(fresh(folder))
        shown = {kind: next((one for one in said if one in text), "") for kind, said in self.sentences.items()}
        return text, {kind: sentence for kind, sentence in shown.items() if sentence}


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    return Log(monkeypatch)


def other_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let everybody who looks see other numbers than those that are there."""

    def other(number: Any) -> Any:
        if isinstance(number, (bool, list)):
            return not number
        return number + 1 if isinstance(number, int) else float("nan")

    def stats(look: Look, values: Any) -> dict[Any, Stat]:
        return {value: Stat(one.size, 0 if one.is_zero else one.size, 0 if one.nans else one.size,
                            0 if one.infs else one.size, float("nan"), float("nan"))
                for value, one in as_they_are[0](look, values).items()}  # fmt: skip

    as_they_are = Look.stats, Look.numbers, Look.finite
    monkeypatch.setattr(Look, "stats", stats)
    monkeypatch.setattr(Look, "numbers", lambda look, arrays: [*map(other, as_they_are[1](look, arrays))])
    monkeypatch.setattr(Look, "finite", lambda look, values: {
        value: not one for value, one in as_they_are[2](look, values).items()})  # fmt: skip


def holds(claim: Claim[Any]) -> bool:
    try:
        return claim.holds()
    except (ValueError, ZeroDivisionError, OverflowError):  # a NaN where a number should be
        return False


@pytest.mark.parametrize("room", PROGRAMS)
def test_each_kind_is_so_in_a_program_and_not_in_another_and_not_said_where_its_check_says_no(
    room: str, log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = {kind for kind in kinds() if kind.partition(":")[0] == room}
    said: set[str] = set()
    for program in PROGRAMS[room]:
        _, shown = log.run(program, tmp_path)
        left = {kind: (sentence, Broken()) for kind, sentence in shown.items() if kind in wanted - said}
        said |= set(shown)
        while left:
            # All of these at once; those that nobody asks where the others are not said, one after the other.
            broken = Broken(left).union(*(before for _, before in left.values()))
            text, instead = log.run(program, tmp_path, broken)
            if not log.refused & set(left):
                kind, (_, before) = next(iter(left.items()))
                broken = before | {kind}
                text, instead = log.run(program, tmp_path, broken)
            refused = log.refused & set(left)
            assert refused, f"its check is not asked: {next(iter(left))}"
            for kind in refused:
                sentence, before = left.pop(kind)
                assert before or sentence not in text, f"{kind} is said though its check says no: {sentence}"
            # What is said where the first that could be is not.
            left |= {kind: (sentence, broken) for kind, sentence in instead.items() if kind in wanted - said}
            said |= set(instead)
    assert wanted <= said, f"nowhere so, or not shown: {wanted - said}"
    other_numbers(monkeypatch)
    never = {kind for kind in wanted - LEFT if False not in log.held[kind] and holds(log.last[kind])}
    assert not never, f"nowhere not so: {never}"


def fresh(folder: Path) -> Path:
    made = folder / str(len(list(folder.iterdir())))
    made.mkdir()
    return made


LEFT = {"0: sum cancels", "0: products are zero", "0: nothing left"}
"""Kinds that are what is left where all the others before them are not so: their twins hold in `test_claims`."""


def test_every_kind_has_a_room_of_programs() -> None:
    assert {kind.partition(":")[0] for kind in kinds()} <= {*PROGRAMS, "finding"}  # test_every_kind has those


def test_only_a_claim_that_holds_makes_a_sentence() -> None:
    assert claims.say(Claim("x", lambda: True, lambda: "so"), Claim("x", lambda: False, lambda: "not so")) == ["so"]
    assert claims.say_first([Claim("x", lambda: False, lambda: "a"), Claim("x", lambda: True, lambda: "b")]) == ["b"]
    assert all(type(said) is Said for said in claims.say(Claim("x", lambda: True, lambda: "so")))


def test_a_plain_string_is_no_answer() -> None:
    """mypy refuses one where a `Said` stands; and nobody but claims makes a `Said` of a string."""
    for kind, fields in (
        (Cause, {"headline": Said, "reasons": list[Said], "also": list[Said], "advice": Said}),
        (Reason, {"text": Said}), (Growth, {"text": Said}), (Finding, {"text": Said}),
        (Explanation, {
            "rule": list[RuleText], "words": Taught | Said, "worked": list[Evaluated], "notes": list[Said | Taught],
            "parts": list[Told], "as_a_whole": list[Evaluated], "ways": list[Told], "updated": list[Evaluated],
        }),
        (Line, {"before": tuple[Definition, ...]}),
    ):  # fmt: skip
        assert fields.items() <= get_type_hints(kind).items()
    made = [
        f"{path}:{node.lineno}"
        for path in ROOT.rglob("*.py")
        for text in [path.read_text()]
        if any(f"{kind}(" in text for kind, _ in MAKERS)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args
        and (node.func.id, path.name) not in MAKERS and node.func.id in {kind for kind, _ in MAKERS}
    ]  # fmt: skip
    assert not made


MAKERS = {("Said", "claims.py"), ("RuleText", "taught.py"), ("Taught", "taught.py")}
"""What may be said, and who makes it."""


def test_arithmetic_that_is_not_mlx_s_cannot_be_made() -> None:
    tensor = Operand("y", (2,), mx.float32, lambda: mx.array([3.0, 5.0]))
    one, two = quantity("a", 1.0), quantity("b", 2.0)
    line = Line("y[0]", Node("sum", (one, two), "++"))
    assert Worked(line, tensor, (0,)).lines() == ["y[0] = a + b", "= 1 + 2", "= 3"]
    with pytest.raises(Disagrees):
        Worked(line, tensor, (1,))
    assert worked_out(line, tensor, (1,)) is None
    assert Defined("m", line.node).lines() == ["m = a + b = 1 + 2 = 3"]
