// SPDX-License-Identifier: Apache-2.0
// The scratch memory that a Context keeps from call to call.
#include "qgmm/context.h"

#include <cstdlib>
#include <new>

#include "cpu/huge_pages.h"

namespace qgmm {

using cpu::kHugePage;

Context::~Context() { std::free(workspace_); }

void* Context::Workspace(size_t bytes) {
  if (bytes <= workspace_bytes_) return workspace_;
  const bool large = bytes >= 2 * kHugePage;  // 2 MiB pages where the system grants them on request
  const size_t alignment = large ? kHugePage : 64;
  const size_t size = (bytes + alignment - 1) / alignment * alignment;
  std::free(workspace_);
  workspace_ = nullptr;
  workspace_bytes_ = 0;
  workspace_ = std::aligned_alloc(alignment, size);
  if (workspace_ == nullptr) throw std::bad_alloc();
  cpu::AskForHugePages(workspace_, size);
  workspace_bytes_ = size;
  return workspace_;
}

}  // namespace qgmm
