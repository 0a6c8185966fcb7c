#include "worker/drivers/sd_cpp.h"
#include <stdlib.h>

json_t *
sd_cpp_order(const struct kit *kit)
{
    const struct kit_order *order = &kit->order;
    json_t *words = json_pack("{s:I, s:{s:i, s:{s:f}}}", "seed", (json_int_t)kit_seed(kit),
                              "sample_params", "sample_steps", (int)order->steps, "guidance",
                              "txt_cfg", kit_guidance_from_one(kit));
    json_object_set(words, "negative_prompt", order->negative);
    return words;
}

json_t *
sd_cpp_prompt(const struct kit *kit)
{
    json_t *words = sd_cpp_order(kit);
    /* One line, and "</" as "<\/": a negative prompt cannot end it. */
    char *text = json_dumps(words, JSON_COMPACT | JSON_ESCAPE_SLASH | JSON_REAL_PRECISION(9));
    json_t *prompt = json_sprintf("<sd_cpp_extra_args>%s</sd_cpp_extra_args>%s",
                                  text == NULL ? "" : text, json_string_value(kit->order.prompt));
    if (text == NULL || prompt == NULL) {
        abort(); /* out of memory: its parts are sound */
    }
    json_decref(words);
    free(text);
    return prompt;
}
