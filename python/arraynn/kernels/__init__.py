"""Stateless kernels: arrays in, arrays out, forward and backward."""
