#include "core/trace.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <zlib.h>

#include <algorithm>
#include <boost/json/serialize.hpp>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "core/error.h"
#include "core/json.h"

namespace headrace {
namespace {

// Perfetto sorts by process and thread: one process, a thread for each lane. Thread 0 would be
// taken for the idle task.
constexpr unsigned kProcess = 1;
constexpr unsigned kFirstThread = 1;
constexpr Bytes kOtherMax = 64 * kMiB;
constexpr size_t kWriteBytes = kMiB;

std::string quoted(std::string_view text) {
  return json::serialize(json::string_view(text.data(), text.size()));
}

// zlib writes plain files too ("T"), so that both kinds take one path.
class Writer {
 public:
  explicit Writer(const std::string& path) : path_(path) {
    errno = 0;
    file_ = gzopen(path.c_str(), path.ends_with(".gz") ? "wb6e" : "wbTe");
    if (file_ == nullptr) refuse(errno);
  }
  ~Writer() {
    if (file_ != nullptr) gzclose(file_);
    struct stat info {};
    if (whole_ || ::stat(path_.c_str(), &info) != 0 || !S_ISREG(info.st_mode)) return;
    std::remove(path_.c_str());  // a torn trace is none
  }
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;

  void add(std::string_view text) {
    room_ += text;
    if (room_.size() >= kWriteBytes) flush();
  }
  void finish() {
    flush();
    errno = 0;
    const int result = gzclose(std::exchange(file_, nullptr));
    if (result != Z_OK) refuse(errno);
    whole_ = true;
  }

 private:
  void flush() {
    errno = 0;
    const auto bytes = static_cast<unsigned>(room_.size());
    if (bytes > 0 && gzwrite(file_, room_.data(), bytes) != static_cast<int>(bytes)) refuse(errno);
    room_.clear();
  }
  [[noreturn]] void refuse(int error) const {
    throw Error(ErrorCode::kIo, fmt::format("trace {}: {}; choose a path that can be written",
                                            path_, error != 0 ? std::strerror(error) : "failed"))
        .at_path(path_);
  }

  const std::string& path_;
  gzFile file_ = nullptr;
  std::string room_;
  bool whole_ = false;
};

// Microseconds with the nanoseconds as decimals: the unit of the format, without loss.
std::string microseconds(uint64_t ns) { return fmt::format("{}.{:03}", ns / 1000, ns % 1000); }

std::string event_line(const TraceEvent& event, uint64_t origin_ns) {
  const std::string head = fmt::format(R"("name":{},"pid":{},"ts":{})", quoted(event.name),
                                       kProcess, microseconds(event.begin_ns - origin_ns));
  if (event.is_counter) {
    return fmt::format(R"({{"ph":"C",{},"args":{{"bytes":{}}}}})", head, event.bytes);
  }
  std::string args;
  if (event.is_transfer) {
    args = fmt::format(R"(,"args":{{"edge":"{}","kind":"{}","bytes":{})", name_of(event.edge),
                       name_of(event.kind), event.bytes);
    if (event.object != TraceEvent::kNoObject) args += fmt::format(",\"object\":{}", event.object);
    args += "}";
  }
  const uint64_t end_ns = std::max(event.begin_ns, event.end_ns);
  return fmt::format(R"({{"ph":"X",{},"tid":{},"dur":{}{}}})", head, event.lane + kFirstThread,
                     microseconds(end_ns - event.begin_ns), args);
}

// Lane by lane, each in time; of two that begin together the longer one first, so that it holds
// the other. Counters come last.
bool comes_before(const TraceEvent* a, const TraceEvent* b) {
  if (a->is_counter != b->is_counter) return b->is_counter;
  if (!a->is_counter && a->lane != b->lane) return a->lane < b->lane;
  if (a->begin_ns != b->begin_ns) return a->begin_ns < b->begin_ns;
  return a->end_ns > b->end_ns;
}

}  // namespace

Trace::Trace(std::vector<std::string> lanes, size_t events_max, const Clock& clock)
    : clock_(clock), lanes_(std::move(lanes)), events_(events_max) {}

void Trace::record(const TraceEvent& event) {
  HEADRACE_DEBUG_ASSERT(event.name != nullptr);
  HEADRACE_DEBUG_ASSERT(event.is_counter || event.lane < lanes_.size());
  const size_t at = count_.fetch_add(1, std::memory_order_relaxed);
  if (at < events_.size()) events_[at] = event;
}

const char* Trace::intern(std::string_view text) {
  return interned_.emplace_back(std::make_unique<std::string>(text))->c_str();
}

size_t Trace::dropped() const {
  const size_t count = count_.load(std::memory_order_relaxed);
  return count > events_.size() ? count - events_.size() : 0;
}

// For when recording has ended. Times count from the earliest event: absolute nanoseconds of the
// machine's clock would cost the viewer's doubles their last digits.
void Trace::write(const std::string& path, const std::string& other_json) const {
  const json::value other =
      parse_json("{" + other_json + "}", "otherData of a trace", {.bytes_max = kOtherMax});
  HEADRACE_ASSERT(!other.get_object().contains("version") &&
                  !other.get_object().contains("dropped"));
  const size_t count = std::min(count_.load(std::memory_order_acquire), events_.size());
  std::vector<const TraceEvent*> order;
  order.reserve(count);
  uint64_t origin_ns = count > 0 ? events_[0].begin_ns : 0;
  for (size_t i = 0; i < count; ++i) {
    order.push_back(&events_[i]);
    origin_ns = std::min(origin_ns, events_[i].begin_ns);
  }
  std::stable_sort(order.begin(), order.end(), comes_before);

  Writer out(path);
  out.add("{\"traceEvents\":[");
  std::string_view separator = "\n";
  for (size_t lane = 0; lane < lanes_.size(); ++lane) {
    for (const std::string& args :
         {fmt::format(R"("thread_name","args":{{"name":{}}})", quoted(lanes_[lane])),
          fmt::format(R"("thread_sort_index","args":{{"sort_index":{}}})", lane)}) {
      out.add(fmt::format(R"({}{{"ph":"M","pid":{},"tid":{},"name":{}}})", separator, kProcess,
                          lane + kFirstThread, args));
      separator = ",\n";
    }
  }
  for (const TraceEvent* event : order) {
    out.add(separator);
    out.add(event_line(*event, origin_ns));
    separator = ",\n";
  }
  out.add(fmt::format("\n],\"otherData\":{{\"version\":\"{}\",\"dropped\":{}{}{}}}}}\n",
                      HEADRACE_VERSION, dropped(), other_json.empty() ? "" : ",", other_json));
  out.finish();
}

}  // namespace headrace
