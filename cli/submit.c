/* submit — `drawbar submit`: makes a job, follows it, saves its pictures. */
#include "cli/follow.h"
#include "cli/interrupt.h"
#include "cli/outcome.h"
#include "cli/picture.h"
#include "common/clock.h"
#include "common/scope.h"
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    ABSENT = -1,
    SIZE_LENGTH = 19
}; /* outside of what a flag may say: --help shows no default */

struct wishes {
    const char *output, *size, *negative, *model, *format, *priority;
    int64_t width, height, steps, seed, n, quality, expires_in_s;
    bool no_wait;
};

/* "1024x768" */
static int
size_read(struct client *client, struct wishes *wishes)
{
    const char *text = wishes->size;
    if (text == NULL) {
        return 0;
    }
    size_t length = strlen(text);
    size_t width = strspn(text, "0123456789");
    size_t height = width < length ? strspn(text + width + 1, "0123456789") : 0;
    bool two = width > 0 && height > 0 && width + 1 + height == length;
    if (!two || strchr("xX", text[width]) == NULL || length > SIZE_LENGTH) {
        return client_say(client, EXIT_USAGE, "--size: \"%s\" is no size; write 1024x768", text);
    }
    wishes->width = strtoll(text, NULL, 10);
    wishes->height = strtoll(text + width + 1, NULL, 10);
    return 0;
}

static void
number_set(json_t *body, const char *key, int64_t value)
{
    if (value != ABSENT) {
        (void)json_object_set_new(body, key, json_integer(value));
    }
}

/* False: it is no UTF-8. */
static bool
text_set(json_t *body, const char *key, const char *text)
{
    return text == NULL || json_object_set_new(body, key, json_string(text)) == 0;
}

/* The request as JSON, to be freed; NULL: told. What is out of range is for the server to say. */
static char *
body_new(struct client *client, const struct wishes *wishes)
{
    json_t *body = json_object();
    const char *format = wishes->format;
    char *text = NULL;
    if (format == NULL && wishes->output != NULL) {
        format = picture_format_of(wishes->output);
    }
    number_set(body, "width", wishes->width);
    number_set(body, "height", wishes->height);
    number_set(body, "steps", wishes->steps);
    number_set(body, "seed", wishes->seed);
    number_set(body, "n", wishes->n);
    number_set(body, "quality", wishes->quality);
    number_set(body, "expires_in_s", wishes->expires_in_s);
    if (text_set(body, "prompt", client->argument) &&
        text_set(body, "negative_prompt", wishes->negative) &&
        text_set(body, "model", wishes->model) && text_set(body, "format", format) &&
        text_set(body, "priority", wishes->priority)) {
        text = json_dumps(body, JSON_COMPACT);
    } else {
        (void)client_say(client, 0, "the prompt, or a name, is not valid UTF-8");
    }
    json_decref(body);
    return text;
}

/* Posts until the server has answered once: the key makes all tries one job. */
static int
post(struct client *client, const char *body, struct answer *answer, struct job *job)
{
    char key[64];
    (void)snprintf(key, sizeof key, "Idempotency-Key: drawbar-%016" PRIx64 "%016" PRIx64,
                   random_u64(), random_u64());
    const struct question question = { .method = "POST",
                                       .path = "/v1/jobs",
                                       .headers = { key },
                                       .body = body,
                                       .limit_ms = LIMIT_ASK_MS };
    int64_t end_ms = clock_mono_ms() + LIMIT_SERVER_AWAY_MS;
    int64_t pause_ms = LIMIT_ASK_AGAIN_MS;
    bool broke = false;
    for (;;) {
        int rc = server_ask(client->server, &question, answer);
        broke = broke || rc == -ECONNRESET || rc == -ETIMEDOUT;
        if (rc == 0 && answer->status == 202) {
            return job_read(job, answer->body, answer->length) == 0
                       ? 0
                       : client_say(client, EXIT_REFUSED,
                                    "%s answered something that is no job; is it a Drawbar server?",
                                    server_address(client->server));
        }
        if (rc == 0) {
            return client_refused(client, answer);
        }
        if (rc == -EINTR || rc == -ETIME) {
            return client_say(client, rc == -EINTR ? EXIT_JOB : EXIT_LATE,
                              "the server has not answered; there may be a job or none");
        }
        if (!broke || clock_mono_ms() > end_ms) {
            return client_away(client, answer->trouble);
        }
        progress_trouble(&client->progress, "the connection broke; asking again");
        (void)server_pause(client->server, pause_ms);
        pause_ms = pause_ms * 2 < LIMIT_ASK_AGAIN_MAX_MS ? pause_ms * 2 : LIMIT_ASK_AGAIN_MAX_MS;
    }
}

