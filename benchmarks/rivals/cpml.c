// The acoustic wave equation as one would write it in C: leapfrog in time, central differences of order ORDER in space,
// convolutional PML (Komatitsch & Martin 2007; Pasalic & McGarry 2010). One shot a call, no threads of its own.
//
//   p_next = 2 p - p_before + c2 (L p + chi_z + chi_x),    c2 = (v dt / h)^2,    per direction within its layer:
//   psi  <- b psi + a D p
//   zeta <- b zeta + a (L p + D psi),    chi = D psi + zeta

#include <string.h>
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

#define H (ORDER / 2)
#if ORDER == 4
static const float C[H + 1] = {-5.f / 2, 4.f / 3, -1.f / 12};
static const float D[H + 1] = {0, 2.f / 3, -1.f / 12};
#elif ORDER == 8
static const float C[H + 1] = {-205.f / 72, 8.f / 5, -1.f / 5, 8.f / 315, -1.f / 560};
static const float D[H + 1] = {0, 4.f / 5, -1.f / 5, 4.f / 105, -1.f / 280};
#endif

static inline float first(const float *p, long stride) {
  float sum = 0;
  for (int j = 1; j <= H; j++) sum += D[j] * (p[j * stride] - p[-j * stride]);
  return sum;
}

static inline float second(const float *p, long stride) {
  float sum = C[0] * p[0];
  for (int j = 1; j <= H; j++) sum += C[j] * (p[j * stride] + p[-j * stride]);
  return sum;
}

static void update_psi(float *restrict psi, const float *restrict p, const float *a, const float *b, long stride,
                       int from, int to) {
  for (int x = from; x < to; x++) psi[x] = b[x] * psi[x] + a[x] * first(p + x, stride);
}

static void add_chi(float *restrict next, float *restrict zeta, const float *restrict psi, const float *restrict p,
                    const float *restrict c2, const float *a, const float *b, long stride, int from, int to) {
  for (int x = from; x < to; x++) {
    float slope = first(psi + x, stride);
    zeta[x] = b[x] * zeta[x] + a[x] * (second(p + x, stride) + slope);
    next[x] += c2[x] * (slope + zeta[x]);
  }
}

// Fields have depth x width cells and H zeros around: row pitch `width + 2 H`, first cell at H pitch + H.
// az, bz [depth][width] hold one value a row, ax, bx [width] one a column; all are 0 outside the layers of `layer` cells.
// fields: room for 6 fields, cleared here. gather [samples][receivers]: the field at sample * every steps.
// amplitude [steps]: what is added to the source cell; cells are offsets into a field.
void propagate(int depth, int width, int layer, int samples, int every, const float *c2, const float *az,
               const float *bz, const float *ax, const float *bx, const float *amplitude, long source,
               const long *receivers, int receiver_count, float *fields, float *gather) {
#if defined(__SSE__)
  unsigned int mode = _mm_getcsr();
  _mm_setcsr(mode | 0x8040);  // numbers too small to be normal become 0: else the silence ahead of a wave is slow
#endif
  const long pitch = width + 2 * H, size = (depth + 2 * H) * pitch;
  memset(fields, 0, 6 * size * sizeof(float));
  float *now = fields, *next = fields + size;  // `next` holds the step before until it is overwritten
  float *psi_z = fields + 2 * size, *psi_x = fields + 3 * size;
  float *zeta_z = fields + 4 * size, *zeta_x = fields + 5 * size;
  const int edge = layer + H;  // D psi reaches H cells out of the layer

  for (int n = 0; n < samples * every; n++) {
    if (n % every == 0)
      for (int r = 0; r < receiver_count; r++) gather[(n / every) * (long)receiver_count + r] = now[receivers[r]];
    for (int z = 0; z < depth; z++) {
      const long row = (z + H) * pitch + H;
      update_psi(psi_x + row, now + row, ax, bx, 1, 0, layer);
      update_psi(psi_x + row, now + row, ax, bx, 1, width - layer, width);
      if (z < layer || z >= depth - layer)
        update_psi(psi_z + row, now + row, az + (long)z * width, bz + (long)z * width, pitch, 0, width);
    }
    for (int z = 0; z < depth; z++) {
      const long row = (z + H) * pitch + H;
      const float *restrict p = now + row, *restrict c = c2 + row;
      float *restrict q = next + row;
      for (int x = 0; x < width; x++) q[x] = 2 * p[x] - q[x] + c[x] * (second(p + x, 1) + second(p + x, pitch));
      add_chi(q, zeta_x + row, psi_x + row, p, c, ax, bx, 1, 0, edge);
      add_chi(q, zeta_x + row, psi_x + row, p, c, ax, bx, 1, width - edge, width);
      if (z < edge || z >= depth - edge)
        add_chi(q, zeta_z + row, psi_z + row, p, c, az + (long)z * width, bz + (long)z * width, pitch, 0, width);
    }
    next[source] += amplitude[n];
    float *swap = now;
    now = next;
    next = swap;
  }
#if defined(__SSE__)
  _mm_setcsr(mode);
#endif
}
