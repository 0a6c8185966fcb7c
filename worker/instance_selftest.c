#include "common/helper_thread.h"
#include "common/ids.h"
#include "common/log.h"
#include "worker/instance_private.h"
#include "worker/picture.h"
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/*
 * One-coloured pictures: the row of them, and the self-test that follows.
 *
 * One of them proves nothing: somebody may have asked for it. After LIMIT_UNIFORM_JOBS of different
 * jobs in a row the instance takes no job until it has drawn a picture of ours that cannot be of
 * one colour. It is drawn by the driver like any other and looked at on the helper thread. The
 * agent hears nothing of it: to it the instance is busy.
 *
 *     NONE --row is full--> OWED --instance is free--> DRAWING --drawn--> CHECKING --good--> NONE
 *                            ^                            | failed           | no picture
 *                            |<--- down, started anew ----'------------------'
 */

enum { TEST_SIDE = 512, TEST_STEPS = 8, TEST_SEED = 20260, TEST_QUALITY = 90 };
#define TEST_PROMPT "a crowded street market at noon, colourful awnings, fruit, a blue sky"
_Static_assert(LIMIT_UNIFORM_JOBS == 3, "the reason says so");

struct selftest_check {
    struct instance *instance; /* NULL: gone, or its process is; for the loop's thread only */
    struct drawing drawing;
    struct picture_check check;
    enum picture_verdict verdict;
    bool ran;
};

/* -- the row -- */

bool
selftest_is_due(const struct instance *self)
{
    return self->selftest != SELFTEST_NONE;
}

void
selftest_uniform(struct instance *self, const struct job_id *job)
{
    if (selftest_is_due(self)) {
        return;
    }
    for (uint32_t i = 0; i < self->n_uniform; i++) {
        if (job_id_equal(&self->uniform[i], job)) {
            return; /* drawn again: the prompt may be to blame */
        }
    }
    self->uniform[self->n_uniform++] = *job;
    if (self->n_uniform == LIMIT_UNIFORM_JOBS) {
        self->n_uniform = 0;
        self->selftest = SELFTEST_OWED;
        log_warn("instance-selftest-due instance=%s reason=\"one-coloured pictures of %d jobs in a "
                 "row\"",
                 self->name, LIMIT_UNIFORM_JOBS);
    }
}

void
selftest_row_ends(struct instance *self)
{
    self->n_uniform = 0;
}

/* -- the verdict -- */

static void
fail(struct instance *self, const char *why)
{
    char reason[sizeof self->reason];
    snprintf(reason, sizeof reason, "self-test: %s", why);
    self->selftest = SELFTEST_OWED;
    log_warn("instance-selftest-failed instance=%s why=\"%s\"", self->name, why);
    instance_set_reason(self, reason);
    if (self->life != LIFE_NONE) {
        life_restart(self, reason);
        return;
    }
    instance_leave_alone(self);
    instance_probe_soon(self);
    instance_set_state(self, INSTANCE_DOWN);
}

static void
pass(struct instance *self)
{
    self->selftest = SELFTEST_NONE;
    log_info("instance-selftest-passed instance=%s", self->name);
    instance_probe_soon(self);
    instance_go_on(self);
}

/* Nothing was found out: once more, after a pause. */
static void
postpone(struct instance *self, const char *why)
{
    self->selftest = SELFTEST_OWED;
    instance_explain(self, "self-test: %s", why);
    instance_leave_alone(self);
}

static void
check_free(struct selftest_check *check)
{
    drawing_clear(&check->drawing);
    free(check->check.bytes);
    free(check);
}

/* On the helper thread. */
static void
check_run(void *context)
{
    struct selftest_check *check = context;
    struct drawn_picture *drawn = &check->drawing.pictures[0];
    check->ran = true;
    check->verdict = picture_check(&check->check, drawn->bytes, drawn->length);
    drawn->bytes = NULL; /* taken over */
}

static void
check_done(void *context)
{
    struct selftest_check *check = context;
    struct instance *self = check->instance;
    if (self != NULL) {
        self->selftest_check = NULL;
    }
    if (self != NULL && check->ran) {
        switch (check->verdict) {
        case PICTURE_OK:
            pass(self);
            break;
        case PICTURE_UNIFORM:
            fail(self, "one colour");
            break;
        case PICTURE_UNDECODABLE:
        case PICTURE_WRONG_SIZE:
            fail(self, check->check.message);
            break;
        case PICTURE_VERDICT_COUNT:
            assert(false);
        }
    }
    check_free(check);
}

/* -- what its lane reports -- */

