/* Vectors of N lanes over the compiler's vector extensions; N = 1 means plain scalars, so one text serves both.
 *
 * Register types: ull_f32<N>, ull_f64<N>, ull_i32<N> (also int8, uint8, int16, uint16), ull_u32<N>, ull_i64v<N>,
 * ull_u64v<N>, and ull_m<N> for bool
 * (a lane is 0 or -1; a scalar is a C++ bool). float16 and bfloat16 are `unsigned short` in memory, float in registers.
 */
#ifndef ULLAGE_SIMD_H
#define ULLAGE_SIMD_H

#define ULL_INLINE inline __attribute__((always_inline))
#define ULL_FN static ULL_INLINE
typedef long ull_i64;
typedef unsigned long ull_u64;
typedef unsigned short ull_u16;
typedef unsigned char ull_u8;
typedef signed char ull_i8;

#if defined(__AVX512F__)
#define ULL_LANES 16
#elif defined(__AVX2__)
#define ULL_LANES 8
#else
#define ULL_LANES 4
#endif

template <class T, int N> struct ull_vec { typedef T type __attribute__((vector_size(sizeof(T) * N))); };
template <class T> struct ull_vec<T, 1> { typedef T type; };
template <class T, int N> using ull_v = typename ull_vec<T, N>::type;
template <int N> struct ull_mask_type { typedef ull_v<int, N> type; };
template <> struct ull_mask_type<1> { typedef bool type; };

template <int N> using ull_f32 = ull_v<float, N>;
template <int N> using ull_f64 = ull_v<double, N>;
template <int N> using ull_i32 = ull_v<int, N>;
template <int N> using ull_u32 = ull_v<unsigned, N>;
template <int N> using ull_i64v = ull_v<ull_i64, N>;
template <int N> using ull_u64v = ull_v<ull_u64, N>;
template <int N> using ull_m = typename ull_mask_type<N>::type;

/* ---- building ---------------------------------------------------------------------------------------------- */
template <int N, class T> ULL_FN ull_v<T, N> ull_splat(T x) {
    if constexpr (N == 1) return x;
    else return x - ull_v<T, N>{}; /* x - 0 keeps -0, x + 0 would not */
}
template <int N> ULL_FN ull_m<N> ull_splat_mask(bool x) {
    if constexpr (N == 1) return x;
    else return ull_splat<N>(-(int)x);
}
template <int N> ULL_FN ull_i32<N> ull_iota() {
    if constexpr (N == 1) return 0;
    else if constexpr (N == 2) return ull_i32<2>{0, 1};
    else if constexpr (N == 4) return ull_i32<4>{0, 1, 2, 3};
    else if constexpr (N == 8) return ull_i32<8>{0, 1, 2, 3, 4, 5, 6, 7};
    else return ull_i32<16>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
}
template <class To, class From> ULL_FN To ull_bits(From x) {
    static_assert(sizeof(To) == sizeof(From), "ull_bits keeps the size");
    To r;
    __builtin_memcpy(&r, &x, sizeof r);
    return r;
}
template <class To, int N, class From> ULL_FN ull_v<To, N> ull_convert(From x) {
    if constexpr (N == 1) return (To)x;
    else return __builtin_convertvector(x, ull_v<To, N>);
}
/* The value itself, opaque to the optimizer: a product passed through it is never contracted with a later sum. */
template <class V> ULL_FN V ull_keep(V x) {
#if defined(__x86_64__)
    constexpr bool scalar = __is_same(V, float) || __is_same(V, double);
    if constexpr (scalar || (sizeof(V) >= 16 && sizeof(V) <= 4 * ULL_LANES)) {
#if defined(__AVX512F__)
        __asm__("" : "+v"(x));
#else
        __asm__("" : "+x"(x));
#endif
        return x;
    }
#elif defined(__aarch64__)
    if constexpr (sizeof(V) <= 16) {
        __asm__("" : "+w"(x));
        return x;
    }
#endif
    __asm__("" : "+m"(x));
    return x;
}
template <int N> ULL_FN ull_m<N> ull_lanes_below(ull_i64 n) {
    if constexpr (N == 1) return n > 0;
    else return ull_iota<N>() < ull_splat<N>((int)n);
}

