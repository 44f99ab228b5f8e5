// The step of a causal transformer on a CPU: ids' embeddings in, hidden states out, in one call for all layers.
//
//   token r    x[r] ── norm ─ qkv ─ rotate ─▶ its own cache ─ attention over the filled prefix ─ out ─(+)
//                 └── norm ─ gate, up ─ silu ─ down ─(+)──▶ next layer
//
// A token names its cache and its place in it, so that tokens of one prompt and tokens of many requests are the same to
// it. Invariant: what comes out for a token depends on that token and its cache alone, to the bit, whatever stands
// beside it: each product of a weight row and a token is summed in one order, with however many tokens at a time.
//
// Weights lie in blocks of 4 rows × 32 columns, so that each thread reads one stream:
//   fp32    4 × 32 floats
//   bf16    4 × 16 words: column i in the lower half of word i, column 16 + i in the upper one
//   int8    4 × 32 bytes, a scale a row; the token is rounded to int16, and sums are whole numbers
//
// One team of threads walks through all layers together. Built by native.py; knows no ids.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace {

// A register of this machine, and how many of them there are.
#if defined(__AVX512BW__)
constexpr int kWidth = 64, kRegisters = 32;
#elif defined(__AVX2__)
constexpr int kWidth = 32, kRegisters = 16;
#elif defined(__SSE2__)
constexpr int kWidth = 16, kRegisters = 16;
#else
constexpr int kWidth = 16, kRegisters = 32;
#endif
constexpr int kLanes = kWidth / 4;

typedef float Floats __attribute__((vector_size(kWidth)));
typedef uint32_t Words __attribute__((vector_size(kWidth)));
typedef int32_t Wholes __attribute__((vector_size(kWidth)));
typedef int16_t Halves __attribute__((vector_size(kWidth)));
typedef int8_t Bytes __attribute__((vector_size(kWidth / 2)));

constexpr int kRows = 4, kColumns = 32, kBeside = 4;  // of a block; tokens that share one reading of it
constexpr int kMost = 64;                             // tokens of one call
constexpr size_t kAhead = 8192;                       // bytes
enum Kind : int32_t { kFp32 = 0, kBf16 = 1, kInt8 = 2 };

struct Matrix {
  const void* weight;
  const float* scale;
  int32_t rows, columns, kind, unused;
};

struct Layer {
  const float *attention_norm, *mlp_norm, *query_norm, *key_norm;
  Matrix qkv, out, gate_up, down;
};

struct Model {
  int32_t layers, dim, heads, kv_heads, head_size, hidden;
  float eps, unused;
  const Layer* layer;
  const float *norm, *rates;
};

int padded(int columns) { return (columns + kColumns - 1) / kColumns * kColumns; }

template <class V>
inline V load(const void* from) {
  V value;
  std::memcpy(&value, from, sizeof value);
#if defined(__AVX512F__)
  asm("" : "+v"(value));  // stays in a register: gcc would read it from memory again for each product
#endif
  return value;
}

inline Halves widened(const int8_t* from) {
#if defined(__AVX512BW__)
  return (Halves)_mm512_cvtepi8_epi16((__m256i)load<Bytes>(from));
#elif defined(__AVX2__)
  return (Halves)_mm256_cvtepi8_epi16((__m128i)load<Bytes>(from));
#else
  return __builtin_convertvector(load<Bytes>(from), Halves);
#endif
}

// The sum of N lanes, halving them, so that the compiler stays in registers.
template <int N>
struct Lanes {
  typedef float All __attribute__((vector_size(4 * N)));
  static float total(All lanes) {
    union {
      All all;
      typename Lanes<N / 2>::All half[2];
    } whole = {lanes};
    return Lanes<N / 2>::total(whole.half[0] + whole.half[1]);
  }
};

template <>
struct Lanes<4> {
  typedef float All __attribute__((vector_size(16)));
  static float total(All lanes) { return (lanes[0] + lanes[2]) + (lanes[1] + lanes[3]); }
};

inline float total(Floats lanes) { return Lanes<kLanes>::total(lanes); }

inline Wholes pairs(Wholes sum, Halves a, Halves b) {
#if defined(__AVX512VNNI__)
  return (Wholes)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)a, (__m512i)b);
