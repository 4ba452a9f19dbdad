/* int8 kernels; see kernels.h. */
#include "kernels.h"

#define UNROLL _Pragma("GCC unroll 8")

static int32_t smaller(int32_t a, int32_t b) { return a < b ? a : b; }
static int32_t larger(int32_t a, int32_t b) { return a > b ? a : b; }
static int32_t clamp(int32_t value, int32_t low, int32_t high) { return smaller(larger(value, low), high); }

/* The high half of 2ab, rounded: the product of two Q0.31 numbers. */
static int32_t multiply_high(int32_t a, int32_t b) {
  if (a == INT32_MIN && b == INT32_MIN) return INT32_MAX;
  int64_t product = (int64_t)a * b;
  int64_t nudge = product >= 0 ? (1 << 30) : 1 - (1 << 30);
  return (int32_t)((product + nudge) / (1LL << 31));
}

/* x / 2^exponent, rounded to nearest, halves away from zero. */
static int32_t divide_by_power(int32_t x, int32_t exponent) {
  int32_t mask = (int32_t)((1U << exponent) - 1);
  int32_t threshold = (mask >> 1) + (x < 0);
  return (x >> exponent) + ((x & mask) > threshold);
}

/* x * 2^exponent, kept within an int32. */
static int32_t multiply_by_power(int32_t x, int32_t exponent) {
  int32_t threshold = (int32_t)((1U << (31 - exponent)) - 1);
  if (x > threshold) return INT32_MAX;
  if (x < -threshold) return INT32_MIN;
  return (int32_t)((uint32_t)x << exponent);
}

/* TFLM's MultiplyByQuantizedMultiplier, with two roundings. */
static int32_t scale(int32_t x, struct factor factor) {
  int32_t left = larger(factor.shift, 0);
  int32_t right = larger(-factor.shift, 0);
  return divide_by_power(multiply_high((int32_t)((uint32_t)x << left), factor.multiplier), right);
}

static int8_t requantise(int32_t sum, int32_t channel, const struct requantisation *to) {
  return (int8_t)clamp(scale(sum, to->factors[channel]) + to->zero_point, to->low, to->high);
}

static int32_t dot(const int8_t *input, const int8_t *weights, int32_t length, int32_t offset) {
  int32_t sum = 0;
  UNROLL
  for (int32_t i = 0; i < length; i++) sum += (input[i] + offset) * weights[i];
  return sum;
}

/* The part of a window that lies within the input, for one output position. */
struct span {
  int32_t top, left;         /* input position of the window's corner; negative within the padding */
  int32_t y0, y1, x0, x1;    /* window positions from and up to */
};

static struct span span_at(const struct window *w, int32_t y, int32_t x) {
  struct span span;
  span.top = y * w->stride_y - w->pad_y;
  span.left = x * w->stride_x - w->pad_x;
  span.y0 = larger(0, -span.top);
  span.x0 = larger(0, -span.left);
  span.y1 = smaller(w->height, w->input_height - span.top);
  span.x1 = smaller(w->width, w->input_width - span.left);
  return span;
}

static int32_t input_at(const struct window *w, int32_t y, int32_t x) {
  return (y * w->input_width + x) * w->input_channels;
}

static void conv_position(const struct convolution *op, const struct span *span, int8_t *output) {
  const struct window *w = &op->window;
  int32_t length = (span->x1 - span->x0) * w->input_channels; /* a row of the window is contiguous */
  for (int32_t channel = 0; channel < w->output_channels; channel++) {
    int32_t sum = op->bias ? op->bias[channel] : 0;
    for (int32_t y = span->y0; y < span->y1; y++) {
      const int8_t *input = op->input + input_at(w, span->top + y, span->left + span->x0);
      const int8_t *weights = op->weights + ((channel * w->height + y) * w->width + span->x0) * w->input_channels;
      sum += dot(input, weights, length, op->input_offset);
    }
    output[channel] = requantise(sum, channel, &op->requantisation);
  }
}

