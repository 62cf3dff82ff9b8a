"""Graph: how ops hang together, drawn in the terminal or written to a file."""

from __future__ import annotations

from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from nnrepl.commands.interpreter import Interpreter
from nnrepl.commands.look import LOOK
from nnrepl.commands.table import Grammar, command
from nnrepl.session.errors import UserError
from nnrepl.session.files import write_text
from nnrepl.session.session import Session
from nnrepl.tape import Op
from nnrepl.view.drawings import FORMATS, drawing_of
from nnrepl.view.graph import Lanes, neighbourhood, nodes_of

WHOLE = ("line", "function", "class", "module", "phase", "pass", "step")
"""The kinds of places of which all ops are drawn, and not what lies around one."""

FOLDED = 60
"""Drawings of more ops than this in the terminal are folded by module."""


@command("graph", takes=Grammar("[PLACE | pass] [FILE]", lambda text: True, "places"), group=LOOK)
def graph(it: Interpreter, text: str) -> RenderableType | None:
    """Draw how ops hang together, in the terminal or into a file: `graph z1`, `graph pass`, `graph net.svg`.

    Alone it draws what lies around the next op; `graph z1` around a place, `graph layers.0` all of a module,
    `graph backward` of a phase, `graph pass` of the whole pass. Each lane is a tensor under way, each dot an op;
    in the backward pass only the gradients are drawn. Many ops are folded by module. With a file name it is
    written down, the whole pass if nothing else is asked for: `graph net.svg`, `graph forward net.dot` (Graphviz),
    `graph net.mmd` (Mermaid).
    """
    what, file = _split(text)
    if file is None:
        ops = _chosen(it.session, what)
        drawn = Lanes(nodes_of(ops, len(ops) > FOLDED), it.session.cursor)
        if len(ops) <= FOLDED:
            return drawn
        return Group(drawn, Text(f"{len(ops)} ops, folded by module; graph MODULE unfolds one.", style="hint"))
    nodes = nodes_of(_chosen(it.session, what or "pass"))
    written = FORMATS[file.suffix](drawing_of(nodes))
    try:
        write_text(file.expanduser(), written)
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror}") from None
    return Text(f"Wrote {len(nodes)} ops to {file}.", style="hint")


def _split(text: str) -> tuple[str, Path | None]:
    """What to draw, and the file if there is one."""
    words = text.split()
    if not words or "." not in words[-1]:
        return text, None
    file = Path(words[-1])
    if file.suffix in FORMATS:
        return " ".join(words[:-1]), file
    if file.suffix in (".png", ".pdf", ".gv", ".mermaid", ".html", ".jpg"):
        raise UserError(f"graph writes {', '.join(FORMATS)}, not {file.suffix}; dot -Tpng net.dot makes a picture")
    return text, None


def _chosen(session: Session, what: str) -> list[Op]:
    """The ops that a drawing is about."""
    part = session.part
    if part is None or not len(part):
        raise UserError("nothing has been recorded yet; step to the first op, then graph")
    if what == "pass":
        return part.ops
    if not what:
        return neighbourhood(session.tape, session.op or session.tape.ops[-1])
    place, op = session.place(what), session.op_at(what)
    if place.kind not in WHOLE:
        return neighbourhood(session.tape, op)
    return [other for other in op.part.ops if place.holds(session.tape, other.position)]
