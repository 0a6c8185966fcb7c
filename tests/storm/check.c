#include "broker/dispatch_private.h"
#include "tests/storm/storm.h"
#include <string.h>

/*
 * The promises. What Redis holds is the truth: every write is held against the write before it,
 * every frame that leaves against what was written.
 */

/* ---- writes ---- */

static uint64_t
envelope_key(const struct record *record)
{
    uint64_t key = 0;
    for (uint32_t i = 0; i < 8; i++) {
        key = key << 8 | record->request[ENVELOPE_KEY_AT + i];
    }
    return key;
}

static bool
may_follow(enum job_state before, enum job_state after)
{
    for (int input = 0; input < JOB_INPUT_COUNT; input++) {
        if (job_next(before, (enum job_input)input) == after) {
            return true;
        }
    }
    return false;
}

/* A transition, not a restore: from one state to the next. */
static void
check_transition(uint32_t job, const struct job_header *before, const struct job_header *after)
{
    if (after->revision != before->revision + 1) {
        broken("job %u: revision %u follows %u", job, after->revision, before->revision);
    }
    if (!may_follow(before->state, after->state)) {
        broken("job %u: %s follows %s", job, job_state_name(after->state),
               job_state_name(before->state));
    }
    bool granted = after->state == JOB_RUNNING;
    if (after->grant != before->grant + granted) {
        broken("job %u: grant %u follows %u in state %s", job, after->grant, before->grant,
               job_state_name(after->state));
    }
    if (after->tries < before->tries || after->tries > before->tries + 1) {
        broken("job %u: tries %u follow %u", job, after->tries, before->tries);
    }
    if (job_is_terminal(after->state) &&
        (after->epoch != before->epoch || after->worker != before->worker)) {
        broken("job %u: its lease changed without a grant", job);
    }
    const struct truth *truth = &storm.truth[job];
    if (truth->ended_told && truth->ended != after->state) {
        broken("job %u ended %s, and is %s now", job, job_state_name(truth->ended),
               job_state_name(after->state));
    }
}

/* The pictures of the accepted attempt are those that its worker drew. */
static void
check_result(uint32_t job, const struct record *record)
{
    struct result result;
    size_t used;
    struct lease lease = { job_named(job), record->header.epoch, record->header.grant };
    uint64_t wanted = picture_of(&lease, record->header.worker);
    struct slice bytes = { record->result, record->n_result };
    if (unpack_struct(storm.checks.result, &result_shape, bytes, &result, &used) != 0) {
        broken("job %u: the accepted result is not one", job);
    }
    const struct result_image *images = result.images.items;
    for (uint32_t i = 0; i < result.images.count; i++) {
        uint64_t said;
        memcpy(&said, images[i].sha256.bytes, sizeof said);
        if (said != wanted) {
            broken("job %u: the result is of another lease than the accepted one", job);
        }
        if (storm.truth[job].files[MUTANT(SAMEFILE) ? 0 : lease.grant][i] != wanted) {
            broken("job %u: picture %u in the store is not the accepted one", job, i);
        }
    }
}

static void
remember(uint32_t job, const struct record *after)
{
    struct truth *truth = &storm.truth[job];
    const struct job_header *header = &after->header;
    if (header->revision < PAST) {
        truth->past[header->revision] = header->state;
    }
    if (!truth->ever || (truth->unpromised && header->revision == 1)) {
        truth->ever = true;
        truth->unpromised = false;
        truth->key = envelope_key(after);
        truth->sequence = header->sequence;
    }
    if (envelope_key(after) != truth->key || header->sequence != truth->sequence) {
        broken("job %u: its place in the queue changed", job);
    }
    if (header->state == JOB_RUNNING) {
        truth->grants[header->grant].worker = header->worker;
        truth->grants[header->grant].epoch = header->epoch;
        totals.grants++;
    }
    if (job_is_terminal(header->state)) {
        truth->ended = header->state;
    }
    if (header->revision >= truth->lost_revision) {
        truth->lost_revision = 0;
    }
}

