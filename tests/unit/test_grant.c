#include "proto/grant.h"
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>

enum { EXPIRES = 1000000 };

static const uint8_t key[GRANT_KEY_BYTES] = "0123456789abcdef0123456789abcde";
static const uint8_t other_key[GRANT_KEY_BYTES] = "another key";

static struct lease
lease(void)
{
    struct lease out = { .epoch = 0x00c0ffee, .grant = 3 };
    cr_assert(job_id_parse("01HZZZZZZZ0123456789ABCDEF", JOB_ID_TEXT, &out.job));
    return out;
}

static enum grant_verdict
verify(const struct lease *of, uint8_t index, uint64_t now_ms, const char *token)
{
    return grant_verify(key, of, index, now_ms, token);
}

Test(grant, a_token_is_what_the_protocol_says)
{
    /* printf '01HZZZZZZZ0123456789ABCDEF 00c0ffee 3 2 1000000' | openssl dgst -sha256 -mac HMAC
     *     -macopt hexkey:3031323334353637383961626364656630313233343536373839616263646500 */
    struct lease of = lease();
    char token[GRANT_TOKEN_MAX];
    grant_sign(key, &of, 2, EXPIRES, token);
    cr_assert_str_eq(token,
                     "1000000.2.4f39ba07f6f95e1b7d62a1946f8d7106a7e9aa064bc4d29bd1be882ec1227901");
}

Test(grant, a_grant_is_good_for_its_pictures_until_it_is_over)
{
    struct lease of = lease();
    char token[GRANT_TOKEN_MAX];
    grant_sign(key, &of, 2, EXPIRES, token);
    cr_assert_eq(verify(&of, 0, EXPIRES - 1, token), GRANT_OK);
    cr_assert_eq(verify(&of, 1, EXPIRES - 1, token), GRANT_OK);
    cr_assert_eq(verify(&of, 2, EXPIRES - 1, token), GRANT_INDEX);
    cr_assert_eq(verify(&of, 0, EXPIRES, token), GRANT_EXPIRED);
}

Test(grant, a_grant_is_bound_to_job_epoch_attempt_and_key)
{
    struct lease of = lease();
    struct lease wrong = of;
    char token[GRANT_TOKEN_MAX];
    grant_sign(key, &of, 1, EXPIRES, token);
    wrong.job.bytes[15] ^= 1;
    cr_assert_eq(verify(&wrong, 0, 0, token), GRANT_FORGED);
    wrong = of;
    wrong.epoch++;
    cr_assert_eq(verify(&wrong, 0, 0, token), GRANT_FORGED);
    wrong = of;
    wrong.grant++;
    cr_assert_eq(verify(&wrong, 0, 0, token), GRANT_FORGED);
    cr_assert_eq(grant_verify(other_key, &of, 0, 0, token), GRANT_FORGED);
}

Test(grant, neither_time_nor_number_can_be_raised)
{
    struct lease of = lease();
    char token[GRANT_TOKEN_MAX];
    char forged[GRANT_TOKEN_MAX];
    grant_sign(key, &of, 1, EXPIRES, token);
    snprintf(forged, sizeof forged, "9000000.1.%s", strrchr(token, '.') + 1);
    cr_assert_eq(verify(&of, 0, EXPIRES, forged), GRANT_FORGED);
    snprintf(forged, sizeof forged, "1000000.8.%s", strrchr(token, '.') + 1);
    cr_assert_eq(verify(&of, 5, 0, forged), GRANT_FORGED);
    token[strlen(token) - 1] ^= 1;
    cr_assert_neq(verify(&of, 0, 0, token), GRANT_OK);
}

Test(grant, the_largest_numbers_fit)
{
    struct lease of = { .epoch = UINT32_MAX, .grant = UINT8_MAX };
    char token[GRANT_TOKEN_MAX];
    memset(of.job.bytes, 0xff, sizeof of.job.bytes);
    grant_sign(key, &of, UINT8_MAX, UINT64_MAX, token);
    cr_assert_eq(verify(&of, UINT8_MAX - 1, UINT64_MAX - 1, token), GRANT_OK);
}

Test(grant, what_is_not_a_token_is_malformed)
{
#define MAC "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
    static const char *const bad[] = {
        "",
        ".",
        "..",
        "1.1.",
        "1.1",
        "a.1." MAC,
        "-1.1." MAC,
        " 1.1." MAC,
        "01.1." MAC,
        "1.0." MAC,
        "1.256." MAC,
        "1.1." MAC "0",
        "1.1.0123456789ABCDEF0123456789abcdef0123456789abcdef0123456789abcdef",
        "1.1.g123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        "18446744073709551616.1." MAC,
        "99999999999999999999999999999999999999.1." MAC,
    };
    struct lease of = lease();
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        cr_expect_eq(verify(&of, 0, 0, bad[i]), GRANT_MALFORMED, "\"%s\"", bad[i]);
    }
    cr_assert_eq(verify(&of, 0, 0, "18446744073709551615.255." MAC), GRANT_FORGED);
}

Test(grant, verdicts_have_names)
{
    for (int i = 0; i < GRANT_VERDICT_COUNT; i++) {
        cr_assert(strlen(grant_verdict_name((enum grant_verdict)i)) > 0);
    }
}
