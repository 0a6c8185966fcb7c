#pragma once
/*
 * capability — what this worker can draw, as its HELLO says it: models and the largest picture.
 *
 * Models are those that its instances told or the user set; what was known stays known while an
 * instance is down. An agent is best run with instances of one kind: pull is a mere number, so of
 * two models one may be sent when only an instance of the other is free, which is handed back then.
 */
#include "proto/frames.h"
#include "worker/instance.h"

struct capability {
    uint32_t version; /* +1 when the rest changes; 0: no model is known */
    uint32_t n_models;
    char models[LIMIT_MODELS][LIMIT_MODEL_NAME + 1];
    uint32_t max_pixels; /* that every instance takes */
};

/* Looks at the instances again. model: what the user says that all of them draw; NULL: they tell.
 */
void capability_refresh(struct capability *self, const struct supervisor *supervisor,
                        const char *model);
/* Bit i: instance i has the model and takes the size. */
uint32_t capability_fits(const struct supervisor *supervisor, const char *model,
                         const struct envelope *envelope);
