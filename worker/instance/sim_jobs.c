#include "worker/instance/sim_jobs.h"
#include "common/clock.h"
#include "common/helper_thread.h"
#include "common/log.h"
#include "worker/instance/sim_picture.h"
#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SLOW_FACTOR = 10, INLINE_PIXELS = 256 * 256, ENCODING_MAX = 4 };

TAILQ_HEAD(job_list, sim_job);

/* The pictures of one job on their way; lives on when the job is cancelled meanwhile. */
struct sim_encoding {
    struct sim_jobs *jobs;
    struct sim_job *job; /* NULL: cancelled */
    struct timer *timer; /* until encode_ms are over; then nothing else is under way */
    struct sim_picture picture;
    char *prompt;
    uint32_t n;
    int rc;
    struct sim_image images[LIMIT_IMAGES];
};

struct sim_jobs {
    struct sim_jobs_config config;
    struct reactor *reactor;
    struct helper_thread *helper;
    struct timer *timer;
    struct job_list queue, encoding, finished;
    uint32_t n_queued, n_encoding, n_finished;
    size_t finished_bytes;
    uint64_t n_begun;
    bool stopping;

    struct sim_job *running; /* makes steps. NULL: none, then nothing below counts */
    bool hangs, fails;
    enum sim_picture_kind kind;
    int64_t step_us; /* of this job */
    int64_t next_us; /* when the next step is done */
    int64_t last_step_us;
};

static void begin_next(struct sim_jobs *self);

const char *
sim_state_name(enum sim_state state)
{
    static const char *const names[SIM_STATE_COUNT] = {
        [SIM_QUEUED] = "queued", [SIM_RUNNING] = "running",     [SIM_SUCCEEDED] = "succeeded",
        [SIM_FAILED] = "failed", [SIM_CANCELLED] = "cancelled",
    };
    assert(state < SIM_STATE_COUNT);
    return names[state];
}

/* -- one job -- */

static size_t
job_bytes(const struct sim_job *job)
{
    size_t bytes = 0;
    for (uint32_t i = 0; i < job->n; i++) {
        bytes += job->images[i].length;
    }
    return bytes;
}

static void
job_free(struct sim_job *job)
{
    assert(LIST_EMPTY(&job->waiters));
    for (uint32_t i = 0; i < job->n; i++) {
        free(job->images[i].bytes);
    }
    free(job->prompt);
    free(job);
}

static void
free_all(struct job_list *list)
{
    struct sim_job *job = TAILQ_FIRST(list);
    while (job != NULL) {
        struct sim_job *next = TAILQ_NEXT(job, link);
        job_free(job);
        job = next;
    }
}

static void
forget_finished(struct sim_jobs *self, struct sim_job *job)
{
    TAILQ_REMOVE(&self->finished, job, link);
    self->n_finished--;
    self->finished_bytes -= job_bytes(job);
    job_free(job);
}

static void
encoding_free(struct sim_encoding *encoding)
{
    for (uint32_t i = 0; i < encoding->n; i++) {
        free(encoding->images[i].bytes);
    }
    timer_destroy(&encoding->timer);
    free(encoding->prompt);
    free(encoding);
}

/* The job is at work no more, nor are its pictures. */
static void
leave_work(struct sim_jobs *self, struct sim_job *job)
{
    struct sim_encoding *encoding = job->encoding;
    if (encoding == NULL) {
        assert(job == self->running);
        self->running = NULL;
        timer_stop(self->timer);
        return;
    }
    job->encoding = NULL;
    encoding->job = NULL;
    if (encoding->timer != NULL) {
        encoding_free(encoding); /* it only waits */
    }
    TAILQ_REMOVE(&self->encoding, job, link);
    self->n_encoding--;
}

/* The job is over: it is told, kept, and the next one begins. */
static void
finish(struct sim_jobs *self, struct sim_job *job, enum sim_state state)
{
    leave_work(self, job);
    job->state = state;
    TAILQ_INSERT_TAIL(&self->finished, job, link);
    self->n_finished++;
    self->finished_bytes += job_bytes(job);
    self->config.on_change(self->config.context, job);
    while (self->n_finished > LIMIT_INSTANCE_JOBS ||
           self->finished_bytes > (size_t)LIMIT_INSTANCE_MIB * 1024 * 1024) {
        forget_finished(self, TAILQ_FIRST(&self->finished));
    }
    begin_next(self);
}

