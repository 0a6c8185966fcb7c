#pragma once
/*
 * batch_answer — what Redis said to one batch: a letter an op (PROTOCOL.md, "Redis"), in order.
 *
 * Read from the reply at once, because a reply of hiredis does not outlive its callback and a
 * batch may wait for its replicas before anybody is told.
 */
#include "broker/dispatch.h"
#include <hiredis/hiredis.h>

struct batch_answer;

/* True if the reply is an array that begins with this word. */
bool reply_is(const redisReply *reply, const char *word);
/* From {"OK", letters, extra...}; owned by the caller. Aborts when memory is gone. */
struct batch_answer *batch_answer_read(const redisReply *reply);
void batch_answer_destroy(struct batch_answer **self_p);
/* What became of the next op, as the event's outcome, first and body_hash; `hash` (32 bytes) is
 * the memory of the latter. An op that has no letter is COMMIT_ABSENT. */
void batch_answer_next(struct batch_answer *self, struct dispatch_event *event, uint8_t hash[32]);
