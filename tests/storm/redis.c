#include "tests/storm/storm.h"
#include <stdio.h>
#include <string.h>

/*
 * proto/functions.lua in C, line by line where it matters: what is applied, refused, answered.
 */

static struct redis_data *here; /* of the master that runs the command */

uint64_t
redis_time_ms(void)
{
    return REDIS_EPOCH_MS + (uint64_t)(storm.now_ms + storm.redis.time_ms);
}

void
token_print(const struct token *token, char out[64])
{
    (void)snprintf(out, 64, "%llu:%016llx", (unsigned long long)token->number,
                   (unsigned long long)token->random);
}

static bool
same_token(const struct token *a, const struct token *b)
{
    return a->number == b->number && a->random == b->random;
}

static void ship(void);

static void
wrote(const struct command *command)
{
    here->offset++;
    command->link->written = here->offset;
}

static bool
is_fenced(const struct command *command)
{
    return !same_token(&here->epoch, &command->token) && !MUTANT(NOFENCE);
}

/* ---- leadership ---- */

static bool
leader_holds(const struct redis_data *data)
{
    return data->has_leader && redis_time_ms() < data->leader_until_ms;
}

static void
elect(const struct command *command, struct reply *reply)
{
    struct redis_data *data = here;
    reply->kind = REPLY_NO;
    if (leader_holds(data) && data->leader_nonce != command->nonce) {
        reply->number = data->leader_number;
        return;
    }
    bool nobody_led = data->epoch.number == 0;
    if (!leader_holds(data) && !command->steady && !(nobody_led && command->is_new) &&
        (nobody_led || !same_token(&data->resigned, &data->epoch))) {
        return; /* its leader may live, and the key has only expired while Redis was away */
    }
    if (!leader_holds(data)) {
        data->epoch = (struct token){ data->epoch.number + 1, any64() };
        data->last = 0;
        memset(data->answers, 0, sizeof data->answers);
        data->has_leader = true;
        data->leader_nonce = command->nonce;
        data->leader_number = data->epoch.number;
        data->leader_broker = command->broker;
        data->leader_doors[0] = data->leader_doors[1] = false;
        trace("redis: broker %u elected, epoch %llu", command->broker,
              (unsigned long long)data->epoch.number);
    }
    data->leader_until_ms = redis_time_ms() + LIMIT_LEADER_TTL_MS;
    wrote(command);
    reply->kind = REPLY_OK;
    reply->token = data->epoch;
    reply->number = data->sequence;
}

static void
renew(const struct command *command, struct reply *reply)
{
    struct redis_data *data = here;
    reply->kind = REPLY_NO;
    if (!same_token(&data->epoch, &command->token) || (MUTANT(PLAINRENEW) && !leader_holds(data))) {
        reply->token = data->epoch;
        return;
    }
    data->has_leader = true;
    data->leader_nonce = command->nonce;
    data->leader_number = command->token.number;
    data->leader_broker = command->broker;
    memcpy(data->leader_doors, command->doors, sizeof data->leader_doors);
    data->leader_until_ms = redis_time_ms() + LIMIT_LEADER_TTL_MS;
    wrote(command);
    reply->kind = REPLY_OK;
}

static void
resign(const struct command *command)
{
    if (same_token(&here->epoch, &command->token)) {
        here->has_leader = false;
        here->resigned = command->token;
        wrote(command);
    }
}

static void
read_leader(struct reply *reply)
{
    const struct redis_data *data = here;
    reply->kind = leader_holds(data) ? REPLY_OK : REPLY_NO;
    reply->number = data->leader_number;
    reply->broker = data->leader_broker;
    reply->gateways_door = data->leader_doors[DOOR_GATEWAYS];
    reply->workers_door = data->leader_doors[DOOR_WORKERS];
}

/* ---- commits ---- */

static struct record *
live_record(uint32_t job)
{
    struct record *record = &here->records[job];
    return record->exists && !job_is_terminal(record->header.state) ? record : NULL;
}

static void
write_record(uint32_t job, const struct record *record)
{
    struct record *kept = &here->records[job];
    struct record before = *kept;
    *kept = *record;
    kept->exists = true;
    kept->live = !job_is_terminal(record->header.state);
    if (here == &storm.redis.data) { /* what a forgotten master thinks is nobody's loss */
        check_write(job, &before, kept);
    }
    trace("redis: job %u %s grant %u tries %u revision %u", job, job_state_name(kept->header.state),
          kept->header.grant, kept->header.tries, kept->header.revision);
}

static char
apply_submit(const struct paper_op *op, uint8_t *first)
{
    struct redis_data *data = here;
    uint8_t key = op->record.key;
    if (data->records[op->job].exists && !MUTANT(NOLOOKUP)) {
        return 'E';
    }
    if (key != 0 && data->keys[key] != 0) {
        *first = data->keys[key];
        return 'K';
    }
    data->keys[key] = (uint8_t)op->job;
    write_record(op->job, &op->record);
    data->sequence = op->record.header.sequence;
    return '+';
}

