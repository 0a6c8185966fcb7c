#pragma once
/*
 * plan — which processes one `drawbar up` runs, and with which words.
 *
 *     rank 0  redis      its own, on a Unix socket; with --listen also on tcp, with a password
 *     rank 1  broker
 *     rank 2  gateway    with --listen a second one, gateway-local, serves this host as before
 *     rank 3  local-1 .. local-N, the workers, each with its instances
 *
 * Children learn where Redis is from DRAWBAR_REDIS, for command lines can be read by every user.
 */
#include "cli/crew.h"
#include "cli/home.h"
#include "cli/ports.h"
#include "common/config.h"
#include "common/limits.h"
#include <limits.h>

struct plan_wishes {
    const char *data, *listen; /* NULL: not given */
    int64_t workers, instances, port, redis_port;
    struct string_list attach;
};

enum program_kind {
    PROGRAM_REDIS,
    PROGRAM_BROKER,
    PROGRAM_GATEWAY,
    PROGRAM_WORKER,
    PROGRAM_SIM,
    PROGRAM_KIND_COUNT,
};

enum { PLAN_WORD_BYTES = 16384 };

struct plan;

struct plan_member {
    struct plan *plan;
    enum program_kind kind;
    uint32_t index;  /* in the crew */
    uint32_t number; /* of workers: 1.. */
    bool outside;    /* of gateways: the one at --listen */
    char name[CREW_NAME];
    char log_path[HOME_PATH], ready_path[HOME_PATH];
    char http[ADDRESS_TEXT]; /* of gateways: where it really listens; "" until it was ready once */
    char text[PLAN_WORD_BYTES]; /* of its words */
};

struct plan {
    const struct plan_wishes *wishes;
    const struct home *home;
    char programs[PROGRAM_KIND_COUNT][PATH_MAX];
    char password[HOME_PASSWORD];  /* "": no --listen */
    char redis_url[3 * HOME_PATH]; /* of children */
    char redis_variable[3 * HOME_PATH + 32];
    char **environment;
    uint16_t gateway_port, worker_port, uploads_port; /* 0: any */
    int64_t redis_mib;
    uint32_t n_members;
    struct plan_member members[CREW_MAX];
};

/* Checks wishes, programs, addresses and ports; writes redis.conf. 0, or -errno (told). */
int plan_make(struct plan *self, const struct plan_wishes *wishes, const struct home *home);
void plan_clear(struct plan *self);
/* Adds all members to the crew. */
void plan_enlist(struct plan *self, struct crew *crew);
/* Reads what a member's ready file tells. */
void plan_note_ready(struct plan *self, uint32_t index);
/* The address that commands on this host use, "http://127.0.0.1:8080". */
void plan_local_url(const struct plan *self, char out[LIMIT_URL]);
/* The command that makes a worker on another host. */
void plan_paste_line(const struct plan *self, char out[1024]);
/* True if --listen opens something beyond this host. */
bool plan_is_open(const struct plan *self);
