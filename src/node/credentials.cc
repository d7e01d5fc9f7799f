#include "node/credentials.h"

#include <chrono>
#include <filesystem>

namespace mesh::node {
namespace {

// A node that holds the cluster key renews its own certificate at every start.
constexpr Duration kCertificateLifetime = std::chrono::hours(24 * 30);

Result<net::ClusterKey> cluster_key(const std::string& data_dir, const std::string& text,
                                    bool create) {
  if (!text.empty()) return net::parse_cluster_key(text);
  const std::string path = data_dir + "/cluster.key";
  std::error_code ignored;
  if (std::filesystem::exists(path, ignored)) return net::load_cluster_key(path);
  if (create) return net::create_cluster_key(path);
  return Error(Code::kNotFound,
               fmt::format("no cluster key: {} does not exist. Copy cluster.key from a node of the "
                           "mesh and name it with "
                           "--cluster-key-file FILE, or pipe it in with --cluster-key-file -",
                           path));
}

}  // namespace

Result<std::unique_ptr<Credentials>> Credentials::load(const std::string& data_dir,
                                                       const std::string& node_dir,
                                                       const std::string& cluster_key_text,
                                                       bool create) {
  MESH_ASSIGN_OR_RETURN(net::NodeIdentity identity, net::load_or_create_identity(node_dir));
  MESH_ASSIGN_OR_RETURN(net::ClusterKey cluster, cluster_key(data_dir, cluster_key_text, create));
  return std::unique_ptr<Credentials>(new Credentials(std::move(identity), std::move(cluster)));
}

std::unique_ptr<Credentials> Credentials::temporary(const net::ClusterKey& cluster) {
  return std::unique_ptr<Credentials>(new Credentials(net::NodeIdentity::generate(), cluster));
}

std::string Credentials::cluster() const {
  return net::cluster_short_name(cluster_.public_key());
}

wire::Certificate Credentials::own_certificate(std::int64_t now_unix_ms) const {
  return net::issue_certificate(cluster_, identity_.id(), {"full"}, now_unix_ms,
                                kCertificateLifetime);
}

Result<void> Credentials::certificate(const wire::Certificate& certificate, PeerId peer,
                                      std::int64_t now_unix_ms) const {
  return net::verify_certificate(certificate, cluster_.public_key(), peer, now_unix_ms);
}

bool Credentials::record_signature(PeerId owner, std::string_view public_key,
                                   std::string_view bytes, std::string_view signature) const {
  return net::peer_id_of(public_key) == owner && net::verify(public_key, bytes, signature);
}

std::string Credentials::cluster_name(std::string_view cluster_key) const {
  return net::cluster_short_name(cluster_key);
}
std::string Credentials::sign(std::string_view bytes) const {
  return identity_.sign(bytes);
}
std::string Credentials::public_key() const {
  return identity_.public_key_der();
}

}  // namespace mesh::node
