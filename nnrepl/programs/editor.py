"""Editor: opening the program's source where the user stands."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys

from nnrepl.installed import is_library
from nnrepl.record.segments import locate
from nnrepl.session.errors import UserError
from nnrepl.session.session import TapeSession

_USUAL = ("nano", "vim", "vi", "emacs")


def place_in_program(session: TapeSession) -> tuple[str, int]:
    """Return the file and line of the program's own call that makes the next op.

    Raises:
        UserError: If that lies in no file.
    """
    op = session.op_or_last
    if op is None or op.scope is None:
        raise UserError("there is no op yet whose line could be edited; step to the first one")
    calls = op.scope.path()
    places = list(zip(calls, [*(call.lasti for call in calls[1:]), op.lasti]))
    for call, lasti in reversed(places):
        source = locate(call.code, lasti)
        if source.cell:
            raise UserError(f"this stands in cell {source.cell} of a notebook: edit it there, then reload")
        if not is_library(source.file) and os.path.exists(source.file):
            return source.file, source.line
    raise UserError("no call on the way to this op stands in a file that can be edited")


def open_editor(file: str, line: int) -> int:
    """Edit a file, and wait until that is done. Returns the editor's exit status.

    Raises:
        UserError: If there is no editor.
    """
    command = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or "")
    if not command and sys.stdin is not None and sys.stdin.isatty():
        command = [name for name in _USUAL if shutil.which(name)][:1]
    if not command:
        raise UserError("edit needs an editor: set EDITOR, such as EDITOR=nano nnrepl train.py")
    try:
        return subprocess.run([*command, *_place(command[0], file, line)], check=False).returncode
    except OSError as error:
        raise UserError(f"cannot run {command[0]}: {error.strerror}; EDITOR names the editor") from None


def _place(editor: str, file: str, line: int) -> list[str]:
    """How an editor is told the line."""
    name = os.path.basename(editor)
    if name in ("code", "codium", "cursor"):
        return ["--wait", "--goto", f"{file}:{line}"]
    if name in ("subl", "zed", "hx", "helix"):
        return [*(["--wait"] if name in ("subl", "zed") else []), f"{file}:{line}"]
    known = ("vi", "vim", "nvim", "view", "nano", "pico", "emacs", "emacsclient", "micro", "kak", "joe", "ed", "mg")
    return [f"+{line}", file] if name in known else [file]