#elif defined(__AVX512BW__)
  return sum + (Wholes)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
  return sum + (Wholes)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
  return sum + (Wholes)_mm_madd_epi16((__m128i)a, (__m128i)b);
#else
  for (int i = 0; i < kLanes; ++i) sum[i] += (int32_t)a[2 * i] * b[2 * i] + (int32_t)a[2 * i + 1] * b[2 * i + 1];
  return sum;
#endif
}

// Asks for a block that is not needed yet, line by line: the processor's own guess ends at each page.
template <int bytes>
inline void ahead(const void* block) {
  for (int line = 0; line < bytes; line += 64) __builtin_prefetch((const char*)block + kAhead + line);
}

// Rows of tokens as a product reads them.
struct Tokens {
  const float* exact;
  const int16_t* rounded;
  const float* scale;
  int stride;
};

// Rows whose sums, with R tokens and a weight, stay in registers; the rest of a block is walked again.
template <int R>
constexpr int at_once() {
  return kRows * R + R + 2 <= kRegisters ? kRows : 2;
}

template <int R, int N>
void dot_fp32(const float* weight, const Tokens& x, int first, int blocks, float (*out)[kBeside]) {
  Floats sum[N][R] = {};
  const float* token = x.exact + (size_t)first * x.stride;
  for (int b = 0; b < blocks; ++b, weight += kRows * kColumns, token += kColumns) {
    ahead<kRows * kColumns * 4>(weight);
    for (int part = 0; part < kColumns; part += kLanes) {
      Floats in[R];
      for (int r = 0; r < R; ++r) in[r] = load<Floats>(token + r * x.stride + part);
      for (int n = 0; n < N; ++n) {
        const Floats w = load<Floats>(weight + n * kColumns + part);
        for (int r = 0; r < R; ++r) sum[n][r] += w * in[r];
      }
    }
  }
  for (int n = 0; n < N; ++n)
    for (int r = 0; r < R; ++r) out[n][r] = total(sum[n][r]);
}

template <int R, int N>
void dot_bf16(const uint32_t* weight, const Tokens& x, int first, int blocks, float (*out)[kBeside]) {
  Floats sum[N][R] = {};
  const float* token = x.exact + (size_t)first * x.stride;
  for (int b = 0; b < blocks; ++b, weight += kRows * 16, token += kColumns) {
    ahead<kRows * kColumns * 2>(weight);
    for (int part = 0; part < 16; part += kLanes) {
      Floats low[R], high[R];
      for (int r = 0; r < R; ++r) low[r] = load<Floats>(token + r * x.stride + part);
      for (int r = 0; r < R; ++r) high[r] = load<Floats>(token + r * x.stride + 16 + part);
      for (int n = 0; n < N; ++n) {
        const Words both = load<Words>(weight + n * 16 + part);
        const Floats lower = (Floats)(both << 16), upper = (Floats)(both & 0xffff0000u);
        for (int r = 0; r < R; ++r) sum[n][r] += lower * low[r];
        for (int r = 0; r < R; ++r) sum[n][r] += upper * high[r];
      }
    }
  }
  for (int n = 0; n < N; ++n)
    for (int r = 0; r < R; ++r) out[n][r] = total(sum[n][r]);
}

template <int R, int N>
void dot_int8(const int8_t* weight, const Tokens& x, int first, int blocks, float (*out)[kBeside]) {
  Wholes sum[N][R] = {};
  const int16_t* token = x.rounded + (size_t)first * x.stride;
  for (int b = 0; b < blocks; ++b, weight += kRows * kColumns, token += kColumns) {
    ahead<kRows * kColumns>(weight);
    for (int part = 0; part < kColumns; part += 2 * kLanes) {
      for (int n = 0; n < N; ++n) {
        const Halves w = widened(weight + n * kColumns + part);
        for (int r = 0; r < R; ++r) sum[n][r] = pairs(sum[n][r], w, load<Halves>(token + r * x.stride + part));
      }
    }
  }
  for (int n = 0; n < N; ++n)
    for (int r = 0; r < R; ++r) out[n][r] = total(__builtin_convertvector(sum[n][r], Floats)) * x.scale[first + r];
}

