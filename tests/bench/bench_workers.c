/* bench_workers — simulated workers: N sessions in one process that take each JOB, hold it for
 * --draw-ms, and answer DONE, drawing nothing.
 *
 * With --draw-ms 0 what is left of a job's cost is the cost of dispatch: gateway, broker, Redis.
 * The results claim one picture each that was never uploaded. They follow the leader as an agent
 * does: a new term is answered by a HELLO with the leases held, and DONE is said until it is
 * answered. With --times FILE each JOB's arrival is written there as "<job id> <CLOCK_MONOTONIC
 * us>". On SIGTERM they say BYE and the number of acknowledged results is printed. */
#include "common/clock.h"
#include "common/config.h"
#include "common/limits.h"
#include "common/log.h"
#include "common/redis_client.h"
#include "common/scope.h"
#include "common/zmq_link.h"
#include "proto/frames.h"
#include "proto/keys.h"
#include <czmq.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BEAT_TURNS = LIMIT_BEAT_MS / (LIMIT_STATE_MS / 2), DRAW_LOOK_MS = 20 };

struct drawing {
    struct lease lease;
    int64_t due_ms; /* drawn then */
    bool done;      /* DONE sent, not acknowledged */
};

struct bench_worker {
    struct bench *bench;
    struct zmq_link *link;
    char name[32];
    uint64_t incarnation, session, epoch;
    uint32_t last_job;
    struct drawing held[LIMIT_WORKER_LEASES];
    uint32_t n_held;
    bool open, changed;
};

struct bench {
    struct reactor *reactor;
    struct redis_client *redis;
    struct timer *beat, *draw, *end;
    struct unpacker *unpacker;
    struct buffer out, result;
    struct bench_worker *workers;
    uint32_t n_workers;
    FILE *times;
    uint64_t acked, stale;
    char door[LIMIT_URL];
    uint64_t epoch;
    uint32_t turn; /* of beat_all() */
};

static int64_t n_workers = 4;
static int64_t n_places = LIMIT_WORKER_LEASES / 2;
static int64_t draw_ms;
static const char *first_name = "bench";
static const char *redis_url = "redis://127.0.0.1:6379";
static const char *times_path;

static void
send_frame(struct bench_worker *worker, struct frame *frame)
{
    struct bench *bench = worker->bench;
    frame->session = worker->session;
    frame->epoch = worker->epoch;
    bench->out.length = 0;
    frame_encode(&bench->out, frame);
    (void)zmq_link_send(worker->link, NULL, bench->out.bytes, bench->out.length);
}

static void
leases_fill(const struct bench_worker *worker, struct held_lease held[LIMIT_WORKER_LEASES])
{
    for (uint32_t i = 0; i < worker->n_held; i++) {
        held[i] = (struct held_lease){ worker->held[i].lease, true, worker->held[i].done };
    }
}

static void
send_state(struct bench_worker *worker)
{
    struct held_lease held[LIMIT_WORKER_LEASES];
    leases_fill(worker, held);
    struct frame frame = { .kind = FRAME_WORKER_STATE };
    uint32_t places = (uint32_t)n_places;
    uint32_t free_places = worker->n_held < places ? places - worker->n_held : 0;
    frame.worker_state = (struct worker_state){ .pull = (uint8_t)free_places,
                                                .last_job = worker->last_job,
                                                .leases = { held, worker->n_held } };
    send_frame(worker, &frame);
    worker->changed = false;
}

static void
send_hello(struct bench_worker *worker)
{
    static const struct model_name model = { { "z-image-turbo", 13 } };
    struct held_lease held[LIMIT_WORKER_LEASES];
    leases_fill(worker, held);
    worker->session = random_u64();
    worker->epoch = worker->bench->epoch;
    worker->last_job = 0;
    worker->open = false;
    struct frame frame = { .kind = FRAME_WORKER_HELLO };
    frame.worker_hello = (struct worker_hello){ .version = PROTOCOL_VERSION,
                                                .name = slice_of(worker->name),
                                                .incarnation = worker->incarnation,
                                                .models = { &model, 1 },
                                                .instances = (uint8_t)n_places,
                                                .max_pixels = 2048 * 2048,
                                                .leases = { held, worker->n_held } };
    send_frame(worker, &frame);
}

/* Also again: the answer to the last one may have been lost with its broker. */
static void
send_done(struct bench_worker *worker, struct drawing *drawing)
{
    struct bench *bench = worker->bench;
    struct frame frame = { .kind = FRAME_DONE };
    frame.done =
        (struct done){ drawing->lease, { bench->result.bytes, (uint32_t)bench->result.length } };
    send_frame(worker, &frame);
    drawing->done = true;
    worker->changed = true;
}

