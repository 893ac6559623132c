/* Elementary functions over N lanes, at most 2 ulp off in single precision (docs/vector-math.md says which how much); double
 * precision goes through libm lane by lane.
 *
 * Polynomials are minimax fits. Products that feed sums are written as ull_fma or ull_mul, so that results do not depend
 * on what the compiler contracts. Denormals, infinities, NaNs and signed zeros are handled.
 */
#ifndef ULLAGE_MATH_H
#define ULLAGE_MATH_H

#if defined(__AVX__)
#define ULL_VEX "v"
#else
#define ULL_VEX ""
#endif

/* Horner's rule, highest coefficient first. */
template <int N, class V, class T> ULL_FN V ull_horner(V x, V p, T c) { return ull_fma<N>(p, x, ull_splat<N>(c)); }
template <int N, class V, class T, class... Rest> ULL_FN V ull_horner(V x, V p, T c, Rest... rest) {
    return ull_horner<N>(x, ull_fma<N>(p, x, ull_splat<N>(c)), rest...);
}
template <int N, class V, class T, class... Rest> ULL_FN V ull_poly(V x, T c, Rest... rest) {
    return ull_horner<N>(x, ull_splat<N>(c), rest...);
}

#define ULL_SCALARS_OF_FOUR(function) \
    if constexpr (N == 1) return function<4>(ull_splat<4>(x))[0]

/* The libm function of each lane. */
#define ULL_LIBM(name, builtin) \
    template <int N> ULL_FN ull_f64<N> name(ull_f64<N> x) { \
        return ull_each<N>(x, [](double v) { return builtin(v); }); \
    }

template <int N> ULL_FN ull_f32<N> ull_copysign(ull_f32<N> magnitude, ull_f32<N> sign) {
    return ull_bits<ull_f32<N>>((ull_bits<ull_u32<N>>(magnitude) & 0x7fffffffu) |
                                (ull_bits<ull_u32<N>>(sign) & 0x80000000u));
}
/* Bitwise: the sign of `sign` changes the sign of x. */
template <int N> ULL_FN ull_f32<N> ull_mulsign(ull_f32<N> x, ull_f32<N> sign) {
    return ull_bits<ull_f32<N>>(ull_bits<ull_u32<N>>(x) ^ (ull_bits<ull_u32<N>>(sign) & 0x80000000u));
}
template <int N> ULL_FN ull_f32<N> ull_nan() { return ull_splat<N>(__builtin_nanf("")); }
template <int N> ULL_FN ull_f32<N> ull_clamp(ull_f32<N> x, float low, float high) {
    return ull_raw_min<N>(ull_splat<N>(high), ull_raw_max<N>(ull_splat<N>(low), x));
}

/* ---- roots ------------------------------------------------------------------------------------------------- */
template <int N> ULL_FN ull_f32<N> ull_sqrt(ull_f32<N> x) {
    if constexpr (N == 1) return __builtin_sqrtf(x);
    else if constexpr (sizeof(x) <= 4 * ULL_LANES && sizeof(x) >= 16) {
#if defined(__x86_64__)
        ull_f32<N> r;
        __asm__(ULL_VEX "sqrtps %1, %0" : "=x"(r) : "x"(x));
        return r;
#endif
    }
    return ull_each<N>(x, [](float v) { return __builtin_sqrtf(v); });
}
template <int N> ULL_FN ull_f64<N> ull_sqrt(ull_f64<N> x) {
    if constexpr (N == 1) return __builtin_sqrt(x);
    else if constexpr (sizeof(x) <= 4 * ULL_LANES && sizeof(x) >= 16) {
#if defined(__x86_64__)
        ull_f64<N> r;
        __asm__(ULL_VEX "sqrtpd %1, %0" : "=x"(r) : "x"(x));
        return r;
#endif
    }
    return ull_each<N>(x, [](double v) { return __builtin_sqrt(v); });
}
template <int N> ULL_FN ull_f32<N> ull_rsqrt(ull_f32<N> x) { return 1.0f / ull_sqrt<N>(x); }
template <int N> ULL_FN ull_f64<N> ull_rsqrt(ull_f64<N> x) { return 1.0 / ull_sqrt<N>(x); }
template <int N> ULL_FN ull_f32<N> ull_reciprocal(ull_f32<N> x) { return 1.0f / x; }
template <int N> ULL_FN ull_f64<N> ull_reciprocal(ull_f64<N> x) { return 1.0 / x; }

/* ---- rounding ---------------------------------------------------------------------------------------------- */
enum { ULL_NEAREST = 0, ULL_DOWN = 1, ULL_UP = 2, ULL_ZERO = 3 };
template <int MODE> ULL_FN float ull_round_1(float v) {
    return MODE == ULL_NEAREST ? __builtin_rintf(v) : MODE == ULL_DOWN ? __builtin_floorf(v)
         : MODE == ULL_UP      ? __builtin_ceilf(v) : __builtin_truncf(v);
}
template <int MODE> ULL_FN double ull_round_1(double v) {
    return MODE == ULL_NEAREST ? __builtin_rint(v) : MODE == ULL_DOWN ? __builtin_floor(v)
         : MODE == ULL_UP      ? __builtin_ceil(v) : __builtin_trunc(v);
}
template <int N, int MODE, class V> ULL_FN V ull_round_mode(V x) {
    if constexpr (N == 1) return ull_round_1<MODE>(x);
    else {
#if defined(__AVX2__)
        constexpr bool single = sizeof(V) == 4 * N;
        V r;
#if defined(__AVX512F__)
        if constexpr (sizeof(V) == 64) {
            if constexpr (single) __asm__("vrndscaleps %2, %1, %0" : "=v"(r) : "v"(x), "i"(MODE));
            else __asm__("vrndscalepd %2, %1, %0" : "=v"(r) : "v"(x), "i"(MODE));
            return r;
        }
#endif
        if constexpr (sizeof(V) == 32 || sizeof(V) == 16) {
            if constexpr (single) __asm__("vroundps %2, %1, %0" : "=x"(r) : "x"(x), "i"(MODE));
            else __asm__("vroundpd %2, %1, %0" : "=x"(r) : "x"(x), "i"(MODE));
            return r;
        }
#endif
        return ull_each<N>(x, [](auto v) { return ull_round_1<MODE>(v); });
    }
}
template <int N, class V> ULL_FN V ull_round(V x) { return ull_round_mode<N, ULL_NEAREST>(x); }
template <int N, class V> ULL_FN V ull_floor(V x) { return ull_round_mode<N, ULL_DOWN>(x); }
template <int N, class V> ULL_FN V ull_ceil(V x) { return ull_round_mode<N, ULL_UP>(x); }
template <int N, class V> ULL_FN V ull_trunc(V x) { return ull_round_mode<N, ULL_ZERO>(x); }
/* The nearest integers, halves to even ones. */
template <int N> ULL_FN ull_i32<N> ull_nearest_i32(ull_f32<N> x) {
#if defined(__AVX512F__) && !defined(__clang__)
    if constexpr (N == 16) {
        ull_i32<16> r;
        __asm__("vcvtps2dq %1, %0" : "=v"(r) : "v"(x));
        return r;
    }
#endif
#if defined(__AVX2__)
    if constexpr (N == 8) return __builtin_ia32_cvtps2dq256(x);
#endif
    return ull_to_i32<N>(ull_round<N>(x));
}
/* The nearest uint8 of numbers that are not negative, 255 for all that is more and for NaN. */
template <int N> ULL_FN ull_v<ull_u8, N> ull_code(ull_f32<N> x) {
#if defined(__AVX512F__)
    if constexpr (N == 16) {
        ull_v<ull_u8, 16> r;
        __asm__("vpmovusdb %1, %0" : "=v"(r) : "v"(ull_nearest_i32<16>(x)));
        return r;
    }
#endif
    return ull_narrow<ull_u8, N>(ull_nearest_i32<N>(ull_raw_min<N>(x, ull_splat<N>(255.0f))));
}

