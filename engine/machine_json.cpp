#include <fmt/format.h>

#include <cmath>

#include "core/error.h"
#include "engine/calibrate.h"

namespace headrace::engine {

namespace {

constexpr double kInFlightMost = 256 * kMiB;

[[noreturn]] void bad(const std::string& what, const std::string& field, const char* wanted) {
  throw Error(ErrorCode::kFormat,
              fmt::format("{}: {}: must be {}; see `headrace doctor --json` for an example", what,
                          field, wanted))
      .at_path(what)
      .at_field(field);
}

double positive(const json::object& object, const char* key, const std::string& what,
                const std::string& where, double absent = -1) {
  const json::value* v = object.if_contains(key);
  if (v == nullptr && absent >= 0) return absent;
  if (v == nullptr || !v->is_number()) bad(what, where + key, "a number");
  const double x = v->to_number<double>();
  if (!std::isfinite(x) || x < 0 || (absent < 0 && x == 0)) bad(what, where + key, "more than 0");
  // Within these every time that follows from them is finite.
  constexpr double kLeast = 1e-12, kMost = 1e24;
  if (x > kMost || (x > 0 && x < kLeast)) bad(what, where + key, "from 1e-12 to 1e24");
  return x;
}

const json::object& member(const json::object& object, const char* key, const std::string& what) {
  const json::value* v = object.if_contains(key);
  if (v == nullptr || !v->is_object()) bad(what, key, "an object");
  return v->as_object();
}

Tier tier_of(const json::object& object, const char* key, const std::string& what) {
  const json::value* v = object.if_contains(key);
  const auto tier =
      v && v->is_string() ? parse_tier(std::string_view(v->as_string())) : std::nullopt;
  if (!tier) bad(what, std::string("edges.") + key, "device, host or disk");
  return *tier;
}

}  // namespace

scheduler::Machine machine_from_json(const json::value& value, const std::string& what) {
  if (!value.is_object()) bad(what, "(top)", "an object");
  const json::object& o = value.as_object();
  scheduler::Machine m;
  if (const json::value* name = o.if_contains("name"); name && name->is_string()) {
    m.name = name->as_string();
  }
  const json::object& cpu = member(o, "cpu", what);
  const double threads = positive(cpu, "threads", what, "cpu.", 1);
  if (threads > 1e6) bad(what, "cpu.threads", "at most 1000000");
  m.threads = static_cast<unsigned>(threads);
  const json::object& flops = member(cpu, "matmul_flops", what);
  m.matmul_flops_bf16 = positive(flops, "bfloat16", what, "cpu.matmul_flops.");
  m.matmul_flops_f32 = positive(flops, "float32", what, "cpu.matmul_flops.");
  m.memory_read_bytes_per_s = positive(cpu, "memory_read_Bps", what, "cpu.");
  m.adamw_bytes_per_s = positive(cpu, "adamw_Bps", what, "cpu.", 0);
  const json::value* edges = o.if_contains("edges");
  if (edges == nullptr || !edges->is_array()) bad(what, "edges", "a list");
  for (const json::value& e : edges->as_array()) {
    if (!e.is_object()) bad(what, "edges", "a list of objects");
    const json::object& edge = e.as_object();
    m.rates.push_back({.edge = {tier_of(edge, "from", what), tier_of(edge, "to", what)},
                       .bytes_per_s = positive(edge, "Bps", what, "edges."),
                       .latency_s = positive(edge, "latency_s", what, "edges.", 0)});
  }
  if (m.rate({Tier::kDisk, Tier::kHost}) == nullptr)
    bad(what, "edges", "with one from disk to host");
  if (const json::value* disk = o.if_contains("disk")) {
    if (!disk->is_object()) bad(what, "disk", "an object");
    const double bytes = positive(disk->as_object(), "in_flight_bytes", what, "disk.", 0);
    if (bytes > kInFlightMost) bad(what, "disk.in_flight_bytes", "at most 256 MiB");
    m.disk_in_flight = round_down(static_cast<Bytes>(bytes), kBlock);
  }
  if (const json::value* measured = o.if_contains("measured"); measured && measured->is_object()) {
    const auto text = [&](const char* key) -> std::string {
      const json::value* v = measured->as_object().if_contains(key);
      return v && v->is_string() ? std::string(v->as_string()) : std::string();
    };
    m.measured_date = text("date");
    m.measured_how = text("how");
  }
  return m;
}

scheduler::Machine read_machine(const std::string& path) {
  return machine_from_json(read_json(path), path);
}

json::object machine_to_json(const scheduler::Machine& m, Bytes host_bytes, Bytes disk_bytes) {
  json::array edges;
  for (const scheduler::Rate& r : m.rates) {
    json::array shared;
    const bool disk = r.edge.from == Tier::kDisk || r.edge.to == Tier::kDisk;
    if (disk && m.half_duplex_disk) shared.push_back("disk");
    edges.push_back(json::object{{"from", name_of(r.edge.from)},
                                 {"to", name_of(r.edge.to)},
                                 {"Bps", r.bytes_per_s},
                                 {"latency_s", r.latency_s},
                                 {"shared_with", shared}});
  }
  return {{"name", m.name},
          {"cpu", json::object{{"threads", m.threads},
                               {"matmul_flops", json::object{{"bfloat16", m.matmul_flops_bf16},
                                                             {"float32", m.matmul_flops_f32}}},
                               {"memory_read_Bps", m.memory_read_bytes_per_s},
                               {"adamw_Bps", m.adamw_bytes_per_s}}},
          {"tiers", json::array{json::object{{"name", "host"}, {"capacity_bytes", host_bytes}},
                                json::object{{"name", "disk"}, {"capacity_bytes", disk_bytes}}}},
          {"edges", edges},
          {"disk", json::object{{"in_flight_bytes", m.disk_in_flight}}},
          {"measured", json::object{{"date", m.measured_date}, {"how", m.measured_how}}}};
}

}  // namespace headrace::engine
