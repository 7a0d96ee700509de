/* BPF helper functions, map and section syntax. Numbers come from the UAPI header. */
#ifndef PYRITE_HELPERS_H
#define PYRITE_HELPERS_H

#include <linux/bpf.h>

#ifdef PYRITE_HOST
/* The same programs, compiled for the machine that tests them. */
#include "host.h"
#else

#define SEC(name) __attribute__((section(name), used))
/* Set by the loader before the programs run. */
#define LOADED const volatile
#define __uint(name, value) int (*name)[value]
#define __type(name, type) __typeof__(type) *name
#define __array(name, type) __typeof__(type) *name[]

/* Read-only by pointer as the kernel sees it; each is called by its number. */
static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*const bpf_map_delete_elem)(void *map, const void *key) = (void *)BPF_FUNC_map_delete_elem;
static long (*const bpf_probe_read_kernel)(void *to, __u32 size, const void *from) = (void *)BPF_FUNC_probe_read_kernel;
static long (*const bpf_probe_read_user)(void *to, __u32 size, const void *from) = (void *)BPF_FUNC_probe_read_user;
static __u64 (*const bpf_get_current_pid_tgid)(void) = (void *)BPF_FUNC_get_current_pid_tgid;
static __u64 (*const bpf_get_current_cgroup_id)(void) = (void *)BPF_FUNC_get_current_cgroup_id;
static void *(*const bpf_get_current_task)(void) = (void *)BPF_FUNC_get_current_task;
static long (*const bpf_get_current_comm)(void *to, __u32 size) = (void *)BPF_FUNC_get_current_comm;
static __u32 (*const bpf_get_smp_processor_id)(void) = (void *)BPF_FUNC_get_smp_processor_id;
static __u64 (*const bpf_ktime_get_ns)(void) = (void *)BPF_FUNC_ktime_get_ns;
static __u64 (*const bpf_ktime_get_boot_ns)(void) = (void *)BPF_FUNC_ktime_get_boot_ns;
static long (*const bpf_get_stack)(void *ctx, void *to, __u32 size, __u64 flags) = (void *)BPF_FUNC_get_stack;
static long (*const bpf_ringbuf_output)(void *ring, void *data, __u64 size, __u64 flags) =
	(void *)BPF_FUNC_ringbuf_output;
static __u64 (*const bpf_ringbuf_query)(void *ring, __u64 what) = (void *)BPF_FUNC_ringbuf_query;

/* Newer than the oldest kernel (5.11, 5.15), and newer than some UAPI headers; only called where the kernel has them. */
static void *(*const bpf_get_current_task_btf)(void) = (void *)158;
static void *(*const bpf_task_pt_regs)(void *task) = (void *)175;

/* A field of a kernel struct through CO-RE: where it is. */
#define kernel_address(pointer, field) __builtin_preserve_access_index(&(pointer)->field)
/* Whether the kernel's enum has this value. */
#define kernel_has_value(enum_type, value) __builtin_preserve_enum_value(*(__typeof__(enum_type) *)value, 0)
/* Whether the kernel's struct has this field: constant once loaded, so what hangs on it is plain code or gone. */
#define kernel_has_field(type, field) __builtin_preserve_field_info(((type *)0)->field, 2)
/* The size of one of the kernel's types, 0 where it has no such type. */
#define kernel_sizeof(type) __builtin_preserve_type_info(*(__typeof__(type) *)0, 1)

#endif /* PYRITE_HOST */

/* A function that the verifier looks at once and not once per caller and state. The price: its arguments and its result
 * are plain numbers, for 5.10 knows no other, and are unknown to the verifier on either side. */
#define VERIFIED_ONCE __attribute__((noinline))

/* Hides from the compiler what it knows of a value, so that it keeps the code that shows the verifier the bound. */
#define opaque(value) __asm__ volatile("" : "+r"(value))

/* Reads one field of a kernel struct through CO-RE; 0 where it cannot be read. */
#define read_field(pointer, field)                                                         \
	({                                                                                 \
		__typeof__((pointer)->field) value = 0;                                    \
		bpf_probe_read_kernel(&value, sizeof(value), kernel_address(pointer, field)); \
		value;                                                                     \
	})

#endif