void
check_write(uint32_t job, const struct record *before, const struct record *after)
{
    storm.touched = true;
    const struct job_header *header = &after->header;
    bool restored = !before->exists || header->revision > before->header.revision + 1;
    if (before->exists && job_is_terminal(before->header.state)) {
        broken("job %u was %s and is written again as %s", job,
               job_state_name(before->header.state), job_state_name(header->state));
    }
    if (restored && header->revision > 1 && storm.truth[job].lost_revision == 0) {
        broken("job %u: written as %s, revision %u, over %s, revision %u, and nothing was lost",
               job, job_state_name(header->state), header->revision,
               job_state_name(before->header.state), before->header.revision);
    }
    if (before->exists && !restored) {
        check_transition(job, &before->header, header);
    }
    if (header->tries > LIMIT_TRIES || header->grant > LIMIT_GRANTS ||
        (header->state == JOB_QUEUED &&
         (header->tries == LIMIT_TRIES || header->grant == LIMIT_GRANTS))) {
        broken("job %u is %s with %u tries and %u grants", job, job_state_name(header->state),
               header->tries, header->grant);
    }
    if (header->state == JOB_SUCCEEDED) {
        check_result(job, after);
    }
    remember(job, after);
}

void
check_told_end(uint32_t job)
{
    storm.truth[job].ended_told = true;
}

/* A power cut took the data back: what must come again by a restore. */
void
check_lost(const struct redis_data *before, const struct redis_data *after)
{
    storm.touched = true;
    for (uint32_t job = 1; job < JOBS; job++) {
        const struct record *was = &before->records[job];
        const struct record *is = &after->records[job];
        if (was->exists && (!is->exists || is->header.revision < was->header.revision)) {
            storm.truth[job].lost_revision = was->header.revision;
            storm.truth[job].unpromised = !is->exists && !storm.truth[job].accepted;
            trace("job %u falls from revision %u to %u", job, was->header.revision,
                  is->exists ? is->header.revision : 0);
        }
    }
}

/* The replica is the master now. What it lacks was promised to nobody: it never was. */
void
check_promoted(const struct redis_data *before, const struct redis_data *after)
{
    storm.touched = true;
    for (uint32_t job = 1; job < JOBS; job++) {
        const struct record *was = &before->records[job];
        const struct record *is = &after->records[job];
        struct truth *truth = &storm.truth[job];
        uint32_t revision = is->exists ? is->header.revision : 0;
        if (!was->exists || revision == was->header.revision) {
            continue;
        }
        if (truth->accepted && !is->exists) {
            broken("job %u was accepted, and the new master does not know it", job);
        }
        if (truth->ended_told) {
            broken("job %u ended %s and was told so, and is %s at the new master", job,
                   job_state_name(truth->ended), job_state_name(is->header.state));
        }
        for (uint32_t i = 0; i < GATEWAYS; i++) {
            if (truth->told_ever[i] > revision) {
                broken("job %u: revision %u was told, the new master has %u", job,
                       truth->told_ever[i], revision);
            }
        }
        trace("job %u falls back from revision %u to %u", job, was->header.revision, revision);
        for (uint32_t i = revision + 1; i < PAST; i++) {
            truth->past[i] = 0;
        }
        truth->ended = 0;
        truth->ever = is->exists;
    }
}

bool
check_recovering(void)
{
    for (uint32_t job = 1; job <= storm.n_jobs; job++) {
        if (storm.truth[job].lost_revision != 0) {
            return true;
        }
    }
    return false;
}

/* After every event: an accepted job is in exactly one state, and in the list of live ones if and
 * only if it lives. */
void
check_redis(void)
{
    if (!storm.touched) {
        return; /* neither a record nor what was promised has changed since */
    }
    storm.touched = false;
    for (uint32_t job = 1; job <= storm.n_jobs; job++) {
        const struct record *record = &storm.redis.data.records[job];
        const struct truth *truth = &storm.truth[job];
        if (truth->accepted && !record->exists && truth->lost_revision == 0) {
            broken("job %u was accepted and is gone", job);
        }
        if (record->live != (record->exists && !job_is_terminal(record->header.state))) {
            broken("job %u: in the list of live jobs and ended, or neither", job);
        }
        const struct record *first = &storm.redis.data.records[job];
        if (first->exists && first->key != 0 && storm.redis.data.keys[first->key] != job) {
            broken("job %u shares its idempotency key with job %u", job,
                   storm.redis.data.keys[first->key]);
        }
    }
}

/* ---- frames to gateways ---- */

