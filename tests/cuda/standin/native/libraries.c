/* Libraries, modules, kernels and functions: what a cubin has is known from clang's PTX of the same
 * source, which Python finds by the cubin's digest. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "standin.h"

typedef struct {
    unsigned char head[16];
    uint16_t type, machine;
    uint32_t version;
    uint64_t entry, programs, sections;
    uint32_t flags;
    uint16_t head_bytes, program_bytes, program_count, section_bytes, section_count, names;
} elf;

typedef struct {
    uint32_t name, type;
    uint64_t flags, address, offset, bytes;
    uint32_t link, info;
    uint64_t align, entry_bytes;
} elf_section;

/* The size of an ELF image, which the driver's calls don't say; 0 if it is none. */
static size_t image_bytes(const void *image) {
    const elf *of = image;
    if (memcmp(of->head, "\177ELF\2", 5)) return 0;
    uint64_t end_bytes = of->sections + (uint64_t)of->section_count * of->section_bytes;
    uint64_t last = of->programs + (uint64_t)of->program_count * of->program_bytes;
    if (last > end_bytes) end_bytes = last;
    const elf_section *sections = (const void *)((const char *)image + of->sections);
    for (unsigned i = 0; i < of->section_count; ++i) {
        last = sections[i].offset + sections[i].bytes;
        if (sections[i].type != 8 && last > end_bytes) end_bytes = last;
    }
    return end_bytes;
}

/* Load code into a context; a call of `begin` is in progress. */
static CUresult load(call *here, context *into, library *of, const void *image, size_t bytes,
                     module **result) {
    CUresult waited = wait_for_kernels(here, into, HAZARD_LOAD);
    if (waited) return waited;
    uint64_t code = 0;
    unlock_all();
    int refused = python.load(image, bytes, into->ordinal, &code);
    lock_all();
    if (refused) return refused;
    module *made = (module *)object_new(MODULE, sizeof *made, into);
    made->code = code;
    made->library = of;
    *result = made;
    return SUCCESS;
}

void module_end(module *of) {
    for (piece *each = pieces_first(); each;) {
        piece *next = each->next;
        if (each->module == of) piece_remove(each);
        each = next;
    }
    for (object *each = objects_newest(); each; each = each->older)
        if (each->kind == FUNCTION && ((function *)each)->module == of) object_end(each);
    if (of->library) of->library->modules[of->base.owner->ordinal] = 0;
    object_end(&of->base);
    unlock_all();
    python.unload(of->code);
    lock_all();
}

void library_end(library *of) {
    for (int i = 0; i < DEVICES_MAX; ++i)
        if (of->modules[i]) module_end(of->modules[i]);
    for (object *each = objects_newest(); each; each = each->older)
        if (each->kind == KERNEL && ((kernel *)each)->library == of) object_end(each);
    object_end(&of->base);
}

/* The library's code in a context, loaded if it is not there yet. */
CUresult module_in(call *here, library *of, context *where, module **into) {
    *into = of->modules[where->ordinal];
    if (*into) return SUCCESS;
    CUresult result = load(here, where, of, of->image, of->image_bytes, into);
    if (!result) of->modules[where->ordinal] = *into;
    return result;
}

CUresult cuLibraryLoadData(handle *into, const void *image, void *options, void *values,
                           unsigned count, void *library_options, void *library_values,
                           unsigned library_count) {
    ENTER("cuLibraryLoadData", IN_CONTEXT | DEAD_TOO);
    (void)options, (void)values, (void)count;
    (void)library_options, (void)library_values, (void)library_count;
    REQUIRE(into && image, INVALID_VALUE);
    REQUIRE(!here.context->dead, here.context->dead);
    size_t bytes = image_bytes(image);
    REQUIRE(bytes, INVALID_IMAGE);
    library *of = (library *)object_new(LIBRARY, sizeof *of, 0);
    of->image = memcpy(malloc(bytes), image, bytes);
    of->image_bytes = bytes;
    for (int i = 0; i < set.device_count; ++i) {
        context *where = &devices[i].primary;
        if (!where->retained || where->dead || !(set.eager || where == here.context)) continue;
        module *made;
        CUresult result = module_in(&here, of, where, &made);
        if (result) {
            library_end(of);
            LEAVE(result);
        }
    }
    *into = of;
    LEAVE(SUCCESS);
}

