// SPDX-License-Identifier: Apache-2.0
// The kernels behind the schemas of ops.cpp: each converts, allocates what the arguments claim, and calls the core.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "views.h"

namespace qgmm::door {

using Tensors = std::vector<Tensor>;
using MaybeTensor = std::optional<Tensor>;
using MaybeTensors = std::optional<std::vector<Tensor>>;
using MaybeInts = std::optional<std::vector<int64_t>>;
using MaybeType = std::optional<ScalarType>;

std::tuple<Tensor, Tensor> GroupedMatmulSwigluQuant(
    const Tensor& x, const Tensors& weight, const Tensors& weight_scale, const Tensor& x_scale,
    const Tensor& group_list, const MaybeTensor& smooth_scale, const MaybeTensors& weight_assist_matrix,
    const MaybeTensor& bias, int64_t dequant_mode, MaybeType quant_dtype, int64_t group_list_type,
    double swiglu_limit, const MaybeInts& tuning_config, const MaybeInts& packed, int64_t spelling);
std::string ExplainGroupedMatmulSwigluQuant(
    const Tensor& x, const Tensors& weight, const Tensors& weight_scale, const Tensor& x_scale,
    const Tensor& group_list, const MaybeTensor& smooth_scale, const MaybeTensors& weight_assist_matrix,
    const MaybeTensor& bias, int64_t dequant_mode, MaybeType quant_dtype, int64_t group_list_type,
    double swiglu_limit, const MaybeInts& tuning_config, const MaybeInts& packed, int64_t spelling);

std::tuple<Tensor, Tensor> PackedSwigluQuant(const Tensor& x, const Tensor& data, const Tensor& weight_scale,
                                             const Tensor& x_scale, const Tensor& group_list, int64_t spelling,
                                             int64_t group_list_type, int64_t dequant_mode,
                                             const MaybeTensor& smooth_scale, const MaybeTensor& weight_assist_matrix,
                                             const MaybeTensor& bias, double swiglu_limit);

Tensor WeightQuantGroupedMatmul(const Tensor& x, const Tensor& weight, const Tensor& scale, const MaybeTensor& offset,
                                const MaybeTensor& bias, const MaybeTensor& group_list, int64_t group_list_type,
                                int64_t act_type, int64_t precision, const MaybeInts& packed, int64_t spelling);
std::string ExplainWeightQuantGroupedMatmul(const Tensor& x, const Tensor& weight, const Tensor& scale,
                                            const MaybeTensor& offset, const MaybeTensor& bias,
                                            const MaybeTensor& group_list, int64_t group_list_type, int64_t act_type,
                                            int64_t precision, const MaybeInts& packed, int64_t spelling);
Tensor PackedWeightQuant(const Tensor& x, const Tensor& data, const Tensor& scale, const MaybeTensor& group_list,
                         int64_t spelling, int64_t group_list_type, int64_t act_type, int64_t precision,
                         const MaybeTensor& offset, const MaybeTensor& bias);

Tensor GroupedMatmul(const Tensor& x, const Tensors& weight, const MaybeTensors& weight_scale,
                     const Tensor& group_list, const MaybeTensor& x_scale, const MaybeTensor& bias,
                     const MaybeTensors& weight_assist_matrix, int64_t dequant_mode, int64_t group_list_type,
                     int64_t act_type, MaybeType out_dtype, const MaybeInts& packed, int64_t spelling);
std::string ExplainGroupedMatmul(const Tensor& x, const Tensors& weight, const MaybeTensors& weight_scale,
                                 const Tensor& group_list, const MaybeTensor& x_scale, const MaybeTensor& bias,
                                 const MaybeTensors& weight_assist_matrix, int64_t dequant_mode,
                                 int64_t group_list_type, int64_t act_type, MaybeType out_dtype,
                                 const MaybeInts& packed, int64_t spelling);
Tensor PackedGroupedMatmul(const Tensor& x, const Tensor& data, const Tensor& group_list,
                           const MaybeTensor& weight_scale, const MaybeTensor& x_scale, int64_t group_list_type,
                           int64_t dequant_mode, int64_t act_type, const MaybeTensor& bias,
                           const MaybeTensor& weight_assist_matrix, MaybeType out_dtype);

std::tuple<Tensor, Tensor> DynamicQuant(const Tensor& x, const MaybeTensor& smooth_scales,
                                        const MaybeTensor& group_index, int64_t dst_type);

Tensor PackWeight(const Tensors& weight, bool swiglu, int64_t certify);
Tensor CertifyWeight(const Tensor& data, int64_t certify);
Tensor PackedHeader(const Tensor& data);  // int64 [4]: layout, e, k, n
Tensor UnpackWeight(const Tensor& data, const std::vector<int64_t>& packed);
Tensor FromFractalNz(const Tensor& data, int64_t k, int64_t n, int64_t dtype, int64_t c0, bool transposed);
Tensor ToFractalNz(const Tensor& weight, int64_t dtype, int64_t c0, bool transposed);

/// Raises the sentence of an operation without backward, as RuntimeError; `like` gives the gradient's shape to tracers.
Tensor NoBackward(const Tensor& like, int64_t operation);

std::string Machine();
std::string LastRun();
void SetReference(bool on);

}  // namespace qgmm::door