static void
check_entry(const struct frame *frame, uint8_t gateway, const struct job_entry *entry)
{
    uint32_t job = job_number(&entry->id);
    struct truth *truth = &storm.truth[job];
    if (job == 0 || entry->header.state == JOB_NONE || gateway >= GATEWAYS) {
        return;
    }
    if (truth->told_session[gateway] != frame->session) {
        truth->told_session[gateway] = frame->session;
        truth->told_revision[gateway] = 0;
    }
    if (entry->header.revision < truth->told_revision[gateway]) {
        broken("job %u: revision %u told after %u", job, entry->header.revision,
               truth->told_revision[gateway]);
    }
    truth->told_revision[gateway] = entry->header.revision;
    truth->told_ever[gateway] = entry->header.revision > truth->told_ever[gateway]
                                    ? entry->header.revision
                                    : truth->told_ever[gateway];
    if (entry->header.revision >= PAST ||
        truth->past[entry->header.revision] != entry->header.state) {
        broken("job %u: %s, revision %u, was told and never written", job,
               job_state_name(entry->header.state), entry->header.revision);
    }
}

static void
check_to_gateway(const struct peer *to, const struct frame *frame)
{
    uint8_t gateway = (uint8_t)(net_host(to) - HOST_GATEWAY);
    if (frame->kind == FRAME_ACCEPTED) {
        uint32_t job = job_number(&frame->accepted.id);
        struct truth *truth = &storm.truth[job];
        if (!truth->ever) {
            broken("job %u: ACCEPTED before its commit", job);
        }
        truth->accepted = true;
        storm.touched = true;
    } else if (frame->kind == FRAME_ANSWER) {
        uint32_t job = job_number(&frame->answer.id);
        const struct record *record = &storm.redis.data.records[job];
        enum job_state told = frame->answer.state;
        bool known = storm.truth[job].lost_revision != 0; /* memory knows more */
        if (job_is_terminal(told) && !known && record->header.state != told) {
            broken("job %u: a cancel was answered %s, it is %s", job, job_state_name(told),
                   job_state_name(record->header.state));
        }
        if (told == JOB_NONE && storm.truth[job].accepted && !known) {
            broken("job %u was accepted and is answered unknown", job);
        }
    } else if (frame->kind == FRAME_KNOWN) {
        uint32_t first = job_number(&frame->known.first);
        uint32_t job = job_number(&frame->known.id);
        if (!storm.truth[first].ever || storm.tickets[first].key != storm.tickets[job].key) {
            broken("job %u: KNOWN as job %u, which it is not", job, first);
        }
    } else if (frame->kind == FRAME_JOBS) {
        const struct job_entry *entries = frame->jobs.entries.items;
        for (uint32_t i = 0; i < frame->jobs.entries.count; i++) {
            check_entry(frame, gateway, &entries[i]);
        }
    }
}

static void
check_of_queue(const struct broker_host *broker, const struct frame *frame)
{
    if (frame->kind == FRAME_REFUSED) {
        check_refused(broker, &frame->refused);
    } else if (frame->kind == FRAME_ADMIN_ANSWER && frame->admin_answer.found &&
               storm.n_drained < DRAINED) {
        const struct roster *roster = &broker->dispatch->roster;
        uint32_t slot = roster_by_name(roster, frame->admin_answer.worker);
        storm.drained[storm.n_drained++] =
            (struct drained){ broker->index, broker->term, roster->workers[slot].incarnation };
    }
}

/* ---- frames to workers ---- */

/* The record says that this lease of this process is the current or the accepted one. */
static bool
lease_stands(const struct lease *lease, uint64_t incarnation, enum job_state state)
{
    const struct record *record = &storm.redis.data.records[job_number(&lease->job)];
    return record->exists && record->header.state == state &&
           record->header.grant == lease->grant && record->header.epoch == lease->epoch &&
           record->header.worker == incarnation;
}

static void
check_to_worker(const struct worker_host *worker, const struct frame *frame)
{
    uint64_t incarnation = agent_incarnation(worker->agent);
    if (frame->kind == FRAME_JOB) {
        const struct lease *lease = &frame->job.lease;
        uint32_t job = job_number(&lease->job);
        const struct truth *truth = &storm.truth[job];
        if (truth->grants[lease->grant].worker != incarnation ||
            truth->grants[lease->grant].epoch != lease->epoch) {
            broken("job %u: JOB with grant %u, which was never written for %s", job, lease->grant,
                   worker->name);
        }
    } else if (frame->kind == FRAME_STALE) {
        const struct lease *lease = &frame->leased.lease;
        uint32_t job = job_number(&lease->job);
        bool stands = lease_stands(lease, incarnation, JOB_RUNNING) ||
                      lease_stands(lease, incarnation, JOB_SUCCEEDED);
        if (stands && storm.truth[job].lost_revision == 0) {
            broken("job %u: STALE to %s, whose grant %u is the %s one", job, worker->name,
                   lease->grant, storm.redis.data.records[job].live ? "current" : "accepted");
        }
    }
}

