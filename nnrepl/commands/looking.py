"""Looking: at tensors, ops, source and frames."""

from __future__ import annotations

import re
from collections.abc import Callable

import mlx.core as mx
from rich.console import Group, RenderableType
from rich.text import Text

from nnrepl.commands.interpreter import Interpreter
from nnrepl.commands.table import ANYTHING, EXPRESSION, EXPRESSION_OR_NOTHING, SIGNED_COUNT, Grammar, Opens, command
from nnrepl.late import late
from nnrepl.session.errors import NoGradient, NoTensor, NotYet, UserError
from nnrepl.session.parsed import Parsed, parse
from nnrepl.tape import Value

LOOK = "looking"
OPTIONS = re.compile(
    r"(?:/(?P<format>\w*)\s*)?(?:-r\s*(?P<range>\[[^\]]*\])\s*)?(?P<map>-m\s)?\s*(?P<rest>.*)", re.DOTALL
)
FORMATTED = Grammar("[/4f] EXPR", lambda text: bool(text), "names", options=True)


@command("print", "p", takes=FORMATTED, opens=Opens.PYTHON, group=LOOK)
def print_(it: Interpreter, text: str) -> RenderableType | None:
    """Show the value of an expression, and evaluate what it depends on, nothing else.

    Names mean what the program's variables hold where the cursor stands: `p z1`, `p loss, grad(weights1)`,
    `p z1@12` the version that op #12 made, `p #12` the result of an op, `p layers.0.weight[0]`,
    `p mx.abs(z1).max()`. The expression alone does the same.

    `p/4f z1` with four decimals, `p/2e z1` in scientific form, `p/x z1` the bits (also g, t, d).
    `p -r [0,1] z1` marks what lies between 0 and 1 and counts it; `p -m z1` draws a heatmap.
    """
    from nnrepl.view.digits import Format, read_format
    from nnrepl.view.tensor import TensorStyle

    found = OPTIONS.fullmatch(text)
    assert found is not None
    look = TensorStyle(read_format(found["format"]) if found["format"] else Format(), _range(found["range"]))
    rest = found["rest"].strip()
    if not rest:
        raise UserError("print needs an expression, such as p z1 or p/4f x[0, :3]")
    if found["map"]:
        return heatmap(it, rest)
    return _look(it, parse(rest), lambda parsed: it.print(parsed, look, named=True))


def _look(it: Interpreter, parsed: Parsed, show: Callable[[Parsed], RenderableType | None]) -> RenderableType | None:
    """Show the value of an expression. What it changes in the program on the way is put back, as without a command."""
    from nnrepl.session.statements import noticing

    with noticing(it.session, parsed) as effect:
        shown = show(parsed)
    return Group(shown or Text(""), Text(effect.kept, style="hint")) if effect.kept else shown


def _range(text: str | None) -> tuple[float, float] | None:
    """`[0, inf]`."""
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.strip("[]").split(","))
    except ValueError:
        raise UserError(f"{text} is no range; write p -r [0,1] z1, or [0,inf]") from None
    return low, high


@command("heatmap", takes=EXPRESSION, opens=Opens.PYTHON, group=LOOK)
def heatmap(it: Interpreter, text: str) -> RenderableType | None:
    """Draw a tensor as a picture, in colour with a scale; of a batch, its first matrix.

    `heatmap weights[0, 1]` chooses another one. Where there is no colour, letters stand for the numbers.
    """
    from nnrepl.view.heatmap import Heatmap

    name, array = it.array(parse(text))
    shown: RenderableType = it.guarded(lambda: Heatmap(name, array), text)
    return shown


@command("hist", takes=EXPRESSION, opens=Opens.PYTHON, group=LOOK)
def hist(it: Interpreter, text: str) -> RenderableType | None:
    """Show how the elements of a tensor are spread: how many lie in each of at most 16 ranges."""
    from nnrepl.view.histogram import Histogram

    name, array = it.array(parse(text))
    shown: RenderableType = it.guarded(lambda: Histogram(name, array), text)
    return shown


