#include "gateway/lookups.h"
#include "common/clock.h"
#include "common/scope.h"
#include "gateway/id_table.h"
#include "gateway/interest.h"
#include "gateway/record_read.h"
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

/* clang-format off */ /* the columns are the rule; LANE_NONE has no time */
static const int64_t lane_ms[LANE_COUNT] = {
    [LANE_ASKED]   = LIMIT_STATUS_MS,
    [LANE_SOON]    = LIMIT_REPEAT_MS,
    [LANE_WATCHED] = LIMIT_REASK_MS,
    [LANE_IDLE]    = LIMIT_STATUS_REUSE_MS,
};
/* clang-format on */

/* Ids that leave in one frame at the end of the turn. */
struct outbox {
    enum frame_kind kind;
    uint32_t count;
    struct named_job ids[LIMIT_LIST];
};
enum { OUT_UNWATCH, OUT_STATUS, OUT_WATCH, OUT_COUNT }; /* in the order of sending */

TAILQ_HEAD(interest_queue, interest);
LIST_HEAD(interest_list, interest);

struct lookups {
    struct broker_link *link;
    struct id_table *table;
    struct interest_reader reader;
    struct kick *kick;   /* frames to send, interests to tell */
    struct timer *timer; /* at the earliest end of a lane */
    int64_t timer_ms;    /* 0: not armed */
    struct interest_queue lanes[LANE_COUNT], ready;
    struct interest_list all;
    struct outbox out[OUT_COUNT];
};

static void refresh(struct interest *interest);

/* -- interests and their lanes -- */

static void
timer_arm(struct lookups *self)
{
    int64_t next = INT64_MAX;
    for (int lane = LANE_ASKED; lane < LANE_COUNT; lane++) {
        const struct interest *first = TAILQ_FIRST(&self->lanes[lane]);
        if (first != NULL && first->lane_since_ms + lane_ms[lane] < next) {
            next = first->lane_since_ms + lane_ms[lane];
        }
    }
    self->timer_ms = next == INT64_MAX ? 0 : next;
    if (next == INT64_MAX) {
        timer_stop(self->timer);
    } else {
        timer_in_ms(self->timer, next - clock_mono_ms());
    }
}

static void
lane_set(struct interest *interest, enum lane lane)
{
    struct lookups *self = interest->owner;
    if (interest->lane != LANE_NONE) {
        TAILQ_REMOVE(&self->lanes[interest->lane], interest, lane_entry);
    }
    interest->lane = lane;
    interest->lane_since_ms = clock_mono_ms();
    if (lane != LANE_NONE) {
        TAILQ_INSERT_TAIL(&self->lanes[lane], interest, lane_entry);
        if (self->timer_ms == 0 || interest->lane_since_ms + lane_ms[lane] < self->timer_ms) {
            timer_arm(self);
        }
    }
}

static struct interest *
interest_get(struct lookups *self, const struct job_id *id)
{
    struct interest *interest = id_table_get(self->table, id);
    if (interest == NULL) {
        interest = calloc(1, sizeof *interest);
        if (interest == NULL) {
            abort();
        }
        TAILQ_INIT(&interest->lookups);
        interest->owner = self;
        interest->reader = &self->reader;
        interest->id = *id;
        id_table_put(self->table, id, interest);
        LIST_INSERT_HEAD(&self->all, interest, all_entry);
    }
    return interest;
}

static void
interest_free(struct interest *interest)
{
    struct lookups *self = interest->owner;
    assert(!interest->reading && !interest->telling);
    lane_set(interest, LANE_NONE);
    if (interest->ready) {
        TAILQ_REMOVE(&self->ready, interest, ready_entry);
    }
    (void)id_table_remove(self->table, &interest->id);
    LIST_REMOVE(interest, all_entry);
    interest_clear(interest);
    free(interest);
}

/* -- what is sent -- */

static void
outbox_flush(struct lookups *self, struct outbox *box)
{
    struct frame frame = { .kind = box->kind };
    frame.named_jobs = (struct named_jobs){ { box->ids, box->count }, true };
    if (box->count > 0) {
        (void)broker_link_send(self->link, &frame); /* unanswered: LANE_ASKED runs out */
        box->count = 0;
    }
}

