// The reading half of docs/format/plan.md. Strict: fields in their one order, one blank between
// words, nothing after `end`. Every list is bounded, and none grows faster than the text.
#include <fmt/format.h>

#include <charconv>
#include <cmath>

#include "core/error.h"
#include "scheduler/plan.h"
#include "scheduler/plan_words.h"

namespace headrace::scheduler {

namespace {

constexpr size_t kTextMax = size_t{1} << 30;
constexpr size_t kLineMax = 16384;
constexpr size_t kItemsMax = size_t{1} << 22;  // of a list: a model of 8 TiB in chunks of 2 MiB
constexpr size_t kAlternativesMax = 64;

class Parser {
 public:
  Parser(std::string_view text, std::string_view what) : left_(text), what_(what) {
    if (text.size() > kTextMax) fail("the text is longer than 1 GiB");
  }

  Plan parse() {
    next_line();
    head();
    while (take_item("alternative")) alternative();
    while (take_item("resident")) resident();
    while (take_item("ring")) ring();
    while (take_item("pool")) pool();
    while (take_item("hole")) hole();
    round(p_.enter, RoundKind::kEnter);
    round(p_.steady, RoundKind::kSteady);
    expect("end");
    if (!line_.empty() || !left_.empty()) fail("something follows the end");
    return std::move(p_);
  }

 private:
  [[noreturn]] void fail(std::string_view why) const {
    throw Error(ErrorCode::kFormat,
                fmt::format("{}: line {}: {}; make the plan again", what_, number_, why))
        .at_path(std::string(what_));
  }

  // --- lines and words
  void next_line() {
    if (!line_.empty()) fail("more words than expected");
    if (left_.empty()) fail("the text ends too early");
    ++number_;
    const size_t end = left_.find('\n');
    if (end == std::string_view::npos) fail("the last line does not end");
    if (end > kLineMax) fail("the line is too long");
    line_ = left_.substr(0, end);
    left_.remove_prefix(end + 1);
    if (line_.empty()) fail("the line is empty");
  }
  std::string_view take() {
    if (line_.empty()) fail("a word is missing");
    const size_t end = line_.find(' ');
    const std::string_view out = line_.substr(0, end);
    if (out.empty() || end == line_.size() - 1) fail("a blank too many");
    line_.remove_prefix(end == std::string_view::npos ? line_.size() : end + 1);
    return out;
  }
  void expect(std::string_view word) {
    const std::string_view got = take();
    if (got != word) fail(fmt::format("'{}' expected", word));
  }
  // Starts the item on this line, if it is one of that name.
  bool take_item(std::string_view word) {
    if (line_.substr(0, line_.find(' ')) != word) return false;
    take();
    return true;
  }
  std::string rest() {  // a text: everything that is left of the line
    std::string out;
    for (; !line_.empty(); line_.remove_prefix(1)) {
      const auto byte = static_cast<unsigned char>(line_[0]);
      if (byte < 0x20 || byte == 0x7f) fail("a control character");
      if (line_[0] != '\\') {
        out += line_[0];
        continue;
      }
      unsigned value = 0;
      if (line_.size() < 4 || line_[1] != 'x') fail("a bad escape");
      const auto [end, error] = std::from_chars(line_.data() + 2, line_.data() + 4, value, 16);
      if (error != std::errc{} || end != line_.data() + 4) fail("a bad escape");
      out += static_cast<char>(value);
      line_.remove_prefix(3);
    }
    return out;
  }
  template <typename Int>
  Int number(int base = 10) {
    const std::string_view word = take();
    Int value = 0;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value, base);
    if (error != std::errc{} || end != word.data() + word.size()) fail("a bad number");
    return value;
  }
  template <typename Int>
  void field(std::string_view word, Int& value) {
    expect(word);
    value = number<Int>();
  }
  double real() {
    const std::string_view word = take();
    double value = 0;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
    if (error != std::errc{} || end != word.data() + word.size() || !std::isfinite(value)) {
      fail("a bad number");
    }
    return value;
  }
  uint32_t index() {  // "-": none
    if (line_.substr(0, line_.find(' ')) != "-") return number<uint32_t>();
    take();
    return kNone;
  }
  template <size_t N, typename Enum>
  Enum one_of(const std::array<const char*, N>& words, Enum) {
    const std::string_view got = take();
    for (size_t i = 0; i < N; ++i) {
      if (got == words[i]) return static_cast<Enum>(i);
    }
    fail(fmt::format("'{}' is not one of the words here", got.substr(0, 32)));
  }
  Tier tier() {
    const std::optional<Tier> value = parse_tier(take());
    if (!value) fail("there is no such tier");
    return *value;
  }
  Slot slot() {
    Slot s;
    s.space = one_of(kSpaceWords, s.space);
    if (s.space == Space::kRing || s.space == Space::kPool) s.area = number<uint32_t>();
    if (s.space != Space::kNone && s.space != Space::kStore) s.index = number<uint32_t>();
    return s;
  }
  template <typename T>
  T& add(std::vector<T>& list, size_t most = kItemsMax) {
    if (list.size() >= most) fail("too many of these");
    return list.emplace_back();
  }

