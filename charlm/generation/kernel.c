/* A recurrent network read token by token. charlm.generation.compiled compiles, loads and calls this.

   Units are computed in blocks of WIDTH, the elements of a vector, so that no sum runs across a vector. A matrix with 1,
   3 or 4 gates is stored as [blocks][gates][columns][WIDTH] floats, or as [blocks][gates][columns / 4][WIDTH][4] signed
   bytes with a scale for each row. Units and columns are padded to multiples of 16 with zero weights, and stay 0.

   With signed bytes, a hidden state h in (-1, 1) is stored as the unsigned byte round(127 h) + 128, because AVX-512's
   instruction multiplies unsigned with signed bytes; 128 times the sum of each row is subtracted from the result. With
   AVX2 128 is subtracted from the bytes. The product is a sum of integers, exact in any order. Sums of floats have the
   same order for any number of threads.

   Every thread computes a range of the blocks of each layer, and of the vocabulary. Threads synchronise after sampling,
   after each layer, and after the head. */

#define _GNU_SOURCE /* CPU sets */
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

/* The sums of TOGETHER lanes and four gates have to fit into the registers: 32 of 16 floats with AVX-512, 16 of 8 with
   AVX2, and elsewhere at least 16 of 4. BIASED: whether the bytes of hidden states are multiplied as they are. */
#if defined(__AVX512VNNI__)
enum { WIDTH = 16, TOGETHER = 4, BIASED = 1 };
#elif defined(__AVX2__)
enum { WIDTH = 8, TOGETHER = 2, BIASED = 0 };
#else
enum { WIDTH = 4, TOGETHER = 2, BIASED = 1 };
#endif
const int32_t charlm_width = WIDTH;

enum { MOST_GATES = 4, MOST_THREADS = 64 };
enum { COLUMNS = 64, MOST_GROUPS = 16 }; /* columns and groups of lanes that fit into the nearest cache together */
enum { LSTM, GRU, RNN };

#define INLINE static inline __attribute__((always_inline))

typedef float Floats __attribute__((vector_size(4 * WIDTH), aligned(4)));
typedef int32_t Ints __attribute__((vector_size(4 * WIDTH), aligned(4)));

typedef struct {
    const void *weights;
    const float *scale;   /* [blocks][gates][WIDTH], with signed bytes: the value of 1 in a sum */
    const int32_t *excess; /* [blocks][gates][WIDTH], with signed bytes: 128 times the sum of a row */
} Matrix;

typedef struct {
    Matrix input, recurrent;
    const float *bias;  /* [blocks][gates][WIDTH]; that of the first layer is part of the table */
    const float *inner; /* [units], the bias that the reset gate of a GRU multiplies */
} Layer;

typedef struct {
    int32_t cell, gates, layers, units, vocabulary, bytes; /* bytes: whether weights are signed bytes */
    const float *table;                                    /* [vocabulary + 2][blocks][gates][WIDTH] */
    const Layer *layer;
    Matrix head; /* one gate; the vocabulary is padded to a multiple of 16 too */
    const float *head_bias;
} Model;

typedef struct {
    double temperature, top_p, min_p;
    int64_t top_k;
} SamplingParameters;

typedef struct {
    const Model *model;
    int32_t lanes, threads;
    int64_t steps;
    const int64_t *ids;  /* [steps][lanes] to read; NULL: sample them */
    const double *uniforms; /* [steps][lanes] in [0, 1) */
    const SamplingParameters *settings;
    int64_t *sampled;      /* [steps][lanes] */
    float *h, *c;        /* [layers][lanes][units], in and out */
    float *logits;       /* [lanes][vocabulary], in and out; with `every`, [steps][lanes][vocabulary] */
    int32_t every;
} Work;

/* The memory of one call. Each unit reads the whole previous state while other units write theirs, so there are two. */
typedef struct {
    const Work *work;
    float *fresh;           /* as h */
    uint8_t *old, *coming;  /* h and fresh as unsigned bytes */
    int processor;          /* on which the first thread runs */
    atomic_int threads;     /* 0 until all have been started */
    atomic_int arrived, round;
} Team;

