#pragma once
/*
 * parcel — what is kept for one lease and is no business of the agent core: the request, the grant
 * to upload, the pictures on their way from the instance to the store.
 *
 *     parcel_new (JOB) -> parcel_check (drawn) -> parcel_upload, each picture -> parcel_result
 * (DONE)
 */
#include "common/helper_thread.h"
#include "worker/instance.h"
#include "worker/upload.h"

struct parcel; /* opaque */

/* Called once, later, unless the parcel is dropped or destroyed before. message: CHECK_BAD, valid
 * for the call; picture: CHECK_UNIFORM, the SHA-256 of the first one-coloured picture. */
typedef void (*parcel_checked_fn)(void *context, const struct parcel *parcel,
                                  enum check_outcome outcome, struct slice message,
                                  const uint8_t *picture);
typedef void (*parcel_uploaded_fn)(void *context, const struct parcel *parcel,
                                   enum upload_outcome outcome);
struct parcel_events {
    parcel_checked_fn on_checked;
    parcel_uploaded_fn on_uploaded;
    void *context;
};

struct parcel_config {
    uint8_t slot; /* the agent's names for it */
    uint32_t serial;
    const struct job_frame *frame;   /* lease, request and grant are copied */
    const struct envelope *envelope; /* of frame->request */
    const struct job_body *body;
    const struct parcel_events *events; /* copied */
};

int parcel_new(struct parcel **out, const struct parcel_config *config); /* 0 or -ENOMEM */
/* Cancels what is under way and frees everything. NULL is fine. */
void parcel_destroy(struct parcel **self_p);
/* Cancels what is under way and frees the pictures: the lease has failed. */
void parcel_drop(struct parcel *self);

uint8_t parcel_slot(const struct parcel *self);
uint32_t parcel_serial(const struct parcel *self);
struct slice parcel_request(const struct parcel *self); /* borrowed */
void parcel_set_grant(struct parcel *self, const struct list *bases, struct slice token);
/* Checks and encodes the pictures on the helper thread; *drawing becomes the parcel's and is
 * emptied. -EAGAIN: the helper thread takes no more; -ENOMEM. The pictures are then freed. */
int parcel_check(struct parcel *self, struct helper_thread *helper, struct drawing *drawing);
/* Puts a checked picture to a base. -EINVAL: there is no such base, or its address is bad. */
int parcel_upload(struct parcel *self, struct http_client *http, uint8_t picture, uint8_t base);
/* The packed result; the first call makes it and frees the pictures. Borrowed. */
struct slice parcel_result(struct parcel *self, struct slice worker, struct slice instance,
                           uint32_t warnings);
