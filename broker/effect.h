#pragma once
/*
 * effect — what the dispatch core wants done: frames to send, transitions to commit, records to
 * read.
 *
 * The caller performs the effects of one step in order, before the next step: slices and lists in
 * them borrow from the core.
 */
#include "broker/peer.h"
#include "proto/frames.h"

enum op_kind {
    OP_SUBMIT,
    OP_TOUCH,   /* grant, requeue: a new header over the old one */
    OP_FINISH,  /* a terminal header, with the result if there is one */
    OP_RESTORE, /* the whole record, written only over an absent or older one */
    OP_WORKER_EVICTED,
    OP_WORKER_LEFT,
    OP_KIND_COUNT,
};

/* A failed attempt, for the list that users see. */
struct reason {
    enum fail_code code; /* FAIL_NONE: no reason to add */
    uint8_t attempt;     /* the grant */
    struct slice worker, instance, message;
};

struct op {
    enum op_kind kind;
    struct job_id id;
    struct job_header header;
    struct slice request; /* packed envelope and body: tenant and idempotency key stand in there */
    struct slice result;  /* OP_FINISH, OP_RESTORE of an ended job: packed result, or empty */
    struct reason reason;
    enum fail_code code; /* OP_FINISH of a FAILED job: the result's code and message */
    struct slice message;
    struct slice worker; /* OP_WORKER_*; OP_FINISH of a FAILED job: who had it last */
};

/* Why a record is read; it comes back with the record. */
enum inquiry_kind { INQUIRY_DONE, INQUIRY_FAIL, INQUIRY_REGRANT, INQUIRY_HELLO, INQUIRY_CANCEL };
struct inquiry {
    enum inquiry_kind kind;
    uint64_t session;   /* who asked */
    struct lease lease; /* of a worker's question */
    struct job_id id;
    bool of_tenant; /* INQUIRY_CANCEL: another tenant's job is answered as an unknown one */
    char tenant[LIMIT_TENANT_NAME + 1];
};

enum effect_kind { EFFECT_SEND, EFFECT_COMMIT, EFFECT_READ, EFFECT_KIND_COUNT };

struct effect {
    enum effect_kind kind;
    struct peer peer;   /* EFFECT_SEND */
    struct frame frame; /* EFFECT_SEND; session and epoch are filled in; a JOB's and GRANT's token
                           is empty: the door signs it */
    uint8_t n_pictures; /* EFFECT_SEND of JOB and GRANT: how many pictures the grant is for */
    struct op op;       /* EFFECT_COMMIT; its answer is EVENT_COMMITTED */
    struct inquiry inquiry; /* EFFECT_READ; its answer is EVENT_RECORD */
};

struct effects {
    struct effect *items;
    uint32_t count, capacity;
    struct effect_block *blocks; /* memory of lists, freed at the next step */
};

void effects_clear(struct effects *self);   /* empties, keeps memory */
void effects_destroy(struct effects *self); /* for CLEANUP on a struct effects */
/* A new zeroed effect; aborts when memory is gone. */
struct effect *effects_add(struct effects *self, enum effect_kind kind);
/* Zeroed memory that lives until the next step. */
void *effects_memory(struct effects *self, size_t bytes);
