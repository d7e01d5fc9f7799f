#pragma once
// The cache of the Hugging Face tools, read only.
// Layout: models--ORG--NAME/{refs/REVISION (text: a commit), snapshots/COMMIT/FILE}.

#include <string>
#include <string_view>

#include "base/result.h"
#include "formats/model_files.h"

namespace mesh::formats {

// "ORG/NAME" with an optional "@REVISION" and an optional ":FILE"; the revision is "main" if none
// is named.
struct HubId {
  std::string repository;
  std::string revision;
  std::string file = {};  // path within the snapshot, "" if none is named
  friend bool operator==(const HubId&, const HubId&) = default;
};

// Errors: invalid_argument if the text has not that form (letters, digits, '.', '_', '-'; no "..").
Result<HubId> parse_hub_id(std::string_view text);

// Directory of the snapshot. Errors: not_found with the place looked at and how to fetch the model.
Result<std::string> find_snapshot(const HubId& id, const HubEnvironment& environment);

}  // namespace mesh::formats
