#include "common/scope.h"
#include "tests/unit/store_world.h"
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <sys/wait.h>

TestSuite(picture_dir, .init = make_dir, .fini = remove_store);

Test(picture_dir, processes_that_start_at_once_agree_on_the_id)
{
    enum { N = 8, ROUNDS = 20 };
    for (int round = 0; round < ROUNDS; round++) {
        char path[128];
        char ids[N][PICTURE_DIR_ID];
        int pipes[N][2];
        int start[2];
        snprintf(path, sizeof path, "%s/round-%d", dir, round);
        cr_assert_eq(pipe(start), 0);
        for (int i = 0; i < N; i++) {
            cr_assert_eq(pipe(pipes[i]), 0);
            if (fork() == 0) {
                struct picture_dir *pictures = NULL;
                char byte;
                close(start[1]);
                (void)!read(start[0], &byte, 1); /* until all are there */
                int rc = picture_dir_open(&pictures, path);
                (void)!write(pipes[i][1], rc == 0 ? picture_dir_id(pictures) : "",
                             rc == 0 ? 32 : 0);
                _exit(0);
            }
            close(pipes[i][1]);
        }
        close(start[0]);
        close(start[1]);
        for (int i = 0; i < N; i++) {
            cr_assert_eq(read(pipes[i][0], ids[i], PICTURE_DIR_ID), PICTURE_DIR_ID);
            cr_assert_eq(memcmp(ids[i], ids[0], PICTURE_DIR_ID), 0);
            close(pipes[i][0]);
            wait(NULL);
        }
    }
}

Test(picture_dir, a_damaged_id_or_an_unusable_directory_is_an_error)
{
    struct picture_dir *pictures = NULL;
    char path[128];
    snprintf(path, sizeof path, "%s/.drawbar-store", dir);
    FILE *file = fopen(path, "w");
    fputs("not an id\n", file);
    fclose(file);
    cr_assert_eq(picture_dir_open(&pictures, dir), -EINVAL);
    cr_assert_eq(picture_dir_open(&pictures, path), -ENOTDIR);
    snprintf(path, sizeof path, "%s/no/such", dir);
    cr_assert_eq(picture_dir_open(&pictures, path), -ENOENT);
}

static void
write_for_ever(const struct picture_dir *pictures, const void *bytes, size_t length)
{
    for (;;) {
        struct picture_name name = { .lease = new_lease() };
        enum picture_put verdict;
        picture_dir_put(pictures, &name, bytes, length, &verdict);
    }
}

Test(picture_dir, a_killed_writer_leaves_no_half_picture)
{
    enum { ROUNDS = 10, SIZE = 3000000 };
    struct picture_dir *pictures = NULL;
    char *bytes = calloc(1, SIZE);
    int n_whole = 0;
    cr_assert_eq(picture_dir_open(&pictures, dir), 0);
    for (int round = 0; round < ROUNDS; round++) {
        pid_t writer = fork();
        if (writer == 0) {
            write_for_ever(pictures, bytes, SIZE);
        }
        pause_ms(20 + (int)(random_u64() % 30));
        kill(writer, SIGKILL);
        waitpid(writer, NULL, 0);
    }
    DIR *shards = opendir(dir);
    const struct dirent *shard = NULL;
    while ((shard = readdir(shards)) != NULL) {
        char path[512];
        snprintf(path, sizeof path, "%s/%s", dir, shard->d_name);
        DIR *files = shard->d_name[0] == '.' ? NULL : opendir(path);
        const struct dirent *file = NULL;
        while (files != NULL && (file = readdir(files)) != NULL) {
            struct picture_name name;
            struct stat status;
            cr_assert_eq(fstatat(dirfd(files), file->d_name, &status, 0), 0);
            if (picture_name_parse(file->d_name, &name)) {
                cr_expect_eq(status.st_size, SIZE, "%s", file->d_name);
                n_whole++;
            } else {
                cr_expect(file->d_name[0] == '.', "%s", file->d_name);
            }
        }
        if (files != NULL) {
            closedir(files);
        }
    }
    closedir(shards);
    picture_dir_destroy(&pictures);
    free(bytes);
    cr_assert(n_whole > 0);
}

/* -- names -- */

Test(picture_names, a_name_is_read_back_and_nothing_else_is_a_name)
{
    static const char *const bad[] = {
        "",
        ".",
        "..",
        "01HZZZZZZZ0123456789ABCDEF",
        "01HZZZZZZZ0123456789ABCDEF.abc.1.0",
        "01HZZZZZZZ0123456789ABCDEF.00000abc.1",
        "01HZZZZZZZ0123456789ABCDEF.00000abc.1.",
        "01HZZZZZZZ0123456789ABCDEF.00000abc.01.0",
        "01HZZZZZZZ0123456789ABCDEF.00000abc.1.0x",
        "01HZZZZZZZ0123456789ABCDEF.00000ABC.1.0",
        "01hzzzzzzz0123456789abcdef.00000abc.1.0",
        "01HZZZZZZZ0123456789ABCDEF.00000abc.256.0",
        "01HZZZZZZZ0123456789ABCDEF.+0000abc.1.0",
        "01HZZZZZZZ0123456789ABCDEF.100000abc.1.0",
        "01HZZZZZZZ0123456789ABCDEF. 1.1.0",
    };
    struct picture_name name;
    char text[PICTURE_NAME_MAX];
    cr_assert(picture_name_parse("01HZZZZZZZ0123456789ABCDEF.00000abc.255.7", &name));
    cr_assert_eq(name.lease.epoch, 0xabc);
    cr_assert_eq(name.lease.grant, 255);
    cr_assert_eq(name.index, 7);
    picture_name_print(&name, text);
    cr_assert_str_eq(text, "01HZZZZZZZ0123456789ABCDEF.00000abc.255.7");
    for (size_t i = 0; i < ARRAY_LENGTH(bad); i++) {
        cr_expect(!picture_name_parse(bad[i], &name), "%s", bad[i]);
    }
}

Test(picture_names, a_shard_is_the_hour_of_the_id_in_utc)
{
    char shard[PICTURE_SHARD_MAX];
    struct job_id id = job_id_mint(1795431599999);
    struct job_id last;
    picture_shard_print(&id, shard);
    cr_assert_str_eq(shard, "2026112310");
    id = job_id_mint(1795431600000);
    picture_shard_print(&id, shard);
    cr_assert_str_eq(shard, "2026112311");
    memset(last.bytes, 0xff, sizeof last.bytes);
    picture_shard_print(&last, shard);
    cr_assert_eq(strlen(shard), 11);
}
