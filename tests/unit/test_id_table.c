#include "common/scope.h"
#include "gateway/id_table.h"
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <sodium.h>
#include <string.h>

static struct job_id
id_of(uint32_t n)
{
    struct job_id id = { { 0 } };
    memcpy(id.bytes, &n, sizeof n);
    return id;
}

static void
set_up(void)
{
    cr_assert(sodium_init() >= 0);
}
TestSuite(id_table, .init = set_up);

Test(id_table, what_was_put_is_found_until_it_is_removed)
{
    CLEANUP(id_table_destroy) struct id_table *table = NULL;
    int thing = 0;
    struct job_id a = id_of(1);
    struct job_id b = id_of(2);
    cr_assert(zero(int, id_table_new(&table)));
    cr_expect(eq(ptr, id_table_get(table, &a), NULL));
    cr_expect(eq(ptr, id_table_remove(table, &a), NULL), "absent");
    id_table_put(table, &a, &thing);
    cr_expect(eq(ptr, id_table_get(table, &a), &thing));
    cr_expect(eq(ptr, id_table_get(table, &b), NULL));
    cr_expect(eq(ptr, id_table_remove(table, &a), &thing));
    cr_expect(eq(ptr, id_table_get(table, &a), NULL));
    cr_expect(zero(sz, id_table_count(table)));
}

/* Against an array that cannot be wrong: random puts and removes, everything looked up each time.
 */
Test(id_table, removing_never_hides_another)
{
    enum { IDS = 300, ROUNDS = 3000 };
    static bool there[IDS];
    static int things[IDS];
    CLEANUP(id_table_destroy) struct id_table *table = NULL;
    size_t count = 0;
    cr_assert(zero(int, id_table_new(&table)));
    for (uint32_t round = 0; round < ROUNDS; round++) {
        uint32_t n = randombytes_uniform(IDS);
        struct job_id id = id_of(n);
        if (there[n]) {
            cr_assert(eq(ptr, id_table_remove(table, &id), &things[n]));
        } else {
            id_table_put(table, &id, &things[n]);
        }
        there[n] = !there[n];
        count += there[n] ? 1 : (size_t)-1;
        for (uint32_t i = 0; i < IDS; i++) {
            struct job_id each = id_of(i);
            cr_assert(eq(ptr, id_table_get(table, &each), there[i] ? &things[i] : NULL));
        }
        cr_assert(eq(sz, id_table_count(table), count));
    }
}
