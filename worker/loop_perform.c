#include "common/clock.h"
#include "common/log.h"
#include "worker/facts.h"
#include "worker/loop_inside.h"
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/*
 * What the agent wants done, and what comes of it.
 */

static void
perform_beat(struct loop *self)
{
    char facts[LIMIT_FACTS_BYTES];
    capability_refresh(&self->capability, self->supervisor, self->options->model);
    facts_write(facts, self->agent, &self->capability, self->supervisor);
    heartbeat_beat(self->heartbeat, agent_incarnation(self->agent), facts);
}

/* The instance hears of its pictures what their check tells of it. */
static void
judge(struct loop *self, const struct parcel *parcel, enum check_outcome outcome,
      struct slice message)
{
    const struct agent_held *held = agent_held(self->agent, parcel_slot(parcel));
    char text[LIMIT_REASON_BYTES];
    struct judgement judgement = { .message = text };
    snprintf(text, sizeof text, "%.*s", (int)message.length, (const char *)message.bytes);
    switch (outcome) {
    case CHECK_GOOD:
        judgement.kind = JUDGED_GOOD;
        break;
    case CHECK_BAD:
        judgement.kind = JUDGED_BAD;
        break;
    case CHECK_UNIFORM:
        judgement.kind = JUDGED_UNIFORM;
        judgement.job = held->lease.job;
        break;
    case CHECK_NOT_DONE:
        return;
    case CHECK_OUTCOME_COUNT:
        assert(false);
    }
    instance_judge(self->supervisor, held->instance, &judgement);
}

static void
on_checked(void *context, const struct parcel *parcel, enum check_outcome outcome,
           struct slice message, const uint8_t *picture)
{
    struct loop *self = context;
    struct agent_event event = { .kind = AGENT_ON_CHECKED };
    judge(self, parcel, outcome, message);
    event.checked.slot = parcel_slot(parcel);
    event.checked.serial = parcel_serial(parcel);
    event.checked.outcome = outcome;
    event.checked.message = message;
    event.checked.picture = picture;
    loop_give(self, &event);
}

static void
on_uploaded(void *context, const struct parcel *parcel, enum upload_outcome outcome)
{
    struct agent_event event = { .kind = AGENT_ON_UPLOADED };
    event.uploaded.slot = parcel_slot(parcel);
    event.uploaded.serial = parcel_serial(parcel);
    event.uploaded.outcome = outcome;
    loop_give(context, &event);
}

static void
perform_keep(struct loop *self, const struct agent_effect *effect)
{
    struct parcel_events events = { .on_checked = on_checked,
                                    .on_uploaded = on_uploaded,
                                    .context = self };
    struct parcel_config config = { .slot = effect->slot,
                                    .serial = effect->serial,
                                    .frame = &self->frame->job,
                                    .envelope = &self->envelope,
                                    .body = &self->body,
                                    .events = &events };
    assert(self->parcels[effect->slot] == NULL);
    if (parcel_new(&self->parcels[effect->slot], &config) != 0) {
        abort(); /* out of memory */
    }
}

static void
perform_draw(struct loop *self, const struct agent_effect *effect)
{
    struct envelope envelope;
    struct job_body body;
    struct draw_request request = { .serial = effect->serial,
                                    .envelope = &envelope,
                                    .body = &body };
    const struct lease *lease = &agent_held(self->agent, effect->slot)->lease;
    struct slice bytes = parcel_request(self->parcels[effect->slot]);
    int rc = job_request_decode(&self->unpacker, bytes, &envelope, &body);
    assert(rc == 0); /* it did when the JOB came */
    job_id_print(&lease->job, request.id);
    snprintf(request.id + JOB_ID_TEXT, sizeof request.id - JOB_ID_TEXT, ".%u", lease->grant);
    self->told_ready[effect->instance] = false;
    if (instance_draw(self->supervisor, effect->instance, &request) != 0) {
        self->refused_until_ms[effect->instance] = clock_mono_ms() + LIMIT_PROBE_MS;
        loop_give_about(self, AGENT_ON_NOT_DRAWN, effect->instance, effect->serial);
    }
}

