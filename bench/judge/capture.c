/* capture: starts a command and writes down its stacks, with all registers, as the kernel sees them at each tick.
 *
 * build: cc -O2 -g -Wall -Wextra -Werror capture.c processes.c -o capture
 * usage: capture OUT HZ SECONDS PROGRAM -- COMMAND ARGUMENT…
 *
 * Samples the command and its descendants on every CPU, for SECONDS or until the command ends, and writes cases (case.h) to
 * OUT. The kernel's own perf copies registers and stack (up to 64 KiB, the most a perf record holds), so nothing of
 * Pyrite's takes part in it. Mappings come from perf's events of the same rings, in order of time: each stack meets the
 * mappings of its moment. The last message says how many records met a full ring.
 *
 * PROGRAM is the id of a BPF program that runs at the same ticks, 0 for none: the kernel writes a perf sample only where
 * the program returns 1, and afterwards, so both have seen the same registers and the same stack.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "case.h"
#include "processes.h"

enum { MAX_CPUS = 256, PAGE = 4096, RING_BYTES = 16 << 20, STACK_BYTES = 65528, ROUND_MS = 20 };
/* What lies less far back may still be on its way into another CPU's ring. */
static const uint64_t hold_back_ns = 20000000;

/* DWARF numbers in the order of perf's registers; IP stands for the instruction pointer. */
enum { IP = -1 };
#if defined(__x86_64__)
static const enum architecture architecture = ARCHITECTURE_X86_64;
static const uint64_t register_mask = 0xff01ff;
static const int dwarf_numbers[] = { 0, 3, 2, 1, 4, 5, 6, 7, IP, 8, 9, 10, 11, 12, 13, 14, 15 };
enum { SP = 7 };
#elif defined(__aarch64__)
static const enum architecture architecture = ARCHITECTURE_AARCH64;
static const uint64_t register_mask = 0x1ffffffffull;
static const int dwarf_numbers[] = { 0,	 1,  2,	 3,  4,	 5,  6,	 7,  8,	 9,  10, 11, 12, 13, 14, 15, 16,
				     17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, IP };
enum { SP = 31 };
#endif
enum { REGISTER_COUNT = sizeof(dwarf_numbers) / sizeof(dwarf_numbers[0]) };

struct ring {
	int fd;
	struct perf_event_mmap_page *control;
	unsigned char *data;
};

/* A record taken out of its ring. */
struct taken {
	uint64_t time, order;
	struct perf_event_header *record;
};

static struct ring rings[MAX_CPUS];
static int ring_count;
static struct taken *taken;
static size_t taken_count, taken_room;
static uint64_t next_order, lost, stacks, sets;
static FILE *out;

static _Noreturn void die(const char *what)
{
	fprintf(stderr, "capture: %s: %s\n", what, strerror(errno));
	exit(2);
}

static uint64_t boot_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_BOOTTIME, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int program_fd(unsigned id)
{
	union bpf_attr attr = { .prog_id = id };
	int fd = (int)syscall(SYS_bpf, BPF_PROG_GET_FD_BY_ID, &attr, sizeof(attr));

	if (fd < 0)
		die("no such BPF program");
	return fd;
}

static void open_ring(int cpu, unsigned hz, int program)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_SOFTWARE,
		.size = sizeof(attr),
		.config = PERF_COUNT_SW_CPU_CLOCK,
		.freq = 1,
		.sample_freq = hz,
		.sample_type = PERF_SAMPLE_TID | PERF_SAMPLE_TIME | PERF_SAMPLE_CPU | PERF_SAMPLE_REGS_USER |
			       PERF_SAMPLE_STACK_USER,
		.sample_regs_user = register_mask,
		.sample_stack_user = STACK_BYTES,
		.sample_id_all = 1,
		.mmap = 1,
		.mmap2 = 1,
		.comm = 1,
		.comm_exec = 1,
		.task = 1,
		.use_clockid = 1,
		.clockid = CLOCK_BOOTTIME,
		.disabled = 1,
		.watermark = 1,
		.wakeup_watermark = RING_BYTES / 4,
	};
	struct ring *ring = &rings[ring_count];

	ring->fd = (int)syscall(SYS_perf_event_open, &attr, -1, cpu, -1, PERF_FLAG_FD_CLOEXEC);
	if (ring->fd < 0 && errno == ENODEV)
		return;
	if (ring->fd < 0)
		die("perf_event_open");
	void *base = mmap(NULL, PAGE + RING_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, ring->fd, 0);
	if (base == MAP_FAILED)
		die("mmap of a ring");
	if (program >= 0 && ioctl(ring->fd, PERF_EVENT_IOC_SET_BPF, program) != 0)
		die("attach the BPF program");
	ring->control = base;
	ring->data = (unsigned char *)base + PAGE;
	ring_count++;
}

