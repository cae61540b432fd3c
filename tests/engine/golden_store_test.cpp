// Logits of the golden folders through a prepared store, at the smallest budget: what transformers
// computed, so that making the store brings every tensor's rows to their place.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>

#include "core/json.h"
#include "tests/engine/small_models.h"
#include "tests/support/temp_folder.h"

namespace headrace {
namespace {

TEST(GoldenStore, LogitsAreThoseOfTransformers) {
  const test::TempFolder temporary;
  size_t folders = 0;
  for (const auto& entry : std::filesystem::directory_iterator(HEADRACE_GOLDEN_MODELS)) {
    const std::string folder = entry.path().string();
    SCOPED_TRACE(entry.path().filename().string());
    const json::value expected = read_json(folder + "/expected.json");
    std::vector<int32_t> prompt;
    for (const json::value& id : expected.as_object().at("prompt").as_array()) {
      prompt.push_back(static_cast<int32_t>(id.as_int64()));
    }
    engine::SessionOptions options;
    options.store = temporary.path_of("stores");
    options.cache = temporary.path_of("cache");
    options.threads = 1;
    options.memory =
        test::smallest_budget(folder, options, {{.prompt = prompt, .sampling = {.max_tokens = 1}}});
    *options.memory += 4 * kMiB;
    const std::vector<float> got = test::logits_of(folder, options, prompt);
    const std::string bytes = read_file(folder + "/logits.f32", kMiB);
    std::vector<float> golden(bytes.size() / sizeof(float));
    std::memcpy(golden.data(), bytes.data(), bytes.size());
    ASSERT_EQ(got.size(), golden.size());
    double most = 0, error = 0;
    for (size_t i = 0; i < golden.size(); ++i) {
      most = std::max(most, std::abs(double{golden[i]}));
      error = std::max(error, std::abs(double{got[i]} - golden[i]));
    }
    EXPECT_LE(error / most, folder.ends_with("-float32") ? 2e-5 : 2e-2);
    ++folders;
  }
  EXPECT_GE(folders, 2 * models::families().size());
}

}  // namespace
}  // namespace headrace
