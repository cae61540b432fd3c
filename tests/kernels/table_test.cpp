#include "kernels/table.h"

#include <gmock/gmock.h>

#include "core/error.h"
#include "tests/kernels/common.h"

namespace headrace::kernels {
namespace {

TEST(Table, ReferenceIsLastAndAlwaysRuns) {
  ASSERT_FALSE(tables().empty());
  EXPECT_STREQ(tables().back()->isa, "reference");
  EXPECT_TRUE(supported(*tables().back()));
  EXPECT_TRUE(supported(kernels_for("scalar")));
}

TEST(Table, EveryEntryIsFilled) {
  for (const Kernels* t : tables()) {
    SCOPED_TRACE(t->isa);
    EXPECT_TRUE(t->pack_panels && t->unpack_row && t->widen && t->narrow && t->matmul &&
                t->matmul_each);
    EXPECT_TRUE(t->rms_norm && t->add && t->add_bias && t->activate && t->rope && t->kv_append);
    EXPECT_TRUE(t->attention && t->topk_route && t->gather_rows && t->combine);
  }
}

TEST(Table, AutoIsTheFirstThatTheMachineRuns) {
  EXPECT_EQ(&kernels_for("auto"), runnable_tables().front());
}

TEST(Table, NamesChoose) {
  for (const Kernels* t : tables()) {
    if (supported(*t)) {
      EXPECT_EQ(&kernels_for(t->isa), t);
    } else {
      EXPECT_THROW(kernels_for(t->isa), Error);
    }
  }
}

TEST(Table, UnknownNameListsWhatExists) {
  try {
    kernels_for("sse9");
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUsage);
    EXPECT_THAT(error.what(), testing::HasSubstr("'sse9'"));
    for (const Kernels* t : tables()) EXPECT_THAT(error.what(), testing::HasSubstr(t->isa));
  }
}

}  // namespace
}  // namespace headrace::kernels
