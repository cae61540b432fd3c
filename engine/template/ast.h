// A parsed template. Immutable after parsing, shared by every rendering.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/template/value.h"

namespace headrace::engine::jinja {

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;

enum class Operator : uint8_t {
  kConstant,   // value
  kName,       // name
  kAttribute,  // parts[0].name
  kItem,       // parts[0][parts[1]]
  kSlice,      // parts: begin, end, step; null where not given
  kCall,       // parts[0](…)
  kFilter,     // parts[0] | name(…); parts[0] null inside a filter block
  kTest,       // parts[0] is name(…)
  kList,
  kTuple,
  kDict,       // parts: key, value, key, value, …
  kCondition,  // parts[0] if parts[1] else parts[2], which may be null
  kNot,
  kAnd,
  kOr,
  kNegative,
  kPositive,
  kAdd,
  kSubtract,
  kMultiply,
  kDivide,
  kFloorDivide,
  kModulo,
  kPower,
  kConcatenate,  // all parts
  kCompare,      // parts[0] name parts[1]; see Comparison
  kTarget,       // of an assignment: name, or with `attribute` a namespace's
};

enum class Comparison : uint8_t { kEq, kNe, kLt, kLe, kGt, kGe, kIn, kNotIn };

struct Expression {
  Operator kind;
  uint32_t line = 0;
  uint16_t depth = 1;  // of the tree below
  std::string name, attribute;
  Value value;
  std::vector<ExpressionPtr> parts;                          // operands
  std::vector<ExpressionPtr> arguments;                      // of a call, filter or test
  std::vector<std::pair<std::string, ExpressionPtr>> named;  // and its keyword arguments
  ExpressionPtr more_arguments, more_named;                  // *args, **kwargs
  std::vector<Comparison> comparisons;                       // between parts
};

struct Statement;
using Body = std::vector<std::unique_ptr<Statement>>;

struct Branch {
  ExpressionPtr condition;  // null: else
  Body body;
};

struct Parameter {
  std::string name;
  ExpressionPtr standard;  // null: none
};

struct MacroShape {
  std::string name;  // empty: the body of a call block
  std::vector<Parameter> parameters;
  bool caller = false, named = false,
       more = false;  // whether the body names caller, kwargs, varargs
  Body body;
};

struct Statement {
  enum class What : uint8_t {
    kText,         // text
    kOutput,       // expression
    kIf,           // branches
    kFor,          // target, expression, condition, body, otherwise
    kSet,          // target, expression
    kSetBlock,     // target, expression (filters, or null), body
    kMacro,        // macro
    kCallBlock,    // expression (a call), macro
    kFilterBlock,  // expression (filters), body
    kWith,         // targets, expressions, body
    kGeneration,   // body
    kBreak,
    kContinue,
  };
  What what;
  uint32_t line = 0;
  std::string text;
  ExpressionPtr target, expression, condition;
  std::vector<std::pair<ExpressionPtr, ExpressionPtr>> assignments;  // of with
  std::vector<Branch> branches;
  Body body, otherwise;
  std::shared_ptr<MacroShape> macro;
  bool recursive = false;
};

struct Template {
  std::string path;
  Body body;
};

}  // namespace headrace::engine::jinja
