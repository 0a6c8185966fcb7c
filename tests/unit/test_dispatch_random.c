/* A small storm: random peers, losses, deaths, clocks and takeovers against a model of Redis. After
 * each step the core checks itself; every frame that leaves is held against what is committed. */
#include "tests/unit/dispatch_world.h"
#include <stdlib.h>

enum {
    SEEDS = 200,
    STEPS = 3000,
    JOBS = 600,
    WINDOW = 40,
    WORKERS = 5,
    GATEWAYS = 2,
    PLACES = 3,
    OPS = 256
};

struct record {
    bool exists;
    struct job_header header;
    uint8_t request[512];
    uint32_t length;
    uint32_t told[GATEWAYS]; /* highest revision told to the gateway's present session */
    bool accepted;
    uint32_t completions;
};

struct paper_op {
    enum op_kind kind;
    uint32_t n;
    struct job_header header;
    uint8_t request[512];
    uint32_t length;
};

struct storm {
    unsigned seed, state;
    uint32_t step;
    struct record records[JOBS + 1];
    struct paper_op ops[OPS]; /* from ops_next on: on their way to Redis */
    uint32_t n_ops, ops_next;
    struct inquiry reads[OPS];
    uint32_t n_reads, reads_next;
    bool dead[WORKERS], lost_session[WORKERS + GATEWAYS];
    int64_t beat_ms[WORKERS];
    uint64_t incarnations;
    struct record_unpacker unpacker;
    uint64_t ended;
};
static struct storm s;

static uint32_t
any(uint32_t below)
{
    return (uint32_t)rand_r(&s.state) % below;
}

static uint32_t
number_of(const struct job_id *id)
{
    return (uint32_t)id->bytes[14] << 8 | id->bytes[15];
}

/* -- Redis -- */

static void
on_op(const struct op *op)
{
    cr_assert_lt(s.n_ops - s.ops_next, OPS);
    struct paper_op *paper = &s.ops[s.n_ops++ % OPS];
    *paper = (struct paper_op){ .kind = op->kind, .n = number_of(&op->id), .header = op->header };
    if (op->kind == OP_SUBMIT || op->kind == OP_RESTORE) {
        memcpy(paper->request, op->request.bytes, op->request.length);
        paper->length = op->request.length;
    }
}

static void
on_read(const struct inquiry *inquiry)
{
    if (s.n_reads - s.reads_next < OPS) { /* a lost question is asked again */
        s.reads[s.n_reads++ % OPS] = *inquiry;
    }
}

/* Applies the oldest op as drawbar1_commit would. */
static enum commit_outcome
redis_apply(const struct paper_op *op)
{
    struct record *record = &s.records[op->n];
    const struct job_header *header = &record->header;
    if (op->kind == OP_SUBMIT) {
        if (record->exists) {
            return COMMIT_EXISTS;
        }
        if (any(20) == 0) {
            return COMMIT_NO_ROOM;
        }
        record->exists = true;
        memcpy(record->request, op->request, op->length);
        record->length = op->length;
    } else if (op->kind == OP_RESTORE) {
        cr_assert(record->exists && header->revision >= op->header.revision, "nothing was lost");
        return COMMIT_ABSENT;
    } else {
        cr_assert(record->exists, "seed %u", s.seed);
        cr_assert_not(job_is_terminal(header->state), "seed %u: terminal is final", s.seed);
        cr_assert_eq(op->header.revision, header->revision + 1);
        bool legal = false;
        for (int input = 0; input < JOB_INPUT_COUNT; input++) {
            legal |= job_next(header->state, (enum job_input)input) == op->header.state;
        }
        cr_assert(legal, "seed %u: %d to %d", s.seed, header->state, op->header.state);
        cr_assert_geq(op->header.grant, header->grant);
        cr_assert_geq(op->header.tries, header->tries);
        record->completions += op->header.state == JOB_SUCCEEDED;
        cr_assert_leq(record->completions, 1);
        s.ended += job_is_terminal(op->header.state);
    }
    record->header = op->header;
    return COMMIT_DONE;
}

