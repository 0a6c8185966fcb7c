#include "worker/usual.h"

/* Weight of what was known before, in a moving average. */
enum { OLD = 7, ALL = 8 };

void
usual_learn(struct usual *self, uint32_t pixels, uint32_t n_steps, int64_t took_ms, bool rough)
{
    if (pixels == 0 || n_steps == 0 || took_ms <= 0) {
        return;
    }
    double pixel_ms = (double)took_ms / n_steps / pixels;
    bool known = self->pixel_ms > 0;
    if (known && rough) {
        return;
    }
    bool replaces = !known || self->rough;
    self->pixel_ms = replaces ? pixel_ms : (OLD * self->pixel_ms + pixel_ms) / ALL;
    self->rough = rough;
}

int64_t
usual_step_ms(const struct usual *self, uint32_t pixels)
{
    return (int64_t)(self->pixel_ms * pixels + 0.5);
}

int64_t
usual_limit_ms(const struct usual *self, const struct silence *silence)
{
    int64_t limit_ms =
        LIMIT_STUCK_STEPS * usual_step_ms(self, silence->pixels) * (int64_t)silence->steps;
    limit_ms = limit_ms > silence->least_ms ? limit_ms : silence->least_ms;
    return limit_ms > silence->warm_ms ? limit_ms : silence->warm_ms;
}