void
check_sent(const struct broker_host *broker, const struct peer *to, const struct frame *frame)
{
    uint8_t host = net_host(to);
    if (to->side == DOOR_GATEWAYS) {
        check_to_gateway(to, frame);
        check_of_queue(broker, frame);
    } else if (host >= HOST_WORKER && host < HOST_GATEWAY) {
        check_to_worker(&storm.workers[host - HOST_WORKER], frame);
    }
}

/* What a worker is told about a lease that it holds. */
void
check_answered(const struct worker_host *worker, const struct frame *frame)
{
    bool ack = frame->kind == FRAME_ACK;
    if (worker->agent == NULL || frame->session != agent_session(worker->agent) ||
        (!ack && frame->kind != FRAME_STALE)) {
        return;
    }
    const struct lease *lease = &frame->leased.lease;
    uint32_t job = job_number(&lease->job);
    uint64_t incarnation = agent_incarnation(worker->agent);
    if (storm.truth[job].lost_revision != 0) {
        return;
    }
    for (uint32_t slot = 0; slot < LIMIT_WORKER_LEASES; slot++) {
        const struct agent_held *held = agent_held(worker->agent, slot);
        if (held->state == HELD_NONE || !lease_equal(&held->lease, lease)) {
            continue;
        }
        bool accepted = lease_stands(lease, incarnation, JOB_SUCCEEDED);
        bool current = lease_stands(lease, incarnation, JOB_RUNNING);
        if (!ack && (accepted || current)) {
            broken("job %u: %s hears STALE for its good lease %u", job, worker->name, lease->grant);
        }
        /* An ACK of its FAIL and a JOB that both came twice: a lease that ended is drawn again. */
        bool twice = storm.weather.duplicate > 0 && !current;
        if (ack && held->state == HELD_DONE && !accepted && !twice) {
            broken("job %u: %s hears ACK for a result that is not stored", job, worker->name);
        }
        if (ack && current) {
            broken("job %u: %s hears ACK, and Redis still counts its lease %u", job, worker->name,
                   lease->grant);
        }
    }
}

/* ---- what workers do ---- */

void
check_taken(const struct worker_host *worker, const struct lease *lease)
{
    for (uint32_t i = 0; i < WORKERS; i++) {
        const struct worker_host *other = &storm.workers[i];
        for (uint32_t slot = 0;
             other->agent != NULL && other != worker && slot < LIMIT_WORKER_LEASES; slot++) {
            const struct agent_held *held = agent_held(other->agent, slot);
            if (held->state != HELD_NONE && lease_equal(&held->lease, lease)) {
                broken("job %u: grant %u is held by %s(%u) and %s(%u)", job_number(&lease->job),
                       lease->grant, worker->name, worker->index, other->name, other->index);
            }
        }
    }
}

void
check_drawn(const struct worker_host *worker, const struct lease *lease)
{
    uint32_t job = job_number(&lease->job);
    if (++storm.truth[job].draws > 1 && storm.weather.calm) {
        broken("job %u is drawn twice, by %s now, and nothing went wrong", job, worker->name);
    }
}

void
check_stored(const struct worker_host *worker, const struct lease *lease, uint8_t picture)
{
    uint32_t job = job_number(&lease->job);
    uint64_t *file = &storm.truth[job].files[MUTANT(SAMEFILE) ? 0 : lease->grant][picture];
    uint64_t bytes = picture_of(lease, agent_incarnation(worker->agent));
    if (*file != 0 && *file != bytes && !MUTANT(SAMEFILE)) {
        broken("job %u: two attempts write one file", job);
    }
    const struct record *record = &storm.redis.data.records[job];
    *file = bytes;
    if (record->header.state == JOB_SUCCEEDED) {
        check_result(job, record);
    }
}

/* ---- the end ---- */

