// toolkit-mesh: the command line. One sub-command per verb; the flags of those that start or ask a
// node are declared in settings_table.cc.

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <map>
#include <string>
#include <vector>

#include "base/version.h"
#include "cli/config_file.h"
#include "cli/environment.h"
#include "cli/options.h"
#include "cli/settings.h"
#include "cli/suggest.h"
#include "model/synthetic_shapes.h"

namespace mesh::cli {
namespace {

// The flags of one verb as they were typed.
struct TypedFlags {
  CLI::App* app = nullptr;
  unsigned verb = 0;
  std::map<std::string, CLI::Option*> options;  // by setting name

  std::map<std::string, std::vector<std::string>> given() const {
    std::map<std::string, std::vector<std::string>> out;
    for (const auto& [name, option] : options)
      if (option->count() > 0) out[name] = option->results();
    return out;
  }
};

// A value is taken as it is: settings.cc says what is wrong with it.
TypedFlags declare_flags(CLI::App& app, unsigned verb) {
  TypedFlags out{&app, verb, {}};
  for (const Setting& setting : setting_table()) {
    if ((setting.verbs & verb) == 0) continue;
    const std::string name(setting.name);
    std::string names = "--" + name;
    if (setting.letter != 0) names = fmt::format("-{},{}", setting.letter, names);
    std::string help(setting.help);
    if (!setting.fallback.empty() && setting.kind != Kind::kSwitch)
      help += fmt::format(" [{}]", setting.fallback);
    CLI::Option* option = nullptr;
    if (setting.kind == Kind::kSwitch) {
      option = app.add_flag(names)->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
    } else {
      const bool list = setting.kind == Kind::kTexts || setting.kind == Kind::kAddresses;
      option = app.add_option(names)
                   ->expected(1)
                   ->type_name(std::string(setting.placeholder))
                   ->multi_option_policy(list ? CLI::MultiOptionPolicy::TakeAll
                                              : CLI::MultiOptionPolicy::TakeLast);
    }
    option->description(help);
    out.options[name] = option;
  }
  return out;
}

struct Verbs {
  TypedFlags run, join, serve, chat, status;
  std::string join_address;
  VersionOptions version;
  ConfigOptions config;
  CLI::App* config_show = nullptr;
  CLI::App* config_path = nullptr;
  CLI::App* config_set = nullptr;
  CLI::App* config_unset = nullptr;
  BenchOptions bench;
  EvalCommandOptions eval;
};

// How eval --generate chooses tokens.
void add_sampling(CLI::App& eval, SamplingParams& sampling) {
  eval.add_option("--temperature", sampling.temperature, "0: the likeliest token")->type_name("X");
  eval.add_option("--top-k", sampling.top_k, "only so many likeliest tokens")->type_name("N");
  eval.add_option("--top-p", sampling.top_p, "only the likeliest that hold this share")
      ->type_name("X");
  eval.add_option("--min-p", sampling.min_p, "only those of this share of the likeliest's")
      ->type_name("X");
  eval.add_option("--repetition-penalty", sampling.repetition_penalty,
                  "divides logits of tokens of prompt and output")
      ->type_name("X");
  eval.add_option("--presence-penalty", sampling.presence_penalty,
                  "off logits of tokens of the output")
      ->type_name("X");
  eval.add_option("--frequency-penalty", sampling.frequency_penalty, "likewise, once for each time")
      ->type_name("X");
  eval.add_option("--seed", sampling.seed, "of the draws")->type_name("N");
}

void declare_config(CLI::App& app, Verbs& v) {
  CLI::App* config = app.add_subcommand("config", "settings: which hold, and from where");
  config->require_subcommand(1);
  const auto file = [&](CLI::App* sub) {
    sub->add_option("--config", v.config.file, "config file instead of the default one")
        ->type_name("FILE");
  };
  v.config_show = config->add_subcommand("show", "every setting with its value and origin");
  v.config_show->add_flag("--json", v.config.json, "as JSON");
  file(v.config_show);
  v.config_path = config->add_subcommand("path", "where the config file is");
  file(v.config_path);
  v.config_set = config->add_subcommand("set", "writes a setting to the config file");
  v.config_set->add_option("key", v.config.key, "a setting: a flag without its dashes")
      ->type_name("KEY")
      ->required();
  v.config_set->add_option("value", v.config.values, "its value; several for a list")
      ->type_name("VALUE")
      ->required();
  file(v.config_set);
  v.config_unset = config->add_subcommand("unset", "removes a setting from the config file");
  v.config_unset->add_option("key", v.config.key, "a setting")->type_name("KEY")->required();
  file(v.config_unset);
}

constexpr const char* kKvDtypeHelp = "keep the KV cache in f32, bf16 or q8";
constexpr const char* kIsaHelp = "avx512, avx2, neon_dotprod, neon or scalar";

void declare_bench(CLI::App& app, BenchOptions& o) {
  CLI::App* bench = app.add_subcommand(
      "bench", "measure prompts and streams per second on this machine, without a server");
  const auto count = [](std::uint32_t most) {
    return CLI::Range(1u, most, fmt::format("1-{}", most));
  };
  CLI::Option* model =
      bench->add_option("-m,--model", o.model, "model, as for run")->type_name("MODEL");
  bench
      ->add_option("--synthetic", o.synthetic,
                   "random weights of a known shape instead: " + model::synthetic_names())
      ->type_name("SHAPE")
      ->excludes(model);
  bench
      ->add_option("--weights", o.weights,
                   "type of the random weights: bf16, q8_0, q4_0, q4_k, q4_k_m, …")
      ->type_name("TYPE")
      ->capture_default_str();
  bench->add_option("--quantize", o.quantize, "convert the model while loading: q8 or q4")
      ->type_name("TYPE");
  bench->add_option("--kv-dtype", o.kv_dtype, kKvDtypeHelp)->type_name("TYPE");
  bench->add_option("--stages", o.stages, "split the layers over so many nodes on this machine")
      ->type_name("N")
      ->check(count(limits::kRouteStages))
      ->capture_default_str();
  bench->add_option("--threads", o.threads, "of each stage; default: the cores, shared out")
      ->type_name("N")
      ->check(CLI::Range(1, 4096, "1-4096"));
  bench->add_option("--isa", o.isa, kIsaHelp)->type_name("NAME");
  bench->add_option("--prompt", o.prompts, "tokens of the prompts to measure")
      ->type_name("N,…")
      ->delimiter(',')
      ->check(count(limits::kContext))
      ->capture_default_str();
  bench->add_option("--streams", o.streams, "sequences to decode side by side")
      ->type_name("N,…")
      ->delimiter(',')
      ->check(count(1024))
      ->capture_default_str();
  bench->add_option("--tokens", o.tokens, "of each stream")
      ->type_name("N")
      ->check(CLI::Range(2u, limits::kContext, fmt::format("2-{}", limits::kContext)))
      ->capture_default_str();
  bench->add_option("--repeats", o.repeats, "of each measurement; the median counts")
      ->type_name("N")
      ->check(count(1000))
      ->capture_default_str();
  bench->add_flag("--json", o.json, "print one JSON object");
}

void declare_eval(CLI::App& app, EvalCommandOptions& o) {
  CLI::App* eval = app.add_subcommand(
      "eval", "run token ids through a model and write every number (developers)");
  eval->add_option("-m,--model", o.model, "model, as for run")->type_name("MODEL");
  eval->add_option("--ids", o.ids, "JSON arrays of token ids; several run as one batch")
      ->type_name("FILE")
      ->required()
      ->delimiter(',');
  eval->add_option("--out", o.out, "safetensors file to write")->type_name("FILE")->required();
  eval->add_flag("--hidden", o.hidden, "also the residual after the embedding and each layer");
  eval->add_option("--generate", o.generate, "continue by so many tokens, greedily unless told")
      ->type_name("N");
  add_sampling(*eval, o.sampling);
  eval->add_option("--cuts", o.cuts, "run as stages cut at these layers, for example 3,5")
      ->type_name("LAYERS")
      ->delimiter(',');
  eval->add_option("--backend", o.backend, "ref or cpu")->type_name("NAME")->capture_default_str();
  eval->add_option("--quantize", o.quantize, "convert while loading: q8 or q4")->type_name("TYPE");
  eval->add_option("--kv-dtype", o.kv_dtype, kKvDtypeHelp)->type_name("TYPE");
  eval->add_option("--isa", o.isa, kIsaHelp)->type_name("NAME");
  eval->add_option("--threads", o.threads, "compute threads")
      ->type_name("N")
      ->check(CLI::Range(1, 4096, "1-4096"));
  eval->add_option("--chunk", o.chunk, "prefill in chunks of so many rows")->type_name("ROWS");
  eval->add_flag("--explain", o.explain, "print the kernel that each operator takes");
}

void declare(CLI::App& app, Verbs& v) {
  app.require_subcommand(1);
  app.set_help_flag("-h,--help", "this help; toolkit-mesh VERB --help for the flags of a verb");
  std::string codes = "Exit codes:\n";
  for (const ExitCode& entry : exit_codes())
    codes += fmt::format("  {:<5}{}\n", entry.code, entry.meaning);
  app.footer(
      "One machine:   toolkit-mesh run              then, in another terminal: toolkit-mesh chat\n"
      "A second one:  toolkit-mesh join HOST:8643 --cluster-key-file cluster.key\n"
      "               (cluster.key lies in the first node's data directory)\n"
      "Each flag can also stand in the environment (--max-queue: TOOLKIT_MESH_MAX_QUEUE) or in "
      "the\n"
      "config file (max-queue = 64); toolkit-mesh config show says what holds.\n" +
      codes);
  app.set_help_all_flag("--help-all", "help of every verb");
  v.run = declare_flags(
      *app.add_subcommand("run", "start a mesh on this machine: node, API and web page"), kRunVerb);
  CLI::App* join = app.add_subcommand("join", "start a node and join a mesh");
  join->add_option("address", v.join_address, "a node of the mesh, HOST:PORT of its peer port")
      ->type_name("HOST:PORT");
  v.join = declare_flags(*join, kJoinVerb);
  v.serve = declare_flags(
      *app.add_subcommand("serve", "serve a model on this machine alone, no mesh"), kServeVerb);
  v.chat = declare_flags(*app.add_subcommand("chat", "chat with a running mesh in the terminal"),
                         kChatVerb);
  v.status = declare_flags(
      *app.add_subcommand("status", "nodes, layers and speed of a running mesh"), kStatusVerb);
  declare_config(app, v);
  CLI::App* version =
      app.add_subcommand("version", "version, numeric class and self-test of this program");
  version->add_flag("--json", v.version.json, "as JSON");
  declare_bench(app, v.bench);
  declare_eval(app, v.eval);
}

int wrong_settings(const Error& why) {
  fmt::print(stderr, "toolkit-mesh: {}\n", why.message);
  return why.code == Code::kInvalidArgument ? kUsage : kFailed;
}

Result<Settings> settings_of(const TypedFlags& flags) {
  Sources sources;
  sources.flags = flags.given();
  sources.environment = [](const std::string& name) { return environment(name.c_str()); };
  const auto config = sources.flags.find("config");
  MESH_ASSIGN_OR_RETURN(
      sources.file, read_config_file(config == sources.flags.end() ? "" : config->second.back()));
  return resolve(flags.verb, sources);
}

int start_node(const TypedFlags& flags, NodeVerb verb, const std::string& address) {
  for (const std::string& sentence : unknown_variables(environment_names()))
    fmt::print(stderr, "! {}\n", sentence);
  const Result<Settings> settings = settings_of(flags);
  if (!settings.ok()) return wrong_settings(settings.error());
  Result<NodeOptions> options = node_options(verb, *settings);
  if (!options.ok()) return wrong_settings(options.error());
  if (!address.empty()) options->peers.push_back(address);
  return run_node(*options);
}

int start_config(Verbs& v) {
  v.config.action = v.config_show->parsed()   ? ConfigAction::kShow
                    : v.config_path->parsed() ? ConfigAction::kPath
                    : v.config_set->parsed()  ? ConfigAction::kSet
                                              : ConfigAction::kUnset;
  return run_config(v.config);
}

int dispatch(CLI::App& app, Verbs& v) {
  if (v.run.app->parsed()) return start_node(v.run, NodeVerb::kRun, "");
  if (v.join.app->parsed()) return start_node(v.join, NodeVerb::kJoin, v.join_address);
  if (v.serve.app->parsed()) return start_node(v.serve, NodeVerb::kServe, "");
  if (v.chat.app->parsed()) {
    const Result<Settings> settings = settings_of(v.chat);
    if (!settings.ok()) return wrong_settings(settings.error());
    return run_chat(chat_options(*settings, environment("OPENAI_BASE_URL")));
  }
  if (v.status.app->parsed()) {
    const Result<Settings> settings = settings_of(v.status);
    if (!settings.ok()) return wrong_settings(settings.error());
    return run_status(status_options(*settings));
  }
  if (app.got_subcommand("config")) return start_config(v);
  if (app.got_subcommand("version")) return run_version(v.version);
  if (app.got_subcommand("bench")) return run_bench(v.bench);
  return run_eval_command(v.eval);
}

// All names a user could have meant: the verbs, and the flags of the verb that was given.
std::vector<std::string> known_words(const CLI::App& app, const std::vector<std::string>& given) {
  std::vector<std::string> words;
  for (const CLI::App* sub : app.get_subcommands({})) {
    words.push_back(sub->get_name());
    if (given.empty() || sub->get_name() != given.front()) continue;
    for (const CLI::Option* option : sub->get_options())
      for (const std::string& name : option->get_lnames()) words.push_back("--" + name);
    for (const CLI::App* action : sub->get_subcommands({})) words.push_back(action->get_name());
  }
  return words;
}

// The library's sentence where it says what to do, else one in the user's words.
std::string complaint(const std::vector<std::string>& words, const std::vector<std::string>& given,
                      const CLI::ParseError& error) {
  const auto known = [&](const std::string& word) {
    return std::find(words.begin(), words.end(), word.substr(0, word.find('='))) != words.end();
  };
  if (given.front().rfind('-', 0) != 0 && !known(given.front()))
    return fmt::format("there is no verb '{}'", given.front());
  if (error.get_exit_code() == static_cast<int>(CLI::ExitCodes::ExtrasError)) {
    for (const std::string& word : given)
      if (word.rfind("--", 0) == 0 && !known(word))
        return fmt::format("{} has no flag {}", given.front(), word.substr(0, word.find('=')));
  }
  if (error.get_exit_code() == static_cast<int>(CLI::ExitCodes::RequiredError) &&
      given.front().rfind('-', 0) == 0)
    return "a verb is missing";
  if (given.front() == "config" && (given.size() < 2 || !known(given[1])))
    return given.size() < 2 ? "config what? show, path, set or unset"
                            : fmt::format("config has no '{}'", given[1]);
  std::string text = error.what();
  constexpr std::string_view kUnreadable = "Could not convert: ";
  if (text.rfind(kUnreadable, 0) == 0)
    text = text.substr(kUnreadable.size()) + ": not a number, or not in its range";
  return text;
}

int usage_error(const CLI::App& app, const std::vector<std::string>& given,
                const CLI::ParseError& error) {
  if (given.empty()) {
    std::fprintf(stderr, "%s", app.help().c_str());
    return kUsage;
  }
  const std::vector<std::string> words = known_words(app, given);
  std::fprintf(stderr, "toolkit-mesh: %s\n", complaint(words, given, error).c_str());
  const bool verb_known = std::find(words.begin(), words.end(), given.front()) != words.end();
  for (const std::string& word : given) {
    const std::string bare = word.substr(0, word.find('='));
    const bool action =
        given.front() == "config" && &word == &given[std::min<std::size_t>(1, given.size() - 1)];
    const bool candidate =
        bare.rfind("--", 0) == 0 ? verb_known : &word == &given.front() || action;
    if (!candidate || std::find(words.begin(), words.end(), bare) != words.end()) continue;
    const std::string close = closest_word(bare, words);
    if (!close.empty()) std::fprintf(stderr, "  did you mean '%s'?\n", close.c_str());
  }
  std::fprintf(stderr, "  toolkit-mesh %s--help lists what there is\n",
               verb_known && given.front().rfind('-', 0) != 0 ? (given.front() + " ").c_str() : "");
  return kUsage;
}

}  // namespace
}  // namespace mesh::cli

int main(int argc, char** argv) {
  using namespace mesh::cli;
  CLI::App app("Run one large language model across the computers you already have.",
               "toolkit-mesh");
  app.set_version_flag("--version", std::string(mesh::engine_version()));
  Verbs verbs;
  declare(app, verbs);
  const std::vector<std::string> given(argv + 1, argv + argc);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {
    return app.exit(success);
  } catch (const CLI::ParseError& error) {
    return usage_error(app, given, error);
  }
  return dispatch(app, verbs);
}
