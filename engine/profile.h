// A trace read back as a swap report: bytes by edge and kind, lanes busy and stalled, by cause.
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
    Bytes bytes = 0;
    uint64_t operations = 0;
    double busy_s = 0;
  };
  struct Lane {
    std::string name;
    double busy_s = 0, stalled_s = 0;
    uint64_t events = 0;
  };
  double seconds = 0;  // first begin to last end
  std::vector<Row> rows;
  std::vector<Lane> lanes;
  std::map<std::string, double> stalls_s;   // by cause
  std::map<std::string, double> compute_s;  // by segment kind: attention, mlp, head …
};

// `path`: FILE.json or FILE.json.gz as `--trace` writes it. Throws kFormat, kIo.
TraceReport read_trace(const std::string& path);
std::string to_text(const TraceReport& report);
json::object to_json(const TraceReport& report);

}  // namespace headrace::engine
