#pragma once
/*
 * storm — whole worlds of Drawbar in one thread, each made of one seed.
 *
 * Real: the broker's core (libdispatch), the agent's core (libagent), frames and records as bytes.
 * Simulated, and broken at will: clocks, the network, Redis with its functions, the edges of broker
 * and worker (batches, election, instances, uploads), gateways and their clients.
 *
 *     sim.c          time, events, chance, memory of a world
 *     net.c          connections: delay, loss, partitions, frames twice or overtaken
 *     redis.c        the functions of proto/functions.lua; power cuts; a replica
 *     edge.c         a connection to Redis: time-outs, replies lost, old copies that run
 *     store.c        the broker's batches, WAIT behind them, restores
 *     broker.c       election, rebuild, doors, sweeps, an orderly stop
 *     worker.c       an agent
 *     instance.c     its instances
 *     gateway.c      submits, repeats, withdraws, cancels, `drawbar drain`
 *     stranger.c     a peer that talks nonsense
 *     faults.c       what goes wrong, and the end of it
 *     check.c        the promises, held against every write and every frame
 *     check_queue.c  order, bounds, shares, held against every transition decided
 *     shards.c       many worlds at once
 *
 * What is promised, and who looks:
 *
 *     an accepted job is in exactly one state    check_redis() after every event
 *     terminal is final                          check_write(), check_told_end()
 *     one accepted completion at most            check_transition(), check_result()
 *     what a worker hears of its lease is so     check_answered(), check_to_worker()
 *     no lease is held by two                    check_taken(), check_transition()
 *     no attempt writes over another's picture   check_stored(), check_result()
 *     nothing is told before it is written       check_entry(), check_to_gateway()
 *     requeue and takeover keep the place        remember(): key and sequence
 *     jobs go in the order of Redis's keys       check_order()
 *     queue bounds; no refusal below them        check_taken_in(), check_refused()
 *     classes take turns, none starves           check_turns()
 *     tenants share; who is new need not wait    check_share(), check_key()
 *     tries and grants are bounded               check_write()
 *     what a power cut took comes back           check_lost(), check_end()
 *     what a fail-over took was never told       check_promoted()
 *     a drained worker gets nothing, and goes    check_drained(), check_draining()
 *     who resigns is replaced at once            on_handed_over() in faults.c
 *     no fault: no second draw, no failure       check_drawn(), check_calm()
 *     faults stop: all ends within a bound       check_end() at calm_bound_ms()
 *     the invariants of the cores                dispatch_check(), agent_check()
 *
 * That each of them can fail is shown by mutants.sh. A promise broken prints why, one line that
 * replays it, and ends the program with 1.
 */
#include "broker/dispatch.h"
#include "common/mutant.h"
#include "worker/agent.h"

enum {
    JOBS = 96, /* named 1 .. JOBS - 1 */
    BROKERS = 3,
    WORKERS = 6,
    GATEWAYS = 2,
    KEYS = 24, /* idempotency keys; 0: none */
    PAST = 96, /* revisions of one job */
    DRAINED = 64,
    PLACES = 3, /* instances of one worker */
    REQUEST = 320,
    RESULT = 640,
    HOST_REDIS = 0,
    HOST_BROKER = 1,
    HOST_WORKER = HOST_BROKER + BROKERS,
    HOST_GATEWAY = HOST_WORKER + WORKERS,
    HOST_STRANGER = HOST_GATEWAY + GATEWAYS,
    HOSTS,
};
#define REDIS_EPOCH_MS 1795432800000ULL

/* ---- sim ---- */

struct process {
    uint8_t host;
    bool up;
    uint32_t life;        /* events of an earlier life are dropped */
    int64_t paused_until; /* events wait until then */
    int64_t clock_ms;     /* its monotonic clock minus the storm's */
};

typedef void (*event_fn)(void *owner, void *data);
/* Runs at time `at`; dropped if the process (may be NULL) has died, late if it is paused. */
void sim_at(int64_t at, struct process *process, event_fn run, void *owner, void *data);
void sim_run_until(int64_t end_ms, bool (*enough)(void));
void *sim_memory(size_t bytes); /* zeroed, until the end of the world */
void sim_clear(void);           /* forgets all events and memory: the end of the world */
uint32_t any(uint32_t below);
int64_t between(int64_t low, int64_t high); /* both included */
bool chance(uint32_t per_mille);
uint64_t any64(void);
static inline void *
tag(uint64_t number)
{
    return (void *)(uintptr_t)number; /* NOLINT(performance-no-int-to-ptr): never followed */
}
static inline uint64_t
tag_of(const void *data)
{
    return (uintptr_t)data;
}
__attribute__((format(printf, 1, 2))) void trace_line(const char *format, ...);
#define trace(...) (storm.verbose ? trace_line(__VA_ARGS__) : (void)0)
__attribute__((format(printf, 1, 2), noreturn)) void broken(const char *format, ...);

