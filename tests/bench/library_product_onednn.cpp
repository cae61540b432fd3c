#include <omp.h>

#include <chrono>
#include <cstring>
#include <dnnl.hpp>
#include <map>
#include <thread>
#include <tuple>
#include <vector>

#include "core/clock.h"
#include "core/half.h"
#include "tests/bench/library_product.h"

namespace headrace::engine {
namespace {

class OneDnn : public LibraryProduct {
 public:
  explicit OneDnn(unsigned threads) : arena_(kBytes) {
    omp_set_num_threads(static_cast<int>(threads));
    arena_.touch(threads);
    // Half of one in both types: nothing that multipliers treat apart.
    const uint16_t half = f32_to_bf16(0.5f);
    const uint32_t word = (uint32_t{half} << 16) | half;
    for (Bytes at = 0; at < arena_.size(); at += 4) std::memcpy(arena_.data() + at, &word, 4);
    x_.assign(size_t{512} * 8192, 0.5f);
    y_.resize(size_t{512} * 11008);
  }

  double seconds(const ProductShape& shape) override {
    using dnnl::memory;
    const auto type = shape.type == DType::kBF16 ? memory::data_type::bf16 : memory::data_type::f32;
    const auto m = static_cast<memory::dim>(shape.m), k = static_cast<memory::dim>(shape.k),
               n = static_cast<memory::dim>(shape.n);
    const auto key = std::make_tuple(shape.type, m, k, n);
    if (!products_.contains(key)) {
      const dnnl::matmul::desc desc(
          memory::desc({m, k}, type, memory::format_tag::ab),
          memory::desc({k, n}, type, memory::format_tag::any),
          memory::desc({m, n}, memory::data_type::f32, memory::format_tag::ab));
      products_.emplace(key, dnnl::matmul::primitive_desc(desc, engine_));
    }
    const dnnl::matmul::primitive_desc& product = products_.at(key);
    const Bytes bytes = round_up(product.weights_desc().get_size(), 4096);
    if (at_ + bytes > arena_.size()) at_ = 0;
    memory x(product.src_desc(), engine_, x_.data());
    memory w(product.weights_desc(), engine_, arena_.data() + at_);
    memory y(product.dst_desc(), engine_, y_.data());
    at_ += bytes;
    const dnnl::matmul primitive(product);
    const uint64_t begin = steady_clock().now_ns();
    primitive.execute(stream_, {{DNNL_ARG_SRC, x}, {DNNL_ARG_WEIGHTS, w}, {DNNL_ARG_DST, y}});
    stream_.wait();
    const double elapsed = static_cast<double>(steady_clock().now_ns() - begin) * 1e-9;
    // Its threads wait for more work in a loop; ours must not share the cores with that.
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    return elapsed;
  }

 private:
  static constexpr Bytes kBytes = 512 * kMiB;
  dnnl::engine engine_{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream_{engine_};
  std::map<std::tuple<DType, int64_t, int64_t, int64_t>, dnnl::matmul::primitive_desc> products_;
  Arena arena_;
  Bytes at_ = 0;
  std::vector<float> x_, y_;
};

}  // namespace

std::unique_ptr<LibraryProduct> library_product(unsigned threads) {
  return std::make_unique<OneDnn>(threads);
}

}  // namespace headrace::engine
