#include "tests/storm/storm.h"
#include <assert.h>
#include <string.h>

/*
 * The broker's batches, as broker/store.c has them: numbered, LIMIT_BATCHES_IN_FLIGHT in flight,
 * sent again word for word, formed again without submits when Redis is full.
 */

static void
batch_clear(struct paper_batch *batch)
{
    *batch = (struct paper_batch){ 0 };
    batch->last = &batch->first;
}

static void
batch_append(struct paper_batch *batch, struct paper_op *op)
{
    op->next = NULL;
    *batch->last = op;
    batch->last = &op->next;
    batch->count++;
}

static struct paper_op *
batch_take(struct paper_batch *batch)
{
    struct paper_op *op = batch->first;
    if (op != NULL) {
        batch->first = op->next;
        batch->last = batch->first == NULL ? &batch->first : batch->last;
        batch->count--;
    }
    return op;
}

static void
batch_copy(struct paper_batch *to, struct paper_batch *from)
{
    *to = *from;
    to->last = to->first == NULL ? &to->first : to->last;
}

/* ---- sending ---- */

static void on_waited(void *owner, const struct command *command, const struct reply *reply);
static void on_batch(void *owner, const struct command *command, const struct reply *reply);
static void restore_part(struct broker_host *broker, bool first);
static void kick(struct broker_host *broker);

static void
batch_send(struct broker_host *broker, struct paper_batch *batch)
{
    struct command *command = edge_command(&broker->redis, COMMAND_COMMIT, on_batch, broker);
    command->token = broker->store.token;
    command->n = batch->n;
    command->end_only = batch->end_only;
    command->tag = broker->term;
    struct paper_op **last = (struct paper_op **)&command->ops;
    for (const struct paper_op *op = batch->first; op != NULL; op = op->next) {
        struct paper_op *copy = sim_memory(sizeof *copy); /* the batch may be formed again */
        *copy = *op;
        copy->next = NULL;
        *last = copy;
        last = &copy->next;
    }
    batch->sent = true;
    batch->applied = NULL;
    edge_send(command);
    if (storm.redis.replicated) {
        struct command *wait = edge_command(&broker->redis, COMMAND_WAIT, on_waited, broker);
        wait->n = batch->n;
        wait->tag = broker->term;
        edge_send(wait);
    }
}

static void
flush(void *owner, void *data)
{
    struct broker_host *broker = owner;
    struct paper_store *self = &broker->store;
    if (broker->dispatch == NULL || tag_of(data) != broker->term) {
        return;
    }
    self->kicked = false;
    if (self->restoring && !self->asking && self->waiting.count < 4) {
        restore_part(broker, false);
        if (self->restoring && self->waiting.count < 4) {
            kick(broker);
        }
    }
    for (uint32_t i = 0; i < LIMIT_BATCHES_IN_FLIGHT && !self->asking; i++) {
        struct paper_batch *batch = &self->flight[i];
        if (batch->n == 0 && self->waiting.first != NULL) {
            uint32_t most = chance(300) ? 1 + any(4) : LIMIT_BATCH_OPS; /* bytes may fill it too */
            batch->end_only = true;
            batch->doubtful = false;
            while (self->waiting.first != NULL && batch->count < most) {
                struct paper_op *op = batch_take(&self->waiting);
                batch->end_only &= op->kind != OP_SUBMIT;
                batch_append(batch, op);
            }
            batch->n = self->next_n++;
        }
        bool known = self->connection == broker->redis.connection;
        if (batch->n != 0 && !batch->sent && broker->redis.up && known) {
            batch_send(broker, batch);
        }
    }
}

static void
kick(struct broker_host *broker)
{
    if (!broker->store.kicked) {
        broker->store.kicked = true;
        sim_at(storm.now_ms, &broker->process, flush, broker, tag(broker->term));
    }
}

static void
paper_result(struct record *record, const struct op *op)
{
    static struct buffer buffer;
    struct slice bytes = op->result;
    if (record->header.state == JOB_FAILED) {
        struct result result = { .worker = op->worker,
                                 .code = (uint8_t)op->code,
                                 .message = op->message };
        buffer.length = 0;
        pack_struct(&buffer, &result_shape, &result);
        bytes = (struct slice){ buffer.bytes, (uint32_t)buffer.length };
    } else if (record->header.state != JOB_SUCCEEDED) {
        bytes.length = 0;
    }
    assert(bytes.length <= RESULT);
    record->n_result = (uint16_t)bytes.length;
    if (bytes.length > 0) {
        memcpy(record->result, bytes.bytes, bytes.length);
    }
}

