#include "tests/storm/storm.h"
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/*
 * What broker/broker.c, election.c, rebuild.c and door.c do around the core, on simulated edges.
 */

static struct moment
broker_now(const struct broker_host *self)
{
    int64_t mono = storm.now_ms + self->process.clock_ms;
    return (struct moment){ mono, (uint64_t)(mono + self->redis_minus_mono_ms) };
}

static void
on_redis_time(struct broker_host *self, uint64_t redis_ms)
{
    self->redis_minus_mono_ms = (int64_t)redis_ms - (storm.now_ms + self->process.clock_ms);
}

/* ---- perform ---- */

struct unsent {
    struct peer peer;
    bool lagging;
    uint32_t term;
};

static void
on_unsent(void *owner, void *data)
{
    struct broker_host *self = owner;
    const struct unsent *unsent = data;
    if (self->dispatch != NULL && self->term == unsent->term) {
        broker_step(self,
                    &(struct dispatch_event){ .kind = unsent->lagging ? EVENT_LAGGING : EVENT_GONE,
                                              .peer = unsent->peer });
    }
}

static void
send_frame(struct broker_host *self, const struct peer *to, const struct frame *frame)
{
    struct frame out = *frame;
    bool lagging;
    if (!self->doors[to->side]) {
        return;
    }
    if (out.kind == FRAME_JOB) {
        out.job.token = slice_of("token");
    } else if (out.kind == FRAME_GRANT) {
        out.grant.token = slice_of("token");
    }
    check_sent(self, to, &out);
    bool sent = net_send(self->index, to, &out, &lagging);
    if (!sent || lagging) {
        struct unsent *unsent = sim_memory(sizeof *unsent);
        *unsent = (struct unsent){ *to, sent, self->term };
        sim_at(storm.now_ms, &self->process, on_unsent, self, unsent);
    }
}

static void on_read(void *owner, const struct command *command, const struct reply *reply);

/* Redis behind the connection is known to have our term. */
static bool
is_current(const struct broker_host *self)
{
    return self->redis.up && (self->store.connection == self->redis.connection || MUTANT(RASHREAD));
}

static void
send_read(struct broker_host *self, const struct inquiry *inquiry)
{
    if (!is_current(self)) {
        return; /* whoever asked asks again */
    }
    struct command *command = edge_command(&self->redis, COMMAND_READ, on_read, self);
    command->token = self->store.token;
    command->tag = self->term;
    command->inquiry = *inquiry;
    command->ids[0] = job_number(&inquiry->id);
    command->n_ids = 1;
    edge_send(command);
}

enum verdict
broker_step(struct broker_host *self, const struct dispatch_event *event)
{
    if (self->dispatch == NULL) {
        return VERDICT_OK;
    }
    enum verdict verdict = dispatch_step(self->dispatch, broker_now(self), event, &self->effects);
    dispatch_check(self->dispatch);
    for (uint32_t i = 0; i < self->effects.count; i++) {
        const struct effect *effect = &self->effects.items[i];
        switch (effect->kind) {
        case EFFECT_SEND:
            send_frame(self, &effect->peer, &effect->frame);
            break;
        case EFFECT_COMMIT:
            check_op(self, &effect->op);
            store_commit(self, &effect->op);
            break;
        case EFFECT_READ:
            send_read(self, &effect->inquiry);
            break;
        case EFFECT_KIND_COUNT:
            assert(false);
        }
    }
    return verdict;
}

/* ---- records ---- */

/* The record as its bytes say; false: there is none. */
static bool
record_of(const struct record *from, struct job_record *out)
{
    static uint8_t bytes[JOB_HEADER_BYTES + REQUEST + RESULT];
    if (!from->exists) {
        return false;
    }
    size_t length = JOB_HEADER_BYTES;
    job_header_encode(&from->header, bytes);
    memcpy(bytes + length, from->request, from->n_request);
    length += from->n_request;
    memcpy(bytes + length, from->result, from->n_result);
    length += from->n_result;
    int rc = job_record_decode(&storm.requests, bytes, length, out);
    assert(rc == 0);
    return true;
}

static void
on_read(void *owner, const struct command *command, const struct reply *reply)
{
    struct broker_host *self = owner;
    if (self->dispatch == NULL || self->term != command->tag || reply == NULL) {
        return;
    }
    if (reply->kind == REPLY_FENCED) {
        broker_fenced(self);
        return;
    }
    struct job_record record;
    bool found = record_of(&reply->records[0], &record);
    broker_step(self, &(struct dispatch_event){ .kind = EVENT_RECORD,
                                                .inquiry = command->inquiry,
                                                .record = found ? &record : NULL });
}

