#pragma once
/*
 * store — the broker's hold on Redis: batches of transitions, fenced reads, the sweep of
 * heartbeats.
 *
 * Transitions of one turn of the loop leave as one numbered batch (at most LIMIT_BATCH_OPS ops,
 * LIMIT_BATCH_BYTES bytes, LIMIT_BATCHES_IN_FLIGHT in flight), in the order they came. An
 * unanswered batch is sent again, word for word under its number, when the connection is back:
 * Redis applies each number once. A batch that Redis refuses for want of memory is formed again
 * without its submits, which are answered COMMIT_NO_ROOM; not if a copy of it may have run: then
 * its number stands for all its ops. While Redis's disk is full it refuses every write: submits are
 * answered COMMIT_NO_ROOM at once, ends are sent again every LIMIT_SWEEP_MS until they are taken.
 *
 *     commit          kick                 reply OK
 *    --------> WAITING ----> IN FLIGHT n ------------> on_committed, one an op, in order
 *                 ^              | connection lost, GAP      FENCED -> on_fenced, and nothing more
 *                 `--------------'
 *
 * With `replicas` a batch counts as committed only when as many replicas have confirmed it (WAIT,
 * LIMIT_WAIT_MS): until then nothing of it is told. Fewer: on_unreplicated, and nothing more.
 *
 * On a new connection nothing is sent before store_up() or store_restarted(): a batch numbered for
 * a Redis that has lost its tail would, delivered late, take the number of another one.
 *
 * After a restart of Redis the number of its last batch is read first. If batches that it had
 * acknowledged are gone, on_restore is asked for everything again, part by part as the parts leave;
 * what was in flight, and what is committed meanwhile, is kept back until they all have left.
 *
 * The store serves one term: it is made when the election is won and destroyed when the term ends.
 */
#include "broker/dispatch.h"
#include "broker/effect.h"
#include "common/redis_client.h"

struct store;

struct store_events {
    /* The answer to one job op. `first` and `body_hash` are for COMMIT_KNOWN. */
    void (*on_committed)(void *context, const struct dispatch_event *committed);
    /* The answer to a read; record NULL: there is none, or it does not check (logged). */
    void (*on_record)(void *context, const struct inquiry *inquiry,
                      const struct job_record *record);
    /* Workers that have not beaten for LIMIT_SUSPECT_MS, at Redis TIME redis_ms. */
    void (*on_sweep)(void *context, uint64_t redis_ms, const struct quiet_worker *quiet,
                     uint32_t n);
    /* Redis came back without its last transitions: the callee commits with OP_RESTORE, now, the
     * next part of all that it knows, from the start if `first`. False: that was the last part. */
    bool (*on_restore)(void *context, bool first);
    /* Somebody else leads: everything undone is void. The callee destroys the store. */
    void (*on_fenced)(void *context);
    /* Only so many replicas have a batch: this Redis may be the wrong side of a partition. What was
     * committed may be lost and was promised to nobody. The callee destroys the store. */
    void (*on_unreplicated)(void *context, int64_t replicas);
    void *context;
};

struct store_config {
    struct redis_client *redis; /* borrowed */
    const char *token;          /* the epoch's, copied */
    uint32_t retention_s;
    uint32_t replicas; /* that must confirm each batch; 0: none is asked */
};

int store_new(struct store **out, struct reactor *reactor, const struct store_config *config,
              const struct store_events *events); /* 0, -ENOMEM */
void store_destroy(struct store **self_p);        /* may be called in its own callbacks */
/* Takes the op into the next batch. */
void store_commit(struct store *self, const struct op *op);
/* Reads one job's record behind the fence. */
void store_read(struct store *self, const struct inquiry *inquiry);
/* The connection is back: sends again what was not answered. */
void store_up(struct store *self);
/* The same after Redis was restarted, when it may lack what it had acknowledged: the number of the
 * last batch it knows tells (a log is cut at its end, never in the middle). `token`: of the term
 * now. */
void store_restarted(struct store *self, const char *token);
/* Ops not yet answered. */
uint32_t store_unanswered(const struct store *self);
