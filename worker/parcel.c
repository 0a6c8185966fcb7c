#include "worker/parcel.h"
#include "worker/picture.h"
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct checked_picture {
    void *bytes;
    size_t length;
    uint32_t seed;
    uint8_t sha256[32];
};

struct parcel {
    uint8_t slot;
    uint32_t serial;
    struct lease lease;
    struct parcel_events events;
    struct upload_grant grant;
    uint8_t *request;
    uint32_t request_length;
    uint16_t width, height;
    enum picture_format format;
    uint8_t quality;

    struct check *check;    /* under way on the helper thread */
    struct http_call *call; /* under way */
    uint8_t base;           /* of the call */
    uint32_t n_pictures;
    uint32_t gpu_ms;
    struct checked_picture pictures[LIMIT_IMAGES];
    struct buffer result; /* length 0: not packed yet */
};

/* A check cannot be cancelled: it has what it needs, and finds its parcel gone. */
struct check {
    struct parcel *parcel; /* NULL: gone; for the loop's thread only */
    struct drawing drawing;
    uint16_t width, height;
    enum picture_format format;
    uint8_t quality;
    bool ran;
    enum check_outcome outcome;
    uint32_t n_done;
    struct checked_picture pictures[LIMIT_IMAGES];
    uint32_t uniform; /* number of the first one-coloured picture */
    char message[sizeof((struct picture_check *)0)->message];
};

static void
pictures_free(struct checked_picture *pictures, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        free(pictures[i].bytes);
        pictures[i] = (struct checked_picture){ 0 };
    }
}

int
parcel_new(struct parcel **out, const struct parcel_config *config)
{
    const struct job_frame *frame = config->frame;
    struct parcel *self = calloc(1, sizeof *self);
    uint8_t *request = malloc(frame->request.length);
    if (self == NULL || request == NULL) {
        free(self);
        free(request);
        return -ENOMEM;
    }
    memcpy(request, frame->request.bytes, frame->request.length);
    *self = (struct parcel){ .slot = config->slot,
                             .serial = config->serial,
                             .lease = frame->lease,
                             .events = *config->events,
                             .request = request,
                             .request_length = frame->request.length,
                             .width = config->envelope->width,
                             .height = config->envelope->height,
                             .format = (enum picture_format)config->body->format,
                             .quality = config->body->quality };
    upload_grant_set(&self->grant, &frame->bases, frame->token);
    *out = self;
    return 0;
}

void
parcel_drop(struct parcel *self)
{
    http_call_cancel(&self->call);
    if (self->check != NULL) {
        self->check->parcel = NULL;
        self->check = NULL;
    }
    pictures_free(self->pictures, self->n_pictures);
    self->n_pictures = 0;
}

void
parcel_destroy(struct parcel **self_p)
{
    struct parcel *self = *self_p;
    if (self != NULL) {
        parcel_drop(self);
        buffer_destroy(&self->result);
        free(self->request);
        free(self);
        *self_p = NULL;
    }
}

uint8_t
parcel_slot(const struct parcel *self)
{
    return self->slot;
}

uint32_t
parcel_serial(const struct parcel *self)
{
    return self->serial;
}

struct slice
parcel_request(const struct parcel *self)
{
    return (struct slice){ .bytes = self->request, .length = self->request_length };
}

void
parcel_set_grant(struct parcel *self, const struct list *bases, struct slice token)
{
    upload_grant_set(&self->grant, bases, token);
}

/* -- the check -- */

static void
check_run(void *context)
{
    struct check *self = context;
    self->ran = true;
    self->outcome = CHECK_GOOD;
    for (uint32_t i = 0; i < self->drawing.n; i++) {
        struct drawn_picture *drawn = &self->drawing.pictures[i];
        struct picture_check check = { .width = self->width,
                                       .height = self->height,
                                       .format = self->format,
                                       .quality = self->quality };
        enum picture_verdict verdict = picture_check(&check, drawn->bytes, drawn->length);
        drawn->bytes = NULL; /* taken over */
        struct checked_picture *picture = &self->pictures[self->n_done++];
        picture->bytes = check.bytes;
        picture->length = check.length;
        picture->seed = drawn->seed;
        memcpy(picture->sha256, check.sha256, sizeof picture->sha256);
        if (verdict == PICTURE_UNIFORM && self->outcome == CHECK_GOOD) {
            self->outcome = CHECK_UNIFORM;
            self->uniform = i;
        } else if (verdict != PICTURE_OK && verdict != PICTURE_UNIFORM) {
            self->outcome = CHECK_BAD;
            memcpy(self->message, check.message, sizeof self->message);
            return;
        }
    }
}

