// Expressions, by descent; the order of the operators is the language's.
#include <fmt/format.h>

#include <algorithm>

#include "engine/template/parser.h"

namespace headrace::engine::jinja {
namespace {

constexpr int kNestingMax = 100;         // of the parser's own recursion
constexpr uint16_t kTreeDepthMax = 400;  // of a tree, which chains of operators deepen too

class Deeper {
 public:
  Deeper(int& depth, uint32_t line) : depth_(depth) {
    if (++depth_ > kNestingMax) fail_at(line, "it nests expressions too deeply");
  }
  ~Deeper() { --depth_; }
  Deeper(const Deeper&) = delete;
  Deeper& operator=(const Deeper&) = delete;

 private:
  int& depth_;
};

std::string dotted_name(TokenStream& tokens) {
  std::string name = tokens.expect_name();
  while (tokens.skip_symbol(".")) name += "." + tokens.expect_name();
  return name;
}

template <typename... Parts>
std::vector<ExpressionPtr> of(Parts... parts) {
  std::vector<ExpressionPtr> out;
  (out.push_back(std::move(parts)), ...);
  return out;
}

}  // namespace

Token TokenStream::take() {
  Token token = tokens_[at_];
  if (at_ + 1 < tokens_.size()) ++at_;
  return token;
}
bool TokenStream::at_symbol(std::string_view text) const {
  return now().type == Token::Type::kSymbol && now().text == text;
}
bool TokenStream::at_name(std::string_view text) const {
  return now().type == Token::Type::kName && now().text == text;
}
bool TokenStream::skip_symbol(std::string_view text) {
  const bool there = at_symbol(text);
  if (there) take();
  return there;
}
bool TokenStream::skip_name(std::string_view text) {
  const bool there = at_name(text);
  if (there) take();
  return there;
}
void TokenStream::expect_symbol(std::string_view text) {
  if (!skip_symbol(text)) {
    fail_at(now().line, fmt::format("{:?} is missing before {:?}", text, now().text));
  }
}
std::string TokenStream::expect_name() {
  if (!at(Token::Type::kName)) unexpected();
  return take().text;
}
void TokenStream::unexpected() const {
  switch (now().type) {
    case Token::Type::kEnd:
      fail_at(now().line, "it ends early");
    case Token::Type::kBlockEnd:
    case Token::Type::kOutputEnd:
      fail_at(now().line, "a tag ends early");
    default:
      fail_at(now().line, fmt::format("unexpected {:?}", now().text));
  }
}

ExpressionPtr ExpressionParser::make(Operator kind, uint32_t line) {
  auto made = std::make_unique<Expression>();
  made->kind = kind;
  made->line = line;
  return made;
}

void ExpressionParser::settle(Expression& of) {
  uint16_t below = 0;
  const auto look = [&](const ExpressionPtr& part) {
    if (part) below = std::max(below, part->depth);
  };
  for (const ExpressionPtr& part : of.parts) look(part);
  for (const ExpressionPtr& part : of.arguments) look(part);
  for (const auto& [name, part] : of.named) look(part);
  look(of.more_arguments);
  look(of.more_named);
  if (below >= kTreeDepthMax) fail_at(of.line, "an expression is too long");
  of.depth = static_cast<uint16_t>(below + 1);
}

ExpressionPtr ExpressionParser::node(Operator kind, uint32_t line,
                                     std::vector<ExpressionPtr> parts) {
  ExpressionPtr made = make(kind, line);
  made->parts = std::move(parts);
  settle(*made);
  return made;
}

ExpressionPtr ExpressionParser::expression(bool with_condition) {
  const Deeper deeper(depth_, tokens_.now().line);
  ExpressionPtr value = either();
  while (with_condition && tokens_.at_name("if")) {
    const uint32_t line = tokens_.take().line;
    ExpressionPtr condition = either();
    ExpressionPtr otherwise = tokens_.skip_name("else") ? expression() : nullptr;
    value = node(Operator::kCondition, line,
                 of(std::move(value), std::move(condition), std::move(otherwise)));
  }
  return value;
}

ExpressionPtr ExpressionParser::either() {
  ExpressionPtr left = both();
  while (tokens_.at_name("or")) {
    const uint32_t line = tokens_.take().line;
    ExpressionPtr right = both();
    left = node(Operator::kOr, line, of(std::move(left), std::move(right)));
  }
  return left;
}

ExpressionPtr ExpressionParser::both() {
  ExpressionPtr left = negation();
  while (tokens_.at_name("and")) {
    const uint32_t line = tokens_.take().line;
    ExpressionPtr right = negation();
    left = node(Operator::kAnd, line, of(std::move(left), std::move(right)));
  }
  return left;
}

ExpressionPtr ExpressionParser::negation() {
  if (!tokens_.at_name("not")) return comparison();
  const uint32_t line = tokens_.take().line;
  const Deeper deeper(depth_, line);
  return node(Operator::kNot, line, of(negation()));
}

ExpressionPtr ExpressionParser::comparison() {
  constexpr std::pair<std::string_view, Comparison> kSymbols[] = {
      {"==", Comparison::kEq}, {"!=", Comparison::kNe}, {"<", Comparison::kLt},
      {"<=", Comparison::kLe}, {">", Comparison::kGt},  {">=", Comparison::kGe}};
  const uint32_t line = tokens_.now().line;
  std::vector<ExpressionPtr> parts = of(sum());
  std::vector<Comparison> comparisons;
  while (true) {
    const auto* found = std::find_if(std::begin(kSymbols), std::end(kSymbols),
                                     [&](const auto& s) { return tokens_.at_symbol(s.first); });
    if (found != std::end(kSymbols)) {
      tokens_.take();
      comparisons.push_back(found->second);
    } else if (tokens_.skip_name("in")) {
      comparisons.push_back(Comparison::kIn);
    } else if (tokens_.at_name("not") && tokens_.following().type == Token::Type::kName &&
               tokens_.following().text == "in") {
      tokens_.take();
      tokens_.take();
      comparisons.push_back(Comparison::kNotIn);
    } else {
      break;
    }
    parts.push_back(sum());
  }
  if (comparisons.empty()) return std::move(parts.front());
  ExpressionPtr made = node(Operator::kCompare, line, std::move(parts));
  made->comparisons = std::move(comparisons);
  return made;
}

ExpressionPtr ExpressionParser::sum() {
  ExpressionPtr left = concatenation();
  while (tokens_.at_symbol("+") || tokens_.at_symbol("-")) {
    const Token token = tokens_.take();
    ExpressionPtr right = concatenation();
    left = node(token.text == "+" ? Operator::kAdd : Operator::kSubtract, token.line,
                of(std::move(left), std::move(right)));
  }
  return left;
}

ExpressionPtr ExpressionParser::concatenation() {
  const uint32_t line = tokens_.now().line;
  std::vector<ExpressionPtr> parts = of(product());
  while (tokens_.skip_symbol("~")) parts.push_back(product());
  if (parts.size() == 1) return std::move(parts.front());
  return node(Operator::kConcatenate, line, std::move(parts));
}

ExpressionPtr ExpressionParser::product() {
  constexpr std::pair<std::string_view, Operator> kSymbols[] = {{"*", Operator::kMultiply},
                                                                {"/", Operator::kDivide},
                                                                {"//", Operator::kFloorDivide},
                                                                {"%", Operator::kModulo}};
  ExpressionPtr left = power();
  while (true) {
    const auto* found = std::find_if(std::begin(kSymbols), std::end(kSymbols),
                                     [&](const auto& s) { return tokens_.at_symbol(s.first); });
    if (found == std::end(kSymbols)) return left;
    const uint32_t line = tokens_.take().line;
    ExpressionPtr right = power();
    left = node(found->second, line, of(std::move(left), std::move(right)));
  }
}

ExpressionPtr ExpressionParser::power() {
  ExpressionPtr left = unary();
  while (tokens_.at_symbol("**")) {
    const uint32_t line = tokens_.take().line;
    ExpressionPtr right = unary();
    left = node(Operator::kPower, line, of(std::move(left), std::move(right)));
  }
  return left;
}

ExpressionPtr ExpressionParser::unary(bool with_filter) {
  const Token& token = tokens_.now();
  const Deeper deeper(depth_, token.line);
  ExpressionPtr made;
  if (tokens_.at_symbol("-") || tokens_.at_symbol("+")) {
    const Token sign = tokens_.take();
    made = node(sign.text == "-" ? Operator::kNegative : Operator::kPositive, sign.line,
                of(unary(false)));
  } else {
    made = primary();
  }
  made = postfix(std::move(made));
  if (!with_filter) return made;
  while (true) {
    if (tokens_.at_symbol("|")) {
      made = filters(std::move(made), true);
    } else if (tokens_.at_name("is")) {
      made = test(std::move(made));
    } else if (tokens_.at_symbol("(")) {
      made = call(std::move(made));
    } else {
      return made;
    }
  }
}

ExpressionPtr ExpressionParser::primary() {
  const Token token = tokens_.now();
  ExpressionPtr made = make(Operator::kConstant, token.line);
  switch (token.type) {
    case Token::Type::kName: {
      tokens_.take();
      const std::string& name = token.text;
      if (name == "true" || name == "True" || name == "false" || name == "False") {
        made->value = Value(name == "true" || name == "True");
      } else if (name != "none" && name != "None") {
        made->kind = Operator::kName;
        made->name = name;
        uses.caller |= name == "caller";
        uses.named |= name == "kwargs";
        uses.more |= name == "varargs";
      }
      return made;
    }
    case Token::Type::kString: {
      std::string text;
      while (tokens_.at(Token::Type::kString)) text += tokens_.take().text;
      made->value = make_text(nullptr, std::move(text));
      return made;
    }
    case Token::Type::kInteger:
      made->value = Value(tokens_.take().integer);
      return made;
    case Token::Type::kFloat:
      made->value = Value(tokens_.take().real);
      return made;
    default:
      break;
  }
  if (tokens_.skip_symbol("(")) {
    made = tuple(true, {}, true);
    tokens_.expect_symbol(")");
    return made;
  }
  if (tokens_.at_symbol("[")) return list();
  if (tokens_.at_symbol("{")) return dict();
  tokens_.unexpected();
}

bool ExpressionParser::ends(std::string_view end) const {
  return tokens_.at(Token::Type::kOutputEnd) || tokens_.at(Token::Type::kBlockEnd) ||
         tokens_.at_symbol(")") || (!end.empty() && tokens_.at_name(end));
}

ExpressionPtr ExpressionParser::tuple(bool with_condition, std::string_view end, bool in_brackets) {
  const uint32_t line = tokens_.now().line;
  std::vector<ExpressionPtr> parts;
  bool several = false;
  while (!ends(end)) {
    parts.push_back(expression(with_condition));
    if (!tokens_.skip_symbol(",")) break;
    several = true;
  }
  if (!several && !parts.empty()) return std::move(parts.front());
  if (!several && !in_brackets) tokens_.unexpected();
  return node(Operator::kTuple, line, std::move(parts));
}

ExpressionPtr ExpressionParser::one_target(bool attributes) {
  const Token token = tokens_.now();
  const Deeper deeper(depth_, token.line);
  if (tokens_.skip_symbol("(")) {
    ExpressionPtr made = target({}, attributes);
    tokens_.expect_symbol(")");
    return made;
  }
  ExpressionPtr made = make(Operator::kTarget, token.line);
  made->name = tokens_.expect_name();
  for (const char* constant : {"true", "True", "false", "False", "none", "None"}) {
    if (made->name == constant) fail_at(token.line, "a constant cannot be assigned to");
  }
  if (attributes && tokens_.skip_symbol(".")) made->attribute = tokens_.expect_name();
  return made;
}

ExpressionPtr ExpressionParser::target(std::string_view end, bool attributes) {
  const uint32_t line = tokens_.now().line;
  std::vector<ExpressionPtr> parts = of(one_target(attributes));
  bool several = false;
  while (tokens_.skip_symbol(",")) {
    several = true;
    if (ends(end)) break;
    parts.push_back(one_target(attributes));
  }
  if (!several) return std::move(parts.front());
  return node(Operator::kTuple, line, std::move(parts));
}

ExpressionPtr ExpressionParser::list() {
  const uint32_t line = tokens_.take().line;
  std::vector<ExpressionPtr> parts;
  while (!tokens_.at_symbol("]")) {
    if (!parts.empty()) tokens_.expect_symbol(",");
    if (tokens_.at_symbol("]")) break;
    parts.push_back(expression());
  }
  tokens_.take();
  return node(Operator::kList, line, std::move(parts));
}

ExpressionPtr ExpressionParser::dict() {
  const uint32_t line = tokens_.take().line;
  std::vector<ExpressionPtr> parts;
  while (!tokens_.at_symbol("}")) {
    if (!parts.empty()) tokens_.expect_symbol(",");
    if (tokens_.at_symbol("}")) break;
    parts.push_back(expression());
    tokens_.expect_symbol(":");
    parts.push_back(expression());
  }
  tokens_.take();
  return node(Operator::kDict, line, std::move(parts));
}

ExpressionPtr ExpressionParser::postfix(ExpressionPtr input) {
  while (true) {
    if (tokens_.at_symbol(".") || tokens_.at_symbol("[")) {
      input = subscript(std::move(input));
    } else if (tokens_.at_symbol("(")) {
      input = call(std::move(input));
    } else {
      return input;
    }
  }
}

ExpressionPtr ExpressionParser::subscript(ExpressionPtr input) {
  const Token token = tokens_.take();
  if (token.text == ".") {
    if (tokens_.at(Token::Type::kInteger)) {
      ExpressionPtr index = make(Operator::kConstant, token.line);
      index->value = Value(tokens_.take().integer);
      return node(Operator::kItem, token.line, of(std::move(input), std::move(index)));
    }
    std::string name = tokens_.expect_name();
    ExpressionPtr made = node(Operator::kAttribute, token.line, of(std::move(input)));
    made->name = std::move(name);
    return made;
  }
  std::vector<ExpressionPtr> parts;
  while (!tokens_.at_symbol("]")) {
    if (!parts.empty()) tokens_.expect_symbol(",");
    parts.push_back(subscribed());
  }
  tokens_.take();
  ExpressionPtr index = parts.size() == 1 ? std::move(parts.front())
                                          : node(Operator::kTuple, token.line, std::move(parts));
  return node(Operator::kItem, token.line, of(std::move(input), std::move(index)));
}

ExpressionPtr ExpressionParser::subscribed() {
  const uint32_t line = tokens_.now().line;
  const auto bound = [&]() -> ExpressionPtr {
    if (tokens_.at_symbol(":") || tokens_.at_symbol("]") || tokens_.at_symbol(",")) return nullptr;
    return expression();
  };
  ExpressionPtr begin = bound();
  if (!tokens_.at_symbol(":")) {
    if (!begin) tokens_.unexpected();
    return begin;
  }
  tokens_.take();
  ExpressionPtr end = bound();
  ExpressionPtr step = tokens_.skip_symbol(":") ? bound() : nullptr;
  return node(Operator::kSlice, line, of(std::move(begin), std::move(end), std::move(step)));
}

ExpressionPtr ExpressionParser::filters(ExpressionPtr input, bool behind_bar) {
  if (behind_bar) tokens_.expect_symbol("|");
  while (true) {
    ExpressionPtr made = make(Operator::kFilter, tokens_.now().line);
    made->name = dotted_name(tokens_);
    made->parts.push_back(std::move(input));
    if (tokens_.at_symbol("(")) call_arguments(*made);
    settle(*made);
    input = std::move(made);
    if (!tokens_.skip_symbol("|")) return input;
  }
}

ExpressionPtr ExpressionParser::test(ExpressionPtr input) {
  ExpressionPtr made = make(Operator::kTest, tokens_.take().line);
  const bool negated = tokens_.skip_name("not");
  made->name = dotted_name(tokens_);
  made->parts.push_back(std::move(input));
  const Token& next = tokens_.now();
  if (tokens_.at_symbol("(")) {
    call_arguments(*made);
  } else if (next.type == Token::Type::kString || next.type == Token::Type::kInteger ||
             next.type == Token::Type::kFloat || tokens_.at_symbol("[") || tokens_.at_symbol("{") ||
             (next.type == Token::Type::kName && next.text != "else" && next.text != "or" &&
              next.text != "and")) {
    if (tokens_.at_name("is")) fail_at(next.line, "several tests need brackets around them");
    made->arguments.push_back(postfix(primary()));
  }
  settle(*made);
  if (!negated) return made;
  const uint32_t line = made->line;
  return node(Operator::kNot, line, of(std::move(made)));
}

ExpressionPtr ExpressionParser::call(ExpressionPtr input) {
  ExpressionPtr made = make(Operator::kCall, tokens_.now().line);
  made->parts.push_back(std::move(input));
  call_arguments(*made);
  settle(*made);
  return made;
}

void ExpressionParser::call_arguments(Expression& of) {
  tokens_.expect_symbol("(");
  for (bool first = true; !tokens_.at_symbol(")"); first = false) {
    if (!first) {
      tokens_.expect_symbol(",");
      if (tokens_.at_symbol(")")) break;
    }
    if (tokens_.at_symbol("**") && !of.more_named) {
      tokens_.take();
      of.more_named = expression();
    } else if (tokens_.at_symbol("*") && !of.more_arguments && !of.more_named) {
      tokens_.take();
      of.more_arguments = expression();
    } else if (tokens_.at(Token::Type::kName) && tokens_.following().type == Token::Type::kSymbol &&
               tokens_.following().text == "=" && !of.more_named) {
      std::string name = tokens_.take().text;
      tokens_.take();
      of.named.emplace_back(std::move(name), expression());
    } else {
      if (!of.named.empty() || of.more_named || of.more_arguments) tokens_.unexpected();
      of.arguments.push_back(expression());
    }
  }
  tokens_.take();
}

}  // namespace headrace::engine::jinja
