"""What NumPy's arrays and objects of libraries that variables held are kept for: to be looked at when they are gone."""

from __future__ import annotations

import gc
import tempfile
import weakref
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import nnrepl
from nnrepl.session.errors import UserError
from nnrepl.tape.lasting import Lasting
from tests.support import OpenSession, loaded


def test_data_of_a_function_that_has_returned_can_be_looked_at(tmp_path: Path) -> None:
    program = loaded(tmp_path / "data.py", (
        "import tempfile\nfrom string import Template\nimport numpy as np\nimport mlx.core as mx\n"
        "def f(x):\n    data, text = np.arange(900.0), Template('$a')\n    folder = tempfile.TemporaryDirectory()\n"
        "    x = x * mx.array(data[:2])\n    return x.sum()\n"
    ))  # fmt: skip
    session = OpenSession(nnrepl.trace(program.f, mx.ones((2,))))
    gc.collect()
    session.run("goto #2")
    assert str(session.run("p float(data[899])")) == "float(data[899]) = 899.0"
    assert str(session.run("p text.substitute(a=3)")) == "text.substitute(a=3) = '3'"
    with pytest.raises(UserError, match="folder was an object that no longer exists"):  # it is removed when it goes
        session.run("p folder.name")
    assert "(900,) ndarray" in str(session.run("info locals"))


def test_no_more_is_held_than_may_be_and_what_the_program_holds_takes_no_room() -> None:
    lasting = Lasting(10_000)
    data = np.zeros(500)  # 4,000 bytes
    lasting.keep(data)
    batches = []
    for _ in range(20):
        batch = np.ones(250)
        batches.append(weakref.ref(batch))
        lasting.keep(batch)
    del batch
    assert 2 <= sum(one() is not None for one in batches) <= 5
    assert batches[-1]() is not None
    assert data in lasting
    seen = weakref.ref(data)
    del data
    assert seen() is not None  # as if it were noted when room was last made


def test_what_does_something_when_it_goes_is_not_held(tmp_path: Path) -> None:
    lasting = Lasting()
    with open(tmp_path / "a", "w") as file, tempfile.TemporaryDirectory() as folder:
        assert folder
        inside = type("Inside", (), {})()
        inside.file = file
        on_a_device = type("OnADevice", (), {})()
        on_a_device.array = mx.ones((2,))
        closure = type("Closure", (), {})()
        closure.call = lambda: file
        for thing in (file, inside, on_a_device, closure, iter([1]), (one for one in [1])):
            lasting.keep(thing)
            assert thing not in lasting
    plain = type("Plain", (), {})()
    plain.held = {"a": [1, "b"], "call": len}
    lasting.keep(plain)
    assert plain in lasting
