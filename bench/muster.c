/* Many processes whose presence and end the kernel tells, so that nobody has to look for them: each holds the
 * writing end of one FIFO.
 *
 *   muster await FIFO N             makes the FIFO and says "ready", the number of each of a few members, "up" when N are there and
 *                                   "gone" when the last has ended; ends with its stdin
 *   muster member FIFO [stubborn|stdin]   one; `stubborn` ignores SIGTERM, `stdin` ends with its stdin
 *   muster relay FIFO               one, below a process that on SIGTERM passes that on, reaps it and ends: the least a supervisor does
 *   muster tree FIFO N              N members below one process, which itself is none
 *
 * All end by themselves after three minutes, a stubborn one after twelve seconds. */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static int fail(const char *what) {
    perror(what);
    return 1;
}

static void say(const char *line) {
    fputs(line, stdout);
    fflush(stdout);
}

static int await(const char *path, long count) {
    char buffer[4096];
    long up = 0;
    if (mkfifo(path, 0600) < 0) return fail("muster: mkfifo");
    int fifo = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (fifo < 0) return fail("muster: open");
    say("ready\n");
    for (;;) {
        struct pollfd both[2] = {{.fd = fifo, .events = POLLIN}, {.fd = 0, .events = POLLIN}};
        if (poll(both, 2, -1) < 0) return fail("muster: poll");
        if (both[1].revents) return 0;
        ssize_t got = read(fifo, buffer, sizeof buffer);
        if (got > 0) {
            long before = up;
            for (ssize_t i = 0; i < got; i++) up += buffer[i] == '\n';
            if (count <= 8) {
                fwrite(buffer, 1, (size_t)got, stdout);
                fflush(stdout);
            }
            if (before < count && up >= count) say("up\n");
        } else if (got == 0 && up >= count) {
            say("gone\n");
            return 0;
        } else if (got == 0) {
            /* Those who came have gone before the others came: wait for a writer, not for the hang-up again. */
            usleep(1000);
        }
    }
}

static int member(const char *path, const char *how) {
    char line[32];
    alarm(180);
    if (strcmp(how, "stubborn") == 0) {
        signal(SIGTERM, SIG_IGN);
        alarm(12);
    }
    int fifo = open(path, O_WRONLY | O_CLOEXEC);
    if (fifo < 0) return fail("muster: open");
    int length = snprintf(line, sizeof line, "%d\n", (int)getpid());
    if (write(fifo, line, (size_t)length) != length) return fail("muster: write");
    if (strcmp(how, "stdin") == 0) {
        while (read(0, line, sizeof line) > 0) {
        }
        return 0;
    }
    for (;;) pause();
}

static int relay(const char *path) {
    sigset_t term;
    int number;
    alarm(180);
    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    sigprocmask(SIG_BLOCK, &term, NULL);
    pid_t child = fork();
    if (child < 0) return fail("muster: fork");
    if (child == 0) {
        sigprocmask(SIG_UNBLOCK, &term, NULL);
        return member(path, "");
    }
    sigwait(&term, &number);
    kill(child, SIGTERM);
    waitpid(child, NULL, 0);
    return 0;
}

static int tree(const char *path, long count) {
    alarm(180);
    for (long i = 0; i < count; i++) {
        pid_t child = fork();
        if (child < 0) return fail("muster: fork");
        if (child == 0) return member(path, "");
    }
    for (;;) pause();
}

int main(int argc, char **argv) {
    if (argc == 4 && strcmp(argv[1], "await") == 0) return await(argv[2], strtol(argv[3], NULL, 10));
    if (argc == 4 && strcmp(argv[1], "tree") == 0) return tree(argv[2], strtol(argv[3], NULL, 10));
    if (argc == 3 && strcmp(argv[1], "relay") == 0) return relay(argv[2]);
    if ((argc == 3 || argc == 4) && strcmp(argv[1], "member") == 0) return member(argv[2], argc == 4 ? argv[3] : "");
    fputs("usage: muster await FIFO N | member FIFO [stubborn|stdin] | relay FIFO | tree FIFO N\n", stderr);
    return 2;
}
