"""What is offered while one types, where a command takes a place."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

import nnrepl
from nnrepl.shell.complete import NameCompleter, TapeIndex
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
