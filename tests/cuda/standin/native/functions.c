/* Functions and kernels: how their handles lead to code, their parameters and attributes. */
#include "standin.h"

/* With lazy loading a function comes to the device when it is first needed there. */
CUresult function_load(call *here, function *of) {
    if (of->loaded) return SUCCESS;
    CUresult result = wait_for_kernels(here, of->base.owner, HAZARD_LOAD);
    if (!result) of->loaded = 1;
    return result;
}

/* The function behind a function's or a kernel's handle, in the current context. */
CUresult function_of(call *here, handle given, function **into) {
    if ((*into = object_get(given, FUNCTION))) return SUCCESS;
    kernel *of = object_get(given, KERNEL);
    if (!of) return INVALID_HANDLE;
    if (!here->context) return INVALID_CONTEXT;
    module *found;
    CUresult result = module_in(here, of->library, here->context, &found);
    if (!result) result = get_function(here, found, of->name, into);
    if (!result && of->dynamic_shared_bytes_max)
        (*into)->dynamic_shared_bytes_max = of->dynamic_shared_bytes_max;
    return result;
}

CUresult cuKernelGetFunction(handle *into, handle given) {
    ENTER("cuKernelGetFunction", IN_CONTEXT);
    function *found;
    REQUIRE(object_get(given, KERNEL), INVALID_HANDLE);
    CUresult result = function_of(&here, given, &found);
    if (!result) *into = found;
    LEAVE(result);
}

CUresult cuKernelGetLibrary(handle *into, handle given) {
    ENTER("cuKernelGetLibrary", 0);
    kernel *of = object_get(given, KERNEL);
    REQUIRE(of, INVALID_HANDLE);
    *into = of->library;
    LEAVE(SUCCESS);
}

CUresult cuKernelGetName(const char **into, handle given) {
    ENTER("cuKernelGetName", 0);
    kernel *of = object_get(given, KERNEL);
    REQUIRE(of, INVALID_HANDLE);
    *into = of->name;
    LEAVE(SUCCESS);
}

CUresult cuFuncGetName(const char **into, handle given) {
    ENTER("cuFuncGetName", 0);
    function *of;
    CUresult result = function_of(&here, given, &of);
    if (!result) *into = of->name;
    LEAVE(result);
}

CUresult cuFuncGetModule(handle *into, handle given) {
    ENTER("cuFuncGetModule", 0);
    function *of;
    CUresult result = function_of(&here, given, &of);
    if (!result) *into = of->module;
    LEAVE(result);
}

static CUresult parameter(const char *call_name, handle given, size_t index, size_t *offset,
                          size_t *bytes) {
    ENTER(call_name, 0);
    function *of;
    CUresult result = function_of(&here, given, &of);
    if (result) LEAVE(result);
    REQUIRE(index < (size_t)of->facts.parameter_count, INVALID_VALUE);
    if (offset) *offset = of->facts.offsets[index];
    if (bytes) *bytes = of->facts.sizes[index];
    LEAVE(SUCCESS);
}

CUresult cuFuncGetParamInfo(handle of, size_t index, size_t *offset, size_t *bytes) {
    return parameter("cuFuncGetParamInfo", of, index, offset, bytes);
}

CUresult cuKernelGetParamInfo(handle of, size_t index, size_t *offset, size_t *bytes) {
    return parameter("cuKernelGetParamInfo", of, index, offset, bytes);
}

CUresult cuFuncLoad(handle given) {
    ENTER("cuFuncLoad", IN_CONTEXT);
    function *of;
    CUresult result = function_of(&here, given, &of);
    if (!result) result = function_load(&here, of);
    LEAVE(result);
}

CUresult cuFuncIsLoaded(int *into, handle given) {
    ENTER("cuFuncIsLoaded", IN_CONTEXT);
    function *of;
    CUresult result = function_of(&here, given, &of);
    if (!result) *into = of->loaded;
    LEAVE(result);
}

static CUresult attribute_of(const function *of, int attribute, int *into) {
    const int32_t *attributes = devices[of->base.owner->ordinal].set.attributes;
    switch (attribute) {
    case FUNCTION_MAX_THREADS_PER_BLOCK:
        *into = attributes[ATTRIBUTE_MAX_THREADS_PER_BLOCK];
        break;
    case FUNCTION_SHARED_SIZE_BYTES: *into = (int)of->facts.shared_bytes; break;
    case FUNCTION_CONST_SIZE_BYTES: *into = 0; break;
    case FUNCTION_LOCAL_SIZE_BYTES: *into = (int)of->facts.local_bytes; break;
    case FUNCTION_NUM_REGS: *into = 32; break;
    case FUNCTION_PTX_VERSION:
    case FUNCTION_BINARY_VERSION: *into = attributes[75] * 10 + attributes[76]; break;
    case FUNCTION_MAX_DYNAMIC_SHARED_SIZE_BYTES:
        *into = of->dynamic_shared_bytes_max ? of->dynamic_shared_bytes_max
                                             : attributes[ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK];
        break;
    case FUNCTION_PREFERRED_SHARED_MEMORY_CARVEOUT: *into = of->carveout - 1; break;
    default: *into = 0;
    }
    return SUCCESS;
}

CUresult cuFuncGetAttribute(int *into, int attribute, handle given) {
    ENTER("cuFuncGetAttribute", IN_CONTEXT);
    function *of;
    CUresult result = function_of(&here, given, &of);
    if (!result) result = attribute_of(of, attribute, into);
    LEAVE(result);
}

CUresult cuKernelGetAttribute(int *into, int attribute, handle given, CUdevice ordinal) {
    ENTER("cuKernelGetAttribute", IN_CONTEXT);
    (void)ordinal;
    function *of;
    CUresult result = function_of(&here, given, &of);
    if (!result) result = attribute_of(of, attribute, into);
    LEAVE(result);
}

static CUresult set_attribute(int32_t *of, int attribute, int value) {
    const int32_t *attributes = devices[0].set.attributes;
    if (attribute != FUNCTION_MAX_DYNAMIC_SHARED_SIZE_BYTES) return SUCCESS;
    if (value < 0 || value > attributes[ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN])
        return INVALID_VALUE;
    *of = value;
    return SUCCESS;
}

CUresult cuFuncSetAttribute(handle given, int attribute, int value) {
    ENTER("cuFuncSetAttribute", IN_CONTEXT);
    function *of;
    CUresult result = function_of(&here, given, &of);
    if (!result && attribute == FUNCTION_PREFERRED_SHARED_MEMORY_CARVEOUT) {
        REQUIRE(value >= -1 && value <= 100, INVALID_VALUE);
        of->carveout = value + 1;
        LEAVE(SUCCESS);
    }
    if (!result) result = set_attribute(&of->dynamic_shared_bytes_max, attribute, value);
    LEAVE(result);
}

CUresult cuKernelSetAttribute(int attribute, int value, handle given, CUdevice ordinal) {
    ENTER("cuKernelSetAttribute", 0);
    (void)ordinal;
    kernel *of = object_get(given, KERNEL);
    REQUIRE(of, INVALID_HANDLE);
    CUresult result = set_attribute(&of->dynamic_shared_bytes_max, attribute, value);
    LEAVE(result);
}
