"""Glossary: the words of the trade, each in a few lines, with the number of the moment where there is one."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

from nnrepl.classes import dataclass
from nnrepl.explain import words
from nnrepl.learn.asking import ask
from nnrepl.session.errors import UserError
from nnrepl.session.session import TapeSession
from nnrepl.tape import Op, Pass, Value


@dataclass(frozen=True, slots=True)
class GlossaryWord:
    """A word of the trade.

    Attributes:
        name: As it is written.
        aliases: Other words for it.
        text: What it means, as Markdown.
        here: What tells where it is met, on the tape; "" for nothing.
    """

    name: str
    aliases: tuple[str, ...]
    text: str
    here: str = ""

    @property
    def summary(self) -> str:
        """Its first sentence."""
        return self.text.partition(". ")[0].replace("`", "").rstrip(".:")


@cache
def glossary() -> dict[str, GlossaryWord]:
    """All words by their names, in the order of the file."""
    text = (Path(__file__).parent / "glossary.md").read_text(encoding="utf-8")
    found: dict[str, GlossaryWord] = {}
    for entry in text.split("\n## ")[1:]:
        head, _, body = entry.partition("\n")
        name, _, aliases = head.partition("|")
        told, _, here = body.partition("\nhere:")
        others = tuple(alias.strip() for alias in aliases.split(",") if alias.strip())
        found[name.strip()] = GlossaryWord(name.strip(), others, " ".join(told.split()), here.strip())
    return found


@cache
def _index() -> dict[str, GlossaryWord]:
    return {called.lower(): word for word in glossary().values() for called in (*word.aliases, word.name)}


def word_of(text: str) -> GlossaryWord | None:
    """Return the word that a text means, however it is written; None if it is none of these."""
    return _index().get(" ".join(text.lower().replace("_", " ").split())) or _index().get(text.lower())


_EVERYDAY = frozenset(
    "call closed cell cells claim claims constant hole holes init kernel mask masks masked mean average nudge phase "
    "phases place program script replay stop value version versions fused clip cursor leaf leaves "
    "step steps pass passes update edit edits seed forward backward link head key query cost unit error objective "
    "branch score scores slope descent axis dimension shape shapes model iteration moment moments evaluated "
    "evaluation".split()
)


@cache
def _pattern() -> re.Pattern[str]:
    """Return what stands for itself in Markdown (code, formulas, links), or a word of the trade; the longer ones
    first."""
    called = sorted(_index(), key=len, reverse=True)
    return re.compile(rf"`[^`]*`|\]\([^)]*\)|(?<![\w/.-])({'|'.join(map(re.escape, called))})(?![\w/-])", re.IGNORECASE)


def linked(text: str, known: set[str]) -> tuple[str, str]:
    """Return a text in Markdown with a ? after each word of the trade that is not known yet; it is known from then on.
    A word of everyday speech counts only in bold. And the last of these words, "" where there is none."""
    newest = ""

    def one(found: re.Match[str]) -> str:
        word = None if found[1] is None else word_of(found[1])
        if word is None or word.name in known or text.startswith("?", found.end()):
            return found[0]
        if found[0].lower() in _EVERYDAY and text[: found.start()][-2:] != "**":
            return found[0]
        nonlocal newest
        newest = word.name
        known.add(word.name)
        bold = "**" if text.startswith("**", found.end()) else ""
        return f"{found[0]}{bold}`?`{bold}"

    return _pattern().sub(one, text).replace("`?`****", "`?`"), newest


def word_at(text: str, column: int | None = None) -> GlossaryWord | None:
    """Return the word of the trade whose ? stands at a column of a line, or which itself does; without a column, that
    of the line's last ?."""
    marks = [found.start() for found in re.finditer(r"\?", text)]
    for end in reversed(marks) if column is None else [at for at in marks if at == column]:
        found = _ending(text[:end])
        if found is not None:
            return found
    if column is not None:
        for match in _pattern().finditer(text):
            if match[1] and match.start() <= column < match.end() and text[match.end() : match.end() + 1] == "?":
                return word_of(match[1])
    return None


def _ending(text: str) -> GlossaryWord | None:
    """Return the longest word of the trade with which a text ends."""
    pieces = re.split(r"(?<=[\s(])", text)
    return next((word for many in range(4, 0, -1) if (word := word_of("".join(pieces[-many:]).strip("( ")))), None)


def here(session: TapeSession, word: GlossaryWord) -> str:
    """Where a word is met on the tape, and the number that it has there; "" where it is not. Only what is small enough
    to be shown unasked is evaluated."""
    tell = _HERE.get(word.here)
    if tell is None or not session.tape.ops:
        return ""
    try:
        return tell(session)
    except UserError:
        return ""


MOST = 12
"""A tensor of more elements is told by its shape."""

# -- where a word is met ---------------------------------------------------------------------------------------------


def _shown(session: TapeSession, value: Value) -> str:
    """` = −3.5`, or the shape where the number would cost something."""
    if not session.small([value]):
        return f" {tuple(value.shape)}"
    session.evaluate([value])
    if value.size == 1:
        return f" = {words.inline(value.array)}"
    return f" = {words.nested(value.array)}" if 0 < value.size <= MOST else f" {tuple(value.shape)}"


