/* The store's restore, against a Redis made of paper: the functions of redis_client.h stand here
 * and answer from memory what Redis would. */
#include "broker/store.h"
#include "common/scope.h"
#include <criterion/criterion.h>
#include <event2/event.h>
#include <stdlib.h>
#include <string.h>

enum { LOG = 65536, FLIGHT = 8 };

/* What was sent and is not answered yet. */
struct sent {
    redis_reply_fn fn;
    void *context;
    bool is_commit;
    uint64_t n;
    char letters[LIMIT_BATCH_OPS + 1]; /* one an op: its name */
};

static struct world {
    struct reactor *reactor;
    struct store *store;
    bool up;
    uint64_t connection;
    struct sent sent[FLIGHT];
    uint32_t n_sent;
    char applied[LOG]; /* ops answered OK so far, by name: R restore, T touch */
    uint32_t n_applied;
    uint32_t n_batches, n_reads;
    /* the core's part of a restore */
    uint32_t parts, part, jobs; /* parts of a restore, next one, jobs in each */
    uint32_t begun, committed, most_unanswered;
    uint8_t request[512];
    uint32_t n_request;
} w;

/* ---- Redis ---- */

bool
redis_client_is_up(const struct redis_client *self)
{
    (void)self;
    return w.up;
}

uint64_t
redis_client_connection(const struct redis_client *self)
{
    (void)self;
    return w.connection;
}

void
redis_client_reset(struct redis_client *self, const char *why)
{
    (void)self;
    cr_assert(false, "the store gave up: %s", why);
}

static struct sent *
sent_new(redis_reply_fn fn, void *context)
{
    cr_assert_lt(w.n_sent, FLIGHT, "too much in flight");
    struct sent *sent = &w.sent[w.n_sent++];
    *sent = (struct sent){ .fn = fn, .context = context };
    return sent;
}

void
redis_client_command(struct redis_client *self, redis_reply_fn fn, void *context, int argc,
                     const char **argv, const size_t *lengths)
{
    (void)self;
    struct sent *sent = sent_new(fn, context);
    sent->is_commit =
        strcmp(argv[1], "drawbar1_commit") == 0 || strcmp(argv[1], "drawbar1_commit_end") == 0;
    cr_assert(sent->is_commit);
    sent->n = strtoull(argv[4], NULL, 10);
    uint32_t n = 0;
    for (int i = 5; i < argc; n++) {
        cr_assert_eq(lengths[i], 1);
        char name = argv[i][0];
        cr_assert_lt(n, LIMIT_BATCH_OPS);
        sent->letters[n] = name;
        i += 1 + (name == 'R' ? 7 : name == 'T' ? 3 : 0);
    }
}

void
redis_client_call(struct redis_client *self, redis_reply_fn fn, void *context, const char *format,
                  ...)
{
    (void)self;
    w.n_reads += strstr(format, "drawbar1_read") != NULL;
    if (strncmp(format, "HGET", 4) == 0) {
        sent_new(fn, context); /* the last batch */
    } else {
        fn(context, NULL); /* sweeps and looks at the memory: their timers run as they like */
    }
}

/* The oldest command is answered. */
static void
answer(const redisReply *reply)
{
    cr_assert_gt(w.n_sent, 0);
    struct sent sent = w.sent[0];
    memmove(w.sent, w.sent + 1, --w.n_sent * sizeof *w.sent);
    sent.fn(sent.context, reply);
}

static void
answer_commit(const char *word)
{
    struct sent *sent = &w.sent[0];
    size_t n = strlen(sent->letters);
    cr_assert(sent->is_commit);
    memcpy(w.applied + w.n_applied, sent->letters, n);
    w.n_applied += (uint32_t)n;
    w.n_batches++;
    char plus[LIMIT_BATCH_OPS];
    memset(plus, '+', sizeof plus);
    redisReply said = { .type = REDIS_REPLY_STRING, .str = (char *)word, .len = strlen(word) };
    redisReply letters = { .type = REDIS_REPLY_STRING, .str = plus, .len = n };
    redisReply *both[2] = { &said, &letters };
    redisReply reply = { .type = REDIS_REPLY_ARRAY, .elements = 2, .element = both };
    answer(&reply);
}

