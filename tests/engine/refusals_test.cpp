// What a run is given and cannot trust: weights that change, types that are no weights, plans that
// say other than they need, stores of the future, machines that do not exist, folders that cannot
// be written. Each ends in an error that says so, or in a run that does without.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>

#include "core/safetensors.h"
#include "engine/calibrate.h"
#include "swap/manifest.h"
#include "tests/engine/small_models.h"
#include "tests/support/seed.h"
#include "tests/support/temp_folder.h"

namespace headrace {
namespace {

using engine::SessionOptions;

struct Fixture {
  explicit Fixture(uint64_t stream) : random(test::seed(), stream) {
    test::make_model(model, random, "llama", "float32");
    options.store = folder.path_of("stores");
    options.cache = folder.path_of("cache");
    options.memory = kGiB;
    requests = {{{1, 2, 3}, {.max_tokens = 3, .ignore_eos = true}, {}}};
  }
  std::vector<std::vector<int32_t>> run() { return test::run({model, options, requests}).tokens; }
  std::string store() const {
    return options.store + "/" + engine::store_key(engine::open_model(model));
  }

  Random random;
  test::TempFolder folder;
  std::string model = folder.path_of("m");
  SessionOptions options;
  std::vector<engine::Request> requests;
};

Error error_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& e) {
    return e;
  }
  ADD_FAILURE() << "nothing was refused";
  return Error(ErrorCode::kFailed, "");
}

