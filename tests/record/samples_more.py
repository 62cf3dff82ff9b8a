"""Samples: mx.fast, mx.linalg, mx.fft, where arrays come from, functions of functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from tests.record.sample import (
    Refusal,
    Sample,
    _mlxfn,
    _npy,
    _safetensors,
    b,
    c,
    calls,
    definite,
    f,
    index,
    key,
    p,
    square,
    w,
    x,
)

HEADS = f(1, 2, 3, 8)
CUDA_ONLY = Refusal("needs an NVIDIA GPU", "CUDA")
METAL_ONLY = Refusal("needs a Metal GPU", "Metal")


def _rope(*args: Any, traditional: bool = False, base: float | None = 10000.0, offset: Any = 0, **more: Any) -> Any:
    return mx.fast.rope(*args, traditional=traditional, base=base, scale=1.0, offset=offset, **more)


def _kernel(make: str, source: str, array: mx.array) -> list[mx.array]:
    kernel = getattr(mx.fast, make)(name="double_it", input_names=["inp"], output_names=["out"], source=source)
    return kernel(
        inputs=[array],
        template=[("T", mx.float32)],
        grid=(array.size, 1, 1),
        threadgroup=(array.size, 1, 1),
        output_shapes=[array.shape],
        output_dtypes=[array.dtype],
    )


calls("mx.fast.rms_norm", Sample(f(2, 8), f(8), 1e-5), Sample(f(2, 8), None, 1e-5))
calls("mx.fast.layer_norm", Sample(f(2, 8), f(8), f(8), 1e-5), Sample(f(2, 8), None, None, 1e-5))
calls(
    "mx.fast.rope",
    Sample(HEADS, 8, via=_rope),
    Sample(HEADS, 4, traditional=True, offset=2, via=_rope),
    Sample(HEADS, 8, offset=mx.array([3]), via=_rope),
    Sample(HEADS, 8, base=None, freqs=p(4), via=_rope),
)
calls(
    "mx.fast.scaled_dot_product_attention",
    Sample(HEADS, f(1, 2, 4, 8), f(1, 2, 4, 8), scale=0.3),
    Sample(HEADS, HEADS, HEADS, scale=0.3, mask="causal"),
    Sample(f(1, 4, 3, 8), HEADS, f(1, 2, 3, 8), scale=0.3, mask=b(3, 3)),
    Sample(HEADS, f(1, 2, 3, 8), f(1, 2, 3, 8), scale=0.3, mask=f(1, 2, 3, 3), sinks=f(2)),
)
calls("mx.fast.cross_entropy", Sample(f(2, 4), index(1, 3)))
calls("mx.fast.gated_delta_update", Sample(f(1, 3, 2, 32), f(1, 3, 2, 32), f(1, 3, 2, 32), p(1, 3, 2), p(1, 3, 2)))
calls(
    "mx.fast.metal_kernel",
    Sample(
        "metal_kernel",
        "uint elem = thread_position_in_grid.x; out[elem] = 2 * inp[elem];",
        f(4),
        via=_kernel,
        refused=METAL_ONLY,
    ),
)
calls(
    "mx.fast.cuda_kernel",
    Sample(
        "cuda_kernel",
        "auto elem = cooperative_groups::this_grid().thread_rank(); out[elem] = 2 * inp[elem];",
        f(4),
        via=_kernel,
        refused=CUDA_ONLY,
    ),
)
calls(
    "mx.fast.precompiled_cuda_kernel",
    Sample(
        name="double_it",
        compiled_source=bytes(8),
        inputs=[f(4)],
        output_shapes=[(4,)],
        output_dtypes=[mx.float32],
        scalars=[],
        grid=(4, 1, 1),
        threadgroup=(4, 1, 1),
        refused=CUDA_ONLY,
    ),
)

calls("mx.linalg.cholesky mx.linalg.eigh mx.linalg.eigvalsh", Sample(definite(), stream=mx.cpu))
calls("mx.linalg.cholesky", Sample(definite(), upper=True, stream=mx.cpu))
calls("mx.linalg.cholesky_inv", Sample(mx.linalg.cholesky(definite(), stream=mx.cpu), stream=mx.cpu))
calls(
    "mx.linalg.inv mx.linalg.pinv mx.linalg.det mx.linalg.slogdet mx.linalg.eig mx.linalg.eigvals mx.linalg.lu "
    "mx.linalg.lu_factor mx.linalg.qr mx.linalg.svd",
    Sample(f(3, 3), stream=mx.cpu),
    Sample(f(2, 2, 2), stream=mx.cpu),
)
calls("mx.linalg.svd", Sample(f(2, 3), compute_uv=False, stream=mx.cpu))
calls("mx.linalg.solve", Sample(square, f(3), stream=mx.cpu), Sample(square, f(3, 2), stream=mx.cpu))
calls(
    "mx.linalg.solve_triangular",
    Sample(mx.tril(definite()), f(3, 2), stream=mx.cpu),
    Sample(mx.triu(definite()), f(3), upper=True, stream=mx.cpu),
)
calls(
    "mx.linalg.tri_inv",
    Sample(mx.tril(definite()), stream=mx.cpu),
    Sample(mx.triu(definite()), upper=True, stream=mx.cpu),
)
calls("mx.linalg.cross", Sample(f(2, 3), f(2, 3)), Sample(f(2, 2), f(2, 2)))
calls(
    "mx.linalg.norm mx.matrix_norm",
    Sample(x),
    Sample(x, axis=1),
    Sample(x, ord=1, axis=0, keepdims=True),
    Sample(x, ord="fro"),
    Sample(square, ord="nuc", stream=mx.cpu),
    Sample(x, ord=float("inf")),
)

calls("mx.fft.fft mx.fft.ifft", Sample(c(4)), Sample(f(2, 5), n=4, axis=0), Sample(f(4), norm="ortho"))
calls("mx.fft.fft2 mx.fft.ifft2 mx.fft.fftn mx.fft.ifftn", Sample(c(2, 4)), Sample(f(2, 3, 4), axes=(0, 2)))
calls("mx.fft.rfft", Sample(f(4)), Sample(f(2, 5), n=6))
calls("mx.fft.rfft2 mx.fft.rfftn", Sample(f(4, 4)), Sample(f(2, 3, 4), axes=(0, 2)))
calls("mx.fft.irfft", Sample(c(3)), Sample(c(2, 4), n=6))
calls("mx.fft.irfft2 mx.fft.irfftn", Sample(c(4, 3)))
calls("mx.fft.fftshift mx.fft.ifftshift", Sample(f(2, 5)), Sample(f(2, 5), axes=1))
calls("mx.fft.fftfreq mx.fft.rfftfreq", Sample(5), Sample(4, d=0.5))
calls("mx.fft.stft", Sample(f(16), n_fft=8), Sample(f(2, 16), n_fft=8, hop_length=4, window=p(8), pad_mode="edge"))
calls("mx.fft.istft", Sample(c(5, 5), n_fft=8, hop_length=2), Sample(c(5, 4), n_fft=8, window=p(8), length=12))

# -- where arrays come from ------------------------------------------------------------------------------------

calls(
    "array.__init__",
    *[
        Sample(data, *dtype, via=lambda *given: mx.array(*given))
        for data, *dtype in (
            (2.0,),
            ([[1, 2], [3, 4]], mx.float32),
            (np.arange(3.0, dtype=np.float32),),
            (x,),
            (x, mx.float16),
            ([f(3), f(3)],),
            ([[f(), 1.0], [f(), 2.0]],),
        )
    ],
)
calls("mx.asarray", Sample(x), Sample(x, mx.float16), Sample([1.0, 2.0]), Sample([f(), f()]), Sample(np.ones(2)))
calls("mx.from_dlpack", Sample(np.arange(3, dtype=np.float32)), Sample(f(3)))
calls("mx.zeros mx.ones mx.empty", Sample((2, 3)), Sample(3, mx.int32))
calls("mx.zeros_like mx.ones_like mx.empty_like", Sample(x), Sample(x, mx.int32))
calls("mx.full", Sample((2,), 3.0), Sample((2, 3), f(3)), Sample((2, 3), f(), mx.float16))
calls("mx.full_like", Sample(x, 1.5), Sample(x, f()))
calls("mx.arange", Sample(5), Sample(0, 1, 0.25), Sample(4, dtype=mx.float32))
calls("mx.linspace", Sample(0, 1, 5))
calls("mx.eye mx.tri", Sample(3), Sample(2, 3, 1))
calls("mx.identity mx.bartlett mx.blackman mx.hamming mx.hanning", Sample(4))
calls("mx.load", Sample(_npy), Sample(_safetensors))

_SHAPED = [Sample((2, 3)), Sample((2, 3), key=key()), Sample([2], mx.float16, key=key())]

calls("mx.random.key", Sample(3))
calls("mx.random.split", Sample(key()), Sample(key(), 3))
calls("mx.random.normal mx.random.gumbel mx.random.laplace", *_SHAPED)
calls("mx.random.normal", Sample((2, 3), loc=f(3), scale=p(3)), Sample((3,), mx.float32, 1.0, 2.0, key()))
calls("mx.random.uniform", Sample(), Sample(shape=(2, 3), key=key()), Sample(f(3), p(3) + 3, (2, 3)))
calls("mx.random.bernoulli", Sample(), Sample(p(3)), Sample(p(3), (2, 3), key()))
calls("mx.random.randint", Sample(0, 9, (2, 3)), Sample(index(0, 5), index(5, 9), (3, 2), key=key()))
calls("mx.random.truncated_normal", Sample(-1.0, 1.0, (3,)), Sample(f(3) - 3, p(3) + 3, key=key()))
calls("mx.random.categorical", Sample(f(2, 4)), Sample(f(2, 4), num_samples=3, key=key()))
calls("mx.random.permutation", Sample(5), Sample(f(4, 2)), Sample(f(2, 4), axis=1, key=key()))
calls(
    "mx.random.multivariate_normal",
    Sample(f(3), definite(), (2,), stream=mx.cpu),
    Sample(f(3), definite(), key=key(), stream=mx.cpu),
)

ALONE = Refusal("needs a second process", "singleton")

calls(
    "mx.distributed.all_sum mx.distributed.all_max mx.distributed.all_min mx.distributed.all_gather "
    "mx.distributed.sum_scatter",
    Sample(f(3)),
)
calls("mx.distributed.send", Sample(f(3), 0, refused=ALONE))
calls("mx.distributed.recv", Sample((3,), mx.float32, 0, refused=ALONE))
calls("mx.distributed.recv_like", Sample(f(3), 0, refused=ALONE))

# -- functions of functions ------------------------------------------------------------------------------------


def _loss(a: mx.array, b: mx.array) -> mx.array:
    return mx.sum(mx.sin(a) @ b)


def _layer(a: mx.array, b: mx.array) -> mx.array:
    return mx.tanh(a @ b) + a


def _transformed(transform: str, fun: Callable[..., Any], *options: Any) -> Callable[..., Any]:
    return lambda *arrays: getattr(mx, transform)(fun, *options)(*arrays)


def _custom(a: mx.array, b: mx.array) -> mx.array:
    @mx.custom_function
    def double(a: mx.array, b: mx.array) -> mx.array:
        return a * b

    @double.vjp
    def double_vjp(primals: Any, cotangent: mx.array, _: mx.array) -> Any:
        return cotangent * primals[1] * 2, cotangent * primals[0] * 3

    return double(a, b)


calls("mx.grad", Sample(x, w, via=_transformed("grad", _loss)), Sample(x, w, via=_transformed("grad", _loss, (0, 1))))
calls("mx.value_and_grad", Sample(x, w, via=_transformed("value_and_grad", _loss, [0, 1])))
calls("mx.vjp", Sample([x, w], [f(2, 3)], via=lambda primals, given: mx.vjp(_layer, primals, given)))
calls("mx.jvp", Sample([x, w], [f(2, 3), f(3, 3)], via=lambda primals, given: mx.jvp(_layer, primals, given)))
calls("mx.vmap", Sample(f(4, 2, 3), w, via=_transformed("vmap", _layer, (0, None))))
calls(
    "mx.compile",
    Sample(x, w, via=_transformed("compile", _layer)),
    Sample(x, w, via=lambda a, b: [layer(layer(a, b), b) for layer in [mx.compile(_layer)]]),
)
# made before recording begins
calls(
    "mx._gc_func",
    Sample(x, via=nn.gelu),
    Sample(x, w, via=mx.compile(_layer)),
    Sample(x, w, via=mx.compile(_layer, shapeless=True)),
    Sample(x, w, via=mx.value_and_grad(_loss, (0, 1))),
    Sample(f(4, 2, 3), w, via=mx.vmap(_layer, (0, None))),
    Sample(x, w, via=mx.checkpoint(_layer)),
)
calls("mx.checkpoint", Sample(x, w, via=_transformed("checkpoint", _layer)))
calls("mx.custom_function", Sample(x, f(2, 3), via=_custom))
calls("mx.import_function", Sample(x, w, via=lambda a, b: mx.import_function(_mlxfn)(a, b)))
