#pragma once
// The models whose bits are compared, and what is run on them.

#include <memory>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "formats/model_files.h"
#include "model/spec.h"

namespace mesh::exactness {

// How much of a model a configuration can afford on a slow instruction set.
enum class Size { kTiny, kSmall, kBig };

struct Subject {
  std::string name;
  Size size = Size::kTiny;
  bool one_cut_each = false;  // the product takes each combination of the others with one cut
  formats::ModelFiles files;
  model::ModelSpec spec;
  std::vector<std::vector<TokenId>>
      contents;  // token sequences, the first one long, fixed per name
};

// Every directory of tests/data/models, every GGUF file whose family is computed, the built-in
// model, and random ones: quantised types of which there is no file, 4 layers with 24 experts of
// which 5 are chosen, and 4 layers, hidden 1024, intermediate 2840 and vocabulary 32769
// with its tensors in memory.
Result<std::vector<Subject>> make_subjects(bool with_big);

// Two layers, one sequence of 1,100 positions: more than two segments of attention.
Result<Subject> make_long_subject();

// Four layers and a vocabulary of several thousand, cheap enough to generate from.
Result<Subject> make_small_subject();

}  // namespace mesh::exactness
