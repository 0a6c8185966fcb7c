#include "gateway/problem.h"
#include "common/scope.h"
#include "gateway/json_write.h"
#include <assert.h>
#include <stdarg.h>
#include <stdio.h>

struct kind {
    int status;
    const char *slug, *title;
};

static const struct kind kinds[PROBLEM_COUNT] = {
    [PROBLEM_MALFORMED] = { 400, "malformed_json", "The body is not JSON" },
    [PROBLEM_ARGUMENT] = { 400, "bad_argument", "A query argument or header is wrong" },
    [PROBLEM_NO_ROUTE] = { 404, "no_route", "There is nothing at this address" },
    [PROBLEM_UNKNOWN] = { 404, "unknown", "There is no such job or picture" },
    [PROBLEM_NO_WORKER] = { 404, "no_worker", "There is no such worker" },
    [PROBLEM_METHOD] = { 405, "method_not_allowed", "This address does not take this method" },
    [PROBLEM_KEY_REUSED] = { 409, "key_reused", "This Idempotency-Key belongs to another request" },
    [PROBLEM_NOT_FINISHED] = { 409, "not_succeeded", "The job has no pictures" },
    [PROBLEM_WORKER_SILENT] = { 409, "worker_silent", "The worker does not answer" },
    [PROBLEM_GONE] = { 410, "picture_gone", "The picture is gone" },
    [PROBLEM_MEDIA_TYPE] = { 415, "media_type", "The body must be JSON" },
    [PROBLEM_INVALID] = { 422, "invalid_request", "The request is not valid" },
    [PROBLEM_QUEUE_FULL] = { 429, "queue_full", "The queue is full" },
    [PROBLEM_TENANT_FULL] = { 429, "tenant_full", "Your share of the queue is full" },
    [PROBLEM_INTERNAL] = { 500, "internal", "Something is broken here" },
    [PROBLEM_STORAGE_FULL] = { 503, "storage_full", "There is no room to store more" },
    [PROBLEM_UNAVAILABLE] = { 503, "unavailable", "The service is away for a moment" },
    [PROBLEM_BUSY] = { 503, "busy", "Too many requests wait here" },
};

int
problem_status(enum problem problem)
{
    assert(problem < PROBLEM_COUNT);
    return kinds[problem].status;
}

static void
errors_write(struct buffer *out, const struct field_errors *errors)
{
    put_key(out, "errors");
    put_open(out, '[');
    for (uint32_t i = 0; errors != NULL && i < errors->count; i++) {
        put_open(out, '{');
        put_key(out, "field");
        put_word(out, errors->items[i].field);
        put_key(out, "message");
        put_word(out, errors->items[i].message);
        put_close(out, '}');
    }
    put_close(out, ']');
}

void
problem_send(struct http_exchange *exchange, const struct problem_report *report)
{
    CLEANUP(buffer_destroy) struct buffer out = { 0 };
    char text[64];
    assert(report->problem < PROBLEM_COUNT);
    const struct kind *kind = &kinds[report->problem];
    (void)snprintf(text, sizeof text, "urn:drawbar:problem:%s", kind->slug);
    put_open(&out, '{');
    put_key(&out, "type");
    put_word(&out, text);
    put_key(&out, "title");
    put_word(&out, kind->title);
    put_key(&out, "status");
    put_uint(&out, (uint64_t)kind->status);
    put_key(&out, "code");
    put_word(&out, kind->slug);
    put_key(&out, "detail");
    put_word(&out, report->detail != NULL ? report->detail : kind->title);
    errors_write(&out, report->errors);
    if (report->job_status != NULL) {
        put_key(&out, "job_status");
        put_word(&out, report->job_status);
    }
    if (report->retry_after_s > 0) {
        put_key(&out, "retry_after_s");
        put_uint(&out, report->retry_after_s);
        (void)snprintf(text, sizeof text, "%u", report->retry_after_s);
        http_add_header(exchange, "Retry-After", text);
    }
    put_close(&out, '}');
    http_add_header(exchange, "Cache-Control", "no-store");
    http_respond(exchange, kind->status, "application/problem+json", out.bytes, out.length);
}

void
problem_send_detail(struct http_exchange *exchange, enum problem problem, const char *format, ...)
{
    char detail[256];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(detail, sizeof detail, format, args);
    va_end(args);
    problem_send(exchange, &(struct problem_report){ .problem = problem, .detail = detail });
}

void
problem_send_away(struct http_exchange *exchange, const char *detail)
{
    problem_send(exchange, &(struct problem_report){ .problem = PROBLEM_UNAVAILABLE,
                                                     .detail = detail,
                                                     .retry_after_s = LIMIT_RETRY_AFTER_S });
}

void
answer_json(struct http_exchange *exchange, int status, const struct buffer *json)
{
    http_add_header(exchange, "Cache-Control", "no-store");
    http_respond(exchange, status, "application/json", json->bytes, json->length);
}
