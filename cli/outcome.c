#include "cli/outcome.h"
#include "cli/picture.h"
#include <stdio.h>

int
outcome_json(struct client *client, const struct job *job)
{
    char path[LIMIT_URL];
    struct answer answer = { 0 };
    const struct question question = { .method = "GET", .path = path, .limit_ms = LIMIT_ASK_MS };
    int rc = client_job_path(client, job->id, "", path);
    rc = rc ? rc : client_ask(client, &question, &answer);
    if (rc == 0) {
        progress_clear(&client->progress);
        printf("%s\n", answer.body);
    }
    answer_clear(&answer);
    return rc;
}

static int
succeeded(struct client *client, const struct job *job, bool saves, const char *wish)
{
    if (saves) {
        return picture_save(client, job, wish);
    }
    if (client->json) {
        return 0;
    }
    progress_clear(&client->progress);
    printf("succeeded");
    if (job->total_ms >= 0) {
        printf(" in %.1f s", (double)job->total_ms / 1000);
    }
    printf(job->worker[0] != '\0' ? " on %s\n" : "%s\n", job->worker);
    for (uint32_t i = 0; i < job->n_images; i++) {
        const struct job_image *image = &job->images[i];
        printf("  %s%s  %ux%u seed %llu\n", server_address(client->server), image->url,
               image->width, image->height, (unsigned long long)image->seed);
    }
    return 0;
}

int
outcome_tell(struct client *client, const struct job *job, bool saves, const char *wish)
{
    char message[LIMIT_REASON_BYTES];
    int rc = client->json ? outcome_json(client, job) : 0;
    if (rc != 0) {
        return rc;
    }
    switch (job->phase) {
    case PHASE_SUCCEEDED:
        return succeeded(client, job, saves, wish);
    case PHASE_FAILED:
        text_fit(message, sizeof message, job->message, sizeof message,
                 client->progress.terminal.utf8);
        return client_say(client, EXIT_JOB, "the job failed at attempt %u: %s%s%s", job->attempt,
                          job->error, message[0] != '\0' ? ": " : "", message);
    case PHASE_CANCELLED:
        return client_say(client, EXIT_JOB, "the job was cancelled");
    case PHASE_EXPIRED:
        return client_say(client, EXIT_JOB,
                          "the job expired: it waited longer than its expires-in");
    case PHASE_UNKNOWN:
    case PHASE_QUEUED:
    case PHASE_RUNNING:
    case PHASE_COUNT:
        break;
    }
    return client_say(client, EXIT_JOB, "the job is %s", job->status);
}

int
outcome_late(struct client *client, const struct job *job)
{
    return client_say(client, EXIT_LATE,
                      "not finished after %lld s, still %s; it goes on: drawbar wait %s",
                      (long long)client->timeout_s, job->status, job->id);
}

int
outcome_cancel(struct client *client, struct job *job)
{
    char path[LIMIT_URL];
    struct answer answer = { 0 };
    const struct question question = { .method = "DELETE", .path = path, .limit_ms = LIMIT_ASK_MS };
    int rc = client_job_path(client, job->id, "", path);
    rc = rc ? rc : client_ask_job(client, &question, &answer, job);
    answer_clear(&answer);
    return rc;
}