static void
answer_last(const char *last)
{
    redisReply reply = { .type = REDIS_REPLY_STRING, .str = (char *)last, .len = strlen(last) };
    answer(&reply);
}

/* The connection is lost: nobody answers. */
static void
lose_all(void)
{
    w.up = false;
    while (w.n_sent > 0) {
        answer(NULL);
    }
}

static void
turn(void)
{
    event_base_loop(reactor_base(w.reactor), EVLOOP_NONBLOCK);
    uint32_t n = w.store != NULL ? store_unanswered(w.store) : 0;
    w.most_unanswered = n > w.most_unanswered ? n : w.most_unanswered;
}

static void
answer_everything(void)
{
    do {
        turn();
        while (w.n_sent > 0 && w.store != NULL) {
            answer_commit("OK");
        }
        turn();
    } while (w.n_sent > 0);
}

static void
reconnect(void)
{
    w.up = true;
    w.connection++;
}

/* Redis was restarted: another process, which knows this batch as its last. */
static void
restart(const char *last)
{
    lose_all();
    reconnect();
    store_restarted(w.store, "1:token");
    answer_last(last);
}

/* ---- the core ---- */

static void
commit(enum op_kind kind)
{
    struct op op = { .kind = kind,
                     .header = { .state = JOB_QUEUED, .sequence = 1, .revision = 1 },
                     .request = { w.request, w.n_request } };
    store_commit(w.store, &op);
}

static bool
on_restore(void *context, bool first)
{
    (void)context;
    w.begun += first;
    w.part = first ? 0 : w.part;
    for (uint32_t i = 0; i < w.jobs; i++) {
        commit(OP_RESTORE);
    }
    return ++w.part < w.parts;
}

static void
on_committed(void *context, const struct dispatch_event *committed)
{
    (void)context;
    (void)committed;
    w.committed++;
}

static void
on_fenced(void *context)
{
    (void)context;
    store_destroy(&w.store);
}

static void
setup(void)
{
    memset(&w, 0, sizeof w);
    CLEANUP(buffer_destroy) struct buffer request = { 0 };
    struct envelope envelope = { .tenant = slice_of("acme"), .model = slice_of("m") };
    struct job_body body = { .prompt = slice_of("a lighthouse") };
    pack_struct(&request, &envelope_shape, &envelope);
    pack_struct(&request, &job_body_shape, &body);
    cr_assert_leq(request.length, sizeof w.request);
    memcpy(w.request, request.bytes, request.length);
    w.n_request = (uint32_t)request.length;
    w.up = true;
    cr_assert_eq(reactor_new(&w.reactor, false), 0);
    struct store_config config = { .token = "1:token", .retention_s = 600 };
    struct store_events events = { .on_committed = on_committed,
                                   .on_restore = on_restore,
                                   .on_fenced = on_fenced };
    cr_assert_eq(store_new(&w.store, w.reactor, &config, &events), 0);
    commit(OP_TOUCH);
    answer_everything();
    cr_assert_eq(w.committed, 1);
    w.n_applied = 0;
}

static void
teardown(void)
{
    store_destroy(&w.store);
    lose_all();
    reactor_destroy(&w.reactor);
}

TestSuite(store_restore, .init = setup, .fini = teardown);

/* Restores first, nothing among them, then `touches` touches. */
static void
expect(uint32_t restores, uint32_t touches)
{
    cr_assert_eq(w.n_applied, restores + touches);
    for (uint32_t i = 0; i < w.n_applied; i++) {
        cr_assert_eq(w.applied[i], i < restores ? 'R' : 'T', "op %u is a %c", i, w.applied[i]);
    }
}

Test(store_restore, a_restart_that_lost_nothing_restores_nothing)
{
    restart("1");
    turn();
    cr_assert_eq(w.begun, 0);
    cr_assert_eq(w.n_sent, 0);
}

Test(store_restore, what_is_committed_during_a_restore_follows_all_its_parts)
{
    w.parts = 5;
    w.jobs = 100;
    commit(OP_TOUCH); /* in flight when Redis goes */
    turn();
    restart("0");
    turn();
    commit(OP_TOUCH);
    answer_everything();
    cr_assert_eq(w.begun, 1);
    expect(500, 2);
    cr_assert_eq(w.committed, 3, "a restore itself is not told");
    commit(OP_TOUCH);
    answer_everything();
    expect(500, 3);
}

