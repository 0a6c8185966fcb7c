#include "common/scope.h"
#include "tests/unit/store_world.h"
#include <errno.h>
#include <sodium.h>

TestSuite(artifacts, .init = make_store, .fini = remove_store);

/* -- uploads -- */

Test(artifacts, a_picture_is_stored_under_the_name_of_its_attempt)
{
    struct lease lease = new_lease();
    uint8_t hash[crypto_hash_sha256_BYTES];
    char text[2 * sizeof hash + 1];
    char expected[256];
    crypto_hash_sha256(hash, (const uint8_t *)png, strlen(png));
    sodium_bin2hex(text, sizeof text, hash, sizeof hash);
    snprintf(expected, sizeof expected, "{\"bytes\":%zu,\"sha256\":\"%s\"}", strlen(png), text);
    cr_assert_eq(upload(&lease, 0, png), 201, "%s", reply);
    cr_assert(strstr(reply, expected) != NULL, "%s", reply);
    cr_assert(strstr(reply, "application/json") != NULL);
    cr_assert(is_there(&lease, 0));
    cr_assert_eq(files_in_store(), 1, "no temporary file stays");
}

Test(artifacts, the_same_bytes_again_are_fine_and_other_bytes_are_a_conflict)
{
    struct lease lease = new_lease();
    cr_assert_eq(upload(&lease, 1, png), 201);
    cr_assert_eq(upload(&lease, 1, png), 200);
    cr_assert(strstr(reply, "sha256") != NULL);
    cr_assert_eq(upload(&lease, 1, other_png), 409);
    cr_assert(strstr(reply, "application/problem+json") != NULL);
    cr_assert_eq(upload(&lease, 1, "\x89PNG\r\n\x1a\n"), 409);
    cr_assert_eq(upload(&lease, 1, png), 200, "the first picture is untouched");
    cr_assert_eq(files_in_store(), 1);
}

Test(artifacts, a_grant_that_does_not_hold_is_refused)
{
    struct lease lease = new_lease();
    struct lease other = new_lease();
    char token[GRANT_TOKEN_MAX];
    uint8_t stranger[GRANT_KEY_BYTES] = { 0 };
    grant_sign(stranger, &lease, 2, NOW + 60000, token);
    cr_expect_eq(upload_with(&lease, 0, token, "image/png", png), 403);
    grant_sign(keys[0], &other, 2, NOW + 60000, token);
    cr_expect_eq(upload_with(&lease, 0, token, "image/png", png), 403);
    grant_sign(keys[0], &lease, 2, NOW - 1, token);
    cr_expect_eq(upload_with(&lease, 0, token, "image/png", png), 410);
    grant_sign(keys[0], &lease, 2, NOW + 60000, token);
    cr_expect_eq(upload_with(&lease, 2, token, "image/png", png), 403);
    cr_expect_eq(upload_with(&lease, 0, "nonsense", "image/png", png), 400);
    cr_expect_eq(upload_with(&lease, 0, NULL, "image/png", png), 401);
    cr_expect(strstr(reply, "WWW-Authenticate: Grant") != NULL);
    cr_expect_eq(files_in_store(), 0);
}

Test(artifacts, two_keys_are_valid_while_they_change)
{
    struct lease lease = new_lease();
    char token[GRANT_TOKEN_MAX];
    grant_sign(keys[1], &lease, 2, NOW + 60000, token);
    cr_assert_eq(upload_with(&lease, 0, token, "image/png", png), 201);
    artifacts_set_keys(artifacts, keys, 1, NOW - clock_mono_ms());
    cr_assert_eq(upload_with(&lease, 1, token, "image/png", png), 403);
}

Test(artifacts, bytes_must_be_what_the_type_says)
{
    static const char webp[] = "RIFF1234WEBPVP8 ";
    static const char jpeg[] = "\xff\xd8\xff\xe0 and so on";
    struct lease lease = new_lease();
    char token[GRANT_TOKEN_MAX];
    grant_sign(keys[0], &lease, 8, NOW + 60000, token);
    cr_expect_eq(upload_with(&lease, 0, token, "image/png", png), 201);
    cr_expect_eq(upload_with(&lease, 1, token, "image/jpeg", jpeg), 201);
    cr_expect_eq(upload_with(&lease, 2, token, "image/webp", webp), 201);
    cr_expect_eq(upload_with(&lease, 3, token, "image/png", jpeg), 422);
    cr_expect_eq(upload_with(&lease, 4, token, "image/webp", "RIFF1234WAVE"), 422);
    cr_expect_eq(upload_with(&lease, 4, token, "image/webp", "RIFF1234"), 422);
    cr_expect_eq(upload_with(&lease, 5, token, "image/jpeg", "\xff\xd8"), 422);
    cr_expect_eq(upload_with(&lease, 6, token, "image/png", ""), 422);
    cr_expect_eq(upload_with(&lease, 7, token, "image/gif", "GIF89a"), 415);
    cr_expect_eq(upload_with(&lease, 7, token, "text/html", png), 415);
    cr_expect_eq(files_in_store(), 3);
}