/* ---- masks ------------------------------------------------------------------------------------------------- */
template <int N> ULL_FN bool ull_mask(bool m) { return m; }
template <int N> ULL_FN ull_i32<N> ull_mask(ull_i32<N> m) { return m; }
template <int N> ULL_FN ull_i32<N> ull_mask(ull_i64v<N> m) { return ull_convert<int, N>(m); }
template <int N, class V> ULL_FN ull_m<N> ull_eq(V a, V b) { return ull_mask<N>(a == b); }
template <int N, class V> ULL_FN ull_m<N> ull_ne(V a, V b) { return ull_mask<N>(a != b); }
template <int N, class V> ULL_FN ull_m<N> ull_lt(V a, V b) { return ull_mask<N>(a < b); }
template <int N, class V> ULL_FN ull_m<N> ull_le(V a, V b) { return ull_mask<N>(a <= b); }
template <int N, class V> ULL_FN ull_m<N> ull_gt(V a, V b) { return ull_mask<N>(a > b); }
template <int N, class V> ULL_FN ull_m<N> ull_ge(V a, V b) { return ull_mask<N>(a >= b); }
template <int N> ULL_FN ull_m<N> ull_not(ull_m<N> m) {
    if constexpr (N == 1) return !m;
    else return ~m;
}
template <int N, class V> ULL_FN V ull_select(ull_m<N> m, V a, V b) {
    if constexpr (N == 1) return m ? a : b;
    else if constexpr (sizeof(V) == sizeof(ull_m<N>)) return m ? a : b;
    else return ull_convert<ull_i64, N>(m) ? a : b;
}
/* One bit per lane. */
template <int N> ULL_FN unsigned ull_mask_bits(ull_m<N> m) {
    if constexpr (N == 1) return m;
    else {
#if defined(__AVX512F__)
        if constexpr (N >= 4) {
            unsigned bits;
            __asm__("vpmovd2m %1, %0" : "=Yk"(bits) : "v"(m));
            return bits;
        }
#endif
        unsigned bits = 0;
        for (int l = 0; l < N; ++l) bits |= (unsigned)(m[l] & 1) << l;
        return bits;
    }
}

/* ---- memory ------------------------------------------------------------------------------------------------ */
/* iota * stride + base, base cut to where no sum can overflow: its sign is the sign of an index difference. */
template <int N> ULL_FN ull_i32<N> ull_index_sign(ull_i64 base, int stride) {
    const int b = base > (1 << 30) ? 1 << 30 : base < -(1 << 30) ? -(1 << 30) : (int)base;
    return ull_iota<N>() * stride + ull_splat<N>(b);
}
template <class T, int N> ULL_FN ull_v<T, N> ull_load(const T *p) {
    ull_v<T, N> r;
    __builtin_memcpy(&r, p, sizeof r);
    return r;
}
template <class T, int N> ULL_FN void ull_store(T *p, ull_v<T, N> x) { __builtin_memcpy(p, &x, sizeof x); }

/* Lanes whose bit is set; the others are zero and their memory is not touched. */
template <class T, int N> ULL_FN ull_v<T, N> ull_load_bits(const T *p, unsigned bits) {
    using V [[maybe_unused]] = ull_v<T, N>;
    if constexpr (N == 1) return bits ? *p : T(0);
    else {
#if defined(__AVX512F__)
        if constexpr (sizeof(V) >= 16 && sizeof(V) <= 64) {
            V r;
            const V &m = *(const V *)p;
            if constexpr (sizeof(T) == 1) __asm__("vmovdqu8 %1, %0%{%2%}%{z%}" : "=v"(r) : "m"(m), "Yk"((ull_i64)bits));
            else if constexpr (sizeof(T) == 2) __asm__("vmovdqu16 %1, %0%{%2%}%{z%}" : "=v"(r) : "m"(m), "Yk"(bits));
            else if constexpr (sizeof(T) == 4) __asm__("vmovups %1, %0%{%2%}%{z%}" : "=v"(r) : "m"(m), "Yk"(bits));
            else __asm__("vmovupd %1, %0%{%2%}%{z%}" : "=v"(r) : "m"(m), "Yk"(bits));
            return r;
        }
#endif
        T t[N] = {};
        for (int l = 0; l < N; ++l)
            if (bits >> l & 1) t[l] = p[l];
        return ull_load<T, N>(t);
    }
}
template <class T, int N> ULL_FN void ull_store_bits(T *p, ull_v<T, N> x, unsigned bits) {
    using V [[maybe_unused]] = ull_v<T, N>;
    if constexpr (N == 1) {
        if (bits) *p = x;
    } else {
#if defined(__AVX512F__)
        if constexpr (sizeof(V) >= 16 && sizeof(V) <= 64) {
            V &m = *(V *)p;
            if constexpr (sizeof(T) == 1) __asm__("vmovdqu8 %1, %0%{%2%}" : "+m"(m) : "v"(x), "Yk"((ull_i64)bits));
            else if constexpr (sizeof(T) == 2) __asm__("vmovdqu16 %1, %0%{%2%}" : "+m"(m) : "v"(x), "Yk"(bits));
            else if constexpr (sizeof(T) == 4) __asm__("vmovups %1, %0%{%2%}" : "+m"(m) : "v"(x), "Yk"(bits));
            else __asm__("vmovupd %1, %0%{%2%}" : "+m"(m) : "v"(x), "Yk"(bits));
            return;
        }
#endif
        T t[N];
        ull_store<T, N>(t, x);
        for (int l = 0; l < N; ++l)
            if (bits >> l & 1) p[l] = t[l];
    }
}
/* The first n lanes (0 <= n <= N). */
ULL_FN unsigned ull_low_bits(ull_i64 n) { return (1u << n) - 1u; }
template <class T, int N> ULL_FN ull_v<T, N> ull_load_n(const T *p, ull_i64 n) {
#if defined(__AVX512F__)
    return ull_load_bits<T, N>(p, ull_low_bits(n));
#else
    if constexpr (N == 1) return *p;
    else {
#if defined(__AVX2__)
        if constexpr (sizeof(T) == 4 && N == 8) {
            ull_v<T, 8> r;
            const ull_v<T, 8> &m = *(const ull_v<T, 8> *)p;
            __asm__("vmaskmovps %2, %1, %0" : "=x"(r) : "x"(ull_lanes_below<8>(n)), "m"(m));
            return r;
        }
#endif
        T t[N] = {};
        for (ull_i64 l = 0; l < n; ++l) t[l] = p[l];
        return ull_load<T, N>(t);
    }
#endif
}
template <class T, int N> ULL_FN void ull_store_n(T *p, ull_v<T, N> x, ull_i64 n) {
#if defined(__AVX512F__)
    ull_store_bits<T, N>(p, x, ull_low_bits(n));
#else
    if constexpr (N == 1) *p = x;
    else {
#if defined(__AVX2__)
        if constexpr (sizeof(T) == 4 && N == 8) {
            ull_v<T, 8> &m = *(ull_v<T, 8> *)p;
            __asm__("vmaskmovps %2, %1, %0" : "+m"(m) : "x"(ull_lanes_below<8>(n)), "x"(x));
            return;
        }
#endif
        T t[N];
        ull_store<T, N>(t, x);
        for (ull_i64 l = 0; l < n; ++l) p[l] = t[l];
    }
#endif
}
/* Lane l comes from p[at(l)]; only lanes whose bit is set are touched, the others are zero. */
template <class T, int N, class At> ULL_FN ull_v<T, N> ull_gather(const T *p, unsigned bits, At at) {
    T t[N] = {};
    for (int l = 0; l < N; ++l)
        if (bits >> l & 1) t[l] = p[at(l)];
    return ull_load<T, N>(t);
}
template <class T, int N, class At> ULL_FN ull_v<T, N> ull_gather_all(const T *p, At at) {
    ull_v<T, N> r{};
#pragma GCC unroll 16
    for (int l = 0; l < N; ++l) r[l] = p[at(l)];
    return r;
}
template <class T, int N, class At> ULL_FN void ull_scatter(T *p, ull_v<T, N> x, unsigned bits, At at) {
    T t[N];
    ull_store<T, N>(t, x);
    for (int l = 0; l < N; ++l)
        if (bits >> l & 1) p[at(l)] = t[l];
}
template <class T, int N, class At> ULL_FN void ull_scatter_all(T *p, ull_v<T, N> x, At at) {
    T t[N];
    ull_store<T, N>(t, x);
    for (int l = 0; l < N; ++l) p[at(l)] = t[l];
}

