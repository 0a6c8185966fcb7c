#include "common/clock.h"
#include "common/scope.h"
#include "gateway/faces/native.h"
#include "gateway/problem.h"
#include <assert.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { HASH_BYTES = crypto_hash_sha256_BYTES };

/* A POST that waits for its answer. */
struct posted {
    struct gate *gate;
    struct http_exchange *exchange;
    const char *tenant;
    struct held_submit *submit;
    struct lookup *lookup;
    struct job_wait *wait;
    struct job_id id; /* of the job; after KNOWN the first one */
    uint32_t seed, wait_s;
    bool has_key;
    uint8_t body_hash[HASH_BYTES];
};

/* What the headers of a POST say. */
struct headers {
    uint32_t wait_s;
    bool has_key;
    uint8_t key_hash[HASH_BYTES]; /* of tenant and key */
};

static void
posted_free(void *context)
{
    struct posted *self = context;
    submits_drop(&self->submit);
    lookup_drop(&self->lookup);
    job_wait_drop(&self->wait);
    free(self);
}

static void
location_add(struct http_exchange *exchange, const struct job_id *id)
{
    char id_text[JOB_ID_TEXT + 1];
    char location[JOB_ID_TEXT + 16];
    job_id_print(id, id_text);
    (void)snprintf(location, sizeof location, "/v1/jobs/%s", id_text);
    http_add_header(exchange, "Location", location);
}

/* -- the answer -- */

/* The job is known as a whole: it was waited for, or an earlier submit made it. */
static void
on_job(void *context, enum lookup_verdict verdict, const struct job_view *view)
{
    struct posted *self = context;
    int status = 202;
    self->lookup = NULL; /* told: dead */
    self->wait = NULL;
    if (verdict == LOOKUP_FOUND) {
        status = job_is_terminal((enum job_state)view->entry.header.state) ? 200 : 202;
        location_add(self->exchange, &self->id);
    } else if (verdict == LOOKUP_UNKNOWN) {
        verdict = LOOKUP_AWAY; /* its record has just ended: the key is free in a moment */
    }
    native_answer_job(self->gate, self->exchange, status, verdict, view);
    posted_free(self);
}

static void
job_follow(struct posted *self)
{
    const struct lookup_order order = { self->tenant, self->id, on_job, self };
    if (self->wait_s > 0) {
        char applied[24];
        (void)snprintf(applied, sizeof applied, "wait=%u", self->wait_s);
        http_add_header(self->exchange, "Preference-Applied", applied);
        self->wait = job_wait_start(self->gate->waits, &order, (int64_t)self->wait_s * 1000);
    } else {
        self->lookup = lookups_ask(self->gate->jobs->lookups, &order);
    }
}

static void
on_accepted(struct posted *self, const struct submit_outcome *outcome)
{
    CLEANUP(buffer_destroy) struct buffer json = { 0 };
    if (self->wait_s > 0) {
        lookups_seed(self->gate->jobs->lookups, outcome->accepted, outcome->request);
        job_follow(self);
        return;
    }
    render_fresh(&json, &(struct fresh_job){ outcome->accepted, self->seed });
    location_add(self->exchange, &self->id);
    answer_json(self->exchange, 202, &json);
    posted_free(self);
}

static void
on_known(struct posted *self, const struct known *known)
{
    char first[JOB_ID_TEXT + 1];
    if (slice_equal(known->body_hash, (struct slice){ self->body_hash, HASH_BYTES })) {
        self->id = known->first;
        http_add_header(self->exchange, "Idempotency-Replayed", "true");
        job_follow(self);
        return;
    }
    job_id_print(&known->first, first);
    problem_send_detail(self->exchange, PROBLEM_KEY_REUSED,
                        "This Idempotency-Key made job %s from another body", first);
    posted_free(self);
}