static void
redis_commit(void)
{
    if (s.ops_next == s.n_ops) {
        return;
    }
    struct paper_op op = s.ops[s.ops_next++ % OPS];
    if (op.kind == OP_WORKER_EVICTED || op.kind == OP_WORKER_LEFT) {
        return;
    }
    enum commit_outcome outcome = redis_apply(&op);
    struct dispatch_event event = { .kind = EVENT_COMMITTED,
                                    .id = job_named(op.n),
                                    .outcome = outcome };
    if (op.kind != OP_RESTORE) {
        say(&event);
    }
}

static void
redis_read(void)
{
    if (s.reads_next == s.n_reads) {
        return;
    }
    struct inquiry inquiry = s.reads[s.reads_next++ % OPS];
    const struct record *record = &s.records[number_of(&inquiry.id)];
    record_says(inquiry, record->exists ? &record->header : NULL, "acme");
}

/* -- what may leave -- */

static void
check_entry(uint32_t gateway, const struct job_entry *entry)
{
    struct record *record = &s.records[number_of(&entry->id)];
    if (entry->header.state == JOB_NONE) {
        return;
    }
    cr_assert_eq(entry->header.state, record->header.state, "seed %u", s.seed);
    cr_assert_eq(entry->header.revision, record->header.revision, "seed %u", s.seed);
    cr_assert_geq(entry->header.revision, record->told[gateway], "seed %u", s.seed);
    record->told[gateway] = entry->header.revision;
}

static void
on_frame(const struct peer *to, const struct frame *frame)
{
    if (frame->kind == FRAME_NO_SESSION) {
        s.lost_session[to->side == DOOR_WORKERS ? to->id[4] : WORKERS + to->id[4]] = true;
    } else if (frame->kind == FRAME_ACCEPTED) {
        struct record *record = &s.records[number_of(&frame->accepted.id)];
        cr_assert(record->exists, "seed %u: accepted before its commit", s.seed);
        record->accepted = true;
    } else if (frame->kind == FRAME_ANSWER) {
        const struct record *record = &s.records[number_of(&frame->answer.id)];
        enum job_state state = record->exists ? record->header.state : JOB_NONE;
        cr_assert_eq(frame->answer.state, state, "seed %u", s.seed);
    } else if (frame->kind == FRAME_JOBS) {
        const struct job_entry *entries = frame->jobs.entries.items;
        for (uint32_t i = 0; i < frame->jobs.entries.count; i++) {
            check_entry(to->id[4], &entries[i]);
        }
    } else if (frame->kind == FRAME_JOB || frame->kind == FRAME_ACK || frame->kind == FRAME_STALE ||
               frame->kind == FRAME_STOP) {
        const struct lease *lease =
            frame->kind == FRAME_JOB ? &frame->job.lease : &frame->leased.lease;
        const struct record *record = &s.records[number_of(&lease->job)];
        bool current = record->exists && record->header.grant == lease->grant &&
                       record->header.epoch == lease->epoch &&
                       record->header.worker == w.workers[to->id[4]].incarnation;
        bool running = current && record->header.state == JOB_RUNNING;
        cr_assert_eq(running, frame->kind == FRAME_JOB, "seed %u: %s", s.seed,
                     frame_kind_name(frame->kind));
        bool good = current && record->header.state == JOB_SUCCEEDED;
        cr_assert_not(good && frame->kind == FRAME_STALE, "seed %u: a good result", s.seed);
    }
}

/* -- peers -- */

/* One of the jobs that are talked about now. */
static uint32_t
any_job(void)
{
    return 1 + s.step * (JOBS - WINDOW) / STEPS + any(WINDOW);
}

static void
submit_any(void)
{
    static const char *const models[] = { "z-image-turbo", "z-image-turbo", "other" };
    uint32_t n = any_job();
    struct envelope envelope = envelope_plain();
    envelope.class_ = (uint8_t)(n % CLASS_COUNT);
    envelope.model = slice_of(models[n % 3]);
    envelope.expires_in_s = n % 7 == 0 ? 10 : 3600;
    submit_from(any(GATEWAYS), n, &envelope, any(2) == 0);
}

