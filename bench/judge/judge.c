/* judge: says what the stack of each case is, by elfutils' libdwfl.
 *
 * build: cc -O2 -g -Wall -Wextra -Werror judge.c modules.c -ldw -lelf -o judge
 * usage: judge < CASES
 *
 * Independent of Pyrite in everything: other code, other authors, all registers, every kind of rule. It knows nothing but
 * the case (case.h) and the files that were mapped; no process is looked at, so no time passes between the tick and the
 * judgement. Prints one line per stack:
 *
 *   ID END FRAME FRAME …
 *
 * Frames are leaf first: the address in hex, then how the step to its caller was found: `c` by call frame information,
 * `p` by the frame pointer for want of it, `-` not at all. The first address is that of the instruction; one byte before
 * each of the others lies the instruction: they are return addresses or, where a signal interrupted the frame and in the
 * signal's trampoline, one more than the instruction's. END is `complete` where the last frame's rule says that it has no
 * caller, or where it lies at the entry point of its file and has no rule, as the dynamic loader's does; else why it could
 * not go on:
 *
 *   no_memory      needs stack beyond what was captured
 *   below_sp       needs a register that an epilogue has just popped: its rule still names the slot, which lies below the
 *                  stack pointer, and perf captures from there on
 *   zero_return    a return address of zero, though the rule says that there is a caller
 *   no_info        code without call frame information, and no frame pointer chain
 *   no_file        the same, where a mapped file could not be opened or is no longer the one that was mapped
 *   no_mappings    the process had no file mapped, as in the middle of an exec
 *   no_progress    the stack pointer does not move on: the information or the stack is broken
 *   too_deep       more frames than MAX_FRAMES
 *   error          libdwfl gave up; what it says is printed to stderr
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <dwarf.h>
#include <elfutils/libdwfl.h>

#include "case.h"
#include "modules.h"

enum { MAX_FRAMES = 4096, X86_64_SP = 7, AARCH64_SP = 31, RED_ZONE_BYTES = 128 };

/* The stack under judgement, as libdwfl's callbacks see it. */
struct trial {
	const struct captured_stack *stack;
	const unsigned char *bytes;
	struct modules *modules;
	uint64_t frames[MAX_FRAMES];
	char how[MAX_FRAMES];
	size_t count;
	_Bool at_entry, too_deep, memory_missing, below_sp, no_progress;
	uint64_t last_sp, last_code;
};

static uint64_t stack_pointer(const struct captured_stack *stack)
{
	return stack->registers[stack->architecture == ARCHITECTURE_AARCH64 ? AARCH64_SP : X86_64_SP];
}

/* One thread; its frames are asked for by id. */
static pid_t next_thread(Dwfl *dwfl, void *trial, void **thread)
{
	(void)dwfl, (void)trial, (void)thread;
	return 0;
}

static bool get_thread(Dwfl *dwfl, pid_t tid, void *modules, void **thread)
{
	(void)dwfl, (void)tid;
	*thread = modules_trial(modules);
	return true;
}

static bool read_memory(Dwfl *dwfl, Dwarf_Addr avma, Dwarf_Word *result, void *modules)
{
	(void)dwfl;
	struct trial *trial = modules_trial(modules);
	uint64_t sp = stack_pointer(trial->stack), behind = avma - sp;

	if (avma >= sp && behind < trial->stack->bytes && trial->stack->bytes - behind >= sizeof(*result)) {
		memcpy(result, trial->bytes + behind, sizeof(*result));
		return true;
	}
	if (modules_read(modules, avma, result))
		return true;
	trial->memory_missing = true;
	trial->below_sp |= avma < sp && sp - avma <= RED_ZONE_BYTES;
	return false;
}

static bool set_registers(Dwfl_Thread *thread, void *arg)
{
	const struct trial *trial = arg;
	const struct captured_stack *stack = trial->stack;
	unsigned count = stack->architecture == ARCHITECTURE_AARCH64 ? 32 : 16;

	if (!dwfl_thread_state_registers(thread, 0, count, (const Dwarf_Word *)stack->registers))
		return false;
	dwfl_thread_state_register_pc(thread, stack->ip);
	/* On x86_64 the return address is a register of its own, by which libdwfl knows where it starts. */
	return stack->architecture == ARCHITECTURE_AARCH64 ||
	       dwfl_thread_state_registers(thread, 16, 1, (const Dwarf_Word *)&stack->ip);
}

static const Dwfl_Thread_Callbacks callbacks = {
	.next_thread = next_thread,
	.get_thread = get_thread,
	.memory_read = read_memory,
	.set_initial_registers = set_registers,
};