/* ---- exponentials ------------------------------------------------------------------------------------------ */
/* The nearest integer of x (|x| < 2^22) in single precision. */
template <int N> ULL_FN ull_f32<N> ull_nearest(ull_f32<N> x, float factor) {
    const ull_f32<N> magic = ull_splat<N>(0x1.8p23f);
    return ull_fma<N>(x, ull_splat<N>(factor), magic) - magic;
}
/* p * 2^n for integers n, rounded once (|n| <= 252). */
template <int N> ULL_FN ull_f32<N> ull_scale(ull_f32<N> p, ull_f32<N> n) {
#if defined(__AVX512F__)
    ull_f32<N> r;
    __asm__("vscalefps %2, %1, %0" : "=v"(r) : "v"(p), "v"(n));
    return r;
#else
    const ull_i32<N> i = ull_to_i32<N>(n), h = i >> 1;
    return p * ull_bits<ull_f32<N>>((h + 127) << 23) * ull_bits<ull_f32<N>>((i - h + 127) << 23);
#endif
}
/* x - n ln 2. */
template <int N> ULL_FN ull_f32<N> ull_less_ln2(ull_f32<N> x, ull_f32<N> n) {
    const ull_f32<N> r = ull_fma<N>(n, ull_splat<N>(-0x1.62e4p-1f), x);
    return ull_fma<N>(n, ull_splat<N>(-0x1.7f7d1cp-20f), r);
}
/* e^r - 1 - r over r^2, |r| <= ln(2) / 2. */
template <int N> ULL_FN ull_f32<N> ull_exp_tail(ull_f32<N> r) {
    return ull_poly<N>(r, 0x1.6db456p-10f, 0x1.123b56p-7f, 0x1.55545ep-5f, 0x1.55548ep-3f, 0.5f);
}
/* e^x * 2^extra. */
template <int N> ULL_FN ull_f32<N> ull_exp_times(ull_f32<N> x, float extra) {
    x = ull_clamp<N>(x, -105.0f, 90.0f);
    const ull_f32<N> n = ull_nearest<N>(x, 0x1.715476p0f), r = ull_less_ln2<N>(x, n);
    const ull_f32<N> p = ull_fma<N>(ull_exp_tail<N>(r), ull_mul<N>(r, r), r) + 1.0f;
    return ull_scale<N>(p, n + extra);
}
/* e^x 2^log2_scale = s + s p, neither rounded further; s is a power of two, |x| <= 120. */
template <int N> struct ull_exp_parts { ull_f32<N> s, p; };
template <int N> ULL_FN ull_exp_parts<N> ull_split_exp(ull_f32<N> x, int log2_scale) {
    const ull_f32<N> magic = ull_splat<N>(0x1.8p23f), u = ull_fma<N>(x, ull_splat<N>(0x1.715476p0f), magic);
    const ull_f32<N> r = ull_less_ln2<N>(x, u - magic);
    const ull_f32<N> p = ull_fma<N>(ull_exp_tail<N>(r), ull_mul<N>(r, r), r);
    return {ull_bits<ull_f32<N>>((ull_bits<ull_u32<N>>(u) + (unsigned)(127 + log2_scale)) << 23), p};
}
template <int N> ULL_FN ull_f32<N> ull_exp(ull_f32<N> x) {
    ULL_SCALARS_OF_FOUR(ull_exp);
    else return ull_exp_times<N>(x, 0.0f);
}
template <int N> ULL_FN ull_f32<N> ull_exp2(ull_f32<N> x) {
    ULL_SCALARS_OF_FOUR(ull_exp2);
    else {
        x = ull_clamp<N>(x, -151.0f, 129.0f);
        const ull_f32<N> n = ull_nearest<N>(x, 1.0f), r = x - n;
        const ull_f32<N> p = ull_poly<N>(r, 0x1.00f132p-16f, 0x1.445e6ap-13f, 0x1.5d8724p-10f, 0x1.3b29f0p-7f,
                                         0x1.c6b08ep-5f, 0x1.ebfbe0p-3f, 0x1.62e430p-1f);
        return ull_scale<N>(ull_fma<N>(p, r, ull_splat<N>(1.0f)), n);
    }
}
template <int N> ULL_FN ull_f32<N> ull_expm1(ull_f32<N> x0) {
    if constexpr (N == 1) return ull_expm1<4>(ull_splat<4>(x0))[0];
    else {
        const ull_f32<N> x = ull_clamp<N>(x0, -20.0f, 89.0f);
        const ull_f32<N> n = ull_nearest<N>(x, 0x1.715476p0f), r = ull_less_ln2<N>(x, n);
        const ull_f32<N> p = ull_fma<N>(ull_exp_tail<N>(r), ull_mul<N>(r, r), r);
        /* 2 (2^(n-1) p + 2^(n-1) - 1/2) holds up to the largest float. */
        const ull_f32<N> s = ull_bits<ull_f32<N>>((ull_to_i32<N>(n) + 126) << 23);
        const ull_f32<N> y = ull_fma<N>(s, p, s - 0.5f) * 2.0f;
        return ull_select<N>(ull_abs_f32<N>(x0) < 1e-30f, x0, y);
    }
}
ULL_LIBM(ull_exp, __builtin_exp)
ULL_LIBM(ull_exp2, __builtin_exp2)
ULL_LIBM(ull_expm1, __builtin_expm1)

