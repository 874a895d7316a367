/* A mock of the OpenAI API on loopback, fast enough that a benchmark measures its client.
 *
 *     mock_server [--port 0] [--delay-ms MS | --continuous STEP_MS PER_SEQ_US MAX_SEQS TOKENS] [--pieces N]
 *
 * One thread, epoll, HTTP/1.1 keep-alive. Prints its port, then serves POST /v1/chat/completions, POST /v1/completions,
 * GET /v1/models and GET /stats. --continuous models a server with continuous batching: a step of k sequences takes
 * STEP_MS + k * PER_SEQ_US, at most MAX_SEQS run together, each is TOKENS steps long. A streamed reply comes in N (4)
 * pieces spread over the delay; with --continuous they come together at the end. Texts depend on the prompt, the seed
 * and the choice's index alone. Ends on SIGTERM, and when its parent does.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "mock_openai.h"

enum { MAX_HEAD = 1 << 16, MAX_BODY = 1 << 26, MAX_FD = 1 << 16 };

typedef struct { int fd; uint32_t gen; bool open, busy, polling_out; Buf in, out; size_t sent; Request req; } Conn;
typedef struct { uint64_t due; int fd; uint32_t gen; } Timer; /* a due reply, or a sequence and the steps it has left */
typedef struct { Timer *p; size_t len, cap; } Timers;

static struct { uint64_t requests, choices, aborted, now, max; int open; } stats;
static Conn *conns[MAX_FD];
static Timers timers, waiting, running;
static size_t waiting_at;
static uint64_t delay_ns, step_ns, per_seq_ns, max_seqs, tokens, step_due;
static int epoll_fd, listen_fd, timer_fd;
static Buf body; /* of the reply being written */

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Replies */
static void respond(Conn *c, const char *status, const char *type) {
    putf(&c->out, "HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\n%s\r\n", status, type, body.len,
        c->req.closing ? "Connection: close\r\n" : "");
    put(&c->out, body.p, body.len);
}
static void fail(Conn *c, const char *status, const char *message) {
    body.len = 0;
    putf(&body, "{\"error\":{\"message\":\"%s\",\"type\":\"invalid_request_error\",\"code\":null}}", message);
    respond(c, status, "application/json");
}
static void whole_reply(Conn *c) {
    body.len = 0;
    put_reply(&body, &c->req);
    respond(c, "200 OK", "application/json");
}
static void stream_piece(Conn *c) { /* the next piece, as one HTTP chunk */
    int k = c->req.piece++;
    if (k == 0) {
        putf(&c->out, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n%s\r\n",
            c->req.closing ? "Connection: close\r\n" : "");
    }
    body.len = 0;
    put_piece(&body, &c->req, k);
    putf(&c->out, "%zx\r\n", body.len);
    put(&c->out, body.p, body.len);
    put(&c->out, "\r\n", 2);
    if (k == pieces - 1) put(&c->out, "0\r\n\r\n", 5);
}

/* Timers: a heap of due replies, and the steps of the continuous batch */
static void timer_add(Timer t) {
    PUSH(timers, t);
    for (size_t i = timers.len - 1; i && timers.p[(i - 1) / 2].due > timers.p[i].due; i = (i - 1) / 2) {
        Timer up = timers.p[(i - 1) / 2];
        timers.p[(i - 1) / 2] = timers.p[i];
        timers.p[i] = up;
    }
}
static Timer timer_pop(void) {
    Timer top = timers.p[0], last = timers.p[--timers.len];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < timers.len; i = child) {
        if (child + 1 < timers.len && timers.p[child + 1].due < timers.p[child].due) child++;
        if (timers.p[child].due >= last.due) break;
        timers.p[i] = timers.p[child];
    }
    timers.p[i] = last;
    return top;
}
static Conn *alive(Timer *t) { return conns[t->fd]->open && conns[t->fd]->gen == t->gen ? conns[t->fd] : NULL; }