static void
fail(struct sim_jobs *self, struct sim_job *job, const char *code, const char *message)
{
    job->error_code = code;
    job->error_message = message;
    finish(self, job, SIM_FAILED);
}

/* -- drawing -- */

/* On the helper thread if the picture is large. */
static void
draw(void *context)
{
    struct sim_encoding *encoding = context;
    struct sim_picture picture = encoding->picture;
    encoding->rc = 0;
    for (uint32_t i = 0; i < encoding->n && encoding->rc == 0; i++) {
        struct sim_image *image = &encoding->images[i];
        picture.seed = encoding->picture.seed + i; /* modulo 2^32 */
        encoding->rc = sim_picture_draw(&picture, &image->bytes, &image->length);
    }
}

static void
encoded(void *context)
{
    struct sim_encoding *encoding = context;
    struct sim_jobs *self = encoding->jobs;
    struct sim_job *job = encoding->job;
    timer_destroy(&encoding->timer);
    if (job != NULL && !self->stopping) {
        job->encode_ms = (clock_mono_us() - job->stepped_us) / 1000;
        if (encoding->rc == 0) {
            memcpy(job->images, encoding->images, sizeof job->images);
            memset(encoding->images, 0, sizeof encoding->images);
            finish(self, job, SIM_SUCCEEDED);
        } else {
            fail(self, job, "encode_failed", "the picture could not be encoded");
        }
    } else if (job != NULL) {
        job->encoding = NULL;
    }
    encoding_free(encoding);
}

/* The pictures are made; they are told when as much time has passed as they are to take. */
static void
drawn(void *context)
{
    struct sim_encoding *encoding = context;
    struct sim_jobs *self = encoding->jobs;
    const struct sim_job *job = encoding->job;
    int64_t left_ms = 0;
    if (job != NULL && !self->stopping && self->config.encode_ms > 0) {
        left_ms = self->config.encode_ms - (clock_mono_us() - job->stepped_us) / 1000;
    }
    if (left_ms <= 0 || timer_new(&encoding->timer, self->reactor, encoded, encoding) != 0) {
        encoded(encoding);
        return;
    }
    timer_in_ms(encoding->timer, left_ms);
}

/* The job that made its last step makes room for the next one. */
static void
begin_encoding(struct sim_jobs *self)
{
    struct sim_job *job = self->running;
    struct sim_encoding *encoding = calloc(1, sizeof *encoding);
    char *prompt = strdup(job->prompt);
    if (encoding == NULL || prompt == NULL) {
        free(encoding);
        free(prompt);
        fail(self, job, "out_of_memory", "no memory for the picture");
        return;
    }
    *encoding = (struct sim_encoding){
        .jobs = self, .job = job, .prompt = prompt, .n = job->n, .rc = -ECANCELED
    };
    encoding->picture =
        (struct sim_picture){ prompt, job->seed, job->width, job->height, self->kind };
    leave_work(self, job);
    job->encoding = encoding;
    TAILQ_INSERT_TAIL(&self->encoding, job, link);
    self->n_encoding++;
    begin_next(self);
    if (job->width * job->height <= INLINE_PIXELS) {
        draw(encoding);
        drawn(encoding);
    } else if (helper_thread_run(self->helper, draw, drawn, encoding) != 0) {
        encoding->rc = -EAGAIN; /* many cancelled pictures are still being drawn */
        encoded(encoding);
    }
}

/* -- steps -- */

static bool
dice(uint64_t seed, uint64_t ordinal, uint64_t which, double rate)
{
    uint64_t x = seed * 0x9e3779b97f4a7c15U + ordinal * 0xbf58476d1ce4e5b9U + which;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9U;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebU;
    x ^= x >> 31;
    return (double)(x >> 11) < rate * 9007199254740992.0; /* 2^53 */
}

static bool
reached(int64_t after, uint64_t ordinal)
{
    return after > 0 && ordinal >= (uint64_t)after;
}

static bool
is_in(const struct sim_range *range, uint64_t ordinal)
{
    return range->first > 0 && ordinal >= range->first && ordinal <= range->last;
}

