#include "gateway/render.h"
#include "gateway/json_write.h"
#include <assert.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

enum { PATH_MAX_ = 64 + JOB_ID_TEXT }; /* "/v1/jobs/<id>/images/7" and shorter */

int
job_view_unpack(struct record_unpacker *unpacker, const struct job_view *view,
                struct job_parts *out)
{
    const struct job_entry *entry = &view->entry;
    size_t used = 0;
    *out = (struct job_parts){ 0 };
    int rc = job_request_decode(unpacker, entry->request, &out->envelope, &out->body);
    if (rc == 0 && entry->result.length > 0) {
        rc = unpack_struct(unpacker->result, &result_shape, entry->result, &out->result, &used);
        rc = rc == 0 && used != entry->result.length ? -EBADMSG : rc;
        out->has_result = rc == 0;
    }
    return rc;
}

static void
uint_or_null(struct buffer *out, const char *key, bool known, uint64_t value)
{
    put_key(out, key);
    if (known) {
        put_uint(out, value);
    } else {
        put_null(out);
    }
}

static void
time_or_null(struct buffer *out, const char *key, uint64_t ms)
{
    put_key(out, key);
    if (ms != 0) {
        put_time(out, ms);
    } else {
        put_null(out);
    }
}

static void
word_or_null(struct buffer *out, const char *key, struct slice text)
{
    put_key(out, key);
    if (text.length > 0) {
        put_text(out, text);
    } else {
        put_null(out);
    }
}

static void
link_write(struct buffer *out, const char *key, const char *id, const char *rest)
{
    char path[PATH_MAX_];
    (void)snprintf(path, sizeof path, "/v1/jobs/%s%s", id, rest);
    put_key(out, key);
    put_word(out, path);
}

static void
links_write(struct buffer *out, const char *id)
{
    put_key(out, "links");
    put_open(out, '{');
    link_write(out, "self", id, "");
    link_write(out, "events", id, "/events");
    link_write(out, "cancel", id, "");
    link_write(out, "images", id, "/images");
    put_close(out, '}');
}

void
render_fresh(struct buffer *out, const struct fresh_job *fresh)
{
    const struct accepted *accepted = fresh->accepted;
    char id[JOB_ID_TEXT + 1];
    bool queued = accepted->position > 0;
    job_id_print(&accepted->id, id);
    put_open(out, '{');
    put_key(out, "id");
    put_word(out, id);
    put_key(out, "status");
    put_word(out, job_state_name(queued ? JOB_QUEUED : JOB_RUNNING));
    uint_or_null(out, "position", queued, accepted->position);
    uint_or_null(out, "eta_s", accepted->eta_s != ETA_UNKNOWN, accepted->eta_s);
    word_or_null(out, "reason", slice_of(wait_reason_name((enum wait_reason)accepted->reason)));
    time_or_null(out, "created_at", accepted->submit_ms);
    put_key(out, "seed");
    put_uint(out, fresh->seed);
    links_write(out, id);
    put_close(out, '}');
}

/* A later time minus an earlier one, or null if either has not come. */
static void
span_write(struct buffer *out, const char *key, uint64_t from, uint64_t to)
{
    uint_or_null(out, key, from != 0 && to >= from, to - from);
}

static void
timings_write(struct buffer *out, const struct job_header *header)
{
    bool ended = job_is_terminal((enum job_state)header->state);
    bool ran = header->state != JOB_QUEUED && header->state != JOB_EXPIRED && header->start_ms != 0;
    uint64_t begin = ran ? header->start_ms : ended ? header->change_ms : 0;
    put_key(out, "timings");
    put_open(out, '{');
    span_write(out, "queued_ms", header->submit_ms, begin);
    span_write(out, "run_ms", ran ? header->start_ms : 0, ended ? header->change_ms : 0);
    span_write(out, "total_ms", header->submit_ms, ended ? header->change_ms : 0);
    put_close(out, '}');
}

static void
progress_write(struct buffer *out, const struct job_entry *entry, const struct job_parts *parts)
{
    const struct job_header *header = &entry->header;
    uint8_t step = entry->steps > 0 ? entry->step : header->progress;
    uint8_t steps = entry->steps > 0 ? entry->steps : parts->envelope.steps;
    if (header->state == JOB_SUCCEEDED) {
        step = steps;
    } else if (header->state == JOB_QUEUED) {
        step = 0;
    }
    put_key(out, "progress");
    put_open(out, '{');
    put_key(out, "step");
    put_uint(out, step < steps ? step : steps);
    put_key(out, "steps");
    put_uint(out, steps);
    put_close(out, '}');
}

