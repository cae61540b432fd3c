// The swap report as one HTML page: no script, nothing loaded, pictures in SVG.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "engine/profile.h"

namespace headrace::engine {

namespace {

constexpr double kWidth = 960;   // of a picture, in its own units
constexpr int kColumns = 480;    // of a lane's picture
constexpr size_t kPoints = 600;  // of a curve, at most
constexpr std::array kColours = {"#3b6fb6", "#d98b2b", "#4f9a6a", "#a3589f", "#8a8f98",
                                 "#c3b53a", "#57a5b5", "#b65b4f", "#7a6bc0", "#b9bec7"};

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
    }
  }
  return out;
}

std::string size_of(Bytes bytes) { return escaped(format_bytes(bytes)); }

// Members of a JSON object that a file brought: absent and of a wrong type are the same.
const json::object& inside(const json::object& object, const char* key) {
  static const json::object kNothing;
  const json::value* v = object.if_contains(key);
  return v && v->is_object() ? v->as_object() : kNothing;
}
std::string text_in(const json::object& object, const char* key) {
  const json::value* v = object.if_contains(key);
  return v && v->is_string() ? escaped(std::string(v->as_string())) : std::string();
}
double number_in(const json::object& object, const char* key) {
  const json::value* v = object.if_contains(key);
  const double number = v && v->is_number() ? v->to_number<double>() : 0;
  return std::isfinite(number) && number > 0 ? number : 0;
}
Bytes bytes_in(const json::object& object, const char* key) {
  return static_cast<Bytes>(std::min(number_in(object, key), 9e18));
}

// A horizontal bar, cut in parts.
struct Part {
  std::string name;
  Bytes bytes = 0;
};
std::string stacked_bar(const std::vector<Part>& parts) {
  Bytes total = 0;
  for (const Part& part : parts) total += part.bytes;
  if (total == 0) return "";
  std::string bar = fmt::format("<svg viewBox=\"0 0 {} 34\" role=\"img\">", kWidth), legend;
  double at = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (parts[i].bytes == 0) continue;
    const char* colour = kColours[i % kColours.size()];
    const double width = kWidth * static_cast<double>(parts[i].bytes) / static_cast<double>(total);
    bar += fmt::format(
        "<rect x=\"{:.2f}\" y=\"2\" width=\"{:.2f}\" height=\"30\" fill=\"{}\"><title>{} "
        "{}</title></rect>",
        at, width, colour, escaped(parts[i].name), size_of(parts[i].bytes));
    legend += fmt::format("<span><i style=\"background:{}\"></i>{} {}</span>", colour,
                          escaped(parts[i].name), size_of(parts[i].bytes));
    at += width;
  }
  return bar + "</svg><p class=\"legend\">" + legend + "</p>";
}

std::string head(const TraceReport& r) {
  const json::object& plan = inside(r.run, "plan");
  const std::string model = text_in(r.run, "model");
  std::string text = fmt::format("<h1>Swap report{}{}</h1>", model.empty() ? "" : ": ", model);
  text += fmt::format("<p>{:.3f} s traced", r.seconds);
  if (!plan.empty()) {
    text += fmt::format(", {:.0f} passes, policy <b>{}</b>, budget {}. {}.",
                        number_in(r.run, "passes"), text_in(plan, "policy"),
                        size_of(bytes_in(plan, "budget")), text_in(plan, "why"));
  }
  text += "</p>";
  if (r.dropped != 0) text += fmt::format("<p>{} events did not fit the trace.</p>", r.dropped);
  return text;
}

std::string bytes_table(const TraceReport& r) {
  std::string text =
      "<h2>Bytes</h2><table id=\"bytes\"><tr><th>edge</th><th>kind</th><th>predicted</th>"
      "<th>counted</th><th>difference</th><th>operations</th><th>a second</th></tr>";
  for (const TraceReport::Row& row : r.rows) {
    const Bytes difference =
        std::max(row.bytes, row.predicted) - std::min(row.bytes, row.predicted);
    const double rate = r.seconds > 0 ? static_cast<double>(row.bytes) / r.seconds : 0;
    text += fmt::format(
        "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}/s</td></tr>",
        escaped(row.edge), escaped(row.kind), row.predicted, row.bytes, difference, row.operations,
        size_of(static_cast<Bytes>(rate)));
  }
  text += "</table>";
  const json::object& plan = inside(r.run, "plan");
  if (plan.empty()) return text;
  const Bytes moved = bytes_in(plan, "bytes"), bound = bytes_in(plan, "bound_bytes");
  const double most = static_cast<double>(std::max<Bytes>({moved, bound, 1}));
  text +=
      "<p>A steady decode pass, beside the least that any schedule within the budget moves:</p>";
  text += fmt::format("<svg viewBox=\"0 0 {} 62\" role=\"img\">", kWidth);
  int y = 0;
  for (const auto& [name, bytes] : {std::pair{"plan", moved}, std::pair{"bound", bound}}) {
    text += fmt::format(
        "<rect x=\"0\" y=\"{}\" width=\"{:.2f}\" height=\"26\" fill=\"{}\"/><text x=\"8\" "
        "y=\"{}\">{} {}</text>",
        y + 2, std::max(1.0, kWidth * static_cast<double>(bytes) / most), kColours[y == 0 ? 0 : 4],
        y + 20, name, size_of(bytes));
    y += 32;
  }
  return text + "</svg>";
}

