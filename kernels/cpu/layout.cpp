// Moving weights into panels and rows out of them: the same for every ISA, because it is bounded by
// memory and, where a model is packed, by the disk.
#include "kernels/cpu/layout.h"

#include <cstring>

#include "core/half.h"

namespace headrace::kernels {
namespace {

// Columns come in units of four bytes: one float32, or two of a 16-bit type.
void pack_full_panel(const std::byte* rows, Bytes row_bytes, std::byte* panel) {
  constexpr Bytes kUnit = 4;
  for (Bytes at = 0; at + kUnit <= row_bytes; at += kUnit) {
    uint32_t line[kPanelRows];
    for (uint32_t lane = 0; lane < kPanelRows; ++lane) {
      std::memcpy(&line[lane], rows + lane * row_bytes + at, kUnit);
    }
    std::memcpy(panel + at * kPanelRows, line, sizeof line);
  }
  if (const Bytes at = row_bytes / kUnit * kUnit; at != row_bytes) {  // an odd 16-bit column
    uint32_t line[kPanelRows] = {};
    for (uint32_t lane = 0; lane < kPanelRows; ++lane) {
      std::memcpy(&line[lane], rows + lane * row_bytes + at, row_bytes - at);
    }
    std::memcpy(panel + at * kPanelRows, line, sizeof line);
  }
}

void pack_part_panel(const std::byte* rows, Bytes row_bytes, uint32_t count, std::byte* panel,
                     Bytes panel_size) {
  std::memset(panel, 0, panel_size);
  for (uint32_t lane = 0; lane < count; ++lane) {
    for (Bytes at = 0; at < row_bytes; at += 4) {
      const Bytes bytes = row_bytes - at < 4 ? row_bytes - at : 4;
      std::memcpy(panel + at * kPanelRows + lane * 4, rows + lane * row_bytes + at, bytes);
    }
  }
}

}  // namespace

void pack_panels(const PackPanelsArgs& a) {
  const Bytes row_bytes = a.k * (a.type == DType::kF32 ? 4 : 2);
  const Bytes panel_size = panel_bytes(a.type, a.k);
  for (uint32_t row = 0; row < a.count; row += kPanelRows) {
    const std::byte* rows = a.rows + row * row_bytes;
    std::byte* panel = a.panels + row / kPanelRows * panel_size;
    if (a.count - row >= kPanelRows) {
      pack_full_panel(rows, row_bytes, panel);
    } else {
      pack_part_panel(rows, row_bytes, a.count - row, panel, panel_size);
    }
  }
}

void unpack_row(const UnpackRowArgs& a) {
  for (uint64_t k = 0; k < a.k; ++k) {
    if (a.type == DType::kF32) {
      std::memcpy(a.out + k, a.panels + (k * kPanelRows + a.lane) * 4, 4);
      continue;
    }
    uint16_t bits;
    std::memcpy(&bits, a.panels + ((k / 2 * kPanelRows + a.lane) * 2 + k % 2) * 2, 2);
    a.out[k] = a.type == DType::kBF16 ? bf16_to_f32(bits) : f16_to_f32(bits);
  }
}

}  // namespace headrace::kernels
