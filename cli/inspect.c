/* inspect — `drawbar status`, `wait` and `cancel`: what becomes of a job that exists already. */
#include "cli/follow.h"
#include "cli/interrupt.h"
#include "cli/outcome.h"
#include "cli/picture.h"
#include "common/scope.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

static int
job_ask(struct client *client, struct job *job)
{
    char path[LIMIT_URL];
    struct answer answer = { 0 };
    const struct question question = { .method = "GET", .path = path, .limit_ms = LIMIT_ASK_MS };
    int rc = client_job_path(client, client->argument, "", path);
    rc = rc ? rc : client_ask_job(client, &question, &answer, job);
    if (rc == 0 && client->json) {
        printf("%s\n", answer.body);
    }
    answer_clear(&answer);
    return rc;
}

static void
seconds_print(const char *label, int64_t ms)
{
    if (ms >= 0) {
        printf("  %-9s %.1f s\n", label, (double)ms / 1000);
    }
}

static void
status_print(const struct client *client, const struct job *job)
{
    char text[PROGRESS_TEXT];
    struct terminal terminal;
    terminal_look(&terminal, 1);
    bool good = job->phase == PHASE_SUCCEEDED;
    enum style style = !job_has_ended(job) ? STYLE_BOLD : good ? STYLE_GREEN : STYLE_RED;
    printf("%s%s%s", terminal_style(&terminal, style), job->status,
           terminal_style(&terminal, STYLE_PLAIN));
    if (!job_has_ended(job)) {
        struct terminal plain = terminal;
        plain.live = plain.colour = false;
        progress_text(text, job, &plain, 0);
        size_t same =
            strncmp(text, job->status, strlen(job->status)) == 0 ? strlen(job->status) : 0;
        printf("%s%s", same > 0 ? "" : ", ", text + same);
    }
    printf("\n");
    if (job->prompt[0] != '\0') {
        uint32_t room = terminal.live && terminal.columns > 20 ? terminal.columns - 13 : 200;
        text_fit(text, sizeof text, job->prompt, room, terminal.utf8);
        printf("  %-9s %s\n", "prompt", text);
    }
    seconds_print("queued", job->queued_ms);
    seconds_print("running", job->run_ms);
    if (job->worker[0] != '\0') {
        printf("  %-9s %s\n", "worker", job->worker);
    }
    if (job->attempt > 1) {
        printf("  %-9s %u\n", "attempts", job->attempt);
    }
    for (uint32_t i = 0; i < job->n_images; i++) {
        printf("  %-9s %s%s  %ux%u seed %llu\n", "picture", server_address(client->server),
               job->images[i].url, job->images[i].width, job->images[i].height,
               (unsigned long long)job->images[i].seed);
    }
    if (job->phase == PHASE_FAILED) {
        text_fit(text, sizeof text, job->message, sizeof text, terminal.utf8);
        printf("  %-9s %s: %s\n", "error", job->error, text);
    }
}

static int
run_status(struct client *client)
{
    struct job job;
    int rc = job_ask(client, &job);
    if (rc == 0 && !client->json) {
        status_print(client, &job);
    }
    return rc;
}

static int
run_wait(struct client *client, const char *output)
{
    struct job job;
    bool json = client->json;
    int rc = output != NULL ? picture_check(client, output) : 0;
    if (rc != 0) {
        return rc;
    }
    interrupt_watch();
    client->answers_interrupts = true;
    client->json = false;
    rc = job_ask(client, &job);
    client->json = json;
    if (rc == 0 && !job_has_ended(&job)) {
        progress_job(&client->progress, &job);
        rc = follow_job(client, &job);
    }
    rc = rc ? rc : outcome_tell(client, &job, output != NULL, output);
    if (rc == -EINTR) {
        return client_say(client, EXIT_JOB, "the job goes on; drawbar cancel %s would end it",
                          client->argument);
    }
    if (rc == -ETIME) {
        (void)snprintf(job.id, sizeof job.id, "%s", client->argument);
        return outcome_late(client, &job);
    }
    return rc;
}

static int
run_cancel(struct client *client)
{
    struct job job = { .phase = PHASE_UNKNOWN };
    char path[LIMIT_URL];
    int rc = client_job_path(client, client->argument, "", path);
    if (rc != 0) {
        return rc;
    }
    (void)snprintf(job.id, sizeof job.id, "%s", client->argument);
    rc = outcome_cancel(client, &job);
    rc = rc == 0 && client->json ? outcome_json(client, &job) : rc;
    if (rc != 0) {
        return rc;
    }
    if (job.phase != PHASE_CANCELLED) {
        return client_say(client, EXIT_JOB, "nothing to cancel: the job has %s", job.status);
    }
    if (!client->json) {
        printf("cancelled %s\n", job.id);
    }
    return 0;
}

int
command_status(int argc, char **argv)
{
    const struct client_command command = {
        .name = "drawbar status",
        .summary =
            "Tells how a job stands. Its failure is no failure of this command." EXIT_STATUS_HELP,
        .positional = "ID",
    };
    struct client client;
    int status;
    if (client_open(&client, &command, argc, argv, &status) == 0) {
        status = run_status(&client);
    }
    client_close(&client);
    return status;
}

int
command_wait(int argc, char **argv)
{
    const char *output = NULL;
    const struct option options[] = {
        { "output", OPTION_STRING, &output, "FILE",
          "Save the picture, also written -o FILE; - is standard output.", 0, 0, false },
    };
    const struct client_command command = {
        .name = "drawbar wait",
        .summary = "Follows a job until it ends. Ctrl-C leaves the job alone." EXIT_STATUS_HELP,
        .positional = "ID",
        .options = options,
        .n_options = ARRAY_LENGTH(options),
    };
    struct client client;
    int status;
    if (client_open(&client, &command, argc, argv, &status) == 0) {
        status = run_wait(&client, output);
    }
    client_close(&client);
    return status;
}

int
command_cancel(int argc, char **argv)
{
    const struct client_command command = {
        .name = "drawbar cancel",
        .summary =
            "Cancels a job: a queued one at once, a running one by interrupting its instance. "
            "Doing it again does no harm." EXIT_STATUS_HELP,
        .positional = "ID",
    };
    struct client client;
    int status;
    if (client_open(&client, &command, argc, argv, &status) == 0) {
        status = run_cancel(&client);
    }
    client_close(&client);
    return status;
}