static char
apply_restore(const struct paper_op *op)
{
    struct redis_data *data = here;
    const struct record *record = &data->records[op->job];
    if (record->exists && record->header.revision >= op->record.header.revision) {
        return '-';
    }
    if (op->record.key != 0 && data->keys[op->record.key] == 0) {
        data->keys[op->record.key] = (uint8_t)op->job;
    }
    write_record(op->job, &op->record);
    return '+';
}

static char
apply(const struct paper_op *op, uint8_t *first)
{
    struct record *record = NULL;
    struct record changed;
    switch (op->kind) {
    case OP_SUBMIT:
        return apply_submit(op, first);
    case OP_TOUCH:
        record = live_record(op->job);
        if (record == NULL) {
            return '-';
        }
        changed = *record;
        changed.header = op->record.header;
        write_record(op->job, &changed);
        return '+';
    case OP_FINISH:
        record = live_record(op->job);
        if (record == NULL) {
            return '-';
        }
        write_record(op->job, &op->record);
        return '+';
    case OP_RESTORE:
        return apply_restore(op);
    case OP_WORKER_EVICTED:
    case OP_WORKER_LEFT:
        for (uint32_t i = 0; i <= WORKERS; i++) {
            if (strcmp(here->workers[i].name, op->worker) == 0) {
                here->workers[i].beats = false;
            }
        }
        return '+';
    case OP_KIND_COUNT:
        break;
    }
    broken("an op of no kind");
}

static void
commit(const struct command *command, struct reply *reply)
{
    struct redis_data *data = here;
    if (is_fenced(command)) {
        reply->kind = REPLY_FENCED;
        return;
    }
    if (storm.redis.full && !command->end_only) {
        reply->kind = REPLY_OOM;
        return;
    }
    bool ours = same_token(&data->epoch, &command->token); /* else: NOFENCE */
    if (ours && command->n > data->last + 1) {
        reply->kind = REPLY_GAP;
        return;
    }
    if (ours && command->n <= data->last && !MUTANT(NODEDUP)) {
        *reply = data->answers[command->n % 4];
        if (!MUTANT(WAITOLD)) {
            wrote(command); /* so that a WAIT behind it waits for the first copy */
        }
        return;
    }
    reply->kind = REPLY_OK;
    wrote(command);
    for (const struct paper_op *op = command->ops; op != NULL; op = op->next) {
        reply->letters[reply->n] = apply(op, &reply->first[reply->n]);
        reply->n++;
    }
    if (ours) {
        data->last = command->n > data->last ? command->n : data->last;
        data->answers[command->n % 4] = *reply;
    }
}

/* ---- reads, workers ---- */

/* By place, not by rank: with the workers' door open during a rebuild jobs end while it pages. */
static void
page(const struct command *command, struct reply *reply)
{
    for (uint32_t job = command->from + 1; job < JOBS && reply->n < PAGE; job++) {
        if (here->records[job].live) {
            reply->ids[reply->n++] = job;
        }
    }
}

static void
beat(const struct command *command, struct reply *reply)
{
    struct redis_data *data = here;
    uint32_t i = 0;
    while (i < WORKERS && data->workers[i].name[0] != '\0' &&
           strcmp(data->workers[i].name, command->worker) != 0) {
        i++;
    }
    reply->number = command->incarnation;
    if (command->incarnation == 0) {
        reply->number = ++data->incarnation << 32 | any(UINT32_MAX);
    } else if (data->workers[i].incarnation > command->incarnation) {
        reply->kind = REPLY_NO;
        reply->number = data->workers[i].incarnation;
        return;
    }
    (void)snprintf(data->workers[i].name, sizeof data->workers[i].name, "%s", command->worker);
    data->workers[i].incarnation = reply->number;
    data->workers[i].beat_ms = redis_time_ms();
    data->workers[i].beats = true;
    wrote(command);
}

static void
sweep(const struct command *command, struct reply *reply)
{
    if (is_fenced(command)) {
        reply->kind = REPLY_FENCED;
        return;
    }
    for (uint32_t i = 0; i <= WORKERS; i++) {
        int64_t quiet = (int64_t)(redis_time_ms() - here->workers[i].beat_ms);
        if (here->workers[i].beats && quiet >= LIMIT_SUSPECT_MS) {
            memcpy(reply->quiet[reply->n].name, here->workers[i].name, 8);
            reply->quiet[reply->n++].quiet_ms = quiet;
        }
    }
}

