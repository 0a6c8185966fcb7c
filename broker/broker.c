#include "broker/broker.h"
#include "broker/dispatch.h"
#include "broker/door.h"
#include "broker/election.h"
#include "broker/rebuild.h"
#include "broker/store.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/scope.h"
#include "proto/keys.h"
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum stop_phase {
    STOP_NONE,
    STOP_COMMITTING, /* no frame is heard any more; the store's answers are */
    STOP_FAREWELL,   /* peers are told */
    STOP_RESIGNING,
    STOP_PHASE_COUNT,
};

struct broker {
    struct reactor *reactor;
    const struct options *options;
    struct election *election;
    struct rebuild *rebuild;   /* of this term; NULL: complete, or no term */
    struct store *store;       /* of this term */
    struct dispatch *dispatch; /* of this term */
    struct door *door;         /* of this term, once the rebuild is complete */
    struct timer *tick;
    struct effects effects;
    struct term term;
    char token[64];
    char store_id[LIMIT_WORKER_NAME + 1]; /* of the gateways' artifact directory; "" not known */
    int64_t redis_minus_mono_ms;
    int64_t rebuild_from_ms;
    enum durability durability;
    bool ready_told;
    struct timer *leave;
    int64_t leave_ms; /* what is not committed by then is left to the next leader */
    enum stop_phase stop;
};

static struct moment
broker_now(const struct broker *self)
{
    int64_t mono = clock_mono_ms();
    return (struct moment){ mono, (uint64_t)(mono + self->redis_minus_mono_ms) };
}

/* ---- perform ---- */

/* What an operator wants to read in the morning: attempts that failed, workers that went. */
static void
log_op(const struct op *op)
{
    if (op->kind == OP_WORKER_EVICTED || op->kind == OP_WORKER_LEFT) {
        log_warn("worker-%s name=\"%.*s\"", op->kind == OP_WORKER_LEFT ? "left" : "evicted",
                 (int)op->worker.length, (const char *)op->worker.bytes);
        return;
    }
    if (op->reason.code == FAIL_NONE) {
        return;
    }
    char id[JOB_ID_TEXT + 1];
    job_id_print(&op->id, id);
    log_warn("attempt-failed job=%s attempt=%u now=%s worker=\"%.*s\" instance=\"%.*s\" code=%s "
             "message=\"%.*s\"",
             id, op->reason.attempt, job_state_name((enum job_state)op->header.state),
             (int)op->reason.worker.length, (const char *)op->reason.worker.bytes,
             (int)op->reason.instance.length, (const char *)op->reason.instance.bytes,
             fail_code_name(op->reason.code), (int)op->reason.message.length,
             (const char *)op->reason.message.bytes);
}

static void
perform(struct broker *self)
{
    uint64_t expires_ms = broker_now(self).redis_ms + LIMIT_GRANT_MS;
    for (uint32_t i = 0; i < self->effects.count; i++) {
        const struct effect *effect = &self->effects.items[i];
        switch (effect->kind) {
        case EFFECT_SEND:
            if (self->door != NULL) {
                door_send(self->door, &effect->peer, &effect->frame, effect->n_pictures,
                          expires_ms);
            }
            break;
        case EFFECT_COMMIT:
            log_op(&effect->op);
            store_commit(self->store, &effect->op);
            break;
        case EFFECT_READ:
            store_read(self->store, &effect->inquiry);
            break;
        case EFFECT_KIND_COUNT:
            assert(false);
        }
    }
}

static enum verdict
step(struct broker *self, const struct dispatch_event *event)
{
    if (self->dispatch == NULL) {
        return VERDICT_OK; /* an answer that came after the term */
    }
    enum verdict verdict = dispatch_step(self->dispatch, broker_now(self), event, &self->effects);
    perform(self);
    return verdict;
}

/* ---- the door ---- */

/* All gateways must share one store: the first to come names it. */
struct store_question {
    struct broker *broker;
    struct peer peer;
    uint64_t session;
    char id[LIMIT_WORKER_NAME + 1];
};

static void
question_destroy(struct store_question **self_p)
{
    free(*self_p);
    *self_p = NULL;
}

static void
refuse_store(struct broker *self, const struct peer *to, uint64_t session)
{
    if (self->door == NULL) {
        return;
    }
    struct frame frame = { .kind = FRAME_HELLO_REFUSED,
                           .session = session,
                           .epoch = self->term.number };
    frame.hello_refused.why = slice_of("this gateway's artifact directory is another one than that "
                                       "of the other gateways: share one directory");
    door_send(self->door, to, &frame, 0, 0);
}

