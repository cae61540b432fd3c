// Which experts to keep: replays recorded routes through scheduler::fill and through other
// policies, and prints what each one reads.
//
//     expert_cache [--experts N] [--expert-bytes B] [--rows] [--join] TRACE.jsonl…
//     expert_cache --random LAYERS,EXPERTS,TOP,TOKENS
//
// A trace is what --route-trace writes, and a run of its own; --join makes one run of all. With
// --rows every row is a pass: a text that was read as a prompt stands for one that is decoded.
// `history` is the product's forecast, begun with what the runs before picked. `optimum` knows the
// future (furthest next use). --expert-bytes: the routes as those of a model with experts that big.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/json.h"
#include "core/random.h"
#include "scheduler/fill.h"

namespace headrace::scheduler {
namespace {

using Wants = std::vector<Choice>;  // of one layer, ascending
struct Run {
  std::vector<std::vector<Wants>> passes;  // [pass][layer]
  uint64_t rows = 0;
};

Wants wants_of(std::map<uint32_t, uint32_t>& counts) {
  Wants out;
  for (const auto& [candidate, rows] : counts) out.push_back({candidate, rows});
  counts.clear();
  return out;
}

Run read_trace(const std::string& path, bool split) {
  Run run;
  const std::string text = read_file(path, kGiB);
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const json::value line = parse_json(text.substr(begin, end - begin), path, {.bytes_max = kGiB});
    begin = end + 1;
    const json::array& layers = line.at("layers").as_array();
    const size_t rows = layers.at(0).as_array().size();
    run.rows += rows;
    for (size_t part = 0; part < (split ? rows : 1); ++part) {
      auto& pass = run.passes.emplace_back();
      for (const json::value& layer : layers) {
        std::map<uint32_t, uint32_t> counts;
        for (size_t r = 0; r < rows; ++r) {
          if (split && r != part) continue;
          for (const json::value& e : layer.as_array().at(r).as_array())
            ++counts[static_cast<uint32_t>(e.to_number<uint64_t>())];
        }
        pass.push_back(wants_of(counts));
      }
    }
  }
  return run;
}

Run random_run(uint32_t layers, uint32_t experts, uint32_t top, uint32_t tokens) {
  Random random(1, 0);
  Run run;
  run.rows = tokens;
  for (uint32_t t = 0; t < tokens; ++t) {
    auto& pass = run.passes.emplace_back();
    for (uint32_t l = 0; l < layers; ++l) {
      std::map<uint32_t, uint32_t> counts;
      while (counts.size() < top) counts[static_cast<uint32_t>(random.below(experts))] = 1;
      pass.push_back(wants_of(counts));
    }
  }
  return run;
}

// ---- the product's

struct Model {
  uint32_t layers = 0, experts = 0, top = 1;
  Bytes expert = 0;
  Workload workload;
};

Model make_model(const std::vector<Run>& runs, uint32_t experts, Bytes expert) {
  Model m;
  m.layers = static_cast<uint32_t>(runs[0].passes[0].size());
  m.expert = expert;
  uint32_t most = experts;
  for (const Run& run : runs) {
    for (const auto& pass : run.passes) {
      for (const Wants& w : pass) most = std::max(most, w.back().candidate + 1);
    }
    // The last pass decodes one row.
    m.top = std::max(m.top, static_cast<uint32_t>(run.passes.back()[0].size()));
  }
  m.experts = most;
  for (uint32_t l = 0; l < m.layers; ++l) {
    SegmentSpec s{.id = l, .kind = SegmentKind::kExperts, .layer = l, .choices_per_row = m.top};
    for (uint32_t e = 0; e < m.experts; ++e) {
      const ObjectId id = l * m.experts + e;
      m.workload.objects.push_back({.id = id, .chunks = {expert}});
      s.candidates.push_back(id);
    }
    m.workload.segments.push_back(s);
  }
  return m;
}

uint64_t replay(const Model& m, const Run& run, uint32_t slots, Evict evict,
                const std::vector<std::vector<uint64_t>>* history, uint64_t history_rows) {
  Plan plan;
  plan.pools = {{.slots = slots, .slot_bytes = m.expert, .evict = evict}};
  for (uint32_t l = 0; l < m.layers; ++l)
    plan.holes.push_back(
        {.segment = l, .source = Source::kRouter, .pool = 0, .choices_per_row = m.top});
  PoolState state = initial_state(plan, m.workload, 0);
  for (uint32_t l = 0; history != nullptr && history_rows > 0 && l < m.layers; ++l)
    state.forecast.seed(l, history_rows, (*history)[l]);
  Filled out;
  uint64_t misses = 0;
  for (const auto& pass : run.passes) {
    for (uint32_t l = 0; l < m.layers; ++l) {
      fill(plan, m.workload, plan.holes[l], pass[l], state, out);
      misses += out.picks.size() - out.hits;
    }
  }
  return misses;
}

uint64_t replay_history(const Model& m, const std::vector<Run>& runs, uint32_t slots) {
  std::vector<std::vector<uint64_t>> seen(m.layers, std::vector<uint64_t>(m.experts, 0));
  uint64_t rows = 0, misses = 0;
  for (const Run& run : runs) {
    misses += replay(m, run, slots, Evict::kForecast, &seen, rows);
    rows += run.rows;
    for (const auto& pass : run.passes) {
      for (uint32_t l = 0; l < m.layers; ++l)
        for (const Choice& c : pass[l]) seen[l][c.candidate] += c.rows;
    }
  }
  return misses;
}

// ---- others

// Least often wanted, counts fading by half in 48 passes.
uint64_t replay_lfu(const Model& m, const Run& run, uint32_t slots) {
  std::vector<double> count(size_t{m.layers} * m.experts, 0);
  std::vector<uint8_t> held(count.size(), 0);
  uint64_t misses = 0, used = 0;
  double worth = 1;  // of one pick now: counts are not faded, picks grow
  for (const auto& pass : run.passes) {
    worth *= std::exp2(1.0 / 48);
    if (worth > 1e200) {
      for (double& c : count) c /= worth;
      worth = 1;
    }
    for (uint32_t l = 0; l < m.layers; ++l) {
      for (const Choice& c : pass[l]) count[l * m.experts + c.candidate] += worth;
      for (const Choice& c : pass[l]) {
        const size_t key = l * m.experts + c.candidate;
        if (held[key]) continue;
        ++misses;
        if (used == slots) {
          size_t victim = count.size();
          for (size_t k = 0; k < count.size(); ++k) {
            if (held[k] && (victim == count.size() || count[k] < count[victim])) victim = k;
          }
          held[victim] = 0;
          --used;
        }
        held[key] = 1;
        ++used;
      }
    }
  }
  return misses;
}

// S3-FIFO: a tenth of the slots for what is new, the rest for what was wanted again, and the names
// of what left.
uint64_t replay_s3fifo(const Model& m, const Run& run, uint32_t slots) {
  std::deque<size_t> fresh, main, gone;
  std::map<size_t, uint32_t> uses;  // of what is held
  uint64_t misses = 0;
  const size_t fresh_slots = std::max(1u, slots / 10);
  const auto evict = [&] {
    while (true) {
      const bool from_fresh = fresh.size() >= fresh_slots || main.empty();
      std::deque<size_t>& queue = from_fresh ? fresh : main;
      const size_t key = queue.front();
      queue.pop_front();
      uint32_t& count = uses[key];
      if (from_fresh && count > 1) {
        main.push_back(key), count = 0;
      } else if (!from_fresh && count > 0) {
        main.push_back(key), --count;
      } else {
        uses.erase(key);
        if (from_fresh) gone.push_back(key);
        if (gone.size() > slots) gone.pop_front();
        return;
      }
    }
  };
  for (const auto& pass : run.passes) {
    for (uint32_t l = 0; l < m.layers; ++l) {
      for (const Choice& c : pass[l]) {
        const size_t key = size_t{l} * m.experts + c.candidate;
        const auto held = uses.find(key);
        if (held != uses.end()) {
          held->second = std::min(held->second + 1, 3u);
          continue;
        }
        ++misses;
        if (uses.size() == slots) evict();
        const auto back = std::find(gone.begin(), gone.end(), key);
        if (back != gone.end())
          gone.erase(back), main.push_back(key);
        else
          fresh.push_back(key);
        uses[key] = 0;
      }
    }
  }
  return misses;
}

// The fewest that any policy could: evicts what is wanted last.
uint64_t replay_optimum(const Model& m, const Run& run, uint32_t slots) {
  constexpr uint64_t kNever = ~uint64_t{0};
  const size_t keys = size_t{m.layers} * m.experts;
  std::vector<std::deque<uint64_t>> wanted(keys);
  uint64_t turn = 0, misses = 0, used = 0;
  for (const auto& pass : run.passes) {
    for (uint32_t l = 0; l < m.layers; ++l, ++turn)
      for (const Choice& c : pass[l]) wanted[l * m.experts + c.candidate].push_back(turn);
  }
  const auto next = [&](size_t key) { return wanted[key].empty() ? kNever : wanted[key].front(); };
  std::vector<uint8_t> held(keys, 0);
  for (const auto& pass : run.passes) {
    for (uint32_t l = 0; l < m.layers; ++l) {
      for (const Choice& c : pass[l]) wanted[l * m.experts + c.candidate].pop_front();
      std::vector<size_t> missing;
      for (const Choice& c : pass[l]) {
        if (!held[l * m.experts + c.candidate]) missing.push_back(l * m.experts + c.candidate);
      }
      for (size_t key : missing) {
        ++misses;
        if (used == slots) {
          size_t victim = keys;
          for (size_t k = 0; k < keys; ++k) {
            if (held[k] && (victim == keys || next(k) > next(victim))) victim = k;
          }
          held[victim] = 0;
          --used;
        }
        held[key] = 1;
        ++used;
      }
    }
  }
  return misses;
}

void print(const Model& m, const std::vector<Run>& runs) {
  uint64_t rows = 0, picks = 0;
  for (const Run& run : runs) {
    rows += run.rows;
    for (const auto& pass : run.passes)
      for (const Wants& w : pass) picks += w.size();
  }
  fmt::print("{} runs, {} rows; {} layers of {} experts, {} a row, {} each\n", runs.size(), rows,
             m.layers, m.experts, m.top, format_bytes(m.expert));
  fmt::print("bytes a row, as shares of what lru reads\n\n");
  fmt::print(
      "| pool | slots | lru MB/row | lru hits | lfu | s3fifo | forecast | history | optimum | "
      "forecast / optimum | forecast hits |\n|---|---|---|---|---|---|---|---|---|---|---|\n");
  for (double share : {0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.75}) {
    const uint32_t slots = std::max(m.top, static_cast<uint32_t>(share * m.layers * m.experts));
    const auto all = [&](const std::function<uint64_t(const Run&)>& one) {
      uint64_t sum = 0;
      for (const Run& run : runs) sum += one(run);
      return static_cast<double>(sum);
    };
    const double lru =
        all([&](const Run& r) { return replay(m, r, slots, Evict::kRecency, nullptr, 0); });
    const double ours =
        all([&](const Run& r) { return replay(m, r, slots, Evict::kForecast, nullptr, 0); });
    const double best = all([&](const Run& r) { return replay_optimum(m, r, slots); });
    const double lfu = all([&](const Run& r) { return replay_lfu(m, r, slots); });
    const double s3 = all([&](const Run& r) { return replay_s3fifo(m, r, slots); });
    const double history = static_cast<double>(replay_history(m, runs, slots));
    const double total = static_cast<double>(picks);
    fmt::print(
        "| {:.0f} % | {} | {:.2f} | {:.3f} | {:.2f} | {:.2f} | {:.2f} | {:.2f} | {:.2f} | {:.2f} | "
        "{:.3f} |\n",
        share * 100, slots, lru * static_cast<double>(m.expert) / static_cast<double>(rows) / 1e6,
        1 - lru / total, lfu / lru, s3 / lru, ours / lru, history / lru, best / lru, ours / best,
        1 - ours / total);
    std::fflush(stdout);
  }
}

int run(int count, char** arguments) {
  uint32_t experts = 0;
  Bytes expert = 16 * kMiB;
  bool split = false, join = false;
  std::vector<Run> runs;
  std::vector<std::string> traces;
  for (int i = 1; i < count; ++i) {
    const std::string word = arguments[i];
    const auto value = [&] { return std::string(i + 1 < count ? arguments[++i] : "0"); };
    if (word == "--experts")
      experts = static_cast<uint32_t>(std::stoul(value()));
    else if (word == "--expert-bytes")
      expert = std::stoull(value());
    else if (word == "--rows")
      split = true;
    else if (word == "--join")
      join = true;
    else if (word == "--random") {
      uint32_t n[4] = {};
      if (std::sscanf(value().c_str(), "%u,%u,%u,%u", n, n + 1, n + 2, n + 3) != 4) return 2;
      runs.push_back(random_run(n[0], n[1], n[2], n[3]));
    } else
      traces.push_back(word);
  }
  for (const std::string& path : traces) {
    Run one = read_trace(path, split);
    if (one.passes.empty()) continue;
    if (join && !runs.empty()) {
      runs[0].rows += one.rows;
      for (auto& pass : one.passes) runs[0].passes.push_back(std::move(pass));
    } else {
      runs.push_back(std::move(one));
    }
  }
  if (runs.empty()) {
    fmt::print(stderr, "expert_cache: no routes; give a file of --route-trace, or --random\n");
    return 2;
  }
  print(make_model(runs, experts, expert), runs);
  return 0;
}

}  // namespace
}  // namespace headrace::scheduler

int main(int count, char** arguments) {
  try {
    return headrace::scheduler::run(count, arguments);
  } catch (const std::exception& e) {
    fmt::print(stderr, "expert_cache: {}\n", e.what());
    return 1;
  }
}
