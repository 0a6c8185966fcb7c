#pragma once
/*
 * dispatch_world — a broker's core between peers made of paper: one line a step.
 *
 * For tests. Every frame that the core sends is encoded and decoded, so that what it sends obeys
 * the tables. Commits are answered at once (w.auto_commit) or wait for commit(). Workers behave as
 * PROTOCOL.md says: they take JOBs, list what they hold, forget on ACK, STALE and STOP; w.deaf
 * loses what is sent to them. Time moves with at() and later(); Redis TIME goes along.
 */
#include "broker/dispatch_private.h"
#include "common/scope.h"
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

enum { EPOCH = 7, EPOCH_HASH = 0xe70c4, START_MS = 10000, PEERS = 16, HELD = 64, LOG = 8192 };
#define REDIS_MS 1795432800000ULL

struct sent {
    struct peer peer;
    enum frame_kind kind;
    struct buffer bytes;
    uint8_t n_pictures;
};
struct commit {
    enum op_kind kind;
    struct job_id id;
    struct job_header header;
    enum fail_code code, reason;
    uint8_t attempt;
    char worker[LIMIT_WORKER_NAME + 1];
};
struct paper_worker {
    uint64_t session, incarnation;
    uint32_t last_job;
    struct held_lease held[HELD];
    uint32_t n_held;
    uint32_t max_pixels;
    const char *model;
};

struct world {
    struct dispatch *d;
    struct effects effects;
    struct moment now;
    enum verdict verdict; /* of the last step that a test asked for */
    bool auto_commit;
    bool deaf; /* frames to workers are lost */
    struct unpacker *unpacker;
    struct sent sent[LOG];
    uint32_t n_sent;
    struct commit commits[LOG]; /* unanswered from commit_next on */
    uint32_t n_commits, commit_next;
    struct inquiry reads[LOG];
    uint32_t n_reads;
    struct paper_worker workers[PEERS];
    uint64_t gateways[PEERS]; /* sessions */
    uint64_t sessions;        /* given out so far */
    uint64_t epoch;           /* of the broker's term */
    struct frame frame;       /* the one that seen() decoded */
    /* told of everything that leaves, if set */
    void (*on_frame)(const struct peer *to, const struct frame *frame);
    void (*on_op)(const struct op *op);
    void (*on_read)(const struct inquiry *inquiry);
};
static struct world w;

/* -- names -- */

static inline struct job_id
job_named(uint32_t n)
{
    return (struct job_id){ .bytes = { 1, [12] = (uint8_t)(n >> 24), [13] = (uint8_t)(n >> 16),
                                       [14] = (uint8_t)(n >> 8), [15] = (uint8_t)n } };
}

static inline struct peer
peer_of(enum door_side side, uint32_t n)
{
    return (struct peer){ .side = (uint8_t)side, .length = 5, .id = { 0, 1, 2, 3, (uint8_t)n } };
}

static inline const char *
worker_name(uint32_t n)
{
    static const char *const names[PEERS] = { "mia", "ben", "ada",  "eva", "tom", "kim",
                                              "leo", "zoe", "ivo",  "uma", "pia", "max",
                                              "ole", "ida", "noah", "lea" };
    return names[n];
}

/* -- performing effects -- */

static inline void
paper_receives(uint32_t n, const struct frame *frame)
{
    struct paper_worker *worker = &w.workers[n];
    if (w.deaf || frame->session != worker->session) {
        return;
    }
    if (frame->kind == FRAME_JOB) {
        worker->last_job = frame->job.number;
        for (uint32_t i = 0; i < worker->n_held; i++) {
            if (lease_equal(&worker->held[i].lease, &frame->job.lease)) {
                return;
            }
        }
        cr_assert(worker->n_held < HELD);
        worker->held[worker->n_held++] = (struct held_lease){ frame->job.lease, false, false };
    }
    if (frame->kind == FRAME_ACK || frame->kind == FRAME_STALE || frame->kind == FRAME_STOP) {
        for (uint32_t i = 0; i < worker->n_held; i++) {
            if (lease_equal(&worker->held[i].lease, &frame->leased.lease)) {
                worker->held[i--] = worker->held[--worker->n_held];
            }
        }
    }
}

