/* The mock server's OpenAI wire format: what it reads of a request, and the replies it writes. */
#include <stdarg.h>
#include <stdio.h>

#include "mock_json.h"

enum { MAX_N = 1024, MAX_PIECES = 100000 };

static int pieces = 4; /* of a streamed reply */

typedef struct {
    bool chat, stream, usage, closing;
    int n, piece;
    size_t left; /* sequences still running (--continuous) */
    uint64_t seed, prompt_tokens, reply_tokens; /* reply_tokens: of each choice */
    Hashes prompts;
    Buf model; /* as a JSON string, echoed as it came */
} Request;

static void put(Buf *b, const char *p, size_t n) {
    RESERVE(*b, n + 1);
    if (n) memcpy(b->p + b->len, p, n);
    b->len += n;
}
__attribute__((format(printf, 2, 3))) static void putf(Buf *b, const char *format, ...) {
    char text[1024];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    put(b, text, (size_t)n < sizeof text ? (size_t)n : sizeof text - 1);
}

/* Requests */
static bool is(const char *p, const char *end, const char *word) {
    return (size_t)(end - p) == strlen(word) && !memcmp(p, word, strlen(word));
}
static bool stream_option(Json *j, uint64_t key, void *context) {
    uint64_t hash;
    const char *start = (peek(j), j->p);
    if (!value(j, &hash)) return false;
    if (key == hash_text("include_usage", 13)) ((Request *)context)->usage = is(start, j->p, "true");
    return true;
}
static bool request_member(Json *j, uint64_t key, void *context) {
    Request *r = context;
    uint64_t hash;
    const char kind = peek(j), *start = j->p;
    bool ok;
    if (key == hash_text("stream_options", 14) && kind == '{') ok = object(j, &hash, stream_option, r);
    else if (key == hash_text("prompt", 6) && !r->chat && kind == '[') {
        Json rest = {start + 1, j->end, 0};
        char item = peek(&rest); /* a list of numbers is one prompt, as tokens */
        bool many = item == '"' || item == '[';
        ok = array(j, &hash, many ? &r->prompts : NULL);
        if (ok && !many && item != ']') PUSH(r->prompts, hash);
    } else ok = value(j, &hash);
    if (!ok) return false;
    size_t length = (size_t)(j->p - start);
    if (key == hash_text("n", 1) && kind != 'n') r->n = atoi(start); /* not null, its default */
    else if (key == hash_text("stream", 6)) r->stream = is(start, j->p, "true");
    else if (key == hash_text("seed", 4)) r->seed = kind == 'n' ? 0 : hash;
    else if (key == hash_text("model", 5) && kind == '"') r->model.len = 0, put(&r->model, start, length);
    else if (key == hash_text(r->chat ? "messages" : "prompt", r->chat ? 8 : 6)) {
        r->prompt_tokens = length / 4 + 1;
        if (kind == (r->chat ? '[' : '"')) PUSH(r->prompts, hash);
    }
    return true;
}
static const char *parse_request(Request *r, bool chat, const char *p, size_t n) { /* NULL, or what is wrong with it */
    Json j = {p, p + n, 0};
    uint64_t hash;
    r->chat = chat, r->stream = r->usage = false, r->n = 1, r->piece = 0;
    r->seed = r->prompt_tokens = r->prompts.len = r->model.len = 0;
    if (!object(&j, &hash, request_member, r) || peek(&j)) return "the body is not a JSON object";
    if (!r->prompts.len) return chat ? "messages is missing" : "prompt is missing";
    if (r->n < 1 || r->n > MAX_N) return "n is out of range";
    if (!r->model.len) put(&r->model, "\"m\"", 3);
    return NULL;
}

/* Replies */
static int reply_text(char *text, size_t size, uint64_t prompt, uint64_t seed, int index) {
    uint64_t draw = mix(prompt ^ mix(seed * 131 + (uint64_t)index));
    /* Seven draws of eight agree, so that a vote over a few of them has one winner. */
    uint64_t answer = mix(prompt) % 1000 + (draw % 8 ? 0 : 1 + draw / 8 % 9);
    return snprintf(text, size,
        "Draw %08x. First restate what is given, then combine the quantities one at a time, checking each intermediate "
        "result against the question before going on. Nothing contradicts an earlier step, so the total follows "
        "directly and needs no correction. The answer is %u.", (unsigned)draw, (unsigned)answer);
}
static void put_usage(Buf *b, Request *r) {
    uint64_t completion = r->prompts.len * (uint64_t)r->n * r->reply_tokens;
    putf(b, "{\"prompt_tokens\":%llu,\"completion_tokens\":%llu,\"total_tokens\":%llu}",
        (unsigned long long)r->prompt_tokens, (unsigned long long)completion,
        (unsigned long long)(r->prompt_tokens + completion));
}
static void put_head(Buf *b, Request *r, bool chunk) {
    putf(b, "{\"id\":\"mock-%016llx\",\"object\":\"%s%s\",\"created\":1700000000,\"model\":",
        (unsigned long long)mix(r->prompts.p[0]), r->chat ? "chat.completion" : "text_completion",
        r->chat && chunk ? ".chunk" : "");
    put(b, r->model.p, r->model.len);
}
static void put_reply(Buf *b, Request *r) { /* the whole reply */
    char text[512];
    put_head(b, r, false);
    putf(b, ",\"choices\":[");
    for (size_t i = 0; i < r->prompts.len * (size_t)r->n; i++) {
        reply_text(text, sizeof text, r->prompts.p[i / (size_t)r->n], r->seed, (int)(i % (size_t)r->n));
        putf(b, "%s{\"index\":%zu,", i ? "," : "", i);
        putf(b, r->chat ? "\"message\":{\"role\":\"assistant\",\"content\":\"%s\"}" : "\"text\":\"%s\"", text);
        putf(b, ",\"logprobs\":null,\"finish_reason\":\"stop\"}");
    }
    putf(b, "],\"usage\":");
    put_usage(b, r);
    putf(b, "}");
}
static void put_event(Buf *b, Request *r, size_t index, const char *text, int n, bool last) {
    putf(b, "data: ");
    put_head(b, r, true);
    putf(b, ",\"choices\":[{\"index\":%zu,", index);
    putf(b, r->chat ? "\"delta\":{\"content\":\"%.*s\"}" : "\"text\":\"%.*s\"", n, text);
    putf(b, ",\"logprobs\":null,\"finish_reason\":%s}]}\n\n", last ? "\"stop\"" : "null");
}
static void put_piece(Buf *b, Request *r, int k) { /* piece k of a streamed reply: the k-th part of every choice */
    char text[512];
    for (size_t i = 0; i < r->prompts.len * (size_t)r->n; i++) {
        int n = reply_text(text, sizeof text, r->prompts.p[i / (size_t)r->n], r->seed, (int)(i % (size_t)r->n));
        put_event(b, r, i, text + n * k / pieces, n * (k + 1) / pieces - n * k / pieces, false);
        if (k == pieces - 1) put_event(b, r, i, "", 0, true);
    }
    if (k < pieces - 1) return;
    if (r->usage) {
        putf(b, "data: ");
        put_head(b, r, true);
        putf(b, ",\"choices\":[],\"usage\":");
        put_usage(b, r);
        putf(b, "}\n\n");
    }
    putf(b, "data: [DONE]\n\n");
}
