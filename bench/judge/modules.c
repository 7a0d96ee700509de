/* The mapped files of a process as libdwfl's modules. See modules.h.
 *
 * Kept for the few sets used last, so that descriptors and memory stay bounded however many processes there are.
 */
#define _GNU_SOURCE
#include "modules.h"

#include <fcntl.h>
#include <gelf.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_SEGMENTS = 16, MAX_PATH = 4096, KEPT_SETS = 16, ENTRY_BYTES = 64 };

struct segment {
	uint64_t offset, svma, file_bytes, memory_bytes;
	bool executable, writable;
};

/* A file that is mapped at `bias`: avma - bias = svma. */
struct module {
	uint64_t low, high, bias, entry;
	bool at_fixed_address;
	int fd;
	size_t segment_count;
	struct segment segments[MAX_SEGMENTS];
	struct module *next;
};

/* A mapping whose file is not there any more. */
struct lost {
	uint64_t start, end;
	struct lost *next;
};

struct modules {
	Dwfl *dwfl;
	bool attached;
	void *trial;
	struct module *first;
	struct lost *lost;
};

struct set {
	uint64_t id;
	char *text;
	struct modules *modules; /* NULL until used */
	uint64_t last_use;
};

struct modules_by_set {
	struct set *sets;
	size_t count;
	uint64_t uses;
};

/* What a line of maps says. */
struct mapping {
	uint64_t start, end, offset, inode;
	char path[MAX_PATH];
};

/* Files are given, never searched for: what is found elsewhere is not what was mapped. */
static int no_elf(Dwfl_Module *mod, void **data, const char *name, Dwarf_Addr base, char **file, Elf **elf)
{
	(void)mod, (void)data, (void)name, (void)base, (void)file, (void)elf;
	return -1;
}

static int no_debuginfo(Dwfl_Module *mod, void **data, const char *name, Dwarf_Addr base, const char *file,
			const char *link, GElf_Word crc, char **found)
{
	(void)mod, (void)data, (void)name, (void)base, (void)file, (void)link, (void)crc, (void)found;
	return -1;
}

static const Dwfl_Callbacks finders = { .find_elf = no_elf, .find_debuginfo = no_debuginfo };

static bool parse_line(const char *line, struct mapping *mapping)
{
	char permissions[8];
	unsigned major, minor;
	int at = 0;

	mapping->path[0] = 0;
	if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %7s %" SCNx64 " %x:%x %" SCNu64 " %n", &mapping->start, &mapping->end,
		   permissions, &mapping->offset, &major, &minor, &mapping->inode, &at) < 7 || at == 0)
		return false;
	snprintf(mapping->path, sizeof(mapping->path), "%.*s", (int)strcspn(line + at, "\n"), line + at);
	return true;
}

static bool read_segments(int fd, struct module *module)
{
	Elf *elf = elf_begin(fd, ELF_C_READ_MMAP, NULL);
	GElf_Ehdr header;
	size_t count = 0;

	if (!elf || !gelf_getehdr(elf, &header) || elf_getphdrnum(elf, &count) != 0)
		count = 0;
	if (count > 0) {
		module->entry = header.e_entry;
		module->at_fixed_address = header.e_type == ET_EXEC;
	}
	for (size_t i = 0; i < count && module->segment_count < MAX_SEGMENTS; i++) {
		GElf_Phdr phdr;
		if (!gelf_getphdr(elf, (int)i, &phdr) || phdr.p_type != PT_LOAD)
			continue;
		module->segments[module->segment_count++] = (struct segment){
			.offset = phdr.p_offset,
			.svma = phdr.p_vaddr,
			.file_bytes = phdr.p_filesz,
			.memory_bytes = phdr.p_memsz,
			.executable = phdr.p_flags & PF_X,
			.writable = phdr.p_flags & PF_W,
		};
	}
	elf_end(elf);
	return module->segment_count > 0;
}

/* Finds where the file lies by the executable segment that the mapping shows. A file with fixed addresses may also be
 * mapped elsewhere, as V8 does with part of its own; that has no information. */
