"""Stateless kernels: arrays in, arrays out, forward and backward."""

from arraynn.kernels.gemm import linear, linear_backward, matmul

__all__ = ["linear", "linear_backward", "matmul"]
