// Runs a fuzz target without libFuzzer: every seed, then mutated seeds until the time is over. An
// input is a pure function of (HEADRACE_TEST_SEED, iteration), so that the line printed on a
// failure is enough to repeat it:
//   HEADRACE_TEST_SEED=S HEADRACE_FUZZ_ONLY=I build/tests/fuzz/fuzz_json
// HEADRACE_FUZZ_SECONDS sets the time; FILE … runs these inputs alone; --write-corpus FOLDER
// writes the seeds for libFuzzer.
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "core/clock.h"
#include "core/random.h"
#include "tests/fuzz/fuzz.h"
#include "tests/support/seed.h"

namespace headrace::fuzz {
namespace {

constexpr uint64_t kSeconds = 2;
constexpr size_t kInputMax = 64 * 1024;
constexpr double kSlowSeconds = 10;  // no input of 64 KiB may take this long, sanitizers included

// What parsers of text and of lengths stumble over.
constexpr std::string_view kTokens[] = {
    "-1",
    "0",
    "1e999",
    "4294967296",
    "4398046511105",
    "281474976710656",
    "1e-999",
    "-0",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "1.5",
    "NaN",
    "null",
    "true",
    "\"",
    "\\",
    "\\u0000",
    "\\ud800",
    "\\u0061",
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "{}",
    "[]",
    "[[[[[[[[",
    "\"\":",
    "__metadata__",
    "\xff",
    "\xc3",
    "\xed\xa0\x80",
    "\xf4\x90\x80\x80",
    "\xef\xbb\xbf",
    "\xe2\x96\x81",
    "../",
    "/",
    "F32",
    "BF16",
    "\n",
    "\t",
    " ",
    "%",
};

uint64_t current = 0;  // iteration under way, for the report of a crash

void report() {
  char line[160];
  const int n = std::snprintf(line, sizeof line,
                              "fuzz: failed; repeat with HEADRACE_TEST_SEED=%llu "
                              "HEADRACE_FUZZ_ONLY=%llu\n",
                              static_cast<unsigned long long>(test::seed()),
                              static_cast<unsigned long long>(current));
  if (n > 0 && write(STDERR_FILENO, line, static_cast<size_t>(n)) < 0) _exit(2);
}

// Ends with a plain status: a test that is expected to fail must fail, not die of a signal.
void on_signal(int) {
  report();
  _exit(1);
}

void insert_at(std::string& input, size_t at, std::string_view text) {
  if (input.size() + text.size() <= kInputMax) input.insert(at, text);
}

void mutate_once(std::string& input, const std::vector<std::string>& seeds, Random& random) {
  const size_t at = random.below(input.size() + 1);
  const size_t length = random.below(1 + std::min<size_t>(input.size() - at, 40));
  switch (random.below(9)) {
    case 0:
      if (at < input.size()) input[at] = static_cast<char>(input[at] ^ (1 << random.below(8)));
      break;
    case 1:
      if (at < input.size()) input[at] = static_cast<char>(random.below(256));
      break;
    case 2:
      insert_at(input, at, kTokens[random.below(std::size(kTokens))]);
      break;
    case 3:
      input.replace(at, length, kTokens[random.below(std::size(kTokens))]);
      break;
    case 4:
      input.erase(at, length);
      break;
    case 5:
      insert_at(input, random.below(input.size() + 1), std::string(input, at, length));
      break;
    case 6: {  // a piece of another seed
      const std::string& other = seeds[random.below(seeds.size())];
      const size_t from = random.below(other.size() + 1);
      insert_at(input, at, std::string_view(other).substr(from, random.below(200)));
      break;
    }
    case 7: {  // the number that starts here, changed by little
      const size_t digit = input.find_first_of("0123456789", at);
      if (digit != std::string::npos) input[digit] = static_cast<char>('0' + random.below(10));
      break;
    }
    default:
      if (random.chance(0.2)) input.resize(at);
      break;
  }
}

std::string input_of(const std::vector<std::string>& seeds, uint64_t iteration) {
  if (iteration < seeds.size()) return seeds[iteration];
  Random random(test::seed(), iteration);
  std::string input = seeds[random.below(seeds.size())];
  // Mostly few changes: many break the outermost layer and reach nothing behind it.
  for (uint64_t n = 1 + random.below(uint64_t{1} << random.below(5)); n > 0; --n) {
    mutate_once(input, seeds, random);
  }
  return input;
}

double run(const std::string& input) {
  // A copy of exact size on the heap, so that the address sanitizer sees a read past its end.
  const std::vector<uint8_t> bytes(input.begin(), input.end());
  const double start = steady_clock().seconds();
  LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
  return steady_clock().seconds() - start;
}

int run_mutations(const std::vector<std::string>& seeds) {
  const uint64_t only = test::environment_number("HEADRACE_FUZZ_ONLY", ~uint64_t{0});
  if (only != ~uint64_t{0}) {
    current = only;
    run(input_of(seeds, only));
    return 0;
  }
  const double end = steady_clock().seconds() + static_cast<double>(test::environment_number(
                                                    "HEADRACE_FUZZ_SECONDS", kSeconds));
  double slowest = 0;
  while (current < seeds.size() || steady_clock().seconds() < end) {
    slowest = std::max(slowest, run(input_of(seeds, current)));
    if (slowest > kSlowSeconds) {
      std::fprintf(stderr, "fuzz: an input took %.1f s\n", slowest);
      report();
      return 1;
    }
    ++current;
  }
  std::printf("fuzz: %llu inputs, slowest %.1f ms, HEADRACE_TEST_SEED=%llu\n",
              static_cast<unsigned long long>(current), slowest * 1e3,
              static_cast<unsigned long long>(test::seed()));
  return 0;
}

void write_corpus(const std::filesystem::path& folder, const std::vector<std::string>& seeds) {
  std::filesystem::create_directories(folder);
  for (size_t i = 0; i < seeds.size(); ++i) {
    std::ofstream(folder / std::to_string(i), std::ios::binary) << seeds[i];
  }
}

int run_main(int argc, char** argv) {
  for (int signal : {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL}) std::signal(signal, on_signal);
  const std::vector<std::string> seeds = fuzz_seeds();
  HEADRACE_ASSERT(!seeds.empty());
  if (argc == 3 && std::string_view(argv[1]) == "--write-corpus") {
    write_corpus(argv[2], seeds);
    return 0;
  }
  if (argc == 1) return run_mutations(seeds);
  for (int i = 1; i < argc; ++i) {
    std::ifstream file(argv[i], std::ios::binary);
    run(std::string(std::istreambuf_iterator<char>(file), {}));
  }
  return 0;
}

}  // namespace
}  // namespace headrace::fuzz

// The sanitizer ends the process itself: this is its last call into the program.
extern "C" void __asan_on_error() { headrace::fuzz::report(); }

int main(int argc, char** argv) { return headrace::fuzz::run_main(argc, argv); }
