#include "common/redis_url.h"
#include "common/scope.h"
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

Test(redis_url, good_ones_are_read)
{
    struct redis_url u;
    const char *why = NULL;
    cr_assert_eq(redis_url_parse(&u, "redis://127.0.0.1:1", &why), 0);
    cr_assert_str_eq(u.at.host, "127.0.0.1");
    cr_assert_eq(u.at.port, 1);
    cr_assert_str_eq(u.password, "");
    cr_assert_eq(redis_url_parse(&u, "redis://mia:a%40b@c@[::1]:65535/15", &why), 0);
    cr_assert_str_eq(u.at.host, "::1");
    cr_assert_str_eq(u.user, "mia");
    cr_assert_str_eq(u.password, "a@b@c");
    cr_assert_eq(u.at.port, 65535);
    cr_assert_eq(u.db, 15);
    cr_assert_str_eq(u.address, "[::1]:65535");
    cr_assert_eq(redis_url_parse(&u, "redis://:p@h/", &why), 0);
    cr_assert_eq(u.at.port, 6379);
    cr_assert_eq(redis_url_parse(&u, "unix:///run/redis.sock?password=p%20q&db=2", &why), 0);
    cr_assert_str_eq(u.path, "/run/redis.sock");
    cr_assert_str_eq(u.password, "p q");
    cr_assert_eq(u.db, 2);
    cr_assert_str_eq(u.address, "unix:/run/redis.sock");
}

Test(redis_url, sentinels_and_the_name_of_their_master_are_read)
{
    struct redis_url u;
    const char *why = NULL;
    cr_assert_eq(redis_url_parse(&u, "sentinel://a,[::1]:1,b:65535/the-master.1", &why), 0);
    cr_assert_eq(u.n_sentinels, 3);
    cr_assert_str_eq(u.sentinels[0].host, "a");
    cr_assert_eq(u.sentinels[0].port, 26379);
    cr_assert_str_eq(u.sentinels[1].host, "::1");
    cr_assert_eq(u.sentinels[1].port, 1);
    cr_assert_eq(u.sentinels[2].port, 65535);
    cr_assert_str_eq(u.master, "the-master.1");
    cr_assert_str_eq(u.at.host, "");
    cr_assert_str_eq(u.address, "sentinel://a,[::1]:1,b:65535/the-master.1");
    cr_assert_eq(redis_url_parse(&u, "sentinel://mia:pw@a/m/7", &why), 0);
    cr_assert_eq(u.n_sentinels, 1);
    cr_assert_str_eq(u.user, "mia");
    cr_assert_str_eq(u.password, "pw");
    cr_assert_eq(u.db, 7);
    cr_assert_str_eq(u.address, "sentinel://a/m");
    cr_assert_eq(redis_url_parse(&u, "sentinel://1,2,3,4,5,6,7,8/m", &why), 0);
    cr_assert_eq(redis_url_parse(&u, "sentinel://1,2,3,4,5,6,7,8,9/m", &why), -EINVAL);
}

Test(redis_url, it_is_loopback_only_if_all_of_it_is)
{
    struct redis_url u;
    const char *why = NULL;
    static const char *const here[] = { "redis://127.0.0.1", "redis://[::1]:1", "unix:///s",
                                        "sentinel://127.0.0.1,127.0.0.1:2/m" };
    static const char *const there[] = { "redis://192.0.2.1", "sentinel://127.0.0.1,192.0.2.1/m" };
    for (size_t i = 0; i < ARRAY_LENGTH(here); i++) {
        cr_assert_eq(redis_url_parse(&u, here[i], &why), 0);
        cr_assert(redis_url_is_loopback(&u), "%s", here[i]);
    }
    for (size_t i = 0; i < ARRAY_LENGTH(there); i++) {
        cr_assert_eq(redis_url_parse(&u, there[i], &why), 0);
        cr_assert(!redis_url_is_loopback(&u), "%s", there[i]);
    }
}

Test(redis_url, bad_ones_are_refused_and_no_reason_shows_a_password)
{
    static const char *const bad[] = {
        "",
        "redis://",
        "redis://:1",
        "redis://h:0",
        "redis://h:65536",
        "redis://h:",
        "redis://h:x",
        "redis://secret@h:1",
        "redis://u:@h:1",
        "redis://:secret%4@h:1",
        "redis://:secret%00@h:1",
        "redis://h:1/x",
        "redis://h:1/99999999999",
        "redis://h:1?x=secret",
        "redis://[::1:1",
        "redis://::1:1",
        "redis://[::1]x",
        "rediss://:secret@h:1",
        "http://h:1",
        "unix://run/x",
        "unix:///",
        "unix:///x?secret=1",
        "unix:///x?db=-1",
        "unix:///x?password=%s",
        "sentinel://",
        "sentinel://h",
        "sentinel://h/",
        "sentinel:///m",
        "sentinel://h,/m",
        "sentinel://,h/m",
        "sentinel://h:0/m",
        "sentinel://h/m/x",
        "sentinel://h/m secret",
        "sentinel://h/m?x=secret",
        "sentinel://secret@h/m",
        "h:1",
    };
    char huge[4096] = "redis://:";
    struct redis_url u;
    const char *why = NULL;
    for (size_t i = 0; i < ARRAY_LENGTH(bad); i++) {
        why = NULL;
        cr_assert_eq(redis_url_parse(&u, bad[i], &why), -EINVAL, "%s", bad[i]);
        cr_assert(why != NULL && strstr(why, "secret") == NULL);
    }
    memset(huge + 9, 'x', LIMIT_URL);
    memcpy(huge + 9 + LIMIT_URL, "@h:1", sizeof "@h:1");
    cr_assert_eq(redis_url_parse(&u, huge, &why), -EINVAL);
}