/* ---- net ---- */

/* A client's socket: it connects by itself for as long as it is open, each time as another peer. */
struct dealer {
    struct process *process;
    enum door_side side;
    uint8_t broker;
    bool open;
    uint32_t life;
    uint32_t link; /* number of the link that is up; 0: none */
    void (*receive)(void *owner, const void *bytes, uint32_t length);
    void *owner;
};
struct packet {
    uint32_t link;
    bool to_broker;
    uint32_t length;
    uint8_t bytes[];
};
void dealer_open(struct dealer *self, uint8_t broker);
void dealer_close(struct dealer *self);
void dealer_send(struct dealer *self, const struct frame *frame);
void dealer_send_bytes(struct dealer *self, const void *bytes, size_t length);
bool net_blocked(uint8_t from, uint8_t to);
void net_block(uint8_t from, uint8_t to, int64_t until_ms);
/* All links of this host break, now or, for a silence, when heartbeats notice. */
void net_break_host(uint8_t host, int64_t at_ms);
void net_heal(void);
void net_clear(void); /* at the end of the world */
int64_t net_delay_ms(void);
/* What a broker sends. False: there is no such peer any more; *lagging: its queue was full. */
bool net_send(uint8_t broker, const struct peer *to, const struct frame *frame, bool *lagging);
/* The host behind a peer, or HOSTS. */
uint8_t net_host(const struct peer *peer);

/* ---- redis ---- */

struct token {
    uint64_t number, random;
};
void token_print(const struct token *token, char out[64]);

struct record {
    bool exists, live; /* live: its id is in the ZSET */
    struct job_header header;
    uint8_t key; /* idempotency key, 0: none */
    uint16_t n_request, n_result;
    uint8_t request[REQUEST], result[RESULT];
};

/* An op as it waits in a batch: nothing borrowed. */
struct paper_op {
    struct paper_op *next;
    enum op_kind kind;
    uint32_t job;
    char worker[LIMIT_WORKER_NAME + 1];
    struct record record;
};

enum command_kind {
    COMMAND_HANDSHAKE,
    COMMAND_ELECT,
    COMMAND_RENEW,
    COMMAND_RESIGN,
    COMMAND_LEADER, /* GET of the key */
    COMMAND_COMMIT,
    COMMAND_WAIT, /* until a replica has what this connection wrote last */
    COMMAND_LAST,
    COMMAND_READ,
    COMMAND_PAGE,
    COMMAND_RECORDS,
    COMMAND_SWEEP,
    COMMAND_BEAT,
};

enum { PAGE = 16 };
struct reply {
    enum { REPLY_OK, REPLY_NO, REPLY_FENCED, REPLY_GAP, REPLY_OOM } kind;
    struct token token; /* ELECT */
    uint64_t number; /* LEADER: epoch; LAST; ELECT: sequence; BEAT: incarnation; WAIT: replicas */
    uint64_t redis_ms;
    uint8_t broker; /* LEADER */
    bool workers_door, gateways_door;
    uint32_t n;
    char letters[LIMIT_BATCH_OPS];
    uint8_t first[LIMIT_BATCH_OPS]; /* of a K: the first job */
    uint32_t ids[PAGE];             /* PAGE */
    struct record *records;         /* RECORDS, READ */
    struct {
        char name[8];
        int64_t quiet_ms;
    } quiet[WORKERS + 1]; /* SWEEP */
};

struct command;
typedef void (*reply_fn)(void *owner, const struct command *command, const struct reply *reply);
struct command {
    enum command_kind kind;
    reply_fn reply; /* reply NULL: the connection broke; whether it ran is unknown */
    void *owner;
    struct redis_link *link;
    uint64_t connection;
    uint32_t reign;
    int64_t wait_until; /* WAIT */
    bool answered, late;
    struct command *next, *next_behind;
    /* arguments */
    struct token token;
    uint64_t nonce, tag, n;
    uint8_t broker;
    bool doors[DOOR_SIDE_COUNT];
    bool end_only, steady, is_new;
    const struct paper_op *ops;
    uint32_t ids[PAGE], n_ids, from;
    char worker[8];
    uint64_t incarnation;
    struct inquiry inquiry;
    struct reply *won; /* WAIT behind an election */
};

