// SPDX-License-Identifier: Apache-2.0
// Whole stacks, on all threads: packed, or given certificates and relieved of them.
#include "cpu/pack.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "cpu/backend.h"
#include "cpu/caches.h"
#include "cpu/certify.h"
#include "cpu/huge_pages.h"
#include "cpu/numa.h"
#include "cpu/team.h"

namespace qgmm::cpu {
namespace {

// Panels packed together: wide spans read whole pages of [k, n], whose rows are pages apart.
constexpr int64_t kMostPanels = 256;
constexpr int kSpansPerWorker = 4;

/// Adds modulo 2^32: sums that come from a file may be anything.
void AddTo(int32_t* sum, int value) { *sum = static_cast<int32_t>(static_cast<uint32_t>(*sum) + static_cast<uint32_t>(value)); }

/// Where panels go, their certificates and column sums.
class Finisher {
 public:
  /// `stream`: lines leave around the caches.
  Finisher(const PackedHeader& header, const LineMakers& makers, bool stream, uint8_t* out)
      : header_(header), makers_(makers), stream_(stream), panel_bytes_(PanelBytes(header.dtype(), header.k)), out_(out) {}

  /// Panels [first_panel, first_panel + panels) of an expert, all their lines.
  PackSpan Span(int64_t expert, int64_t first_panel, int64_t panels) {
    first_ = expert * 2 * Pairs(header_.n) + first_panel;
    panels_ = panels;
    sums_.assign(static_cast<size_t>(panels * kPanelColumns), 0);
    if (header_.residual_capacity > 0) certifiers_.resize(static_cast<size_t>(std::max<int64_t>(panels, certifiers_.size())));
    for (int64_t p = 0; p < panels && !certifiers_.empty(); ++p) {
      certifiers_[p].Start(PlaceOf(p), header_.residual_capacity, makers_.find_broken);
    }
    return {expert, first_panel, panels, 0, panel_bytes_ / kLineBytes, PlaceOf(0), panel_bytes_, sums_.data(), stream_,
            certifiers_.empty() ? nullptr : certifiers_.data()};
  }

  /// What belongs to the span's panels beside their lines.
  void Finish() {
    for (int64_t p = 0; p < panels_; ++p) {
      int32_t* const sums = sums_.data() + p * kPanelColumns;
      if (!certifiers_.empty()) FinishCertificate(certifiers_[p], first_ + p, sums);
      std::memcpy(out_ + header_.column_sums_offset() + (first_ + p) * kPanelColumns * 4, sums, kPanelColumns * 4);
    }
  }

 private:
  uint8_t* PlaceOf(int64_t p) const { return out_ + kHeaderBytes + (first_ + p) * panel_bytes_; }

  void FinishCertificate(const PanelCertifier& certifier, int64_t index, int32_t* sums) {
    const std::vector<uint32_t>& residuals = certifier.residuals();
    for (const uint32_t residual : residuals) AddTo(&sums[ResidualColumn(residual)], -ResidualValue(residual));  // of the bytes
    const uint32_t words[2] = {static_cast<uint32_t>(certifier.certificate()), static_cast<uint32_t>(residuals.size())};
    std::memcpy(out_ + header_.certificates_offset() + index * 8, words, sizeof(words));
    const size_t bytes = residuals.size() * 4, all = static_cast<size_t>(header_.residual_capacity) * 4;
    uint8_t* const list = out_ + header_.residuals_offset() + static_cast<size_t>(index) * all;
    if (bytes > 0) std::memcpy(list, residuals.data(), bytes);
    std::memset(list + bytes, 0, all - bytes);  // every byte of the output is written
  }

  const PackedHeader& header_;
  const LineMakers& makers_;
  const bool stream_;
  const int64_t panel_bytes_;
  uint8_t* const out_;
  int64_t first_ = 0, panels_ = 0;  // of the span: the first one's number in the stack
  std::vector<int32_t> sums_;
  std::vector<PanelCertifier> certifiers_;
};

/// What one worker packs: spans [begin, end), counted expert by expert, of a node's panels. Memory belongs to the node that
/// first writes it, so this is where packed weights come to lie.
struct Part {
  int64_t first_panel, panels, spans, begin, end;  // panels of every expert, spans of `wide` panels each