static void
outbox_add(struct lookups *self, int which, const struct job_id *id)
{
    struct outbox *box = &self->out[which];
    box->ids[box->count++].id = *id;
    if (box->count == LIMIT_LIST) {
        outbox_flush(self, box);
    }
    kick_now(self->kick);
}

/* -- what is told -- */

/* Everybody is told later in this turn. */
static void
announce(struct interest *interest)
{
    struct lookups *self = interest->owner;
    if (!interest->ready) {
        interest->ready = true;
        TAILQ_INSERT_TAIL(&self->ready, interest, ready_entry);
        kick_now(self->kick);
    }
}

/* Something is known now. */
static void
settle(struct interest *interest, enum lookup_verdict verdict)
{
    interest->verdict = verdict;
    interest->view_ms = verdict == LOOKUP_FOUND ? clock_mono_ms() : 0;
    lane_set(interest, LANE_NONE);
    announce(interest);
}

static void
tell_one(struct interest *interest, struct lookup *lookup)
{
    struct lookup_order order = lookup->order;
    enum lookup_verdict verdict = interest->verdict;
    if (verdict == LOOKUP_FOUND && !slice_equal(interest->tenant, slice_of(order.tenant))) {
        verdict = LOOKUP_UNKNOWN; /* another tenant's job is an unknown one */
    }
    if (lookup->watches) {
        bool silent = verdict == LOOKUP_FOUND  ? !interest_news(interest, lookup)
                      : verdict == LOOKUP_AWAY ? lookup->told /* it will hear more */
                                               : false;
        if (silent) {
            return;
        }
    } else if (verdict == LOOKUP_FOUND && interest->view_ms == 0) {
        return; /* lookups_forget(): the answer to a newer question is on its way */
    } else {
        TAILQ_REMOVE(&interest->lookups, lookup, entry);
        free(lookup);
    }
    order.fn(order.context, verdict, verdict == LOOKUP_FOUND ? &interest->view : NULL);
}

/* Where an interest waits when there is nothing to tell. */
static enum lane
lane_next(const struct interest *interest)
{
    if (TAILQ_EMPTY(&interest->lookups)) {
        return LANE_IDLE;
    }
    if (interest->verdict == LOOKUP_AWAY) {
        return LANE_SOON;
    }
    if (interest->verdict != LOOKUP_FOUND ||
        job_is_terminal((enum job_state)interest->view.entry.header.state)) {
        return LANE_NONE; /* its watchers know that nothing more comes */
    }
    return interest->watching || !broker_link_is_open(interest->owner->link) ? LANE_WATCHED
                                                                             : LANE_SOON;
}

static void
tell(struct interest *interest)
{
    struct lookup *next;
    interest->telling = true;
    for (struct lookup *lookup = TAILQ_FIRST(&interest->lookups); lookup != NULL; lookup = next) {
        next = TAILQ_NEXT(lookup, entry);
        tell_one(interest, lookup);
    }
    interest->telling = false;
    if (interest->lane == LANE_NONE && !interest->reading && !interest->ready) {
        lane_set(interest, lane_next(interest));
    }
}

static void
on_kick(void *context)
{
    struct lookups *self = context;
    struct interest *interest;
    struct interest_queue now = TAILQ_HEAD_INITIALIZER(now);
    TAILQ_CONCAT(&now, &self->ready, ready_entry);
    while ((interest = TAILQ_FIRST(&now)) != NULL) {
        TAILQ_REMOVE(&now, interest, ready_entry);
        interest->ready = false;
        tell(interest);
    }
    for (int i = 0; i < OUT_COUNT; i++) {
        outbox_flush(self, &self->out[i]);
    }
}

/* -- Redis -- */

/* interest_reader.read_end: Redis has answered. */
static void
read_end(struct interest *interest, enum lookup_verdict verdict)
{
    if (interest->reread) {
        interest->reread = false;
        refresh(interest);
    } else {
        settle(interest, verdict);
    }
}

static void
read_record(struct interest *interest)
{
    lane_set(interest, LANE_NONE);
    record_read(interest);
}

