// Addresses that the tool is: single ones, ranges and networks, in the order given, without a list
// of each, so that a whole /8 costs no more than one. Pure; built once from the command line.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "dataplane/base/address.h"

namespace culvert::load {

// Of one range: what one network's clients can be, and as many as a benchmark can tell apart.
inline constexpr uint64_t kMaxRangeAddresses = uint64_t{1} << 24;

struct AddressRange {
  IpAddress first;
  uint64_t count = 1;  // at most kMaxRangeAddresses

  // "ADDRESS", "FIRST-LAST" or "NETWORK/LENGTH": the hosts of a network, without IPv4's network and
  // broadcast addresses and IPv6's anycast one (RFC 4291 section 2.6.1). nullopt: neither, empty,
  // or too many.
  [[nodiscard]] static std::optional<AddressRange> parse(std::string_view text);
  [[nodiscard]] IpAddress at(uint64_t index) const;
  [[nodiscard]] bool contains(const IpAddress& ip) const;
};

class AddressSet {
 public:
  void add(const AddressRange& range) {
    ranges_.push_back(range);
    size_ += range.count;
  }
  [[nodiscard]] uint64_t size() const { return size_; }
  [[nodiscard]] bool empty() const { return size_ == 0; }
  // The set's addresses in turn: any index will do. Not of an empty set.
  [[nodiscard]] IpAddress at(uint64_t index) const;
  [[nodiscard]] bool contains(const IpAddress& ip) const;
  [[nodiscard]] bool overlaps(const AddressSet& other) const;
  [[nodiscard]] Family family() const {
    return ranges_.empty() ? Family::kNone : ranges_[0].first.family;
  }

 private:
  std::vector<AddressRange> ranges_;
  uint64_t size_ = 0;
};

}  // namespace culvert::load
