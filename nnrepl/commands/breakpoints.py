"""Stops: breakpoints, watches and catches."""

from __future__ import annotations

import re
from difflib import get_close_matches

from rich.console import Group, RenderableType
from rich.text import Text

from nnrepl.commands.interpreter import Interpreter
from nnrepl.commands.table import Grammar, Opens, command
from nnrepl.session.closed import closed_between, closed_said
from nnrepl.session.conditions import condition, named_in
from nnrepl.session.errors import UserError
from nnrepl.session.events import EVENTS
from nnrepl.session.parsed import Parsed
from nnrepl.session.passing import lines_in
from nnrepl.session.points import Condition
from nnrepl.session.scouts import records_for
from nnrepl.session.session import TapeSession
from nnrepl.session.stops import Breakpoint, Catch, Trigger, Watch

STOPS = "stops"
_NUMBERS = Grammar("[N ...]", lambda text: re.fullmatch(r"[\d\s,-]*", text) is not None)
_BREAK = Grammar("[PLACE[, CONDITION]]", lambda text: True, "places")


# -- breakpoints ---------------------------------------------------------------------------------------------


@command("break", "b", takes=_BREAK, opens=Opens.NOTHING, group=STOPS)
def break_(it: Interpreter, text: str) -> RenderableType | None:
    """Stop at a place, in every pass: `break PLACE`, `break PLACE, CONDITION`. Without a place, list what there is.

    A place is an op (`break #12`), a line (`break train.py:31`, `break 31` in the file where you stand), an
    operation (`break matmul`), a value where it is made (`break z1`, `break grad(z1)`), a module where it is
    entered (`break layers.*.attention`), a function or a class (`break loss_fn`), a phase (`break backward`), or
    several, each within the one before: `break backward matmul`, `break layers.1 softmax`. A line, a module and a
    function stop once for each time that the program comes to them, and again where their gradients are taken.

    A condition is Python, as seen from there: `break matmul, z1.max() > 10`, `break matmul if z1.max() > 10`. Alone it
    stops where it has become true: `break loss < 0.5` when a loss has been made. It is evaluated only where the place
    matches.

    Steps go on running natively where it can be told from outside of them whether they may stop there: at a line, a
    function, a class, a step; where a condition speaks of the loss, of weights and their gradients, of an optimizer's
    state, or of numbers that the program's variables hold. Else all are recorded, and that is said.
    """
    return overview(it.session, list(it.session.stops)) if not text else _set(it, text, temporary=False)


@command(
    "tbreak",
    "tb",
    takes=Grammar("PLACE[, CONDITION]", lambda text: bool(text), "places"),
    opens=Opens.NOTHING,
    group=STOPS,
)
def tbreak(it: Interpreter, text: str) -> RenderableType | None:
    """Stop at a place once: as `break`, and the breakpoint is deleted when it has stopped."""
    return _set(it, text, temporary=True)


def _set(it: Interpreter, text: str, temporary: bool) -> RenderableType:
    session = it.session
    place = session.place(text)
    text, asked = (place.title, "") if not isinstance(place, Condition) else (place.where, place.condition)
    entry = session.stops.add(Breakpoint(text, condition=asked, temporary=temporary))
    note = [Text(f"({place.note})", style="hint")] if place.note else []
    return Group(*_answer(session, entry), *note, *_recorded(session, entry))


def _line(session: TapeSession, entry: Trigger) -> RenderableType:
    """Return the line of the list for one entry."""
    from nnrepl.seen.entries import one_listed
    from nnrepl.view.stop_list import entry_line

    return entry_line(one_listed(session, entry))


def overview(session: TapeSession, entries: list[Trigger]) -> RenderableType:
    """Return the list of some breakpoints, watches and catches."""
    from nnrepl.seen.entries import listed
    from nnrepl.view.stop_list import entries_view

    return entries_view(listed(session, entries))


def _recorded(session: TapeSession, entry: Trigger) -> list[RenderableType]:
    """Return what is said where steps have to be recorded for an entry, or less is seen where they are not."""
    why = records_for(session, entry) if session.may_run_natively() else ""
    return [Text(why, style="hint")] if why else []


