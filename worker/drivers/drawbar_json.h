#pragma once
/*
 * drawbar_json — the JSON of our own instance API (worker/instance/API.md), read and written.
 *
 * What an instance sends is not trusted: sizes, types and ranges are checked, texts are cut.
 */
#include "worker/drivers/driver.h"

enum view_state {
    VIEW_QUEUED,
    VIEW_RUNNING,
    VIEW_SUCCEEDED,
    VIEW_FAILED,
    VIEW_CANCELLED,
    VIEW_STATE_COUNT,
};

/* A job as the instance tells it. */
struct job_view {
    enum view_state state;
    uint32_t step, steps;
    uint32_t gpu_ms;
    uint32_t n_images; /* as told, may be over LIMIT_IMAGES */
    bool has_seed[LIMIT_IMAGES];
    uint32_t seeds[LIMIT_IMAGES];
    char epoch[64];
    char error_code[48];
    char message[120];
};

const char *job_view_state_name(enum view_state state);
bool job_view_has_ended(const struct job_view *view);
/* False: no job, *out is untouched. */
bool job_view_parse(struct job_view *out, const void *text, size_t length);
/* Fills *out; answered is false, and the message set, if it makes no sense. */
void health_parse(struct health *out, const void *text, size_t length);
/* The message of an error answer, or its first characters, printable. */
void problem_text(const void *text, size_t length, char *out, size_t size);
/* The body of POST /v1/jobs, malloc'ed; NULL: the prompt is not UTF-8. */
char *job_text(const struct draw_request *request);
