"""Info: tables about the whole of a session. Nothing is evaluated for them, gradient norms excepted."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from nnrepl.installed import is_mlx
from nnrepl.record import segments as sources
from nnrepl.seen.array_sizes import norms
from nnrepl.seen.gradient_sizes import NOT_MADE, Sizes
from nnrepl.seen.locals_here import Absent, Sized, Variables
from nnrepl.tape import GRADIENT_PASS, Leaf, Op, Pass, Step, Tape, Value, text_of
from nnrepl.tape.kept_array import KeptArray, is_array
from nnrepl.timeline.evaluation import Work
from nnrepl.view.narrow import NARROW, Grid, ending
from nnrepl.view.source_lines import place_text
from nnrepl.view.tensor import dtype_text, number, shape_text, summarize


def grid(*titles: str, right: tuple[str, ...] = ()) -> Table:
    """Return a table without lines; the columns named in `right` are numbers."""
    headed = any(titles)
    table = Grid(show_header=headed, header_style="dim")
    for title in titles:
        table.add_column(title, justify="right" if title in right else "left", no_wrap=title in right)
    return table


def size_text(count: float) -> str:
    """Bytes as people say them: `1.2 MB`."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


# -- passes --------------------------------------------------------------------------------------------------


_NEAR = 12
"""So many passes before and after the cursor are listed, unless all are asked for."""


def passes_view(tape: Tape, here: Pass | None, everything: bool = False) -> RenderableType:
    """Each pass: its number, what it is, where it was called, its ops, and its loss if that has been evaluated."""
    passes = [pass_ for pass_ in tape.passes if len(pass_)]
    if not passes:
        return Text("nothing has been recorded yet", style="hint")
    runs = _runs(passes)
    at = next((number for number, run in enumerate(runs) if here in run), len(runs) - 1)
    shown = runs if everything else runs[max(at - _NEAR, 0) : at + _NEAR + 1]
    table = grid("", "pass", "what", "called", "ops", "", "loss", right=("pass", "ops"))
    for run in shown:
        pass_ = run[0]
        mark = Text("▶" if here in run else "", style="source.current")
        what = f"{_what(pass_)} · {_turns(run)}" if pass_.turn else _what(pass_)
        table.add_row(mark, str(pass_.number), what, _called(pass_), _count(run), _numbers(run), _loss(pass_))
    if len(shown) == len(runs):
        return table
    return Group(table, Text(f"{len(shown)} of {len(runs)} passes; info passes all lists the others.", style="hint"))


def _runs(passes: list[Pass]) -> list[list[Pass]]:
    """Return passes, closed turns that follow each other together."""
    runs: list[list[Pass]] = []
    for pass_ in passes:
        if pass_.turn and runs and runs[-1][-1].turn:
            runs[-1].append(pass_)
        else:
            runs.append([pass_])
    return runs


def _turns(run: list[Pass]) -> str:
    """Return `turns 4 to 2000, closed`; of what nobody has told apart, how many stretches there are."""
    tape = run[0].tape
    first, last = (tape.turns.number_at(at, tape.ops) for at in (run[0].start - 1, run[-1].start))
    first += 1
    if last < first:
        return "closed" if len(run) == 1 else f"{len(run):,} stretches, closed"
    return f"turn {first}, closed" if first == last else f"turns {first} to {last}, closed"


def steps_view(tape: Tape, everything: bool = False) -> RenderableType:
    """Each training step: its ops, where it begins, what updates in it, and its loss if that has been evaluated."""
    steps = tape.steps
    if not len(steps):
        said = f"; the setup is{tape.turns.said[1:]}" if len(tape.turns) else ""
        return Text(f"no training step has begun yet{said}", style="hint")
    here = tape.here
    first, last = (1, len(steps)) if everything else (max(here - _NEAR, 1), min(max(here, 1) + _NEAR, len(steps)))
    table = grid("", "step", "ops", "gradients", "update", "from", "loss", right=("step", "ops", "gradients"))
    shown = steps[first - 1 : last]
    functions = {pass_.title for step in shown for pass_ in step.passes if pass_.kind == GRADIENT_PASS}
    for step in shown:
        mark = Text("▶" if step.number == here else "", style="source.current")
        calls = [pass_ for pass_ in step.passes if pass_.kind == GRADIENT_PASS]
        made = set(step.updates)
        updates = [
            "by hand" if pass_.by_hand else _title(pass_) for pass_ in step.passes if pass_.by_hand or pass_ in made
        ]
        # The ops before a step's first call may lie in one pass with those behind the last step's update.
        at = next(iter(calls), None) or tape.ops[step.start]
        table.add_row(mark, str(step.number), str(len(step)), str(len(calls)), ", ".join(dict.fromkeys(updates)),
                      _called(at), _loss(calls[-1], len(functions) > 1) if calls else Text(""))  # fmt: skip
    parts: list[RenderableType] = [table]
    if last - first + 1 < len(steps):
        parts.append(Text(f"{last - first + 1} of {len(steps)} steps; info steps all lists the others.", style="hint"))
    parts += [Text(note, style="hint") for note in _what_counts(shown, len(steps))]
    return Group(*parts)


