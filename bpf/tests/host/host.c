/* Plays the kernel to the programs: what comes to pass is read from stdin, the records are written to stdout, each behind its
 * length.
 *
 * Without arguments: cases, in each of which a tick comes twice. The second one walks by what the first one found. A case is
 * struct case_head, then so many chunks, rules, executables, and memory regions, each {start, bytes} and its bytes. A tick for
 * which the program wrote no record is answered by a length of 0.
 *
 * With the argument "switches": struct pyrite_config, then a struct context_switch for each. At the end the counters,
 * struct pyrite_switch_cpu, are written as if they were a record.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../prog/sampler.bpf.c"

enum { THIS_PROCESS = 4242, PARENT = 4241, SECONDS_PER_RUN = 120 };

struct case_head {
	__u32 chunks, rules, executables, regions;
	__u32 user_mode;
	__u32 kernel_frames;
	__u32 known; /* 0: no process; 1: this one; 2: its parent, of which it is a fork */
	__u32 kernel_thread;
	struct pyrite_config config;
	struct pyrite_process process;
	struct user_registers registers;
};

/* A context switch on the only CPU. */
struct context_switch {
	__u64 clock; /* of the run queue, and since boot */
	__u32 prev, next; /* tids; 0: the idle task */
	__u32 prev_state;
	__u8 preempted;
	__u8 ring_full;
	__u8 reserved[2];
	struct sched_info prev_info, next_info;
};

struct region {
	__u64 start, bytes;
	__u8 *data;
};

static struct case_head head;
/* Each chunk, rule and executable has memory of its own, so that reading beyond it is found. */
static void **chunk_list, **rule_list, **executable_list;
static struct region *regions;
static struct walk *walk_list[PYRITE_CONTEXTS];
static struct pyrite_cpu cpu_counters;
static struct kernfs_node cgroup_node = { .id = 1 };
static struct cgroup cgroup = { .kn = &cgroup_node };
static struct css_set cgroups = { .dfl_cgrp = &cgroup };
static struct mm_struct memory = { .exe_file = &memory, .end_code = 1 };
static struct task_struct parent = { .tgid = PARENT, .mm = &memory, .start_boottime = 7, .group_leader = &parent };
static struct task_struct current = {
	.tgid = THIS_PROCESS,	  .pid = THIS_PROCESS,	  .cgroups = &cgroups,	.mm = &memory,
	.group_leader = &current, .real_parent = &parent, .start_boottime = 7,
};
static __u64 now_ns;
static __u64 stamp;
static struct pyrite_switch_cpu switch_counters;
static struct pyrite_thread_set *thread_sets;
static struct pyrite_block *block_list;
static _Bool ring_full;

static void *element(void **list, __u32 count, __u32 index)
{
	return index < count ? list[index] : 0;
}

static void *process_of(__u32 tgid)
{
	return (head.known == 1 && tgid == THIS_PROCESS) || (head.known == 2 && tgid == PARENT) ? &head.process : 0;
}

void *bpf_map_lookup_elem(const void *map, const void *key)
{
	/* A slab is known by its number, which is no address of a map. */
	static char slab_list[PYRITE_MAX_SLABS];
	__u32 index = *(const __u32 *)key;

	if (map == &slabs)
		return index < PYRITE_MAX_SLABS && index * PYRITE_SLAB_CHUNKS < head.chunks ? &slab_list[index] : 0;
	if (map == &rules)
		return element(rule_list, head.rules, index);
	if (map == &executables)
		return element(executable_list, head.executables, index);
	if (map == &processes)
		return process_of(index);
	if (map == &walks)
		return element((void **)walk_list, PYRITE_CONTEXTS, index);
	if (map == &stamps)
		return &stamp;
	if (map == &cpus)
		return &cpu_counters;
	if (map == &switch_cpus)
		return &switch_counters;
	if (map == &threads)
		return index < PYRITE_THREAD_SETS ? &thread_sets[index] : 0;
	if (map == &blocks)
		return index < PYRITE_THREAD_SETS * PYRITE_THREAD_WAYS ? &block_list[index] : 0;
	if ((const char *)map < slab_list || (const char *)map >= slab_list + PYRITE_MAX_SLABS)
		abort();
	return element(chunk_list, head.chunks, ((const char *)map - slab_list) * PYRITE_SLAB_CHUNKS + index);
}

long bpf_map_delete_elem(void *map, const void *key)
{
	(void)map;
	(void)key;
	return 0;
}

long bpf_probe_read_kernel(void *to, __u32 size, const void *from)
{
	memcpy(to, from, size);
	return 0;
}

/* As the kernel does: all of it or nothing, and then zeros. */
long bpf_probe_read_user(void *to, __u32 size, const void *from)
{
	__u64 address = (__u64)from;

	for (__u32 i = 0; i < head.regions; i++) {
		__u64 at = address - regions[i].start;

		if (at < regions[i].bytes && size <= regions[i].bytes - at) {
			memcpy(to, regions[i].data + at, size);
			return 0;
		}
	}
	memset(to, 0, size);
	return -14;
}

__u64 bpf_get_current_pid_tgid(void)
{
	return (__u64)current.tgid << 32 | (__u32)current.pid;
}

__u64 bpf_get_current_cgroup_id(void)
{
	return 1;
}

void *bpf_get_current_task(void)
{
	return &current;
}

void *bpf_get_current_task_btf(void)
{
	return &current;
}

const void *bpf_task_pt_regs(void *task)
{
	(void)task;
	return &head.registers;
}

