"""Scene: what the full screen shows of one stop. Tensors are computed once, here; laying out computes nothing."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType
from rich.text import Text

from nnrepl.commands.interpreter import Interpreter
from nnrepl.explain.doing import doing
from nnrepl.record.segments import file_of
from nnrepl.seen.gradient_sizes import at_hand, last_call
from nnrepl.seen.step_losses import Losses
from nnrepl.seen.stop_facts import values_at
from nnrepl.session.excerpts import ops_by_line
from nnrepl.session.reading import Reading
from nnrepl.session.stops import Breakpoint
from nnrepl.tape import Op, Pass, Value, own_site
from nnrepl.view.boxed import InPlace
from nnrepl.view.content import Content, Flow, Item, Part
from nnrepl.view.heatmap import Heatmap
from nnrepl.view.op_lines import DoingLines
from nnrepl.view.ops_pane import Formulas, OpsPane
from nnrepl.view.source_pane import SourcePane
from nnrepl.view.tensor import dtype_text, shape_text, tensor
from nnrepl.view.training import Training

LARGE = 1 << 20
"""A tensor of more elements is not summed up at every step."""


GROWING = 2000
"""A pass that still grows is looked through for its lines at each step only while it is short."""


class Scenes:
    """Makes what is shown of each stop.

    Args:
        session: Where the user stands.
    """

    def __init__(self, session: Reading) -> None:
        self._session = session
        self._gutters: dict[tuple[int, str, int], dict[int, list[int]]] = {}
        self._losses = Losses(session)
        self._formulas = Formulas(lambda op: doing(session, op, numbers=False))
        self._norms: tuple[Pass | None, dict[Value, float]] = (None, {})

    def source(self) -> SourcePane | None:
        """Return the source of the next op."""
        session = self._session
        op = session.op_or_last
        if op is None or op.scope is None:
            return None
        site = own_site(op, session.skip)
        assert site is not None
        path = file_of(site.scope.code)
        key = (id(op.pass_), path, len(op.pass_))
        if key not in self._gutters:
            grows = op.pass_.open and len(op.pass_) >= GROWING
            self._gutters = {key: {} if grows else ops_by_line(session, path)}
        stops = {entry.text for entry in session.stops.enabled if isinstance(entry, Breakpoint)}
        return SourcePane(op, self._gutters[key], session.skip, stops, str(session.settings["theme"]))

    def ops(self) -> OpsPane:
        """Return the ops around the cursor."""
        return OpsPane(self._session.tape, self._session.cursor, self._formulas)

    def tensors(self) -> Flow:
        """Return the inputs, the outputs and the gradients of the next op: those that are evaluated, or small enough to
        be shown unasked."""
        op = self._session.op
        key = (id(self._session.tape), self._session.cursor)
        if op is None:
            return Flow([Part(Text("after the last op", style="hint"))], key)
        parts = [Part(DoingLines(doing(self._session, op)), Item(enter=f"explain {op.label}"))]
        passed = self._session.stop.passed
        values = () if self._session.predicting else values_at(self._session, op, passed[-1] if passed else None)
        if values:
            parts.insert(0, Part(InPlace(values, 0), Item(enter="values")))
        outputs = op.outputs if op.error is None else ()
        parts += [self._value(value, value.name) for value in dict.fromkeys(op.inputs)]
        if self._session.predicting:
            parts += [Part(Text(f"→ {value.name}  comes with the next step", style="hint")) for value in outputs]
        else:
            parts += [self._value(value, f"→ {value.name}") for value in outputs]
        for value in dict.fromkeys((*op.outputs, *op.inputs)):
            if value.gradient_of is None:
                parts += self._gradient(op, value)
        return Flow(parts, key)

    def displays(self, shown: Sequence[RenderableType]) -> Flow:
        """Return the expressions that are shown at each stop."""
        texts = list(self._session.displays.values())
        return Flow([Part(one, Item(enter=f"p {text}")) for one, text in zip(shown, texts)], tuple(texts))

    def training(self) -> Training:
        """Return the loss so far, and the gradients by size."""
        session = self._session
        pass_ = last_call(session)
        if pass_ is not self._norms[0]:
            self._norms = (pass_, {})
        gradients = at_hand(session, self._norms[1])
        return Training(self._losses.so_far(), gradients, (id(session.tape), session.cursor))

    def _value(self, value: Value, label: str) -> Part:
        return Part(self._shown(value, label), _item(value))

    def _shown(self, value: Value, label: str) -> RenderableType:
        session = self._session
        if not value.evaluated and not session.small([value]):
            text = Text(label, style="gradient" if value.gradient_of is not None else "value.name")
            text.append(f" {shape_text(value.shape)} {dtype_text(value.dtype)}", style="value.shape")
            return text.append("  not computed yet", style="hint")
        if value.size > LARGE:
            text = Text(f"{label} {shape_text(value.shape)} {dtype_text(value.dtype)}", style="value.name")
            return text.append("  evaluated, and large: p shows it", style="hint")
        session.evaluate([value])
        if session.settings["tensors"] == "heatmap" and value.size > 1:
            return Heatmap(label, value.array)
        return tensor(label, value.array) if value.size else Text(f"{label} {shape_text(value.shape)} empty")

    def _gradient(self, op: Op, value: Value) -> list[Part]:
        """Return the gradient with respect to a value, as far as this pass has summed it up before the cursor."""
        parts = op.pass_.grads.get(value.canonical, [])
        before = [part for part in parts if part.op is None or part.op.position < self._session.cursor]
        return [self._value(before[-1], before[-1].name)] if before else []


def _item(value: Value) -> Item:
    """Return a click leads to the op that makes a value; Enter shows all of it."""
    op = value.op
    if op is None:
        return Item(f"what {value.name}", f"p {value.name}")
    address = op.label if len(op.outputs) == 1 else f"{op.label}.{value.slot}"
    return Item(f"goto {op.label}", f"p {address}", f"break {op.label}", f"until {op.label}")


class Seen:
    """What is seen of a stop, pane by pane. It is computed where the program's own thread runs.

    Args:
        interpreter: Whose session is shown.
    """

    def __init__(self, interpreter: Interpreter) -> None:
        self._interpreter = interpreter
        self._session = interpreter.session
        self._scenes = Scenes(interpreter.session)
        self._displayed: tuple[object, ...] = ()
        self.source: SourcePane | None = None
        self.ops = self._scenes.ops()
        self.tensors: Content = Flow(())
        self.displays: Content = Flow(())
        self.training: Training | None = None

    def look(self) -> None:
        """Compute it for where the session stands now."""
        if self._interpreter.session is not self._session:
            self._session = self._interpreter.session
            self._scenes = Scenes(self._session)
        session = self._session
        pictures = session.settings["tensors"] == "heatmap"
        displayed = (tuple(session.displays.items()), session.cursor, id(session.tape), pictures)
        if displayed != self._displayed:
            self._displayed = displayed
            self.displays = self._scenes.displays(self._interpreter.displays(pictures))
        self.source = self._scenes.source()
        self.ops = self._scenes.ops()
        self.tensors = self._scenes.tensors()
        self.training = self._scenes.training()
