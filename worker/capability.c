#include "worker/capability.h"
#include <string.h>

static const char *
model_of(const struct supervisor *supervisor, uint32_t index, const char *model)
{
    const char *told = instance_model(supervisor, index);
    enum instance_state state = instance_state(supervisor, index);
    bool answers = told[0] != '\0' || state == INSTANCE_READY || state == INSTANCE_BUSY;
    return model != NULL && answers ? model : told;
}

static void
add_model(struct capability *self, const char *model)
{
    size_t length = strlen(model);
    if (length == 0 || length > LIMIT_MODEL_NAME || self->n_models == LIMIT_MODELS ||
        !utf8_valid(model, length, NULL)) {
        return;
    }
    for (uint32_t i = 0; i < self->n_models; i++) {
        if (strcmp(self->models[i], model) == 0) {
            return;
        }
    }
    memcpy(self->models[self->n_models++], model, length + 1);
}

void
capability_refresh(struct capability *self, const struct supervisor *supervisor, const char *model)
{
    struct capability now = { .max_pixels = LIMIT_SIDE_MAX * LIMIT_SIDE_MAX };
    for (uint32_t i = 0; i < supervisor_count(supervisor); i++) {
        uint32_t pixels = instance_max_pixels(supervisor, i);
        add_model(&now, model_of(supervisor, i, model));
        now.max_pixels = pixels > 0 && pixels < now.max_pixels ? pixels : now.max_pixels;
    }
    bool same = now.n_models == self->n_models && now.max_pixels == self->max_pixels &&
                memcmp(now.models, self->models, sizeof now.models) == 0;
    if (now.n_models > 0 && !same) {
        now.version = self->version + 1;
        *self = now;
    }
}

uint32_t
capability_fits(const struct supervisor *supervisor, const char *model,
                const struct envelope *envelope)
{
    uint32_t fits = 0;
    uint32_t pixels = (uint32_t)envelope->width * envelope->height;
    for (uint32_t i = 0; i < supervisor_count(supervisor); i++) {
        uint32_t most = instance_max_pixels(supervisor, i);
        struct slice has = slice_of(model_of(supervisor, i, model));
        bool able = envelope->model.length == 0 || slice_equal(has, envelope->model);
        if (able && (most == 0 || pixels <= most)) {
            fits |= UINT32_C(1) << i;
        }
    }
    return fits;
}