/* ---- frames ---- */

void
broker_receive(struct broker_host *self, uint32_t link, const void *bytes, uint32_t length,
               enum door_side side)
{
    struct peer peer = { .side = (uint8_t)side,
                         .length = 5,
                         .id = { 0, (uint8_t)link, (uint8_t)(link >> 8), (uint8_t)(link >> 16) } };
    struct frame frame;
    if (self->dispatch == NULL) {
        return;
    }
    if (frame_decode(storm.frames, bytes, length, &frame) != 0) {
        struct frame answer = { .kind = FRAME_NO_SESSION, .epoch = self->token.number };
        send_frame(self, &peer, &answer);
        return;
    }
    struct envelope envelope;
    struct job_body body;
    bool readable =
        frame.kind == FRAME_SUBMIT &&
        job_request_decode(&storm.requests, frame.submit.request, &envelope, &body) == 0;
    enum verdict verdict =
        broker_step(self, &(struct dispatch_event){ .kind = EVENT_FRAME,
                                                    .peer = peer,
                                                    .frame = &frame,
                                                    .envelope = readable ? &envelope : NULL });
    (void)verdict;
}

/* ---- a term ---- */

static void
term_end(struct broker_host *self)
{
    self->doors[0] = self->doors[1] = false;
    self->door_number++;
    self->rebuilding = false;
    self->term++;
    dispatch_destroy(&self->dispatch);
}

static void
step_down(struct broker_host *self)
{
    if (self->standing == STANDING_LEADING && !MUTANT(FENCEDLEADS)) {
        self->standing = STANDING_STANDBY;
        self->nonce = any64();
    }
}

void
broker_fenced(struct broker_host *self)
{
    trace("broker %u: fenced", self->index);
    step_down(self);
    term_end(self);
}

static void
lost(struct broker_host *self)
{
    trace("broker %u: deposed", self->index);
    self->standing = STANDING_LEADING; /* whatever it was */
    step_down(self);
    term_end(self);
}

/* The connection is made anew: what was written is perhaps nowhere else. */
void
broker_short(struct broker_host *self)
{
    trace("broker %u: too few replicas", self->index);
    lost(self);
    edge_break(&self->redis);
}

static void
on_waited(void *owner, const struct command *command, const struct reply *reply)
{
    struct broker_host *self = owner;
    if (reply != NULL && reply->number == 0 && self->standing == STANDING_LEADING &&
        self->token.random == command->token.random) {
        broker_short(self);
    }
}

static void renew(struct broker_host *self);

static void
on_tick(void *owner, void *data)
{
    struct broker_host *self = owner;
    if (self->dispatch == NULL || tag_of(data) != self->term) {
        return;
    }
    broker_step(self, &(struct dispatch_event){ .kind = EVENT_TICK });
    if (self->dispatch != NULL) {
        sim_at(dispatch_deadline_ms(self->dispatch) - self->process.clock_ms, &self->process,
               on_tick, self, data);
    }
}

static void
on_swept(void *owner, const struct command *command, const struct reply *reply)
{
    struct broker_host *self = owner;
    self->sweeping = false;
    if (self->dispatch == NULL || self->term != command->tag || reply == NULL) {
        return;
    }
    if (reply->kind == REPLY_FENCED) {
        broker_fenced(self);
        return;
    }
    if (!self->doors[DOOR_GATEWAYS]) {
        return;
    }
    struct quiet_worker quiet[WORKERS + 1];
    for (uint32_t i = 0; i < reply->n; i++) {
        quiet[i] =
            (struct quiet_worker){ slice_of(reply->quiet[i].name), reply->quiet[i].quiet_ms };
    }
    on_redis_time(self, reply->redis_ms);
    broker_step(
        self, &(struct dispatch_event){ .kind = EVENT_SWEEP, .quiet = quiet, .n_quiet = reply->n });
}

static void
on_sweep_due(void *owner, void *data)
{
    struct broker_host *self = owner;
    if (self->dispatch == NULL || tag_of(data) != self->term) {
        return;
    }
    if (!self->sweeping && is_current(self)) {
        self->sweeping = true;
        struct command *command = edge_command(&self->redis, COMMAND_SWEEP, on_swept, self);
        command->token = self->store.token;
        command->tag = self->term;
        edge_send(command);
    }
    sim_at(storm.now_ms + LIMIT_SWEEP_MS, &self->process, on_sweep_due, self, data);
}

