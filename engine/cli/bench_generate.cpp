// `headrace bench generate`: prompt and decoding rates of a model, beside what the disk and the
// memory of the same minute allow.
#include <fmt/format.h>

#include <algorithm>

#include "core/clock.h"
#include "core/random.h"
#include "engine/calibrate.h"
#include "engine/cli/bench.h"
#include "engine/generator.h"
#include "engine/kernel_rates.h"
#include "engine/limits.h"
#include "engine/report.h"

namespace headrace::engine::cli {

namespace {

constexpr Bytes kReadMost = 4 * kGiB;  // to measure memory: a fraction of a second

struct Flags {
  std::string model;
  uint32_t prompt = 128, generate = 32, batch = 1, repeats = 3;
  RunFlags run;
};

// What bounds decoding, a second: measured again with every repeat.
struct Ceiling {
  double read_bytes_per_s = 0, disk_bytes_per_s = 0;
};

struct Repeat {
  double prefill = 0, decode = 0;  // tokens a second
  Ceiling ceiling;
};

// Other prompts every time: what a session has computed for a prompt it does not compute again.
std::vector<Request> requests_of(const Flags& flags, const models::ModelConfig& config,
                                 uint32_t repeat) {
  std::vector<Request> requests(flags.batch);
  Random random(1, repeat);
  for (Request& request : requests) {
    request.number = static_cast<uint64_t>(&request - requests.data());
    for (uint32_t i = 0; i < flags.prompt; ++i) {
      request.prompt.push_back(static_cast<int32_t>(random.below(config.vocab_size)));
    }
    request.sampling.max_tokens = flags.generate;
    request.sampling.ignore_eos = true;
  }
  return requests;
}

// Bytes of weights that a decode pass computes with: all that are dense, and of the experts as many
// as that many rows choose at least.
Bytes computed_bytes(const scheduler::Workload& workload) {
  Bytes bytes = 0;
  for (const SegmentSpec& segment : workload.segments) {
    for (ObjectId id : segment.weights) bytes += workload.objects[id].bytes();
    if (segment.kind != SegmentKind::kExperts || segment.candidates.empty()) continue;
    bytes += segment.choices_per_row * workload.objects[segment.candidates.front()].bytes();
  }
  return bytes;
}

// Reads what the run reads, and leaves the calibration that plans use alone.
double disk_rate(const Session& session, const RunFlags& run, const kernels::Kernels& k) {
  ThreadPool pool(run.threads != 0 ? run.threads : available_threads());
  const scheduler::Machine machine =
      calibrate({.read_file = session.largest_file(), .again = true}, k, pool);
  const double measured = machine.rate({Tier::kDisk, Tier::kHost})->bytes_per_s;
  if (run.disk_rate.empty()) return measured;
  return std::min(measured, static_cast<double>(parse_size(run.disk_rate, "--disk-rate")));
}

// Of the weights themselves, where they lie.
double memory_rate(Session& session) {
  const auto all = session.weight_memory();
  return read_rate(session.threads(), all.first(std::min<size_t>(all.size(), kReadMost)));
}

// Tokens a second that no plan for this workload and budget could pass.
double decode_ceiling(const Session& session, uint32_t batch, const Ceiling& c) {
  const auto per_s = [&](double rate, Bytes bytes) {
    return bytes == 0 || rate <= 0 ? 1e30 : batch * rate / static_cast<double>(bytes);
  };
  return std::min(per_s(c.read_bytes_per_s, computed_bytes(session.workload())),
                  per_s(c.disk_bytes_per_s, session.plan().bound_bytes));
}

double median_of(const std::vector<Repeat>& repeats, const auto& member) {
  std::vector<double> values;
  for (const Repeat& r : repeats) values.push_back(member(r));
  return median(std::move(values));
}

json::object report(Session& session, const Flags& flags, const std::vector<Repeat>& repeats) {
  const double decode = median_of(repeats, [](const Repeat& r) { return r.decode; });
  const double ratio = median_of(repeats, [&](const Repeat& r) {
    return r.decode / decode_ceiling(session, flags.batch, r.ceiling);
  });
  const double pass_s = decode > 0 ? flags.batch / decode : 0;
  const scheduler::Plan& plan = session.plan();
  return {
      {"model", session.folder().path},
      {"prompt_tokens", flags.prompt},
      {"generated_tokens", flags.generate},
      {"batch", flags.batch},
      {"repetitions", repeats.size()},
      {"prefill_tokens_per_second", median_of(repeats, [](auto& r) { return r.prefill; })},
      {"decode_tokens_per_second", decode},
      {"memory_read_Bps", median_of(repeats, [](auto& r) { return r.ceiling.read_bytes_per_s; })},
      {"disk_read_Bps", median_of(repeats, [](auto& r) { return r.ceiling.disk_bytes_per_s; })},
      {"decode_ratio_of_ceiling", ratio},
      {"measured_pass_s", pass_s},
      {"measured_over_predicted", plan.predicted_s > 0 ? pass_s / plan.predicted_s : 0},
      {"memory", memory_json(session)},
      {"plan", plan_json(plan, session.planning_ms())},
      {"swap", swap_json(session)}};
}

void print(const json::object& o) {
  const auto number = [&](const char* key) { return o.at(key).to_number<double>(); };
  const json::object& plan = o.at("plan").as_object();
  print_text(fmt::format(
      "prompt  {:>10.1f} tokens/s   ({} x {} tokens)\n"
      "decode  {:>10.2f} tokens/s   ({} x {} tokens; medians of {})\n"
      "ceiling: memory reads {:.1f} GB/s, the disk {:.2f} GB/s; a pass must move {}: {:.0f} % of "
      "it "
      "reached\n"
      "a pass took {:.2f} ms, {:.2f} times what the plan predicts\n"
      "plan: {}\n",
      number("prefill_tokens_per_second"), number("batch"), number("prompt_tokens"),
      number("decode_tokens_per_second"), number("batch"), number("generated_tokens"),
      number("repetitions"), number("memory_read_Bps") * 1e-9, number("disk_read_Bps") * 1e-9,
      format_bytes(plan.at("bound_bytes").to_number<Bytes>()),
      100 * number("decode_ratio_of_ceiling"), number("measured_pass_s") * 1e3,
      number("measured_over_predicted"), std::string(plan.at("why").as_string())));
}

void run_bench(const Flags& flags, const Common& common) {
  ModelFolder folder = open_model(flags.model);
  std::vector<Request> requests = requests_of(flags, folder.config, 0);
  Generator::check(folder.config, requests);
  const kernels::Kernels& k = kernels::kernels_for(flags.run.isa);
  std::vector<Repeat> repeats(flags.repeats);
  ProgressBar bar(common);
  Session session(std::move(folder), 0, session_options(flags.run, common, &bar),
                  Generator::demand(requests));
  bar.finish();
  note_device(flags.run, common);
  for (uint32_t i = 0; i <= flags.repeats; ++i) {  // the first warms up: its weights are loading
    if (i > 0) requests = requests_of(flags, session.folder().config, i);
    Generator generator(session);
    const double before = memory_rate(session);
    generator.run(requests, nullptr, &g_stop);
    throw_if_stopped();
    if (i == 0) continue;
    Repeat& r = repeats[i - 1];
    const GeneratorTimings& t = generator.timings();
    if (t.prefill_s > 0) r.prefill = static_cast<double>(t.prefill_tokens) / t.prefill_s;
    if (t.decode_s > 0) r.decode = static_cast<double>(t.decode_tokens) / t.decode_s;
    r.ceiling.read_bytes_per_s = (before + memory_rate(session)) / 2;
    r.ceiling.disk_bytes_per_s = disk_rate(session, flags.run, k);
    log(common, Level::kInfo,
        fmt::format("repeat {} of {}: prompt {:.1f}, decode {:.2f} tokens/s", i, flags.repeats,
                    r.prefill, r.decode));
  }
  session.finish_trace();
  const json::object result = report(session, flags, repeats);
  if (common.json) return print_json(result);
  print(result);
}

}  // namespace

Command add_bench_generate(CLI::App& bench, Common& common) {
  auto flags = std::make_shared<Flags>();
  CLI::App* c = bench.add_subcommand(
      "generate",
      "prompt and decoding rates of a model, beside memory and disk of the same minute");
  c->add_option("MODEL", flags->model, "a Hugging Face folder")->required();
  const auto count = [&](const char* names, uint32_t& value, uint32_t most, const char* help) {
    c->add_option(names, value, help)->check(CLI::Range(1u, most))->capture_default_str();
  };
  count("-p,--prompt-len", flags->prompt, 1 << 20, "tokens of each prompt");
  count("-n,--gen-len", flags->generate, 1 << 20, "tokens to generate from each");
  count("-b,--batch", flags->batch, 1 << 16, "prompts at once");
  count("-r,--repetitions", flags->repeats, 1000, "measured repeats, after one that warms up");
  add_run_flags(*c, flags->run);
  add_trace_flag(*c, flags->run);
  return {c, [flags, &common] { run_bench(*flags, common); }};
}

}  // namespace headrace::engine::cli