template <int R>
void dot(const Matrix& m, int block, const Tokens& x, int first, float (*out)[kBeside]) {
  constexpr int N = at_once<R>();
  const int blocks = padded(m.columns) / kColumns;
  const size_t at = (size_t)block * blocks * kRows * kColumns;
  for (int n = 0; n < kRows; n += N) {
    if (m.kind == kFp32) dot_fp32<R, N>((const float*)m.weight + at + n * kColumns, x, first, blocks, out + n);
    if (m.kind == kBf16) dot_bf16<R, N>((const uint32_t*)m.weight + at / 2 + n * 16, x, first, blocks, out + n);
    if (m.kind == kInt8) dot_int8<R, N>((const int8_t*)m.weight + at + n * kColumns, x, first, blocks, out + n);
  }
  if (m.kind != kInt8) return;
  for (int n = 0; n < kRows; ++n)
    for (int r = 0; r < R; ++r) out[n][r] *= m.scale[block * kRows + n];
}

// Within a team: every thread takes some rows of the matrix; put(row, token, four sums).
template <class Put>
void multiply(const Matrix& m, const Tokens& x, int tokens, Put put) {
  const int blocks = (m.rows + kRows - 1) / kRows;
#pragma omp for schedule(static)
  for (int block = 0; block < blocks; ++block) {
    float out[kRows][kBeside];
    for (int first = 0; first < tokens; first += kBeside) {
      const int beside = std::min(kBeside, tokens - first);
      if (beside == 4) dot<4>(m, block, x, first, out);
      else if (beside == 3) dot<3>(m, block, x, first, out);
      else if (beside == 2) dot<2>(m, block, x, first, out);
      else dot<1>(m, block, x, first, out);
      for (int r = 0; r < beside; ++r) put(block * kRows, first + r, out, r);
    }
  }
}

// To int16, such that no sum of a product overflows; the scale is no number where one of the row is none.
float round_row(const float* row, int columns, int16_t* rounded) {
  float most = 0, broken = 0;
#pragma omp simd reduction(max : most) reduction(+ : broken)
  for (int i = 0; i < columns; ++i) {
    most = std::max(most, std::fabs(row[i]));
    broken += row[i] * 0.0f;
  }
  const float range = std::floor(std::min(32767.0f, 2147483647.0f / (127.0f * padded(columns) / kLanes)));
  const float up = most > 0 ? range / most : 0;
#pragma omp simd
  for (int i = 0; i < columns; ++i) rounded[i] = (int16_t)std::rint(row[i] * up);
  return most / range + broken;
}

void norm_row(const float* x, const float* weight, int size, float eps, float* out) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int i = 0; i < size; ++i) sum += x[i] * x[i];
  const float scale = 1.0f / std::sqrt(sum / size + eps);
#pragma omp simd
  for (int i = 0; i < size; ++i) out[i] = x[i] * scale * weight[i];
}

void rotate(float* head, const float* turn, int size) {
  const int half = size / 2;
#pragma omp simd
  for (int i = 0; i < half; ++i) {
    const float a = head[i], b = head[half + i], cosine = turn[i], sine = turn[half + i];
    head[i] = a * cosine - b * sine;
    head[half + i] = b * cosine + a * sine;
  }
}

void attend(const float* q, const float* keys, const float* values, int count, int size, float* scores, float* out) {
  const float scale = 1.0f / std::sqrt((float)size);
  float most = -INFINITY;
  for (int j = 0; j < count; ++j) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < size; ++i) sum += q[i] * keys[(size_t)j * size + i];
    scores[j] = sum * scale;
    most = std::max(most, scores[j]);
  }
  float all = 0;
#pragma omp simd reduction(+ : all)
  for (int j = 0; j < count; ++j) {
    scores[j] = std::exp(scores[j] - most);
    all += scores[j];
  }
  std::fill(out, out + size, 0.0f);
  for (int j = 0; j < count; ++j) {
    const float share = scores[j];
#pragma omp simd
    for (int i = 0; i < size; ++i) out[i] += share * values[(size_t)j * size + i];
  }
  for (int i = 0; i < size; ++i) out[i] /= all;
}

