#include "broker/retention.h"
#include "common/limits.h"
#include <criterion/criterion.h>
#include <criterion/new/assert.h>

enum { DAY = 86400, MAX = 1000000 };

Test(retention, half_empty_keeps_all_of_it)
{
    cr_assert(eq(u32, retention_s(DAY, 0, MAX), DAY));
    cr_assert(eq(u32, retention_s(DAY, MAX / 2, MAX), DAY));
}

Test(retention, falls_in_a_line_from_half_to_four_fifths)
{
    cr_assert(lt(u32, retention_s(DAY, MAX / 2 + 1000, MAX), DAY));
    cr_assert(eq(u32, retention_s(DAY, 650000, MAX),
                 LIMIT_RETENTION_MIN_S + (DAY - LIMIT_RETENTION_MIN_S) / 2));
    cr_assert(gt(u32, retention_s(DAY, 799000, MAX), LIMIT_RETENTION_MIN_S));
}

Test(retention, nearly_full_keeps_the_least)
{
    cr_assert(eq(u32, retention_s(DAY, 800000, MAX), LIMIT_RETENTION_MIN_S));
    cr_assert(eq(u32, retention_s(DAY, 2000000, MAX), LIMIT_RETENTION_MIN_S));
}

Test(retention, without_a_limit_memory_does_not_matter)
{
    cr_assert(eq(u32, retention_s(DAY, UINT64_MAX, 0), DAY));
}

Test(retention, what_the_operator_asked_is_never_raised)
{
    cr_assert(eq(u32, retention_s(60, 900000, MAX), 60));
}