/* ---- logarithms -------------------------------------------------------------------------------------------- */
/* x = 2^k (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)) for positive finite x. */
template <int N> struct ull_split { ull_f32<N> f, k; };
template <int N> ULL_FN ull_split<N> ull_split_exponent(ull_f32<N> x) {
    const ull_m<N> tiny = x < 0x1p-126f;
    x = ull_select<N>(tiny, x * 0x1p23f, x);
    const ull_u32<N> u = ull_bits<ull_u32<N>>(x) - 0x3f3504f3u;
    const ull_i32<N> k = (ull_i32<N>)u >> 23;
    const ull_f32<N> m = ull_bits<ull_f32<N>>((u & 0x7fffffu) + 0x3f3504f3u);
    return {m - 1.0f, ull_to_f32<N>(k) - ull_select<N>(tiny, ull_splat<N>(23.0f), ull_splat<N>(0.0f))};
}
/* log(1 + f) - f + f^2 / 2. */
template <int N> ULL_FN ull_f32<N> ull_log_tail(ull_f32<N> f) {
    const ull_f32<N> p = ull_poly<N>(f, 0x1.14573ep-4f, -0x1.de3bf8p-4f, 0x1.e6f08cp-4f, -0x1.fc220ep-4f,
                                     0x1.233766p-3f, -0x1.555c4ep-3f, 0x1.99a4b6p-3f, -0x1.000006p-2f, 0x1.555548p-2f);
    return ull_mul<N>(ull_mul<N>(f, f), ull_mul<N>(f, p));
}
/* y, but -inf at 0, NaN below, inf at inf, NaN at NaN. */
template <int N> ULL_FN ull_f32<N> ull_log_ends(ull_f32<N> x, ull_f32<N> y) {
    const ull_f32<N> inf = ull_splat<N>(__builtin_inff());
    y = ull_select<N>((x > 0.0f) & (x < inf), y, x + inf);
    y = ull_select<N>(x < 0.0f, ull_nan<N>(), y);
    return ull_select<N>(x == 0.0f, -inf, y);
}
template <int N> ULL_FN ull_f32<N> ull_log(ull_f32<N> x) {
    ULL_SCALARS_OF_FOUR(ull_log);
    else {
        const ull_split<N> s = ull_split_exponent<N>(x);
        ull_f32<N> y = ull_fma<N>(s.k, ull_splat<N>(0x1.7f7d1cp-20f), ull_log_tail<N>(s.f));
        y = ull_fma<N>(ull_mul<N>(s.f, s.f), ull_splat<N>(-0.5f), y) + s.f;
        return ull_log_ends<N>(x, ull_fma<N>(s.k, ull_splat<N>(0x1.62e4p-1f), y));
    }
}
template <int N> ULL_FN ull_f32<N> ull_log2(ull_f32<N> x) {
    ULL_SCALARS_OF_FOUR(ull_log2);
    else {
        const ull_split<N> s = ull_split_exponent<N>(x);
        const ull_f32<N> y = ull_fma<N>(ull_mul<N>(s.f, s.f), ull_splat<N>(-0.5f), ull_log_tail<N>(s.f));
        const ull_f32<N> e = ull_splat<N>(0x1.c551d9p-2f); /* log2(e) - 1 */
        const ull_f32<N> z = ull_fma<N>(y, e, ull_mul<N>(s.f, e)) + y + s.f;
        return ull_log_ends<N>(x, z + s.k);
    }
}
template <int N> ULL_FN ull_f32<N> ull_log1p(ull_f32<N> x) {
    ULL_SCALARS_OF_FOUR(ull_log1p);
    else {
        const ull_f32<N> u = 1.0f + x, lost = x - (u - 1.0f);
        const ull_f32<N> y = ull_log<N>(u) + lost / u;
        const ull_f32<N> ends = ull_select<N>(u == __builtin_inff(), u, y);
        const ull_f32<N> pole = ull_select<N>(x == -1.0f, ull_splat<N>(-__builtin_inff()), ends);
        return ull_select<N>(ull_abs_f32<N>(x) < 0x1p-25f, x, pole);
    }
}
ULL_LIBM(ull_log, __builtin_log)
ULL_LIBM(ull_log2, __builtin_log2)
ULL_LIBM(ull_log1p, __builtin_log1p)

