// Logits and greedy tokens of every golden folder against transformers (tests/golden).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <set>

#include "core/json.h"
#include "tests/models/in_memory.h"

namespace headrace::models {
namespace {

struct Golden {
  std::vector<int32_t> prompt, greedy;
  std::vector<float> logits;  // [prompt, vocabulary]
};

std::vector<int32_t> ids_of(const json::value& list) {
  std::vector<int32_t> ids;
  for (const json::value& id : list.as_array()) ids.push_back(static_cast<int32_t>(id.as_int64()));
  return ids;
}

Golden read_golden(const std::string& folder) {
  const json::value expected = read_json(folder + "/expected.json");
  Golden golden{.prompt = ids_of(expected.as_object().at("prompt")),
                .greedy = ids_of(expected.as_object().at("greedy"))};
  const std::string bytes = read_file(folder + "/logits.f32", kMiB);
  golden.logits.resize(bytes.size() / sizeof(float));
  std::memcpy(golden.logits.data(), bytes.data(), bytes.size());
  return golden;
}

std::vector<std::string> folders(const std::string& ending = "") {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(HEADRACE_GOLDEN_MODELS)) {
    const std::string name = entry.path().filename().string();
    if (name.ends_with(ending)) names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

// Of prompt and greedy tokens: where transformers computes one prompt with its long frequencies.
constexpr uint32_t kLength = 104;

class GoldenTest : public testing::TestWithParam<std::string> {
 protected:
  std::string folder() const { return std::string(HEADRACE_GOLDEN_MODELS) + "/" + GetParam(); }
};

std::vector<Row> prompt_rows(const std::vector<int32_t>& ids) {
  std::vector<Row> rows;
  for (size_t i = 0; i < ids.size(); ++i) {
    rows.push_back({.token = ids[i], .position = static_cast<int32_t>(i)});
  }
  return rows;
}

TEST_P(GoldenTest, LogitsOfThePromptAreThoseOfTransformers) {
  const auto model = load_model(folder());
  ASSERT_NE(model, nullptr);
  const Golden golden = read_golden(folder());
  const double tolerance = model->config.dtype == DType::kF32 ? 2e-5 : 2e-2;
  ThreadPool pool(1);
  for (const kernels::Kernels* table : kernels::tables()) {
    if (!kernels::supported(*table)) continue;
    SCOPED_TRACE(table->isa);
    Runner runner(*model, {.kernels = table, .pool = &pool, .length = kLength}, 1, 128);
    const auto logits = runner.pass(prompt_rows(golden.prompt));
    ASSERT_EQ(logits.size() * model->config.vocab_size, golden.logits.size());
    double most = 0, error = 0;
    for (size_t i = 0; i < golden.logits.size(); ++i) {
      const float got = logits[i / model->config.vocab_size][i % model->config.vocab_size];
      ASSERT_TRUE(std::isfinite(got)) << i;
      most = std::max(most, std::abs(double{golden.logits[i]}));
      error = std::max(error, std::abs(double{got} - golden.logits[i]));
    }
    RecordProperty(std::string("relative_error_") + table->isa, std::to_string(error / most));
    EXPECT_LE(error / most, tolerance);
  }
}

// Token by token: bfloat16 rounding may flip a choice, so only float32 folders are compared.
class GreedyTest : public GoldenTest {};

TEST_P(GreedyTest, GreedyTokensAreThoseOfTransformers) {
  const auto model = load_model(folder());
  ASSERT_NE(model, nullptr);
  const Golden golden = read_golden(folder());
  ThreadPool pool(2);
  for (const kernels::Kernels* table : kernels::tables()) {
    if (!kernels::supported(*table)) continue;
    SCOPED_TRACE(table->isa);
    Runner runner(*model, {.kernels = table, .pool = &pool, .length = kLength}, 1, 128);
    std::vector<int32_t> tokens;
    auto logits = runner.pass(prompt_rows(golden.prompt)).back();
    while (true) {
      const auto best = std::max_element(logits.begin(), logits.end());
      tokens.push_back(static_cast<int32_t>(best - logits.begin()));
      if (tokens.size() == golden.greedy.size()) break;
      const int32_t position = static_cast<int32_t>(golden.prompt.size() + tokens.size() - 1);
      logits = runner.pass({{.token = tokens.back(), .position = position}}).front();
    }
    EXPECT_EQ(tokens, golden.greedy);
  }
}

std::string test_name(const testing::TestParamInfo<std::string>& info) {
  std::string name = info.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Folders, GoldenTest, testing::ValuesIn(folders()), test_name);
INSTANTIATE_TEST_SUITE_P(Folders, GreedyTest, testing::ValuesIn(folders("-float32")), test_name);

TEST(GoldenFolders, EveryFamilyHasBothPrecisions) {
  std::set<std::pair<std::string, DType>> there;
  for (const std::string& name : folders()) {
    const ModelConfig config = read_config(std::string(HEADRACE_GOLDEN_MODELS) + "/" + name);
    there.emplace(config.family, config.dtype);
  }
  for (const Family& family : families()) {
    EXPECT_TRUE(there.contains({family.name, DType::kF32})) << family.name;
    EXPECT_TRUE(there.contains({family.name, DType::kBF16})) << family.name;
  }
}

}  // namespace
}  // namespace headrace::models
