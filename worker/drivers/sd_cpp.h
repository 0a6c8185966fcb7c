#pragma once
/*
 * sd_cpp — a picture's order in the words of stable-diffusion.cpp's sd-server.
 *
 * Its own API has them in the body. The two APIs that it shares with others lack some (OpenAI's has
 * no steps, no seed; A1111's takes a seed of 31 bits, and any other for "random"), and hear them
 * from <sd_cpp_extra_args>{...}</sd_cpp_extra_args> in the prompt. Of several the server obeys the
 * first, and takes all of them out of the prompt.
 */
#include "worker/drivers/kit.h"

#define SD_CPP_CAPABILITIES "/sdcpp/v1/capabilities" /* of no other server */

/* Seed, steps, guidance and negative prompt of the next picture. The caller's. */
json_t *sd_cpp_order(const struct kit *kit);
/* The prompt with them in front, where no prompt of a user can say anything else. The caller's. */
json_t *sd_cpp_prompt(const struct kit *kit);
