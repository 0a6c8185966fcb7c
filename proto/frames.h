#pragma once
/*
 * frames — the messages between broker, gateways and workers.
 *
 * A message is one msgpack array [kind, session, epoch, field...]. `session` is the random number
 * of the peer's HELLO, `epoch` the number of the leader's term. The fields of each kind are its
 * struct below, in order. PROTOCOL.md has the grammar and who may send what when.
 *
 * Lists and texts of a decoded frame borrow from the message and the decoder.
 */
#include "proto/job.h"

enum { PROTOCOL_VERSION = 1 };

enum frame_kind {
    FRAME_NONE,
    /* gateway -> broker */
    FRAME_GATEWAY_HELLO, /* opens a session */
    FRAME_PING,          /* once a second */
    FRAME_SUBMIT,        /* -> ACCEPTED | KNOWN | REFUSED */
    FRAME_WITHDRAW,      /* -> ANSWER: nobody waits for this submit any more */
    FRAME_CANCEL,        /* -> ANSWER */
    FRAME_STATUS,        /* -> JOBS */
    FRAME_WATCH,         /* -> JOBS, then JOBS at each change until the end or UNWATCH */
    FRAME_UNWATCH,
    FRAME_ADMIN, /* -> ADMIN_ANSWER */
    /* broker -> gateway */
    FRAME_GATEWAY_WELCOME,
    FRAME_PONG,
    FRAME_ACCEPTED,
    FRAME_KNOWN,
    FRAME_REFUSED,
    FRAME_ANSWER,
    FRAME_JOBS,
    FRAME_ADMIN_ANSWER,
    /* worker -> broker */
    FRAME_WORKER_HELLO,
    FRAME_WORKER_STATE, /* each second and at each change; its `pull` is the pull */
    FRAME_PROGRESS,
    FRAME_DONE,    /* -> ACK | STALE; repeated until answered */
    FRAME_FAIL,    /* -> ACK | STALE; repeated until answered */
    FRAME_REGRANT, /* -> GRANT | STALE */
    FRAME_BYE,
    /* broker -> worker */
    FRAME_WORKER_WELCOME,
    FRAME_BROKER_STATE,
    FRAME_JOB,
    FRAME_STOP,  /* interrupt this lease and forget it: the job was cancelled */
    FRAME_GRANT, /* a new upload grant */
    FRAME_STALE, /* forget this lease; delete nothing */
    FRAME_ACK,
    FRAME_DRAIN, /* finish what you hold, pull nothing more, say BYE */
    /* broker -> both */
    FRAME_NO_SESSION, /* say HELLO again */
    FRAME_HELLO_REFUSED,
    FRAME_KIND_COUNT,
};
const char *frame_kind_name(enum frame_kind kind); /* "SUBMIT" */

struct upload_base {
    struct slice url; /* "http://10.0.0.5:8081" */
};

struct gateway_hello {
    uint16_t version;
    struct slice name;
    struct slice store; /* id of the artifact directory */
    struct list bases;  /* struct upload_base, 1..LIMIT_UPLOAD_BASES */
    bool storage_full;  /* under LIMIT_STORE_FREE_MIB: no picture goes here */
};

struct ping {
    bool storage_full;
};

struct submit {
    struct job_id id;
    struct slice request; /* packed envelope and body */
    bool watch;           /* the same as a WATCH behind it */
};

struct named_job { /* WITHDRAW */
    struct job_id id;
};

struct cancel {
    struct job_id id;
    struct slice tenant; /* another tenant's job answers as an unknown one */
};

struct named_jobs {  /* STATUS, WATCH, UNWATCH */
    struct list ids; /* struct named_job */
    bool full;       /* STATUS, WATCH: answer with request and result */
};

enum admin_op { ADMIN_DRAIN, ADMIN_OP_COUNT };
struct admin {
    uint8_t op;
    struct slice worker;
};
struct admin_answer {
    uint8_t op;
    struct slice worker;
    bool found;
};

struct upload_key {
    struct slice key; /* 32 bytes */
};
struct gateway_welcome {
    uint16_t version;
    struct list keys;  /* struct upload_key, 1..2: the newest signs, all verify */
    uint64_t redis_ms; /* Redis TIME now, by the broker's estimate */
    uint32_t retention_s;
    struct slice broker; /* its name */
};

struct pong {
    uint64_t redis_ms;
    uint32_t queued, running, workers;
    uint8_t durability; /* enum durability */
};

struct accepted {
    struct job_id id;
    uint32_t revision;
    uint32_t position; /* 1: next; 0: already running */
    uint32_t eta_s;    /* ETA_UNKNOWN: no able worker is alive */
    uint64_t submit_ms, deadline_ms;
    uint8_t reason; /* enum wait_reason */
};
#define ETA_UNKNOWN UINT32_MAX

struct known { /* this idempotency key already made a job */
    struct job_id id, first;
    struct slice body_hash; /* of the first submit */
};