static void depthwise_position(const struct convolution *op, const struct span *span, int8_t *output) {
  const struct window *w = &op->window;
  int32_t multiplier = w->output_channels / w->input_channels;
  for (int32_t channel = 0; channel < w->output_channels; channel++) {
    int32_t sum = op->bias ? op->bias[channel] : 0;
    for (int32_t y = span->y0; y < span->y1; y++) {
      const int8_t *input = op->input + input_at(w, span->top + y, span->left + span->x0) + channel / multiplier;
      const int8_t *weights = op->weights + (y * w->width + span->x0) * w->output_channels + channel;
      for (int32_t x = span->x0; x < span->x1; x++) {
        sum += (*input + op->input_offset) * *weights;
        input += w->input_channels;
        weights += w->output_channels;
      }
    }
    output[channel] = requantise(sum, channel, &op->requantisation);
  }
}

static void convolve(const struct convolution *op,
                     void (*position)(const struct convolution *, const struct span *, int8_t *)) {
  const struct window *w = &op->window;
  int8_t *output = op->output;
  for (int32_t y = 0; y < w->output_height; y++) {
    for (int32_t x = 0; x < w->output_width; x++) {
      struct span span = span_at(w, y, x);
      position(op, &span, output);
      output += w->output_channels;
    }
  }
}

void conv_2d(const struct convolution *op) { convolve(op, conv_position); }

void depthwise_conv_2d(const struct convolution *op) { convolve(op, depthwise_position); }

void fully_connected(const struct fully_connected *op) {
  for (int32_t row = 0; row < op->rows; row++) {
    for (int32_t unit = 0; unit < op->outputs; unit++) {
      int32_t sum = op->bias ? op->bias[unit] : 0;
      sum += dot(op->input + row * op->inputs, op->weights + unit * op->inputs, op->inputs, op->input_offset);
      op->output[row * op->outputs + unit] = requantise(sum, unit, &op->requantisation);
    }
  }
}

static int32_t average(const struct pool *op, const struct span *span, int32_t channel) {
  const struct window *w = &op->window;
  int32_t sum = 0;
  for (int32_t y = span->y0; y < span->y1; y++)
    for (int32_t x = span->x0; x < span->x1; x++)
      sum += op->input[input_at(w, span->top + y, span->left + x) + channel];
  int32_t count = (span->y1 - span->y0) * (span->x1 - span->x0);
  return sum > 0 ? (sum + count / 2) / count : (sum - count / 2) / count;
}

static int32_t maximum(const struct pool *op, const struct span *span, int32_t channel) {
  const struct window *w = &op->window;
  int32_t found = INT8_MIN;
  for (int32_t y = span->y0; y < span->y1; y++)
    for (int32_t x = span->x0; x < span->x1; x++)
      found = larger(found, op->input[input_at(w, span->top + y, span->left + x) + channel]);
  return found;
}

static void pool(const struct pool *op, int32_t (*judge)(const struct pool *, const struct span *, int32_t)) {
  const struct window *w = &op->window;
  int8_t *output = op->output;
  for (int32_t y = 0; y < w->output_height; y++) {
    for (int32_t x = 0; x < w->output_width; x++) {
      struct span span = span_at(w, y, x);
      for (int32_t channel = 0; channel < w->output_channels; channel++)
        *output++ = (int8_t)clamp(judge(op, &span, channel), op->low, op->high);
    }
  }
}

void average_pool_2d(const struct pool *op) { pool(op, average); }

void max_pool_2d(const struct pool *op) { pool(op, maximum); }

void add(const struct addition *op) {
  for (int32_t i = 0; i < op->length; i++) {
    int32_t first = scale((op->first[i] + op->first_offset) << op->left_shift, op->first_factor);
    int32_t second = scale((op->second[i] + op->second_offset) << op->left_shift, op->second_factor);
    op->output[i] = (int8_t)clamp(scale(first + second, op->output_factor) + op->zero_point, op->low, op->high);
  }
}

/* exp(x) for x in [-1/4, 0), Q0.31: a Taylor polynomial of degree 4 around -1/8. */
static int32_t exp_near_zero(int32_t x) {
  const int32_t exp_minus_eighth = 1895147668, third = 715827883;
  int32_t t = x + (1 << 28);
  int32_t t2 = multiply_high(t, t);
  int32_t t3 = multiply_high(t2, t);
  int32_t t4_quarter = divide_by_power(multiply_high(t2, t2), 2);
  int32_t tail = divide_by_power(multiply_high(t4_quarter + t3, third) + t2, 1);
  return exp_minus_eighth + multiply_high(exp_minus_eighth, t + tail);
}

