"""Understanding: causes, rules and numbers, checks.

What knows the mathematics is loaded when somebody asks: the first prompt does not wait for it.
"""

from __future__ import annotations

from rich.console import RenderableType

from nnrepl.commands.interpreter import Interpreter
from nnrepl.commands.table import Grammar, Opens, command
from nnrepl.session.expressions import aside

UNDERSTAND = "understanding"

TARGET = Grammar("[TARGET] [at [i, j]]", lambda text: True, "names")
LIMITS = Grammar("[thresholds | NAME=VALUE ...]", lambda text: True)
QUESTION = Grammar("[QUESTION]", lambda text: True, "names")


@command(
    "why", takes=QUESTION, opens=Opens.PLACE | Opens.HERE | Opens.GRADIENTS | Opens.MADE | Opens.TAPE, group=UNDERSTAND
)
def why(it: Interpreter, text: str) -> RenderableType | None:
    """Find the cause of something, with evidence.

    `why grad(weights1) == 0` walks from the loss to the gradient and names the first op where it became 0; `why nan`,
    `why inf` and `why z is nan` follow the very element back to where it was born: an op, a weight, the data, a number
    in the program, and say which line made the numbers so large; `why grad(w) is tiny` and `is huge` name the ops that
    shrink or grow it most, or the sum whose terms cancel; `why grad(w) is none` where the path ends, or that nobody
    asked; `why z` whether all is well; `why error` what disagrees in a call that failed; `why loss` what changed the
    loss since the pass before, or, in a pass with an edit, since the timeline before it.
    `why` alone finds the first thing that is wrong. What lies ahead in a recorded pass may be asked about.
    """
    from nnrepl.explain.why import why as find_cause
    from nnrepl.view.causes import why_view

    with aside():
        return why_view(find_cause(it.session, text))


@command("explain", takes=TARGET, opens=Opens.PLACE | Opens.HERE | Opens.GRADIENTS | Opens.MADE, group=UNDERSTAND)
def explain(it: Interpreter, text: str) -> RenderableType | None:
    """Explain how a tensor was computed: the rule, the symbols, and one element with the real numbers.

    `explain z1`, `explain #7`, `explain grad(weights2) at [2, 0]`; alone, the op at the cursor. Without an element
    the most telling one is taken. `explain loss_fn` and `explain layers.0` explain a function or a module as a whole,
    before its ops, MLX's losses and layers (`explain cross_entropy`) by their own rule. `explain loss` adds the chain
    from the op at the cursor to the loss; `explain update layers.0.weight` the whole step of SGD, Adam or AdamW with
    its moments. A line of arithmetic is shown only if it comes to the number that MLX has.
    """
    from nnrepl.explain.explained import explain as make_explanation
    from nnrepl.view.explain import explain_view

    with aside():
        return explain_view(make_explanation(it.session, text))


@command("health", takes=LIMITS, opens=Opens.HERE | Opens.GRADIENTS | Opens.TAPE, group=UNDERSTAND)
def health(it: Interpreter, text: str) -> RenderableType | None:
    """Look over the gradient pass at the cursor, its update, and the other models' in its step; report what matters.

    Dead and saturated units, missing, zero, tiny and huge gradients, non-finite numbers, lost precision, silent
    broadcasting, indices out of range, softmax over the wrong axis or twice, losses that are given no logarithms, terms
    that are left out, numbers that go through numpy, masks of zeros, layers in the wrong mode, updates that are
    forgotten, dropped, idle or uphill, gradients that are never cleared, weights that MLX does not see or that are no
    longer tied, what stop_gradient keeps out, whole divisions that leave 0, targets of other rows, factors out of all
    proportion, terms lost in a sum, units that stay the same, labels without a place, randomness that repeats, graphs
    that grow; each with the command that shows the evidence. What was not looked at is said, and what may be meant is
    a note (·). `health thresholds` lists what numbers are held against, and where that comes from; `health dead=0.9`
    sets one for one look.
    """
    from nnrepl.explain import health as checks
    from nnrepl.view.health import health_view, thresholds_view

    if text == "thresholds":
        return thresholds_view()
    limits = checks.parse_limits(text)
    with aside():
        return health_view(checks.health(it.session, **limits))