template <class To, int N, class V, class F> ULL_FN ull_v<To, N> ull_each_as(V a, F f) {
    if constexpr (N == 1) return f(a);
    else {
        ull_v<To, N> r;
        for (int l = 0; l < N; ++l) r[l] = f(a[l]);
        return r;
    }
}

/* ---- conversions ------------------------------------------------------------------------------------------- */
template <class V> ULL_FN auto ull_low_bytes(V x) {
    char r __attribute__((vector_size(16))) = {};
    __builtin_memcpy(&r, &x, sizeof x);
    return r;
}
/* 8 and 16 bit integers to 32 bits (gcc splits the generic conversion into single lanes or halves). */
template <int N, class From> ULL_FN auto ull_widen(From x) {
#if defined(__AVX2__) && !defined(__clang__)
    typedef short H8 __attribute__((vector_size(16)));
#if defined(__AVX512F__)
    typedef char B __attribute__((vector_size(16)));
    typedef short H16 __attribute__((vector_size(32)));
    if constexpr (__is_same(From, ull_v<ull_u8, 16>))
        return __builtin_ia32_pmovzxbd512_mask(ull_bits<B>(x), ull_i32<16>{}, -1);
    else if constexpr (__is_same(From, ull_v<ull_i8, 16>))
        return __builtin_ia32_pmovsxbd512_mask(ull_bits<B>(x), ull_i32<16>{}, -1);
    else if constexpr (__is_same(From, ull_v<ull_u16, 16>))
        return __builtin_ia32_pmovzxwd512_mask(ull_bits<H16>(x), ull_i32<16>{}, -1);
    else if constexpr (__is_same(From, ull_v<short, 16>))
        return __builtin_ia32_pmovsxwd512_mask(ull_bits<H16>(x), ull_i32<16>{}, -1);
    else
#endif
    if constexpr (__is_same(From, ull_v<ull_u8, 8>)) return __builtin_ia32_pmovzxbd256(ull_low_bytes(x));
    else if constexpr (__is_same(From, ull_v<ull_i8, 8>)) return __builtin_ia32_pmovsxbd256(ull_low_bytes(x));
    else if constexpr (__is_same(From, ull_v<ull_u16, 8>)) return __builtin_ia32_pmovzxwd256(ull_bits<H8>(x));
    else if constexpr (__is_same(From, ull_v<short, 8>)) return __builtin_ia32_pmovsxwd256(ull_bits<H8>(x));
    else return ull_convert<int, N>(x);
#else
    return ull_convert<int, N>(x);
#endif
}
/* The low bits of 32-bit integers (gcc takes the generic conversion of eight to bytes apart). */
template <class To, int N, class From> ULL_FN ull_v<To, N> ull_narrow(From x) {
#if defined(__AVX2__) && !defined(__clang__)
    if constexpr (N == 8 && sizeof(To) == 1 && sizeof(x) == 32) {
        typedef To B __attribute__((vector_size(32)));
        const B b = ull_bits<B>(x);
        return __builtin_shufflevector(b, b, 0, 4, 8, 12, 16, 20, 24, 28);
    }
#endif
    return ull_convert<To, N>(x);
}
template <int N> ULL_FN ull_f32<N> ull_to_f32(ull_f32<N> x) { return x; }
template <int N> ULL_FN ull_f32<N> ull_to_f32(ull_f64<N> x) { return ull_convert<float, N>(x); }
template <int N> ULL_FN ull_f32<N> ull_to_f32(ull_i32<N> x) { return ull_convert<float, N>(x); }
template <int N> ULL_FN ull_f32<N> ull_to_f32(ull_i64v<N> x) { return ull_convert<float, N>(x); }
template <int N> ULL_FN ull_f64<N> ull_to_f64(ull_f32<N> x) { return ull_convert<double, N>(x); }
template <int N> ULL_FN ull_f64<N> ull_to_f64(ull_f64<N> x) { return x; }
template <int N> ULL_FN ull_f64<N> ull_to_f64(ull_i32<N> x) { return ull_convert<double, N>(x); }
template <int N> ULL_FN ull_f64<N> ull_to_f64(ull_i64v<N> x) { return ull_convert<double, N>(x); }
template <int N> ULL_FN ull_i32<N> ull_to_i32(ull_f32<N> x) { return ull_convert<int, N>(x); }
template <int N> ULL_FN ull_i32<N> ull_to_i32(ull_f64<N> x) { return ull_convert<int, N>(x); }
template <int N> ULL_FN ull_i32<N> ull_to_i32(ull_i32<N> x) { return x; }
template <int N> ULL_FN ull_i32<N> ull_to_i32(ull_i64v<N> x) { return ull_convert<int, N>(x); }
template <int N> ULL_FN ull_i64v<N> ull_to_i64(ull_f32<N> x) { return ull_convert<ull_i64, N>(x); }
template <int N> ULL_FN ull_i64v<N> ull_to_i64(ull_f64<N> x) { return ull_convert<ull_i64, N>(x); }
template <int N> ULL_FN ull_i64v<N> ull_to_i64(ull_i32<N> x) { return ull_convert<ull_i64, N>(x); }
template <int N> ULL_FN ull_i64v<N> ull_to_i64(ull_i64v<N> x) { return x; }
template <int N> ULL_FN ull_f32<N> ull_to_f32(ull_u32<N> x) { return ull_convert<float, N>(x); }
template <int N> ULL_FN ull_f32<N> ull_to_f32(ull_u64v<N> x) { return ull_convert<float, N>(x); }
template <int N> ULL_FN ull_f64<N> ull_to_f64(ull_u32<N> x) { return ull_convert<double, N>(x); }
template <int N> ULL_FN ull_f64<N> ull_to_f64(ull_u64v<N> x) { return ull_convert<double, N>(x); }
template <int N> ULL_FN ull_i32<N> ull_to_i32(ull_u32<N> x) { return ull_convert<int, N>(x); }
template <int N> ULL_FN ull_i32<N> ull_to_i32(ull_u64v<N> x) { return ull_convert<int, N>(x); }
template <int N> ULL_FN ull_i64v<N> ull_to_i64(ull_u32<N> x) { return ull_convert<ull_i64, N>(x); }
template <int N> ULL_FN ull_i64v<N> ull_to_i64(ull_u64v<N> x) { return ull_convert<ull_i64, N>(x); }
/* Floats go through integers with a sign, so that what is less than zero wraps around. */
template <int N, class V> ULL_FN ull_u32<N> ull_to_u32(V x) { return ull_convert<unsigned, N>(ull_to_i64<N>(x)); }
template <int N, class V> ULL_FN ull_u64v<N> ull_to_u64(V x) {
    if constexpr (__is_same(V, ull_f32<N>) || __is_same(V, ull_f64<N>))
        return ull_each_as<ull_u64, N>(x, [](auto a) { return a >= 0x1p63 ? (ull_u64)a : (ull_u64)(ull_i64)a; });
    else return ull_convert<ull_u64, N>(ull_to_i64<N>(x));
}
/* 0 or 1 from a mask; a mask of vectors has the type of ull_i32, so it needs a name of its own. */
template <int N> ULL_FN ull_i32<N> ull_mask_to_i32(ull_m<N> m) { return m & 1; }

