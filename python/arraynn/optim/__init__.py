"""Optimizers and learning rate schedulers with PyTorch's names."""

from arraynn.optim import lr_scheduler
from arraynn.optim.adam import Adam, AdamW
from arraynn.optim.optimizer import Optimizer
from arraynn.optim.sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "lr_scheduler"]
