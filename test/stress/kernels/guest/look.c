// The observer: prints each living process that is `sleep N`, a line each, and exits. It is static, and knows nothing
// of Leash but the form of its mark and the name of its variable.
//
//   NUMBER PID START UID PPID MARK ENV CGROUP
//
// One program that reads all of /proc, because the start of a process takes long under emulation.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static char text[1 << 16];

// Reads /proc/PID/NAME into `text`. Returns its length, or -1.
static long slurp(const char *pid, const char *name) {
  char path[300];
  long length = 0, got;
  snprintf(path, sizeof path, "/proc/%s/%s", pid, name);
  int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return -1;
  while (length < (long)sizeof text - 1 && (got = read(file, text + length, sizeof text - 1 - length)) > 0) length += got;
  close(file);
  text[length] = 0;
  return length;
}

// The number of a `sleep N`, or 0.
static long number_of(const char *pid) {
  long length = slurp(pid, "cmdline");
  const char *slash = strrchr(text, '/');
  const char *name = slash ? slash + 1 : text;
  if (length < 7 || strcmp(name, "sleep")) return 0;
  return atol(text + strlen(text) + 1);
}

static const char *mark_of(const char *pid) {
  struct rlimit limits;
  if (prlimit(atoi(pid), RLIMIT_LOCKS, NULL, &limits)) return "unreadable";
  return limits.rlim_max == RLIM_INFINITY ? "unmarked" : "marked";
}

static const char *variable_of(const char *pid) {
  long length = slurp(pid, "environ");
  if (length < 0) return "unreadable";
  for (const char *entry = text; entry < text + length; entry += strlen(entry) + 1)
    if (!strncmp(entry, "LEASH_RUN=", 10)) return "env";
  return "no-env";
}

static void look(const char *pid) {
  long number = number_of(pid), parent;
  unsigned long long start;
  char state, path[300];
  struct stat owner;
  if (!number || slurp(pid, "stat") < 0) return;
  const char *rest = strrchr(text, ')');
  if (!rest) return;
  if (sscanf(rest + 2, "%c %ld %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu", &state,
             &parent, &start) != 3)
    return;
  snprintf(path, sizeof path, "/proc/%s", pid);
  if (state == 'Z' || state == 'X' || stat(path, &owner)) return;
  const char *mark = mark_of(pid), *variable = variable_of(pid);
  char *group = NULL;
  if (slurp(pid, "cgroup") > 0 && (group = strstr(text, "0::"))) strchrnul(group, '\n')[0] = 0;
  printf("%ld %s %llu %u %ld %s %s %s\n", number, pid, start, owner.st_uid, parent, mark, variable,
         group ? group + 3 : "?");
}

int main(void) {
  DIR *proc = opendir("/proc");
  struct dirent *entry;
  if (!proc) return 1;
  while ((entry = readdir(proc)))
    if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9') look(entry->d_name);
  closedir(proc);
  return 0;
}
