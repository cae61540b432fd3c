#include "scheduler/machine.h"

#include <bit>

#include "core/digest.h"

namespace headrace::scheduler {

const Rate* Machine::rate(Edge edge) const {
  for (const Rate& r : rates) {
    if (r.edge == edge) return &r;
  }
  return nullptr;
}

// Over the figures' bits in a fixed order; names and dates say nothing about what a plan would do.
uint64_t Machine::hash() const {
  std::string bytes;
  const auto add = [&](uint64_t value) {
    for (int shift = 0; shift < 64; shift += 8) bytes += static_cast<char>(value >> shift & 0xff);
  };
  const auto add_real = [&](double value) { add(std::bit_cast<uint64_t>(value)); };
  add(threads);
  for (double v :
       {matmul_flops_f32, matmul_flops_bf16, memory_read_bytes_per_s, adamw_bytes_per_s}) {
    add_real(v);
  }
  add(half_duplex_disk);
  for (const Rate& r : rates) {
    add(static_cast<uint64_t>(r.edge.from) << 8 | static_cast<uint64_t>(r.edge.to));
    add_real(r.bytes_per_s);
    add_real(r.latency_s);
    if (r.own_bytes_per_s != 0) add_real(r.own_bytes_per_s);
  }
  return digest64(bytes);
}

}  // namespace headrace::scheduler
