#include "common/log.h"
#include "worker/loop_inside.h"
#include "worker/message.h"
#include <assert.h>
#include <string.h>

/*
 * What the instances say.
 */

static void
on_state(void *context, uint32_t index, enum instance_state state)
{
    struct loop *self = context;
    struct agent_event event = { .kind = AGENT_ON_INSTANCE };
    event.instance.index = (uint8_t)index;
    event.instance.ready = state == INSTANCE_READY;
    event.instance.queues = instance_queues(self->supervisor, index);
    if (self->agent == NULL) {
        return; /* the supervisor is being made */
    }
    self->told_ready[index] = event.instance.ready;
    loop_give(self, &event);
    if (!self->stepping) {
        loop_give_capability(self);
    }
}

static void
on_taken(void *context, uint32_t index, uint32_t serial)
{
    struct loop *self = context;
    for (uint32_t i = 0; i < LIMIT_WORKER_LEASES; i++) {
        const struct agent_held *held = agent_held(self->agent, i);
        if (held->state != HELD_NONE && held->serial == serial) { /* offered before; begun now */
            char id[JOB_ID_TEXT + 1];
            job_id_print(&held->lease.job, id);
            log_info("job-drawing job=%s grant=%u instance=%s", id, held->lease.grant,
                     instance_name(self->supervisor, index));
        }
    }
    loop_give_about(self, AGENT_ON_TAKEN, index, serial);
}

static void
on_refused(void *context, uint32_t index, uint32_t serial)
{
    loop_give_about(context, AGENT_ON_NOT_DRAWN, index, serial);
}

static void
on_step(void *context, uint32_t index, uint32_t serial, uint8_t number, uint8_t steps)
{
    struct agent_event event = { .kind = AGENT_ON_STEP };
    event.step.index = (uint8_t)index;
    event.step.serial = serial;
    event.step.step = number;
    event.step.steps = steps;
    loop_give(context, &event);
}

void
loop_give_state(struct loop *self, uint32_t index)
{
    on_state(self, index, instance_state(self->supervisor, index));
}

static void
on_drawn(void *context, uint32_t index, uint32_t serial, struct drawing *drawing)
{
    struct loop *self = context;
    struct agent_event event = { .kind = AGENT_ON_DRAWN };
    assert(!self->stepping);
    event.drawn.index = (uint8_t)index;
    event.drawn.serial = serial;
    event.drawn.n_pictures = (uint8_t)drawing->n;
    self->drawing = drawing;
    loop_give(self, &event);
    drawing_clear(drawing); /* nothing is left in it if it was taken */
    loop_give_state(self, index);
}

static void
on_failed(void *context, uint32_t index, uint32_t serial, const struct failure *failure)
{
    struct loop *self = context;
    char text[LIMIT_REASON_BYTES] = "";
    struct agent_event event = { .kind = AGENT_ON_FAILED };
    assert(!self->stepping);
    event.failed.index = (uint8_t)index;
    event.failed.serial = serial;
    event.failed.code = failure->code;
    event.failed.taken = failure->taken;
    event.failed.final_ = failure->final;
    event.failed.message =
        (struct slice){ .bytes = text,
                        .length = message_clean(text, sizeof text, failure->message) };
    loop_give(self, &event);
    loop_give_state(self, index);
}

struct instance_events
loop_instance_events(struct loop *self)
{
    return (struct instance_events){ .on_state = on_state,
                                     .on_taken = on_taken,
                                     .on_step = on_step,
                                     .on_drawn = on_drawn,
                                     .on_failed = on_failed,
                                     .on_refused = on_refused,
                                     .context = self };
}