def _answer(session: TapeSession, entry: Breakpoint) -> list[RenderableType]:
    """Return what is said when a breakpoint is set: what it is, and where it matches in this pass."""
    from nnrepl.view.stop_list import places_text

    lines: list[RenderableType] = [_line(session, entry)]
    place, step = session.lookout.search.place(entry), session.tape.steps.at(session.cursor)
    unseen = closed_between(session.tape, step.start, step.end) if len(step) else []
    if place is not None and unseen:
        lines.append(Text(f"{closed_said(unseen)}: not looked at", style="hint"))
    elif place is not None and len(step):
        found = session.lookout.search.places(entry, step.start, step.end)
        ops = [session.tape.ops[at] for at in found if at < len(session.tape)]
        lines.append(Text(places_text(ops, bool(place.condition)), style="hint"))
        if not found and place.first_after(session.tape, 0) is None:
            behind = "; if it makes none, the stop is at the next one" if list(lines_in(place)) else ""
            that = " that was recorded" if session.tape.closed else ""
            lines[-1] = Text(f"No op{that} has been there so far{behind}.", style="hint")
    return lines


@command(
    "condition", takes=Grammar("N [CONDITION]", lambda text: re.match(r"\d+(\s|$)", text) is not None), group=STOPS
)
def condition_(it: Interpreter, text: str) -> RenderableType | None:
    """Give a breakpoint a condition, or (without one) take it away: `condition 1 z1.max() > 10`."""
    number, _, asked = text.partition(" ")
    entry = it.session.stops.numbered(number)
    if not isinstance(entry, Breakpoint):
        raise UserError(f"{entry.title} has no condition; only breakpoints have")
    entry.condition = condition(asked).text if asked.strip() else ""
    return Group(_line(it.session, entry), *_recorded(it.session, entry))


@command(
    "ignore", takes=Grammar("N [COUNT]", lambda text: re.fullmatch(r"\d+(\s+\d+)?", text) is not None), group=STOPS
)
def ignore(it: Interpreter, text: str) -> RenderableType | None:
    """Go over the next hits of a breakpoint, watch or catch: `ignore 1 3`. Without a count, over none."""
    number, _, count = text.partition(" ")
    entry = it.session.stops.numbered(number)
    entry.ignore = min(int(count.strip()[:12] or 0), 10**9)
    return _line(it.session, entry)


# -- watches and catches -------------------------------------------------------------------------------------


@command("watch", takes=Grammar("EXPR", bool, "names"), opens=Opens.PYTHON, group=STOPS)
def watch(it: Interpreter, text: str) -> RenderableType | None:
    """Stop where the value of an expression has changed: `watch z1`, `watch grad(w).max()`, `watch loss`.

    It is looked at only after the ops that make one of the values it names, and told with its old and its new
    value. A parameter that a new pass takes over unchanged has not changed.
    """
    session = it.session
    parsed = condition(text)
    plain, gradients = named_in(parsed, session.names)
    entry = Watch(text)
    lines: list[RenderableType] = []
    if not plain and not gradients:
        if _is_plain_python(it, parsed):
            raise UserError(f"{text} names no tensor of the tape; display {text} shows it at every stop")
        lines = [Text("It names nothing that is on the tape yet: kept pending.", style="hint")]
    session.stops.add(entry)
    return Group(_line(session, entry), *lines, *_recorded(session, entry))


def _is_plain_python(it: Interpreter, parsed: Parsed) -> bool:
    """Whether an expression has a value without the tape."""
    try:
        it.value(parsed)
    except UserError:
        return False
    return True


