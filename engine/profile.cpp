#include "engine/profile.h"

#include <fmt/format.h>
#include <zlib.h>

#include <algorithm>
#include <memory>
#include <tuple>

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

// Events become what people look at; times count from the first event.
class Reader {
 public:
  explicit Reader(const json::object& other) {
    report_.dropped = static_cast<uint64_t>(number_of(other, "dropped"));
    const json::value* run = other.if_contains("run");
    if (run == nullptr || !run->is_object()) return;
    report_.run = run->as_object();
    layers_ = layers_of("object_layers");
    kv_layers_ = layers_of("kv_layers");
  }

  void event(const json::object& e) {
    const std::string phase = text_of(e, "ph"), name = text_of(e, "name");
    const auto lane_id = static_cast<int64_t>(number_of(e, "tid"));
    const json::value* args = e.if_contains("args");
    const json::object* inner = args && args->is_object() ? &args->as_object() : nullptr;
    const double begin = number_of(e, "ts") * 1e-6, seconds = number_of(e, "dur") * 1e-6;
    if (phase == "M" && name == "thread_name" && inner)
      lanes_[lane_id].name = text_of(*inner, "name");
    if (phase == "C" && inner) {
      report_.levels[name].push_back({begin, static_cast<Bytes>(number_of(*inner, "bytes"))});
    }
    if (phase != "X") return;
    first_ = std::min(first_, begin);
    last_ = std::max(last_, begin + seconds);
    TraceReport::Lane& lane = lanes_[lane_id];
    ++lane.events;
    const bool stalled = name.starts_with("stall: ");
    add_span(lane, {begin, begin + seconds, stalled});
    if (stalled) {
      lane.stalled_s += seconds;
      report_.stalls_s[name.substr(7)] += seconds;
      return;
    }
    lane.busy_s += seconds;
    if (inner == nullptr || text_of(*inner, "edge").empty()) {
      const size_t dot = name.rfind('.');
      report_.compute_s[dot == std::string::npos ? name : name.substr(dot + 1)] += seconds;
      return;
    }
    transfer(*inner, seconds);
  }

  TraceReport finish() {
    add_predicted();
    for (auto& [id, lane] : lanes_) report_.lanes.push_back(std::move(lane));
    report_.seconds = last_ > first_ ? last_ - first_ : 0;
    for (TraceReport::Lane& lane : report_.lanes) {
      for (TraceReport::Span& span : lane.spans) span.begin_s -= first_, span.end_s -= first_;
    }
    for (auto& [name, levels] : report_.levels) {
      for (TraceReport::Level& level : levels) level.time_s = std::max(0.0, level.time_s - first_);
    }
    const auto key = [](const TraceReport::LayerRow& r) {
      return std::tie(r.layer, r.edge, r.kind);
    };
    std::sort(report_.layers.begin(), report_.layers.end(),
              [&](const auto& a, const auto& b) { return key(a) < key(b); });
    return std::move(report_);
  }

 private:
  std::vector<int64_t> layers_of(const char* list) const {
    std::vector<int64_t> out;
    const json::value* layers = report_.run.if_contains(list);
    if (layers == nullptr || !layers->is_array()) return out;
    for (const json::value& v : layers->as_array()) {
      out.push_back(v.is_int64() ? v.as_int64() : v.is_uint64() ? int64_t(v.as_uint64()) : -1);
    }
    return out;
  }

  // Spans of a kind that lie closer together than a ten-thousandth of what was seen are one.
  void add_span(TraceReport::Lane& lane, TraceReport::Span span) {
    const double close = (last_ - first_) * 1e-4;
    if (!lane.spans.empty()) {
      TraceReport::Span& before = lane.spans.back();
      if (before.stalled == span.stalled && span.begin_s - before.end_s < close) {
        before.end_s = std::max(before.end_s, span.end_s);
        return;
      }
    }
    lane.spans.push_back(span);
  }

  TraceReport::Row& row_of(const std::string& edge, const std::string& kind) {
    for (TraceReport::Row& row : report_.rows) {
      if (row.edge == edge && row.kind == kind) return row;
    }
    return report_.rows.emplace_back(TraceReport::Row{.edge = edge, .kind = kind});
  }
  TraceReport::LayerRow& row_of(int64_t layer, const std::string& edge, const std::string& kind) {
    for (TraceReport::LayerRow& row : report_.layers) {
      if (row.layer == layer && row.edge == edge && row.kind == kind) return row;
    }
    return report_.layers.emplace_back(
        TraceReport::LayerRow{.layer = layer, .edge = edge, .kind = kind});
  }

  void transfer(const json::object& args, double seconds) {
    const std::string edge = text_of(args, "edge"), kind = text_of(args, "kind");
    const auto bytes = static_cast<Bytes>(number_of(args, "bytes"));
    TraceReport::Row& row = row_of(edge, kind);
    row.bytes += bytes;
    row.busy_s += seconds;
    ++row.operations;
    const auto object = static_cast<size_t>(number_of(args, "object"));
    const std::vector<int64_t>& layers = kind == name_of(Kind::kKv) ? kv_layers_ : layers_;
    if (args.contains("object") && object < layers.size()) {
      row_of(layers[object], edge, kind).bytes += bytes;
    }
  }

