#include "dataplane/base/arena.h"

#include <sys/mman.h>

#include "dataplane/base/assert.h"

namespace culvert {

namespace {
constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kSmallPage = 4096;
}  // namespace

Arena::Arena(size_t bytes) {
  const size_t page = bytes >= kHugePage ? kHugePage : kSmallPage;
  capacity_ = (bytes + page - 1) / page * page;
  void* mapped =
      mmap(nullptr, capacity_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  // Transparent huge pages where the kernel grants them: fewer TLB misses at a million flows.
  (void)madvise(mapped, capacity_, MADV_HUGEPAGE);
  base_ = static_cast<uint8_t*>(mapped);
}

Arena::~Arena() {
  if (base_ != nullptr) munmap(base_, capacity_);
}

void* Arena::take(size_t bytes, size_t align) {
  ENSURE(!sealed_);
  const size_t start = (used_ + align - 1) / align * align;
  ENSURE(start + bytes <= capacity_);
  used_ = start + bytes;
  return base_ + start;
}

}  // namespace culvert