template <int N> ULL_FN ull_i32<N> ull_wrap_i8(ull_i32<N> x) { return (x << 24) >> 24; }
template <int N> ULL_FN ull_i32<N> ull_wrap_u8(ull_i32<N> x) { return x & 255; }
template <int N> ULL_FN ull_i32<N> ull_wrap_u16(ull_i32<N> x) { return x & 65535; }
template <int N> ULL_FN ull_i32<N> ull_wrap_i16(ull_i32<N> x) { return (x << 16) >> 16; }

template <int N> ULL_FN ull_f32<N> ull_from_bf16(ull_v<ull_u16, N> x) {
    return ull_bits<ull_f32<N>>((ull_u32<N>)ull_widen<N>(x) << 16);
}
template <int N> ULL_FN ull_u32<N> ull_bf16_rounded(ull_f32<N> x) {
    const ull_u32<N> u = ull_bits<ull_u32<N>>(x);
    const ull_u32<N> r = u + 0x7fffu + ((u >> 16) & 1u);
    return ull_select<N>(ull_mask<N>(x != x), u | 0x400000u, r);
}
template <int N> ULL_FN ull_v<ull_u16, N> ull_bf16_bits(ull_f32<N> x) {
#if defined(__AVX512BF16__)
    if constexpr (N == 16) { /* one instruction; it takes subnormal numbers as zeros, as products of pairs do */
        ull_v<ull_u16, 16> r;
        __asm__("vcvtneps2bf16 %1, %0" : "=v"(r) : "v"(x));
        return r;
    }
#endif
    return ull_convert<ull_u16, N>(ull_bf16_rounded<N>(x) >> 16);
}
template <int N> ULL_FN ull_f32<N> ull_round_bf16(ull_f32<N> x) {
#if defined(__AVX512BF16__)
    if constexpr (N == 16) return ull_from_bf16<16>(ull_bf16_bits<16>(x));
#endif
    return ull_bits<ull_f32<N>>(ull_bf16_rounded<N>(x) & 0xffff0000u);
}