Test(store_restore, a_restore_of_many_jobs_never_waits_as_a_whole)
{
    w.parts = 200;
    w.jobs = LIMIT_RESTORE_CHUNK;
    restart("0");
    answer_everything();
    expect(200 * LIMIT_RESTORE_CHUNK, 0);
    cr_assert_leq(w.most_unanswered,
                  (LIMIT_BATCHES_IN_FLIGHT + 1) * LIMIT_BATCH_OPS + LIMIT_RESTORE_CHUNK);
}

Test(store_restore, parts_without_jobs_are_passed_over)
{
    w.parts = 50;
    w.jobs = 0;
    commit(OP_TOUCH);
    turn();
    restart("0");
    for (uint32_t i = 0; i < 60; i++) {
        turn();
    }
    cr_assert_eq(w.part, 50);
    answer_everything();
    expect(0, 1);
}

Test(store_restore, a_second_cut_in_the_middle_begins_anew_and_keeps_what_follows_once)
{
    w.parts = 4;
    w.jobs = LIMIT_BATCH_OPS;
    commit(OP_TOUCH);
    turn();
    restart("0");
    turn();
    commit(OP_TOUCH);
    answer_commit("OK"); /* batch 1 of the new count */
    turn();
    w.n_applied = 0; /* and it is gone again */
    restart("0");
    cr_assert_eq(w.begun, 2);
    answer_everything();
    expect(4 * LIMIT_BATCH_OPS, 2);
}

Test(store_restore, a_second_restart_in_the_middle_that_lost_nothing_goes_on)
{
    w.parts = 4;
    w.jobs = LIMIT_BATCH_OPS;
    restart("0");
    turn();
    answer_commit("OK");
    turn();
    restart("1"); /* what was in flight is sent again under its numbers */
    cr_assert_eq(w.begun, 1);
    commit(OP_TOUCH);
    answer_everything();
    expect(4 * LIMIT_BATCH_OPS, 1);
    cr_assert_eq(w.n_batches, 1 + 4 + 1);
}

Test(store_restore, a_restart_while_redis_is_asked_for_its_last_batch_asks_again)
{
    w.parts = 1;
    w.jobs = 3;
    lose_all();
    reconnect();
    store_restarted(w.store, "1:token");
    lose_all(); /* the question is lost */
    reconnect();
    store_up(w.store);
    answer_last("0");
    answer_everything();
    cr_assert_eq(w.begun, 1);
    expect(3, 0);
}

/* Found by the storm, seed 507551: sent before it was known that Redis had lost its tail, a batch
 * arrived after the restore, took the number of another one, and that one's job was dropped. */
Test(store_restore, nothing_is_sent_on_a_new_connection_before_it_is_known_what_redis_has)
{
    commit(OP_TOUCH);
    turn();
    lose_all();
    reconnect();
    commit(OP_TOUCH);
    turn();
    cr_assert_eq(w.n_sent, 0);
    store_up(w.store);
    answer_everything();
    expect(0, 2);
}

/* A Redis that lost our election would say FENCED, and the memory that it needs would be gone. */
Test(store_restore, nothing_is_read_on_a_new_connection_before_it_is_known_what_redis_has)
{
    struct inquiry inquiry = { .kind = INQUIRY_DONE };
    lose_all();
    reconnect();
    store_read(w.store, &inquiry);
    cr_assert_eq(w.n_reads, 0);
    store_up(w.store);
    store_read(w.store, &inquiry);
    cr_assert_eq(w.n_reads, 1);
}

Test(store_restore, a_fence_in_the_middle_of_a_restore_ends_everything)
{
    w.parts = 9;
    w.jobs = LIMIT_BATCH_OPS;
    commit(OP_TOUCH);
    turn();
    restart("0");
    turn();
    commit(OP_TOUCH);
    answer_commit("FENCED");
    cr_assert_null(w.store);
    turn();
    cr_assert_eq(w.committed, 1, "nothing more is told");
}
