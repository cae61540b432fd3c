#include "engine/cli/prompt_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <utility>

#include "engine/limits.h"

namespace headrace::engine::cli {

namespace {

// What encoding takes for each byte of valid text, at most: a tokenizer that does not split at
// spaces takes 28 (text of 5 MB, peak of the process).
constexpr Bytes kEncodingBytes = 30;
// That the base has room for. The budget of a run on so little text is its plan's to refuse.
constexpr Bytes kSmall = 1 * kMiB;
constexpr Bytes kTextMost = 64 * kMiB;

}  // namespace

Bytes encoding_memory(std::span<const std::string> texts) {
  Bytes bytes = 0;
  for (const std::string& text : texts) bytes += lossless(text).size();
  return kEncodingBytes * bytes;
}

void check_encoding(const ModelFolder& model, Bytes tokenizer_bytes, Bytes encoding, Demand demand,
                    const SessionOptions& options) {
  const Bytes least = tokenizer_bytes + encoding;
  const Bytes base = base_bytes(least, 0, model.config.vocab_size);
  if (encoding <= kSmall || base <= memory_budget(options)) return;
  SessionOptions planned = options;
  planned.plan_file.clear();
  const Bytes most = model.config.longest_text();
  const Bytes tokens = std::min<Bytes>(encoding / kEncodingBytes, most);
  demand.prompt_tokens = {static_cast<uint32_t>(tokens)};
  demand.max_tokens = {static_cast<uint32_t>(std::min<Bytes>(demand.max_tokens[0], most - tokens))};
  ThreadPool pool(options.threads != 0 ? options.threads : available_threads());
  // Throws what the run would need: its base alone is beyond the budget.
  make_plan(model.config, model.name, least, planned, demand, kernels::kernels_for(options.isa),
            pool, "");
}

std::string read_text(const std::string& path, const ModelFolder& model, Bytes tokenizer_bytes,
                      const Demand& demand, const SessionOptions& options) {
  if (std::error_code unknown; std::filesystem::is_fifo(path, unknown)) {
    const std::unique_ptr<std::FILE, int (*)(std::FILE*)> pipe(std::fopen(path.c_str(), "re"),
                                                               std::fclose);
    throw_if_stopped();
    if (pipe != nullptr) {
      return read_text(::fileno(pipe.get()), path, model, tokenizer_bytes, demand, options);
    }
  }
  std::error_code none;  // not a plain file: reading it says what it is
  const Bytes bytes = std::filesystem::file_size(path, none);
  if (!none && bytes <= kTextMost) {
    check_encoding(model, tokenizer_bytes, kEncodingBytes * bytes, demand, options);
  }
  return read_file(path, kTextMost);
}

std::string read_text(int descriptor, const std::string& name, const ModelFolder& model,
                      Bytes tokenizer_bytes, const Demand& demand, const SessionOptions& options) {
  // Beyond this check_encoding() refuses.
  const Bytes keep = std::max(kSmall, memory_budget(options)) / kEncodingBytes;
  StreamText read = read_stream(descriptor, name, keep, kTextMost);
  check_encoding(model, tokenizer_bytes, kEncodingBytes * read.bytes, demand, options);
  return std::move(read.text);
}

void add_sequence_flags(CLI::App& command, SequenceFlags& flags) {
  CLI::Option* ids = command.add_option("--ids", flags.ids, "token ids: 1,2,3");
  CLI::Option* file = command.add_option("-f,--file", flags.file, "text file");
  ids->excludes(file);
}

Sequence read_sequence(const SequenceFlags& flags, const ModelFolder& model,
                       const SessionOptions& options) {
  Sequence out{.memory = tokenizer_memory(model.path)};
  if (!flags.ids.empty()) {
    out.ids = parse_ids(flags.ids);
    out.memory += 2 * out.ids.size() * sizeof(out.ids[0]);
    return out;
  }
  if (flags.file.empty()) {
    throw Error(ErrorCode::kUsage, "text: none given; give -f or --ids").at_field("-f");
  }
  const std::unique_ptr<Tokenizer> tokenizer = load_tokenizer(model.path);
  if (tokenizer == nullptr) {
    throw Error(ErrorCode::kUsage, fmt::format("{}: no tokenizer.json; give --ids", model.path))
        .at_path(model.path);
  }
  const Demand demand{.max_tokens = {0}, .all_logits = true};
  const std::string text = read_text(flags.file, model, out.memory, demand, options);
  const Bytes encoding = encoding_memory({&text, 1});
  check_encoding(model, out.memory, encoding, demand, options);
  out.ids = tokenizer->encode(text);
  out.memory += encoding;
  return out;
}

}  // namespace headrace::engine::cli