/* Finds out anew what the job is. */
static void
refresh(struct interest *interest)
{
    struct lookups *self = interest->owner;
    bool watch = interest->n_watches > 0 && !interest->watching;
    if (interest->reading) {
        return;
    }
    if (!broker_link_is_open(self->link)) {
        read_record(interest);
        return;
    }
    if (interest->lane != LANE_ASKED || watch) {
        outbox_add(self, watch ? OUT_WATCH : OUT_STATUS, &interest->id);
        interest->watching = interest->watching || watch;
        lane_set(interest, LANE_ASKED);
    }
}

/* -- the broker's word -- */

static void
entry_take(struct interest *interest, const struct job_entry *entry)
{
    struct lookups *self = interest->owner;
    bool known = interest->tenant.length > 0;
    bool ended = job_is_terminal((enum job_state)entry->header.state);
    if (entry->header.state == JOB_NONE) {
        interest->watching = false;
        bool asked = interest->lane == LANE_ASKED || interest->n_watches > 0;
        if (asked && !interest->reading) {
            read_record(interest);
        }
        return;
    }
    if (known && interest->lane != LANE_ASKED &&
        entry->header.revision < interest->view.entry.header.revision) {
        return; /* older than what Redis told */
    }
    if (!interest_take(interest, &self->reader.unpacker, entry)) {
        return; /* without its request: the full answer comes, or LANE_ASKED runs out */
    }
    if (ended) {
        interest->watching = false;
        interest->view.expires_ms =
            entry->header.change_ms + (uint64_t)broker_link_facts(self->link)->retention_s * 1000;
    }
    if (interest->reading) {
        interest->view_ms = clock_mono_ms(); /* told when Redis has answered */
    } else if (entry->header.state == JOB_FAILED && !interest->has_attempts) {
        lane_set(interest, LANE_NONE);
        record_read_attempts(interest);
    } else {
        settle(interest, LOOKUP_FOUND);
    }
}

void
lookups_on_jobs(struct lookups *self, const struct job_entries *jobs)
{
    const struct job_entry *entries = jobs->entries.items;
    for (uint32_t i = 0; i < jobs->entries.count; i++) {
        struct interest *interest = id_table_get(self->table, &entries[i].id);
        if (interest != NULL) {
            entry_take(interest, &entries[i]);
        }
    }
}

static void
on_timer(void *context)
{
    struct lookups *self = context;
    int64_t now = clock_mono_ms();
    for (int lane = LANE_ASKED; lane < LANE_COUNT; lane++) {
        struct interest *interest;
        while ((interest = TAILQ_FIRST(&self->lanes[lane])) != NULL &&
               now - interest->lane_since_ms >= lane_ms[lane]) {
            if (lane == LANE_IDLE) {
                interest_free(interest);
            } else if (lane == LANE_ASKED) {
                read_record(interest);
            } else {
                interest->watching = false; /* WATCH again: a snapshot, whatever was lost */
                lane_set(interest, LANE_NONE);
                refresh(interest);
            }
        }
    }
    timer_arm(self);
}

void
lookups_on_open(struct lookups *self)
{
    for (int lane = LANE_SOON; lane <= LANE_WATCHED; lane++) {
        struct interest *last = TAILQ_LAST(&self->lanes[lane], interest_queue);
        struct interest *interest = TAILQ_FIRST(&self->lanes[lane]);
        while (interest != NULL) {
            struct interest *next = interest == last ? NULL : TAILQ_NEXT(interest, lane_entry);
            refresh(interest);
            interest = next;
        }
    }
}

void
lookups_on_lost(struct lookups *self)
{
    struct interest *interest;
    LIST_FOREACH(interest, &self->all, all_entry)
    {
        interest->watching = false;
    }
}

/* -- lookups -- */

static struct lookup *
lookup_new(struct lookups *self, const struct lookup_order *order, bool watches)
{
    struct interest *interest = interest_get(self, &order->id);
    struct lookup *lookup = calloc(1, sizeof *lookup);
    if (lookup == NULL) {
        abort();
    }
    *lookup = (struct lookup){ .interest = interest, .order = *order, .watches = watches };
    TAILQ_INSERT_TAIL(&interest->lookups, lookup, entry);
    interest->n_watches += watches;
    bool fresh = interest->view_ms != 0 &&
                 clock_mono_ms() - interest->view_ms < LIMIT_STATUS_REUSE_MS &&
                 interest->verdict == LOOKUP_FOUND;
    bool watched = !watches || interest->watching ||
                   job_is_terminal((enum job_state)interest->view.entry.header.state);
    if (interest->lane == LANE_IDLE) {
        lane_set(interest, LANE_NONE);
    }
    if (fresh && watched && !interest->reading) {
        announce(interest);
    } else if (!interest->ready || !watched || interest->view_ms == 0) {
        refresh(interest);
    }
    return lookup;
}

