# SPDX-License-Identifier: Apache-2.0
"""What happens to gradients and under autocast. Forward calls work whatever requires grad; no operator has a backward
yet, and a backward that reaches one says so."""

import torch

from .library import NAMESPACE, called_name, ops

# Indices into the sentences of torch/backward.cpp.
_WITHOUT_BACKWARD = ("grouped_matmul_swiglu_quant", "grouped_matmul", "dynamic_quant", "weight_quant_grouped_matmul")


def _tensors(inputs):
    """The arguments as autograd counts them: lists of tensors laid flat."""
    for value in inputs:
        if isinstance(value, (list, tuple)):
            yield from value
        else:
            yield value


def _setup(ctx, inputs, keyword_only_inputs, output):
    needed = [tensor for tensor, needs in zip(_tensors(inputs), ctx.needs_input_grad, strict=False) if needs]
    ctx.save_for_backward(*needed)  # for their shapes


def _refuse_backward(sentence: int):
    # The refusal is an operator, not a `raise` here: torch.compile traces backwards that nobody may ever run.
    def backward(ctx, *gradients):
        saved = iter(ctx.saved_tensors)

        def refused(needs):
            if isinstance(needs, list):
                return [refused(one) for one in needs]
            return ops.no_backward(next(saved), sentence) if needs else None

        return tuple(refused(needs) for needs in ctx.needs_input_grad)

    return backward


def _setup_weight_quant(ctx, inputs, keyword_only_inputs, output):
    # C++ cannot see requires_grad. The formula of the backward, dX = (dY * scale) @ (w + offset)^T, has no act.
    if keyword_only_inputs["act_type"] != 0 and ctx.needs_input_grad[0]:
        name = called_name("weight_quant_grouped_matmul", keyword_only_inputs["spelling"])
        raise ValueError(f"[{name}] act_type must be 0 when x requires grad; got {keyword_only_inputs['act_type']}")
    _setup(ctx, inputs, keyword_only_inputs, output)


for _sentence, _operation in enumerate(_WITHOUT_BACKWARD):
    torch.library.register_autograd(
        f"{NAMESPACE}::{_operation}",
        _refuse_backward(_sentence),
        setup_context=_setup_weight_quant if _operation == "weight_quant_grouped_matmul" else _setup,
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
