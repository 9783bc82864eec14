/*
 * The measuring instruments of scripts/bench, in one static program that starts as fast as
 * a program can. Its name, or else its first argument, says which it is:
 *
 *   launch FD PROGRAM…   start PROGRAM as PID 1 of namespaces of its own; tells on FD when
 *   null-init PROGRAM…   the least an init can do: fork, exec, reap, pass on SIGTERM
 *   null                 nothing at all: what starting any program costs
 *   await ADDRESS PORT [canary]   wait until GET /health answers 200, and then until
 *                        CONNECT canary.invalid:443 is refused with 403; tells when, each
 *   await-all PORT…      wait until each of these answers so on 127.0.0.1; tells when the last did
 *   sink                 read standard input to its end; tells how much and how fast
 *   orphans PID          leave 10,000 orphans to the PID 1 of that one's namespace; tells how
 *                        many it has reaped, and in what time
 *   daemon-stamp         a daemon that tells when it was executed, and then waits
 *   daemon-plain, daemon-events   ones that write 64 MiB of lines
 *   daemon-small NAME PORT [FD]   one of a bundle: answers 200 to whatever it is asked there, and
 *                        says that it does by NOTIFY_SOCKET, or by a line to that descriptor
 *
 * A daemon is started like pipelock, "run --config FILE --listen ADDRESS:PORT", and tells
 * by a datagram to that address: inside our init's sandbox a socket is all it has.
 * Times are nanoseconds of CLOCK_MONOTONIC, which every process on the machine shares.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { BATCHES = 10, ORPHANS = 1000, LINES_BYTES = 64 << 20, CHUNK = 64 << 10 };

static long long now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1000000000LL + at.tv_nsec;
}

static void nap(long long nanoseconds) {
    struct timespec left = {nanoseconds / 1000000000, nanoseconds % 1000000000};
    while (nanosleep(&left, &left) < 0 && errno == EINTR) {
    }
}

static void fail(const char *what) {
    perror(what);
    _exit(111);
}

static int exit_code(int status) {
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* Reports the process id outside, when it was executed and when it ended. */

static int launch(int report, char **command) {
    /* Ended with the bench, whatever ends that. */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (unshare(CLONE_NEWPID | CLONE_NEWNS) < 0) fail("unshare");
    pid_t child = fork();
    if (child < 0) fail("fork");
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) fail("make mounts private");
        if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0) fail("mount /proc");
        /* Descriptor 3 is the bench's, and nobody else's. */
        dprintf(report, "exec %lld\n", now());
        close(report);
        execvp(command[0], command);
        fail(command[0]);
    }
    dprintf(report, "pid %d\n", child);
    int status = 0;
    if (waitpid(child, &status, 0) < 0) fail("waitpid");
    long long ended = now();
    dprintf(report, "ended %lld %d\n", ended, exit_code(status));
    return 0;
}

static pid_t only_child;

static void pass_on(int number) {
    if (only_child > 0) kill(only_child, number);
}

static int null_init(char **command) {
    signal(SIGTERM, pass_on);
    only_child = fork();
    if (only_child < 0) fail("fork");
    if (only_child == 0) {
        signal(SIGTERM, SIG_DFL);
        execvp(command[0], command);
        fail(command[0]);
    }
    for (;;) {
        int status;
        pid_t ended = waitpid(-1, &status, 0);
        if (ended == only_child) return exit_code(status);
        if (ended < 0 && errno != EINTR) fail("waitpid");
    }
}

static struct sockaddr_in address_of(const char *host, const char *port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(port))};
    if (inet_pton(AF_INET, host, &address.sin_addr) != 1) fail("address");
    return address;
}

static const char HEALTH[] = "GET /health HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n";
/* The same question that our init asks before it says that it is ready. */
static const char CANARY[] = "CONNECT canary.invalid:443 HTTP/1.1\r\nHost: canary.invalid:443\r\n\r\n";