template <int N> ULL_FN ull_f32<N> ull_from_f16(ull_v<ull_u16, N> x) {
#if defined(__F16C__) && !defined(__clang__)
#if defined(__AVX512F__)
    if constexpr (N == 16) {
        typedef short H __attribute__((vector_size(32)));
        return __builtin_ia32_vcvtph2ps512_mask(ull_bits<H>(x), ull_f32<16>{}, -1, 4);
    }
#endif
    if constexpr (N == 8) {
        typedef short H __attribute__((vector_size(16)));
        return __builtin_ia32_vcvtph2ps256(ull_bits<H>(x));
    }
#elif defined(__F16C__)
    typedef _Float16 H __attribute__((vector_size(2 * N)));
    if constexpr (N >= 4) return __builtin_convertvector(ull_bits<H>(x), ull_f32<N>);
#endif
    /* Scale by 2^112 to move the exponent; infinities and NaNs keep all ones; denormals come out of the product. */
    const ull_u32<N> u = (ull_u32<N>)ull_widen<N>(x);
    const ull_u32<N> magnitude = (u & 0x7fffu) << 13, sign = (u & 0x8000u) << 16;
    const ull_f32<N> scaled = ull_bits<ull_f32<N>>(magnitude) * 0x1p112f;
    const ull_m<N> special = ull_mask<N>(magnitude >= 0x0f800000u);
    return ull_bits<ull_f32<N>>(ull_select<N>(special, magnitude | 0x7f800000u, ull_bits<ull_u32<N>>(scaled)) | sign);
}
template <int N> ULL_FN ull_v<ull_u16, N> ull_f16_bits(ull_f32<N> x) {
#if defined(__F16C__) && !defined(__clang__)
#if defined(__AVX512F__)
    if constexpr (N == 16) {
        typedef short H __attribute__((vector_size(32)));
        return ull_bits<ull_v<ull_u16, 16>>((H)__builtin_ia32_vcvtps2ph512_mask(x, 0, H{}, -1));
    }
#endif
    if constexpr (N == 8) return ull_bits<ull_v<ull_u16, 8>>(__builtin_ia32_vcvtps2ph256(x, 0));
#elif defined(__F16C__)
    typedef _Float16 H __attribute__((vector_size(2 * N)));
    if constexpr (N >= 4) return ull_bits<ull_v<ull_u16, N>>(__builtin_convertvector(x, H));
#endif
    const ull_u32<N> u = ull_bits<ull_u32<N>>(x);
    const ull_u32<N> sign = (u >> 16) & 0x8000u, magnitude = u & 0x7fffffffu;
    /* Denormal halves: adding 0.5 leaves the rounded mantissa in the low bits. */
    const ull_f32<N> shifted = ull_bits<ull_f32<N>>(magnitude) + 0.5f;
    const ull_u32<N> small = ull_bits<ull_u32<N>>(shifted) - 0x3f000000u;
    const ull_u32<N> normal = (magnitude + 0xc8000fffu + ((magnitude >> 13) & 1u)) >> 13;
    const ull_u32<N> special =
        ull_select<N>(ull_mask<N>(magnitude > 0x7f800000u), (magnitude >> 13 & 0x3ffu) | 0x7e00u, ull_splat<N>(0x7c00u));
    const ull_u32<N> finite = ull_select<N>(ull_mask<N>(magnitude < 0x38800000u), small, normal);
    return ull_convert<ull_u16, N>(ull_select<N>(ull_mask<N>(magnitude >= 0x477ff000u), special, finite) | sign);
}
template <int N> ULL_FN ull_f32<N> ull_round_f16(ull_f32<N> x) { return ull_from_f16<N>(ull_f16_bits<N>(x)); }

