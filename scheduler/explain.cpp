#include "scheduler/explain.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string_view>

#include "core/error.h"
#include "scheduler/bound.h"
#include "scheduler/fill.h"
#include "scheduler/kv.h"
#include "scheduler/search.h"
#include "scheduler/simulate.h"

namespace headrace::scheduler {
namespace {

std::string seconds_text(double s) {
  if (s >= 1) return fmt::format("{:.3g} s", s);
  if (s >= 1e-3) return fmt::format("{:.3g} ms", s * 1e3);
  return fmt::format("{:.3g} us", s * 1e6);
}

double percent(Bytes part, Bytes whole) {
  return whole == 0 ? 100.0 : 100.0 * static_cast<double>(part) / static_cast<double>(whole);
}

PassRows decode_rows(const Plan& plan, const Workload& workload) {
  return {plan.sequences, workload.context, std::min(plan.sequences, plan.outputs_max)};
}

// What one settled pass takes of each lane: the difference that one pass more makes.
struct PassTimes {
  std::array<double, kLanes> busy_s{};
  std::vector<Stall> stalls;
};

PassTimes pass_times(const Plan& plan, const Workload& workload, const Machine& machine) {
  const PassRows pass = decode_rows(plan, workload);
  const Timeline less = simulate(plan, workload, machine, {pass, pass, pass});
  const Timeline more = simulate(plan, workload, machine, {pass, pass, pass, pass});
  PassTimes times;
  for (size_t lane = 0; lane < kLanes; ++lane) {
    times.busy_s[lane] = std::max(0.0, more.busy_s[lane] - less.busy_s[lane]);
  }
  for (const Stall& stall : more.stalls) {
    double before = 0;
    for (const Stall& other : less.stalls) {
      if (other.cause == stall.cause) before = other.seconds;
    }
    // Sums of many doubles: a difference below a nanosecond is rounding.
    if (stall.seconds - before > 1e-9) {
      times.stalls.push_back({stall.cause, stall.seconds - before});
    }
  }
  return times;
}

// Seconds of products that one more row of a pass adds.
double product_s_per_row(const Workload& workload, const Machine& machine) {
  const double rate = workload.bf16_products ? machine.matmul_flops_bf16 : machine.matmul_flops_f32;
  double flops = 0;
  for (const SegmentSpec& segment : workload.segments) {
    const double choices = segment.kind == SegmentKind::kExperts ? segment.choices_per_row : 1;
    flops += segment.cost.flops_per_row * choices;
  }
  return rate > 0 ? flops / rate : 0;
}

// What the bytes that stay are, by what reads them.
enum class Group : uint8_t { kSmall, kDense, kExperts, kEmbedding, kUnused };
constexpr size_t kGroups = 5;

std::vector<Group> groups_of(const Workload& workload) {
  std::vector<Group> groups(workload.objects.size(), Group::kUnused);
  // Later rules win: a tied embedding is dense, for the head walks all of it.
  const auto give = [&](SegmentKind kind, Group group) {
    for (const SegmentSpec& segment : workload.segments) {
      if (segment.kind != kind) continue;
      for (ObjectId object : segment.candidates) groups.at(object) = group;
      for (ObjectId object : segment.weights) groups.at(object) = group;
    }
  };
  give(SegmentKind::kEmbed, Group::kEmbedding);
  give(SegmentKind::kExperts, Group::kExperts);
  give(SegmentKind::kDense, Group::kDense);
  give(SegmentKind::kRoute, Group::kSmall);
  for (const ObjectSpec& object : workload.objects) {
    if (object.always_resident) groups[object.id] = Group::kSmall;
  }
  return groups;
}

class Explanation {
 public:
  Explanation(const Plan& plan, const Workload& workload, const Machine& machine,
              const Budgets& budgets)
      : plan_(plan), workload_(workload), machine_(machine), budgets_(budgets) {}

  std::string text() {
    const bool has_device = plan_.arena_bytes[0] > 0;
    line("plan",
         fmt::format("{} for {}: {} of weights in {} of memory, {} row{} a pass", plan_.policy,
                     plan_.model, format_bytes(plan_.weights_bytes), format_bytes(plan_.budget),
                     plan_.sequences, plan_.sequences == 1 ? "" : "s"));
    memory();
    stays(has_device ? Tier::kDevice : Tier::kHost, has_device ? "stays on the device" : "stays");
    if (has_device) stays(Tier::kHost, "stays on the host");
    streams();
    bytes();
    binds();
    more();
    for (const Alternative& other : plan_.alternatives) lost(other);
    return std::move(text_);
  }

 private:
  void line(std::string_view name, const std::string& what) {
    text_ += fmt::format("{:<20} {}\n", name, what);
  }