/* ---- trigonometry ------------------------------------------------------------------------------------------ */
/* r = x - q pi/2 with |r| <= pi/4, for |x| <= 2^16. */
template <int N> struct ull_turn { ull_f32<N> r; ull_i32<N> q; };
template <int N> ULL_FN ull_turn<N> ull_quadrant(ull_f32<N> x) {
    const ull_f32<N> n = ull_nearest<N>(x, 0x1.45f306p-1f);
#if defined(__FMA__)
    ull_f32<N> r = ull_fma<N>(n, ull_splat<N>(-0x1.921fb4p0f), x);
    r = ull_fma<N>(n, ull_splat<N>(-0x1.4442d0p-24f), r);
    r = ull_fma<N>(n, ull_splat<N>(-0x1.846988p-48f), r);
#else
    const ull_f64<N> j = ull_to_f64<N>(n);
    const ull_f32<N> r = ull_to_f32<N>((ull_to_f64<N>(x) - j * 0x1.921fb544p0) - j * 0x1.0b4611a626331p-34);
#endif
    return {r, ull_to_i32<N>(n)};
}
template <int N> ULL_FN ull_f32<N> ull_sin_part(ull_f32<N> r) {
    const ull_f32<N> z = ull_mul<N>(r, r);
    const ull_f32<N> p = ull_poly<N>(z, 0x1.6cd82ap-19f, -0x1.a00f9cp-13f, 0x1.111108p-7f, -0x1.555556p-3f);
    return ull_fma<N>(ull_mul<N>(p, z), r, r);
}
template <int N> ULL_FN ull_f32<N> ull_cos_part(ull_f32<N> r) {
    const ull_f32<N> z = ull_mul<N>(r, r);
    const ull_f32<N> p = ull_poly<N>(z, -0x1.242ab2p-22f, 0x1.a01120p-16f, -0x1.6c16b8p-10f, 0x1.555556p-5f, -0.5f);
    return ull_fma<N>(p, z, ull_splat<N>(1.0f));
}
/* r - over = x - n pi/2 as above, over below an ulp of r, for |x| <= 2^12: n times the middle part is exact. */
template <int N> struct ull_long_turn { ull_f32<N> r, over, n; };
template <int N> ULL_FN ull_long_turn<N> ull_long_quadrant(ull_f32<N> x) {
    const ull_f32<N> n = ull_nearest<N>(x, 0x1.45f306p-1f);
#if defined(__FMA__)
    const ull_f32<N> most = ull_fma<N>(n, ull_splat<N>(-0x1.921fb4p0f), x), middle = ull_splat<N>(0x1.444p-24f);
    const ull_f32<N> r = ull_fma<N>(-n, middle, most), over = ull_fma<N>(n, middle, r - most);
    return {r, ull_fma<N>(n, ull_splat<N>(0x1.68c234p-39f), over), n};
#else
    const ull_f64<N> j = ull_to_f64<N>(n);
    const ull_f64<N> wide = (ull_to_f64<N>(x) - j * 0x1.921fb544p0) - j * 0x1.0b4611a626331p-34;
    const ull_f32<N> r = ull_to_f32<N>(wide);
    return {r, ull_to_f32<N>(ull_to_f64<N>(r) - wide), n};
#endif
}
/* tan(r - over), whose slope 1 + tan(r)^2 is taken as 1 + r^2. */
template <int N> ULL_FN ull_f32<N> ull_tan_part(ull_f32<N> r, ull_f32<N> over) {
    const ull_f32<N> z = ull_mul<N>(r, r);
    const ull_f32<N> p = ull_poly<N>(z, 0x1.21595cp-8f, 0x1.db2c7ep-18f, 0x1.654f52p-7f, 0x1.5c3ae2p-6f, 0x1.bae7eep-5f,
                                     0x1.110d44p-3f, 0x1.555562p-2f);
    return ull_fma<N>(ull_mul<N>(p, z), r, -ull_fma<N>(over, z, over)) + r;
}
/* Lanes beyond the limit (and infinities, NaNs) are redone by libm. */
template <int N, class F> ULL_FN ull_f32<N> ull_large_by_libm(ull_f32<N> x, ull_f32<N> y, float limit, F f) {
    const ull_m<N> large = ~(ull_abs_f32<N>(x) <= limit);
    if (__builtin_expect(ull_mask_bits<N>(large) != 0, 0))
        for (int l = 0; l < N; ++l)
            if (large[l]) y[l] = f(x[l]);
    return y;
}
template <int N> ULL_FN ull_f32<N> ull_sine_of(ull_turn<N> t) {
    const ull_m<N> even = (t.q & 1) == 0;
    const ull_f32<N> y = ull_select<N>(even, ull_sin_part<N>(ull_abs_f32<N>(t.r)), ull_cos_part<N>(t.r));
    const ull_u32<N> sign = ((ull_u32<N>)t.q & 2u) << 30 ^ (ull_bits<ull_u32<N>>(t.r) & (ull_u32<N>)even & 0x80000000u);
    return ull_bits<ull_f32<N>>(ull_bits<ull_u32<N>>(y) ^ sign);
}
template <int N> ULL_FN ull_f32<N> ull_sin(ull_f32<N> x) {
    ULL_SCALARS_OF_FOUR(ull_sin);
    else {
        const ull_f32<N> y = ull_sine_of<N>(ull_quadrant<N>(x));
        return ull_large_by_libm<N>(x, y, 0x1p16f, [](float v) { return __builtin_sinf(v); });
    }
}
template <int N> ULL_FN ull_f32<N> ull_cos(ull_f32<N> x) {
    ULL_SCALARS_OF_FOUR(ull_cos);
    else {
        ull_turn<N> t = ull_quadrant<N>(x);
        t.q = t.q + 1;
        return ull_large_by_libm<N>(x, ull_sine_of<N>(t), 0x1p16f, [](float v) { return __builtin_cosf(v); });
    }
}
template <int N> ULL_FN ull_f32<N> ull_tan(ull_f32<N> x) {
    ULL_SCALARS_OF_FOUR(ull_tan);
    else {
        const ull_long_turn<N> t = ull_long_quadrant<N>(x);
        const ull_f32<N> y = ull_tan_part<N>(t.r, t.over);
        const ull_f32<N> z = ull_select<N>((ull_to_i32<N>(t.n) & 1) == 0, y, -1.0f / y);
        return ull_large_by_libm<N>(x, z, 0x1p12f, [](float v) { return __builtin_tanf(v); });
    }
}
/* Beyond sin(pi / 2 - 1), folding at pi / 2 leaves angles of less than 1/2, with errors of half the size. */
#define ULL_ASIN_FOLD 0x1.14a282p-1f
/* (asin(x) - x) / x^3 in z = x^2, x <= ULL_ASIN_FOLD. */
template <int N> ULL_FN ull_f32<N> ull_asin_tail(ull_f32<N> z) {
    return ull_poly<N>(z, 0x1.653088p-5f, 0x1.45fb16p-7f, 0x1.0e9c3p-5f, 0x1.6b7292p-5f, 0x1.3340e6p-4f, 0x1.55553ap-3f);
}
template <int N> ULL_FN ull_f32<N> ull_asin(ull_f32<N> x) {
    ULL_SCALARS_OF_FOUR(ull_asin);
    else {
        const ull_f32<N> a = ull_abs_f32<N>(x);
        const ull_m<N> big = a > ULL_ASIN_FOLD;
        const ull_f32<N> z = ull_select<N>(big, ull_fma<N>(a, ull_splat<N>(-0.5f), ull_splat<N>(0.5f)), ull_mul<N>(a, a));
        const ull_f32<N> s = ull_select<N>(big, ull_sqrt<N>(z), a);
        const ull_f32<N> y = ull_fma<N>(ull_mul<N>(ull_asin_tail<N>(z), z), s, s);
        const ull_f32<N> folded = ull_fma<N>(y, ull_splat<N>(-2.0f), ull_splat<N>(-0x1.777a5cp-25f)) + 0x1.921fb6p0f;
        return ull_mulsign<N>(ull_select<N>(big, folded, y), x);
    }
}
template <int N> ULL_FN ull_f32<N> ull_acos(ull_f32<N> x) {
    ULL_SCALARS_OF_FOUR(ull_acos);
    else {
        const ull_f32<N> a = ull_abs_f32<N>(x);
        const ull_m<N> big = a > ULL_ASIN_FOLD;
        const ull_f32<N> z = ull_select<N>(big, ull_fma<N>(a, ull_splat<N>(-0.5f), ull_splat<N>(0.5f)), ull_mul<N>(a, a));
        const ull_f32<N> s = ull_select<N>(big, ull_sqrt<N>(z), a);
        const ull_f32<N> y = ull_fma<N>(ull_mul<N>(ull_asin_tail<N>(z), z), s, s);
        const ull_f32<N> middle = (-0x1.777a5cp-25f - ull_mulsign<N>(y, x)) + 0x1.921fb6p0f;
        const ull_f32<N> two = y + y;
        const ull_f32<N> far = (-0x1.777a5cp-24f - two) + 0x1.921fb6p1f;
        return ull_select<N>(big, ull_select<N>(x < 0.0f, far, two), middle);
    }
}
/* atan(x) + low for x in [0, tan(pi / 8)] about: (atan(x) - x) / x^3 in z = x^2. */
template <int N> ULL_FN ull_f32<N> ull_atan_part(ull_f32<N> x, ull_f32<N> low) {
    const ull_f32<N> z = ull_mul<N>(x, x);
    const ull_f32<N> p =
        ull_poly<N>(z, -0x1.f2591ap-5f, 0x1.b202b8p-4f, -0x1.23b6c4p-3f, 0x1.9991aep-3f, -0x1.55554ap-2f);
    return ull_fma<N>(ull_mul<N>(p, z), x, low) + x;
}
template <int N> ULL_FN ull_f32<N> ull_atan(ull_f32<N> x) {
    ULL_SCALARS_OF_FOUR(ull_atan);
    else {
        const ull_f32<N> a = ull_abs_f32<N>(x);
        const ull_m<N> high = a > 0x1.3504f4p1f, mid = a > 0x1.a8279ap-2f; /* tan(3 pi / 8), tan(pi / 8) */
        const ull_f32<N> top = ull_select<N>(high, ull_splat<N>(-1.0f), ull_select<N>(mid, a - 1.0f, a));
        const ull_f32<N> bottom = ull_select<N>(high, a, ull_select<N>(mid, a + 1.0f, ull_splat<N>(1.0f)));
        const ull_f32<N> base = ull_select<N>(high, ull_splat<N>(0x1.921fb6p0f), ull_splat<N>(0x1.921fb6p-1f));
        const ull_f32<N> low = ull_select<N>(high, ull_splat<N>(-0x1.777a5cp-25f), ull_splat<N>(-0x1.777a5cp-26f));
        const ull_f32<N> y = ull_atan_part<N>(top / bottom, ull_select<N>(mid, low, ull_splat<N>(0.0f)));
        return ull_mulsign<N>(ull_select<N>(mid, base + y, y), x);
    }
}
/* In double precision: the quotient may be denormal and the sum with pi must round once. */
template <int N> ULL_FN ull_f32<N> ull_atan2(ull_f32<N> y, ull_f32<N> x) {
    return ull_each<N>(y, x, [](float a, float b) { return (float)__builtin_atan2((double)a, (double)b); });
}
template <int N> ULL_FN ull_f64<N> ull_atan2(ull_f64<N> y, ull_f64<N> x) {
    return ull_each<N>(y, x, [](double a, double b) { return __builtin_atan2(a, b); });
}
ULL_LIBM(ull_sin, __builtin_sin)
ULL_LIBM(ull_cos, __builtin_cos)
ULL_LIBM(ull_tan, __builtin_tan)
ULL_LIBM(ull_asin, __builtin_asin)
ULL_LIBM(ull_acos, __builtin_acos)
ULL_LIBM(ull_atan, __builtin_atan)

