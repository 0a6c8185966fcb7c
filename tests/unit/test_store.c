#include "broker/store.h"
#include "common/ids.h"
#include "common/scope.h"
#include "proto/keys.h"
#include <criterion/criterion.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

/* A Redis of this test's: what the store sends is written down, and answered when the test says so.
 * Its timers and kicks run when the test says so, too. */

enum { SENT_MAX = 16 };

struct call { /* a batch on its way */
    redis_reply_fn fn;
    void *context;
    char function[32];
    long number;
    int submits, ends;
};

struct kick {
    reactor_fn fn;
    void *context;
    bool wanted;
};

struct timer {
    reactor_fn fn;
    void *context;
};

static struct call sent[SENT_MAX];
static int n_sent, n_resets;
static struct kick the_kick;
static struct timer timers[2]; /* the sweep, the look at the memory */
static int n_timers;
static struct dispatch_event outcomes[SENT_MAX];
static int n_outcomes;

bool
redis_client_is_up(const struct redis_client *self)
{
    (void)self;
    return true;
}

uint64_t
redis_client_connection(const struct redis_client *self)
{
    (void)self;
    return 0;
}

void
redis_client_reset(struct redis_client *self, const char *why)
{
    (void)self;
    (void)why;
    n_resets++;
}

void
redis_client_command(struct redis_client *self, redis_reply_fn fn, void *context, int argc,
                     const char **argv, const size_t *lengths)
{
    (void)self;
    cr_assert_lt(n_sent, SENT_MAX);
    struct call *call = &sent[n_sent++];
    *call = (struct call){ .fn = fn, .context = context, .number = strtol(argv[4], NULL, 10) };
    snprintf(call->function, sizeof call->function, "%.*s", (int)lengths[1], argv[1]);
    for (int i = 5; i < argc; i++) {
        call->submits += lengths[i] == 1 && argv[i][0] == 'S';
        call->ends += lengths[i] == 1 && argv[i][0] == 'F';
    }
}

void
redis_client_call(struct redis_client *self, redis_reply_fn fn, void *context, const char *format,
                  ...)
{
    (void)self;
    (void)format;
    fn(context, NULL); /* sweeps and looks are not what is tested */
}

int
kick_new(struct kick **out, struct reactor *reactor, reactor_fn fn, void *context)
{
    (void)reactor;
    the_kick = (struct kick){ fn, context, false };
    *out = &the_kick;
    return 0;
}

void
kick_now(struct kick *self)
{
    self->wanted = true;
}

void
kick_destroy(struct kick **self_p)
{
    *self_p = NULL;
}

int
timer_new(struct timer **out, struct reactor *reactor, reactor_fn fn, void *context)
{
    (void)reactor;
    timers[n_timers] = (struct timer){ fn, context };
    *out = &timers[n_timers++];
    return 0;
}

void
timer_every_ms(struct timer *self, int64_t period_ms)
{
    (void)self;
    (void)period_ms;
}

void
timer_stop(struct timer *self)
{
    (void)self;
}

void
timer_destroy(struct timer **self_p)
{
    *self_p = NULL;
}

/* ---- what the tests say ---- */

static void
on_committed(void *context, const struct dispatch_event *committed)
{
    (void)context;
    cr_assert_lt(n_outcomes, SENT_MAX);
    outcomes[n_outcomes++] = *committed;
}

static struct store *store;

static void
start(void)
{
    n_sent = n_resets = n_timers = n_outcomes = 0;
    struct store_config config = { .token = "1:abc", .retention_s = 100 };
    struct store_events events = { .on_committed = on_committed };
    cr_assert_eq(store_new(&store, NULL, &config, &events), 0);
}

static void
stop(void)
{
    store_destroy(&store);
}

TestSuite(store, .init = start, .fini = stop, .timeout = 10);

/* The turn of the loop ends. */
static void
turn(void)
{
    while (the_kick.wanted) {
        the_kick.wanted = false;
        the_kick.fn(the_kick.context);
    }
}

static void
sweep(void)
{
    timers[0].fn(timers[0].context);
    turn();
}

