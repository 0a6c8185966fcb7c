#include "tests/storm/storm.h"
#include <assert.h>
#include <stdio.h>
#include <string.h>

/*
 * A gateway and its clients: jobs are minted, submitted, repeated with the same id until answered,
 * withdrawn after LIMIT_SUBMIT_MS; cancels are repeated until answered.
 */

static void
send(struct gateway_host *self, struct frame *frame)
{
    frame->session = self->session;
    frame->epoch = self->epoch;
    trace("gateway %u: %s", self->index, frame_kind_name(frame->kind));
    dealer_send(&self->dealer, frame);
}

static void
hello(struct gateway_host *self)
{
    static const char *const urls[GATEWAYS] = { "g0", "g1" };
    struct upload_base base = { slice_of(urls[self->index]) };
    struct frame frame = { .kind = FRAME_GATEWAY_HELLO };
    self->session = any64() | 1;
    self->open = false;
    self->hello_owed = false;
    self->hello_ms = storm.now_ms;
    frame.gateway_hello = (struct gateway_hello){ .version = PROTOCOL_VERSION,
                                                  .name = slice_of(urls[self->index]),
                                                  .store = slice_of("store"),
                                                  .bases = { &base, 1 } };
    send(self, &frame);
}

/* ---- clients ---- */

static void
submit(struct gateway_host *self, uint32_t job)
{
    struct ticket *ticket = &storm.tickets[job];
    struct frame frame = { .kind = FRAME_SUBMIT };
    frame.submit = (struct submit){ .id = job_named(job),
                                    .request = { ticket->request, ticket->n_request },
                                    .watch = ticket->watch };
    ticket->sent_ms = storm.now_ms;
    ticket->sent_session = self->session;
    send(self, &frame);
}

/* Its client waits for an answer. */
static bool
ticket_is_open(const struct ticket *ticket)
{
    return ticket->state == TICKET_WAITING ||
           (ticket->state == TICKET_WITHDRAWN && !ticket->withdraw_answered) ||
           (ticket->cancel_wanted && !ticket->cancel_answered);
}

static void
ticket_tick(struct gateway_host *self, uint32_t job)
{
    struct ticket *ticket = &storm.tickets[job];
    struct frame frame = { .kind = FRAME_WITHDRAW };
    bool due =
        ticket->sent_session != self->session || storm.now_ms - ticket->sent_ms >= LIMIT_REPEAT_MS;
    if (ticket->state == TICKET_WAITING && storm.now_ms - ticket->first_ms >= LIMIT_SUBMIT_MS) {
        /* A client with a key may have sent it again already: that job is not to be withdrawn. */
        ticket->state = ticket->key != 0 ? TICKET_GONE : TICKET_WITHDRAWN;
        due = true;
    }
    if (!self->open) {
        return;
    }
    if (ticket->state == TICKET_WAITING && due) {
        submit(self, job);
    } else if (ticket->state == TICKET_WITHDRAWN && !ticket->withdraw_answered && due) {
        ticket->sent_ms = storm.now_ms;
        ticket->sent_session = self->session;
        frame.withdraw.id = job_named(job);
        send(self, &frame);
    }
    if (ticket->cancel_wanted && !ticket->cancel_answered &&
        (ticket->cancel_session != self->session ||
         storm.now_ms - ticket->cancel_ms >= LIMIT_REPEAT_MS)) {
        ticket->cancel_ms = storm.now_ms;
        ticket->cancel_session = self->session;
        frame = (struct frame){ .kind = FRAME_CANCEL };
        frame.cancel = (struct cancel){ job_named(job), slice_of(ticket->tenant) };
        send(self, &frame);
    }
}

