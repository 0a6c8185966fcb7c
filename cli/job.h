#pragma once
/*
 * job — what a server tells of one job, read out of its JSON. Texts are cut to fit; what is missing
 * or of another type counts as not told.
 */
#include "common/ids.h"
#include "common/limits.h"
#include <stddef.h>

enum phase {
    PHASE_UNKNOWN, /* a word that this version does not know: taken as "goes on" */
    PHASE_QUEUED,
    PHASE_RUNNING,
    PHASE_SUCCEEDED,
    PHASE_FAILED,
    PHASE_CANCELLED,
    PHASE_EXPIRED,
    PHASE_COUNT,
};

struct job_image {
    char url[LIMIT_URL]; /* a path */
    uint32_t width, height;
    uint64_t seed;
};

struct job {
    char id[JOB_ID_TEXT + 1];
    char status[16]; /* the server's word */
    enum phase phase;
    int64_t position, eta_s;             /* -1: not told */
    int64_t queued_ms, run_ms, total_ms; /* -1: not told */
    uint32_t step, steps, attempt;
    uint64_t seed;
    char worker[LIMIT_WORKER_NAME + 1];
    char reason[64];                  /* why it waits: "no_worker" */
    char error[64];                   /* code of a failure */
    char message[LIMIT_REASON_BYTES]; /* of a failure */
    char prompt[512];
    bool uniform; /* warned: the picture has one colour */
    struct job_image images[LIMIT_IMAGES];
    uint32_t n_images;
};

/* 0, or -EBADMSG: no JSON object with id and status; *out is untouched. */
int job_read(struct job *out, const char *json, size_t length);
bool job_has_ended(const struct job *job);
/* Why a queued job waits, as a clause: "no worker is connected"; "" if there is no reason. */
const char *job_reason_text(const struct job *job);
