#include "engine/eval.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>

#include "backends/backends.h"
#include "formats/byte_source.h"
#include "formats/safetensors.h"

namespace mesh::engine {
namespace {

std::string scratch(const std::string& name) {
  return testing::TempDir() + "mesh_eval_" + name;
}

std::string write_ids(const std::string& name, const std::string& text) {
  const std::string path = scratch(name);
  std::ofstream(path) << text;
  return path;
}

EvalOptions llama() {
  EvalOptions options;
  options.model = MESH_TEST_DATA "/models/llama";
  options.out_file = scratch("out.safetensors");
  return options;
}

std::string error_of(const EvalOptions& options) {
  const auto result = run_eval(options);
  return result.ok() ? "ok" : result.error().message;
}

std::ptrdiff_t likeliest(const std::vector<float>& logits, std::size_t row,
                         std::size_t vocabulary) {
  const auto first = logits.begin() + static_cast<std::ptrdiff_t>(row * vocabulary);
  return std::max_element(first, first + static_cast<std::ptrdiff_t>(vocabulary)) - first;
}

TEST(ParseIds, SaysWhatIsWrong) {
  EXPECT_EQ(parse_ids("[1, 2,3]", "a.json").value(), (std::vector<TokenId>{1, 2, 3}));
  const auto message = [](const char* text) { return parse_ids(text, "a.json").error().message; };
  EXPECT_EQ(message("[]"), "a.json: no ids");
  EXPECT_EQ(message("{}"), "a.json: not a JSON array of token ids");
  EXPECT_EQ(message("[1,"), "a.json: not a JSON array of token ids");
  EXPECT_EQ(message("[1, 2.5]"), "a.json: element 1 is not a token id: 2.5");
  EXPECT_EQ(message("[\"x\"]"), "a.json: element 0 is not a token id: \"x\"");
  EXPECT_EQ(message("[0, 2147483648]"), "a.json: element 1 is not a token id: 2147483648");
  EXPECT_EQ(message("[18446744073709551615]"),
            "a.json: element 0 is not a token id: 18446744073709551615");
}

TEST(RunEval, ErrorsNameTheCause) {
  EvalOptions options = llama();
  EXPECT_EQ(error_of(options), "no ids to evaluate");
  options.ids_files = {write_ids("big.json", "[1, 320]")};
  EXPECT_EQ(error_of(options), "sequence 0: id 320 at position 1 is outside the vocabulary of 320");
  options.ids_files = {write_ids("negative.json", "[-1]")};
  EXPECT_EQ(error_of(options), "sequence 0: id -1 at position 0 is outside the vocabulary of 320");
  options.ids_files = {write_ids("ok.json", "[1, 2]")};
  options.generate = 256;
  EXPECT_EQ(error_of(options), "sequence 0 needs 257 positions, the context of the model has 256");
  options.generate = 0;
  options.cuts = {3, 2};
  EXPECT_EQ(error_of(options), "a cut at layer 2 after 3; cuts ascend from 1 to 3");
  options.cuts = {};
  options.threads = 0;
  EXPECT_EQ(error_of(options), "0 threads; 1 to 1024 are possible");
  options.threads = 1;
  options.backend = "abacus";
  EXPECT_NE(error_of(options).find("abacus"), std::string::npos);
  options.backend = "cpu";
  options.isa = "mmx";
  EXPECT_NE(error_of(options).find("mmx"), std::string::npos);
  options.isa = "";
  options.ids_files = {scratch("missing.json")};
  EXPECT_NE(error_of(options).find("missing.json"), std::string::npos);
}

TEST(RunEval, WritesOneFileWithTheTensorsOfEverySequence) {
  EvalOptions options = llama();
  options.ids_files = {write_ids("a.json", "[1, 2, 3]"), write_ids("b.json", "[7]")};
  options.hidden = true;
  options.generate = 4;
  options.explain = true;
  const auto lines = run_eval(options);
  ASSERT_TRUE(lines.ok()) << lines.error().message;
  bool attends = false;
  for (const std::string& line : *lines)
    attends = attends || line.find("attention") != std::string::npos;
  EXPECT_TRUE(attends);
  auto file = formats::open_file(options.out_file);
  ASSERT_TRUE(file.ok());
  const auto source = formats::open_safetensors(std::move(file).value()).value();
  const auto shape = [&](const std::string& name) {
    const tensor::TensorInfo* info = source->find(name);
    return info == nullptr ? "none" : tensor::shape_text(info->shape);
  };
  EXPECT_EQ(shape("0.logits"), "[3, 320]");
  EXPECT_EQ(shape("1.logits"), "[1, 320]");
  EXPECT_EQ(shape("0.hidden.embed"), "[3, 64]");
  EXPECT_EQ(shape("1.hidden.3"), "[1, 64]");
  EXPECT_EQ(shape("1.hidden.4"), "none");
  EXPECT_EQ(shape("0.generated"), "[4]");
  EXPECT_EQ(source->find("0.generated")->dtype, tensor::DType::kI64);
}

TEST(RunEval, CutsAndChunksChangeNoBit) {
  EvalOptions options = llama();
  options.ids_files = {write_ids("c.json", "[9, 8, 7, 6, 5, 4, 3, 2, 1]")};
  options.hidden = true;
  options.generate = 3;
  const auto file_bytes = [&] {
    const auto ran = run_eval(options);
    EXPECT_TRUE(ran.ok());
    return formats::read_text_file(options.out_file, 1u << 20).value();
  };
  const std::string whole = file_bytes();
  options.cuts = {1, 3};
  options.chunk = 2;
  options.threads = 2;
  EXPECT_TRUE(file_bytes() == whole);
}

TEST(RunEval, SamplingFollowsTheSeedAndNothingElse) {
  EvalOptions options = llama();
  options.ids_files = {write_ids("d.json", "[9, 8, 7]"), write_ids("e.json", "[3, 3, 1, 5]")};
  options.logits = false;
  options.generate = 20;
  const auto file_bytes = [&] {
    const auto ran = run_eval(options);
    EXPECT_TRUE(ran.ok());
    return formats::read_text_file(options.out_file, 1u << 20).value();
  };
  const std::string greedy = file_bytes();
  options.sampling.temperature = 1;
  options.sampling.repetition_penalty = 1.2f;
  options.sampling.frequency_penalty = 0.5f;
  options.sampling.seed = 5;
  const std::string drawn = file_bytes();
  EXPECT_FALSE(drawn == greedy);
  options.cuts = {2};
  options.chunk = 1;
  EXPECT_TRUE(file_bytes() == drawn);
  options.sampling.seed = 6;
  EXPECT_FALSE(file_bytes() == drawn);
  options.sampling.top_p = 0;
  EXPECT_EQ(error_of(options), "top_p is 0, outside its range");
}

// What rounding the KV cache costs in exactness, on text that the model wrote itself: the logits of
// every row against those with a cache in f32. The figures are those of docs/benchmarks.md.
TEST(Evaluate, RoundedKvStaysNearF32) {
  const auto backend = backends::make_backend("cpu", {2, ""}).value();
  formats::ModelFiles model = formats::open_builtin_model();
  EvalOptions options;
  options.logits = false;
  options.generate = 200;
  const std::vector<std::vector<TokenId>> prompts = {{5, 90, 200}, {33, 310, 7, 120}, {250, 41}};
  const EvalResult written = evaluate(*backend, model, prompts, options).value();
  std::vector<std::vector<TokenId>> texts = prompts;
  for (std::size_t s = 0; s < texts.size(); ++s)
    texts[s].insert(texts[s].end(), written.sequences[s].generated.begin(),
                    written.sequences[s].generated.end());
  options.logits = true;
  options.generate = 0;
  model.kv_type = ops::DType::kF32;
  const EvalResult exact = evaluate(*backend, model, texts, options).value();
  for (const auto& [store, bound] :
       {std::pair{ops::DType::kBF16, 0.01}, std::pair{ops::DType::kI8, 0.02}}) {
    model.kv_type = store;
    const EvalResult other = evaluate(*backend, model, texts, options).value();
    double squares = 0, wrong = 0, rows = 0, same = 0;
    for (std::size_t s = 0; s < texts.size(); ++s) {
      const std::vector<float>&a = exact.sequences[s].logits, &b = other.sequences[s].logits;
      ASSERT_EQ(a.size(), b.size());
      for (std::size_t i = 0; i < a.size(); ++i) {
        squares += double{a[i]} * a[i];
        wrong += (double{b[i]} - a[i]) * (double{b[i]} - a[i]);
      }
      const std::size_t vocabulary = a.size() / texts[s].size();
      for (std::size_t row = 0; row < texts[s].size(); ++row, ++rows)
        same += likeliest(a, row, vocabulary) == likeliest(b, row, vocabulary) ? 1 : 0;
    }
    const double error = std::sqrt(wrong / squares);
    std::printf(
        "KV in %s: logits differ by %.5f of their root mean square, %.0f of %.0f rows choose "
        "the same token\n",
        std::string(ops::kv_dtype_name(store)).c_str(), error, same, rows);
    EXPECT_GT(error, 0);  // the choice reaches the cache
    EXPECT_LT(error, bound);
    EXPECT_GT(same / rows, 0.95);
  }
}

}  // namespace
}  // namespace mesh::engine
