/* Vector table and reset: one inference per reset, then sleep.
 *
 * There is no .data to copy and no .bss to clear: tables and weights stay in flash, and every tensor in the arena is
 * written before it is read. */
#include "program.h"

extern uint32_t stack_top[];
void reset(void);

static void unexpected(void) {
  for (;;) __asm__ volatile("bkpt");
}

__attribute__((noinline, used)) void idle(void) {
  for (;;) __asm__ volatile("wfi");
}

void reset(void) {
  infer();
  idle();
}

/* ARMv7-M, B1.5.2: the initial stack pointer, then the handlers of reset and of 14 system exceptions. */
__attribute__((section(".vectors"), used)) static const void *const vectors[16] = {
    stack_top,          (const void *)reset, (const void *)unexpected, (const void *)unexpected,
    (const void *)unexpected, (const void *)unexpected, (const void *)unexpected, (const void *)unexpected,
    (const void *)unexpected, (const void *)unexpected, (const void *)unexpected, (const void *)unexpected,
    (const void *)unexpected, (const void *)unexpected, (const void *)unexpected, (const void *)unexpected};