static void
on_refused(struct posted *self, const struct refused *refused)
{
    static const struct {
        enum problem problem;
        const char *detail;
    } answers[REFUSAL_COUNT] = {
        [REFUSAL_NONE] = { PROBLEM_INTERNAL, "The broker refused without a reason" },
        [REFUSAL_QUEUE_FULL] = { PROBLEM_QUEUE_FULL, "Too many jobs wait; try again later" },
        [REFUSAL_TENANT_FULL] = { PROBLEM_TENANT_FULL, "Too many of your jobs wait" },
        [REFUSAL_STORAGE_FULL] = { PROBLEM_STORAGE_FULL, "Redis or every picture store is full" },
        [REFUSAL_UNAVAILABLE] = { PROBLEM_UNAVAILABLE, "The broker cannot store jobs right now" },
        [REFUSAL_BAD_REQUEST] = { PROBLEM_INTERNAL, "The broker could not read the request" },
    };
    uint32_t retry_s = refused->retry_after_s;
    enum problem problem = answers[refused->reason].problem;
    if (retry_s == 0 && problem != PROBLEM_INTERNAL) {
        retry_s = LIMIT_RETRY_AFTER_S;
    }
    problem_send(self->exchange,
                 &(struct problem_report){ .problem = problem,
                                           .detail = answers[refused->reason].detail,
                                           .retry_after_s = retry_s });
    posted_free(self);
}

/* Nobody stored the job in time: says what is away, and what to do. */
static void
answer_late(struct posted *self)
{
    char detail[160];
    const char *why = "the broker did not answer in time";
    if (!redis_client_is_up(self->gate->redis)) {
        why = "Redis is away";
    } else if (!broker_link_is_open(self->gate->jobs->link)) {
        why = "no broker leads at the moment";
    }
    (void)snprintf(detail, sizeof detail, "The job was not %s: %s%s",
                   self->has_key ? "confirmed" : "taken", why,
                   self->has_key ? "; send it again with the same Idempotency-Key, it makes one job"
                                 : "");
    problem_send_away(self->exchange, detail);
}

static void
on_outcome(void *context, const struct submit_outcome *outcome)
{
    struct posted *self = context;
    self->submit = NULL; /* told: dead */
    switch (outcome->verdict) {
    case SUBMIT_ACCEPTED:
        on_accepted(self, outcome);
        return;
    case SUBMIT_KNOWN:
        on_known(self, outcome->known);
        return;
    case SUBMIT_REFUSED:
        on_refused(self, outcome->refused);
        return;
    case SUBMIT_LATE:
        answer_late(self);
        posted_free(self);
        return;
    case SUBMIT_VERDICT_COUNT:
        break;
    }
    assert(false);
}

/* -- the question -- */

/* application/json, or something+json, whatever follows a semicolon; absent is fine. */
static bool
media_type_fits(const char *type)
{
    if (type == NULL) {
        return true;
    }
    size_t length = strcspn(type, "; \t");
    return (length == strlen("application/json") &&
            strncasecmp(type, "application/json", length) == 0) ||
           (length > strlen("+json") &&
            strncasecmp(type + length - strlen("+json"), "+json", strlen("+json")) == 0);
}

/* "respond-async, wait=10": the seconds of wait, at most LIMIT_WAIT_S. What cannot be honoured is
 * ignored, as RFC 7240 says. */
static uint32_t
prefer_wait(const char *prefer)
{
    while (prefer != NULL && *prefer != '\0') {
        prefer += strspn(prefer, " \t,;");
        if (strncasecmp(prefer, "wait=", strlen("wait=")) == 0) {
            const char *digits = prefer + strlen("wait=");
            char *end = NULL;
            unsigned long seconds = strtoul(digits, &end, 10);
            if (digits[0] >= '0' && digits[0] <= '9' && strchr(" \t,;", *end) != NULL) {
                return seconds < LIMIT_WAIT_S ? (uint32_t)seconds : LIMIT_WAIT_S;
            }
        }
        prefer += strcspn(prefer, ",;");
    }
    return 0;
}