static void
on_job(struct bench_worker *worker, const struct job_frame *job)
{
    struct bench *bench = worker->bench;
    if (bench->times != NULL) {
        char id[JOB_ID_TEXT + 1];
        job_id_print(&job->lease.job, id);
        (void)fprintf(bench->times, "%s %lld\n", id, (long long)clock_mono_us());
        (void)fflush(bench->times);
    }
    worker->last_job = job->number;
    if (worker->n_held == LIMIT_WORKER_LEASES) {
        return; /* never told that there was a place */
    }
    for (uint32_t i = 0; i < worker->n_held; i++) {
        if (lease_equal(&worker->held[i].lease, &job->lease)) {
            return; /* sent again */
        }
    }
    struct drawing *drawing = &worker->held[worker->n_held++];
    *drawing = (struct drawing){ .lease = job->lease, .due_ms = clock_mono_ms() + draw_ms };
    worker->changed = true;
    if (draw_ms == 0) {
        send_done(worker, drawing);
    }
}

static void
on_answer(struct bench_worker *worker, const struct lease *lease, bool acked)
{
    for (uint32_t i = 0; i < worker->n_held; i++) {
        if (lease_equal(&worker->held[i].lease, lease)) {
            worker->held[i] = worker->held[--worker->n_held];
            worker->bench->acked += acked;
            worker->bench->stale += !acked;
            worker->changed = true;
            return;
        }
    }
}

/* What is drawn and not acknowledged. */
static void
say_drawn(struct bench_worker *worker)
{
    int64_t now = clock_mono_ms();
    for (uint32_t i = 0; i < worker->n_held; i++) {
        if (now >= worker->held[i].due_ms) {
            send_done(worker, &worker->held[i]);
        }
    }
}

static void
on_message(void *context, const struct zmq_peer *from, const void *bytes, size_t length)
{
    (void)from;
    struct bench_worker *worker = context;
    struct frame frame;
    if (frame_decode(worker->bench->unpacker, bytes, length, &frame) != 0) {
        log_error("bench-bad-frame");
        return;
    }
    switch ((int)frame.kind) {
    case FRAME_WORKER_WELCOME:
        worker->epoch = frame.epoch;
        worker->open = worker->changed = true;
        say_drawn(worker);
        break;
    case FRAME_NO_SESSION:
        send_hello(worker);
        break;
    case FRAME_JOB:
        on_job(worker, &frame.job);
        break;
    case FRAME_ACK:
    case FRAME_STALE:
        on_answer(worker, &frame.leased.lease, frame.kind == FRAME_ACK);
        break;
    default:
        break;
    }
}

static void
on_turn_end(void *context)
{
    struct bench_worker *worker = context;
    if (worker->open && worker->changed) {
        send_state(worker);
    }
}

static void
on_beat(void *context, const redisReply *reply)
{
    struct bench_worker *worker = context;
    if (reply != NULL && reply->type == REDIS_REPLY_ARRAY && reply->elements == 2 &&
        reply->element[1]->type == REDIS_REPLY_STRING) {
        worker->incarnation = strtoull(reply->element[1]->str, NULL, 16);
    }
}

/* A new term is another door, whatever its address. */
static void
on_leader(void *context, const redisReply *reply)
{
    struct bench *bench = context;
    char epoch[24];
    char door[160];
    if (reply == NULL || reply->type != REDIS_REPLY_STRING ||
        sscanf(reply->str, "%*s %23s %*s %159s", epoch, door) != 2 || door[0] == '-') {
        return;
    }
    uint64_t number = strtoull(epoch, NULL, 10);
    bool is_new = number != bench->epoch;
    bench->epoch = number;
    for (uint32_t i = 0; i < bench->n_workers; i++) {
        struct bench_worker *worker = &bench->workers[i];
        if (is_new) {
            zmq_link_destroy(&worker->link);
        }
        if (worker->link == NULL && worker->incarnation != 0) {
            struct zmq_link_events events = { on_message, NULL, on_turn_end, worker };
            if (zmq_link_connect(&worker->link, bench->reactor, door, &events) != 0) {
                continue; /* the next look */
            }
            worker->open = false;
        }
        if (worker->link != NULL && !worker->open) {
            send_hello(worker);
        }
    }
}

static void
beat(struct bench_worker *worker)
{
    char incarnation[17] = "";
    if (worker->incarnation != 0) {
        (void)snprintf(incarnation, sizeof incarnation, "%016llx",
                       (unsigned long long)worker->incarnation);
    }
    redis_client_call(worker->bench->redis, on_beat, worker, "FCALL " FUNCTION_BEAT " 0 %s %s {}",
                      worker->name, incarnation);
}

static void
beat_all(void *context)
{
    struct bench *bench = context;
    uint32_t turn = bench->turn++;
    for (uint32_t i = 0; i < bench->n_workers; i++) {
        struct bench_worker *worker = &bench->workers[i];
        if (worker->incarnation == 0 || turn % BEAT_TURNS == 0) {
            beat(worker);
        }
        if (worker->open) {
            send_state(worker);
        }
        if (worker->open && turn % 2 == 0) { /* LIMIT_REPEAT_MS */
            say_drawn(worker);
        }
    }
    redis_client_call(bench->redis, on_leader, bench, "GET " KEY_LEADER);
}