// Buffers of one call, in memory of the caller that is zero at first: columns that pad a row stay zero.
struct Scratch {
  float *x, *normed, *qkv, *mixed, *bent, *turns, *scale;
  int16_t* rounded;
  int of_dim, of_qkv, of_mixed, of_bent;
};

size_t lay_out(const Model& m, float* memory, Scratch& s) {
  s.of_dim = padded(m.dim), s.of_qkv = (m.heads + 2 * m.kv_heads) * m.head_size;
  s.of_mixed = padded(m.heads * m.head_size), s.of_bent = padded(m.hidden);
  size_t used = 0;
  auto take = [&](size_t each) {
    float* at = memory + used;
    used += each * kMost;
    return at;
  };
  s.x = take(s.of_dim), s.normed = take(s.of_dim), s.qkv = take(s.of_qkv), s.mixed = take(s.of_mixed);
  s.bent = take(s.of_bent), s.turns = take(m.head_size), s.scale = take(1);
  s.rounded = (int16_t*)take((s.of_dim + s.of_mixed + s.of_bent) / 2);
  return used;
}

// Rows as the next product wants them: rounded, where its weights are whole numbers.
Tokens ready(const Matrix& m, const float* rows, int stride, int16_t* rounded, float* scale, int tokens) {
  if (m.kind == kInt8) {
#pragma omp for schedule(static)
    for (int r = 0; r < tokens; ++r)
      scale[r] = round_row(rows + (size_t)r * stride, m.columns, rounded + (size_t)r * stride);
  }
  return {rows, rounded, scale, stride};
}

// Norm, and rounding with it.
Tokens normed(const Matrix& m, const Model& model, const float* weight, const Scratch& s, int tokens) {
#pragma omp for schedule(static)
  for (int r = 0; r < tokens; ++r) {
    const size_t at = (size_t)r * s.of_dim;
    norm_row(s.x + at, weight, model.dim, model.eps, s.normed + at);
    if (m.kind == kInt8) s.scale[r] = round_row(s.normed + at, model.dim, s.rounded + at);
  }
  return {s.normed, s.rounded, s.scale, s.of_dim};
}

}  // namespace