static int on_frame(Dwfl_Frame *frame, void *arg)
{
	struct trial *trial = arg;
	Dwarf_Addr pc;
	Dwarf_Word sp;
	bool is_activation;

	/* What earlier frames could not read does not matter to those who got past them. Asking whether the frame is an
	 * activation already takes the step to its caller. */
	trial->memory_missing = false;
	if (!dwfl_frame_pc(frame, &pc, &is_activation))
		return DWARF_CB_ABORT;
	int sp_number = trial->stack->architecture == ARCHITECTURE_AARCH64 ? AARCH64_SP : X86_64_SP;
	/* Neither an interrupted frame behind the leaf nor the trampoline that its handler returns to has a call before its
	 * address. */
	uint64_t shown = pc + (is_activation && trial->count > 0);
	if (dwfl_frame_reg(frame, sp_number, &sp) == 0) {
		/* A leaf without a frame has its caller's SP on aarch64; a second step without progress is a loop. A
		 * signal handler on its own stack may lie above or below the one that it interrupted. */
		if (trial->count > 1 && sp == trial->last_sp && shown == trial->frames[trial->count - 1]) {
			trial->no_progress = true;
			return DWARF_CB_ABORT;
		}
		trial->last_sp = sp;
	}
	if (trial->count == MAX_FRAMES) {
		trial->too_deep = true;
		return DWARF_CB_ABORT;
	}
	uint64_t code = trial->last_code = is_activation ? pc : pc - 1;
	trial->how[trial->count] = modules_have_cfi(trial->modules, code) ? 'c' : 'p';
	trial->frames[trial->count++] = shown;
	trial->at_entry = trial->how[trial->count - 1] == 'p' && modules_enter_at(trial->modules, code);
	if (trial->at_entry)
		return DWARF_CB_ABORT;
	return DWARF_CB_OK;
}

static const char *ending(const struct trial *trial, int result)
{
	if (trial->at_entry)
		return "complete";
	/* libdwfl also takes it for the end where it cannot read the return address, or reads zero. */
	if (result == 0 && modules_have_root(trial->modules, trial->last_code))
		return "complete";
	if (trial->below_sp)
		return "below_sp";
	if (result == 0)
		return trial->memory_missing ? "no_memory" : "zero_return";
	if (trial->count == 0 && modules_empty(trial->modules))
		return "no_mappings";
	if (trial->too_deep)
		return "too_deep";
	if (trial->no_progress)
		return "no_progress";
	if (trial->count > 0 && trial->how[trial->count - 1] == 'p')
		return modules_lack_file(trial->modules, trial->frames[trial->count - 1]) ? "no_file" : "no_info";
	if (trial->memory_missing)
		return "no_memory";
	fprintf(stderr, "stack %llu: %s\n", (unsigned long long)trial->stack->id, dwfl_errmsg(-1));
	return "error";
}

static void judge(struct modules *modules, const struct captured_stack *stack, const unsigned char *bytes)
{
	static struct trial trial;

	trial = (struct trial){ .stack = stack, .bytes = bytes, .modules = modules };
	int result = -1;
	Dwfl *dwfl = modules_attach(modules, stack->tgid, &callbacks, &trial);
	if (dwfl)
		result = dwfl_getthread_frames(dwfl, stack->tid, on_frame, &trial);
	const char *end = ending(&trial, result);
	if (strcmp(end, "complete") != 0 && trial.count > 0)
		trial.how[trial.count - 1] = '-';
	printf("%llu %s", (unsigned long long)stack->id, end);
	for (size_t i = 0; i < trial.count; i++)
		printf(" %llx%c", (unsigned long long)trial.frames[i], trial.how[i]);
	putchar('\n');
	fflush(stdout);
}

static _Noreturn void malformed(const char *what)
{
	fprintf(stderr, "judge: malformed input: %s\n", what);
	exit(2);
}

/* Reads the next message into `buffer`, which grows. Returns its kind, 0 at the end. */
static uint32_t read_message(unsigned char **buffer, uint32_t *bytes)
{
	struct message message;

	if (fread(&message, sizeof(message), 1, stdin) != 1)
		return 0;
	if (message.bytes > 1u << 26 || message.bytes % 8)
		malformed("length");
	*buffer = realloc(*buffer, message.bytes + 1);
	if (!*buffer || fread(*buffer, 1, message.bytes, stdin) != message.bytes)
		malformed("cut short");
	(*buffer)[message.bytes] = 0;
	*bytes = message.bytes;
	return message.kind;
}

int main(void)
{
	unsigned char *buffer = NULL;
	uint32_t kind, bytes;
	struct modules_by_set *sets = modules_new();

	while ((kind = read_message(&buffer, &bytes)) != 0) {
		if (kind == MESSAGE_MAPPINGS) {
			const struct mapping_set *set = (const void *)buffer;
			if (bytes < sizeof(*set) || set->text_bytes > bytes - sizeof(*set))
				malformed("mapping set");
			modules_add(sets, set->id, (const char *)(set + 1), set->text_bytes);
		} else if (kind == MESSAGE_STACK) {
			const struct captured_stack *stack = (const void *)buffer;
			if (bytes < sizeof(*stack) || stack->bytes > bytes - sizeof(*stack))
				malformed("stack");
			struct modules *modules = modules_find(sets, stack->mapping_set);
			if (!modules)
				malformed("unknown mapping set");
			judge(modules, stack, (const unsigned char *)(stack + 1));
		} else if (kind != MESSAGE_LOST) {
			malformed("kind");
		}
	}
	return 0;
}