static void
draw_all(void *context)
{
    struct bench *bench = context;
    int64_t now = clock_mono_ms();
    for (uint32_t i = 0; i < bench->n_workers; i++) {
        struct bench_worker *worker = &bench->workers[i];
        for (uint32_t j = 0; worker->open && j < worker->n_held; j++) {
            if (!worker->held[j].done && now >= worker->held[j].due_ms) {
                send_done(worker, &worker->held[j]);
            }
        }
    }
}

static void
finish(void *context)
{
    struct bench *bench = context;
    reactor_stop(bench->reactor, 0);
}

/* BYE, and a moment for ZeroMQ to write it. */
static void
on_stop(void *context)
{
    struct bench *bench = context;
    for (uint32_t i = 0; i < bench->n_workers; i++) {
        if (bench->workers[i].open) {
            struct frame frame = { .kind = FRAME_BYE };
            send_frame(&bench->workers[i], &frame);
            zmq_link_flush(bench->workers[i].link);
        }
    }
    timer_in_ms(bench->end, 100);
}

static void
pack_result(struct bench *bench)
{
    static const uint8_t sha256[32];
    struct result_image image = {
        .width = 64, .height = 64, .seed = 1, .bytes = 1000, .sha256 = { sha256, sizeof sha256 }
    };
    struct result result = { .worker = slice_of("bench"),
                             .instance = slice_of("free"),
                             .images = { &image, 1 } };
    pack_struct(&bench->result, &result_shape, &result);
}

int
main(int argc, char **argv)
{
    process_setup();
    CLEANUP(config_destroy) struct config *config = NULL;
    const struct option options[] = {
        { "redis", OPTION_STRING, &redis_url, "URL", "Redis of the broker", 0, 0, false },
        { "workers", OPTION_INT, &n_workers, "N", "sessions", 1, LIMIT_WORKERS, false },
        { "name", OPTION_STRING, &first_name, "WORD", "of the workers: WORD-0 ...", 0, 0, false },
        { "places", OPTION_INT, &n_places, "N", "jobs at a time", 1, LIMIT_WORKER_LEASES / 2,
          false },
        { "draw-ms", OPTION_INT, &draw_ms, "MS", "a job is held that long", 0, 3600000, false },
        { "times", OPTION_STRING, &times_path, "FILE", "write arrivals there", 0, 0, false },
    };
    const struct program program = { .name = "bench_workers",
                                     .role = "bench",
                                     .summary = "Free workers for benches: draw nothing.",
                                     .options = options,
                                     .n_options = ARRAY_LENGTH(options) };
    struct config_common common = { 0 };
    int rc = config_load(&config, &common, &program, argc, argv);
    if (rc != 0) {
        return rc == CONFIG_EXIT ? 0 : 2;
    }
    zsys_set_max_sockets(4 * (size_t)n_workers); /* a closed one counts until ZeroMQ reaps it */
    struct bench bench = { .n_workers = (uint32_t)n_workers };
    bench.workers = calloc(bench.n_workers, sizeof *bench.workers);
    bench.times = times_path != NULL ? fopen(times_path, "w") : NULL;
    pack_result(&bench);
    rc = bench.workers == NULL ? -1 : reactor_new(&bench.reactor, true);
    rc = rc ? rc : unpacker_new(&bench.unpacker);
    struct redis_events events = { .context = &bench };
    rc = rc ? rc : redis_client_new(&bench.redis, bench.reactor, redis_url, &events);
    rc = rc ? rc : timer_new(&bench.beat, bench.reactor, beat_all, &bench);
    rc = rc ? rc : timer_new(&bench.draw, bench.reactor, draw_all, &bench);
    rc = rc ? rc : timer_new(&bench.end, bench.reactor, finish, &bench);
    for (uint32_t i = 0; i < bench.n_workers && rc == 0; i++) {
        bench.workers[i].bench = &bench;
        (void)snprintf(bench.workers[i].name, sizeof bench.workers[i].name, "%.20s-%u", first_name,
                       i);
    }
    if (rc == 0) {
        reactor_on_stop(bench.reactor, on_stop, &bench);
        timer_every_ms(bench.beat, LIMIT_STATE_MS / 2);
        if (draw_ms > 0) {
            timer_every_ms(bench.draw, DRAW_LOOK_MS);
        }
        rc = reactor_run(bench.reactor);
    }
    (void)printf("acked %llu stale %llu\n", (unsigned long long)bench.acked,
                 (unsigned long long)bench.stale);
    return rc == 0 ? 0 : 1;
}
