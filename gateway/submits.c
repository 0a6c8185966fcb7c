#include "gateway/submits.h"
#include "common/clock.h"
#include "common/scope.h"
#include "gateway/id_table.h"
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

struct held_submit {
    TAILQ_ENTRY(held_submit) entry; /* in waiting or withdrawing of the owner */
    struct submits *owner;
    struct job_id id;
    int64_t since_ms; /* begun, or the last WITHDRAW sent */
    submit_fn fn;
    void *context;
    bool watch, has_key, sent, withdrawing;
    uint32_t length;
    uint8_t request[];
};
TAILQ_HEAD(held_queue, held_submit);

struct submits {
    struct broker_link *link;
    struct timer *timer;
    struct id_table *table;
    struct held_queue waiting, withdrawing; /* oldest first: the delay is the same for all */
    uint32_t n_waiting, n_withdrawing;
    size_t bytes; /* of requests waiting */
};

static void on_timer(void *context);

int
submits_new(struct submits **out, struct reactor *reactor, struct broker_link *link)
{
    CLEANUP(submits_destroy) struct submits *self = calloc(1, sizeof *self);
    if (self == NULL) {
        return -ENOMEM;
    }
    TAILQ_INIT(&self->waiting);
    TAILQ_INIT(&self->withdrawing);
    self->link = link;
    int rc = id_table_new(&self->table);
    rc = rc ? rc : timer_new(&self->timer, reactor, on_timer, self);
    if (rc == 0) {
        *out = self;
        self = NULL;
    }
    return rc;
}

static void
held_free(struct held_submit *held)
{
    struct submits *self = held->owner;
    (void)id_table_remove(self->table, &held->id);
    if (held->withdrawing) {
        TAILQ_REMOVE(&self->withdrawing, held, entry);
        self->n_withdrawing--;
    } else {
        TAILQ_REMOVE(&self->waiting, held, entry);
        self->n_waiting--;
        self->bytes -= held->length;
    }
    free(held);
}

void
submits_destroy(struct submits **self_p)
{
    struct submits *self = *self_p;
    if (self == NULL) {
        return;
    }
    struct held_submit *next;
    TAILQ_CONCAT(&self->waiting, &self->withdrawing, entry);
    for (struct held_submit *held = TAILQ_FIRST(&self->waiting); held != NULL; held = next) {
        next = TAILQ_NEXT(held, entry);
        free(held);
    }
    timer_destroy(&self->timer);
    id_table_destroy(&self->table);
    free(self);
    *self_p = NULL;
}

static void
submit_send(struct held_submit *held)
{
    struct frame frame = { .kind = FRAME_SUBMIT };
    frame.submit = (struct submit){ held->id, { held->request, held->length }, held->watch };
    held->sent = broker_link_send(held->owner->link, &frame) || held->sent;
}

static void
withdraw_send(struct held_submit *held)
{
    struct frame frame = { .kind = FRAME_WITHDRAW };
    frame.withdraw.id = held->id;
    (void)broker_link_send(held->owner->link, &frame);
    held->since_ms = clock_mono_ms();
}

/* `late` waits longest for its answer, `again` for its next WITHDRAW; NULL: none does. */
static void
timer_arm(const struct submits *self, const struct held_submit *late,
          const struct held_submit *again)
{
    int64_t next = INT64_MAX;
    if (late != NULL) {
        next = late->since_ms + LIMIT_SUBMIT_MS;
    }
    if (again != NULL && again->since_ms + LIMIT_REPEAT_MS < next) {
        next = again->since_ms + LIMIT_REPEAT_MS;
    }
    if (next != INT64_MAX) {
        timer_in_ms(self->timer, next - clock_mono_ms());
    } else {
        timer_stop(self->timer);
    }
}