/* A barrier: waits until all threads of the team have arrived. */
static void meet(Team *team)
{
    int round = atomic_load(&team->round);
    if (atomic_fetch_add(&team->arrived, 1) + 1 == atomic_load(&team->threads)) {
        atomic_store(&team->arrived, 0);
        atomic_store(&team->round, round + 1);
        return;
    }
    for (int tries = 0; atomic_load_explicit(&team->round, memory_order_acquire) == round; tries++)
        if (tries > 2000)
            sched_yield(); /* another thread needs this processor, perhaps one that we wait for */
}

/* Linux may keep a new thread on the processor of its creator for milliseconds, longer than most calls take, while
   others are idle: forbid that processor. */
static void keep_off(int processor)
{
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set))
        return;
    CPU_CLR(processor, &set);
    if (CPU_COUNT(&set))
        sched_setaffinity(0, sizeof set, &set);
#endif
}

/* e^x = 2^n e^r with n = round(x / ln 2) and |r| <= ln 2 / 2, and e^r by its Taylor series; without branches or library
   calls, so that WIDTH are computed at once. */
INLINE float exponential(float x)
{
    x = x < -87.0f ? -87.0f : x > 87.0f ? 87.0f : x;
    union { float number; int32_t bits; } n = {x * 1.44269504f + 12582912.0f}, power;
    float whole = n.number - 12582912.0f; /* adding 1.5 * 2^23 has rounded it into the low bits */
    float r = x - whole * 0.693145752f - whole * 1.42860677e-6f;
    float series = 1 / 120.0f + r * (1 / 720.0f);
    series = 1 + r * (1 + r * (1 / 2.0f + r * (1 / 6.0f + r * (1 / 24.0f + r * series))));
    power.bits = (int32_t)((uint32_t)n.bits << 23) + 0x3f800000;
    return series * power.number;
}

INLINE float sigmoid(float x) { return 1 / (1 + exponential(-x)); }
INLINE float hyperbolic(float x) { return 1 - 2 / (1 + exponential(2 * x)); } /* tanh */

INLINE uint8_t as_byte(float h) { return (uint8_t)(int)(h * 127 + 128.5f); }

/* sum[row] + x[0] w[row][0] + ... + x[3] w[row][3], with x - 128 for x if not BIASED. AVX2 adds two products in 16 bits,
   for which x is too large; |x - 128|, times w with the sign of x - 128, is not. */
INLINE Ints dot4(Ints sum, const uint8_t *x, const int8_t *w)
{
#if defined(__AVX512VNNI__)
    int32_t four;
    memcpy(&four, x, 4);
    return (Ints)_mm512_dpbusd_epi32((__m512i)sum, _mm512_set1_epi32(four), _mm512_loadu_si512(w));
#elif defined(__AVX2__)
    int32_t four;
    memcpy(&four, x, 4);
    __m256i signs = _mm256_set1_epi32(four ^ (int32_t)0x80808080), rows = _mm256_loadu_si256((const __m256i *)w);
    __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(signs), _mm256_sign_epi8(rows, signs));
    return (Ints)_mm256_add_epi32((__m256i)sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
#else
    for (int row = 0; row < WIDTH; row++)
        for (int k = 0; k < 4; k++)
            sum[row] += (int32_t)x[k] * w[4 * row + k];
    return sum;
#endif
}

typedef Floats Sums[MOST_GATES][TOGETHER]; /* for each gate and lane */

/* If there are few sums, each is computed in several parts, so that additions need not wait for each other. */
#define PARTS(gates, lanes) ((gates) * (lanes) >= 8 ? 1 : (gates) * (lanes) >= 4 ? 2 : 4)

/* y += the columns `from` to `to` of a block times x */
INLINE void product_floats(const Matrix *m, int block, const float *x, int columns, int from, int to, const int gates,
                           const int lanes, Sums y)
{
    const int parts = PARTS(gates, lanes);
    const float *weights = (const float *)m->weights + (size_t)block * gates * columns * WIDTH;
    Sums sum[4] = {0};
    for (int k = from; k < to; k += parts)
        for (int p = 0; p < parts; p++)
            for (int g = 0; g < gates; g++) {
                Floats w = *(const Floats *)(weights + ((size_t)g * columns + k + p) * WIDTH);
                for (int s = 0; s < lanes; s++)
                    sum[p][g][s] += w * x[(size_t)s * columns + k + p];
            }
    for (int g = 0; g < gates; g++)
        for (int s = 0; s < lanes; s++)
            for (int p = 0; p < parts; p++)
                y[g][s] += sum[p][g][s];
}

