"""The CPU backend: kernels written in numba and LLVM IR, compiled for this processor at start."""

from gateway.replica.backends.cpu.backend import KERNELS, CpuBackend, UnsupportedProcessor

__all__ = ["KERNELS", "CpuBackend", "UnsupportedProcessor"]
