"""Benchmarks: every kernel family against NumPy, PyTorch, JAX and ONNX Runtime.

One module per family holds its shapes, its FLOP and byte formulas and one runner per library.
Run ``python -m arraynn bench`` from an installation or ``python -m bench`` from a checkout.
"""
