/* drain — `drawbar drain`: workers finish what they draw, take nothing new, and leave. */
#include "cli/client.h"
#include "cli/interrupt.h"
#include "cli/worker.h"
#include "common/clock.h"
#include "common/scope.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

/* One worker that was told to leave. */
struct leaver {
    struct worker_facts told; /* when it was */
    int64_t asked_ms;
    bool waited_for;
};

struct leaving {
    struct client *client;
    struct leaver leavers[CONFIG_LIST_MAX];
    uint32_t n_leavers;
    int64_t heard_ms; /* the server said something of use */
    int status;       /* the first that is not 0 */
};

static void
note(struct leaving *self, int status)
{
    self->status = self->status != 0 ? self->status : status;
}

/* Asks the server to drain one. 0, or an exit status (told), or -EINTR, -ETIME. */
static int
drain_ask(struct client *client, struct leaver *leaver, const char *name, bool prints)
{
    char path[LIMIT_URL];
    struct answer answer = { 0 };
    const struct question question = { .method = "POST", .path = path, .limit_ms = LIMIT_ASK_MS };
    if (!worker_drain_path(name, path)) {
        return client_say(client, EXIT_USAGE,
                          "\"%.80s\" is no worker's name; drawbar workers lists them", name);
    }
    leaver->asked_ms = clock_mono_ms();
    int rc = client_ask(client, &question, &answer);
    if (rc == 0 && prints && worker_read(&leaver->told, answer.body, answer.length) != 0) {
        rc = client_say(client, EXIT_REFUSED,
                        "%s answered something that is no worker; is it a Drawbar server?",
                        server_address(client->server));
    }
    if (rc == 0 && prints && client->json) {
        printf("%s\n", answer.body);
    }
    answer_clear(&answer);
    return rc;
}

static void
drain_print(const struct worker_facts *worker)
{
    if (worker->n_jobs > 0) {
        printf("%s drains: %u %s to finish, then it leaves\n", worker->name, worker->n_jobs,
               worker->n_jobs == 1 ? "job" : "jobs");
    } else {
        printf("%s drains: it takes nothing new, and leaves\n", worker->name);
    }
    (void)fflush(stdout); /* somebody may watch through a pipe */
}

static int
drain_all(struct leaving *self)
{
    struct client *client = self->client;
    for (uint32_t i = 0; i < client->arguments.count; i++) {
        struct leaver *leaver = &self->leavers[self->n_leavers];
        int rc = drain_ask(client, leaver, client->arguments.items[i], true);
        if (rc < 0 || rc == EXIT_AWAY) {
            return rc;
        }
        note(self, rc);
        if (rc == 0) {
            leaver->waited_for = true;
            self->n_leavers++;
            if (!client->json) {
                drain_print(&leaver->told);
            }
        }
    }
    return 0;
}

/* What became of one, now. */
static int
leaver_look(struct leaving *self, struct leaver *leaver, const struct answer *answer)
{
    struct client *client = self->client;
    struct worker_facts now;
    enum worker_stand stand;
    if (worker_look(&stand, &now, &leaver->told, answer->body, answer->length) != 0) {
        return client_say(client, EXIT_REFUSED, "%s is no Drawbar server",
                          server_address(client->server));
    }
    switch (stand) {
    case WORKER_LEFT:
        leaver->waited_for = false;
        if (!client->json) {
            printf("%s has left\n", leaver->told.name);
            (void)fflush(stdout);
        }
        return 0;
    case WORKER_LOST:
        leaver->waited_for = false;
        note(self,
             client_say(client, EXIT_JOB,
                        "%s fell silent before it had finished; its jobs were given to others",
                        leaver->told.name));
        return 0;
    case WORKER_WORKS: /* who told it has died too early? */
        if (clock_mono_ms() - leaver->asked_ms >= LIMIT_DRAIN_AGAIN_MS) {
            int rc = drain_ask(client, leaver, leaver->told.name, false);
            return rc == EXIT_AWAY || rc == EXIT_REFUSED ? 0 : rc; /* told; it is looked at again */
        }
        return 0;
    case WORKER_DRAINS:
    case WORKER_SILENT:
    case WORKER_STAND_COUNT:
        break;
    }
    return 0;
}

/* One look at all who are waited for. 0, or an exit status (told), or -EINTR, -ETIME. */
static int
look(struct leaving *self)
{
    struct client *client = self->client;
    struct answer answer = { 0 };
    const struct question question = { .method = "GET",
                                       .path = "/v1/workers",
                                       .limit_ms = LIMIT_ASK_MS };
    int rc = server_ask(client->server, &question, &answer);
    if (rc == 0 && answer.status == 200) {
        self->heard_ms = clock_mono_ms();
        for (uint32_t i = 0; i < self->n_leavers && rc == 0; i++) {
            struct leaver *leaver = &self->leavers[i];
            rc = leaver->waited_for ? leaver_look(self, leaver, &answer) : 0;
        }
    } else if (rc == 0 && answer.status < 500) {
        rc = client_refused(client, &answer);
    } else if (rc != -EINTR && rc != -ETIME) { /* away for a moment, or for good */
        bool long_ago = clock_mono_ms() - self->heard_ms > LIMIT_SERVER_AWAY_MS;
        rc = !long_ago ? 0
             : rc == 0 ? client_refused(client, &answer)
                       : client_away(client, answer.trouble);
    }
    answer_clear(&answer);
    return rc;
}

static uint32_t
waited_for(const struct leaving *self)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < self->n_leavers; i++) {
        n += self->leavers[i].waited_for;
    }
    return n;
}

static int
run(struct client *client, bool waits)
{
    struct leaving self = { .client = client, .heard_ms = clock_mono_ms() };
    if (waits) {
        interrupt_watch();
        client->answers_interrupts = true;
    }
    int rc = drain_all(&self);
    while (rc == 0 && waits && waited_for(&self) > 0) {
        rc = look(&self);
        rc = rc == 0 && waited_for(&self) > 0 ? server_pause(client->server, LIMIT_DRAIN_LOOK_MS)
                                              : rc;
    }
    if (rc == -EINTR) {
        return client_say(client, EXIT_JOB, "the workers go on draining");
    }
    if (rc == -ETIME) {
        return client_say(client, EXIT_LATE, "%u not left after %lld s; the workers go on draining",
                          waited_for(&self), (long long)client->timeout_s);
    }
    return rc != 0 ? rc : self.status;
}

int
command_drain(int argc, char **argv)
{
    bool waits = false;
    const struct option options[] = {
        { "wait", OPTION_BOOL, &waits, NULL, "Follow until all of them have left.", 0, 0, false },
    };
    const struct client_command command = {
        .name = "drawbar drain",
        .summary =
            "Lets workers finish what they draw, take nothing new, and leave. Queued jobs go "
            "to others. A worker that is started again works again." EXIT_STATUS_HELP,
        .positional = "WORKER...",
        .several = true,
        .options = options,
        .n_options = ARRAY_LENGTH(options),
    };
    struct client client;
    int status;
    if (client_open(&client, &command, argc, argv, &status) == 0) {
        status = run(&client, waits);
    }
    client_close(&client);
    return status;
}