  // --- items
  void text_field(std::string_view word, std::string& value) {
    if (line_.substr(0, line_.find(' ')) != word || line_.size() == word.size()) {
      fail(fmt::format("'{}' and a text expected", word));
    }
    line_.remove_prefix(word.size() + 1);
    value = rest();
    next_line();
  }
  void head() {
    field("headrace-plan", p_.version);
    if (p_.version != kPlanVersion) fail(fmt::format("version {} is unknown", p_.version));
    next_line();
    text_field("model", p_.model);
    text_field("policy", p_.policy);
    text_field("numerics", p_.numerics);
    text_field("why", p_.why);
    expect("machine");
    p_.machine_hash = number<uint64_t>(16);
    next_line();
    expect("workload");
    p_.workload_hash = number<uint64_t>(16);
    next_line();
    field("budget", p_.budget);
    field("weights", p_.weights_bytes);
    next_line();
    memory();
    expect("arena");
    field("device", p_.arena_bytes[0]);
    field("host", p_.arena_bytes[1]);
    next_line();
    expect("pass");
    field("depth", p_.prefetch_depth);
    field("rows", p_.rows_max);
    field("outputs", p_.outputs_max);
    field("kv_blocks", p_.kv_blocks);
    field("sequences", p_.sequences);
    next_line();
    kv(p_.kv);
    field("bytes", p_.bytes);
    field("least", p_.bytes_least);
    field("most", p_.bytes_most);
    field("bound", p_.bound_bytes);
    next_line();
    expect("predicted_s");
    p_.predicted_s = real();
    next_line();
  }
  void kv(KvStream& kv) {
    uint32_t streamed = 0;
    expect("kv");
    field("layers", kv.layers);
    field("block_bytes", kv.block_bytes);
    field("slots", kv.slots);
    field("streamed", streamed);
    for (uint32_t i = 0; i < streamed; ++i) add(kv.streamed) = number<uint32_t>();
    next_line();
  }
  void memory() {
    MemorySplit& m = p_.memory;
    expect("memory");
    field("base", m.base);
    field("resident_weights", m.resident_weights);
    field("stream_ring", m.stream_ring);
    field("kv", m.kv);
    field("activations", m.activations);
    field("gradients", m.gradients);
    field("optimizer", m.optimizer);
    field("workspace", m.workspace);
    field("io", m.io);
    field("slack", m.slack);
    next_line();
  }
  void alternative() {
    Alternative& a = add(p_.alternatives, kAlternativesMax);
    a.policy = take();
    field("depth", a.prefetch_depth);
    field("rows", a.rows_max);
    field("bytes", a.bytes);
    field("required", a.required_bytes);
    expect("predicted_s");
    a.predicted_s = real();
    text_field("why", a.why);
  }
  void resident() {
    Resident& r = add(p_.residents);
    r.object = number<uint32_t>();
    r.chunk = number<uint32_t>();
    r.tier = tier();
    r.offset = number<Bytes>();
    next_line();
  }
  void ring() {
    Ring& r = add(p_.rings);
    r.tier = tier();
    field("slots", r.slots);
    field("step", r.step);
    field("slot_bytes", r.slot_bytes);
    field("offset", r.offset);
    next_line();
  }
  void pool() {
    Pool& p = add(p_.pools);
    p.tier = tier();
    field("slots", p.slots);
    field("slot_bytes", p.slot_bytes);
    field("offset", p.offset);
    expect("staging");
    p.staging = index();
    expect("evict");
    p.evict = one_of(kEvictWords, p.evict);
    next_line();
  }
  void hole() {
    Hole& h = add(p_.holes);
    h.segment = number<uint32_t>();
    h.source = one_of(kSourceWords, h.source);
    expect("pool");
    h.pool = index();
    field("choices", h.choices_per_row);
    next_line();
  }
  void round(Round& round, RoundKind kind) {
    expect("round");
    round.kind = one_of(kRoundWords, round.kind);
    if (round.kind != kind) fail("the rounds are out of order");
    next_line();
    while (take_item("task")) {
      task(add(round.tasks));
      next_line();
    }
    while (take_item("use")) {
      Use& use = add(round.uses);
      use.object = number<uint32_t>();
      use.chunk = number<uint32_t>();
      use.slot = slot();
      next_line();
    }
    while (take_item("after")) {
      TaskRef& ref = add(round.after);
      ref.task = number<uint32_t>();
      ref.round = number<int32_t>();
      next_line();
    }
  }
  void task(Task& t) {
    t.kind = one_of(kTaskWords, t.kind);
    switch (t.kind) {
      case TaskKind::kFetch:
      case TaskKind::kCopy:
        t.lane = t.kind == TaskKind::kCopy ? Lane::kHostToDevice : Lane::kDiskRead;
        transfer(t);
        break;
      case TaskKind::kForward:
        field("segment", t.segment);
        field("uses", t.uses.begin);
        t.uses.end = number<uint32_t>();
        break;
      case TaskKind::kEmbed:
      case TaskKind::kExperts:
        field("segment", t.segment);
        expect("hole");
        t.hole = index();
        break;
      case TaskKind::kKvRead:
      case TaskKind::kKvWrite:
        moves_kv(t);
        break;
      case TaskKind::kRoute:
        field("segment", t.segment);
        break;
    }
    field("after", t.after.begin);
    t.after.end = number<uint32_t>();
  }
  void moves_kv(Task& t) {
    const bool reads = t.kind == TaskKind::kKvRead;
    t.lane = reads ? Lane::kDiskRead : Lane::kDiskWrite;
    if (!reads) t.edge = {Tier::kHost, Tier::kDisk};
    t.from = t.to = {Space::kStore, 0, 0};
    field("segment", t.segment);
    Slot& slot = reads ? t.to : t.from;
    slot.space = Space::kKv;
    field("slot", slot.index);
  }
  void transfer(Task& t) {
    t.object = number<uint32_t>();
    t.chunk = number<uint32_t>();
    expect("from");
    t.from = slot();
    expect("to");
    t.to = slot();
    field("bytes", t.bytes);
    expect("edge");
    const std::string_view word = take();
    const size_t arrow = word.find("->");
    if (arrow == std::string_view::npos) fail("a bad edge");
    const auto from = parse_tier(word.substr(0, arrow)), to = parse_tier(word.substr(arrow + 2));
    if (!from || !to) fail("a bad edge");
    t.edge = {*from, *to};
    constexpr std::array kCounted = {"staging", "counted"};
    t.counted = one_of(kCounted, false);
  }

  std::string_view left_, line_;
  std::string_view what_;
  uint64_t number_ = 0;
  Plan p_;
};

}  // namespace

Plan parse_plan(std::string_view text, std::string_view what) { return Parser(text, what).parse(); }

}  // namespace headrace::scheduler
