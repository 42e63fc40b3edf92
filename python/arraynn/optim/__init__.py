"""Optimizers and learning rate schedulers with PyTorch's names."""

from arraynn.optim import lr_scheduler
from arraynn.optim.adagrad import Adagrad
from arraynn.optim.adam import Adam, AdamW
from arraynn.optim.optimizer import Optimizer
from arraynn.optim.rmsprop import RMSprop
from arraynn.optim.sgd import SGD

__all__ = ["SGD", "Adagrad", "Adam", "AdamW", "Optimizer", "RMSprop", "lr_scheduler"]
