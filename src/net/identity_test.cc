#include "net/identity.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "net/secret_file.h"

namespace mesh::net {
namespace {

namespace fs = std::filesystem;

struct IdentityTest : testing::Test {
  IdentityTest() {
    std::string name = (fs::temp_directory_path() / "mesh_identity_XXXXXX").string();
    folder = ::mkdtemp(name.data());
  }
  ~IdentityTest() override { fs::remove_all(folder); }
  std::string file() const { return (folder / "node.key").string(); }
  fs::path folder;
};

TEST_F(IdentityTest, IsMadeOnceAndFoundAgain) {
  const std::string home = (folder / "a" / "b").string();
  const auto first = load_or_create_identity(home);
  ASSERT_TRUE(first.ok()) << first.error().message;
  const auto second = load_or_create_identity(home);
  ASSERT_TRUE(second.ok());
  EXPECT_EQ(first->id(), second->id());
  EXPECT_NE(first->id(), NodeIdentity::generate().id());
  struct stat info {};
  ASSERT_EQ(::stat((home + "/node.key").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0600u);
  ASSERT_EQ(::stat(home.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0700u);
  EXPECT_EQ(std::distance(fs::directory_iterator(home), fs::directory_iterator()), 1);
}

TEST_F(IdentityTest, IdIsTheHashOfTheKeyThatSigns) {
  const NodeIdentity node = NodeIdentity::generate();
  const std::string key = node.public_key_der();
  EXPECT_EQ(key.size(), 44u);
  EXPECT_EQ(node.id(), peer_id_of(key));
  const std::string signature = node.sign("layers 0:4");
  EXPECT_TRUE(verify(key, "layers 0:4", signature));
  EXPECT_FALSE(verify(key, "layers 0:5", signature));
  EXPECT_FALSE(verify(key, "layers 0:4", signature.substr(1)));
  EXPECT_FALSE(verify(key.substr(1), "layers 0:4", signature));
  EXPECT_FALSE(verify("", "", ""));
  EXPECT_FALSE(verify(NodeIdentity::generate().public_key_der(), "layers 0:4", signature));
}

// RFC 8032, section 7.1, test 2.
TEST(Ed25519, AgreesWithTheStandard) {
  const auto bytes = [](std::string_view hex) {
    std::string out;
    for (std::size_t i = 0; i < hex.size(); i += 2)
      out += static_cast<char>(std::stoi(std::string(hex.substr(i, 2)), nullptr, 16));
    return out;
  };
  const auto key = Ed25519Key::from_seed(
      bytes("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"));
  ASSERT_TRUE(key.ok());
  EXPECT_EQ(key->public_key(),
            bytes("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"));
  EXPECT_EQ(key->sign("\x72"),
            bytes("92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e"
                  "458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"));
  EXPECT_EQ(Ed25519Key::from_pem(key->pem())->seed(), key->seed());
  EXPECT_FALSE(Ed25519Key::from_seed("short").ok());
}

TEST_F(IdentityTest, RefusesAKeyThatOthersMayRead) {
  ASSERT_TRUE(load_or_create_identity(folder.string()).ok());
  ::chmod(file().c_str(), 0640);
  const auto loaded = load_or_create_identity(folder.string());
  ASSERT_FALSE(loaded.ok());
  EXPECT_EQ(loaded.error().code, Code::kPermissionDenied);
  EXPECT_EQ(loaded.error().message,
            fmt::format("node key: {0} holds a secret that others may read (mode 0640); run: chmod "
                        "600 {0}",
                        file()));
}

TEST_F(IdentityTest, RefusesAKeyOfAnotherUser) {
  ASSERT_TRUE(load_or_create_identity(folder.string()).ok());
  if (::chown(file().c_str(), 12345, static_cast<gid_t>(-1)) != 0)
    GTEST_SKIP() << "only root can give a file away";
  const auto loaded = load_or_create_identity(folder.string());
  ASSERT_FALSE(loaded.ok());
  EXPECT_EQ(loaded.error().message,
            fmt::format("node key: {0} belongs to user id 12345, but this runs as user id {1}; "
                        "run: chown {1} {0}",
                        file(), ::geteuid()));
}

TEST_F(IdentityTest, RefusesLinksFoldersAndOversizedFiles) {
  ASSERT_TRUE(create_secret_file((folder / "real").string(), "x").ok());
  fs::create_symlink(folder / "real", file());
  EXPECT_EQ(load_or_create_identity(folder.string()).error().code, Code::kPermissionDenied);
  fs::remove(file());
  fs::create_directory(file());
  EXPECT_EQ(load_or_create_identity(folder.string()).error().code, Code::kPermissionDenied);
  EXPECT_EQ(read_secret_file((folder / "real").string(), 0).error().code, Code::kCorrupt);
}

TEST_F(IdentityTest, LeavesAnUnusableKeyAlone) {
  ASSERT_TRUE(create_secret_file(file(), "not a key").ok());
  const auto loaded = load_or_create_identity(folder.string());
  ASSERT_FALSE(loaded.ok());
  EXPECT_EQ(loaded.error().code, Code::kCorrupt);
  EXPECT_NE(loaded.error().message.find("remove it to become a new node"), std::string::npos);
  EXPECT_EQ(*read_secret_file(file(), 100), "not a key");
}

TEST_F(IdentityTest, SecretFilesAreNeverReplaced) {
  const std::string path = (folder / "secret").string();
  ASSERT_TRUE(create_secret_file(path, "one").ok());
  EXPECT_EQ(create_secret_file(path, "two").error().code, Code::kInvalidArgument);
  EXPECT_EQ(*read_secret_file(path, 100), "one");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder), fs::directory_iterator()), 1);
  EXPECT_EQ(create_secret_file("/nonexistent/x", "one").error().code, Code::kUnavailable);
}

}  // namespace
}  // namespace mesh::net