template <int N> ULL_FN ull_m<N> ull_from_bool(ull_v<ull_u8, N> x) {
    if constexpr (N == 1) return x != 0;
    else return ull_widen<N>(x) != 0;
}
template <int N> ULL_FN ull_v<ull_u8, N> ull_bool_bytes(ull_m<N> m) { return ull_narrow<ull_u8, N>(m & 1); }

/* ---- arithmetic -------------------------------------------------------------------------------------------- */
/* a * b + c, rounded once where the machine can. */
template <int N, class V> ULL_FN V ull_fma(V a, V b, V c) {
#if defined(__FMA__)
#if defined(__clang__)
    if constexpr (N == 1) return a * b + c; /* contracted by -ffp-contract=fast */
    else return __builtin_elementwise_fma(a, b, c);
#else
    if constexpr (__is_same(V, float)) return __builtin_fmaf(a, b, c);
    else if constexpr (__is_same(V, double)) return __builtin_fma(a, b, c);
    else if constexpr (__is_same(V, ull_f32<4>)) return __builtin_ia32_vfmaddps(a, b, c);
    else if constexpr (__is_same(V, ull_f32<8>)) return __builtin_ia32_vfmaddps256(a, b, c);
    else if constexpr (__is_same(V, ull_f64<2>)) return __builtin_ia32_vfmaddpd(a, b, c);
    else if constexpr (__is_same(V, ull_f64<4>)) return __builtin_ia32_vfmaddpd256(a, b, c);
#if defined(__AVX512F__)
    else if constexpr (__is_same(V, ull_f32<16>)) return __builtin_ia32_vfmaddps512_mask(a, b, c, -1, 4);
    else if constexpr (__is_same(V, ull_f64<8>)) return __builtin_ia32_vfmaddpd512_mask(a, b, c, -1, 4);
#endif
    else {
        V r = c;
        for (int l = 0; l < N; ++l) r[l] = __builtin_fma(a[l], b[l], c[l]);
        return r;
    }
#endif
#else
    return a * b + c;
#endif
}
/* A product that no later sum is contracted with. */
template <int N, class V> ULL_FN V ull_mul(V a, V b) { return ull_keep(a * b); }
/* The machine's minimum and maximum: b if either is NaN. */
#if defined(__AVX__)
#define ULL_RAW(name, compare, single, pair) \
    template <int N, class V> ULL_FN V name(V a, V b) { \
        if constexpr (N > 1 && sizeof(V) >= 16 && sizeof(V) <= 4 * ULL_LANES) { \
            V r; \
            if constexpr (__is_same(V, ull_f32<N>)) __asm__("v" single " %2, %1, %0" : "=v"(r) : "v"(a), "v"(b)); \
            else if constexpr (__is_same(V, ull_f64<N>)) __asm__("v" pair " %2, %1, %0" : "=v"(r) : "v"(a), "v"(b)); \
            else r = a compare b ? a : b; \
            return r; \
        } else return a compare b ? a : b; \
    }
#else
#define ULL_RAW(name, compare, single, pair) \
    template <int N, class V> ULL_FN V name(V a, V b) { return a compare b ? a : b; }
#endif
ULL_RAW(ull_raw_min, <, "minps", "minpd")
ULL_RAW(ull_raw_max, >, "maxps", "maxpd")
/* NaN if either is NaN. */
template <int N, class V> ULL_FN V ull_max(V a, V b) { return ull_select<N>(ull_ne<N>(a, a), a, ull_raw_max<N>(a, b)); }
template <int N, class V> ULL_FN V ull_min(V a, V b) { return ull_select<N>(ull_ne<N>(a, a), a, ull_raw_min<N>(a, b)); }

#if defined(__AVX512F__)
/* Entries of a table of 32, by the low five bits of each lane. */
ULL_FN ull_f32<16> ull_look_up(const float (&table)[32], ull_i32<16> at) {
#if defined(__clang__)
    return __builtin_ia32_vpermi2varps512(ull_load<float, 16>(table), at, ull_load<float, 16>(table + 16));
#else
    return __builtin_ia32_vpermt2varps512_mask(at, ull_load<float, 16>(table), ull_load<float, 16>(table + 16), -1);
#endif
}
#endif