CUresult cuLibraryUnload(handle given) {
    ENTER("cuLibraryUnload", DEAD_TOO);
    library *of = object_get(given, LIBRARY);
    REQUIRE(of, INVALID_HANDLE);
    for (int i = 0; i < set.device_count; ++i) {
        if (!of->modules[i]) continue;
        context *where = &devices[i].primary;
        if (where->live && where != here.context)
            problem("cuLibraryUnload was called while a kernel lives on cuda:%d", i);
        if (where->dead) continue;
        CUresult result = wait_for_kernels(&here, where, HAZARD_UNLOAD);
        if (result) LEAVE(result);
    }
    library_end(of);
    LEAVE(SUCCESS);
}

static kernel *kernel_named(library *of, const char *name) {
    for (object *each = objects_newest(); each; each = each->older) {
        kernel *found = (kernel *)each;
        if (each->kind == KERNEL && each->alive && found->library == of &&
            !strcmp(found->name, name))
            return found;
    }
    return 0;
}

/* Any module of the library, to look up its names; the current context's if there is none. */
static CUresult some_module(call *here, library *of, module **into) {
    for (int i = 0; i < DEVICES_MAX; ++i)
        if ((*into = of->modules[i])) return SUCCESS;
    return here->context ? module_in(here, of, here->context, into) : INVALID_CONTEXT;
}

static CUresult describe(module *of, const char *name, function_facts *facts) {
    unlock_all();
    int refused = python.describe(of->code, name, facts);
    lock_all();
    return refused;
}

static CUresult get_kernel(call *here, library *of, const char *name, handle *into) {
    kernel *made = kernel_named(of, name);
    if (!made) {
        module *from;
        function_facts facts;
        CUresult result = some_module(here, of, &from);
        if (!result) result = describe(from, name, &facts);
        if (result) return result;
        made = (kernel *)object_new(KERNEL, sizeof *made, 0);
        made->library = of;
        snprintf(made->name, sizeof made->name, "%s", name);
    }
    *into = made;
    return SUCCESS;
}

CUresult cuLibraryGetKernel(handle *into, handle given, const char *name) {
    ENTER("cuLibraryGetKernel", 0);
    library *of = object_get(given, LIBRARY);
    REQUIRE(of && name, INVALID_HANDLE);
    CUresult result = get_kernel(&here, of, name, into);
    LEAVE(result);
}

/* Count the names of a module, and write up to `count` of its functions or kernels. */
static CUresult enumerate(call *here, module *from, library *kernels_of, handle *into,
                          unsigned *count);

CUresult cuLibraryGetKernelCount(unsigned *into, handle given) {
    ENTER("cuLibraryGetKernelCount", 0);
    library *of = object_get(given, LIBRARY);
    module *from;
    REQUIRE(of, INVALID_HANDLE);
    CUresult result = some_module(&here, of, &from);
    *into = 0;
    if (!result) result = enumerate(&here, from, of, 0, into);
    LEAVE(result);
}

CUresult cuLibraryEnumerateKernels(handle *into, unsigned count, handle given) {
    ENTER("cuLibraryEnumerateKernels", 0);
    library *of = object_get(given, LIBRARY);
    module *from;
    REQUIRE(of, INVALID_HANDLE);
    CUresult result = some_module(&here, of, &from);
    if (!result) result = enumerate(&here, from, of, into, &count);
    LEAVE(result);
}

CUresult cuLibraryGetModule(handle *into, handle given) {
    ENTER("cuLibraryGetModule", IN_CONTEXT);
    library *of = object_get(given, LIBRARY);
    REQUIRE(of, INVALID_HANDLE);
    module *found;
    CUresult result = module_in(&here, of, here.context, &found);
    if (!result) *into = found;
    LEAVE(result);
}

/* The memory of a variable; the range belongs to the module's device from then on. */
static CUresult variable(module *of, const char *name, CUdeviceptr *into, size_t *bytes) {
    uint64_t address = 0, size = 0;
    unlock_all();
    int refused = python.variable(of->code, name, &address, &size);
    lock_all();
    if (refused) return refused;
    if (!piece_at(address)) {
        piece_add(PIECE_GLOBAL, address, size, of->base.owner)->module = of;
        memory_changed();
    }
    if (into) *into = address;
    if (bytes) *bytes = size;
    return SUCCESS;
}

CUresult cuLibraryGetGlobal(CUdeviceptr *into, size_t *bytes, handle given, const char *name) {
    ENTER("cuLibraryGetGlobal", IN_CONTEXT);
    library *of = object_get(given, LIBRARY);
    REQUIRE(of, INVALID_HANDLE);
    module *found;
    CUresult result = module_in(&here, of, here.context, &found);
    if (!result) result = variable(found, name, into, bytes);
    LEAVE(result);
}

