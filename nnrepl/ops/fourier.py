"""Fourier transforms: a row of numbers as a sum of waves."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from nnrepl.ops.entry import FIXED, Run
from nnrepl.ops.linear import linear
from nnrepl.ops.pointwise import whole
from nnrepl.ops.traits import Trait

_WAVES = "Σ {a}[j] · exp(−2πi · j · k / n)"
_BACK = "1/n · Σ {a}[j] · exp(2πi · j · k / n)"
_WORDS = (
    "How much of each wave is in a row of numbers: number k of the result belongs to the wave that swings k times "
    "along the row. It is linear: each gradient goes back with the weights that its numbers had."
)
_INVERSE = "A row of numbers, put together from its waves. It is linear: each gradient goes back with the same weights."


def _call(name: str) -> Run:
    def run(*args: Any, **kwargs: Any) -> mx.array:
        result: mx.array = getattr(mx.fft, name)(*args, **kwargs)
        return result

    return run


for _name in ("fft", "ifft", "rfft", "irfft"):
    _inverse = _name.startswith("i")
    for _suffix, _parameters, _where in (
        ("", "a, n=None, axis=-1, norm='backward'", "along axis {axis}"),
        ("2", "a, s=None, axes=(-2, -1), norm='backward'", "along axes {axes}, one after the other"),
        ("n", "a, s=None, axes=None, norm='backward'", "along each axis, one after the other"),
    ):
        _text = f"{_BACK if _inverse else _WAVES}, {_where}"
        whole(f"fft.{_name}{_suffix}", _parameters, _text, _INVERSE if _inverse else _WORDS, _call(_name + _suffix))
        linear("a", f"fft.{_name}{_suffix}")

whole("fft.stft", "x, n_fft=2048, hop_length=None, win_length=None, window=None, center=True, pad_mode='constant', "
      "normalized=False, onesided=True", "the waves of each window of {x}",
      "Cuts a row into windows that overlap, and takes the Fourier transform of each.", _call("stft"))  # fmt: skip
whole("fft.istft", "stft_matrix, n_fft=None, hop_length=None, win_length=None, window=None, center=True, "
      "normalized=False, length=None", "the row whose windows have the waves {stft_matrix}",
      "Puts a row together from the waves of its windows.", _call("istft"))  # fmt: skip
linear("x", "fft.stft")

for _name, _text in (("fftfreq", "how often each wave of fft swings in a unit of time"),
                     ("rfftfreq", "how often each wave of rfft swings in a unit of time")):  # fmt: skip
    whole(f"fft.{_name}", "n, d=1.0", _text, "The frequencies that belong to the numbers of a Fourier transform.",
          _call(_name), kind=FIXED, traits=(Trait.SOURCE,))  # fmt: skip
