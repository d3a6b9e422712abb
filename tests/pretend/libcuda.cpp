// A libcuda.so.1 of a Hopper device that is not there, as far as Triton's driver and launchers ask
// for one. It refuses what a device would refuse, says why, writes down what it was told, and runs
// nothing. The device's memory is the host's with DEVICE_MEMORY added to its addresses.
#include <cuda.h>
#include <elf.h>

#include <cstdio>
#include <cstring>
#include <mutex>
#include <set>
#include <string>
#include <vector>

namespace {

constexpr CUdeviceptr kDeviceMemory = DEVICE_MEMORY;
constexpr int kSharedMemory = 227 * 1024;  // that a block may have, if its kernel is set to it
constexpr uint64_t kTensorMap = 0x70616d20726f736e;  // how one begins that was encoded here

struct Kernel {
    std::string name, digest;
    std::vector<size_t> parameters;  // bytes of each
    unsigned threads = 0;            // that a block must have; 0: as many as it likes
    int shared_memory = 48 * 1024;
};

std::mutex guard;
std::string why, records;
std::set<const Kernel*> kernels;

CUresult refuse(const std::string& reason) {
    std::lock_guard lock(guard);
    why = reason;
    return CUDA_ERROR_INVALID_VALUE;
}

bool is_known(const Kernel* kernel) {
    std::lock_guard lock(guard);
    return kernels.count(kernel);
}

template <class... T>
void record(const char* format, T... values) {
    char line[512];
    std::snprintf(line, sizeof(line), format, values...);
    std::lock_guard lock(guard);
    records += line;
}

template <class T>
const T* at(const char* image, size_t offset) {
    return reinterpret_cast<const T*>(image + offset);
}

// What ptxas says of a kernel in its section .nv.info: words of 4 bytes (form, name, size), those
// of form 4 with so many bytes behind them.
bool read_info(const char* image, Kernel& kernel) {
    const auto* header = at<Elf64_Ehdr>(image, 0);
    const auto* sections = at<Elf64_Shdr>(image, header->e_shoff);
    const char* names = image + sections[header->e_shstrndx].sh_offset;
    for (int i = 0; i < header->e_shnum; ++i) {
        if (names + sections[i].sh_name != ".nv.info." + kernel.name) continue;
        const char* info = image + sections[i].sh_offset;
        const char* end = info + sections[i].sh_size;
        while (info < end) {
            const int form = info[0], name = info[1], size = *at<uint16_t>(info, 2);
            info += 4;
            if (form != 4) continue;
            if (name == 0x10) kernel.threads = *at<uint32_t>(info, 0);
            if (name == 0x17) {  // a parameter
                const size_t number = *at<uint16_t>(info, 4);
                if (number >= kernel.parameters.size()) kernel.parameters.resize(number + 1);
                kernel.parameters[number] = *at<uint32_t>(info, 8) >> 18;
            }
            info += size;
        }
        return true;
    }
    return false;
}

std::string digest_of(const char* image) {
    const auto* header = at<Elf64_Ehdr>(image, 0);
    const size_t size = header->e_phoff + header->e_phnum * header->e_phentsize;
    uint64_t sum = 0xcbf29ce484222325;  // FNV-1a
    for (size_t i = 0; i < size; ++i) sum = (sum ^ static_cast<uint8_t>(image[i])) * 0x100000001b3;
    char text[17];
    std::snprintf(text, sizeof(text), "%016llx", static_cast<unsigned long long>(sum));
    return text;
}

size_t element_size(CUtensorMapDataType type) {
    switch (type) {
        case CU_TENSOR_MAP_DATA_TYPE_UINT8:
            return 1;
        case CU_TENSOR_MAP_DATA_TYPE_UINT16:
        case CU_TENSOR_MAP_DATA_TYPE_FLOAT16:
        case CU_TENSOR_MAP_DATA_TYPE_BFLOAT16:
            return 2;
        case CU_TENSOR_MAP_DATA_TYPE_UINT32:
        case CU_TENSOR_MAP_DATA_TYPE_INT32:
        case CU_TENSOR_MAP_DATA_TYPE_FLOAT32:
        case CU_TENSOR_MAP_DATA_TYPE_FLOAT32_FTZ:
        case CU_TENSOR_MAP_DATA_TYPE_TFLOAT32:
        case CU_TENSOR_MAP_DATA_TYPE_TFLOAT32_FTZ:
            return 4;
        case CU_TENSOR_MAP_DATA_TYPE_UINT64:
        case CU_TENSOR_MAP_DATA_TYPE_INT64:
        case CU_TENSOR_MAP_DATA_TYPE_FLOAT64:
            return 8;
        default:
            return 0;
    }
}

// Bytes of a box's row that a swizzle can spread; 0: as many as there are.
size_t swizzled(CUtensorMapSwizzle swizzle) {
    switch (swizzle) {
        case CU_TENSOR_MAP_SWIZZLE_NONE:
            return 0;
        case CU_TENSOR_MAP_SWIZZLE_32B:
            return 32;
        case CU_TENSOR_MAP_SWIZZLE_64B:
            return 64;
        default:
            return 128;
    }
}

}  // namespace