/* For the reader of a replay: how the leader sees a job that does not end. */
static void
describe(uint32_t job)
{
    const struct broker_host *leader = broker_leader();
    struct job_id id = job_named(job);
    if (leader == NULL) {
        return;
    }
    const struct dispatch *core = leader->dispatch;
    uint32_t index = jobs_find(&core->jobs, &id);
    if (index == JOB_NOBODY) {
        trace("job %u: broker %u does not know it", job, leader->index);
    } else {
        const struct job *known = job_at(&core->jobs, index);
        trace("job %u: broker %u has it %s, transition %u pending, worker slot %d", job,
              leader->index, job_state_name(known->header.state), known->pending,
              (int)known->worker);
    }
    for (uint32_t slot = 0; slot < core->roster.n_workers; slot++) {
        const struct worker *worker = &core->roster.workers[slot];
        trace("slot %u: %s pull %u credit %u granting %u sent %u last %u leases %u%s%s", slot,
              worker->name, worker->pull, worker_credit(worker), worker->granting,
              worker->sent_jobs, worker->last_job, worker->leases.count,
              worker->quiet ? " quiet" : "", worker->draining ? " draining" : "");
    }
    trace("store of broker %u: asking %d waiting %u in flight %u", leader->index,
          leader->store.asking, leader->store.waiting.count, leader->store.flight[0].count);
}

/* A worker that the leader said it drained: it has heard of it and gone, sooner or later. */
bool
check_draining(const struct worker_host *worker)
{
    const struct broker_host *leader = broker_leader();
    for (uint32_t i = 0; i < storm.n_drained && leader != NULL && worker->agent != NULL; i++) {
        const struct drained *drained = &storm.drained[i];
        if (drained->broker == leader->index && drained->term == leader->term &&
            drained->incarnation == agent_incarnation(worker->agent)) {
            return true;
        }
    }
    return false;
}

/* Nothing went wrong: workers were drained, brokers stopped in order. No client notices. */
static void
check_calm(void)
{
    for (uint32_t job = 1; job <= storm.n_jobs && storm.weather.calm; job++) {
        const struct record *record = &storm.redis.data.records[job];
        if (storm.tickets[job].state == TICKET_WITHDRAWN ||
            storm.tickets[job].state == TICKET_GONE) {
            broken("job %u: its client got no answer in time, and nothing went wrong", job);
        }
        if (record->exists && record->header.state == JOB_FAILED) {
            broken("job %u failed, and nothing went wrong", job);
        }
    }
}

void
check_end(void)
{
    for (uint32_t job = 1; job <= storm.n_jobs; job++) {
        const struct record *record = &storm.redis.data.records[job];
        if (storm.truth[job].accepted && !record->exists) {
            broken("job %u was accepted and is gone", job);
        }
        if (record->exists && !job_is_terminal(record->header.state)) {
            describe(job);
            broken("job %u is %s for ever", job, job_state_name(record->header.state));
        }
        if (storm.truth[job].ended_told && storm.truth[job].ended != record->header.state) {
            broken("job %u ended %s and is %s", job, job_state_name(storm.truth[job].ended),
                   job_state_name(record->header.state));
        }
        totals.ended[record->header.state]++;
    }
    if (!gateway_is_quiet()) {
        broken("a client waits for an answer for ever");
    }
    check_calm();
    for (uint32_t i = 0; i < WORKERS; i++) {
        if (!worker_is_empty(&storm.workers[i])) {
            for (uint32_t slot = 0; slot < LIMIT_WORKER_LEASES; slot++) {
                const struct agent_held *held = agent_held(storm.workers[i].agent, slot);
                if (held->state != HELD_NONE) {
                    describe(job_number(&held->lease.job));
                }
            }
            broken("worker %s(%u) holds a lease for ever", storm.workers[i].name, i);
        }
        if (worker_is_leaving(&storm.workers[i]) || check_draining(&storm.workers[i])) {
            broken("worker %s(%u) was drained and never leaves", storm.workers[i].name, i);
        }
    }
    struct broker_host *leader = broker_leader();
    if (leader == NULL) {
        broken("nobody leads");
    }
    struct dispatch_stats stats;
    dispatch_stats(leader->dispatch, &stats);
    if (stats.queued != 0 || stats.running != 0) {
        broken("the leader counts %u queued and %u running, Redis none", stats.queued,
               stats.running);
    }
}
