#pragma once
/*
 * request — a generation request of the native API: JSON in, envelope and body out.
 *
 * The rules of each field stand in one table in the .c. All mistakes of a request are told at once,
 * each with the field's name. What is left out gets its default; a seed that is left out is the
 * caller's random number, so that the answer can tell it. Pure, and safe on any bytes.
 */
#include "proto/job.h"

struct json_t;

#define REQUEST_MODEL "z-image-turbo" /* drawn by whom when the request names no model */

enum request_default {
    REQUEST_SIDE = 1024,
    REQUEST_STEPS = 8,
    REQUEST_QUALITY = 90, /* jpeg and webp */
};

struct field_error {
    char field[48];    /* "" for the body as a whole */
    char message[112]; /* "must be a multiple of 16" */
};
/* The first LIMIT_FIELD_ERRORS mistakes. */
struct field_errors {
    struct field_error items[LIMIT_FIELD_ERRORS];
    uint32_t count;
};
/* Adds one, unless the list is full. field_length bytes of field are used, cut to fit. */
void field_errors_add(struct field_errors *self, struct slice field, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

enum request_verdict {
    REQUEST_OK,
    REQUEST_MALFORMED, /* not JSON, duplicate keys, nested too deep: 400 */
    REQUEST_INVALID,   /* JSON, but not a request: 422 */
    REQUEST_VERDICT_COUNT,
};

/* What was asked. Texts are borrowed from the request itself until request_destroy(). The caller
 * may set tenant, idempotency and body_hash before request_pack(). */
struct request {
    struct json_t *document;
    char *metadata;
    struct envelope envelope;
    struct job_body body;
};

/* Reads a request of the native API. Whatever the verdict, request_destroy() frees *out; errors say
 * what is wrong unless it is REQUEST_OK. */
enum request_verdict request_parse(struct request *out, struct field_errors *errors,
                                   struct slice text, uint32_t random_seed);
void request_destroy(struct request *self); /* for CLEANUP on a struct request */
/* Appends envelope and body as SUBMIT carries them. */
void request_pack(struct buffer *out, const struct request *request);

/* True if the name can be a model's: 1..LIMIT_MODEL_NAME of A-Z a-z 0-9 . _ / - */
bool model_name_valid(const char *name, size_t length);
