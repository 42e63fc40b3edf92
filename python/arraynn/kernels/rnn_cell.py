"""One step of the recurrent networks, forward and backward."""

from __future__ import annotations

from typing import Any

from arraynn import _core
from arraynn._core import PackedWeights
from arraynn.kernels.rnn import Array, Arrays

__all__ = [
    "gru_cell",
    "gru_cell_backward",
    "lstm_cell",
    "lstm_cell_backward",
    "rnn_cell",
    "rnn_cell_backward",
]


def rnn_cell(
    x: Array,
    weights: Arrays | PackedWeights,
    h0: Array | None = None,
    *,
    nonlinearity: str = "tanh",
    clip: float | None = None,
    layer_norm: Arrays | None = None,
    layer_norm_eps: float = 1e-5,
    return_workspace: bool = False,
) -> Any:
    r"""One step of :func:`rnn`: :math:`h = f(W_{ih} x + b_{ih} + W_{hh} h_0 + b_{hh})`.

    Parameters
    ----------
    x : array of shape (B, I), or (I,) for one sample
        Of a floating dtype.
    weights : list of arrays
        w_ih (H, I), w_hh (H, H) and no, one or two biases (H).
    h0 : array of shape (B, H) or (H,), optional
        Zeros when not given.
    nonlinearity, clip, return_workspace
        As for :func:`rnn`.
    layer_norm : list of arrays, optional
        One group of those of :func:`rnn`.
    layer_norm_eps : float

    Returns
    -------
    h : array of the shape of h0
    workspace : object, with `return_workspace`

    Raises
    ------
    ValueError, TypeError
        As :func:`rnn`.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> one = np.ones((1, 1))
    >>> K.rnn_cell(np.ones(1), [one, one], np.ones(1), nonlinearity="relu")
    array([2.])
    """
    return _core.rnn_cell(
        x, weights, h0, nonlinearity, clip, layer_norm, layer_norm_eps, return_workspace
    )


def rnn_cell_backward(grad_h: Array, workspace: Any) -> tuple[Any, ...]:
    """Gradients of :func:`rnn_cell`.

    Parameters
    ----------
    grad_h : array of the shape of h
    workspace : object
        What :func:`rnn_cell` returned.

    Returns
    -------
    grad_x, grad_h0 : arrays
    grad_weights : list of arrays
        In the order of `weights`.
    grad_layer_norm : list of arrays, where there are layer norms

    Raises
    ------
    ValueError, TypeError
        As :func:`rnn_backward`.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> two = np.full((1, 1), 2.0)
    >>> _, kept = K.rnn_cell(
    ...     np.ones(1), [two, two], np.ones(1), nonlinearity="relu", return_workspace=True
    ... )
    >>> K.rnn_cell_backward(np.ones(1), kept)[:2]
    (array([2.]), array([2.]))
    """
    return _core.rnn_cell_backward(grad_h, workspace)


def lstm_cell(
    x: Array,
    weights: Arrays | PackedWeights,
    state: tuple[Array, Array] | None = None,
    *,
    activation: str = "tanh",
    recurrent_activation: str = "sigmoid",
    output_activation: str | None = None,
    peepholes: Array | None = None,
    input_forget: bool = False,
    clip: float | None = None,
    cell_clip: float | None = None,
    layer_norm: Arrays | None = None,
    layer_norm_eps: float = 1e-5,
    return_workspace: bool = False,
) -> Any:
    """One step of :func:`lstm`; the equations stand there.

    Parameters
    ----------
    x : array of shape (B, I), or (I,) for one sample
        Of a floating dtype.
    weights : list of arrays
        One group of those of :func:`lstm`.
    state : (h0, c0), optional
        (B, P or H) and (B, H), or without the first axis; zeros when not given.
    peepholes : array of shape (3, H), optional
    activation, recurrent_activation, output_activation, input_forget, clip, cell_clip
        As for :func:`lstm`.
    layer_norm : list of arrays, optional
        One group of those of :func:`lstm`.
    layer_norm_eps : float
    return_workspace : bool

    Returns
    -------
    h, c : pair of arrays
        With `return_workspace` the pair and the workspace.

    Raises
    ------
    ValueError, TypeError
        As :func:`rnn`.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> h, c = K.lstm_cell(np.ones(3), [np.zeros((16, 3)), np.zeros((16, 4))], None)
    >>> h, c
    (array([0., 0., 0., 0.]), array([0., 0., 0., 0.]))
    """
    return _core.lstm_cell(
        x,
        weights,
        state,
        activation,
        recurrent_activation,
        output_activation,
        peepholes,
        input_forget,
        clip,
        cell_clip,
        layer_norm,
        layer_norm_eps,
        return_workspace,
    )


