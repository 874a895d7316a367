/* A load client for servers of the OpenAI API on loopback, cheap enough that the server is what is measured.
 *
 *     load_client --port PORT --body FILE --connections N --seconds S [--rate R] [--expect TEXT]
 *
 * One thread, epoll, HTTP/1.1 keep-alive; a connection that the server closes is opened anew. Posts the file to
 * /v1/chat/completions with its first "########" replaced by the request's number, so that no two requests are alike.
 * Each connection asks again as soon as it is answered; with --rate, requests are due at even distances, wait for a free
 * connection where they must, and their latency counts from when they were due. After S seconds no request begins; those
 * under way are waited for. A reply counts where its status is 200, its body is whole and TEXT is in it; all others are
 * errors. Prints one JSON line.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { GIVE_UP_SECONDS = 120, NUMBER = 8 };

typedef struct { char *p; size_t len, cap; } Buf;
typedef struct { uint64_t *p; size_t len, cap; } Times;
typedef enum { HEAD, SIZED, CHUNKED, TO_THE_END } Part;
typedef struct {
    int fd;
    bool busy, fresh, closing; /* fresh: nothing was answered on this connection yet */
    Part part;
    int status;
    size_t at, length; /* CHUNKED: where in `in` the next chunk begins; SIZED: the body's length */
    Buf in, body;
    uint64_t due, first;
    long number;
} Conn;

static Conn *conns;
static int epoll_fd, timer_fd, idle_count, *idle;
static uint64_t started, deadline, gap;
static struct sockaddr_in address = {.sin_family = AF_INET};
static Buf request;
static size_t number_at;
static const char *expect;
static long begun, under_way, errors, reconnects;
static char first_error[400];
static Times latencies, firsts;

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}
static void reserve(Buf *b, size_t more) {
    if (b->len + more + 1 <= b->cap) return;
    b->cap = (b->len + more + 1) * 2;
    if (!(b->p = realloc(b->p, b->cap))) abort();
}
static void put(Buf *b, const char *p, size_t n) {
    reserve(b, n);
    memcpy(b->p + b->len, p, n);
    b->p[b->len += n] = 0;
}
static void push(Times *t, uint64_t value) {
    if (t->len == t->cap && !(t->p = realloc(t->p, (t->cap = t->cap * 2 + 1024) * sizeof *t->p))) abort();
    t->p[t->len++] = value;
}

/* Connections */
static void hang_up(Conn *c) {
    if (c->fd >= 0) close(c->fd);
    c->fd = -1;
}
static bool dial(Conn *c) { /* loopback: a connection is made or refused at once */
    hang_up(c);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&address, sizeof address)) return hang_up(c), false;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    struct epoll_event e = {.events = EPOLLIN | EPOLLRDHUP, .data.ptr = c};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &e);
    return c->fresh = true;
}
static bool post(Conn *c) { /* the request fits in the socket's buffer */
    char digits[NUMBER + 1];
    snprintf(digits, sizeof digits, "%0*ld", NUMBER, c->number);
    memcpy(request.p + number_at, digits, NUMBER);
    c->in.len = c->body.len = c->at = c->length = 0;
    c->part = HEAD;
    c->closing = false;
    c->first = 0;
    return send(c->fd, request.p, request.len, MSG_NOSIGNAL) == (ssize_t)request.len;
}

/* Requests */
static void finish(Conn *c, const char *fault) {
    uint64_t now = now_ns();
    if (!fault && c->status != 200) fault = "the status is not 200";
    if (!fault && expect && !memmem(c->body.p ? c->body.p : "", c->body.len, expect, strlen(expect)))
        fault = "the reply has not the expected text";
    if (fault) {
        if (!errors++) snprintf(first_error, sizeof first_error, "%s (%d): %.200s", fault, c->status,
                                c->body.len ? c->body.p : "");
    } else {
        push(&latencies, now - c->due);
        push(&firsts, c->first - c->due);
    }
    if (fault || c->closing) hang_up(c);
    c->busy = c->fresh = false;
    under_way--;
    idle[idle_count++] = (int)(c - conns);
}
static void begin(Conn *c, uint64_t due) {
    c->due = due;
    c->number = begun++;
    c->busy = true;
    c->status = 0;
    under_way++;
    if (c->fd < 0 && !dial(c)) return finish(c, "cannot connect");
    if (!post(c) && (c->fresh || !dial(c) || !post(c))) finish(c, "cannot send");
}
static void begin_due(void) { /* as many as are due and have a connection free */
    while (idle_count) {
        uint64_t due = gap ? started + (uint64_t)begun * gap : now_ns();
        if (due >= deadline || (gap && due > now_ns())) return;
        if (errors > 1000 && errors > (long)latencies.len) return; /* nothing is learnt from more */
        begin(&conns[idle[--idle_count]], due);
    }
}