/* Every record but a sample ends with the fields of `sample_id`: tid, time, cpu. */
static uint64_t time_of(const struct perf_event_header *record)
{
	const unsigned char *bytes = (const void *)record;
	uint64_t time;
	size_t at = record->type == PERF_RECORD_SAMPLE ? sizeof(*record) + 8 : record->size - 16u;

	memcpy(&time, bytes + at, sizeof(time));
	return time;
}

static void take(const struct ring *ring, uint64_t at, uint16_t size)
{
	struct perf_event_header *record = malloc(size);
	size_t offset = at % RING_BYTES, until_end = RING_BYTES - offset, first = size < until_end ? size : until_end;

	if (taken_count == taken_room) {
		taken_room = taken_room * 2 + 1024;
		taken = realloc(taken, taken_room * sizeof(*taken));
	}
	if (!record || !taken)
		die("memory");
	memcpy(record, ring->data + offset, first);
	memcpy((unsigned char *)record + first, ring->data, size - first);
	taken[taken_count++] = (struct taken){ time_of(record), next_order++, record };
}

static void drain(struct ring *ring)
{
	uint64_t head = __atomic_load_n(&ring->control->data_head, __ATOMIC_ACQUIRE);
	uint64_t tail = ring->control->data_tail;

	while (tail < head) {
		/* Records are multiples of 8 bytes long, so a header never wraps. */
		const struct perf_event_header *header = (const void *)(ring->data + tail % RING_BYTES);
		uint16_t size = header->size;
		take(ring, tail, size);
		tail += size;
	}
	__atomic_store_n(&ring->control->data_tail, tail, __ATOMIC_RELEASE);
}

static void write_padded(const void *bytes, size_t count)
{
	static const char zeros[8];

	if (fwrite(bytes, 1, count, out) != count || fwrite(zeros, 1, -count & 7, out) != (-count & 7))
		die("write");
}

static void write_message(enum message_kind kind, const void *head, size_t head_bytes, const void *body,
			  size_t body_bytes)
{
	struct message message = { kind, (uint32_t)(head_bytes + ((body_bytes + 7) & ~7ull)) };

	write_padded(&message, sizeof(message));
	write_padded(head, head_bytes);
	write_padded(body, body_bytes);
}

static void write_mappings(struct process *process)
{
	char *text = process_maps(process);
	struct mapping_set set = { .id = ++sets, .tgid = process->tgid, .text_bytes = (uint32_t)strlen(text) };

	process->set = set.id;
	write_message(MESSAGE_MAPPINGS, &set, sizeof(set), text, set.text_bytes);
	free(text);
}

/* PERF_RECORD_SAMPLE: u32 tgid, tid; u64 time; u32 cpu, 0; u64 abi; registers; u64 size; size bytes; u64 filled. */
static void on_sample(const struct perf_event_header *record)
{
	const uint64_t *words = (const uint64_t *)(record + 1);
	const uint32_t *halves = (const uint32_t *)words;
	struct process *process = process_find(halves[0]);

	if (!process || words[3] == PERF_SAMPLE_REGS_ABI_NONE)
		return;
	struct captured_stack stack = {
		.id = stacks + 1,
		.time_boot_ns = words[1],
		.tgid = halves[0],
		.tid = halves[1],
		.cpu = halves[4],
		.architecture = architecture,
	};
	for (int i = 0; i < REGISTER_COUNT; i++)
		*(dwarf_numbers[i] == IP ? &stack.ip : &stack.registers[dwarf_numbers[i]]) = words[4 + i];
	const uint64_t *copy = words + 4 + REGISTER_COUNT;
	stack.bytes = copy[0] ? copy[1 + copy[0] / 8] : 0;
	if (process->set == 0)
		write_mappings(process);
	stack.mapping_set = process->set;
	write_message(MESSAGE_STACK, &stack, sizeof(stack), copy + 1, stack.bytes);
	stacks++;
}