Test(artifacts, nothing_but_the_route_is_answered)
{
    static const struct {
        const char *method, *target;
        int status;
    } asks[] = {
        { "PUT", "/", 404 },
        { "GET", "/healthz", 404 },
        { "PUT", "/upload/", 404 },
        { "PUT", "/upload/01HZZZZZZZ0123456789ABCDEF/1?epoch=00000abc", 404 },
        { "PUT", "/upload/01HZZZZZZZ0123456789ABCDEF/1/0/x?epoch=00000abc", 404 },
        { "PUT", "/upload/01HZZZZZZZ0123456789ABCDEF/1/0", 400 },
        { "PUT", "/upload/01HZZZZZZZ0123456789ABCDEF/1/0?epoch=abc", 400 },
        { "PUT", "/upload/01HZZZZZZZ0123456789ABCDEF/1/0?epoch=00000ABC", 400 },
        { "PUT", "/upload/01HZZZZZZZ0123456789ABCDEF/1/8?epoch=00000abc", 400 },
        { "PUT", "/upload/01HZZZZZZZ0123456789ABCDEF/0/0?epoch=00000abc", 400 },
        { "PUT", "/upload/01HZZZZZZZ0123456789ABCDEF/01/0?epoch=00000abc", 400 },
        { "PUT", "/upload/01HZZZZZZZ0123456789ABCDEF/256/0?epoch=00000abc", 400 },
        { "PUT", "/upload/01HZZZZZZZ0123456789ABCDEF/+1/0?epoch=00000abc", 400 },
        { "PUT", "/upload/01HZZZZZZZ0123456789ABCDEF/1/?epoch=00000abc", 400 },
        { "PUT", "/upload/../1/0?epoch=00000abc", 400 },
        { "PUT", "/upload/..%2f..%2f..%2fetc%2fpasswd/1/0?epoch=00000abc", 400 },
        { "PUT", "/upload/01HZZZZZZZ0123456789ABCDE%2e/1/0?epoch=00000abc", 400 },
        { "PUT", "/upload/01HZZZZZZZ0123456789ABCDEF/1/..?epoch=00000abc", 400 },
        { "PUT", "/upload/01HZZZZZZZ0123456789ABCDEF/1/0?epoch=../../..", 400 },
        { "PUT", "/upload/../../etc/passwd?epoch=00000abc", 404 },
        { "POST", "/upload/01HZZZZZZZ0123456789ABCDEF/1/0?epoch=00000abc", 405 },
        { "GET", "/upload/01HZZZZZZZ0123456789ABCDEF/1/0?epoch=00000abc", 405 },
        { "DELETE", "/upload/01HZZZZZZZ0123456789ABCDEF/1/0?epoch=00000abc", 405 },
    };
    for (size_t i = 0; i < ARRAY_LENGTH(asks); i++) {
        bool has_body = strcmp(asks[i].method, "PUT") == 0 || strcmp(asks[i].method, "POST") == 0;
        struct ask ask = {
            asks[i].method, asks[i].target, "1.1.x", "image/png", png, has_body ? strlen(png) : 0
        };
        int status = say(&ask);
        cr_expect_eq(status, asks[i].status, "%s %s: %d", ask.method, ask.target, status);
        cr_expect(strstr(reply, "application/problem+json") != NULL, "%s", ask.target);
        cr_expect((strstr(reply, "Allow: PUT") != NULL) == (status == 405), "%s", ask.target);
    }
    cr_assert_eq(files_in_store(), 0);
}

Test(artifacts, a_picture_may_be_as_large_as_the_limit_and_not_a_byte_larger)
{
    struct lease lease = new_lease();
    char token[GRANT_TOKEN_MAX];
    char target[256];
    char *body = calloc(1, LIMIT_PICTURE_BYTES + 1);
    memcpy(body, png, 8);
    grant_sign(keys[0], &lease, 2, NOW + 60000, token);
    print_target(&lease, 0, target);
    struct ask ask = { "PUT", target, token, "image/png", body, LIMIT_PICTURE_BYTES + 1 };
    cr_expect_eq(say(&ask), 413, "%s", reply);
    cr_expect_eq(files_in_store(), 0);
    ask.length = LIMIT_PICTURE_BYTES;
    cr_expect_eq(say(&ask), 201, "%s", reply);
    free(body);
}

Test(artifacts, an_upload_that_breaks_off_leaves_nothing)
{
    struct lease lease = new_lease();
    char token[GRANT_TOKEN_MAX];
    char target[256];
    grant_sign(keys[0], &lease, 2, NOW + 60000, token);
    print_target(&lease, 0, target);
    int fd = connect_to_store();
    send_head(fd, &(struct ask){ "PUT", target, token, "image/png", png, strlen(png) });
    send_all(fd, png, strlen(png) - 1);
    close(fd);
    cr_assert_eq(upload(&lease, 1, png), 201, "the next is served");
    cr_assert_eq(files_in_store(), 1);
    cr_assert(!is_there(&lease, 0));
}

