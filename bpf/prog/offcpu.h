/* Time off the CPU: one run per context switch. Of a thread that leaves, `depart` decides whether its stack is taken; of the
 * thread that comes, `arrive` knows how long it was away.
 *
 * Hundreds of thousands of switches a second are ordinary, so nearly all of them touch three cache lines (the CPU's, and
 * one of each thread) and call no helper but map lookups, which are inlined or nearly so. A thread is captured with a
 * probability that grows with the time it is expected to be away and does not depend on how long it then is: a captured
 * stack weighted with 1 / probability stands for those that were not taken, without bias. The scale of the probability sinks
 * with each capture and rises with time, by itself, per CPU: whatever the threads do, about off_cpu_per_second of them are
 * captured, and those that switch most are shed first.
 *
 * A thread that always slept for microseconds and then does for an hour would, with this alone, rarely stand for months.
 * So only the first 8 x the foreseen time ("head") has that weight. What is beyond it is known for every thread when it is
 * back, and is accounted as it is: with its stack where that was taken, without one where not.
 */
#ifndef PYRITE_OFFCPU_H
#define PYRITE_OFFCPU_H

#include "helpers.h"

#include "abi.h"
#include "maps.h"
#include "record.h"
#include "walk.h"

enum {
	MAX_UNITS = (1 << 24) - 1, /* 4.3 s; longer times are foreseen as this */
	/* 16.8 ms: long, for what sleeps at once and for long should be captured. */
	NEW_THREAD = 8 << 16,
	/* What kernel threads wait for is mostly work: each of their captures stands for eight times as much. */
	KERNEL_THREAD_SHIFT = 3,
	SCALE_FIRST = 1 << 20,
	SCALE_LEAST = 1 << 7,
	/* Each capture takes 1/32 of the scale. */
	SCALE_STEP_SHIFT = 5,
	REFILL_NS = 1 << 23,
	TASK_RUNNING = 0,
	TASK_DEAD = 0x80,
	/* Beside the clock in `left` of a thread. */
	IS_CAPTURED = 1,
	END_IS_DUE = 2,
	LEFT_FLAGS = IS_CAPTURED | END_IS_DUE,
};

/* Captures everything foreseen to last one unit. */
static const __u64 SCALE_MOST = (1ULL << 37) - 1;
static const __u64 CERTAIN = 1ULL << 32;

/* How a thread came to be captured. */
struct choice {
	__u64 chance;
	__u32 head;
	_Bool preempted;
};

#define HAS_QUEUE_CLOCK                                                                          \
	(kernel_has_field(struct sched_entity, cfs_rq) && kernel_has_field(struct cfs_rq, rq) && \
	 kernel_has_field(struct rq, clock))
#define HAS_QUEUEING                                                                                                 \
	(kernel_has_field(struct sched_info, run_delay) && kernel_has_field(struct sched_info, last_arrival) &&      \
	 kernel_has_field(struct sched_info, last_queued) && HAS_QUEUE_CLOCK)

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct pyrite_switch_cpu);
} switch_cpus SEC(".maps");

/* Mappable, though nobody maps it: the kernel begins the values of such a map with a page, so that each set is one cache line.
 * Those of others begin 312 bytes behind a page on 6.18, which makes every set two. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, PYRITE_THREAD_SETS);
	__type(key, __u32);
	__type(value, struct pyrite_thread_set);
} threads SEC(".maps");

/* Beside the table of threads, and only looked at for captured ones. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PYRITE_THREAD_SETS * PYRITE_THREAD_WAYS);
	__type(key, __u32);
	__type(value, struct pyrite_block);
} blocks SEC(".maps");

/* The clock of this CPU's run queue, which the scheduler has just read: a tenth of the price of reading one anew. */
static __always_inline __u64 queue_clock(struct task_struct *current)
{
	if (HAS_QUEUE_CLOCK)
		return current->se.cfs_rq->rq->clock;
	return bpf_ktime_get_ns();
}

static __always_inline __u64 state_of(struct task_struct *task)
{
	if (kernel_has_field(struct task_struct, __state))
		return task->__state;
	return ((struct task_struct___before_5_14 *)task)->state;
}