long bpf_get_current_comm(void *to, __u32 size)
{
	memset(to, 0, size);
	return 0;
}

__u32 bpf_get_smp_processor_id(void)
{
	return 0;
}

__u64 bpf_ktime_get_ns(void)
{
	return now_ns;
}

__u64 bpf_ktime_get_boot_ns(void)
{
	return now_ns;
}

long bpf_get_stack(void *ctx, void *to, __u32 size, __u64 flags)
{
	__u64 *frames = to;
	__u32 count = size / sizeof(*frames);

	(void)ctx;
	(void)flags;
	if (count > head.kernel_frames)
		count = head.kernel_frames;
	for (__u32 i = 0; i < count; i++)
		frames[i] = 0xffffffff81000000ull + i;
	return count * sizeof(*frames);
}

static void put(const void *bytes, size_t size)
{
	if (fwrite(bytes, 1, size, stdout) != size)
		abort();
}

static _Bool answered;

long bpf_ringbuf_output(void *map, void *data, __u64 size, __u64 flags)
{
	__u32 bytes = size;

	(void)map;
	(void)flags;
	if (ring_full)
		return -11;
	put(&bytes, sizeof(bytes));
	put(data, size);
	answered = 1;
	return 0;
}

__u64 bpf_ringbuf_query(void *map, __u64 what)
{
	(void)map;
	(void)what;
	return 0;
}

static void *get(size_t size)
{
	void *bytes = malloc(size ? size : 1);

	if (!bytes || fread(bytes, 1, size, stdin) != size)
		abort();
	return bytes;
}

static void **get_list(__u32 count, size_t size)
{
	void **list = calloc(count ? count : 1, sizeof(*list));

	for (__u32 i = 0; i < count; i++)
		list[i] = get(size);
	return list;
}

static void free_list(void **list, __u32 count)
{
	for (__u32 i = 0; i < count; i++)
		free(list[i]);
	free(list);
}

static void get_regions(void)
{
	regions = calloc(head.regions ? head.regions : 1, sizeof(*regions));
	for (__u32 i = 0; i < head.regions; i++) {
		if (fread(&regions[i], sizeof(__u64), 2, stdin) != 2)
			abort();
		regions[i].data = get(regions[i].bytes);
	}
}

static void tick(void)
{
	struct tick_context *ctx = calloc(1, sizeof(*ctx));
	__u32 nothing = 0;

	answered = 0;
	/* A second for every tick, so that each has copies of its own. */
	now_ns += second_ns;
	if (head.user_mode)
		ctx->regs = head.registers;
#if defined(__TARGET_ARCH_arm64)
	ctx->regs.pstate = head.user_mode ? 0 : 5;
#endif
	on_tick(ctx);
	if (!answered)
		put(&nothing, sizeof(nothing));
	free(ctx);
}

static void play_cases(void)
{
	while (fread(&head, sizeof(head), 1, stdin) == 1) {
		memcpy((void *)&config, &head.config, sizeof(config));
		current.flags = (head.known == 2 ? PF_FORKNOEXEC : 0) | (head.kernel_thread ? PF_KTHREAD : 0);
		chunk_list = get_list(head.chunks, PYRITE_CHUNK_BYTES);
		rule_list = get_list(head.rules, sizeof(struct pyrite_rule));
		executable_list = get_list(head.executables, sizeof(struct pyrite_executable));
		get_regions();
		stamp += (__u64)1 << 32;
		tick();
		tick();
		free_list(chunk_list, head.chunks);
		free_list(rule_list, head.rules);
		free_list(executable_list, head.executables);
		for (__u32 i = 0; i < head.regions; i++)
			free(regions[i].data);
		free(regions);
	}
}

static void play_switches(void)
{
	struct rq run_queue = { 0 };
	struct cfs_rq fair = { .rq = &run_queue };
	struct task_struct prev = { .group_leader = &prev, .cgroups = &cgroups, .se = { .cfs_rq = &fair } };
	struct task_struct next = { .group_leader = &next, .cgroups = &cgroups };
	struct context_switch now;

	if (fread((void *)&config, sizeof(config), 1, stdin) != 1)
		abort();
	thread_sets = calloc(PYRITE_THREAD_SETS, sizeof(*thread_sets));
	block_list = calloc(PYRITE_THREAD_SETS * PYRITE_THREAD_WAYS, sizeof(*block_list));
	while (fread(&now, sizeof(now), 1, stdin) == 1) {
		__u64 context[] = { now.preempted, (__u64)&prev, (__u64)&next, now.prev_state };

		run_queue.clock = now_ns = now.clock;
		ring_full = now.ring_full;
		prev.pid = current.pid = now.prev;
		prev.__state = now.prev_state;
		prev.sched_info = now.prev_info;
		next.pid = now.next;
		next.sched_info = now.next_info;
		on_switch(context);
	}
	ring_full = 0;
	bpf_ringbuf_output(&ring, &switch_counters, sizeof(switch_counters), 0);
	free(thread_sets);
	free(block_list);
}

int main(int argc, char **argv)
{
	/* A walk that does not end is a failure, not a wait. */
	alarm(SECONDS_PER_RUN);
	for (int i = 0; i < PYRITE_CONTEXTS; i++)
		walk_list[i] = calloc(1, sizeof(struct walk));
	if (argc > 1 && strcmp(argv[1], "switches") == 0)
		play_switches();
	else
		play_cases();
	for (int i = 0; i < PYRITE_CONTEXTS; i++)
		free(walk_list[i]);
	return 0;
}
