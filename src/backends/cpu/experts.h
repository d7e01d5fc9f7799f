#pragma once
// The experts of a mixture-of-experts layer, each as two products of the backend.

#include <cstdint>
#include <memory>
#include <vector>

#include "base/result.h"
#include "ops/ops.h"

namespace mesh::backends::cpu {

// Immutable. The matrices are whatever the backend makes of their type.
class CpuExperts final : public ops::Experts {
 public:
  // `backend` makes the matrices. Errors: see ops::Backend::load_experts.
  static Result<std::unique_ptr<CpuExperts>> make(const ops::ExpertsShape& shape,
                                                  const ops::ExpertReader& read,
                                                  ops::Backend& backend);

  std::int64_t experts() const override { return shape_.experts; }
  std::int64_t hidden() const override { return shape_.hidden; }
  std::int64_t intermediate() const override { return shape_.intermediate; }
  std::uint64_t bytes() const override;

  const ops::Linear& gate_up(std::int64_t expert) const { return *at(expert).gate_up; }
  const ops::Linear& down(std::int64_t expert) const { return *at(expert).down; }

 private:
  struct Expert {
    std::unique_ptr<ops::Linear> gate_up, down;
  };
  const Expert& at(std::int64_t expert) const { return list_[static_cast<std::size_t>(expert)]; }

  ops::ExpertsShape shape_;
  std::vector<Expert> list_;
};

}  // namespace mesh::backends::cpu
