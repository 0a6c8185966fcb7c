#include "cli/job.h"
#include "cli/terminal.h"
#include "common/scope.h"
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

static const char *const phase_words[PHASE_COUNT] = {
    "", "queued", "running", "succeeded", "failed", "cancelled", "expired",
};

/* What a server says is shown on terminals: without control characters. */
static void
text_read(char *out, size_t size, const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    text_fit(out, size, text != NULL ? text : "", UINT32_MAX, true);
}

static int64_t
number_read(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    return json_is_integer(value) && json_integer_value(value) >= 0 ? json_integer_value(value)
                                                                    : -1;
}

static uint32_t
count_read(const json_t *object, const char *key)
{
    int64_t value = number_read(object, key);
    return value > 0 && value <= INT32_MAX ? (uint32_t)value : 0;
}

static void
images_read(struct job *out, const json_t *images)
{
    size_t i;
    json_t *item;
    json_array_foreach((json_t *)images, i, item)
    {
        if (i == LIMIT_IMAGES) {
            break;
        }
        struct job_image *image = &out->images[out->n_images++];
        text_read(image->url, sizeof image->url, item, "url");
        image->width = count_read(item, "width");
        image->height = count_read(item, "height");
        image->seed = (uint64_t)json_integer_value(json_object_get(item, "seed"));
    }
}

static void
warnings_read(struct job *out, const json_t *warnings)
{
    size_t i;
    json_t *item;
    json_array_foreach((json_t *)warnings, i, item)
    {
        const char *word = json_string_value(item);
        out->uniform = out->uniform || (word != NULL && strcmp(word, "uniform_image") == 0);
    }
}

static void
members_read(struct job *out, const json_t *root)
{
    const json_t *progress = json_object_get(root, "progress");
    const json_t *timings = json_object_get(root, "timings");
    const json_t *error = json_object_get(root, "error");
    out->position = number_read(root, "position");
    out->eta_s = number_read(root, "eta_s");
    out->step = count_read(progress, "step");
    out->steps = count_read(progress, "steps");
    out->attempt = count_read(root, "attempt");
    out->seed = (uint64_t)json_integer_value(json_object_get(root, "seed"));
    out->queued_ms = number_read(timings, "queued_ms");
    out->run_ms = number_read(timings, "run_ms");
    out->total_ms = number_read(timings, "total_ms");
    text_read(out->worker, sizeof out->worker, root, "worker");
    text_read(out->reason, sizeof out->reason, root, "reason");
    text_read(out->error, sizeof out->error, error, "code");
    text_read(out->message, sizeof out->message, error, "message");
    text_read(out->prompt, sizeof out->prompt, json_object_get(root, "request"), "prompt");
    images_read(out, json_object_get(root, "images"));
    warnings_read(out, json_object_get(root, "warnings"));
}

int
job_read(struct job *out, const char *json, size_t length)
{
    json_t *root = json_loadb(json, length, JSON_REJECT_DUPLICATES, NULL);
    struct job job = { .phase = PHASE_UNKNOWN };
    text_read(job.id, sizeof job.id, root, "id");
    text_read(job.status, sizeof job.status, root, "status");
    if (job.id[0] == '\0' || job.status[0] == '\0') {
        json_decref(root);
        return -EBADMSG;
    }
    for (int phase = PHASE_QUEUED; phase < PHASE_COUNT; phase++) {
        if (strcmp(job.status, phase_words[phase]) == 0) {
            job.phase = (enum phase)phase;
        }
    }
    members_read(&job, root);
    json_decref(root);
    *out = job;
    return 0;
}

bool
job_has_ended(const struct job *job)
{
    return job->phase >= PHASE_SUCCEEDED;
}

const char *
job_reason_text(const struct job *job)
{
    static const struct {
        const char *word, *text;
    } reasons[] = {
        { "no_worker", "no worker is connected" },
        { "no_model", "no worker has this model" },
        { "too_large", "too large for every worker" },
    };
    for (size_t i = 0; i < ARRAY_LENGTH(reasons); i++) {
        if (strcmp(job->reason, reasons[i].word) == 0) {
            return reasons[i].text;
        }
    }
    return job->reason;
}
