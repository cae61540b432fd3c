// Generation through the library: prints the ids of the tokens that most likely follow a prompt of
// token ids, computed within a memory budget.
//
//   example_generate MODEL MEMORY STORE COUNT ID…
//   example_generate ~/models/Qwen3-8B 4GiB /tmp/stores 16 1 5 7
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "core/error.h"
#include "engine/generator.h"
#include "engine/model_folder.h"
#include "engine/session.h"

namespace {

using headrace::engine::Completion;
using headrace::engine::Generator;
using headrace::engine::ModelFolder;
using headrace::engine::Request;
using headrace::engine::Session;
using headrace::engine::SessionOptions;

void generate(const std::vector<std::string>& args) {
  ModelFolder folder = headrace::engine::open_model(args[0]);
  std::vector<Request> requests(1);
  requests[0].sampling.max_tokens = static_cast<uint32_t>(std::stoul(args[3]));
  for (size_t i = 4; i < args.size(); ++i) requests[0].prompt.push_back(std::stoi(args[i]));
  Generator::check(folder.config, requests);

  SessionOptions options;
  options.memory = headrace::parse_bytes(args[1]);  // none: 80 % of what is there
  options.store = args[2];
  const headrace::Bytes tokenizer_bytes = 0;  // ids in, ids out: none is loaded
  Session session(std::move(folder), tokenizer_bytes, options, Generator::demand(requests));
  for (const Completion& completion : Generator(session).run(requests)) {
    for (const int32_t id : completion.token_ids) std::printf("%d ", id);
    std::printf("\n");
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 6) {
    std::fprintf(stderr, "usage: %s MODEL MEMORY STORE COUNT ID…\n", argv[0]);
    return 2;
  }
  try {
    generate({argv + 1, argv + argc});
    return 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
