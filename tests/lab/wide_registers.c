/* Lets a User Mode Linux of kernel 6.1 start on a processor with AMX; tests/lab/kernel.py says why, builds and preloads it.
   It needs no header of a C library, so that a compiler alone is enough. */
#include <stdarg.h>
#include <stddef.h>

enum { SYS_PTRACE = 101, PEEK_TEXT = 1, PEEK_USER = 3, GET_REGISTER_SET = 0x4204, SET_REGISTER_SET = 0x4205, EXTENDED_STATE = 0x202 };

struct piece {
  void *base;
  size_t bytes;
};

extern long syscall(long number, ...);

static unsigned char whole[1 << 16] __attribute__((aligned(64)));
static size_t whole_bytes;

/* What is missing in the given part belongs to features that its header says are unused. */
static long set_extended_state(int process, const struct piece *given) {
  struct piece all = {whole, sizeof whole};
  if (whole_bytes == 0) {
    if (syscall(SYS_PTRACE, (long)GET_REGISTER_SET, (long)process, (long)EXTENDED_STATE, &all) != 0) return -1;
    whole_bytes = all.bytes;
    __builtin_memset(whole, 0, sizeof whole);
  }
  if (given->bytes >= whole_bytes) return syscall(SYS_PTRACE, (long)SET_REGISTER_SET, (long)process, (long)EXTENDED_STATE, given);
  __builtin_memcpy(whole, given->base, given->bytes);
  all.bytes = whole_bytes;
  return syscall(SYS_PTRACE, (long)SET_REGISTER_SET, (long)process, (long)EXTENDED_STATE, &all);
}

long ptrace(int request, ...) {
  va_list arguments;
  va_start(arguments, request);
  int process = va_arg(arguments, int);
  void *address = va_arg(arguments, void *), *data = va_arg(arguments, void *);
  va_end(arguments);
  if (request == SET_REGISTER_SET && (long)address == EXTENDED_STATE) return set_extended_state(process, data);
  if (request < PEEK_TEXT || request > PEEK_USER) return syscall(SYS_PTRACE, (long)request, (long)process, address, data);
  long word = 0; /* the C library's function returns what the kernel writes here */
  long answer = syscall(SYS_PTRACE, (long)request, (long)process, address, &word);
  return answer < 0 ? answer : word;
}
