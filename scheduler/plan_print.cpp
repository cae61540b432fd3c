// The writing half of docs/format/plan.md. A field that a kind of task does not have is not
// written; verify() sees to it that it has its default.
#include <fmt/format.h>

#include <iterator>

#include "scheduler/plan.h"
#include "scheduler/plan_words.h"

namespace headrace::scheduler {

namespace {

class Printer {
 public:
  std::string print(const Plan& plan) {
    head(plan);
    for (const Alternative& a : plan.alternatives) alternative(a);
    for (const Resident& r : plan.residents) {
      line("resident {} {} {} {}", r.object, r.chunk, name_of(r.tier), r.offset);
    }
    for (const Ring& r : plan.rings) {
      line("ring {} slots {} step {} slot_bytes {} offset {}", name_of(r.tier), r.slots, r.step,
           r.slot_bytes, r.offset);
    }
    for (const Pool& p : plan.pools) {
      line("pool {} slots {} slot_bytes {} offset {} staging {} evict {}", name_of(p.tier), p.slots,
           p.slot_bytes, p.offset, index(p.staging), word(kEvictWords, p.evict));
    }
    for (const Hole& h : plan.holes) {
      line("hole {} {} pool {} choices {}", h.segment, word(kSourceWords, h.source), index(h.pool),
           h.choices_per_row);
    }
    round(plan.enter);
    round(plan.steady);
    line("end");
    return fmt::to_string(out_);
  }

 private:
  template <typename... Args>
  void line(fmt::format_string<Args...> format, Args&&... args) {
    fmt::format_to(std::back_inserter(out_), format, std::forward<Args>(args)...);
    out_.push_back('\n');
  }
  static std::string index(uint32_t value) {
    return value == kNone ? "-" : fmt::format("{}", value);
  }
  // The rest of a line, with what would end it written as \xHH.
  static std::string text(const std::string& value) {
    std::string out;
    for (char c : value) {
      const auto byte = static_cast<unsigned char>(c);
      if (byte < 0x20 || byte == 0x7f || c == '\\')
        out += fmt::format("\\x{:02x}", byte);
      else
        out += c;
    }
    return out;
  }

  void head(const Plan& p) {
    const MemorySplit& m = p.memory;
    line("headrace-plan {}", p.version);
    line("model {}", text(p.model));
    line("policy {}", text(p.policy));
    line("numerics {}", text(p.numerics));
    line("why {}", text(p.why));
    line("machine {:016x}", p.machine_hash);
    line("workload {:016x}", p.workload_hash);
    line("budget {} weights {}", p.budget, p.weights_bytes);
    line(
        "memory base {} resident_weights {} stream_ring {} kv {} activations {} gradients {} "
        "optimizer {} workspace {} io {} slack {}",
        m.base, m.resident_weights, m.stream_ring, m.kv, m.activations, m.gradients, m.optimizer,
        m.workspace, m.io, m.slack);
    line("arena device {} host {}", p.arena_bytes[0], p.arena_bytes[1]);
    line("pass depth {} rows {} outputs {} kv_blocks {} sequences {}", p.prefetch_depth, p.rows_max,
         p.outputs_max, p.kv_blocks, p.sequences);
    kv(p.kv);
    line("bytes {} least {} most {} bound {}", p.bytes, p.bytes_least, p.bytes_most, p.bound_bytes);
    line("predicted_s {}", p.predicted_s);
  }

  void kv(const KvStream& kv) {
    std::string streamed;
    for (uint32_t layer : kv.streamed) streamed += fmt::format(" {}", layer);
    line("kv layers {} block_bytes {} slots {} streamed {}{}", kv.layers, kv.block_bytes, kv.slots,
         kv.streamed.size(), streamed);
  }

  void alternative(const Alternative& a) {
    line("alternative {} depth {} rows {} bytes {} required {} predicted_s {} why {}",
         text(a.policy), a.prefetch_depth, a.rows_max, a.bytes, a.required_bytes, a.predicted_s,
         text(a.why));
  }

  static std::string slot(const Slot& s) {
    const char* space = word(kSpaceWords, s.space);
    switch (s.space) {
      case Space::kNone:
      case Space::kStore:
        return space;
      case Space::kResident:
      case Space::kKv:
        return fmt::format("{} {}", space, s.index);
      case Space::kRing:
      case Space::kPool:
        break;
    }
    return fmt::format("{} {} {}", space, s.area, s.index);
  }

  void round(const Round& round) {
    line("round {}", word(kRoundWords, round.kind));
    for (const Task& task : round.tasks) this->task(task);
    for (const Use& use : round.uses) line("use {} {} {}", use.object, use.chunk, slot(use.slot));
    for (const TaskRef& ref : round.after) line("after {} {}", ref.task, ref.round);
  }

  void task(const Task& t) {
    const char* kind = word(kTaskWords, t.kind);
    switch (t.kind) {
      case TaskKind::kFetch:
      case TaskKind::kCopy:
        return line("task {} {} {} from {} to {} bytes {} edge {} {} after {} {}", kind, t.object,
                    t.chunk, slot(t.from), slot(t.to), t.bytes, name_of(t.edge),
                    t.counted ? "counted" : "staging", t.after.begin, t.after.end);
      case TaskKind::kForward:
        return line("task {} segment {} uses {} {} after {} {}", kind, t.segment, t.uses.begin,
                    t.uses.end, t.after.begin, t.after.end);
      case TaskKind::kEmbed:
      case TaskKind::kExperts:
        return line("task {} segment {} hole {} after {} {}", kind, t.segment, index(t.hole),
                    t.after.begin, t.after.end);
      case TaskKind::kKvRead:
      case TaskKind::kKvWrite:
        return line("task {} segment {} slot {} after {} {}", kind, t.segment,
                    t.kind == TaskKind::kKvRead ? t.to.index : t.from.index, t.after.begin,
                    t.after.end);
      case TaskKind::kRoute:
        return line("task {} segment {} after {} {}", kind, t.segment, t.after.begin, t.after.end);
    }
  }

  fmt::memory_buffer out_;
};

}  // namespace

std::string print_plan(const Plan& plan) { return Printer().print(plan); }

}  // namespace headrace::scheduler
