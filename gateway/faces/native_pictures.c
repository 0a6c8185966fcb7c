#include "common/scope.h"
#include "gateway/faces/native.h"
#include "gateway/json_write.h"
#include "gateway/problem.h"
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ETAG_BYTES = 2 * 32 + 3 }; /* a quoted SHA-256 */

/* A client that wants pictures: first the job is looked up, then one file is read. */
struct wanted {
    struct gate *gate;
    struct http_exchange *exchange; /* NULL: the client has left while the file was read */
    struct lookup *lookup;
    bool reading;
    uint32_t index;
    struct job_id id;
    struct result_image image;
    char etag[ETAG_BYTES + 1];
};

static void
wanted_gone(void *context)
{
    struct wanted *self = context;
    lookup_drop(&self->lookup);
    self->exchange = NULL;
    if (!self->reading) { /* otherwise on_read() frees it */
        free(self);
    }
}

static struct wanted *
wanted_new(const struct route_call *call, const struct job_id *id, uint32_t index)
{
    struct wanted *self = calloc(1, sizeof *self);
    if (self == NULL) {
        abort();
    }
    self->gate = call->gate;
    self->exchange = call->exchange;
    self->index = index;
    self->id = *id;
    http_on_gone(call->exchange, wanted_gone, self);
    return self;
}

/* False: answered, because the job has no pictures to give. */
static bool
view_check(struct wanted *self, enum lookup_verdict verdict, const struct job_view *view,
           struct job_parts *parts)
{
    if (verdict == LOOKUP_FOUND && job_view_unpack(&self->gate->unpacker, view, parts) != 0) {
        verdict = LOOKUP_BROKEN;
    }
    if (verdict != LOOKUP_FOUND) {
        native_answer_missing(self->exchange, verdict);
        return false;
    }
    enum job_state state = (enum job_state)view->entry.header.state;
    if (state != JOB_SUCCEEDED) {
        char detail[64];
        (void)snprintf(detail, sizeof detail, "The job is %s; its pictures come with succeeded",
                       job_state_name(state));
        problem_send(self->exchange,
                     &(struct problem_report){ .problem = PROBLEM_NOT_FINISHED,
                                               .detail = detail,
                                               .job_status = job_state_name(state) });
        return false;
    }
    return true;
}

static void
on_images(void *context, enum lookup_verdict verdict, const struct job_view *view)
{
    CLEANUP(buffer_destroy) struct buffer json = { 0 };
    struct wanted *self = context;
    struct job_parts parts;
    self->lookup = NULL; /* told: dead */
    if (view_check(self, verdict, view, &parts)) {
        put_open(&json, '{');
        put_key(&json, "images");
        render_images(&json, view, &parts);
        put_close(&json, '}');
        answer_json(self->exchange, 200, &json);
    }
    free(self);
}

void
native_images(const struct route_call *call)
{
    struct job_id id;
    if (route_job_id(call, &id)) {
        struct wanted *self = wanted_new(call, &id, 0);
        const struct lookup_order order = { call->tenant, id, on_images, self };
        self->lookup = lookups_ask(call->gate->jobs->lookups, &order);
    }
}

/* -- one picture -- */

static void
caching_headers(const struct wanted *self)
{
    http_add_header(self->exchange, "ETag", self->etag);
    http_add_header(self->exchange, "Cache-Control", "private, max-age=31536000, immutable");
}

static void
picture_send(const struct wanted *self, void *bytes, size_t length)
{
    enum picture_format format = (enum picture_format)self->image.format;
    char id[JOB_ID_TEXT + 1];
    char disposition[96];
    job_id_print(&self->id, id);
    (void)snprintf(disposition, sizeof disposition, "inline; filename=\"%s-%u.%s\"", id,
                   self->index, picture_format_name(format));
    http_add_header(self->exchange, "Content-Disposition", disposition);
    caching_headers(self);
    http_respond_take(self->exchange, 200, picture_format_type(format), bytes, length);
}

static void
on_read(void *context, int rc, void *bytes, size_t length)
{
    struct wanted *self = context;
    if (self->exchange == NULL) {
        free(bytes);
    } else if (rc == 0) {
        picture_send(self, bytes, length);
    } else if (rc == -EAGAIN) {
        problem_send(self->exchange,
                     &(struct problem_report){ .problem = PROBLEM_BUSY,
                                               .detail = "Too many pictures are being read",
                                               .retry_after_s = 1 });
    } else if (rc == -ENOENT) {
        problem_send_detail(self->exchange, PROBLEM_GONE, "The picture's file is missing");
    } else {
        problem_send_detail(self->exchange, PROBLEM_INTERNAL, "The picture cannot be read");
    }
    free(self);
}

static void
etag_write(char out[ETAG_BYTES + 1], struct slice sha256)
{
    const uint8_t *bytes = sha256.bytes;
    size_t used = 0;
    out[used++] = '"';
    for (uint32_t i = 0; i < sha256.length && used + 3 < ETAG_BYTES; i++) {
        used += (size_t)snprintf(out + used, 3, "%02x", bytes[i]);
    }
    out[used++] = '"';
    out[used] = '\0';
}

static void
on_job(void *context, enum lookup_verdict verdict, const struct job_view *view)
{
    struct wanted *self = context;
    struct job_parts parts;
    self->lookup = NULL; /* told: dead */
    if (!view_check(self, verdict, view, &parts)) {
        free(self);
        return;
    }
    const struct result_image *images = parts.result.images.items;
    if (self->index >= parts.result.images.count) {
        problem_send_detail(self->exchange, PROBLEM_UNKNOWN, "The job has pictures 0 to %d",
                            (int)parts.result.images.count - 1);
        free(self);
        return;
    }
    self->image = images[self->index];
    etag_write(self->etag, self->image.sha256);
    const char *known = http_header(self->exchange, "If-None-Match");
    if (known != NULL && (strcmp(known, "*") == 0 || strstr(known, self->etag) != NULL)) {
        caching_headers(self);
        http_respond(self->exchange, 304, NULL, NULL, 0);
        free(self);
        return;
    }
    const struct job_header *header = &view->entry.header;
    const struct lease accepted = { self->id, header->epoch, header->grant };
    self->reading = true;
    artifacts_read(self->gate->shared->artifacts, self->gate->helper, &accepted,
                   (uint8_t)self->index, on_read, self);
}

void
native_picture(const struct route_call *call)
{
    struct job_id id;
    struct slice digit = call->segments[1];
    if (!route_job_id(call, &id)) {
        return;
    }
    uint32_t index =
        digit.length == 1 ? (uint32_t)(((const char *)digit.bytes)[0] - '0') : UINT32_MAX;
    if (index >= LIMIT_IMAGES) {
        problem_send_detail(call->exchange, PROBLEM_UNKNOWN, "Pictures are numbered from 0 to %d",
                            LIMIT_IMAGES - 1);
        return;
    }
    struct wanted *self = wanted_new(call, &id, index);
    const struct lookup_order order = { call->tenant, id, on_job, self };
    self->lookup = lookups_ask(call->gate->jobs->lookups, &order);
}