struct held_submit *
submits_add(struct submits *self, const struct submit_order *order)
{
    uint32_t length = order->request.length;
    if (self->n_waiting >= LIMIT_SUBMITS_HELD ||
        self->bytes + length > (size_t)LIMIT_SUBMITS_HELD_MIB * 1024 * 1024) {
        return NULL;
    }
    struct held_submit *held = malloc(sizeof *held + length);
    if (held == NULL) {
        return NULL;
    }
    *held = (struct held_submit){ .owner = self,
                                  .id = order->id,
                                  .since_ms = clock_mono_ms(),
                                  .fn = order->fn,
                                  .context = order->context,
                                  .watch = order->watch,
                                  .has_key = order->has_key,
                                  .length = length };
    memcpy(held->request, order->request.bytes, length);
    id_table_put(self->table, &held->id, held);
    TAILQ_INSERT_TAIL(&self->waiting, held, entry);
    self->n_waiting++;
    self->bytes += length;
    submit_send(held);
    if (self->n_waiting == 1) { /* otherwise the timer runs for an older one */
        timer_arm(self, held, TAILQ_FIRST(&self->withdrawing));
    }
    return held;
}

void
submits_drop(struct held_submit **held_p)
{
    if (*held_p != NULL) {
        assert(!(*held_p)->withdrawing);
        held_free(*held_p);
        *held_p = NULL;
    }
}

/* Tells the owner; the handle is dead, but `held` is the caller's to free or keep. */
static void
tell(struct held_submit *held, struct submit_outcome *outcome)
{
    outcome->id = held->id;
    outcome->request = (struct slice){ held->request, held->length };
    held->fn(held->context, outcome);
}

static void
give_up(struct held_submit *held)
{
    struct submits *self = held->owner;
    struct submit_outcome outcome = { .verdict = SUBMIT_LATE };
    TAILQ_REMOVE(&self->waiting, held, entry);
    self->n_waiting--;
    self->bytes -= held->length;
    tell(held, &outcome);
    if (!held->sent || held->has_key) {
        (void)id_table_remove(self->table, &held->id);
        free(held);
        return;
    }
    TAILQ_INSERT_TAIL(&self->withdrawing, held, entry);
    self->n_withdrawing++;
    held->withdrawing = true;
    withdraw_send(held);
    if (self->n_withdrawing > LIMIT_SUBMITS_HELD) { /* the job's own deadline must do */
        held_free(TAILQ_FIRST(&self->withdrawing));
    }
}

static void
on_timer(void *context)
{
    struct submits *self = context;
    int64_t now = clock_mono_ms();
    struct held_submit *late = TAILQ_FIRST(&self->waiting);
    while (late != NULL && now - late->since_ms >= LIMIT_SUBMIT_MS) {
        struct held_submit *next = TAILQ_NEXT(late, entry);
        give_up(late);
        late = next;
    }
    struct held_submit *again = TAILQ_FIRST(&self->withdrawing);
    while (again != NULL && now - again->since_ms >= LIMIT_REPEAT_MS) {
        withdraw_send(again);
        TAILQ_REMOVE(&self->withdrawing, again, entry);
        TAILQ_INSERT_TAIL(&self->withdrawing, again, entry);
        again = TAILQ_FIRST(&self->withdrawing);
    }
    timer_arm(self, late, again);
}

void
submits_on_open(struct submits *self)
{
    struct held_submit *held;
    TAILQ_FOREACH(held, &self->waiting, entry)
    {
        submit_send(held);
    }
    TAILQ_FOREACH(held, &self->withdrawing, entry)
    {
        withdraw_send(held);
    }
}

void
submits_on_frame(struct submits *self, const struct frame *frame)
{
    struct submit_outcome outcome = { 0 };
    const struct job_id *id = &frame->accepted.id; /* first field of all four kinds */
    struct held_submit *held = id_table_get(self->table, id);
    if (held == NULL || held->withdrawing != (frame->kind == FRAME_ANSWER)) {
        return; /* its client has left, or this was asked by somebody else */
    }
    if (frame->kind == FRAME_ANSWER) {
        held_free(held);
        return;
    }
    if (frame->kind == FRAME_ACCEPTED) {
        outcome.verdict = SUBMIT_ACCEPTED;
        outcome.accepted = &frame->accepted;
    } else if (frame->kind == FRAME_KNOWN) {
        outcome.verdict = SUBMIT_KNOWN;
        outcome.known = &frame->known;
    } else {
        assert(frame->kind == FRAME_REFUSED);
        outcome.verdict = SUBMIT_REFUSED;
        outcome.refused = &frame->refused;
    }
    tell(held, &outcome);
    held_free(held);
}
