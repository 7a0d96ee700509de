/* Plays the kernel to the programs: reads cases from stdin, lets a tick come twice in each, and writes both records to
 * stdout. The second tick walks by what the first one found.
 *
 * A case: struct case_head, then so many chunks, rules, executables, and memory regions, each {start, bytes} and its bytes.
 * Answer, per tick: u32 bytes (0: the program wrote no record), then the record.
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
	.tgid = THIS_PROCESS,	  .cgroups = &cgroups,	.mm = &memory,
	.group_leader = &current, .real_parent = &parent, .start_boottime = 7,
};
static __u64 now_ns;
static __u64 stamp;

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
	return (__u64)THIS_PROCESS << 32 | THIS_PROCESS;
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
	/* A second for every tick, so that each has copies of its own. */
	return now_ns += 1000000000;
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

int main(void)
{
	/* A walk that does not end is a failure, not a wait. */
	alarm(SECONDS_PER_RUN);
	for (int i = 0; i < PYRITE_CONTEXTS; i++)
		walk_list[i] = calloc(1, sizeof(struct walk));
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
	for (int i = 0; i < PYRITE_CONTEXTS; i++)
		free(walk_list[i]);
	return 0;
}