std::string memory_split(const TraceReport& r) {
  const json::object& memory = inside(inside(r.run, "plan"), "memory");
  std::vector<Part> parts;
  for (const auto& [key, value] : memory) {
    const std::string name(key);
    if (value.is_number()) parts.push_back({name, bytes_in(memory, name.c_str())});
  }
  const std::string bar = stacked_bar(parts);
  return bar.empty() ? "" : "<h2>Memory: how the budget is spent</h2>" + bar;
}

std::string memory_curve(const TraceReport& r) {
  Bytes most = bytes_in(inside(r.run, "plan"), "budget");
  for (const auto& [name, levels] : r.levels) {
    for (const TraceReport::Level& level : levels) most = std::max(most, level.bytes);
  }
  if (r.levels.empty() || most == 0 || r.seconds <= 0) return "";
  constexpr double kHeight = 160;
  std::string text = fmt::format(
      "<h2>Memory: weights held over time, of {}</h2><svg id=\"memory\" viewBox=\"0 0 {} {}\" "
      "role=\"img\"><rect width=\"{}\" height=\"{}\" class=\"back\"/>",
      size_of(most), kWidth, kHeight, kWidth, kHeight);
  std::string legend;
  size_t index = 0;
  for (const auto& [name, levels] : r.levels) {
    const char* colour = kColours[index++ % kColours.size()];
    const size_t step = levels.size() / kPoints + 1;
    std::string points;
    for (size_t i = 0; i < levels.size(); i += step) {
      points += fmt::format("{:.1f},{:.1f} ", kWidth * std::min(1.0, levels[i].time_s / r.seconds),
                            kHeight - (kHeight - 8) * static_cast<double>(levels[i].bytes) /
                                          static_cast<double>(most));
    }
    text += fmt::format("<polyline points=\"{}\" stroke=\"{}\" class=\"curve\"/>", points, colour);
    legend += fmt::format("<span><i style=\"background:{}\"></i>{} {}</span>", colour,
                          escaped(name), size_of(levels.back().bytes));
  }
  return text + "</svg><p class=\"legend\">" + legend + "</p>";
}

// Each column's share of time that a lane was busy, and of that it was stalled.
std::string lane_picture(const TraceReport::Lane& lane, double seconds) {
  std::vector<double> busy(kColumns), stalled(kColumns);
  const double width = seconds / kColumns;
  for (const TraceReport::Span& span : lane.spans) {
    const int first = std::clamp(static_cast<int>(span.begin_s / width), 0, kColumns - 1);
    const int last = std::clamp(static_cast<int>(span.end_s / width), 0, kColumns - 1);
    for (int c = first; c <= last; ++c) {
      const double from = std::max(span.begin_s, c * width);
      const double to = std::min(span.end_s, (c + 1) * width);
      (span.stalled ? stalled : busy)[static_cast<size_t>(c)] += std::max(0.0, to - from) / width;
    }
  }
  constexpr double kHeight = 40;
  std::string text = fmt::format(
      "<svg viewBox=\"0 0 {} {}\" role=\"img\"><rect width=\"{}\" "
      "height=\"{}\" class=\"back\"/>",
      kWidth, kHeight, kWidth, kHeight);
  const auto path = [&](const std::vector<double>& share, const char* colour) {
    std::string d;
    for (int c = 0; c < kColumns; ++c) {
      const double height = kHeight * std::min(1.0, share[static_cast<size_t>(c)]);
      if (height < 0.2) continue;
      d += fmt::format("M{} {}v{:.1f}h2V{}z", c * 2, kHeight, -height, kHeight);
    }
    return fmt::format("<path d=\"{}\" fill=\"{}\"/>", d, colour);
  };
  return text + path(busy, "#3b6fb6") + path(stalled, "#c8473a") + "</svg>";
}

