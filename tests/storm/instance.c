#include "tests/storm/storm.h"
#include <string.h>

/*
 * The instances of a worker, and what worker/instance_draw.c makes of them: some draw one job at a
 * time, some queue. A job has the GPU when all before it are made, and is fetched while the next is
 * drawn.
 */

enum { DRAWING_STEPS = 3 };
struct drawing {
    uint8_t index, slot, step;
    uint32_t serial;
    bool begun, made, gone;
};

static void
set_ready(struct worker_host *self, uint8_t index, bool ready)
{
    struct agent_event event = { .kind = AGENT_ON_INSTANCE };
    event.instance.index = index;
    event.instance.ready = ready;
    event.instance.queues = self->instances[index].queues;
    self->instances[index].ready = ready;
    worker_give(self, &event);
}

static void
on_ready(void *owner, void *data)
{
    struct worker_host *self = owner;
    uint8_t index = (uint8_t)tag_of(data);
    if (self->instances[index].n_jobs == 0) {
        set_ready(self, index, true);
    }
}

static void
remove_drawing(struct worker_host *self, struct drawing *drawing, int64_t pause_ms)
{
    struct instance *instance = &self->instances[drawing->index];
    uint32_t n_left = 0;
    for (uint32_t i = 0; i < instance->n_jobs; i++) {
        if (instance->jobs[i] != drawing) {
            instance->jobs[n_left++] = instance->jobs[i];
        }
    }
    instance->n_jobs = n_left;
    drawing->gone = true;
    if (n_left == 0) {
        sim_at(storm.now_ms + pause_ms, &self->process, on_ready, self, tag(drawing->index));
    }
}

static void
draw_end(struct worker_host *self, struct drawing *drawing, enum fail_code code)
{
    struct agent_event event = { .kind = AGENT_ON_FAILED };
    event.failed.index = drawing->index;
    event.failed.serial = drawing->serial;
    event.failed.code = code;
    event.failed.taken = drawing->begun && code != FAIL_INSTANCE_REFUSED;
    event.failed.final_ = code == FAIL_INSTANCE_REFUSED && chance(300);
    event.failed.message = slice_of("no");
    if (code == FAIL_NONE) {
        event = (struct agent_event){ .kind = AGENT_ON_DRAWN };
        event.drawn.index = drawing->index;
        event.drawn.serial = drawing->serial;
        event.drawn.n_pictures = agent_held(self->agent, drawing->slot)->n_pictures;
    }
    remove_drawing(self, drawing, code == FAIL_INSTANCE_DIED ? between(500, 5000) : 0);
    worker_give(self, &event);
}

/* All that it has dies with it. */
static void
instance_end(struct worker_host *self, uint8_t index, enum fail_code code)
{
    struct instance *instance = &self->instances[index];
    struct drawing *jobs[LIMIT_PLACE_JOBS];
    uint32_t n_jobs = instance->n_jobs;
    memcpy(jobs, instance->jobs, sizeof jobs);
    for (uint32_t i = 0; i < n_jobs; i++) {
        if (!jobs[i]->gone && self->agent != NULL && self->process.up) {
            draw_end(self, jobs[i], code);
        }
    }
}

/* The GPU is at it: nothing before it is still to be made. */
static bool
has_turn(const struct worker_host *self, const struct drawing *drawing)
{
    const struct instance *instance = &self->instances[drawing->index];
    for (uint32_t i = 0; i < instance->n_jobs && instance->jobs[i] != drawing; i++) {
        if (!instance->jobs[i]->made) {
            return false;
        }
    }
    return true;
}

static void
draw_failed(struct worker_host *self, struct drawing *drawing)
{
    static const enum fail_code codes[] = { FAIL_INSTANCE_ERROR, FAIL_INSTANCE_DIED,
                                            FAIL_INSTANCE_STUCK, FAIL_INSTANCE_REFUSED };
    enum fail_code code = codes[any(4)];
    fault(FAULT_DRAW_FAILS);
    if (code == FAIL_INSTANCE_DIED || code == FAIL_INSTANCE_STUCK) {
        instance_end(self, drawing->index, code);
    } else {
        draw_end(self, drawing, code);
    }
}

