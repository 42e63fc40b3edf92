"""Stateless kernels: arrays in, arrays out, forward and backward."""

from arraynn.kernels.conv import conv2d, conv2d_backward
from arraynn.kernels.gemm import linear, linear_backward, matmul

__all__ = ["conv2d", "conv2d_backward", "linear", "linear_backward", "matmul"]