/* y = a block times x */
INLINE void product_bytes(const Matrix *m, int block, const uint8_t *x, int columns, const int gates, const int lanes,
                          Sums y)
{
    const int parts = PARTS(gates, lanes);
    const int8_t *weights = (const int8_t *)m->weights + (size_t)block * gates * columns * WIDTH;
    Ints sum[4][MOST_GATES][TOGETHER] = {0};
    for (int k = 0; k < columns; k += 4 * parts)
        for (int p = 0; p < parts; p++)
            for (int g = 0; g < gates; g++)
                for (int s = 0; s < lanes; s++)
                    sum[p][g][s] = dot4(sum[p][g][s], x + (size_t)s * columns + k + 4 * p,
                                        weights + ((size_t)g * columns + k + 4 * p) * WIDTH);
    for (int g = 0; g < gates; g++) {
        size_t row = ((size_t)block * gates + g) * WIDTH;
        for (int s = 0; s < lanes; s++) {
            Ints total = sum[0][g][s];
            for (int p = 1; p < parts; p++)
                total += sum[p][g][s];
            if (BIASED)
                total -= *(const Ints *)(m->excess + row);
            y[g][s] = __builtin_convertvector(total, Floats) * *(const Floats *)(m->scale + row);
        }
    }
}

/* y[n] = a block of `m` times the previous states of a layer, or the new ones if `now`, of the n-th group of `lanes`
   lanes from lane `first` on. A block of floats does not fit into the nearest cache: some of its columns are multiplied
   with all groups, then the next ones. */
INLINE void product(const Team *team, const Matrix *m, int block, int layer, int first, int now, const int gates,
                    const int lanes, const int groups, Sums *y)
{
    const Work *work = team->work;
    int units = work->model->units;
    size_t at = ((size_t)layer * work->lanes + first) * units, group = (size_t)lanes * units;
    if (work->model->bytes) {
        const uint8_t *x = (now ? team->coming : team->old) + at;
        for (int n = 0; n < groups; n++)
            product_bytes(m, block, x + n * group, units, gates, lanes, y[n]);
        return;
    }
    const float *x = (now ? team->fresh : work->h) + at;
    memset(y, 0, groups * sizeof *y);
    for (int from = 0, to; from < units; from = to) {
        to = groups > 1 && from + COLUMNS < units ? from + COLUMNS : units;
        for (int n = 0; n < groups; n++)
            product_floats(m, block, x + n * group, units, from, to, gates, lanes, y[n]);
    }
}

/* The cells, for WIDTH units: x is the input product, r the recurrent product, h the new state. docs/mathematics.md has
   the equations. */
typedef float Row[WIDTH];

INLINE void lstm(const Row *x, const Row *r, float *c, float *h)
{
    for (int i = 0; i < WIDTH; i++) {
        float input = sigmoid(x[0][i] + r[0][i]), forget = sigmoid(x[1][i] + r[1][i]);
        c[i] = forget * c[i] + input * hyperbolic(x[2][i] + r[2][i]);
        h[i] = sigmoid(x[3][i] + r[3][i]) * hyperbolic(c[i]);
    }
}

INLINE void gru(const Row *x, const Row *r, const float *inner, const float *before, float *h)
{
    for (int i = 0; i < WIDTH; i++) {
        float reset = sigmoid(x[0][i] + r[0][i]), keep = sigmoid(x[1][i] + r[1][i]);
        float candidate = hyperbolic(x[2][i] + reset * (r[2][i] + inner[i]));
        h[i] = candidate + keep * (before[i] - candidate);
    }
}

INLINE void rnn(const Row *x, const Row *r, float *h)
{
    for (int i = 0; i < WIDTH; i++)
        h[i] = hyperbolic(x[0][i] + r[0][i]);
}

/* One step of one block of a layer, for groups of `lanes` lanes. `cell`, `gates` and `lanes` are constants at each
   call, so that the compiler unrolls the loops. */
