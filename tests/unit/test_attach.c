/* The words of --attach and --driver. */
#include "worker/attach.h"
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <string.h>

static const char *
read_line(const char *line)
{
    static struct instance instance;
    instance = (struct instance){ 0 };
    return attach_read(&instance, line);
}

static void
expect(const char *line, const char *part)
{
    const char *wrong = read_line(line);
    cr_assert(wrong != NULL, "%s", line);
    cr_assert(strstr(wrong, part) != NULL, "%s: %s", line, wrong);
}

Test(attach, each_driver_takes_its_own_words)
{
    struct instance instance = { 0 };
    cr_assert(
        zero(ptr, (void *)attach_read(&instance, "url=http://[::1]:7860// user=me password=a:b "
                                                 " driver=gradio\tendpoint=/draw extra_steps=1")));
    cr_assert(eq(str, instance.url, (char *)"http://[::1]:7860"));
    cr_assert(eq(str, instance.name, (char *)"[::1]:7860"));
    cr_assert(eq(str, instance.words.password, (char *)"a:b"));
    cr_assert(eq(str, instance.words.endpoint, (char *)"/draw"));
    cr_assert(eq(u32, instance.words.extra_steps, 1));
    cr_assert(zero(ptr, (void *)read_line("driver=openai url=http://h:1/v1 key=secret model=m")));
}

Test(attach, mistakes_are_told_and_no_secret_with_them)
{
    expect("driver=nope url=http://h:1",
           "there are: drawbar, sdapi, openai, gradio, sdcpp, comfyui");
    expect("url=http://h:1", "driver= is missing");
    expect("driver=sdapi", "url= is missing");
    expect("driver=sdapi url=http://me:pass@h:1", "user= and password=");
    expect("driver=sdapi url=http://h:99999", "http://HOST:PORT");
    expect("driver=sdapi url=http://h:1 colour=red", "word 'colour=red': is none of");
    expect("driver=sdapi url=http://h:1 endpoint=/x", "the driver sdapi takes no endpoint=");
    expect("driver=drawbar url=http://h:1 user=a password=b", "takes no user=");
    expect("driver=sdapi url=http://h:1 user=a", "come together");
    expect("driver=openai url=http://h:1 user=a password=b key=c", "not both");
    expect("driver=openai url=http://h:1 extra_steps=9", "must be 0 to 4");
    expect("driver=comfyui url=http://h:1", "workflow= is missing");
    expect("driver=gradio url=http://h:1 endpoint=", "must be 1 to 127 bytes");
    char line[512] = "driver=openai url=http://h:1 key=";
    memset(line + strlen(line), 'k', 200);
    expect(line, "word 'key=': must be");
    cr_assert(strstr(read_line(line), "kk") == NULL);
}

Test(attach, started_instances_have_words_too)
{
    struct instance instance = { 0 };
    cr_assert(zero(ptr, (void *)attach_read_driver(&instance, "gradio endpoint=/draw")));
    cr_assert(eq(str, instance.words.endpoint, (char *)"/draw"));
    const char *wrong = attach_read_driver(&instance, "gradio url=http://h:1");
    cr_assert(wrong != NULL && strstr(wrong, "not for started") != NULL);
    wrong = attach_read_driver(&instance, "nope");
    cr_assert(wrong != NULL && strstr(wrong, "no such driver") != NULL);
}
