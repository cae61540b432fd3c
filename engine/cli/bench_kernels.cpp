// `headrace bench kernels`: products and attention beside the read bandwidth of the same minute.
#include <fmt/format.h>

#include <map>

#include "engine/cli/bench.h"
#include "engine/kernel_rates.h"
#include "engine/limits.h"

namespace headrace::engine::cli {

namespace {

struct Flags {
  std::string isa = "auto";
  unsigned threads = 0, repeats = 5;
};

// What is measured: one row (bounded by reading the weights) and many (bounded by products).
constexpr uint64_t kRows[] = {1, 4, 16, 64, 512};
constexpr DType kTypes[] = {DType::kBF16, DType::kF32};
constexpr AttentionShape kAttention[] = {
    {.sequences = 8, .rows_each = 1, .group = 1},
    {.sequences = 8, .rows_each = 1, .group = 4},
    {.sequences = 1, .rows_each = 256, .group = 4},
};

struct Samples {
  std::vector<double> read;                                           // bytes per second
  std::map<std::pair<DType, uint64_t>, std::vector<double>> product;  // seconds
  std::vector<double> attention[std::size(kAttention)];
};

// Round after round of everything, so that a slow minute of the machine falls on all alike; the
// first warms up and does not count.
Samples measure(KernelTimer& timer, unsigned repeats) {
  Samples s;
  for (unsigned round = 0; round <= repeats; ++round) {
    throw_if_stopped();
    s.read.push_back(timer.read_bytes_per_s());
    for (DType type : kTypes) {
      for (uint64_t m : kRows)
        s.product[{type, m}].push_back(timer.product_s({.type = type, .m = m}));
    }
    for (size_t i = 0; i < std::size(kAttention); ++i)
      s.attention[i].push_back(timer.attention_s(kAttention[i]));
    if (round != 0) continue;
    s = {};
  }
  return s;
}

struct Row {
  json::object json;
  std::string text;
};

Row product_row(const ProductShape& shape, double seconds, double read) {
  const double rate = static_cast<double>(shape.weight_bytes()) / seconds;
  const double flops = shape.flops() / seconds;
  return {{{"type", name_of(shape.type)},
           {"m", shape.m},
           {"k", shape.k},
           {"n", shape.n},
           {"seconds", seconds},
           {"weight_Bps", rate},
           {"ratio_of_read", rate / read},
           {"flops", flops}},
          fmt::format("product    {:8} m={:<4} {:9.3f} ms {:7.1f} GB/s ({:3.0f} % of read) {:8.1f} "
                      "GF/s\n",
                      name_of(shape.type), shape.m, seconds * 1e3, rate * 1e-9, 100 * rate / read,
                      flops * 1e-9)};
}

Row attention_row(const AttentionShape& shape, double seconds, double read) {
  const double rate = static_cast<double>(shape.kv_bytes()) / seconds;
  const double flops = shape.flops() / seconds;
  return {{{"kv_type", name_of(shape.kv_type)},
           {"sequences", shape.sequences},
           {"rows_each", shape.rows_each},
           {"tokens", shape.tokens},
           {"heads", shape.kv_heads * shape.group},
           {"kv_heads", shape.kv_heads},
           {"head_dim", shape.head_dim},
           {"seconds", seconds},
           {"kv_Bps", rate},
           {"ratio_of_read", rate / read},
           {"flops", flops}},
          fmt::format("attention  {:8} {}x{:<4} H/G={} {:7.3f} ms {:5.1f} GB/s ({:3.0f} % of read) "
                      "{:8.1f} GF/s\n",
                      name_of(shape.kv_type), shape.sequences, shape.rows_each, shape.group,
                      seconds * 1e3, rate * 1e-9, 100 * rate / read, flops * 1e-9)};
}

void run(const Flags& flags, const Common& common) {
  const kernels::Kernels& k = kernels::kernels_for(flags.isa);
  ThreadPool pool(flags.threads != 0 ? flags.threads : available_threads());
  KernelTimer timer(k, pool);
  const Samples s = measure(timer, flags.repeats);
  const double read = median(s.read);
  std::string text =
      fmt::format("table {}, {} threads, medians of {}; memory reads at {:.1f} GB/s\n", k.isa,
                  pool.threads(), flags.repeats, read * 1e-9);
  json::array products, attention;
  for (const auto& [key, seconds] : s.product) {
    Row row = product_row({.type = key.first, .m = key.second}, median(seconds), read);
    products.push_back(std::move(row.json));
    text += row.text;
  }
  for (size_t i = 0; i < std::size(kAttention); ++i) {
    Row row = attention_row(kAttention[i], median(s.attention[i]), read);
    attention.push_back(std::move(row.json));
    text += row.text;
  }
  if (!common.json) return print_text(text);
  print_json({{"isa", k.isa},
              {"threads", pool.threads()},
              {"repeats", flags.repeats},
              {"memory_read_Bps", read},
              {"product", products},
              {"attention", attention}});
}

}  // namespace

Command add_bench_kernels(CLI::App& bench, Common& common) {
  auto flags = std::make_shared<Flags>();
  CLI::App* c =
      bench.add_subcommand("kernels", "products and attention beside the read bandwidth of memory");
  c->add_option("--isa", flags->isa, "kernels: auto, avx512, avx2, scalar, reference")
      ->envname("HEADRACE_ISA");
  c->add_option("--threads", flags->threads, "compute threads (0: all)")
      ->envname("HEADRACE_THREADS")
      ->check(CLI::Range(0, 1024));
  c->add_option("--repeats", flags->repeats, "rounds; the figures are medians")
      ->check(CLI::Range(1, 1000));
  return {c, [flags, &common] { run(*flags, common); }};
}

}  // namespace headrace::engine::cli