INLINE void advance(Team *team, int number, int block, int first, const int64_t *ids, const int cell, const int gates,
                    const int lanes, const int groups)
{
    const Work *work = team->work;
    const Model *model = work->model;
    const Layer *layer = &model->layer[number];
    size_t rows = (size_t)gates * WIDTH, all = (size_t)gates * model->units;
    Sums x[MOST_GROUPS], r[MOST_GROUPS];
    product(team, &layer->recurrent, block, number, first, 0, gates, lanes, groups, r);
    if (number)
        product(team, &layer->input, block, number - 1, first, 1, gates, lanes, groups, x);
    for (int s = 0; s < groups * lanes; s++) {
        const float *known = number ? layer->bias + block * rows : model->table + ids[first + s] * all + block * rows;
        Row below[MOST_GATES], before[MOST_GATES];
        for (int g = 0; g < gates; g++) {
            Floats sum = *(const Floats *)(known + g * WIDTH);
            if (number)
                sum += x[s / lanes][g][s % lanes];
            memcpy(below[g], &sum, sizeof sum);
            memcpy(before[g], &r[s / lanes][g][s % lanes], sizeof sum);
        }
        size_t at = ((size_t)number * work->lanes + first + s) * model->units + (size_t)block * WIDTH;
        if (cell == LSTM)
            lstm(below, before, work->c + at, team->fresh + at);
        else if (cell == GRU)
            gru(below, before, layer->inner + block * WIDTH, work->h + at, team->fresh + at);
        else
            rnn(below, before, team->fresh + at);
        for (int i = 0; i < WIDTH && model->bytes; i++)
            team->coming[at + i] = as_byte(team->fresh[at + i]);
    }
}

INLINE void advance_all(Team *team, int number, int from, int to, const int64_t *ids, const int cell, const int gates)
{
    int lanes = team->work->lanes;
    for (int block = from; block < to; block++) {
        int first = 0;
        for (int groups; (groups = (lanes - first) / TOGETHER); first += groups * TOGETHER) {
            groups = groups < MOST_GROUPS ? groups : MOST_GROUPS;
            advance(team, number, block, first, ids, cell, gates, TOGETHER, groups);
        }
        for (; first < lanes; first++)
            advance(team, number, block, first, ids, cell, gates, 1, 1);
    }
}

INLINE void predict(const Team *team, int block, int first, float *logits, const int lanes)
{
    const Model *model = team->work->model;
    int row = block * WIDTH, left = model->vocabulary - row;
    Sums y;
    product(team, &model->head, block, model->layers - 1, first, 1, 1, lanes, 1, &y);
    for (int s = 0; s < lanes; s++) {
        y[0][s] += *(const Floats *)(model->head_bias + row);
        memcpy(logits + (size_t)(first + s) * model->vocabulary + row, &y[0][s],
               (left < WIDTH ? left : WIDTH) * sizeof(float));
    }
}

/* Sampling: charlm.generation.sampling in C, with the same rules in the same order. */

typedef struct {
    double p;
    int id;
} Candidate;

static int more_probable(const void *a, const void *b)
{
    const Candidate *x = a, *y = b;
    return x->p > y->p ? -1 : x->p < y->p ? 1 : x->id - y->id;
}

/* The number of most probable candidates that stay after top-k, top-p and min-p; `candidates` are sorted. */
static int kept(const Candidate *candidates, int n, const SamplingParameters *settings)
{
    int keep = settings->top_k && settings->top_k < n ? (int)settings->top_k : n, size = 0;
    if (settings->top_p < 1) {
        double within = 0, sum = 0;
        for (int i = 0; i < keep; i++)
            within += candidates[i].p;
        while (size < keep - 1 && (sum += candidates[size].p / within) < settings->top_p)
            size++;
        keep = size + 1;
    }
    for (size = 0; size < keep && candidates[size].p >= settings->min_p * candidates[0].p;)
        size++;
    return size;
}

/* The token that u in [0, 1) selects; p and candidates are buffers of n elements. */
static int sample_token(const float *logits, int n, double u, const SamplingParameters *settings, double *p,
                        Candidate *candidates)
{
    int best = 0, last = 0;
    for (int i = 1; i < n; i++)
        if (logits[i] > logits[best])
            best = i;
    if (settings->temperature == 0)
        return best;
    for (int i = 0; i < n; i++)
        p[i] = exp(((double)logits[i] - logits[best]) / settings->temperature);
    if (settings->top_k || settings->top_p < 1 || settings->min_p > 0) {
        for (int i = 0; i < n; i++)
            candidates[i] = (Candidate){p[i], i};
        qsort(candidates, n, sizeof *candidates, more_probable);
        for (int i = kept(candidates, n, settings); i < n; i++)
            p[candidates[i].id] = 0;
    }
    double total = 0, sum = 0;
    for (int i = 0; i < n; i++)
        total += p[i];
    for (int i = 0; i < n && (i == 0 || sum <= u * total); i++)
        if (p[i] > 0) {
            sum += p[i];
            last = i;
        }
    return last;
}

