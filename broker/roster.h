#pragma once
/*
 * roster — the sessions: who is there, what each can do, what each holds, when it was last heard.
 *
 * A worker's slot lives from its first HELLO until it said BYE or was evicted, over any number of
 * sessions; a gateway's slot is one session. Pure; the rules are in dispatch.
 */
#include "broker/peer.h"
#include "broker/queue.h"
#include "proto/frames.h"

#define ROSTER_NOBODY UINT32_MAX

struct worker {
    bool used;
    bool draining; /* told to take nothing new */
    bool quiet;    /* its beats are silent: nothing new either. rules 5 */
    char name[LIMIT_WORKER_NAME + 1];
    uint64_t incarnation;
    uint64_t session; /* 0: none */
    struct peer peer;
    struct capability can;
    uint8_t instances;
    uint8_t pull;       /* from its last STATE */
    uint32_t last_job;  /* from its last STATE; JOBs up to it are not on their way any more */
    uint32_t sent_jobs; /* number of the last JOB sent in this session */
    uint32_t granting;  /* grants whose commit is not answered */
    int64_t job_ms;     /* when that was, or was sent again */
    int64_t heard_ms;   /* any frame, monotonic */
    int64_t told_ms;    /* last BROKER_STATE */
    int64_t beat_ms;    /* monotonic time of the last beat known; sweeps say who is quiet */
    double speed;       /* cost units a second of one instance, moving average; 0: not known */
    struct job_list leases;
    uint32_t free_previous, free_next; /* list of workers with a free place */
    bool in_free;
};

struct gateway {
    bool used;
    uint64_t session;
    struct peer peer;
    int64_t heard_ms;
    bool storage_full;
    bool lagging; /* its queue was full: its next frame is a snapshot of all it watches */
    uint8_t n_bases;
    char bases[LIMIT_UPLOAD_BASES][LIMIT_URL + 1];
    uint32_t positions_from; /* round robin over watched queued jobs */
};

/* Workers that can do the same. */
struct kind {
    struct capability can;
    uint32_t workers;   /* with a session */
    uint32_t instances; /* of those */
    double speed;       /* sum over their instances; unknown ones count as SPEED_GUESS */
};

enum { SPEED_GUESS = 6000 /* one H100 draws 8192 units in 1.4 s. gpu.md */ };

struct roster {
    struct worker *workers;
    uint32_t n_workers; /* slots in use or used before */
    uint32_t alive;     /* workers with a session */
    struct table by_session, by_name;
    uint32_t free_first, free_last;
    struct gateway gateways[LIMIT_GATEWAYS];
    struct kind kinds[LIMIT_KINDS];
    uint32_t n_kinds;
};

int roster_setup(struct roster *self); /* 0, -1: memory is gone */
void roster_clear(struct roster *self);

uint32_t roster_by_session(const struct roster *self,
                           uint64_t session); /* a worker, or ROSTER_NOBODY */
uint32_t roster_by_name(const struct roster *self, struct slice name);
/* A slot for a worker of this name that has none. If its last one was not given away meanwhile, its
 * process is still known by number, and whether it was told to drain. ROSTER_NOBODY: LIMIT_WORKERS
 * are there. */
uint32_t roster_add(struct roster *self, struct slice name);
/* Opens a session in the slot (ending an older one) / ends its session. */
bool roster_open(struct roster *self, uint32_t slot, uint64_t session, const struct peer *peer);
void roster_close(struct roster *self, uint32_t slot);
/* Forgets the worker; it holds no lease any more. */
void roster_remove(struct roster *self, uint32_t slot);
/* Counts kinds anew: a worker came, went or changed, or every so often for the speeds. */
void roster_count_kinds(struct roster *self);

/* Free places the broker may fill: what the worker pulled, less what is on its way. */
uint32_t worker_credit(const struct worker *worker);
/* Puts the worker in or out of the list of free ones as its credit says. */
void roster_refresh(struct roster *self, uint32_t slot);

uint32_t roster_gateway(const struct roster *self, uint64_t session); /* or ROSTER_NOBODY */
/* The session that this peer has, or ROSTER_NOBODY. */
uint32_t roster_gateway_at(const struct roster *self, const struct peer *peer);
/* A slot for a new gateway session. ROSTER_NOBODY: all are taken. */
uint32_t roster_gateway_add(struct roster *self, uint64_t session, const struct peer *peer);
void roster_gateway_remove(struct roster *self, uint32_t slot);
bool peer_equal(const struct peer *a, const struct peer *b);