struct redis_data { /* what an append-only file would hold */
    struct record records[JOBS];
    uint8_t keys[KEYS]; /* first job of an idempotency key */
    struct token epoch, resigned;
    bool has_leader;
    uint64_t leader_nonce, leader_until_ms, leader_number;
    uint8_t leader_broker;
    bool leader_doors[DOOR_SIDE_COUNT];
    uint64_t last, sequence, incarnation;
    uint64_t offset; /* writes so far */
    struct reply answers[4];
    struct {
        char name[8];
        uint64_t incarnation, beat_ms;
        bool beats;
    } workers[WORKERS + 1];
};

struct redis {
    struct process process;
    struct redis_data data, synced; /* of the master */
    bool everysec;
    bool full;       /* out of memory */
    uint64_t run;    /* changes at each start */
    int64_t time_ms; /* TIME minus REDIS_EPOCH_MS minus the storm's time */
    /* With a replica: a master is followed by it and, when it falls, replaced. What was told was
     * waited for. */
    bool replicated;
    bool replica_cut; /* nothing reaches the replica */
    bool shipping;
    struct redis_data replica, on_its_way;
    uint32_t reign; /* number of the master; older connections are to an older one */
    /* Two masters: the old one lives on for those hosts that cannot see the new one. */
    bool old_lives;
    struct redis_data old;
    bool sees_old[HOSTS];
};
uint64_t redis_time_ms(void);
/* Runs it on the master of that reign. False: a WAIT that is not over. */
bool redis_execute(const struct command *command, struct reply *reply);
/* The replica is promoted. `old_lives`: the old master does not know. */
void redis_fail_over(bool old_lives);
void redis_old_ends(void);
void redis_start(void);
void redis_stop(bool power_cut);

/* ---- edge ---- */

struct redis_link {
    struct process *process;
    bool up;
    uint64_t connection, doomed; /* doomed: nothing more is heard on it */
    uint32_t reign;              /* of the master that it leads to */
    uint64_t written;            /* the master's offset at its last write */
    struct command *wait;        /* a WAIT that is not over: nothing behind it runs */
    struct command *behind, **behind_last;
    int64_t fifo[2];
    struct command *pending, **last;
    void (*on_up)(void *owner);
    void *owner;
};
void edge_open(struct redis_link *self); /* at the start of its process */
struct command *edge_command(struct redis_link *self, enum command_kind kind, reply_fn reply,
                             void *owner);
void edge_send(struct command *command);
void edge_break(struct redis_link *self);
void edge_redis_stopped(struct redis_link *self);

/* ---- store ---- */

struct paper_batch {
    struct paper_op *first, **last;
    uint32_t count;
    uint64_t n;
    bool sent, end_only, doubtful;
    struct reply *applied; /* answered, and now waited for */
};
struct paper_store {
    struct paper_batch waiting, held, flight[LIMIT_BATCHES_IN_FLIGHT];
    uint64_t next_n, answered_n;
    struct token token;
    bool asking, kicked, restoring;
    uint64_t connection; /* on which the numbers are known to hold */
};
struct broker_host;
void store_open(struct broker_host *broker, const struct token *token);
void store_commit(struct broker_host *broker, const struct op *op);
void store_up(struct broker_host *broker);
void store_restarted(struct broker_host *broker, const struct token *token);

/* ---- broker ---- */

enum standing { STANDING_OFFLINE, STANDING_STANDBY, STANDING_LEADING, STANDING_REGAINING };
struct broker_host {
    struct process process;
    uint8_t index;
    struct redis_link redis;
    enum standing standing;
    bool asked, is_new; /* is_new: heard of no leader yet, and met one Redis only */
    uint64_t nonce, term_run, seen_run;
    int64_t polls_from_ms, polled_ms; /* answered without a gap since; last answer */
    struct token token;
    uint32_t term; /* tags what belongs to it */
    struct dispatch *dispatch;
    struct effects effects;
    struct paper_store store;
    bool rebuilding, sweeping;
    bool has_loaded; /* jobs of an earlier term */
    bool doors[DOOR_SIDE_COUNT];
    uint32_t door_number; /* links to an earlier door are dead */
    int64_t loaded_ms;
    int64_t redis_minus_mono_ms;
};
void broker_start(struct broker_host *self);
void broker_crash(struct broker_host *self);
void broker_stop(struct broker_host *self); /* SIGTERM: a leader resigns */
enum verdict broker_step(struct broker_host *self, const struct dispatch_event *event);
void broker_fenced(struct broker_host *self);
void broker_short(struct broker_host *self); /* too few replicas have it: nothing is promised */
void broker_receive(struct broker_host *self, uint32_t link, const void *bytes, uint32_t length,
                    enum door_side side);
