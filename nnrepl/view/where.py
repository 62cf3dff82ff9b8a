"""Where: the calls in which an op was made."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from nnrepl.record import segments as sources
from nnrepl.record.stack import is_module
from nnrepl.tape import Activation, Op
from nnrepl.view.source_lines import place_text


def where_view(op: Op | None, level: int = 0, count: int | None = None) -> RenderableType:
    """Return the Python calls from the bottom of the program to the op, with the path of each module.

    Args:
        level: How many calls above the op's the one is in which the user stands.
        count: Show so many of the innermost, or of the outermost if it is negative, only where the user stands if it
            is 0; None for all.
    """
    if op is None:
        return Text("nothing has been recorded yet", style="hint")
    if op.scope is None:
        return Text("this op was made outside of any function", style="hint")
    lines: list[Text] = []
    path = op.scope.path()
    offsets = [step.lasti for step in path[1:]] + [op.lasti]
    for number, (step, lasti) in enumerate(zip(path, offsets)):
        source = sources.locate(step.code, lasti)
        here = number == len(path) - 1 - level
        text = Text("▶ " if here else "  ", style="source.current")
        text.append(f"{place_text(source)} in {source.function}", style="bold" if here else "")
        if kind := _heir(step):
            text.append(f"  {kind}", style="op.name")
        text.append(f"\n      {source.text.splitlines()[0] if source.text else ''}", style="dim")
        lines.append(text)
    if count == 0:
        return lines[-1 - level]
    if count is not None:
        lines = lines[-count:] if count > 0 else lines[:-count]
    module = op.module
    if module and (count is None or count > 0):
        lines.append(Text(f"module {module}", style="heading"))
    return Group(*lines)


def _heir(step: Activation) -> str:
    """Return the class of the module whose method a call is, where the method's own name tells another; else ""."""
    kind, (around, _, _) = type(step.owner).__name__, step.code.co_qualname.rpartition(".")
    if not is_module(step.owner) or not around or around.endswith(">"):
        return ""  # a function that is given a module, such as a loss function, belongs to no class
    return "" if around.rpartition(".")[2] == kind else kind