  Part(int worker, int workers, int nodes, int64_t experts, int64_t pairs, int64_t wide) {
    const int node = NodeOfWorker(worker, workers, nodes), first = FirstWorker(node, workers, nodes);
    const int count = FirstWorker(node + 1, workers, nodes) - first;
    first_panel = 2 * FirstPair(node, pairs, nodes);
    panels = 2 * FirstPair(node + 1, pairs, nodes) - first_panel;
    spans = (panels + wide - 1) / wide;
    begin = experts * spans * (worker - first) / count;
    end = experts * spans * (worker - first + 1) / count;
  }
};

/// The span's only panel, from packed weights.
void CertifyPanel(const PackedWeight& weight, const PanelPromise& promise, const PackSpan& span, const LineMakers& makers) {
  const PackedPanels panels(weight);
  const uint8_t* const panel = panels.Lines(span.expert, span.first_panel);
  std::memcpy(span.sums, panels.ColumnSums(span.expert, span.first_panel), kPanelColumns * 4);
  for (int r = 0; r < promise.count; ++r) AddTo(&span.sums[ResidualColumn(promise.At(r))], ResidualValue(promise.At(r)));
  alignas(64) uint8_t stretch[kMaxLines * kLineBytes];
  for (int64_t line = 0; line < span.lines; line += kMaxLines) {
    const int64_t lines = std::min<int64_t>(kMaxLines, span.lines - line);
    std::memcpy(stretch, panel + line * kLineBytes, static_cast<size_t>(lines * kLineBytes));
    RestoreLines(promise, 4 * line, lines, stretch);
    PassOn(span, 0, line, lines, stretch, makers);
  }
}

}  // namespace

bool Streams(int64_t bytes, const void* out) {
  // Of machines that do not tell their L3; and of those that tell a large one, of which a few cores have little: two CPUs of a
  // Granite Rapids with 480 MiB, which read half of them as slowly as memory, pack 80 MB around the caches 1.4 to 2.8 x as fast.
  constexpr int64_t kLeast = 8 << 20, kMost = 32 << 20;
  return reinterpret_cast<uintptr_t>(out) % 32 == 0 && bytes > std::clamp(DetectCaches().l3, kLeast, kMost);
}

int64_t PackedBytes(const Weights& w, int64_t residual_capacity) {
  const Layout layout = w.dtype == DType::kInt4 ? Layout::kCpuInt4 : Layout::kCpuInt8;
  return MakeHeader(layout, w.e, w.k, w.n, residual_capacity).bytes;
}

PackedWeight Pack(const Weights& w, int64_t residual_capacity, uint8_t* out, Context& context) {
  return Pack(w, residual_capacity, out, context, MachineTopology());
}

PackedWeight Pack(const Weights& w, int64_t residual_capacity, uint8_t* out, Context& context,
                  const Topology& topology) {
  const Layout layout = w.dtype == DType::kInt4 ? (w.paired ? Layout::kCpuInt4Paired : Layout::kCpuInt4)
                                                : (w.paired ? Layout::kCpuInt8Paired : Layout::kCpuInt8);
  const PackedHeader header = MakeHeader(layout, w.e, w.k, w.n, residual_capacity);
  AskForHugePages(out, static_cast<size_t>(header.bytes));
  std::memcpy(out, &header, sizeof(header));
  const int64_t panels = 2 * Pairs(w.n);
  const LineMakers& makers = StagesFor(ChosenIsa(context.max_isa)).lines;
  const bool stream = Streams(header.bytes, out);  // if memory is where it ends
  const int team = WorkersFor(context, nullptr);
  const int64_t together = ExpertsTogether(w), sets = (w.e + together - 1) / together;
  const int64_t each = w.e * panels / (kSpansPerWorker * team), most = together > 1 ? PanelsTogether(together) : kMostPanels;
  const int64_t wide = std::clamp<int64_t>(each / kSpanStep * kSpanStep, kSpanStep, most);
  const int workers = static_cast<int>(std::min<int64_t>(team, sets * ((panels + wide - 1) / wide)));
  const int nodes = NodesFor(topology.nodes, workers, panels / 2);
  Slots slots(workers, nodes);
  ParallelFor(context, workers, [&](int index) {
    const Part part(slots.Claim(index, topology), workers, nodes, sets, panels / 2, wide);
    std::vector<Finisher> finishers(static_cast<size_t>(together), Finisher(header, makers, stream, out));
    std::vector<PackSpan> spans;
    for (int64_t i = part.begin; i < part.end; ++i) {
      const int64_t expert = i / part.spans * together, within = i % part.spans * wide;
      const int64_t count = std::min(wide, part.panels - within), end = std::min(w.e, expert + together);
      spans.clear();
      for (int64_t x = expert; x < end; ++x) spans.push_back(finishers[x - expert].Span(x, part.first_panel + within, count));
      PackExperts(w, spans, makers);
      for (int64_t x = expert; x < end; ++x) finishers[x - expert].Finish();
    }
    if (stream && makers.drain) makers.drain();
  });
  return PackedWeight{out, header.bytes, layout, w.e, w.k, w.n, Device{}};
}

int64_t CertifiedBytes(const PackedWeight& weight, int64_t residual_capacity) {
  return MakeHeader(weight.layout, weight.e, weight.k, weight.n, residual_capacity).bytes;
}

PackedWeight Certify(const PackedWeight& weight, int64_t residual_capacity, uint8_t* out, Context& context) {
  return Certify(weight, residual_capacity, out, context, MachineTopology());
}

PackedWeight Certify(const PackedWeight& weight, int64_t residual_capacity, uint8_t* out, Context& context,
                     const Topology& topology) {
  const PackedHeader header = MakeHeader(weight.layout, weight.e, weight.k, weight.n, residual_capacity);
  AskForHugePages(out, static_cast<size_t>(header.bytes));
  std::memcpy(out, &header, sizeof(header));
  const int64_t panels = 2 * Pairs(weight.n), all = weight.e * panels;
  const Promises promises(weight);
  const LineMakers& makers = StagesFor(ChosenIsa(context.max_isa)).lines;
  const bool stream = Streams(header.bytes, out);
  const int workers = static_cast<int>(std::min<int64_t>(WorkersFor(context, nullptr), all));
  const int nodes = NodesFor(topology.nodes, workers, panels / 2);
  Slots slots(workers, nodes);
  ParallelFor(context, workers, [&](int index) {
    const Part part(slots.Claim(index, topology), workers, nodes, weight.e, panels / 2, 1);
    Finisher finisher(header, makers, stream, out);
    for (int64_t i = part.begin; i < part.end; ++i) {
      const int64_t expert = i / part.spans, first = part.first_panel + i % part.spans;
      CertifyPanel(weight, promises.Of(expert, first), finisher.Span(expert, first, 1), makers);
      finisher.Finish();
    }
    if (stream && makers.drain) makers.drain();
  });
  return PackedWeight{out, header.bytes, weight.layout, weight.e, weight.k, weight.n, Device{}};
}

}  // namespace qgmm::cpu
