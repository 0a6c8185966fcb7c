#include "cli/picture.h"
#include "common/clock.h"
#include "common/scope.h"
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const struct {
    const char *extension, *format, *type;
} formats[] = {
    { "png", "png", "image/png" },
    { "jpg", "jpeg", "image/jpeg" },
    { "jpeg", "jpeg", "image/jpeg" },
    { "webp", "webp", "image/webp" },
};

/* What follows the last dot of the last part of a path; "" without. */
static const char *
extension_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    const char *name = slash != NULL ? slash + 1 : path;
    const char *dot = strrchr(name, '.');
    return dot != NULL && dot != name ? dot + 1 : "";
}

const char *
picture_format_of(const char *path)
{
    for (size_t i = 0; i < ARRAY_LENGTH(formats); i++) {
        if (strcasecmp(extension_of(path), formats[i].extension) == 0) {
            return formats[i].format;
        }
    }
    return NULL;
}

int
picture_path(char out[PICTURE_PATH], const char *wish, const struct job *job, uint32_t index,
             const char *extension)
{
    char number[16] = "";
    int length;
    if (job->n_images > 1) {
        (void)snprintf(number, sizeof number, "-%u", index + 1);
    }
    if (wish == NULL) {
        length = snprintf(out, PICTURE_PATH, "%s%s.%s", job->id, number, extension);
    } else {
        const char *end = extension_of(wish);
        size_t stem = strlen(wish) - strlen(end) - (end[0] != '\0' ? 1 : 0);
        length = snprintf(out, PICTURE_PATH, "%.*s%s%s", (int)stem, wish, number, wish + stem);
    }
    return length >= 0 && length < PICTURE_PATH ? 0 : -ENAMETOOLONG;
}

int
picture_check(struct client *client, const char *wish)
{
    char copy[PICTURE_PATH];
    struct stat facts;
    if (wish == NULL || strcmp(wish, "-") == 0) {
        wish = "./picture";
    }
    if (strlen(wish) >= sizeof copy - 64 || wish[0] == '\0') {
        return client_say(client, EXIT_USAGE, "-o: the path is %s; give another",
                          wish[0] == '\0' ? "empty" : "too long");
    }
    (void)snprintf(copy, sizeof copy, "%s", wish);
    const char *directory = dirname(copy);
    if (stat(wish, &facts) == 0 && S_ISDIR(facts.st_mode)) {
        return client_say(client, EXIT_USAGE, "-o: %s is a directory; give the name of a file",
                          wish);
    }
    if (stat(wish, &facts) == 0 && !S_ISREG(facts.st_mode)) {
        return 0; /* /dev/null, a pipe */
    }
    if (access(directory, W_OK | X_OK) != 0) {
        return client_say(client, EXIT_USAGE,
                          "-o: nothing can be written into %s: %s; give another place", directory,
                          strerror(errno));
    }
    return 0;
}

static int
write_all(int fd, const char *bytes, size_t length)
{
    while (length > 0) {
        ssize_t n = write(fd, bytes, length);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return -errno;
        }
        bytes += n;
        length -= (size_t)n;
    }
    return 0;
}

/* A regular file is replaced whole; into anything else the bytes are written. */
static int
file_write(const char *path, const struct answer *answer)
{
    char temporary[PICTURE_PATH + 16];
    struct stat facts;
    bool plain = stat(path, &facts) != 0 || S_ISREG(facts.st_mode);
    (void)snprintf(temporary, sizeof temporary, plain ? "%s.XXXXXX" : "%s", path);
    int fd = plain ? mkstemp(temporary) : open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) {
        return -errno;
    }
    mode_t mask = umask(0);
    (void)umask(mask);
    int rc = write_all(fd, answer->body, answer->length);
    if (plain && fchmod(fd, 0666 & ~mask) != 0 && rc == 0) {
        rc = -errno;
    }
    rc = close(fd) != 0 && rc == 0 ? -errno : rc;
    if (rc == 0 && plain && rename(temporary, path) != 0) {
        rc = -errno;
    }
    if (rc != 0 && plain) {
        (void)unlink(temporary);
    }
    return rc;
}

/* What the worker that drew a job says of its instances. */
struct confession {
    bool simulated;
    bool silent; /* nothing yet of at least one: its first health check was after the last beat */
};

static struct confession
worker_ask(struct client *client, const struct job *job)
{
    struct answer answer = { 0 };
    size_t i;
    size_t k;
    json_t *worker;
    json_t *instance;
    struct confession out = { .simulated = false };
    const struct question question = { .method = "GET",
                                       .path = "/v1/workers",
                                       .limit_ms = LIMIT_ASK_MS };
    int rc = server_ask(client->server, &question, &answer);
    json_t *root = rc == 0 ? json_loadb(answer.body, answer.length, 0, NULL) : NULL;
    json_array_foreach(json_object_get(root, "workers"), i, worker)
    {
        const char *name = json_string_value(json_object_get(worker, "name"));
        if (name == NULL || strcmp(name, job->worker) != 0) {
            continue;
        }
        json_array_foreach(json_object_get(worker, "instances"), k, instance)
        {
            const char *model = json_string_value(json_object_get(instance, "model"));
            out.simulated = out.simulated || json_is_true(json_object_get(instance, "simulated"));
            out.silent = out.silent || model == NULL || model[0] == '\0';
        }
    }
    json_decref(root);
    answer_clear(&answer);
    return out;
}

