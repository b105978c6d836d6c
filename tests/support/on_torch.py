"""The CUDA backend on torch's CPU device, for tests that `make prove` runs."""

from __future__ import annotations

from typing import Any

from gateway.replica.weights import Weights


def load(weights: Weights, **options: Any) -> Any:
    """In float32 unless told otherwise; with `kernels="triton"` in Triton's interpreter."""
    import torch

    from gateway.replica.backends.cuda.backend import CudaBackend, Options

    torch.set_num_threads(1)
    chosen = {"kernels": "plain", "max_tokens": 128, "blocks": 16, "max_rows": 4} | options
    dtype = getattr(torch, chosen.pop("dtype", "float32"))
    return CudaBackend.load(weights, Options(device="cpu", dtype=dtype, **chosen))