def _standing(session: TapeSession) -> Op:
    """Return the op where the user stands; the last one, after it."""
    return session.tape.ops[min(session.cursor, len(session.tape) - 1)]


def _op(session: TapeSession) -> str:
    op = _standing(session)
    return f"{op.label} {op.name} comes next" if session.op is op else f"{op.label} {op.name} was the last"


def _step(session: TapeSession) -> str:
    op = _standing(session)
    number = op.step.number
    where = f"step {number}" if number else "the setup, before step 1"
    return f"you stand in {where}, in its phase {op.phase}; it has {len(op.step)} ops so far"


def _phase(session: TapeSession, phase: str) -> str:
    found = [op for op in session.tape.ops[_standing(session).step.start :] if op.phase == phase][:1]
    return f"in this step it begins at {found[0].label} {found[0].name}; goto {phase}" if found else ""


def _loss(session: TapeSession) -> str:
    pass_ = _gradient_pass(session)
    if pass_ is None or pass_.loss is None:
        return ""
    return f"loss{_shown(session, pass_.loss)}, in step {pass_.step.number}"


def _gradient_pass(session: TapeSession) -> Pass | None:
    passes = [pass_ for pass_ in session.tape.passes if pass_.loss is not None and pass_.start <= session.cursor]
    return passes[-1] if passes else None


def _gradient(session: TapeSession) -> str:
    pass_ = _gradient_pass(session)
    if pass_ is None:
        return ""
    for leaf in pass_.wrt:
        versions = pass_.grads.get(leaf, [])
        if versions:
            made = versions[-1].op
            by = f", made by {made.label} {made.name}" if made is not None else ""
            return f"∂L/∂{words.name(leaf)}{_shown(session, versions[-1])}{by}"
    return ""


def _learning_rate(session: TapeSession) -> str:
    for name in ("learning_rate", "optimizer.learning_rate", "opt.learning_rate", "lr"):
        try:
            result = ask(session, name).result
        except UserError:
            continue
        if isinstance(result, (int, float)):
            return f"{name} = {words.number(float(result))}"
    return ""


def _lazy(session: TapeSession) -> str:
    ops = session.tape.ops
    ready = sum(all(value.evaluated for value in op.outputs) for op in ops[-2000:])
    return f"of the last {min(len(ops), 2000)} ops on the tape {ready} are evaluated"


def _broadcasting(session: TapeSession) -> str:
    start = _standing(session).step.start
    for op in session.tape.ops[start : start + 500]:
        shapes = [tuple(value.shape) for value in op.inputs]
        if op.name in ("add", "subtract", "multiply", "divide", "maximum") and len(set(shapes)) == 2:
            return f"{op.label}, {words.call(op)}: {shapes[0]} with {shapes[1]}"
    return ""


def _named(session: TapeSession, *names: str) -> str:
    start = _standing(session).step.start
    for op in session.tape.ops[start : start + 2000]:
        if op.name in names:
            line = words.place(op.source)
            return f"{op.label}, {words.call(op)}" + (f" ({line})" if line else "")
    return ""


def _relu(session: TapeSession) -> str:
    start = _standing(session).step.start
    for op in session.tape.ops[start : start + 2000]:
        if op.name == "relu" or (
            op.name == "maximum" and any(type(arg) in (int, float) and not arg for arg in op.args)
        ):
            return f"{op.label}, {words.call(op)}"
    return ""


def _parameters(session: TapeSession) -> str:
    pass_ = _gradient_pass(session)
    if pass_ is None or not pass_.wrt:
        return ""
    return f"{len(pass_.wrt)} tensors with {sum(leaf.size for leaf in pass_.wrt)} numbers are learned in this pass"


def _tape(session: TapeSession) -> str:
    return f"it has {len(session.tape.ops)} ops, in {len(session.tape.passes)} passes"


def _timeline(session: TapeSession) -> str:
    lines = session.changes.timelines
    return f"you are on timeline {lines.current.number} of {len(lines)}"


def _vjp(session: TapeSession) -> str:
    start = _standing(session).step.start
    found = [op for op in session.tape.ops[start : start + 5000] if op.of is not None][:1]
    return f"the first of this step is {found[0].label} {found[0].name}" if found else ""


_HERE: dict[str, Callable[[TapeSession], str]] = {
    "op": _op,
    "step": _step,
    "forward": lambda session: _phase(session, "forward"),
    "backward": lambda session: _phase(session, "backward"),
    "update": lambda session: _phase(session, "update"),
    "loss": _loss,
    "gradient": _gradient,
    "learning rate": _learning_rate,
    "lazy": _lazy,
    "broadcasting": _broadcasting,
    "softmax": lambda session: _named(session, "softmax"),
    "matmul": lambda session: _named(session, "matmul"),
    "maximum": _relu,
    "attention": lambda session: _named(session, "fast.scaled_dot_product_attention"),
    "parameters": _parameters,
    "tape": _tape,
    "timeline": _timeline,
    "vjp": _vjp,
}