static void
request_write(struct buffer *out, const struct job_parts *parts)
{
    const struct envelope *envelope = &parts->envelope;
    const struct job_body *body = &parts->body;
    put_key(out, "request");
    put_open(out, '{');
    put_key(out, "prompt");
    put_text(out, body->prompt);
    put_key(out, "negative_prompt");
    put_text(out, body->negative_prompt);
    put_key(out, "model");
    put_text(out, envelope->model);
    put_key(out, "width");
    put_uint(out, envelope->width);
    put_key(out, "height");
    put_uint(out, envelope->height);
    put_key(out, "steps");
    put_uint(out, envelope->steps);
    put_key(out, "guidance");
    put_number(out, body->guidance);
    put_key(out, "seed");
    put_uint(out, body->seed);
    put_key(out, "n");
    put_uint(out, envelope->n);
    put_key(out, "format");
    put_word(out, picture_format_name((enum picture_format)body->format));
    put_key(out, "quality");
    put_uint(out, body->quality);
    put_key(out, "priority");
    put_word(out, job_class_name((enum job_class)envelope->class_));
    put_key(out, "expires_in_s");
    put_uint(out, envelope->expires_in_s);
    put_key(out, "metadata");
    put_raw(out, body->metadata.length > 0 ? body->metadata : slice_of("{}"));
    put_close(out, '}');
}

void
render_images(struct buffer *out, const struct job_view *view, const struct job_parts *parts)
{
    const struct result_image *images = parts->result.images.items;
    bool done = view->entry.header.state == JOB_SUCCEEDED && parts->has_result;
    char id[JOB_ID_TEXT + 1];
    char rest[24];
    job_id_print(&view->entry.id, id);
    put_open(out, '[');
    for (uint32_t i = 0; done && i < parts->result.images.count; i++) {
        (void)snprintf(rest, sizeof rest, "/images/%u", i);
        put_open(out, '{');
        link_write(out, "url", id, rest);
        put_key(out, "width");
        put_uint(out, images[i].width);
        put_key(out, "height");
        put_uint(out, images[i].height);
        put_key(out, "seed");
        put_uint(out, images[i].seed);
        put_key(out, "format");
        put_word(out, picture_format_name((enum picture_format)images[i].format));
        put_key(out, "bytes");
        put_uint(out, images[i].bytes);
        put_close(out, '}');
    }
    put_close(out, ']');
}

/* An attempt as the broker wrote it, or nothing if it is not a JSON object. */
static void
attempt_write(struct buffer *out, struct slice text)
{
    json_t *attempt = json_loadb(text.bytes, text.length, JSON_REJECT_DUPLICATES, NULL);
    char *clean = json_is_object(attempt) ? json_dumps(attempt, JSON_COMPACT) : NULL;
    if (clean != NULL) {
        put_raw(out, slice_of(clean));
    }
    free(clean);
    json_decref(attempt);
}

static void
error_write(struct buffer *out, const struct job_view *view, const struct job_parts *parts)
{
    const struct job_entry *entry = &view->entry;
    put_key(out, "error");
    if (entry->header.state != JOB_FAILED) {
        put_null(out);
        return;
    }
    bool told = parts->has_result; /* the record's word before the frame's */
    uint8_t code = told ? parts->result.code : entry->code;
    put_open(out, '{');
    put_key(out, "code");
    put_word(out, fail_code_name((enum fail_code)code));
    put_key(out, "message");
    put_text(out, told ? parts->result.message : entry->message);
    put_key(out, "attempts");
    put_open(out, '[');
    for (uint32_t i = 0; i < view->n_attempts; i++) {
        attempt_write(out, view->attempts[i]);
    }
    put_close(out, ']');
    put_close(out, '}');
}

static void
warnings_write(struct buffer *out, const struct job_parts *parts)
{
    put_key(out, "warnings");
    put_open(out, '[');
    if (parts->result.warnings & WARNING_UNIFORM_IMAGE) {
        put_word(out, "uniform_image");
    }
    put_close(out, ']');
}

void
render_job(struct buffer *out, const struct job_view *view, const struct job_parts *parts)
{
    const struct job_entry *entry = &view->entry;
    const struct job_header *header = &entry->header;
    bool queued = header->state == JOB_QUEUED;
    bool live = !job_is_terminal((enum job_state)header->state);
    struct slice worker = { 0 }; /* nobody's while it is queued */
    if (!queued) {
        worker = entry->worker.length > 0 ? entry->worker : parts->result.worker;
    }
    char id[JOB_ID_TEXT + 1];
    job_id_print(&entry->id, id);
    put_open(out, '{');
    put_key(out, "id");
    put_word(out, id);
    put_key(out, "status");
    put_word(out, job_state_name((enum job_state)header->state));
    uint_or_null(out, "position", queued && entry->position > 0, entry->position);
    uint_or_null(out, "eta_s", live && entry->eta_s != ETA_UNKNOWN, entry->eta_s);
    progress_write(out, entry, parts);
    put_key(out, "attempt");
    put_uint(out, header->grant);
    word_or_null(out, "worker", worker);
    time_or_null(out, "created_at", header->submit_ms);
    put_key(out, "seed");
    put_uint(out, parts->body.seed);
    timings_write(out, header);
    request_write(out, parts);
    put_key(out, "images");
    render_images(out, view, parts);
    warnings_write(out, parts);
    word_or_null(out, "reason",
                 slice_of(queued ? wait_reason_name((enum wait_reason)entry->reason) : ""));
    time_or_null(out, "expires_at", live ? 0 : view->expires_ms);
    error_write(out, view, parts);
    links_write(out, id);
    put_close(out, '}');
}