static void
on_store_id(void *context, const redisReply *reply)
{
    CLEANUP(question_destroy) struct store_question *question = context;
    struct broker *self = question->broker;
    if (reply == NULL || reply->type != REDIS_REPLY_STRING) {
        return; /* the gateway says HELLO again */
    }
    (void)snprintf(self->store_id, sizeof self->store_id, "%s", reply->str);
    if (strcmp(self->store_id, question->id) != 0) {
        refuse_store(self, &question->peer, question->session);
    } else if (self->door != NULL) { /* known now: its next HELLO is taken */
        struct frame frame = { .kind = FRAME_NO_SESSION,
                               .session = question->session,
                               .epoch = self->term.number };
        door_send(self->door, &question->peer, &frame, 0, 0);
    }
}

/* True if the HELLO may go on to the core. */
static bool
store_is_shared(struct broker *self, const struct peer *from, const struct frame *frame)
{
    struct slice id = frame->gateway_hello.store;
    if (self->store_id[0] == '\0') {
        struct store_question *question = calloc(1, sizeof *question);
        if (question != NULL) {
            *question = (struct store_question){ self, *from, frame->session, { 0 } };
            memcpy(question->id, id.bytes, id.length);
            redis_client_call(election_redis(self->election), on_store_id, question,
                              "FCALL " FUNCTION_STORE " 0 %s", question->id);
        }
        return false;
    }
    if (!slice_is(id, self->store_id)) {
        refuse_store(self, from, frame->session);
        return false;
    }
    return true;
}

static void
on_frame(void *context, const struct peer *from, const struct frame *frame,
         const struct envelope *envelope)
{
    struct broker *self = context;
    if (self->stop != STOP_NONE) {
        return; /* said again to the next leader */
    }
    if (frame->kind == FRAME_GATEWAY_HELLO && from->side == DOOR_GATEWAYS &&
        !store_is_shared(self, from, frame)) {
        return;
    }
    struct dispatch_event event = {
        .kind = EVENT_FRAME, .peer = *from, .frame = frame, .envelope = envelope
    };
    enum verdict verdict = step(self, &event);
    if (verdict == VERDICT_MISPLACED) {
        log_warn("frame-misplaced kind=%s side=%s", frame_kind_name(frame->kind),
                 from->side == DOOR_WORKERS ? "workers" : "gateways");
    } else if (frame->kind == FRAME_WORKER_HELLO) {
        log_info("worker-hello name=\"%.*s\" incarnation=%016llx leases=%u verdict=%s",
                 (int)frame->worker_hello.name.length, (const char *)frame->worker_hello.name.bytes,
                 (unsigned long long)frame->worker_hello.incarnation,
                 frame->worker_hello.leases.count, verdict_name(verdict));
    } else if (frame->kind == FRAME_GATEWAY_HELLO) {
        log_info("gateway-hello name=\"%.*s\" verdict=%s", (int)frame->gateway_hello.name.length,
                 (const char *)frame->gateway_hello.name.bytes, verdict_name(verdict));
    }
}

static void
on_unsent(void *context, const struct peer *to, bool lagging)
{
    struct dispatch_event event = { .kind = lagging ? EVENT_LAGGING : EVENT_GONE, .peer = *to };
    step(context, &event);
}

static int
doors_open(struct broker *self)
{
    struct door_config config = { .host = self->options->host,
                                  .gateway_port = (uint16_t)self->options->gateway_port,
                                  .worker_port = (uint16_t)self->options->worker_port,
                                  .upload_key = self->term.upload_key,
                                  .epoch = self->term.number };
    struct door_events events = { on_frame, on_unsent, self };
    int rc = door_open(&self->door, self->reactor, &config, &events);
    if (rc != 0) {
        return rc;
    }
    char gateways[160];
    char workers[160];
    const char *host = self->options->advertise;
    const char *form = strchr(host, ':') != NULL && host[0] != '[' ? "[%s]:%u" : "%s:%u";
    (void)snprintf(gateways, sizeof gateways, form, host, door_port(self->door, DOOR_GATEWAYS));
    (void)snprintf(workers, sizeof workers, form, host, door_port(self->door, DOOR_WORKERS));
    election_open(self->election, gateways, workers);
    if (!self->ready_told) {
        self->ready_told = true;
        rc = ready_print(self->options->common.ready_file, "broker", "gateways=%s workers=%s",
                         gateways, workers);
    }
    return rc;
}

/* ---- the store ---- */

static void
on_committed(void *context, const struct dispatch_event *committed)
{
    struct broker *self = context;
    step(self, committed);
    if (self->stop == STOP_COMMITTING) {
        timer_in_ms(self->leave, 0);
    }
}