/* True if the worker says so. Its word is as old as its last beat: the next one is waited for. */
static bool
is_simulated(struct client *client, const struct job *job)
{
    struct confession told = worker_ask(client, job);
    int64_t end_ms = clock_mono_ms() + LIMIT_BEAT_MS + LIMIT_ASK_AGAIN_MS;
    while (!told.simulated && told.silent && clock_mono_ms() < end_ms &&
           server_pause(client->server, LIMIT_ASK_AGAIN_MS) == 0) {
        told = worker_ask(client, job);
    }
    return told.simulated;
}

/* True for a PNG in which the simulated instance has written what it is. */
static bool
is_marked(const struct answer *answer)
{
    static const char mark[] = "(simulated picture)";
    return memmem(answer->body, answer->length, mark, sizeof mark - 1) != NULL;
}

/* Where the lines about saved pictures go: not between the bytes of something else. */
static FILE *
saved_stream(const struct client *client, const char *wish)
{
    return client->json || (wish != NULL && strcmp(wish, "-") == 0) ? stderr : stdout;
}

static void
saved_tell(struct client *client, const struct job *job, const char *path, uint32_t index)
{
    const struct job_image *image = &job->images[index];
    FILE *file = saved_stream(client, path);
    struct terminal terminal;
    terminal_look(&terminal, fileno(file));
    progress_clear(&client->progress);
    (void)fprintf(file, "%ssaved%s %s %ux%u seed %llu", terminal_style(&terminal, STYLE_GREEN),
                  terminal_style(&terminal, STYLE_PLAIN),
                  strcmp(path, "-") == 0 ? "to standard output" : path, image->width, image->height,
                  (unsigned long long)image->seed);
    if (job->total_ms >= 0) {
        (void)fprintf(file, ", %.1f s", (double)job->total_ms / 1000);
    }
    (void)fprintf(file, "%s\n", job->uniform ? " (warning: the whole picture has one colour)" : "");
    (void)fflush(file);
}

static void
simulated_tell(struct client *client, const char *wish)
{
    FILE *file = saved_stream(client, wish);
    struct terminal terminal;
    terminal_look(&terminal, fileno(file));
    (void)fprintf(file, "%sSIMULATED%s: a test instance drew it, no model ran\n",
                  terminal_style(&terminal, STYLE_YELLOW), terminal_style(&terminal, STYLE_PLAIN));
    (void)fflush(file);
}

static int
save_one(struct client *client, const struct job *job, const char *wish, uint32_t index,
         bool *marked)
{
    char path[PICTURE_PATH];
    struct answer answer = { 0 };
    const struct question question = { .method = "GET",
                                       .path = job->images[index].url,
                                       .limit_ms = LIMIT_UPLOAD_MS };
    if (question.path[0] != '/') {
        return client_say(client, EXIT_REFUSED, "the server tells no address of the picture");
    }
    int rc = client_ask(client, &question, &answer);
    const char *extension = "png";
    for (size_t i = 0; rc == 0 && i < ARRAY_LENGTH(formats); i++) {
        if (strcmp(answer.type, formats[i].type) == 0) {
            extension = formats[i].extension;
            break;
        }
    }
    if (rc == 0 && wish != NULL && strcmp(wish, "-") == 0) {
        (void)snprintf(path, sizeof path, "-");
        rc = write_all(STDOUT_FILENO, answer.body, answer.length);
    } else if (rc == 0) {
        rc = picture_path(path, wish, job, index, extension);
        rc = rc ? rc : file_write(path, &answer);
    }
    *marked = *marked || (rc == 0 && is_marked(&answer));
    answer_clear(&answer);
    if (rc < 0 && rc != -EINTR && rc != -ETIME) {
        return client_say(client, EXIT_JOB,
                          "cannot save %s: %s; the picture stays at %s%s for a day",
                          wish != NULL ? wish : "the picture", strerror(-rc),
                          server_address(client->server), job->images[index].url);
    }
    if (rc == 0) {
        saved_tell(client, job, path, index);
    }
    return rc;
}

int
picture_save(struct client *client, const struct job *job, const char *wish)
{
    int rc = 0;
    bool marked = false;
    if (job->n_images == 0) {
        return client_say(client, EXIT_REFUSED,
                          "the job succeeded, but the server tells no picture");
    }
    for (uint32_t i = 0; rc == 0 && i < job->n_images; i++) {
        rc = save_one(client, job, wish, i, &marked);
    }
    if (rc == 0 && (marked || is_simulated(client, job))) {
        simulated_tell(client, wish);
    }
    return rc;
}