enum refusal {
    REFUSAL_NONE,
    REFUSAL_QUEUE_FULL,   /* 429 */
    REFUSAL_TENANT_FULL,  /* 429: this tenant's share */
    REFUSAL_STORAGE_FULL, /* 503: Redis is out of memory, or every gateway out of disk */
    REFUSAL_UNAVAILABLE,  /* 503: Redis away */
    REFUSAL_BAD_REQUEST,  /* 400: the broker could not read the request */
    REFUSAL_COUNT,
};
const char *refusal_name(enum refusal refusal); /* "queue_full" */

struct refused {
    struct job_id id;
    uint8_t reason; /* enum refusal */
    uint32_t retry_after_s;
};

struct answer { /* to CANCEL and WITHDRAW, after the commit */
    struct job_id id;
    uint8_t state; /* what the job is now; JOB_NONE: unknown here and in Redis */
};

struct job_entry {
    struct job_id id;
    struct job_header header; /* state JOB_NONE: not live here, ask Redis */
    uint32_t position, eta_s;
    uint8_t step, steps;
    uint8_t reason;      /* enum wait_reason */
    struct slice worker; /* name; empty unless running or ended */
    uint8_t code;        /* enum fail_code of a FAILED job */
    struct slice message;
    struct slice request, result; /* empty unless `full` was asked, or the job has just ended */
};
struct job_entries {     /* JOBS */
    struct list entries; /* struct job_entry */
};

struct held_lease {
    struct lease lease;
    bool taken;    /* the instance took the job */
    bool finished; /* a DONE or FAIL waits for its ACK */
};

struct model_name {
    struct slice name;
};
struct worker_hello {
    uint16_t version;
    struct slice name;
    uint64_t incarnation; /* from the first beat; a lower one than known is refused */
    struct list models;   /* struct model_name */
    uint8_t instances;
    uint32_t max_pixels;
    uint32_t features;
    struct list leases; /* struct held_lease */
};

struct worker_state {
    uint8_t pull;       /* free places, absolute: every JOB up to last_job is already off it */
    uint32_t last_job;  /* number of the last JOB received in this session */
    struct list leases; /* struct held_lease */
};

struct progress { /* also the word that an instance took the job (step 0) */
    struct lease lease;
    uint8_t step, steps;
};

struct done {
    struct lease lease;
    struct slice result; /* packed struct result */
};

struct fail {
    struct lease lease;
    uint8_t code; /* enum fail_code */
    bool counted; /* the instance took the job: it is a try */
    bool final_;  /* no other instance would do better: do not try again */
    struct slice instance;
    struct slice message;
    struct slice picture; /* SHA-256 of a one-coloured picture, or empty */
};

struct leased { /* REGRANT, STOP, STALE, ACK */
    struct lease lease;
};

struct worker_welcome {
    uint16_t version;
    uint64_t redis_ms;
};

struct broker_state {
    bool complete;      /* false: still rebuilding, absence means nothing */
    struct list leases; /* struct leased: what the broker counts for this worker */
};

struct job_frame {
    uint32_t number; /* 1, 2, ... in this session */
    struct lease lease;
    uint8_t tries;
    uint32_t flags;       /* enum job_flag */
    struct slice request; /* packed envelope and body */
    struct list bases;    /* struct upload_base */
    struct slice token;   /* upload grant, see proto/grant.h */
};

struct grant_frame {
    struct lease lease;
    struct list bases;
    struct slice token;
};

struct empty_frame { /* UNUSED, BYE, DRAIN, NO_SESSION */
    uint8_t nothing;
};

struct hello_refused {
    struct slice why; /* for the log */
    bool newer;       /* a newer process of this name is at work: give up */
};

struct frame {
    enum frame_kind kind;
    uint64_t session, epoch;
    union {
        struct gateway_hello gateway_hello;
        struct ping ping;
        struct submit submit;
        struct named_job withdraw;
        struct cancel cancel;
        struct named_jobs named_jobs;
        struct admin admin;
        struct gateway_welcome gateway_welcome;
        struct pong pong;
        struct accepted accepted;
        struct known known;
        struct refused refused;
        struct answer answer;
        struct job_entries jobs;
        struct admin_answer admin_answer;
        struct worker_hello worker_hello;
        struct worker_state worker_state;
        struct progress progress;
        struct done done;
        struct fail fail;
        struct leased leased;
        struct worker_welcome worker_welcome;
        struct broker_state broker_state;
        struct job_frame job;
        struct grant_frame grant;
        struct empty_frame empty;
        struct hello_refused hello_refused;
    };
};

/* Appends the frame. Asserts that it obeys the tables. */
void frame_encode(struct buffer *out, const struct frame *frame);
/* 0, or -EBADMSG and unpack_error() says why. */
int frame_decode(struct unpacker *unpacker, const void *bytes, size_t length, struct frame *out);
/* The shape of a kind's fields; NULL for FRAME_NONE. */
const struct shape *frame_shape(enum frame_kind kind);
