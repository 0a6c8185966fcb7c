#pragma once
/*
 * problem — how the gateway says no (RFC 9457, application/problem+json), and how it says anything.
 *
 * Every kind has one status, one title and one type, `urn:drawbar:problem:<slug>`: clients compare
 * the type, people read the detail. The members `errors` and `code` are always there.
 */
#include "common/http_server.h"
#include "gateway/request.h"

enum problem {
    PROBLEM_MALFORMED,     /* 400: not JSON */
    PROBLEM_ARGUMENT,      /* 400: a query argument or header is wrong */
    PROBLEM_NO_ROUTE,      /* 404: no such page */
    PROBLEM_UNKNOWN,       /* 404: no such job, or another tenant's, or no such picture */
    PROBLEM_NO_WORKER,     /* 404: no worker of this name */
    PROBLEM_METHOD,        /* 405 */
    PROBLEM_KEY_REUSED,    /* 409: the Idempotency-Key belongs to another request */
    PROBLEM_NOT_FINISHED,  /* 409: the job has no pictures, or not yet */
    PROBLEM_WORKER_SILENT, /* 409: the worker is known, and cannot be reached */
    PROBLEM_GONE,          /* 410: the picture's file is missing */
    PROBLEM_MEDIA_TYPE,    /* 415 */
    PROBLEM_INVALID,       /* 422: JSON, but not a request */
    PROBLEM_QUEUE_FULL,    /* 429 */
    PROBLEM_TENANT_FULL,   /* 429 */
    PROBLEM_INTERNAL,      /* 500: a bug or a broken record */
    PROBLEM_STORAGE_FULL,  /* 503 */
    PROBLEM_UNAVAILABLE,   /* 503: broker or Redis away */
    PROBLEM_BUSY,          /* 503: too many submits wait here */
    PROBLEM_COUNT,
};

struct problem_report {
    enum problem problem;
    const char *detail;                /* for people; NULL: the title says it all */
    const struct field_errors *errors; /* NULL: none */
    uint32_t retry_after_s;            /* 0: no Retry-After */
    const char *job_status;            /* NOT_FINISHED: what the job is; else NULL */
};

int problem_status(enum problem problem);
/* Answers with the problem; ends the exchange. */
void problem_send(struct http_exchange *exchange, const struct problem_report *report);
/* The same for the common case. */
void problem_send_detail(struct http_exchange *exchange, enum problem problem, const char *format,
                         ...) __attribute__((format(printf, 3, 4)));
/* 503 "try again in a moment": what is away. */
void problem_send_away(struct http_exchange *exchange, const char *detail);

/* Answers with JSON that nobody may keep; ends the exchange. */
void answer_json(struct http_exchange *exchange, int status, const struct buffer *json);
