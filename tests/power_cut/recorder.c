/*
 * Records, in order, what a process does to the files under $POWERCUT_DIR: appended to $POWERCUT_LOG, one record each.
 * Built as a shared object and loaded with LD_PRELOAD; trace.rs reads the records.
 *
 * A sync is recorded when it has returned, with the number of the last record before it began: all that came later may
 * have missed it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

struct record {
    char kind[8];      /* create, empty, write, resize, sync, unlink, rename */
    uint64_t number;   /* from one, without gaps */
    uint64_t value;    /* write: where; resize: to what; sync: the last record that it covers */
    uint32_t path_len; /* the path follows */
    uint32_t data_len; /* write: the bytes; rename: the new path */
};

static pthread_mutex_t order = PTHREAD_MUTEX_INITIALIZER;
static uint64_t last_number;
static int log_fd = -1;
static char root[PATH_MAX];
static size_t root_len;

__attribute__((constructor)) static void begin(void) {
    const char *dir = getenv("POWERCUT_DIR"), *log = getenv("POWERCUT_LOG");
    if (!dir || !log || strlen(dir) >= sizeof root)
        return;
    strcpy(root, dir);
    root_len = strlen(root);
    int fd = syscall(SYS_openat, AT_FDCWD, log, O_CREAT | O_WRONLY | O_APPEND, 0644);
    /* Out of the way of the numbers that the process is given. */
    log_fd = syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 900);
    syscall(SYS_close, fd);
}

static void put(const char *kind, const char *path, uint64_t value, const void *data, uint32_t data_len) {
    struct record record = {{0}, ++last_number, value, strlen(path), data_len};
    memcpy(record.kind, kind, strlen(kind));
    struct iovec parts[3] = {{&record, sizeof record}, {(void *)path, record.path_len}, {(void *)data, data_len}};
    ssize_t whole = sizeof record + record.path_len + data_len;
    if (syscall(SYS_writev, log_fd, parts, 3) != whole)
        abort();
}

static int is_ours(const char *path) {
    return log_fd >= 0 && strncmp(path, root, root_len) == 0 && (path[root_len] == '/' || path[root_len] == 0);
}

/* The path of an open file of ours, or null. */
static const char *path_of(int fd, char path[PATH_MAX]) {
    char link[64];
    if (log_fd < 0 || fd == log_fd)
        return NULL;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t len = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX - 1);
    if (len <= 0)
        return NULL;
    path[len] = 0;
    return is_ours(path) ? path : NULL;
}

static int open_recorded(const char *path, int flags, int mode) {
    if (!is_ours(path) || !(flags & (O_CREAT | O_TRUNC)))
        return syscall(SYS_openat, AT_FDCWD, path, flags, mode);
    pthread_mutex_lock(&order);
    int existed = syscall(SYS_faccessat, AT_FDCWD, path, F_OK) == 0;
    int fd = syscall(SYS_openat, AT_FDCWD, path, flags, mode);
    if (fd >= 0 && !existed)
        put("create", path, 0, NULL, 0);
    else if (fd >= 0 && (flags & O_TRUNC))
        put("empty", path, 0, NULL, 0);
    pthread_mutex_unlock(&order);
    return fd;
}

#define MODE(flags)                                                                                                    \
    int mode = 0;                                                                                                      \
    if ((flags) & O_CREAT) {                                                                                           \
        va_list rest;                                                                                                  \
        va_start(rest, flags);                                                                                         \
        mode = va_arg(rest, int);                                                                                      \
        va_end(rest);                                                                                                  \
    }

int open64(const char *path, int flags, ...) {
    MODE(flags)
    return open_recorded(path, flags | O_LARGEFILE, mode);
}

int open(const char *path, int flags, ...) {
    MODE(flags)
    return open_recorded(path, flags, mode);
}

ssize_t pwrite64(int fd, const void *data, size_t len, off64_t at) {
    char buffer[PATH_MAX];
    const char *path = path_of(fd, buffer);
    if (!path)
        return syscall(SYS_pwrite64, fd, data, len, at);
    pthread_mutex_lock(&order);
    ssize_t done = syscall(SYS_pwrite64, fd, data, len, at);
    if (done > 0)
        put("write", path, at, data, done);
    pthread_mutex_unlock(&order);
    return done;
}

ssize_t pwrite(int fd, const void *data, size_t len, off_t at) { return pwrite64(fd, data, len, at); }

ssize_t write(int fd, const void *data, size_t len) {
    char buffer[PATH_MAX];
    const char *path = path_of(fd, buffer);
    if (!path)
        return syscall(SYS_write, fd, data, len);
    pthread_mutex_lock(&order);
    ssize_t done = syscall(SYS_write, fd, data, len);
    /* Where it began, also in a file that is appended to. */
    off64_t end = syscall(SYS_lseek, fd, 0, SEEK_CUR);
    if (done > 0)
        put("write", path, end - done, data, done);
    pthread_mutex_unlock(&order);
    return done;
}

int ftruncate64(int fd, off64_t len) {
    char buffer[PATH_MAX];
    const char *path = path_of(fd, buffer);
    pthread_mutex_lock(&order);
    int failed = syscall(SYS_ftruncate, fd, len);
    if (path && !failed)
        put("resize", path, len, NULL, 0);
    pthread_mutex_unlock(&order);
    return failed;
}

int ftruncate(int fd, off_t len) { return ftruncate64(fd, len); }

static int sync_recorded(int call, int fd) {
    char buffer[PATH_MAX];
    const char *path = path_of(fd, buffer);
    pthread_mutex_lock(&order);
    uint64_t covers = last_number;
    pthread_mutex_unlock(&order);
    int failed = syscall(call, fd);
    pthread_mutex_lock(&order);
    if (path && !failed)
        put("sync", path, covers, NULL, 0);
    pthread_mutex_unlock(&order);
    return failed;
}

int fsync(int fd) { return sync_recorded(SYS_fsync, fd); }

int fdatasync(int fd) { return sync_recorded(SYS_fdatasync, fd); }

int unlink(const char *path) {
    pthread_mutex_lock(&order);
    int failed = syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    if (!failed && is_ours(path))
        put("unlink", path, 0, NULL, 0);
    pthread_mutex_unlock(&order);
    return failed;
}

int rename(const char *from, const char *to) {
    pthread_mutex_lock(&order);
    int failed = syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
    if (!failed && is_ours(from))
        put("rename", from, 0, to, strlen(to));
    pthread_mutex_unlock(&order);
    return failed;
}
