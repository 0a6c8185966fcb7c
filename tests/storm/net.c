#include "tests/storm/storm.h"
#include <stdlib.h>
#include <string.h>

/* One connection between a client's socket and a broker's door. */
struct link {
    struct dealer *dealer;
    struct process *client, *broker;
    uint32_t client_life, dealer_life, door;
    enum door_side side;
    uint8_t broker_index;
    bool broken;
    bool lost[2];    /* [to the broker]: what comes behind something lost is lost too */
    int64_t fifo[2]; /* arrival of the last packet */
};
static struct link **links;
static uint32_t n_links, links_capacity;

void
net_clear(void)
{
    n_links = 0;
    links_capacity = 0;
    links = NULL; /* it was the world's memory */
}

static uint32_t
link_new(struct dealer *dealer)
{
    if (n_links + 1 >= links_capacity) {
        links_capacity = links_capacity > 0 ? links_capacity * 2 : 256;
        struct link **more = sim_memory(links_capacity * sizeof(void *));
        if (n_links > 0) {
            // NOLINTNEXTLINE(bugprone-sizeof-expression): an array of pointers
            memcpy(more, links, (n_links + 1) * sizeof *more);
        }
        links = more;
    }
    struct broker_host *broker = &storm.brokers[dealer->broker];
    struct link *link = sim_memory(sizeof *link);
    *link = (struct link){ .dealer = dealer,
                           .client = dealer->process,
                           .broker = &broker->process,
                           .client_life = dealer->process->life,
                           .dealer_life = dealer->life,
                           .door = broker->door_number,
                           .side = dealer->side,
                           .broker_index = dealer->broker };
    links[++n_links] = link;
    return n_links;
}

int64_t
net_delay_ms(void)
{
    return chance(storm.weather.slow_net) && storm.weather.faults_on ? between(0, 250)
                                                                     : between(0, 2);
}

bool
net_blocked(uint8_t from, uint8_t to)
{
    return storm.blocked_until[from][to] > storm.now_ms;
}

static bool
client_is(const struct link *link)
{
    return link->client->up && link->client->life == link->client_life && link->dealer->open &&
           link->dealer->life == link->dealer_life;
}

static bool
broker_is(const struct link *link)
{
    const struct broker_host *broker = &storm.brokers[link->broker_index];
    return broker->process.up && broker->doors[link->side] && broker->door_number == link->door;
}

/* ---- clients' sockets ---- */

static void
dealer_try(void *owner, void *data)
{
    struct dealer *self = owner;
    if (!self->open || tag_of(data) != self->life) {
        return;
    }
    const struct broker_host *broker = &storm.brokers[self->broker];
    struct link *link = self->link != 0 ? links[self->link] : NULL;
    if (link != NULL && (link->broken || !broker_is(link))) {
        self->link = 0;
    }
    bool there = broker->process.up && broker->process.paused_until <= storm.now_ms &&
                 broker->doors[self->side] &&
                 !net_blocked(self->process->host, HOST_BROKER + self->broker) &&
                 !net_blocked(HOST_BROKER + self->broker, self->process->host);
    if (self->link == 0 && there) {
        self->link = link_new(self);
    }
    sim_at(storm.now_ms + between(20, 120), self->process, dealer_try, self, data);
}

void
dealer_open(struct dealer *self, uint8_t broker)
{
    dealer_close(self);
    self->broker = broker;
    self->open = true;
    dealer_try(self, tag(self->life));
}

void
dealer_close(struct dealer *self)
{
    if (self->link != 0) {
        links[self->link]->broken = true;
    }
    self->link = 0;
    self->open = false;
    self->life++;
}

/* ---- packets ---- */

static void
arrive_at_broker(void *owner, void *data)
{
    struct packet *packet = data;
    struct link *link = owner;
    if (link->broken && !link->lost[1]) {
        link->lost[1] = chance(500); /* it may have been received before */
    }
    if (link->lost[1] || !broker_is(link)) {
        link->lost[1] = true;
        return;
    }
    void *copy =
        malloc(packet->length > 0 ? packet->length : 1); /* borrowed bytes must not be kept */
    if (copy == NULL) {
        abort();
    }
    memcpy(copy, packet->bytes, packet->length);
    broker_receive(&storm.brokers[link->broker_index], packet->link, copy, packet->length,
                   link->side);
    free(copy);
}

static void
arrive_at_client(void *owner, void *data)
{
    struct packet *packet = data;
    struct link *link = owner;
    if (link->broken && !link->lost[0]) {
        link->lost[0] = chance(500);
    }
    if (link->lost[0] || !client_is(link)) {
        link->lost[0] = true;
        return;
    }
    void *copy = malloc(packet->length > 0 ? packet->length : 1);
    if (copy == NULL) {
        abort();
    }
    memcpy(copy, packet->bytes, packet->length);
    link->dealer->receive(link->dealer->owner, copy, packet->length);
    free(copy);
}

enum { HEARTBEAT_MS = LIMIT_LINK_SILENCE_MS };

