#pragma once
/*
 * grant — the right to upload the pictures of one lease, and nothing else.
 *
 * A token is text that fits into a URL or header:
 *
 *     <expires ms, decimal>.<n, decimal>.<HMAC-SHA256 over the lease and both, 64 hex digits>
 *
 * The HMAC's key is made once by the first elected leader, kept in {drawbar}:secret, and told to
 * gateways in WELCOME. The lease's epoch (32 bits) is part of what is signed and of the upload's
 * path: PUT /upload/<job>/<grant>/<i>?epoch=E with the header `Authorization: Grant <token>`.
 * A grant permits PUT, never GET or DELETE. Needs sodium_init() once per process.
 */
#include "proto/job.h"

enum { GRANT_KEY_BYTES = 32, GRANT_TOKEN_MAX = 128 };

/* Writes the token and a NUL; expires_ms is Redis TIME. */
void grant_sign(const uint8_t key[GRANT_KEY_BYTES], const struct lease *lease, uint8_t n,
                uint64_t expires_ms, char out[GRANT_TOKEN_MAX]);

enum grant_verdict {
    GRANT_OK,
    GRANT_MALFORMED,
    GRANT_FORGED,  /* not signed with this key for this lease */
    GRANT_EXPIRED, /* ask for a new one with REGRANT */
    GRANT_INDEX,   /* picture `index` is not one of the n */
    GRANT_VERDICT_COUNT,
};
const char *grant_verdict_name(enum grant_verdict verdict);
/* Checks a token in constant time. now_ms is Redis TIME. */
enum grant_verdict grant_verify(const uint8_t key[GRANT_KEY_BYTES], const struct lease *lease,
                                uint8_t index, uint64_t now_ms, const char *token);
