// What is said when the experts' memory cannot be page-locked.
#include <gtest/gtest.h>

#include <string>

#include "engine/backends/gpu.h"
#include "engine/engine.h"
#include "engine/synth/open_model.h"

namespace sluice {
namespace {

TEST(PageLock, AProblemIsToldWithItsReasonAndWhatHelps) {
  const PageLock lock{.locked_bytes = int64_t{3} << 30,
                      .bytes = int64_t{12} << 30,
                      .problem = "page-locking 1073741824 bytes: expected success, found out of memory"};
  const std::string notice = page_lock_notice(lock);
  for (const std::string part :
       {"3.2 of 12.9 GB", "slower", lock.problem.c_str(), "ulimit -l", "free memory"}) {
    EXPECT_NE(notice.find(part), std::string::npos) << notice;
  }
  EXPECT_TRUE(notice.ends_with('.')) << notice;
  EXPECT_EQ(notice.find('\n'), std::string::npos);
}

TEST(PageLock, NothingIsSaidWhileAllIsWell) {
  EXPECT_EQ(page_lock_notice({.locked_bytes = 1, .bytes = 2, .problem = {}}), "");
  const Model model = synth::open_model(synth::parse_model_spec("synth:tiny,dense=1,moe=1,type=q8_0"), {});
  EXPECT_EQ(Runtime(model, {.threads = 1}).notice(), "");
}

}  // namespace
}  // namespace sluice
