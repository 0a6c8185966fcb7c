#include "tests/storm/storm.h"

/*
 * A connection to Redis. Commands and replies keep their order; a command not answered in
 * LIMIT_REDIS_MS ends the connection, and everything unanswered on it is answered NULL. What was
 * sent may run all the same, at once or much later, when its sender has long sent it again.
 */

static void try_connect(void *owner, void *data);

void
edge_open(struct redis_link *self)
{
    self->up = false;
    self->pending = NULL;
    self->last = &self->pending;
    self->connection++;
    sim_at(storm.now_ms + between(0, 30), self->process, try_connect, self, NULL);
}

static void
try_connect(void *owner, void *data)
{
    (void)data;
    struct redis_link *self = owner;
    if (self->up) {
        return;
    }
    uint8_t host = self->process->host;
    if (!storm.redis.process.up || net_blocked(host, HOST_REDIS) || net_blocked(HOST_REDIS, host)) {
        int64_t pause = storm.weather.faults_on ? between(50, LIMIT_RECONNECT_MS) : 100;
        sim_at(storm.now_ms + pause, self->process, try_connect, self, NULL);
        return;
    }
    self->up = true;
    self->reign = storm.redis.reign - (storm.redis.old_lives && storm.redis.sees_old[host]);
    self->written = 0;
    self->wait = NULL;
    self->behind = NULL; /* what lay in the buffer of the old connection is gone */
    self->behind_last = &self->behind;
    self->connection = any64();
    self->fifo[0] = self->fifo[1] = 0;
    if (self->on_up != NULL) {
        self->on_up(self->owner);
    }
}

void
edge_break(struct redis_link *self)
{
    struct command *command = self->pending;
    if (!self->up) {
        return;
    }
    self->up = false;
    self->pending = NULL;
    self->last = &self->pending;
    sim_at(storm.now_ms + between(5, 100), self->process, try_connect, self, NULL);
    for (struct command *next; command != NULL; command = next) {
        next = command->next;
        command->answered = true;
        command->reply(command->owner, command, NULL);
    }
}

static void
on_timeout(void *owner, void *data)
{
    struct command *command = data;
    struct redis_link *self = owner;
    if (!command->answered && self->up && command->connection == self->connection) {
        trace("host %u: Redis does not answer", self->process->host);
        edge_break(self);
    }
}

static void
on_null(void *owner, void *data)
{
    (void)owner;
    struct command *command = data;
    command->answered = true;
    command->reply(command->owner, command, NULL);
}

struct answer_event {
    struct command *command;
    struct reply reply;
};

static void
on_answer(void *owner, void *data)
{
    struct answer_event *answer = data;
    struct command *command = answer->command;
    struct redis_link *self = owner;
    if (command->answered || !self->up || command->connection != self->connection ||
        command->connection == self->doomed) {
        return;
    }
    if (self->pending != command) {
        broken("replies of Redis out of order");
    }
    self->pending = command->next;
    self->last = self->pending == NULL ? &self->pending : self->last;
    command->answered = true;
    command->reply(command->owner, command, &answer->reply);
}

static void
on_lost(void *owner, void *data)
{
    struct redis_link *self = owner;
    if (self->up && self->connection == *(uint64_t *)data) {
        edge_break(self);
    }
}

static void
lose(struct redis_link *self, uint64_t connection)
{
    uint64_t *copy = sim_memory(sizeof *copy);
    self->doomed = connection;
    *copy = connection;
    sim_at(storm.now_ms + 1, self->process, on_lost, self, copy);
}

void
edge_redis_stopped(struct redis_link *self)
{
    if (self->process->up && self->up) {
        lose(self, self->connection);
    }
}