static inline void
perform(void)
{
    for (uint32_t i = 0; i < w.effects.count; i++) {
        const struct effect *effect = &w.effects.items[i];
        if (effect->kind == EFFECT_SEND) {
            struct sent *sent = &w.sent[w.n_sent++ % LOG];
            sent->bytes.length = 0;
            sent->peer = effect->peer;
            sent->kind = effect->frame.kind;
            sent->n_pictures = effect->n_pictures;
            frame_encode(&sent->bytes, &effect->frame);
            struct frame again;
            cr_assert_eq(frame_decode(w.unpacker, sent->bytes.bytes, sent->bytes.length, &again), 0,
                         "%s", unpack_error(w.unpacker));
            if (w.on_frame != NULL) {
                w.on_frame(&sent->peer, &again);
            }
            if (sent->peer.side == DOOR_WORKERS) {
                paper_receives(sent->peer.id[4], &again);
            }
        } else if (effect->kind == EFFECT_COMMIT) {
            struct commit *commit = &w.commits[w.n_commits++ % LOG];
            *commit = (struct commit){ .kind = effect->op.kind,
                                       .id = effect->op.id,
                                       .header = effect->op.header,
                                       .code = effect->op.code,
                                       .reason = effect->op.reason.code,
                                       .attempt = effect->op.reason.attempt };
            memcpy(commit->worker, effect->op.worker.bytes ? effect->op.worker.bytes : "",
                   effect->op.worker.length);
            if (w.on_op != NULL) {
                w.on_op(&effect->op);
            }
        } else {
            w.reads[w.n_reads++ % LOG] = effect->inquiry;
            if (w.on_read != NULL) {
                w.on_read(&effect->inquiry);
            }
        }
    }
}

static inline enum verdict
step(const struct dispatch_event *event)
{
    enum verdict verdict = dispatch_step(w.d, w.now, event, &w.effects);
    dispatch_check(w.d);
    perform();
    return verdict;
}

/* Answers the oldest unanswered commit of a job. */
static inline void
commit_as(enum commit_outcome outcome, uint32_t first)
{
    static const uint8_t hash[32] = "the body of the first";
    while (w.commit_next < w.n_commits) {
        struct commit commit = w.commits[w.commit_next++ % LOG];
        if (commit.kind == OP_WORKER_EVICTED || commit.kind == OP_WORKER_LEFT ||
            commit.kind == OP_RESTORE) {
            continue;
        }
        struct dispatch_event event = { .kind = EVENT_COMMITTED,
                                        .id = commit.id,
                                        .outcome = outcome,
                                        .first = job_named(first),
                                        .body_hash = { hash, sizeof hash } };
        step(&event);
        return;
    }
    cr_assert(false, "no commit is waiting");
}

static inline void
commit(void)
{
    commit_as(COMMIT_DONE, 0);
}

/* How many commits of jobs wait for an answer. */
static inline uint32_t
commits_waiting(void)
{
    uint32_t n = 0;
    for (uint32_t i = w.commit_next; i < w.n_commits; i++) {
        enum op_kind kind = w.commits[i % LOG].kind;
        n += kind == OP_SUBMIT || kind == OP_TOUCH || kind == OP_FINISH;
    }
    return n;
}

/* Everything that a test says goes through here. */
static inline enum verdict
say(const struct dispatch_event *event)
{
    w.n_sent = w.n_reads = 0;
    w.verdict = step(event);
    while (w.auto_commit && commits_waiting() > 0) {
        commit();
    }
    return w.verdict;
}

/* -- what left since the last say() -- */

