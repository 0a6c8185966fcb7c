#include "common/ids.h"
#include <criterion/criterion.h>
#include <ctype.h>
#include <string.h>

static struct job_id
id_of(const char *text)
{
    struct job_id id;
    cr_assert(job_id_parse(text, strlen(text), &id), "%s", text);
    return id;
}

static bool
is_refused(const char *text)
{
    struct job_id id;
    return !job_id_parse(text, strlen(text), &id);
}

Test(ids, an_id_survives_being_printed_and_parsed)
{
    for (int i = 0; i < 1000; i++) {
        struct job_id id = job_id_mint(1795432800000 + i);
        struct job_id again;
        char text[JOB_ID_TEXT + 1];
        job_id_print(&id, text);
        cr_assert_eq(strlen(text), JOB_ID_TEXT);
        cr_assert(job_id_parse(text, JOB_ID_TEXT, &again));
        cr_assert(job_id_equal(&id, &again));
        cr_assert_eq(job_id_ms(&again), 1795432800000 + i);
    }
}

Test(ids, the_text_of_known_bytes_is_known)
{
    struct job_id id = { { 0 } };
    char text[JOB_ID_TEXT + 1];
    job_id_print(&id, text);
    cr_assert_str_eq(text, "00000000000000000000000000");
    memset(&id, 0xff, sizeof id);
    job_id_print(&id, text);
    cr_assert_str_eq(text, "7ZZZZZZZZZZZZZZZZZZZZZZZZZ");
    id = (struct job_id){ .bytes = { [15] = 33 } };
    job_id_print(&id, text);
    cr_assert_str_eq(text, "00000000000000000000000011");
    cr_assert_eq(job_id_ms(&(struct job_id){ .bytes = { 0, 0, 0, 0, 1, 2 } }), 258);
}

Test(ids, texts_sort_by_time)
{
    struct job_id early = job_id_mint(1000);
    struct job_id late = job_id_mint(1001);
    char a[JOB_ID_TEXT + 1];
    char b[JOB_ID_TEXT + 1];
    job_id_print(&early, a);
    job_id_print(&late, b);
    cr_assert_lt(strcmp(a, b), 0);
}

Test(ids, lower_case_is_accepted)
{
    struct job_id upper = id_of("01KBABCDEFGHJKMNPQRSTVWXYZ");
    struct job_id lower = id_of("01kbabcdefghjkmnpqrstvwxyz");
    cr_assert(job_id_equal(&upper, &lower));
}

Test(ids, what_is_not_an_id_is_refused)
{
    cr_assert(!is_refused("7ZZZZZZZZZZZZZZZZZZZZZZZZZ"));
    cr_assert(is_refused("80000000000000000000000000"), "129 bits");
    cr_assert(is_refused("0000000000000000000000000"), "25 characters");
    cr_assert(is_refused("000000000000000000000000000"), "27 characters");
    cr_assert(is_refused(""));
    const char *strangers = "ILOUilou-_ /.%\x7f\xff\n";
    for (size_t i = 0; strangers[i] != '\0'; i++) {
        char text[] = "01KBABCDEFGHJKMNPQRSTVWXYZ";
        text[13] = strangers[i];
        cr_assert(is_refused(text), "character %d", strangers[i]);
    }
    struct job_id id = job_id_mint(1);
    struct job_id before = id;
    cr_assert(!job_id_parse("0000000000000\0"
                            "000000000000",
                            JOB_ID_TEXT, &id),
              "a NUL inside");
    cr_assert(job_id_equal(&id, &before), "a refused text leaves the id alone");
}

Test(ids, random_numbers_are_neither_zero_nor_repeated)
{
    uint64_t seen[1000];
    for (int i = 0; i < 1000; i++) {
        seen[i] = random_u64();
        cr_assert_neq(seen[i], 0);
        for (int k = 0; k < i; k++) {
            cr_assert_neq(seen[i], seen[k]);
        }
    }
}
