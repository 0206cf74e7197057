/* `herd N`: N processes that do nothing, for a process table of some size. Says "up" when all are there and
 * ends them when its stdin does; without that they end by themselves after ten minutes. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

int main(int argc, char **argv) {
    long count = argc == 2 ? strtol(argv[1], NULL, 10) : 0;
    if (count < 1 || count > 20000) {
        fputs("usage: herd N (1 to 20000)\n", stderr);
        return 2;
    }
    alarm(600);
    for (long i = 0; i < count; i++) {
        pid_t child = fork();
        if (child < 0) {
            perror("herd: fork");
            return 1; /* the children that are there end with this process */
        }
        if (child == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            alarm(600);
            for (;;) pause();
        }
    }
    puts("up");
    fflush(stdout);
    char byte;
    while (read(0, &byte, 1) > 0) {
    }
    return 0;
}