/* ---- piecewise polynomials over registers -------------------------------------------------------------------- */
#if defined(__AVX512F__)
/* For t >= 0, piece k = round(t / step) < 32 has the coefficients table[..][k], highest first, in t - k step. */
static const float ull_erf_table[6][32] __attribute__((aligned(64))) = {
    {0.447923958f, 0.0982951224f, 0.0768221319f, 0.0288875122f, 0.0110763498f, -0.021657981f, -0.0418959334f,
     -0.0616164468f, -0.0728118643f, -0.0630537421f, -0.0456410199f, -0.0308800358f, -0.0142812906f, -0.00167803513f,
     0.00686677312f, 0.0107067367f, 0.0134219453f, 0.0125226583f, 0.0107474839f, 0.00827175844f, 0.00608021347f,
     0.0042081573f, 0.00276621943f, 0.00171592587f, 0.00101776584f, 0.000578913139f, 0.000315067475f,
     0.000164597892f, 8.25147363e-05f, 3.97584517e-05f, 1.8463068e-05f, 8.25274583e-06f},
    {-0.0425805748f, 0.0677633882f, 0.125682861f, 0.160780266f, 0.186548978f, 0.179275259f, 0.160504788f,
     0.122796774f, 0.0622436367f, 0.0202247836f, 0.000169711479f, -0.0339304991f, -0.0359118953f, -0.0452189147f,
     -0.0403336808f, -0.0566099733f, -0.0230564661f, -0.0194865204f, -0.00949989352f, -0.0278055035f, -0.0233451501f,
     -0.0167136956f, 0.00152222894f, -0.00585700758f, -0.0128286583f, 0.000659568759f, 0.00551513629f, 0.0138645181f,
     0.0143006248f, -0.0015192508f, -0.00284307613f, -0.00882601365f},
    {-0.37441498f, -0.358702064f, -0.309160262f, -0.234804794f, -0.146472946f, -0.0556980856f, 0.0267400071f,
     0.0929048881f, 0.138384268f, 0.162456825f, 0.16753003f, 0.157937959f, 0.138750657f, 0.114838473f, 0.090156585f,
     0.0674444661f, 0.0482213758f, 0.0330373757f, 0.0217241421f, 0.0137309255f, 0.00835025962f, 0.00489047589f,
     0.00276035047f, 0.00150253181f, 0.000789100188f, 0.00040001556f, 0.000195807123f, 9.25812055e-05f,
     4.22948724e-05f, 1.86735888e-05f, 7.96949826e-06f, 3.28843657e-06f},
    {-2.28046538e-05f, -0.138857305f, -0.264999062f, -0.367610276f, -0.43940568f, -0.477198929f, -0.482237369f,
     -0.459193021f, -0.4150801f, -0.358027458f, -0.295675993f, -0.234230846f, -0.178429335f, -0.130784914f,
     -0.0923866853f, -0.0628418773f, -0.0413787924f, -0.026251331f, -0.0161079857f, -0.00945767853f, -0.00538780075f,
     -0.00296872924f, -0.0016311045f, -0.0008187762f, -0.000371384609f, -0.000207168807f, -0.000117705371f,
     -9.81721605e-05f, -7.54566499e-05f, -2.17584693e-06f, 7.83092401e-06f, 3.34011384e-05f},
    {1.12837923f, 1.11088526f, 1.06001413f, 0.980352759f, 0.87878257f, 0.763499558f, 0.642931104f, 0.524745047f,
     0.415107489f, 0.318273962f, 0.236521125f, 0.170359775f, 0.118930288f, 0.0804722607f, 0.0527749956f,
     0.0335458256f, 0.0206669867f, 0.0123408204f, 0.00714231934f, 0.00400647754f, 0.00217828411f, 0.0011478751f,
     0.000586277281f, 0.000290228287f, 0.000139253054f, 6.47586858e-05f, 2.91890265e-05f, 1.27517415e-05f,
     5.39942675e-06f, 2.21592018e-06f, 8.81432186e-07f, 3.39822378e-07f},
    {0.0f, 0.140316203f, 0.276326388f, 0.404116899f, 0.520499885f, 0.623240888f, 0.711155653f, 0.784075081f,
     0.842700779f, 0.888388216f, 0.92290014f, 0.948170066f, 0.966105163f, 0.978443742f, 0.986671686f, 0.99199003f,
     0.995322287f, 0.997345984f, 0.998537302f, 0.999217033f, 0.999593019f, 0.999794602f, 0.999899387f, 0.999952137f,
     0.999977887f, 0.999990106f, 0.999995708f, 0.999998212f, 0.999999285f, 0.999999702f, 0.999999881f, 0.99999994f},
};
static const float ull_tanh_table[7][32] __attribute__((aligned(64))) = {
    {-0.0224468056f, -0.0453781895f, -0.106654167f, 0.0134088704f, -0.027877884f, -0.00938424841f, -0.0602364801f,
     0.0579324439f, -0.0857267603f, -0.0833617374f, -0.0597195774f, 0.0217054188f, -0.0980769917f, 0.0478082113f,
     0.0389981344f, -0.0306776781f, 0.0694532916f, 0.0107285036f, 0.0510153845f, -0.0476194359f, -0.0642080531f,
     -0.0244123954f, -0.0979833603f, -0.074484989f, 0.0788183883f, 0.054409828f, 0.0105687389f, 0.0861828029f,
     -0.0268109813f, 0.0501399525f, 0.00307397055f, 0.0943235978f},
    {0.136847436f, 0.0542918779f, -0.0456492119f, -0.0592026785f, -0.0283635817f, -0.0053336462f, 0.00343894563f,
     0.00470292615f, 0.00369843259f, 0.00243861089f, 0.0014924201f, 0.000873584766f, 0.000503542251f,
     0.000286912429f, 0.000161933393f, 9.12393079e-05f, 5.12300394e-05f, 2.87769381e-05f, 1.61727803e-05f,
     9.0739768e-06f, 5.09272377e-06f, 2.85611327e-06f, 1.59952674e-06f, 8.99903284e-07f, 5.04626428e-07f,
     2.82702104e-07f, 1.58761097e-07f, 8.90655159e-08f, 4.99752204e-08f, 2.79823364e-08f, 1.57052167e-08f,
     0.000281555345f},
    {-0.000250855432f, 0.151212126f, 0.1522903f, 0.0630621314f, 7.35129242e-06f, -0.0233202111f, -0.0218345448f,
     -0.0191651788f, -0.00844753999f, -0.00410384452f, -0.00204913737f, -0.00293517602f, 0.00180494098f,
     -0.00222611683f, -0.00163334026f, 0.000735968526f, -0.00231263041f, -0.000409509114f, -0.00164477876f,
     0.00147481693f, 0.00200646045f, 0.000760565395f, 0.00307730958f, 0.00234012818f, -0.00247990107f,
     -0.00171178544f, -0.00033275786f, -0.00271047978f, 0.000843017187f, -0.00157684099f, -9.67084197e-05f,
     -0.0029336717f},
    {-0.333325505f, -0.234081313f, -0.0448571704f, 0.0798714012f, 0.111076802f, 0.0931734666f, 0.0644008219f,
     0.0404588021f, 0.0241591614f, 0.014031617f, 0.00802527182f, 0.00455102837f, 0.00256845751f, 0.00144568633f,
     0.000812516664f, 0.000456269685f, 0.000256100175f, 0.000143707672f, 8.06274911e-05f, 4.52327804e-05f,
     2.53747639e-05f, 1.42344552e-05f, 7.98502697e-06f, 4.47917273e-06f, 2.51260803e-06f, 1.40945974e-06f,
     7.90632043e-07f, 4.43504632e-07f, 2.48783323e-07f, 1.39556192e-07f, 7.82837191e-08f, -4.88583009e-06f},
    {-7.92843764e-08f, -0.259009898f, -0.379654378f, -0.357026607f, -0.268832952f, -0.178420857f, -0.110139489f,
     -0.0651924238f, -0.0377312377f, -0.0215399526f, -0.0122029092f, -0.00686861854f, -0.00389199727f,
     -0.00216142833f, -0.00121059874f, -0.000692476227f, -0.000367081579f, -0.000212947227f, -0.000108312146f,
     -7.96553577e-05f, -5.39766224e-05f, -2.74023114e-05f, -3.6261099e-05f, -2.51788642e-05f, 1.5764992e-05f,
     1.13706583e-05f, 1.43335558e-06f, 2.06940167e-05f, -7.01789668e-06f, 1.22170459e-05f, 6.44414968e-07f,
     2.28601893e-05f},
    {1.0f, 0.920886159f, 0.72824496f, 0.510080695f, 0.327904999f, 0.199400797f, 0.117206663f, 0.0675266758f,
     0.038456887f, 0.0217574462f, 0.0122636482f, 0.00689789793f, 0.00387524627f, 0.00217566849f, 0.0012210228f,
     0.000685115403f, 0.000384372717f, 0.00021563175f, 0.000120964178f, 6.78565557e-05f, 3.80646452e-05f,
     2.13525091e-05f, 1.19777278e-05f, 6.71891439e-06f, 3.76897492e-06f, 2.11420502e-06f, 1.18596211e-06f,
     6.65264622e-07f, 3.73179688e-07f, 2.09334843e-07f, 1.17426211e-07f, 8.50747526e-08f},
    {0.0f, 0.281271696f, 0.521301329f, 0.69994235f, 0.819814026f, 0.894762099f, 0.939570844f, 0.965646565f,
     0.980583072f, 0.989061475f, 0.993849277f, 0.996545076f, 0.998060524f, 0.99891156f, 0.999389291f, 0.999657393f,
     0.999807775f, 0.999892175f, 0.999939501f, 0.999966085f, 0.999980986f, 0.999989331f, 0.99999404f, 0.999996662f,
     0.999998093f, 0.999998927f, 0.999999404f, 0.999999642f, 0.999999821f, 0.999999881f, 0.99999994f, 0.99999994f},
};
template <int ROWS> ULL_FN ull_f32<16> ull_piecewise(const float (&table)[ROWS][32], ull_f32<16> t, float step) {
    const ull_f32<16> magic = ull_splat<16>(0x1.8p23f);
    const ull_f32<16> u = ull_fma<16>(t, ull_splat<16>(1.0f / step), magic);
    const ull_f32<16> d = ull_fma<16>(u - magic, ull_splat<16>(-step), t);
    const ull_i32<16> piece = ull_bits<ull_i32<16>>(u);
    ull_f32<16> p = ull_look_up(table[0], piece);
#pragma GCC unroll 8
    for (int i = 1; i < ROWS; ++i) p = ull_fma<16>(p, d, ull_look_up(table[i], piece));
    return p;
}
template <int N> ULL_FN ull_f32<16> ull_to_sixteen(ull_f32<N> x) {
    if constexpr (N == 16) return x;
    else if constexpr (N == 8) return __builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7);
    else if constexpr (N == 4) return ull_to_sixteen<8>(__builtin_shufflevector(x, x, 0, 1, 2, 3, 0, 1, 2, 3));
    else return ull_to_sixteen<4>(__builtin_shufflevector(x, x, 0, 1, 0, 1));
}
template <int N> ULL_FN ull_f32<N> ull_from_sixteen(ull_f32<16> x) {
    if constexpr (N == 16) return x;
    else return ull_low_half<2 * N>(ull_from_sixteen<2 * N>(x));
}
#endif