static void on_record(const struct perf_event_header *record)
{
	const uint32_t *halves = (const uint32_t *)(record + 1);
	const uint64_t *words = (const uint64_t *)(record + 1);

	switch (record->type) {
	case PERF_RECORD_SAMPLE:
		on_sample(record);
		break;
	case PERF_RECORD_FORK: /* u32 tgid, parent's tgid, tid, parent's tid */
		if (halves[0] != halves[1])
			process_fork(halves[0], halves[1]);
		break;
	case PERF_RECORD_COMM: /* u32 tgid, tid */
		if (record->misc & PERF_RECORD_MISC_COMM_EXEC)
			process_exec(halves[0]);
		break;
	case PERF_RECORD_MMAP2: /* u32 tgid, tid; u64 start, length, offset; u32 major, minor; u64 inode, …, …; path */
		process_map(halves[0], &(struct process_mapping){
					       .start = words[1],
					       .end = words[1] + words[2],
					       .offset = words[3],
					       .major = halves[8],
					       .minor = halves[9],
					       .inode = words[5],
					       .path = (char *)&words[8],
				       });
		break;
	case PERF_RECORD_LOST: /* u64 id, how many */
		lost += words[1];
		break;
	}
}

static int by_time(const void *a, const void *b)
{
	const struct taken *left = a, *right = b;

	if (left->time != right->time)
		return left->time < right->time ? -1 : 1;
	return left->order < right->order ? -1 : left->order > right->order;
}

/* Handles what was taken, up to `until`, in order of time. */
static void advance(uint64_t until)
{
	size_t done = 0;

	qsort(taken, taken_count, sizeof(*taken), by_time);
	for (; done < taken_count && taken[done].time <= until; done++) {
		on_record(taken[done].record);
		free(taken[done].record);
	}
	taken_count -= done;
	memmove(taken, taken + done, taken_count * sizeof(*taken));
}

static void round_until(uint64_t until)
{
	for (int i = 0; i < ring_count; i++)
		drain(&rings[i]);
	advance(until);
}

/* The command waits for a byte before it runs, so that its first instruction is already watched. */
static pid_t start(char **command, int *go)
{
	int pipe_fds[2];
	char byte;

	if (pipe2(pipe_fds, O_CLOEXEC) != 0)
		die("pipe");
	pid_t pid = fork();
	if (pid < 0)
		die("fork");
	if (pid == 0) {
		setpgid(0, 0);
		if (read(pipe_fds[0], &byte, 1) == 1)
			execvp(command[0], command);
		perror(command[0]);
		_exit(127);
	}
	close(pipe_fds[0]);
	*go = pipe_fds[1];
	return pid;
}

int main(int argc, char **argv)
{
	if (argc < 7 || strcmp(argv[5], "--") != 0) {
		fprintf(stderr, "usage: capture OUT HZ SECONDS PROGRAM -- COMMAND ARGUMENT...\n");
		return 2;
	}
	unsigned hz = (unsigned)atoi(argv[2]), program_id = (unsigned)atoi(argv[4]);
	uint64_t duration_ns = (uint64_t)(atof(argv[3]) * 1e9);
	int program = program_id ? program_fd(program_id) : -1, go, status = 0;

	out = fopen(argv[1], "wb");
	if (!out)
		die(argv[1]);
	pid_t pid = start(argv + 6, &go);
	process_add((uint32_t)pid);
	for (int cpu = 0; cpu < sysconf(_SC_NPROCESSORS_CONF) && cpu < MAX_CPUS; cpu++)
		open_ring(cpu, hz, program);
	for (int i = 0; i < ring_count; i++)
		if (ioctl(rings[i].fd, PERF_EVENT_IOC_ENABLE, 0) != 0)
			die("enable");
	uint64_t begin = boot_now_ns();
	if (write(go, "g", 1) != 1)
		die("start");
	while (boot_now_ns() - begin < duration_ns && waitpid(pid, &status, WNOHANG) == 0) {
		poll(NULL, 0, ROUND_MS);
		round_until(boot_now_ns() - hold_back_ns);
	}
	for (int i = 0; i < ring_count; i++)
		ioctl(rings[i].fd, PERF_EVENT_IOC_DISABLE, 0);
	kill(-pid, SIGKILL);
	round_until(UINT64_MAX);
	write_message(MESSAGE_LOST, &(struct lost_records){ lost }, sizeof(struct lost_records), NULL, 0);
	if (fclose(out) != 0)
		die("write");
	return 0;
}
