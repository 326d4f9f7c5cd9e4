// SPDX-License-Identifier: Apache-2.0
// Schemas and registration. Every Tensor stands before the `*`: torch's register_autograd refuses keyword-only ones.
// No `str` among arguments: each would leak some hundred bytes a call in the stable ABI; enums travel as ints.
#include <torch/csrc/stable/library.h>

#include "kernels.h"

using namespace qgmm::door;

// One level of macro, so that the namespace is expanded before it is pasted.
#define QGMM_LIBRARY(ns) STABLE_TORCH_LIBRARY(ns, m)
#define QGMM_LIBRARY_IMPL(ns) STABLE_TORCH_LIBRARY_IMPL(ns, CompositeExplicitAutograd, m)

#define QGMM_SWIGLU_QUANT_ARGUMENTS                                                                                 \
  "(Tensor x, Tensor[] weight, Tensor[] weight_scale, Tensor x_scale, Tensor group_list, "                          \
  "Tensor? smooth_scale=None, Tensor[]? weight_assist_matrix=None, Tensor? bias=None, *, int dequant_mode=0, "      \
  "ScalarType? quant_dtype=None, int group_list_type=0, float swiglu_limit=0, int[]? tuning_config=None, "          \
  "int[]? packed=None, int spelling=0)"
#define QGMM_WEIGHT_QUANT_ARGUMENTS                                                                                 \
  "(Tensor x, Tensor weight, Tensor scale, Tensor? offset=None, Tensor? bias=None, Tensor? group_list=None, *, "    \
  "int group_list_type=0, int act_type=0, int precision=0, int[]? packed=None, int spelling=0)"
#define QGMM_GROUPED_MATMUL_ARGUMENTS                                                                               \
  "(Tensor x, Tensor[] weight, Tensor[]? weight_scale, Tensor group_list, Tensor? x_scale=None, "                   \
  "Tensor? bias=None, Tensor[]? weight_assist_matrix=None, *, int dequant_mode=0, int group_list_type=0, "          \
  "int act_type=0, ScalarType? out_dtype=None, int[]? packed=None, int spelling=0)"

// The overloads `packed`, for python/qgmm/packed_call.py: no lists, no names, and at the end what most calls leave out.
#define QGMM_PACKED_SWIGLU_QUANT                                                                                    \
  ".packed(Tensor x, Tensor data, Tensor weight_scale, Tensor x_scale, Tensor group_list, int spelling=0, "         \
  "int group_list_type=0, int dequant_mode=0, Tensor? smooth_scale=None, Tensor? weight_assist_matrix=None, "       \
  "Tensor? bias=None, float swiglu_limit=0) -> (Tensor, Tensor)"
#define QGMM_PACKED_WEIGHT_QUANT                                                                                    \
  ".packed(Tensor x, Tensor data, Tensor scale, Tensor? group_list=None, int spelling=0, int group_list_type=0, "   \
  "int act_type=0, int precision=0, Tensor? offset=None, Tensor? bias=None) -> Tensor"
#define QGMM_PACKED_GROUPED_MATMUL                                                                                  \
  ".packed(Tensor x, Tensor data, Tensor group_list, Tensor? weight_scale=None, Tensor? x_scale=None, "             \
  "int group_list_type=0, int dequant_mode=0, int act_type=0, Tensor? bias=None, "                                  \
  "Tensor? weight_assist_matrix=None, ScalarType? out_dtype=None) -> Tensor"

QGMM_LIBRARY(QGMM_TORCH_NAMESPACE) {
  m.def("grouped_matmul_swiglu_quant" QGMM_SWIGLU_QUANT_ARGUMENTS " -> (Tensor, Tensor)");
  m.def("grouped_matmul_swiglu_quant" QGMM_PACKED_SWIGLU_QUANT);
  m.def("explain_grouped_matmul_swiglu_quant" QGMM_SWIGLU_QUANT_ARGUMENTS " -> str");
  m.def("weight_quant_grouped_matmul" QGMM_WEIGHT_QUANT_ARGUMENTS " -> Tensor");
  m.def("weight_quant_grouped_matmul" QGMM_PACKED_WEIGHT_QUANT);
  m.def("explain_weight_quant_grouped_matmul" QGMM_WEIGHT_QUANT_ARGUMENTS " -> str");
  m.def("grouped_matmul" QGMM_GROUPED_MATMUL_ARGUMENTS " -> Tensor");
  m.def("grouped_matmul" QGMM_PACKED_GROUPED_MATMUL);
  m.def("explain_grouped_matmul" QGMM_GROUPED_MATMUL_ARGUMENTS " -> str");
  m.def(
      "dynamic_quant(Tensor x, Tensor? smooth_scales=None, Tensor? group_index=None, *, int dst_type=1) "
      "-> (Tensor, Tensor)");
  m.def("pack_weight(Tensor[] weight, *, bool swiglu=False, int certify=-1) -> Tensor");
  m.def("certify_weight(Tensor data, *, int certify=-1) -> Tensor");
  m.def("packed_header(Tensor data) -> Tensor");
  m.def("unpack_weight(Tensor data, int[] packed) -> Tensor");
  m.def("from_fractal_nz(Tensor data, int k, int n, int dtype, int c0=0, bool transposed=False) -> Tensor");
  m.def("to_fractal_nz(Tensor weight, int dtype, int c0=0, bool transposed=False) -> Tensor");
  m.def("no_backward(Tensor like, int operation) -> Tensor");
  m.def("machine() -> str");
  m.def("last_run() -> str");
  m.def("set_reference(bool on) -> ()");
}

// CompositeExplicitAutograd and not CPU: so tensors of other devices and empty lists reach the core and its sentences.
QGMM_LIBRARY_IMPL(QGMM_TORCH_NAMESPACE) {
  m.impl("grouped_matmul_swiglu_quant", TORCH_BOX(&GroupedMatmulSwigluQuant));
  m.impl("grouped_matmul_swiglu_quant.packed", TORCH_BOX(&PackedSwigluQuant));
  m.impl("explain_grouped_matmul_swiglu_quant", TORCH_BOX(&ExplainGroupedMatmulSwigluQuant));
  m.impl("weight_quant_grouped_matmul", TORCH_BOX(&WeightQuantGroupedMatmul));
  m.impl("weight_quant_grouped_matmul.packed", TORCH_BOX(&PackedWeightQuant));
  m.impl("explain_weight_quant_grouped_matmul", TORCH_BOX(&ExplainWeightQuantGroupedMatmul));
  m.impl("grouped_matmul", TORCH_BOX(&GroupedMatmul));
  m.impl("grouped_matmul.packed", TORCH_BOX(&PackedGroupedMatmul));
  m.impl("explain_grouped_matmul", TORCH_BOX(&ExplainGroupedMatmul));
  m.impl("dynamic_quant", TORCH_BOX(&DynamicQuant));
  m.impl("pack_weight", TORCH_BOX(&PackWeight));
  m.impl("certify_weight", TORCH_BOX(&CertifyWeight));
  m.impl("packed_header", TORCH_BOX(&PackedHeader));
  m.impl("unpack_weight", TORCH_BOX(&UnpackWeight));
  m.impl("from_fractal_nz", TORCH_BOX(&FromFractalNz));
  m.impl("to_fractal_nz", TORCH_BOX(&ToFractalNz));
  m.impl("no_backward", TORCH_BOX(&NoBackward));
  m.impl("machine", TORCH_BOX(&Machine));
  m.impl("last_run", TORCH_BOX(&LastRun));
  m.impl("set_reference", TORCH_BOX(&SetReference));
}
