"""Missing: in a line, why there is no gradient. One classification, from which every command speaks: `why` and `health`
tell it at length, `p`, `explain`, `check`, `what` in a line, tables in a word."""

from __future__ import annotations

from nnrepl.classes import dataclass
from nnrepl.explain import words
from nnrepl.explain.answer import Cause
from nnrepl.explain.disconnected import why_none
from nnrepl.session.errors import NoGradient
from nnrepl.session.reading import Reading
from nnrepl.tape import Value

WORDS: dict[str, str] = {
    "": "none was taken",
    "failed": "none: the pass failed",
    "inside": "not known",
    "second": "none: its second run's are taken",
    "ruled": "none: a rule of the program's own",
    "frozen": "none: frozen",
    "asked": "none: never asked for",
    "lost": "none: it does not arrive",
    "unused": "none flows (disconnected): not used",
    "data": "none flows (disconnected): only data",
    "cut": "none flows (disconnected): cut",
    "edit": "none flows: cut by an edit",
}
"""Each cause in the words of a table."""


@dataclass(frozen=True, slots=True)
class Missing:
    """Why a value has no gradient.

    Attributes:
        cause: One of the keys of `WORDS`.
        line: It as a sentence.
        word: It as a table has room for it: `none flows (disconnected): cut at #3 stop_gradient`.
    """

    cause: str
    line: str
    word: str


def missing(session: Reading, value: Value, name: str = "") -> Missing:
    """Why there is no gradient with respect to a value.

    Args:
        name: What it is called where the cursor stands; its own name without one.
    """
    answer = why_none(session, value)
    where = f" at {answer.op.label} {answer.op.name}" if answer.cause == "cut" and answer.op is not None else ""
    return Missing(answer.cause, _line(answer, name or value.name), f"{WORDS[answer.cause]}{where}")


def _line(answer: Cause, name: str) -> str:
    op = answer.op
    taken = f"no gradient was taken with respect to {name}"
    flows = f"no gradient flows to {name} (disconnected)"
    match answer.cause:
        case "frozen":
            return f"{taken}: it is frozen in the model ({answer.owner}.unfreeze() lets it be trained)"
        case "asked":
            return f"{taken}: nobody asked for it"
        case "unused" if op is None:
            return f"{flows}: it is not used"
        case "unused":
            return f"{flows}: it is not used in the loss, what is computed from it ends with {_at(answer)}"
        case "data":
            return f"{flows}: it is only used as data, by {_at(answer)}"
        case "cut":
            return f"{flows}: it is cut at {_at(answer)}"
        case "edit":
            assert op is not None
            text = op.source.text if op.source is not None else words.call(op)
            return f"no gradient flows to {name}: it is cut by the edit {text!r}, {op.label}"
        case "lost":
            return f"{flows}: it was asked for and does not arrive"
        case "":
            return f"{taken}: it is in no gradient pass"
        case _:  # a sentence as it is
            return answer.headline.partition(". ")[0].rstrip(".")


def _at(answer: Cause) -> str:
    assert answer.op is not None
    return f"{answer.op.label} {words.call(answer.op)} ({words.place(answer.op.source)})"


def told(session: Reading, error: NoGradient) -> NoGradient:
    """Return a missing gradient with its cause."""
    if error.value is None:
        return error
    value = error.value
    return NoGradient(missing(session, value, session.lookup.name_here(value, session.cursor)).line)