@command(
    "catch",
    takes=Grammar(" | ".join(EVENTS), bool, "words", tuple(EVENTS)),
    group=STOPS,
    manual={"events": " ".join(f"`catch {name}`: {event.words}." for name, event in EVENTS.items())},
)
def catch(it: Interpreter, text: str) -> RenderableType | None:
    """Stop where something happens that is easy to miss.

    {events}

    Of a number it names the element, and what that was made from. What looks at numbers evaluates what is run over,
    many ops at a time. Of steps that run natively `catch nan` looks at the loss and the gradients, and opens the one in
    which there is a NaN; one that is born and gone within a step, as under a mask, is found with `config native off`.
    For the others all steps are recorded.
    """
    if text not in EVENTS:
        close = get_close_matches(text, EVENTS, 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise UserError(f"catch takes {', '.join(EVENTS)}, not {text}{hint}")
    same = next((known for known in it.session.stops if isinstance(known, Catch) and known.text == text), None)
    entry = same or it.session.stops.add(Catch(text))
    entry.enabled = True
    return Group(_line(it.session, entry), *_recorded(it.session, entry))


@command("last", takes=Grammar("NAME", bool, "names"), opens=Opens.PYTHON | Opens.HERE | Opens.TAPE, group="jumps")
def last(it: Interpreter, text: str) -> None:
    """Go back to the op that wrote a value last: `last z1`, `last grad(w)`. Again: to the write before."""
    it.session.last_write(text)


# -- all of them ---------------------------------------------------------------------------------------------


def _chosen(session: TapeSession, text: str) -> list[Trigger]:
    """`1`, `1 3`, `2-4`, or all."""
    if not text.strip():
        return list(session.stops)
    chosen: list[Trigger] = []
    for word in re.split(r"[\s,]+", text.strip()):
        first, dash, final = word.partition("-")
        if dash and first and final:
            numbers = range(int(first[:9]), int(final[:9]) + 1)
            chosen += [entry for entry in session.stops if entry.number in numbers]
        else:
            chosen.append(session.stops.numbered(word))
    return chosen


@command("disable", takes=_NUMBERS, group=STOPS)
def disable(it: Interpreter, text: str) -> RenderableType | None:
    """Keep breakpoints, watches or catches from stopping, by their numbers; without one, all."""
    return _switch(it, text, False)


@command("enable", takes=_NUMBERS, group=STOPS)
def enable(it: Interpreter, text: str) -> RenderableType | None:
    """Let breakpoints, watches or catches stop again, by their numbers; without one, all."""
    return _switch(it, text, True)


def _switch(it: Interpreter, text: str, on: bool) -> RenderableType:
    chosen = _chosen(it.session, text)
    for entry in chosen:
        entry.enabled = on
    return overview(it.session, chosen)


@command(
    "clear",
    "cl",
    "delete",
    takes=Grammar("[N ... | PLACE]", lambda text: True, "places"),
    opens=Opens.NOTHING,
    group=STOPS,
)
def clear(it: Interpreter, text: str) -> RenderableType | None:
    """Delete breakpoints, watches or catches: by numbers (`clear 1 3`), by place (`clear train.py:31`), or all."""
    stops = it.session.stops
    text = re.sub(r"^(breakpoints?|watch(points?)?)\b\s*", "", text)
    if re.fullmatch(r"[\d\s,-]*", text) and not (text.isdigit() and _is_line_only(it.session, text)):
        chosen = _chosen(it.session, text)
    else:
        chosen = _at_place(it.session, text)
        if not chosen:
            raise UserError(f"no breakpoint, watch or catch is at {text}; info breakpoints lists them")
    for entry in chosen:
        stops.remove(entry)
    names = ", ".join(entry.title for entry in chosen)
    return Text(f"Deleted {names}." if chosen else "There was nothing to delete.", style="hint")


def _is_line_only(session: TapeSession, text: str) -> bool:
    """Whether a number is that of a line at which there is a breakpoint, and of no breakpoint."""
    if any(str(entry.number) == text for entry in session.stops):
        return False
    try:
        return bool(_at_place(session, text))
    except UserError:
        return False


def _at_place(session: TapeSession, text: str) -> list[Trigger]:
    """Return the entries at a place, or of an expression, as it was typed or as it is spelled."""
    found = [entry for entry in session.stops if text in (entry.text, getattr(entry, "spelled", ""))]
    if found:
        return found
    title = session.place(text).title
    return [entry for entry in session.stops if title in (entry.text, getattr(entry, "spelled", ""))]


@command("commands", takes=Grammar("[N]", lambda text: re.fullmatch(r"\d*", text) is not None), group=STOPS)
def commands(it: Interpreter, text: str) -> RenderableType | None:
    """Give a breakpoint, watch or catch lines that are run when it has stopped: `commands 1`, the lines, `end`.

    Without a number, the one set last. `silent` as the first line: the stop itself is not shown. A motion
    (`continue`) ends the list. `end` at once takes the lines away.
    """
    entry = it.session.stops.numbered(text) if text else it.session.stops.last()
    it.collect(entry.title, lambda lines: _give(entry, lines))
    return Text(f"Lines for {entry.title}, one at a time; end finishes.", style="hint")


def _give(entry: Trigger, lines: list[str]) -> None:
    entry.commands = lines
