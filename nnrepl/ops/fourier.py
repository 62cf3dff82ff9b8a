"""Fourier transforms: a row of numbers as a sum of waves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import mlx.core as mx

from nnrepl.ops.entry import ENTRIES, FIXED, Run, variants
from nnrepl.ops.linear import linear
from nnrepl.ops.pointwise import whole
from nnrepl.ops.traits import Trait

_SCALES = {"backward": ("", "1/n · "), "ortho": ("1/√n · ", "1/√n · "), "forward": ("1/n · ", "")}
"""What a transform and its inverse are multiplied by, by the option `norm`."""
_WORDS = (
    "How much of each wave is in a row of numbers: number k of the result belongs to the wave that swings k times "
    "along the row. Backwards: it is linear, so each gradient goes back with the weights that its numbers had."
)
_INVERSE = "A row of numbers, put together from its waves. It is linear: each gradient goes back with the same weights."


def _call(name: str) -> Run:
    def run(*args: Any, **kwargs: Any) -> mx.array:
        result: mx.array = getattr(mx.fft, name)(*args, **kwargs)
        return result

    return run


def _text(name: str, norm: str, where: str) -> str:
    """Return the rule of a transform, in symbols."""
    inverse = name.startswith("i")
    scale = _SCALES[norm][inverse]
    wave = f"{{a}}[j] · exp({'' if inverse else '−'}2πi · j · k / n)"
    if name == "irfft":
        return f"{scale}Re Σ {wave}, {where}; waves whose mirror image is left out count twice"
    return f"{scale}Σ {wave}, {where}"


def _variant(name: str, short: str, where: str) -> None:
    """Enter the rule that belongs to `norm`."""
    entries = {norm: replace(ENTRIES[name], text=_text(short, norm, where)) for norm in _SCALES}
    usual = ENTRIES[name]
    others = [entry for norm, entry in entries.items() if norm != "backward"]
    variants(name, others)(lambda bound: entries[str(bound["norm"])] if bound["norm"] != "backward" else usual)


for _name in ("fft", "ifft", "rfft", "irfft"):
    for _suffix, _parameters, _where in (
        ("", "a, n=None, axis=-1, norm='backward'", "along axis {axis}"),
        ("2", "a, s=None, axes=(-2, -1), norm='backward'", "along axes {axes}, one after the other"),
        ("n", "a, s=None, axes=None, norm='backward'", "along each axis, one after the other"),
    ):
        _full = f"fft.{_name}{_suffix}"
        whole(_full, _parameters, _text(_name, "backward", _where), _INVERSE if _name.startswith("i") else _WORDS,
              _call(_name + _suffix))  # fmt: skip
        linear("a", _full)
        _variant(_full, _name, _where)

whole("fft.stft", "x, n_fft=2048, hop_length=None, win_length=None, window=None, center=True, pad_mode='reflect', "
      "norm='backward', onesided=None", "the waves of each window of {x}",
      "Cuts a row into windows that overlap, and takes the Fourier transform of each.", _call("stft"))  # fmt: skip
whole("fft.istft", "stft_matrix, n_fft=None, hop_length=None, win_length=None, window=None, center=True, "
      "norm='backward', onesided=None, length=None", "the row whose windows have the waves {stft_matrix}",
      "Puts a row together from the waves of its windows.", _call("istft"))  # fmt: skip
linear("x", "fft.stft")
linear("stft_matrix", "fft.istft")

for _name, _rule in (("fftfreq", "how often each wave of fft swings in a unit of time"),
                     ("rfftfreq", "how often each wave of rfft swings in a unit of time")):  # fmt: skip
    whole(f"fft.{_name}", "n, d=1.0", _rule, "The frequencies that belong to the numbers of a Fourier transform.",
          _call(_name), kind=FIXED, traits=(Trait.SOURCE,))  # fmt: skip
