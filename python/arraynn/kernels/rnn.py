"""Recurrent networks over whole sequences, forward and backward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import ArrayLike, NDArray

from arraynn import _core
from arraynn._core import PackedWeights

__all__ = ["gru", "gru_backward", "lstm", "lstm_backward", "rnn", "rnn_backward"]

Array = NDArray[Any]
Arrays = Sequence[Array]


def rnn(
    x: Array,
    weights: Arrays | PackedWeights,
    h0: Array | None = None,
    *,
    nonlinearity: str = "tanh",
    num_layers: int = 1,
    bidirectional: bool = False,
    batch_first: bool = False,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    reverse: bool = False,
    dropout: float = 0.0,
    recurrent_dropout: float = 0.0,
    weight_dropout: float = 0.0,
    zoneout: float = 0.0,
    seed: int | None = None,
    clip: float | None = None,
    layer_norm: Arrays | None = None,
    layer_norm_eps: float = 1e-5,
    return_workspace: bool = False,
) -> Any:
    r"""Elman's recurrent network (Elman 1990) over all steps of a batch.

    .. math:: h_t = f(W_{ih} x_t + b_{ih} + W_{hh} h_{t-1} + b_{hh})

    Parameters
    ----------
    x : array of shape (T, B, I), (B, T, I) with `batch_first`, or (T, I) for one sample
        Of a floating dtype. On a GPU h is rounded to one of 16 bits at every step.
    weights : list of arrays
        PyTorch's flat list: for layer 0 forward, layer 0 backward, layer 1 forward, ... w_ih
        (H, I), w_hh (H, H) and no, one (b_ih) or two (b_ih, b_hh) biases (H). The input of a
        later layer has ``directions * H`` elements. Or that list from :func:`pack`.
    h0 : array of shape (layers * directions, B, H), optional
        The first state, without the axis B for one sample. Zeros when not given; the first step
        then does without w_hh.
    nonlinearity : str
        f: ``"tanh"``, ``"relu"`` or another name of an ``activation=`` argument.
    num_layers : int
    bidirectional : bool
        Every layer goes through the steps both ways; y holds the forward direction's h first.
    batch_first : bool
        Of x and y. States keep their axes.
    lengths : integers of shape (B,), optional
        Steps of each sample, in any order; 0 is allowed. Past the end y is 0 and x is not
        looked at, the last state is that at the end, and the reverse direction begins there.
    mask : array of bool of shape (T, B), as x without its last axis, optional
        False: the sample takes no part in the step. Its x is not looked at, its state passes
        through, and y repeats h; within `lengths`, if both are given. Keras' masking, but for y
        at steps before the first that counts: it is h0, Keras' is 0.
    reverse : bool
        The one direction goes from the last step to the first.
    dropout : float in [0, 1]
        Probability of dropping an element of y between layers, not after the last.
    recurrent_dropout : float in [0, 1]
        Probability of dropping an element of h where w_hh meets it, with one mask (B, H) for all
        steps (Gal and Ghahramani 2016; Keras' `recurrent_dropout`). What h carries on is whole.
    weight_dropout : float in [0, 1]
        Probability of dropping an element of w_hh, for the whole call (Wan et al. 2013, Merity
        et al. 2018; Haste's `dropout`).
    zoneout : float in [0, 1]
        Probability that an element of h keeps its former value (Krueger et al. 2017).
    seed : int
        Of all that is drawn. Without it `zoneout` takes the mean, ``p * former + (1 - p) * new``,
        which is inference; the others need one. Masks are those of :func:`dropout`, of the seed
        plus l - 1 over (T, B, directions * H) in front of layer l, and, for the g-th layer and
        direction, plus 2**32 + g over (B, H), 2 * 2**32 + g over (T, B, H) where zoneout takes
        the new value, and 4 * 2**32 + g over w_hh.
    clip : float, optional
        Bounds the argument of f to [-clip, clip].
    layer_norm : list of arrays, optional
        Layer norms (Ba et al. 2016), as TensorFlow Addons and Haste place them: of each product
        over all its gates, before the biases. Two gains (G H) for every layer and direction:
        :math:`h_t = f(LN(W_{ih} x_t; g_{ih}) + b_{ih} + LN(W_{hh} h_{t-1}; g_{hh}) + b_{hh})`.
    layer_norm_eps : float
        Added to the variance.
    return_workspace : bool
        Also return what :func:`rnn_backward` needs. It refers to x, h0, the weights and y, which
        must not be changed in between; its ``nbytes`` is the size of what it holds besides.

    Returns
    -------
    y : array of shape (T, B, directions * H), or as x
    h_n : array of the shape of h0
        The last state of every layer and direction.
    workspace : object, with `return_workspace`

    Raises
    ------
    ValueError
        For shapes that do not match, a list of weights that does not divide into layers and
        directions, lengths outside [0, T], `reverse` with `bidirectional`, values out of range, and
        dropout without a seed.
    TypeError
        For arrays of other or of mixed dtypes.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> one = np.ones((1, 1))
    >>> y, h_n = K.rnn(np.ones((3, 1, 1)), [one, one], nonlinearity="relu")
    >>> y[:, 0, 0], h_n
    (array([1., 2., 3.]), array([[[3.]]]))
    """
    return _core.rnn(
        x,
        weights,
        h0,
        nonlinearity,
        num_layers,
        bidirectional,
        batch_first,
        lengths,
        mask,
        reverse,
        dropout,
        recurrent_dropout,
        weight_dropout,
        zoneout,
        seed,
        clip,
        layer_norm,
        layer_norm_eps,
        return_workspace,
    )


def rnn_backward(grad_y: Array | None, grad_state: Array | None, workspace: Any) -> tuple[Any, ...]:
    """Gradients of :func:`rnn`: back-propagation through time (Werbos 1990).

    Parameters
    ----------
    grad_y : array of the shape of y, or None for zeros
        Not looked at past the end of a sample.
    grad_state : array of the shape of h_n, or None for zeros
    workspace : object
        What :func:`rnn` returned. It can be used any number of times.

    Returns
    -------
    grad_x : array of the shape of x
        0 past the end of a sample.
    grad_h0 : array of the shape of h_n
    grad_weights : list of arrays
        In the order of `weights`.
    grad_layer_norm : list of arrays, where there are layer norms

    Raises
    ------
    ValueError
        For shapes that do not match, and a workspace of another operation.
    TypeError
        For arrays of another dtype than x, and for a workspace that is none.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> one = np.ones((1, 1))
    >>> y, h_n, kept = K.rnn(
    ...     np.ones((3, 1, 1)), [one, one], nonlinearity="relu", return_workspace=True
    ... )
    >>> grad_x, grad_h0, (grad_w_ih, grad_w_hh) = K.rnn_backward(None, np.ones((1, 1, 1)), kept)
    >>> grad_x[:, 0, 0], grad_w_ih, grad_w_hh
    (array([1., 1., 1.]), array([[3.]]), array([[3.]]))
    """
    return _core.rnn_backward(grad_y, grad_state, workspace)


def lstm(
    x: Array,
    weights: Arrays | PackedWeights,
    state: tuple[Array, Array] | None = None,
    *,
    activation: str = "tanh",
    recurrent_activation: str = "sigmoid",
    output_activation: str | None = None,
    peepholes: Arrays | None = None,
    input_forget: bool = False,
    clip: float | None = None,
    cell_clip: float | None = None,
    layer_norm: Arrays | None = None,
    layer_norm_eps: float = 1e-5,
    return_cells: bool = False,
    num_layers: int = 1,
    bidirectional: bool = False,
    batch_first: bool = False,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    reverse: bool = False,
    dropout: float = 0.0,
    recurrent_dropout: float = 0.0,
    weight_dropout: float = 0.0,
    zoneout: float = 0.0,
    zoneout_cell: float = 0.0,
    seed: int | None = None,
    return_workspace: bool = False,
) -> Any:
    r"""Long short-term memory (Hochreiter and Schmidhuber 1997; Gers et al. 2000).

    .. math::
        i, f, o &= \sigma(z_i + p_i c_{t-1}),\ \sigma(z_f + p_f c_{t-1}),\ \sigma(z_o + p_o c_t) \\
        c_t &= f c_{t-1} + i\, a(z_g) \\
        h_t &= W_{hr}\,(o\ a_{out}(c_t))

    with :math:`z = W_{ih} x_t + b_{ih} + W_{hh} h_{t-1} + b_{hh}`; p (peepholes, Gers and
    Schmidhuber 2000) and W_hr (projection, Sak et al. 2014) where there are any.

    Parameters
    ----------
    x : array of shape (T, B, I), (B, T, I) with `batch_first`, or (T, I) for one sample
        Of a floating dtype. On a GPU h is rounded to one of 16 bits at every step.
    weights : list of arrays
        As for :func:`rnn`, with 4 H rows in the order i f g o, and, where h is projected to P
        elements, w_hr (P, H) at the end of every group and w_hh (4 H, P).
    state : (h0, c0), optional
        (layers * directions, B, P or H) and (layers * directions, B, H); zeros when not given.
    activation, recurrent_activation, output_activation : str
        a, sigma and a_out; a_out is a when not given. Names of an ``activation=`` argument.
    peepholes : list of arrays of shape (3, H), optional
        Rows i, f, o, one array for every layer and direction.
    input_forget : bool
        Coupled gates: i = 1 - f. The rows of i in the weights have no effect.
    num_layers, bidirectional, batch_first, lengths, mask, reverse, return_workspace
        As for :func:`rnn`.
    dropout, recurrent_dropout, weight_dropout, zoneout, seed
        As for :func:`rnn`.
    zoneout_cell : float in [0, 1]
        Zoneout of c, of the seed plus 3 * 2**32 + g over (T, B, H). o and h read the new c.
    clip : float, optional
        Bounds the arguments of sigma and a to [-clip, clip].
    cell_clip : float, optional
        Bounds c before o and h read it.
    layer_norm : list of arrays, optional
        As for :func:`rnn`, and gain and bias (H) of a norm of c behind the two gains of a group:
        :math:`h_t = W_{hr}(o\ a_{out}(LN(c_t; g_c, b_c)))`. c itself is carried on as it is, as in
        the paper and in Haste; TensorFlow Addons carries the normalised one.
    layer_norm_eps : float
    return_cells : bool
        Also return every c of the last layer.

    Returns
    -------
    y : array of shape (T, B, directions * (P or H)), or as x
    h_n, c_n : pair of arrays
        The last state of every layer and direction.
    cells : array of shape (T, B, directions * H), or as x, with `return_cells`
        0 past the end of a sample.
    workspace : object, with `return_workspace`

    Raises
    ------
    ValueError, TypeError
        As :func:`rnn`.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> x, w_ih, w_hh = np.ones((5, 2, 3)), np.ones((16, 3)), np.ones((16, 4))
    >>> y, (h_n, c_n) = K.lstm(x, [w_ih, w_hh])
    >>> y.shape, h_n.shape, c_n[0, 0, :2].round(3)
    ((5, 2, 4), (1, 2, 4), array([4.931, 4.931]))
    """
    return _core.lstm(
        x,
        weights,
        state,
        activation,
        recurrent_activation,
        output_activation,
        peepholes,
        input_forget,
        num_layers,
        bidirectional,
        batch_first,
        lengths,
        mask,
        reverse,
        dropout,
        recurrent_dropout,
        weight_dropout,
        zoneout,
        zoneout_cell,
        seed,
        clip,
        cell_clip,
        layer_norm,
        layer_norm_eps,
        return_cells,
        return_workspace,
    )


def lstm_backward(
    grad_y: Array | None,
    grad_state: tuple[Array | None, Array | None] | None,
    workspace: Any,
    *,
    grad_cells: Array | None = None,
) -> tuple[Any, ...]:
    """Gradients of :func:`lstm`.

    Parameters
    ----------
    grad_y : array of the shape of y, or None for zeros
    grad_state : pair of arrays of the shapes of (h_n, c_n), or None for zeros
        Either of the two may be None as well.
    workspace : object
        What :func:`lstm` returned.
    grad_cells : array of the shape of cells, or None for zeros
        Past the end of a sample it is not looked at.

    Returns
    -------
    grad_x : array of the shape of x
    grad_h0, grad_c0 : pair of arrays
    grad_weights : list of arrays
        In the order of `weights`.
    grad_peepholes : list of arrays, where there are peepholes
    grad_layer_norm : list of arrays, where there are layer norms

    Raises
    ------
    ValueError, TypeError
        As :func:`rnn_backward`.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> x, w_ih, w_hh = np.ones((5, 2, 3)), np.zeros((16, 3)), np.zeros((16, 4))
    >>> y, _, kept = K.lstm(x, [w_ih, w_hh], return_workspace=True)
    >>> grad_x, (grad_h0, grad_c0), (grad_w_ih, grad_w_hh) = K.lstm_backward(
    ...     np.ones_like(y), None, kept
    ... )
    >>> grad_c0[0, 0], grad_w_ih.shape
    (array([0.484375, 0.484375, 0.484375, 0.484375]), (16, 3))
    """
    return _core.lstm_backward(grad_y, grad_state, workspace, grad_cells)


def gru(
    x: Array,
    weights: Arrays | PackedWeights,
    h0: Array | None = None,
    *,
    activation: str = "tanh",
    recurrent_activation: str = "sigmoid",
    reset_after: bool = True,
    num_layers: int = 1,
    bidirectional: bool = False,
    batch_first: bool = False,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    reverse: bool = False,
    dropout: float = 0.0,
    recurrent_dropout: float = 0.0,
    weight_dropout: float = 0.0,
    zoneout: float = 0.0,
    seed: int | None = None,
    clip: float | None = None,
    layer_norm: Arrays | None = None,
    layer_norm_eps: float = 1e-5,
    return_workspace: bool = False,
) -> Any:
    r"""Gated recurrent unit (Cho et al. 2014).

    .. math::
        r, z &= \sigma(W_{ir} x_t + b_{ir} + W_{hr} h_{t-1} + b_{hr}),\ \sigma(\ldots) \\
        n &= a(W_{in} x_t + b_{in} + r\,(W_{hn} h_{t-1} + b_{hn})) \\
        h_t &= (1 - z)\, n + z\, h_{t-1}

    Parameters
    ----------
    x : array of shape (T, B, I), (B, T, I) with `batch_first`, or (T, I) for one sample
        Of a floating dtype. On a GPU h is rounded to one of 16 bits at every step.
    weights : list of arrays
        As for :func:`rnn`, with 3 H rows in the order r z n. A single bias is b_ih.
    h0 : array of shape (layers * directions, B, H), optional
    activation, recurrent_activation : str
        a and sigma. Names of an ``activation=`` argument.
    reset_after : bool
        True is the equation above, PyTorch's and cuDNN's ("linear before reset"); with False
        the reset comes before the product, :math:`n = a(W_{in} x_t + b_{in} + W_{hn} (r h_{t-1})
        + b_{hn})`.
    num_layers, bidirectional, batch_first, lengths, mask, reverse, return_workspace
        As for :func:`rnn`.
    dropout, recurrent_dropout, weight_dropout, zoneout, seed
        As for :func:`rnn`.
    clip : float, optional
        Bounds the arguments of sigma and a to [-clip, clip].
    layer_norm, layer_norm_eps
        As for :func:`rnn`: LN(W_ih x) and LN(W_hh h), each over r z n together, in place of the
        products; with `reset_after` only.

    Returns
    -------
    y : array of shape (T, B, directions * H), or as x
    h_n : array of the shape of h0
    workspace : object, with `return_workspace`

    Raises
    ------
    ValueError, TypeError
        As :func:`rnn`.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> x, w_ih, w_hh = np.ones((5, 2, 3)), np.zeros((12, 3)), np.zeros((12, 4))
    >>> y, h_n = K.gru(x, [w_ih, w_hh], np.ones((1, 2, 4)))
    >>> y[:, 0, 0]
    array([0.5    , 0.25   , 0.125  , 0.0625 , 0.03125])
    """
    return _core.gru(
        x,
        weights,
        h0,
        activation,
        recurrent_activation,
        reset_after,
        num_layers,
        bidirectional,
        batch_first,
        lengths,
        mask,
        reverse,
        dropout,
        recurrent_dropout,
        weight_dropout,
        zoneout,
        seed,
        clip,
        layer_norm,
        layer_norm_eps,
        return_workspace,
    )


def gru_backward(grad_y: Array | None, grad_state: Array | None, workspace: Any) -> tuple[Any, ...]:
    """Gradients of :func:`gru`.

    Parameters
    ----------
    grad_y : array of the shape of y, or None for zeros
    grad_state : array of the shape of h_n, or None for zeros
    workspace : object
        What :func:`gru` returned.

    Returns
    -------
    grad_x : array of the shape of x
    grad_h0 : array of the shape of h_n
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
    >>> x, w_ih, w_hh = np.ones((5, 2, 3)), np.zeros((12, 3)), np.zeros((12, 4))
    >>> _, _, kept = K.gru(x, [w_ih, w_hh], return_workspace=True)
    >>> K.gru_backward(None, np.ones((1, 2, 4)), kept)[1][0, 0]
    array([0.03125, 0.03125, 0.03125, 0.03125])
    """
    return _core.gru_backward(grad_y, grad_state, workspace)