static __always_inline __u32 draw(struct pyrite_switch_cpu *cpu)
{
	cpu->random = cpu->random * 6364136223846793005ULL + 1442695040888963407ULL;
	return cpu->random >> 32;
}

/* Neighbouring tids, which are often threads of one program on several CPUs, go far apart: their sets in neighbouring cache
 * lines would be carried from CPU to CPU at each switch. The factor is 2^32 by the golden ratio. */
static __always_inline __u32 set_of(__u32 tid)
{
	return tid * 2654435769u >> (32 - PYRITE_THREAD_SETS_SHIFT);
}

static __always_inline __u32 find(struct pyrite_thread_set *set, __u32 tid)
{
	__u32 way = 0;

	for (; way < PYRITE_THREAD_WAYS; way++)
		if (set->tid[way] == tid)
			break;
	return way;
}

/* A place in the set for a thread that has none: a free one, else that of a thread that nothing is due for. */
static __always_inline __u32 claim(struct pyrite_thread_set *set, __u32 tid)
{
	__u32 way = find(set, 0);

	if (way == PYRITE_THREAD_WAYS)
		for (way = 0; way < PYRITE_THREAD_WAYS; way++)
			if (!(set->left[way] & LEFT_FLAGS))
				break;
	if (way < PYRITE_THREAD_WAYS) {
		set->tid[way] = tid;
		set->foreseen[way] = NEW_THREAD;
	}
	return way;
}

/* The probability of being captured times 2^32, so that it is certain from there on, where an eighth of `eightfold` units is
 * foreseen. */
static __always_inline __u64 chance_of(struct pyrite_switch_cpu *cpu, struct task_struct *task, __u64 eightfold)
{
	return eightfold * cpu->scale >> (task->flags & PF_KTHREAD ? 8 + KERNEL_THREAD_SHIFT : 8);
}

static __always_inline __u32 as_probability(__u64 chance)
{
	return chance >= CERTAIN ? 0xffffffff : chance;
}

static __always_inline void spend(struct pyrite_switch_cpu *cpu)
{
	__u64 scale = cpu->scale - (cpu->scale >> SCALE_STEP_SHIFT);

	cpu->scale = scale < SCALE_LEAST ? SCALE_LEAST : scale;
}

/* Lets the scale rise so that it stays where it is when off_cpu_per_second captures a second lower it. */
static __always_inline void refill(struct pyrite_switch_cpu *cpu, __u64 clock)
{
	__u64 passed = clock - cpu->refilled, scale = cpu->scale;

	if (passed < REFILL_NS)
		return;
	cpu->refilled = clock;
	if (scale == 0) {
		cpu->scale = SCALE_FIRST;
		cpu->random = clock ^ (__u64)bpf_get_smp_processor_id() << 40;
		return;
	}
	/* In units of 2^20 ns, a millisecond but for 5 %; a second at most. */
	passed >>= 20;
	if (passed > 1 << 10)
		passed = 1 << 10;
	scale += (scale * (config.off_cpu_per_second & 0xffff) * passed) >> (10 + SCALE_STEP_SHIFT);
	cpu->scale = scale > SCALE_MOST ? SCALE_MOST : scale;
}

/* Puts a record without a stack into the ring. Returns whether it had room. */
static __always_inline _Bool tell(const void *record, __u64 bytes)
{
	struct walk *walk = walk_at(walk_slot(PYRITE_CONTEXT_SWITCH));

	return walk && output(walk, record, bytes);
}

/* Takes the stacks of the thread that leaves, which is still the current one. */
static __always_inline enum pyrite_off capture(void *ctx, struct task_struct *prev, struct pyrite_block *block, struct choice choice)
{
	__u32 slot = walk_slot(PYRITE_CONTEXT_SWITCH);
	struct walk *walk = walk_at(slot);
	if (!walk)
		return PYRITE_OFF_NO_SCRATCH;

	struct pyrite_sample_header *header = &walk->header;

	header->time_boot_ns = bpf_ktime_get_boot_ns();
	header->flags = 0;
	identify(header, bpf_get_current_pid_tgid());
	header->kind = PYRITE_RECORD_OFF_CPU;
	header->probability = as_probability(choice.chance);
	header->head = choice.head;
	if (choice.preempted)
		header->flags |= PYRITE_SAMPLE_PREEMPTED;
	walk_kernel_stack(ctx, walk);
	walk_user_stack(0, walk, slot);
	if (!send(walk, slot))
		return PYRITE_OFF_RING_FULL;
	block->start_boot_ns = header->time_boot_ns;
	if (HAS_QUEUEING)
		block->runnable_ns = prev->sched_info.run_delay;
	return PYRITE_OFF_SENT;
}