void
store_commit(struct broker_host *broker, const struct op *op)
{
    struct paper_op *paper = sim_memory(sizeof *paper);
    paper->kind = op->kind;
    if (op->kind == OP_WORKER_EVICTED || op->kind == OP_WORKER_LEFT) {
        assert(op->worker.length <= LIMIT_WORKER_NAME);
        memcpy(paper->worker, op->worker.bytes, op->worker.length);
    } else {
        trace("broker %u: op %u of job %u wants %s revision %u", broker->index, op->kind,
              job_number(&op->id), job_state_name(op->header.state), op->header.revision);
        paper->job = job_number(&op->id);
        assert(paper->job != 0 && op->request.length <= REQUEST);
        struct record *record = &paper->record;
        uint8_t bytes[JOB_HEADER_BYTES];
        job_header_encode(&op->header, bytes);
        bool same = job_header_decode(bytes, sizeof bytes, &record->header);
        assert(same);
        record->n_request = (uint16_t)op->request.length;
        memcpy(record->request, op->request.bytes, op->request.length);
        record->key = storm.tickets[paper->job].key;
        paper_result(record, op);
    }
    bool held = broker->store.restoring && op->kind != OP_RESTORE && !MUTANT(RESTOREMIX);
    batch_append(held ? &broker->store.held : &broker->store.waiting, paper);
    kick(broker);
}

/* ---- replies ---- */

static void
op_answered(struct broker_host *broker, const struct paper_op *op, char letter, uint8_t first)
{
    static const uint8_t hash[32] = { 7 };
    struct dispatch_event event = { .kind = EVENT_COMMITTED, .id = job_named(op->job) };
    event.outcome = letter == 'E'   ? COMMIT_EXISTS
                    : letter == 'K' ? COMMIT_KNOWN
                    : letter == '-' ? COMMIT_ABSENT
                    : letter == 'O' ? COMMIT_NO_ROOM
                                    : COMMIT_DONE;
    if (letter == 'K') {
        event.first = job_named(first);
        event.body_hash = (struct slice){ hash, sizeof hash };
    }
    trace("broker %u: op %u of job %u answered %c", broker->index, op->kind, op->job, letter);
    if (op->kind == OP_FINISH && letter == '+') {
        check_told_end(op->job);
    } else if (op->kind == OP_SUBMIT && letter != '+') {
        check_not_taken(broker, op->job);
    }
    if (op->kind == OP_SUBMIT || op->kind == OP_TOUCH || op->kind == OP_FINISH) {
        broker_step(broker, &event);
    }
}

static void
batch_answered(struct broker_host *broker, const struct reply *reply)
{
    struct paper_store *self = &broker->store;
    uint32_t term = broker->term;
    struct paper_batch done;
    batch_copy(&done, &self->flight[0]);
    self->answered_n = done.n;
    for (uint32_t i = 1; i < LIMIT_BATCHES_IN_FLIGHT; i++) {
        batch_copy(&self->flight[i - 1], &self->flight[i]);
    }
    batch_clear(&self->flight[LIMIT_BATCHES_IN_FLIGHT - 1]);
    uint32_t i = 0;
    for (struct paper_op *op; (op = batch_take(&done)) != NULL; i++) {
        if (broker->dispatch != NULL && broker->term == term) {
            char letter = reply->letters[i];
            op_answered(broker, op, (char)(i < reply->n ? letter : '-'), reply->first[i]);
        }
    }
    if (broker->term == term) {
        kick(broker);
    }
}

static void
batch_without_submits(struct broker_host *broker)
{
    struct paper_batch *batch = &broker->store.flight[0];
    struct paper_batch all;
    struct paper_batch refused;
    batch_copy(&all, batch);
    batch_clear(&refused);
    uint64_t n = batch->n;
    batch_clear(batch);
    batch->n = n;
    batch->end_only = true;
    for (struct paper_op *op; (op = batch_take(&all)) != NULL;) {
        batch_append(op->kind == OP_SUBMIT ? &refused : batch, op);
    }
    for (struct paper_op *op; (op = batch_take(&refused)) != NULL;) {
        op_answered(broker, op, 'O', 0);
    }
    kick(broker);
}

static void
on_batch(void *owner, const struct command *command, const struct reply *reply)
{
    struct broker_host *broker = owner;
    struct paper_store *self = &broker->store;
    struct paper_batch *batch = NULL;
    for (uint32_t i = 0; i < LIMIT_BATCHES_IN_FLIGHT; i++) {
        batch = self->flight[i].n == command->n ? &self->flight[i] : batch;
    }
    if (broker->dispatch == NULL || broker->term != command->tag || batch == NULL) {
        return;
    }
    if (reply == NULL) {
        batch->sent = false;
        batch->doubtful = true;
        return;
    }
    switch (reply->kind) {
    case REPLY_FENCED:
        broker_fenced(broker);
        return;
    case REPLY_GAP:
        batch->sent = false;
        kick(broker);
        return;
    case REPLY_OOM:
        batch->sent = false;
        if (batch->doubtful) { /* a copy may have run: its number stands for these ops */
            batch->end_only = true;
            kick(broker);
        } else if (batch == &self->flight[0]) {
            batch_without_submits(broker);
        }
        return;
    case REPLY_OK:
        if (storm.redis.replicated && !MUTANT(NOWAIT)) {
            batch->applied = sim_memory(sizeof *batch->applied);
            *batch->applied = *reply; /* counts when the WAIT behind it was answered */
            return;
        }
        if (batch == &self->flight[0]) {
            batch_answered(broker, reply);
            return;
        }
        break;
    case REPLY_NO:
        break;
    }
    batch->sent = false;
    edge_break(&broker->redis);
}

