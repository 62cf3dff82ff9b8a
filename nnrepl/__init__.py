"""nnrepl: a time-travel debugger for neural networks in MLX.

trace = nnrepl.trace(fn, *args, wrt=model)     record one call, forward and backward
nnrepl.Session(trace)                          step through it by program
nnrepl.debug(fn, *args, wrt=model)             step through it at the prompt
nnrepl.set_trace()                             stop at the next op (also PYTHONBREAKPOINT=nnrepl.set_trace)
with nnrepl.recording() as tape: ...           record a stretch of a program
nnrepl.post_mortem()                           look at what was recorded last, where it failed
%load_ext nnrepl                               in a notebook: %%nnrepl runs a cell, %nnrepl COMMAND asks
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nnrepl import late as _late  # noqa: F401  # the first: it notes what had been imported before

if TYPE_CHECKING:
    from nnrepl.programs.function import Recorded, Trace
    from nnrepl.record.verify import Receipt
    from nnrepl.session.errors import UserError
    from nnrepl.shell.api import Session, debug, trace
    from nnrepl.shell.entering import post_mortem, recording, set_trace
    from nnrepl.tape import Op, Pass, Source, Value
    from nnrepl.view.said import Answer

_HOMES = {
    "programs.function": ("Recorded", "Trace"),
    "record.verify": ("Receipt",),
    "session.errors": ("UserError",),
    "shell.api": ("Session", "debug", "trace"),
    "shell.entering": ("post_mortem", "recording", "set_trace"),
    "tape": ("Op", "Pass", "Source", "Value"),
    "view.said": ("Answer",),
}
"""Where each public name is made. They are imported when one is asked for: the command line needs other rooms."""

__all__ = [
    "Answer", "Op", "Pass", "Receipt", "Recorded", "Session", "Source", "Trace", "UserError", "Value", "debug",
    "load_ipython_extension", "post_mortem", "recording", "set_trace", "trace",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            from nnrepl.tape.collector import paused

            with paused():  # what is imported stays: the collector would only walk it again and again
                found = globals()[name] = getattr(import_module(f"{__name__}.{home}"), name)
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


def load_ipython_extension(shell: Any) -> None:
    """Make `%nnrepl` and `%%nnrepl` known: what `%load_ext nnrepl` calls with IPython's shell."""
    from nnrepl.shell.cell_magics import load_ipython_extension as load

    load(shell)
