/* verifier_stats: preloaded into Pyrite, notes how many instructions the kernel's verifier went through for each program.
 *
 * The loader asks for the verifier's log only where a load fails, and the kernel reports the figure by itself only since
 * Linux 5.16. So every load passes by here and asks for the statistics, which kernels give since 5.2.
 *
 *   cc -O2 -Wall -Werror -shared -fPIC -o verifier_stats.so verifier_stats.c -ldl
 *   LD_PRELOAD=verifier_stats.so VERIFIER_STATS=FILE VERIFIER_LOG=LOG pyrite …
 *
 * It appends lines "program NAME INSTRUCTIONS" to FILE; LOG gets the whole log of a program that was refused.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <linux/bpf.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

/* BPF_LOG_STATS of the kernel's include/linux/bpf_verifier.h: statistics and nothing else. */
#define LOG_STATS 4

typedef long syscall_fn(long number, ...);

static void note(const char *name, const char *log)
{
	const char *processed = strstr(log, "processed "), *path = getenv("VERIFIER_STATS");
	FILE *file = processed && path ? fopen(path, "a") : NULL;

	/* Not those by which the loader tries out what the kernel can do. */
	if (!file || !name[0] || !strncmp(name, "aya_", 4))
		goto out;
	fprintf(file, "program %s %lu\n", name, strtoul(processed + strlen("processed "), NULL, 10));
out:
	if (file)
		fclose(file);
}

/* The loader's second attempt asks for the log, of which Pyrite shows the end. */
static void keep(const char *log)
{
	const char *path = getenv("VERIFIER_LOG");
	FILE *file = path ? fopen(path, "w") : NULL;

	if (!file)
		return;
	fputs(log, file);
	fclose(file);
}

static long load(syscall_fn *next, const union bpf_attr *asked, size_t size)
{
	static char log[1 << 16];
	/* The loader's idea of the union may be younger, and larger, than that of the headers here. */
	union {
		union bpf_attr attr;
		char room[1024];
	} copy = {};
	long fd;

	if (size > sizeof(copy) || asked->log_level) {
		fd = next(SYS_bpf, BPF_PROG_LOAD, asked, size);
		if (fd < 0 && asked->log_buf)
			keep((const char *)asked->log_buf);
		return fd;
	}
	memcpy(&copy, asked, size);
	log[0] = 0;
	copy.attr.log_level = LOG_STATS;
	copy.attr.log_buf = (__u64)log;
	copy.attr.log_size = sizeof(log);
	fd = next(SYS_bpf, BPF_PROG_LOAD, &copy, size);
	if (fd >= 0)
		note(copy.attr.prog_name, log);
	return fd;
}

long syscall(long number, ...)
{
	syscall_fn *next = (syscall_fn *)dlsym(RTLD_NEXT, "syscall");
	va_list args;
	long a[6];

	va_start(args, number);
	for (int i = 0; i < 6; i++)
		a[i] = va_arg(args, long);
	va_end(args);
	/* The command is an int: its upper half is not defined. */
	if (number == SYS_bpf && (int)a[0] == BPF_PROG_LOAD)
		return load(next, (const union bpf_attr *)a[1], (size_t)a[2]);
	return next(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