/* How much time has passed since then; none where there is no such time. The clocks of two CPUs may differ by a little. */
static __always_inline __u64 passed_since(__u64 then, __u64 clock)
{
	return then && clock > then ? clock - then : 0;
}

/* Returns whether the ring had room. */
static __always_inline _Bool send_end(struct pyrite_block *block, __u32 tid)
{
	struct pyrite_off_cpu_end end = {
		.kind = PYRITE_RECORD_OFF_CPU_END,
		.tid = tid,
		.start_boot_ns = block->start_boot_ns,
		.end_boot_ns = block->end_boot_ns,
		.runnable_ns = block->runnable_ns,
	};

	return tell(&end, sizeof(end));
}

/* Says that a captured thread is back, or that this is still to be said: user space would else take it for away until it
 * left again. */
static __always_inline void end_block(struct task_struct *next, struct pyrite_thread_set *set, __u32 way, __u64 clock)
{
	__u32 tid = next->pid, slot = set_of(tid) * PYRITE_THREAD_WAYS + way;
	struct pyrite_block *block = bpf_map_lookup_elem(&blocks, &slot);
	if (!block)
		return;
	block->end_boot_ns = bpf_ktime_get_boot_ns();
	if (HAS_QUEUEING)
		block->runnable_ns = next->sched_info.run_delay - block->runnable_ns +
				     passed_since(next->sched_info.last_queued, clock);
	else
		block->runnable_ns = PYRITE_RUNNABLE_UNKNOWN;
	set->left[way] = send_end(block, tid) ? 0 : END_IS_DUE;
}

/* A thread leaves that should have been told to be back. Says it now; returns END_IS_DUE where the ring has no room again,
 * else 0. */
static __always_inline __u64 settle(struct task_struct *prev, __u64 left, __u32 slot, __u64 clock)
{
	struct pyrite_block *block = bpf_map_lookup_elem(&blocks, &slot);
	if (!block)
		return 0;
	/* Not every switch is traced: on some virtual machines those away from process 1 are not. */
	if (left & IS_CAPTURED) {
		block->end_boot_ns = bpf_ktime_get_boot_ns();
		if (HAS_QUEUEING) {
			block->end_boot_ns -= passed_since(prev->sched_info.last_arrival, clock);
			block->runnable_ns = prev->sched_info.run_delay - block->runnable_ns;
		} else {
			block->runnable_ns = PYRITE_RUNNABLE_UNKNOWN;
		}
	}
	return send_end(block, prev->pid) ? 0 : END_IS_DUE;
}

static __always_inline void send_tail(struct task_struct *next, struct pyrite_switch_cpu *cpu, __u64 units, __u64 chance, __u64 clock)
{
	struct pyrite_off_cpu_tail tail = {
		.kind = PYRITE_RECORD_OFF_CPU_TAIL,
		.probability = as_probability(chance),
		.end_boot_ns = bpf_ktime_get_boot_ns(),
		.tail_ns = units << PYRITE_OFF_CPU_UNIT_SHIFT,
		.runnable_ns = PYRITE_RUNNABLE_UNKNOWN,
		.start_boot_ns = next->group_leader->start_boottime,
		.cgroup_id = next->cgroups->dfl_cgrp->kn->id,
		.tgid = next->tgid,
		.tid = next->pid,
		.is_kernel_thread = !!(next->flags & PF_KTHREAD),
	};

	__builtin_memcpy(tail.comm, next->comm, sizeof(tail.comm));
	if (HAS_QUEUEING)
		tail.runnable_ns = passed_since(next->sched_info.last_queued, clock);
	cpu->tails_lost += !tell(&tail, sizeof(tail));
	spend(cpu);
}