/* ---- hyperbolic and the activations ------------------------------------------------------------------------ */
template <int N> ULL_FN ull_f32<N> ull_sinh(ull_f32<N> x) {
    ULL_SCALARS_OF_FOUR(ull_sinh);
    else {
        const ull_f32<N> a = ull_abs_f32<N>(x), z = ull_mul<N>(x, x);
        const ull_f32<N> half = ull_exp_times<N>(a, -1.0f);
        const ull_f32<N> p = ull_poly<N>(z, 0x1.756c1ep-19f, 0x1.a022bcp-13f, 0x1.1110ep-7f, 0x1.555556p-3f);
        const ull_f32<N> near = ull_fma<N>(ull_mul<N>(p, z), x, x);
        return ull_select<N>(a > 1.0f, ull_mulsign<N>(half - 0.25f / half, x), near);
    }
}
template <int N> ULL_FN ull_f32<N> ull_cosh(ull_f32<N> x) {
    ULL_SCALARS_OF_FOUR(ull_cosh);
    else {
        const ull_f32<N> half = ull_exp_times<N>(ull_abs_f32<N>(x), -1.0f);
        return half + 0.25f / half;
    }
}
template <int N> ULL_FN ull_f32<N> ull_tanh(ull_f32<N> x) {
    ULL_SCALARS_OF_FOUR(ull_tanh);
    else {
#if defined(__AVX512F__)
        const ull_f32<16> w = ull_to_sixteen<N>(x);
        const ull_f32<16> t = ull_raw_min<16>(ull_splat<16>(9.1f), ull_abs_f32<16>(w));
        return ull_from_sixteen<N>(ull_mulsign<16>(ull_piecewise(ull_tanh_table, t, 37.0f / 128.0f), w));
#else
        const ull_f32<N> a = ull_raw_min<N>(ull_splat<N>(9.1f), ull_abs_f32<N>(x)), z = ull_mul<N>(a, a);
        const ull_f32<N> p =
            ull_poly<N>(z, -0x1.9921a2p-8f, 0x1.58e518p-6f, -0x1.b91e7ep-5f, 0x1.110ceep-3f, -0x1.55554ap-2f);
        const ull_exp_parts<N> e = ull_split_exp<N>(a + a, 0);
        const ull_f32<N> far = 1.0f - 2.0f / ull_fma<N>(e.s, e.p, e.s + 1.0f);
        return ull_mulsign<N>(ull_select<N>(a > 0.55f, far, ull_fma<N>(ull_mul<N>(p, z), a, a)), x);
#endif
    }
}
template <int N> ULL_FN ull_f32<N> ull_sigmoid(ull_f32<N> x) {
    ULL_SCALARS_OF_FOUR(ull_sigmoid);
    else {
        /* 1 / (1 + e^-x), all times 2^-24, which keeps e^-x finite down to where the result is zero. */
        const ull_exp_parts<N> e = ull_split_exp<N>(ull_clamp<N>(-x, -20.0f, 104.5f), -24);
        const ull_f32<N> sum = e.s + 0x1p-24f, lost = 0x1p-24f - (sum - e.s);
        return 0x1p-24f / (ull_fma<N>(e.s, e.p, lost) + sum);
    }
}
template <int N> ULL_FN ull_f32<N> ull_erf(ull_f32<N> x) {
    ULL_SCALARS_OF_FOUR(ull_erf);
    else {
#if defined(__AVX512F__)
        const ull_f32<16> w = ull_to_sixteen<N>(x);
        const ull_f32<16> t = ull_raw_min<16>(ull_splat<16>(3.93f), ull_abs_f32<16>(w));
        return ull_from_sixteen<N>(ull_mulsign<16>(ull_piecewise(ull_erf_table, t, 0.125f), w));
#else
        const ull_f32<N> a = ull_abs_f32<N>(x), z = ull_mul<N>(x, x);
        const ull_f32<N> p = ull_poly<N>(z, 0x1.5e062cp-14f, -0x1.aaa2d6p-11f, 0x1.54d42ap-8f, -0x1.b80ff2p-6f,
                                         0x1.ce2e1cp-4f, -0x1.812744p-2f, 0x1.06eba8p-3f);
        const ull_f32<N> t = ull_raw_min<N>(ull_splat<N>(4.0f), a);
        const ull_f32<N> q = ull_poly<N>(t, 0x1.78dd8ep-17f, -0x1.527c6ap-12f, 0x1.dd6cd8p-9f, -0x1.85515ep-6f,
                                         0x1.b32574p-4f, 0x1.45328ep-1f, 0x1.0778dcp-3f);
        const ull_f32<N> far = ull_mulsign<N>(1.0f - ull_exp<N>(-ull_fma<N>(q, t, t)), x);
        return ull_select<N>(a > 0.92f, far, ull_fma<N>(p, x, x));
#endif
    }
}
ULL_LIBM(ull_sinh, __builtin_sinh)
ULL_LIBM(ull_cosh, __builtin_cosh)
ULL_LIBM(ull_tanh, __builtin_tanh)
ULL_LIBM(ull_erf, __builtin_erf)
template <int N> ULL_FN ull_f64<N> ull_sigmoid(ull_f64<N> x) {
    return ull_each<N>(x, [](double v) {
        const double z = __builtin_exp(-__builtin_fabs(v));
        return (v < 0 ? z : 1.0) / (1.0 + z);
    });
}

