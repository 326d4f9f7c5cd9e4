// SPDX-License-Identifier: Apache-2.0
// Which ISAs a run of a test binary tries, and a record of the kernel rows that ran, for the table of ./run test.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "cpu/kernel.h"

namespace qgmm::cpu {

/// The names in QGMM_TEST_EMULATED, "avxvnni,amx": of a binary whose kernels of those ISAs are emulated, instruction by
/// instruction or the whole machine. Empty: nothing is.
inline const std::set<std::string>& EmulatedNames() {
  static const std::set<std::string> names = [] {
    const char* text = std::getenv("QGMM_TEST_EMULATED");
    std::istringstream words(text ? text : "");
    std::set<std::string> found;
    for (std::string word; std::getline(words, word, ',');) found.insert(word);
    return found;
  }();
  return names;
}

/// All that this machine has; where some are emulated those alone, as the others run natively elsewhere.
inline std::vector<Isa> TestedIsas() {
  std::vector<Isa> isas;
  for (const Isa isa : MachineIsas()) {
    if (EmulatedNames().empty() || EmulatedNames().count(Name(isa))) isas.push_back(isa);
  }
  return isas;
}

inline bool IsTested(Isa isa) {
  const std::vector<Isa> isas = TestedIsas();
  return std::find(isas.begin(), isas.end(), isa) != isas.end();
}

/// Notes in the running test's report that a row multiplied something.
inline void RowRan(const std::string& name) {
  static const testing::TestInfo* test = nullptr;
  static std::set<std::string> rows[2];
  const testing::TestInfo* running = testing::UnitTest::GetInstance()->current_test_info();
  if (running != test) {
    test = running;
    for (auto& set : rows) set.clear();
  }
  const bool emulated = EmulatedNames().count(name.substr(0, name.find('_'))) > 0;
  if (!rows[emulated].insert(name).second) return;
  std::string all;
  for (const std::string& row : rows[emulated]) all += (all.empty() ? "" : ",") + row;
  testing::Test::RecordProperty(emulated ? "rows_emulated" : "rows_native", all);
}

}  // namespace qgmm::cpu