static void
commit(enum op_kind kind)
{
    static const struct slice tenant = { "default", 7 };
    static const struct slice model = { "m", 1 };
    CLEANUP(buffer_destroy) struct buffer request = { 0 };
    struct envelope envelope = { .tenant = tenant, .model = model, .width = 64, .height = 64 };
    envelope.n = envelope.steps = 1;
    struct job_body body = { .prompt = model };
    pack_struct(&request, &envelope_shape, &envelope);
    pack_struct(&request, &job_body_shape, &body);
    struct op op = { .kind = kind, .id = job_id_mint(1) };
    op.header.state = kind == OP_SUBMIT ? JOB_QUEUED : JOB_CANCELLED;
    op.request = (struct slice){ request.bytes, (uint32_t)request.length };
    store_commit(store, &op);
}

static void
answer(int call, const char *error, const char *letters)
{
    redisReply words[2] = { { .type = REDIS_REPLY_STRING, .str = "OK", .len = 2 },
                            { .type = REDIS_REPLY_STRING } };
    redisReply *elements[2] = { &words[0], &words[1] };
    redisReply reply = { .type = REDIS_REPLY_ARRAY, .elements = 2, .element = elements };
    if (error != NULL) {
        reply = (redisReply){ .type = REDIS_REPLY_ERROR, .str = (char *)error };
        reply.len = strlen(error);
    } else {
        words[1].str = (char *)letters;
        words[1].len = strlen(letters);
    }
    sent[call].fn(sent[call].context, &reply);
    turn();
}

static const char disk[] = "MISCONF Errors writing to the AOF file: No space left on device";

Test(store, a_full_disk_of_redis_refuses_submits_and_keeps_ends_until_there_is_room)
{
    commit(OP_SUBMIT);
    commit(OP_FINISH);
    turn();
    cr_assert_eq(n_sent, 1);
    answer(0, disk, NULL);
    cr_assert_eq(n_outcomes, 1, "the submit is answered, the end is not");
    cr_assert_eq(outcomes[0].outcome, COMMIT_NO_ROOM);
    cr_assert_eq(n_resets, 0, "the connection is not to blame");
    cr_assert_eq(n_sent, 1, "nothing is sent in vain before the next sweep");
    sweep();
    cr_assert_eq(n_sent, 2);
    cr_assert_str_eq(sent[1].function, FUNCTION_END);
    cr_assert(sent[1].number == 1 && sent[1].submits == 0 && sent[1].ends == 1);
    answer(1, disk, NULL);
    sweep();
    answer(2, NULL, "+");
    cr_assert_eq(n_outcomes, 2);
    cr_assert_eq(outcomes[1].outcome, COMMIT_DONE);
}

Test(store, while_the_disk_is_full_further_submits_are_refused_without_asking_redis)
{
    commit(OP_SUBMIT);
    turn();
    answer(0, disk, NULL);
    commit(OP_SUBMIT);
    turn();
    cr_assert_eq(n_outcomes, 2);
    cr_assert_eq(outcomes[1].outcome, COMMIT_NO_ROOM);
    cr_assert_eq(n_sent, 1);
    /* The first number is still taken, by a batch of nothing: the next one follows it. */
    sweep();
    cr_assert(n_sent == 2 && sent[1].number == 1 && sent[1].submits == 0);
    answer(1, NULL, "");
    commit(OP_SUBMIT);
    turn();
    cr_assert(n_sent == 3 && sent[2].number == 2 && sent[2].submits == 1);
    answer(2, NULL, "+");
    cr_assert_eq(outcomes[2].outcome, COMMIT_DONE);
}

Test(store, a_batch_that_may_have_run_keeps_its_submits_on_a_full_disk)
{
    commit(OP_SUBMIT);
    turn();
    sent[0].fn(sent[0].context, NULL); /* the connection broke: a copy of it may have run */
    store_up(store);
    turn();
    answer(1, disk, NULL);
    cr_assert_eq(n_outcomes, 0, "nothing is known of it");
    sweep();
    cr_assert(n_sent == 3 && sent[2].number == 1 && sent[2].submits == 1);
    answer(2, NULL, "+");
    cr_assert_eq(outcomes[0].outcome, COMMIT_DONE);
}

Test(store, out_of_memory_refuses_submits_and_lets_ends_through_at_once)
{
    commit(OP_SUBMIT);
    commit(OP_FINISH);
    turn();
    answer(0, "OOM command not allowed when used memory > 'maxmemory'.", NULL);
    cr_assert_eq(n_outcomes, 1);
    cr_assert_eq(outcomes[0].outcome, COMMIT_NO_ROOM);
    cr_assert_eq(n_sent, 2);
    cr_assert_str_eq(sent[1].function, FUNCTION_END);
    cr_assert(sent[1].number == 1 && sent[1].ends == 1);
}