/* Faults that show in the middle of a job. True: the job is over. */
static bool
strike(struct sim_jobs *self)
{
    struct sim_job *job = self->running;
    if (job->step * 2 < job->steps) {
        return false;
    }
    if (self->config.faults.die_after > 0 &&
        job->ordinal == (uint64_t)self->config.faults.die_after) {
        log_warn("simulated-death job=%s step=%u", job->id, job->step);
        _exit(1);
    }
    if (self->fails) {
        fail(self, job, "generation_failed", self->config.faults.fail_message);
        return true;
    }
    return false;
}

static void
make_steps(void *context)
{
    struct sim_jobs *self = context;
    struct sim_job *job = self->running;
    int64_t now_us = clock_mono_us();
    uint32_t before = job->step;
    while (job->step < job->steps && self->next_us <= now_us) {
        job->step++;
        self->next_us += self->step_us;
        if (strike(self)) {
            return;
        }
    }
    if (job->step > before) {
        self->last_step_us = self->step_us;
        self->config.on_change(self->config.context, job);
    }
    if (job->step < job->steps) {
        timer_in_ms(self->timer, (self->next_us - now_us + 999) / 1000);
        return;
    }
    job->stepped_us = now_us;
    job->gpu_ms = (now_us - job->begun_us) / 1000;
    begin_encoding(self);
}

static enum sim_picture_kind
throw_kind(const struct sim_faults *faults, uint64_t ordinal)
{
    uint64_t seed = (uint64_t)faults->seed;
    bool black = is_in(&faults->black_jobs, ordinal) || dice(seed, ordinal, 2, faults->black_rate);
    return black                                             ? SIM_PICTURE_BLACK
           : dice(seed, ordinal, 3, faults->garbage_rate)    ? SIM_PICTURE_GARBAGE
           : dice(seed, ordinal, 4, faults->wrong_size_rate) ? SIM_PICTURE_WRONG_SIZE
                                                             : SIM_PICTURE_GOOD;
}

static void
begin_next(struct sim_jobs *self)
{
    struct sim_job *job = TAILQ_FIRST(&self->queue);
    const struct sim_faults *faults = &self->config.faults;
    if (job == NULL || self->running != NULL || self->n_encoding >= ENCODING_MAX ||
        self->stopping) {
        return;
    }
    TAILQ_REMOVE(&self->queue, job, link);
    self->n_queued--;
    self->running = job;
    job->state = SIM_RUNNING;
    job->ordinal = ++self->n_begun;
    job->begun_us = clock_mono_us();
    job->queue_ms = (job->begun_us - job->queued_us) / 1000;
    self->hangs = reached(faults->hang_after, job->ordinal);
    self->fails = is_in(&faults->fail_jobs, job->ordinal) ||
                  dice((uint64_t)faults->seed, job->ordinal, 1, faults->fail_rate);
    self->kind = throw_kind(faults, job->ordinal);
    double step_us = (double)self->config.step_ms * 1000 * job->n / self->config.speed;
    self->step_us =
        (int64_t)llround(step_us) * (reached(faults->slow_after, job->ordinal) ? SLOW_FACTOR : 1);
    self->next_us = job->begun_us + self->step_us;
    self->config.on_change(self->config.context, job);
    if (!self->hangs) {
        timer_in_ms(self->timer, (self->step_us + 999) / 1000); /* even 0 ms: never from in here */
    }
}

/* -- what the routes ask -- */

static struct sim_job *
find_in(struct job_list *list, const char *id)
{
    struct sim_job *job = NULL;
    TAILQ_FOREACH(job, list, link)
    {
        if (strcmp(job->id, id) == 0) {
            break;
        }
    }
    return job;
}

struct sim_job *
sim_jobs_find(struct sim_jobs *self, const char *id)
{
    if (self->running != NULL && strcmp(self->running->id, id) == 0) {
        return self->running;
    }
    struct sim_job *job = find_in(&self->queue, id);
    job = job != NULL ? job : find_in(&self->encoding, id);
    return job != NULL ? job : find_in(&self->finished, id);
}

