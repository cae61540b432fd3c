// Chat templates against jinja2's own renderings (tests/golden/make_templates.py), their lookup in
// a model's folder, and what hostile ones are refused for.
#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/json.h"
#include "engine/template/chat.h"
#include "engine/template/interpreter.h"
#include "engine/template/parser.h"
#include "tests/support/temp_folder.h"

namespace headrace::engine {
namespace {

using Names = std::vector<std::pair<std::string, jinja::Value>>;

std::tm golden_time() {
  std::tm now{};
  now.tm_year = 126, now.tm_mon = 2, now.tm_mday = 9;
  now.tm_hour = 7, now.tm_min = 5, now.tm_sec = 2;
  now.tm_wday = 1, now.tm_yday = 67;
  return now;
}

std::string render(std::string_view source, const json::object& values, Bytes memory = 64 * kMiB,
                   uint64_t steps = 8'000'000) {
  const jinja::Body body = jinja::parse_template(source);
  jinja::Meter meter(memory, steps);
  jinja::Runtime runtime(meter, golden_time());
  Names names;
  for (const auto& [name, value] : values) {
    names.emplace_back(std::string(name), jinja::from_json(&meter, value));
  }
  return runtime.render(body, std::move(names));
}

TEST(Template, EqualsJinjaOnEveryGoldenCase) {
  const json::value golden = read_json(HEADRACE_GOLDEN_TEMPLATES, {.depth_max = 64});
  const json::object& values = golden.at("values").as_object();
  size_t wrong = 0, errors = 0;
  json::array cases = golden.at("cases").as_array();
  for (const json::value& each : golden.at("chat_cases").as_array()) {
    const std::string source = std::string(each.at(0).as_string()) +
                               golden.at("chats").at(each.at(1).as_string()).as_string().c_str();
    cases.push_back(json::array{source, each.at(2)});
  }
  for (const json::value& each : cases) {
    const std::string source(each.at(0).as_string());
    const json::value& wanted = each.at(1);
    std::string text, error;
    bool failed = false;
    try {
      text = render(source, values);
    } catch (const Error& e) {
      failed = true;
      error = e.what();
    }
    errors += wanted.is_null() ? 1 : 0;
    const bool right =
        wanted.is_null() ? failed : !failed && text == std::string(wanted.as_string());
    if (right) continue;
    if (++wrong <= 40) {
      ADD_FAILURE() << source << "\n  wanted " << to_text(wanted) << "\n  got    "
                    << (failed ? "error: " + error : to_text(json::value(text)));
    }
  }
  EXPECT_EQ(wrong, 0U);
  EXPECT_GT(errors, 500U);
  EXPECT_GT(golden.at("cases").as_array().size(), 4000U);
}

TEST(Template, DigitsAreMoreThanDecimals) {
  EXPECT_EQ(render("{{ '7²①'.isdigit() }} {{ '²'.isdecimal() }} {{ '½Ⅷ'.isdigit() }}", {}),
            "True False False");
}

std::string error_of(const std::function<void()>& run) {
  try {
    run();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(Template, HostileOnesEndSoon) {
  std::vector<std::string> sources = {
      "{% for a in range(99999) %}{% for b in range(99999) %}{{ b }}{% endfor %}{% endfor %}",
      "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
      "{% set ns = namespace(s='x') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}"
      "{% endfor %}",
      "{{ 'x' * 1000000000 }}",
      "{{ 'x' * 100000000000000000000 }}",
      "{{ [0] * 1000000000 }}",
      "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
      "{% macro m(a) %}{{ m([a]) }}{% endmacro %}{{ m(1) }}",
      "{% set ns = namespace(l=[]) %}{% for i in range(99999) %}{% set ns.l = [ns.l] %}{% endfor %}"
      "{{ ns.l }}",
      "{% set ns = namespace(l=1) %}{% for i in range(99999) %}{% set ns.l = {'a': ns.l}.get %}"
      "{% endfor %}",
      "{% set ns = namespace(l=[1]) %}{% for i in range(99) %}{% set ns.l = ns.l + ns.l %}"
      "{% endfor %}",
      "{{ 'a'.ljust(10000000000) }}",
      "{{ '%1000000000d' % 1 }}",
      "{{ ('a' * 1000000).replace('', 'b' * 1000) }}",
      "{% for i in range(99999) %}{{ ('a' * 100000 ~ 'b').find('a' * 50000 ~ 'c') }}{% endfor %}",
      "{% for i in range(99999) %}{{ ('a' * 100000).rsplit('a' * 50 ~ 'c') }}{% endfor %}",
      "{{ 9 ** 9 ** 9 ** 9 }}",
      "{{ range(100000)|map('string')|map('list')|list|tojson(indent=1000) }}",
      "{% set ns = namespace() %}{% set ns.me = ns %}{% for i in range(99999) %}"
      "{% set ns.me = namespace(up=ns.me) %}{% endfor %}{{ raise_exception('end') }}",
      "{% for t in [[1]] recursive %}{{ loop([[1]]) }}{% endfor %}",
      "{% for i in range(99999) %}{% macro q() %}{{ i }}{% endmacro %}{% call q() %}{% endcall %}"
      "{% endfor %}",
      "{{ range(100000)|list|sort|unique|list|length }}",
      "{{ 1" + std::string(100'000, '+') + "1 }}",
      "{{ " + std::string(100'000, '(') + "1 }}",
      "{{ " + std::string(100'000, '-') + "1 }}",
      "{{ " + std::string(100'000, '[') + "1 }}",
      "{{ not" + std::string(100, ' ') + "1" + std::string(50'000, '|') + " }}",
  };
  // Work in proportion to texts or names, a hundred thousand times.
  const auto repeated = [](const std::string& names, const std::string& work) {
    return names + "{% for i in range(100000) %}{% if " + work +
           " %}{% endif %}{% endfor %}{{ raise_exception('end') }}";
  };
  for (const char* work : {"b in 'y'",
                           "b in b",
                           "'y' in b",
                           "b.strip(b)",
                           "'y'.startswith(b)",
                           "b.endswith(b)",
                           "b.partition('y')",
                           "b.rpartition(b)",
                           "b.removeprefix(b)",
                           "b.istitle()",
                           "b.splitlines()",
                           "b|trim(b)",
                           "b|int",
                           "b|float",
                           "b|truncate(2000000)",
                           "b|wordcount",
                           "b is lower",
                           "b|upper",
                           "b|title",
                           "b.swapcase()",
                           "{}[b]",
                           "[1]|map(attribute=b)|list",
                           "'%s' % b",
                           "'y'.zfill(3000000)",
                           "'y'|center(3000000)",
                           "[]|slice(50000)",
                           "[1]|batch(200000, 2)",
                           "joiner(b)",
                           "b ~ b"}) {
    sources.push_back(repeated("{% set b = 'x' * 3000000 %}", work));
  }
  for (const char* work : {"b|length == 1", "b", "b.strip(b)", "b.startswith('y', 1499999)"}) {
    sources.push_back(repeated("{% set b = 'é' * 1500000 %}", work));
  }
  for (const std::string& source : sources) {
    SCOPED_TRACE(source.substr(0, 200));
    const auto begin = std::chrono::steady_clock::now();
    EXPECT_NE(error_of([&] { render(source, {}, 64 * kMiB, 1'000'000); }), "no error");
    EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(20));
  }

  std::string names, fields = "{% set n = namespace(a=1";
  for (int i = 1000; i < 3000; ++i) names += "{% set n" + std::to_string(i) + " = 1 %}";
  for (int i = 1000; i < 2500; ++i) fields += ", n" + std::to_string(i) + "=1";
  for (const std::string& source :
       {repeated(names, "n2999"), repeated(names, "n3000"), repeated(fields + ") %}", "n.n2499"),
        repeated("", std::string(200'000, 'n'))}) {
    const std::string error = error_of([&] { render(source, {}, 64 * kMiB, 1'000'000); });
    EXPECT_NE(error.find("more steps"), std::string::npos) << error.substr(0, 200);
  }
}

TEST(Template, LongLegalOnesAreNoTrouble) {
  std::string chain = "{{ 0";
  for (int i = 0; i < 300; ++i) chain += " + 1";
  EXPECT_EQ(render(chain + " }}", {}), "300");
  EXPECT_EQ(render("{% macro f(k) %}{% if k %}{{ f(k - 1) }}{% else %}end{% endif %}{% endmacro %}"
                   "{{ f(100) }}",
                   {}),
            "end");
  EXPECT_EQ(render("{% for i in range(90000) %}x{% endfor %}", {}).size(), 90000U);
}

TEST(Template, ErrorsNameTheLine) {
  EXPECT_EQ(error_of([] { render("\n\n{{ 1", {}); }), "line 3: a tag has no }}");
  EXPECT_EQ(error_of([] { render("a\n{% if x %}\n", {}); }), "line 2: {% endif %} is missing");
  EXPECT_NE(error_of([] { render("{% include 'x' %}", {}); }).find("include"), std::string::npos);
}

json::array chat(std::string_view content) {
  return {json::object{{"role", "user"}, {"content", content}}};
}

TEST(ChatTemplate, IsFoundInItsOrder) {
  const test::TempFolder folder;
  const auto rendered = [&](const json::value* tools = nullptr, const std::string& file = {}) {
    return ChatTemplate::load(folder.path(), file).render(chat("hi"), tools);
  };
  EXPECT_NE(error_of([&] { rendered(); }).find("no chat template"), std::string::npos);
  folder.write("tokenizer_config.json",
               R"({"bos_token":{"content":"<s>"},"chat_template":[{"name":"default","template":)"
               R"("d{{ bos_token }}{{ eos_token }}"},{"name":"tool_use","template":)"
               R"("t{{ tools|length }}"}]})");
  const json::value tools = parse_json(R"([{"type":"function"}])", "tools");
  EXPECT_EQ(rendered(), "d<s>");
  EXPECT_EQ(rendered(&tools), "t1");
  folder.write("special_tokens_map.json", R"({"eos_token":"</s>","bos_token":"no"})");
  EXPECT_EQ(rendered(), "d<s></s>");
  folder.write("chat_template.jinja", "file {{ tools is none }}");
  EXPECT_EQ(rendered(), "file True");
  EXPECT_EQ(rendered(&tools), "t1");
  folder.write("given.jinja", "given{{ bos_token }}");
  EXPECT_EQ(rendered(&tools, folder.path() + "/given.jinja"), "given<s>");
  folder.write("tokenizer_config.json", R"({"chat_template":"plain {{ messages[0].content }}"})");
  EXPECT_EQ(rendered(&tools), "file False");
}

TEST(ChatTemplate, SaysWhatTheTemplateRaised) {
  const test::TempFolder folder;
  folder.write(
      "chat_template.jinja",
      "{% if messages[0].content == 'x' %}\n{{ raise_exception('No x, please') }}\n"
      "{% endif %}{{ messages[0].nothing is defined }}{{ messages[0].reasoning_content }}");
  const auto chat_template = ChatTemplate::load(folder.path());
  const std::string error = error_of([&] { chat_template.render(chat("x"), nullptr); });
  EXPECT_NE(error.find("No x, please"), std::string::npos) << error;
  EXPECT_NE(error.find("line 2"), std::string::npos) << error;
  EXPECT_NE(error.find("chat_template.jinja"), std::string::npos) << error;
  json::array messages = chat("y");
  messages[0].as_object()["nothing"] = nullptr;
  messages[0].as_object()["thinking"] = "hm";
  EXPECT_EQ(chat_template.render(messages, nullptr), "Falsehm");
  EXPECT_THROW(chat_template.render({}, nullptr), Error);
  EXPECT_THROW(chat_template.render({1}, nullptr), Error);
  folder.write("chat_template.jinja", "{{ messages[0].content }}\n{% for %}");
  const std::string damaged = error_of([&] { ChatTemplate::load(folder.path()); });
  EXPECT_NE(damaged.find("line 2"), std::string::npos) << damaged;
}

}  // namespace
}  // namespace headrace::engine
