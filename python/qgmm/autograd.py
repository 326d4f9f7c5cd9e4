# SPDX-License-Identifier: Apache-2.0
"""What happens to gradients and under autocast. Forward calls work whatever requires grad; no operator has a backward
yet, and a backward that reaches one says so."""

import torch

from .library import NAMESPACE, called_name, ops


def _refuse_backward(operation, reason):
    def backward(ctx, *gradients):
        raise RuntimeError(f"{operation} has no backward{reason}")

    return backward


for _operation, _reason in (
    ("grouped_matmul_swiglu_quant", ": its output is quantised"),
    ("grouped_matmul", ": its input is quantised"),
    ("dynamic_quant", ": its output is quantised"),
):
    torch.library.register_autograd(f"{NAMESPACE}::{_operation}", _refuse_backward(_operation, _reason))


def _refuse_activation(ctx, inputs, keyword_only_inputs, output):
    # C++ cannot see requires_grad. The formula of the backward, dX = (dY * scale) @ (w + offset)^T, has no act.
    if keyword_only_inputs["act_type"] != 0 and ctx.needs_input_grad[0]:
        name = called_name("weight_quant_grouped_matmul", keyword_only_inputs["spelling"])
        raise ValueError(f"[{name}] act_type must be 0 when x requires grad; got {keyword_only_inputs['act_type']}")


torch.library.register_autograd(
    f"{NAMESPACE}::weight_quant_grouped_matmul",
    _refuse_backward("weight_quant_grouped_matmul", " yet"),
    setup_context=_refuse_activation,
)


def _autocast_weight_quant(x, weight, scale, offset=None, bias=None, group_list=None, **options):
    """As torch does for its own products: x, scale, offset and bias become the context's dtype.

    torch.library.register_autocast would refuse the keyword options and cast to one dtype fixed at registration.
    """
    dtype = torch.get_autocast_dtype("cpu")

    def cast(tensor):
        return tensor if tensor is None or not tensor.is_floating_point() else tensor.to(dtype)

    with torch.amp.autocast("cpu", enabled=False):
        return ops.weight_quant_grouped_matmul(
            cast(x), weight, cast(scale), cast(offset), cast(bias), group_list, **options
        )


# Kept: the registration lasts as long as this object.
_fragment = torch.library.Library(NAMESPACE, "FRAGMENT")
_fragment.impl("weight_quant_grouped_matmul", _autocast_weight_quant, "AutocastCPU")