static bool locate(const struct mapping *mapping, struct module *module)
{
	const uint64_t page = 4096;

	for (size_t i = 0; i < module->segment_count; i++) {
		const struct segment *segment = &module->segments[i];
		if (!segment->executable || mapping->offset < (segment->offset & -page) ||
		    mapping->offset >= segment->offset + segment->file_bytes)
			continue;
		module->bias = mapping->start - mapping->offset + segment->offset - segment->svma;
		if (module->at_fixed_address && module->bias != 0)
			return false;
		module->low = UINT64_MAX;
		for (size_t k = 0; k < module->segment_count; k++) {
			uint64_t low = (module->segments[k].svma & -page) + module->bias;
			uint64_t high = module->segments[k].svma + module->segments[k].memory_bytes + module->bias;
			module->low = low < module->low ? low : module->low;
			module->high = high > module->high ? high : module->high;
		}
		return true;
	}
	return false;
}

/* The kernel's own library; the same image in every process of this boot. */
static int open_vdso(const struct mapping *mapping)
{
	const char *image = (const char *)getauxval(AT_SYSINFO_EHDR);
	size_t bytes = mapping->end - mapping->start;
	int fd = memfd_create("vdso", MFD_CLOEXEC);

	if (fd >= 0 && image && write(fd, image, bytes) == (ssize_t)bytes)
		return fd;
	if (fd >= 0)
		close(fd);
	return -1;
}

static int open_mapped(const struct mapping *mapping)
{
	struct stat stat;

	if (strcmp(mapping->path, "[vdso]") == 0)
		return open_vdso(mapping);
	int fd = open(mapping->path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0 && (fstat(fd, &stat) != 0 || stat.st_ino != mapping->inode)) {
		close(fd);
		fd = -1;
	}
	return fd;
}

static bool overlaps(const struct modules *modules, const struct module *new)
{
	for (const struct module *old = modules->first; old; old = old->next)
		if (new->low < old->high && old->low < new->high)
			return true;
	return false;
}

/* Makes a module of a mapping's file. A file whose mapping is no longer there may lie across a newer one: the newer
 * comes first and wins. Returns false where the file cannot be read. */
static bool report(struct modules *modules, const struct mapping *mapping)
{
	int fd = open_mapped(mapping);
	struct module *module = calloc(1, sizeof(*module));

	if (fd < 0 || !module || !read_segments(fd, module) || !locate(mapping, module)) {
		if (fd >= 0)
			close(fd);
		free(module);
		return false;
	}
	module->fd = dup(fd);
	if (!overlaps(modules, module) &&
	    dwfl_report_elf(modules->dwfl, mapping->path, mapping->path, fd, module->bias, true)) {
		module->next = modules->first;
		modules->first = module;
		return true;
	}
	close(fd);
	close(module->fd);
	free(module);
	return true;
}

static void lose(struct modules *modules, const struct mapping *mapping)
{
	struct lost *lost = malloc(sizeof(*lost));

	if (!lost)
		return;
	*lost = (struct lost){ mapping->start, mapping->end, modules->lost };
	modules->lost = lost;
}

static struct modules *build(const char *text)
{
	struct modules *modules = calloc(1, sizeof(*modules));
	static struct mapping mapping;

	if (!modules || !(modules->dwfl = dwfl_begin(&finders))) {
		free(modules);
		return NULL;
	}
	dwfl_report_begin(modules->dwfl);
	for (const char *line = text; *line; line += strcspn(line, "\n"), line += *line == '\n') {
		bool is_file = parse_line(line, &mapping) && (mapping.path[0] == '/' || mapping.path[0] == '[');
		/* The kernel calls memory without a file `//anon` where it tells of it. */
		if (is_file && mapping.path[1] != '/' && !report(modules, &mapping))
			lose(modules, &mapping);
	}
	dwfl_report_end(modules->dwfl, NULL, NULL);
	return modules;
}

static void drop(struct modules *modules)
{
	while (modules->first) {
		struct module *module = modules->first;
		modules->first = module->next;
		close(module->fd);
		free(module);
	}
	while (modules->lost) {
		struct lost *lost = modules->lost;
		modules->lost = lost->next;
		free(lost);
	}
	dwfl_end(modules->dwfl);
	free(modules);
}

struct modules_by_set *modules_new(void)
{
	struct modules_by_set *sets = calloc(1, sizeof(*sets));

	elf_version(EV_CURRENT);
	if (!sets)
		abort();
	return sets;
}