static void
on_rebuilt(struct broker_host *self)
{
    self->rebuilding = false;
    self->loaded_ms = storm.now_ms;
    broker_step(self, &(struct dispatch_event){ .kind = EVENT_LOADED });
    self->doors[0] = self->doors[1] = true;
    trace("broker %u: doors open, epoch %llu", self->index, (unsigned long long)self->token.number);
    renew(self);
    sim_at(storm.now_ms, &self->process, on_tick, self, tag(self->term));
}

static void ask_page(struct broker_host *self, uint32_t from);

static void
on_records(void *owner, const struct command *command, const struct reply *reply)
{
    struct broker_host *self = owner;
    if (self->term != command->tag || !self->rebuilding || reply == NULL) {
        return;
    }
    for (uint32_t i = 0; i < command->n_ids; i++) {
        struct job_record record;
        if (record_of(&reply->records[i], &record)) {
            self->has_loaded = true;
            enum verdict verdict =
                broker_step(self, &(struct dispatch_event){ .kind = EVENT_LOAD,
                                                            .id = job_named(command->ids[i]),
                                                            .record = &record });
            /* An old copy of our own life's commit may end a job while we read; nothing else. */
            (void)verdict;
        }
    }
    ask_page(self, command->ids[command->n_ids - 1]);
}

static void
on_page(void *owner, const struct command *command, const struct reply *reply)
{
    struct broker_host *self = owner;
    if (self->term != command->tag || !self->rebuilding || reply == NULL) {
        return;
    }
    if (reply->n == 0) {
        on_rebuilt(self);
        return;
    }
    struct command *next = edge_command(&self->redis, COMMAND_RECORDS, on_records, self);
    next->tag = self->term;
    next->from = command->from;
    next->n_ids = reply->n;
    memcpy(next->ids, reply->ids, sizeof next->ids);
    edge_send(next);
}

static void
ask_page(struct broker_host *self, uint32_t from)
{
    struct command *command = edge_command(&self->redis, COMMAND_PAGE, on_page, self);
    command->tag = self->term;
    command->from = from;
    edge_send(command);
}

static void
on_elected(struct broker_host *self, uint64_t sequence)
{
    static const uint8_t key[32] = { 1 };
    static const char *const names[BROKERS] = { "b0", "b1", "b2" };
    char text[64];
    token_print(&self->token, text);
    struct dispatch_config config = {
        .epoch = self->token.number,
        .epoch_hash = epoch_hash(text),
        .sequence = sequence,
        .max_jobs = storm.max_jobs,
        .max_bytes = storm.max_bytes,
        .retention_s = 3600,
        .name = names[self->index],
        .upload_key = key,
    };
    int rc = dispatch_new(&self->dispatch, &config);
    assert(rc == 0);
    self->term++;
    self->has_loaded = self->sweeping = false;
    for (uint32_t i = 0; i < BROKERS; i++) {
        if (i != self->index && storm.brokers[i].process.up && storm.brokers[i].dispatch != NULL) {
            fault(FAULT_TWO_LEADERS);
        }
    }
    store_open(self, &self->token);
    self->rebuilding = true;
    if (chance(storm.weather.early_door)) { /* workers may come while the rebuild goes on */
        self->doors[DOOR_WORKERS] = true;
        renew(self);
    }
    ask_page(self, 0);
    sim_at(storm.now_ms + LIMIT_SWEEP_MS, &self->process, on_sweep_due, self, tag(self->term));
}

static void
on_regained(struct broker_host *self, uint64_t sequence)
{
    if (self->dispatch == NULL || self->rebuilding || !self->doors[DOOR_GATEWAYS]) {
        term_end(self);
        on_elected(self, sequence);
        return;
    }
    char text[64];
    token_print(&self->token, text);
    broker_step(self, &(struct dispatch_event){ .kind = EVENT_TERM,
                                                .epoch = self->token.number,
                                                .epoch_hash = epoch_hash(text) });
    store_restarted(self, &self->token);
}

static void
on_redis_back(struct broker_host *self, bool restarted)
{
    if (self->rebuilding) {
        ask_page(self, 0);
        store_up(self);
    } else if (self->dispatch != NULL && restarted) {
        store_restarted(self, &self->token);
    } else if (self->dispatch != NULL) {
        store_up(self);
    }
}

