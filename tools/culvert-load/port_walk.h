// Local ports one after the other instead of the kernel's choice: a server may remember a 5-tuple
// for seconds after it ended, and a random port of 28,000 comes again long before that.
#pragma once

#include <cstdint>

namespace culvert::load {

inline constexpr int kPortTries =
    4096;  // ports in a row that others may hold before it is an error

class PortWalk {
 public:
  PortWalk(uint32_t first, uint32_t last, uint32_t thread, uint32_t threads)
      : first_(first + (last - first) / threads * thread),
        last_(first + (last - first) / threads * (thread + 1)),
        next_(first_) {}
  // True in `wrapped` each time the walk begins again.
  [[nodiscard]] uint16_t take(bool& wrapped) {
    wrapped = next_ == last_;
    if (wrapped) next_ = first_;
    return static_cast<uint16_t>(next_++);
  }

 private:
  uint32_t first_;
  uint32_t last_;
  uint32_t next_;
};

}  // namespace culvert::load
