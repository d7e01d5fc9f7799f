// toolkit-mesh: the command line. One sub-command per verb; every flag is declared here and nowhere
// else.

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "base/version.h"
#include "cli/options.h"
#include "cli/suggest.h"

namespace mesh::cli {
namespace {

void add_target(CLI::App& app, TargetOptions& target) {
  app.add_option("--port", target.port, "HTTP port of the node to ask, on this machine")
      ->type_name("PORT");
  app.add_option("--url", target.url, "address of the node to ask, for example http://studio:8642")
      ->type_name("URL");
  app.add_option("--data-dir", target.data_dir, "where the node on this machine keeps its files")
      ->type_name("DIR");
  app.add_option("--api-key-file", target.api_key_file, "file with the API key of that node")
      ->type_name("FILE");
}

void add_node_flags(CLI::App& app, NodeOptions& o) {
  app.add_option("-m,--model", o.model,
                 "model: a directory, a file of it, ORG/NAME in the Hugging Face cache, or pocket "
                 "(built in)")
      ->type_name("MODEL");
  app.add_option("--host", o.host, "address for HTTP (API and web page)")
      ->type_name("ADDRESS")
      ->capture_default_str();
  app.add_option("--port", o.port, "HTTP port; without it 8642 or the next free one")
      ->type_name("PORT");
  app.add_option("--data-dir", o.data_dir, "keys and state; default ~/.local/share/toolkit-mesh")
      ->type_name("DIR");
  app.add_option("--name", o.name,
                 "name of this node; default: the host name and four letters of its id")
      ->type_name("NAME");
  app.add_option("--device", o.device, "compute device: cpu, ref")
      ->type_name("NAME")
      ->capture_default_str();
  app.add_option("--isa", o.isa, "force an instruction set of the cpu device: avx512, avx2, scalar")
      ->type_name("NAME");
  app.add_option("--threads", o.threads, "compute threads; default: all cores")
      ->type_name("N")
      ->check(CLI::Range(1, 4096, "1-4096"));
  app.add_option("--memory", o.memory, "memory offered for weights and KV cache, for example 8G")
      ->type_name("SIZE");
  app.add_option("--api-key-file", o.api_key_file, "file with the API key that clients must send")
      ->type_name("FILE");
  app.add_flag("--no-ui", o.no_ui, "do not serve the web page");
  app.add_option("--log-level", o.log_level, "debug, info, warn or error")
      ->type_name("LEVEL")
      ->capture_default_str();
  app.add_option("--log-format", o.log_format, "text or json")
      ->type_name("FORMAT")
      ->capture_default_str();
  app.add_option("--log-file", o.log_file, "write the log there instead of standard error")
      ->type_name("FILE");
}

void add_mesh_flags(CLI::App& app, NodeOptions& o) {
  app.add_option("--listen", o.listen,
                 "address for other nodes, HOST:PORT; default 127.0.0.1:8643 or next free")
      ->type_name("HOST:PORT");
  app.add_option("--advertise", o.advertise,
                 "address under which other nodes reach this one, HOST:PORT")
      ->type_name("HOST:PORT");
  app.add_option("--peer", o.peers, "node of the mesh to connect to, HOST:PORT")
      ->type_name("HOST:PORT");
  app.add_option("--layers", o.layers, "hold exactly these layers, BEGIN:END (half-open)")
      ->type_name("BEGIN:END");
  app.add_option("--min-nodes", o.min_nodes, "place layers once so many nodes are there")
      ->type_name("N")
      ->check(CLI::Range(1, 512, "1-512"))
      ->capture_default_str();
  app.add_flag("--no-layers", o.no_layers, "take part without holding layers (may ask only)");
}

struct Verbs {
  Verbs() {
    join.verb = NodeVerb::kJoin;
    serve.verb = NodeVerb::kServe;
  }
  NodeOptions run, join, serve;
  std::string join_address;
  ChatOptions chat;
  StatusOptions status;
  VersionOptions version;
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

void declare(CLI::App& app, Verbs& v) {
  app.require_subcommand(1);
  app.set_help_flag("-h,--help", "this help; toolkit-mesh VERB --help for the flags of a verb");
  app.footer(
      "One machine:   toolkit-mesh run              then, in another terminal: toolkit-mesh chat\n"
      "A second one:  toolkit-mesh join HOST:8643 --cluster-key-file cluster.key\n"
      "               (cluster.key lies in the first node's data directory)");
  app.set_help_all_flag("--help-all", "help of every verb");
  CLI::App* run = app.add_subcommand("run", "start a mesh on this machine: node, API and web page");
  add_node_flags(*run, v.run);
  add_mesh_flags(*run, v.run);
  CLI::App* join = app.add_subcommand("join", "start a node and join a mesh");
  join->add_option("address", v.join_address, "a node of the mesh, HOST:PORT of its peer port")
      ->type_name("HOST:PORT");
  add_node_flags(*join, v.join);
  add_mesh_flags(*join, v.join);
  join->add_option("--cluster-key-file", v.join.cluster_key_file,
                   "file with the cluster key, - for standard input; default: cluster.key in the "
                   "data directory")
      ->type_name("FILE");
  CLI::App* serve = app.add_subcommand("serve", "serve a model on this machine alone, no mesh");
  add_node_flags(*serve, v.serve);
  CLI::App* chat = app.add_subcommand("chat", "chat with a running mesh in the terminal");
  add_target(*chat, v.chat.target);
  chat->add_option("--once", v.chat.once, "ask this and leave")->type_name("QUESTION");
  chat->add_option("--max-tokens", v.chat.max_tokens, "longest answer")->type_name("N");
  chat->add_flag("--stats", v.chat.stats,
                 "print time to first token and tokens/s after each answer");
  CLI::App* status = app.add_subcommand("status", "nodes, layers and speed of a running mesh");
  add_target(*status, v.status.target);
  status->add_flag("--json", v.status.json, "as JSON");
  status->add_flag(
      "--check-coverage", v.status.check_coverage,
      "succeed only if bytes loaded and rows computed of the nodes match their layers, which are "
      "disjoint and cover the model");
  CLI::App* version =
      app.add_subcommand("version", "version, numeric class and self-test of this program");
  version->add_flag("--json", v.version.json, "as JSON");
  CLI::App* eval = app.add_subcommand(
      "eval", "run token ids through a model and write every number (developers)");
  eval->add_option("-m,--model", v.eval.model, "model, as for run")->type_name("MODEL");
  eval->add_option("--ids", v.eval.ids, "JSON arrays of token ids; several run as one batch")
      ->type_name("FILE")
      ->required()
      ->delimiter(',');
  eval->add_option("--out", v.eval.out, "safetensors file to write")->type_name("FILE")->required();
  eval->add_flag("--hidden", v.eval.hidden, "also the residual after the embedding and each layer");
  eval->add_option("--generate", v.eval.generate,
                   "continue by so many tokens, greedily unless told")
      ->type_name("N");
  add_sampling(*eval, v.eval.sampling);
  eval->add_option("--cuts", v.eval.cuts, "run as stages cut at these layers, for example 3,5")
      ->type_name("LAYERS")
      ->delimiter(',');
  eval->add_option("--backend", v.eval.backend, "ref or cpu")
      ->type_name("NAME")
      ->capture_default_str();
  eval->add_option("--isa", v.eval.isa, "avx512, avx2 or scalar")->type_name("NAME");
  eval->add_option("--threads", v.eval.threads, "compute threads")
      ->type_name("N")
      ->check(CLI::Range(1, 4096, "1-4096"));
  eval->add_option("--chunk", v.eval.chunk, "prefill in chunks of so many rows")->type_name("ROWS");
  eval->add_flag("--explain", v.eval.explain, "print the kernel that each operator takes");
}

int dispatch(CLI::App& app, Verbs& v) {
  if (app.got_subcommand("run")) return run_node(v.run);
  if (app.got_subcommand("join")) {
    if (!v.join_address.empty()) v.join.peers.push_back(v.join_address);
    return run_node(v.join);
  }
  if (app.got_subcommand("serve")) return run_node(v.serve);
  if (app.got_subcommand("chat")) return run_chat(v.chat);
  if (app.got_subcommand("status")) return run_status(v.status);
  if (app.got_subcommand("version")) return run_version(v.version);
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
    const bool candidate = bare.rfind("--", 0) == 0 ? verb_known : &word == &given.front();
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
