/* The mock server's growing arrays, and a JSON scanner: it checks the syntax and hashes what it passes, so that equal
 * values hash alike however a client orders its keys, escapes its strings or spaces its text. */
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_DEPTH = 256 };

typedef struct { char *p; size_t len, cap; } Buf;
typedef struct { uint64_t *p; size_t len, cap; } Hashes;

#define RESERVE(a, more) \
    do { \
        if ((a).len + (more) > (a).cap) { \
            (a).cap = ((a).len + (more)) * 2; \
            (a).p = realloc((a).p, (a).cap * sizeof *(a).p); \
            if (!(a).p) abort(); \
        } \
    } while (0)
#define PUSH(a, value) do { RESERVE(a, 1); (a).p[(a).len++] = (value); } while (0)


typedef struct { const char *p, *end; int depth; } Json;
static const uint64_t FNV = 0xcbf29ce484222325u, PRIME = 0x100000001b3u;

static uint64_t mix(uint64_t h) {
    h = (h ^ (h >> 31)) * 0x7fb5d329728ea185u;
    h = (h ^ (h >> 27)) * 0x81dadef4bc2dd44du;
    return h ^ (h >> 33);
}
static uint64_t hash_text(const char *p, size_t n) {
    uint64_t h = FNV;
    for (size_t i = 0; i < n; i++) h = (h ^ (uint8_t)p[i]) * PRIME;
    return h;
}
static char peek(Json *j) { /* the next character that is not space; 0 at the end */
    while (j->p < j->end && (*j->p == ' ' || *j->p == '\n' || *j->p == '\t' || *j->p == '\r')) j->p++;
    return j->p < j->end ? *j->p : 0;
}
static bool take(Json *j, char c) { return peek(j) == c && (j->p++, true); }

static bool hex4(Json *j, uint32_t *out) {
    if (j->end - j->p < 4) return false;
    char digits[5] = {j->p[0], j->p[1], j->p[2], j->p[3], 0};
    *out = (uint32_t)strtoul(digits, NULL, 16);
    j->p += 4;
    return strspn(digits, "0123456789abcdefABCDEF") == 4;
}
static uint64_t hash_char(uint64_t h, uint32_t c) { /* the character's UTF-8, as if it had not been escaped */
    char s[4];
    int n = 0;
    if (c < 0x80) s[n++] = (char)c;
    else if (c < 0x800) s[n++] = (char)(0xC0 | c >> 6);
    else {
        if (c < 0x10000) s[n++] = (char)(0xE0 | c >> 12);
        else { s[n++] = (char)(0xF0 | c >> 18); s[n++] = (char)(0x80 | (c >> 12 & 0x3F)); }
        s[n++] = (char)(0x80 | (c >> 6 & 0x3F));
    }
    if (c >= 0x80) s[n++] = (char)(0x80 | (c & 0x3F));
    for (int i = 0; i < n; i++) h = (h ^ (uint8_t)s[i]) * PRIME;
    return h;
}
static bool string(Json *j, uint64_t *hash) {
    static const char escapes[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
    if (!take(j, '"')) return false;
    uint64_t h = FNV;
    while (j->p < j->end) {
        uint8_t c = (uint8_t)*j->p++;
        if (c == '"') return *hash = h, true;
        if (c < 0x20) return false;
        if (c != '\\') { h = (h ^ c) * PRIME; continue; }
        if (j->p == j->end) return false;
        char e = *j->p++;
        uint32_t code, low;
        if (e == 'u') {
            if (!hex4(j, &code)) return false;
            if (code >> 10 == 0x36 && j->end - j->p >= 6 && j->p[0] == '\\' && j->p[1] == 'u') {
                j->p += 2;
                if (!hex4(j, &low)) return false;
                code = 0x10000 + ((code & 0x3FF) << 10) + (low & 0x3FF);
            }
            h = hash_char(h, code);
        } else {
            const char *at = e ? strchr(escapes, e) : NULL;
            if (!at) return false;
            h = hash_char(h, (uint32_t)meanings[at - escapes]);
        }
    }
    return false;
}
static bool value(Json *j, uint64_t *hash);

static bool object(Json *j, uint64_t *hash, bool (*member)(Json *, uint64_t key, void *), void *context) {
    uint64_t key, item;
    if (!take(j, '{') || ++j->depth > MAX_DEPTH) return false;
    *hash = 1;
    for (bool more = !take(j, '}'); more;) {
        if (!string(j, &key) || !take(j, ':')) return false;
        if (member ? !member(j, key, context) : !value(j, &item)) return false;
        if (!member) *hash += mix(key * 31 + item); /* a sum: the order of keys does not matter */
        more = take(j, ',');
        if (!more && !take(j, '}')) return false;
    }
    return j->depth--, true;
}
static bool array(Json *j, uint64_t *hash, Hashes *items) {
    uint64_t item;
    if (!take(j, '[') || ++j->depth > MAX_DEPTH) return false;
    *hash = 2;
    for (bool more = !take(j, ']'); more;) {
        if (!value(j, &item)) return false;
        if (items) PUSH(*items, item);
        *hash = mix(*hash * 31 + item);
        more = take(j, ',');
        if (!more && !take(j, ']')) return false;
    }
    return j->depth--, true;
}
static bool value(Json *j, uint64_t *hash) {
    char c = peek(j);
    if (c == '"') return string(j, hash);
    if (c == '{') return object(j, hash, NULL, NULL);
    if (c == '[') return array(j, hash, NULL);
    const char *start = j->p;
    while (j->p < j->end && *j->p && strchr("+-.0123456789eEtrufalsn", *j->p)) j->p++;
    size_t n = (size_t)(j->p - start);
    *hash = hash_text(start, n);
    if (c == 't' || c == 'n') return n == 4 && (!memcmp(start, "true", 4) || !memcmp(start, "null", 4));
    if (c == 'f') return n == 5 && !memcmp(start, "false", 5);
    char number[40], *stop;
    if (!n || n >= sizeof number || !(c == '-' || (c >= '0' && c <= '9'))) return false;
    memcpy(number, start, n);
    number[n] = 0;
    strtod(number, &stop);
    return *stop == 0;
}