struct lookup *
lookups_ask(struct lookups *self, const struct lookup_order *order)
{
    return lookup_new(self, order, false);
}

struct lookup *
lookups_watch(struct lookups *self, const struct lookup_order *order)
{
    return lookup_new(self, order, true);
}

void
lookup_drop(struct lookup **lookup_p)
{
    struct lookup *lookup = *lookup_p;
    if (lookup == NULL) {
        return;
    }
    struct interest *interest = lookup->interest;
    TAILQ_REMOVE(&interest->lookups, lookup, entry);
    interest->n_watches -= lookup->watches;
    if (interest->n_watches == 0 && interest->watching) {
        interest->watching = false;
        if (broker_link_is_open(interest->owner->link)) {
            outbox_add(interest->owner, OUT_UNWATCH, &interest->id);
        }
    }
    bool calm = !interest->telling && !interest->reading && !interest->ready &&
                interest->lane != LANE_ASKED;
    if (TAILQ_EMPTY(&interest->lookups) && calm) {
        lane_set(interest, LANE_IDLE);
    }
    free(lookup);
    *lookup_p = NULL;
}

void
lookups_seed(struct lookups *self, const struct accepted *accepted, struct slice request)
{
    struct interest *interest = interest_get(self, &accepted->id);
    struct job_entry entry = { .id = accepted->id,
                               .position = accepted->position,
                               .eta_s = accepted->eta_s,
                               .reason = accepted->reason,
                               .request = request };
    entry.header.state = accepted->position > 0 ? JOB_QUEUED : JOB_RUNNING;
    entry.header.revision = accepted->revision;
    entry.header.submit_ms = accepted->submit_ms;
    if (interest_take(interest, &self->reader.unpacker, &entry)) {
        interest->watching = true;
        settle(interest, LOOKUP_FOUND);
    }
}

void
lookups_forget(struct lookups *self, const struct job_id *id)
{
    struct interest *interest = id_table_get(self->table, id);
    if (interest != NULL) {
        interest->view_ms = 0;
        interest->reread = interest->reading;
    }
}

int
lookups_new(struct lookups **out, struct reactor *reactor, struct broker_link *link,
            struct redis_client *redis)
{
    CLEANUP(lookups_destroy) struct lookups *self = calloc(1, sizeof *self);
    if (self == NULL) {
        return -ENOMEM;
    }
    self->link = link;
    self->reader.redis = redis;
    self->reader.read_end = read_end;
    self->out[OUT_STATUS].kind = FRAME_STATUS;
    self->out[OUT_WATCH].kind = FRAME_WATCH;
    self->out[OUT_UNWATCH].kind = FRAME_UNWATCH;
    TAILQ_INIT(&self->ready);
    LIST_INIT(&self->all);
    for (int lane = 0; lane < LANE_COUNT; lane++) {
        TAILQ_INIT(&self->lanes[lane]);
    }
    int rc = record_unpacker_new(&self->reader.unpacker);
    rc = rc ? rc : id_table_new(&self->table);
    rc = rc ? rc : kick_new(&self->kick, reactor, on_kick, self);
    rc = rc ? rc : timer_new(&self->timer, reactor, on_timer, self);
    if (rc == 0) {
        *out = self;
        self = NULL;
    }
    return rc;
}

void
lookups_destroy(struct lookups **self_p)
{
    struct lookups *self = *self_p;
    if (self == NULL) {
        return;
    }
    struct interest *next;
    for (struct interest *interest = LIST_FIRST(&self->all); interest != NULL; interest = next) {
        next = LIST_NEXT(interest, all_entry);
        interest_clear(interest);
        free(interest);
    }
    kick_destroy(&self->kick);
    timer_destroy(&self->timer);
    record_unpacker_destroy(&self->reader.unpacker);
    id_table_destroy(&self->table);
    free(self);
    *self_p = NULL;
}