def _what_counts(shown: list[Step], count: int) -> list[str]:
    """Return what has been counted as a step, where that is not plain."""
    notes = []
    if any(len(step.updates) > 1 for step in shown):
        notes.append("A step is one turn of the training loop: all updates in it belong to it.")
    functions = {tuple(pass_.title for pass_ in step.passes if pass_.kind == GRADIENT_PASS) for step in shown}
    titles = dict.fromkeys(title for one in functions for title in one)
    if len({one for one in functions if one}) > 1:
        notes.append(f"Updates in different turns of a loop are steps of their own, here of {' and '.join(titles)}.")
    last = shown[-1]
    over = last.number < count or count == 1 or last.is_over
    if not over and not any(pass_.kind == GRADIENT_PASS for pass_ in last.passes):
        notes.append(f"Step {count} has no gradient yet: it is what came after step {count - 1}.")
    return notes


def _title(pass_: Pass) -> str:
    return pass_.title if pass_.title not in ("", "<module>") else "by hand"


def _what(pass_: Pass) -> str:
    return f"{pass_.kind} · {pass_.title}" if pass_.title not in ("", "<module>") else pass_.kind


def _called(made: Pass | Op) -> str:
    """Where the program calls it: not in nn.value_and_grad itself, but where that is called."""
    scope, lasti = made.scope, made.lasti
    while scope is not None and scope.parent is not None and is_mlx(scope.code.co_filename):
        lasti, scope = scope.lasti, scope.parent
    return place_text(sources.locate(scope.code, lasti)) if scope is not None else ""


def _count(run: list[Pass]) -> str:
    """How many ops: of a gradient pass those of both phases."""
    pass_ = run[0]
    if pass_.kind == GRADIENT_PASS:
        return f"{pass_.count('forward')} + {pass_.count('backward')}"
    return str(sum(map(len, run)))


def _numbers(run: list[Pass]) -> Text:
    first, last = run[0].ops[0].label, run[-1].ops[-1].label
    return Text(f"{first} to {last}" if first != last else first, style="op.number")


def _loss(pass_: Pass, named: bool = False) -> Text:
    """Return the loss of a gradient call, with what it is the loss of where the calls are of several functions."""
    if pass_.error is not None:
        return Text(type(pass_.error).__name__, style="error")
    loss = pass_.loss
    if loss is None:
        return Text("")
    if not loss.evaluated:
        return Text("not computed yet", style="hint")
    value: Any = loss.array
    text = number(value.item()) if loss.size == 1 else shape_text(loss.shape)
    return Text(f"{pass_.title} {text}" if named else text)


# -- parameters ----------------------------------------------------------------------------------------------


def parameters_view(sizes: Sizes | None) -> RenderableType:
    """Return the leaves with respect to which the gradients of a call are taken, with the norms of those that are
    known."""
    if sizes is None:
        return Text("no gradients have been taken yet, so nothing is known to be a parameter", style="hint")
    pass_, norms = sizes.pass_, sizes.norms
    table = grid("parameter", "shape", "size", "dtype", "gradient norm", right=("size",))
    for leaf in pass_.wrt:
        norm = norms[leaf][1] if leaf in norms else None
        shown = Text(sizes.missing[leaf], style="hint") if norm is None else Text(number(norm))
        if norm == 0:
            shown = Text("0, all of it", style="warning")
        table.add_row(
            Text(leaf.name, style="value.name"),
            Text(shape_text(leaf.shape), style="value.shape"),
            f"{leaf.size:,}",
            dtype_text(leaf.dtype),
            shown,
        )
    total = sum(leaf.size for leaf in pass_.wrt)
    memory = size_text(sum(leaf.size * leaf.dtype.size for leaf in pass_.wrt))
    return Group(table, Text(f"{len(pass_.wrt)} in {pass_.address}, {total:,} numbers, {memory}", style="dim"))


_BAR = 24
"""How wide the bar of the largest gradient is."""
_LEAST_BAR = 8
_SIGN, _EACH = "∂L/∂", "of each element"
_FEW = 6
"""Of more gradients that are not made yet only the number is said."""