  void add_predicted() {
    const auto each = [&](const char* list, const auto& body) {
      const json::value* v = report_.run.if_contains(list);
      if (v == nullptr || !v->is_array()) return;
      for (const json::value& row : v->as_array()) {
        if (row.is_object()) body(row.as_object());
      }
    };
    each("swap", [&](const json::object& o) {
      row_of(text_of(o, "edge"), text_of(o, "kind")).predicted =
          static_cast<Bytes>(number_of(o, "predicted_bytes"));
    });
    each("layers", [&](const json::object& o) {
      row_of(static_cast<int64_t>(number_of(o, "layer")), text_of(o, "edge"), text_of(o, "kind"))
          .predicted += static_cast<Bytes>(number_of(o, "predicted_bytes"));
    });
  }

  TraceReport report_;
  std::map<int64_t, TraceReport::Lane> lanes_;
  std::vector<int64_t> layers_;     // by object
  std::vector<int64_t> kv_layers_;  // by array of the scratch file
  double first_ = 1e30, last_ = 0;
};

}  // namespace

TraceReport read_trace(const std::string& path) {
  const json::value value = parse_json(read_maybe_gzip(path), path, {.bytes_max = kTraceBytesMax});
  const json::object* file = value.is_object() ? &value.as_object() : nullptr;
  const json::value* events = file ? file->if_contains("traceEvents") : nullptr;
  if (events == nullptr || !events->is_array()) {
    throw Error(
        ErrorCode::kFormat,
        fmt::format("{}: no traceEvents; give a file that `headrace profile -o` wrote", path))
        .at_path(path);
  }
  const json::value* other = file->if_contains("otherData");
  Reader reader(other && other->is_object() ? other->as_object() : json::object());
  for (const json::value& e : events->as_array()) {
    if (e.is_object()) reader.event(e.as_object());
  }
  return reader.finish();
}

std::string to_text(const TraceReport& r) {
  std::string text =
      fmt::format("traced {:.3f} s\n\n{:<14} {:<12} {:>16} {:>16} {:>11} {:>12}\n", r.seconds,
                  "edge", "kind", "predicted", "counted", "operations", "rate");
  for (const TraceReport::Row& row : r.rows) {
    const double rate = r.seconds > 0 ? static_cast<double>(row.bytes) / r.seconds : 0;
    text += fmt::format("{:<14} {:<12} {:>16} {:>16} {:>11} {:>10}/s\n", row.edge, row.kind,
                        row.predicted, row.bytes, row.operations,
                        format_bytes(static_cast<Bytes>(rate)));
  }
  if (const json::value* plan = r.run.if_contains("plan"); plan && plan->is_object()) {
    const auto bytes = [&](const char* key) {
      return format_bytes(static_cast<Bytes>(number_of(plan->as_object(), key)));
    };
    text += fmt::format("a decode pass moves {}; no schedule within {} moves less than {}\n",
                        bytes("bytes"), bytes("budget"), bytes("bound_bytes"));
  }
  if (!r.layers.empty()) {
    text += fmt::format("\n{:<8} {:<14} {:<12} {:>16} {:>16}\n", "layer", "edge", "kind",
                        "predicted", "counted");
  }
  for (const TraceReport::LayerRow& row : r.layers) {
    text += fmt::format("{:<8} {:<14} {:<12} {:>16} {:>16}\n",
                        row.layer < 0 ? "ends" : std::to_string(row.layer), row.edge, row.kind,
                        row.predicted, row.bytes);
  }
  if (r.dropped != 0) text += fmt::format("\n{} events did not fit the trace\n", r.dropped);
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
                                {"predicted_bytes", row.predicted},
                                {"operations", row.operations}});
  }
  json::array layers;
  for (const TraceReport::LayerRow& row : r.layers) {
    layers.push_back(json::object{{"layer", row.layer},
                                  {"edge", row.edge},
                                  {"kind", row.kind},
                                  {"bytes", row.bytes},
                                  {"predicted_bytes", row.predicted}});
  }
  for (const TraceReport::Lane& l : r.lanes) {
    lanes.push_back(json::object{
        {"name", l.name}, {"busy_s", l.busy_s}, {"stalled_s", l.stalled_s}, {"events", l.events}});
  }
  json::object stalls, compute;
  for (const auto& [cause, seconds] : r.stalls_s) stalls[cause] = seconds;
  for (const auto& [name, seconds] : r.compute_s) compute[name] = seconds;
  return {{"seconds", r.seconds}, {"dropped", r.dropped}, {"swap", rows},      {"layers", layers},
          {"lanes", lanes},       {"stall", stalls},      {"compute", compute}};
}

}  // namespace headrace::engine