extern "C" {

// What was told so far, a line of JSON each; then it is forgotten.
const char* pretend_take_records() {
    static std::string taken;
    std::lock_guard lock(guard);
    taken.swap(records);
    records.clear();
    return taken.c_str();
}

CUresult cuGetErrorString(CUresult, const char** text) {
    static std::string last;
    std::lock_guard lock(guard);
    last = why;
    *text = last.c_str();
    return CUDA_SUCCESS;
}

CUresult cuInit(unsigned) { return CUDA_SUCCESS; }

CUresult cuDriverGetVersion(int* version) {
    *version = 13000;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGet(CUdevice* device, int number) {
    *device = number;
    return number ? refuse("there is one device") : CUDA_SUCCESS;
}

CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice) {
    switch (attribute) {
        case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN:
            *value = kSharedMemory;
            return CUDA_SUCCESS;
        case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR:
            *value = kSharedMemory + 1024;
            return CUDA_SUCCESS;
        case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK:
            *value = 65536;
            return CUDA_SUCCESS;
        case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT:
            *value = PROCESSORS;
            return CUDA_SUCCESS;
        case CU_DEVICE_ATTRIBUTE_WARP_SIZE:
            *value = 32;
            return CUDA_SUCCESS;
        case CU_DEVICE_ATTRIBUTE_CLOCK_RATE:
        case CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE:
        case CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH:
            *value = 1;
            return CUDA_SUCCESS;
        default:
            return refuse("nobody has asked for this attribute of a device before");
    }
}

CUresult cuCtxGetCurrent(CUcontext* context) {
    *context = reinterpret_cast<CUcontext>(1);
    return CUDA_SUCCESS;
}

CUresult cuCtxGetDevice(CUdevice* device) {
    *device = 0;
    return CUDA_SUCCESS;
}

CUresult cuCtxSetCurrent(CUcontext) { return CUDA_SUCCESS; }
CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice) { return cuCtxGetCurrent(context); }
CUresult cuCtxGetLimit(size_t*, CUlimit) { return refuse("there are no limits"); }
CUresult cuCtxSetLimit(CUlimit, size_t) { return refuse("there are no limits"); }

CUresult cuOccupancyMaxActiveClusters(int*, CUfunction, const CUlaunchConfig*) {
    return refuse("there are no clusters");
}

CUresult cuPointerGetAttribute(void* value, CUpointer_attribute attribute, CUdeviceptr pointer) {
    if (attribute != CU_POINTER_ATTRIBUTE_DEVICE_POINTER || pointer < kDeviceMemory)
        return refuse("a pointer is not into the device's memory");
    std::memcpy(value, &pointer, sizeof(pointer));
    return CUDA_SUCCESS;
}

CUresult cuModuleLoadData(CUmodule* module, const void* image) {
    const auto* header = at<Elf64_Ehdr>(static_cast<const char*>(image), 0);
    if (std::memcmp(header->e_ident, ELFMAG, SELFMAG) || header->e_machine != EM_CUDA)
        return refuse("a module is no cubin");
    *module = reinterpret_cast<CUmodule>(const_cast<void*>(image));  // its function is got at once
    return CUDA_SUCCESS;
}

CUresult cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name) {
    const char* image = reinterpret_cast<const char*>(module);
    auto* kernel = new Kernel{name, digest_of(image), {}};
    if (!read_info(image, *kernel)) return refuse("a cubin has no kernel of that name");
    record("{\"what\": \"load\", \"kernel\": \"%s\", \"digest\": \"%s\"}\n", name,
           kernel->digest.c_str());
    std::lock_guard lock(guard);
    kernels.insert(kernel);
    *function = reinterpret_cast<CUfunction>(kernel);
    return CUDA_SUCCESS;
}

CUresult cuFuncGetAttribute(int* value, CUfunction_attribute attribute, CUfunction) {
    *value = attribute == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK ? 1024 : 0;
    return CUDA_SUCCESS;
}

CUresult cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value) {
    if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) return CUDA_SUCCESS;
    if (value > kSharedMemory) return refuse("a kernel wants more than 227 KiB of shared memory");
    reinterpret_cast<Kernel*>(function)->shared_memory = value;
    return CUDA_SUCCESS;
}

