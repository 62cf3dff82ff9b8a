"""Help: every command is found, in the order that people need, and every topic tells the truth about commands."""

from __future__ import annotations

import re
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import pytest

import nnrepl
from nnrepl.commands import load_all
from nnrepl.commands.manuals import FIRST, apropos_view, groups, help_view
from nnrepl.commands.table import TABLE
from nnrepl.learn.glossary import glossary, here, word_of
from nnrepl.learn.shelf import shipped
from nnrepl.session.errors import UserError
from nnrepl.session.session import TapeSession
from nnrepl.shell.key_bindings import MOTIONS
from nnrepl.view.topics import ALIASES, TOPICS
from tests.support import ROOT, OpenSession
from tests.view.test_tensor import screen

load_all()


def test_every_command_is_listed_motions_first() -> None:
    shown = screen(help_view(TABLE, "all"), 120)
    for command in TABLE.commands:
        assert f"{', '.join(command.names)}" in shown
    found = list(groups(TABLE))
    assert found[:3] == ["forwards", "backwards", "jumps"]
    assert found[-1] == "general"
    assert sum(len(commands) for commands in groups(TABLE).values()) == len(TABLE.commands)


def test_every_manual_and_topic_is_shown() -> None:
    for name in (*TABLE.by_name, *TOPICS, *ALIASES):
        assert screen(help_view(TABLE, name), 60).strip()
    assert not set(TOPICS) & set(TABLE.by_name), "a topic that nobody can reach"


def test_the_keys_that_help_names_are_bound() -> None:
    row = re.compile(r"((?:Shift-)?F\d+(?:, (?:Shift-)?F\d+)*)\s+(step|next|continue|reverse-\w+)")
    told = {}
    for keys, line in row.findall(TOPICS["keys"].text):
        for key in keys.split(", "):
            number = int(key.rpartition("F")[2]) + 12 * key.startswith("Shift")
            told[f"f{number}"] = line
    assert told == {key: line for key, line in MOTIONS.items() if key != "c-l"}
    assert MOTIONS["c-l"] == "redraw"
    assert re.search(r"Ctrl-L\s", TOPICS["keys"].text)


def test_unknown_words_get_a_hint() -> None:
    with pytest.raises(UserError, match="did you mean breakpoints"):
        help_view(TABLE, "breakpoint")
    with pytest.raises(UserError, match="no manual says anything about qqqq"):
        apropos_view(TABLE, "qqqq")


def test_the_first_page_of_help_is_eight_lines_and_the_topics() -> None:
    shown = screen(help_view(TABLE), 80).splitlines()
    assert len(FIRST) == 8
    assert all(len(line) <= 80 for line in shown)
    assert [line.split("  ")[0] for line in shown[:8]] == [name for name, _ in FIRST]
    for name, text in FIRST:
        for word in re.findall(r"\b[a-z]+\b", name):
            assert word in TABLE, f"{name}: {text}"


def test_the_words_of_the_glossary_are_found_however_they_are_written() -> None:
    called = [name.lower() for word in glossary().values() for name in (word.name, *word.aliases)]
    assert len(called) == len(set(called)), "a word stands twice"
    for name in ("chain rule", "Chain_Rule", "MSE", "mse", "mean squared error", "gradients", "vjp", "NaN", "ReLU"):
        assert word_of(name) is not None, name
    for word in glossary().values():
        shown = screen(help_view(TABLE, word.name), 80)
        assert word.name in shown
        assert 2 <= len(shown.splitlines()) <= 16 + 8 * (word.name in TABLE)
        assert word.summary in screen(apropos_view(TABLE, word.name), 2000)
    for name in set(glossary()) & set(TOPICS):
        raise AssertionError(f"{name}: a topic hides the word")


def test_the_glossary_has_every_word_of_the_house_and_of_the_lessons() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    words = text[text.index("## Words") : text.index("## The life of an op")]
    for name in re.findall(r"\*\*(.+?)\*\*", words):
        assert word_of(name) is not None, name
    own = {"To try", "You know now", "Nudge", "One neuron", "exploded", "vanished", "squared", "−log p"}
    for path in shipped():
        for name in re.findall(r"\*\*(.+?)\*\*", path.read_text(encoding="utf-8")):
            assert name in own or word_of(name) is not None, f"{path.name}: {name}"


def test_the_glossary_speaks_of_commands_and_lessons_that_there_are() -> None:
    for word in glossary().values():
        for said in re.findall(r"`([a-z]+)(?: [^`]*)?`", word.text):
            assert said in TABLE or said in ("mx", "optim"), f"{word.name}: {said}"
        for number in re.findall(r"Lesson (\d+)", word.text):
            assert 1 <= int(number) <= len(shipped())


def _loss_fn(weight: mx.array, bias: mx.array) -> mx.array:
    guess = mx.maximum(weight * mx.array([0.0, 1.0, 2.0, 3.0]) + bias, 0)
    return mx.mean(mx.square(guess - mx.array([1.0, 3.0, 2.0, 5.0])))