/* Replies */
static bool parse_head(Conn *c) { /* false: not all here yet */
    char *end = memmem(c->in.p, c->in.len, "\r\n\r\n", 4);
    if (!end) return false;
    *end = 0;
    c->closing = !strncmp(c->in.p, "HTTP/1.0", 8);
    c->status = c->in.len > 12 ? atoi(c->in.p + 9) : 0;
    c->part = TO_THE_END;
    for (char *line = strstr(c->in.p, "\r\n"); line; line = strstr(line + 2, "\r\n")) {
        if (!strncasecmp(line + 2, "content-length:", 15)) c->part = SIZED, c->length = strtoul(line + 17, NULL, 10);
        else if (!strncasecmp(line + 2, "transfer-encoding: chunked", 26)) c->part = CHUNKED;
        else if (!strncasecmp(line + 2, "connection: close", 17)) c->closing = true;
    }
    c->at = (size_t)(end - c->in.p) + 4;
    return true;
}
static bool take_body(Conn *c) { /* moves what came into the body; true where that is all of it */
    if (c->part != CHUNKED) {
        put(&c->body, c->in.p + c->at, c->in.len - c->at);
        c->at = c->in.len;
        return c->part == SIZED && c->body.len >= c->length;
    }
    for (;;) {
        char *line = memmem(c->in.p + c->at, c->in.len - c->at, "\r\n", 2);
        if (!line) return false;
        size_t size = strtoul(c->in.p + c->at, NULL, 16), from = (size_t)(line - c->in.p) + 2;
        if (c->in.len < from + size + 2) return false;
        put(&c->body, c->in.p + from, size);
        c->at = from + size + 2;
        if (!size) return true;
    }
}
static void readable(Conn *c) {
    reserve(&c->in, 1 << 14);
    ssize_t n = recv(c->fd, c->in.p + c->in.len, c->in.cap - c->in.len - 1, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (!c->busy) return hang_up(c); /* closed by the server while nothing was asked */
    if (n <= 0) {
        bool whole = !n && c->part == TO_THE_END;
        if (whole) return c->closing = true, finish(c, NULL);
        if (!c->fresh && !c->in.len) { /* closed just as it was asked: to ask once more is what every client does */
            reconnects++;
            if (dial(c) && post(c)) return;
        }
        return finish(c, "the connection was closed before the reply was whole"), hang_up(c);
    }
    c->in.len += (size_t)n;
    c->in.p[c->in.len] = 0;
    if (c->part == HEAD && !parse_head(c)) return;
    bool whole = take_body(c);
    if (!c->first && c->body.len) c->first = now_ns();
    if (whole) finish(c, NULL);
}

/* The run */
static void arm(void) { /* wakes for the next request that is due */
    uint64_t due = gap && idle_count ? started + (uint64_t)begun * gap : 0;
    struct itimerspec when = {.it_value = {(time_t)(due / 1000000000u), (long)(due % 1000000000u)}};
    if (due < deadline) timerfd_settime(timer_fd, TFD_TIMER_ABSTIME, &when, NULL);
}
static void run(void) {
    struct epoll_event events[256];
    begin_due();
    while (under_way || (gap && started + (uint64_t)begun * gap < deadline)) {
        if (gap) arm();
        int n = epoll_wait(epoll_fd, events, 256, 1000);
        for (int i = 0; i < n; i++) {
            uint64_t expirations;
            if (events[i].data.ptr) readable(events[i].data.ptr);
            else if (read(timer_fd, &expirations, sizeof expirations) < 0 && errno != EAGAIN) abort();
        }
        begin_due();
        if (now_ns() > deadline + GIVE_UP_SECONDS * 1000000000ull) {
            errors += under_way;
            if (!*first_error) snprintf(first_error, sizeof first_error, "no reply in %d s", GIVE_UP_SECONDS);
            return;
        }
    }
}
static int by_value(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}
static double quantile_ms(Times *t, double q) {
    if (!t->len) return -1;
    qsort(t->p, t->len, sizeof *t->p, by_value);
    return (double)t->p[(size_t)(q * (double)(t->len - 1))] / 1e6;
}
static void put_json_string(const char *p) {
    putchar('"');
    for (; *p; p++) (uint8_t)*p < 0x20 || *p == '"' || *p == '\\' ? printf("\\u%04x", (uint8_t)*p) : putchar(*p);
    putchar('"');
}
static void report(double wall) {
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    double cpu = (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
        (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
    printf("{\"requests\":%zu,\"errors\":%ld,\"reconnects\":%ld,\"wall_s\":%.6f,\"client_cpu_s\":%.6f,", latencies.len,
        errors, reconnects, wall, cpu);
    printf("\"p50_ms\":%.4f,\"p99_ms\":%.4f,\"max_ms\":%.4f,\"first_p50_ms\":%.4f,", quantile_ms(&latencies, 0.5),
        quantile_ms(&latencies, 0.99), quantile_ms(&latencies, 1), quantile_ms(&firsts, 0.5));
    printf("\"first_error\":");
    put_json_string(first_error);
    printf("}\n");
}
static bool load_request(const char *path, unsigned port) {
    Buf body = {0};
    FILE *file = fopen(path, "r");
    if (!file) return perror(path), false;
    for (size_t n = 1; n;) {
        reserve(&body, 1 << 14);
        body.len += n = fread(body.p + body.len, 1, 1 << 14, file);
    }
    fclose(file);
    char head[256], *number;
    int n = snprintf(head, sizeof head, "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:%u\r\n"
        "Authorization: Bearer sk-x\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n", port, body.len);
    put(&request, head, (size_t)n);
    put(&request, body.p, body.len);
    number = memmem(request.p, request.len, "########", NUMBER);
    if (!number) return fprintf(stderr, "load_client: %s has no ########\n", path), false;
    number_at = (size_t)(number - request.p);
    return true;
}
int main(int argc, char **argv) {
    const char *path = NULL;
    unsigned port = 0;
    int count = 1;
    double seconds = 1, rate = 0;
    struct rlimit files;
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    for (int i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--port")) port = (unsigned)atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--body")) path = argv[i + 1];
        else if (!strcmp(argv[i], "--connections")) count = atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--seconds")) seconds = atof(argv[i + 1]);
        else if (!strcmp(argv[i], "--rate")) rate = atof(argv[i + 1]);
        else if (!strcmp(argv[i], "--expect")) expect = argv[i + 1];
        else port = 0, i = argc;
    }
    if (!port || !path || count < 1 || argc % 2 == 0) {
        fprintf(stderr, "usage: load_client --port PORT --body FILE --connections N --seconds S [--rate R] "
            "[--expect TEXT]\n");
        return 2;
    }
    if (!getrlimit(RLIMIT_NOFILE, &files)) files.rlim_cur = files.rlim_max, setrlimit(RLIMIT_NOFILE, &files);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons((uint16_t)port);
    if (!load_request(path, port)) return 2;
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, timer_fd, &(struct epoll_event){.events = EPOLLIN});
    conns = calloc((size_t)count, sizeof *conns);
    idle = calloc((size_t)count, sizeof *idle);
    if (!conns || !idle) abort();
    for (int i = count - 1; i >= 0; i--) conns[i].fd = -1, idle[idle_count++] = i;
    gap = rate > 0 ? (uint64_t)(1e9 / rate) : 0;
    started = now_ns();
    deadline = started + (uint64_t)(seconds * 1e9);
    run();
    report((double)(now_ns() - started) / 1e9);
    return 0;
}
