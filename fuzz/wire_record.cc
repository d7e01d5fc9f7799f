// Input: the bytes inside gossip and credentials, an encoded node record and an encoded
// certificate.

#include "target.h"
#include "wire/messages.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes = mesh::fuzz::text_of(data, size);
  if (const auto record = mesh::wire::decode_record(bytes); record.ok()) {
    const bool cut = mesh::fuzz::planted(record->pages_used > record->pages_total);
    const std::string encoded = mesh::wire::encode_record(*record);
    const auto again = mesh::wire::decode_record(cut ? encoded.substr(1) : encoded);
    MESH_CHECK(again.ok(), "{}", again.error().message);
  }
  if (const auto certificate = mesh::wire::decode_certificate(bytes); certificate.ok()) {
    const auto again = mesh::wire::decode_certificate(mesh::wire::encode_certificate(*certificate));
    MESH_CHECK(again.ok() && *again == *certificate, "a certificate changes when encoded again");
    MESH_CHECK(!mesh::wire::certificate_body(*certificate).empty(), "nothing to sign");
  }
  return 0;
}