/* One scalar function per lane. */
template <int N, class V, class F> ULL_FN V ull_each(V a, F f) {
    if constexpr (N == 1) return f(a);
    else {
        V r = a;
        for (int l = 0; l < N; ++l) r[l] = f(a[l]);
        return r;
    }
}
template <int N, class V, class F> ULL_FN V ull_each(V a, V b, F f) {
    if constexpr (N == 1) return f(a, b);
    else {
        V r = a;
        for (int l = 0; l < N; ++l) r[l] = f(a[l], b[l]);
        return r;
    }
}
/* Integer division that never traps: x / 0 is 0. */
template <class T> ULL_FN bool ull_is_minus_one(T x) { return T(-1) < T(0) && x == T(-1); }
template <class T> ULL_FN T ull_truncdiv_1(T a, T b) {
    return b == 0 ? T(0) : ull_is_minus_one(b) ? T(0) - a : a / b;
}
template <class T> ULL_FN T ull_fmod_1(T a, T b) { return (b == 0 || ull_is_minus_one(b)) ? T(0) : a % b; }
template <class T> ULL_FN T ull_floordiv_1(T a, T b) {
    const T q = ull_truncdiv_1(a, b);
    return b != 0 && ull_fmod_1(a, b) != 0 && ((a < 0) != (b < 0)) ? q - 1 : q;
}
template <class T> ULL_FN T ull_mod_1(T a, T b) {
    const T r = ull_fmod_1(a, b);
    return r != 0 && ((r < 0) != (b < 0)) ? r + b : r;
}
template <int N, class V> ULL_FN V ull_truncdiv_int(V a, V b) {
    return ull_each<N>(a, b, [](auto x, auto y) { return ull_truncdiv_1(x, y); });
}
template <int N, class V> ULL_FN V ull_fmod_int(V a, V b) {
    return ull_each<N>(a, b, [](auto x, auto y) { return ull_fmod_1(x, y); });
}
template <int N, class V> ULL_FN V ull_floordiv_int(V a, V b) {
    return ull_each<N>(a, b, [](auto x, auto y) { return ull_floordiv_1(x, y); });
}
template <int N, class V> ULL_FN V ull_mod_int(V a, V b) {
    return ull_each<N>(a, b, [](auto x, auto y) { return ull_mod_1(x, y); });
}
/* Shifts by at least the width give 0, or the sign for shifts right. */
template <int N, class V> ULL_FN V ull_shl(V a, V b) {
    return ull_each<N>(a, b, [](auto x, auto y) {
        return (unsigned long)y >= sizeof(x) * 8 ? decltype(x)(0) : decltype(x)((unsigned long)x << y);
    });
}
template <int N, class V> ULL_FN V ull_shr(V a, V b) {
    return ull_each<N>(a, b, [](auto x, auto y) {
        return (unsigned long)y >= sizeof(x) * 8 ? decltype(x)(x < 0 ? -1 : 0) : decltype(x)(x >> y);
    });
}
template <int N, class V> ULL_FN V ull_pow_int(V a, V b) {
    return ull_each<N>(a, b, [](auto x, auto y) {
        if (y < 0) return decltype(x)(x == 1 ? 1 : x == -1 ? (y & 1 ? -1 : 1) : 0);
        decltype(x) r = 1;
        for (; y; y >>= 1, x *= x)
            if (y & 1) r *= x;
        return r;
    });
}
template <int N, class V> ULL_FN V ull_abs(V x) { return x < 0 ? -x : x; }
template <int N> ULL_FN ull_f32<N> ull_abs_f32(ull_f32<N> x) {
    return ull_bits<ull_f32<N>>(ull_bits<ull_u32<N>>(x) & 0x7fffffffu);
}
template <int N> ULL_FN ull_f64<N> ull_abs_f64(ull_f64<N> x) {
    return ull_bits<ull_f64<N>>(ull_bits<ull_v<unsigned long, N>>(x) & 0x7fffffffffffffffu);
}
/* -1, 0 or 1; NaN gives 0 as in torch. */
template <int N, class V> ULL_FN V ull_sign(V x) {
    const V zero{}, one = zero + 1;
    return x > 0 ? one : x < 0 ? -one : zero;
}

