// What authentication and the STUN codec cost per message: parsing, FINGERPRINT, verifying,
// signing, key derivation, the stateless nonce. Many keys are used in turn where a server has many
// users, so that the shortcut for a repeated key shows only where it is meant to
// (`verify_then_sign`).
#include <benchmark/benchmark.h>

#include <array>
#include <string>
#include <vector>

#include "crypto/credentials.h"
#include "crypto/random.h"
#include "crypto/stun_integrity.h"
#include "dataplane/api/nonce.h"
#include "dataplane/wire/stun.h"

namespace culvert {
namespace {

using stun::Attribute;
using Bytes = std::vector<uint8_t>;
using Key = std::array<uint8_t, 16>;

constexpr size_t kUsers = 256;
constexpr stun::TransactionId kId = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};

[[nodiscard]] std::vector<Key> random_keys() {
  crypto::Random random(1);
  std::vector<Key> keys(kUsers);
  for (Key& key : keys)
    random.fill(key);
  return keys;
}

// An Allocate as browsers send it.
[[nodiscard]] Bytes allocate(const Key& key, bool sha256, bool fingerprint) {
  Bytes buffer(512);
  stun::Builder builder(buffer, stun::Class::kRequest, stun::kAllocate, kId.data());
  builder.add_u32(Attribute::kRequestedTransport, 17u << 24);
  builder.add(Attribute::kUsername, "1700000000:alice");
  builder.add(Attribute::kRealm, "example.org");
  builder.add(Attribute::kNonce, "obMatJos2gAAAAAAAAAAAAAAAAAAA");
  if (sha256) {
    crypto::add_integrity_sha256(builder, key);
  } else {
    crypto::add_integrity(builder, key);
  }
  if (fingerprint) builder.add_fingerprint();
  buffer.resize(builder.size());
  return buffer;
}

[[nodiscard]] stun::Message parsed(const Bytes& bytes) {
  stun::Message message;
  (void)stun::Message::parse(bytes, message);
  return message;
}

void parse_binding(benchmark::State& state) {
  Bytes buffer(20);
  const stun::Builder builder(buffer, stun::Class::kRequest, stun::kBinding, kId.data());
  for (auto _ : state) {
    stun::Message message;
    benchmark::DoNotOptimize(stun::Message::parse(buffer, message));
    benchmark::DoNotOptimize(message);
  }
}
BENCHMARK(parse_binding);

void parse_allocate(benchmark::State& state) {
  const Bytes bytes = allocate({}, false, state.range(0) != 0);
  for (auto _ : state) {
    stun::Message message;
    benchmark::DoNotOptimize(stun::Message::parse(bytes, message));
    benchmark::DoNotOptimize(message);
  }
  state.SetLabel(std::to_string(bytes.size()) + " bytes");
}
BENCHMARK(parse_allocate)->ArgName("fingerprint")->Arg(0)->Arg(1);

void crc32(benchmark::State& state) {
  const Bytes bytes(static_cast<size_t>(state.range(0)), 0x5a);
  for (auto _ : state)
    benchmark::DoNotOptimize(stun::crc32(bytes));
  state.SetBytesProcessed(state.iterations() * state.range(0));
}
BENCHMARK(crc32)->Arg(100)->Arg(1200);

void verify(benchmark::State& state) {
  const std::vector<Key> keys = random_keys();
  const Bytes bytes = allocate(keys[0], state.range(0) != 0, false);
  const stun::Message message = parsed(bytes);
  size_t i = 0;
  for (auto _ : state) {
    const Key& key = keys[i++ % kUsers];
    benchmark::DoNotOptimize(crypto::verify_integrity(message, key));
  }
}
BENCHMARK(verify)->ArgName("sha256")->Arg(0)->Arg(1);

void sign(benchmark::State& state) {
  const std::vector<Key> keys = random_keys();
  Bytes buffer(256);
  size_t i = 0;
  for (auto _ : state) {
    stun::Builder builder(buffer, stun::Class::kSuccess, stun::kAllocate, kId.data());
    builder.add_u32(Attribute::kLifetime, 600);
    const Key& key = keys[i++ % kUsers];
    if (state.range(0) != 0) {
      crypto::add_integrity_sha256(builder, key);
    } else {
      crypto::add_integrity(builder, key);
    }
    benchmark::DoNotOptimize(builder);
  }
}
BENCHMARK(sign)->ArgName("sha256")->Arg(0)->Arg(1);

void verify_then_sign(benchmark::State& state) {
  const std::vector<Key> keys = random_keys();
  const Bytes bytes = allocate(keys[0], false, false);
  const stun::Message message = parsed(bytes);
  Bytes buffer(256);
  size_t i = 0;
  for (auto _ : state) {
    const Key& key = keys[i++ % kUsers];
    benchmark::DoNotOptimize(crypto::verify_integrity(message, key));
    stun::Builder builder(buffer, stun::Class::kSuccess, stun::kAllocate, kId.data());
    builder.add_u32(Attribute::kLifetime, 600);
    crypto::add_integrity(builder, key);
    benchmark::DoNotOptimize(builder);
  }
}
BENCHMARK(verify_then_sign);

void long_term_keys(benchmark::State& state) {
  for (auto _ : state) {
    benchmark::DoNotOptimize(crypto::md5_key("1700000000:alice", "example.org", "c2VjcmV0"));
    benchmark::DoNotOptimize(crypto::sha256_key("1700000000:alice", "example.org", "c2VjcmV0"));
  }
}
BENCHMARK(long_term_keys);

void rest_password(benchmark::State& state) {
  for (auto _ : state)
    benchmark::DoNotOptimize(crypto::rest_password("north", "1700000000:alice", false));
}
BENCHMARK(rest_password);

void random_u64(benchmark::State& state) {
  crypto::Random random;
  for (auto _ : state)
    benchmark::DoNotOptimize(random.u64());
}
BENCHMARK(random_u64);

[[nodiscard]] NonceKeys nonce_keys() {
  NonceKeys keys;
  keys.key[0] = {1, 2};
  keys.now_seconds = 1000;
  return keys;
}

void nonce_make(benchmark::State& state) {
  const NonceKeys keys = nonce_keys();
  TransportAddress client{IpAddress::v4(0xc0000201), 40000};
  for (auto _ : state) {
    ++client.port;
    benchmark::DoNotOptimize(make_nonce(keys, 0, kFeaturePasswordAlgorithms, client));
  }
}
BENCHMARK(nonce_make);

void nonce_check(benchmark::State& state) {
  const NonceKeys keys = nonce_keys();
  const TransportAddress client{IpAddress::v4(0xc0000201), 40000};
  const Nonce nonce = make_nonce(keys, 0, kFeaturePasswordAlgorithms, client);
  const std::span bytes(reinterpret_cast<const uint8_t*>(nonce.data()), nonce.size());
  for (auto _ : state)
    benchmark::DoNotOptimize(check_nonce(keys, 0, client, bytes, 600));
}
BENCHMARK(nonce_check);

}  // namespace
}  // namespace culvert