def gradients_view(calls: Sequence[Sizes]) -> RenderableType:
    """Return the gradients of a training step by size, with bars; of each parameter the last that was taken.

    Args:
        calls: Its gradient calls.
    """
    if not calls:
        return Text("no gradients have been taken yet", style="hint")
    last: dict[tuple[Value, int], tuple[Value, float | str]] = {}
    again = False
    for sizes in calls:
        turn: Counter[Value] = Counter()  # parameters may begin as one array, and are several to MLX
        for leaf in sizes.pass_.wrt:
            key = (leaf.oldest, turn[leaf.oldest])
            turn[leaf.oldest] += 1
            again |= key in last
            last[key] = (leaf, sizes.norms[leaf][1] if leaf in sizes.norms else sizes.missing[leaf])
    known = [(leaf, norm) for leaf, norm in last.values() if isinstance(norm, float)]
    known.sort(key=lambda one: (math.isfinite(one[1]), -one[1]))
    reasons = [(leaf, why) for leaf, why in last.values() if isinstance(why, str)]
    unmade = [leaf for leaf, why in reasons if why == NOT_MADE]
    told = [one for one in reasons if one[1] != NOT_MADE or len(unmade) <= _FEW]
    bars = _Bars([*known, *told])
    total = math.hypot(*(norm for _, norm in known))
    count = f"{len(known)} gradient{'s' if len(known) != 1 else ''}"
    together = f", together ‖{number(total)}‖" if known else ""
    which = f", each of the last of {len(calls)} gradient calls that took it" if again else ""
    said = Text(f"{count} of {calls[-1].pass_.step.title} so far{together}{which}", style="dim")
    if len(unmade) <= _FEW:
        return Group(bars, said)
    said.append(f"; {len(unmade)} are not made yet, from {unmade[0].name} to {unmade[-1].name}")
    return Group(bars, said) if known or told else said


class _Bars:
    """Gradients with their norms and bars. Where there is little room the bars are shorter, then the sizes of elements
    go; of a long name the end stays, which tells one layer's weight from its bias.

    Args:
        rows: Each with its norm, or with why there is none.
    """

    def __init__(self, rows: Sequence[tuple[Value, float | str]]) -> None:
        self._rows = rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        norms = [norm for _, norm in self._rows if isinstance(norm, float)]
        top = max((norm for norm in norms if math.isfinite(norm)), default=0.0)
        names = max(cell_len(leaf.name) for leaf, _ in self._rows) + len(_SIGN)
        room = options.max_width - max([4, *[len(number(norm)) for norm in norms]]) - 4
        each = names + _LEAST_BAR + len(_EACH) + 2 <= room or options.max_width < NARROW
        wide = room - (len(_EACH) + 2 if each else 0)
        bar = min(max(wide - names, _LEAST_BAR), _BAR)
        most = names if options.max_width < NARROW else wide - bar
        table = grid("gradient", "norm", "", *([_EACH] if each else []), right=("norm", _EACH))
        for leaf, norm in self._rows:
            cells = [Text(_SIGN + ending(leaf.name, most - len(_SIGN)), style="value.name")]
            if isinstance(norm, float):
                share = norm / top if top and math.isfinite(norm) else 0.0
                style = "" if math.isfinite(norm) and norm else "warning"
                cells += [Text(number(norm), style=style), Text(_bar(share, bar), style="source.current")]
                cells += [Text(number(norm / math.sqrt(leaf.size)) if leaf.size else "")] if each else []
            else:
                cells += [Text(""), Text(norm, style="hint"), *([Text("")] if each else [])]
            table.add_row(*cells)
        yield table


def _bar(share: float, width: int) -> str:
    """Return a bar of so many columns for the whole, in eighths; what is not 0 is seen."""
    eighths = round(8 * width * share)
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip() or ("▏" if share > 0 else "")


# -- memory and evaluations ----------------------------------------------------------------------------------


def memory_view(tape: Tape) -> RenderableType:
    """Return what MLX has allocated, and what of it the tape holds."""
    held: list[Value] = []
    lazy = dropped = 0
    leaves: set[Value] = set()
    for op in tape.ops:
        leaves.update(value for value in op.inputs if isinstance(value, Leaf))
        for value in op.outputs:
            held += [value] if value.evaluated else []
            dropped += value.dropped
            lazy += not value.evaluated and not value.dropped
    table = Grid(show_header=False)
    table.add_column(style="dim")
    table.add_column(justify="right")
    table.add_column()
    table.add_row("MLX holds", size_text(mx.get_active_memory()), f"at most so far {size_text(mx.get_peak_memory())}")
    table.add_row("and keeps for reuse", size_text(mx.get_cache_memory()), "")
    results = sum(value.size * value.dtype.size for value in held)
    table.add_row("results on the tape", size_text(results), f"{len(held)} evaluated, {lazy} lazy, {dropped} dropped")
    entered = [value for value in leaves if value.evaluated]
    size = sum(value.size * value.dtype.size for value in entered)
    table.add_row(
        "parameters and inputs", size_text(size), f"{len(entered)} evaluated, {len(leaves) - len(entered)} lazy"
    )
    largest = sorted(held, key=lambda value: -value.size * value.dtype.size)[:5]
    for number_, value in enumerate(largest):
        what = f"{value.name} {shape_text(value.shape)} {dtype_text(value.dtype)}"
        table.add_row("the largest results" if not number_ else "", size_text(value.size * value.dtype.size), what)
    return table


