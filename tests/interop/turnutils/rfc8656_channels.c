// Loaded into turnutils_uclient (LD_PRELOAD) by ../turnutils_test.py. That client draws its channel
// numbers from RFC 5766's range, 0x4000 to 0x7FFF, as 0x4000 + random % 0x4000; RFC 8656 section 12
// leaves 0x4000 to 0x4FFF, and the relay answers 400 to the rest. Clearing two bits of each 8-byte
// random number keeps the client's draws in the newer range; nothing else about it changes.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { kDrawBytes = 8 };
static const uint64_t kOutsideRfc8656 = 0x3000;

int RAND_bytes(unsigned char* out, int count) {
  int (*real)(unsigned char*, int) = (int (*)(unsigned char*, int))dlsym(RTLD_NEXT, "RAND_bytes");
  if (real == NULL) return 0;
  const int result = real(out, count);
  if (result == 1 && count == kDrawBytes) {
    uint64_t value;
    memcpy(&value, out, sizeof value);
    value &= ~kOutsideRfc8656;
    memcpy(out, &value, sizeof value);
  }
  return result;
}