static void
perform_check(struct loop *self, const struct agent_effect *effect)
{
    struct parcel *parcel = self->parcels[effect->slot];
    if (parcel_check(parcel, self->helper, self->drawing) != 0) {
        on_checked(self, parcel, CHECK_NOT_DONE, slice_of(""), NULL);
    }
}

static void
perform_upload(struct loop *self, const struct agent_effect *effect)
{
    struct parcel *parcel = self->parcels[effect->slot];
    if (parcel_upload(parcel, self->http, effect->picture, effect->base) != 0) {
        on_uploaded(self, parcel, UPLOAD_UNREACHABLE);
    }
}

static void
log_failure(const struct loop *self, const struct agent_effect *effect)
{
    const struct agent_held *held = agent_held(self->agent, effect->slot);
    char id[JOB_ID_TEXT + 1];
    char message[LIMIT_REASON_BYTES];
    job_id_print(&held->lease.job, id);
    memcpy(message, held->message, held->message_length);
    for (uint32_t i = 0; i < held->message_length; i++) {
        if (message[i] == '"') {
            message[i] = '\''; /* the log's own quotes end only where we end them */
        }
    }
    log_warn("job-failed job=%s grant=%u code=%s counted=%d final=%d message=\"%.*s\"", id,
             held->lease.grant, fail_code_name(held->code), held->counted, held->final_,
             held->message_length, message);
}

static void
on_stopped(void *context)
{
    struct agent_event event = { .kind = AGENT_ON_STOPPED };
    loop_give(context, &event);
}

static void
perform_exit(struct loop *self, const struct agent_effect *effect)
{
    if (effect->rc != 0) {
        log_error("worker-superseded name=%s incarnation=%016" PRIx64
                  " cure=\"a newer worker of this name is at work: give this one another --name\"",
                  self->options->name, agent_incarnation(self->agent));
    } else {
        log_info("worker-left name=%s", self->options->name);
    }
    reactor_stop(self->reactor, effect->rc == 0 ? 0 : -EEXIST);
}

void
loop_perform(struct loop *self, const struct agent_effect *effect)
{
    switch (effect->kind) {
    case AGENT_DO_BEAT:
        perform_beat(self);
        break;
    case AGENT_DO_READ_LEADER:
        heartbeat_read_leader(self->heartbeat);
        break;
    case AGENT_DO_CONNECT:
        log_info("broker-connecting address=%s epoch=%" PRIu64, agent_door(self->agent),
                 agent_epoch(self->agent));
        link_connect(self->link, agent_door(self->agent));
        break;
    case AGENT_DO_DISCONNECT:
        log_warn("broker-lost address=%s", agent_door(self->agent));
        link_close(self->link);
        break;
    case AGENT_DO_HELLO:
    case AGENT_DO_STATE:
    case AGENT_DO_PROGRESS:
    case AGENT_DO_DONE:
    case AGENT_DO_FAIL:
    case AGENT_DO_REGRANT:
    case AGENT_DO_BYE:
        report_send(&self->report, effect);
        break;
    case AGENT_DO_KEEP:
        perform_keep(self, effect);
        break;
    case AGENT_DO_NEW_GRANT:
        parcel_set_grant(self->parcels[effect->slot], &self->frame->grant.bases,
                         self->frame->grant.token);
        break;
    case AGENT_DO_DRAW:
        perform_draw(self, effect);
        break;
    case AGENT_DO_INTERRUPT:
        instance_interrupt(self->supervisor, effect->instance, effect->serial);
        break;
    case AGENT_DO_CHECK:
        perform_check(self, effect);
        break;
    case AGENT_DO_UPLOAD:
        perform_upload(self, effect);
        break;
    case AGENT_DO_DROP:
        log_failure(self, effect);
        parcel_drop(self->parcels[effect->slot]);
        break;
    case AGENT_DO_FORGET:
        parcel_destroy(&self->parcels[effect->slot]);
        break;
    case AGENT_DO_STOP_INSTANCES:
        supervisor_stop(self->supervisor, on_stopped, self);
        break;
    case AGENT_DO_EXIT:
        perform_exit(self, effect);
        break;
    case AGENT_EFFECT_COUNT:
        assert(false);
    }
}