/* The one that leads by Redis's word and has its doors open, or NULL. */
struct broker_host *broker_leader(void);

/* ---- worker ---- */

struct instance {
    bool ready;
    bool queues;
    uint32_t n_jobs; /* in the order given; of the first that is not made the GPU draws */
    struct drawing *jobs[LIMIT_PLACE_JOBS];
};
struct parcel {
    uint8_t n_bases;
    uint8_t bases[LIMIT_UPLOAD_BASES]; /* gateways */
};
struct worker_host {
    struct process process;
    uint8_t index;
    char name[8];
    const char *model;
    bool twin; /* a second process of another's name: not started again */
    struct agent *agent;
    struct agent_effects effects;
    struct redis_link redis;
    struct dealer dealer;
    uint8_t n_instances;
    uint32_t capability;
    struct instance instances[PLACES];
    struct parcel parcels[LIMIT_WORKER_LEASES];
    const struct frame *frame; /* of this step */
    int64_t tick_at;
    bool stepping;
    struct agent_event later[64];
    uint32_t n_later;
    bool slow;
};
void worker_give(struct worker_host *self, const struct agent_event *event);
void worker_start(struct worker_host *self, const char *name, const char *model);
void worker_crash(struct worker_host *self);
void worker_drain(struct worker_host *self);
/* -- instance.c -- */
void instance_start(struct worker_host *self, uint8_t index);
void instance_draw(struct worker_host *self, const struct agent_effect *effect);
void instance_interrupt(struct worker_host *self, const struct agent_effect *effect);
void worker_break_instance(struct worker_host *self, uint8_t index);
/* -- worker.c -- */
bool worker_is_empty(const struct worker_host *self);
bool worker_is_leaving(const struct worker_host *self);
/* What the picture of this lease looks like. */
uint64_t picture_of(const struct lease *lease, uint64_t incarnation);

/* ---- gateway ---- */

enum ticket_state {
    TICKET_NONE,
    TICKET_WAITING,   /* submitted, repeated until answered */
    TICKET_ACCEPTED,  /* 202 */
    TICKET_REFUSED,   /* 4xx, 503 */
    TICKET_WITHDRAWN, /* 503 after 5 s, WITHDRAW until answered */
    TICKET_GONE,      /* 503 after 5 s to one with a key, or its gateway died: it may exist */
};
struct ticket {
    enum ticket_state state;
    uint8_t gateway, key;
    bool watch;
    bool withdraw_answered;
    bool cancel_wanted, cancel_answered;
    int64_t first_ms, sent_ms, cancel_ms;
    uint64_t sent_session, cancel_session;
    uint16_t n_request;
    uint8_t request[REQUEST];
    char tenant[4];
};
struct gateway_host {
    struct process process;
    uint8_t index;
    struct redis_link redis;
    struct dealer dealer;
    uint64_t session, epoch;
    bool open, asking, hello_owed;
    int64_t heard_ms, hello_ms, ping_ms;
    char drain[8]; /* the worker to drain, asked for until it is answered */
    int64_t drain_ms;
};
void gateway_start(struct gateway_host *self);
void gateway_crash(struct gateway_host *self);
void gateway_submit(struct gateway_host *self);
void gateway_cancel(uint32_t job);
void gateway_drain(struct gateway_host *self, const char *worker); /* `drawbar drain` */
bool gateway_is_quiet(void);                                       /* every client has its answer */

/* ---- stranger, faults ---- */

void stranger_start(void);
void faults_start(int64_t until_ms);
void faults_end(void);

/* ---- check ---- */

struct truth {
    bool ever, accepted;
    bool unpromised; /* lost by a power cut before anybody was told: it may come as a new one */
    uint64_t key, sequence;
    uint32_t told_revision[GATEWAYS];
    uint64_t told_session[GATEWAYS];
    uint32_t told_ever[GATEWAYS]; /* highest revision */
    uint8_t past[PAST];           /* state that each revision brought; 0: none */
    struct {
        uint64_t worker;
        uint32_t epoch;
    } grants[LIMIT_GRANTS + 1];
    bool ended_told; /* the leader got the answer to the commit that ended it */
    uint8_t ended;
    uint32_t lost_revision; /* after a power cut: the revision that a restore must bring back */
    uint64_t files[LIMIT_GRANTS + 1][LIMIT_IMAGES];
    uint32_t draws;
};
void check_write(uint32_t job, const struct record *before, const struct record *after);
void check_redis(void);
void check_told_end(uint32_t job); /* the answer to a commit reached the leader */
void check_lost(const struct redis_data *before, const struct redis_data *after);
void check_promoted(const struct redis_data *before, const struct redis_data *after);
void check_sent(const struct broker_host *broker, const struct peer *to, const struct frame *frame);
void check_op(const struct broker_host *broker, const struct op *op);
void check_refused(const struct broker_host *broker, const struct refused *refused);
void check_not_taken(const struct broker_host *broker, uint32_t number);
void check_queue_forget(void); /* the world ends */
void check_answered(const struct worker_host *worker, const struct frame *frame);
void check_taken(const struct worker_host *worker, const struct lease *lease);
void check_drawn(const struct worker_host *worker, const struct lease *lease);
void check_stored(const struct worker_host *worker, const struct lease *lease, uint8_t picture);
bool check_draining(const struct worker_host *worker);
bool check_recovering(void); /* a power cut's loss is not restored yet */
void check_end(void);

