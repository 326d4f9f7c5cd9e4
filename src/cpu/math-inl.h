// SPDX-License-Identifier: Apache-2.0
// Exp, Silu and the activations of docs/operators.md, section 2, over one ISA's vocabulary: IEEE operations only, so the
// same bits on all of them (checked by a checksum over all 2^32 inputs).
#pragma once

#include <cstdint>

#include "problem.h"

namespace qgmm::cpu {
namespace {

/// 0.8713 ulp at most; overflow and gradual underflow come from the two scaling factors, without a branch.
template <class V>
inline typename V::F Exp(typename V::F t) {
  using F = typename V::F;
  using I = typename V::I;
  t = V::Min(t, V::Set(0x1.64p+6f));
  t = V::Max(t, V::Set(-0x1.ap+6f));
  const F big = V::Fma(t, V::Set(0x1.715476p+0f), V::Set(0x1.8p+23f));
  const F whole = V::Sub(big, V::Set(0x1.8p+23f));
  F r = V::Fma(whole, V::Set(-0x1.62e43p-1f), t);
  r = V::Fma(whole, V::Set(0x1.05c61p-29f), r);
  F p = V::Fma(V::Set(0x1.6adbdap-10f), r, V::Set(0x1.1242e2p-7f));
  p = V::Fma(p, r, V::Set(0x1.55571ap-5f));
  p = V::Fma(p, r, V::Set(0x1.555482p-3f));
  p = V::Fma(p, r, V::Set(0x1p-1f));
  p = V::Fma(p, r, V::Set(0x1p+0f));
  p = V::Fma(p, r, V::Set(0x1p+0f));
  if constexpr (requires { V::Scale(p, whole); }) return V::Scale(p, whole);
  const I i = V::SubInt(V::Bits(big), V::SetInt(0x4B400000));
  const I a = V::template ShiftRight<1>(i);
  const I bias = V::SetInt(127);
  const F first = V::FromBits(V::template ShiftLeft<23>(V::AddInt(a, bias)));
  const F second = V::FromBits(V::template ShiftLeft<23>(V::AddInt(V::SubInt(i, a), bias)));
  return V::Mul(V::Mul(p, first), second);
}

template <class V>
inline typename V::F Negate(typename V::F v) {
  return V::FromBits(V::AddInt(V::Bits(v), V::SetInt(INT32_MIN)));  // flips the sign bit: adding it wraps
}

template <class V>
inline typename V::F Silu(typename V::F v) {
  return V::Div(v, V::Add(V::Set(1.0f), Exp<V>(Negate<V>(v))));
}

template <class V>
inline typename V::F Activate(Activation activation, typename V::F z) {
  const typename V::F one = V::Set(1.0f);
  switch (activation) {
    case Activation::kNone: return z;
    case Activation::kRelu: return V::Select(V::IsNegative(z), V::Set(0.0f), z);
    case Activation::kSilu: return Silu<V>(z);
    case Activation::kFastGelu: return V::Div(z, V::Add(one, Exp<V>(V::Mul(z, V::Set(-0x1.b3b646p+0f)))));
    case Activation::kGeluTanh: {
      const auto slope = V::Fma(V::Mul(z, z), V::Set(-0x1.2444f2p-4f), V::Set(-0x1.988454p+0f));
      return V::Div(z, V::Add(one, Exp<V>(V::Mul(z, slope))));
    }
  }
  return z;
}

/// The NaN that is stored, whatever produced it.
template <class V>
inline typename V::F CanonicalNan(typename V::F v) {
  return V::Select(V::IsNan(v), V::FromBits(V::SetInt(0x7FC00000)), v);
}

}  // namespace
}  // namespace qgmm::cpu