static void
read_records(const struct command *command, struct reply *reply)
{
    if (command->kind == COMMAND_READ && is_fenced(command)) {
        reply->kind = REPLY_FENCED;
        return;
    }
    reply->records = sim_memory((command->n_ids + 1) * sizeof *reply->records);
    for (uint32_t i = 0; i < command->n_ids; i++) {
        uint32_t job = command->ids[i];
        if (job != 0) {
            reply->records[i] = here->records[job];
        }
    }
    reply->n = command->n_ids;
}

/* ---- the replica ---- */

/* One state of the master at a time is on its way, so the replica is always a moment behind. */
static void
on_shipped(void *owner, void *data)
{
    (void)owner;
    storm.redis.shipping = false;
    if (tag_of(data) == storm.redis.reign && !storm.redis.replica_cut) {
        storm.redis.replica = storm.redis.on_its_way;
    }
    ship();
}

static void
ship(void)
{
    if (!storm.redis.replicated || storm.redis.shipping || storm.redis.replica_cut ||
        storm.redis.replica.offset == storm.redis.data.offset) {
        return;
    }
    storm.redis.shipping = true;
    storm.redis.on_its_way = storm.redis.data;
    bool slow = storm.weather.faults_on && chance(30);
    sim_at(storm.now_ms + (slow ? between(1, 700) : net_delay_ms()), NULL, on_shipped, NULL,
           tag(storm.redis.reign));
}

/* A master without a replica that has it counts none. */
static bool
wait_for_replica(const struct command *command, struct reply *reply)
{
    bool followed = here == &storm.redis.data && storm.redis.replicated;
    bool there = followed && storm.redis.replica.offset >= command->link->written;
    reply->number = there;
    return there || storm.now_ms >= command->wait_until;
}

bool
redis_execute(const struct command *command, struct reply *reply)
{
    here = command->reign == storm.redis.reign ? &storm.redis.data : &storm.redis.old;
    reply->redis_ms = redis_time_ms();
    switch (command->kind) {
    case COMMAND_HANDSHAKE:
        break;
    case COMMAND_ELECT:
        elect(command, reply);
        break;
    case COMMAND_RENEW:
        renew(command, reply);
        break;
    case COMMAND_RESIGN:
        resign(command);
        break;
    case COMMAND_LEADER:
        read_leader(reply);
        break;
    case COMMAND_COMMIT:
        commit(command, reply);
        break;
    case COMMAND_WAIT:
        return wait_for_replica(command, reply);
    case COMMAND_LAST:
        reply->number = here->last;
        break;
    case COMMAND_PAGE:
        page(command, reply);
        break;
    case COMMAND_READ:
    case COMMAND_RECORDS:
        read_records(command, reply);
        break;
    case COMMAND_SWEEP:
        sweep(command, reply);
        break;
    case COMMAND_BEAT:
        beat(command, reply);
        break;
    }
    ship();
    return true;
}

/* ---- life ---- */

static void
sync_file(void *owner, void *data)
{
    if (tag_of(data) ==
        storm.redis.process.life) { /* its own thread: a slow command stops it not */
        storm.redis.synced = storm.redis.data;
        sim_at(storm.now_ms + 1000, NULL, sync_file, owner, data);
    }
}

void
redis_start(void)
{
    storm.redis.process.host = HOST_REDIS;
    storm.redis.process.up = true;
    storm.redis.process.life++;
    storm.redis.run = any64();
    if (storm.redis.everysec) {
        sync_file(NULL, tag(storm.redis.process.life));
    }
    trace("redis: starts");
}

void
redis_stop(bool power_cut)
{
    trace("redis: %s", power_cut ? "power cut" : "stops");
    fault(power_cut ? FAULT_REDIS_POWER_CUT : FAULT_REDIS_RESTART);
    storm.redis.process.up = false;
    storm.redis.process.life++;
    if (power_cut && storm.redis.everysec) {
        check_lost(&storm.redis.data, &storm.redis.synced);
        storm.redis.data = storm.redis.synced;
    }
}

void
redis_fail_over(bool old_lives)
{
    trace("redis: the replica is promoted%s", old_lives ? ", the old master goes on" : "");
    fault(old_lives ? FAULT_REDIS_TWO_MASTERS : FAULT_REDIS_FAIL_OVER);
    check_promoted(&storm.redis.data, &storm.redis.replica);
    storm.redis.old = storm.redis.data;
    storm.redis.old_lives = old_lives;
    storm.redis.data = storm.redis.replica;
    storm.redis.reign++;
    storm.redis.run = any64();
    storm.redis.replica_cut = true; /* it has no replica before the old one follows */
}

void
redis_old_ends(void)
{
    trace("redis: the old master follows the new one");
    storm.redis.old_lives = false;
    memset(storm.redis.sees_old, 0, sizeof storm.redis.sees_old);
    storm.redis.replica_cut = false;
    storm.redis.replica = storm.redis.data;
}
