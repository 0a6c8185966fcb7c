#pragma once
/*
 * job — one generation request, from submit to result: its states, its record, its parts.
 *
 *     submit            pull               result
 *     ------> QUEUED ----------> RUNNING ----------> SUCCEEDED | FAILED
 *               ^                  | worker silent / instance failed (attempts left)
 *               `------------------'             cancel -> CANCELLED   deadline -> EXPIRED
 *
 * The record in Redis ({drawbar}:j:<id>) is
 *
 *     64-byte header · msgpack envelope · msgpack body [· msgpack result]
 *
 * The broker reads header and envelope and passes the body through unopened. "Request" is envelope
 * and body, as bytes: it never changes after the submit, but for `key` and `deadline_ms`, which
 * stand first in the envelope with a fixed width so that the broker can write them in place.
 */
#include "common/ids.h"
#include "common/limits.h"
#include "proto/pack.h"

enum job_state {
    JOB_NONE, /* no such job */
    JOB_QUEUED,
    JOB_RUNNING,
    JOB_SUCCEEDED,
    JOB_FAILED,
    JOB_CANCELLED,
    JOB_EXPIRED,
    JOB_STATE_COUNT,
};

enum job_input {
    IN_SUBMIT,
    IN_GRANT, /* a worker's pull met the job: it is leased */
    IN_DONE,
    IN_RELEASE, /* the lease ends without a result and attempts are left */
    IN_GIVE_UP, /* the lease ends without a result and none is left */
    IN_CANCEL,
    IN_EXPIRE,
    JOB_INPUT_COUNT,
};

/* The state after `input`; JOB_NONE: the input does not apply in this state. The table is the rule.
 */
enum job_state job_next(enum job_state state, enum job_input input);
bool job_is_terminal(enum job_state state);
const char *job_state_name(enum job_state state); /* "queued" ...; JOB_NONE: "unknown" */

enum job_class { CLASS_HIGH, CLASS_NORMAL, CLASS_LOW, CLASS_COUNT };
const char *job_class_name(enum job_class class_);

/* Why an attempt, or the job, ended without a picture. */
enum fail_code {
    FAIL_NONE,
    FAIL_INSTANCE_REFUSED,  /* the instance will not do this request (4xx) */
    FAIL_INSTANCE_ERROR,    /* the instance answered with an error */
    FAIL_INSTANCE_DIED,     /* connection lost, process gone */
    FAIL_INSTANCE_STUCK,    /* no step for too long */
    FAIL_BAD_PICTURE,       /* undecodable, wrong type or size */
    FAIL_UNIFORM_IMAGE,     /* one colour, first time */
    FAIL_STORAGE,           /* the picture could not be uploaded; never counts as a try */
    FAIL_WORKER_LEAVING,    /* drain or shutdown; never counts */
    FAIL_WORKER_LOST,       /* silent and evicted, or restarted; the broker's word */
    FAIL_LEASE_LOST,        /* the worker said that it does not hold the lease; the broker's word */
    FAIL_TOO_MANY_ATTEMPTS, /* of the job: LIMIT_TRIES or LIMIT_GRANTS used up; the broker's word */
    FAIL_CORRUPT,           /* the record in Redis does not check */
    FAIL_CODE_COUNT,
};
const char *fail_code_name(enum fail_code code); /* "instance_died" */

/* Why a queued job waits. */
enum wait_reason {
    WAIT_NONE,      /* its turn will come */
    WAIT_NO_WORKER, /* no living worker can take it: no worker at all */
    WAIT_NO_MODEL,  /* workers live, none has the model */
    WAIT_TOO_LARGE, /* workers with the model live, none takes the size */
    WAIT_REASON_COUNT,
};
const char *wait_reason_name(enum wait_reason reason); /* "no_worker"; WAIT_NONE: "" */

/* What Redis, as it is configured, may lose of what was accepted, while no broker remembers it. */
enum durability {
    DURABILITY_UNKNOWN,      /* the broker may not read Redis's configuration */
    DURABILITY_ALWAYS,       /* nothing: fsync before each answer */
    DURABILITY_EVERYSEC,     /* about a second, by a power cut of Redis's host */
    DURABILITY_REPLICATED,   /* about a second, if the hosts of all replicas lose power at once */
    DURABILITY_UNREPLICATED, /* what no replica had, by a fail-over of Redis: --accept-loss */
    DURABILITY_VOLATILE,     /* everything, by a restart of Redis: --volatile */
    DURABILITY_COUNT,
};
const char *
durability_name(enum durability durability); /* "everysec"; beyond the last: "unknown" */

enum picture_format { PICTURE_PNG, PICTURE_JPEG, PICTURE_WEBP, PICTURE_FORMAT_COUNT };
const char *picture_format_name(enum picture_format format); /* "png" */
const char *picture_format_type(enum picture_format format); /* "image/png" */

