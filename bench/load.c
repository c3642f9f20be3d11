#define _GNU_SOURCE
/* A load generator that costs little: CONNECTIONS keep-alive connections, one request in flight on each.
 * usage: load PORT PATH CONNECTIONS MILLISECONDS [METHOD HEADERS BODY]; HEADERS end in CRLF each. Prints the number of answers and how many were not 200. */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static long long now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

int main(int argc, char **argv)
{
	int port = atoi(argv[1]), n = atoi(argv[3]), one = 1;
	static char request[1024], answer[1 << 20];
	struct pollfd *fds = calloc(n, sizeof(*fds));
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	long answers = 0, bad = 0;
	const char *method = argc > 7 ? argv[5] : "GET", *headers = argc > 7 ? argv[6] : "", *body_out = argc > 7 ? argv[7] : "";
	int length = snprintf(request, sizeof(request), "%s %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %zu\r\n%s\r\n%s", method,
			      argv[2], strlen(body_out), headers, body_out);
	long long end = now() + atoi(argv[4]);

	for (int i = 0; i < n; i++) {
		fds[i].fd = socket(AF_INET, SOCK_STREAM, 0);
		fds[i].events = POLLIN;
		setsockopt(fds[i].fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		if (connect(fds[i].fd, (struct sockaddr *)&to, sizeof(to)) || write(fds[i].fd, request, length) != length) {
			perror("connect");
			return 1;
		}
	}
	while (now() < end) {
		poll(fds, n, 100);
		for (int i = 0; i < n; i++) {
			long got = 0, want = -1;

			if (!(fds[i].revents & POLLIN))
				continue;
			while (want < 0 || got < want) { /* the rest of an answer is on its way: wait for it */
				long more = read(fds[i].fd, answer + got, sizeof(answer) - 1 - got);
				char *body, *field;

				if (more <= 0)
					return 1;
				answer[got += more] = 0;
				body = strstr(answer, "\r\n\r\n");
				field = strcasestr(answer, "content-length:");
				if (body)
					want = body + 4 - answer + (field ? atol(field + 15) : 0);
			}
			answers++;
			bad += strncmp(answer, "HTTP/1.1 200", 12) != 0;
			if (write(fds[i].fd, request, length) != length)
				return 1;
		}
	}
	printf("%ld %ld\n", answers, bad);
	return 0;
}