/* exp(x) for x <= 0 in Q5.26; the result is Q0.31. The multiples of 1/4 come from a table, one factor for each bit. */
static int32_t exp_negative(int32_t x) {
  static const int32_t exp_of_minus[] = {/* 1/4, 1/2, 1, … 16 */ 1672461947, 1302514674, 790015084, 290630308,
                                         39332535,  720401,     242};
  const int32_t quarter = 1 << 24;
  if (x == 0) return INT32_MAX;
  int32_t rest = (x & (quarter - 1)) - quarter;
  int32_t multiples = rest - x;
  int32_t result = exp_near_zero(multiply_by_power(rest, 5));
  for (int32_t bit = 0; bit < 7; bit++)
    if (multiples & (quarter << bit)) result = multiply_high(result, exp_of_minus[bit]);
  return result;
}

/* 1 / (1 + x) for x in [0, 1), Q0.31, by three steps of Newton and Raphson from 48/17 - 32/17 d, in Q2.29. */
static int32_t reciprocal_of_one_plus(int32_t x) {
  int32_t half_denominator = (int32_t)(((int64_t)x + INT32_MAX + 1) / 2);
  int32_t estimate = 1515870810 + multiply_high(half_denominator, -1010580540);
  for (int32_t step = 0; step < 3; step++) {
    int32_t error = (1 << 29) - multiply_high(half_denominator, estimate);
    estimate += multiply_by_power(multiply_high(estimate, error), 2);
  }
  return multiply_by_power(estimate, 1);
}

static int32_t exp_scaled(const struct softmax *op, int32_t difference) {
  return exp_negative(scale(difference, op->input_factor));
}

static void softmax_row(const struct softmax *op, const int8_t *input, int8_t *output) {
  int32_t largest = INT8_MIN, sum = 0; /* the sum is Q12.19 */
  for (int32_t i = 0; i < op->depth; i++) largest = larger(largest, input[i]);
  for (int32_t i = 0; i < op->depth; i++)
    if (input[i] - largest >= op->smallest_difference)
      sum += divide_by_power(exp_scaled(op, input[i] - largest), 12);
  int32_t headroom = __builtin_clz((uint32_t)sum);
  int32_t share = reciprocal_of_one_plus((int32_t)(((uint32_t)sum << headroom) - (1U << 31)));
  int32_t exponent = 12 - headroom + 31 - 8;
  for (int32_t i = 0; i < op->depth; i++) {
    int32_t difference = input[i] - largest;
    int32_t value = INT8_MIN;
    if (difference >= op->smallest_difference)
      value += divide_by_power(multiply_high(share, exp_scaled(op, difference)), exponent);
    output[i] = (int8_t)clamp(value, INT8_MIN, INT8_MAX);
  }
}

void softmax(const struct softmax *op) {
  for (int32_t row = 0; row < op->rows; row++) softmax_row(op, op->input + row * op->depth, op->output + row * op->depth);
}

void quantize(const struct quantise *op) {
  for (int32_t i = 0; i < op->length; i++) {
    float value = op->input[i] / op->scale;
    value = value < -1024.0f ? -1024.0f : value > 1024.0f ? 1024.0f : value; /* beyond every int8 and zero point */
    int32_t whole = (int32_t)value;
    float rest = value - (float)whole;
    int32_t nearest = whole + (rest >= 0.5f) - (rest <= -0.5f);
    op->output[i] = (int8_t)clamp(nearest + op->zero_point, INT8_MIN, INT8_MAX);
  }
}

void dequantize(const struct dequantise *op) {
  for (int32_t i = 0; i < op->length; i++) op->output[i] = op->scale * (float)(op->input[i] - op->zero_point);
}

void reshape(const struct reshape *op) {
  for (int32_t i = 0; i < op->bytes; i++) op->output[i] = op->input[i];
}