CUresult cuModuleLoadData(handle *into, const void *image) {
    ENTER("cuModuleLoadData", IN_CONTEXT);
    REQUIRE(into && image, INVALID_VALUE);
    size_t bytes = image_bytes(image);
    REQUIRE(bytes, INVALID_IMAGE);
    module *made;
    CUresult result = load(&here, here.context, 0, image, bytes, &made);
    if (!result) *into = made;
    LEAVE(result);
}

CUresult cuModuleLoadDataEx(handle *into, const void *image, unsigned count, void *options,
                            void *values) {
    (void)count, (void)options, (void)values;
    return cuModuleLoadData(into, image);
}

CUresult cuModuleUnload(handle given) {
    ENTER("cuModuleUnload", IN_CONTEXT);
    module *of = object_get(given, MODULE);
    REQUIRE(of && !of->library, INVALID_HANDLE);
    CUresult result = wait_for_kernels(&here, of->base.owner, HAZARD_UNLOAD);
    if (result) LEAVE(result);
    module_end(of);
    LEAVE(SUCCESS);
}

CUresult cuModuleGetLoadingMode(int *into) {
    ENTER("cuModuleGetLoadingMode", 0);
    *into = set.eager ? 1 : 2;
    LEAVE(SUCCESS);
}

/* The function of a module by name; with lazy loading this may be the moment that it is loaded. */
CUresult get_function(call *here, module *of, const char *name, function **into) {
    function *made = 0;
    for (object *each = objects_newest(); each && !made; each = each->older)
        if (each->kind == FUNCTION && each->alive && ((function *)each)->module == of &&
            !strcmp(((function *)each)->name, name))
            made = (function *)each;
    if (!made) {
        function_facts facts;
        CUresult result = describe(of, name, &facts);
        if (result) return result;
        made = (function *)object_new(FUNCTION, sizeof *made, of->base.owner);
        made->module = of;
        made->facts = facts;
        made->loaded = (int)set.eager;
        snprintf(made->name, sizeof made->name, "%s", name);
    }
    *into = made;
    (void)here;
    return SUCCESS;
}

static CUresult enumerate(call *here, module *from, library *kernels_of, handle *into,
                          unsigned *count) {
    char name[NAME_BYTES];
    for (unsigned i = 0;; ++i) {
        if (into && i == *count) return SUCCESS;
        unlock_all();
        int refused = python.entry(from->code, i, name);
        lock_all();
        if (refused) {
            *count = i;
            return SUCCESS;
        }
        if (!into) continue;
        function *found;
        CUresult result = kernels_of ? get_kernel(here, kernels_of, name, &into[i])
                                     : get_function(here, from, name, &found);
        if (result) return result;
        if (!kernels_of) into[i] = found;
    }
}

CUresult cuModuleGetFunction(handle *into, handle given, const char *name) {
    ENTER("cuModuleGetFunction", IN_CONTEXT);
    module *of = object_get(given, MODULE);
    function *found;
    REQUIRE(of && name, INVALID_HANDLE);
    CUresult result = get_function(&here, of, name, &found);
    if (!result) *into = found;
    LEAVE(result);
}

CUresult cuModuleGetFunctionCount(unsigned *into, handle given) {
    ENTER("cuModuleGetFunctionCount", IN_CONTEXT);
    module *of = object_get(given, MODULE);
    REQUIRE(of, INVALID_HANDLE);
    *into = 0;
    CUresult result = enumerate(&here, of, 0, 0, into);
    LEAVE(result);
}

CUresult cuModuleEnumerateFunctions(handle *into, unsigned count, handle given) {
    ENTER("cuModuleEnumerateFunctions", IN_CONTEXT);
    module *of = object_get(given, MODULE);
    REQUIRE(of, INVALID_HANDLE);
    CUresult result = enumerate(&here, of, 0, into, &count);
    LEAVE(result);
}

CUresult cuModuleGetGlobal(CUdeviceptr *into, size_t *bytes, handle given, const char *name) {
    ENTER("cuModuleGetGlobal", IN_CONTEXT);
    module *of = object_get(given, MODULE);
    REQUIRE(of, INVALID_HANDLE);
    CUresult result = variable(of, name, into, bytes);
    LEAVE(result);
}
