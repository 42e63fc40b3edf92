"""Weights on disk."""

from arraynn.io.safetensors import load, load_file, load_metadata, save, save_file

__all__ = ["load", "load_file", "load_metadata", "save", "save_file"]