/* 1 if the daemon there answers this request with this status. */
static int answers(const struct sockaddr_in *address, const char *request, const char *status) {
    char answer[16] = "";
    int connection = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct timeval patience = {.tv_sec = 2};
    /* A port that is just being closed swallows a SYN, and the kernel repeats it only after
     * a second: a connection on the loopback is there at once, or is asked for again. */
    struct timeval haste = {.tv_usec = 10000};
    setsockopt(connection, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(connection, SOL_SOCKET, SO_SNDTIMEO, &haste, sizeof haste);
    int good = connect(connection, (const struct sockaddr *)address, sizeof *address) == 0 &&
               send(connection, request, strlen(request), MSG_NOSIGNAL) > 0 &&
               recv(connection, answer, 12, MSG_WAITALL) == 12 && memcmp(answer + 9, status, 3) == 0;
    close(connection);
    return good;
}

/* Asks every 200 microseconds, whoever is asked, and tells when the answer was right. */
static int await_answer(const struct sockaddr_in *address, const char *request, const char *status) {
    long long end = now() + 30000000000LL;
    while (!answers(address, request, status)) {
        if (now() > end) return 1;
        nap(200000);
    }
    printf("%lld\n", now());
    return 0;
}

/* One after the other is as good as all at once: what is ready stays so, and the last one is told. */
static int await_all(char **ports) {
    for (; *ports != NULL; ports++) {
        struct sockaddr_in address = address_of("127.0.0.1", *ports);
        long long end = now() + 30000000000LL;
        while (!answers(&address, HEALTH, "200")) {
            if (now() > end) return 1;
            nap(200000);
        }
    }
    printf("%lld\n", now());
    return 0;
}

static int await_daemon(const char *host, const char *port, int canary) {
    struct sockaddr_in address = address_of(host, port);
    if (await_answer(&address, HEALTH, "200") != 0) return 1;
    return canary ? await_answer(&address, CANARY, "403") : 0;
}

static int sink(void) {
    static char buffer[1 << 18];
    long long bytes = 0, first = 0, last = 0, whole = 0;
    for (;;) {
        ssize_t count = read(0, buffer, sizeof buffer);
        if (count == 0) break;
        if (count < 0) {
            if (errno == EINTR) continue;
            fail("read");
        }
        last = now();
        if (first == 0) first = last;
        bytes += count;
        /* What an init says when it ends comes later. */
        if (whole == 0 && bytes >= LINES_BYTES) whole = last;
    }
    fprintf(stderr, "%lld %lld\n", bytes, (whole == 0 ? last : whole) - first);
    return 0;
}

static void tell(const char *listen, const char *format, ...) {
    char host[64] = "", text[128];
    const char *port = strrchr(listen, ':');
    if (port == NULL || port - listen >= (long)sizeof host) fail("--listen");
    memcpy(host, listen, (size_t)(port - listen));
    struct sockaddr_in address = address_of(host, port + 1);
    va_list values;
    va_start(values, format);
    int length = vsnprintf(text, sizeof text, format, values);
    va_end(values);
    int speaker = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (sendto(speaker, text, (size_t)length, 0, (struct sockaddr *)&address, sizeof address) < 0) fail("tell");
    close(speaker);
}

/* A batch of orphans that die at the same moment: the time until none is left, or -1. */
static long long orphans(pid_t *born) {
    int hold[2], names[2];
    if (pipe(hold) < 0 || pipe(names) < 0) fail("pipe");
    pid_t parent = fork();
    if (parent < 0) fail("fork");
    if (parent == 0) {
        close(hold[1]);
        for (int number = 0; number < ORPHANS; number++) {
            pid_t child = fork();
            if (child < 0) fail("fork");
            if (child == 0) {
                char end;
                if (read(hold[0], &end, 1) < 0) fail("read");
                _exit(0);
            }
            if (write(names[1], &child, sizeof child) < 0) fail("write");
        }
        _exit(0);
    }
    close(hold[0]);
    close(names[1]);
    for (int number = 0; number < ORPHANS; number++)
        if (read(names[0], &born[number], sizeof *born) != sizeof *born) fail("read a name");
    close(names[0]);
    if (waitpid(parent, NULL, 0) < 0) fail("waitpid");
    long long begin = now(), end = begin + 3000000000LL;
    close(hold[1]);
    for (int left = ORPHANS; left > 0;) {
        /* A zombie can be signalled, what was reaped cannot. */
        if (kill(born[left - 1], 0) < 0 && errno == ESRCH) {
            left--;
        } else if (now() > end) {
            return -1;
        } else {
            nap(50000);
        }
    }
    return now() - begin;
}

/* Tells how many orphans that namespace's PID 1 has reaped, and in what time. */
static int orphans_of(const char *init) {
    static pid_t born[ORPHANS];
    char path[64];
    snprintf(path, sizeof path, "/proc/%s/ns/pid", init);
    int namespace = open(path, O_RDONLY | O_CLOEXEC);
    if (namespace < 0 || setns(namespace, CLONE_NEWPID) < 0) fail(path);
    pid_t inside = fork();
    if (inside < 0) fail("fork");
    if (inside > 0) {
        int status = 0;
        if (waitpid(inside, &status, 0) < 0) fail("waitpid");
        return exit_code(status);
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    long long total = 0;
    int reaped = 0;
    for (int batch = 0; batch < BATCHES; batch++) {
        long long took = orphans(born);
        if (took < 0) break;
        total += took;
        reaped += ORPHANS;
    }
    printf("%d %lld\n", reaped, total);
    return 0;
}

static void write_lines(const char *listen, const char *line) {
    static char chunk[CHUNK + 512];
    size_t length = strlen(line), filled = 0;
    while (filled + length <= CHUNK) {
        memcpy(chunk + filled, line, length);
        filled += length;
    }
    for (long long left = LINES_BYTES; left > 0;) {
        size_t written = 0;
        while (written < filled) {
            ssize_t count = write(1, chunk + written, filled - written);
            if (count < 0 && errno != EINTR) fail("write");
            if (count > 0) written += (size_t)count;
        }
        left -= (long long)filled;
    }
    tell(listen, "written");
}

/* systemd's word for readiness, where the init has an ear for it. */
static void notify_ready(void) {
    const char *path = getenv("NOTIFY_SOCKET");
    if (path == NULL) return;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t length = strlen(path);
    if (length >= sizeof address.sun_path) fail("NOTIFY_SOCKET");
    memcpy(address.sun_path, path, length);
    /* An abstract name. */
    if (path[0] == '@') address.sun_path[0] = 0;
    int speaker = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length);
    if (sendto(speaker, "READY=1", 7, 0, (struct sockaddr *)&address, size) < 0) fail("notify");
    close(speaker);
}

static _Noreturn void be_small_daemon(const char *port, const char *told) {
    static const char ANSWER[] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
    char request[4096];
    int on = 1;
    struct sockaddr_in address = address_of("127.0.0.1", port);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0) fail("bind");
    if (listen(listener, 64) < 0) fail("listen");
    notify_ready();
    if (told != NULL && write(atoi(told), "\n", 1) != 1) fail("tell of readiness");
    for (;;) {
        int connection = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (connection < 0) continue;
        /* Who only tries whether it listens says nothing and is gone. */
        if (recv(connection, request, sizeof request, 0) > 0)
            send(connection, ANSWER, sizeof ANSWER - 1, MSG_NOSIGNAL);
        close(connection);
    }
}