/* Bits of job_header.flags. */
enum job_flag {
    JOB_FLAG_UNIFORM = 1, /* an attempt drew a picture of one colour: the next is delivered */
};
/* Bits of result.warnings. */
enum job_warning { WARNING_UNIFORM_IMAGE = 1, WARNING_COUNT = 1 };

enum { JOB_HEADER_BYTES = 64 };

/* All times are Redis TIME in milliseconds; 0: has not happened. */
struct job_header {
    uint8_t state;     /* enum job_state */
    uint8_t class_;    /* enum job_class */
    uint8_t grant;     /* number of the last lease; 0: none yet. Fences, and names files */
    uint8_t tries;     /* leases that an instance really took */
    uint32_t epoch;    /* of the broker that gave the last lease; epoch_hash() */
    uint64_t worker;   /* incarnation that holds or held the last lease */
    uint64_t sequence; /* order of submit; with the class the score in {drawbar}:live */
    uint64_t submit_ms, start_ms, change_ms; /* accepted; last lease given; last transition */
    uint8_t progress;                        /* steps done of the running attempt, not exact */
    uint32_t revision;                       /* +1 a transition */
    uint32_t flags;                          /* enum job_flag */
};

/* Little-endian, fixed offsets (PROTOCOL.md, "Job record"), CRC32C over the rest. */
void job_header_encode(const struct job_header *header, uint8_t out[JOB_HEADER_BYTES]);
/* False: wrong magic, version, state, class or CRC. */
bool job_header_decode(const void *bytes, size_t length, struct job_header *out);
uint32_t crc32c(const void *bytes, size_t length);

/* What the broker reads of a request. */
struct envelope {
    uint64_t key;         /* place in the queue, written by the broker at submit; never changes */
    uint64_t deadline_ms; /* Redis TIME; written by the broker at submit */
    struct slice tenant;
    struct slice model;
    uint8_t class_;
    uint16_t width, height; /* pixels */
    uint8_t steps, n;
    uint32_t features; /* what the worker's instance must have; 0 so far */
    uint32_t expires_in_s;
    struct slice idempotency; /* 32-byte hash of tenant and key, or empty */
    struct slice body_hash;   /* 32-byte hash of the request body, or empty */
};
extern const struct shape envelope_shape;
/* Offsets of the two fields in a packed envelope, 8 bytes each, big-endian. */
enum { ENVELOPE_KEY_AT = 2, ENVELOPE_DEADLINE_AT = 11 };

/* What the instance needs, and what the answer echoes; the broker never opens it. */
struct job_body {
    struct slice prompt, negative_prompt;
    double guidance;
    uint32_t seed;         /* of the first picture; picture i has seed + i mod 2^32 */
    uint8_t format;        /* enum picture_format */
    uint8_t quality;       /* 1..100, jpeg and webp */
    struct slice metadata; /* JSON object of strings, as text; may be empty */
};
extern const struct shape job_body_shape;

struct result_image {
    uint16_t width, height;
    uint32_t seed;
    uint32_t bytes;
    uint8_t format;      /* enum picture_format */
    struct slice sha256; /* 32 bytes */
};

/* How a job ended. A SUCCEEDED job has images; a FAILED one has a code and a message. */
struct result {
    struct slice worker, instance; /* names */
    uint32_t gpu_ms;               /* told by the instance; 0: not told */
    uint32_t warnings;             /* enum job_warning */
    uint8_t code;                  /* enum fail_code */
    struct slice message;
    struct list images; /* struct result_image */
};
extern const struct shape result_shape;

/* A record as read from Redis. */
struct job_record {
    struct job_header header;
    struct envelope envelope;
    struct job_body body;
    struct result result; /* zero while the job is live */
    bool has_result;
    struct slice request; /* envelope and body as bytes */
    struct slice result_bytes;
};

/* Splits and decodes a record; it borrows from the bytes and from the unpackers, which serve
 * nothing else while the record is used (one for each part). 0 or -EBADMSG. */
struct record_unpacker {
    struct unpacker *envelope, *body, *result;
};
int record_unpacker_new(struct record_unpacker *self);
void record_unpacker_destroy(struct record_unpacker *self);
int job_record_decode(struct record_unpacker *unpacker, const void *bytes, size_t length,
                      struct job_record *out);
/* Decodes a request (envelope, body) alone. 0 or -EBADMSG; unpack_error() of the part says why. */
int job_request_decode(struct record_unpacker *unpacker, struct slice request,
                       struct envelope *envelope, struct job_body *body);

/* cost of a job: n x steps x pixels / 1024, at least 1; the unit of fair queueing and of speeds. */
uint64_t job_cost(const struct envelope *envelope);

/* Right to one job: the grant-th lease of the job, given under the epoch, to the incarnation whose
 * session carries it. */
struct lease {
    struct job_id job;
    uint32_t epoch;
    uint8_t grant;
};
extern const struct shape lease_shape;
bool lease_equal(const struct lease *a, const struct lease *b);

/* The 32 bits of an epoch token "<number>:<random>" that a lease carries. */
uint32_t epoch_hash(const char *token);
