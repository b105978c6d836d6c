"""The CPU backend: kernels written in numba and LLVM IR, compiled for this processor at start."""

from gateway.replica.backends.cpu.backend import KERNELS, CpuBackend

__all__ = ["KERNELS", "CpuBackend"]