enum sim_verdict
sim_jobs_submit(struct sim_jobs *self, const struct sim_order *order, struct sim_job **job_p)
{
    struct sim_job *job = sim_jobs_find(self, order->id);
    if (job != NULL) {
        *job_p = job;
        return SIM_KNOWN;
    }
    bool at_work = self->running != NULL || self->n_encoding >= ENCODING_MAX;
    if (self->n_queued >= self->config.queue && at_work) {
        return SIM_FULL;
    }
    job = calloc(1, sizeof *job);
    char *prompt = strdup(order->prompt);
    if (job == NULL || prompt == NULL) {
        abort();
    }
    assert(strlen(order->id) <= LIMIT_INSTANCE_JOB_ID && order->n <= LIMIT_IMAGES);
    memcpy(job->id, order->id, strlen(order->id));
    job->prompt = prompt;
    job->width = order->width;
    job->height = order->height;
    job->steps = order->steps;
    job->seed = order->seed;
    job->n = order->n;
    job->queued_us = clock_mono_us();
    LIST_INIT(&job->waiters);
    TAILQ_INSERT_TAIL(&self->queue, job, link);
    self->n_queued++;
    begin_next(self);
    *job_p = job;
    return SIM_ACCEPTED;
}

enum sim_state
sim_jobs_delete(struct sim_jobs *self, struct sim_job *job)
{
    enum sim_state state = job->state;
    switch (state) {
    case SIM_QUEUED:
        job->state = SIM_CANCELLED;
        TAILQ_REMOVE(&self->queue, job, link);
        self->n_queued--;
        self->config.on_change(self->config.context, job);
        job_free(job);
        return SIM_CANCELLED;
    case SIM_RUNNING:
        if (job == self->running && self->hangs) {
            return SIM_RUNNING;
        }
        finish(self, job, SIM_CANCELLED);
        return SIM_CANCELLED;
    case SIM_SUCCEEDED:
    case SIM_FAILED:
    case SIM_CANCELLED:
        forget_finished(self, job);
        return state;
    case SIM_STATE_COUNT:
        break;
    }
    assert(false);
    return state;
}

uint32_t
sim_jobs_queued(const struct sim_jobs *self)
{
    return self->n_queued;
}

const struct sim_job *
sim_jobs_running(const struct sim_jobs *self)
{
    return self->running;
}

void
sim_jobs_each_open(struct sim_jobs *self, void (*fn)(struct sim_job *job))
{
    struct sim_job *job = NULL;
    if (self->running != NULL) {
        fn(self->running);
    }
    TAILQ_FOREACH(job, &self->encoding, link)
    {
        fn(job);
    }
    TAILQ_FOREACH(job, &self->queue, link)
    {
        fn(job);
    }
}

double
sim_jobs_last_step_ms(const struct sim_jobs *self)
{
    return (double)self->last_step_us / 1000;
}

int
sim_jobs_new(struct sim_jobs **out, struct reactor *reactor, const struct sim_jobs_config *config)
{
    struct sim_jobs *self = calloc(1, sizeof *self);
    if (self == NULL) {
        return -ENOMEM;
    }
    assert(config->speed > 0 && config->on_change != NULL);
    self->config = *config;
    self->reactor = reactor;
    TAILQ_INIT(&self->queue);
    TAILQ_INIT(&self->encoding);
    TAILQ_INIT(&self->finished);
    int rc = timer_new(&self->timer, reactor, make_steps, self);
    rc = rc ? rc : helper_thread_new(&self->helper, reactor);
    if (rc != 0) {
        sim_jobs_destroy(&self);
        return rc;
    }
    *out = self;
    return 0;
}

/* Those that only wait for their time; the helper thread is gone. */
static void
free_encodings(struct sim_jobs *self)
{
    struct sim_job *job = TAILQ_FIRST(&self->encoding);
    while (job != NULL) {
        struct sim_job *next = TAILQ_NEXT(job, link);
        if (job->encoding != NULL && job->encoding->timer != NULL) {
            encoding_free(job->encoding);
        }
        job_free(job);
        job = next;
    }
}

void
sim_jobs_destroy(struct sim_jobs **self_p)
{
    struct sim_jobs *self = *self_p;
    if (self == NULL) {
        return;
    }
    self->stopping = true;
    helper_thread_destroy(&self->helper); /* drawn() for what is under way */
    timer_destroy(&self->timer);
    free_encodings(self);
    free_all(&self->queue);
    free_all(&self->finished);
    if (self->running != NULL) {
        job_free(self->running);
    }
    free(self);
    *self_p = NULL;
}
