/* The network of llama2.c's model.bin, version 0, from the public description of the format: seven int32 (width, hidden
   width, layers, heads, key and value heads, vocabulary, context), then float32 weights, each kind over all layers.
   run MODEL NUM: the likeliest token after those before it, NUM times from token 1, and its logit. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void norm(float *out, const float *x, const float *gain, int n) {
    float sum = 0;
    for (int i = 0; i < n; i++) sum += x[i] * x[i];
    float scale = 1.0f / sqrtf(sum / n + 1e-5f);
    for (int i = 0; i < n; i++) out[i] = gain[i] * x[i] * scale;
}

static void times(float *out, const float *w, const float *x, int rows, int columns) {
    for (int i = 0; i < rows; i++) {
        float sum = 0;
        for (int j = 0; j < columns; j++) sum += w[(size_t)i * columns + j] * x[j];
        out[i] = sum;
    }
}

static void turn(float *x, int heads, int size, int position) {
    for (int h = 0; h < heads; h++)
        for (int i = 0; i < size; i += 2) {
            float angle = position / powf(10000.0f, i / (float)size), *pair = x + h * size + i;
            float a = pair[0] * cosf(angle) - pair[1] * sinf(angle), b = pair[0] * sinf(angle) + pair[1] * cosf(angle);
            pair[0] = a, pair[1] = b;
        }
}

int main(int argc, char **argv) {
    int head[7];
    FILE *file = argc == 3 ? fopen(argv[1], "rb") : NULL;
    if (!file || fread(head, 4, 7, file) != 7) return 1;
    int D = head[0], F = head[1], L = head[2], H = head[3], G = head[4], V = abs(head[5]), P = head[6], K = D / H, E = G * K;
    fseek(file, 0, SEEK_END);
    size_t count = (ftell(file) - 28) / 4;
    float *all = malloc(count * 4), *w = all;
    fseek(file, 28, SEEK_SET);
    if (fread(all, 4, count, file) != count) return 1;
    float *embed = w, *norm1 = embed + (size_t)V * D, *wq = norm1 + L * D, *wk = wq + (size_t)L * D * D;
    float *wv = wk + (size_t)L * E * D, *wo = wv + (size_t)L * E * D, *norm2 = wo + (size_t)L * D * D;
    float *w1 = norm2 + L * D, *w2 = w1 + (size_t)L * F * D, *w3 = w2 + (size_t)L * D * F, *last = w3 + (size_t)L * F * D;
    float *output = head[5] > 0 ? embed : last + D + P * K; /* after the tables of cosines and sines */
    float *x = calloc(D, 4), *n = calloc(D, 4), *q = calloc(D, 4), *y = calloc(D, 4), *a = calloc(F, 4), *b = calloc(F, 4);
    float *keys = calloc((size_t)L * P * E, 4), *values = calloc((size_t)L * P * E, 4), *shares = calloc(P, 4);
    float *logits = calloc(V, 4);
    for (int token = 1, t = 0; t < atoi(argv[2]) && t < P; t++) {
        memcpy(x, embed + (size_t)token * D, D * 4);
        for (int l = 0; l < L; l++) {
            float *k = keys + ((size_t)l * P + t) * E, *v = values + ((size_t)l * P + t) * E;
            norm(n, x, norm1 + l * D, D);
            times(q, wq + (size_t)l * D * D, n, D, D);
            times(k, wk + (size_t)l * E * D, n, E, D);
            times(v, wv + (size_t)l * E * D, n, E, D);
            turn(q, H, K, t), turn(k, G, K, t);
            memset(y, 0, D * 4);
            for (int h = 0; h < H; h++) {
                int g = h / (H / G);
                float largest = -INFINITY, sum = 0;
                for (int s = 0; s <= t; s++) {
                    shares[s] = 0;
                    for (int i = 0; i < K; i++) shares[s] += q[h * K + i] * keys[((size_t)l * P + s) * E + g * K + i];
                    shares[s] /= sqrtf(K);
                    if (shares[s] > largest) largest = shares[s];
                }
                for (int s = 0; s <= t; s++) sum += shares[s] = expf(shares[s] - largest);
                for (int s = 0; s <= t; s++)
                    for (int i = 0; i < K; i++)
                        y[h * K + i] += shares[s] / sum * values[((size_t)l * P + s) * E + g * K + i];
            }
            times(n, wo + (size_t)l * D * D, y, D, D);
            for (int i = 0; i < D; i++) x[i] += n[i];
            norm(n, x, norm2 + l * D, D);
            times(a, w1 + (size_t)l * F * D, n, F, D);
            times(b, w3 + (size_t)l * F * D, n, F, D);
            for (int i = 0; i < F; i++) a[i] = a[i] / (1.0f + expf(-a[i])) * b[i];
            times(n, w2 + (size_t)l * D * F, a, D, F);
            for (int i = 0; i < D; i++) x[i] += n[i];
        }
        norm(n, x, last, D);
        times(logits, output, n, V, D);
        token = 0;
        for (int i = 1; i < V; i++)
            if (logits[i] > logits[token]) token = i;
        printf("%d %.6f\n", token, logits[token]);
    }
    return 0;
}