void modules_add(struct modules_by_set *sets, uint64_t id, const char *text, size_t bytes)
{
	sets->sets = realloc(sets->sets, (sets->count + 1) * sizeof(*sets->sets));
	if (!sets->sets)
		abort();
	sets->sets[sets->count++] = (struct set){ .id = id, .text = strndup(text, bytes) };
}

static void make_room(struct modules_by_set *sets)
{
	struct set *oldest = NULL;
	size_t kept = 0;

	for (size_t i = 0; i < sets->count; i++) {
		struct set *set = &sets->sets[i];
		if (!set->modules)
			continue;
		kept++;
		if (!oldest || set->last_use < oldest->last_use)
			oldest = set;
	}
	if (kept >= KEPT_SETS) {
		drop(oldest->modules);
		oldest->modules = NULL;
	}
}

struct modules *modules_find(struct modules_by_set *sets, uint64_t id)
{
	for (size_t i = sets->count; i-- > 0;) {
		struct set *set = &sets->sets[i];
		if (set->id != id)
			continue;
		set->last_use = ++sets->uses;
		if (!set->modules) {
			make_room(sets);
			set->modules = build(set->text);
		}
		return set->modules;
	}
	return NULL;
}

Dwfl *modules_attach(struct modules *modules, pid_t tgid, const Dwfl_Thread_Callbacks *callbacks, void *trial)
{
	modules->trial = trial;
	if (!modules->attached)
		modules->attached = dwfl_attach_state(modules->dwfl, NULL, tgid, callbacks, modules);
	return modules->attached ? modules->dwfl : NULL;
}

void *modules_trial(struct modules *modules)
{
	return modules->trial;
}

/* The information for an address. To be freed; NULL where there is none. */
static Dwarf_Frame *find_frame(struct modules *modules, uint64_t avma)
{
	Dwfl_Module *module = dwfl_addrmodule(modules->dwfl, avma);
	Dwarf_Addr bias = 0;
	Dwarf_Frame *frame = NULL;

	if (!module)
		return NULL;
	Dwarf_CFI *eh = dwfl_module_eh_cfi(module, &bias);
	if (eh && dwarf_cfi_addrframe(eh, avma - bias, &frame) == 0)
		return frame;
	Dwarf_CFI *debug = dwfl_module_dwarf_cfi(module, &bias);
	return debug && dwarf_cfi_addrframe(debug, avma - bias, &frame) == 0 ? frame : NULL;
}

bool modules_have_cfi(struct modules *modules, uint64_t avma)
{
	Dwarf_Frame *frame = find_frame(modules, avma);

	free(frame);
	return frame != NULL;
}

bool modules_have_root(struct modules *modules, uint64_t avma)
{
	Dwarf_Frame *frame = find_frame(modules, avma);
	Dwarf_Op memory[3], *ops = NULL;
	size_t count = 0;

	if (!frame)
		return false;
	int return_register = dwarf_frame_info(frame, NULL, NULL, NULL);
	/* elfutils' way to say `undefined`: no operations, in the memory that was offered. */
	bool is_undefined = dwarf_frame_register(frame, return_register, memory, &ops, &count) == 0 && count == 0 &&
			    ops == memory;
	free(frame);
	return is_undefined;
}

bool modules_enter_at(const struct modules *modules, uint64_t avma)
{
	for (const struct module *module = modules->first; module; module = module->next)
		if (module->entry && avma - module->bias - module->entry < ENTRY_BYTES)
			return true;
	return false;
}

bool modules_empty(const struct modules *modules)
{
	return !modules->first;
}

bool modules_lack_file(const struct modules *modules, uint64_t avma)
{
	for (const struct lost *lost = modules->lost; lost; lost = lost->next)
		if (avma >= lost->start && avma < lost->end)
			return true;
	return false;
}

bool modules_read(const struct modules *modules, uint64_t avma, uint64_t *result)
{
	for (const struct module *module = modules->first; module; module = module->next) {
		for (size_t i = 0; i < module->segment_count; i++) {
			const struct segment *segment = &module->segments[i];
			uint64_t behind = avma - module->bias - segment->svma;
			if (segment->writable || segment->file_bytes < sizeof(*result) ||
			    behind > segment->file_bytes - sizeof(*result))
				continue;
			return pread(module->fd, result, sizeof(*result), (off_t)(segment->offset + behind)) ==
			       sizeof(*result);
		}
	}
	return false;
}