static void
on_record(void *context, const struct inquiry *inquiry, const struct job_record *record)
{
    struct dispatch_event event = { .kind = EVENT_RECORD, .inquiry = *inquiry, .record = record };
    step(context, &event);
}

static void
on_redis_time(void *context, uint64_t redis_ms)
{
    struct broker *self = context;
    self->redis_minus_mono_ms = (int64_t)redis_ms - clock_mono_ms();
}

static void
on_sweep(void *context, uint64_t redis_ms, const struct quiet_worker *quiet, uint32_t n)
{
    struct broker *self = context;
    if (self->dispatch == NULL || self->door == NULL || self->stop != STOP_NONE) {
        return;
    }
    on_redis_time(self, redis_ms);
    struct dispatch_event event = { .kind = EVENT_SWEEP, .quiet = quiet, .n_quiet = n };
    step(self, &event);
}

/* ---- a term ---- */

static void
term_end(struct broker *self)
{
    door_close(&self->door);
    rebuild_destroy(&self->rebuild);
    store_destroy(&self->store);
    dispatch_destroy(&self->dispatch);
    timer_stop(self->tick);
    election_open(self->election, "-", "-");
}

static void
on_lost(void *context)
{
    term_end(context);
}

static void
on_fenced(void *context)
{
    struct broker *self = context;
    log_warn("leader-fenced token=%s", self->token);
    election_fenced(self->election);
    term_end(self);
}

static void
on_unreplicated(void *context, int64_t replicas)
{
    struct broker *self = context;
    election_unreplicated(self->election, replicas);
    term_end(self);
}

static void
on_durability(void *context, enum durability durability)
{
    struct broker *self = context;
    self->durability = durability;
    if (self->dispatch != NULL) {
        dispatch_set_durability(self->dispatch, durability);
    }
}

static void
on_loaded_record(void *context, const struct job_id *id, const struct job_record *record)
{
    struct dispatch_event event = { .kind = EVENT_LOAD, .id = *id, .record = record };
    step(context, &event);
}

static void
on_rebuilt(void *context, uint32_t jobs, uint32_t corrupt)
{
    struct broker *self = context;
    rebuild_destroy(&self->rebuild);
    log_info("rebuild-complete jobs=%u corrupt=%u ms=%lld", jobs, corrupt,
             (long long)(clock_mono_ms() - self->rebuild_from_ms));
    struct dispatch_event event = { .kind = EVENT_LOADED };
    step(self, &event);
    int rc = doors_open(self);
    if (rc != 0) {
        reactor_stop(self->reactor, rc);
        return;
    }
    timer_in_ms(self->tick, 0);
}

static void
term_set(struct broker *self, const struct term *term)
{
    self->term = *term;
    (void)snprintf(self->token, sizeof self->token, "%s", term->token);
    self->term.token = self->token;
}

static bool on_restore(void *context, bool first);

static void
on_elected(void *context, const struct term *term)
{
    struct broker *self = context;
    term_set(self, term);
    self->rebuild_from_ms = clock_mono_ms();
    struct dispatch_config config = {
        .epoch = term->number,
        .epoch_hash = epoch_hash(self->token),
        .sequence = term->sequence,
        .max_jobs = (uint32_t)self->options->max_jobs,
        .max_bytes = (uint64_t)self->options->queue_mib * 1024 * 1024,
        .retention_s = (uint32_t)self->options->retention_s,
        .name = self->options->name,
        .upload_key = self->term.upload_key,
        .durability = self->durability,
    };
    struct store_config store_config = { election_redis(self->election), self->token,
                                         (uint32_t)self->options->retention_s,
                                         (uint32_t)self->options->redis_wait };
    struct store_events store_events = { on_committed, on_record,       on_sweep, on_restore,
                                         on_fenced,    on_unreplicated, self };
    struct rebuild_events rebuild_events = { on_loaded_record, on_rebuilt, self };
    int rc = dispatch_new(&self->dispatch, &config);
    rc = rc ? rc : store_new(&self->store, self->reactor, &store_config, &store_events);
    rc = rc ? rc : rebuild_new(&self->rebuild, election_redis(self->election), &rebuild_events);
    if (rc != 0) {
        reactor_stop(self->reactor, rc);
    }
}

static void
on_redis_back(void *context, bool restarted)
{
    struct broker *self = context;
    if (self->rebuild != NULL) {
        rebuild_up(self->rebuild);
        store_up(self->store);
        return;
    }
    if (self->store == NULL) {
        return;
    }
    log_info("redis-back restarted=%s unanswered=%u", restarted ? "yes" : "no",
             store_unanswered(self->store));
    if (restarted) {
        store_restarted(self->store, self->token);
    } else {
        store_up(self->store);
    }
}

