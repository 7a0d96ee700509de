/* The sampler: one run per tick of a perf event, one record per tick that met a running task.
 *
 * Every way out of on_tick is counted in the CPU's own counters; how each stack walk ended travels in the record.
 */
#include "helpers.h"

#include "abi.h"
#include "maps.h"
#include "offcpu.h"
#include "record.h"
#include "ticks.h"
#include "walk.h"

/* What became of this tick. */
static __always_inline enum pyrite_tick sample(struct tick_context *ctx, __u64 now_boot_ns)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	if (pid_tgid == 0)
		return PYRITE_TICK_IDLE;

	__u32 slot = walk_slot(PYRITE_CONTEXT_TICK);
	struct walk *walk = walk_at(slot);
	if (!walk)
		return PYRITE_TICK_NO_SCRATCH;

	walk->header.time_boot_ns = now_boot_ns;
	walk->header.flags = interrupted_user_mode(ctx) ? PYRITE_SAMPLE_USER_MODE : 0;
	identify(&walk->header, pid_tgid);
	walk_kernel_stack(ctx, walk);
	walk_user_stack(ctx, walk, slot);
	return send(walk, slot) ? PYRITE_TICK_SENT : PYRITE_TICK_RING_FULL;
}

SEC("perf_event")
int on_tick(struct tick_context *ctx)
{
	struct pyrite_cpu *cpu = bpf_map_lookup_elem(&cpus, &first);
	/* Element 0 of an array always exists; the verifier wants to hear it. */
	if (cpu) {
		__u64 now_boot_ns = bpf_ktime_get_boot_ns();

		note_lateness(cpu, now_boot_ns);
		cpu->ticks[sample(ctx, now_boot_ns)]++;
	}
	return (int)config.perf_samples;
}

/* The process is another program from here on: no stack shall be walked by the mappings of the one before. In this order,
 * for user space publishes first and then looks whether there was an exec. */
SEC("tp_btf/sched_process_exec")
int on_exec(void *ctx)
{
	__u32 tgid = bpf_get_current_pid_tgid() >> 32, slot = tgid % PYRITE_EXEC_SLOTS;
	__u64 *exec = bpf_map_lookup_elem(&execs, &slot);

	(void)ctx;
	if (exec)
		*exec = bpf_ktime_get_boot_ns();
	forget_process(tgid);
	return 0;
}

/* Most helpers used here are for programs under the GPL only; user space is under the Apache licence. */
char program_license[] SEC("license") = "GPL";