CUresult cuFuncSetCacheConfig(CUfunction, CUfunc_cache) { return CUDA_SUCCESS; }

CUresult cuTensorMapEncodeTiled(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank,
                                void* address, const cuuint64_t* sizes, const cuuint64_t* strides,
                                const cuuint32_t* box, const cuuint32_t* steps,
                                CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                                CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
    const size_t bytes = element_size(type);
    const auto start = reinterpret_cast<CUdeviceptr>(address);
    if (reinterpret_cast<uintptr_t>(map) % 64) return refuse("a tensor map is not aligned");
    if (!bytes) return refuse("a tensor map has elements of no type that there is");
    if (rank < 1 || rank > 5) return refuse("a tensor map's rank is not 1 to 5");
    if (start % 16) return refuse("a tensor map's address is no multiple of 16");
    if (start < kDeviceMemory) return refuse("a tensor map is not of the device's memory");
    if (interleave != CU_TENSOR_MAP_INTERLEAVE_NONE) return refuse("a tensor map interleaves");
    for (unsigned i = 0; i < rank; ++i) {
        if (sizes[i] < 1 || sizes[i] > 1ull << 32)
            return refuse("a tensor map's size is too large");
        if (box[i] < 1 || box[i] > 256) return refuse("a tensor map's box is not 1 to 256");
        if (steps[i] < 1 || steps[i] > 8) return refuse("a tensor map's steps are not 1 to 8");
        if (i + 1 == rank) break;  // the innermost stride is no argument
        if (strides[i] % 16) return refuse("a tensor map's stride is no multiple of 16");
        if (strides[i] >= 1ull << 40) return refuse("a tensor map's stride is too large");
    }
    const size_t row = box[0] * bytes, most = swizzled(swizzle);
    if (row % 16) return refuse("the rows of a tensor map's box are no multiple of 16 bytes");
    if (most && row > most) return refuse("the rows of a tensor map's box exceed the swizzle");
    std::memset(map, 0, sizeof(*map));
    std::memcpy(map, &kTensorMap, sizeof(kTensorMap));
    record("{\"what\": \"map\", \"rank\": %u}\n", rank);
    return CUDA_SUCCESS;
}

CUresult cuTensorMapEncodeIm2col(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*,
                                 const cuuint64_t*, const cuuint64_t*, const int*, const int*,
                                 cuuint32_t, cuuint32_t, const cuuint32_t*, CUtensorMapInterleave,
                                 CUtensorMapSwizzle, CUtensorMapL2promotion,
                                 CUtensorMapFloatOOBfill) {
    return refuse("a tensor map is of another kind");
}

CUresult cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction function, void** parameters,
                          void** extra) {
    const auto* kernel = reinterpret_cast<const Kernel*>(function);
    const unsigned x = config->gridDimX, y = config->gridDimY, z = config->gridDimZ;
    const unsigned threads = config->blockDimX * config->blockDimY * config->blockDimZ;
    if (!is_known(kernel)) return refuse("a launch has no kernel");
    if (x < 1 || x > 0x7fffffff) return refuse("a grid's x is not 1 to 2^31 - 1");
    if (y < 1 || y > 65535) return refuse("a grid's y is not 1 to 65535");
    if (z < 1 || z > 65535) return refuse("a grid's z is not 1 to 65535");
    if (threads < 1 || threads > 1024) return refuse("a block's threads are not 1 to 1024");
    if (kernel->threads && threads != kernel->threads)
        return refuse("a block has not the threads that its kernel was compiled for");
    if (config->sharedMemBytes > static_cast<unsigned>(kernel->shared_memory))
        return refuse("a launch has more shared memory than its kernel is set to");
    if (!parameters || extra) return refuse("a launch has no parameters");
    for (size_t i = 0; i < kernel->parameters.size(); ++i) {
        if (!parameters[i]) return refuse("a parameter of a launch is null");
        if (kernel->parameters[i] == sizeof(CUtensorMap) &&
            std::memcmp(parameters[i], &kTensorMap, sizeof(kTensorMap)))
            return refuse("a parameter that should be a tensor map is none");
    }
    record(
        "{\"what\": \"launch\", \"kernel\": \"%s\", \"digest\": \"%s\", \"grid\": [%u, %u, %u], "
        "\"block\": %u, \"shared\": %u}\n",
        kernel->name.c_str(), kernel->digest.c_str(), x, y, z, threads, config->sharedMemBytes);
    return CUDA_SUCCESS;
}

}  // extern "C"