static inline uint32_t
count_sent(enum frame_kind kind)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < w.n_sent && i < LOG; i++) {
        n += w.sent[i].kind == kind;
    }
    return n;
}

/* The n-th frame of this kind that left, decoded; NULL: none. */
static inline const struct frame *
seen_nth(enum frame_kind kind, uint32_t nth)
{
    for (uint32_t i = 0; i < w.n_sent && i < LOG; i++) {
        if (w.sent[i].kind == kind && nth-- == 0) {
            cr_assert_eq(
                frame_decode(w.unpacker, w.sent[i].bytes.bytes, w.sent[i].bytes.length, &w.frame),
                0);
            return &w.frame;
        }
    }
    return NULL;
}

static inline const struct frame *
seen(enum frame_kind kind)
{
    const struct frame *frame = seen_nth(kind, 0);
    cr_assert(frame != NULL, "no %s was sent", frame_kind_name(kind));
    return frame;
}

static inline const struct job_entry *
seen_entry(void)
{
    const struct frame *frame = seen(FRAME_JOBS);
    cr_assert(frame->jobs.entries.count > 0);
    return frame->jobs.entries.items;
}

static inline const struct commit *
last_commit(void)
{
    cr_assert(w.n_commits > 0);
    return &w.commits[(w.n_commits - 1) % LOG];
}

static inline const struct job *
job_in(uint32_t n)
{
    struct job_id id = job_named(n);
    uint32_t index = jobs_find(&w.d->jobs, &id);
    return index == JOB_NOBODY ? NULL : job_at(&w.d->jobs, index);
}

static inline enum job_state
state_of(uint32_t n)
{
    const struct job *job = job_in(n);
    return job == NULL ? JOB_NONE : job_told_state(job);
}

static inline struct lease
lease_of(uint32_t n)
{
    cr_assert(job_in(n) != NULL);
    return job_lease(job_in(n));
}

/* -- time -- */

static inline void
at(int64_t ms) /* since the start */
{
    w.now.mono_ms = START_MS + ms;
    w.now.redis_ms = REDIS_MS + (uint64_t)ms;
}

static inline void
later(int64_t ms)
{
    w.now.mono_ms += ms;
    w.now.redis_ms += (uint64_t)ms;
}

static inline void
tick(void)
{
    struct dispatch_event event = { .kind = EVENT_TICK };
    say(&event);
}

/* -- frames in -- */

static inline enum verdict
say_frame(struct peer peer, const struct frame *frame, const struct envelope *envelope)
{
    struct dispatch_event event = {
        .kind = EVENT_FRAME, .peer = peer, .frame = frame, .envelope = envelope
    };
    return say(&event);
}

static inline enum verdict
gateway_says(uint32_t n, struct frame frame)
{
    frame.session = w.gateways[n];
    frame.epoch = w.epoch;
    return say_frame(peer_of(DOOR_GATEWAYS, n), &frame, NULL);
}

static inline enum verdict
worker_says(uint32_t n, struct frame frame)
{
    frame.session = w.workers[n].session;
    frame.epoch = w.epoch;
    return say_frame(peer_of(DOOR_WORKERS, n), &frame, NULL);
}

static inline enum verdict
gateway_hello(uint32_t n)
{
    char url[64];
    snprintf(url, sizeof url, "http://10.0.0.%u:8081", n);
    struct upload_base base = { slice_of(url) };
    w.gateways[n] = ++w.sessions;
    return gateway_says(
        n, (struct frame){
               .kind = FRAME_GATEWAY_HELLO,
               .gateway_hello = {
                   PROTOCOL_VERSION, slice_of("gate"), slice_of("store"), { &base, 1 }, false } });
}

