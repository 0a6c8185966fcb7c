#pragma once
/*
 * broker — joins the core and its edges in three moves: decode, step, perform.
 *
 *   election   are we the leader?            -> a term begins: rebuild, then the doors open
 *   rebuild    live jobs from Redis          -> dispatch
 *   door       frames of gateways, workers   -> dispatch -> frames, commits, reads
 *   store      answers of Redis              -> dispatch
 *
 * When the term ends doors, store and core go; the broker stands by.
 */
#include "broker/options.h"
#include "common/reactor.h"

struct broker;

/* 0, -errno. The options outlive the broker. */
int broker_new(struct broker **out, struct reactor *reactor, const struct options *options);
void broker_destroy(struct broker **self_p);