static void step_start(void) {
    while (waiting_at < waiting.len && running.len < max_seqs) {
        Timer sequence = waiting.p[waiting_at++];
        if (alive(&sequence)) PUSH(running, sequence);
    }
    if (waiting_at == waiting.len) waiting_at = waiting.len = 0;
    step_due = running.len ? now_ns() + step_ns + running.len * per_seq_ns : 0;
}
static void arm(void) {
    uint64_t due = timers.len ? timers.p[0].due : 0;
    if (step_due && (!due || step_due < due)) due = step_due;
    struct itimerspec when = {.it_value = {(time_t)(due / 1000000000u), (long)(due % 1000000000u)}};
    timerfd_settime(timer_fd, TFD_TIMER_ABSTIME, &when, NULL);
}

/* Connections */
static void conn_close(Conn *c) {
    if (c->busy || c->sent < c->out.len) stats.aborted++;
    if (c->busy) stats.now--;
    close(c->fd);
    c->open = c->busy = c->polling_out = false;
    c->gen++;
    c->in.len = c->out.len = c->sent = 0;
    stats.open--;
}
static void poll_conn(Conn *c, int operation, bool out) {
    struct epoll_event e = {.events = EPOLLIN | EPOLLRDHUP | (out ? EPOLLOUT : 0),
                            .data.u64 = (uint64_t)c->gen << 32 | (uint32_t)c->fd};
    epoll_ctl(epoll_fd, operation, c->fd, &e);
    c->polling_out = out;
}
static bool flush(Conn *c) { /* false: the connection is gone */
    while (c->sent < c->out.len) {
        ssize_t n = send(c->fd, c->out.p + c->sent, c->out.len - c->sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno != EAGAIN) return conn_close(c), false;
        if (n < 0) break;
        c->sent += (size_t)n;
    }
    bool done = c->sent == c->out.len;
    if (done) c->out.len = c->sent = 0;
    if (done && c->req.closing && !c->busy) return conn_close(c), false;
    if (c->polling_out == done) poll_conn(c, EPOLL_CTL_MOD, !done);
    return true;
}
static void reply_due(Conn *c) { /* one due piece of the reply, or all of it */
    Request *r = &c->req;
    if (!r->stream) whole_reply(c);
    else do stream_piece(c); while (!delay_ns && r->piece < pieces);
    if (r->stream && r->piece < pieces) {
        timer_add((Timer){now_ns() + delay_ns / pieces, c->fd, c->gen});
    } else {
        c->busy = false;
        stats.now--;
    }
}
static void complete(Conn *c, bool chat, const char *p, size_t n) { /* a POST of one of the two completion endpoints */
    Request *r = &c->req;
    r->reply_tokens = tokens ? tokens : 64;
    const char *fault = parse_request(r, chat, p, n);
    if (fault) return fail(c, "400 Bad Request", fault);
    stats.requests++;
    stats.choices += r->left = r->prompts.len * (size_t)r->n;
    if (++stats.now > stats.max) stats.max = stats.now;
    c->busy = true;
    if (tokens) {
        for (size_t i = 0; i < r->left; i++) PUSH(waiting, ((Timer){tokens, c->fd, c->gen}));
        if (!step_due) step_start();
    } else if (delay_ns) {
        timer_add((Timer){now_ns() + (r->stream ? delay_ns / pieces : delay_ns), c->fd, c->gen});
    } else reply_due(c);
}

