#pragma once
// The tree of a parsed template. Immutable after parsing, so many renders may share it.

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "text/jinja/value.h"

namespace mesh::text::jinja {

using NameId = std::uint32_t;  // index of an interned variable name

enum class Op { kAdd, kSub, kMul, kDiv, kFloorDiv, kMod, kPow };
enum class Comparison { kEq, kNe, kLt, kLe, kGt, kGe, kIn, kNotIn };

struct Expr;
using ExprPtr = std::unique_ptr<Expr>;

struct Expr {
  enum class Kind {
    kConst,    // value
    kName,     // name, id
    kList,     // items
    kTuple,    // items
    kDict,     // items: key, value, key, value…
    kNot,      // items[0]
    kNeg,      // items[0]
    kPos,      // items[0]
    kBinary,   // items[0] op items[1]
    kConcat,   // items joined as strings (~)
    kCompare,  // items[0] comparisons[0] items[1] comparisons[1] …
    kAnd,      // items[0], items[1]
    kOr,       // items[0], items[1]
    kCond,     // items: condition, then, else (may be null)
    kAttr,     // items[0].name
    kItem,     // items[0][items[1]]
    kSlice,    // items[0][items[1]:items[2]:items[3]], each of the last three may be null
    kCall,     // items[0](items[1]…, named…)
    kFilter,   // items[0] | name(items[1]…, named…); items[0] is null in filter blocks
    kTest,     // items[0] is name(items[1]…)
  };
  Kind kind = Kind::kConst;
  int line = 0;
  std::uint32_t depth = 1;
  Value value;
  std::string name;
  NameId id = 0;
  Op op = Op::kAdd;
  std::vector<Comparison> comparisons;
  std::vector<ExprPtr> items;
  std::vector<std::pair<std::string, ExprPtr>> named;
};

// What an assignment writes to: a name, an attribute of a namespace, or a tuple of targets.
struct Target {
  NameId id = 0;
  std::string attribute;      // of the namespace `id`; empty: the name itself
  std::vector<Target> items;  // not empty: a tuple
};

struct Stmt;
using Body = std::vector<std::unique_ptr<Stmt>>;

struct Parameter {
  std::string name;
  NameId id = 0;
  ExprPtr fallback;  // may be null
};

struct Stmt {
  enum class Kind {
    kData,         // value
    kPrint,        // expr
    kIf,           // branches, otherwise
    kFor,          // target in expr if condition: body, otherwise
    kSet,          // target = expr
    kSetBlock,     // target = body | expr (a chain of filters, may be null)
    kMacro,        // id(parameters): body
    kCallBlock,    // expr is the call; the body is its caller(parameters)
    kFilterBlock,  // expr is the filter chain; body
    kWith,         // assignments; body
    kScope,        // body as it is (generation)
    kBreak,
    kContinue,
  };
  Kind kind = Kind::kData;
  int line = 0;
  Value value;
  ExprPtr expr;
  ExprPtr condition;
  Target target;
  NameId id = 0;
  std::string name;
  bool recursive = false;
  bool takes_varargs = false;  // the macro's body names varargs
  bool takes_kwargs = false;
  std::vector<Parameter> parameters;
  std::vector<std::pair<ExprPtr, Body>> branches;
  std::vector<std::pair<Target, ExprPtr>> assignments;
  Body body;
  Body otherwise;
};

struct Program {
  Body body;
  std::vector<std::string> names;  // by NameId
  NameId loop = 0;                 // ids of the names the language itself binds
  NameId caller = 0;
  NameId varargs = 0;
  NameId kwargs = 0;
};

}  // namespace mesh::text::jinja
