// SPDX-License-Identifier: Apache-2.0
// Just enough of a JSON writer for plans and machine reports.
#pragma once

#include <string>
#include <vector>

namespace qgmm::cpu {

class Json {
 public:
  Json& Add(const char* key, const std::string& text) { return Raw(key, Quote(text)); }
  Json& Add(const char* key, const char* text) { return Raw(key, Quote(text)); }
  Json& Add(const char* key, int64_t number) { return Raw(key, std::to_string(number)); }
  Json& Add(const char* key, bool value) { return Raw(key, value ? "true" : "false"); }
  Json& Add(const char* key, const std::vector<std::string>& texts) {
    std::vector<std::string> quoted;
    for (const std::string& text : texts) quoted.push_back(Quote(text));
    return Raw(key, List(quoted));
  }
  Json& Raw(const char* key, const std::string& value) {
    body_ += (body_.empty() ? "" : ", ") + Quote(key) + ": " + value;
    return *this;
  }
  std::string Text() const { return "{" + body_ + "}"; }

  static std::string List(const std::vector<std::string>& values) {
    std::string all;
    for (const std::string& value : values) all += (all.empty() ? "" : ", ") + value;
    return "[" + all + "]";
  }
  static std::string Quote(const std::string& text) {
    std::string out = "\"";
    for (char c : text) {
      if (c == '"' || c == '\\') out += '\\';
      out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
    }
    return out += '"';
  }

 private:
  std::string body_;
};

}  // namespace qgmm::cpu
