// Log lines: one event is one line whatever a client put into it, JSON parses back, repeated
// warnings are limited and told, and a slow reader costs lines, not time.
#include "control/logging.h"

#include <gtest/gtest.h>
#include <spdlog/sinks/base_sink.h>

#include <condition_variable>
#include <mutex>
#include <random>

#include <nlohmann/json.hpp>

namespace culvert {
namespace {

class MemorySink final : public spdlog::sinks::base_sink<std::mutex> {
 public:
  std::vector<std::string> lines() {
    const std::lock_guard lock(mutex_);
    return lines_;
  }
  // While blocked, writing waits: a reader that does not read.
  void block(bool on) {
    {
      const std::lock_guard lock(gate_);
      blocked_ = on;
    }
    opened_.notify_all();
  }
  void wait_until_writing() {
    std::unique_lock lock(gate_);
    opened_.wait(lock, [this] { return writing_; });
  }

 private:
  void sink_it_(const spdlog::details::log_msg& msg) override {
    {
      std::unique_lock lock(gate_);
      writing_ = true;
      opened_.notify_all();
      opened_.wait(lock, [this] { return !blocked_; });
    }
    lines_.emplace_back(msg.payload.data(), msg.payload.size());
  }
  void flush_() override {}

  std::vector<std::string> lines_;
  std::mutex gate_;
  std::condition_variable opened_;
  bool blocked_ = false;
  bool writing_ = false;
};

std::string value_of(std::string_view text) {
  std::string out;
  append_log_value(out, text);
  return out;
}

TEST(Logging, PlainValuesStandBare) {
  EXPECT_EQ(value_of("alice@example.org"), "alice@example.org");
  EXPECT_EQ(value_of("192.0.2.1:5000"), "192.0.2.1:5000");
}

TEST(Logging, ValuesThatNeedItAreQuotedAndEscaped) {
  EXPECT_EQ(value_of(""), "\"\"");
  EXPECT_EQ(value_of("a b"), "\"a b\"");
  EXPECT_EQ(value_of("a\"b\\c"), "\"a\\\"b\\\\c\"");
  EXPECT_EQ(value_of("a\nreason=none"), "\"a\\nreason=none\"");
  EXPECT_EQ(value_of("\x1b[2J"), "\"\\x1b[2J\"");
  EXPECT_EQ(value_of("gr\xc3\xbc\xc3\x9f"
                     "e"),
            "\"gr\xc3\xbc\xc3\x9f"
            "e\"");
  EXPECT_EQ(value_of("\xff\xfe"), "\"\\xff\\xfe\"");
  EXPECT_EQ(value_of("\xc0\x80"), "\"\\xc0\\x80\"") << "overlong zero";
  EXPECT_EQ(value_of("\xe2\x80\xae"
                     "x"),
            "\"\\xe2\\x80\\xaex\"")
      << "right-to-left override";
  EXPECT_EQ(value_of("\xe2\x80\xa8"), "\"\\xe2\\x80\\xa8\"") << "line separator";
  EXPECT_EQ(value_of("\xc2\x9b"), "\"\\xc2\\x9b\"") << "C1 control";
}

TEST(Logging, LongValuesAreCut) {
  const std::string out = value_of(std::string(10000, 'a'));
  EXPECT_EQ(out, "\"" + std::string(kMaxLogValueBytes, 'a') + "...\"");
}

TEST(Logging, RandomBytesNeverBreakTheLineInEitherFormat) {
  const auto sink = std::make_shared<MemorySink>();
  Logger text(LogFormat::kText, LogLevel::kInfo, sink);
  Logger json(LogFormat::kJson, LogLevel::kInfo, sink);
  const unsigned seed = std::random_device{}();
  RecordProperty("seed", static_cast<int>(seed));
  std::printf("seed %u\n", seed);
  std::mt19937 random(seed);
  for (int i = 0; i < 2000; ++i) {
    std::string name(random() % 40, 0);
    for (char& c : name)
      c = static_cast<char>(random());
    text.info("ended", {{"user", name}});
    json.info("ended", {{"user", name}});
  }
  const auto lines = sink->lines();
  ASSERT_EQ(lines.size(), 4000u);
  for (size_t i = 0; i < lines.size(); ++i) {
    for (const char c : lines[i]) {
      ASSERT_FALSE(static_cast<uint8_t>(c) < 0x20 || c == 0x7f) << lines[i] << " seed " << seed;
    }
    if (i % 2 == 1) {
      ASSERT_TRUE(nlohmann::json::accept(lines[i])) << lines[i] << " seed " << seed;
    }
  }
}

TEST(Logging, JsonLinesCarryTypedFields) {
  const auto sink = std::make_shared<MemorySink>();
  Logger log(LogFormat::kJson, LogLevel::kInfo, sink);
  log.info("allocation ended", {{"user", "al\"ice\n"},
                                {"bytes", uint64_t{1} << 63},
                                {"whole", true},
                                {"seconds", 1.5},
                                {"delta", -3}});
  const auto line = nlohmann::json::parse(sink->lines().at(0));
  EXPECT_EQ(line["message"], "allocation ended");
  EXPECT_EQ(line["level"], "info");
  EXPECT_EQ(line["user"], "al\"ice\n");
  EXPECT_EQ(line["bytes"], uint64_t{1} << 63);
  EXPECT_EQ(line["whole"], true);
  EXPECT_EQ(line["seconds"], 1.5);
  EXPECT_EQ(line["delta"], -3);
}

TEST(Logging, TextLinesBeginWithTimeAndLevel) {
  const auto sink = std::make_shared<MemorySink>();
  Logger log(LogFormat::kText, LogLevel::kInfo, sink);
  log.warning("ready", {{"cores", 2u}});
  const std::string line = sink->lines().at(0);
  ASSERT_GT(line.size(), 25u);
  EXPECT_EQ(line[10], 'T');
  EXPECT_EQ(line.substr(23, 1), "Z");
  EXPECT_EQ(line.substr(24), " warning ready cores=2");
}

TEST(Logging, BelowTheLevelNothingIsWritten) {
  const auto sink = std::make_shared<MemorySink>();
  Logger log(LogFormat::kText, LogLevel::kWarning, sink);
  log.info("no");
  log.limited(LogLevel::kDebug, "no");
  EXPECT_TRUE(sink->lines().empty());
  log.set_level(LogLevel::kDebug);
  log.debug("yes");
  EXPECT_EQ(sink->lines().size(), 1u);
}

TEST(Logging, RepeatedEventsAreLimitedEachOnItsOwn) {
  const auto sink = std::make_shared<MemorySink>();
  Logger log(LogFormat::kText, LogLevel::kInfo, sink);
  for (int i = 0; i < 1000; ++i)
    log.limited(LogLevel::kWarning, "one", {{"i", i}});
  EXPECT_EQ(sink->lines().size(), kLogBurst);
  log.limited(LogLevel::kWarning, "another");
  EXPECT_EQ(sink->lines().size(), kLogBurst + 1);
}

TEST(Logging, AReaderThatDoesNotReadCostsLinesAndIsCounted) {
  const auto sink = std::make_shared<MemorySink>();
  Logger log(LogFormat::kText, LogLevel::kInfo, sink);
  log.start_writer();
  sink->block(true);
  log.info("first");
  sink->wait_until_writing();
  for (size_t i = 0; i < kLogQueueLines + 100; ++i)
    log.info("more");
  EXPECT_GE(log.dropped(), 99u);
  sink->block(false);
  log.flush();
  EXPECT_LE(sink->lines().size(), kLogQueueLines + 2);
  log.info("after the flush");
  EXPECT_NE(sink->lines().back().find("after the flush"), std::string::npos);
}

TEST(Logging, AFileThatCannotBeOpenedIsNamed) {
  LogConfig config;
  config.target = "/proc/self/no/culvert.log";
  try {
    Logger log(config);
    FAIL() << "opened";
  } catch (const std::runtime_error& e) {
    EXPECT_NE(std::string(e.what()).find("/proc/self/no"), std::string::npos) << e.what();
  }
}

}  // namespace
}  // namespace culvert
