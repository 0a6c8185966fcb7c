#include "broker/queue.h"
#include "common/scope.h"
#include <criterion/criterion.h>
#include <stdio.h>

static struct jobs jobs;
static struct queue queue;
static uint64_t sequence;

static void
open_queue(void)
{
    jobs_setup(&jobs);
    queue_setup(&queue, &jobs);
    sequence = 0;
}

static void
close_queue(void)
{
    queue_clear(&queue);
    jobs_clear(&jobs);
}

static struct envelope
wants(const char *tenant, enum job_class class_)
{
    return (struct envelope){ .tenant = slice_of(tenant),
                              .model = slice_of("turbo"),
                              .class_ = (uint8_t)class_,
                              .width = 512,
                              .height = 512,
                              .steps = 8,
                              .n = 1 };
}

static uint32_t
add(const struct envelope *envelope)
{
    struct job_id id = { 0 };
    sequence++;
    memcpy(id.bytes, &sequence, sizeof sequence);
    uint32_t index = jobs_add(&jobs, &id, slice_of("request"));
    struct job *job = job_at(&jobs, index);
    job->header.sequence = sequence;
    job->header.class_ = envelope->class_;
    if (!queue_bind(&queue, job, envelope)) {
        jobs_remove(&jobs, index);
        return JOB_NOBODY;
    }
    job->key = queue_key(&queue, job);
    queue_insert(&queue, index);
    return index;
}

static uint32_t
add_for(const char *tenant, enum job_class class_)
{
    struct envelope envelope = wants(tenant, class_);
    return add(&envelope);
}

static struct capability
all(void)
{
    return (struct capability){ .models = { queue_model(&queue, slice_of("turbo")) },
                                .n_models = 1,
                                .level = 64 };
}

static bool
avoids_nothing(const void *context, const struct job *job)
{
    (void)context;
    (void)job;
    return false;
}

static bool
avoids_this(const void *context, const struct job *job)
{
    return job->header.sequence == *(const uint64_t *)context;
}

static uint32_t
pick(void)
{
    struct capability who = all();
    return queue_pick(&queue, &who, avoids_nothing, NULL);
}

/* Picks and takes. */
static struct job *
take_as(const struct capability *who)
{
    uint32_t index = queue_pick(&queue, who, avoids_nothing, NULL);
    cr_assert_neq(index, JOB_NOBODY);
    queue_remove(&queue, index);
    queue_charge(&queue, who, job_at(&jobs, index));
    return job_at(&jobs, index);
}

static struct job *
take(void)
{
    struct capability who = all();
    return take_as(&who);
}

TestSuite(queue, .init = open_queue, .fini = close_queue);

Test(queue, an_empty_queue_has_nothing_for_anybody)
{
    cr_assert_eq(pick(), JOB_NOBODY);
}

Test(queue, a_tenant_alone_is_served_in_order_of_submit)
{
    for (uint32_t i = 0; i < 100; i++) {
        add_for("acme", CLASS_NORMAL);
    }
    for (uint32_t i = 1; i <= 100; i++) {
        cr_assert_eq(take()->header.sequence, i);
    }
}

Test(queue, classes_take_turns_16_4_1_and_none_starves)
{
    uint32_t turns[CLASS_COUNT] = { 0 };
    for (uint32_t i = 0; i < 300; i++) {
        add_for("acme", CLASS_LOW);
        add_for("acme", CLASS_NORMAL);
        add_for("acme", CLASS_HIGH);
    }
    for (uint32_t i = 0; i < 210; i++) {
        turns[take()->header.class_]++;
    }
    cr_assert_eq(turns[CLASS_HIGH], 160);
    cr_assert_eq(turns[CLASS_NORMAL], 40);
    cr_assert_eq(turns[CLASS_LOW], 10);
}

/* Found by the storm: each turn of a worker that could take nothing else ended the credit of a
 * class that waited for another one, and it starved. */
Test(queue, turns_of_workers_with_jobs_of_their_own_starve_nobody)
{
    struct capability one = all();
    struct capability other = all();
    one.turns = queue_turns(&queue, &one);
    other.models[0] = queue_model(&queue, slice_of("other"));
    other.turns = queue_turns(&queue, &other);
    cr_assert_neq(one.turns, other.turns);
    cr_assert_eq(queue_turns(&queue, &one), one.turns, "given out once");
    struct envelope elsewhere = wants("acme", CLASS_NORMAL);
    elsewhere.model = slice_of("other");
    for (uint32_t i = 0; i < 100; i++) {
        add_for("acme", CLASS_HIGH);
        add_for("acme", CLASS_LOW);
        add(&elsewhere);
    }
    uint32_t low = 0;
    for (uint32_t i = 0; i < 34; i++) {
        low += take_as(&one)->header.class_ == CLASS_LOW;
        cr_assert_eq(take_as(&other)->header.class_, CLASS_NORMAL);
    }
    cr_assert_eq(low, 2, "1 of 17");
}

