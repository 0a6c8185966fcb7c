#pragma once
/*
 * http_guard — cuts off HTTP clients that are too slow, and knows how many connections are open.
 *
 * evhttp knows only an idle limit, which a client that drips a byte now and then never meets. The
 * guard keeps one deadline a connection, in a table by file descriptor. Each descriptor is known by
 * its SO_COOKIE, so that a number used again by something else is never shut:
 *
 *     adopt --> a deadline --clear--> none (the request is in our hands) --arm--> a deadline
 *                   ^                                                                 |
 *                   `-- first byte of the next request -- resting <------- rest ------'
 *
 * At its deadline a connection is shut down; evhttp sees the end and cleans up by itself.
 */
#include "common/reactor.h"
#include <event2/bufferevent.h>

struct http_guard;

/* request_ms: from accept, or from the first byte of a further request, until it is whole. `sweep`
 * is called every LIMIT_HTTP_SWEEP_MS, after the deadlines were looked at. 0 or -ENOMEM. */
int http_guard_new(struct http_guard **out, struct reactor *reactor, int64_t request_ms,
                   reactor_fn sweep, void *context);
void http_guard_destroy(struct http_guard **self_p);
/* Takes a connection just accepted, whose descriptor need not be set before this turn of the loop
 * ends. Its deadline is now + request_ms. A descriptor past LIMIT_HTTP_CONNECTIONS is shut. */
void http_guard_adopt(struct http_guard *self, struct bufferevent *connection);
/* The connection may take as long as it likes. */
void http_guard_clear(struct http_guard *self, int fd);
/* The connection is shut in delay_ms. */
void http_guard_arm(struct http_guard *self, int fd, int64_t delay_ms);
/* An answer is out: the next byte of the client starts a new deadline. */
void http_guard_rest(struct http_guard *self, int fd);
/* The connection is about to be closed. */
void http_guard_forget(struct http_guard *self, int fd);
/* Connections adopted and not forgotten. evhttp closes some by itself without a word, so the number
 * may be too high until the next http_guard_recount(). */
uint32_t http_guard_count(const struct http_guard *self);
/* Forgets connections that are closed: one system call for each that is counted. */
void http_guard_recount(struct http_guard *self);
/* True while a request is on its way: a part of one came, or a connection is younger than
 * LIMIT_HTTP_FIRST_MS and has sent nothing. Looks at every entry. */
bool http_guard_expects(const struct http_guard *self);
/* Ends every connection that is open, as http_guard_shut(). */
void http_guard_shut_all(struct http_guard *self);
/* Ends a connection now; evhttp hears of it in a later turn of the loop. */
void http_guard_shut(int fd);
