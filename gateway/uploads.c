#include "gateway/uploads.h"
#include "common/clock.h"
#include "common/http_framing.h"
#include "common/http_server.h"
#include "common/limits.h"
#include "common/log.h"
#include "common/scope.h"
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static const char route[] = "/upload/";
static const char scheme[] = "Grant ";

struct uploads {
    struct http_server *server;
    struct upload_keys keys;
    const struct picture_dir *dir;
    const atomic_bool *full;
};

/* How a request was answered instead of 201; `detail` has no quotes. status 0: it was not. */
struct refusal {
    int status;
    const char *detail;
    const char *retry_after; /* NULL: none */
};
static const struct refusal fine = { 0 };

static void
refuse(struct http_exchange *exchange, const struct refusal *refusal)
{
    char body[512];
    int length = snprintf(body, sizeof body,
                          "{\"type\":\"about:blank\",\"title\":\"%s\",\"status\":%d,"
                          "\"detail\":\"%s\"}",
                          http_phrase(refusal->status), refusal->status, refusal->detail);
    assert(length > 0 && (size_t)length < sizeof body);
    if (refusal->status == 405) {
        http_add_header(exchange, "Allow", "PUT");
    }
    if (refusal->status == 401) {
        http_add_header(exchange, "WWW-Authenticate", "Grant");
    }
    if (refusal->retry_after != NULL) {
        http_add_header(exchange, "Retry-After", refusal->retry_after);
    }
    http_respond(exchange, refusal->status, "application/problem+json", body, (size_t)length);
}

/* -- what is asked -- */

/* Reads a decimal number of at most 3 digits, without leading zeros, up to `end`. */
static bool
read_small(const char *text, const char *end, unsigned max, uint8_t *out)
{
    unsigned value = 0;
    if (end - text < 1 || end - text > 3 || (*text == '0' && end - text > 1)) {
        return false;
    }
    for (const char *at = text; at < end; at++) {
        if (*at < '0' || *at > '9') {
            return false;
        }
        value = value * 10 + (unsigned)(*at - '0');
    }
    *out = (uint8_t)value;
    return value <= max;
}

static bool
read_epoch(const struct http_exchange *exchange, uint32_t *out)
{
    char text[9];
    if (!http_query_get(exchange, "epoch", text, sizeof text) || strlen(text) != 8 ||
        strspn(text, "0123456789abcdef") != 8) {
        return false;
    }
    *out = (uint32_t)strtoul(text, NULL, 16);
    return true;
}

static struct refusal
read_name(const struct http_exchange *exchange, struct picture_name *out)
{
    const char *path = http_path(exchange);
    const char *job = path + sizeof route - 1;
    if (strncmp(path, route, sizeof route - 1) != 0) {
        return (struct refusal){ 404, "there is only /upload/JOB/GRANT/INDEX", NULL };
    }
    const char *grant = strchr(job, '/');
    const char *index = grant == NULL ? NULL : strchr(grant + 1, '/');
    if (index == NULL || strchr(index + 1, '/') != NULL) {
        return (struct refusal){ 404, "there is only /upload/JOB/GRANT/INDEX", NULL };
    }
    if (http_method(exchange) != HTTP_PUT) {
        return (struct refusal){ 405, "a grant permits PUT only", NULL };
    }
    struct lease *lease = &out->lease;
    if (!job_id_parse(job, (unsigned long)(grant - job), &lease->job)) {
        return (struct refusal){ 400, "the first part of the path is not a job id", NULL };
    }
    if (!read_small(grant + 1, index, UINT8_MAX, &lease->grant) || lease->grant == 0) {
        return (struct refusal){ 400, "the second part of the path is not a grant, 1 to 255",
                                 NULL };
    }
    if (!read_small(index + 1, index + strlen(index), LIMIT_IMAGES - 1, &out->index)) {
        return (struct refusal){ 400, "the third part of the path is not an index, 0 to 7", NULL };
    }
    if (!read_epoch(exchange, &lease->epoch)) {
        return (struct refusal){ 400, "epoch must be given, as 8 hex digits in lower case", NULL };
    }
    return fine;
}
_Static_assert(LIMIT_IMAGES == 8, "the highest index is told in a message");

/* -- the right -- */

static enum grant_verdict
verify(const struct uploads *self, const struct picture_name *name, const char *token)
{
    enum grant_verdict verdict = GRANT_FORGED;
    int64_t now_ms = clock_mono_ms() + self->keys.redis_minus_mono_ms;
    for (uint32_t i = 0; verdict == GRANT_FORGED && i < self->keys.count; i++) {
        verdict = grant_verify(self->keys.keys[i], &name->lease, name->index,
                               now_ms < 0 ? 0 : (uint64_t)now_ms, token);
    }
    return verdict;
}

static struct refusal
check_right(const struct uploads *self, const struct http_exchange *exchange,
            const struct picture_name *name)
{
    static const struct refusal answers[GRANT_VERDICT_COUNT] = {
        [GRANT_OK] = { 0 },
        [GRANT_MALFORMED] = { 400, "the token of the grant is malformed", NULL },
        [GRANT_FORGED] = { 403, "the grant is not ours, or is for another attempt", NULL },
        [GRANT_EXPIRED] = { 410, "the grant is over; ask the broker for a new one", NULL },
        [GRANT_INDEX] = { 403, "the grant is for fewer pictures", NULL },
    };
    const char *header = http_header(exchange, "Authorization");
    if (self->keys.count == 0) {
        return (struct refusal){ 503, "the keys of grants are not known here yet", "1" };
    }
    if (header == NULL || strncasecmp(header, scheme, sizeof scheme - 1) != 0) {
        return (struct refusal){ 401, "Authorization: Grant TOKEN is missing", NULL };
    }
    return answers[verify(self, name, header + sizeof scheme - 1)];
}