Test(queue, more_kinds_of_workers_than_there_are_turns_share_them)
{
    struct capability who = all();
    for (uint32_t i = 0; i < 3 * LIMIT_KINDS; i++) {
        who.features = i;
        cr_assert_lt(queue_turns(&queue, &who), LIMIT_KINDS);
    }
}

Test(queue, a_class_that_had_nothing_to_do_saves_no_turns)
{
    for (uint32_t i = 0; i < 100; i++) {
        add_for("acme", CLASS_LOW);
    }
    for (uint32_t i = 0; i < 50; i++) {
        take();
    }
    uint32_t low = 0;
    for (uint32_t i = 0; i < 100; i++) {
        add_for("acme", CLASS_HIGH);
    }
    for (uint32_t i = 0; i < 34; i++) {
        low += take()->header.class_ == CLASS_LOW;
    }
    cr_assert_geq(low, 1, "the low class goes on");
    cr_assert_leq(low, 3, "and gets its share, no more: %u", low);
}

Test(queue, a_tenant_with_one_job_does_not_wait_behind_a_thousand_of_another)
{
    for (uint32_t i = 0; i < 1000; i++) {
        add_for("flood", CLASS_NORMAL);
    }
    for (uint32_t i = 0; i < 10; i++) {
        take();
    }
    add_for("small", CLASS_NORMAL);
    uint32_t waited = 0;
    while (strcmp(queue.tenants[take()->tenant].name, "small") != 0) {
        waited++;
    }
    cr_assert_leq(waited, 2);
}

Test(queue, tenants_share_by_cost_not_by_number)
{
    uint64_t cost[2] = { 0 };
    for (uint32_t i = 0; i < 400; i++) {
        struct envelope large = wants("large", CLASS_NORMAL);
        large.n = 4;
        add(&large);
        add_for("small", CLASS_NORMAL);
        add_for("small", CLASS_NORMAL);
        add_for("small", CLASS_NORMAL);
        add_for("small", CLASS_NORMAL);
    }
    for (uint32_t i = 0; i < 500; i++) {
        const struct job *job = take();
        cost[job->tenant] += job->cost;
    }
    cr_assert_float_eq((double)cost[0] / (double)cost[1], 1.0, 0.05);
}

Test(queue, a_worker_gets_only_what_it_can_take)
{
    struct envelope envelope = wants("acme", CLASS_NORMAL);
    envelope.width = envelope.height = 1024;
    uint32_t index = add(&envelope);
    struct capability who = all();
    who.level = 15;
    cr_assert_eq(queue_pick(&queue, &who, avoids_nothing, NULL), JOB_NOBODY, "too large by one");
    who.level = 16;
    cr_assert_eq(queue_pick(&queue, &who, avoids_nothing, NULL), index);
    who.models[0] = queue_model(&queue, slice_of("other"));
    cr_assert_eq(queue_pick(&queue, &who, avoids_nothing, NULL), JOB_NOBODY, "another model");
    envelope.features = 5;
    uint32_t special = add(&envelope);
    who = all();
    queue_remove(&queue, index);
    who.features = 4;
    cr_assert_eq(queue_pick(&queue, &who, avoids_nothing, NULL), JOB_NOBODY,
                 "a feature is missing");
    who.features = 7;
    cr_assert_eq(queue_pick(&queue, &who, avoids_nothing, NULL), special);
}

Test(queue, a_size_ceiling_is_rounded_up_for_the_job)
{
    struct envelope envelope = wants("acme", CLASS_NORMAL);
    envelope.width = 256;
    envelope.height = 272;
    uint32_t index = add(&envelope);
    cr_assert_eq(queue.buckets[job_at(&jobs, index)->bucket].level, 2, "a little over 256 x 256");
}

Test(queue, the_oldest_of_all_buckets_comes_first)
{
    struct envelope envelope = wants("acme", CLASS_NORMAL);
    for (uint16_t side = 64; side <= 1024; side = (uint16_t)(side + 64)) {
        envelope.width = side;
        add(&envelope);
    }
    for (uint32_t i = 1; i <= 16; i++) {
        cr_assert_eq(take()->header.sequence, i);
    }
}

Test(queue, a_job_that_avoids_the_worker_is_passed_over)
{
    uint64_t first = 1;
    add_for("acme", CLASS_NORMAL);
    struct capability who = all();
    cr_assert_eq(queue_pick(&queue, &who, avoids_this, &first), JOB_NOBODY);
    uint32_t second = add_for("acme", CLASS_NORMAL);
    cr_assert_eq(queue_pick(&queue, &who, avoids_this, &first), second);
}

