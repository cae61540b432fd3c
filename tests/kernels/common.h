// What the tests of kernels share: seeds, tables, random data, comparison of bits.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "core/half.h"
#include "core/random.h"
#include "kernels/table.h"

namespace headrace::kernels {

inline uint64_t test_seed() {
  const char* text = std::getenv("HEADRACE_TEST_SEED");
  return text != nullptr ? std::strtoull(text, nullptr, 0) : 20240607;
}
inline int test_count(int usual) {
  const char* text = std::getenv("HEADRACE_TEST_COUNT");
  return text != nullptr ? usual * std::atoi(text) : usual;
}

// Every table that this machine runs.
inline std::vector<const Kernels*> runnable_tables() {
  std::vector<const Kernels*> list;
  for (const Kernels* table : tables()) {
    if (supported(*table)) list.push_back(table);
  }
  return list;
}
inline const Kernels& reference() { return kernels_for("reference"); }

inline ThreadPool& pool_of(unsigned threads) {  // 1 to 3
  static ThreadPool pools[] = {ThreadPool(1), ThreadPool(2), ThreadPool(3)};
  return pools[threads - 1];
}

inline std::vector<float> random_floats(Random& random, size_t count, float scale = 1) {
  std::vector<float> values(count);
  for (float& v : values) v = random.normal() * scale;
  return values;
}

// A matrix [n, k] as it lies in a file, and as the float32 values that it means.
struct Matrix {
  DType type;
  uint64_t n, k;
  std::vector<std::byte> bytes;
  std::vector<float> values;
};

inline void set_element(std::byte* bytes, DType type, size_t i, float value) {
  if (type == DType::kF32) {
    std::memcpy(bytes + 4 * i, &value, 4);
  } else {
    const uint16_t bits = type == DType::kBF16 ? f32_to_bf16(value) : f32_to_f16(value);
    std::memcpy(bytes + 2 * i, &bits, 2);
  }
}
inline float get_element(const std::byte* bytes, DType type, size_t i) {
  float value;
  uint16_t bits;
  if (type == DType::kF32) {
    std::memcpy(&value, bytes + 4 * i, 4);
    return value;
  }
  std::memcpy(&bits, bytes + 2 * i, 2);
  return type == DType::kBF16 ? bf16_to_f32(bits) : f16_to_f32(bits);
}

inline Matrix random_matrix(Random& random, DType type, uint64_t n, uint64_t k) {
  Matrix m{type, n, k, std::vector<std::byte>(n * k * size_of(type)), std::vector<float>(n * k)};
  for (size_t i = 0; i < n * k; ++i) {
    set_element(m.bytes.data(), type, i, random.normal());
    m.values[i] = get_element(m.bytes.data(), type, i);
  }
  return m;
}

inline std::vector<std::byte> packed(const Kernels& table, const Matrix& m) {
  std::vector<std::byte> panels((m.n + kPanelRows - 1) / kPanelRows * panel_bytes(m.type, m.k),
                                std::byte{0xff});
  table.pack_panels({.rows = m.bytes.data(),
                     .type = m.type,
                     .k = m.k,
                     .count = static_cast<uint32_t>(m.n),
                     .panels = panels.data()});
  return panels;
}

template <typename T>
bool same_bits(const T* a, const T* b, size_t count) {
  return std::memcmp(a, b, count * sizeof(T)) == 0;
}
template <typename T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && same_bits(a.data(), b.data(), a.size());
}

}  // namespace headrace::kernels
