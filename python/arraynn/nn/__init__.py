"""Layers, losses and containers with PyTorch's names, shapes and state_dict keys."""

from arraynn.nn import functional, init
from arraynn.nn._random import manual_seed
from arraynn.nn.activation import (
    ELU,
    GELU,
    SELU,
    Dropout,
    Hardsigmoid,
    Hardswish,
    LeakyReLU,
    LogSoftmax,
    Mish,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Tanh,
)
from arraynn.nn.attention import MultiheadAttention
from arraynn.nn.container import ModuleList, Sequential
from arraynn.nn.conv import Conv1d, Conv2d, ConvTranspose1d, ConvTranspose2d
from arraynn.nn.linear import Flatten, Identity, Linear
from arraynn.nn.loss import CrossEntropyLoss, MSELoss
from arraynn.nn.module import Module, Parameter
from arraynn.nn.pooling import (
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AdaptiveMaxPool1d,
    AdaptiveMaxPool2d,
    AvgPool1d,
    AvgPool2d,
    LPPool1d,
    LPPool2d,
    MaxPool1d,
    MaxPool2d,
    MaxUnpool1d,
    MaxUnpool2d,
)

__all__ = [
    "ELU",
    "GELU",
    "SELU",
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AvgPool1d",
    "AvgPool2d",
    "Conv1d",
    "Conv2d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "CrossEntropyLoss",
    "Dropout",
    "Flatten",
    "Hardsigmoid",
    "Hardswish",
    "Identity",
    "LPPool1d",
    "LPPool2d",
    "LeakyReLU",
    "Linear",
    "LogSoftmax",
    "MSELoss",
    "MaxPool1d",
    "MaxPool2d",
    "MaxUnpool1d",
    "MaxUnpool2d",
    "Mish",
    "Module",
    "ModuleList",
    "MultiheadAttention",
    "Parameter",
    "ReLU",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Tanh",
    "functional",
    "init",
    "manual_seed",
]