@pytest.mark.parametrize(
    ("place", "word", "said"),
    [
        ("forward", "loss", "loss = 1.25, in step 1"),
        ("multiply", "op", "comes next"),
        ("end", "op", "was the last"),
        ("backward", "gradient", "∂L/∂weight = −2.5, made by #"),
        ("backward", "grad", "∂L/∂weight = −2.5, made by #"),
        ("backward", "backward", "vjp of mean; goto backward"),
        ("forward", "broadcasting", "(1,) with (4,)"),
        ("forward", "ReLU", "maximum("),
        ("forward", "softmax", ""),
        ("forward", "learning rate", ""),
        ("forward", "timeline", "timeline 1 of 1"),
        ("multiply", "cursor", "comes next"),
        ("backward", "phase", "in its phase backward"),
        ("backward", "step", "you stand in step 1, in its phase backward"),
        ("forward", "parameter", "2 tensors with 2 numbers"),
        ("forward", "MSE", ""),
    ],
)
def test_a_word_is_told_with_the_number_of_the_moment(place: str, word: str, said: str) -> None:
    session = OpenSession(nnrepl.trace(_loss_fn, mx.array([1.0]), mx.array([0.5]), wrt=(0, 1)))
    found = word_of(word)
    assert found is not None
    session.goto(place)
    told = here(session, found)
    assert said in told if said else not told


def _fails(weight: mx.array, bias: mx.array) -> mx.array:
    return weight @ mx.ones((7, 2)) + bias


@pytest.mark.parametrize("place", ["start", "end"])
@pytest.mark.parametrize("program", ["forward alone", "fails"])
def test_every_word_is_told_where_there_is_no_loss(place: str, program: str) -> None:
    """What there is none of is not told, and nothing goes wrong."""
    given = mx.array([1.0]), mx.array([0.5])
    if program == "fails":
        with nnrepl.recording() as recorded, pytest.raises(ValueError, match="matmul"):
            mx.value_and_grad(_fails, argnums=(0, 1))(*given)
        session = OpenSession(recorded)
    else:
        session = OpenSession(nnrepl.trace(_loss_fn, *given))
    session.goto(place)
    told = {name: here(session, word) for name, word in glossary().items()}
    assert (told["loss"], told["gradient"]) == ("", "")
    assert told["op"]


_SOURCE = Path(__file__).read_text(encoding="utf-8").splitlines()


class _Net(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.first = nn.Linear(2, size)

    def __call__(self, x: mx.array) -> mx.array:
        hidden = nn.relu(self.first(x))[None, None]
        seen = mx.fast.scaled_dot_product_attention(hidden, hidden, hidden, scale=1.0)
        return mx.softmax(seen[0, 0] @ mx.ones((seen.shape[-1], 2)), axis=-1)


@pytest.mark.parametrize("size", [6, 7])
def test_every_word_is_told_where_a_model_was_trained(size: int) -> None:
    """Each op that is named by its number is the one of the step where the user stands."""
    model, opt = _Net(size), optim.SGD(0.25)
    with nnrepl.recording() as recorded:
        for _ in range(2):
            loss, grads = nn.value_and_grad(model, lambda x: mx.mean(mx.square(model(x) - 1)))(mx.ones((4, 2)))
            opt.update(model, grads)
            mx.eval(model.parameters(), loss)
    session = TapeSession(recorded.tape, recorded.names)
    ops = session.tape.ops
    known = sum(all(value.evaluated for value in op.outputs) for op in ops)
    assert 0 < known < len(ops)
    first_line = test_every_word_is_told_where_a_model_was_trained.__code__.co_firstlineno
    line = next(number for number in range(first_line, 0, -1) if "return mx.softmax(" in _SOURCE[number - 1])
    both = {
        "softmax": f"#softmax, softmax(#matmul) (test_help.py:{line})",
        "matmul": f"#matmul, #getitem @ #ones (test_help.py:{line})",
        "attention": "#fast.scaled_dot_product_attention, fast.scaled_dot_product_attention(hidden, hidden, hidden…) "
        f"(test_help.py:{line - 1})",
        "ReLU": "#maximum, maximum(first.x, 0)",
        "broadcasting": f"#multiply, #astype * ∂L/∂first.weight: () with ({size}, 2)",
        "forward": "in this step it begins at #ones ones; goto forward",
        "backward": "in this step it begins at #vjp of mean vjp of mean; goto backward",
        "vjp": "the first of this step is #vjp of mean vjp of mean",
        "learning rate": "opt.learning_rate = 0.25",
        "tape": f"it has {len(ops)} ops, in {len(session.tape.passes)} passes",
        "timeline": "you are on timeline 1 of 1",
        "lazy": f"of the last {len(ops)} ops on the tape {known} are evaluated",
    }
    # A tensor of more than twelve numbers is told by its shape. Each row of the softmax has the same two numbers.
    slope = f" = [{' '.join(['[0 0]'] * 6)}]" if size == 6 else " (7, 2)"
    count = f"2 tensors with {3 * size} numbers are learned in this pass"
    for place, step, alone in (
        ("start", 1, {"update": "#zeros_like zeros_like", "op": "#ones ones comes next", "step": "forward"}),
        ("end", 2, {"update": "#add add", "op": "#subtract subtract was the last", "step": "update",
                    "loss": "loss = 0.25, in step 2", "parameter": count,
                    "gradient": f"∂L/∂first.weight{slope}, made by #vjp of transpose vjp of transpose"}),
    ):  # fmt: skip
        session.goto(place)
        own = [op for op in ops if op.step.number == step]
        labels = {op.label: f"#{op.name}" for op in own}
        alone["update"] = f"in this step it begins at {alone['update']}; goto update"
        alone["step"] = f"you stand in step {step}, in its phase {alone['step']}; it has {len(own)} ops so far"
        told = {name: re.sub(r"#\d+", lambda label, at=labels: at[label[0]], here(session, word))
                for name, word in glossary().items()}  # fmt: skip
        same = {"cursor": told["op"], "pass": told["step"], "phase": told["step"], "model": told["parameter"]}
        assert {name: one for name, one in told.items() if one} == both | alone | {k: v for k, v in same.items() if v}
