/* Elementary functions over N lanes, about 2 ulp in single precision; double precision goes through libm lane by lane.
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
    const ull_f32<N> l = ull_splat<N>(low), h = ull_splat<N>(high);
    x = x < l ? l : x;
    return x > h ? h : x;
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
    return ull_poly<N>(r, 0x1.a1b50ap-13f, 0x1.6d969cp-10f, 0x1.111080p-7f, 0x1.555480p-5f, 0x1.555556p-3f, 0.5f);
}
/* e^x * 2^extra. */
template <int N> ULL_FN ull_f32<N> ull_exp_times(ull_f32<N> x, float extra) {
    x = ull_clamp<N>(x, -105.0f, 90.0f);
    const ull_f32<N> n = ull_nearest<N>(x, 0x1.715476p0f), r = ull_less_ln2<N>(x, n);
    const ull_f32<N> p = ull_fma<N>(ull_exp_tail<N>(r), ull_mul<N>(r, r), r) + 1.0f;
    return ull_scale<N>(p, n + extra);
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
template <int N> ULL_FN ull_f32<N> ull_tan_part(ull_f32<N> r) {
    const ull_f32<N> z = ull_mul<N>(r, r);
    const ull_f32<N> p = ull_poly<N>(z, 0x1.21595cp-8f, 0x1.db2c7ep-18f, 0x1.654f52p-7f, 0x1.5c3ae2p-6f, 0x1.bae7eep-5f,
                                     0x1.110d44p-3f, 0x1.555562p-2f);
    return ull_fma<N>(ull_mul<N>(p, z), r, r);
}
/* Lanes beyond 2^16 (and infinities, NaNs) are redone by libm. */
template <int N, class F> ULL_FN ull_f32<N> ull_large_by_libm(ull_f32<N> x, ull_f32<N> y, F f) {
    const ull_m<N> large = ~(ull_abs_f32<N>(x) <= 65536.0f);
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
    else return ull_large_by_libm<N>(x, ull_sine_of<N>(ull_quadrant<N>(x)), [](float v) { return __builtin_sinf(v); });
}
template <int N> ULL_FN ull_f32<N> ull_cos(ull_f32<N> x) {
    ULL_SCALARS_OF_FOUR(ull_cos);
    else {
        ull_turn<N> t = ull_quadrant<N>(x);
        t.q = t.q + 1;
        return ull_large_by_libm<N>(x, ull_sine_of<N>(t), [](float v) { return __builtin_cosf(v); });
    }
}
template <int N> ULL_FN ull_f32<N> ull_tan(ull_f32<N> x) {
    ULL_SCALARS_OF_FOUR(ull_tan);
    else {
        const ull_turn<N> t = ull_quadrant<N>(x);
        const ull_f32<N> y = ull_tan_part<N>(t.r);
        const ull_f32<N> z = ull_select<N>((t.q & 1) == 0, y, -1.0f / y);
        return ull_large_by_libm<N>(x, z, [](float v) { return __builtin_tanf(v); });
    }
}
/* (asin(x) - x) / x^3 in z = x^2 <= 1/4. */
template <int N> ULL_FN ull_f32<N> ull_asin_tail(ull_f32<N> z) {
    return ull_poly<N>(z, 0x1.33bbe8p-5f, 0x1.d7f1e4p-7f, 0x1.04a65cp-5f, 0x1.6cac3cp-5f, 0x1.33388ep-4f, 0x1.55554cp-3f);
}
template <int N> ULL_FN ull_f32<N> ull_asin(ull_f32<N> x) {
    ULL_SCALARS_OF_FOUR(ull_asin);
    else {
        const ull_f32<N> a = ull_abs_f32<N>(x);
        const ull_m<N> big = a > 0.5f;
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
        const ull_m<N> big = a > 0.5f;
        const ull_f32<N> z = ull_select<N>(big, ull_fma<N>(a, ull_splat<N>(-0.5f), ull_splat<N>(0.5f)), ull_mul<N>(a, a));
        const ull_f32<N> s = ull_select<N>(big, ull_sqrt<N>(z), a);
        const ull_f32<N> y = ull_fma<N>(ull_mul<N>(ull_asin_tail<N>(z), z), s, s);
        const ull_f32<N> middle = (-0x1.777a5cp-25f - ull_mulsign<N>(y, x)) + 0x1.921fb6p0f;
        const ull_f32<N> two = y + y;
        const ull_f32<N> far = (-0x1.777a5cp-24f - two) + 0x1.921fb6p1f;
        return ull_select<N>(big, ull_select<N>(x < 0.0f, far, two), middle);
    }
}
/* atan(x) for x in [0, tan(pi / 8)] about: (atan(x) - x) / x^3 in z = x^2. */
template <int N> ULL_FN ull_f32<N> ull_atan_part(ull_f32<N> x) {
    const ull_f32<N> z = ull_mul<N>(x, x);
    const ull_f32<N> p =
        ull_poly<N>(z, -0x1.f2591ap-5f, 0x1.b202b8p-4f, -0x1.23b6c4p-3f, 0x1.9991aep-3f, -0x1.55554ap-2f);
    return ull_fma<N>(ull_mul<N>(p, z), x, x);
}
template <int N> ULL_FN ull_f32<N> ull_atan(ull_f32<N> x) {
    ULL_SCALARS_OF_FOUR(ull_atan);
    else {
        const ull_f32<N> a = ull_abs_f32<N>(x);
        const ull_m<N> high = a > 0x1.3504f4p1f, mid = a > 0x1.a8279ap-2f; /* tan(3 pi / 8), tan(pi / 8) */
        const ull_f32<N> top = ull_select<N>(high, ull_splat<N>(-1.0f), ull_select<N>(mid, a - 1.0f, a));
        const ull_f32<N> bottom = ull_select<N>(high, a, ull_select<N>(mid, a + 1.0f, ull_splat<N>(1.0f)));
        const ull_f32<N> y = ull_atan_part<N>(top / bottom);
        const ull_f32<N> base = ull_select<N>(high, ull_splat<N>(0x1.921fb6p0f), ull_splat<N>(0x1.921fb6p-1f));
        const ull_f32<N> low = ull_select<N>(high, ull_splat<N>(-0x1.777a5cp-25f), ull_splat<N>(-0x1.777a5cp-26f));
        return ull_mulsign<N>(ull_select<N>(mid, base + (y + low), y), x);
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

/* ---- hyperbolic and the activations ------------------------------------------------------------------------ */
template <int N> ULL_FN ull_f32<N> ull_sinh(ull_f32<N> x) {
    ULL_SCALARS_OF_FOUR(ull_sinh);
    else {
        const ull_f32<N> a = ull_abs_f32<N>(x), t = ull_expm1<N>(a);
        const ull_f32<N> y = 0.5f * (t + t / (t + 1.0f));
        return ull_mulsign<N>(ull_select<N>(a > 20.0f, ull_exp_times<N>(a, -1.0f), y), x);
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
        const ull_f32<N> a = ull_abs_f32<N>(x);
        const ull_f32<N> t = ull_expm1<N>(ull_select<N>(a > 10.0f, ull_splat<N>(10.0f), a) * 2.0f);
        return ull_mulsign<N>(t / (t + 2.0f), x);
    }
}
template <int N> ULL_FN ull_f32<N> ull_sigmoid(ull_f32<N> x) {
    ULL_SCALARS_OF_FOUR(ull_sigmoid);
    else {
        const ull_f32<N> z = ull_exp<N>(-ull_abs_f32<N>(x));
        return ull_select<N>(x < 0.0f, z, ull_splat<N>(1.0f)) / (1.0f + z);
    }
}
template <int N> ULL_FN ull_f32<N> ull_erf(ull_f32<N> x) {
    ULL_SCALARS_OF_FOUR(ull_erf);
    else {
        const ull_f32<N> a = ull_abs_f32<N>(x), z = ull_mul<N>(x, x);
        const ull_f32<N> p = ull_poly<N>(z, 0x1.5e062cp-14f, -0x1.aaa2d6p-11f, 0x1.54d42ap-8f, -0x1.b80ff2p-6f,
                                         0x1.ce2e1cp-4f, -0x1.812744p-2f, 0x1.06eba8p-3f);
        const ull_f32<N> t = ull_select<N>(a > 4.0f, ull_splat<N>(4.0f), a);
        const ull_f32<N> q = ull_poly<N>(t, 0x1.78dd8ep-17f, -0x1.527c6ap-12f, 0x1.dd6cd8p-9f, -0x1.85515ep-6f,
                                         0x1.b32574p-4f, 0x1.45328ep-1f, 0x1.0778dcp-3f);
        const ull_f32<N> far = ull_mulsign<N>(1.0f - ull_exp<N>(-ull_fma<N>(q, t, t)), x);
        return ull_select<N>(a > 0.92f, far, ull_fma<N>(p, x, x));
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
template <int N> ULL_FN ull_f32<N> ull_pow(ull_f32<N> x, ull_f32<N> y) {
    return ull_each<N>(x, y, [](float a, float b) { return (float)__builtin_pow((double)a, (double)b); });
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
