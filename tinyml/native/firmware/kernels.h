/* The operators that a generated program calls, one function each.
 *
 * Tensors are NHWC with one batch, as in a .tflite file. What is computed is what the reference kernels of TensorFlow
 * Lite Micro compute, bit for bit (tensorflow/lite/kernels/internal/reference). */
#ifndef TINYFLEET_KERNELS_H
#define TINYFLEET_KERNELS_H

#include <stdint.h>

/* A factor in fixed point: multiplier * 2^(shift - 31). */
struct factor {
  int32_t multiplier;
  int32_t shift;
};

/* How an accumulator becomes a stored value: scaled, moved by the zero point, and kept within low and high. */
struct requantisation {
  const struct factor *factors; /* one for each output channel */
  int32_t zero_point, low, high;
};

/* Geometry of a sliding window; pad is what lies before the first row and column. */
struct window {
  int32_t input_height, input_width, input_channels;
  int32_t output_height, output_width, output_channels;
  int32_t height, width;
  int32_t stride_y, stride_x;
  int32_t pad_y, pad_x;
};

struct convolution {
  const int8_t *input;
  int8_t *output;
  const int8_t *weights;
  const int32_t *bias; /* or null */
  int32_t input_offset; /* minus the input's zero point */
  struct window window;
  struct requantisation requantisation;
};

struct fully_connected {
  const int8_t *input;
  int8_t *output;
  const int8_t *weights;
  const int32_t *bias; /* or null */
  int32_t input_offset;
  int32_t rows, inputs, outputs;
  struct requantisation requantisation;
};

struct pool {
  const int8_t *input;
  int8_t *output;
  struct window window;
  int32_t low, high;
};

struct addition {
  const int8_t *first, *second;
  int8_t *output;
  int32_t length;
  int32_t first_offset, second_offset;
  int32_t left_shift;
  struct factor first_factor, second_factor, output_factor;
  int32_t zero_point, low, high;
};

struct softmax {
  const int8_t *input;
  int8_t *output;
  int32_t rows, depth;
  struct factor input_factor;
  int32_t smallest_difference; /* what lies further below the largest input becomes 0 */
};

struct quantise {
  const float *input;
  int8_t *output;
  int32_t length;
  float scale;
  int32_t zero_point;
};

struct dequantise {
  const int8_t *input;
  float *output;
  int32_t length;
  float scale;
  int32_t zero_point;
};

struct reshape {
  const int8_t *input;
  int8_t *output;
  int32_t bytes;
};

void conv_2d(const struct convolution *op);
void depthwise_conv_2d(const struct convolution *op);
void fully_connected(const struct fully_connected *op);
void average_pool_2d(const struct pool *op);
void max_pool_2d(const struct pool *op);
void add(const struct addition *op);
void softmax(const struct softmax *op);
void quantize(const struct quantise *op);
void dequantize(const struct dequantise *op);
void reshape(const struct reshape *op);

#endif
