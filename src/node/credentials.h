#pragma once
// What makes this process a node of a cluster: its own key, the cluster's key, and checks of the
// same in others.

#include <memory>
#include <string>

#include "base/result.h"
#include "membership/verifier.h"
#include "net/cluster_key.h"
#include "net/identity.h"

namespace mesh::node {

// Membership's questions answered with OpenSSL.
class Credentials : public membership::Verifier {
 public:
  // `cluster_key_text`: the key itself, or empty to use data_dir/cluster.key, which is made when
  // `create` and missing. node.key lies in node_dir. Errors: sentences that say what to do.
  static Result<std::unique_ptr<Credentials>> load(const std::string& data_dir,
                                                   const std::string& node_dir,
                                                   const std::string& cluster_key_text,
                                                   bool create);

  // A new node of the cluster in memory only, for nodes that live as long as a measurement.
  static std::unique_ptr<Credentials> temporary(const net::ClusterKey& cluster);

  const net::NodeIdentity& identity() const { return identity_; }
  std::string cluster() const;  // short name
  // This node's certificate, signed now by the cluster key it holds.
  wire::Certificate own_certificate(std::int64_t now_unix_ms) const;

  Result<void> certificate(const wire::Certificate& certificate, PeerId peer,
                           std::int64_t now_unix_ms) const override;
  bool record_signature(PeerId owner, std::string_view public_key, std::string_view bytes,
                        std::string_view signature) const override;
  std::string cluster_name(std::string_view cluster_key) const override;
  std::string sign(std::string_view bytes) const override;
  std::string public_key() const override;

 private:
  Credentials(net::NodeIdentity identity, net::ClusterKey cluster)
      : identity_(std::move(identity)), cluster_(std::move(cluster)) {}
  net::NodeIdentity identity_;
  net::ClusterKey cluster_;
};

}  // namespace mesh::node