/* ---- two arguments ----------------------------------------------------------------------------------------- */
/* log2 of positive finite floats in double precision, about 2^-44 off; -inf at 0, inf at inf. */
template <int M> ULL_FN ull_f64<M> ull_log2_wide(ull_f32<M> x) {
    const ull_split<M> s = ull_split_exponent<M>(x);
    const ull_f64<M> f = ull_to_f64<M>(s.f), t = f / (f + 2.0), z = t * t;
    const ull_f64<M> p = ull_poly<M>(z,
        0.19235933878519512, 0.22195308321368667, 0.2623081892525388, 0.3205988979753252, 0.4121985831111324,
        0.5770780163555853, 0.9617966939259756, 2.8853900817779268);
    const ull_f64<M> y = ull_fma<M>(t, p, ull_to_f64<M>(s.k));
    const ull_f64<M> inf = ull_splat<M>(__builtin_inf());
    return ull_select<M>(x == 0.0f, -inf, ull_select<M>(x == __builtin_inff(), inf, y));
}
/* 2^z rounded once to float; z beyond the range of float gives 0 or inf. */
template <int M> ULL_FN ull_f32<M> ull_exp2_wide(ull_f64<M> z) {
    z = ull_raw_min<M>(ull_splat<M>(200.0), ull_raw_max<M>(ull_splat<M>(-200.0), z));
    const ull_f64<M> magic = ull_splat<M>(0x1.8p52), u = z + magic, r = z - (u - magic);
    const ull_f64<M> p = ull_poly<M>(r,
        1.0178086009239696e-07, 1.3215486790144305e-06, 1.5252733804059838e-05, 0.00015403530393381606,
        0.0013333558146428441, 0.009618129107628477, 0.055504108664821576, 0.2402265069591007, 0.6931471805599453,
        1.0);
    return ull_to_f32<M>(ull_bits<ull_f64<M>>(ull_bits<ull_i64v<M>>(p) + (ull_bits<ull_i64v<M>>(u) << 52)));
}
template <int N> ULL_FN ull_f32<N> ull_pow_positive(ull_f32<N> x, ull_f32<N> y) {
    if constexpr (2 * N <= ULL_LANES || N == 2) return ull_exp2_wide<N>(ull_to_f64<N>(y) * ull_log2_wide<N>(x));
    else
        return ull_join<N>(ull_pow_positive<N / 2>(ull_low_half<N>(x), ull_low_half<N>(y)),
                           ull_pow_positive<N / 2>(ull_high_half<N>(x), ull_high_half<N>(y)));
}
template <int N> ULL_FN ull_f32<N> ull_pow(ull_f32<N> x, ull_f32<N> y) {
    if constexpr (N == 1) return ull_pow<4>(ull_splat<4>(x), ull_splat<4>(y))[0];
    else {
        const ull_f32<N> a = ull_abs_f32<N>(x), inf = ull_splat<N>(__builtin_inff()), one = ull_splat<N>(1.0f);
        const ull_f32<N> r = ull_pow_positive<N>(a, y);
        const ull_f32<N> half = y * 0.5f;
        const ull_m<N> whole = ull_trunc<N>(y) == y, odd = whole & (ull_trunc<N>(half) != half);
        const ull_f32<N> signed_r = ull_select<N>(odd, ull_mulsign<N>(r, x), r);
        const ull_m<N> undefined = (x < 0.0f) & (a < inf) & ~whole;
        const ull_m<N> unknown = (x != x) | (y != y);
        const ull_f32<N> known = ull_select<N>(undefined | unknown, ull_nan<N>(), signed_r);
        const ull_m<N> is_one = (x == 1.0f) | (y == 0.0f) | ((a == 1.0f) & (ull_abs_f32<N>(y) == inf));
        return ull_select<N>(is_one, one, known);
    }
}
template <int N> ULL_FN ull_f64<N> ull_pow(ull_f64<N> x, ull_f64<N> y) {
    return ull_each<N>(x, y, [](double a, double b) { return __builtin_pow(a, b); });
}
template <int N> ULL_FN ull_f32<N> ull_fmod(ull_f32<N> x, ull_f32<N> y) {
    return ull_each<N>(x, y, [](float a, float b) { return __builtin_fmodf(a, b); });
}
template <int N> ULL_FN ull_f64<N> ull_fmod(ull_f64<N> x, ull_f64<N> y) {
    return ull_each<N>(x, y, [](double a, double b) { return __builtin_fmod(a, b); });
}

#endif
