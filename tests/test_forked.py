"""A fork stands for a fresh process: what a program sees there is the same, but for two frames below all others, and
for modules that nnrepl has imported before it needs them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests import forked
from tests.support import nnrepl_cli, plain_python, script_python, surroundings

SEEN = """
import gc, os, signal, sys
print(*sys.modules)
print(sorted(vars(sys.modules["__main__"])), sorted(os.environ.items()))
print(sys.argv, sys.orig_argv, sys.path, sys.flags, os.getcwd())
print(os.listdir("/proc/self/fd"))
for one in (sys.stdin, sys.stdout, sys.stderr):
    print(one.name, one.encoding, one.errors, one.line_buffering, one.write_through, one.isatty())
print(gc.get_threshold(), gc.isenabled(), [str(signal.getsignal(one))[:30] for one in signal.valid_signals()])
import mlx.core as mx
print(mx.ones(3) * 2, file=sys.stderr)
sys.exit(3)
"""


@pytest.mark.parametrize("typed", [None, "continue\\np x\\n"])
def test_a_program_sees_what_it_sees_in_a_fresh_process(
    typed: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "seen.py").write_text(SEEN)
    arguments = ("--batch", "-c", "continue", "seen.py", "an argument")
    if not forked.can_run(surroundings(), typed is not None):
        pytest.skip("no process is forked")
    found = nnrepl_cli(*arguments, stdin=typed, cwd=tmp_path)
    monkeypatch.setattr(forked, "can_run", lambda *_: False)
    fresh = nnrepl_cli(*arguments, stdin=typed, cwd=tmp_path)
    assert fresh.returncode == found.returncode
    assert fresh.stderr == found.stderr
    (imported, *expected), (earlier, *shown) = fresh.stdout.splitlines(), found.stdout.splitlines()
    assert expected == shown
    assert set(imported.split()) <= set(earlier.split())
    assert not set(earlier.split()) & {"mlx.nn", "mlx.optimizers", "numpy"}, "the program is the first to import them"


def test_nothing_of_nnrepl_is_where_a_script_in_plain_python_runs(tmp_path: Path) -> None:
    seen = "import sys\nprint(*(name for name in sys.modules if 'nnrepl' in name), sys.argv, __file__, input())\n"
    path = tmp_path / "seen.py"
    path.write_text(f"{seen}raise SystemExit(3)\n")
    assert script_python(path, stdin="typed\n") == f"{[str(path)]} {path} typed\n"


ENDING = """
import atexit, json, sys
class Says:
    def __init__(self, name): self.name = name
    def __del__(self, say=print): say("gone", self.name)
kept, json.kept_there = Says("kept"), Says("kept in a module")
kept.itself = kept
atexit.register(print, "at the end")
sys.stdout.write("no end of a line ")
"""


@pytest.mark.parametrize("last", ["", "sys.exit(3)", "sys.exit(-1)", "sys.exit('said')", "sys.stdout.close()"])
def test_a_program_ends_as_it_ends_in_a_fresh_process(last: str, tmp_path: Path) -> None:
    path = tmp_path / "ending.py"
    path.write_text(ENDING + last)
    if not forked.can_run(surroundings(), True):
        pytest.skip("no process is forked")
    found = forked.run((str(path),), "", str(tmp_path), surroundings(), 60, forked.MLX_ALONE, script=True)
    fresh = plain_python(str(path), stdin="")
    assert found.returncode == fresh.returncode
    assert sorted(found.stdout.splitlines()) == sorted(fresh.stdout.splitlines())  # what is collected has no order
    assert _without_addresses(found.stderr) == _without_addresses(fresh.stderr)
    assert "gone kept" in fresh.stdout + fresh.stderr or "close" in last


def _without_addresses(text: str) -> list[str]:
    return sorted(re.sub("0x[0-9a-f]+", "0x", text).splitlines())


def test_what_is_read_at_a_start_is_not_what_was_read() -> None:
    assert not forked.can_run({**surroundings(), "PYTHONHASHSEED": "1"}, True)


def test_a_program_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    (tmp_path / "long.py").write_text("print(1, flush=True)\nwhile True: pass\n")
    with pytest.raises(subprocess.TimeoutExpired):
        nnrepl_cli("--batch", "-c", "continue", "long.py", cwd=tmp_path, timeout=0.5)
    assert nnrepl_cli("--version", stdin="").stdout.startswith("nnrepl")
