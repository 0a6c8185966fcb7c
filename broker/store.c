#include "broker/store.h"
#include "broker/store_private.h"
#include "common/log.h"
#include "common/scope.h"
#include "proto/keys.h"
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void
store_free(struct store *self)
{
    for (uint32_t i = 0; i < LIMIT_BATCHES_IN_FLIGHT; i++) {
        op_queue_clear(&self->flight[i].ops);
        batch_answer_destroy(&self->flight[i].answer);
    }
    op_queue_clear(&self->waiting);
    op_queue_clear(&self->held);
    message_destroy(&self->message);
    record_unpacker_destroy(&self->unpacker);
    kick_destroy(&self->kick);
    timer_destroy(&self->sweep);
    timer_destroy(&self->look);
    free(self->token);
    free(self);
}

void
store_destroy(struct store **self_p)
{
    struct store *self = *self_p;
    *self_p = NULL;
    if (self == NULL) {
        return;
    }
    self->dead = true;
    timer_stop(self->sweep);
    timer_stop(self->look);
    if (self->depth == 0 && self->pending == 0) {
        store_free(self);
    }
}

bool
store_leave(struct store *self)
{
    self->depth--;
    if (self->dead && self->depth == 0 && self->pending == 0) {
        store_free(self);
        return false;
    }
    return !self->dead;
}

bool
store_is_current(const struct store *self)
{
    return redis_client_is_up(self->redis) &&
           self->connection == redis_client_connection(self->redis);
}

/* ---- sending ---- */

static bool
is_full(const struct op_queue *ops)
{
    return ops->count >= LIMIT_BATCH_OPS || ops->bytes >= LIMIT_BATCH_BYTES;
}

static void
batch_fill(struct store *self, struct batch *batch)
{
    batch->end_only = true;
    batch->doubtful = false;
    while (self->waiting.first != NULL && !is_full(&batch->ops)) {
        struct packed_op *op = op_queue_take(&self->waiting);
        batch->end_only &= op->kind != OP_SUBMIT;
        op_queue_append(&batch->ops, op);
    }
    batch->n = self->next_n++;
}

static void on_batch_reply(void *context, const redisReply *reply);
static void on_replicas(void *context, const redisReply *reply);

/* One batch sent once: the reply is matched by number, because a batch may be sent twice. */
struct sent {
    struct store *store;
    uint64_t n;
};

static struct sent *
sent_new(struct store *self, uint64_t n)
{
    struct sent *sent = calloc(1, sizeof *sent);
    if (sent == NULL) {
        abort();
    }
    *sent = (struct sent){ self, n };
    self->pending++;
    return sent;
}

static void
batch_send(struct store *self, struct batch *batch)
{
    uint64_t n = batch->n; /* a reply that cannot come is given at once, and may end the batch */
    char number[24];
    (void)snprintf(number, sizeof number, "%llu", (unsigned long long)batch->n);
    message_clear(&self->message);
    message_add_text(&self->message, "FCALL");
    message_add_text(&self->message, batch->end_only ? FUNCTION_END : FUNCTION_COMMIT);
    message_add_text(&self->message, "0");
    message_add_text(&self->message, self->token);
    message_add_text(&self->message, number);
    for (const struct packed_op *op = batch->ops.first; op != NULL; op = op->next) {
        message_add_op(&self->message, op);
    }
    batch->sent = true;
    redis_client_command(self->redis, on_batch_reply, sent_new(self, n), self->message.argc,
                         self->message.argv, self->message.lengths);
    if (self->replicas > 0 && !self->dead) {
        redis_client_call(self->redis, on_replicas, sent_new(self, n), "WAIT %d %d",
                          (int)self->replicas, (int)LIMIT_WAIT_MS);
    }
}

static void refuse_submits(struct store *self, struct op_queue *queue);
static void restore_more(struct store *self);

static void
store_flush(void *context)
{
    struct store *self = context;
    self->depth++;
    if (self->full) {
        refuse_submits(self, &self->waiting);
    }
    if (self->restoring && !self->asking && self->waiting.count < LIMIT_BATCH_OPS) {
        restore_more(self);
    }
    for (uint32_t i = 0; i < LIMIT_BATCHES_IN_FLIGHT && !self->dead && !self->asking && !self->full;
         i++) {
        struct batch *batch = &self->flight[i];
        if (batch->n == 0 && self->waiting.first != NULL) {
            batch_fill(self, batch);
        }
        if (batch->n != 0 && !batch->sent && store_is_current(self)) {
            batch_send(self, batch);
        }
    }
    store_leave(self);
}

