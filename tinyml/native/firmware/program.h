/* What a generated program says of itself to the code around it. */
#ifndef TINYFLEET_PROGRAM_H
#define TINYFLEET_PROGRAM_H

#include <stdint.h>

/* Follows the vector table; `tinyml.native.program` reads it. */
struct program_facts {
  uint32_t magic;
  void (*idle)(void); /* where the core waits once an inference is done */
  const void *input;
  uint32_t input_bytes;
  const void *output;
  uint32_t output_bytes;
  uint32_t arena_bytes;
};

#define PROGRAM_MAGIC 0x31504654 /* "TFP1" */

void infer(void); /* generated: runs every operator once */
void idle(void);

#endif
