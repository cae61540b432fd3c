// The requests of a batch's input file. A first pass over the file keeps of every line where it is
// and how much it asks for, a few bytes; a second one reads the lines again, one at a time, when
// there is room for their requests. One thread.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "core/error.h"
#include "engine/batch_output.h"
#include "engine/generator.h"
#include "engine/line_file.h"
#include "engine/request_line.h"

namespace headrace::engine {

struct BatchCounts {
  uint64_t requests = 0;  // lines that are not blank
  uint64_t kept = 0;      // answered by an earlier run
  uint64_t errors = 0;    // of this run
  uint64_t finished = 0;  // by this run
};

class BatchInput final {
 public:
  // Reads all of `path`, skipping what `done` holds. `progress(bytes read, bytes in all)` may throw
  // to stop. Throws kInfeasible when what has to be kept of the lines exceeds `memory`.
  BatchInput(std::string path, const RequestReader& reader, const BatchOutput& done, Bytes memory,
             const std::function<void(Bytes, Bytes)>& progress);

  const BatchCounts& counts() const { return counts_; }
  size_t pending() const { return lines_.size(); }  // good and bad ones
  bool any_request() const { return any_request_; }
  const Demand& demand() const { return demand_; }
  uint64_t tokens_wanted() const { return tokens_wanted_; }  // to be generated at most

  // Lines that were pending, in order. `request` is empty for a bad one, whose `error` is a line of
  // output. nullopt: no more.
  struct Next {
    std::string id;
    std::optional<Request> request;
    std::string error;
  };
  std::optional<Next> next();

 private:
  struct Pending {
    uint64_t offset = 0, number = 0;
    uint32_t bytes = 0;
    bool repeated = false;
  };
  void scan(const Line& line, const BatchOutput& done, TextSet& ids);
  Request read(const std::string& text, const Pending& line, std::string& id) const;
  void add_demand(const Request& request, Bytes line_bytes);
  static std::string error_line(const std::string& id, uint64_t number, const Error& error);

  LineFile file_;
  const RequestReader& reader_;
  std::vector<Pending> lines_;
  size_t next_ = 0;
  BatchCounts counts_;
  Demand demand_;
  bool any_request_ = false;
  uint64_t tokens_wanted_ = 0, longest_ = 0;  // longest_: tokens of a request with its prompt
};

}  // namespace headrace::engine
