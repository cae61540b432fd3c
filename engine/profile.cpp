#include "engine/profile.h"

#include <fmt/format.h>
#include <zlib.h>

#include <algorithm>
#include <memory>

#include "core/error.h"

namespace headrace::engine {

namespace {

constexpr Bytes kTraceBytesMax = 2 * kGiB;

std::string read_maybe_gzip(const std::string& path) {
  const std::unique_ptr<gzFile_s, int (*)(gzFile)> file(gzopen(path.c_str(), "rb"), gzclose);
  if (!file)
    throw Error(ErrorCode::kIo, fmt::format("{}: cannot be read; check the path", path))
        .at_path(path);
  std::string text;
  std::vector<char> room(1 << 20);
  while (true) {
    const int n = gzread(file.get(), room.data(), static_cast<unsigned>(room.size()));
    if (n < 0 || text.size() + static_cast<size_t>(std::max(n, 0)) > kTraceBytesMax) {
      throw Error(ErrorCode::kFormat,
                  fmt::format("{}: damaged or too large; record it again", path))
          .at_path(path);
    }
    if (n == 0) return text;
    text.append(room.data(), static_cast<size_t>(n));
  }
}

std::string text_of(const json::object& object, const char* key) {
  const json::value* v = object.if_contains(key);
  return v && v->is_string() ? std::string(v->as_string()) : std::string();
}

double number_of(const json::object& object, const char* key) {
  const json::value* v = object.if_contains(key);
  return v && v->is_number() ? v->to_number<double>() : 0;
}

class Reader {
 public:
  void event(const json::object& e) {
    const std::string phase = text_of(e, "ph");
    const auto lane_id = static_cast<int64_t>(number_of(e, "tid"));
    if (phase == "M" && text_of(e, "name") == "thread_name") {
      if (const json::value* args = e.if_contains("args"); args && args->is_object()) {
        lanes_[lane_id].name = text_of(args->as_object(), "name");
      }
    }
    if (phase != "X") return;
    const double begin = number_of(e, "ts") * 1e-6, seconds = number_of(e, "dur") * 1e-6;
    first_ = std::min(first_, begin);
    last_ = std::max(last_, begin + seconds);
    const std::string name = text_of(e, "name");
    TraceReport::Lane& lane = lanes_[lane_id];
    ++lane.events;
    if (name.starts_with("stall: ")) {
      lane.stalled_s += seconds;
      report_.stalls_s[name.substr(7)] += seconds;
      return;
    }
    lane.busy_s += seconds;
    const json::value* args = e.if_contains("args");
    if (args == nullptr || !args->is_object() || text_of(args->as_object(), "edge").empty()) {
      const size_t dot = name.rfind('.');
      report_.compute_s[dot == std::string::npos ? name : name.substr(dot + 1)] += seconds;
      return;
    }
    transfer(args->as_object(), seconds);
  }

  TraceReport finish() {
    for (auto& [id, lane] : lanes_) report_.lanes.push_back(lane);
    report_.seconds = last_ > first_ ? last_ - first_ : 0;
    return report_;
  }

 private:
  void transfer(const json::object& args, double seconds) {
    const std::string edge = text_of(args, "edge"), kind = text_of(args, "kind");
    auto row =
        std::find_if(report_.rows.begin(), report_.rows.end(),
                     [&](const TraceReport::Row& r) { return r.edge == edge && r.kind == kind; });
    if (row == report_.rows.end()) row = report_.rows.insert(row, {.edge = edge, .kind = kind});
    row->bytes += static_cast<Bytes>(number_of(args, "bytes"));
    row->busy_s += seconds;
    ++row->operations;
  }

  TraceReport report_;
  std::map<int64_t, TraceReport::Lane> lanes_;
  double first_ = 1e30, last_ = 0;
};

}  // namespace

TraceReport read_trace(const std::string& path) {
  const json::value value = parse_json(read_maybe_gzip(path), path, {.bytes_max = kTraceBytesMax});
  const json::value* events =
      value.is_object() ? value.as_object().if_contains("traceEvents") : nullptr;
  if (events == nullptr || !events->is_array()) {
    throw Error(
        ErrorCode::kFormat,
        fmt::format("{}: no traceEvents; give a file that `headrace profile -o` wrote", path))
        .at_path(path);
  }
  Reader reader;
  for (const json::value& e : events->as_array()) {
    if (e.is_object()) reader.event(e.as_object());
  }
  return reader.finish();
}

std::string to_text(const TraceReport& r) {
  std::string text = fmt::format("traced {:.3f} s\n\n{:<14} {:<12} {:>16} {:>11} {:>12}\n",
                                 r.seconds, "edge", "kind", "bytes", "operations", "rate");
  for (const TraceReport::Row& row : r.rows) {
    const double rate = r.seconds > 0 ? static_cast<double>(row.bytes) / r.seconds : 0;
    text += fmt::format("{:<14} {:<12} {:>16} {:>11} {:>10}/s\n", row.edge, row.kind, row.bytes,
                        row.operations, format_bytes(static_cast<Bytes>(rate)));
  }
  text += fmt::format("\n{:<14} {:>10} {:>10} {:>8}\n", "lane", "busy s", "stalled s", "events");
  for (const TraceReport::Lane& lane : r.lanes) {
    text += fmt::format("{:<14} {:>10.3f} {:>10.3f} {:>8}\n", lane.name, lane.busy_s,
                        lane.stalled_s, lane.events);
  }
  text += "\ncompute by segment, s:";
  for (const auto& [name, seconds] : r.compute_s) text += fmt::format("  {} {:.3f}", name, seconds);
  text += "\nstalls by cause, s:";
  for (const auto& [cause, seconds] : r.stalls_s)
    text += fmt::format("  {} {:.3f}", cause, seconds);
  return text + "\n";
}

json::object to_json(const TraceReport& r) {
  json::array rows, lanes;
  for (const TraceReport::Row& row : r.rows) {
    rows.push_back(json::object{{"edge", row.edge},
                                {"kind", row.kind},
                                {"bytes", row.bytes},
                                {"operations", row.operations}});
  }
  for (const TraceReport::Lane& l : r.lanes) {
    lanes.push_back(json::object{
        {"name", l.name}, {"busy_s", l.busy_s}, {"stalled_s", l.stalled_s}, {"events", l.events}});
  }
  json::object stalls, compute;
  for (const auto& [cause, seconds] : r.stalls_s) stalls[cause] = seconds;
  for (const auto& [name, seconds] : r.compute_s) compute[name] = seconds;
  return {{"seconds", r.seconds},
          {"swap", rows},
          {"lanes", lanes},
          {"stall", stalls},
          {"compute", compute}};
}

}  // namespace headrace::engine
