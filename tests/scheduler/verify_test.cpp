#include "scheduler/verify.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>

#include "core/error.h"
#include "tests/scheduler/workloads.h"
#include "tests/support/seed.h"

namespace headrace::scheduler {
namespace {

bool moves(const Task& t) { return t.kind == TaskKind::kFetch || t.kind == TaskKind::kCopy; }

std::vector<uint32_t> tasks_where(const Round& round, const std::function<bool(const Task&)>& is) {
  std::vector<uint32_t> out;
  for (uint32_t t = 0; t < round.tasks.size(); ++t) {
    if (is(round.tasks[t])) out.push_back(t);
  }
  return out;
}

// One of them, or null.
Task* pick(Round& round, Random& random, const std::function<bool(const Task&)>& is) {
  const std::vector<uint32_t> found = tasks_where(round, is);
  return found.empty() ? nullptr : &round.tasks[found[random.below(found.size())]];
}

// A ring of the search's has the slots that it needs, but for that of lru.
bool tight(const Plan& plan) { return plan.policy != "lru"; }

struct Mutation {
  const char* name;
  // Changes the plan so that it must be refused; false when it has nothing to change.
  std::function<bool(Plan&, const Workload&, Random&)> apply;
};

bool drop_edge(Plan& p, Random& random, const std::function<bool(const Task&)>& of) {
  Task* task = pick(p.steady, random, [&](const Task& t) { return t.after.size() > 0 && of(t); });
  if (task == nullptr) return false;
  // Any one of its edges: the last takes its place.
  std::vector<TaskRef>& after = p.steady.after;
  std::swap(after[random.between(task->after.begin, task->after.end - 1)],
            after[task->after.end - 1]);
  --task->after.end;
  return true;
}

void add_edge(Round& round, Task& task, TaskRef ref) {
  const uint32_t begin = static_cast<uint32_t>(round.after.size());
  for (uint32_t i = task.after.begin; i < task.after.end; ++i) {
    round.after.push_back(TaskRef(round.after[i]));
  }
  round.after.push_back(ref);
  task.after = {begin, static_cast<uint32_t>(round.after.size())};
}

// Of what waits for what, and of the slots in between.
std::vector<Mutation> of_edges_and_slots() {
  return {
      {"a use does not wait for its transfer",
       [](Plan& p, const Workload&, Random& r) {
         return drop_edge(p, r, [](const Task& t) { return t.kind == TaskKind::kForward; });
       }},
      {"a transfer does not wait for its slot or its source",
       [](Plan& p, const Workload&, Random& r) { return tight(p) && drop_edge(p, r, moves); }},
      {"a use reads the next slot",
       [](Plan& p, const Workload&, Random& r) {
         Task* t = pick(p.steady, r, [&](const Task& x) {
           return x.uses.size() > 0 && p.steady.uses[x.uses.begin].slot.space == Space::kRing &&
                  p.rings[p.steady.uses[x.uses.begin].slot.area].slots > 1;
         });
         if (t == nullptr) return false;
         ++p.steady.uses[t->uses.begin].slot.index;
         return true;
       }},
      {"a transfer writes the next slot",
       [](Plan& p, const Workload&, Random& r) {
         Task* t = pick(p.steady, r, [&](const Task& x) {
           return x.to.space == Space::kRing && p.rings[x.to.area].slots > 1;
         });
         if (t == nullptr) return false;
         ++t->to.index;
         return true;
       }},
      {"two tasks wait for each other",
       [](Plan& p, const Workload&, Random& r) {
         for (uint32_t t = 0; t < p.steady.tasks.size(); ++t) {
           const Task& user = p.steady.tasks[t];
           if (moves(user) || user.after.size() == 0) continue;
           const TaskRef ref = p.steady.after[user.after.begin];
           if (ref.round != 0 || r.chance(0.5)) continue;
           add_edge(p.steady, p.steady.tasks[ref.task], {t, 0});
           return true;
         }
         return false;
       }},
      {"a transfer waits for itself",
       [](Plan& p, const Workload&, Random& r) {
         Task* t = pick(p.steady, r, moves);
         if (t == nullptr) return false;
         add_edge(p.steady, *t, {static_cast<uint32_t>(t - p.steady.tasks.data()), 0});
         return true;
       }},
      {"a pool of nothing that nobody uses",
       [](Plan& p, const Workload&, Random&) {
         p.pools.push_back({.tier = Tier::kHost, .slots = 1u << 30, .slot_bytes = 0});
         return true;
       }},
      {"an edge to a transfer leads to the one after it",
       [](Plan& p, const Workload&, Random& r) {
         std::vector<std::pair<uint32_t, uint32_t>> edges;  // index in after, task that follows
         for (uint32_t e = 0; e < p.steady.after.size(); ++e) {
           const TaskRef& ref = p.steady.after[e];
           if (ref.round != 0 || !moves(p.steady.tasks[ref.task])) continue;
           for (uint32_t t = ref.task + 1; t < p.steady.tasks.size(); ++t) {
             if (p.steady.tasks[t].lane != p.steady.tasks[ref.task].lane) continue;
             edges.emplace_back(e, t);
             break;
           }
         }
         if (edges.empty()) return false;
         const auto [edge, next] = edges[r.below(edges.size())];
         p.steady.after[edge].task = next;
         return true;
       }},
      {"an edge leads out of the round",
       [](Plan& p, const Workload&, Random& r) {
         if (p.steady.after.empty()) return false;
         TaskRef& ref = p.steady.after[r.below(p.steady.after.size())];
         if (r.chance(0.5))
           ref.task = static_cast<uint32_t>(p.steady.tasks.size());
         else
           ref.round = r.chance(0.5) ? 1 : -2;
         return true;
       }},
  };
}

// Of the areas of the arenas.
std::vector<Mutation> of_rings_and_residents() {
  return {
      {"a ring has a slot less",
       [](Plan& p, const Workload&, Random&) {
         for (Ring& ring : p.rings) {
           if (!tight(p) || ring.slots < 2 || ring.step == 0) continue;
           --ring.slots;
           p.memory.stream_ring -= ring.slot_bytes;
           p.memory.slack += ring.slot_bytes;
           return true;
         }
         return false;
       }},
      {"a ring's slots are smaller than a chunk",
       [](Plan& p, const Workload&, Random&) {
         for (Ring& ring : p.rings) {
           if (ring.slot_bytes <= kBlock) continue;
           ring.slot_bytes -= kBlock;
           p.memory.stream_ring -= kBlock * ring.slots;
           p.memory.slack += kBlock * ring.slots;
           return true;
         }
         return false;
       }},
      {"a ring steps by another number",
       [](Plan& p, const Workload&, Random& r) {
         if (p.rings.empty()) return false;
         ++p.rings[r.below(p.rings.size())].step;
         return true;
       }},
      {"a transfer brings another chunk of the same size",
       [](Plan& p, const Workload& w, Random& r) {
         Task* t = pick(p.steady, r, [&](const Task& x) {
           return moves(x) && x.from.space != Space::kResident &&
                  w.objects[x.object].chunks.size() > 1 &&
                  w.objects[x.object].chunks[0] == w.objects[x.object].chunks[1];
         });
         if (t == nullptr) return false;
         t->chunk = t->chunk == 0 ? 1 : 0;
         t->bytes = w.objects[t->object].chunks[t->chunk];
         return true;
       }},
      {"a resident lies outside the arena",
       [](Plan& p, const Workload&, Random& r) {
         if (p.residents.empty()) return false;
         Resident& x = p.residents[r.below(p.residents.size())];
         x.offset =
             r.chance(0.5) ? p.arena_bytes[static_cast<size_t>(x.tier)] : ~Bytes{0} - kBlock + 1;
         return true;
       }},
      {"a resident is of a chunk that its object does not have",
       [](Plan& p, const Workload& w, Random& r) {
         if (p.residents.empty()) return false;
         Resident& x = p.residents[r.below(p.residents.size())];
         x.chunk = static_cast<uint32_t>(w.objects[x.object].chunks.size() + r.below(1000));
         return true;
       }},
      {"a ring lies over what stays",
       [](Plan& p, const Workload&, Random& r) {
         if (p.rings.empty() || p.residents.empty()) return false;
         Ring& ring = p.rings[r.below(p.rings.size())];
         const Resident& x = p.residents[r.below(p.residents.size())];
         if (ring.tier != x.tier || ring.slot_bytes == 0) return false;
         ring.offset = x.offset;
         return true;
       }},
  };
}

// Of what lies in the areas, and of holes.
std::vector<Mutation> of_what_is_there() {
  return {
      {"an area is not aligned",
       [](Plan& p, const Workload&, Random& r) {
         if (p.residents.empty()) return false;
         p.residents[r.below(p.residents.size())].offset += 64;
         return true;
       }},
      {"a resident is not loaded",
       [](Plan& p, const Workload&, Random& r) {
         const auto loads =
             tasks_where(p.enter, [](const Task& t) { return t.to.space == Space::kResident; });
         if (loads.size() < 2) return false;
         const size_t i = r.between(1, loads.size() - 1);
         p.enter.tasks[loads[i]].to = p.enter.tasks[loads[i - 1]].to;
         return true;
       }},
      {"a use names the resident beside it",
       [](Plan& p, const Workload&, Random& r) {
         if (p.residents.size() < 2 || p.steady.uses.empty()) return false;
         Use& use = p.steady.uses[r.below(p.steady.uses.size())];
         if (use.slot.space != Space::kResident) return false;
         use.slot.index = (use.slot.index + 1) % static_cast<uint32_t>(p.residents.size());
         return true;
       }},
      {"a pool has no slots",
       [](Plan& p, const Workload&, Random&) {
         if (p.pools.empty()) return false;
         const Bytes bytes = p.pools[0].slots * p.pools[0].slot_bytes;
         p.pools[0].slots = 0;
         p.memory.stream_ring -= bytes;
         p.memory.slack += bytes;
         return true;
       }},
      {"a hole lost its pool",
       [](Plan& p, const Workload&, Random& r) {
         if (p.holes.empty()) return false;
         Hole& hole = p.holes[r.below(p.holes.size())];
         hole.pool = hole.pool == kNone ? 7 : kNone;
         return true;
       }},
  };
}

// Of what tasks do.
std::vector<Mutation> of_tasks() {
  return {
      {"two transfers change places",
       [](Plan& p, const Workload&, Random& r) {
         if (p.steady.tasks.size() < 2 || !moves(p.steady.tasks[1])) return false;
         uint32_t last = 1;
         while (last + 1 < p.steady.tasks.size() && moves(p.steady.tasks[last + 1])) ++last;
         const uint32_t t = static_cast<uint32_t>(r.between(1, last));
         Task& a = p.steady.tasks[t - 1];
         Task& b = p.steady.tasks[t];
         if (a.lane != b.lane || (a.object == b.object && a.chunk == b.chunk)) return false;
         std::swap(a, b);
         return true;
       }},
      {"two computations change places",
       [](Plan& p, const Workload&, Random& r) {
         if (p.steady.tasks.size() < 2) return false;
         const size_t t = r.between(1, p.steady.tasks.size() - 1);
         Task& a = p.steady.tasks[t - 1];
         Task& b = p.steady.tasks[t];
         if (moves(a) || moves(b)) return false;
         std::swap(a, b);
         return true;
       }},
      {"a computation is left out",
       [](Plan& p, const Workload&, Random&) {
         if (p.steady.tasks.empty() || moves(p.steady.tasks.back())) return false;
         p.steady.tasks.pop_back();
         return true;
       }},
      {"the enter round leaves another chunk",
       [](Plan& p, const Workload& w, Random& r) {
         Task* t = pick(p.enter, r, [&](const Task& x) {
           return x.to.space == Space::kRing && w.objects[x.object].chunks.size() > 1 &&
                  w.objects[x.object].chunks[0] == w.objects[x.object].chunks[1];
         });
         if (t == nullptr) return false;
         t->chunk = t->chunk == 0 ? 1 : 0;
         t->bytes = w.objects[t->object].chunks[t->chunk];
         return true;
       }},
      {"a transfer counts on another edge",
       [](Plan& p, const Workload&, Random& r) {
         Task* t = pick(r.chance(0.5) ? p.steady : p.enter, r, moves);
         if (t == nullptr) return false;
         if (r.chance(0.5))
           t->counted = !t->counted;
         else
           t->edge = {Tier::kDevice, Tier::kHost};
         return true;
       }},
      {"a transfer moves fewer bytes",
       [](Plan& p, const Workload&, Random& r) {
         Task* t = pick(r.chance(0.5) ? p.steady : p.enter, r, moves);
         if (t == nullptr) return false;
         t->bytes -= kBlock;
         return true;
       }},
      {"a transfer is on the compute lane",
       [](Plan& p, const Workload&, Random& r) {
         Task* t = pick(r.chance(0.5) ? p.steady : p.enter, r, moves);
         if (t == nullptr) return false;
         t->lane = r.chance(0.5) ? Lane::kCompute : Lane::kLink;
         return true;
       }},
  };
}

// Of what a plan says of itself.
std::vector<Mutation> of_sums() {
  return {
      {"memory does not sum to the budget",
       [](Plan& p, const Workload&, Random& r) {
         if (r.chance(0.5))
           ++p.memory.base;
         else
           p.memory.kv = ~Bytes{0};
         return true;
       }},
      {"the arena is larger than the budget has room for",
       [](Plan& p, const Workload&, Random&) {
         p.arena_bytes[1] += round_up(p.memory.slack, kHugePage) + kHugePage;
         return true;
       }},
      {"it is another model's",
       [](Plan& p, const Workload&, Random&) { return p.workload_hash ^= 1, true; }},
      {"it is of another version", [](Plan& p, const Workload&, Random&) { return ++p.version; }},
      {"a pass is said to move less",
       [](Plan& p, const Workload&, Random&) {
         if (p.bytes_least == 0) return false;
         p.bytes_least -= 1;
         return true;
       }},
  };
}

const std::vector<Mutation>& mutations() {
  static const std::vector<Mutation> all = [] {
    std::vector<Mutation> out;
    for (auto* list :
         {of_edges_and_slots, of_rings_and_residents, of_what_is_there, of_tasks, of_sums}) {
      const std::vector<Mutation> some = list();
      out.insert(out.end(), some.begin(), some.end());
    }
    return out;
  }();
  return all;
}

TEST(Verify, EveryMutationIsRefused) {
  std::map<std::string, int> applied;
  for (uint64_t i = 0; i < test::cases(120); ++i) {
    SCOPED_TRACE(test::seed_note(i));
    Random random(test::seed(), i);
    const testing::Planned p = testing::random_plan(random);
    ASSERT_EQ(violations(p.plan, p.workload), std::vector<std::string>{});
    for (const Mutation& mutation : mutations()) {
      Plan broken = p.plan;
      if (!mutation.apply(broken, p.workload, random)) continue;
      ++applied[mutation.name];
      EXPECT_FALSE(violations(broken, p.workload).empty())
          << mutation.name << " in a plan of " << p.plan.policy << ", depth "
          << p.plan.prefetch_depth << ", device " << p.plan.arena_bytes[0];
    }
  }
  for (const Mutation& m : mutations()) EXPECT_GT(applied[m.name], 5) << m.name;
}

TEST(Verify, HarmlessChangesAreNot) {
  for (uint64_t i = 0; i < test::cases(30); ++i) {
    SCOPED_TRACE(test::seed_note(i));
    Random random(test::seed() + 1, i);
    const testing::Planned p = testing::random_plan(random);
    Plan plan = p.plan;
    const auto computes = tasks_where(plan.steady, [](const Task& t) { return !moves(t); });
    for (size_t c = 1; c < computes.size(); ++c) {  // what the lane says anyway
      add_edge(plan.steady, plan.steady.tasks[computes[c]], {computes[c - 1], 0});
      add_edge(plan.steady, plan.steady.tasks[computes[c]], {computes[c], -1});
    }
    plan.memory.slack += kMiB;
    plan.budget += kMiB;
    EXPECT_EQ(violations(plan, p.workload), std::vector<std::string>{});
    EXPECT_NO_THROW(verify(plan, p.workload));
  }
}

TEST(Verify, NamesWhatIsWrong) {
  Random random(3);
  const testing::Planned p = testing::random_plan(random);
  Plan plan = p.plan;
  plan.memory.base += 1;
  try {
    verify(plan, p.workload);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kFormat);
    EXPECT_NE(std::string(error.what()).find("memory sums to"), std::string::npos);
  }
}

}  // namespace
}  // namespace headrace::scheduler