void
store_commit(struct store *self, const struct op *op)
{
    bool held = self->restoring && op->kind != OP_RESTORE;
    op_queue_append(held ? &self->held : &self->waiting,
                    op_pack(op, self->retention_s, &self->unpacker));
    kick_now(self->kick);
}

static void ask_last(struct store *self);

void
store_up(struct store *self)
{
    if (self->asking) {
        ask_last(self); /* the connection was lost before it was answered */
    } else {
        self->connection = redis_client_connection(self->redis);
    }
    kick_now(self->kick);
}

uint32_t
store_unanswered(const struct store *self)
{
    uint32_t n = self->waiting.count + self->held.count;
    for (uint32_t i = 0; i < LIMIT_BATCHES_IN_FLIGHT; i++) {
        n += self->flight[i].ops.count;
    }
    return n;
}

/* ---- replies ---- */

/* Tells what became of one op; of those that are no job's, and of restores, nobody asks. */
static void
op_told(struct store *self, const struct packed_op *op, struct dispatch_event *event)
{
    event->kind = EVENT_COMMITTED;
    event->id = op->id;
    bool of_job = op->kind != OP_WORKER_EVICTED && op->kind != OP_WORKER_LEFT;
    if (of_job && op->kind != OP_RESTORE && !self->dead) {
        self->events.on_committed(self->events.context, event);
    }
}

/* The oldest batch is committed: each op hears what became of it. */
static void
batch_answered(struct store *self)
{
    struct batch done = self->flight[0];
    self->answered_n = done.n;
    if (self->told_full) {
        self->told_full = false;
        log_info("redis-has-room");
    }
    done.ops.last = done.ops.first == NULL ? &done.ops.first : done.ops.last;
    for (uint32_t i = 1; i < LIMIT_BATCHES_IN_FLIGHT; i++) {
        self->flight[i - 1] = self->flight[i];
        if (self->flight[i - 1].ops.first == NULL) {
            op_queue_setup(&self->flight[i - 1].ops);
        }
    }
    struct batch *last = &self->flight[LIMIT_BATCHES_IN_FLIGHT - 1];
    *last = (struct batch){ 0 };
    op_queue_setup(&last->ops);

    for (struct packed_op *op; (op = op_queue_take(&done.ops)) != NULL;) {
        struct dispatch_event event = { 0 };
        uint8_t hash[32];
        batch_answer_next(done.answer, &event, hash);
        op_told(self, op, &event);
        free(op);
    }
    batch_answer_destroy(&done.answer);
    kick_now(self->kick);
}

/* Whether it ran, or is on a replica, is unknown; store_up() sends it again. */
static void
batch_lost(struct batch *batch)
{
    batch_answer_destroy(&batch->answer);
    batch->sent = false;
    batch->doubtful = true;
}

/* Takes the submits out of the queue and answers that there is no room. */
static void
refuse_submits(struct store *self, struct op_queue *queue)
{
    struct op_queue kept;
    struct op_queue refused;
    op_queue_setup(&kept);
    op_queue_setup(&refused);
    for (struct packed_op *op; (op = op_queue_take(queue)) != NULL;) {
        op_queue_append(op->kind == OP_SUBMIT ? &refused : &kept, op);
    }
    op_queue_setup(queue);
    for (struct packed_op *op; (op = op_queue_take(&kept)) != NULL;) {
        op_queue_append(queue, op);
    }
    for (struct packed_op *op; (op = op_queue_take(&refused)) != NULL;) {
        struct dispatch_event event = { .outcome = COMMIT_NO_ROOM };
        op_told(self, op, &event);
        free(op);
    }
}

/* The rest goes through commit_end. An empty batch still takes its number: later ones follow it. */
static void
batch_without_submits(struct store *self, struct batch *batch)
{
    batch->end_only = true;
    batch->sent = false;
    refuse_submits(self, &batch->ops);
    kick_now(self->kick);
}

