#include "gateway/drains.h"
#include "common/clock.h"
#include "common/scope.h"
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

struct held_drain {
    LIST_ENTRY(held_drain) entry;
    struct drains *owner;
    char worker[LIMIT_WORKER_NAME + 1];
    int64_t since_ms, sent_ms;
    drain_fn fn; /* NULL: the caller has left */
    void *context;
};

LIST_HEAD(drain_list, held_drain);

struct drains {
    struct broker_link *link;
    struct timer *timer;
    struct drain_list all;
    uint32_t count;
};

static void on_timer(void *context);

int
drains_new(struct drains **out, struct reactor *reactor, struct broker_link *link)
{
    CLEANUP(drains_destroy) struct drains *self = calloc(1, sizeof *self);
    if (self == NULL) {
        return -ENOMEM;
    }
    LIST_INIT(&self->all);
    self->link = link;
    int rc = timer_new(&self->timer, reactor, on_timer, self);
    if (rc == 0) {
        *out = self;
        self = NULL;
    }
    return rc;
}

static void
held_free(struct held_drain *held)
{
    held->owner->count--;
    LIST_REMOVE(held, entry);
    free(held);
}

void
drains_destroy(struct drains **self_p)
{
    struct drains *self = *self_p;
    if (self == NULL) {
        return;
    }
    struct held_drain *held;
    while ((held = LIST_FIRST(&self->all)) != NULL) {
        held_free(held);
    }
    timer_destroy(&self->timer);
    free(self);
    *self_p = NULL;
}

static void
admin_send(struct held_drain *held)
{
    struct frame frame = { .kind = FRAME_ADMIN };
    frame.admin = (struct admin){ ADMIN_DRAIN, slice_of(held->worker) };
    (void)broker_link_send(held->owner->link, &frame);
    held->sent_ms = clock_mono_ms();
}

struct held_drain *
drains_add(struct drains *self, const char *worker, drain_fn fn, void *context)
{
    struct held_drain *held = self->count < LIMIT_DRAINS_HELD ? calloc(1, sizeof *held) : NULL;
    size_t length = strlen(worker);
    if (held == NULL) {
        return NULL;
    }
    assert(length <= LIMIT_WORKER_NAME);
    held->owner = self;
    memcpy(held->worker, worker, length + 1);
    held->since_ms = clock_mono_ms();
    held->fn = fn;
    held->context = context;
    LIST_INSERT_HEAD(&self->all, held, entry);
    self->count++;
    admin_send(held);
    if (self->count == 1) {
        timer_every_ms(self->timer, LIMIT_REPEAT_MS / 4);
    }
    return held;
}

void
drains_drop(struct held_drain **held_p)
{
    if (*held_p != NULL) {
        (*held_p)->fn = NULL;
        *held_p = NULL;
    }
}

static void
finish(struct held_drain *held, enum drain_verdict verdict)
{
    drain_fn fn = held->fn;
    void *context = held->context;
    held_free(held); /* first: fn may ask again */
    if (fn != NULL) {
        fn(context, verdict);
    }
}

static void
on_timer(void *context)
{
    struct drains *self = context;
    int64_t now = clock_mono_ms();
    struct held_drain *next;
    for (struct held_drain *held = LIST_FIRST(&self->all); held != NULL; held = next) {
        next = LIST_NEXT(held, entry);
        if (now - held->since_ms >= LIMIT_SUBMIT_MS) {
            finish(held, DRAIN_LATE);
        } else if (now - held->sent_ms >= LIMIT_REPEAT_MS) {
            admin_send(held);
        }
    }
    if (self->count == 0) {
        timer_stop(self->timer);
    }
}

void
drains_on_open(struct drains *self)
{
    struct held_drain *held;
    LIST_FOREACH(held, &self->all, entry)
    {
        admin_send(held);
    }
}

void
drains_on_answer(struct drains *self, const struct admin_answer *answer)
{
    struct held_drain *next;
    if (answer->op != ADMIN_DRAIN) {
        return;
    }
    for (struct held_drain *held = LIST_FIRST(&self->all); held != NULL; held = next) {
        next = LIST_NEXT(held, entry);
        if (slice_is(answer->worker, held->worker)) {
            finish(held, answer->found ? DRAIN_TOLD : DRAIN_ABSENT);
        }
    }
}
