#pragma once
/*
 * progress — shows how a job goes: one line redrawn in place on a terminal, plain lines in a pipe.
 *
 *     terminal:  ⠹ step 5/8 ▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓░░░░░░░░░ eta 2 s, on mia
 *     pipe:      queued #3, eta 12 s
 *                step 5/8 on mia
 *
 * A line is never wider than the terminal, even where it shows the letters of the bar two columns
 * wide, as terminals set up for Chinese may.
 */
#include "cli/job.h"
#include "cli/terminal.h"

enum { PROGRESS_TEXT = 1024 };

struct progress {
    struct terminal terminal;
    int fd;
    bool quiet; /* nothing is shown */
    bool drawn; /* something stands on the line */
    uint32_t frame;
    struct job job;           /* seen last; id "": none yet */
    char last[PROGRESS_TEXT]; /* line printed last in a pipe */
    char trouble[256];        /* shown instead while it is not "" */
};

/* The line for a job. `frame` counts redraws. Pure. */
void progress_text(char out[PROGRESS_TEXT], const struct job *job, const struct terminal *terminal,
                   uint32_t frame);

void progress_open(struct progress *self, int fd, bool quiet);
void progress_job(struct progress *self, const struct job *job);
/* Says that something is amiss for a while, until "". */
void progress_trouble(struct progress *self, const char *text);
/* Redraws: a terminal sees that we live. */
void progress_tick(struct progress *self);
/* Takes the line away, so that something else can be printed. */
void progress_clear(struct progress *self);