static void
on_regained(void *context, const struct term *term)
{
    struct broker *self = context;
    if (self->store == NULL || self->rebuild != NULL || self->door == NULL) {
        term_end(self); /* nothing in memory that Redis could lack */
        on_elected(self, term);
        return;
    }
    term_set(self, term);
    struct dispatch_event event = { .kind = EVENT_TERM,
                                    .epoch = term->number,
                                    .epoch_hash = epoch_hash(self->token) };
    step(self, &event);
    store_restarted(self->store, self->token);
}

static bool
on_restore(void *context, bool first)
{
    struct broker *self = context;
    struct dispatch_event event = { .kind = first ? EVENT_RESTORE : EVENT_RESTORE_MORE };
    step(self, &event);
    return dispatch_is_restoring(self->dispatch);
}

static void
on_refused(void *context)
{
    struct broker *self = context;
    reactor_stop(self->reactor, -EINVAL);
}

static void
on_tick(void *context)
{
    struct broker *self = context;
    if (self->dispatch == NULL || self->stop != STOP_NONE) {
        return;
    }
    struct dispatch_event event = { .kind = EVENT_TICK };
    step(self, &event);
    timer_in_ms(self->tick, dispatch_deadline_ms(self->dispatch) - clock_mono_ms());
}

/* ---- life ---- */

static void
on_resigned(void *context)
{
    struct broker *self = context;
    reactor_stop(self->reactor, 0);
}

/* First what was promised to Redis is answered, and so told to whom it concerns: a JOB that is
 * granted and never sent would be taken back by the next leader. Then the peers hear that their
 * sessions are over, and have a moment to. Then the doors close, and the term is given up. */
static void
on_leave(void *context)
{
    struct broker *self = context;
    struct dispatch_event event = { .kind = EVENT_FAREWELL };
    int64_t left_ms = self->leave_ms - clock_mono_ms();
    switch (self->stop) {
    case STOP_COMMITTING:
        if (self->store != NULL && store_unanswered(self->store) > 0 && left_ms > 0) {
            timer_in_ms(self->leave, left_ms);
            break;
        }
        self->stop = STOP_FAREWELL;
        step(self, &event);
        timer_in_ms(self->leave, self->door != NULL ? LIMIT_FAREWELL_MS : 0);
        break;
    case STOP_FAREWELL:
        self->stop = STOP_RESIGNING;
        term_end(self);
        election_resign(self->election, on_resigned, self);
        break;
    case STOP_NONE:
    case STOP_RESIGNING:
    case STOP_PHASE_COUNT:
        assert(false);
        break;
    }
}

static void
on_stop(void *context)
{
    struct broker *self = context;
    struct dispatch_event event = { .kind = EVENT_CLOSING };
    log_info("stopping");
    rebuild_destroy(&self->rebuild);
    step(self, &event);
    self->stop = STOP_COMMITTING;
    self->leave_ms = clock_mono_ms() + LIMIT_REDIS_MS;
    timer_in_ms(self->leave, 0);
}

int
broker_new(struct broker **out, struct reactor *reactor, const struct options *options)
{
    CLEANUP(broker_destroy) struct broker *self = calloc(1, sizeof *self);
    if (self == NULL) {
        return -ENOMEM;
    }
    self->reactor = reactor;
    self->options = options;
    self->redis_minus_mono_ms = clock_wall_ms() - clock_mono_ms(); /* until Redis tells */
    struct election_config election_config = { options->redis_url, options->accept_volatile,
                                               options->fails_over, (uint32_t)options->redis_wait };
    struct election_events events = {
        on_elected,    on_regained,   on_lost,    on_redis_back,
        on_redis_time, on_durability, on_refused, self,
    };
    int rc = timer_new(&self->tick, reactor, on_tick, self);
    rc = rc ? rc : timer_new(&self->leave, reactor, on_leave, self);
    rc = rc ? rc : election_new(&self->election, reactor, &election_config, &events);
    if (rc == 0) {
        reactor_on_stop(reactor, on_stop, self);
        *out = self;
        self = NULL;
    }
    return rc;
}

void
broker_destroy(struct broker **self_p)
{
    struct broker *self = *self_p;
    if (self == NULL) {
        return;
    }
    door_close(&self->door);
    rebuild_destroy(&self->rebuild);
    store_destroy(&self->store);
    dispatch_destroy(&self->dispatch);
    election_destroy(&self->election);
    timer_destroy(&self->tick);
    timer_destroy(&self->leave);
    effects_destroy(&self->effects);
    free(self);
    *self_p = NULL;
}
