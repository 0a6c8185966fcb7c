#pragma once
/*
 * store_private — what the files of the store share; nobody else includes it.
 *
 *   store.c        batches: sent, answered, restored
 *   store_read.c   records, sweeps, a look at Redis's memory
 */
#include "broker/batch.h"
#include "broker/batch_answer.h"
#include "broker/store.h"

struct batch {
    struct op_queue ops;
    struct batch_answer *answer; /* of Redis; the replicas' is awaited. NULL: none yet */
    uint64_t n;                  /* its number; 0: this slot is empty */
    bool sent;                   /* on the wire, unanswered */
    bool doubtful; /* sent on a connection that broke: a copy of it may have run, or run yet */
    bool end_only; /* holds no submit: goes through commit_end, which runs when memory is full */
};

struct store {
    struct redis_client *redis;
    struct store_events events;
    struct kick *kick;
    struct timer *sweep, *look;
    struct record_unpacker unpacker;
    char *token;
    uint32_t replicas;           /* that must confirm a batch */
    uint32_t full_retention_s;   /* as the operator asked */
    uint32_t retention_s;        /* as Redis's memory allows */
    uint64_t next_n, answered_n; /* number of the next batch; of the last one answered */
    bool asking;                 /* what Redis knows is not known: nothing is sent */
    bool full;                   /* its disk is: nothing is sent until the next sweep */
    bool told_full;              /* logged, until a batch is taken again */
    uint64_t connection;         /* on which our numbers hold: nothing is sent on a newer one */
    struct op_queue waiting;
    bool restoring;       /* on_restore has more: only OP_RESTOREs wait and are in flight */
    struct op_queue held; /* while restoring: what follows it */
    struct batch flight[LIMIT_BATCHES_IN_FLIGHT]; /* flight[0] is the older */
    struct message message;
    bool sweeping;
    bool dead;        /* destroyed inside a callback: freed by the last one out */
    uint32_t depth;   /* callbacks under way */
    uint32_t pending; /* replies that Redis still owes us: each holds a pointer to us */
};

/* Around everything that calls back: true if the store is still alive afterwards. */
bool store_leave(struct store *self);
/* The connection is up, and it is known that Redis there has our term: on another one even a fenced
 * question would say that we are deposed, where Redis has only lost our election. */
bool store_is_current(const struct store *self);
/* -- store_read.c, on timers -- */
void store_sweep(void *context);
void store_look(void *context);
