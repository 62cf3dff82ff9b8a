"""Graph: how ops hang together, drawn in the terminal or written to a file."""

from __future__ import annotations

from datetime import date
from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from nnrepl.commands.interpreter import Interpreter
from nnrepl.commands.looking import LOOK
from nnrepl.commands.table import Grammar, Opens, command
from nnrepl.session.errors import UserError
from nnrepl.session.files import write_text
from nnrepl.session.session import TapeSession
from nnrepl.tape import GRADIENT_PASS, Op, Pass

FOLDED = 60
"""Drawings of more ops than this in the terminal are folded by module."""
ROWS = 40
"""A gradient pass is folded into so many rows."""


@command(
    "graph",
    takes=Grammar("[PLACE | pass [norms]] [FILE]", lambda text: True, "places"),
    opens=Opens.PLACE | Opens.HERE,
    group=LOOK,
)
def graph(it: Interpreter, text: str) -> RenderableType | None:
    """Draw how ops hang together, in the terminal or into a file: `graph z1`, `graph pass`, `graph net.svg`.

    Alone it draws what lies around the next op; `graph z1` around a place, `graph layers.0` all of a module,
    `graph backward` of a phase. Each lane is a tensor under way, each dot an op; in the backward pass only the
    gradients are drawn. Many ops are folded by module.

    `graph pass` draws the whole pass, forward to the left and the gradients in the same rows to the right, each with
    its size, where that is known or little work; `graph pass norms` computes them all. In an update that is the
    gradient call before it; `graph update` draws the update. With a file name it is written down, the whole pass if
    nothing else is asked for: `graph net.svg` a slide, `graph net.html` a page whose modules unfold at a click,
    `graph forward net.dot` (Graphviz), `graph net.mmd` (Mermaid).
    """
    from nnrepl.view.lanes import Lanes, nodes_of

    what, file = _split(text)
    if file is not None:  # where every number stands in it, as with `norms`
        return _write(it.session, "pass" if what in ("", "pass norms") else what, file)
    if what in ("pass", "pass norms"):
        return _slide(it.session, what == "pass norms")
    ops = _chosen(it.session, what)
    drawn = Lanes(nodes_of(ops, len(ops) > FOLDED), it.session.cursor)
    if len(ops) <= FOLDED:
        return drawn
    return Group(drawn, Text(f"{len(ops)} ops, folded by module; graph MODULE unfolds one.", style="hint"))


def _write(session: TapeSession, what: str, file: Path) -> RenderableType:
    """Write a drawing into a file: a gradient pass as a slide or a page, anything else as boxes and arrows."""
    from nnrepl.seen.slide import Slide
    from nnrepl.view.drawings import FORMATS, drawing_of, svg
    from nnrepl.view.lanes import nodes_of
    from nnrepl.view.page import page
    from nnrepl.view.slide_page import slide_page
    from nnrepl.view.slide_svg import ROWS as SLIDE_ROWS
    from nnrepl.view.slide_svg import slide_svg

    ops = _chosen(session, what)
    pass_ = ops[0].pass_
    title, about = f"{pass_.title} · {session.program_name}", f"{pass_.address} · nnrepl · {date.today():%Y-%m-%d}"
    if what == "pass" and _has_gradients(pass_) and file.suffix in (".svg", ".html"):
        slide = Slide(session, pass_)
        written = slide_page(slide, title, about)
        if file.suffix == ".svg":
            written = slide_svg(slide, slide.rows(SLIDE_ROWS), title, about)
    elif file.suffix == ".html":
        written = page(title, about, svg(drawing_of(nodes_of(ops, len(ops) > FOLDED))))
    else:
        written = FORMATS[file.suffix](drawing_of(nodes_of(ops)))
    try:
        write_text(file.expanduser(), written)
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror}") from None
    return Text(f"Wrote {len(ops)} ops to {file}.", style="hint")


def _has_gradients(pass_: Pass) -> bool:
    return pass_.kind == GRADIENT_PASS and pass_.backward < pass_.end


def _slide(session: TapeSession, numbers: bool) -> RenderableType:
    """Return a whole gradient pass, forward and backward beside each other; another pass as lanes."""
    from nnrepl.seen.slide import Slide
    from nnrepl.view.lanes import Lanes, nodes_of
    from nnrepl.view.slide_text import SlideText

    ops = _chosen(session, "pass")
    pass_ = ops[0].pass_
    if not _has_gradients(pass_):
        return Lanes(nodes_of(ops, len(ops) > FOLDED), session.cursor)
    slide = Slide(session, pass_, numbers)
    rows = slide.rows(ROWS)
    shown = SlideText(slide, rows, session.cursor)
    hints = [f"{len(ops)} ops, folded by module; graph MODULE unfolds one."] if any(row.rows for row in rows) else []
    if pass_ is not session.pass_:
        hints.append(f"The gradient call of {pass_.address}; graph update draws the update.")
    hints += ["Sizes that are not computed are left out; graph pass norms computes them."] if slide.lacks else []
    return Group(shown, *[Text(hint, style="hint") for hint in hints])


def _split(text: str) -> tuple[str, Path | None]:
    """Return what to draw, and the file if there is one."""
    from nnrepl.view.drawings import FORMATS

    words = text.split()
    if not words or "." not in words[-1]:
        return text, None
    file = Path(words[-1])
    if file.suffix in FORMATS or file.suffix == ".html":
        return " ".join(words[:-1]), file
    if file.suffix in (".png", ".pdf", ".gv", ".mermaid", ".jpg"):
        raise UserError(
            f"graph writes {', '.join([*FORMATS, '.html'])}, not {file.suffix}; dot -Tpng net.dot makes a picture"
        )
    return text, None


def _chosen(session: TapeSession, what: str) -> list[Op]:
    """Return the ops that a drawing is about."""
    from nnrepl.seen.gradient_sizes import last_call
    from nnrepl.view.lanes import neighbourhood

    pass_ = session.pass_
    if pass_ is None or not len(pass_):
        raise UserError("nothing has been recorded yet; step to the first op, then graph")
    if what == "pass":
        before = last_call(session)
        return pass_.ops if before is None or before.step.number != pass_.step.number or pass_.wrt else before.ops
    if not what:
        return neighbourhood(session.tape, session.op or session.tape.ops[-1])
    place, op = session.place(what), session.op_at(what)
    if not place.whole:
        return neighbourhood(session.tape, op)
    return [other for other in op.pass_.ops if place.holds(session.tape, other.position)]
