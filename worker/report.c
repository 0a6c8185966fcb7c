#include "worker/report.h"
#include <assert.h>
#include <string.h>

struct held_list {
    struct held_lease items[LIMIT_WORKER_LEASES];
    uint32_t count;
};

static struct list
held_leases(const struct agent *agent, struct held_list *out)
{
    out->count = 0;
    for (uint32_t slot = 0; slot < LIMIT_WORKER_LEASES; slot++) {
        const struct agent_held *held = agent_held(agent, slot);
        if (held->state != HELD_NONE) {
            out->items[out->count++] =
                (struct held_lease){ .lease = held->lease,
                                     .taken = held->taken,
                                     .finished =
                                         held->state == HELD_DONE || held->state == HELD_FAILED };
        }
    }
    return (struct list){ .items = out->items, .count = out->count };
}

static void
send_frame(const struct report *self, struct frame *frame)
{
    frame->session = agent_session(self->agent);
    frame->epoch = agent_epoch(self->agent);
    link_send(self->link, frame);
}

static void
send_hello(const struct report *self)
{
    const struct capability *capability = self->capability;
    struct model_name models[LIMIT_MODELS];
    struct held_list held;
    struct frame frame = { .kind = FRAME_WORKER_HELLO };
    for (uint32_t i = 0; i < capability->n_models; i++) {
        models[i].name = slice_of(capability->models[i]);
    }
    frame.worker_hello = (struct worker_hello){
        .version = PROTOCOL_VERSION,
        .name = slice_of(self->worker),
        .incarnation = agent_incarnation(self->agent),
        .models = { .items = models, .count = capability->n_models },
        .instances = (uint8_t)supervisor_count(self->supervisor),
        .max_pixels = capability->max_pixels,
        .leases = held_leases(self->agent, &held),
    };
    send_frame(self, &frame);
}

static void
send_state(const struct report *self)
{
    struct held_list held;
    struct frame frame = { .kind = FRAME_WORKER_STATE };
    frame.worker_state = (struct worker_state){ .pull = agent_pull(self->agent),
                                                .last_job = agent_last_job(self->agent),
                                                .leases = held_leases(self->agent, &held) };
    send_frame(self, &frame);
}

/* The instance's name as a frame takes it. */
static struct slice
name_of(const struct report *self, const struct agent_held *held)
{
    if (held->instance == AGENT_NO_INSTANCE) {
        return slice_of("");
    }
    struct slice name = slice_of(instance_name(self->supervisor, held->instance));
    if (name.length > LIMIT_WORKER_NAME || !utf8_valid(name.bytes, name.length, NULL)) {
        return slice_of("?");
    }
    return name;
}

static void
send_done(const struct report *self, const struct agent_effect *effect,
          const struct agent_held *held)
{
    struct frame frame = { .kind = FRAME_DONE };
    frame.done.lease = held->lease;
    frame.done.result = parcel_result(self->parcels[effect->slot], slice_of(self->worker),
                                      name_of(self, held), held->warnings);
    send_frame(self, &frame);
}

static void
send_fail(const struct report *self, const struct agent_held *held)
{
    static const uint8_t nothing[sizeof held->picture];
    bool has_picture = memcmp(held->picture, nothing, sizeof nothing) != 0;
    struct frame frame = { .kind = FRAME_FAIL };
    frame.fail =
        (struct fail){ .lease = held->lease,
                       .code = (uint8_t)held->code,
                       .counted = held->counted,
                       .final_ = held->final_,
                       .instance = name_of(self, held),
                       .message = { .bytes = held->message, .length = held->message_length },
                       .picture = { .bytes = held->picture,
                                    .length = has_picture ? sizeof held->picture : 0 } };
    send_frame(self, &frame);
}

static void
send_leased(const struct report *self, const struct agent_effect *effect,
            const struct agent_held *held)
{
    struct frame frame = { 0 };
    if (effect->kind == AGENT_DO_PROGRESS) {
        frame.kind = FRAME_PROGRESS;
        frame.progress =
            (struct progress){ .lease = held->lease, .step = effect->step, .steps = effect->steps };
    } else {
        frame.kind = FRAME_REGRANT;
        frame.leased.lease = held->lease;
    }
    send_frame(self, &frame);
}

static void
send_about(const struct report *self, const struct agent_effect *effect)
{
    const struct agent_held *held = agent_held(self->agent, effect->slot);
    if (effect->kind == AGENT_DO_DONE) {
        send_done(self, effect, held);
    } else if (effect->kind == AGENT_DO_FAIL) {
        send_fail(self, held);
    } else {
        assert(effect->kind == AGENT_DO_PROGRESS || effect->kind == AGENT_DO_REGRANT);
        send_leased(self, effect, held);
    }
}

void
report_send(const struct report *self, const struct agent_effect *effect)
{
    if (effect->kind == AGENT_DO_HELLO) {
        send_hello(self);
    } else if (effect->kind == AGENT_DO_STATE) {
        send_state(self);
    } else if (effect->kind == AGENT_DO_BYE) {
        struct frame frame = { .kind = FRAME_BYE };
        send_frame(self, &frame);
        link_flush(self->link);
    } else {
        send_about(self, effect);
    }
}
