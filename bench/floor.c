/* The floor of a sweep: read the same control files of the same groups, by opening them each time or through kept
 * descriptors, and do nothing with them. usage: floor open|kept ROUNDS FILE... < list of group directories
 * Prints the nanoseconds of each round. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

static long long now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

int main(int argc, char **argv)
{
	int kept = !strcmp(argv[1], "kept"), rounds = atoi(argv[2]), files = argc - 3;
	static char line[4096], path[8192], text[8192];
	char **paths = malloc(sizeof(*paths) * 1000000);
	int *fds = malloc(sizeof(*fds) * 1000000);
	long n = 0;
	struct rlimit limit;

	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	while (fgets(line, sizeof(line), stdin)) {
		line[strcspn(line, "\n")] = 0;
		for (int i = 0; i < files; i++) {
			snprintf(path, sizeof(path), "%s/%s", line, argv[3 + i]);
			paths[n] = strdup(path);
			fds[n] = kept ? open(path, O_RDONLY) : -1;
			if (kept && fds[n] < 0) {
				perror(path);
				return 1;
			}
			n++;
		}
	}
	for (int round = 0; round < rounds; round++) {
		long long start = now();

		for (long i = 0; i < n; i++) {
			int fd = kept ? fds[i] : open(paths[i], O_RDONLY);

			if (pread(fd, text, sizeof(text), 0) < 0)
				return 1;
			if (!kept)
				close(fd);
		}
		printf("%lld\n", now() - start);
	}
	return 0;
}