static void
check_free(struct check *self)
{
    pictures_free(self->pictures, self->n_done);
    drawing_clear(&self->drawing);
    free(self);
}

static void
check_done(void *context)
{
    struct check *self = context;
    struct parcel *parcel = self->parcel;
    if (parcel == NULL || !self->ran) { /* not run: the process ends */
        if (parcel != NULL) {
            parcel->check = NULL;
        }
        check_free(self);
        return;
    }
    parcel->check = NULL;
    parcel->gpu_ms = self->drawing.gpu_ms;
    struct slice message = slice_of(self->message);
    const uint8_t *picture = NULL;
    if (self->outcome != CHECK_BAD) {
        parcel->n_pictures = self->n_done;
        memcpy(parcel->pictures, self->pictures, sizeof parcel->pictures);
        self->n_done = 0; /* the parcel's now */
    }
    uint8_t hash[32];
    if (self->outcome == CHECK_UNIFORM) {
        memcpy(hash, parcel->pictures[self->uniform].sha256, sizeof hash);
        picture = hash; /* the callee may drop the parcel's pictures */
    }
    parcel->events.on_checked(parcel->events.context, parcel, self->outcome, message, picture);
    check_free(self);
}

int
parcel_check(struct parcel *self, struct helper_thread *helper, struct drawing *drawing)
{
    assert(self->check == NULL && self->n_pictures == 0);
    struct check *check = calloc(1, sizeof *check);
    if (check == NULL) {
        drawing_clear(drawing);
        return -ENOMEM;
    }
    *check = (struct check){ .parcel = self,
                             .drawing = *drawing,
                             .width = self->width,
                             .height = self->height,
                             .format = self->format,
                             .quality = self->quality };
    *drawing = (struct drawing){ 0 };
    int rc = helper_thread_run(helper, check_run, check_done, check);
    if (rc != 0) {
        check_free(check);
        return rc;
    }
    self->check = check;
    return 0;
}

/* -- the upload -- */

static void
on_response(void *context, const struct http_response *response)
{
    struct parcel *self = context;
    self->call = NULL;
    enum upload_outcome outcome = upload_judge(response, self->grant.bases[self->base]);
    self->events.on_uploaded(self->events.context, self, outcome);
}

int
parcel_upload(struct parcel *self, struct http_client *http, uint8_t picture, uint8_t base)
{
    assert(self->call == NULL && picture < self->n_pictures);
    struct upload upload = { .grant = &self->grant,
                             .lease = &self->lease,
                             .format = self->format,
                             .base = base,
                             .picture = picture,
                             .bytes = self->pictures[picture].bytes,
                             .length = self->pictures[picture].length };
    self->base = base;
    self->call = upload_start(http, &upload, on_response, self);
    return self->call == NULL ? -EINVAL : 0;
}

/* -- the result -- */

struct slice
parcel_result(struct parcel *self, struct slice worker, struct slice instance, uint32_t warnings)
{
    if (self->result.length == 0) {
        struct result_image images[LIMIT_IMAGES];
        for (uint32_t i = 0; i < self->n_pictures; i++) {
            const struct checked_picture *picture = &self->pictures[i];
            images[i] = (struct result_image){ .width = self->width,
                                               .height = self->height,
                                               .seed = picture->seed,
                                               .bytes = (uint32_t)picture->length,
                                               .format = (uint8_t)self->format,
                                               .sha256 = { .bytes = picture->sha256,
                                                           .length = sizeof picture->sha256 } };
        }
        struct result result = { .worker = worker,
                                 .instance = instance,
                                 .gpu_ms = self->gpu_ms,
                                 .warnings = warnings,
                                 .message = slice_of(""),
                                 .images = { .items = images, .count = self->n_pictures } };
        pack_struct(&self->result, &result_shape, &result);
        pictures_free(self->pictures, self->n_pictures);
        self->n_pictures = 0;
    }
    return (struct slice){ .bytes = self->result.bytes, .length = (uint32_t)self->result.length };
}
