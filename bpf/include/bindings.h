/* What the Rust bindings are generated from: our own ABI and the kernel's perf event interface. */
#include "abi.h"

#include <linux/perf_event.h>
