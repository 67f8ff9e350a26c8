// A test that needs what a developer's machine may lack (root, a foreign program) skips there and
// says what is missing. In CI (CI=true) everything is to be had, so there it fails instead of
// passing unrun.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <string_view>

namespace culvert::test {

inline bool in_ci() {
  const char* ci = std::getenv("CI");
  return ci != nullptr && std::string_view(ci) == "true";
}

}  // namespace culvert::test

// At the top level of a test or of SetUp(): it returns from there.
#define CULVERT_TEST_NEEDS(condition, what)       \
  do {                                            \
    if (!(condition)) {                           \
      if (culvert::test::in_ci()) FAIL() << what; \
      GTEST_SKIP() << what;                       \
    }                                             \
  } while (false)