static void
gateway_move(void)
{
    uint32_t gateway = any(GATEWAYS);
    uint32_t n = any_job();
    struct dispatch_event event = { .peer = peer_of(DOOR_GATEWAYS, gateway) };
    if (s.lost_session[WORKERS + gateway] || any(40) == 0) {
        s.lost_session[WORKERS + gateway] = false;
        for (uint32_t i = 1; i <= JOBS; i++) {
            s.records[i].told[gateway] = 0;
        }
        gateway_hello(gateway);
        return;
    }
    switch (any(10)) {
    case 0:
        cancel(n);
        return;
    case 1:
        withdraw(n);
        return;
    case 2:
        ask(FRAME_WATCH, gateway, n, any(2) == 0);
        return;
    case 3:
        ask(any(2) == 0 ? FRAME_UNWATCH : FRAME_STATUS, gateway, n, true);
        return;
    case 4:
        event.kind = any(4) == 0 ? EVENT_GONE : EVENT_LAGGING;
        say(&event);
        return;
    default:
        submit_any();
    }
}

static void
worker_start(uint32_t n)
{
    s.dead[n] = false;
    s.beat_ms[n] = w.now.mono_ms;
    w.workers[n].model = n == 4 ? "other" : "z-image-turbo";
    worker_in(n, ++s.incarnations);
}

static void
worker_pull(uint32_t n)
{
    uint32_t held = w.workers[n].n_held;
    worker_state(n, (uint8_t)(held < PLACES ? PLACES - held : 0));
}

static void
worker_result(uint32_t n, struct held_lease *held)
{
    struct lease lease = held->lease;
    uint32_t how = any(8);
    if (how < 2 && !held->finished) {
        held->taken = true;
        worker_progress(n, lease, (uint8_t)any(8));
        return;
    }
    held->finished = true;
    if (how < 6) {
        worker_done(n, lease);
    } else {
        worker_fail(n, lease, (enum fail_code)any(FAIL_CODE_COUNT), any(2) == 0);
    }
}

static void
worker_move(uint32_t n)
{
    struct paper_worker *worker = &w.workers[n];
    if (s.dead[n]) {
        if (any(60) == 0) {
            worker_start(n);
        }
        return;
    }
    s.beat_ms[n] = w.now.mono_ms;
    if (s.lost_session[n] || any(80) == 0) {
        s.lost_session[n] = false;
        worker_hello(n);
    } else if (any(100) == 0) {
        s.dead[n] = true;
    } else if (any(150) == 0) {
        worker_start(n); /* a new process */
    } else if (any(200) == 0) {
        worker_says(n, (struct frame){ .kind = FRAME_BYE });
        worker->n_held = 0;
        s.lost_session[n] = true;
    } else if (worker->n_held > 0 && any(30) == 0) {
        uint32_t forgotten = any(worker->n_held--);
        worker->held[forgotten] = worker->held[worker->n_held];
    } else if (worker->n_held > 0 && any(2) == 0) {
        worker_result(n, &worker->held[any(worker->n_held)]);
    } else {
        worker_pull(n);
    }
}

static void
sweep_all(void)
{
    struct quiet_worker quiet[WORKERS];
    uint32_t n = 0;
    for (uint32_t i = 0; i < WORKERS; i++) {
        int64_t quiet_ms = w.now.mono_ms - s.beat_ms[i];
        if (quiet_ms >= 4000) {
            quiet[n++] = (struct quiet_worker){ slice_of(worker_name(i)), quiet_ms };
        }
    }
    sweep(quiet, n);
}

/* The leader dies; what it had sent is applied or not, in order; another one loads the rest. */
static void
takeover(void)
{
    for (uint32_t applied = any(s.n_ops - s.ops_next + 1); applied > 0; applied--) {
        const struct paper_op *op = &s.ops[s.ops_next++ % OPS];
        if (op->kind != OP_WORKER_EVICTED && op->kind != OP_WORKER_LEFT) {
            redis_apply(op);
        }
    }
    s.ops_next = s.n_ops;
    s.reads_next = s.n_reads;
    dispatch_destroy(&w.d);
    w.epoch++;
    dispatch_open(40, 1ULL << 31);
    for (uint32_t n = 1; n <= JOBS; n++) {
        const struct record *from = &s.records[n];
        if (!from->exists || job_is_terminal(from->header.state)) {
            continue;
        }
        struct job_record record = { .header = from->header,
                                     .request = { from->request, from->length } };
        cr_assert_eq(
            job_request_decode(&s.unpacker, record.request, &record.envelope, &record.body), 0);
        struct dispatch_event event = { .kind = EVENT_LOAD, .id = job_named(n), .record = &record };
        cr_assert_eq(say(&event), VERDICT_OK);
    }
    loaded();
}