std::string lanes(const TraceReport& r) {
  if (r.seconds <= 0) return "";
  std::string text =
      "<h2>Lanes</h2><p class=\"legend\"><span><i style=\"background:#3b6fb6\"></i>busy</span>"
      "<span><i style=\"background:#c8473a\"></i>stalled</span></p><table id=\"lanes\">"
      "<tr><th>lane</th><th>busy</th><th>stalled</th><th>over the run</th></tr>";
  for (const TraceReport::Lane& lane : r.lanes) {
    text += fmt::format(
        "<tr><td>{}</td><td>{:.1f} %</td><td>{:.1f} %</td><td class=\"wide\">{}</td></tr>",
        escaped(lane.name), 100 * lane.busy_s / r.seconds, 100 * lane.stalled_s / r.seconds,
        lane_picture(lane, r.seconds));
  }
  return text + "</table>";
}

std::string shares(const char* title, const char* id, const std::map<std::string, double>& of,
                   double seconds) {
  if (of.empty() || seconds <= 0) return "";
  std::string text = fmt::format(
      "<h2>{}</h2><table id=\"{}\"><tr><th></th><th>seconds</th><th>of the run</th></tr>", title,
      id);
  for (const auto& [name, s] : of) {
    text += fmt::format("<tr><td>{}</td><td>{:.3f}</td><td>{:.1f} %</td></tr>", escaped(name), s,
                        100 * s / seconds);
  }
  return text + "</table>";
}

std::string layer_table(const TraceReport& r) {
  if (r.layers.empty()) return "";
  Bytes most = 1;
  for (const TraceReport::LayerRow& row : r.layers)
    most = std::max({most, row.bytes, row.predicted});
  std::string text =
      "<h2>Bytes by layer</h2><table id=\"layers\"><tr><th>layer</th><th>edge</th><th>kind</th>"
      "<th>predicted</th><th>counted</th><th></th></tr>";
  for (const TraceReport::LayerRow& row : r.layers) {
    const double width = 300.0 * static_cast<double>(row.bytes) / static_cast<double>(most);
    text += fmt::format(
        "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td><svg class=\"bar\" "
        "viewBox=\"0 0 300 12\"><rect width=\"{:.1f}\" height=\"12\" fill=\"#3b6fb6\"/></svg></td>"
        "</tr>",
        row.layer < 0 ? std::string("ends") : std::to_string(row.layer), escaped(row.edge),
        escaped(row.kind), row.predicted, row.bytes, width);
  }
  return text + "</table>";
}

constexpr const char* kStyle =
    "body{font:15px/1.45 system-ui,sans-serif;max-width:1000px;margin:2em auto;padding:0 1em;"
    "color:#1d2129;background:#fff}h1{font-size:1.4em}h2{font-size:1.1em;margin-top:2em}"
    "table{border-collapse:collapse;width:100%}td,th{padding:.25em .6em;text-align:right;"
    "border-bottom:1px solid #8883;font-variant-numeric:tabular-nums;white-space:nowrap}"
    "td:first-child,th:first-child{text-align:left}td.wide{width:60%}svg{width:100%;height:auto;"
    "display:block}svg.bar{width:300px}svg text{font:14px system-ui,sans-serif;fill:#111;"
    "paint-order:stroke;stroke:#fff;stroke-width:3px}.back{fill:#8881}"
    ".curve{fill:none;stroke-width:2}.legend span{margin-right:1.2em;white-space:nowrap}"
    ".legend i{display:inline-block;width:.8em;height:.8em;margin-right:.35em}"
    "@media(prefers-color-scheme:dark){body{color:#dfe2e8;background:#16181d}}";

}  // namespace

std::string to_html(const TraceReport& r) {
  std::string text =
      "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Swap report</title>"
      "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">"
      "<link rel=\"icon\" href=\"data:,\"><style>";
  text += kStyle;
  text += "</style></head><body>";
  text += head(r) + bytes_table(r) + memory_split(r) + memory_curve(r) + lanes(r);
  text += shares("Stalls by cause", "stalls", r.stalls_s, r.seconds);
  text += shares("Compute by segment", "compute", r.compute_s, r.seconds);
  text += layer_table(r);
  return text + "</body></html>\n";
}

}  // namespace headrace::engine