static void
on_drawing(void *owner, void *data)
{
    struct worker_host *self = owner;
    struct drawing *drawing = data;
    struct agent_event event = { .kind = AGENT_ON_TAKEN };
    if (drawing->gone) {
        return;
    }
    int64_t pace = !storm.weather.faults_on ? 60 : self->slow ? 3000 : 250;
    sim_at(storm.now_ms + between(1, pace), &self->process, on_drawing, self, drawing);
    if (!has_turn(self, drawing)) {
        return;
    }
    if (drawing->made) {
        draw_end(self, drawing, FAIL_NONE);
        return;
    }
    if (drawing->step == DRAWING_STEPS - 1 && storm.weather.faults_on &&
        chance(storm.weather.fail_draw)) {
        draw_failed(self, drawing);
        return;
    }
    event.job.index = drawing->index;
    event.job.serial = drawing->serial;
    if (!drawing->begun) { /* a job ahead that is handed back was never drawn */
        check_drawn(self, &agent_held(self->agent, drawing->slot)->lease);
    } else {
        drawing->step++;
        event = (struct agent_event){ .kind = AGENT_ON_STEP };
        event.step.index = drawing->index;
        event.step.serial = drawing->serial;
        event.step.step = drawing->step;
        event.step.steps = DRAWING_STEPS;
    }
    drawing->begun = true;
    drawing->made = drawing->step == DRAWING_STEPS;
    worker_give(self, &event);
}

static void
not_drawn(struct worker_host *self, const struct agent_effect *effect)
{
    struct agent_event event = { .kind = AGENT_ON_NOT_DRAWN };
    event.job.index = effect->instance;
    event.job.serial = effect->serial;
    worker_give(self, &event);
    if (self->instances[effect->instance].n_jobs == 0) {
        sim_at(storm.now_ms + LIMIT_PROBE_MS, &self->process, on_ready, self,
               tag(effect->instance));
    }
}

void
instance_draw(struct worker_host *self, const struct agent_effect *effect)
{
    struct instance *instance = &self->instances[effect->instance];
    bool room = instance->n_jobs == 0 ? instance->ready
                                      : instance->queues && instance->n_jobs < LIMIT_PLACE_JOBS;
    if (!room || (storm.weather.faults_on && chance(storm.weather.busy_instance))) {
        not_drawn(self, effect);
        return;
    }
    struct drawing *drawing = sim_memory(sizeof *drawing);
    *drawing = (struct drawing){ .index = effect->instance,
                                 .slot = effect->slot,
                                 .serial = effect->serial };
    instance->ready = false;
    instance->jobs[instance->n_jobs++] = drawing;
    sim_at(storm.now_ms + between(1, 30), &self->process, on_drawing, self, drawing);
}

void
instance_interrupt(struct worker_host *self, const struct agent_effect *effect)
{
    struct instance *instance = &self->instances[effect->instance];
    for (uint32_t i = 0; i < instance->n_jobs; i++) {
        if (instance->jobs[i]->serial == effect->serial) {
            remove_drawing(self, instance->jobs[i], between(1, 300));
            return;
        }
    }
    broken("worker %s interrupts a job that its instance %u has not", self->name, effect->instance);
}

void
worker_break_instance(struct worker_host *self, uint8_t index)
{
    if (self->process.up && self->instances[index].n_jobs > 0) {
        fault(FAULT_INSTANCE_DIES);
        instance_end(self, index, FAIL_INSTANCE_DIED);
    }
}

void
instance_start(struct worker_host *self, uint8_t index)
{
    self->instances[index].queues = chance(700);
    sim_at(storm.now_ms + between(0, 500), &self->process, on_ready, self, tag(index));
}