/* HELLO on a new session, listing what the worker holds. */
static inline enum verdict
worker_hello(uint32_t n)
{
    struct paper_worker *worker = &w.workers[n];
    struct model_name model = { slice_of(worker->model != NULL ? worker->model : "z-image-turbo") };
    worker->session = ++w.sessions;
    worker->last_job = 0;
    struct held_lease held[HELD];
    memcpy(held, worker->held, sizeof held);
    return worker_says(n, (struct frame){ .kind = FRAME_WORKER_HELLO,
                                          .worker_hello = {
                                              .version = PROTOCOL_VERSION,
                                              .name = slice_of(worker_name(n)),
                                              .incarnation = worker->incarnation,
                                              .models = { &model, 1 },
                                              .instances = 1,
                                              .max_pixels = worker->max_pixels,
                                              .leases = { held, worker->n_held },
                                          } });
}

/* A new process of the worker says HELLO. */
static inline enum verdict
worker_in(uint32_t n, uint64_t incarnation)
{
    w.workers[n] = (struct paper_worker){ .incarnation = incarnation,
                                          .max_pixels = 2048 * 2048,
                                          .model = w.workers[n].model };
    return worker_hello(n);
}

static inline enum verdict
worker_state(uint32_t n, uint8_t pull)
{
    struct held_lease held[HELD];
    memcpy(held, w.workers[n].held, sizeof held);
    return worker_says(
        n, (struct frame){
               .kind = FRAME_WORKER_STATE,
               .worker_state = { pull, w.workers[n].last_job, { held, w.workers[n].n_held } } });
}

static inline enum verdict
worker_done(uint32_t n, struct lease lease)
{
    return worker_says(
        n, (struct frame){ .kind = FRAME_DONE, .done = { lease, slice_of("the result") } });
}

static inline enum verdict
worker_fail(uint32_t n, struct lease lease, enum fail_code code, bool counted)
{
    return worker_says(n, (struct frame){ .kind = FRAME_FAIL,
                                          .fail = { .lease = lease,
                                                    .code = (uint8_t)code,
                                                    .counted = counted,
                                                    .instance = slice_of("gpu0"),
                                                    .message = slice_of("it did not work") } });
}

static inline enum verdict
worker_progress(uint32_t n, struct lease lease, uint8_t step_done)
{
    return worker_says(
        n, (struct frame){ .kind = FRAME_PROGRESS, .progress = { lease, step_done, 8 } });
}

/* -- submits -- */

static inline struct envelope
envelope_plain(void)
{
    return (struct envelope){ .tenant = slice_of("acme"),
                              .model = slice_of("z-image-turbo"),
                              .class_ = CLASS_NORMAL,
                              .width = 1024,
                              .height = 1024,
                              .steps = 8,
                              .n = 1,
                              .expires_in_s = 3600 };
}

static inline void
request_pack(struct buffer *out, const struct envelope *envelope)
{
    struct job_body body = { .prompt = slice_of("a lighthouse at night"), .quality = 90 };
    pack_struct(out, &envelope_shape, envelope);
    pack_struct(out, &job_body_shape, &body);
}

static inline enum verdict
submit_from(uint32_t gateway, uint32_t n, const struct envelope *envelope, bool watch)
{
    CLEANUP(buffer_destroy) struct buffer request = { 0 };
    request_pack(&request, envelope);
    struct frame frame = { .kind = FRAME_SUBMIT, .session = w.gateways[gateway], .epoch = w.epoch };
    frame.submit =
        (struct submit){ job_named(n), { request.bytes, (uint32_t)request.length }, watch };
    return say_frame(peer_of(DOOR_GATEWAYS, gateway), &frame, envelope);
}

static inline enum verdict
submit(uint32_t n)
{
    struct envelope envelope = envelope_plain();
    return submit_from(0, n, &envelope, false);
}

static inline enum verdict
submit_as(uint32_t n, const char *tenant, enum job_class class_)
{
    struct envelope envelope = envelope_plain();
    envelope.tenant = slice_of(tenant);
    envelope.class_ = (uint8_t)class_;
    return submit_from(0, n, &envelope, false);
}

