// Text as a prompt, and the memory that making ids of it takes: the budget holds from the first
// byte, and encoding comes before there is a plan.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "engine/cli/common.h"
#include "engine/model_folder.h"

namespace headrace::engine::cli {

// What encoding these texts takes at most, and keeps of the process: a part of the plan's base.
Bytes encoding_memory(std::span<const std::string> texts);

// Throws kInfeasible where texts that take `encoding` cannot even be encoded within the budget. The
// refusal names a budget that would do for a run as `demand` says, whose prompt is as many tokens
// as such texts could come to.
void check_encoding(const ModelFolder& model, Bytes tokenizer_bytes, Bytes encoding, Demand demand,
                    const SessionOptions& options);

// A file of text to be encoded, checked before it is read.
std::string read_text(const std::string& path, const ModelFolder& model, Bytes tokenizer_bytes,
                      const Demand& demand, const SessionOptions& options);
// Of stdin or a pipe, whose length shows at its end: what is too much is not kept.
std::string read_text(int descriptor, const std::string& name, const ModelFolder& model,
                      Bytes tokenizer_bytes, const Demand& demand, const SessionOptions& options);

// One sequence to be read, not continued: `--ids 1,2,3` or `-f FILE`.
struct SequenceFlags {
  std::string ids, file;
  const char* given() const { return ids.empty() ? "-f" : "--ids"; }  // for messages
};
void add_sequence_flags(CLI::App& command, SequenceFlags& flags);

struct Sequence {
  std::vector<int32_t> ids;
  Bytes memory = 0;  // of the process: of its tokenizer, and of what encoding took
};
Sequence read_sequence(const SequenceFlags& flags, const ModelFolder& model,
                       const SessionOptions& options);

}  // namespace headrace::engine::cli
