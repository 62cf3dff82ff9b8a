"""nnrepl: a time-travel debugger for neural networks in MLX.

trace = nnrepl.trace(fn, *args, wrt=model)     record one call, forward and backward
nnrepl.Session(trace)                          step through it by program
nnrepl.debug(fn, *args, wrt=model)             step through it at the prompt
"""

from nnrepl.programs.function import Trace, trace
from nnrepl.record.verify import Receipt
from nnrepl.session.errors import UserError
from nnrepl.shell.api import Session, debug
from nnrepl.tape import Op, Pass, Source, Value

__all__ = ["Op", "Pass", "Receipt", "Session", "Source", "Trace", "UserError", "Value", "debug", "trace"]
