"""Every operation under one name: the one place that picks the implementation, by the array it is handed.

NumPy arrays go to `kernels/cpu`: to the definition, or to the fast version where one stands beside it; and, if numba is
installed, to the function of the definition's stem and name in `kernels/compiled` where one is written. CuPy arrays go
to that in `kernels/cuda` where one is written, and otherwise to the definition, which speaks to either array module.
(Winograd's tiles, which are no operation of a network, are picked in kernels/cpu/tiles.py.)
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from npconvnet.backend import is_on_gpu
from npconvnet.kernels import twins
from npconvnet.kernels.cpu import (
    add,
    augment_in_parallel,
    average_pool2d,
    bfloat16,
    bfloat16_in_parts,
    bias,
    bias_relu,
    concatenate,
    conv2d,
    conv2d_by_shape,
    flatten,
    linear,
    linear_in_parallel,
    lrn,
    max_pool2d_separable,
    relu,
    sgd,
)
from npconvnet.kernels.cpu import augment as _augment
from npconvnet.kernels.cpu import dropout as _dropout
from npconvnet.kernels.cpu import max_pool2d as _max_pool2d
from npconvnet.kernels.cpu import softmax_cross_entropy as _softmax_cross_entropy
from npconvnet.kernels.cpu import with_signal as _with_signal
from npconvnet.kernels.views import Views as Views

P = ParamSpec("P")
R = TypeVar("R")


def by_device(definition: Callable[P, R], fast: Callable[P, R] | None = None) -> Callable[P, R]:
    """For NumPy arrays the definition's compiled twin, or else `fast`, or else itself; for CuPy arrays its CUDA twin.

    The first argument decides.
    """

    @wraps(definition)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        first: Any = args[0]
        on_gpu = is_on_gpu(first if hasattr(first, "shape") else first[0])
        chosen = twins.cuda_twin(definition) if on_gpu else twins.compiled_twin(definition) or fast or definition
        return chosen(*args, **kwargs)

    return run


conv2d_forward = by_device(conv2d.conv2d_forward, conv2d_by_shape.conv2d_forward)
conv2d_backward_input = by_device(conv2d.conv2d_backward_input, conv2d_by_shape.conv2d_backward_input)
conv2d_backward_filters = by_device(conv2d.conv2d_backward_filters, conv2d_by_shape.conv2d_backward_filters)
conv2d_backward = by_device(conv2d.conv2d_backward, conv2d_by_shape.conv2d_backward)
with_signal = by_device(_with_signal.with_signal)
bias_forward = by_device(bias.bias_forward)
bias_backward = by_device(bias.bias_backward)
bias_relu_forward = by_device(bias_relu.bias_relu_forward)
relu_forward = by_device(relu.relu_forward)
relu_backward = by_device(relu.relu_backward)
max_pool2d = by_device(_max_pool2d.max_pool2d, max_pool2d_separable.max_pool2d)
max_pool2d_forward = by_device(_max_pool2d.max_pool2d_forward, max_pool2d_separable.max_pool2d_forward)
max_pool2d_backward = by_device(_max_pool2d.max_pool2d_backward, max_pool2d_separable.max_pool2d_backward)
average_pool2d_forward = by_device(average_pool2d.average_pool2d_forward)
average_pool2d_backward = by_device(average_pool2d.average_pool2d_backward)
global_average_pool2d_forward = by_device(average_pool2d.global_average_pool2d_forward)
global_average_pool2d_backward = by_device(average_pool2d.global_average_pool2d_backward)
lrn_forward = by_device(lrn.lrn_forward)
lrn_backward = by_device(lrn.lrn_backward)
linear_forward = by_device(linear.linear_forward, linear_in_parallel.linear_forward)
linear_backward_input = by_device(linear.linear_backward_input, linear_in_parallel.linear_backward_input)
linear_backward_weights = by_device(linear.linear_backward_weights, linear_in_parallel.linear_backward_weights)
dropout = by_device(_dropout.dropout)
draw_kept = by_device(_dropout.draw_kept)
concatenate_forward = by_device(concatenate.concatenate_forward)
concatenate_backward = by_device(concatenate.concatenate_backward)
flatten_forward = by_device(flatten.flatten_forward)
flatten_backward = by_device(flatten.flatten_backward)
add_forward = by_device(add.add_forward)
add_backward = by_device(add.add_backward)
softmax = by_device(_softmax_cross_entropy.softmax)
softmax_cross_entropy = by_device(_softmax_cross_entropy.softmax_cross_entropy)
to_bfloat16 = by_device(bfloat16.to_bfloat16, bfloat16_in_parts.to_bfloat16)
from_bfloat16 = by_device(bfloat16.from_bfloat16)
sum_of_words = by_device(bfloat16.sum_of_words, bfloat16_in_parts.sum_of_words)
sgd_update = by_device(sgd.sgd_update)
augment = by_device(_augment.augment, augment_in_parallel.augment)