@command("pp", takes=EXPRESSION, opens=Opens.PYTHON, group=LOOK)
def pretty_print(it: Interpreter, text: str) -> RenderableType | None:
    """Show the value of a Python expression in a readable layout."""

    def shown(parsed: Parsed) -> RenderableType | None:
        result = it.value(parsed)
        pretty: RenderableType = late("rich.pretty").Pretty(result, expand_all=False)
        return it.shown_value(result, None, parsed.text) if hasattr(result, "dtype") else pretty

    return _look(it, parse(text), shown)


@command("what", "whatis", "ptype", takes=EXPRESSION, opens=Opens.PYTHON | Opens.GRADIENTS | Opens.TAPE, group=LOOK)
def what(it: Interpreter, text: str) -> RenderableType | None:
    """Tell everything about a value without evaluating it.

    Its shape and dtype, what made it and where, what uses it, whether it has been evaluated and what that
    would cost, and where its gradient is: `what z1`, `what #12`, `what grad(z1)`. Of anything else, what it is and
    where that is written: `what loader`.
    """
    from nnrepl.explain.missing import told
    from nnrepl.view.what import thing_view, what_view

    session = it.session
    try:
        value = session.named(text)
    except NoTensor:
        return thing_view(text, it.value(parse(text)))
    except NotYet:
        raise
    except UserError:
        if re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)+", text) and not isinstance(
            thing := it.value(parse(text)), mx.array
        ):
            return thing_view(text, thing)  # a method, say
        raise
    gradient: Value | str
    try:
        gradient = session.lookup.gradient(value, session.cursor)
    except NoGradient as none:
        gradient = str(told(session, none))
    except NotYet as answer:
        gradient = str(answer)
    return what_view(value, session.names.all_names(value), session.tape.consumers(value), gradient)


@command("grad", takes=EXPRESSION, opens=Opens.PYTHON | Opens.GRADIENTS, group=LOOK)
def grad(it: Interpreter, text: str) -> RenderableType | None:
    """Show the gradient of the loss with respect to a value: `grad z1` is `print grad(z1)`."""
    return it.print(parse(f"grad({text})"))


@command("display", takes=EXPRESSION_OR_NOTHING, opens=Opens.PYTHON, group=LOOK)
def display(it: Interpreter, text: str) -> RenderableType | None:
    """Show an expression at every stop: `display z1`. Without one, show them all now.

    What has changed since the stop before is marked: elements that differ, and the word "changed".
    """
    displays = it.session.displays
    if text:
        number = max(displays, default=0) + 1
        try:
            it.value(parse(text))
        except (NotYet, NoGradient):
            pass  # it will come
        displays[number] = text
        return it.display(number, text)
    return Group(*it.displays()) if displays else Text("Nothing is displayed; display z1 begins.", style="hint")


@command("undisplay", takes=ANYTHING, group=LOOK)
def undisplay(it: Interpreter, text: str) -> RenderableType | None:
    """Stop displaying an expression, by its number or its text; without either, all of them."""
    displays = it.session.displays
    if not text:
        displays.clear()
        return None
    gone = [number for number, shown in displays.items() if text in (str(number), shown)]
    if not gone:
        raise UserError(f"{text} is not displayed; display lists what is")
    for number in gone:
        del displays[number]
    return None


@command("where", "w", "bt", "backtrace", takes=SIGNED_COUNT, opens=Opens.HERE, group=LOOK)
def where(it: Interpreter, text: str) -> RenderableType | None:
    """Show the calls of functions and modules in which the next op is made, the innermost last, and where you stand.

    `where 3` shows the three innermost, `where -3` the three outermost, `where 0` the one in which you stand.
    """
    from nnrepl.view.where import where_view

    return where_view(it.session.op_or_last, it.session.level, int(text) if text else None)