  void memory() {
    const MemorySplit& split = plan_.memory;
    const std::pair<const char*, Bytes> parts[] = {{"base", split.base},
                                                   {"resident weights", split.resident_weights},
                                                   {"stream ring", split.stream_ring},
                                                   {"kv", split.kv},
                                                   {"activations", split.activations},
                                                   {"gradients", split.gradients},
                                                   {"optimizer", split.optimizer},
                                                   {"workspace", split.workspace},
                                                   {"io", split.io},
                                                   {"slack", split.slack}};
    std::string list;
    for (const auto& [name, size] : parts) {
      if (size == 0) continue;
      list += fmt::format("{}{} {}", list.empty() ? "" : ", ", name, format_bytes(size));
    }
    line("memory", list);
  }

  void stays(Tier tier, const char* name) {
    const std::vector<Group> groups = groups_of(workload_);
    Bytes here[kGroups] = {}, all = 0;
    for (const Resident& resident : plan_.residents) {
      if (resident.tier != tier) continue;
      const Bytes size = workload_.objects.at(resident.object).chunks.at(resident.chunk);
      here[static_cast<size_t>(groups[resident.object])] += size;
      all += size;
    }
    if (all == 0) return line(name, "nothing");
    constexpr const char* kReasons[kGroups] = {
        "of norms, biases and routers, too small to be worth moving",
        ("of dense chunks, spread over the pass: each is read once a pass, so a byte that stays "
         "saves a byte a pass, whichever it is"),
        "of routed experts, after all dense chunks: a pass reads only some of them",
        "of the embedding, after all dense chunks: a pass reads only its tokens' rows",
        "that no pass reads"};
    std::string list;
    for (size_t g = 0; g < kGroups; ++g) {
      if (here[g] == 0) continue;
      list += fmt::format("{}{} {}", list.empty() ? "" : "; ", format_bytes(here[g]), kReasons[g]);
    }
    line(name, fmt::format("{:.0f} % of the weights: {}", percent(all, plan_.weights_bytes), list));
  }

  void streams() {
    if (plan_.bytes_most == 0) return line("streams", "nothing: every weight stays");
    std::string list;
    const auto add = [&](const std::string& what) { list += (list.empty() ? "" : "; ") + what; };
    Bytes walked = 0;
    for (const ByteRow& row : bytes_of(plan_.steady)) walked += row.bytes;
    if (walked > 0) {
      add(fmt::format("{} of dense chunks a pass, {} chunk{} ahead of the compute",
                      format_bytes(walked), plan_.prefetch_depth,
                      plan_.prefetch_depth == 1 ? "" : "s"));
    }
    for (const Ring& ring : plan_.rings) {
      add(fmt::format("a ring of {} x {} on the {}", ring.slots, format_bytes(ring.slot_bytes),
                      name_of(ring.tier)));
    }
    for (const Pool& pool : plan_.pools) {
      add(fmt::format("what the data choose, through {} x {} on the {}", pool.slots,
                      format_bytes(pool.slot_bytes), name_of(pool.tier)));
    }
    if (plan_.kv.slots > 0) add(keys_and_values());
    if (const auto rate = expected_hit_rate(plan_, workload_, plan_.sequences)) {
      add(fmt::format("{:.1f} % of the experts that a pass wants are expected to be there",
                      *rate * 100));
    }
    line("streams", list);
  }

  std::string keys_and_values() const {
    const KvBytes bytes =
        kv_expected(plan_, workload_, {.rows = plan_.sequences, .context = workload_.context});
    return fmt::format(
        "keys and values of {} of {} layers through {} slot{}: {} read and {} written a pass",
        plan_.kv.streamed.size(), plan_.kv.layers, plan_.kv.slots, plan_.kv.slots == 1 ? "" : "s",
        format_bytes(bytes.read), format_bytes(bytes.written));
  }

  void bytes() {
    if (plan_.bytes_most == 0) return line("bytes", "moves nothing, and no schedule moves less");
    std::string list;
    Bytes from_host = 0;
    for (const ByteRow& row : bytes_of(plan_.steady)) {
      if (row.edge.from == Tier::kHost) from_host += row.bytes;
    }
    // With a device, part of it comes from the host's memory; the bound is of what the disk gives.
    if (from_host > 0) {
      list += fmt::format(", {} of it from the host to the device", format_bytes(from_host));
    }
    if (plan_.bytes_least != plan_.bytes_most) {
      list += fmt::format(", {} to {} as the data choose", format_bytes(plan_.bytes_least),
                          format_bytes(plan_.bytes_most));
    }
    const std::string moves = fmt::format("moves {} a pass{}; ", format_bytes(plan_.bytes), list);
    if (plan_.bound_bytes == 0) {
      return line("bytes", moves + "all that every pass reads would fit into this budget");
    }
    const Bytes from_disk = plan_.bytes - std::min(plan_.bytes, from_host);
    line("bytes",
         fmt::format("{}no schedule within this budget moves less than {}{} ({:.1f} % "
                     "above that)",
                     moves, format_bytes(plan_.bound_bytes), from_host > 0 ? " from disk" : "",
                     std::max(0.0, percent(from_disk, plan_.bound_bytes) - 100)));
  }

