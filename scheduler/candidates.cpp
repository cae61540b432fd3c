#include "scheduler/candidates.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "core/checked.h"
#include "core/error.h"
#include "scheduler/cost.h"
#include "scheduler/fill.h"
#include "scheduler/kv.h"

namespace headrace::scheduler {

namespace {

constexpr Bytes kTooMuch = std::numeric_limits<Bytes>::max();
constexpr uint32_t kDepthMax = 4096;
constexpr std::array<uint32_t, 6> kDepths = {1, 2, 4, 8, 16, 32};

Bytes plus(Bytes a, Bytes b) { return checked_add(a, b).value_or(kTooMuch); }
Bytes times(Bytes a, Bytes b) { return checked_mul(a, b).value_or(kTooMuch); }

std::vector<uint32_t> rows_to_try(const Workload& w) {
  const uint32_t wanted = std::max(1u, w.rows_wanted);
  std::vector<uint32_t> rows;
  for (uint64_t r = 1; r < wanted; r *= 2) rows.push_back(static_cast<uint32_t>(r));
  rows.push_back(wanted);
  // All sequences in a pass, where that is between two powers.
  const uint32_t together = std::min(w.sequences, wanted);
  if (together > 0 && std::find(rows.begin(), rows.end(), together) == rows.end()) {
    rows.insert(std::lower_bound(rows.begin(), rows.end(), together), together);
  }
  return rows;
}

bool has_prefetch(const Policy& policy) { return policy.name != std::string_view("sync"); }

void check_choices(const Choices& choices) {
  if (choices.policy != "auto" && find_policy(choices.policy) == nullptr) {
    std::string names = "auto";
    for (const Policy& p : policies()) names += fmt::format(", {}", p.name);
    throw Error(
        ErrorCode::kUsage,
        fmt::format("--policy {}: there is no such policy; use one of {}", choices.policy, names))
        .at_field("policy");
  }
  const uint32_t depth = choices.prefetch_depth.value_or(0);
  if (depth > kDepthMax) {
    throw Error(ErrorCode::kUsage,
                fmt::format("--prefetch-depth {}: more than {}; give less", depth, kDepthMax))
        .at_field("prefetch_depth");
  }
  if (depth > 0 && choices.policy == "sync") {
    throw Error(ErrorCode::kUsage,
                fmt::format("--prefetch-depth {}: the policy sync has no prefetch; leave one of "
                            "them out",
                            depth))
        .at_field("prefetch_depth");
  }
}

bool allows(const Choices& choices, const Policy& policy) {
  if (choices.policy != "auto") return choices.policy == policy.name;
  return has_prefetch(policy) || choices.prefetch_depth.value_or(0) == 0;
}

// What is left for weights under `policy`; nullopt when everything else is already too much. A
// device arena takes no more than is of use, all weights or the policy's least; within the host's
// memory it gives way to what the host cannot do without.
std::optional<Room> room_for(const Workload& w, const Inventory& inventory, const Budgets& b,
                             const Choices& choices, const Policy& policy, uint32_t rows_max) {
  const Bytes needs = needs_bytes(w, rows_max);
  if (needs > b.memory) return std::nullopt;
  Room room{.host = b.memory - needs};
  if (!b.device_memory) return room;
  const Room least = policy.least_room(inventory, choices, true);
  room.has_device = true;
  room.device = std::min(round_down(*b.device_memory, kHugePage),
                         std::max(round_up(inventory.all(), kHugePage), least.device));
  if (!b.device_within_memory) return room;
  if (least.host > room.host) return std::nullopt;
  room.device = std::min(room.device, round_down(room.host - least.host, kHugePage));
  room.host -= room.device;
  return room;
}

double seconds(const Machine& m, Edge edge, Bytes bytes, uint64_t operations) {
  const Rate* rate = m.rate(edge);
  if (rate == nullptr || rate->bytes_per_s <= 0) {
    return m.memory_read_bytes_per_s > 0 ? static_cast<double>(bytes) / m.memory_read_bytes_per_s
                                         : 0;
  }
  return static_cast<double>(bytes) / rate->bytes_per_s +
         static_cast<double>(operations) * rate->latency_s;
}

}  // namespace

Bytes activation_bytes(const Workload& w, uint32_t rows_max) {
  const Bytes rows = times(rows_max, w.needs.activation_per_row);
  const Bytes outputs = times(std::min(w.outputs_max, rows_max), w.needs.activation_per_output);
  return plus(w.needs.activation_fixed, plus(rows, outputs));
}

Bytes needs_bytes(const Workload& w, uint32_t rows_max) {
  Bytes sum =
      plus(plus(w.needs.base, w.needs.requests), plus(kv_memory(w.needs), kv_account(w.needs)));
  sum = plus(sum, activation_bytes(w, rows_max));
  return plus(sum, plus(w.needs.workspace, w.needs.io));
}

Passes passes_of(const Workload& w, uint32_t rows_max) {
  const uint32_t rows = std::max(1u, rows_max), sequences = std::max(1u, w.sequences);
  const auto turns = [&](uint64_t n) { return static_cast<double>((n + rows - 1) / rows); };
  Passes out;
  out.prefill = turns(w.prompt_tokens);
  out.prefill_rows = std::max(1u, std::min(rows, w.prompt_tokens));
  out.decode = static_cast<double>(w.generated_tokens) * turns(sequences);
  out.decode *= std::max(1.0, static_cast<double>(w.requests) / sequences);  // as places get free
  return out;
}

namespace {

// What a decision says of bytes: those that a pass moves, whatever its rows, and those that stay.
struct Homes {
  Bytes disk = 0, copied = 0;  // of dense chunks, a pass
  uint64_t disk_ops = 0, copies = 0;
  Bytes kept = 0;       // of all chunks
  Bytes slot = kBlock;  // the largest that streams
};
Homes homes_of(const Workload& w, const Inventory& inventory, const Decision& d) {
  Homes out;
  for (const Item& item : inventory.dense) {
    const Home home = d.home[item.object][item.chunk];
    if (home == Home::kDevice) continue;
    if (home == Home::kDisk) out.disk += item.uses * item.bytes, out.disk_ops += item.uses;
    out.copied += item.uses * item.bytes, out.copies += item.uses;
  }
  for (const ObjectSpec& object : w.objects) {
    for (size_t c = 0; c < object.chunks.size(); ++c) {
      if (d.home[object.id][c] != Home::kDisk) {
        out.kept += object.chunks[c];
      } else {
        out.slot = std::max(out.slot, object.chunks[c]);
      }
    }
  }
  return out;
}

Load load_of(const Workload& w, const Machine& m, const Inventory& inventory, const Decision& d,
             const Homes& homes, bool has_device, uint32_t rows) {
  Bytes disk = homes.disk;
  uint64_t disk_ops = homes.disk_ops;
  double flops = 0, distinct = 0, per_row = 0;  // distinct: experts that a pass picks
  for (const SegmentSpec& s : w.segments) {
    const double n = static_cast<double>(std::max<size_t>(1, s.candidates.size()));
    const double picked = s.kind == SegmentKind::kExperts ? s.choices_per_row : 1.0;
    flops += picked * rows * (s.cost.flops_per_row + s.cost.flops_per_row_context * w.context);
    if (s.kind != SegmentKind::kExperts) continue;
    per_row = std::min(1.0, picked / n);
    distinct += n * picked_by(rows, per_row);
  }
  const double experts = std::max<double>(1.0, static_cast<double>(inventory.experts.size()));
  const auto experts_bytes = static_cast<double>(inventory.experts_bytes);
  Load load;
  const double rate = w.bf16_products ? m.matmul_flops_bf16 : m.matmul_flops_f32;
  const double touched =
      static_cast<double>(inventory.dense_bytes) + distinct / experts * experts_bytes;
  if (m.memory_read_bytes_per_s > 0) load.compute_s = touched / m.memory_read_bytes_per_s;
  if (rate > 0) load.compute_s = overlapped(load.compute_s, flops / rate);
  // Experts come from the pool, or on demand.
  uint32_t slots = 0;
  if (!inventory.experts.empty() && !d.pool_slots.empty()) {
    slots = inventory.embedding_hole_first ? d.pool_slots.back() : d.pool_slots.front();
    const double missed = 1.0 - std::min(1.0, static_cast<double>(slots) / experts);
    const double chunk = std::max<double>(1.0, static_cast<double>(inventory.expert_chunk));
    const PickShares shares = with_locality(w, {distinct / experts, missed}, per_row, rows);
    const double bytes = shares.picked * shares.missed * experts_bytes;
    disk += static_cast<Bytes>(bytes);
    disk_ops += static_cast<uint64_t>(bytes / chunk);
  }
  load.disk_s = seconds(m, {Tier::kDisk, Tier::kHost}, disk, disk_ops);
  if (has_device)
    load.copy_s = seconds(m, {Tier::kHost, Tier::kDevice}, homes.copied, homes.copies);
  return load;
}

// A pass as long as its busiest part, and a share of the rest that shrinks as prefetch goes deeper.
double pass_seconds(const Load& load, uint32_t depth) {
  const double most = std::max({load.disk_s, load.copy_s, load.compute_s});
  const double rest = load.disk_s + load.copy_s + load.compute_s - most;
  return most + rest / (depth + 1);
}

// What a pass adds to the disk's time for keys and values.
double kv_seconds(const Workload& w, const Machine& m, uint32_t sequences, uint32_t rows) {
  if (w.needs.kv_streamed == 0) return 0;
  Plan plan;  // what kv_expected reads of one
  plan.kv_blocks = w.needs.kv_blocks;
  plan.kv.block_bytes = w.needs.kv_layer_block;
  const auto layers = static_cast<uint32_t>(w.needs.kv_block / w.needs.kv_layer_block);
  plan.kv.streamed = spread_layers(layers, w.needs.kv_streamed);
  const KvBytes bytes =
      kv_expected(plan, w, {.rows = rows, .context = w.context, .sequences = sequences});
  const double read = seconds(m, {Tier::kDisk, Tier::kHost}, bytes.read, w.needs.kv_streamed);
  const double write = seconds(m, {Tier::kHost, Tier::kDisk}, bytes.written, w.needs.kv_streamed);
  return m.half_duplex_disk ? read + write : std::max(read, write);
}

void estimate(const Workload& w, const Machine& m, const Inventory& inventory, const Decision& d,
              Candidate& candidate) {
  const Passes passes = passes_of(w, candidate.rows_max);
  const uint32_t together = std::max(1u, std::min(w.sequences, candidate.rows_max));
  const Homes homes = homes_of(w, inventory, d);
  const bool device = candidate.room.has_device;
  Load prompt = load_of(w, m, inventory, d, homes, device, passes.prefill_rows);
  candidate.decode = load_of(w, m, inventory, d, homes, device, together);
  const double kv = kv_seconds(w, m, together, together);
  prompt.disk_s += kv_seconds(w, m, 1, passes.prefill_rows);
  candidate.decode.disk_s += kv;
  candidate.decode.kv_s = kv;
  Load decode = candidate.decode;
  prompt.disk_s *= stream_jitter(m, homes.slot, candidate.depth);
  decode.disk_s *= stream_jitter(m, homes.slot, candidate.depth);
  candidate.estimate_s = seconds(m, {Tier::kDisk, Tier::kHost}, homes.kept, 0) +
                         passes.prefill * pass_seconds(prompt, candidate.depth) +
                         passes.decode * pass_seconds(decode, candidate.depth);
}

}  // namespace

double stream_jitter(const Machine& machine, Bytes slot_bytes, uint32_t depth) {
  constexpr double kLateS = 0.75e-3;
  const Rate* disk = machine.rate({Tier::kDisk, Tier::kHost});
  const double late_bytes = disk == nullptr ? 0 : kLateS * disk->bytes_per_s;
  return 1 + late_bytes / (static_cast<double>(slot_bytes) * (depth + 1));
}

Decision decide(const Workload& workload, const Inventory& inventory, const Candidate& candidate) {
  Choices choices;
  choices.prefetch_depth = candidate.depth;
  std::optional<Decision> out =
      candidate.policy->decide(workload, inventory, candidate.room, choices);
  HEADRACE_ASSERT(out.has_value(), candidate.policy->name);
  out->rows_max = candidate.rows_max;
  return std::move(*out);
}

std::vector<Candidate> all_candidates(const Workload& w, const Inventory& inventory,
                                      const Machine& m, const Budgets& b, const Choices& choices) {
  check_choices(choices);
  const uint32_t together = std::min(w.sequences, std::max(1u, w.rows_wanted));
  std::vector<Candidate> out;
  const auto consider = [&](const Policy& policy, uint32_t rows, uint32_t depth) {
    Choices one = choices;
    one.prefetch_depth = depth;
    const std::optional<Room> room = room_for(w, inventory, b, one, policy, rows);
    if (!room) return false;
    const std::optional<Decision> decision = policy.decide(w, inventory, *room, one);
    if (!decision) return false;
    Candidate& c = out.emplace_back(Candidate{&policy, rows, depth, 0, *room, 0, {}});
    estimate(w, m, inventory, *decision, c);
    return true;
  };
  for (const Policy& policy : policies()) {
    if (!allows(choices, policy)) continue;
    for (uint32_t rows : rows_to_try(w)) {
      if (choices.prefetch_depth || !has_prefetch(policy)) {
        consider(policy, rows, choices.prefetch_depth.value_or(0));
        continue;
      }
      bool any = false;
      for (uint32_t depth : kDepths) any |= consider(policy, rows, depth);
      if (!any) consider(policy, rows, 0);  // where memory is too short for any prefetch
    }
  }
  // Passes that take all sequences come first; fewer rows, in turns, only where those do not fit.
  const auto takes_all = [&](const Candidate& c) { return c.rows_max >= together; };
  if (std::any_of(out.begin(), out.end(), takes_all)) {
    std::erase_if(out, [&](const Candidate& c) { return !takes_all(c); });
  }
  return out;
}

std::optional<Bytes> required_memory(const Workload& w, const Inventory& inventory,
                                     const Budgets& b, const Choices& choices,
                                     const Policy& policy) {
  Choices least = choices;
  least.prefetch_depth = has_prefetch(policy) ? choices.prefetch_depth.value_or(0) : 0;
  const Room room = policy.least_room(inventory, least, b.device_memory.has_value());
  Bytes memory = plus(needs_bytes(w, 1), room.host);
  if (!b.device_memory) return memory;
  if (round_down(*b.device_memory, kHugePage) < room.device) return std::nullopt;
  return b.device_within_memory ? plus(memory, room.device) : memory;
}

void refuse(const Workload& w, const Inventory& inventory, const Budgets& b,
            const Choices& choices) {
  std::optional<Bytes> required;
  Bytes device = kTooMuch;
  for (const Policy& policy : policies()) {
    if (!allows(choices, policy)) continue;
    const std::optional<Bytes> memory = required_memory(w, inventory, b, choices, policy);
    if (memory) required = std::min(required.value_or(kTooMuch), *memory);
    Choices least = choices;
    least.prefetch_depth = choices.prefetch_depth.value_or(0);
    device =
        std::min(device, policy.least_room(inventory, least, b.device_memory.has_value()).device);
  }
  if (!required) {
    throw Error(ErrorCode::kInfeasible,
                fmt::format("--device-memory {}: what must be on the device at once is more; give "
                            "--device-memory {}MiB or more",
                            format_bytes(*b.device_memory), device / kMiB))
        .at_field("device_memory")
        .requiring(device);
  }
  const Bytes kv = kv_memory(w.needs);
  const Bytes activations = activation_bytes(w, 1);
  const Bytes rest = plus(kv_account(w.needs), plus(w.needs.workspace, w.needs.io));
  const Bytes weights = *required - needs_bytes(w, 1);
  const std::pair<Bytes, const char*> parts[] = {
      {plus(w.needs.base, w.needs.requests), "the program"},
      {kv, "KV"},
      {activations, "activations"},
      {rest, "workspace and I/O"},
      {weights, "weights in use at once"}};
  std::string list;
  for (const auto& [bytes, name] : parts) {
    list += fmt::format("{}{} {}", list.empty() ? "" : ", ", name, format_bytes(bytes));
  }
  const auto binding = std::max_element(std::begin(parts), std::end(parts));
  throw Error(
      ErrorCode::kInfeasible,
      fmt::format("--memory {}: too little, most of it for {} ({}); give --memory {}MiB or "
                  "more",
                  format_bytes(b.memory), binding->second, list, (*required + kMiB - 1) / kMiB))
      .at_field("memory")
      .requiring(*required);
}

}  // namespace headrace::scheduler
