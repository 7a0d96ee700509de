/* The few kernel structs that the programs read, by CO-RE: only names and types matter, offsets come from the kernel's BTF.
 *
 * task_struct.start_boottime has had this name since 5.5, and kernfs_node.id its type; the oldest supported kernel is 5.10.
 */
#ifndef PYRITE_KERNEL_H
#define PYRITE_KERNEL_H

#include <linux/types.h>

#include "abi.h"

#ifndef PYRITE_HOST
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
#endif

struct mm_struct {
	/* One open file for a process and its forks; another after every exec. */
	void *exe_file;
	/* Where the program's code ends; 0 until exec has loaded it. */
	unsigned long end_code;
};

struct kernfs_node {
	__u64 id;
};

struct cgroup {
	struct kernfs_node *kn;
};

struct css_set {
	/* In the hierarchy of version 2. */
	struct cgroup *dfl_cgrp;
};

struct rq {
	__u64 clock;
};

/* Only where the kernel shares CPUs out among groups (CONFIG_FAIR_GROUP_SCHED) does it lead to the run queue. */
struct cfs_rq {
	struct rq *rq;
};

struct sched_entity {
	struct cfs_rq *cfs_rq;
};

/* By the run queue's clock; only with CONFIG_SCHED_INFO. */
struct sched_info {
	unsigned long long run_delay;
	unsigned long long last_arrival;
	unsigned long long last_queued;
};

struct task_struct {
	unsigned int __state; /* since 5.14 */
	unsigned int flags;
	int pid;
	int tgid;
	char comm[PYRITE_COMM_BYTES];
	struct css_set *cgroups;
	void *stack;
	struct mm_struct *mm;
	struct task_struct *group_leader;
	struct task_struct *real_parent;
	__u64 start_boottime;
	struct sched_entity se;
	struct sched_info sched_info;
};

/* The state had another name and width then. */
struct task_struct___before_5_14 {
	long state;
};

/* Only its size is asked for. */
struct pt_regs {
	unsigned long words[1];
};

#ifndef PYRITE_HOST
#pragma clang attribute pop
#endif

/* Helpers that the oldest kernel does not have. */
enum bpf_func_id___newer { BPF_FUNC_get_current_task_btf___here = 158, BPF_FUNC_task_pt_regs___here = 175 };

/* task_struct.flags: include/linux/sched.h, the same bits since 2.6. */
#define PF_EXITING 0x00000004
#define PF_FORKNOEXEC 0x00000040
#define PF_KTHREAD 0x00200000

#endif
