#include "proto/grant.h"
#include <assert.h>
#include <inttypes.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>

enum {
    MAC_BYTES = crypto_auth_hmacsha256_BYTES,
    MAC_TEXT = 2 * MAC_BYTES,
    RIGHT_MAX = 80,
};
_Static_assert(crypto_auth_hmacsha256_KEYBYTES == GRANT_KEY_BYTES, "the key is the HMAC's");
_Static_assert(GRANT_TOKEN_MAX > 20 + 1 + 3 + 1 + MAC_TEXT, "the longest token and its NUL fit");
_Static_assert(RIGHT_MAX > JOB_ID_TEXT + 1 + 8 + 1 + 3 + 1 + 3 + 1 + 20, "so does what is signed");

/* What is signed: "<job> <epoch, 8 hex digits> <grant> <n> <expires ms>". How many bytes it is. */
static size_t
print_right(char out[RIGHT_MAX], const struct lease *lease, uint8_t n, uint64_t expires_ms)
{
    char job[JOB_ID_TEXT + 1];
    job_id_print(&lease->job, job);
    int length = snprintf(out, RIGHT_MAX, "%s %08" PRIx32 " %u %u %" PRIu64, job, lease->epoch,
                          (unsigned)lease->grant, (unsigned)n, expires_ms);
    assert(length > 0 && length < RIGHT_MAX);
    return (size_t)length;
}

void
grant_sign(const uint8_t key[GRANT_KEY_BYTES], const struct lease *lease, uint8_t n,
           uint64_t expires_ms, char out[GRANT_TOKEN_MAX])
{
    char right[RIGHT_MAX];
    uint8_t mac[MAC_BYTES];
    char mac_text[MAC_TEXT + 1];
    assert(n > 0);
    size_t length = print_right(right, lease, n, expires_ms);
    crypto_auth_hmacsha256(mac, (const uint8_t *)right, length, key);
    sodium_bin2hex(mac_text, sizeof mac_text, mac, sizeof mac);
    snprintf(out, GRANT_TOKEN_MAX, "%" PRIu64 ".%u.%s", expires_ms, (unsigned)n, mac_text);
}

/* Reads a decimal number without leading zeros and the dot behind it; NULL: it is none, or over
 * max. */
static const char *
read_number(const char *text, uint64_t max, uint64_t *out)
{
    uint64_t value = 0;
    const char *at = text;
    for (; *at >= '0' && *at <= '9'; at++) {
        uint64_t digit = (uint64_t)(*at - '0');
        if (value > max / 10 || value * 10 > max - digit) {
            return NULL;
        }
        value = value * 10 + digit;
    }
    if (at == text || *at != '.' || (*text == '0' && at - text > 1)) {
        return NULL;
    }
    *out = value;
    return at + 1;
}

static bool
read_mac(const char *text, uint8_t out[MAC_BYTES])
{
    size_t length = 0;
    if (strlen(text) != MAC_TEXT || strspn(text, "0123456789abcdef") != MAC_TEXT) {
        return false;
    }
    return sodium_hex2bin(out, MAC_BYTES, text, MAC_TEXT, NULL, &length, NULL) == 0 &&
           length == MAC_BYTES;
}

enum grant_verdict
grant_verify(const uint8_t key[GRANT_KEY_BYTES], const struct lease *lease, uint8_t index,
             uint64_t now_ms, const char *token)
{
    char right[RIGHT_MAX];
    uint8_t mac[MAC_BYTES];
    uint64_t expires_ms = 0;
    uint64_t n = 0;
    const char *at = read_number(token, UINT64_MAX, &expires_ms);
    at = at == NULL ? NULL : read_number(at, UINT8_MAX, &n);
    if (at == NULL || n == 0 || !read_mac(at, mac)) {
        return GRANT_MALFORMED;
    }
    size_t length = print_right(right, lease, (uint8_t)n, expires_ms);
    if (crypto_auth_hmacsha256_verify(mac, (const uint8_t *)right, length, key) != 0) {
        return GRANT_FORGED; /* before anything else: a forger learns nothing */
    }
    if (now_ms >= expires_ms) {
        return GRANT_EXPIRED;
    }
    return index < n ? GRANT_OK : GRANT_INDEX;
}

const char *
grant_verdict_name(enum grant_verdict verdict)
{
    static const char *const names[GRANT_VERDICT_COUNT] = {
        [GRANT_OK] = "ok",           [GRANT_MALFORMED] = "malformed", [GRANT_FORGED] = "forged",
        [GRANT_EXPIRED] = "expired", [GRANT_INDEX] = "index",
    };
    assert(verdict < GRANT_VERDICT_COUNT);
    return names[verdict];
}