/* False: answered. */
static bool
headers_read(const struct route_call *call, struct headers *out)
{
    const char *key = http_header(call->exchange, "Idempotency-Key");
    *out = (struct headers){ .wait_s = prefer_wait(http_header(call->exchange, "Prefer")) };
    if (!media_type_fits(http_header(call->exchange, "Content-Type"))) {
        problem_send_detail(call->exchange, PROBLEM_MEDIA_TYPE,
                            "Send Content-Type: application/json");
        return false;
    }
    if (key == NULL) {
        return true;
    }
    size_t length = strlen(key);
    bool printable = true;
    for (size_t i = 0; i < length; i++) {
        printable = printable && key[i] >= ' ' && key[i] <= '~';
    }
    if (length < 1 || length > LIMIT_IDEMPOTENCY_KEY || !printable) {
        problem_send_detail(call->exchange, PROBLEM_ARGUMENT,
                            "Idempotency-Key must have 1 to %d printable ASCII characters",
                            LIMIT_IDEMPOTENCY_KEY);
        return false;
    }
    crypto_hash_sha256_state state;
    crypto_hash_sha256_init(&state);
    crypto_hash_sha256_update(&state, (const uint8_t *)call->tenant, strlen(call->tenant) + 1);
    crypto_hash_sha256_update(&state, (const uint8_t *)key, length);
    crypto_hash_sha256_final(&state, out->key_hash);
    out->has_key = true;
    return true;
}

/* False: answered. */
static bool
request_read(const struct route_call *call, struct request *request)
{
    struct field_errors errors;
    size_t length = 0;
    const void *body = http_body(call->exchange, &length);
    struct slice text = { body, (uint32_t)length }; /* at most LIMIT_HTTP_BODY_BYTES */
    enum request_verdict verdict =
        request_parse(request, &errors, text, (uint32_t)(random_u64() >> 32));
    if (verdict == REQUEST_OK) {
        return true;
    }
    struct problem_report report = {
        .problem = verdict == REQUEST_MALFORMED ? PROBLEM_MALFORMED : PROBLEM_INVALID,
        .errors = &errors,
    };
    char detail[sizeof errors.items[0].field + sizeof errors.items[0].message + 2];
    const struct field_error *first = &errors.items[0];
    (void)snprintf(detail, sizeof detail, "%s%s%s", first->field,
                   first->field[0] != '\0' ? " " : "", first->message);
    report.detail = detail;
    problem_send(call->exchange, &report);
    return false;
}

static struct posted *
posted_new(const struct route_call *call, const struct request *request, uint32_t wait_s)
{
    struct posted *self = calloc(1, sizeof *self);
    if (self == NULL) {
        abort();
    }
    *self = (struct posted){ .gate = call->gate,
                             .exchange = call->exchange,
                             .tenant = call->tenant,
                             .id = job_id_mint(clock_wall_ms()),
                             .seed = request->body.seed,
                             .wait_s = wait_s };
    http_on_gone(call->exchange, posted_free, self);
    return self;
}

void
native_submit(const struct route_call *call)
{
    CLEANUP(request_destroy) struct request request = { 0 };
    CLEANUP(buffer_destroy) struct buffer packed = { 0 };
    struct headers headers;
    size_t length = 0;
    if (!headers_read(call, &headers) || !request_read(call, &request)) {
        return;
    }
    if (artifacts_full(call->gate->shared->artifacts)) {
        problem_send(call->exchange,
                     &(struct problem_report){ .problem = PROBLEM_STORAGE_FULL,
                                               .detail = "The disk of the pictures is full",
                                               .retry_after_s = LIMIT_STORAGE_RETRY_S });
        return;
    }
    struct posted *self = posted_new(call, &request, headers.wait_s);
    const void *body = http_body(call->exchange, &length);
    crypto_hash_sha256(self->body_hash, body, length);
    request.envelope.tenant = slice_of(call->tenant);
    request.envelope.body_hash = (struct slice){ self->body_hash, HASH_BYTES };
    self->has_key = headers.has_key;
    if (headers.has_key) {
        request.envelope.idempotency = (struct slice){ headers.key_hash, HASH_BYTES };
    }
    request_pack(&packed, &request);
    const struct submit_order order = { .id = self->id,
                                        .request = { packed.bytes, (uint32_t)packed.length },
                                        .watch = headers.wait_s > 0,
                                        .has_key = headers.has_key,
                                        .fn = on_outcome,
                                        .context = self };
    self->submit = submits_add(call->gate->jobs->submits, &order);
    if (self->submit == NULL) {
        problem_send(call->exchange,
                     &(struct problem_report){ .problem = PROBLEM_BUSY,
                                               .detail = "Too many submits wait for the broker",
                                               .retry_after_s = LIMIT_RETRY_AFTER_S });
        posted_free(self);
    }
}
