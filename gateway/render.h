#pragma once
/*
 * render — what is known of a job, as the JSON of the native API.
 *
 * One document for all answers: GET, a long poll, an event, an entry of a list. What is not known
 * is null, never left out. Pure.
 */
#include "proto/frames.h"

/* A job as anyone may see it: from the broker's memory, or from its record. */
struct job_view {
    struct job_entry
        entry;           /* with request; with result once ended; position 0: unknown or running */
    uint64_t expires_ms; /* end of the record's life, Redis TIME; 0: unknown, or not ended */
    /* A FAILED job's attempts, each a JSON object; read from Redis, checked here. */
    struct slice attempts[LIMIT_GRANTS];
    uint32_t n_attempts;
};

/* What POST answers before anything happened. */
struct fresh_job {
    const struct accepted *accepted;
    uint32_t seed;
};

/* The parts of a view that are packed, unpacked. */
struct job_parts {
    struct envelope envelope;
    struct job_body body;
    struct result result; /* zero unless has_result */
    bool has_result;
};
/* Decodes request and result of the view. 0, or -EBADMSG: the record is broken. */
int job_view_unpack(struct record_unpacker *unpacker, const struct job_view *view,
                    struct job_parts *out);

/* Appends the whole document; `parts` are the view's. */
void render_job(struct buffer *out, const struct job_view *view, const struct job_parts *parts);
/* Appends the answer to an accepted submit. */
void render_fresh(struct buffer *out, const struct fresh_job *fresh);
/* Appends the array of pictures: [] unless the job SUCCEEDED. */
void render_images(struct buffer *out, const struct job_view *view, const struct job_parts *parts);
