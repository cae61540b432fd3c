// Products beside those of oneDNN, a library that is at the limit of the multipliers, and beside
// the read bandwidth of memory: round after round of everything, so that a slow minute of the
// machine falls on all alike; medians.
//
//   kernels_bench [--isa NAME] [--threads N] [--repeats N]
//
// oneDNN keeps weights in a layout that it chooses and computes with its own team of threads.
// Without it the build leaves those columns out.
#include <fmt/format.h>

#include <charconv>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "core/error.h"
#include "engine/kernel_rates.h"
#include "tests/bench/library_product.h"

namespace headrace::engine {
namespace {

struct Weights {
  uint64_t k, n;
};
constexpr Weights kWeights[] = {{2048, 8192}, {8192, 2048}, {4096, 11008}};
constexpr uint64_t kRows[] = {1, 2, 4, 8, 16, 64, 256, 512};
constexpr DType kTypes[] = {DType::kBF16, DType::kF32};

struct Compared {
  ProductShape shape;
  std::vector<double> own, library;  // seconds
};

void print(const Compared& c, double read) {
  const double own = median(c.own), library = median(c.library);
  const double rate = static_cast<double>(c.shape.weight_bytes()) / own;
  std::string beside;
  if (library > 0)
    beside = fmt::format("  oneDNN {:7.1f} GF/s, ours {:.2f} of it",
                         c.shape.flops() / library * 1e-9, library / own);
  fmt::print("{:8} {:>4} x {:5} -> {:5} {:7.1f} GF/s {:6.1f} GB/s ({:3.0f} % of read){}\n",
             name_of(c.shape.type), c.shape.m, c.shape.k, c.shape.n, c.shape.flops() / own * 1e-9,
             rate * 1e-9, 100 * rate / read, beside);
}

struct Flags {
  std::string isa = "auto";
  unsigned threads = 2, repeats = 7;
};

unsigned number(const char* text, const char* flag) {
  unsigned value = 0;
  const auto [end, error] = std::from_chars(text, text + std::strlen(text), value);
  if (error != std::errc{} || *end != 0 || value < 1 || value > 1024) {
    throw Error(ErrorCode::kUsage,
                fmt::format("{}: '{}' is no number from 1 to 1024; give one", flag, text));
  }
  return value;
}

Flags parse(int argc, char** argv) {
  Flags flags;
  for (int i = 1; i < argc; i += 2) {
    const std::string_view flag = argv[i];
    if (i + 1 == argc)
      throw Error(ErrorCode::kUsage, fmt::format("{}: no value; see the top of the source", flag));
    if (flag == "--isa") {
      flags.isa = argv[i + 1];
    } else if (flag == "--threads") {
      flags.threads = number(argv[i + 1], argv[i]);
    } else if (flag == "--repeats") {
      flags.repeats = number(argv[i + 1], argv[i]);
    } else {
      throw Error(ErrorCode::kUsage,
                  fmt::format("{}: unknown flag; see the top of the source", flag));
    }
  }
  return flags;
}

int run(const Flags& flags) {
  const kernels::Kernels& k = kernels::kernels_for(flags.isa);
  ThreadPool pool(flags.threads);
  KernelTimer timer(k, pool);
  const std::unique_ptr<LibraryProduct> library = library_product(flags.threads);
  std::vector<Compared> products;
  for (DType type : kTypes) {
    for (const Weights& w : kWeights) {
      for (uint64_t m : kRows)
        products.push_back({{.type = type, .m = m, .k = w.k, .n = w.n}, {}, {}});
    }
  }
  std::vector<double> read;
  for (unsigned round = 0; round <= flags.repeats; ++round) {  // the first warms up
    for (int i = 0; i < 3; ++i) read.push_back(timer.read_bytes_per_s());
    for (Compared& c : products) {
      c.own.push_back(timer.product_s(c.shape));
      if (library != nullptr) c.library.push_back(library->seconds(c.shape));
    }
    if (round != 0) continue;
    read.clear();
    for (Compared& c : products) c.own.clear(), c.library.clear();
  }
  fmt::print("table {}, {} threads, medians of {}; memory reads at {:.1f} GB/s\n", k.isa,
             flags.threads, flags.repeats, median(read) * 1e-9);
  for (const Compared& c : products) print(c, median(read));
  return 0;
}

}  // namespace
}  // namespace headrace::engine

int main(int argc, char** argv) {
  try {
    return headrace::engine::run(headrace::engine::parse(argc, argv));
  } catch (const headrace::Error& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 2;
  }
}
