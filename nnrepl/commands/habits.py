"""Habits: what people type who come from pdb or gdb, where this debugger spells it otherwise.

A line is looked up here only when it is neither a command nor Python. Either it is read as what it means here, or
it gets one line that says what to type instead. So does a question in plain English, which begins as a command does.
"""

from __future__ import annotations

import re

_READ_AS: tuple[tuple[str, str], ...] = (
    (r"i(?:nf)?\s+(.+)", r"info \1"),
    (r"x/(\d+)\w*\s+(.+)", r"p mx.flatten(\2)[:\1]"),
    (r"x/?\w*\s+(.+)", r"p \1"),
    (r"inspect\s+(.+)", r"p \1"),
    (r"output\s+(.+)", r"p \1"),
    (r"call\s+(.+)", r"! \1"),
    (r"del(?:ete)?\s+(\d[\d\s]*)", r"clear \1"),
    (r"(?:rwatch|awatch)\s+(.+)", r"watch \1"),
    (r"hbreak\s+(.+)", r"break \1"),
    (r"dis(?:a)?\s+([\d\s]+)", r"disable \1"),
    (r"en\s+([\d\s]+)", r"enable \1"),
    (r"ig\s+([\d\s]+)", r"ignore \1"),
    (r"undisp\s*(.*)", r"undisplay \1"),
    (r"disp\s+(.+)", r"display \1"),
    (r"h(?:el)?\s+(.+)", r"help \1"),
    (r"set\s+var(?:iable)?\s+(.+)", r"! \1"),
)

_ANSWERS: tuple[tuple[str, str], ...] = (
    (r"(?:j|jump)\b\s*(.*)", "nothing can be left out here; goto {0} goes there in either direction"),
    (r"interact\b.*", "the prompt takes Python already: type it; ! in front forces it"),
    (r"(?:frame|f)\b.*", "up and down move between the calls, where lists them"),
    (r"(?:rv|retval)\b.*", "what an op gave is p #12; what a function gave has its caller's name: p loss"),
    (r"(?:k|kill|detach)\b.*", "quit ends the program and the session; restart runs it again"),
    (r"(?:starti?|attach|file|target)\b.*", "restart runs the program from its start; goto start goes to op #1"),
    (r"record\b.*", "everything is recorded already: back, reverse-continue, goto #12"),
    (r"(?:checkpoint)\b.*", "every op is a checkpoint already: goto #12 goes there"),
    (r"(?:layout|focus|winheight|refresh)\b.*", "nnrepl --tui shows source, ops and tensors on the full screen"),
    (
        r"(?:reverse-)?(?:stepi|nexti|si|ni|rsi|rni)\b.*",
        "an op is the smallest step: s steps into modules, n over them, rs and rn go back",
    ),
    (r"(?:thread|threads)\b.*", "nnrepl follows one thread: the one that the program started in"),
    (r"(?:exceptions)\b.*", "catch exception stops where one is raised; where shows the calls"),
    (r"(?:disas|disassemble)\b.*", "ops pass lists the ops of the pass, what #12 tells about one"),
    (r"(?:shell|make|cd|pwd)\b.*", "Python can: ! import os; os.getcwd()"),
    (r"(?:handle|signal)\b.*", "Ctrl-C stops the program at its next op; catch exception stops at exceptions"),
)

_QUESTIONS: tuple[tuple[str, str], ...] = (
    (
        r"what\s+if\s+(.+?)\s+(?:were|was|is|are|had\s+been|becomes?|=+)\s+(.+?)",
        "change it and see: {0} = {1} at the prompt; what follows is computed from it, undo takes it back",
    ),
    (
        r"what\s+if\b.*",
        "change it and see: w = 0.3 at the prompt; what follows is computed from it, undo takes it back",
    ),
    (
        r"why\s+(?:is|are|does|do|was|were)\b.*\bgradients?\b.*",
        "why grad(w) == 0 tells why a gradient is zero, why grad(w) is none why there is none; help why tells all",
    ),
    (r"why\s+(?:is|are|was|were)\b.*\bnan\b.*", "why nan tells where the first NaN came from"),
    (
        r"why\s+(?:is|are|does|do|did|was|were)\b.*",
        "help why lists the questions that why takes; explain z1 tells how z1 was made",
    ),
    (
        r"(?:what|how)\s+(?:does|do|did|is|are|was|were|has)\b.*",
        "explain tells what the op ahead computes, explain z1 how z1 was made, what z1 all that is known of it",
    ),
)  # fmt: skip


def question(line: str) -> str | None:
    """Return what to type instead of a question in plain English; None if a line is none."""
    for pattern, said in _QUESTIONS:
        found = re.fullmatch(pattern, line.removesuffix("?").strip(), re.IGNORECASE)
        if found is not None:
            return said.format(*found.groups())
    return None


def read_as(line: str) -> str | None:
    """Return the line that a habit means here; None if it is none."""
    for pattern, meant in _READ_AS:
        found = re.fullmatch(pattern, line)
        if found is not None:
            return found.expand(meant).strip()
    return None


def answer(line: str) -> str | None:
    """Return what to type instead of a line that is a habit; None if it is none."""
    for pattern, said in _ANSWERS:
        found = re.fullmatch(pattern, line)
        if found is not None:
            rest = found[1].strip() if found.re.groups and found[1] else "#12"
            return said.format(rest)
    return None
