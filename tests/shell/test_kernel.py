"""A real kernel executes a notebook in which `debug()`, `set_trace()` and `%%nnrepl` ask (the extra `jupyter`)."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.shell.test_notebook_cells import LOOP, SETUP

manager = pytest.importorskip("jupyter_client.manager")
pytest.importorskip("ipykernel")


class Kernel:
    """A kernel, and somebody who answers what it asks."""

    def __init__(self) -> None:
        self._manager, self._client = manager.start_new_kernel()

    def close(self) -> None:
        """End it."""
        self._client.stop_channels()
        self._manager.shutdown_kernel(now=True)

    def run(self, code: str, *answers: str, stdin: bool = True) -> list[dict[str, Any]]:
        """Execute a cell. Returns the outputs of the cell, streams put together."""
        given, shown = list(answers), []
        asked = self._client.execute(code, allow_stdin=stdin)
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                if self._client.stdin_channel.msg_ready():
                    self._client.get_stdin_msg(timeout=1)
                    self._client.input(given.pop(0))
                message = self._client.get_iopub_msg(timeout=0.05)
            except queue.Empty:
                continue
            if message["parent_header"].get("msg_id") != asked:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "status" and content["execution_state"] == "idle":
                assert not given
                return shown
            if kind == "stream" and shown and shown[-1].get("name") == content["name"]:
                shown[-1]["text"] += content["text"]
            elif kind in ("stream", "execute_result", "display_data", "error"):
                shown.append({"kind": kind, **content})
        raise AssertionError(f"the cell did not end; it has shown {shown}")


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    made = Kernel()
    made.run("import os\nos.environ['NO_COLOR'] = '1'\n%load_ext nnrepl")
    assert not made.run(SETUP)
    yield made
    made.close()


def test_a_notebook_is_executed(kernel: Kernel) -> None:
    shown = kernel.run("t = nnrepl.debug(loss_fn, x, wrt=net)", "s", "p 40 + 2", "q")
    assert len(shown) == 1  # one stream, and no output for each line
    assert "notebook cell 2:10 in Net.__call__ (layer)" in shown[0]["text"]
    assert "\n42\n" in shown[0]["text"]
    assert "\x1b" not in shown[0]["text"]
    (result,) = kernel.run("t")
    assert "<details" in result["data"]["text/html"]
    assert "10 ops: 5 forward, 5 backward" in result["data"]["text/plain"]
    (result,) = kernel.run("%nnrepl why grad(layer.bias) == 0")
    assert "is not 0" in result["data"]["text/plain"]
    (error,) = kernel.run("%nnrepl p nothing")
    assert error["traceback"] == ["UserError: nothing here is called nothing"]


def test_the_kernel_lives_on(kernel: Kernel) -> None:
    shown = kernel.run("nnrepl.set_trace()\ny = x + 1\nz = y * 2\nprint('not reached')", "s", "q")
    assert shown[-1]["traceback"] == ["nnrepl was left: the cell ends here"]
    assert "not reached" not in str(shown)
    shown = kernel.run("nnrepl.set_trace()\ny = x + 1\nz = y * 2", "s", "s", "back", "p y[0]", "q")
    assert "y[0] = [2 2 2 2]" in shown[0]["text"]
    assert kernel.run("1 + 1")[0]["data"]["text/plain"] == "2"
    stream, result = kernel.run("%%nnrepl" + LOOP, stdin=False)
    assert "nobody can be asked here" in stream["text"]
    assert result["data"]["text/plain"].startswith("array(")
    stream, result = kernel.run("%%nnrepl" + LOOP, "goto h", "s", "h = h * 2", "c", "timeline 1", "c", "q")
    assert "cannot put back" not in stream["text"]
    assert stream["text"].count("\nloss 1 ") == 2
