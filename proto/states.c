/* The part of job.h that cores use: nothing here needs more than memory. */
#include "proto/job.h"
#include <assert.h>
#include <string.h>

/* clang-format off */ /* the columns are the rule; an absent entry is JOB_NONE: does not apply */
static const enum job_state next_table[JOB_STATE_COUNT][JOB_INPUT_COUNT] = {
    [JOB_NONE]    = { [IN_SUBMIT] = JOB_QUEUED },
    [JOB_QUEUED]  = { [IN_GRANT] = JOB_RUNNING, [IN_CANCEL] = JOB_CANCELLED, [IN_EXPIRE] = JOB_EXPIRED },
    [JOB_RUNNING] = { [IN_DONE] = JOB_SUCCEEDED, [IN_RELEASE] = JOB_QUEUED, [IN_GIVE_UP] = JOB_FAILED,
                      [IN_CANCEL] = JOB_CANCELLED },
};
/* clang-format on */

static const char *const state_names[JOB_STATE_COUNT] = {
    "unknown", "queued", "running", "succeeded", "failed", "cancelled", "expired",
};
static const char *const class_names[CLASS_COUNT] = { "high", "normal", "low" };
static const char *const fail_names[FAIL_CODE_COUNT] = {
    "",
    "instance_refused",
    "instance_error",
    "instance_died",
    "instance_stuck",
    "bad_picture",
    "uniform_image",
    "storage",
    "worker_leaving",
    "worker_lost",
    "lease_lost",
    "too_many_attempts",
    "corrupt",
};
static const char *const wait_names[WAIT_REASON_COUNT] = { "", "no_worker", "no_model",
                                                           "too_large" };
static const char *const durability_names[DURABILITY_COUNT] = {
    "unknown", "always", "everysec", "replicated", "unreplicated", "volatile",
};
static const char *const format_names[PICTURE_FORMAT_COUNT] = { "png", "jpeg", "webp" };
static const char *const format_types[PICTURE_FORMAT_COUNT] = { "image/png", "image/jpeg",
                                                                "image/webp" };

enum job_state
job_next(enum job_state state, enum job_input input)
{
    assert(state < JOB_STATE_COUNT && input < JOB_INPUT_COUNT);
    return next_table[state][input];
}

bool
job_is_terminal(enum job_state state)
{
    return state >= JOB_SUCCEEDED && state < JOB_STATE_COUNT;
}

const char *
job_state_name(enum job_state state)
{
    assert(state < JOB_STATE_COUNT);
    return state_names[state];
}

const char *
job_class_name(enum job_class class_)
{
    assert(class_ < CLASS_COUNT);
    return class_names[class_];
}

const char *
fail_code_name(enum fail_code code)
{
    assert(code < FAIL_CODE_COUNT);
    return fail_names[code];
}

const char *
wait_reason_name(enum wait_reason reason)
{
    assert(reason < WAIT_REASON_COUNT);
    return wait_names[reason];
}

const char *
durability_name(enum durability durability)
{
    return durability_names[durability < DURABILITY_COUNT ? durability : DURABILITY_UNKNOWN];
}

const char *
picture_format_name(enum picture_format format)
{
    assert(format < PICTURE_FORMAT_COUNT);
    return format_names[format];
}

const char *
picture_format_type(enum picture_format format)
{
    assert(format < PICTURE_FORMAT_COUNT);
    return format_types[format];
}

bool
lease_equal(const struct lease *a, const struct lease *b)
{
    return a->grant == b->grant && a->epoch == b->epoch &&
           memcmp(&a->job, &b->job, sizeof a->job) == 0;
}

uint64_t
job_cost(const struct envelope *envelope)
{
    uint64_t cost = (uint64_t)envelope->n * envelope->steps * envelope->width * envelope->height;
    return cost / 1024 > 0 ? cost / 1024 : 1;
}

struct slice
slice_of(const char *text)
{
    return (struct slice){ text, (uint32_t)strlen(text) };
}

bool
slice_equal(struct slice a, struct slice b)
{
    return a.length == b.length && (a.length == 0 || memcmp(a.bytes, b.bytes, a.length) == 0);
}

bool
slice_is(struct slice slice, const char *text)
{
    return slice_equal(slice, slice_of(text));
}