Test(artifacts, many_uploads_at_once_are_all_answered)
{
    enum { N = 40 }; /* more than may be open at once */
    int fds[N];
    char token[GRANT_TOKEN_MAX];
    char target[256];
    for (int i = 0; i < N; i++) {
        struct lease lease = new_lease();
        grant_sign(keys[0], &lease, 1, NOW + 60000, token);
        print_target(&lease, 0, target);
        fds[i] = connect_to_store();
        send_head(fds[i], &(struct ask){ "PUT", target, token, "image/png", png, strlen(png) });
        send_all(fds[i], png, strlen(png));
    }
    for (int i = 0; i < N; i++) {
        int status = receive(fds[i]);
        cr_expect_eq(status, 201, "%d: %d", i, status);
    }
    cr_assert_eq(files_in_store(), N);
}

Test(artifacts, the_same_picture_sent_by_two_at_once_is_stored_once)
{
    enum { N = 8 };
    int fds[N];
    int n_created = 0;
    char token[GRANT_TOKEN_MAX];
    char target[256];
    struct lease lease = new_lease();
    grant_sign(keys[0], &lease, 1, NOW + 60000, token);
    print_target(&lease, 0, target);
    for (int i = 0; i < N; i++) {
        fds[i] = connect_to_store();
        send_head(fds[i], &(struct ask){ "PUT", target, token, "image/png", png, strlen(png) });
        send_all(fds[i], png, strlen(png));
    }
    for (int i = 0; i < N; i++) {
        int status = receive(fds[i]);
        cr_expect(status == 200 || status == 201);
        n_created += status == 201;
    }
    cr_assert_eq(n_created, 1);
}

Test(artifacts, a_drained_store_takes_no_more)
{
    artifacts_drain(artifacts, 1000);
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(artifacts_port(artifacts)) };
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    cr_assert_neq(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    close(fd);
}

TestSuite(artifacts_start, .init = make_dir, .fini = remove_store);

Test(artifacts_start, without_keys_uploads_are_put_off)
{
    struct lease lease = new_lease();
    open_store("unix:///nonexistent/redis.sock", 3600000, 600);
    cr_assert_eq(upload(&lease, 0, png), 503);
    cr_assert(strstr(reply, "Retry-After: 1") != NULL);
    artifacts_set_keys(artifacts, keys, 1, NOW - clock_mono_ms());
    cr_assert_eq(upload(&lease, 0, png), 201);
}

Test(artifacts_start, a_full_disk_is_told)
{
    struct lease lease = new_lease();
    free_mib_min = UINT32_MAX;
    open_store("unix:///nonexistent/redis.sock", 3600000, 600);
    artifacts_set_keys(artifacts, keys, 1, NOW - clock_mono_ms());
    cr_assert(artifacts_full(artifacts));
    cr_assert_eq(upload(&lease, 0, png), 507);
    cr_assert_eq(files_in_store(), 0);
}

Test(artifacts_start, a_store_keeps_its_id)
{
    char id[PICTURE_DIR_ID + 1];
    open_store("unix:///nonexistent/redis.sock", 3600000, 600);
    snprintf(id, sizeof id, "%s", artifacts_store_id(artifacts));
    cr_assert_eq(strlen(id), PICTURE_DIR_ID);
    cr_assert(!artifacts_full(artifacts));
    artifacts_destroy(&artifacts);
    open_store("unix:///nonexistent/redis.sock", 3600000, 600);
    cr_assert_str_eq(artifacts_store_id(artifacts), id);
}

/* -- downloads -- */

struct download {
    struct reactor *reactor;
    int rc, n;
    void *bytes;
    size_t length;
};

static void
on_read(void *context, int rc, void *bytes, size_t length)
{
    struct download *download = context;
    free(download->bytes);
    download->rc = rc;
    download->bytes = bytes;
    download->length = length;
    download->n--;
    if (download->n == 0) {
        reactor_stop(download->reactor, 0);
    }
}

Test(artifacts, a_stored_picture_is_read_back_and_another_is_not_found)
{
    struct download download = { .n = 1 };
    CLEANUP(reactor_destroy) struct reactor *reactor = NULL;
    CLEANUP(helper_thread_destroy) struct helper_thread *helper = NULL;
    struct lease lease = new_lease();
    cr_assert_eq(upload(&lease, 0, png), 201);
    cr_assert_eq(reactor_new(&reactor, false), 0);
    cr_assert_eq(helper_thread_new(&helper, reactor), 0);
    download.reactor = reactor;
    artifacts_read(artifacts, helper, &lease, 0, on_read, &download);
    reactor_run(reactor);
    cr_assert_eq(download.rc, 0);
    cr_assert_eq(download.length, strlen(png));
    cr_assert_eq(memcmp(download.bytes, png, strlen(png)), 0);
    download.n = 1;
    artifacts_read(artifacts, helper, &lease, 1, on_read, &download);
    reactor_run(reactor);
    cr_assert_eq(download.rc, -ENOENT);
    cr_assert(download.bytes == NULL);
    lease.job = job_id_mint(1);
    download.n = 1;
    artifacts_read(artifacts, helper, &lease, 0, on_read, &download);
    reactor_run(reactor);
    cr_assert_eq(download.rc, -ENOENT, "not even its shard is there");
}
