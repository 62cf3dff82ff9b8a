"""What is offered while one types, where a command takes a place."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

import nnrepl
from nnrepl.shell.complete import NameCompleter, TapeIndex, _files, kind_of, matches
from nnrepl.shell.key_bindings import _tab
from tests.support import OpenSession


class Doubling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = mx.array(2.0)

    def doubled(self, x: mx.array) -> mx.array:
        return x * self.scale

    def __call__(self, x: mx.array) -> mx.array:
        return self.doubled(x)


def offered(session: OpenSession, text: str) -> list[str]:
    index = TapeIndex(session)
    while not index.advance():
        pass
    completer = NameCompleter(session.interpreter, index)
    return [found.text for found in completer.get_completions(Document(text), CompleteEvent())]


def summed(model: Doubling, x: mx.array) -> mx.array:
    return model(x).sum()


@pytest.mark.parametrize("command", ["goto", "until", "break", "tbreak"])
@pytest.mark.parametrize(
    ("typed", "wanted"),
    [("Doub", "Doubling"), ("Doubling.", "Doubling.doubled"), ("Doubling.__c", "Doubling.__call__"), ("sum", "summed")],
)
def test_functions_classes_and_methods_are_places(command: str, typed: str, wanted: str) -> None:
    model = Doubling()
    session = OpenSession(nnrepl.trace(summed, model, mx.ones(2), wrt=model))
    session.cursor = 0
    assert wanted in offered(session, f"{command} {typed}")
    assert session.place(wanted).first_after(session.tape, 0) is not None


def test_variables_are_offered_with_their_type_however_they_are_kept() -> None:
    """A class is kept weakly, a module by its holder, a long list by its length."""

    def f(x: mx.array) -> mx.array:
        kind, model, many, text = Doubling, Doubling(), list(range(9000)), "a"
        y = x * 2
        return (model(y) * len(many) * (kind is not None) * len(text)).sum()

    session = OpenSession(nnrepl.trace(f, mx.ones(2), wrt=0))
    session.cursor = 1
    index = TapeIndex(session)
    while not index.advance():
        pass
    found = NameCompleter(session.interpreter, index).get_completions(Document("p "), CompleteEvent())
    told = {one.text: one.display_meta_text.split(" ")[0] for one in found}
    kinds = {"kind": "type", "model": "Doubling", "many": "list", "text": "str"}
    assert {name: told.get(name) for name in kinds} == kinds


class Various:
    """One attribute of each kind."""

    number = 3
    inner = Doubling

    @property
    def made(self) -> int:
        raise AssertionError("completion runs nothing of the program")

    def method(self) -> None:
        """A method."""


@pytest.mark.parametrize(
    ("thing", "word", "wanted"),
    [(Various(), "number", "int"), (Various(), "inner", "type"), (Various(), "made", "property"),
     (Various(), "method", "method"), (Various(), "absent", ""), (math, "pi", "float"), (math, "sin", "method"),
     (math, "absent", "")],
)  # fmt: skip
def test_the_kind_of_an_attribute_is_told_without_running_anything(thing: Any, word: str, wanted: str) -> None:
    assert kind_of(thing, word) == wanted


@pytest.mark.parametrize(
    ("typed", "offers", "then", "chosen"),
    [
        ("p lo", ["logits", "logistic"], "p logi", None),  # as far as all of them go
        ("p lo", ["loss"], "p loss", None),
        ("p lo", ["loss", "lone"], "p lo", False),  # then the choice is shown
        ("p lo", ["floats"], "p lo", True),  # the only one, which does not begin so
        ("p lo", [], "p lo", None),
    ],
)
def test_tab_inserts_what_all_share(typed: str, offers: list[str], then: str, chosen: bool | None) -> None:
    class Offering(Completer):
        def get_completions(self, document: Document, event: CompleteEvent) -> Iterator[Completion]:
            yield from (Completion(offer, -2) for offer in offers)

    shown: list[bool] = []
    buffer = Buffer(Offering(), document=Document(typed))
    buffer.start_completion = lambda select_first: shown.append(select_first)  # type: ignore[method-assign]
    _tab(buffer)
    assert (buffer.text, shown) == (then, [] if chosen is None else [chosen])


def test_what_begins_so_comes_first_then_what_holds_the_letters_the_tightest_first() -> None:
    names = sorted(["add", "mean", "relu", "reshape", "square", "sure", "Rows.x.e"])
    assert matches("re", names) == ["relu", "reshape", "sure", "square", "Rows.x.e"]
    assert matches("re", [*names, "z"]) == matches("re", names)
    assert matches("", names) == names
    assert matches("q", names) == ["square"]
    assert matches("zz", names) == []
    many = sorted(f"a{number:03}" for number in range(150))
    assert matches("a", many) == many[:100]
    assert matches("a14", many) == [*many[140:], "a014", "a104", "a114", "a124", "a134"]


def test_the_operations_and_modules_of_a_tape_are_counted() -> None:
    model = nn.Sequential(Doubling(), nn.Sequential(Doubling()))
    session = OpenSession(nnrepl.trace(summed, model, mx.ones(2), wrt=model))
    index = TapeIndex(session)
    assert index.advance()
    assert {name: count for name, count in index.operations.items() if not name.startswith("vjp")} == {
        "multiply": 2, "sum": 1,
    }  # fmt: skip
    modules = ["layers", "layers.0", "layers.1", "layers.1.layers", "layers.1.layers.0"]
    assert list(index.modules) == modules
    assert {*modules, "multiply"} <= set(offered(session, "goto "))
    assert "" not in offered(session, "goto ")


def test_files_that_begin_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("train.py", "trial.txt", ".hidden", "data/x.npz", "trained/y"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    monkeypatch.chdir(tmp_path)
    assert [found.text for found in _files("")] == ["data/", "train.py", "trained/", "trial.txt"]
    assert [(found.text, found.start_position) for found in _files("tra")] == [("train.py", -3), ("trained/", -3)]
    assert [found.text for found in _files(".h")] == [".hidden"]
    assert [found.text for found in _files("data/")] == ["x.npz"]
    assert [found.text for found in _files(f"{tmp_path}/tri")] == ["trial.txt"]
    assert list(_files("nowhere/")) == []
