/* Preloaded into a gateway by rig/faults.py: tells in which order it writes, syncs and sends, and spoils its disk.
 *
 * FAULTS_DIRECTORY  only files under it are looked at
 * FAULTS_LOG        where the order is told; a write or sync when it is done, a send before it is begun
 * FAULTS_CONTROL    a file with one line, read anew at each write and sync:
 *                   "ok", "fail ERRNO", "slow MILLISECONDS", "write N ERRNO" and "sync N ERRNO" (the N-th from then on)
 * FAULTS_NO_SYNC    syncs are left out, and not told
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static int log_fd = -2;
static long calls; /* of the kind that the control file names, since it says so */

static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_send)(int, const void *, size_t, int);
static ssize_t (*real_sendmsg)(int, const struct msghdr *, int);
static int (*real_fdatasync)(int);
static int (*real_ftruncate)(int, off_t);

__attribute__((constructor)) static void find_real(void) {
    real_pwrite = dlsym(RTLD_NEXT, "pwrite64");
    real_write = dlsym(RTLD_NEXT, "write");
    real_send = dlsym(RTLD_NEXT, "send");
    real_sendmsg = dlsym(RTLD_NEXT, "sendmsg");
    real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    real_ftruncate = dlsym(RTLD_NEXT, "ftruncate64");
}

/* The path behind a descriptor when it is one of ours. */
static int is_ours(int fd, char *path) {
    const char *directory = getenv("FAULTS_DIRECTORY");
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0 || !directory)
        return 0;
    path[length] = 0;
    return strncmp(path, directory, strlen(directory)) == 0;
}

/* "kind fd offset length path\n", the data, "\n"; all of it under the mutex, so that the order is the true one. */
static void tell(const char *kind, int fd, off_t offset, const void *data, size_t length, const char *path) {
    char head[PATH_MAX + 128];
    int kept = errno;
    pthread_mutex_lock(&mutex);
    if (log_fd == -2) {
        const char *name = getenv("FAULTS_LOG");
        log_fd = name ? open(name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
    }
    if (log_fd >= 0) {
        int size = snprintf(head, sizeof head, "%s %d %lld %zu %s\n", kind, fd, (long long)offset, length, path);
        if (real_write(log_fd, head, size) != size || (length && real_write(log_fd, data, length) != (ssize_t)length) ||
            real_write(log_fd, "\n", 1) != 1)
            abort();
    }
    pthread_mutex_unlock(&mutex);
    errno = kept;
}

/* What the control file says of this call: 0, or the error with which it is to end. */
static int spoilt(const char *kind) {
    static char last[64];
    const char *name = getenv("FAULTS_CONTROL");
    char text[64] = "", wanted[16];
    long first = 0, second = 0;
    FILE *file = name ? fopen(name, "re") : NULL;
    if (!file)
        return 0;
    char *line = fgets(text, sizeof text, file);
    fclose(file);
    if (!line || sscanf(text, "%15s %ld %ld", wanted, &first, &second) < 2) {
        last[0] = 0;
        return 0;
    }
    if (strcmp(wanted, "fail") == 0)
        return (int)first;
    if (strcmp(text, last) != 0) {
        strcpy(last, text);
        calls = 0;
    }
    if (strcmp(wanted, kind) == 0 && ++calls == first)
        return (int)second;
    if (strcmp(wanted, "slow") == 0 && strcmp(kind, "sync") == 0) {
        struct timespec pause = {first / 1000, first % 1000 * 1000000};
        nanosleep(&pause, NULL);
    }
    return 0;
}

ssize_t pwrite64(int fd, const void *data, size_t length, off_t offset) {
    char path[PATH_MAX];
    if (!is_ours(fd, path))
        return real_pwrite(fd, data, length, offset);
    int error = spoilt("write");
    if (error) {
        real_pwrite(fd, data, length / 2, offset);
        errno = error;
        return -1;
    }
    ssize_t written = real_pwrite(fd, data, length, offset);
    if (written > 0)
        tell("write", fd, offset, data, written, path);
    return written;
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) { return pwrite64(fd, data, length, offset); }

int fdatasync(int fd) {
    char path[PATH_MAX];
    if (!is_ours(fd, path))
        return real_fdatasync(fd);
    int error = spoilt("sync");
    if (error) {
        errno = error;
        return -1;
    }
    if (getenv("FAULTS_NO_SYNC"))
        return 0;
    int result = real_fdatasync(fd);
    if (result == 0)
        tell("sync", fd, 0, "", 0, path);
    return result;
}

int ftruncate64(int fd, off_t length) {
    char path[PATH_MAX];
    int result = real_ftruncate(fd, length);
    if (result == 0 && is_ours(fd, path))
        tell("truncate", fd, length, "", 0, path);
    return result;
}

int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

ssize_t send(int fd, const void *data, size_t length, int flags) {
    tell("send", fd, 0, data, length, "");
    return real_send(fd, data, length, flags);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    size_t length = 0, at = 0;
    for (size_t part = 0; part < message->msg_iovlen; part++)
        length += message->msg_iov[part].iov_len;
    char *data = malloc(length ? length : 1);
    if (!data)
        abort();
    for (size_t part = 0; part < message->msg_iovlen; part++) {
        memcpy(data + at, message->msg_iov[part].iov_base, message->msg_iov[part].iov_len);
        at += message->msg_iov[part].iov_len;
    }
    tell("send", fd, 0, data, length, "");
    free(data);
    return real_sendmsg(fd, message, flags);
}
