#include "worker/agent_inside.h"
#include <assert.h>
#include <string.h>

/*
 * What becomes of the pictures of a lease: checked, then put to a gateway one after the other.
 */

static void
fail_storage(struct agent *self, struct held *held, const char *why)
{
    agent_fail(self, held,
               &(struct agent_failure){ .code = FAIL_STORAGE, .message = agent_words(why) });
}

static struct held *
held_in(struct agent *self, uint8_t slot, uint32_t serial, enum held_state state)
{
    assert(slot < LIMIT_WORKER_LEASES);
    struct held *held = &self->held[slot];
    return held->open.state == state && held->open.serial == serial ? held : NULL;
}

static void
start_upload(struct agent *self, struct held *held)
{
    held->due_ms = NEVER;
    held->under_way = true;
    agent_do_slot(self, AGENT_DO_UPLOAD, held);
}

/* Asks for other bases or a younger token. */
static void
ask_grant(struct agent *self, struct held *held)
{
    if (held->regrant_ms == NEVER) {
        held->regrant_ms = self->now_ms;
    }
}

static void
wait_upload(struct agent *self, struct held *held)
{
    held->due_ms = self->now_ms + held->back_off_ms;
    held->back_off_ms *= 2;
    if (held->back_off_ms > LIMIT_UPLOAD_RETRY_MAX_MS) {
        held->back_off_ms = LIMIT_UPLOAD_RETRY_MAX_MS;
    }
}

/* The next PUT now, or, where no base is left, after a pause and with other bases if there are. */
static void
go_on_upload(struct agent *self, struct held *held)
{
    if (held->n_failed < held->n_bases) {
        start_upload(self, held);
        return;
    }
    held->n_failed = 0;
    ask_grant(self, held);
    wait_upload(self, held);
}

enum agent_verdict
agent_picture_on_checked(struct agent *self, const struct agent_event *event)
{
    struct held *held = held_in(self, event->checked.slot, event->checked.serial, HELD_CHECKING);
    if (held == NULL) {
        return AGENT_STALE;
    }
    bool uniform = event->checked.outcome == CHECK_UNIFORM;
    if (event->checked.outcome == CHECK_BAD) {
        agent_fail(self, held,
                   &(struct agent_failure){ .code = FAIL_BAD_PICTURE,
                                            .counted = true,
                                            .message = event->checked.message });
    } else if (event->checked.outcome == CHECK_NOT_DONE) {
        agent_fail_leaving(self, held, "too many pictures wait to be checked");
    } else if (uniform && !held->open.accept_uniform) {
        memcpy(held->open.picture, event->checked.picture, sizeof held->open.picture);
        agent_fail(self, held,
                   &(struct agent_failure){
                       .code = FAIL_UNIFORM_IMAGE,
                       .counted = true,
                       .message = agent_words("the picture has one colour all over") });
    } else {
        held->open.warnings = uniform ? WARNING_UNIFORM_IMAGE : 0;
        agent_held_move(self, held, HELD_IN_CHECKED);
        go_on_upload(self, held);
    }
    return AGENT_OK;
}

static void
on_stored(struct agent *self, struct held *held)
{
    held->n_failed = 0;
    held->back_off_ms = LIMIT_UPLOAD_RETRY_MS;
    held->picture++;
    if (held->picture < held->open.n_pictures) {
        start_upload(self, held);
        return;
    }
    agent_held_move(self, held, HELD_IN_STORED);
    agent_held_tell(self, held);
}

enum agent_verdict
agent_picture_on_uploaded(struct agent *self, const struct agent_event *event)
{
    struct held *held = held_in(self, event->uploaded.slot, event->uploaded.serial, HELD_UPLOADING);
    if (held == NULL) {
        return AGENT_STALE;
    }
    held->under_way = false;
    switch (event->uploaded.outcome) {
    case UPLOAD_STORED:
        on_stored(self, held);
        break;
    case UPLOAD_EXPIRED:
        held->expired = true;
        ask_grant(self, held);
        wait_upload(self, held); /* should the new grant be refused as well */
        break;
    case UPLOAD_REFUSED:
        fail_storage(self, held, "the store refused the picture");
        break;
    case UPLOAD_UNREACHABLE:
        held->n_failed++;
        held->base = (uint8_t)(held->base + 1 < held->n_bases ? held->base + 1 : 0);
        go_on_upload(self, held);
        break;
    case UPLOAD_OUTCOME_COUNT:
        assert(false);
    }
    return AGENT_OK;
}

void
agent_picture_tick(struct agent *self, struct held *held)
{
    if (self->now_ms >= held->give_up_ms) {
        fail_storage(self, held, "no gateway took the picture in time");
        return;
    }
    if (self->session_state == SESSION_OPEN && self->now_ms >= held->regrant_ms) {
        held->regrant_ms = self->now_ms + LIMIT_REPEAT_MS;
        agent_do_slot(self, AGENT_DO_REGRANT, held);
    }
    if (!held->under_way && !held->expired && self->now_ms >= held->due_ms) {
        go_on_upload(self, held);
    }
}
