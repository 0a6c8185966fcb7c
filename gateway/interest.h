#pragma once
/*
 * interest — one job's view, kept for all that look at it; private to lookups.
 *
 * It owns copies of what the view points to. A newer word replaces an older one; "newer" is the
 * revision, which rises with each transition.
 */
#include "gateway/lookups.h"
#include <sys/queue.h>

/* Where an interest waits, and for how long: see lane_ms in lookups.c. */
enum lane {
    LANE_NONE,    /* nothing is due: Redis is being read, or it ended */
    LANE_ASKED,   /* the broker was asked; then Redis is read */
    LANE_SOON,    /* asked again soon: live in Redis, but not in the broker, or both were away */
    LANE_WATCHED, /* changes come by themselves; asked again to be sure */
    LANE_IDLE,    /* nobody looks; freed */
    LANE_COUNT,
};

struct interest;

struct lookup {
    TAILQ_ENTRY(lookup) entry;
    struct interest *interest;
    struct lookup_order order;
    bool watches, told;
    /* what a watcher was told last */
    uint32_t revision, position, eta_s;
    uint8_t step, reason;
};

TAILQ_HEAD(lookup_queue, lookup);

/* How records are read; shared by all interests of a reactor. */
struct interest_reader {
    struct redis_client *redis;
    struct record_unpacker unpacker;
    void (*read_end)(struct interest *interest, enum lookup_verdict verdict);
};

struct interest {
    LIST_ENTRY(interest) all_entry;
    TAILQ_ENTRY(interest) lane_entry, ready_entry;
    struct lookup_queue lookups;
    struct lookups *owner;
    struct interest_reader *reader;
    struct job_id id;
    enum lane lane;
    int64_t lane_since_ms, view_ms; /* view_ms 0: the view is old */
    struct job_view view;
    struct slice tenant; /* inside the view's request */
    enum lookup_verdict verdict;
    uint32_t n_watches;
    bool watching; /* the broker tells us changes in this session */
    bool ready;    /* in the owner's list of those to be told */
    bool telling;
    bool reading, reread; /* Redis; again when it has answered */
    bool has_attempts;
};

/* Replaces the view's facts by the entry's, keeping request and result if the entry has none.
 * False: the request is still not known, or does not decode. */
bool interest_take(struct interest *self, struct record_unpacker *unpacker,
                   const struct job_entry *entry);
/* Keeps copies of the attempts. */
void interest_take_attempts(struct interest *self, const struct slice *attempts, uint32_t n);
/* Frees what the view owns. */
void interest_clear(struct interest *self);
/* True if the watcher has not been told this yet; notes it as told. */
bool interest_news(const struct interest *self, struct lookup *lookup);
