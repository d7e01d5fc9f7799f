#pragma once
// Runs token ids through a model and writes every number it made: the library behind
// `toolkit-mesh eval`.

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "base/sampling.h"
#include "formats/model_files.h"
#include "ops/ops.h"

namespace mesh::engine {

struct EvalOptions {
  std::string model;                   // as formats::open_model() takes it
  std::string quantize;                // as formats::parse_quantize() takes it
  std::string kv_dtype;                // as ops::parse_kv_dtype() takes it, or empty
  formats::HubEnvironment hub;         // where the hub's cache lies
  std::string backend = "cpu";         // "cpu" or "ref"
  std::string isa;                     // cpu: as backends/cpu/isa.h takes it; empty: the best
  int threads = 1;                     // cpu
  std::vector<std::string> ids_files;  // each a JSON array of token ids; run as one batch
  std::string out_file;                // safetensors; empty: nothing is written
  bool logits = true;                  // keep the logits of every row of the prompts
  bool hidden = false;                 // also the residual stream after every layer
  std::uint32_t generate = 0;          // tokens after each sequence
  SamplingParams sampling;             // how they are chosen: greedily unless it says more
  std::vector<std::uint32_t> cuts;     // layers at which the model is cut into stages
  std::uint32_t chunk = 0;             // rows of a sequence per step; 0: as many as a step holds
  bool explain = false;                // list the kernels used
};

// What came of one sequence of T ids.
struct EvalSequence {
  std::size_t rows = 0;                    // T
  std::vector<float> logits;               // [T, vocabulary]
  std::vector<std::vector<float>> hidden;  // [1 + layers] of [T, hidden]: embedding, then layers
  std::vector<TokenId> generated;
};

struct EvalResult {
  std::vector<EvalSequence> sequences;
  std::vector<std::string> explanation;  // one line per kernel, with `explain`
};

// The ids of a JSON text such as "[1, 2, 3]". Errors: invalid_argument naming `name` and what is
// wrong (no JSON array, an element that is no integer, empty).
Result<std::vector<TokenId>> parse_ids(const std::string& json, const std::string& name);

// Runs `sequences` as one ragged batch, a step never above limits::kBatchRows rows, through one
// Stage per part of the cut, and continues each for options.generate tokens. Of the options
// it reads logits, hidden, generate, sampling, cuts, chunk and explain; no file is touched. Errors:
// invalid_argument (ids outside the vocabulary, no ids, more positions than the context, cuts),
// internal (a row is not finite; names the sequence), those of loading.
Result<EvalResult> evaluate(ops::Backend& backend, const formats::ModelFiles& model,
                            std::span<const std::vector<TokenId>> sequences,
                            const EvalOptions& options);

// `toolkit-mesh eval`: opens options.model, makes the backend, reads options.ids_files, evaluates,
// and writes options.out_file with the tensors `logits` [T, V], with `hidden` also `hidden.embed`
// and `hidden.{i}` [T, H] (after layer i), all F32, and with `generate` also `generated` [N] I64.
// With several files the names begin with "0.", "1." … Returns the lines of --explain. Errors:
// those of evaluate(), of files, of the model and the backend.
Result<std::vector<std::string>> run_eval(const EvalOptions& options);

}  // namespace mesh::engine
