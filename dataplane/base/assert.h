// Three classes of assertion (DESIGN style rule 7). Bytes from the network never reach one: a
// packet that does not parse is an Outcome.
//
//   ENSURE(x)            a broken invariant after which memory cannot be trusted: abort, always.
//   EXPECT_INVARIANT(x)  a broken invariant that can be contained: abort in debug builds, false in
//                        release so that the caller counts and drops.
#pragma once

#include <cstdio>
#include <cstdlib>

namespace culvert {

[[noreturn, gnu::cold, gnu::noinline]] inline void ensure_failed(const char* expression,
                                                                 const char* file, int line) {
  std::fprintf(stderr, "culvert: invariant broken: %s at %s:%d\n", expression, file, line);
  std::fflush(stderr);  // a daemon's stderr may be buffered
  std::abort();
}

}  // namespace culvert

#define ENSURE(x)                                      \
  (__builtin_expect(static_cast<bool>(x), 1) ? void(0) \
                                             : ::culvert::ensure_failed(#x, __FILE__, __LINE__))

#ifdef NDEBUG
#define EXPECT_INVARIANT(x) (__builtin_expect(static_cast<bool>(x), 1))
#else
#define EXPECT_INVARIANT(x) (ENSURE(x), true)
#endif
