// A trace read back as a swap report: bytes by edge, kind and layer, predicted and counted; memory
// over time; lanes busy and stalled, by cause.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "core/json.h"
#include "core/tier.h"

namespace headrace::engine {

struct TraceReport {
  struct Row {
    std::string edge, kind;
    Bytes bytes = 0;  // counted
    uint64_t operations = 0;
    double busy_s = 0;
    Bytes predicted = 0;  // where the trace says what its run planned
  };
  struct LayerRow {
    int64_t layer = -1;  // -1: embedding and head
    std::string edge, kind;
    Bytes bytes = 0, predicted = 0;
  };
  struct Span {
    double begin_s = 0, end_s = 0;
    bool stalled = false;
  };
  struct Lane {
    std::string name;
    double busy_s = 0, stalled_s = 0;
    uint64_t events = 0;
    std::vector<Span> spans;  // in order; what lies closer than a picture can show is one
  };
  struct Level {  // of memory in use
    double time_s = 0;
    Bytes bytes = 0;
  };
  double seconds = 0;  // first begin to last end
  uint64_t dropped = 0;
  std::vector<Row> rows;
  std::vector<LayerRow> layers;  // by layer, edge, kind; empty when the trace does not say
  std::vector<Lane> lanes;
  std::map<std::string, std::vector<Level>> levels;  // by counter: "resident host"
  std::map<std::string, double> stalls_s;            // by cause
  std::map<std::string, double> compute_s;           // by segment kind: attention, mlp, head …
  json::object run;  // "otherData.run": model, passes, plan; empty in other programs' traces
};

// `path`: FILE.json or FILE.json.gz as `--trace` writes it. Throws kFormat, kIo.
TraceReport read_trace(const std::string& path);
std::string to_text(const TraceReport& report);
json::object to_json(const TraceReport& report);
// One page that loads nothing and runs no script: tables and pictures in SVG.
std::string to_html(const TraceReport& report);

}  // namespace headrace::engine