/* Ctrl-C: nobody waits for this picture any more. */
static int
interrupted(struct client *client, struct job *job)
{
    client->answers_interrupts = false;
    int rc = outcome_cancel(client, job);
    if (rc != 0) {
        return rc;
    }
    return client_say(client, EXIT_JOB,
                      job->phase == PHASE_CANCELLED ? "cancelled job %s"
                                                    : "too late to cancel: job %s has ended",
                      job->id);
}

static int
job_made(struct client *client, const struct job *job, const struct wishes *wishes,
         const struct answer *answer)
{
    struct progress *progress = &client->progress;
    if (wishes->no_wait) {
        printf("%s\n", client->json ? answer->body : job->id);
        return 0;
    }
    if (progress->quiet) {
        return 0;
    }
    progress_clear(progress);
    (void)fprintf(stderr, "%sjob %s%s\n", terminal_style(&progress->terminal, STYLE_DIM), job->id,
                  terminal_style(&progress->terminal, STYLE_PLAIN));
    progress_job(progress, job);
    return 0;
}

static int
run(struct client *client, struct wishes *wishes)
{
    struct job job = { .phase = PHASE_UNKNOWN };
    struct answer answer = { 0 };
    int rc = size_read(client, wishes);
    if (rc == 0 && wishes->output != NULL && strcmp(wishes->output, "-") == 0 && wishes->n > 1) {
        rc = client_say(client, EXIT_USAGE, "-o -: one picture only; give --n 1 or a file's name");
    }
    rc = rc || wishes->no_wait ? rc : picture_check(client, wishes->output);
    char *body = rc == 0 ? body_new(client, wishes) : NULL;
    if (body == NULL) {
        return rc ? rc : EXIT_USAGE;
    }
    interrupt_watch();
    client->answers_interrupts = true;
    rc = post(client, body, &answer, &job);
    free(body);
    rc = rc ? rc : job_made(client, &job, wishes, &answer);
    answer_clear(&answer);
    if (rc != 0 || wishes->no_wait) {
        return rc;
    }
    rc = follow_job(client, &job);
    rc = rc ? rc : outcome_tell(client, &job, true, wishes->output);
    if (rc == -EINTR) {
        return interrupted(client, &job);
    }
    return rc == -ETIME ? outcome_late(client, &job) : rc;
}

int
command_submit(int argc, char **argv)
{
    struct wishes wishes = { .width = ABSENT,
                             .height = ABSENT,
                             .steps = ABSENT,
                             .seed = ABSENT,
                             .n = ABSENT,
                             .quality = ABSENT,
                             .expires_in_s = ABSENT };
    const struct option options[] = {
        { "output", OPTION_STRING, &wishes.output, "FILE",
          "Where to save the picture, also written -o FILE; - is standard output. Several become "
          "FILE-1, FILE-2 ... Without it: the job's id.",
          0, 0, false },
        { "size", OPTION_STRING, &wishes.size, "WxH", "Pixels, 64 to 2048 a side, divisible by 16.",
          0, 0, false },
        { "width", OPTION_INT, &wishes.width, "W", "One side of --size.", 0, INT32_MAX, false },
        { "height", OPTION_INT, &wishes.height, "H", "The other one.", 0, INT32_MAX, false },
        { "steps", OPTION_INT, &wishes.steps, "N", "Steps, 1 to 50.", 0, INT32_MAX, false },
        { "seed", OPTION_INT, &wishes.seed, "N",
          "The same seed draws the same picture; without it, a random one.", 0, INT64_MAX, false },
        { "n", OPTION_INT, &wishes.n, "N", "How many pictures, 1 to 8.", 0, INT32_MAX, false },
        { "negative", OPTION_STRING, &wishes.negative, "TEXT", "What not to draw.", 0, 0, false },
        { "model", OPTION_STRING, &wishes.model, "NAME", "The model to draw with.", 0, 0, false },
        { "format", OPTION_STRING, &wishes.format, "png|jpeg|webp",
          "How the picture is coded; without it, by the end of FILE.", 0, 0, false },
        { "quality", OPTION_INT, &wishes.quality, "N", "Of jpeg and webp, 1 to 100.", 0, INT32_MAX,
          false },
        { "priority", OPTION_STRING, &wishes.priority, "high|normal|low", "Place in the queue.", 0,
          0, false },
        { "expires-in", OPTION_INT, &wishes.expires_in_s, "S",
          "Give the job up if it waits longer, 10 to 86400 seconds.", 0, INT32_MAX, false },
        { "no-wait", OPTION_BOOL, &wishes.no_wait, NULL, "Only make the job and print its id.", 0,
          0, false }
    };
    const struct client_command command = {
        .name = "drawbar submit",
        .summary = "Asks for a picture, shows how the job goes, and saves the picture. Ctrl-C "
                   "cancels the job." EXIT_STATUS_HELP,
        .positional = "PROMPT",
        .options = options,
        .n_options = ARRAY_LENGTH(options),
    };
    struct client client;
    int status;
    if (client_open(&client, &command, argc, argv, &status) == 0) {
        status = run(&client, &wishes);
    }
    client_close(&client);
    return status;
}
