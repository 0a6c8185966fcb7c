#pragma once
/*
 * upload — one PUT of one picture to one gateway, permitted by the grant of its lease.
 *
 *     PUT <base>/upload/<job>/<grant>/<i>?epoch=<epoch hash, 8 hex digits>
 *     Authorization: Grant <token>
 *
 * Which base, when again and what a failure means for the job is the agent's business.
 */
#include "common/http_client.h"
#include "proto/grant.h"
#include "worker/agent.h"

/* Where the pictures of a lease may go. */
struct upload_grant {
    uint8_t n_bases;
    char bases[LIMIT_UPLOAD_BASES][LIMIT_URL + 1];
    char token[LIMIT_URL + 1];
};
/* Copies the grant of a JOB or GRANT. Addresses that are not plain http(s) URLs are left out, a
 * token with other than printable characters becomes "": nothing of it reaches a request's lines.
 * The number of bases stays, so that the agent's numbers fit. */
void upload_grant_set(struct upload_grant *self, const struct list *bases, struct slice token);

struct upload {
    const struct upload_grant *grant;
    const struct lease *lease;
    enum picture_format format;
    uint8_t base, picture; /* numbers; a base beyond the grant's is unreachable */
    const void *bytes;     /* borrowed until the response */
    size_t length;
};
/* Starts the PUT. NULL: it cannot be sent; the base is as good as unreachable. */
struct http_call *upload_start(struct http_client *http, const struct upload *upload,
                               http_response_fn fn, void *context);
/* What a response means. Logs all but success. */
enum upload_outcome upload_judge(const struct http_response *response, const char *base);