/* ---- election ---- */

static void elect(struct broker_host *self);

static void
on_renewed(void *owner, const struct command *command, const struct reply *reply)
{
    struct broker_host *self = owner;
    (void)command;
    self->asked = false;
    if (reply == NULL || self->standing != STANDING_LEADING) {
        return;
    }
    bool lost_tail = self->term_run != self->seen_run && reply->token.number < self->token.number;
    if (reply->kind == REPLY_NO && !lost_tail) {
        lost(self);
        return;
    }
    if (reply->kind == REPLY_NO) {
        self->standing = STANDING_REGAINING;
        elect(self);
        return;
    }
    on_redis_time(self, reply->redis_ms);
    if (self->term_run != self->seen_run) {
        self->term_run = self->seen_run;
        on_redis_back(self, true);
    }
}

static void
renew(struct broker_host *self)
{
    struct command *command = edge_command(&self->redis, COMMAND_RENEW, on_renewed, self);
    self->asked = true;
    command->token = self->token;
    command->nonce = self->nonce;
    command->broker = self->index;
    memcpy(command->doors, self->doors, sizeof command->doors);
    edge_send(command);
    if (storm.redis.replicated) {
        struct command *wait = edge_command(&self->redis, COMMAND_WAIT, on_waited, self);
        wait->token = self->token;
        edge_send(wait);
    }
}

static void
on_polled(struct broker_host *self)
{
    if (self->polled_ms == 0 || storm.now_ms - self->polled_ms > LIMIT_STANDBY_GAP_MS) {
        self->polls_from_ms = storm.now_ms; /* what happened meanwhile is not known */
    }
    self->polled_ms = storm.now_ms;
}

static bool
is_steady(const struct broker_host *self)
{
    return MUTANT(NOGAP) ||
           (self->polled_ms != 0 && storm.now_ms - self->polled_ms <= LIMIT_STANDBY_GAP_MS &&
            storm.now_ms - self->polls_from_ms >= LIMIT_LEADER_TTL_MS);
}

static void
won(struct broker_host *self, const struct reply *reply)
{
    bool regaining = self->standing == STANDING_REGAINING;
    if (regaining && reply->token.number > self->token.number) {
        lost(self); /* somebody led after us: our memory is old */
        regaining = false;
    }
    self->token = reply->token;
    self->term_run = self->seen_run;
    self->standing = STANDING_LEADING;
    self->is_new = false;
    if (regaining) {
        on_regained(self, reply->number);
    } else {
        on_elected(self, reply->number);
    }
}

/* An election counts when a replica has it. */
static void
on_elect_waited(void *owner, const struct command *command, const struct reply *reply)
{
    struct broker_host *self = owner;
    self->asked = false;
    bool regaining = self->standing == STANDING_REGAINING;
    if (reply == NULL || (self->standing != STANDING_STANDBY && !regaining)) {
        return;
    }
    if (reply->number == 0) {
        trace("broker %u: elected, and no replica has it", self->index);
        if (regaining) {
            lost(self);
        }
        edge_break(&self->redis);
        return;
    }
    on_polled(self);
    won(self, command->won);
}

static void
on_elect(void *owner, const struct command *command, const struct reply *reply)
{
    struct broker_host *self = owner;
    (void)command;
    self->asked = false;
    bool regaining = self->standing == STANDING_REGAINING;
    if (reply == NULL || (self->standing != STANDING_STANDBY && !regaining)) {
        return;
    }
    on_polled(self);
    if (reply->kind == REPLY_NO) {
        self->is_new = self->is_new && reply->number == 0;
        if (regaining) {
            lost(self);
        }
        return;
    }
    if (storm.redis.replicated) {
        self->asked = true;
        struct command *wait = edge_command(&self->redis, COMMAND_WAIT, on_elect_waited, self);
        wait->won = sim_memory(sizeof *wait->won);
        *wait->won = *reply;
        edge_send(wait);
        return;
    }
    won(self, reply);
}

static void
elect(struct broker_host *self)
{
    struct command *command = edge_command(&self->redis, COMMAND_ELECT, on_elect, self);
    self->asked = true;
    command->nonce = self->nonce;
    command->broker = self->index;
    command->is_new = self->is_new || MUTANT(HASTY);
    command->steady = self->standing == STANDING_REGAINING || is_steady(self);
    edge_send(command);
}

