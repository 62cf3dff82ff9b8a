"""Fixtures for all tests."""

from __future__ import annotations

import compileall
import gc
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import mlx.core as mx
import pytest

from tests.kernels import read_header_once
from tests.thorough import THOROUGH

hypothesis.settings.register_profile(
    "nnrepl", deadline=None, derandomize=not THOROUGH, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("nnrepl")  # what is drawn is the same in each run, and may take its time


def pytest_configure(config: pytest.Config) -> None:
    """Compile nnrepl once, as pip does: else each of the hundreds of processes that tests start would, where Python
    is told to write no bytecode; and have MLX's header read once, which each of its kernels would."""
    if not hasattr(config, "workerinput"):
        compileall.compile_dir(Path(__file__).parent.parent / "nnrepl", quiet=2)
        kept = tempfile.TemporaryDirectory(prefix="nnrepl-kernels-", ignore_cleanup_errors=True)
        config.add_cleanup(kept.cleanup)
        read_header_once(Path(kept.name))  # workers are started after this, and find it


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Let pytest keep what it has made of the tests' own files, likewise: that took each worker ten seconds anew."""
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, False
    try:
        return (yield)
    finally:
        sys.dont_write_bytecode = before


@pytest.fixture(scope="session", autouse=True)
def _no_files_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Neither the settings nor the history of whoever runs the tests play a part; nor does it whether a shell has
    Python write at once, which would give each second test a process that is started anew (`tests.forked`)."""
    os.environ.pop("PYTHONUNBUFFERED", None)
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        os.environ[name] = str(tmp_path_factory.mktemp(name.lower()))


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    """Every test begins at the same random state, and leaves no recording behind."""
    from nnrepl.record.recorder import current  # not above: what is imported before pytest-cov begins is not counted

    mx.random.seed(0)
    yield
    assert current() is None


@pytest.fixture(autouse=True, scope="module")
def _little_heap() -> None:
    """What one module leaves in circles is not walked by the next one's tests of what lives; what it leaves for good
    (what was imported, parsed, or drawn) is walked by no later collection: that took a quarter of the suite's time."""
    from nnrepl.tape.collector import freeze_imports  # not above, either

    gc.collect()
    freeze_imports()


SLOW = (
    "closed", "corpus", "explain/test_arithmetic", "explain/test_check", "explain/test_every_kind",
    "explain/test_findings", "explain/test_formulas", "explain/test_health", "explain/test_inside",
    "explain/test_options", "explain/test_planted", "explain/test_said", "explain/test_whole",
    "learn/test_lessons", "programs/test_bad_input", "programs/test_cells", "programs/test_ending",
    "programs/test_load", "programs/test_notebook", "programs/test_output", "programs/test_python_itself",
    "programs/test_reload", "programs/test_saved", "programs/test_shadows", "programs/test_starting",
    "programs/test_training", "record/test_process", "record/test_taking_turns",
    "replay/test_interrupts", "replay/test_matrix", "replay/test_printed_once", "replay/test_rebinding",
    "replay/test_statements", "replay/test_twins", "replay/test_typed_lines",
    "replay/test_world", "session/test_compiled_loop", "session/test_gradient_names", "session/test_names",
    "session/test_paths", "session/test_reference", "session/test_running_on", "session/test_saved",
    "session/test_stops_running", "shell/test_full_screen", "shell/test_hands", "shell/test_kernel",
    "shell/test_muscle_memory", "shell/test_prompt", "shell/test_terminals", "shell/test_transcripts", "test_bench",
    "test_docs", "timeline/test_history", "timeline/test_listing", "timeline/test_walks",
    "timeline/test_written", "view/test_faces", "view/test_stop", "view/test_tensor", "view/test_training_pane",
)  # fmt: skip
"""What `-m "not slow"` leaves out: many programs, many processes, a terminal, or more than two seconds of CPU time."""
TERMINAL = (
    "shell/test_prompt",
    "shell/test_full_screen",
    "shell/test_hands",
    "shell/test_terminals",
    "shell/test_background",
)
"""What drives a terminal of its own."""
NUMBERS = ("shell/test_transcripts", "test_readme", "learn/test_lessons", "test_docs")
"""What holds numbers that MLX computes on a CPU, to the last digit shown: another backend rounds otherwise."""

LAST = (
    "corpus/test_lm.py", "closed/test_closed.py", "programs/test_saved.py", "explain/test_health.py",
    "session/test_stops.py", "commands/test_graph.py", "test_bench.py",
)  # fmt: skip
"""What imports mlx-lm, and with it 750 modules of other packages: each session in that process looks through them from
then on. The long ones first, so that no worker waits for another at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is slow, needs a terminal, or holds numbers of a CPU. What does not agree with MLX yet is named in
    `known_failures.txt`; a line there that is no longer true fails."""
    turns = {f"tests/{name}": turn for turn, name in enumerate(LAST)}
    items.sort(key=lambda item: turns.get(item.nodeid.partition("::")[0], -1))
    for item in items:
        for mark, where in (("slow", SLOW), ("terminal", TERMINAL), ("numbers", NUMBERS)):
            if item.nodeid.removeprefix("tests/").startswith(where):
                item.add_marker(mark)
    lines = (Path(__file__).parent / "known_failures.txt").read_text().splitlines()
    known = {line for line in lines if line and not line.startswith("#")}
    for item in items:
        if item.nodeid in known:
            item.add_marker(pytest.mark.xfail(strict=True, reason="see tests/known_failures.txt"))
