#pragma once
/*
 * comfyui_json — reads what ComfyUI answers; nothing in it is trusted.
 */
#include "worker/drivers/kit.h"

enum { COMFYUI_WHY = LIMIT_REASON_BYTES };

/* The request path of the picture among the outputs of a prompt, and the node that put it out: of
 * SaveImage rather than of a preview, else the first. False: there is none, or its name is too
 * long. */
bool comfyui_picture(const json_t *outputs, char path[LIMIT_INSTANCE_PATH], const char **node);
/* Why a prompt ended badly, by the `status` of its history: ComfyUI's words and the node's kind. */
void comfyui_why(const json_t *status, char out[COMFYUI_WHY]);
/* Why a workflow was refused: the first node that has a fault, and which. */
void comfyui_refusal(const struct http_response *response, char out[COMFYUI_WHY]);
/* The id of a client's first prompt in a list of GET /queue; NULL: it has none. Borrowed. */
const char *comfyui_of_client(const json_t *list, const char *client);
/* The prompt stands in such a list. */
bool comfyui_lists(const json_t *list, const char *id);
