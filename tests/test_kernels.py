"""What stands in for MLX's compiler gives what that gives."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernels import HEADER, included, read_header_once

KERNEL = f"""#include "{HEADER}"
using namespace mlx::core;
using namespace mlx::core::detail;
extern "C" {{
void kernel(int* shape, int64_t** strides, void** args) {{
    float* a = (float*)args[0];
    float* b = (float*)args[1];
    for (int i = 0; i < shape[0]; i++) b[i] = Sigmoid()(a[i]) * Sin()(a[i]);
}}
}}
"""


@pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("g++") is None or not (included() / HEADER).exists(),
    reason="MLX compiles no kernels by g++ here",
)
def test_a_kernel_is_the_same_to_the_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, elsewhere = tmp_path / "it's ours", os.environ["PATH"].split(os.pathsep)
    plain = next(found for folder in elsewhere if (found := shutil.which("g++", path=folder)) and _is_compiler(found))
    ours.mkdir()
    monkeypatch.setenv("PATH", f"{os.path.dirname(plain)}{os.pathsep}{os.environ['PATH']}")
    read_header_once(ours)
    kernel = tmp_path / "kernel.cpp"
    kernel.write_text(KERNEL)
    subprocess.run(["g++", "--version"], check=True, capture_output=True)
    assert not (ours / "begun").exists(), "MLX asks for the version where it has nothing to compile"
    made, told = [], []
    for compiler in (plain, "g++"):
        out = tmp_path / "kernel.so"
        flags = ["-H", "-std=c++17", "-O3", "-Wall", "-fPIC", "-shared", "-I", str(included())]
        told.append(subprocess.run([compiler, *flags, kernel, "-o", out], check=True, capture_output=True, text=True))
        made.append(out.read_bytes())
    assert made[0] == made[1]
    assert not told[0].stderr.startswith("!")
    assert told[1].stderr.startswith(f"! {ours / HEADER}.gch\n"), "the header was read anew"


def _is_compiler(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(4) == b"\x7fELF"