static void
poll_redis(struct broker_host *self)
{
    if (self->asked || !self->redis.up) {
        return;
    }
    if (self->standing == STANDING_LEADING) {
        renew(self);
    } else if (self->standing == STANDING_STANDBY || self->standing == STANDING_REGAINING) {
        elect(self);
    }
}

static void
on_election_timer(void *owner, void *data)
{
    struct broker_host *self = owner;
    poll_redis(self);
    bool leading = self->standing == STANDING_LEADING;
    sim_at(storm.now_ms + (leading ? LIMIT_RENEW_MS : LIMIT_STANDBY_POLL_MS), &self->process,
           on_election_timer, self, data);
}

static void
on_next_turn(void *owner, void *data)
{
    (void)data;
    poll_redis(owner);
}

static void
on_handshake(void *owner, const struct command *command, const struct reply *reply)
{
    struct broker_host *self = owner;
    (void)command;
    if (reply == NULL) {
        return;
    }
    if (self->standing == STANDING_OFFLINE) {
        self->standing = STANDING_STANDBY;
    } else if (self->standing == STANDING_LEADING && self->term_run == self->seen_run) {
        on_redis_back(self, false);
    }
    /* In the next turn: batches that waited for the connection go before the renewal. */
    sim_at(storm.now_ms, &self->process, on_next_turn, self, NULL);
}

static void
on_up(void *owner)
{
    struct broker_host *self = owner;
    if (self->seen_run != storm.redis.run && !MUTANT(STEADYRUN)) {
        self->polled_ms = 0; /* restarted, however fast: what it lost may be a renewal */
    }
    self->is_new = self->is_new && (self->seen_run == 0 || self->seen_run == storm.redis.run);
    self->seen_run = storm.redis.run;
    self->asked = false;
    edge_send(edge_command(&self->redis, COMMAND_HANDSHAKE, on_handshake, self));
}

/* ---- life ---- */

void
broker_start(struct broker_host *self)
{
    self->process.host = (uint8_t)(HOST_BROKER + self->index);
    self->process.up = true;
    self->process.life++;
    self->process.paused_until = 0;
    self->process.clock_ms = between(1000, 100000);
    self->standing = STANDING_OFFLINE;
    self->asked = self->sweeping = false;
    self->nonce = any64();
    self->redis_minus_mono_ms =
        (int64_t)REDIS_EPOCH_MS - self->process.clock_ms + between(-500, 500);
    self->polls_from_ms = self->polled_ms = 0;
    self->is_new = true;
    self->seen_run = 0;
    self->redis.process = &self->process;
    self->redis.on_up = on_up;
    self->redis.owner = self;
    trace("broker %u: starts", self->index);
    edge_open(&self->redis);
    sim_at(storm.now_ms + between(0, 100), &self->process, on_election_timer, self, NULL);
}

void
broker_crash(struct broker_host *self)
{
    trace("broker %u: crashes", self->index);
    term_end(self);
    self->process.up = false;
    self->process.life++;
    self->redis.up = false;
    self->redis.connection++;
    net_break_host(self->process.host, storm.now_ms);
}

static void
on_resigned(void *owner, const struct command *command, const struct reply *reply)
{
    struct broker_host *self = owner;
    (void)command;
    (void)reply;
    trace("broker %u: stopped", self->index);
    self->process.up = false;
    self->process.life++;
    self->redis.up = false;
    self->redis.connection++;
}

void
broker_stop(struct broker_host *self)
{
    bool leads = self->standing == STANDING_LEADING && !MUTANT(NORESIGN);
    trace("broker %u: stops", self->index);
    term_end(self);
    self->standing = STANDING_OFFLINE;
    if (!leads) {
        on_resigned(self, NULL, NULL);
        return;
    }
    struct command *command = edge_command(&self->redis, COMMAND_RESIGN, on_resigned, self);
    command->token = self->token;
    edge_send(command);
}

struct broker_host *
broker_leader(void)
{
    for (uint32_t i = 0; i < storm.n_brokers; i++) {
        struct broker_host *broker = &storm.brokers[i];
        if (broker->process.up && broker->dispatch != NULL && broker->doors[DOOR_GATEWAYS] &&
            broker->token.number == storm.redis.data.epoch.number &&
            broker->token.random == storm.redis.data.epoch.random) {
            return broker;
        }
    }
    return NULL;
}
