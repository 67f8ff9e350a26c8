#include "tools/culvert-load/flood.h"

#include "tools/stun_client/message.h"

namespace culvert::load {
namespace {

using stun_client::Method;

constexpr uint32_t kFirstSourcePort = 1024;
constexpr uint32_t kSourcePorts = 65536 - kFirstSourcePort;
constexpr size_t kLongestNoise = 200;

}  // namespace

AttackMaker::AttackMaker(Attack attack, uint64_t seed) : attack_(attack), random_(seed) {
  const auto method = attack == Attack::kBinding ? Method::kBinding : Method::kAllocate;
  stun_client::MessageBuilder message(method, stun_client::Class::kRequest, {});
  if (method == Method::kAllocate) message.add_u8(stun_client::Attr::kRequestedTransport, 17);
  request_ = message.take();
}

void AttackMaker::make(std::vector<uint8_t>& out) {
  out.assign(request_.begin(), request_.end());
  store_be64(&out[8], random_());
  store_be32(&out[16], static_cast<uint32_t>(random_()));
  if (attack_ == Attack::kMalformed) spoil(out);
}

TransportAddress AttackMaker::draw_source(const AddressSet& from) {
  const uint64_t dice = random_();
  return {from.at(dice >> 20), static_cast<uint16_t>(kFirstSourcePort + dice % kSourcePorts)};
}

// One of: noise, a cut message, a length that lies, flipped bytes, a channel nobody bound.
void AttackMaker::spoil(std::vector<uint8_t>& bytes) {
  const uint64_t dice = random_();
  switch (dice % 5) {
    case 0:
      bytes.resize(1 + dice / 5 % kLongestNoise);
      for (auto& byte : bytes)
        byte = static_cast<uint8_t>(random_());
      break;
    case 1:
      bytes.resize(1 + dice / 5 % (bytes.size() - 1));
      break;
    case 2:
      store_be16(&bytes[2], static_cast<uint16_t>(dice >> 16));
      break;
    case 3:
      for (int i = 0; i < 4; ++i)
        bytes[random_() % bytes.size()] ^= static_cast<uint8_t>(1 + random_() % 255);
      break;
    default:
      store_be16(&bytes[0], static_cast<uint16_t>(0x4000 + dice % 0x1000));
      break;
  }
}

Flood::Flood(const Options& options, uint64_t seed)
    : options_(options), maker_(*options.flood, seed), server_(Destination::of(options.server)) {}

void Flood::begin(const Trial& trial) {
  trial_ = trial;
  trial_.rate = options_.flood_rate;
  trial_.rate_to = 0;
  schedule_ = Schedule(trial_, options_.threads, 1, 0);
  next_ = 0;
}

size_t Flood::send_due(uint64_t now, Driver& driver, FloodTally& tally) {
  size_t built = 0;
  for (; built < kBurst; ++built, ++next_) {
    const uint64_t due = schedule_.due(next_);
    if (due > now || due >= trial_.measure_to) break;
    auto& datagram = datagrams_[built];
    maker_.make(datagram);
    sources_[built] = maker_.draw_source(options_.spoof);
    items_[built] = {
        kForged, &server_,        datagram.data(), static_cast<uint32_t>(datagram.size()),
        0,       &sources_[built]};
    tally.request_bytes += datagram.size() + header_bytes(options_.server);
  }
  if (built != 0) driver.send({items_.data(), built});
  tally.sent += built;
  return built;
}

uint64_t Flood::due_by(uint64_t at) const {
  return static_cast<uint64_t>(static_cast<double>(at - trial_.start) / 1e9 * options_.flood_rate) /
         options_.threads;
}

void Flood::answered(const RxItem& item, FloodTally& tally) const {
  ++tally.responses;
  tally.response_bytes += item.size + header_bytes(options_.server);
}

}  // namespace culvert::load