Test(queue, a_bucket_is_free_again_when_its_last_job_has_ended)
{
    for (uint32_t round = 0; round < 3 * LIMIT_BUCKETS; round++) {
        struct envelope envelope = wants("acme", CLASS_NORMAL);
        envelope.features = round;
        uint32_t index = add(&envelope);
        cr_assert_neq(index, JOB_NOBODY);
        queue_remove(&queue, index);
        queue_unbind(&queue, job_at(&jobs, index));
        jobs_remove(&jobs, index);
    }
    cr_assert_eq(queue.n_buckets, 1);
}

Test(queue, one_requirement_too_many_is_refused_and_nothing_changes)
{
    for (uint32_t i = 0; i < LIMIT_BUCKETS; i++) {
        struct envelope envelope = wants("acme", CLASS_NORMAL);
        envelope.features = i;
        cr_assert_neq(add(&envelope), JOB_NOBODY);
    }
    struct envelope envelope = wants("acme", CLASS_NORMAL);
    envelope.features = LIMIT_BUCKETS;
    cr_assert_eq(add(&envelope), JOB_NOBODY);
    cr_assert_eq(queue.tenants[0].jobs, LIMIT_BUCKETS);
    envelope.features = 0;
    cr_assert_neq(add(&envelope), JOB_NOBODY, "a known requirement still is");
}

Test(queue, keys_of_an_earlier_broker_keep_their_order_and_newcomers_do_not_pass)
{
    static const uint64_t keys[] = { 0, 4096, 500000 };
    for (uint32_t i = 0; i < 3; i++) {
        uint32_t index = add_for("old", CLASS_NORMAL);
        queue_remove(&queue, index);
        job_at(&jobs, index)->key = keys[i];
        queue.virtual_time[CLASS_NORMAL] = i == 0 ? 0 : queue.virtual_time[CLASS_NORMAL];
        queue_key_loaded(&queue, job_at(&jobs, index));
        queue_insert(&queue, index);
    }
    cr_assert_eq(queue.virtual_time[CLASS_NORMAL], 0, "the least key, also when it is 0");
    uint32_t newcomer = add_for("new", CLASS_NORMAL);
    cr_assert_eq(job_at(&jobs, newcomer)->key, 0);
    cr_assert_eq(take()->header.sequence, 1);
    cr_assert_eq(take(), job_at(&jobs, newcomer));
    uint32_t more = add_for("old", CLASS_NORMAL);
    cr_assert_geq(job_at(&jobs, more)->key, 500000, "behind its own");
}

Test(queue, ahead_counts_its_class_and_the_cost_of_higher_ones)
{
    uint32_t first = add_for("acme", CLASS_NORMAL);
    uint32_t second = add_for("acme", CLASS_NORMAL);
    add_for("acme", CLASS_HIGH);
    add_for("acme", CLASS_LOW);
    struct capability who = all();
    const struct capability *list[] = { &who };
    uint64_t cost = job_at(&jobs, first)->cost;
    struct ahead ahead = queue_ahead(&queue, job_at(&jobs, second), list, 1);
    cr_assert_eq(ahead.jobs, 1);
    cr_assert_eq(ahead.cost, 2 * cost, "one before it, one of a higher class");
}

Test(queue, ahead_counts_what_a_worker_able_to_take_this_one_can_take)
{
    struct envelope small = wants("acme", CLASS_NORMAL);
    struct envelope other = wants("acme", CLASS_NORMAL);
    other.model = slice_of("other");
    add(&small);
    add(&other);
    uint32_t last = add(&small);
    struct capability turbo = all();
    struct capability both = turbo;
    both.models[both.n_models++] = queue_model(&queue, slice_of("other"));
    const struct capability *list[] = { &turbo, &both };
    cr_assert_eq(queue_ahead(&queue, job_at(&jobs, last), list, 1).jobs, 1);
    cr_assert_eq(queue_ahead(&queue, job_at(&jobs, last), list, 2).jobs, 2);
    cr_assert_eq(queue_ahead(&queue, job_at(&jobs, last), list, 0).jobs, 1,
                 "its own bucket always");
}

Test(queue, a_tenant_table_that_is_full_reuses_who_has_no_jobs)
{
    char name[16];
    for (uint32_t i = 0; i < LIMIT_TENANTS + 10; i++) {
        snprintf(name, sizeof name, "tenant-%u", i);
        uint32_t index = add_for(name, CLASS_NORMAL);
        cr_assert_neq(index, JOB_NOBODY);
        queue_remove(&queue, index);
        queue_unbind(&queue, job_at(&jobs, index));
        jobs_remove(&jobs, index);
    }
    cr_assert_eq(queue.n_tenants, LIMIT_TENANTS);
    cr_assert_eq(queue.tenants_live, 0);
    cr_assert_not_null(queue_tenant(&queue, slice_of(name)));
    cr_assert_null(queue_tenant(&queue, slice_of("tenant-0")), "it was reused");
}
