#pragma once
/*
 * store_world — a store of pictures in a directory of its own, and a client that uploads to it.
 *
 * For tests: make_dir() or make_store() before, remove_store() after. Redis TIME stands at NOW when
 * a store is made; the grants of upload() are good for a minute from then.
 */
#include "common/clock.h"
#include "gateway/artifacts.h"
#include "gateway/picture_dir.h"
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <ftw.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { NOW = 5000000, PATIENCE_MS = 10000 };

static const uint8_t keys[2][GRANT_KEY_BYTES] = { "the key of today", "the key of yesterday" };
static const char png[] = "\x89PNG\r\n\x1a\n and some pixels";
static const char other_png[] = "\x89PNG\r\n\x1a\n and some pixelz";

static inline void
pause_ms(int ms)
{
    poll(NULL, 0, ms);
}

/* -- a store of its own for each test -- */

static char dir[64];
static struct artifacts *artifacts;
static uint32_t free_mib_min;

static inline void
open_store(const char *redis_url, int64_t sweep_ms, int64_t grace_s)
{
    const struct artifacts_config config = {
        .dir = dir,
        .host = "127.0.0.1",
        .redis_url = redis_url,
        .max_parallel = 16,
        .sweep_ms = sweep_ms,
        .grace_s = grace_s,
        .free_mib_min = free_mib_min,
    };
    cr_assert_eq(artifacts_open(&artifacts, &config), 0);
}

static inline void
make_dir(void)
{
    snprintf(dir, sizeof dir, "/tmp/test-artifacts-XXXXXX");
    cr_assert(mkdtemp(dir) != NULL);
    free_mib_min = 0;
}

static inline void
make_store(void)
{
    make_dir();
    open_store("unix:///nonexistent/redis.sock", 3600000, 600);
    artifacts_set_keys(artifacts, keys, 2, NOW - clock_mono_ms());
}

static inline int
remove_one(const char *path, const struct stat *status, int kind, struct FTW *place)
{
    (void)status;
    (void)kind;
    (void)place;
    return remove(path);
}

static inline void
remove_store(void)
{
    artifacts_destroy(&artifacts);
    nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

/* -- a client -- */

struct ask {
    const char *method;
    const char *target;
    const char *token; /* NULL: no header */
    const char *type;
    const void *body;
    size_t length;
};

static char reply[4096];

static inline int
connect_to_store(void)
{
    const struct timeval patience = { PATIENCE_MS / 1000, 0 };
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(artifacts_port(artifacts)) };
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    cr_assert(connect(fd, (struct sockaddr *)&a, sizeof a) == 0);
    return fd;
}

static inline void
send_all(int fd, const void *bytes, size_t length)
{
    const char *at = bytes;
    while (length > 0) {
        ssize_t n = send(fd, at, length, MSG_NOSIGNAL);
        if (n <= 0) {
            return; /* the server may answer and close before it has everything */
        }
        at += n;
        length -= (size_t)n;
    }
}

static inline void
send_head(int fd, const struct ask *ask)
{
    char head[2048];
    char authorization[512] = "";
    if (ask->token != NULL) {
        snprintf(authorization, sizeof authorization, "Authorization: Grant %s\r\n", ask->token);
    }
    int n =
        snprintf(head, sizeof head,
                 "%s %s HTTP/1.1\r\nHost: x\r\n%sContent-Type: %s\r\nContent-Length: %zu\r\n\r\n",
                 ask->method, ask->target, authorization, ask->type, ask->length);
    send_all(fd, head, (size_t)n);
}

/* The status; the whole answer is in `reply`. */
static inline int
receive(int fd)
{
    size_t length = 0;
    ssize_t n = 0;
    do {
        n = recv(fd, reply + length, sizeof reply - 1 - length, 0);
        length += n > 0 ? (size_t)n : 0;
    } while (n > 0 && length < sizeof reply - 1);
    reply[length] = '\0';
    close(fd);
    return length > 12 ? (int)strtol(reply + 9, NULL, 10) : 0;
}

static inline int
say(const struct ask *ask)
{
    int fd = connect_to_store();
    send_head(fd, ask);
    send_all(fd, ask->body, ask->length);
    return receive(fd);
}

static inline struct lease
new_lease(void)
{
    return (struct lease){ .job = job_id_mint(clock_wall_ms()), .epoch = 0xabc, .grant = 1 };
}

static inline void
print_target(const struct lease *lease, unsigned index, char out[256])
{
    char job[JOB_ID_TEXT + 1];
    job_id_print(&lease->job, job);
    snprintf(out, 256, "/upload/%s/%u/%u?epoch=%08x", job, (unsigned)lease->grant, index,
             (unsigned)lease->epoch);
}

static inline int
upload_with(const struct lease *lease, unsigned index, const char *token, const char *type,
            const char *text)
{
    char target[256];
    print_target(lease, index, target);
    return say(&(struct ask){ "PUT", target, token, type, text, strlen(text) });
}

static inline int
upload(const struct lease *lease, unsigned index, const char *text)
{
    char token[GRANT_TOKEN_MAX];
    grant_sign(keys[0], lease, 2, NOW + 60000, token);
    return upload_with(lease, index, token, "image/png", text);
}

static inline void
print_path(const struct lease *lease, uint8_t index, char out[256])
{
    char shard[PICTURE_SHARD_MAX];
    char name[PICTURE_NAME_MAX];
    picture_shard_print(&lease->job, shard);
    picture_name_print(&(struct picture_name){ *lease, index }, name);
    snprintf(out, 256, "%s/%s/%s", dir, shard, name);
}

static inline bool
is_there(const struct lease *lease, uint8_t index)
{
    char path[256];
    print_path(lease, index, path);
    return access(path, F_OK) == 0;
}

static int n_files;

static inline int
count_one(const char *path, const struct stat *status, int kind, struct FTW *place)
{
    (void)status;
    n_files += kind == FTW_F && strcmp(path + place->base, ".drawbar-store") != 0;
    return 0;
}

static inline int
files_in_store(void)
{
    n_files = 0;
    nftw(dir, count_one, 8, FTW_PHYS);
    return n_files;
}
