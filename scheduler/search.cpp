#include "scheduler/search.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <set>
#include <tuple>

#include "core/digest.h"
#include "core/error.h"
#include "scheduler/bound.h"
#include "scheduler/candidates.h"
#include "scheduler/kv.h"
#include "scheduler/packing.h"
#include "scheduler/policy.h"
#include "scheduler/shapes.h"
#include "scheduler/simulate.h"
#include "scheduler/verify.h"

namespace headrace::scheduler {

uint64_t workload_hash(const Workload& workload) {
  std::string bytes;
  const auto add = [&](uint64_t value) {
    for (int shift = 0; shift < 64; shift += 8) bytes += static_cast<char>(value >> shift & 0xff);
  };
  const auto add_text = [&](const std::string& text) { add(text.size()), bytes += text; };
  add(workload.objects.size());
  for (const ObjectSpec& object : workload.objects) {
    add(object.id);
    add(static_cast<uint64_t>(object.kind) << 1 | object.always_resident);
    add_text(object.name);
    add(object.chunks.size());
    for (Bytes chunk : object.chunks) add(chunk);
  }
  // Nothing where chunks are read as they are: the hash of such a model stays what it was.
  for (const std::vector<Bytes>& object : workload.reads) {
    for (Bytes read : object) add(read);
  }
  add(workload.segments.size());
  for (const SegmentSpec& segment : workload.segments) {
    add(segment.id);
    add(static_cast<uint64_t>(segment.kind));
    add_text(segment.name);
    add(uint64_t{segment.layer} << 32 | segment.choices_per_row);
    for (const auto* list : {&segment.weights, &segment.candidates}) {
      add(list->size());
      for (ObjectId id : *list) add(id);
    }
  }
  return digest64(bytes);
}

namespace {

constexpr size_t kSimulated = 10;  // candidates whose plan is expanded and timed
constexpr double kAsGood = 1.01;   // totals that close are equal: fewer bytes decide

struct Trial {  // without its plan: those of a large model are large
  const Candidate* candidate = nullptr;
  double total_s = 0, predicted_s = 0;
  Bytes bytes = 0, rings = 0;
};

double jitter(const Plan& plan, const Machine& machine) {
  double factor = 1;
  for (const Ring& ring : plan.rings) {
    if (ring.step != 0)
      factor = std::max(factor, stream_jitter(machine, ring.slot_bytes, plan.prefetch_depth));
  }
  return factor;
}

class Search {
 public:
  Search(const Workload& workload, const Machine& machine, const Budgets& budgets,
         const Choices& choices)
      : w_(workload),
        inventory_(take_inventory(workload)),
        m_(machine),
        b_(budgets),
        choices_(choices) {}

  Plan run() {
    shapes_ = shapes_of(w_, b_);
    std::vector<std::vector<Candidate>> candidates;  // by shape that is tried
    std::vector<Trial> trials;
    for (uint32_t shape : promising()) {
      use(w_, shapes_[shape]);
      candidates.push_back(all_candidates(w_, inventory_, m_, b_, choices_));
      for (Candidate& c : candidates.back()) c.shape = shape;
      for (const Candidate* c : shortlist(candidates.back())) trials.push_back(try_out(*c));
    }
    if (trials.empty()) refuse_all();
    const Trial& best = *choose(trials);
    use(w_, shapes_[best.candidate->shape]);
    Plan plan = make(*best.candidate);
    plan.predicted_s = best.predicted_s;
    plan.machine_hash = m_.hash();
    plan.bound_bytes = bound_bytes(w_, b_);
    plan.why = why(best, plan);
    plan.alternatives = alternatives(best, trials);
    verify(plan, w_);
    return plan;
  }

 private:
  std::vector<uint32_t> promising();
  std::optional<double> quick_estimate();
  [[noreturn]] void refuse_all();
  std::vector<const Candidate*> shortlist(std::vector<Candidate>& candidates) const;
  Plan make(const Candidate& candidate) const;
  Trial try_out(const Candidate& candidate) const;
  void split_memory(const Candidate& candidate, Plan& plan) const;
  static std::vector<Trial>::const_iterator choose(const std::vector<Trial>& trials);
  std::string why(const Trial& best, const Plan& plan) const;
  std::vector<Alternative> alternatives(const Trial& best, const std::vector<Trial>& trials) const;

