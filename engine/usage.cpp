#include "engine/usage.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdio>

#include "core/error.h"
#include "core/json.h"

namespace headrace::engine {

namespace {

constexpr std::string_view kFirst = "headrace-usage 2\n", kLast = "end\n";
constexpr uint64_t kRowsMost = 1 << 20;
constexpr Bytes kFileMost = 64 * kMiB;
constexpr size_t kPassesMost = 64;       // kinds
constexpr uint64_t kWeightMost = 256;    // passes: what is older fades
constexpr uint64_t kEvenApart = 20'000;  // millionths: shares of another pool

struct Reader {
  std::string_view left;
  bool is(std::string_view word) {
    if (!left.starts_with(word)) return false;
    left.remove_prefix(word.size());
    return true;
  }
  bool number(uint64_t most, uint64_t& out) {
    const auto [end, error] = std::from_chars(left.data(), left.data() + left.size(), out);
    if (error != std::errc() || out > most) return false;
    left.remove_prefix(static_cast<size_t>(end - left.data()));
    return true;
  }
};

bool write_all(int file, std::string_view text) {
  while (!text.empty()) {
    const ssize_t done = write(file, text.data(), text.size());
    if (done <= 0) return false;
    text.remove_prefix(static_cast<size_t>(done));
  }
  return true;
}

}  // namespace

Usage empty_usage(const scheduler::Workload& workload) {
  Usage out;
  for (const SegmentSpec& segment : workload.segments) {
    if (segment.kind == SegmentKind::kExperts) {
      out.layers.emplace_back().picks.resize(segment.candidates.size());
    }
  }
  return out;
}

void age(Usage& usage) {
  for (Usage::Layer& layer : usage.layers) {
    while (layer.rows > kRowsMost) {
      layer.rows /= 2;
      for (uint64_t& picks : layer.picks) picks /= 2;
    }
  }
}

void add_passes(Usage& usage, const Usage::Passes& passes) {
  const auto apart = [&](const Usage::Passes& p) {
    return std::max(p.even, passes.even) - std::min(p.even, passes.even);
  };
  const auto same = std::find_if(usage.passes.begin(), usage.passes.end(), [&](const auto& p) {
    return p.rows == passes.rows && apart(p) <= kEvenApart;
  });
  Usage::Passes sum = passes;
  if (same != usage.passes.end()) {
    const uint64_t before = std::min(same->count, kWeightMost), all = before + passes.count;
    const auto mean = [&](uint64_t old, uint64_t fresh) {
      return (old * before + fresh * passes.count + all / 2) / all;
    };
    sum = {.rows = passes.rows,
           .count = all,
           .picked = mean(same->picked, passes.picked),
           .missed = mean(same->missed, passes.missed),
           .even = mean(same->even, passes.even)};
    usage.passes.erase(same);
  } else if (usage.passes.size() == kPassesMost) {
    usage.passes.erase(usage.passes.begin());
  }
  sum.count = std::min(sum.count, kWeightMost);
  usage.passes.push_back(sum);
}

std::vector<scheduler::Locality> localities(const Usage& usage,
                                            const scheduler::Workload& workload) {
  const auto routed =
      std::find_if(workload.segments.begin(), workload.segments.end(),
                   [](const SegmentSpec& s) { return s.kind == SegmentKind::kExperts; });
  std::vector<scheduler::Locality> out;
  if (routed == workload.segments.end()) return out;
  const auto share = [](uint64_t millionths) { return static_cast<double>(millionths) / kMillion; };
  for (const Usage::Passes& p : usage.passes) {
    out.push_back({.rows = static_cast<uint32_t>(p.rows),
                   .even = share(p.even),
                   .missed = share(p.missed),
                   .picked = share(p.picked)});
  }
  // Unless this model was seen in passes of like size: one row's experts are missed as the fifth
  // power of the even share (docs/design/007-experts.md); rows that together pick all of a layer
  // leave nothing to favour.
  const double one = std::min(0.9, static_cast<double>(routed->choices_per_row) /
                                       static_cast<double>(routed->candidates.size()));
  for (uint32_t rows = 1; rows <= 1024; rows *= 2) {
    const double power = 1 + 4 * std::pow(1 - one, rows - 1.0);
    for (const double even : {0.1, 0.3, 0.5, 0.7, 0.9}) {
      out.push_back({.rows = rows, .even = even, .missed = std::pow(even, power), .doubt = 1.5});
    }
  }
  return out;
}

std::string print_usage(const Usage& usage) {
  std::string text(kFirst);
  for (const Usage::Layer& layer : usage.layers) {
    text += fmt::format("layer {} {}\n", layer.rows, fmt::join(layer.picks, " "));
  }
  for (const Usage::Passes& p : usage.passes) {
    text += fmt::format("passes {} {} {} {} {}\n", p.rows, p.count, p.picked, p.missed, p.even);
  }
  return text.append(kLast);
}

bool parse_usage(std::string_view text, Usage& out) {
  Usage read = out;
  Reader reader{text};
  if (!reader.is(kFirst)) return false;
  for (Usage::Layer& layer : read.layers) {
    if (!reader.is("layer ") || !reader.number(kRowsMost, layer.rows)) return false;
    for (uint64_t& picks : layer.picks) {
      if (!reader.is(" ") || !reader.number(layer.rows, picks)) return false;
    }
    if (!reader.is("\n")) return false;
  }
  read.passes.clear();
  while (reader.is("passes ")) {
    if (read.passes.size() == kPassesMost) return false;
    Usage::Passes& p = read.passes.emplace_back();
    const bool good = reader.number(kRowsMost, p.rows) && reader.is(" ") &&
                      reader.number(kWeightMost, p.count) && reader.is(" ") &&
                      reader.number(kMillion, p.picked) && reader.is(" ") &&
                      reader.number(kMillion, p.missed) && reader.is(" ") &&
                      reader.number(kMillion, p.even) && reader.is("\n");
    if (!good || p.rows == 0 || p.count == 0) return false;
  }
  if (!reader.is(kLast) || !reader.left.empty()) return false;
  out = std::move(read);
  return true;
}

Usage read_usage(const std::string& path, const scheduler::Workload& workload) {
  Usage out = empty_usage(workload);
  if (out.layers.empty() || access(path.c_str(), R_OK) != 0) return out;
  try {
    parse_usage(read_file(path, kFileMost), out);
  } catch (const Error&) {  // too long, or it does not read: as good as none
  }
  return out;
}

void write_usage(const std::string& path, const Usage& usage) noexcept {
  if (path.empty()) return;
  try {
    const std::string fresh = path + ".new", text = print_usage(usage);
    // Not there unless another run writes just now, or one was killed while it did.
    const int file = open(fresh.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    bool good = file >= 0 && write_all(file, text);
    if (file >= 0) good = close(file) == 0 && good;
    if (!good || std::rename(fresh.c_str(), path.c_str()) != 0) unlink(fresh.c_str());
  } catch (...) {  // out of memory: the file stays as it was
  }
}

scheduler::PoolState seeded_state(const scheduler::Plan& plan, const scheduler::Workload& workload,
                                  uint32_t pool, const Usage& usage) {
  scheduler::PoolState state = scheduler::initial_state(plan, workload, pool);
  if (plan.pools[pool].evict != scheduler::Evict::kForecast) return state;
  size_t layer = 0;
  for (const SegmentSpec& segment : workload.segments) {
    if (segment.kind != SegmentKind::kExperts) continue;
    const Usage::Layer& seen = usage.layers.at(layer++);
    const auto turn = std::find(state.turns.begin(), state.turns.end(), segment.id);
    if (turn == state.turns.end() || seen.rows == 0) continue;
    state.forecast.seed(static_cast<uint32_t>(turn - state.turns.begin()), seen.rows, seen.picks);
  }
  return state;
}

}  // namespace headrace::engine
