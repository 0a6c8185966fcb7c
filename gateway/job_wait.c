#include "gateway/job_wait.h"
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/queue.h>

struct job_wait {
    LIST_ENTRY(job_wait) entry;
    struct waits *owner;
    struct lookup_order order;
    struct lookup *watch; /* until the end */
    struct lookup *ask;   /* instead of it, when time is over */
    struct timer *timer;
};

LIST_HEAD(wait_list, job_wait);

struct waits {
    struct reactor *reactor;
    struct lookups *lookups;
    struct wait_list all;
    bool ended;
};

int
waits_new(struct waits **out, struct reactor *reactor, struct lookups *lookups)
{
    struct waits *self = calloc(1, sizeof *self);
    if (self == NULL) {
        return -ENOMEM;
    }
    LIST_INIT(&self->all);
    self->reactor = reactor;
    self->lookups = lookups;
    *out = self;
    return 0;
}

void
waits_destroy(struct waits **self_p)
{
    if (*self_p != NULL) {
        assert(LIST_EMPTY(&(*self_p)->all));
        free(*self_p);
        *self_p = NULL;
    }
}

static void
finish(struct job_wait *self, enum lookup_verdict verdict, const struct job_view *view)
{
    struct lookup_order order = self->order;
    job_wait_drop(&self);
    order.fn(order.context, verdict, view);
}

static void
on_ask(void *context, enum lookup_verdict verdict, const struct job_view *view)
{
    struct job_wait *self = context;
    self->ask = NULL;
    finish(self, verdict, view);
}

static void
on_watch(void *context, enum lookup_verdict verdict, const struct job_view *view)
{
    struct job_wait *self = context;
    if (verdict != LOOKUP_FOUND || job_is_terminal((enum job_state)view->entry.header.state)) {
        finish(self, verdict, view);
    }
}

static void
on_time(void *context)
{
    struct job_wait *self = context;
    struct lookup_order ask = { self->order.tenant, self->order.id, on_ask, self };
    timer_stop(self->timer);
    if (self->ask == NULL) {
        lookup_drop(&self->watch);
        self->ask = lookups_ask(self->owner->lookups, &ask);
    }
}

struct job_wait *
job_wait_start(struct waits *waits, const struct lookup_order *order, int64_t limit_ms)
{
    struct job_wait *self = calloc(1, sizeof *self);
    struct lookup_order watch = { order->tenant, order->id, on_watch, self };
    if (self == NULL || timer_new(&self->timer, waits->reactor, on_time, self) != 0) {
        abort();
    }
    self->owner = waits;
    self->order = *order;
    self->watch = lookups_watch(waits->lookups, &watch);
    LIST_INSERT_HEAD(&waits->all, self, entry);
    timer_in_ms(self->timer, waits->ended ? 0 : limit_ms);
    return self;
}

void
job_wait_drop(struct job_wait **wait_p)
{
    struct job_wait *self = *wait_p;
    if (self != NULL) {
        LIST_REMOVE(self, entry);
        timer_destroy(&self->timer);
        lookup_drop(&self->watch);
        lookup_drop(&self->ask);
        free(self);
        *wait_p = NULL;
    }
}

void
waits_end(struct waits *self)
{
    struct job_wait *wait;
    self->ended = true;
    LIST_FOREACH(wait, &self->all, entry)
    {
        timer_in_ms(wait->timer, 0);
    }
}