typedef struct {
    Team *team;
    int number;
    double *p;             /* [vocabulary] */
    Candidate *candidates; /* [vocabulary] */
} Member;

static void *take_part(void *argument)
{
    const Member *me = argument;
    Team *team = me->team;
    const Work *work = team->work;
    const Model *model = work->model;
    if (me->number)
        keep_off(team->processor);
    while (!atomic_load(&team->threads))
        sched_yield();
    int threads = atomic_load(&team->threads), lanes = work->lanes, vocabulary = model->vocabulary;
#define MINE(n, end) ((int)((int64_t)(n) * (me->number + (end)) / threads))
    int blocks = model->units / WIDTH, rows = (vocabulary + WIDTH - 1) / WIDTH;
    int from = MINE(blocks, 0), to = MINE(blocks, 1);
    for (int64_t step = 0; step < work->steps; step++) {
        const int64_t *ids = (work->ids ? work->ids : work->sampled) + step * lanes;
        if (!work->ids) {
            for (int s = MINE(lanes, 0); s < MINE(lanes, 1); s++)
                work->sampled[step * lanes + s] =
                    sample_token(work->logits + (size_t)s * vocabulary, vocabulary, work->uniforms[step * lanes + s],
                                 work->settings, me->p, me->candidates);
            meet(team);
        }
        for (int number = 0; number < model->layers; number++) {
            if (model->cell == LSTM)
                advance_all(team, number, from, to, ids, LSTM, 4);
            else if (model->cell == GRU)
                advance_all(team, number, from, to, ids, GRU, 3);
            else
                advance_all(team, number, from, to, ids, RNN, 1);
            meet(team);
        }
        float *logits = work->logits + (work->every ? (size_t)step * lanes * vocabulary : 0);
        for (int block = MINE(rows, 0); block < MINE(rows, 1); block++) {
            int first = 0;
            for (; first + TOGETHER <= lanes; first += TOGETHER)
                predict(team, block, first, logits, TOGETHER);
            for (; first < lanes; first++)
                predict(team, block, first, logits, 1);
        }
        for (int row = 0; row < model->layers * lanes; row++) { /* the new state replaces the old one */
            size_t at = (size_t)row * model->units + (size_t)from * WIDTH, size = (size_t)(to - from) * WIDTH;
            memcpy(work->h + at, team->fresh + at, size * sizeof(float));
            if (model->bytes)
                memcpy(team->old + at, team->coming + at, size);
        }
        meet(team);
    }
    return NULL;
}

/* Run all steps of `work`. Returns 0, or -1 without memory, in which case nothing has changed. */
int charlm_run(const Work *work)
{
    const Model *model = work->model;
    size_t state = (size_t)model->layers * work->lanes * model->units, vocabulary = model->vocabulary;
    int wanted = work->threads < MOST_THREADS ? work->threads : MOST_THREADS, started = 1;
    float *fresh = malloc(state * sizeof *fresh);
    uint8_t *bytes = malloc(2 * state);
    double *p = malloc(wanted * vocabulary * sizeof *p);
    Candidate *candidates = malloc(wanted * vocabulary * sizeof *candidates);
    int done = fresh && bytes && p && candidates;
    if (done) {
        Team team = {.work = work, .fresh = fresh, .old = bytes, .coming = bytes + state};
#if defined(__linux__)
        team.processor = sched_getcpu();
#endif
        Member members[MOST_THREADS];
        pthread_t others[MOST_THREADS];
        for (size_t i = 0; i < state; i++)
            bytes[i] = as_byte(work->h[i]);
        for (int t = 0; t < wanted; t++)
            members[t] = (Member){&team, t, p + t * vocabulary, candidates + t * vocabulary};
        while (started < wanted && !pthread_create(&others[started], NULL, take_part, &members[started]))
            started++; /* if no more threads can be created, fewer share the work */
        atomic_store(&team.threads, started);
        take_part(&members[0]);
        for (int t = 1; t < started; t++)
            pthread_join(others[t], NULL);
    }
    free(candidates);
    free(p);
    free(bytes);
    free(fresh);
    return done ? 0 : -1;
}
