// Two threads on what threads share: the SPSC ring with messages of every length, the doorbell that
// must never lose a wake-up, and the snapshot that is swapped under a running core. Short in every
// run; the point is to run it under ThreadSanitizer, where CULVERT_STRESS_FACTOR makes it longer.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "dataplane/api/messages.h"
#include "dataplane/core/ring_engine.h"

namespace culvert {
namespace {

uint32_t factor() {
  const char* text = std::getenv("CULVERT_STRESS_FACTOR");
  return text == nullptr ? 1 : static_cast<uint32_t>(std::strtoul(text, nullptr, 10));
}

// What message `n` holds, so that the consumer can tell a torn or stale slot.
uint32_t payload_length(uint32_t n, uint32_t longest) {
  return (n * 2654435761u >> 8) % longest;
}
uint8_t payload_byte(uint32_t n, uint32_t at) {
  return static_cast<uint8_t>(n * 31 + at * 7);
}

void produce(SpscRing& ring, uint32_t messages, uint32_t longest) {
  std::vector<uint8_t> payload(longest);
  for (uint32_t n = 0; n < messages; ++n) {
    const uint32_t length = payload_length(n, longest);
    for (uint32_t i = 0; i < length; ++i)
      payload[i] = payload_byte(n, i);
    SendReply message;
    message.sequence = n;
    message.cookie = ~n;
    // Two pieces, as control sends a list and a response.
    const std::span<const uint8_t> whole(payload.data(), length);
    while (!ring_write(ring, message, whole.first(length / 3), whole.subspan(length / 3))) {
      std::this_thread::yield();
    }
  }
}

// Returns how many messages were wrong.
uint32_t check(const RingSlot* slot, uint32_t n, uint32_t longest) {
  const MessageView view(slot);
  const auto message = view.as<SendReply>();
  if (view.type() != static_cast<uint16_t>(SendReply::kType) || message.sequence != n ||
      message.cookie != ~n || view.payload().size() != payload_length(n, longest)) {
    return 1;
  }
  for (uint32_t i = 0; i < view.payload().size(); ++i) {
    if (view.payload()[i] != payload_byte(n, i)) return 1;
  }
  return 0;
}

struct RingCase {
  uint32_t slots;
  bool batches;  // read() many, release() once; else front() and pop()
};

class RingStress : public ::testing::TestWithParam<RingCase> {};

TEST_P(RingStress, every_message_arrives_whole_once_and_in_order) {
  const auto [slots, batches] = GetParam();
  const uint32_t messages = 20'000 * factor();
  std::vector<RingSlot> memory(slots);
  SpscRing ring(memory);
  // A quarter of the shortest ring; in longer ones enough to wrap in ever other places.
  const uint32_t longest = (SpscRing::kMinSlots / 4 - kFixedSlots) * sizeof(RingSlot);
  std::thread producer([&] { produce(ring, messages, longest); });
  uint32_t wrong = 0;
  std::minstd_rand random(1);
  for (uint32_t n = 0; n < messages;) {
    if (!batches) {
      const RingSlot* slot = ring.front();
      if (slot == nullptr) {
        std::this_thread::yield();
        continue;
      }
      wrong += check(slot, n++, longest);
      ring.pop();
      continue;
    }
    const uint32_t wanted = 1 + static_cast<uint32_t>(random() % 32);
    std::vector<const RingSlot*> taken;
    while (taken.size() < wanted) {
      const RingSlot* slot = ring.read();
      if (slot == nullptr) break;
      taken.push_back(slot);
    }
    // What was read stays valid until release(), however many came before.
    for (const RingSlot* slot : taken)
      wrong += check(slot, n++, longest);
    ring.release();
    if (taken.empty()) std::this_thread::yield();
  }
  producer.join();
  EXPECT_EQ(wrong, 0u);
  EXPECT_TRUE(ring.empty());
}
INSTANTIATE_TEST_SUITE_P(Sizes, RingStress,
                         ::testing::Values(RingCase{256, false}, RingCase{256, true},
                                           RingCase{1024, true}, RingCase{16384, true}),
                         [](const auto& tested) {
                           return std::to_string(tested.param.slots) +
                                  (tested.param.batches ? "_batches" : "_single");
                         });

// The sleeper sleeps for good unless rung: a lost wake-up ends this test by its time limit.
TEST(DoorbellStress, no_wake_up_is_lost) {
  const uint32_t messages = 20'000 * factor();
  std::vector<RingSlot> memory(1024);
  SpscRing ring(memory);
  Doorbell bell;
  const int fd = eventfd(0, EFD_CLOEXEC);
  ASSERT_GE(fd, 0);
  std::thread producer([&] {
    std::minstd_rand random(2);
    for (uint32_t n = 0; n < messages; ++n) {
      SendReply message;
      message.sequence = n;
      while (!ring_write(ring, message))
        std::this_thread::yield();
      if (bell.must_ring()) {
        const uint64_t one = 1;
        if (write(fd, &one, sizeof one) != sizeof one) std::abort();
      }
      // Now and then long enough for the consumer to fall asleep.
      for (auto spin = random() % 512; spin != 0; --spin)
        std::atomic_signal_fence(std::memory_order_seq_cst);
    }
  });
  uint32_t sleeps = 0;
  for (uint32_t n = 0; n < messages;) {
    if (ring.front() != nullptr) {
      ring.pop();
      ++n;
      continue;
    }
    bell.arm();
    if (ring.empty()) {
      pollfd waiting{fd, POLLIN, 0};
      ASSERT_EQ(poll(&waiting, 1, 60'000), 1) << "a wake-up was lost after message " << n;
      uint64_t rings = 0;
      ASSERT_EQ(read(fd, &rings, sizeof rings), static_cast<ssize_t>(sizeof rings));
      ++sleeps;
    }
    bell.disarm();
    // A ring that came between empty() and disarm() stays in the eventfd and only wakes us early.
  }
  producer.join();
  close(fd);
  EXPECT_GT(sleeps, 0u);
}

std::unique_ptr<Snapshot> numbered(uint64_t version) {
  auto s = std::make_unique<Snapshot>();
  s->version = version;
  s->addresses.assign(1 + version % 5, {});
  s->software_attribute.assign(64, static_cast<uint8_t>(version));
  return s;
}

// The core reads a snapshot as the worker does and says which it has seen; control publishes
// without waiting. A snapshot freed too early is a use after free that the sanitizers see.
TEST(SnapshotStress, a_swapped_snapshot_lives_until_the_core_has_moved_on) {
  const uint64_t versions = 5'000 * factor();
  RingEngine engine({}, numbered(1));
  std::atomic<bool> stop{false};
  uint64_t torn = 0;
  std::atomic<uint64_t> loops{0};
  std::thread core([&] {
    uint64_t last = 0;
    while (!stop.load(std::memory_order_relaxed)) {
      const Snapshot& s = *engine.board().snapshot.load(std::memory_order_acquire);
      engine.mutable_stats(0).seen_version.store(s.version, std::memory_order_release);
      if (s.version < last || s.addresses.size() != 1 + s.version % 5) ++torn;
      for (const uint8_t b : s.software_attribute) {
        if (b != static_cast<uint8_t>(s.version)) ++torn;
      }
      last = s.version;
      loops.fetch_add(1, std::memory_order_relaxed);
    }
  });
  for (uint64_t v = 2; v <= versions; ++v) {
    engine.publish(numbered(v));
    // Lets the core in between now and then, on a machine with one CPU too.
    if (v % 16 == 0) std::this_thread::yield();
  }
  while (engine.stats(0).seen_version.load(std::memory_order_acquire) != versions) {
    std::this_thread::yield();
  }
  stop = true;
  core.join();
  EXPECT_EQ(torn, 0u);
  EXPECT_GT(loops.load(), 0u);
}

}  // namespace
}  // namespace culvert