static void
storm_step(void)
{
    w.deaf = any(12) == 0;
    uint32_t what = any(100);
    if (what < 30) {
        worker_move(any(WORKERS));
    } else if (what < 50) {
        gateway_move();
    } else if (what < 80) {
        redis_commit();
    } else if (what < 88) {
        redis_read();
    } else if (what < 98) {
        later(any(400));
        sweep_all();
        tick();
    } else if (any(30) == 0) {
        takeover();
    } else if (any(30) == 0) {
        struct dispatch_event event = { .kind = EVENT_RESTORE };
        do { /* nothing else is committed between two parts */
            say(&event);
            event.kind = EVENT_RESTORE_MORE;
            while (s.n_ops - s.ops_next > OPS / 4) {
                redis_commit();
            }
        } while (dispatch_is_restoring(w.d));
    }
    while (s.n_ops - s.ops_next > OPS / 4) {
        redis_commit();
    }
}

/* -- the calm after it -- */

static void
answer_all(void)
{
    while (s.ops_next < s.n_ops || s.reads_next < s.n_reads) {
        redis_commit();
        redis_read();
    }
}

static bool
all_ended(void)
{
    for (uint32_t n = 1; n <= JOBS; n++) {
        if (s.records[n].exists && !job_is_terminal(s.records[n].header.state)) {
            return false;
        }
    }
    return true;
}

static void
calm(void)
{
    w.deaf = false;
    for (uint32_t round = 0; round < 400 && !all_ended(); round++) {
        for (uint32_t n = 0; n < WORKERS; n++) {
            s.beat_ms[n] = w.now.mono_ms;
            if (s.dead[n]) {
                worker_start(n);
            } else if (s.lost_session[n]) {
                s.lost_session[n] = false;
                worker_hello(n);
            }
            answer_all();
            worker_pull(n);
            answer_all();
            struct paper_worker now = w.workers[n];
            for (uint32_t i = 0; i < now.n_held; i++) {
                worker_done(n, now.held[i].lease);
                answer_all();
            }
        }
        later(250);
        sweep_all();
        tick();
        answer_all();
    }
    for (uint32_t n = 1; n <= JOBS; n++) {
        const struct record *record = &s.records[n];
        cr_assert(!record->accepted || record->exists, "seed %u: job %u was lost", s.seed, n);
        cr_assert(!record->exists || job_is_terminal(record->header.state),
                  "seed %u: job %u is %s for ever", s.seed, n,
                  job_state_name((enum job_state)record->header.state));
    }
    cr_assert_eq(w.d->running + w.d->queue.queued, 0);
}

static void
storm(unsigned seed, uint32_t steps)
{
    memset(&s, 0, sizeof s);
    s.seed = s.state = seed;
    cr_assert_eq(record_unpacker_new(&s.unpacker), 0);
    open_empty(40, 1ULL << 31);
    w.auto_commit = false;
    w.on_frame = on_frame;
    w.on_op = on_op;
    w.on_read = on_read;
    loaded();
    for (uint32_t n = 0; n < GATEWAYS; n++) {
        gateway_hello(n);
    }
    for (uint32_t n = 0; n < WORKERS; n++) {
        worker_start(n);
    }
    for (s.step = 0; s.step < steps; s.step++) {
        storm_step();
    }
    calm();
    cr_assert_gt(s.ended, 30, "seed %u: only %lu jobs ended", seed, (unsigned long)s.ended);
    record_unpacker_destroy(&s.unpacker);
    close_broker();
}

Test(dispatch_random, no_accepted_job_is_lost_or_completed_twice_whatever_happens, .timeout = 600)
{
    const char *from = getenv("DISPATCH_SEED"); /* one seed that was found */
    const char *seeds = getenv("DISPATCH_SEEDS");
    unsigned first = from != NULL ? (unsigned)strtoul(from, NULL, 10) : 1;
    unsigned n = seeds != NULL ? (unsigned)strtoul(seeds, NULL, 10) : from != NULL ? 1 : SEEDS;
    for (unsigned seed = first; seed < first + n; seed++) {
        fprintf(stderr, "# seed %u\n", seed); /* before its world: a crash's last line says which */
        storm(seed, STEPS);
    }
}