  // Within compute, reading weights from memory and products overlap, so the larger is the reason,
  // unless most of it is neither.
  const char* compute_name(double busy_s) const {
    const double products = product_s_per_row(workload_, machine_) * plan_.sequences;
    double read = 0;
    for (const Use& use : plan_.steady.uses) {
      read += static_cast<double>(workload_.objects.at(use.object).chunks.at(use.chunk));
    }
    read /= machine_.memory_read_bytes_per_s;
    if (busy_s > 2 * std::max(products, read)) return "attention";
    return products > read ? "compute" : "memory read";
  }

  void binds() {
    const PassTimes times = pass_times(plan_, workload_, machine_);
    const char* names[kLanes] = {compute_name(times.busy_s[static_cast<size_t>(Lane::kCompute)]),
                                 "disk read",
                                 "disk write",
                                 "copy to the device",
                                 "copy to the host",
                                 "update",
                                 "link"};
    size_t most = 0;
    for (size_t lane = 1; lane < kLanes; ++lane) {
      if (times.busy_s[lane] > times.busy_s[most]) most = lane;
    }
    std::string others;
    for (size_t lane = 0; lane < kLanes; ++lane) {
      if (lane == most || times.busy_s[lane] <= 0) continue;
      others += fmt::format(", {} {}", names[lane], seconds_text(times.busy_s[lane]));
    }
    std::string waits;
    for (const Stall& stall : times.stalls) {
      waits += fmt::format("; compute waits {} for {}", seconds_text(stall.seconds), stall.cause);
    }
    line("binds",
         fmt::format("{}: {} of a pass of {}{}{}", names[most], seconds_text(times.busy_s[most]),
                     seconds_text(plan_.predicted_s), others, waits));
    const double least =
        bound_seconds(workload_, machine_, plan_.bound_bytes, std::max(1u, plan_.sequences));
    line("", fmt::format("no schedule within this budget takes less than {} a pass",
                         seconds_text(least)));
    const double row = product_s_per_row(workload_, machine_);
    if (most != static_cast<size_t>(Lane::kCompute) && row > 0) {
      line("", fmt::format("from about {:.0f} rows a pass on, the products hide it",
                           std::ceil(times.busy_s[most] / row)));
    }
  }

  // What the user pinned is not known here: where a free search decides otherwise, the plan's own
  // policy and depth are held, so that the difference is that of the memory alone.
  Choices choices() const {
    const Plan free = search(workload_, machine_, budgets_, {});
    Choices held;
    if (free.policy != plan_.policy) held.policy = plan_.policy;
    if (free.policy != plan_.policy || free.prefetch_depth != plan_.prefetch_depth) {
      held.prefetch_depth = plan_.prefetch_depth;
    }
    return held;
  }

  void more() {
    if (plan_.bytes_most == 0) return line("1 GiB more", "buys nothing: every weight stays");
    Budgets larger = budgets_;
    larger.memory += kGiB;
    replan("1 GiB more", larger);
    if (!budgets_.device_memory) return;
    larger = budgets_;
    *larger.device_memory += kGiB;
    if (larger.device_within_memory) larger.memory += kGiB;
    replan("1 GiB more of device", larger);
  }

  void replan(std::string_view name, const Budgets& larger) {
    try {
      const Plan other = search(workload_, machine_, larger, choices());
      if (other.bytes >= plan_.bytes && other.predicted_s >= plan_.predicted_s) {
        return line(name, "buys nothing for a pass of this size");
      }
      line(name, fmt::format("buys {} a pass instead of {}, {} instead of {} ({})",
                             format_bytes(other.bytes), format_bytes(plan_.bytes),
                             seconds_text(other.predicted_s), seconds_text(plan_.predicted_s),
                             other.policy));
    } catch (const Error& error) {
      // A plan that was read from a file may stand beside budgets it was not made for.
      if (error.code() != ErrorCode::kInfeasible) throw;
      line(name, std::string("cannot be planned: ") + error.what());
    }
  }

  void lost(const Alternative& other) {
    std::string what = other.why;
    if (other.required_bytes > 0) {
      what += fmt::format("; needs {}", format_bytes(other.required_bytes));
    } else if (other.predicted_s > 0) {
      what += fmt::format("; {} and {} a pass, {} ahead", format_bytes(other.bytes),
                          seconds_text(other.predicted_s), other.prefetch_depth);
    }
    line("lost: " + other.policy, what);
  }

  const Plan& plan_;
  const Workload& workload_;
  const Machine& machine_;
  const Budgets& budgets_;
  std::string text_;
};

}  // namespace

std::string explain(const Plan& plan, const Workload& workload, const Machine& machine,
                    const Budgets& budgets) {
  return Explanation(plan, workload, machine, budgets).text();
}

}  // namespace headrace::scheduler
