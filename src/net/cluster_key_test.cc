#include "net/cluster_key.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "net/identity.h"

namespace mesh::net {
namespace {

constexpr std::int64_t kNow = 1'800'000'000'000;
constexpr std::int64_t kHour = 3'600'000;

TEST(ClusterKey, RoundTripsThroughTextAndFile) {
  const ClusterKey key = ClusterKey::generate();
  const std::string text = key.to_text();
  EXPECT_EQ(text.size(), 6u + 56u);
  EXPECT_EQ(text.substr(0, 6), "tmck1-");
  const auto parsed = parse_cluster_key("  " + text + "\r\n");
  ASSERT_TRUE(parsed.ok()) << parsed.error().message;
  EXPECT_EQ(parsed->public_key(), key.public_key());

  std::string name = (std::filesystem::temp_directory_path() / "mesh_cluster_XXXXXX").string();
  const std::filesystem::path folder = ::mkdtemp(name.data());
  const std::string path = (folder / "cluster.key").string();
  const auto made = create_cluster_key(path);
  ASSERT_TRUE(made.ok());
  EXPECT_EQ(load_cluster_key(path)->public_key(), made->public_key());
  EXPECT_EQ(create_cluster_key(path).error().message,
            fmt::format("cluster key: {} exists already and is left as it is", path));
  EXPECT_EQ(load_cluster_key(path + "x").error().code, Code::kNotFound);
  std::filesystem::remove_all(folder);
}

TEST(ClusterKey, SaysWhatIsWrongWithATextWithoutQuotingIt) {
  const std::string text = ClusterKey::generate().to_text();
  const auto message = [](const std::string& bad) {
    return parse_cluster_key(bad).error().message;
  };
  EXPECT_EQ(message(" \n"), "this is not a cluster key: it is empty");
  EXPECT_EQ(message("sk-abc"), "this is not a cluster key: it does not begin with 'tmck1-'");
  EXPECT_EQ(message(text.substr(0, 40)),
            "this is not a cluster key: 34 characters follow 'tmck1-', not 56");
  std::string bad = text;
  bad[20] = '!';
  EXPECT_EQ(message(bad), "this is not a cluster key: it has characters other than a-z and 2-7");
  for (std::size_t i = 6; i < text.size(); ++i) {
    std::string mistyped = text;
    mistyped[i] = mistyped[i] == 'a' ? 'b' : 'a';
    EXPECT_EQ(
        message(mistyped),
        "this is not a cluster key: its check characters do not fit, so it has been mistyped");
  }
}

struct CertificateTest : testing::Test {
  const ClusterKey cluster = ClusterKey::generate();
  const PeerId node = NodeIdentity::generate().id();
  const wire::Certificate certificate =
      issue_certificate(cluster, node, {"full", "admin"}, kNow, seconds(3600));
  std::string refusal(const wire::Certificate& shown, PeerId who, std::int64_t now) const {
    const auto verdict = verify_certificate(shown, cluster.public_key(), who, now);
    return verdict.ok() ? "" : verdict.error().message;
  }
};

TEST_F(CertificateTest, HoldsForItsNodeAndTime) {
  EXPECT_EQ(refusal(certificate, node, kNow), "");
  EXPECT_EQ(refusal(certificate, node, kNow - 299'000), "");
  EXPECT_EQ(refusal(certificate, node, kNow + kHour - 1), "");
  const auto read_again = wire::decode_certificate(wire::encode_certificate(certificate));
  ASSERT_TRUE(read_again.ok());
  EXPECT_EQ(refusal(*read_again, node, kNow), "");
}

TEST_F(CertificateTest, IsRefusedWithOneSentence) {
  const std::string name = node.short_name();
  const std::string ours = cluster_short_name(cluster.public_key());
  const ClusterKey other = ClusterKey::generate();
  EXPECT_EQ(refusal(issue_certificate(other, node, {"full"}, kNow, seconds(60)), node, kNow),
            fmt::format("{} belongs to another cluster: its certificate is of {}, this cluster is "
                        "{}",
                        name, cluster_short_name(other.public_key()), ours));
  const PeerId stranger = NodeIdentity::generate().id();
  EXPECT_EQ(
      refusal(certificate, stranger, kNow),
      fmt::format("{} shows the certificate of another node, {}", stranger.short_name(), name));
  EXPECT_EQ(
      refusal(certificate, node, kNow + kHour),
      fmt::format("the certificate of {} expired 0 minutes ago; it must be issued again", name));
  EXPECT_EQ(
      refusal(certificate, node, kNow + 4 * kHour),
      fmt::format("the certificate of {} expired 3 hours ago; it must be issued again", name));
  EXPECT_EQ(refusal(certificate, node, kNow - kHour),
            fmt::format("the certificate of {} is valid only in 55 minutes; is the clock of this "
                        "machine right?",
                        name));
}

TEST_F(CertificateTest, BindsEveryField) {
  const std::string forged =
      fmt::format("the certificate of {} is not signed by the key of cluster {}", node.short_name(),
                  cluster_short_name(cluster.public_key()));
  std::vector<wire::Certificate> changed(6, certificate);
  changed[0].roles = {"full", "admin", "relay"};
  changed[1].serial ^= 1;
  changed[2].not_after_ms += 1;
  changed[3].not_before_ms -= 1;
  changed[4].signature[0] = static_cast<char>(changed[4].signature[0] ^ 1);
  changed[5].signature.clear();
  for (const wire::Certificate& one : changed) EXPECT_EQ(refusal(one, node, kNow), forged);
  wire::Certificate taken = certificate;
  taken.node = NodeIdentity::generate().id();
  EXPECT_NE(refusal(taken, taken.node, kNow).find("is not signed"), std::string::npos);
}

}  // namespace
}  // namespace mesh::net