  Workload w_;  // of the shape at hand
  const Inventory inventory_;
  const Machine& m_;
  const Budgets& b_;
  const Choices& choices_;
  std::vector<Shape> shapes_;
};

// The least estimate of a usual plan of the shape: one policy, one depth, as many rows as fit.
std::optional<double> Search::quick_estimate() {
  constexpr uint32_t kUsualDepth = 4;
  Choices usual = choices_;
  if (usual.policy == "auto") usual.policy = "pin";
  const bool fixed = usual.prefetch_depth || usual.policy == "sync";
  for (const uint32_t depth : {kUsualDepth, 0u}) {
    if (!fixed) usual.prefetch_depth = depth;
    std::optional<double> least;
    for (const Candidate& c : all_candidates(w_, inventory_, m_, b_, usual)) {
      least = std::min(least.value_or(c.estimate_s), c.estimate_s);
    }
    if (least || fixed) return least;
  }
  return std::nullopt;
}

// Which shapes are worth a closer look: the best by closed form, and one that is nearly as good.
// Where all that is asked for fits at once, nothing else is.
std::vector<uint32_t> Search::promising() {
  constexpr double kNearly = 1.15;
  std::vector<std::pair<double, uint32_t>> order;
  const Bytes weights = inventory_.all();
  // Where keys and values fit and are little beside the weights that do not, streaming them would
  // make room for so few more that no pass would notice.
  const Bytes too_much = weights - std::min(weights, b_.memory);
  std::set<uint32_t> small_at;  // sequences at a time
  for (uint32_t i = 0; i < shapes_.size(); ++i) {
    use(w_, shapes_[i]);
    if (shapes_[i].streamed > 0 && small_at.contains(shapes_[i].at.sequences)) continue;
    const std::optional<double> estimate = quick_estimate();
    if (!estimate) continue;
    order.emplace_back(*estimate, i);
    if (shapes_[i].streamed == 0 && kv_memory(w_.needs) < too_much / 100) {
      small_at.insert(shapes_[i].at.sequences);
    }
    const Room room{.host = b_.memory - std::min(b_.memory, needs_bytes(w_, w_.rows_wanted))};
    if (i == 0 && shapes_[i].streamed == 0 && weights <= round_down(room.host, kHugePage)) break;
  }
  std::stable_sort(order.begin(), order.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<uint32_t> out;
  for (const auto& [estimate, shape] : order) {
    if (out.size() < 2 && estimate <= order.front().first * kNearly) out.push_back(shape);
  }
  return out;
}

// The shape that needs least says what would do.
void Search::refuse_all() {
  const auto least = [&](const Shape& shape) {
    use(w_, shape);
    return needs_bytes(w_, 1);
  };
  const Shape* best = &shapes_.front();
  for (const Shape& shape : shapes_) {
    if (least(shape) < least(*best)) best = &shape;
  }
  use(w_, *best);
  refuse(w_, inventory_, b_, choices_);
}

// The best by closed form at every depth, of which closed forms know little; of each policy the
// best, so that what lost can be told; then what comes next. Where nothing moves, closed forms know
// all there is.
std::vector<const Candidate*> Search::shortlist(std::vector<Candidate>& candidates) const {
  std::stable_sort(
      candidates.begin(), candidates.end(),
      [](const Candidate& a, const Candidate& b) { return a.estimate_s < b.estimate_s; });
  const Candidate& best = candidates.front();
  std::vector<const Candidate*> out;
  const auto add = [&](const Candidate& c) {
    if (std::find(out.begin(), out.end(), &c) == out.end()) out.push_back(&c);
  };
  const bool moves = best.decode.disk_s + best.decode.copy_s > 0;
  for (const Candidate& c : candidates) {
    if (moves && c.policy == best.policy && c.rows_max == best.rows_max) add(c);
  }
  for (const Policy& policy : policies()) {
    const auto first = std::find_if(candidates.begin(), candidates.end(),
                                    [&](const Candidate& c) { return c.policy == &policy; });
    if (first != candidates.end()) add(*first);
  }
  for (const Candidate& c : candidates) {
    if (moves && out.size() < kSimulated) add(c);
  }
  return out;
}

Plan Search::make(const Candidate& candidate) const {
  Plan plan = expand(w_, decide(w_, inventory_, candidate), candidate.room);
  stream_kv(plan, w_);
  split_memory(candidate, plan);
  return plan;
}

void Search::split_memory(const Candidate& candidate, Plan& plan) const {
  const Needs& n = w_.needs;
  MemorySplit& split = plan.memory;
  const bool beside = b_.device_memory && !b_.device_within_memory;
  plan.budget = b_.memory + (beside ? *b_.device_memory : 0);
  split.base = n.base + n.requests;
  split.kv = kv_memory(n);
  split.activations = activation_bytes(w_, candidate.rows_max);
  split.workspace = n.workspace + kv_account(n);
  split.io = n.io;
  split.slack = 0;
  split.slack = plan.budget - split.total();
}

// Enter, prompt and decoding. A pass settles after one round, so two of a kind are simulated and
// the second stands for the rest.
Trial Search::try_out(const Candidate& candidate) const {
  const Plan plan = make(candidate);
  const Passes passes = passes_of(w_, plan.rows_max);
  const PassRows decode{plan.sequences, w_.context, std::min(plan.sequences, plan.outputs_max)};
  const Timeline settled = simulate(plan, w_, m_, {decode, decode, decode});
  HEADRACE_ASSERT(!settled.deadlock, settled.deadlock_tasks);
  // The first pass waits for what enter loads; the two after it are as long as any other.
  const double entered = settled.makespan_s - 3 * settled.steady_s;
  const double disk_s = candidate.decode.disk_s * jitter(plan, m_);  // of any pass
  const double decode_s = std::max(settled.steady_s, disk_s);
  double total = std::max(0.0, entered) + passes.decode * decode_s;
  if (passes.prefill > 0) {
    const PassRows prompt{passes.prefill_rows, w_.context,
                          std::min(passes.prefill_rows, plan.outputs_max), 1};
    total += passes.prefill * std::max(disk_s, simulate(plan, w_, m_, {prompt, prompt}).steady_s);
  }
  return {&candidate, total, decode_s, plan.bytes, plan.memory.stream_ring};
}

std::vector<Trial>::const_iterator Search::choose(const std::vector<Trial>& trials) {
  double least = trials.front().total_s;
  for (const Trial& t : trials) least = std::min(least, t.total_s);
  // Where everything fits, every policy keeps everything: that is called pin.
  const auto rank = [&](const Trial& t) {
    const std::string_view policy = t.candidate->policy->name;
    // More rows cost nothing here, and leave prompts room beside the rows that decode.
    return std::tuple(t.total_s > least * kAsGood, t.bytes, t.rings, policy != "pin", policy,
                      -int64_t{t.candidate->rows_max}, t.candidate->depth);
  };
  return std::min_element(trials.begin(), trials.end(),
                          [&](const Trial& a, const Trial& b) { return rank(a) < rank(b); });
}

std::string Search::why(const Trial& best, const Plan& plan) const {
  const Load& load = best.candidate->decode;
  const Tier tier = plan.arena_bytes[0] > 0 ? Tier::kDevice : Tier::kHost;
  Bytes resident = 0, copied = 0;
  for (const Resident& r : plan.residents) {
    if (r.tier == tier) resident += w_.objects[r.object].chunks[r.chunk];
  }
  for (const ByteRow& row : bytes_of(plan.steady)) {
    if (row.edge.from == Tier::kHost) copied += row.bytes;
  }
  const double share = plan.weights_bytes == 0 ? 100.0
                                               : 100.0 * static_cast<double>(resident) /
                                                     static_cast<double>(plan.weights_bytes);
  std::string stay = fmt::format("{:.0f} % of the weights stay", share);
  if (plan.kv.slots > 0) {
    const KvBytes kv = kv_expected(plan, w_, {.rows = plan.sequences, .context = w_.context});
    stay += fmt::format(", and keys and values of {} of {} layers: {} of the others a pass",
                        plan.kv.layers - plan.kv.streamed.size(), plan.kv.layers,
                        format_bytes(kv.total()));
  }
  if (w_.requests > w_.sequences) {
    stay += fmt::format("; {} of {} requests at a time", w_.sequences, w_.requests);
  }
  if (plan.bytes == 0) return "compute binds: nothing moves; " + stay;
  if (load.disk_s >= std::max(load.copy_s, load.compute_s)) {
    const bool kv = load.kv_s > load.disk_s / 2;
    return fmt::format("{}: {} a pass; {}",
                       kv ? "the disk binds, most of it for keys and values" : "disk read binds",
                       format_bytes(plan.bytes - copied), stay);
  }
  const std::string moved = format_bytes(plan.bytes);
  if (load.copy_s >= load.compute_s) {
    return fmt::format("the copy to the device binds: {} a pass; {}", moved, stay);
  }
  return fmt::format("compute binds: {} move meanwhile; {}", moved, stay);
}

std::vector<Alternative> Search::alternatives(const Trial& best,
                                              const std::vector<Trial>& trials) const {
  std::vector<Alternative> out;
  for (const Policy& policy : policies()) {
    if (best.candidate->policy == &policy) continue;
    const Trial* trial = nullptr;
    for (const Trial& t : trials) {
      if (t.candidate->policy == &policy && (!trial || t.total_s < trial->total_s)) trial = &t;
    }
    Alternative a{.policy = policy.name};
    if (trial != nullptr) {
      a.prefetch_depth = trial->candidate->depth;
      a.rows_max = trial->candidate->rows_max;
      a.bytes = trial->bytes;
      a.predicted_s = trial->predicted_s;
      const double ratio = best.total_s > 0 ? trial->total_s / best.total_s : 1.0;
      a.why = ratio > kAsGood ? fmt::format("takes {:.2f} times as long", ratio)
              : a.bytes > best.bytes
                  ? fmt::format("no faster, and moves {} a pass", format_bytes(a.bytes))
                  : "no faster";
    } else if (choices_.policy != "auto" && choices_.policy != policy.name) {
      a.why = "another policy was asked for";
    } else {
      const std::optional<Bytes> required = required_memory(w_, inventory_, b_, choices_, policy);
      a.required_bytes = required.value_or(0);
      a.why = required ? "does not fit" : "does not fit, whatever --memory";
    }
    out.push_back(std::move(a));
  }
  return out;
}

}  // namespace

Plan search(const Workload& workload, const Machine& machine, const Budgets& budgets,
            const Choices& choices) {
  return Search(workload, machine, budgets, choices).run();
}

}  // namespace headrace::scheduler