static inline enum verdict
cancel_as(uint32_t n, const char *tenant)
{
    return gateway_says(
        0, (struct frame){ .kind = FRAME_CANCEL, .cancel = { job_named(n), slice_of(tenant) } });
}

static inline enum verdict
cancel(uint32_t n)
{
    return cancel_as(n, "acme");
}

static inline enum verdict
withdraw(uint32_t n)
{
    return gateway_says(0, (struct frame){ .kind = FRAME_WITHDRAW, .withdraw = { job_named(n) } });
}

static inline enum verdict
ask(enum frame_kind kind, uint32_t gateway, uint32_t n, bool full)
{
    struct named_job named = { job_named(n) };
    return gateway_says(gateway,
                        (struct frame){ .kind = kind, .named_jobs = { { &named, 1 }, full } });
}

/* -- Redis -- */

/* The answer to a read: the record has this header and a tenant. */
static inline enum verdict
record_says(struct inquiry inquiry, const struct job_header *header, const char *tenant)
{
    struct job_record record = { 0 };
    if (header != NULL) {
        record.header = *header;
        record.envelope = envelope_plain();
        record.envelope.tenant = slice_of(tenant);
    }
    struct dispatch_event event = { .kind = EVENT_RECORD,
                                    .inquiry = inquiry,
                                    .record = header != NULL ? &record : NULL };
    return say(&event);
}

static inline enum verdict
load(uint32_t n, const struct job_header *header, const struct envelope *envelope)
{
    CLEANUP(buffer_destroy) struct buffer request = { 0 };
    request_pack(&request, envelope);
    struct job_record record = { .header = *header,
                                 .envelope = *envelope,
                                 .request = { request.bytes, (uint32_t)request.length } };
    struct dispatch_event event = { .kind = EVENT_LOAD, .id = job_named(n), .record = &record };
    return say(&event);
}

static inline enum verdict
sweep(const struct quiet_worker *quiet, uint32_t n)
{
    struct dispatch_event event = { .kind = EVENT_SWEEP, .quiet = quiet, .n_quiet = n };
    return say(&event);
}

/* Time passes, and Redis answers every sweep of it: nobody is quiet. */
static inline void
sweep_for(int64_t ms)
{
    for (int64_t passed = 0; passed <= ms; passed += LIMIT_SWEEP_MS) {
        sweep(NULL, 0);
        later(LIMIT_SWEEP_MS);
    }
}

/* -- a broker -- */

static inline void
dispatch_open(uint32_t max_jobs, uint64_t max_bytes)
{
    static const uint8_t key[32] = "key";
    struct dispatch_config config = { .epoch = w.epoch,
                                      .epoch_hash = EPOCH_HASH + (uint32_t)w.epoch - EPOCH,
                                      .max_jobs = max_jobs,
                                      .max_bytes = max_bytes,
                                      .retention_s = 86400,
                                      .name = "broker",
                                      .upload_key = key };
    cr_assert_eq(dispatch_new(&w.d, &config), 0);
}

static inline void
open_empty(uint32_t max_jobs, uint64_t max_bytes)
{
    memset(&w, 0, sizeof w);
    w.epoch = EPOCH;
    dispatch_open(max_jobs, max_bytes);
    cr_assert_eq(unpacker_new(&w.unpacker), 0);
    w.auto_commit = true;
    at(0);
}

static inline void
loaded(void)
{
    struct dispatch_event event = { .kind = EVENT_LOADED };
    say(&event);
}

/* A broker that serves, with gateway 0. */
static inline void
open_broker(void)
{
    open_empty(LIMIT_JOBS, 1ULL << 31);
    loaded();
    gateway_hello(0);
}

static inline void
close_broker(void)
{
    dispatch_destroy(&w.d);
    effects_destroy(&w.effects);
    unpacker_destroy(&w.unpacker);
    for (uint32_t i = 0; i < LOG; i++) {
        buffer_destroy(&w.sent[i].bytes);
    }
}
