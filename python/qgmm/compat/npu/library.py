# SPDX-License-Identifier: Apache-2.0
"""torch.ops.npu.* and torch.ops.mindspeed.*: the second door through which programs call the same operators.

The schemas are the vendor's newer ones, so a torch.dtype arrives as its number, which `vendor` accepts. Each operator
is composite: it becomes a call of torch.ops.qgmm.*, whose kernels, fakes and refusal of a backward then hold here too.
"""
import torch

from ... import vendor

SCHEMAS = {
    "npu": {
        "npu_grouped_matmul_swiglu_quant_v2(Tensor x, Tensor[] weight, Tensor[] weight_scale, Tensor x_scale, "
        "Tensor group_list, *, Tensor? smooth_scale=None, Tensor[]? weight_assist_matrix=None, Tensor? bias=None, "
        "int? dequant_mode=0, int? dequant_dtype=0, int? quant_mode=0, int? quant_dtype=1, int? group_list_type=0, "
        "int[]? tuning_config=None, int? x_dtype=None, int? weight_dtype=None, int? weight_scale_dtype=None, "
        "int? x_scale_dtype=None) -> (Tensor, Tensor)": vendor.npu_grouped_matmul_swiglu_quant_v2,
        "npu_grouped_matmul_swiglu_quant(Tensor x, Tensor weight, Tensor group_list, Tensor weight_scale, "
        "Tensor x_scale, *, Tensor? bias=None, Tensor? offset=None) -> (Tensor, Tensor, Tensor)":
            vendor.npu_grouped_matmul_swiglu_quant,
        "npu_format_cast(Tensor self, int acl_format, int? customize_dtype=None) -> Tensor": vendor.npu_format_cast,
    },
    "mindspeed": {
        "npu_weight_quant_gmm(Tensor x, Tensor weight, Tensor antiquant_scale, *, Tensor? antiquant_offset=None, "
        "Tensor? bias=None, Tensor? group_list=None, int? group_list_type=0, int? act_type=0) -> Tensor":
            vendor.mindspeed_weight_quant_gmm,
    },
}


def define(undo):
    """Defines what is not defined yet, so that a real MindSpeed or torch_npu keeps its own; `undo` removes it."""
    for namespace, operators in SCHEMAS.items():
        library = torch.library.Library(namespace, "FRAGMENT")
        undo.callback(library._destroy)  # what torch.library._scoped_library does when its block ends
        for schema, function in operators.items():
            name = schema.partition("(")[0]
            if not hasattr(getattr(torch.ops, namespace), name):
                library.define(schema)
                library.impl(name, function, "CompositeImplicitAutograd")