static uint16_t
side_of(const struct instance *self)
{
    uint32_t side = TEST_SIDE;
    while (self->health.max_pixels > 0 && side > LIMIT_SIDE_MIN &&
           side * side > self->health.max_pixels) {
        side -= LIMIT_SIDE_STEP;
    }
    return (uint16_t)side;
}

static void
on_drawn(void *context, uint32_t index, uint32_t serial, struct drawing *drawing)
{
    struct instance *self = context;
    struct selftest_check *check = calloc(1, sizeof *check);
    (void)index;
    (void)serial;
    if (check == NULL) {
        abort();
    }
    check->instance = self;
    check->drawing = *drawing;
    check->check = (struct picture_check){ .width = self->selftest_side,
                                           .height = self->selftest_side,
                                           .format = PICTURE_PNG,
                                           .quality = TEST_QUALITY };
    *drawing = (struct drawing){ 0 };
    if (check->drawing.n != 1) {
        self->selftest = SELFTEST_FAILED;
        instance_explain(self, "%u pictures in the place of one", check->drawing.n);
        check_free(check);
    } else if (helper_thread_run(self->owner->helper, check_run, check_done, check) != 0) {
        postpone(self, "too many pictures wait to be checked");
        check_free(check);
    } else {
        self->selftest = SELFTEST_CHECKING;
        self->selftest_check = check;
    }
}

static void
on_failed(void *context, uint32_t index, uint32_t serial, const struct failure *failure)
{
    struct instance *self = context;
    (void)index;
    (void)serial;
    if (failure->busy || failure->code == FAIL_INSTANCE_DIED) {
        self->selftest = SELFTEST_OWED; /* it is left alone already, with the reason */
        return;
    }
    self->selftest = SELFTEST_FAILED;
    instance_set_reason(self, failure->message); /* kept until it is free */
}

static void
on_taken(void *context, uint32_t index, uint32_t serial)
{
    (void)context;
    (void)index;
    (void)serial;
}

static void
on_step(void *context, uint32_t index, uint32_t serial, uint8_t step, uint8_t steps)
{
    (void)context;
    (void)index;
    (void)serial;
    (void)step;
    (void)steps;
}

/* -- its life -- */

void
selftest_open(struct instance *self)
{
    self->selftest_events = (struct instance_events){ .on_taken = on_taken,
                                                      .on_step = on_step,
                                                      .on_drawn = on_drawn,
                                                      .on_failed = on_failed,
                                                      .context = self };
}

void
selftest_begin(struct instance *self)
{
    uint16_t side = side_of(self);
    struct envelope envelope = { .width = side, .height = side, .steps = TEST_STEPS, .n = 1 };
    struct job_body body = { .prompt = slice_of(TEST_PROMPT),
                             .seed = TEST_SEED,
                             .format = PICTURE_PNG,
                             .quality = TEST_QUALITY };
    struct draw_request request = { .envelope = &envelope, .body = &body };
    /* Never one that the server has seen: it would give its old picture. */
    snprintf(request.id, sizeof request.id, "selftest.%016" PRIx64, random_u64());
    assert(self->selftest == SELFTEST_OWED && !lanes_busy(self));
    self->selftest_side = side;
    if (!lanes_test(self, &request)) {
        postpone(self, "its server is not asked, no memory");
        instance_probe_soon(self);
        instance_set_state(self, INSTANCE_DOWN);
        return;
    }
    self->selftest = SELFTEST_DRAWING;
    log_info("instance-selftest instance=%s id=%s side=%u", self->name, request.id, side);
    instance_set_reason(self, "self-test: its pictures of 3 jobs in a row had one colour");
    instance_set_state(self, INSTANCE_BUSY);
}

void
selftest_is_free(struct instance *self)
{
    char why[sizeof self->reason];
    switch (self->selftest) {
    case SELFTEST_CHECKING:
        return; /* busy until then */
    case SELFTEST_FAILED:
        memcpy(why, self->reason, sizeof why);
        fail(self, why);
        return;
    case SELFTEST_OWED:
    case SELFTEST_NONE:
    case SELFTEST_DRAWING: /* interrupted */
        instance_probe_soon(self);
        instance_set_state(self, INSTANCE_DOWN);
        return;
    }
}

void
selftest_drop(struct instance *self)
{
    if (self->selftest_check != NULL) {
        self->selftest_check->instance = NULL;
        self->selftest_check = NULL;
    }
    if (self->selftest != SELFTEST_NONE) {
        self->selftest = SELFTEST_OWED;
    }
}