static void
on_waited(void *owner, const struct command *command, const struct reply *reply)
{
    struct broker_host *broker = owner;
    struct paper_store *self = &broker->store;
    if (broker->dispatch == NULL || broker->term != command->tag || MUTANT(NOWAIT)) {
        return;
    }
    for (uint32_t i = 0; i < LIMIT_BATCHES_IN_FLIGHT; i++) {
        struct paper_batch *batch = &self->flight[i];
        if (batch->n != command->n || batch->applied == NULL) {
            continue;
        }
        if (reply != NULL && reply->number == 0) {
            broker_short(broker);
            return;
        }
        if (reply != NULL && i == 0) {
            batch_answered(broker, batch->applied);
            return;
        }
        batch->sent = false; /* it ran; whether anybody else has it is not known */
        batch->doubtful = true;
        batch->applied = NULL;
        if (reply != NULL) {
            edge_break(&broker->redis); /* an older one is not answered: all is sent again */
        }
        return;
    }
}

/* ---- a restart of Redis ---- */

static void
move(struct paper_batch *to, struct paper_batch *from)
{
    for (struct paper_op *op; (op = batch_take(from)) != NULL;) {
        batch_append(to, op);
    }
}

static void
hold(struct paper_batch *held, struct paper_batch *from)
{
    for (struct paper_op *op; (op = batch_take(from)) != NULL;) {
        if (op->kind != OP_RESTORE) { /* a restore that was cut short begins anew */
            batch_append(held, op);
        }
    }
}

/* Small parts, so that much can go wrong between two of them. */
static void
restore_part(struct broker_host *broker, bool first)
{
    struct paper_store *self = &broker->store;
    self->restoring = true;
    broker_step(broker,
                &(struct dispatch_event){ .kind = first ? EVENT_RESTORE : EVENT_RESTORE_MORE,
                                          .most = 1 + any(8) });
    self->restoring = dispatch_is_restoring(broker->dispatch);
    if (!self->restoring) {
        move(&self->waiting, &self->held);
    }
}

static void
restore(struct broker_host *broker, uint64_t last)
{
    struct paper_store *self = &broker->store;
    struct paper_batch held;
    batch_clear(&held);
    for (uint32_t i = 0; i < LIMIT_BATCHES_IN_FLIGHT; i++) {
        hold(&held, &self->flight[i]);
        batch_clear(&self->flight[i]);
    }
    hold(&held, &self->waiting);
    move(&held, &self->held);
    move(&self->held, &held);
    trace("broker %u: restores, Redis lost %llu batches", broker->index,
          (unsigned long long)(self->answered_n - last));
    self->next_n = last + 1;
    self->answered_n = last;
    restore_part(broker, true);
}

static void
on_last(void *owner, const struct command *command, const struct reply *reply)
{
    struct broker_host *broker = owner;
    struct paper_store *self = &broker->store;
    if (broker->dispatch == NULL || broker->term != command->tag || reply == NULL) {
        return;
    }
    self->asking = false;
    self->connection = broker->redis.connection;
    if (reply->number < self->answered_n) {
        restore(broker, reply->number);
    }
    kick(broker);
}

static void
ask_last(struct broker_host *broker)
{
    struct command *command = edge_command(&broker->redis, COMMAND_LAST, on_last, broker);
    command->tag = broker->term;
    edge_send(command);
}

void
store_up(struct broker_host *broker)
{
    if (broker->store.asking) {
        ask_last(broker);
    } else {
        broker->store.connection = broker->redis.connection;
    }
    kick(broker);
}

void
store_restarted(struct broker_host *broker, const struct token *token)
{
    broker->store.token = *token;
    broker->store.asking = true;
    ask_last(broker);
}

void
store_open(struct broker_host *broker, const struct token *token)
{
    struct paper_store *self = &broker->store;
    *self = (struct paper_store){ .next_n = 1,
                                  .token = *token,
                                  .connection = broker->redis.connection };
    batch_clear(&self->waiting);
    batch_clear(&self->held);
    for (uint32_t i = 0; i < LIMIT_BATCHES_IN_FLIGHT; i++) {
        batch_clear(&self->flight[i]);
    }
}