void
gateway_submit(struct gateway_host *self)
{
    static struct buffer buffer;
    static const char *const models[] = { "m", "m", "m", "x" };
    static const uint8_t hash[32] = { 7 };
    uint32_t job = storm.n_jobs + 1;
    uint8_t key[32] = { 1 };
    if (job >= JOBS || !self->process.up) {
        return;
    }
    storm.n_jobs++;
    struct ticket *ticket = &storm.tickets[job];
    *ticket = (struct ticket){ .state = TICKET_WAITING,
                               .gateway = self->index,
                               .watch = chance(400),
                               .first_ms = storm.now_ms };
    (void)snprintf(ticket->tenant, sizeof ticket->tenant, "t%u", any(3));
    ticket->key = (uint8_t)(chance(250) ? 1 + any(KEYS - 1) : 0);
    key[1] = ticket->key;
    struct envelope envelope = { .tenant = slice_of(ticket->tenant),
                                 .model = slice_of(storm.one_bucket ? "m" : models[any(4)]),
                                 .class_ = (uint8_t)any(CLASS_COUNT),
                                 .width = (uint16_t)(storm.one_bucket ? 512 : 64U << any(5)),
                                 .height = 512,
                                 .steps = 8,
                                 .n = (uint8_t)(1 + any(3)),
                                 .expires_in_s = chance(150) ? LIMIT_EXPIRES_MIN_S : 3600,
                                 .idempotency = { key, ticket->key != 0 ? sizeof key : 0 },
                                 .body_hash = { hash, sizeof hash } };
    struct job_body body = { .prompt = slice_of("a lighthouse"),
                             .negative_prompt = slice_of(""),
                             .metadata = slice_of("") };
    buffer.length = 0;
    pack_struct(&buffer, &envelope_shape, &envelope);
    pack_struct(&buffer, &job_body_shape, &body);
    assert(buffer.length <= REQUEST);
    ticket->n_request = (uint16_t)buffer.length;
    memcpy(ticket->request, buffer.bytes, buffer.length);
    ticket_tick(self, job);
}

void
gateway_cancel(uint32_t job)
{
    struct ticket *ticket = &storm.tickets[job];
    if (ticket->state == TICKET_ACCEPTED && !ticket->cancel_wanted) {
        ticket->cancel_wanted = true;
        ticket->cancel_session = 0;
    }
}

bool
gateway_is_quiet(void)
{
    for (uint32_t job = 1; job <= storm.n_jobs; job++) {
        if (ticket_is_open(&storm.tickets[job])) {
            return false;
        }
    }
    return true;
}

/* ---- frames ---- */

static void
on_answer(const struct answer *answer)
{
    struct ticket *ticket = &storm.tickets[job_number(&answer->id)];
    if (ticket->state == TICKET_WITHDRAWN) {
        ticket->withdraw_answered = true;
    }
    if (ticket->cancel_wanted) {
        ticket->cancel_answered = true;
    }
}

static void
settle(const struct job_id *id, enum ticket_state state)
{
    struct ticket *ticket = &storm.tickets[job_number(id)];
    if (ticket->state == TICKET_WAITING) {
        ticket->state = state;
    }
}

static void
on_open(struct gateway_host *self, const struct frame *frame)
{
    self->heard_ms = storm.now_ms;
    switch ((int)frame->kind) {
    case FRAME_GATEWAY_WELCOME:
        self->open = true;
        break;
    case FRAME_ACCEPTED:
        settle(&frame->accepted.id, TICKET_ACCEPTED);
        break;
    case FRAME_KNOWN:
        settle(&frame->known.id, TICKET_REFUSED);
        break;
    case FRAME_REFUSED:
        settle(&frame->refused.id, TICKET_REFUSED);
        break;
    case FRAME_ANSWER:
        on_answer(&frame->answer);
        break;
    case FRAME_ADMIN_ANSWER:
        self->drain[0] = '\0';
        break;
    default:
        break;
    }
}

static void
on_frame(void *owner, const void *bytes, uint32_t length)
{
    struct gateway_host *self = owner;
    struct frame frame;
    int rc = frame_decode(storm.frames, bytes, length, &frame);
    assert(rc == 0);
    bool ours = frame.session == self->session && self->session != 0;
    if (frame.kind == FRAME_NO_SESSION && (ours || frame.session == 0)) {
        self->hello_owed = true;
    } else if (ours && frame.epoch >= self->epoch) {
        self->epoch = frame.epoch;
        on_open(self, &frame);
    }
}

/* ---- time ---- */

static void
drain_tick(struct gateway_host *self)
{
    if (self->open && self->drain[0] != '\0' && storm.now_ms - self->drain_ms >= 1000) {
        struct frame frame = { .kind = FRAME_ADMIN };
        frame.admin = (struct admin){ .op = 0, .worker = slice_of(self->drain) };
        self->drain_ms = storm.now_ms;
        send(self, &frame);
    }
}