/* Redis writes nothing, ends neither, until there is room on its disk. None of it ran, but of a
 * doubtful batch a copy may have. */
static void
batch_halted(struct store *self, struct batch *batch, const char *error)
{
    if (!self->told_full) {
        self->told_full = true;
        log_error("redis-disk-full error=\"%s\" cure=\"make room where Redis keeps its append-only "
                  "file; submits are refused until then, and ends wait\"",
                  error);
    }
    self->full = true;
    batch->sent = false;
    if (!batch->doubtful) {
        batch_without_submits(self, batch);
    }
}

/* Redis is out of memory. */
static void
batch_refused(struct store *self, struct batch *batch)
{
    batch->sent = false;
    if (batch->doubtful) { /* its number stands for these ops for good, submits included */
        batch->end_only = true;
        kick_now(self->kick);
    } else if (batch == &self->flight[0]) {
        batch_without_submits(self, batch);
    } /* else: its turn comes when the older one is answered */
}

static struct batch *
batch_of(struct store *self, uint64_t n)
{
    for (uint32_t i = 0; i < LIMIT_BATCHES_IN_FLIGHT; i++) {
        if (self->flight[i].n == n) {
            return &self->flight[i];
        }
    }
    return NULL;
}

static void
batch_reply(struct store *self, struct batch *batch, const redisReply *reply)
{
    if (reply == NULL) {
        batch_lost(batch);
    } else if (reply_is(reply, "FENCED")) {
        self->events.on_fenced(self->events.context);
    } else if (reply_is(reply, "GAP")) {
        batch->sent = false; /* an earlier one was refused and is formed again: this one follows */
        kick_now(self->kick);
    } else if (reply_is(reply, "OK") && reply->elements >= 2 &&
               (batch == &self->flight[0] || self->replicas > 0) && batch->answer == NULL) {
        batch->answer = batch_answer_read(reply);
        if (self->replicas == 0) {
            batch_answered(self);
        } /* else: on_replicas() */
    } else if (reply->type == REDIS_REPLY_ERROR && strncmp(reply->str, "OOM", 3) == 0 &&
               !batch->end_only) {
        batch_refused(self, batch);
    } else if (reply->type == REDIS_REPLY_ERROR && strncmp(reply->str, "MISCONF", 7) == 0) {
        batch_halted(self, batch, reply->str);
    } else {
        log_error("store-commit-refused error=\"%s\"",
                  reply->type == REDIS_REPLY_ERROR ? reply->str : "unexpected reply");
        batch->sent = false;
        redis_client_reset(self->redis, "a commit was refused");
    }
}

static void
on_batch_reply(void *context, const redisReply *reply)
{
    struct sent *sent = context;
    struct store *self = sent->store;
    uint64_t n = sent->n;
    free(sent);
    self->pending--;
    self->depth++;
    struct batch *batch = self->dead ? NULL : batch_of(self, n);
    if (batch != NULL) { /* NULL: a copy of it was answered before */
        batch_reply(self, batch, reply);
    }
    store_leave(self);
}

/* The answer to the WAIT behind a batch. */
static void
on_replicas(void *context, const redisReply *reply)
{
    struct sent *sent = context;
    struct store *self = sent->store;
    uint64_t n = sent->n;
    free(sent);
    self->pending--;
    self->depth++;
    struct batch *batch = self->dead ? NULL : batch_of(self, n);
    if (batch != NULL && batch->answer != NULL) { /* else: refused, and formed again */
        if (reply == NULL) {
            batch_lost(batch);
        } else if (reply->type != REDIS_REPLY_INTEGER || batch != &self->flight[0]) {
            log_error("store-wait-refused error=\"%s\"",
                      reply->type == REDIS_REPLY_ERROR ? reply->str : "unexpected reply");
            batch_lost(batch);
            redis_client_reset(self->redis, "a WAIT was refused");
        } else if (reply->integer < (int64_t)self->replicas) {
            self->events.on_unreplicated(self->events.context, reply->integer);
        } else {
            batch_answered(self);
        }
    }
    store_leave(self);
}

/* ---- after a restart of Redis ---- */

