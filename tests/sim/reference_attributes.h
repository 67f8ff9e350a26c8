// Attributes as a STUN server must see them (RFC 8489 sections 14.5 and 14.6): what follows the
// integrity is not there, and what is not understood and required is refused.
#pragma once

#include <algorithm>
#include <set>

#include "tools/stun_client/message.h"

namespace culvert::sim_test {

namespace codec = culvert::stun_client;

// Methods that a TURN server over UDP takes requests of, whatever it then answers.
[[nodiscard]] inline bool is_turn_request(codec::Method method) {
  using codec::Method;
  return method == Method::kAllocate || method == Method::kRefresh ||
         method == Method::kCreatePermission || method == Method::kChannelBind ||
         method == Method::kConnect || method == Method::kConnectionBind;
}

class Seen {
 public:
  explicit Seen(const codec::MessageView& message) : message_(message) {
    for (const auto& a : message.attributes()) {
      if (a.type != codec::Attr::kMessageIntegrity &&
          a.type != codec::Attr::kMessageIntegritySha256)
        continue;
      end_ = a.offset;
      break;
    }
  }
  [[nodiscard]] const codec::AttributeView* find(codec::Attr type) const {
    const auto* a = message_.find(type);
    return a != nullptr && a->offset <= end_ ? a : nullptr;
  }
  [[nodiscard]] bool has(codec::Attr type) const { return find(type) != nullptr; }
  [[nodiscard]] size_t end() const { return end_; }

  // Comprehension-required attributes that this server does not understand. TURN's own are
  // understood everywhere; `turn`: the message is one of TURN's, where ICE's and others' are not.
  [[nodiscard]] std::set<uint16_t> unknown_required(bool indication, bool request = false) const {
    static const std::set<uint16_t> kKnown = {
        0x0001, 0x0003, 0x0006, 0x0008, 0x0009, 0x000a, 0x000c, 0x000d, 0x0012, 0x0013,
        0x0014, 0x0015, 0x0016, 0x0017, 0x0018, 0x0019, 0x001a, 0x001b, 0x001c, 0x001d,
        0x001e, 0x0020, 0x0022, 0x0024, 0x0025, 0x0026, 0x0027, 0x002a};
    // RFC 5780's, which a server without a second address refuses.
    static const std::set<uint16_t> kDiscovery = {0x0003, 0x0026, 0x0027};
    // And what is not for a TURN server over UDP: OAuth, ICE, TCP allocations.
    static const std::set<uint16_t> kForeign = {0x001b, 0x0024, 0x0025, 0x002a};
    std::set<uint16_t> out;
    for (const auto& a : message_.attributes()) {
      const auto type = static_cast<uint16_t>(a.type);
      if (a.offset > end_ || type >= 0x8000) continue;
      const bool refused = !kKnown.contains(type) || (!indication && kDiscovery.contains(type)) ||
                           (request && kForeign.contains(type));
      if (refused) out.insert(type);
    }
    return out;
  }

 private:
  const codec::MessageView& message_;
  size_t end_ = SIZE_MAX;
};

}  // namespace culvert::sim_test
