// What the machine can do at most: a triad through memory or caches, and fused multiply-adds from registers.

typedef float vector __attribute__((vector_size(64)));

void triad(float *restrict a, const float *restrict b, const float *restrict c, long n, long rounds) {
  for (long round = 0; round < rounds; round++) {
    for (long i = 0; i < n; i++) a[i] = b[i] + 0.5f * c[i];
    __asm__ volatile("" ::: "memory");  // every round has to be done
  }
}

// 12 chains of 16 lanes: 2 * 12 * 16 operations a round.
float multiply_add(long rounds) {
  vector sum[12], factor = {0}, start = {0};
  factor += 0.999f;
  for (int k = 0; k < 12; k++) sum[k] = start + (float)k;
  for (long round = 0; round < rounds; round++)
    for (int k = 0; k < 12; k++) sum[k] = sum[k] * factor + factor;
  float total = 0;
  for (int k = 0; k < 12; k++) total += sum[k][0];
  return total;
}
