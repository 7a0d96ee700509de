/* The sampler: one run per tick of a perf event, one record per tick that met a running task.
 *
 * Every way out of on_tick is counted in the CPU's own counters; how each stack walk ended travels in the record.
 */
#include "helpers.h"

#include <linux/bpf_perf_event.h>
#include <linux/ptrace.h>
#include <asm/ptrace.h>

#include "abi.h"
#include "kernel.h"

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} ring SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct pyrite_cpu);
} cpus SEC(".maps");

/* The record is built here and not on the stack, which has 512 bytes. One is enough per CPU: the kernel does not run a
 * perf event program inside another (bpf_prog_active). */
struct scratch {
	struct pyrite_sample_header header;
	__u64 frames[2 * (PYRITE_MAX_FRAMES + 1)];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scratch);
} scratches SEC(".maps");

const volatile struct pyrite_config config SEC(".rodata") = {};

static const __u32 first = 0;

static inline _Bool interrupted_user_mode(struct bpf_perf_event_data *ctx)
{
#if defined(__TARGET_ARCH_x86)
	return (ctx->regs.cs & 3) == 3;
#elif defined(__TARGET_ARCH_arm64)
	return (ctx->regs.pstate & 0xf) == 0;
#else
#error "unknown target architecture"
#endif
}

/* Walks one stack by the kernel's own unwinder (frame pointers for user space) to `frames`. Returns the frame count, at
 * most PYRITE_MAX_FRAMES, and says in `outcome` how it ended. */
static __always_inline __u32 walk(struct bpf_perf_event_data *ctx, __u64 *frames, __u64 flags, __u8 *outcome)
{
	long bytes = bpf_get_stack(ctx, frames, PYRITE_MAX_FRAMES * sizeof(*frames), flags);
	if (bytes < 0) {
		*outcome = PYRITE_STACK_FAULT;
		return 0;
	}
	/* The mask cannot change the value; it tells the verifier the bound. */
	__u32 count = (bytes / sizeof(*frames)) & PYRITE_MAX_FRAMES;
	*outcome = count == 0 ? PYRITE_STACK_ABSENT : count == PYRITE_MAX_FRAMES ? PYRITE_STACK_TRUNCATED : PYRITE_STACK_WALKED;
	return count;
}

/* Fills the frames and what the header says of them; returns how many there are. */
static __always_inline __u32 collect_stacks(struct bpf_perf_event_data *ctx, struct scratch *record)
{
	struct pyrite_sample_header *header = &record->header;
	__u32 kernel_frames = 0, user_frames = 0;

	header->kernel_stack = header->user_stack = PYRITE_STACK_ABSENT;
	if (!(header->flags & PYRITE_SAMPLE_USER_MODE))
		kernel_frames = walk(ctx, record->frames, 0, &header->kernel_stack);
	if (!(header->flags & PYRITE_SAMPLE_KERNEL_THREAD))
		user_frames = walk(ctx, &record->frames[kernel_frames], BPF_F_USER_STACK, &header->user_stack);
	header->kernel_frames = kernel_frames;
	header->user_frames = user_frames;
	return kernel_frames + user_frames;
}

static __always_inline void identify(struct bpf_perf_event_data *ctx, struct pyrite_sample_header *header, __u64 pid_tgid)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct task_struct *leader = read_field(task, group_leader);

	header->kind = PYRITE_RECORD_SAMPLE;
	header->cpu = bpf_get_smp_processor_id();
	header->time_boot_ns = bpf_ktime_get_boot_ns();
	header->start_boot_ns = read_field(leader, start_boottime);
	header->cgroup_id = bpf_get_current_cgroup_id();
	header->tgid = pid_tgid >> 32;
	header->tid = (__u32)pid_tgid;
	header->flags = (read_field(task, flags) & PF_KTHREAD ? PYRITE_SAMPLE_KERNEL_THREAD : 0) |
			(interrupted_user_mode(ctx) ? PYRITE_SAMPLE_USER_MODE : 0);
	header->reserved = 0;
	bpf_get_current_comm(header->comm, sizeof(header->comm));
}

/* Wakes the reader only when much is waiting: it comes by itself every now and then, and a wakeup per record costs more
 * than the record. */
static __always_inline _Bool send(struct scratch *record, __u32 frames)
{
	/* Two full stacks are 254 frames; the mask tells the verifier so. */
	__u64 size = sizeof(record->header) + (frames & (2 * PYRITE_MAX_FRAMES + 1)) * sizeof(record->frames[0]);
	_Bool wake = bpf_ringbuf_query(&ring, BPF_RB_AVAIL_DATA) >= config.ring_wakeup_bytes;
	return bpf_ringbuf_output(&ring, record, size, wake ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP) == 0;
}

/* What became of this tick. */
static __always_inline enum pyrite_tick sample(struct bpf_perf_event_data *ctx)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	if (pid_tgid == 0)
		return PYRITE_TICK_IDLE;

	struct scratch *record = bpf_map_lookup_elem(&scratches, &first);
	if (!record)
		return PYRITE_TICK_NO_SCRATCH;

	identify(ctx, &record->header, pid_tgid);
	return send(record, collect_stacks(ctx, record)) ? PYRITE_TICK_SENT : PYRITE_TICK_RING_FULL;
}

/* Tells late ticks from skipped ones. A timer that fires late does so at any moment and then skips what it missed, so the
 * gap is no multiple of the period; where the kernel skipped this program, the timer itself was on time and the gap is
 * one. User space knows how many are missing in all, and takes this as what explains part of them. */
static __always_inline void note_lateness(struct bpf_perf_event_data *ctx, struct pyrite_cpu *cpu)
{
	struct bpf_perf_event_value value = {};
	__u64 period = config.period_ns, last = cpu->last_running_ns;

	if (period == 0 || bpf_perf_prog_read_value(ctx, &value, sizeof(value)) != 0)
		return;
	cpu->last_running_ns = value.running;
	if (value.running < last)
		return;
	__u64 gap = value.running - last, off_beat = gap % period;
	__u64 ticks = (gap + period / 2) / period;
	if (ticks > 1 && off_beat > period / 8 && off_beat < period - period / 8)
		cpu->ticks[PYRITE_TICK_MISSED_LATE] += ticks - 1;
}

SEC("perf_event")
int on_tick(struct bpf_perf_event_data *ctx)
{
	struct pyrite_cpu *cpu = bpf_map_lookup_elem(&cpus, &first);
	/* Element 0 of an array always exists; the verifier wants to hear it. */
	if (cpu) {
		note_lateness(ctx, cpu);
		cpu->ticks[sample(ctx)]++;
	}
	return 0;
}

/* Most helpers used here are for programs under the GPL only; user space is under the Apache licence. */
char program_license[] SEC("license") = "GPL";