def evaluations_view(tape: Tape, work: Sequence[Work]) -> RenderableType:
    """Return what has been evaluated, for whom, and what it cost."""
    ops = tape.ops
    done = sum(all(value.evaluated for value in op.outputs) for op in ops if op.outputs)
    share = f"{100 * done / len(ops):.0f} %" if ops else "none"
    lines = [Text(f"{done} of {len(ops)} ops on the tape are evaluated ({share}).")]
    if work:
        count, elements, seconds = (sum(column) for column in zip(*((w.ops, w.elements, w.seconds) for w in work)))
        lines.append(
            Text(
                f"You asked {_times(len(work))} for what was lazy, {count:,} ops with {elements:,} numbers:"
                f" it took {_time(seconds)}."
            )
        )
        slow = max(work, key=lambda one: one.seconds)
        lines.append(Text(f"The longest took {_time(slow.seconds)} for {slow.ops:,} ops.", style="dim"))
    else:
        lines.append(Text("You have asked for nothing that was lazy."))
    marks = tape.marks
    places = Counter((mark.how, mark.scope.code if mark.scope else None, mark.lasti) for mark in marks)
    lines.append(Text(f"The program forced an evaluation {_times(len(marks))}."))
    for (how, code, lasti), times in places.most_common(8):
        source = sources.locate(code, lasti) if code is not None else None
        lines.append(Text(f"  {times} × {how}  {place_text(source) if source else ''}", style="dim"))
    return Group(*lines)


def _times(count: int) -> str:
    return f"{count:,} times" if count != 1 else "once"


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1e3 * seconds:.1f} ms"


# -- statistics ----------------------------------------------------------------------------------------------


def stats_view(named: list[tuple[str, mx.array]]) -> RenderableType:
    """Tensors in a few numbers each, one a line."""
    found = [(name, array, summarize(array)) for name, array in named]
    odd = {
        "zeros": [summary.zeros for _, _, summary in found],
        "NaN": [summary.nans for _, _, summary in found],
        "Inf": [summary.infinities for _, _, summary in found],
    }
    counted = {title: counts for title, counts in odd.items() if any(counts)}
    titles = ("tensor", "shape", "dtype", "min", "max", "mean", "std", "norm", *counted)
    table = grid(*titles, right=titles[3:])
    for row, (name, array, summary) in enumerate(found):
        floats = (summary.low, summary.high, summary.mean, summary.deviation)
        norm = norms([array])[0] if array.size else 0.0
        table.add_row(
            Text(name, style="value.name"),
            Text(shape_text(array.shape), style="value.shape"),
            dtype_text(array.dtype),
            *("-" if value != value else number(value) for value in (*floats, norm)),
            *(
                Text(
                    _share(counts[row], summary.size), style="" if title == "zeros" or not counts[row] else "tensor.nan"
                )
                for title, counts in counted.items()
            ),
        )
    return table


def _share(count: int, size: int) -> str:
    return f"{100 * count / size:.1f} %" if count and count != size and size > 1000 else str(count)


# -- variables -----------------------------------------------------------------------------------------------


def variables_view(found: Variables, what: str) -> RenderableType:
    """Return the variables of a call (or only its arguments: `what` says which), as they are where one stands."""
    if not found.function:
        return Text("no function was running here", style="hint")
    table = grid("", "")
    for name, thing in found.held.items():
        table.add_row(Text(name, style="value.name"), _thing(thing))
    return table if table.rows else Text(f"{found.function} has no {what}", style="hint")


def _thing(thing: Any) -> Text:
    """Return what a variable holds, in a few words."""
    if isinstance(thing, Absent):
        return Text(thing.why, style="hint")
    if isinstance(thing, (Value, mx.array)):
        text = Text(f"{shape_text(thing.shape)} {dtype_text(thing.dtype)}", style="value.shape")
        lazy = isinstance(thing, Value) and not thing.evaluated
        return text.append("  not computed yet", style="hint") if lazy else text
    if isinstance(thing, KeptArray) or is_array(thing):
        return Text(f"{shape_text(thing.shape)} ndarray", style="value.shape")
    if isinstance(thing, Sized):
        of = "" if thing.size is None else f" of {thing.size}"
        return Text(f"{thing.kind.__name__}{of}", style="dim" if of else "")
    if isinstance(thing, (int, float, str, bool, type(None))):
        return Text(text_of(thing, repr)[:70])
    named = isinstance(thing, type) or callable(thing)
    return Text(getattr(thing, "__name__", type(thing).__name__) if named else type(thing).__name__, style="dim")