static _Noreturn void be_daemon(const char *name, char **arguments, long long began) {
    const char *listen = NULL;
    for (char **argument = arguments; argument[0] != NULL && argument[1] != NULL; argument++)
        if (strcmp(argument[0], "--listen") == 0) listen = argument[1];
    if (listen == NULL) fail("--listen");
    tell(listen, "exec %lld", began);
    if (strcmp(name, "daemon-plain") == 0) {
        write_lines(listen, "2026/01/01 00:00:00 a line of a daemon that has much to say, of a hundred bytes, as lines of logs are\n");
    } else if (strcmp(name, "daemon-events") == 0) {
        write_lines(listen, "{\"level\":\"warn\",\"component\":\"pipelock\",\"event\":\"blocked\",\"method\":\"CONNECT\",\"target\":"
                    "\"denied.example:443\",\"scanner\":\"allowlist\",\"reason\":\"domain not in allowlist: denied.example\","
                    "\"time\":\"2026-01-01T00:00:00Z\",\"message\":\"request blocked\"}\n");
    }
    for (;;) pause();
}

int main(int count, char **arguments) {
    long long began = now();
    const char *slash = strrchr(arguments[0], '/');
    const char *name = slash == NULL ? arguments[0] : slash + 1;
    if (count >= 3 && strcmp(name, "daemon-small") == 0) be_small_daemon(arguments[2], count > 3 ? arguments[3] : NULL);
    if (strncmp(name, "daemon-", 7) == 0) be_daemon(name, arguments, began);
    if (count >= 4 && strcmp(arguments[1], "launch") == 0) return launch(atoi(arguments[2]), arguments + 3);
    if (count >= 3 && strcmp(arguments[1], "null-init") == 0) return null_init(arguments + 2);
    if (count == 2 && strcmp(arguments[1], "null") == 0) return 0;
    if (count == 4 && strcmp(arguments[1], "await") == 0) return await_daemon(arguments[2], arguments[3], 0);
    if (count == 5 && strcmp(arguments[1], "await") == 0 && strcmp(arguments[4], "canary") == 0)
        return await_daemon(arguments[2], arguments[3], 1);
    if (count >= 3 && strcmp(arguments[1], "await-all") == 0) return await_all(arguments + 2);
    if (count == 2 && strcmp(arguments[1], "sink") == 0) return sink();
    if (count == 3 && strcmp(arguments[1], "orphans") == 0) return orphans_of(arguments[2]);
    fprintf(stderr,
            "usage: probe launch FD PROGRAM… | null-init PROGRAM… | null | await ADDRESS PORT [canary] | await-all PORT… |\n"
            "       sink | orphans PID\n");
    return 64;
}
