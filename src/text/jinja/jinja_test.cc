#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/limits.h"
#include "text/jinja/template.h"

namespace mesh::text::jinja {
namespace {

// Variables of every case; also in tests/data/jinja_cases.json.
Result<SpanText> render_spans(std::string_view source, const std::string& variables) {
  auto parsed = Template::parse(source);
  if (!parsed.ok()) return parsed.error();
  return (*parsed)->render(
      [&] {
        Template::Variables out;
        const Value values = from_json(variables, Origin::kCaller, "variables");
        for (const auto& [key, value] : values.as_dict().entries)
          out.emplace_back(key.bytes(), value);
        return out;
      },
      0);
}

std::string render(std::string_view source, const std::string& variables = "{}") {
  const auto spans = render_spans(source, variables);
  return spans.ok() ? concatenate(*spans) : "error: " + spans.error().message;
}

// Each case is a template with the output of Python's jinja2 3.1 in the environment of Hugging Face
// transformers, or null where Python raises.
TEST(JinjaGolden, RendersAsPythonDoes) {
  std::ifstream in(std::string(MESH_TEST_DATA) + "/jinja_cases.json");
  ASSERT_TRUE(in);
  const auto data = nlohmann::ordered_json::parse(in);
  const std::string variables = data["variables"].dump();
  for (const auto& c : data["cases"]) {
    const std::string source = c["template"];
    const auto spans = render_spans(source, variables);
    if (c["output"].is_null()) {
      EXPECT_FALSE(spans.ok()) << source << " gave " << concatenate(*spans);
    } else {
      EXPECT_TRUE(spans.ok()) << source << ": " << spans.error().message;
      EXPECT_EQ(spans.ok() ? concatenate(*spans) : "", c["output"].get<std::string>()) << source;
    }
  }
}

TEST(JinjaOrigin, EveryByteKnowsWhoWroteIt) {
  const std::string vars = R"({"c":"  AbC dEf  ","n":5,"l":["x","y"],"d":{"k":"v"}})";
  const auto marked = [&](std::string_view source) {  // the caller's bytes in braces
    const auto spans = render_spans(source, vars);
    if (!spans.ok()) return "error: " + spans.error().message;
    std::string out;
    for (const Span& span : *spans)
      out += span.origin == Origin::kCaller ? "{" + span.text + "}" : span.text;
    return out;
  };
  EXPECT_EQ(marked("a{{ c }}b"), "a{  AbC dEf  }b");
  EXPECT_EQ(marked("{{ '<' + c.strip() + '>' }}"), "<{AbC dEf}>");
  EXPECT_EQ(marked("{{ ('<' ~ c | trim ~ '>')[0:3] }}"), "<{Ab}");
  EXPECT_EQ(marked("{{ ('<' ~ c | trim ~ '>')[::-1] }}"), ">{fEd CbA}<");
  EXPECT_EQ(marked("{{ (c | trim ~ 'QrS') | upper }}|{{ (c | trim ~ 'QrS').lower() }}"),
            "{ABC DEF}QRS|{abc def}qrs");
  EXPECT_EQ(marked("{{ c.strip().replace('C ', '<>') }}"), "{Ab}<>{dEf}");
  EXPECT_EQ(marked("{{ 'x-y-z' | replace('-', l[0]) }}"), "x{x}y{x}z");
  EXPECT_EQ(marked("{{ l | join('+') }} {{ ['a', l[1], 'b'] | join }}"), "{x}+{y} a{y}b");
  EXPECT_EQ(marked("{{ ('a ' ~ c.strip() ~ ' b').split(' ') | join('/') }}"), "a/{AbC}/{dEf}/b");
  EXPECT_EQ(marked("{% for w in ('a' ~ l[0]) %}{{ w }}{% endfor %}"), "a{x}");
  EXPECT_EQ(marked("{{ d | tojson }}|{{ {'a': 1} | tojson }}|{{ l }}"),
            "{{\"k\": \"v\"}}|{\"a\": 1}|{['x', 'y']}");
  EXPECT_EQ(marked("{{ n }}|{{ n + 1 }}|{{ 2 + 3 }}|{{ l | length }}|{{ '5' | int }}|{{ c[2:3] }}"),
            "{5}|{6}|5|2|5|{A}");
  EXPECT_EQ(marked("{% set x %}[{{ c | trim }}]{% endset %}{{ x }}"), "[{AbC dEf}]");
  EXPECT_EQ(marked("{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m(l[0]) ~ m('t') }}"), "<{x}><t>");
  EXPECT_EQ(marked("{% filter upper %}a{{ l[0] }}{% endfilter %}"), "A{X}");
  EXPECT_EQ(marked("{{ '%s-%s' | format('a', l[0]) }}|{{ '%s' % 'a' }}"), "{a-x}|a");
  EXPECT_EQ(marked("{{ ('a\n' ~ l[0]) | indent(2) }}"), "a\n  {x}");
  EXPECT_EQ(marked("{% for k, v in d.items() %}{{ k ~ '=' ~ v }}{% endfor %}"), "{k}={v}");
  EXPECT_EQ(marked("{{ l[0] * 3 ~ 'ab' * 2 }}"), "{xxx}abab");
}

TEST(JinjaErrors, SyntaxErrorsNameTheLine) {
  const std::vector<std::string> bad = {"{{",
                                        "{{ ",
                                        "{{ a",
                                        "{{ a b }}",
                                        "{% if a %}",
                                        "{% if %}x{% endif %}",
                                        "{% endif %}",
                                        "{% for %}{% endfor %}",
                                        "{% for a %}{% endfor %}",
                                        "{% for a in %}{% endfor %}",
                                        "{% set %}",
                                        "{% set a = %}",
                                        "{% set 1 = 2 %}",
                                        "{% nonsense %}",
                                        "{# a",
                                        "{% raw %}",
                                        "{{ 'a }}",
                                        "{{ (1 }}",
                                        "{{ [1, }}",
                                        "{{ {1:} }}",
                                        "{{ a. }}",
                                        "{{ a| }}",
                                        "{{ a is }}",
                                        "{% macro %}{% endmacro %}",
                                        "{% macro m %}{% endmacro %}",
                                        "{% break %}",
                                        "{% include 'x' %}",
                                        "{% extends 'x' %}",
                                        "{{ f(a=1, 2) }}",
                                        "{{ 1 + }}",
                                        "{{ ) }}",
                                        "{{ a[ }}",
                                        "{{ a[] }}",
                                        "{{ a[1:2:3:4] }}",
                                        "{{ '\\x4' }}",
                                        "{% if a %}{% else %}",
                                        "{{ ? }}",
                                        "{% call m %}{% endcall %}",
                                        "{{ 99999999999999999999 }}",
                                        "{% block x %}{% endblock %}",
                                        "{{}}",
                                        "{%%}"};
  for (const std::string& source : bad) {
    const auto parsed = Template::parse("line one\n" + source);
    ASSERT_FALSE(parsed.ok()) << source;
    EXPECT_EQ(parsed.error().code, Code::kInvalidArgument) << source;
    EXPECT_EQ(parsed.error().message.substr(0, 8), "line 2: ")
        << source << ": " << parsed.error().message;
  }
}

TEST(JinjaErrors, RuntimeErrorsNameTheLine) {
  EXPECT_EQ(render("\n\n{{ a.b }}"), "error: line 3: 'a' is undefined");
  EXPECT_EQ(render("{{ 'a' + 1 }}"),
            "error: line 1: can only concatenate str (not \"int\") to str");
  EXPECT_EQ(render("{{ 1 | nope }}"), "error: line 1: no filter named 'nope'");
  EXPECT_EQ(render("{{ 1 is nope }}"), "error: line 1: no test named 'nope'");
  EXPECT_EQ(render("{{ raise_exception('as it is') }}"), "error: as it is");
  EXPECT_EQ(render("{{ [].append(1) }}").substr(0, 6), "error:");
}

Code code_of(std::string_view source, const std::string& variables = "{}") {
  const auto spans = render_spans(source, variables);
  return spans.ok() ? Code::kInternal : spans.error().code;
}

TEST(JinjaLimits, EveryRunEnds) {
  constexpr Code kFull = Code::kResourceExhausted;
  EXPECT_EQ(code_of("{% for i in range(1000000000) %}{% endfor %}"), kFull);
  EXPECT_EQ(
      code_of("{% for i in range(10000) %}{% for j in range(10000) %}{% endfor %}{% endfor %}"),
      kFull);
  EXPECT_EQ(code_of("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"), kFull);
  EXPECT_EQ(code_of("{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}"), kFull);
  EXPECT_EQ(code_of("{{ 'a' * 1000000000 }}"), kFull);
  EXPECT_EQ(code_of("{{ 'a' * 9223372036854775807 ~ 'b' }}"), kFull);
  EXPECT_EQ(code_of("{{ [1] * 1000000000 }}"), kFull);
  EXPECT_EQ(code_of("{% set ns = namespace(s='x') %}{% for i in range(100) %}{% set ns.s = ns.s ~ "
                    "ns.s %}{% endfor %}"),
            kFull);
  EXPECT_EQ(code_of("{% set ns = namespace(l=[]) %}{% for i in range(1000) %}{% set ns.l = [ns.l] "
                    "%}{% endfor %}"),
            kFull);
  EXPECT_EQ(code_of("{% set ns = namespace(l=[0]) %}{% for i in range(1000) %}{% for x in ns.l "
                    "%}{% set ns.l = [loop] %}"
                    "{% endfor %}{% endfor %}"),
            kFull);
  EXPECT_EQ(code_of("{% set ns = namespace(l=[0]) %}{% for i in range(1000) %}{% set ns.l = "
                    "[ns.l.index] %}{% endfor %}"),
            kFull);
  EXPECT_EQ(code_of("{{ '%99999s' % 'a' * 10000 }}"), kFull);
  // Lists are bounded by what they hold, whoever makes them, before they are made.
  EXPECT_EQ(code_of("{{ range(9000000) | length }}"), kFull);
  EXPECT_EQ(code_of("{{ ('x' * 3000000) | list | length }}"), kFull);
  EXPECT_EQ(code_of("{{ ('x ' * 3000000).split() | length }}"), kFull);
  EXPECT_EQ(code_of("{{ ('x ' * 3000000).split(' ') | length }}"), kFull);
  EXPECT_EQ(code_of("{{ ('\\n' * 3000000).splitlines() | length }}"), kFull);
  EXPECT_EQ(code_of("{% set ns = namespace(l=[1]) %}{% for i in range(40) %}{% set ns.l = ns.l + "
                    "ns.l %}{% endfor %}"),
            kFull);
  EXPECT_EQ(code_of("{% set ns = namespace(l=[]) %}{% set all = range(100000) %}{% for i in "
                    "range(200) %}{% set ns.l = [ns.l, all[:]][-1:] %}{% endfor %}"),
            kFull);
  // Cycles through namespaces, loops and macros are taken apart at the end (the leak checker
  // watches).
  EXPECT_EQ(render("{% set ns = namespace() %}{% set ns.me = ns %}{% macro m() %}{{ ns.me.me.x "
                   "}}{% endmacro %}"
                   "{% set ns.m = m %}{% set ns.x = 1 %}{% for i in [1] recursive %}{% set ns.l = "
                   "loop %}{{ ns.m() }}{% endfor %}"),
            "1");
  EXPECT_EQ(render("{% set ns = namespace() %}{% macro a() %}{% macro b() %}{{ a }}{% endmacro "
                   "%}{% set ns.f = b %}{% endmacro %}"
                   "{% for i in range(50) %}{{ a() }}{% endfor %}x"),
            "x");
}

TEST(JinjaLimits, DeepSourcesAreRefused) {
  const auto repeat = [](std::string_view part, int count) {
    std::string out;
    for (int i = 0; i < count; ++i) out += part;
    return out;
  };
  for (const int n : {200, 20000}) {
    EXPECT_FALSE(Template::parse("{{ " + repeat("(", n) + "1" + repeat(")", n) + " }}").ok());
    EXPECT_FALSE(Template::parse("{{ " + repeat("[", n) + repeat("]", n) + " }}").ok());
    EXPECT_FALSE(Template::parse("{{ " + repeat("not ", n) + "1 }}").ok());
    EXPECT_FALSE(Template::parse("{{ " + repeat("- ", n) + "1 }}").ok());
    EXPECT_FALSE(Template::parse(repeat("{% if 1 %}", n) + repeat("{% endif %}", n)).ok());
    EXPECT_FALSE(
        Template::parse("{% for " + repeat("(", n) + "a" + repeat(")", n) + " in b %}{% endfor %}")
            .ok());
    EXPECT_FALSE(Template::parse("{{ " + repeat("1 if 1 else ", n) + "1 }}").ok());
  }
  EXPECT_FALSE(Template::parse("{{ 1" + repeat(" + 1", 20000) + " }}").ok());
  EXPECT_FALSE(Template::parse("{{ a" + repeat(".b", 20000) + " }}").ok());
  EXPECT_FALSE(Template::parse("{{ a" + repeat("|e", 20000) + " }}").ok());
  EXPECT_FALSE(Template::parse(std::string(limits::kTemplateSourceBytes + 1, 'x')).ok());
  EXPECT_EQ(render("{{ 1" + repeat(" + 1", 400) + " }}"), "401");
}

TEST(JinjaErrors, CutTemplatesNeverCrash) {
  const std::string source =
      "{%- macro m(a, b=2) -%}{{ a ~ b }}{% endmacro %}{# c #}{% raw %}{{ x }}{% endraw %}"
      "{% set ns = namespace(i=0) %}{% for k, v in {'a': [1, 2.5e3], 'b': (3,)}.items() if k %}"
      "{%- if loop.first and not v is none %}{{ m(k, b=v[::-1]) | upper }}{% elif v %}{{ "
      "'\\u00e9\\n' }}{% else %}{% continue %}"
      "{% endif %}{% set ns.i = ns.i + 1 %}{% endfor %}{% call(x) m(1) %}{{ x }}{% endcall %}";
  ASSERT_TRUE(Template::parse(source).ok());
  for (std::size_t i = 0; i < source.size(); ++i) {
    (void)render(source.substr(0, i));
    (void)render(source.substr(i));
    std::string changed = source;
    changed[i] = static_cast<char>(0x20 + (i * 7) % 95);
    (void)render(changed);
  }
}

}  // namespace
}  // namespace mesh::text::jinja
