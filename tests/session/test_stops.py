"""Breakpoints, watches and catches: on recorded calls by the API, on running programs by the shell."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx.utils import tree_flatten
from rich.console import Console

import nnrepl
from nnrepl.commands import load_all
from nnrepl.commands.table import TABLE
from nnrepl.session.errors import UserError
from nnrepl.session.events import EVENTS
from nnrepl.session.findings import Changed, Vanished, WentBad
from nnrepl.session.search import Search
from nnrepl.session.stops import Breakpoint
from tests.corpus import lm
from tests.support import ROOT, OpenSession


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        mx.random.seed(0)
        self.layers = [nn.Linear(3, 3) for _ in range(3)]

    def __call__(self, x: mx.array) -> mx.array:
        for layer in self.layers:
            x = mx.tanh(layer(x))
        return x


def net_session() -> OpenSession:
    model = Net()

    def loss_fn(x: mx.array) -> mx.array:
        out = model(x)
        scaled = out * 3
        return mx.mean(mx.square(scaled))

    return OpenSession(nnrepl.trace(loss_fn, mx.ones((2, 3)), wrt=model))


def stops(session: OpenSession, reverse: bool = False, limit: int = 500) -> list[int]:
    """Every position at which `continue` (or `reverse-continue`) stops, until it stops no more."""
    found = []
    for _ in range(limit):
        session.back_resume() if reverse else session.resume()
        stop = session.stop
        if not stop.hits:
            return found
        found.append(stop.position)
    raise AssertionError("it never comes to an end")


def shown(session: OpenSession, line: str) -> str:
    console = Console(width=100, no_color=True)
    with console.capture() as capture:
        renderable = session.run(line)
        if renderable is not None:
            console.print(renderable)
    return capture.get()


# -- places --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("addmm", lambda op: op.root.name == "addmm"),
        ("backward addmm", lambda op: op.phase == "backward" and op.root.name == "addmm"),
        ("forward addmm", lambda op: op.name == "addmm"),
        ("scaled", lambda op: any(value.name == "scaled" for value in op.outputs)),
        ("grad(scaled)", lambda op: any(v.gradient_of and v.gradient_of.name == "scaled" for v in op.outputs)),
        ("#5", lambda op: op.index == 5),
        ("backward", lambda op: op.position == op.pass_.backward),
    ],
)
def test_a_place_stops_at_its_ops_forwards_and_in_reverse(place: str, expected: Any) -> None:
    session = net_session()
    wanted = [op.position for op in session.tape.ops if expected(op)]
    assert wanted
    session.run(f"break {place}")
    assert stops(session) == [at for at in wanted if at > 0]
    assert stops(session, reverse=True) == wanted[::-1]


def test_unconditional_breakpoints_evaluate_nothing() -> None:
    session = net_session()
    for line in (
        "break addmm",
        "break layers.*",
        "break scaled",
        "catch shape",
        "catch sync",
        "break backward",
        "break loss_fn",
    ):
        session.run(line)
    assert len(stops(session)) >= 10
    assert len(stops(session, reverse=True)) >= 10
    assert session.work == []
    assert not [op for op in session.tape.ops if op.phase != "setup" and any(value.evaluated for value in op.outputs)]


def test_a_condition_is_evaluated_only_where_its_place_matches() -> None:
    session = net_session()
    session.run("break mean, scaled.max() > 100")
    assert stops(session) == []
    evaluated = {op.name for op in session.tape.ops if any(value.evaluated for value in op.outputs)}
    assert "multiply" in evaluated
    assert not evaluated & {"square", "mean"}
    assert not any(name.startswith("vjp") for name in evaluated)


def test_conditions_are_evaluated_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    def loss_fn(x: mx.array) -> mx.array:
        for _ in range(500):
            x = mx.tanh(x)
        return x.sum()

    session = OpenSession(nnrepl.trace(loss_fn, mx.ones((2,)), wrt=None))
    session.run("break tanh, x.max() > 5")
    calls = 0
    original = Search._settle

    def counted(self: Search, waiting: Any) -> Any:
        nonlocal calls
        calls += 1
        return original(self, waiting)

    monkeypatch.setattr(Search, "_settle", counted)
    assert stops(session) == []
    assert calls < 15


@pytest.mark.parametrize("condition", ["scaled.max() > -100", "out.shape[0] == 2", "float(out.max()) > -9 and True"])
def test_conditions_are_python_as_seen_from_the_place(condition: str) -> None:
    session = net_session()
    session.run(f"break mean, {condition}")
    positions = stops(session)
    assert [session.tape.ops[at].root.name for at in positions] == ["mean", "mean"]


def test_a_condition_on_a_value_sees_what_has_just_been_made() -> None:
    session = net_session()
    session.run("break scaled, scaled.shape[0] == 2")
    assert [session.tape.ops[at - 1].name for at in stops(session)] == ["multiply"]
    shown_last = shown(session, "goto scaled, scaled.shape[0] == 2 ;; p scaled").splitlines()
    assert any(line.startswith("scaled = [[") for line in shown_last)


def test_a_condition_that_raises_stops_and_says_so_and_one_that_looks_ahead_does_not() -> None:
    session = net_session()
    session.run("break mean, out.nonsense > 3")
    assert "cannot be asked here: AttributeError" in shown(session, "continue")
    session.run("clear")
    session.run("goto start")
    session.run("break tanh, scaled.max() > -100")
    positions = stops(session)
    assert all(session.tape.ops[at].phase == "backward" for at in positions)
    assert len(positions) == 3


def test_a_condition_that_could_never_be_asked_is_told_in_the_list() -> None:
    session = net_session()
    session.run("break forward tanh, scaled.max() > 1")
    assert stops(session) == []
    assert "not asked where scaled is not made yet" in shown(session, "info breakpoints")


def test_modules_and_functions_stop_where_they_are_entered() -> None:
    session = net_session()
    session.run("break layers.*")
    positions = stops(session)
    forward = [at for at in positions if session.tape.ops[at].phase == "forward"]
    backward = [at for at in positions if session.tape.ops[at].phase == "backward"]
    assert [session.tape.ops[at].module for at in forward] == ["layers.1", "layers.2"]  # the first is where we stand
    assert [session.tape.ops[at].root.module for at in backward] == ["layers.2", "layers.1", "layers.0"]
    session.run("clear 1")
    session.run("break Net.__call__")
    assert stops(session, reverse=True)[-1] == 0


def test_ignore_enable_disable_clear() -> None:
    session = net_session()
    session.run("break forward tanh")
    everything = stops(session)
    session.run("goto start")
    session.run("ignore 1 2")
    assert stops(session) == everything[2:]
    session.run("goto start")
    session.run("disable 1")
    assert stops(session) == []
    session.run("enable 1")
    session.run("goto start")
    assert stops(session) == everything
    session.run("clear 1")
    session.run("goto start")
    assert stops(session) == []


def test_continue_with_a_count_and_temporary_breakpoints() -> None:
    session = net_session()
    session.run("break forward tanh")
    tanhs = [op.position for op in session.tape.ops if op.name == "tanh"]
    session.run("continue 3")
    assert session.cursor == tanhs[2]
    session.run("reverse-continue 2")
    assert session.cursor == tanhs[0]
    session.run("clear")
    session.run("tbreak forward tanh")
    assert stops(session) == [tanhs[1]]
    assert len(session.stops) == 0


def test_next_and_finish_stop_at_breakpoints_on_the_way() -> None:
    session = net_session()
    session.run("break layers.1")
    session.run("finish")
    assert session.cursor > 0
    session.run("goto start")
    session.finish()
    assert session.op is not None
    assert session.op.module == "layers.1"
    assert session.stop.hits


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.sampled_from(["addmm", "tanh", "scaled", "layers.*", "backward", "#7", "#20", "mean"]),
        min_size=1,
        max_size=4,
    )
)
def test_reverse_is_forwards_read_backwards(places: list[str]) -> None:
    session = net_session()
    for place in places:
        session.run(f"break {place}")
    ahead = stops(session)
    assert session.cursor == len(session.tape)
    behind = stops(session, reverse=True)
    assert behind[::-1] in (ahead, [0, *ahead])


# -- watches -------------------------------------------------------------------------------------------------


def test_watch_stops_where_the_value_has_changed_both_ways() -> None:
    def fn(x: mx.array) -> mx.array:
        y = x * 2
        z = y + 1
        y = y * 1  # the same numbers: no change
        y = y + 5
        return (y + z).sum()

    session = OpenSession(nnrepl.trace(fn, mx.ones((3,)), wrt=0))
    session.run("watch y")
    session.resume()
    stop = session.stop
    change = stop.hits[0].found
    assert isinstance(change, Changed)
    assert change.before is None
    assert change.after.tolist() == [2, 2, 2]
    session.resume()
    stop = session.stop
    change = stop.hits[0].found
    assert (change.before.tolist(), change.after.tolist()) == ([2, 2, 2], [7, 7, 7])
    assert change.op.name == "add"
    position = stop.position
    session.run("goto end")
    session.back_resume()
    assert session.stop.position == position


def test_watch_knows_what_was_there_before_the_first_op() -> None:
    def fn(x: mx.array) -> mx.array:
        x = x * 2
        return x.sum()

    session = OpenSession(nnrepl.trace(fn, mx.ones((2,))))
    session.run("watch x")
    session.resume()
    change = session.stop.hits[0].found
    assert (session.cursor, change.before.tolist(), change.after.tolist()) == (1, [1, 1], [2, 2])


def test_watch_follows_expressions_and_gradients() -> None:
    session = net_session()
    session.run("watch grad(scaled).max()")
    session.resume()
    stop = session.stop
    made = session.tape.ops[stop.position - 1]
    assert [value.name for value in made.outputs] == ["∂L/∂scaled"]


def test_last_goes_back_write_by_write() -> None:
    def fn(x: mx.array) -> mx.array:
        y = x * 2
        y = y + 5
        return y.sum()

    session = OpenSession(nnrepl.trace(fn, mx.ones((3,)), wrt=0))
    session.run("goto end")
    session.run("last y")
    assert session.op is not None
    assert session.op.name == "add"
    session.run("last y")
    assert session.op.name == "multiply"
    with pytest.raises(UserError, match="not made yet"):
        session.run("last y")
    with pytest.raises(UserError, match="no op on the tape wrote x"):
        session.run("last x")


# -- catches -------------------------------------------------------------------------------------------------


def first_nan_by_hand(session: OpenSession) -> int:
    """What `catch nan` must find, looked for one op at a time."""
    for op in session.tape.ops:
        clean = all(not bool(mx.any(mx.isnan(value.array)).item()) for value in op.inputs if value.dtype == mx.float32)
        if clean and any(bool(mx.any(mx.isnan(value.array)).item()) for value in op.outputs):
            return op.position
    return -1


@pytest.mark.parametrize("at", range(0, 40, 7))
def test_catch_nan_finds_the_op_by_which_it_came(at: int) -> None:
    def fn(x: mx.array) -> mx.array:
        for number in range(40):
            x = mx.log(x - 100) if number == at else mx.tanh(x) + 0.5
        return x.sum()

    session = OpenSession(nnrepl.trace(fn, mx.ones((2, 2)), wrt=0))
    session.run("catch nan")
    session.resume()
    stop = session.stop
    assert stop.position == first_nan_by_hand(session)
    birth = stop.hits[0].found
    assert isinstance(birth, WentBad)
    assert birth.op.name == "log"
    assert (birth.index, birth.count) == ((0, 0), 4)
    assert birth.origins[0].index == (0, 0)


@pytest.mark.parametrize(("offset", "stops"), [(-2.5, True), (2.5, False)])
def test_catch_nan_sees_a_nan_that_is_born_beside_another(offset: float, stops: bool) -> None:
    """The first number came in as NaN and is replaced in the end; the logarithm of a negative one is another birth."""

    def fn(x: mx.array) -> mx.array:
        b = mx.log(mx.array([mx.nan, 1.0, 2.0]) * x + offset)
        return mx.where(mx.isnan(b), 0.0, b).sum()

    session = OpenSession(nnrepl.trace(fn, mx.ones((3,)), wrt=0))
    session.run("catch nan")
    session.resume()  # the data that came in
    session.resume()
    hits = [hit.found for hit in session.stop.hits]
    assert bool(hits) == stops
    if stops:
        (birth,) = hits
        assert isinstance(birth, WentBad)
        assert (birth.op.name, birth.index, birth.count, birth.apart) == ("log", (1,), 2, True)


ROWS: dict[str, tuple[Callable[[mx.array], mx.array], list[float], str]] = {
    "softmax": (lambda x: mx.softmax(x, axis=-1), [-mx.inf] * 3, "nan"),
    "sum": (lambda x: mx.sum(x, axis=-1), [mx.inf, -mx.inf, 1.0], "nan"),
    "fast.layer_norm": (lambda x: mx.fast.layer_norm(x, None, None, 0.0), [2.0] * 3, "nan"),
    "fast.rms_norm": (lambda x: mx.fast.rms_norm(x, None, 0.0), [0.0] * 3, "nan"),
    "logsumexp": (lambda x: mx.logsumexp(x, axis=-1), [mx.inf, 0.0, 0.0], ""),
    "matmul": (lambda x: x @ mx.full((3, 2), 1e30), [1e30] * 3, "inf"),
    "cumprod": (lambda x: mx.cumprod(x, axis=-1), [1e20, 1e20, 1e20], "inf"),
    "var": (lambda x: mx.var(x, axis=-1), [1e30, -1e30, 0.0], "inf"),
    "conv1d": (lambda x: mx.conv1d(x[..., None], mx.full((1, 2, 1), 1e30)), [1e30] * 3, "inf"),
    "fast.scaled_dot_product_attention": (
        lambda x: mx.fast.scaled_dot_product_attention(x[None, None], mx.ones((1, 1, 3, 3)), mx.ones((1, 1, 3, 3)),
                                                       scale=1e30), [1e30, 1e30, 1e30], "nan"),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("born", [True, False])
def test_a_birth_beside_other_bad_numbers_is_seen_in_whatever_op(name: str, born: bool) -> None:
    """The first row came in bad; the op makes bad numbers of the second, which is good, by itself."""
    op, row, what = ROWS[name]
    bad = mx.array([mx.nan if what != "inf" else mx.inf] * 3)
    x = mx.stack([bad, mx.array(row if born and what else [0.5, 0.25, 1.0])])
    session = OpenSession(nnrepl.trace(lambda x: op(x * 1), x))
    catcher = EVENTS[what or "nan"].make()
    found = []
    for position in range(len(session.tape)):
        question = catcher.question(session.tape, position)
        assert question is not None
        session.evaluate(question.values)
        answer = question.answer()
        if isinstance(answer, WentBad) and answer.apart:
            found.append(answer.op.name)
    assert found == ([name] if born and what else [])


@pytest.mark.parametrize("name", ["llama", "mamba2", "qwen3_moe"])
def test_catch_nan_in_models_that_somebody_else_wrote(name: str) -> None:
    model = lm.tiny(name).train()
    layer = model.layers[1]
    for _, weight in tree_flatten(layer.parameters())[:1]:
        weight[..., 0] = float("inf")
    session = OpenSession(nnrepl.trace(lm.loss_of(model), lm.tokens_for(name), wrt=model))
    session.run("catch nan")
    session.resume()
    stop = session.stop
    assert stop.hits
    assert stop.position == first_nan_by_hand(session)
    session.back_resume()
    assert session.stop.hits == ()  # there is none before the first


@pytest.mark.parametrize("op", ["matmul", "softmax", "sum", "divide"])
def test_what_a_nan_was_made_from_is_proved_by_computing_it(op: str) -> None:
    inf = float("inf")

    def fn(x: mx.array, y: mx.array) -> mx.array:
        match op:
            case "matmul":
                return x @ y
            case "softmax":
                return mx.softmax(x, axis=-1)
            case "sum":
                return mx.sum(x, axis=1)
        return (x - 1) / (y - y)

    x = mx.array([[1.0, 2.0, 3.0], [1.0, inf, -inf]])
    session = OpenSession(nnrepl.trace(fn, x, mx.ones((3, 3)) if op == "matmul" else mx.ones((2, 3))))
    session.run("catch nan")
    at_first = session.lookout.search.first(0, 1, session.stops.enabled)
    if not at_first:
        session.resume()
    origins = (at_first or session.stop.hits)[0].found.origins
    parts = [origin.index for origin in origins]
    expected = {
        "matmul": [(1, None), (None, 0)],
        "softmax": [(1, None)],
        "sum": [(1, None)],
        "divide": [(0, 0), (0, 0)],
    }
    assert parts == expected[op]


def test_catch_exception_stops_at_what_raised_once() -> None:
    """At the op that raised, or where the pass ends in which the program itself did; what it raised before is told."""

    def train() -> None:
        def narrow(w: mx.array) -> mx.array:
            return (mx.tanh(w) @ mx.ones((2, 2))).sum()

        def own(w: mx.array) -> mx.array:
            if mx.exp(w).size:
                raise KeyError("no batch")
            return w

        for loss in (mx.sum, narrow, own, mx.sum):
            with contextlib.suppress(ValueError, KeyError):
                mx.grad(lambda w, loss=loss: loss(w))(mx.ones((2, 3)))

    with nnrepl.recording() as recorded:
        train()
    session = OpenSession(recorded)
    session.run("catch exception")
    names = [op.name for op in session.tape.ops]
    raised = [(names.index("matmul"), ValueError), (names.index("exp") + 1, KeyError)]
    found = []
    for line in ("continue", "continue", "continue", "reverse-continue", "reverse-continue"):
        shown = str(session.run(line))
        found.append((session.cursor, next((kind for _, kind in raised if kind.__name__ in shown), None)))
    assert found == [*raised, (len(names), None), *reversed(raised)]


def test_catch_zero_grad_tells_dead_units() -> None:
    def fn(w: mx.array) -> mx.array:
        return mx.sum(mx.maximum(w - 10, 0) * 3)

    session = OpenSession(nnrepl.trace(fn, mx.ones((4,)), wrt=0))
    session.run("catch zero-grad")
    session.resume()
    stop = session.stop
    found = stop.hits[0].found
    assert isinstance(found, Vanished)
    assert found.op.name == "vjp of maximum"
    assert "becomes zero in" in shown(session, "info frame") + shown(session, "rc") + shown(session, "c")
    one = OpenSession(nnrepl.trace(lambda w: mx.maximum(w - 10, 0) * 3, mx.array(1.0), wrt=0))
    said = " ".join((shown(one, "catch zero-grad") + shown(one, "c")).split())
    assert "becomes zero in #5 vjp of maximum; what came in is not:" in said
    empty = OpenSession(nnrepl.trace(lambda w: mx.sum(w[:0] * 3) + mx.sum(w), mx.ones((4,)), wrt=0))
    empty.run("catch zero-grad")
    empty.resume()
    assert empty.stop.hits[0].found.op.name == "vjp of getitem"  # what has no elements is not 0


def test_catch_inf_passes_over_what_was_given() -> None:
    def fn(x: mx.array) -> mx.array:
        mask = mx.full((3,), 0.0)
        return mx.sum(mx.exp(x + mask))

    session = OpenSession(nnrepl.trace(fn, mx.array([1.0, 50.0, 100.0])))
    session.run("catch inf")
    session.resume()
    stop = session.stop
    assert (stop.hits[0].found.index, stop.hits[0].found.op.name) == ((2,), "exp")


# -- bad input -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("break mean,", "a condition is missing"),
        ("break mean, 3 >", "does not parse"),
        ("break #0", "ops count from #1"),
        ("condition 7 x > 1", "there is no breakpoint, watch or catch 7"),
        ("condition", "condition needs more"),
        ("ignore x", "ignore cannot take"),
        ("catch nans", "did you mean nan?"),
        ("watch 3 +", "does not parse"),
        ("watch 3", "names no tensor of the tape"),
        ("enable 9", "there is no breakpoint, watch or catch 9"),
        ("enable 3-", "there is no breakpoint, watch or catch 3-"),
        ("clear nowhere", "is called nowhere"),
        ("clear mean", "no breakpoint, watch or catch is at mean"),
        ("commands 4", "there is no breakpoint, watch or catch 4"),
        ("break 999999", "no op can come from line 999999"),
        ("break nosuchplace", "no op, value, function or module is called nosuchplace"),
        ("break backward nosuchplace", "is called nosuchplace"),
        ("break mean, nonsense > 3", "nothing is called nonsense"),
        ("unalias nope", "there is no alias nope"),
        ("alias s p x", "s is a command"),
        ("source /nonexistent/file", "cannot read /nonexistent/file"),
        ("info nonsense", "info knows breakpoints"),
        ("last nothing", "nothing on the tape is called nothing"),
    ],
)
def test_bad_input_gets_one_line(line: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        net_session().run(line)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_place_of_last_time_that_nothing_is_called_any_more_is_kept_pending() -> None:
    session = net_session()
    session.stops.add(Breakpoint("nosuchplace"))
    assert "pending" in shown(session, "info breakpoints")
    assert stops(session) == []


# -- events at the cursor, and what they say -------------------------------------------------------------------


def overflowing(w: mx.array) -> mx.array:
    e = mx.exp(w)
    return (1 / e).sum()


def test_an_event_in_the_op_at_the_cursor_is_caught_once() -> None:
    """The op at the cursor has not been run: what happens in it is still to come. Once told, it lies behind one."""
    session = OpenSession(nnrepl.trace(overflowing, mx.array([1.0, 100.0])))
    assert session.cursor == 0
    session.run("catch inf")
    session.resume()
    stop = session.stop
    assert stop.position == 0
    assert isinstance(stop.hits[0].found, WentBad)
    session.resume()
    again = session.stop
    assert again is not None
    assert not again.hits


def test_a_breakpoint_at_the_cursor_is_where_one_stands() -> None:
    session = OpenSession(nnrepl.trace(overflowing, mx.array([1.0, 2.0])))
    session.run("break exp")
    session.resume()
    stop = session.stop
    assert not stop.hits


def test_a_weight_that_is_nan_is_caught_at_its_first_user_at_the_cursor() -> None:
    session = OpenSession(nnrepl.trace(lambda w: (w * 2).sum(), mx.array([1.0, mx.nan]), wrt=0))
    session.run("catch nan")
    assert "w[1] is nan" in shown(session, "continue")


def test_data_that_came_in_bad_are_not_said_to_have_become_so() -> None:
    def loss(w: mx.array) -> mx.array:
        rows = mx.array([1.0, float("nan")])
        return (rows * w).sum()

    session = OpenSession(nnrepl.trace(loss, mx.array([1.0, 2.0])))
    session.run("catch nan")
    said = shown(session, "continue")
    assert "in the data that" in said
    assert "becomes" not in said


def test_every_event_is_caught_somewhere_and_told_in_its_manual() -> None:
    """Who adds an event is told where its test belongs; the manual reads the table."""
    load_all()
    typed = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "tests").glob("session/test_stops*.py"))
    for name in EVENTS:
        assert f'"catch {name}"' in typed, f"no test types catch {name}: it belongs in tests/session/test_stops.py"
        assert f"`catch {name}`: {EVENTS[name].words}." in TABLE["catch"].help


def test_every_finding_has_a_picture_and_every_event_words() -> None:
    from typing import get_args

    from nnrepl.session import events, findings
    from nnrepl.view import stop_list as view

    assert all(event.words for event in events.EVENTS.values())
    source = __import__("inspect").getsource(view.finding_view)
    assert all(f"case {kind.__name__}()" in source for kind in get_args(findings.Finding))


def test_watch_loss_stops_inside_of_the_only_pass_there_is() -> None:
    def f(w: mx.array) -> mx.array:
        h = w * 2
        loss = mx.square(h).sum()
        return loss

    session = OpenSession(nnrepl.trace(f, mx.ones((2,)), wrt=0))
    session.run("goto start")
    session.run("watch loss")
    assert "loss gets a value in #3 sum" in str(session.run("continue"))
    assert session.cursor == 3
