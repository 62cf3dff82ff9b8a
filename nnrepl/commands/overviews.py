"""Info: about the session as a whole, and tensors in a few numbers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from fnmatch import fnmatchcase

import mlx.core as mx
from rich.console import Group, RenderableType
from rich.text import Text

from nnrepl.commands.breakpoints import overview
from nnrepl.commands.interpreter import Interpreter
from nnrepl.commands.looking import LOOK
from nnrepl.commands.table import NOTHING, Grammar, Opens, command
from nnrepl.session.errors import UserError
from nnrepl.session.expressions import aside
from nnrepl.session.parsed import parse
from nnrepl.session.session import TapeSession
from nnrepl.session.stops import Breakpoint

Topic = Callable[[TapeSession], RenderableType]


def _breakpoints(session: TapeSession) -> RenderableType:
    return overview(session, list(session.stops))


def _watches(session: TapeSession) -> RenderableType:
    watches = [entry for entry in session.stops if not isinstance(entry, Breakpoint)]
    if not watches:
        return Text("There are no watches or catches; watch EXPR, catch nan.", style="hint")
    return overview(session, watches)


def _displays(session: TapeSession) -> RenderableType:
    shown = [Text(f"{number}: {text}") for number, text in session.displays.items()]
    return Group(*shown) if shown else Text("Nothing is displayed; display z1 begins.", style="hint")


def _steps(session: TapeSession, every: bool = False) -> RenderableType:
    from nnrepl.view.summaries import steps_view

    return steps_view(session.tape, every)


def _passes(session: TapeSession, every: bool = False) -> RenderableType:
    from nnrepl.view.summaries import passes_view

    return passes_view(session.tape, session.pass_, every)


def _parameters(session: TapeSession) -> RenderableType:
    from nnrepl.seen.gradient_sizes import of_parameters
    from nnrepl.view.summaries import parameters_view

    return parameters_view(of_parameters(session))


def _gradients(session: TapeSession) -> RenderableType:
    from nnrepl.seen.gradient_sizes import of_step
    from nnrepl.view.summaries import gradients_view

    return gradients_view(of_step(session))


def _memory(session: TapeSession) -> RenderableType:
    from nnrepl.view.summaries import memory_view

    return memory_view(session.tape)


def _evaluations(session: TapeSession) -> RenderableType:
    from nnrepl.view.summaries import evaluations_view

    return evaluations_view(session.tape, session.work)


def _frame(session: TapeSession) -> RenderableType:
    from nnrepl.view.where import where_view

    return where_view(session.op_or_last)


def _variables(session: TapeSession, arguments: bool) -> RenderableType:
    from nnrepl.seen.locals_here import variables
    from nnrepl.view.summaries import variables_view

    return variables_view(variables(session, arguments), "arguments" if arguments else "variables")


TOPICS: dict[str, tuple[str, Topic]] = {
    "breakpoints": (
        "breakpoints, watches and catches, and how often they were hit",
        _breakpoints,
    ),
    "watch": ("watches and catches only", _watches),
    "steps": (
        "each training step: its ops, its updates, its loss where that is evaluated",
        _steps,
    ),
    "passes": (
        "each pass: what it is, its ops, its loss where that is evaluated",
        _passes,
    ),
    "parameters": (
        "shape, size and gradient norm of each parameter (this evaluates the gradients)",
        _parameters,
    ),
    "gradients": (
        "the gradients of this step by size, with bars (this evaluates them)",
        _gradients,
    ),
    "memory": ("what MLX holds, and what of it the tape does", _memory),
    "evaluations": (
        "what has been evaluated, for whom, at what cost",
        _evaluations,
    ),
    "args": ("the arguments of the function where you stand", lambda session: _variables(session, True)),
    "locals": ("its variables", lambda session: _variables(session, False)),
    "display": ("what is displayed at each stop", _displays),
    "frame": ("the calls in which the next op is made", _frame),
}
_SHORT = {
    "b": "breakpoints", "break": "breakpoints", "w": "watch", "wat": "watch", "watchpoints": "watch", "pass": "passes",
    "params": "parameters", "grads": "gradients",
    "mem": "memory", "evals": "evaluations", "stack": "frame", "s": "frame", "f": "frame",
    "arguments": "args", "variables": "locals", "displays": "display",
}  # fmt: skip


@command("info", takes=Grammar("[WHAT]", lambda text: True, "words", tuple(TOPICS)), group=LOOK)
def info(it: Interpreter, text: str) -> RenderableType | None:
    """Tell about the session: `info passes`, `info parameters`, `info memory`; alone, what there is to tell.

    `info steps` lists those around the cursor, `info steps all` every one; likewise `info passes`. Nothing is
    evaluated for it, except by `info parameters` and `info gradients`, which show the norms of the gradients.
    """
    if not text:
        return Group(*(Text(f"info {name:<12} {summary}") for name, (summary, _) in TOPICS.items()))
    if text.split()[1:] == ["all"] and text.split()[0] in ("steps", "passes"):
        return _steps(it.session, True) if text.startswith("steps") else _passes(it.session, True)
    name = _SHORT.get(text, text)
    if name not in TOPICS:
        close = [topic for topic in TOPICS if topic.startswith(name)]
        if len(close) != 1:
            raise UserError(f"info knows {', '.join(TOPICS)}; not {text}")
        name = close[0]
    return TOPICS[name][1](it.session)


@command("args", "a", takes=NOTHING, opens=Opens.HERE, group=LOOK)
def args(it: Interpreter, text: str) -> RenderableType | None:
    """Show the arguments of the function where you stand, without evaluating them."""
    return _variables(it.session, True)


@command("stats", takes=Grammar("EXPR, ...", bool, "names"), opens=Opens.PYTHON, group=LOOK)
def stats(it: Interpreter, text: str) -> RenderableType | None:
    """Show tensors in a few numbers: `stats z1, grad(z1)`, or all of a pattern: `stats layers.*.weight`.

    Minimum, maximum, mean and standard deviation are over the finite elements; norm is the 2-norm.
    """
    from nnrepl.view.summaries import stats_view

    named: list[tuple[str, mx.array]] = []
    pieces = [parse(part) for part in text.split(",")] if "*" in text else parse(text).parts()
    for parsed in pieces:
        piece = parsed.text
        found = _matching(it, piece) if "*" in piece else []
        if not found and not parsed.is_python:
            raise UserError(f"no tensor is called {piece}; info parameters lists the parameters, * stands for any part")
        if not found:
            result = it.value(parsed)
            if not isinstance(result, mx.array):
                raise UserError(f"{piece} is no tensor but {type(result).__name__}; stats z1, stats layers.*.weight")
            value = it.session.expressions.value_of(result)
            it.session.evaluate([value] if value is not None else [])
            found = [(piece, result)]
        named += found
    with aside():
        return stats_view(named)


def _matching(it: Interpreter, pattern: str) -> list[tuple[str, mx.array]]:
    """Return the newest values whose names fit a pattern with wildcards."""
    session = it.session
    found = []
    for name in dict.fromkeys([*session.names.known(), *session.names.paths()]):
        if fnmatchcase(name, pattern):
            with suppress(UserError):  # it is not made yet, or several are called so: another name may fit
                found.append((name, session.named(name)))
    session.evaluate([value for _, value in found])
    return [(name, value.array) for name, value in found]