void
gateway_drain(struct gateway_host *self, const char *worker)
{
    if (self->process.up && self->drain[0] == '\0') {
        trace("gateway %u: somebody drains %s", self->index, worker);
        (void)snprintf(self->drain, sizeof self->drain, "%s", worker);
        self->drain_ms = 0;
    }
}

static void
on_leader(void *owner, const struct command *command, const struct reply *reply)
{
    struct gateway_host *self = owner;
    (void)command;
    self->asking = false;
    if (reply == NULL || reply->kind != REPLY_OK || !reply->gateways_door ||
        (self->session != 0 && self->epoch == reply->number &&
         self->dealer.broker == reply->broker)) {
        return;
    }
    self->epoch = reply->number;
    self->heard_ms = storm.now_ms;
    dealer_open(&self->dealer, reply->broker);
    hello(self);
}

enum { TICK_MS = 50, QUIET_MS = LIMIT_QUIET_MS };

static void
on_tick(void *owner, void *data)
{
    struct gateway_host *self = owner;
    if (self->session != 0 && storm.now_ms - self->heard_ms >= LIMIT_SUSPECT_MS) {
        self->session = 0;
        self->open = false;
        dealer_close(&self->dealer);
    }
    if (self->session != 0 && storm.now_ms - self->hello_ms >= 1000 && !self->open) {
        self->hello_owed = true; /* its HELLO was sent before the socket was connected */
    }
    if (self->session != 0 && self->hello_owed && storm.now_ms - self->hello_ms >= LIMIT_HELLO_MS) {
        hello(self);
    }
    bool wants = self->session == 0 || storm.now_ms - self->heard_ms >= QUIET_MS;
    if (wants && !self->asking) {
        self->asking = true;
        edge_send(edge_command(&self->redis, COMMAND_LEADER, on_leader, self));
    }
    if (self->open && storm.now_ms - self->ping_ms >= LIMIT_STATE_MS) {
        struct frame frame = { .kind = FRAME_PING };
        self->ping_ms = storm.now_ms;
        send(self, &frame);
    }
    drain_tick(self);
    for (uint32_t job = 1; job <= storm.n_jobs; job++) {
        if (storm.tickets[job].gateway == self->index && ticket_is_open(&storm.tickets[job])) {
            ticket_tick(self, job);
        }
    }
    sim_at(storm.now_ms + TICK_MS, &self->process, on_tick, self, data);
}

/* ---- life ---- */

void
gateway_start(struct gateway_host *self)
{
    self->process.host = (uint8_t)(HOST_GATEWAY + self->index);
    self->process.up = true;
    self->process.life++;
    self->process.paused_until = 0;
    self->session = self->epoch = 0;
    self->open = self->asking = self->hello_owed = false;
    self->drain[0] = '\0';
    self->redis.process = &self->process;
    self->dealer.process = &self->process;
    self->dealer.side = DOOR_GATEWAYS;
    self->dealer.receive = on_frame;
    self->dealer.owner = self;
    edge_open(&self->redis);
    sim_at(storm.now_ms + between(0, TICK_MS), &self->process, on_tick, self, NULL);
}

/* Its clients get no answer. Some ask the other gateway to cancel what was accepted. */
void
gateway_crash(struct gateway_host *self)
{
    trace("gateway %u: crashes", self->index);
    dealer_close(&self->dealer);
    self->process.up = false;
    self->process.life++;
    self->redis.up = false;
    self->redis.connection++;
    for (uint32_t job = 1; job <= storm.n_jobs; job++) {
        struct ticket *ticket = &storm.tickets[job];
        if (ticket->gateway == self->index && ticket->state == TICKET_WAITING) {
            ticket->state = TICKET_GONE;
        } else if (ticket->gateway == self->index && ticket->state == TICKET_WITHDRAWN) {
            ticket->withdraw_answered = true;
        }
        if (ticket->gateway == self->index && chance(500)) {
            ticket->gateway = (uint8_t)((self->index + 1) % GATEWAYS);
        }
    }
}