/* It runs; its reply is on its way. False: a WAIT that is not over. */
static bool
run(struct redis_link *self, struct command *command)
{
    struct answer_event *answer = sim_memory(sizeof *answer);
    answer->command = command;
    if (!redis_execute(command, &answer->reply)) {
        return false;
    }
    if (storm.weather.faults_on && chance(storm.weather.lose_reply)) {
        fault(FAULT_REPLY_LOST);
        if (command->kind == COMMAND_COMMIT && command->n <= LOST_AT) {
            totals.lost_at[command->n - 1]++;
        }
        lose(self, command->connection);
        return true;
    }
    int64_t at = storm.now_ms + net_delay_ms();
    uint8_t host = self->process->host;
    if (net_blocked(HOST_REDIS, host)) {
        at = storm.blocked_until[HOST_REDIS][host] + net_delay_ms();
    }
    at = at < self->fifo[1] ? self->fifo[1] : at;
    self->fifo[1] = at;
    sim_at(at, self->process, on_answer, self, answer);
    return true;
}

enum { WAIT_MS = 900 }; /* below LIMIT_REDIS_MS: too few replicas are no broken connection */

static void
wait_begins(struct redis_link *self, struct command *command)
{
    command->wait_until = storm.now_ms + WAIT_MS;
    self->wait = command;
}

/* The WAIT, and when it is over what lies behind it. */
static void
on_wait(void *owner, void *data)
{
    struct redis_link *self = owner;
    struct command *command = data;
    while (command == self->wait) {
        if (!run(self, command)) {
            sim_at(storm.now_ms + 1, &storm.redis.process, on_wait, self, command);
            return;
        }
        self->wait = NULL;
        for (command = self->behind; command != NULL; command = command->next_behind) {
            self->behind = command->next_behind;
            if (command->kind == COMMAND_WAIT) {
                wait_begins(self, command);
                break;
            }
            run(self, command);
        }
        self->behind_last = self->behind == NULL ? &self->behind : self->behind_last;
        if (command == NULL) {
            return;
        }
    }
}

static bool
master_is(uint32_t reign)
{
    return reign == storm.redis.reign || (storm.redis.old_lives && reign + 1 == storm.redis.reign);
}

/* The command reaches Redis. */
static void
on_command(void *owner, void *data)
{
    struct command *command = data;
    struct redis_link *self = owner;
    bool abandoned = command->connection != self->connection || !self->up;
    if (!master_is(command->reign) || (abandoned && command->kind == COMMAND_WAIT)) {
        return;
    }
    if (abandoned && !command->late) {
        command->late = true;
        if (!chance(500)) {
            return;
        }
        fault(FAULT_COMMAND_LATE);
        if (chance(storm.weather.late_copy)) { /* it lay in a buffer */
            sim_at(storm.now_ms + between(1, 4000), &storm.redis.process, on_command, self,
                   command);
            return;
        }
    }
    if (storm.weather.faults_on && chance(storm.weather.slow_redis)) {
        fault(FAULT_REDIS_STALLS);
        storm.redis.process.paused_until = storm.now_ms + between(1, 700);
    }
    if (!abandoned && self->wait != NULL) {
        *self->behind_last = command;
        self->behind_last = &command->next_behind;
    } else if (command->kind == COMMAND_WAIT) {
        wait_begins(self, command);
        on_wait(self, command);
    } else {
        run(self, command);
    }
}

struct command *
edge_command(struct redis_link *self, enum command_kind kind, reply_fn reply, void *owner)
{
    struct command *command = sim_memory(sizeof *command);
    command->kind = kind;
    command->link = self;
    command->reply = reply;
    command->owner = owner;
    return command;
}

void
edge_send(struct command *command)
{
    struct redis_link *self = command->link;
    if (!self->up) {
        sim_at(storm.now_ms, self->process, on_null, self, command);
        return;
    }
    command->connection = self->connection;
    command->reign = self->reign;
    *self->last = command;
    self->last = &command->next;
    int64_t at = storm.now_ms + net_delay_ms();
    uint8_t host = self->process->host;
    if (net_blocked(host, HOST_REDIS)) {
        at = storm.blocked_until[host][HOST_REDIS] + net_delay_ms();
    }
    at = at < self->fifo[0] ? self->fifo[0] : at;
    self->fifo[0] = at;
    sim_at(at, &storm.redis.process, on_command, self, command);
    sim_at(storm.now_ms + LIMIT_REDIS_MS, self->process, on_timeout, self, command);
}