/* HTTP */
static void get(Conn *c, const char *path, size_t n) {
    body.len = 0;
    if (is(path, path + n, "/stats")) {
        putf(&body, "{\"requests\":%llu,\"choices\":%llu,\"max_concurrent\":%llu,", (unsigned long long)stats.requests,
            (unsigned long long)stats.choices, (unsigned long long)stats.max);
        putf(&body, "\"open_connections\":%d,\"aborted\":%llu}", stats.open - 1, /* less the one that asks */
            (unsigned long long)stats.aborted);
    } else if (is(path, path + n, "/v1/models")) {
        putf(&body, "{\"object\":\"list\",\"data\":[{\"id\":\"m\",\"object\":\"model\",\"created\":1700000000,"
            "\"owned_by\":\"mock\"}]}");
    } else return fail(c, "404 Not Found", "no such path");
    respond(c, "200 OK", "application/json");
}
static long unchunk(char *p, size_t n, size_t *length, bool decode) { /* bytes used, 0: not all here, -1: malformed */
    size_t from = 0, to = 0;
    for (;;) {
        char *stop, *line = memmem(p + from, n - from, "\r\n", 2);
        if (!line) return n - from > 64 ? -1 : 0;
        unsigned long size = strtoul(p + from, &stop, 16);
        if (stop == p + from || size > MAX_BODY) return -1;
        from = (size_t)(line - p) + 2;
        if (n - from < size + 2) return 0;
        if (decode) memmove(p + to, p + from, size);
        to += size;
        from += size + 2;
        if (!size) return *length = to, (long)from;
    }
}
static size_t request(Conn *c) { /* serves the first request of the buffer; the bytes it took, 0: not all here yet */
    char *p = c->in.p, *path, *blank = memmem(p, c->in.len, "\r\n\r\n", 4);
    c->req.closing = false;
    if (!blank) {
        if (c->in.len < MAX_HEAD) return 0;
        return c->req.closing = true, fail(c, "431 Request Header Fields Too Large", "headers"), c->in.len;
    }
    size_t head = (size_t)(blank - p) + 4, length = 0, used;
    bool chunked = false, expects = false, closing = false;
    *blank = 0; /* for the string functions below; put back before this returns with the request unserved */
    for (char *line = strstr(p, "\r\n"); line; line = strstr(line + 2, "\r\n")) {
        if (!strncasecmp(line + 2, "content-length:", 15)) length = strtoul(line + 17, NULL, 10);
        else if (!strncasecmp(line + 2, "transfer-encoding: chunked", 26)) chunked = true;
        else if (!strncasecmp(line + 2, "connection: close", 17)) closing = true;
        else if (!strncasecmp(line + 2, "expect: 100-continue", 20)) expects = true;
    }
    if (length > MAX_BODY || c->in.len > MAX_HEAD + MAX_BODY)
        return c->req.closing = true, fail(c, "413 Content Too Large", "the body is too large"), c->in.len;
    *blank = '\r';
    used = head + length;
    if (chunked) {
        long n = unchunk(p + head, c->in.len - head, &length, false);
        if (n < 0) return c->req.closing = true, fail(c, "400 Bad Request", "malformed chunks"), c->in.len;
        used = n ? head + (size_t)n : SIZE_MAX;
    }
    if (c->in.len < used) {
        if (expects && c->in.len == head) put(&c->out, "HTTP/1.1 100 Continue\r\n\r\n", 25);
        return 0;
    }
    if (chunked) unchunk(p + head, c->in.len - head, &length, true);
    c->req.closing = closing;
    bool post = !strncmp(p, "POST ", 5);
    if (!post && strncmp(p, "GET ", 4)) return fail(c, "405 Method Not Allowed", "GET or POST"), used;
    path = p + (post ? 5 : 4);
    size_t n = strcspn(path, " ?\r\n");
    if (!post) get(c, path, n);
    else if (is(path, path + n, "/v1/chat/completions")) complete(c, true, p + head, length);
    else if (is(path, path + n, "/v1/completions")) complete(c, false, p + head, length);
    else fail(c, "404 Not Found", "no such path");
    return used;
}
static void serve(Conn *c) { /* every request that is here; the next only after the reply of the one before */
    size_t used = 1;
    while (c->open && !c->busy && c->in.len && used && !(c->req.closing && c->out.len)) {
        used = request(c);
        c->in.len -= used;
        if (used && c->in.len) memmove(c->in.p, c->in.p + used, c->in.len);
    }
    if (c->open) flush(c);
}
static void readable(Conn *c) {
    for (;;) {
        RESERVE(c->in, 1 << 14);
        ssize_t n = recv(c->fd, c->in.p + c->in.len, c->in.cap - c->in.len - 1, 0);
        if (n > 0) { c->in.len += (size_t)n; continue; }
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno == EAGAIN) break;
        return conn_close(c);
    }
    serve(c);
}
static void accept_all(void) {
    for (int fd, yes = 1; (fd = accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0;) {
        if (fd >= MAX_FD) { close(fd); continue; }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        if (!conns[fd] && !(conns[fd] = calloc(1, sizeof(Conn)))) abort();
        conns[fd]->fd = fd;
        conns[fd]->open = true;
        conns[fd]->req.closing = false;
        stats.open++;
        poll_conn(conns[fd], EPOLL_CTL_ADD, false);
    }
}
static void tick(void) {
    uint64_t expirations;
    if (read(timer_fd, &expirations, sizeof expirations) < 0 && errno != EAGAIN) abort();
    while (timers.len && timers.p[0].due <= now_ns()) {
        Timer t = timer_pop();
        Conn *c = alive(&t);
        if (c) reply_due(c), serve(c);
    }
    if (!step_due || step_due > now_ns()) return;
    size_t kept = 0, count = running.len;
    for (size_t i = 0; i < count; i++) {
        Timer t = running.p[i];
        Conn *c = alive(&t);
        if (c && --t.due) running.p[kept++] = t;
        else if (c && !--c->req.left) reply_due(c), serve(c);
    }
    running.len = kept;
    step_start();
}

static int usage(void) {
    fprintf(stderr, "usage: mock_server [--port PORT] "
        "[--delay-ms MS | --continuous STEP_MS PER_SEQ_US MAX_SEQS TOKENS] [--pieces N]\n");
    return 2;
}
int main(int argc, char **argv) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    struct rlimit files;
    struct epoll_event events[256];
    pid_t parent = getppid();
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent) return 0;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--port") && i + 1 < argc) address.sin_port = htons((uint16_t)atoi(argv[++i]));
        else if (!strcmp(argv[i], "--delay-ms") && i + 1 < argc) delay_ns = (uint64_t)(atof(argv[++i]) * 1e6);
        else if (!strcmp(argv[i], "--continuous") && i + 4 < argc) {
            step_ns = (uint64_t)(atof(argv[++i]) * 1e6);
            per_seq_ns = (uint64_t)(atof(argv[++i]) * 1e3);
            max_seqs = strtoull(argv[++i], NULL, 10);
            tokens = strtoull(argv[++i], NULL, 10);
            if (!max_seqs || !tokens) return usage();
        } else if (!strcmp(argv[i], "--pieces") && i + 1 < argc) {
            pieces = atoi(argv[++i]);
            if (pieces < 1 || pieces > MAX_PIECES) return usage();
        } else return usage();
    }
    if (tokens && delay_ns) return usage();
    if (!getrlimit(RLIMIT_NOFILE, &files)) files.rlim_cur = files.rlim_max, setrlimit(RLIMIT_NOFILE, &files);
    listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(listen_fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    if (bind(listen_fd, (struct sockaddr *)&address, size) || listen(listen_fd, 4096)) return perror("mock_server"), 1;
    getsockname(listen_fd, (struct sockaddr *)&address, &size);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    for (int i = 0; i < 2; i++) {
        int fd = i ? timer_fd : listen_fd;
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &(struct epoll_event){.events = EPOLLIN, .data.u64 = (uint32_t)fd});
    }
    for (;;) {
        int n = epoll_wait(epoll_fd, events, 256, -1);
        for (int i = 0; i < n; i++) {
            int fd = (int)(uint32_t)events[i].data.u64;
            if (fd == listen_fd) accept_all();
            else if (fd == timer_fd) tick();
            else if (conns[fd]->open && conns[fd]->gen == (uint32_t)(events[i].data.u64 >> 32)) {
                if (events[i].events == EPOLLOUT) flush(conns[fd]);
                else readable(conns[fd]); /* also a hang-up, which it finds by reading */
            }
        }
        arm();
    }
}
