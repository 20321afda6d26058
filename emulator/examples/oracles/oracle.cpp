// What the vendor's headers compute on the host: `oracle NAME` reads 64-bit words from standard input, as many for each
// result as the function has arguments, and writes one word for each result.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

template <typename To, typename From> static To bits(From from) {
    To to{};
    std::memcpy(&to, &from, sizeof(From) < sizeof(To) ? sizeof(From) : sizeof(To));
    return to;
}
static float f32(uint64_t x) { return bits<float>(uint32_t(x)); }
static double f64(uint64_t x) { return bits<double>(x); }
static __half f16(uint64_t x) { return bits<__half>(uint16_t(x)); }
static __nv_bfloat16 bf16(uint64_t x) { return bits<__nv_bfloat16>(uint16_t(x)); }
template <typename T> static uint64_t word(T x) { return bits<uint64_t>(x); }

static uint64_t compute(const std::string &name, const uint64_t *x) {
#define OP(op, value)                                                                                                  \
    if (name == #op)                                                                                                   \
        return word(value);
    OP(half2float, __half2float(f16(x[0])))
    OP(float2half_rn, __float2half_rn(f32(x[0])))
    OP(float2half_rz, __float2half_rz(f32(x[0])))
    OP(float2half_rd, __float2half_rd(f32(x[0])))
    OP(float2half_ru, __float2half_ru(f32(x[0])))
    OP(double2half, __double2half(f64(x[0])))
    OP(bf2float, __bfloat162float(bf16(x[0])))
    OP(float2bf_rn, __float2bfloat16_rn(f32(x[0])))
    OP(float2bf_rz, __float2bfloat16_rz(f32(x[0])))
    OP(double2bf, __double2bfloat16(f64(x[0])))
    OP(half2int_rz, __half2int_rz(f16(x[0])))
    OP(half2uint_rz, __half2uint_rz(f16(x[0])))
    OP(half2ll_rz, __half2ll_rz(f16(x[0])))
    OP(half2ull_rz, __half2ull_rz(f16(x[0])))
    OP(half2short_rz, __half2short_rz(f16(x[0])))
    OP(half2ushort_rz, __half2ushort_rz(f16(x[0])))
    OP(int2half_rn, __int2half_rn(int32_t(x[0])))
    OP(uint2half_rn, __uint2half_rn(uint32_t(x[0])))
    OP(ll2half_rn, __ll2half_rn((long long)(x[0])))
    OP(ull2half_rn, __ull2half_rn((unsigned long long)(x[0])))
    OP(float2e4m3, __nv_cvt_float_to_fp8(f32(x[0]), __NV_SATFINITE, __NV_E4M3))
    OP(float2e5m2, __nv_cvt_float_to_fp8(f32(x[0]), __NV_SATFINITE, __NV_E5M2))
    OP(half2e4m3, __nv_cvt_halfraw_to_fp8(bits<__half_raw>(uint16_t(x[0])), __NV_SATFINITE, __NV_E4M3))
    OP(half2e5m2, __nv_cvt_halfraw_to_fp8(bits<__half_raw>(uint16_t(x[0])), __NV_SATFINITE, __NV_E5M2))
    OP(e4m32half, __nv_cvt_fp8_to_halfraw(uint8_t(x[0]), __NV_E4M3))
    OP(e5m22half, __nv_cvt_fp8_to_halfraw(uint8_t(x[0]), __NV_E5M2))
    OP(hadd, __hadd(f16(x[0]), f16(x[1])))
    OP(hsub, __hsub(f16(x[0]), f16(x[1])))
    OP(hmul, __hmul(f16(x[0]), f16(x[1])))
    OP(hmax, __hmax(f16(x[0]), f16(x[1])))
    OP(hmin, __hmin(f16(x[0]), f16(x[1])))
    OP(hmax_nan, __hmax_nan(f16(x[0]), f16(x[1])))
    OP(hmin_nan, __hmin_nan(f16(x[0]), f16(x[1])))
    OP(badd, __hadd(bf16(x[0]), bf16(x[1])))
    OP(bsub, __hsub(bf16(x[0]), bf16(x[1])))
    OP(bmul, __hmul(bf16(x[0]), bf16(x[1])))
    OP(bmax, __hmax(bf16(x[0]), bf16(x[1])))
    OP(bmin_nan, __hmin_nan(bf16(x[0]), bf16(x[1])))
#undef OP
    std::fprintf(stderr, "no such function: %s\n", name.c_str());
    std::exit(2);
}

int main(int argc, char **argv) {
    if (argc != 3)
        return 2;
    const size_t arguments = std::stoul(argv[2]);
    std::vector<uint64_t> x(arguments);
    while (std::fread(x.data(), 8, arguments, stdin) == arguments) {
        const uint64_t result = compute(argv[1], x.data());
        std::fwrite(&result, 8, 1, stdout);
    }
    return 0;
}