static void
break_link(void *owner, void *data)
{
    (void)data;
    struct link *link = owner;
    link->broken = true;
}

static void
send_packet(uint32_t number, bool to_broker, const void *bytes, size_t length)
{
    struct link *link = links[number];
    uint8_t from = to_broker ? link->client->host : link->broker->host;
    uint8_t to = to_broker ? link->broker->host : link->client->host;
    int64_t at = storm.now_ms + net_delay_ms();
    if (net_blocked(from, to)) {
        int64_t heal = storm.blocked_until[from][to];
        if (heal - storm.now_ms > HEARTBEAT_MS) {
            link->lost[to_broker] = true;
            sim_at(storm.now_ms + HEARTBEAT_MS, NULL, break_link, link, NULL);
            return;
        }
        at = heal + net_delay_ms(); /* sent again by TCP */
    }
    if (storm.weather.faults_on && chance(storm.weather.lose_link)) {
        fault(FAULT_CONNECTION_LOST);
        link->broken = true;
    }
    bool overtaken = storm.weather.faults_on && chance(storm.weather.reorder);
    if (overtaken) { /* more than TCP does: so that nothing leans on its order */
        fault(FAULT_FRAME_REORDERED);
        at += between(0, 300);
    } else {
        at = at < link->fifo[to_broker] ? link->fifo[to_broker] : at;
        link->fifo[to_broker] = at;
    }
    struct packet *packet = sim_memory(sizeof *packet + length);
    packet->link = number;
    packet->to_broker = to_broker;
    packet->length = (uint32_t)length;
    memcpy(packet->bytes, bytes, length);
    struct process *receiver = to_broker ? link->broker : link->client;
    event_fn arrive = to_broker ? arrive_at_broker : arrive_at_client;
    sim_at(at, receiver, arrive, link, packet);
    if (storm.weather.faults_on && chance(storm.weather.duplicate)) {
        fault(FAULT_FRAME_DUPLICATED);
        sim_at(at + between(0, 2000), receiver, arrive, link, packet);
    }
}

void
dealer_send_bytes(struct dealer *self, const void *bytes, size_t length)
{
    if (!self->open || self->link == 0 || links[self->link]->broken ||
        !broker_is(links[self->link])) {
        return; /* not connected: ZeroMQ would not take it */
    }
    if (storm.weather.faults_on && chance(storm.weather.lag)) {
        fault(FAULT_QUEUE_FULL);
        return; /* its queue is full */
    }
    send_packet(self->link, true, bytes, length);
}

static struct buffer buffer;

void
dealer_send(struct dealer *self, const struct frame *frame)
{
    buffer.length = 0;
    frame_encode(&buffer, frame);
    dealer_send_bytes(self, buffer.bytes, buffer.length);
}

static uint32_t
link_of(const struct peer *peer)
{
    uint32_t number =
        (uint32_t)peer->id[1] | (uint32_t)peer->id[2] << 8 | (uint32_t)peer->id[3] << 16;
    return number <= n_links ? number : 0;
}

uint8_t
net_host(const struct peer *peer)
{
    uint32_t number = link_of(peer);
    return number == 0 || !client_is(links[number]) ? HOSTS : links[number]->client->host;
}

bool
net_send(uint8_t broker, const struct peer *to, const struct frame *frame, bool *lagging)
{
    *lagging = false;
    uint32_t number = link_of(to);
    if (number == 0 || links[number]->broken || links[number]->broker_index != broker ||
        !broker_is(links[number]) || !client_is(links[number])) {
        return false;
    }
    bool rare = frame->kind == FRAME_DRAIN || frame->kind == FRAME_STOP; /* as often as others */
    if (storm.weather.faults_on && (chance(storm.weather.lag) || (rare && chance(200)))) {
        fault(FAULT_QUEUE_FULL);
        *lagging = true;
        return true;
    }
    buffer.length = 0;
    frame_encode(&buffer, frame);
    send_packet(number, false, buffer.bytes, buffer.length);
    return true;
}

/* ---- trouble ---- */

void
net_break_host(uint8_t host, int64_t at_ms)
{
    for (uint32_t i = 1; i <= n_links; i++) {
        bool its = links[i]->client->host == host || links[i]->broker->host == host;
        if (its && !links[i]->broken) {
            sim_at(at_ms, NULL, break_link, links[i], NULL);
        }
    }
}

void
net_block(uint8_t from, uint8_t to, int64_t until_ms)
{
    storm.blocked_until[from][to] = until_ms;
    for (uint32_t i = 1; i <= n_links && until_ms - storm.now_ms > HEARTBEAT_MS; i++) {
        uint8_t client = links[i]->client->host;
        uint8_t broker = links[i]->broker->host;
        if (!links[i]->broken &&
            ((client == from && broker == to) || (client == to && broker == from))) {
            sim_at(storm.now_ms + HEARTBEAT_MS, NULL, break_link, links[i], NULL);
        }
    }
}

void
net_heal(void)
{
    memset(storm.blocked_until, 0, sizeof storm.blocked_until);
}