extern "C" {

int most_tokens() { return kMost; }

int64_t scratch_floats(const Model* model) {
  Scratch s;
  return (int64_t)lay_out(*model, nullptr, s);
}

// Hidden states out [tokens, dim] of x [tokens, dim]. Of each token: its position, its cache's keys and values
// [layers, kv_heads, capacity, head_size], its place there, and that cache's capacity. Tokens of one cache stand in the
// order of their places; 64 tokens at most.
void step(const Model* model, int tokens, const float* x, float* out, const float* positions, const int32_t* place,
          float* const* keys, float* const* values, const int32_t* capacity, float* memory, int threads) {
  const Model& m = *model;
  Scratch s;
  lay_out(m, memory, s);
  const int size = m.head_size, both = m.heads + m.kv_heads, group = m.heads / m.kv_heads;
  int16_t* const of_mixed = s.rounded + (size_t)kMost * s.of_dim;
  int16_t* const of_bent = of_mixed + (size_t)kMost * s.of_mixed;
  for (int r = 0; r < tokens; ++r) {
    std::copy(x + (size_t)r * m.dim, x + (size_t)(r + 1) * m.dim, s.x + (size_t)r * s.of_dim);
    float* turn = s.turns + (size_t)r * size;
    for (int i = 0; i < size / 2; ++i) {
      turn[i] = std::cos(positions[r] * m.rates[i]);
      turn[size / 2 + i] = std::sin(positions[r] * m.rates[i]);
    }
  }
#pragma omp parallel num_threads(threads)
  {
    static thread_local std::vector<float> scores;
    for (int l = 0; l < m.layers; ++l) {
      const Layer& layer = m.layer[l];
      const Tokens first = normed(layer.qkv, m, layer.attention_norm, s, tokens);
      multiply(layer.qkv, first, tokens, [&](int row, int r, float(*sums)[kBeside], int at) {
        const int many = std::min(kRows, layer.qkv.rows - row);
        for (int n = 0; n < many; ++n) s.qkv[(size_t)r * s.of_qkv + row + n] = sums[n][at];
      });
#pragma omp for collapse(2) schedule(static)
      for (int r = 0; r < tokens; ++r)
        for (int h = 0; h < both; ++h) {
          float* head = s.qkv + (size_t)r * s.of_qkv + (size_t)h * size;
          const float* weight = h < m.heads ? layer.query_norm : layer.key_norm;
          if (weight) norm_row(head, weight, size, m.eps, head);
          rotate(head, s.turns + (size_t)r * size, size);
          if (h < m.heads) continue;
          const size_t at = (((size_t)l * m.kv_heads + h - m.heads) * capacity[r] + place[r]) * size;
          std::copy(head, head + size, keys[r] + at);
          const float* value = head + (size_t)m.kv_heads * size;
          std::copy(value, value + size, values[r] + at);
        }
#pragma omp for collapse(2) schedule(static)
      for (int r = 0; r < tokens; ++r)
        for (int h = 0; h < m.heads; ++h) {
          if ((int)scores.size() <= place[r]) scores.resize(2 * place[r] + 64);
          const size_t at = ((size_t)l * m.kv_heads + h / group) * capacity[r] * size;
          attend(s.qkv + (size_t)r * s.of_qkv + (size_t)h * size, keys[r] + at, values[r] + at, place[r] + 1, size,
                 scores.data(), s.mixed + (size_t)r * s.of_mixed + (size_t)h * size);
        }
      auto add = [&](int row, int r, float(*sums)[kBeside], int at) {
        const int many = std::min(kRows, m.dim - row);
        for (int n = 0; n < many; ++n) s.x[(size_t)r * s.of_dim + row + n] += sums[n][at];
      };
      multiply(layer.out, ready(layer.out, s.mixed, s.of_mixed, of_mixed, s.scale, tokens), tokens, add);
      const Tokens second = normed(layer.gate_up, m, layer.mlp_norm, s, tokens);
      multiply(layer.gate_up, second, tokens, [&](int row, int r, float(*sums)[kBeside], int at) {
        for (int n = 0; n < 2; ++n) {  // a block holds two rows of gate, then the two of up beside them
          const float gate = sums[n][at];
          s.bent[(size_t)r * s.of_bent + row / 2 + n] = gate / (1.0f + std::exp(-gate)) * sums[n + 2][at];
        }
      });
      multiply(layer.down, ready(layer.down, s.bent, s.of_bent, of_bent, s.scale, tokens), tokens, add);
    }
#pragma omp for schedule(static)
    for (int r = 0; r < tokens; ++r)
      norm_row(s.x + (size_t)r * s.of_dim, m.norm, m.dim, m.eps, out + (size_t)r * m.dim);
  }
}

// out [tokens, rows] of x [tokens, columns]; memory: 64 × (2 × padded columns + 16) floats, zero at first.
void product(const Matrix* matrix, int tokens, const float* x, float* out, float* memory, int threads) {
  const Matrix& m = *matrix;
  const int stride = padded(m.columns);
  float* const scale = memory + (size_t)kMost * stride;
  int16_t* const rounded = (int16_t*)(scale + kMost);
  for (int r = 0; r < tokens; ++r)
    std::copy(x + (size_t)r * m.columns, x + (size_t)(r + 1) * m.columns, memory + (size_t)r * stride);
#pragma omp parallel num_threads(threads)
  {
    multiply(m, ready(m, memory, stride, rounded, scale, tokens), tokens,
             [&](int row, int r, float(*sums)[kBeside], int at) {
               const int many = std::min(kRows, m.rows - row);
               for (int n = 0; n < many; ++n) out[(size_t)r * m.rows + row + n] = sums[n][at];
             });
  }
}

// Sum of floats: how fast this machine reads.
float read_all(const float* from, int64_t count, int threads) {
  float sum = 0;
#pragma omp parallel for schedule(static) num_threads(threads) reduction(+ : sum)
  for (int64_t block = 0; block < count / 1024; ++block) {
    Floats part[4] = {};
    const float* at = from + block * 1024;
    __builtin_prefetch(at + 4096);
    for (int i = 0; i < 1024; i += 4 * kLanes)
      for (int n = 0; n < 4; ++n) part[n] += load<Floats>(at + i + n * kLanes);
    sum += total(part[0] + part[1] + part[2] + part[3]);
  }
  return sum;
}
}
