#include "gateway/cancels.h"
#include "common/clock.h"
#include "common/scope.h"
#include <errno.h>
#include <stdlib.h>
#include <sys/queue.h>

struct held_cancel {
    LIST_ENTRY(held_cancel) entry;
    struct cancels *owner;
    struct job_id id;
    const char *tenant;
    int64_t since_ms, sent_ms;
    cancel_fn fn; /* NULL: the caller has left */
    void *context;
};

LIST_HEAD(cancel_list, held_cancel);

/* People cancel seldom, and at most LIMIT_SUBMITS_HELD wait: a list is searched fast enough. */
struct cancels {
    struct broker_link *link;
    struct timer *timer;
    struct cancel_list all;
    uint32_t count;
};

static void on_timer(void *context);

int
cancels_new(struct cancels **out, struct reactor *reactor, struct broker_link *link)
{
    CLEANUP(cancels_destroy) struct cancels *self = calloc(1, sizeof *self);
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
held_free(struct held_cancel *held)
{
    held->owner->count--;
    LIST_REMOVE(held, entry);
    free(held);
}

void
cancels_destroy(struct cancels **self_p)
{
    struct cancels *self = *self_p;
    if (self == NULL) {
        return;
    }
    struct held_cancel *next;
    for (struct held_cancel *held = LIST_FIRST(&self->all); held != NULL; held = next) {
        next = LIST_NEXT(held, entry);
        free(held);
    }
    timer_destroy(&self->timer);
    free(self);
    *self_p = NULL;
}

static void
cancel_send(struct held_cancel *held)
{
    struct frame frame = { .kind = FRAME_CANCEL };
    frame.cancel = (struct cancel){ held->id, slice_of(held->tenant) };
    (void)broker_link_send(held->owner->link, &frame);
    held->sent_ms = clock_mono_ms();
}

struct held_cancel *
cancels_add(struct cancels *self, const char *tenant, const struct job_id *id, cancel_fn fn,
            void *context)
{
    struct held_cancel *held = self->count < LIMIT_SUBMITS_HELD ? calloc(1, sizeof *held) : NULL;
    if (held == NULL) {
        return NULL;
    }
    *held = (struct held_cancel){ .owner = self,
                                  .id = *id,
                                  .tenant = tenant,
                                  .since_ms = clock_mono_ms(),
                                  .fn = fn,
                                  .context = context };
    LIST_INSERT_HEAD(&self->all, held, entry);
    self->count++;
    cancel_send(held);
    if (self->count == 1) {
        timer_every_ms(self->timer, LIMIT_REPEAT_MS / 4);
    }
    return held;
}

void
cancels_drop(struct held_cancel **held_p)
{
    if (*held_p != NULL) {
        (*held_p)->fn = NULL;
        *held_p = NULL;
    }
}

static void
finish(struct held_cancel *held, enum cancel_verdict verdict)
{
    if (held->fn != NULL) {
        held->fn(held->context, verdict);
    }
    held_free(held);
}

static void
on_timer(void *context)
{
    struct cancels *self = context;
    int64_t now = clock_mono_ms();
    struct held_cancel *next;
    for (struct held_cancel *held = LIST_FIRST(&self->all); held != NULL; held = next) {
        next = LIST_NEXT(held, entry);
        if (now - held->since_ms >= LIMIT_SUBMIT_MS) {
            finish(held, CANCEL_LATE);
        } else if (now - held->sent_ms >= LIMIT_REPEAT_MS) {
            cancel_send(held);
        }
    }
    if (self->count == 0) {
        timer_stop(self->timer);
    }
}

void
cancels_on_open(struct cancels *self)
{
    struct held_cancel *held;
    LIST_FOREACH(held, &self->all, entry)
    {
        cancel_send(held);
    }
}

void
cancels_on_answer(struct cancels *self, const struct answer *answer)
{
    struct held_cancel *next;
    for (struct held_cancel *held = LIST_FIRST(&self->all); held != NULL; held = next) {
        next = LIST_NEXT(held, entry);
        if (job_id_equal(&held->id, &answer->id)) {
            finish(held, answer->state == JOB_NONE ? CANCEL_UNKNOWN : CANCEL_DONE);
        }
    }
}
