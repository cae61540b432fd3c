// What a run of requests puts out: the text of each as its tokens come, the JSON of what came, and
// the JSON of the run itself.
#pragma once

#include <fstream>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/json.h"
#include "engine/cli/common.h"
#include "engine/generator.h"
#include "engine/stop.h"

namespace headrace::engine::cli {

struct Output {  // one choice of a request
  std::string text;
  Completion completion;
};

// Turns tokens into text, ends outputs at their stop strings, and gathers a request's choices.
class TextSink : public TokenSink {
 public:
  explicit TextSink(const Tokenizer* tokenizer) : tokenizer_(tokenizer) {}
  bool token(const Request& request, uint32_t choice, int32_t id) final;
  void done(const Request& request, uint32_t choice, Completion&& completion) final;

 protected:
  virtual void settled(const Request&, std::string_view) {}  // text that will not change any more
  virtual void finished(const Request& request, std::vector<Output>&& outputs) = 0;

 private:
  struct Running {
    std::vector<Output> outputs;
    std::vector<std::unique_ptr<StopMatcher>> texts;
    uint32_t left = 0;
  };
  Running& running(const Request& request);
  StopMatcher* text_of(Running& running, const Request& request, uint32_t choice);

  const Tokenizer* tokenizer_;
  std::unordered_map<uint64_t, Running> running_;  // by number
};

json::object output_json(const Output& output, uint64_t index);
// What every run reports; `first` are members that come before it, `model` excepted.
json::object run_json(Session& session, const Generator& generator, json::object first);
// What the model's own settings ask for and this version leaves out is said, not passed over.
void warn_of_settings(const ModelFolder& folder, const Common& common);
void log_summary(Session& session, const Generator& generator, const Common& common);

// A line per pass of --route-trace: {"pass", "layers": [[expert ids per row] …]}.
class RouteTrace {
 public:
  explicit RouteTrace(const std::string& path);  // opens it; no path: no trace
  void watch(Session& session);
  void finish();  // throws where a line could not be written

 private:
  void flush();
  void check() const;

  std::string path_;
  Session* session_ = nullptr;
  std::ofstream file_;
  json::array layers_;
  uint64_t pass_ = 0;
};

}  // namespace headrace::engine::cli
