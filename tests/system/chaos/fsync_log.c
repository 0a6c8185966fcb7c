/* fsync_log — a preloaded library that writes down what a power cut would have left.
 *
 * After each fsync or fdatasync that succeeded it appends "<inode> <size>" to the file that the
 * environment names in FSYNC_LOG: the size that the file had when the call *began*. Nothing behind
 * that size has to be on a disk. The inode, not the path: Redis syncs files and renames them then.
 *
 * For tests (power_cut.py): kill -9 the process, cut each file back to the size of its last line,
 * and what is there is the least that a disk may legally hold. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static int
logged(long call, int fd)
{
    struct stat before;
    const char *path = getenv("FSYNC_LOG");
    int known = fstat(fd, &before);
    int rc = (int)syscall(call, fd);
    if (rc == 0 && known == 0 && path != NULL) {
        /* Opened each time: a descriptor of ours would be one that Redis does not know of. */
        int log = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
        char line[64];
        int length = snprintf(line, sizeof line, "%llu %lld\n", (unsigned long long)before.st_ino,
                              (long long)before.st_size);
        if (log < 0 || write(log, line, (size_t)length) != length) {
            abort(); /* a cut that does not know of a sync would blame Redis */
        }
        (void)close(log);
    }
    return rc;
}

int
fsync(int fd)
{
    return logged(SYS_fsync, fd);
}

int
// NOLINTNEXTLINE(readability-inconsistent-declaration-parameter-name): glibc's is a reserved word
fdatasync(int fd)
{
    return logged(SYS_fdatasync, fd);
}