static __always_inline void depart(void *ctx, struct task_struct *prev, _Bool preempted, struct pyrite_switch_cpu *cpu, __u64 clock)
{
	__u32 tid = prev->pid, index = set_of(tid);
	struct pyrite_thread_set *set = bpf_map_lookup_elem(&threads, &index);
	if (tid == 0 || !set)
		return;
	__u64 state = state_of(prev);
	__u32 way = find(set, tid);
	__u64 due = 0;
	if (way < PYRITE_THREAD_WAYS && set->left[way] & LEFT_FLAGS)
		due = settle(prev, set->left[way], index * PYRITE_THREAD_WAYS + way, clock);
	if (state == TASK_DEAD) {
		cpu->ends_lost += due != 0;
		if (way < PYRITE_THREAD_WAYS)
			set->left[way] = set->tid[way] = 0;
		return;
	}
	if (way == PYRITE_THREAD_WAYS && (way = claim(set, tid)) == PYRITE_THREAD_WAYS) {
		cpu->fates[PYRITE_OFF_NO_SLOT]++;
		return;
	}
	__u32 foreseen = set->foreseen[way];
	__u64 chance = chance_of(cpu, prev, foreseen);
	__u64 left = (clock & ~(__u64)LEFT_FLAGS) | due;
	if (draw(cpu) >= chance) {
		set->left[way] = left;
		cpu->fates[PYRITE_OFF_SHED]++;
		return;
	}
	__u32 slot = index * PYRITE_THREAD_WAYS + way;
	struct pyrite_block *block = bpf_map_lookup_elem(&blocks, &slot);
	struct choice choice = { chance, foreseen, preempted || state == TASK_RUNNING };
	enum pyrite_off fate = PYRITE_OFF_NO_SCRATCH;
	if (due)
		fate = PYRITE_OFF_RING_FULL; /* the block still holds the end of the one before */
	else if (block)
		fate = capture(ctx, prev, block, choice);
	set->left[way] = fate == PYRITE_OFF_SENT ? left | IS_CAPTURED : left;
	cpu->fates[fate]++;
	spend(cpu);
}

static __always_inline void arrive(struct task_struct *next, struct pyrite_switch_cpu *cpu, __u64 clock)
{
	__u32 tid = next->pid, index = set_of(tid);
	struct pyrite_thread_set *set = bpf_map_lookup_elem(&threads, &index);
	if (tid == 0 || !set)
		return;
	__u32 way = find(set, tid);
	if (way == PYRITE_THREAD_WAYS)
		return;
	__u64 left = set->left[way];
	if (left <= LEFT_FLAGS)
		return;
	__u64 units = passed_since(left, clock) >> PYRITE_OFF_CPU_UNIT_SHIFT;
	__u64 bounded = units < MAX_UNITS ? units : MAX_UNITS;
	__u32 foreseen = set->foreseen[way];

	set->foreseen[way] = foreseen - (foreseen >> 3) + bounded;
	if (left & IS_CAPTURED) {
		end_block(next, set, way, clock);
		return;
	}
	set->left[way] = left & END_IS_DUE;
	if (units > foreseen) {
		__u64 tail = units - foreseen;
		__u64 chance = chance_of(cpu, next, (tail < MAX_UNITS ? tail : MAX_UNITS) * 8);
		if (draw(cpu) < chance)
			send_tail(next, cpu, tail, chance, clock);
	}
}

/* Arguments of the tracepoint: preempt, prev, next and, since 5.18, prev's state. */
SEC("tp_btf/sched_switch")
int on_switch(__u64 *ctx)
{
	struct task_struct *prev = (void *)ctx[1], *next = (void *)ctx[2];
	struct pyrite_switch_cpu *cpu = bpf_map_lookup_elem(&switch_cpus, &first);
	if (!cpu)
		return 0;
	__u64 clock = queue_clock(prev);

	refill(cpu, clock);
	arrive(next, cpu, clock);
	depart(ctx, prev, ctx[0], cpu, clock);
	return 0;
}

#endif
