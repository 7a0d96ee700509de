/* BPF helper functions, map and section syntax. Numbers come from the UAPI header. */
#ifndef PYRITE_HELPERS_H
#define PYRITE_HELPERS_H

#include <linux/bpf.h>

#define SEC(name) __attribute__((section(name), used))
#define __uint(name, value) int (*name)[value]
#define __type(name, type) __typeof__(type) *name

/* Read-only by pointer as the kernel sees it; each is called by its number. */
static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*const bpf_probe_read_kernel)(void *to, __u32 size, const void *from) = (void *)BPF_FUNC_probe_read_kernel;
static __u64 (*const bpf_get_current_pid_tgid)(void) = (void *)BPF_FUNC_get_current_pid_tgid;
static __u64 (*const bpf_get_current_cgroup_id)(void) = (void *)BPF_FUNC_get_current_cgroup_id;
static __u64 (*const bpf_get_current_task)(void) = (void *)BPF_FUNC_get_current_task;
static long (*const bpf_get_current_comm)(void *to, __u32 size) = (void *)BPF_FUNC_get_current_comm;
static __u32 (*const bpf_get_smp_processor_id)(void) = (void *)BPF_FUNC_get_smp_processor_id;
static __u64 (*const bpf_ktime_get_boot_ns)(void) = (void *)BPF_FUNC_ktime_get_boot_ns;
static long (*const bpf_get_stack)(void *ctx, void *to, __u32 size, __u64 flags) = (void *)BPF_FUNC_get_stack;
static long (*const bpf_perf_prog_read_value)(void *ctx, struct bpf_perf_event_value *to, __u32 size) =
	(void *)BPF_FUNC_perf_prog_read_value;
static long (*const bpf_ringbuf_output)(void *ring, void *data, __u64 size, __u64 flags) =
	(void *)BPF_FUNC_ringbuf_output;
static __u64 (*const bpf_ringbuf_query)(void *ring, __u64 what) = (void *)BPF_FUNC_ringbuf_query;

/* Reads one field of a kernel struct through CO-RE; 0 where it cannot be read. */
#define read_field(pointer, field)                                                                                   \
	({                                                                                                           \
		__typeof__((pointer)->field) value = 0;                                                              \
		bpf_probe_read_kernel(&value, sizeof(value), __builtin_preserve_access_index(&(pointer)->field));    \
		value;                                                                                               \
	})

#endif