def lstm_cell_backward(
    grad_state: tuple[Array | None, Array | None], workspace: Any
) -> tuple[Any, ...]:
    """Gradients of :func:`lstm_cell`.

    Parameters
    ----------
    grad_state : pair of arrays of the shapes of (h, c)
        None stands for zeros.
    workspace : object
        What :func:`lstm_cell` returned.

    Returns
    -------
    grad_x : array
    grad_h0, grad_c0 : pair of arrays
    grad_weights : list of arrays
        In the order of `weights`.
    grad_peepholes : array, where there are peepholes
    grad_layer_norm : list of arrays, where there are layer norms

    Raises
    ------
    ValueError, TypeError
        As :func:`rnn_backward`.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> weights = [np.zeros((16, 3)), np.zeros((16, 4))]
    >>> _, kept = K.lstm_cell(np.ones(3), weights, return_workspace=True)
    >>> K.lstm_cell_backward((None, np.ones(4)), kept)[1]
    (array([0., 0., 0., 0.]), array([0.5, 0.5, 0.5, 0.5]))
    """
    return _core.lstm_cell_backward(grad_state, workspace)


def gru_cell(
    x: Array,
    weights: Arrays | PackedWeights,
    h0: Array | None = None,
    *,
    activation: str = "tanh",
    recurrent_activation: str = "sigmoid",
    reset_after: bool = True,
    clip: float | None = None,
    layer_norm: Arrays | None = None,
    layer_norm_eps: float = 1e-5,
    return_workspace: bool = False,
) -> Any:
    """One step of :func:`gru`; the equations stand there.

    Parameters
    ----------
    x : array of shape (B, I), or (I,) for one sample
        Of a floating dtype.
    weights : list of arrays
        One group of those of :func:`gru`.
    h0 : array of shape (B, H) or (H,), optional
        Zeros when not given.
    activation, recurrent_activation, reset_after, clip, return_workspace
        As for :func:`gru`.
    layer_norm : list of arrays, optional
        One group of those of :func:`gru`.
    layer_norm_eps : float

    Returns
    -------
    h : array of the shape of h0
    workspace : object, with `return_workspace`

    Raises
    ------
    ValueError, TypeError
        As :func:`rnn`.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> K.gru_cell(np.ones(3), [np.zeros((6, 3)), np.zeros((6, 2))], np.ones(2))
    array([0.5, 0.5])
    """
    return _core.gru_cell(
        x,
        weights,
        h0,
        activation,
        recurrent_activation,
        reset_after,
        clip,
        layer_norm,
        layer_norm_eps,
        return_workspace,
    )


def gru_cell_backward(grad_h: Array, workspace: Any) -> tuple[Any, ...]:
    """Gradients of :func:`gru_cell`.

    Parameters
    ----------
    grad_h : array of the shape of h
    workspace : object
        What :func:`gru_cell` returned.

    Returns
    -------
    grad_x, grad_h0 : arrays
    grad_weights : list of arrays
        In the order of `weights`.
    grad_layer_norm : list of arrays, where there are layer norms

    Raises
    ------
    ValueError, TypeError
        As :func:`rnn_backward`.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> _, kept = K.gru_cell(
    ...     np.ones(3), [np.zeros((6, 3)), np.zeros((6, 2))], np.ones(2), return_workspace=True
    ... )
    >>> K.gru_cell_backward(np.ones(2), kept)[1]
    array([0.5, 0.5])
    """
    return _core.gru_cell_backward(grad_h, workspace)