/* -- the bytes -- */

static bool
starts_with(const uint8_t *bytes, size_t length, const char *start, size_t n)
{
    return length >= n && memcmp(bytes, start, n) == 0;
}

static bool
is_format(enum picture_format format, const uint8_t *bytes, size_t length)
{
    switch (format) {
    case PICTURE_PNG:
        return starts_with(bytes, length, "\x89PNG\r\n\x1a\n", 8);
    case PICTURE_JPEG:
        return starts_with(bytes, length, "\xff\xd8\xff", 3);
    case PICTURE_WEBP:
        return starts_with(bytes, length, "RIFF", 4) && length >= 12 &&
               memcmp(bytes + 8, "WEBP", 4) == 0;
    case PICTURE_FORMAT_COUNT:
        break;
    }
    assert(false);
    return false;
}

static struct refusal
check_bytes(const struct http_exchange *exchange, const void *bytes, size_t length)
{
    const char *header = http_header(exchange, "Content-Type");
    header = header == NULL ? "" : header;
    size_t header_length = strcspn(header, "; \t");
    for (int i = 0; i < PICTURE_FORMAT_COUNT; i++) {
        const char *type = picture_format_type((enum picture_format)i);
        if (strlen(type) == header_length && strncasecmp(header, type, header_length) == 0) {
            return is_format((enum picture_format)i, bytes, length)
                       ? fine
                       : (struct refusal){ 422, "the bytes are not of the Content-Type", NULL };
        }
    }
    return (struct refusal){ 415, "Content-Type must be image/png, image/jpeg or image/webp",
                             NULL };
}

static struct refusal
put(const struct uploads *self, const struct picture_name *name, const void *bytes, size_t length,
    enum picture_put *verdict)
{
    static const struct refusal no_space = { 507, "no space is left for pictures", "10" };
    char text[PICTURE_NAME_MAX];
    if (atomic_load(self->full)) {
        return no_space; /* the last bytes of a disk are not ours: Redis may write there too */
    }
    int rc = picture_dir_put(self->dir, name, bytes, length, verdict);
    if (rc == 0 && *verdict != PICTURE_OTHER) {
        return fine;
    }
    picture_name_print(name, text);
    if (rc == 0) {
        log_warn("upload-conflict name=%s bytes=%zu", text, length);
        return (struct refusal){ 409, "another picture is there under this name", NULL };
    }
    log_error("upload-failed name=%s bytes=%zu error=\"%s\"", text, length, strerror(-rc));
    return rc == -ENOSPC || rc == -EDQUOT
               ? no_space
               : (struct refusal){ 500, "the directory of pictures failed", NULL };
}

static void
answer(struct http_exchange *exchange, enum picture_put verdict, const void *bytes, size_t length)
{
    uint8_t hash[crypto_hash_sha256_BYTES];
    char hash_text[2 * sizeof hash + 1];
    char body[160];
    crypto_hash_sha256(hash, bytes, length);
    sodium_bin2hex(hash_text, sizeof hash_text, hash, sizeof hash);
    int n = snprintf(body, sizeof body, "{\"bytes\":%zu,\"sha256\":\"%s\"}", length, hash_text);
    http_respond(exchange, verdict == PICTURE_STORED ? 201 : 200, "application/json", body,
                 (size_t)n);
}

static void
on_request(void *context, struct http_exchange *exchange)
{
    struct uploads *self = context;
    struct picture_name name = { 0 };
    enum picture_put verdict = PICTURE_OTHER;
    size_t length = 0;
    const void *bytes = http_body(exchange, &length);
    struct refusal refusal = read_name(exchange, &name);
    refusal = refusal.status ? refusal : check_right(self, exchange, &name);
    refusal = refusal.status ? refusal : check_bytes(exchange, bytes, length);
    refusal = refusal.status ? refusal : put(self, &name, bytes, length, &verdict);
    if (refusal.status != 0) {
        refuse(exchange, &refusal);
        return;
    }
    answer(exchange, verdict, bytes, length);
}

/* -- the listener -- */

int
uploads_new(struct uploads **out, struct reactor *reactor, const struct uploads_config *config)
{
    CLEANUP(uploads_destroy) struct uploads *self = calloc(1, sizeof *self);
    if (self == NULL) {
        return -ENOMEM;
    }
    assert(config->max_parallel > 0);
    self->dir = config->dir;
    self->full = config->full;
    const struct http_server_config server = {
        .host = config->host,
        .port = config->port,
        .body_max = LIMIT_PICTURE_BYTES,
        .parallel_max = config->max_parallel,
        .on_request = on_request,
        .context = self,
    };
    int rc = http_server_new(&self->server, reactor, &server);
    if (rc != 0) {
        return rc;
    }
    *out = self;
    self = NULL;
    return 0;
}

void
uploads_destroy(struct uploads **self_p)
{
    if (*self_p != NULL) {
        http_server_destroy(&(*self_p)->server);
        sodium_memzero(&(*self_p)->keys, sizeof(*self_p)->keys);
        free(*self_p);
        *self_p = NULL;
    }
}

uint16_t
uploads_port(const struct uploads *self)
{
    return http_server_port(self->server);
}

void
uploads_set_keys(struct uploads *self, const struct upload_keys *keys)
{
    self->keys = *keys;
}

void
uploads_drain(struct uploads *self, int64_t limit_ms, reactor_fn done, void *context)
{
    http_server_drain(self->server, &(struct http_drain){
                                        .limit_ms = limit_ms, .done = done, .context = context });
}
