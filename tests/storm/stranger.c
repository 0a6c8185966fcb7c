#include "tests/storm/storm.h"
#include <string.h>

/*
 * A peer that is allowed in and talks nonsense: its own session or somebody else's, leases that
 * are not its, wrong epochs, random bits. It may not change anything that is not its own.
 */

static struct process process;
static struct dealer dealers[DOOR_SIDE_COUNT];
static uint64_t session;

static void
on_frame(void *owner, const void *bytes, uint32_t length)
{
    struct frame frame;
    (void)owner;
    if (frame_decode(storm.frames, bytes, length, &frame) == 0 && frame.kind == FRAME_NO_SESSION) {
        session = 0;
    }
}

static struct lease
any_lease(void)
{
    uint32_t job = 1 + any(storm.n_jobs + 1);
    const struct job_header *header = &storm.redis.data.records[job % JOBS].header;
    struct lease lease = { .job = job_named(job % JOBS),
                           .epoch = header->epoch + (chance(200) ? 1 : 0),
                           .grant = header->grant };
    lease.grant = (uint8_t)(chance(200) ? any(LIMIT_GRANTS + 1) : lease.grant);
    return lease;
}

static uint64_t
any_session(void)
{
    const struct worker_host *worker = &storm.workers[any(WORKERS)];
    uint32_t which = any(10);
    if (which == 0) {
        return any64();
    }
    if (which < 3 && worker->agent != NULL) {
        return agent_session(worker->agent);
    }
    return which < 4 ? storm.gateways[any(GATEWAYS)].session : session;
}

static void
fill(struct frame *frame, struct held_lease *held, uint32_t n)
{
    static const uint8_t junk[64] = { 1, 2, 3 };
    static struct model_name model;
    model.name = slice_of("of a stranger");
    for (uint32_t i = 0; i < n; i++) {
        held[i] = (struct held_lease){ any_lease(), chance(500), chance(500) };
    }
    frame->kind = (enum frame_kind)(FRAME_WORKER_HELLO + any(7));
    frame->session = any_session();
    frame->epoch = storm.redis.data.epoch.number + (chance(100) ? any(3) : 0);
    switch ((int)frame->kind) {
    case FRAME_WORKER_HELLO:
        frame->session = chance(800) ? any64() : frame->session;
        session = frame->session;
        frame->worker_hello = (struct worker_hello){ .version = (uint16_t)!chance(50),
                                                     .name = slice_of("stranger"),
                                                     .incarnation = 1 + any(3),
                                                     .models = { &model, 1 },
                                                     .leases = { held, n } };
        break;
    case FRAME_WORKER_STATE:
        frame->worker_state =
            (struct worker_state){ (uint8_t)any(LIMIT_WORKER_LEASES), any(9), { held, n } };
        break;
    case FRAME_PROGRESS:
        frame->progress = (struct progress){ any_lease(), (uint8_t)any(9), (uint8_t)any(9) };
        break;
    case FRAME_DONE:
        frame->done = (struct done){ any_lease(), { junk, any(sizeof junk) } };
        break;
    case FRAME_FAIL:
        frame->fail = (struct fail){ .lease = any_lease(),
                                     .code = (uint8_t)any(FAIL_CODE_COUNT),
                                     .counted = chance(500),
                                     .final_ = chance(500) };
        break;
    case FRAME_REGRANT:
        frame->leased.lease = any_lease();
        break;
    default: /* BYE */
        break;
    }
}

static void
on_turn(void *owner, void *data)
{
    static struct buffer buffer;
    struct frame frame = { .kind = FRAME_NONE };
    struct held_lease held[8];
    (void)owner;
    if (!storm.weather.faults_on) {
        dealer_close(&dealers[0]);
        dealer_close(&dealers[1]);
        return;
    }
    const struct broker_host *leader = broker_leader();
    for (uint32_t side = 0; side < DOOR_SIDE_COUNT && leader != NULL; side++) {
        if (!dealers[side].open || dealers[side].broker != leader->index) {
            dealer_open(&dealers[side], leader->index);
        }
    }
    fault(FAULT_STRANGE_FRAME);
    fill(&frame, held, any(8));
    buffer.length = 0;
    frame_encode(&buffer, &frame);
    for (uint32_t flips = chance(200) ? 1 + any(3) : 0; flips > 0; flips--) {
        buffer.bytes[any((uint32_t)buffer.length)] ^= (uint8_t)(1U << any(8));
    }
    dealer_send_bytes(&dealers[chance(850) ? DOOR_WORKERS : DOOR_GATEWAYS], buffer.bytes,
                      chance(950) ? buffer.length : any((uint32_t)buffer.length));
    sim_at(storm.now_ms + between(5, 300), &process, on_turn, NULL, data);
}

void
stranger_start(void)
{
    process = (struct process){ .host = HOST_STRANGER, .up = true, .life = process.life + 1 };
    session = 0;
    for (uint32_t side = 0; side < DOOR_SIDE_COUNT; side++) {
        dealers[side] = (struct dealer){ .process = &process,
                                         .side = (enum door_side)side,
                                         .receive = on_frame };
    }
    sim_at(storm.now_ms, &process, on_turn, NULL, NULL);
}
