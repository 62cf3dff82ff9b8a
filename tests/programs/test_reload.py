"""Reload: what follows is what a plain program computes that has the mended line from that step on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.programs.reloading import HEAD, TAIL, Program, printed

LOOP = """\
step = nn.value_and_grad(model, loss_fn)
for i in range(5):
    loss, grads = step(model, x, y)
    opt.update(model, grads)
    print("loss", i, loss.item())
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Program:
    return Program(tmp_path, monkeypatch, capfd)


def test_a_method_mended_in_a_step_is_the_twin_that_has_it_from_that_step_on(program: Program) -> None:
    script = HEAD + LOOP + TAIL
    program.write(script)
    mended = script.replace("mx.tanh(self.a(x))", "mx.sin(self.a(x) + 1)")
    twin = HEAD.replace(
        "model = Net()", "def mended(self, x):\n    return self.b(mx.sin(self.a(x) + 1))\n\n\nmodel = Net()"
    ) + LOOP.replace("    loss, grads", "    if i == 2:\n        Net.__call__ = mended\n    loss, grads")
    shown = program.run("next pass 4", program.mend(mended), "reload", "c")
    assert printed(shown) == program.twin(twin + TAIL)
    assert "timeline 2: reload: Net.__call__" in shown