static void
queue_move(struct op_queue *to, struct op_queue *from)
{
    for (struct packed_op *op; (op = op_queue_take(from)) != NULL;) {
        op_queue_append(to, op);
    }
}

/* Keeps back what is not a restore; a restore that was cut short begins anew. */
static void
hold(struct op_queue *held, struct op_queue *from)
{
    for (struct packed_op *op; (op = op_queue_take(from)) != NULL;) {
        if (op->kind == OP_RESTORE) {
            free(op);
        } else {
            op_queue_append(held, op);
        }
    }
}

static void
restore_part(struct store *self, bool first)
{
    self->restoring = true; /* so that what else this commits is held */
    bool more = self->events.on_restore(self->events.context, first);
    if (self->dead) {
        return;
    }
    self->restoring = more;
    if (!more) {
        queue_move(&self->waiting, &self->held);
    }
}

static void
restore_more(struct store *self)
{
    restore_part(self, false);
    if (!self->dead && self->restoring && self->waiting.count < LIMIT_BATCH_OPS) {
        kick_now(self->kick); /* a part with few jobs: the next one in the next turn */
    }
}

/* Redis lacks batches that it had acknowledged: everything is committed again, then what waits. */
static void
restore(struct store *self, uint64_t last)
{
    struct op_queue held;
    op_queue_setup(&held);
    for (uint32_t i = 0; i < LIMIT_BATCHES_IN_FLIGHT; i++) {
        hold(&held, &self->flight[i].ops);
        batch_lost(&self->flight[i]);
        self->flight[i].n = 0;
        self->flight[i].sent = false;
    }
    hold(&held, &self->waiting);
    queue_move(&held, &self->held);
    queue_move(&self->held, &held);
    log_warn("redis-lost-tail batches=%llu", (unsigned long long)(self->answered_n - last));
    self->next_n = last + 1;
    self->answered_n = last;
    restore_part(self, true);
}

static void
on_last(void *context, const redisReply *reply)
{
    struct store *self = context;
    self->pending--;
    self->depth++;
    if (!self->dead && reply != NULL && reply->type != REDIS_REPLY_ERROR) {
        uint64_t last = reply->type == REDIS_REPLY_STRING ? strtoull(reply->str, NULL, 10) : 0;
        self->asking = false;
        self->connection = redis_client_connection(self->redis);
        if (last < self->answered_n) {
            restore(self, last);
        }
        kick_now(self->kick);
    }
    store_leave(self);
}

static void
ask_last(struct store *self)
{
    self->pending++;
    redis_client_call(self->redis, on_last, self, "HGET " KEY_META " last");
}

void
store_restarted(struct store *self, const char *token)
{
    char *copy = strdup(token);
    if (copy == NULL) {
        abort();
    }
    free(self->token);
    self->token = copy;
    self->asking = true;
    ask_last(self);
}

/* ---- life ---- */

int
store_new(struct store **out, struct reactor *reactor, const struct store_config *config,
          const struct store_events *events)
{
    CLEANUP(store_destroy) struct store *self = calloc(1, sizeof *self);
    if (self == NULL) {
        return -ENOMEM;
    }
    op_queue_setup(&self->waiting);
    op_queue_setup(&self->held);
    for (uint32_t i = 0; i < LIMIT_BATCHES_IN_FLIGHT; i++) {
        op_queue_setup(&self->flight[i].ops);
    }
    self->redis = config->redis;
    self->connection = redis_client_connection(self->redis);
    self->replicas = config->replicas;
    self->retention_s = self->full_retention_s = config->retention_s;
    self->events = *events;
    self->next_n = 1;
    self->token = strdup(config->token);
    int rc = self->token != NULL ? record_unpacker_new(&self->unpacker) : -ENOMEM;
    rc = rc ? rc : kick_new(&self->kick, reactor, store_flush, self);
    rc = rc ? rc : timer_new(&self->sweep, reactor, store_sweep, self);
    rc = rc ? rc : timer_new(&self->look, reactor, store_look, self);
    if (rc != 0) {
        return rc;
    }
    timer_every_ms(self->sweep, LIMIT_SWEEP_MS);
    timer_every_ms(self->look, LIMIT_MEMORY_LOOK_MS);
    *out = self;
    self = NULL;
    return 0;
}
