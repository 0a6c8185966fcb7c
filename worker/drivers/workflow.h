#pragma once
/*
 * workflow — a ComfyUI workflow in API format with places for what a job asks for.
 *
 * The places are whole strings: "{prompt}", "{negative_prompt}", "{seed}", "{width}", "{height}",
 * "{steps}", "{guidance}" (1 is off, as everywhere in ComfyUI). The prompt, seed, width, height and
 * steps must each have one: a picture that is not what was asked for is no result.
 */
#include "worker/drivers/kit.h"

/* Reads and checks the file. NULL: *problem says why, for people; static. */
json_t *workflow_read(const char *path, const char **problem);
/* The graph with every place filled. NULL: it has no place for the guidance that is asked for. */
json_t *workflow_fill(const json_t *workflow, const struct kit *kit);
/* The node has the place for the steps among its inputs. */
bool workflow_takes_steps(const json_t *node);
/* Gives a node of a graph an input that it has not. ComfyUI passes over it, but for its cache it is
 * another node: it runs anew. */
void workflow_vary(json_t *graph, const char *node);
/* The name of the model file that the workflow loads; NULL: none is named. Borrowed. */
const char *workflow_model(const json_t *workflow);