/* ---- across lanes ------------------------------------------------------------------------------------------ */
template <int N, class V> ULL_FN auto ull_low_half(V x) {
    if constexpr (N == 16) return __builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7);
    else if constexpr (N == 8) return __builtin_shufflevector(x, x, 0, 1, 2, 3);
    else return __builtin_shufflevector(x, x, 0, 1);
}
template <int N, class V> ULL_FN auto ull_high_half(V x) {
    if constexpr (N == 16) return __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15);
    else if constexpr (N == 8) return __builtin_shufflevector(x, x, 4, 5, 6, 7);
    else return __builtin_shufflevector(x, x, 2, 3);
}
template <int N, class V> ULL_FN auto ull_join(V low, V high) {
    if constexpr (N == 16)
        return __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    else if constexpr (N == 8) return __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7);
    else return __builtin_shufflevector(low, high, 0, 1, 2, 3);
}
/* Lanes folded pairwise, upper half onto lower half, down to one value. */
template <int N, class V, class F> ULL_FN auto ull_fold(V x, F f) {
    if constexpr (N == 1) return x;
    else if constexpr (N == 2) return f(x[0], x[1]);
    else return ull_fold<N / 2>(f(ull_low_half<N>(x), ull_high_half<N>(x)), f);
}
template <int N, class V> ULL_FN auto ull_fold_sum(V x) {
    return ull_fold<N>(x, [](auto a, auto b) { return a + b; });
}
template <int N, class V> ULL_FN auto ull_fold_prod(V x) {
    return ull_fold<N>(x, [](auto a, auto b) { return a * b; });
}
template <int N, class V> ULL_FN auto ull_fold_max(V x) {
    return ull_fold<N>(x, [](auto a, auto b) { return ((a > b) | (a != a)) ? a : b; });
}
template <int N, class V> ULL_FN auto ull_fold_min(V x) {
    return ull_fold<N>(x, [](auto a, auto b) { return ((a < b) | (a != a)) ? a : b; });
}

/* The sum of many parts: sixteen of them make one value of the next level, sixteen of those one of the level above, so
 * that no value takes more than sixteen additions. Digit k of `count` in base 16 says how many parts level k holds; the
 * lowest level stays in registers. */
template <class V> struct ull_cascade {
    V lowest{}, level[16];
    ull_i64 count = 0;
    ULL_INLINE void add(V part) {
        lowest = lowest + part;
        if (++count & 15) return;
        V full = lowest;
        lowest = V{};
        ull_i64 digits = count;
        for (int k = 1; !(digits & 15); ++k) {
            digits >>= 4;
            full = level[k] = (digits & 15) == 1 ? full : level[k] + full;
        }
    }
    ULL_INLINE V total() const {
        V sum = lowest;
        int k = 1;
        for (ull_i64 digits = count >> 4; digits; digits >>= 4, ++k)
            if (digits & 15) sum = level[k] + sum;
        return sum;
    }
};

/* ---- positions of extremes --------------------------------------------------------------------------------- */
enum { ULL_NOWHERE = 0x7fffffff };
/* Whether a replaces b as the extreme: strictly better, or the first NaN. */
template <int N, class V> ULL_FN ull_m<N> ull_above(V a, V b) { return ull_mask<N>(a > b) | (ull_ne<N>(a, a) & ull_eq<N>(b, b)); }
template <int N, class V> ULL_FN ull_m<N> ull_below(V a, V b) { return ull_mask<N>(a < b) | (ull_ne<N>(a, a) & ull_eq<N>(b, b)); }
/* Rows of neutral elements never replace the start: their first element is the answer. */
template <int N> ULL_FN ull_i64v<N> ull_position(ull_i32<N> at) {
    return ull_to_i64<N>(ull_select<N>(ull_eq<N>(at, ull_splat<N>((int)ULL_NOWHERE)), ull_splat<N>(0), at));
}
template <int N, bool MAX, class V> ULL_FN void ull_merge_position(V &a, ull_i32<N> &i, V b, ull_i32<N> j) {
    ull_m<N> better;
    if constexpr (MAX) better = ull_above<N>(b, a);
    else better = ull_below<N>(b, a);
    const ull_m<N> same = ull_eq<N>(a, b) | (ull_ne<N>(a, a) & ull_ne<N>(b, b));
    const ull_m<N> take = better | (same & ull_lt<N>(j, i));
    a = ull_select<N>(take, b, a);
    i = ull_select<N>(take, j, i);
}
template <int N, class V> ULL_FN void ull_merge_argmax(V &a, ull_i32<N> &i, V b, ull_i32<N> j) {
    ull_merge_position<N, true>(a, i, b, j);
}
template <int N, class V> ULL_FN void ull_merge_argmin(V &a, ull_i32<N> &i, V b, ull_i32<N> j) {
    ull_merge_position<N, false>(a, i, b, j);
}
template <int N, bool MAX, class V> ULL_FN ull_i64 ull_fold_position(V x, ull_i32<N> at) {
    auto best = x[0];
    int i = at[0];
    for (int l = 1; l < N; ++l) {
        int j = at[l];
        auto v = x[l];
        ull_merge_position<1, MAX>(best, i, v, j);
    }
    return ull_position<1>(i);
}
template <int N, class V> ULL_FN ull_i64 ull_fold_argmax(V x, ull_i32<N> at) { return ull_fold_position<N, true>(x, at); }
template <int N, class V> ULL_FN ull_i64 ull_fold_argmin(V x, ull_i32<N> at) { return ull_fold_position<N, false>(x, at); }

template <int N> ULL_FN bool ull_fold_any(ull_m<N> m) { return ull_mask_bits<N>(m) != 0; }
template <int N> ULL_FN bool ull_fold_all(ull_m<N> m) { return ull_mask_bits<N>(m) == (N == 1 ? 1u : (1u << N) - 1u); }

#endif
