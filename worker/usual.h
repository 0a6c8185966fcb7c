#pragma once
/*
 * usual — how long a step of an instance usually takes, and how long its silence is borne. Pure.
 *
 * Jobs differ: a step of 2048 x 2048 costs 16 times one of 512 x 512, and a step of two pictures
 * twice one of one. So what is learned is the time of a step for each pixel, and what is usual for
 * a job is that times its pixels.
 */
#include "common/limits.h"
#include <stdbool.h>
#include <stdint.h>

struct usual {
    double pixel_ms; /* of one step, moving average; nothing is known: 0 */
    bool rough;      /* it has more in it than a step: the next sound one replaces it */
};

/* n_steps of a job with so many pixels (all its pictures) took so long. rough: the instance may
 * have loaded or compiled meanwhile. Such a time is better than none, but no more than that. */
void usual_learn(struct usual *self, uint32_t pixels, uint32_t n_steps, int64_t took_ms,
                 bool rough);
/* A step of a job with so many pixels; 0: nothing is known. */
int64_t usual_step_ms(const struct usual *self, uint32_t pixels);

struct silence {
    uint32_t pixels;
    uint32_t
        steps; /* 1 where the instance tells steps; else of the whole job: it tells but its end */
    int64_t least_ms; /* LIMIT_STUCK_MS, or LIMIT_OPAQUE_MS where no steps are told */
    int64_t warm_ms;  /* and this much while it warms up; 0: it is warm */
};
/* Longer than this is a fault: max(LIMIT_STUCK_STEPS x the usual, the least). */
int64_t usual_limit_ms(const struct usual *self, const struct silence *silence);