std::string text_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void write_text(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

// Rewrites the one shard so that the final norm is of `type`, with zeros for values.
void retype_norm(const std::string& model, const char* type, size_t element) {
  const std::string path = model + "/model.safetensors";
  const std::string file = text_of(path);
  uint64_t header = 0;
  std::memcpy(&header, file.data(), sizeof header);
  json::object tensors = parse_json(file.substr(8, header), path).as_object();
  std::string data;
  for (auto& [name, value] : tensors) {
    if (name == "__metadata__") continue;
    json::object& tensor = value.as_object();
    const json::array& span = tensor["data_offsets"].as_array();
    std::string bytes =
        file.substr(8 + header + span[0].to_number<uint64_t>(),
                    (span[1].to_number<uint64_t>() - span[0].to_number<uint64_t>()));
    if (name == "model.norm.weight") {
      tensor["dtype"] = type;
      bytes.assign(tensor["shape"].as_array()[0].to_number<uint64_t>() * element, '\0');
    }
    tensor["data_offsets"] = json::array{data.size(), data.size() + bytes.size()};
    data += bytes;
  }
  const std::string text = to_text(tensors);
  const uint64_t size = text.size();
  std::string out(reinterpret_cast<const char*>(&size), sizeof size);
  write_text(path, out + text + data);
}

TEST(Refused, NormsThatAreNoFloatsOfWeights) {
  for (const auto& [type, element] : {std::pair{"F64", 8}, {"I64", 8}, {"U8", 1}, {"I16", 2}}) {
    SCOPED_TRACE(type);
    Fixture f(20);
    retype_norm(f.model, type, static_cast<size_t>(element));
    const Error error = error_of([&] { f.run(); });
    EXPECT_EQ(error.code(), ErrorCode::kUnsupported) << error.what();
    EXPECT_EQ(error.field(), "model.norm.weight");
  }
  Fixture f(20);
  retype_norm(f.model, "BF16", 2);
  EXPECT_NO_THROW(f.run());
}

TEST(Refused, AHeadBesidesThatIsNotTheEmbeddingItIsTiedTo) {
  Fixture f(27);
  json::object shape = test::random_shape(f.random, "llama");
  shape["tie_word_embeddings"] = false;
  f.model = f.folder.path_of("untied");
  engine::synthesize(f.model, {.family = "llama", .set = shape, .dtype = "float32"}, {});
  json::object config = read_json(f.model + "/config.json").as_object();
  config["tie_word_embeddings"] = true;
  write_text(f.model + "/config.json", to_text(config));
  const auto refuse = [&] {
    const Error error = error_of([&] { f.run(); });
    EXPECT_EQ(error.code(), ErrorCode::kFormat) << error.what();
    EXPECT_EQ(error.field(), "lm_head.weight");
    EXPECT_NE(std::string(error.what()).find("tie_word_embeddings"), std::string::npos);
    EXPECT_FALSE(std::filesystem::exists(f.store() + "/super"));
  };
  refuse();
  const SafetensorsFolder files = open_safetensors(f.model);
  const TensorInfo& embedding = *files.find("model.embed_tokens.weight");
  const TensorInfo& head = *files.find("lm_head.weight");
  std::string bytes = text_of(f.model + "/model.safetensors");
  bytes.replace(head.offset, head.bytes, bytes, embedding.offset, embedding.bytes);
  bytes[head.offset + head.bytes - 1] ^= 1;
  write_text(f.model + "/model.safetensors", bytes);
  refuse();
  bytes[head.offset + head.bytes - 1] ^= 1;
  write_text(f.model + "/model.safetensors", bytes);
  EXPECT_NO_THROW(f.run());
}

TEST(Refused, WeightsThatChangeWhileTheStoreIsMade) {
  Fixture f(21);
  bool changed = false;
  f.options.progress = [&](std::string_view what, Bytes, Bytes) {
    if (what != "prepare" || changed) return;
    changed = true;
    std::filesystem::last_write_time(f.model + "/model.safetensors",
                                     std::filesystem::file_time_type::clock::now());
  };
  const Error error = error_of([&] { f.run(); });
  EXPECT_EQ(error.code(), ErrorCode::kFailed);
  EXPECT_NE(std::string(error.what()).find("changed while"), std::string::npos) << error.what();
  EXPECT_FALSE(std::filesystem::exists(f.store() + "/super"));
  EXPECT_NO_THROW(f.run());
}

TEST(Refused, AStoreOfANewerVersionIsLeftAlone) {
  Fixture f(22);
  f.run();
  const std::string super = f.store() + "/super";
  std::string bytes = text_of(super);
  for (size_t slot = 0; slot < 2; ++slot) {
    std::span<std::byte> at(reinterpret_cast<std::byte*>(bytes.data()) + slot * swap::kSlotBytes,
                            swap::kSlotBytes);
    swap::Superblock block;
    ASSERT_EQ(swap::decode_slot(at, block), swap::SlotState::kValid);
    block.version = swap::kStoreVersion + 1;
    swap::encode_slot(block, at);
  }
  write_text(super, bytes);
  const Error error = error_of([&] { f.run(); });
  EXPECT_EQ(error.code(), ErrorCode::kUnsupported) << error.what();
  EXPECT_NE(std::string(error.what()).find("newer"), std::string::npos) << error.what();
  EXPECT_EQ(text_of(super), bytes);
}

TEST(Refused, PlansWhoseFiguresCannotBe) {
  Fixture f(23);
  engine::Session whole(engine::open_model(f.model), 0, f.options,
                        engine::Generator::demand(f.requests));
  const std::vector<std::pair<const char*, std::function<void(scheduler::Plan&)>>> cases{
      {"no outputs", [](scheduler::Plan& p) { p.outputs_max = 0; }},
      {"more outputs than rows", [](scheduler::Plan& p) { p.outputs_max = p.rows_max + 1; }},
      {"rows", [](scheduler::Plan& p) { p.rows_max = ~0u; }},
      {"rows and outputs", [](scheduler::Plan& p) { p.rows_max = p.outputs_max = ~0u; }},
      {"KV", [](scheduler::Plan& p) { p.kv_blocks = ~0u; }},
      {"no KV", [](scheduler::Plan& p) { p.kv_blocks = 0; }},
      {"budget", [](scheduler::Plan& p) { p.budget = p.memory.slack = ~Bytes{0}; }},
  };
  f.options.plan_file = f.folder.path_of("plan.txt");
  for (const bool with_budget : {true, false}) {
    if (!with_budget) f.options.memory.reset();
    for (const auto& [name, change] : cases) {
      SCOPED_TRACE(name);
      scheduler::Plan plan = whole.plan();
      change(plan);
      write_text(f.options.plan_file, scheduler::print_plan(plan));
      const Error error = error_of([&] { f.run(); });
      EXPECT_EQ(error.code(), ErrorCode::kFormat) << error.what();
    }
  }
}

// A plan knows of no trace: its memory comes out of the plan's slack, or is refused.
TEST(Plans, MakeRoomForWhatTheRunTakesBesides) {
  Fixture f(24);
  const auto expected = f.run();
  engine::Session whole(engine::open_model(f.model), 0, f.options,
                        engine::Generator::demand(f.requests));
  f.options.plan_file = f.folder.path_of("plan.txt");
  write_text(f.options.plan_file, scheduler::print_plan(whole.plan()));
  f.options.trace_file = f.folder.path_of("trace.json");
  engine::Session traced(engine::open_model(f.model), 0, f.options,
                         engine::Generator::demand(f.requests));
  EXPECT_EQ(traced.plan().memory.total(), traced.plan().budget);
  EXPECT_EQ(traced.plan().budget, kGiB);
  EXPECT_GT(traced.plan().memory.base, whole.plan().memory.base);
  EXPECT_EQ(engine::Generator(traced).run(f.requests)[0].token_ids, expected[0]);
}

TEST(Refused, MachinesWhoseTimesAreNoNumbers) {
  Fixture f(25);
  f.run();
  const std::string good = text_of(f.options.cache + "/machine.json");
  json::object machine = parse_json(good, "machine").as_object();
  f.options.machine_file = f.folder.path_of("machine.json");
  for (const double rate : {1e-308, 1e300, 0.0, -1.0}) {
    json::object bad = machine;
    bad["edges"].as_array()[0].as_object()["Bps"] = rate;
    write_text(f.options.machine_file, to_text(bad));
    EXPECT_EQ(error_of([&] { f.run(); }).code(), ErrorCode::kFormat) << rate;
  }
  machine["cpu"].as_object()["threads"] = 1e300;
  write_text(f.options.machine_file, to_text(machine));
  EXPECT_EQ(error_of([&] { f.run(); }).code(), ErrorCode::kFormat);
}

// The cache only saves time: a run whose cache and scratch folder cannot be made still runs.
TEST(Calibration, RunsWhereNothingCanBeWritten) {
  Fixture f(26);
  write_text(f.folder.path_of("file"), "no folder");
  ThreadPool pool(1);
  const scheduler::Machine machine =
      engine::calibrate({.cache_file = f.folder.path_of("file") + "/machine.json",
                         .scratch_folder = f.folder.path_of("file") + "/stores"},
                        kernels::kernels_for("auto"), pool);
  EXPECT_GT(machine.matmul_flops_f32, 0);
  EXPECT_EQ(machine.rate({Tier::kDisk, Tier::kHost})->bytes_per_s, 1e9);
  f.options.cache = f.folder.path_of("file") + "/cache";
  EXPECT_NO_THROW(f.run());
}

}  // namespace
}  // namespace headrace
