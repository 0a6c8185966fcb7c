#include "broker/table.h"
#include "common/scope.h"
#include <criterion/criterion.h>

/* The things: numbers; the index is the number itself. */
static bool
is_number(const void *context, uint32_t index)
{
    return *(const uint32_t *)context == index;
}

static uint32_t
find(const struct table *table, uint32_t hash, uint32_t number)
{
    return table_find(table, hash, is_number, &number);
}

Test(table, an_empty_table_finds_nothing)
{
    struct table table = { 0 };
    cr_assert_eq(find(&table, 1, 1), TABLE_NONE);
    table_clear(&table);
}

Test(table, what_was_added_is_found_and_what_was_removed_is_not)
{
    CLEANUP(table_clear) struct table table = { 0 };
    for (uint32_t i = 0; i < 10000; i++) {
        cr_assert(table_add(&table, table_hash(&i, sizeof i), i));
    }
    for (uint32_t i = 0; i < 10000; i += 2) {
        table_remove(&table, table_hash(&i, sizeof i), i);
    }
    cr_assert_eq(table.count, 5000);
    for (uint32_t i = 0; i < 10000; i++) {
        cr_assert_eq(find(&table, table_hash(&i, sizeof i), i), i % 2 == 1 ? i : TABLE_NONE);
    }
}

Test(table, equal_hashes_live_side_by_side_across_the_end_of_the_table)
{
    CLEANUP(table_clear) struct table table = { 0 };
    for (uint32_t i = 0; i < 20; i++) {
        cr_assert(table_add(&table, i < 10 ? 62 : 61, i)); /* of 64 slots: the run wraps */
    }
    for (uint32_t gone = 0; gone < 20; gone++) {
        table_remove(&table, gone < 10 ? 62 : 61, gone);
        for (uint32_t i = 0; i < 20; i++) {
            cr_assert_eq(find(&table, i < 10 ? 62 : 61, i), i > gone ? i : TABLE_NONE);
        }
    }
}

Test(table, a_table_that_is_filled_and_emptied_for_ever_stays_small)
{
    CLEANUP(table_clear) struct table table = { 0 };
    for (uint32_t i = 0; i < 100000; i++) {
        cr_assert(table_add(&table, table_hash(&i, sizeof i), i));
        if (i >= 40) {
            uint32_t old = i - 40;
            table_remove(&table, table_hash(&old, sizeof old), old);
        }
    }
    cr_assert_leq(table.mask, 127);
}