/* ---- shards ---- */

/* Runs `world` for the seeds from .. from + n - 1 in `jobs` processes and adds up their totals.
 * False: a promise was broken; the process that saw it has said so. */
bool shards_run(uint32_t jobs, uint64_t from, uint64_t n, void (*world)(uint64_t seed));

/* ---- the world ---- */

struct weather { /* per mille, drawn once a world */
    bool calm;   /* no fault at all */
    bool faults_on;
    uint32_t lose_link, lag, slow_net, slow_redis, lose_reply, late_copy, fail_draw, uniform,
        fail_upload, early_door, busy_instance, duplicate, reorder;
};

struct storm {
    uint64_t seed, random;
    int64_t now_ms, storm_end_ms, bound_ms;
    uint64_t events;
    bool verbose;
    uint32_t max_jobs, n_jobs, n_brokers, n_workers;
    uint64_t max_bytes;
    bool one_bucket; /* all jobs ask for the same: tenants meet in the same trees */
    struct drained {
        uint8_t broker;
        uint32_t term;
        uint64_t incarnation;
    } drained[DRAINED]; /* by `drawbar drain`, and answered so */
    uint32_t n_drained;
    struct weather weather;
    struct redis redis;
    struct broker_host brokers[BROKERS];
    struct worker_host workers[WORKERS];
    struct gateway_host gateways[GATEWAYS];
    struct ticket tickets[JOBS];
    struct truth truth[JOBS];
    int64_t blocked_until[HOSTS][HOSTS];
    int64_t no_broker_faults_until;
    uint64_t incarnations;
    /* kept from world to world */
    struct unpacker *frames;
    struct record_unpacker requests, checks;
    bool touched; /* a record or a promise changed since check_redis() looked */
};
extern struct storm storm;

/* Over all worlds; what the last lines of a run tell. Sums only: shards are added up. */
enum fault_kind {
    FAULT_WORKER_CRASH,
    FAULT_WORKER_PAUSE,
    FAULT_WORKER_TWIN,
    FAULT_WORKER_SLOW,
    FAULT_WORKER_DRAIN,
    FAULT_INSTANCE_DIES,
    FAULT_DRAW_FAILS,
    FAULT_UPLOAD_FAILS,
    FAULT_BROKER_CRASH,
    FAULT_BROKER_PAUSE,
    FAULT_BROKER_STOP,
    FAULT_TWO_LEADERS,
    FAULT_CONNECTION_LOST,
    FAULT_BLOCKED_ONE_WAY,
    FAULT_BLOCKED_BOTH_WAYS,
    FAULT_FRAME_DUPLICATED,
    FAULT_FRAME_REORDERED,
    FAULT_QUEUE_FULL,
    FAULT_REDIS_RESTART,
    FAULT_REDIS_POWER_CUT,
    FAULT_REDIS_FAIL_OVER,
    FAULT_REDIS_TWO_MASTERS,
    FAULT_REDIS_MEMORY_FULL,
    FAULT_REDIS_STALLS,
    FAULT_REDIS_CLOCK_SET,
    FAULT_REPLY_LOST,
    FAULT_COMMAND_LATE,
    FAULT_GATEWAY_CRASH,
    FAULT_GATEWAY_PAUSE,
    FAULT_STRANGE_FRAME,
    FAULT_KIND_COUNT,
};
enum { LOST_AT = 256 };
struct totals {
    uint64_t ms, events, jobs, ended[JOB_STATE_COUNT], grants, faults[FAULT_KIND_COUNT];
    uint64_t lost_at[LOST_AT]; /* worlds' replies lost, by the number of the batch in its term */
};
extern struct totals totals;
static inline void
fault(enum fault_kind kind)
{
    totals.faults[kind]++;
}

struct job_id job_named(uint32_t job);
/* 0: not one of ours. */
uint32_t job_number(const struct job_id *id);
