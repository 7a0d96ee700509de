/* The books of the sampling clock. */
#ifndef PYRITE_TICKS_H
#define PYRITE_TICKS_H

#include "maps.h"

/* Tells late ticks from skipped ones. A timer that fires late does so at any moment and then skips what it missed, so the
 * gap is no multiple of the period; where the kernel skipped this program, the timer itself was on time and the gap is
 * one. User space knows how many are missing in all, and takes this as what explains part of them; so it does no harm that
 * a gap in which the event was closed, or the machine suspended, looks like a late tick. The event's own clock would tell
 * (bpf_perf_prog_read_value), but takes a tenth of a tick's time to read. */
static __always_inline void note_lateness(struct pyrite_cpu *cpu, __u64 now_boot_ns)
{
	__u64 period = config.period_ns, last = cpu->last_tick_boot_ns;

	cpu->last_tick_boot_ns = now_boot_ns;
	if (period == 0 || last == 0 || now_boot_ns - last < period + period / 2)
		return;
	__u64 gap = now_boot_ns - last, off_beat = gap % period;
	__u64 ticks = (gap + period / 2) / period;
	if (off_beat > period / 8 && off_beat < period - period / 8)
		cpu->ticks[PYRITE_TICK_MISSED_LATE] += ticks - 1;
}

#endif
