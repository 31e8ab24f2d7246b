// SPDX-License-Identifier: GPL-2.0

/*
 * <asm/fpu/api.h>: whole pages, 32 bytes at a time. Rust for the kernel has no vector registers, and the
 * compilers must not use them by themselves, hence the assembly; no registers are named as clobbered, as
 * in lib/raid/raid6: what is in them is nobody's between kernel_fpu_begin() and kernel_fpu_end().
 */
#include "shim.h"

#ifdef CONFIG_X86_64
#include <asm/cpufeature.h>
#include <asm/fpu/api.h>

/* Bytes that are looked at before a branch. */
#define ROW 128

struct row {
	u8 bytes[ROW];
} __aligned(32);

#define ROWS (PAGE_SIZE / ROW)

bool ksm_v_has_vectors(void)
{
	return boot_cpu_has(X86_FEATURE_AVX2);
}

static __always_inline bool differs(const struct row *a, const struct row *b)
{
	bool differs;

	asm volatile("vmovdqa	0x00(%[a]), %%ymm0\n\t"
		     "vmovdqa	0x20(%[a]), %%ymm1\n\t"
		     "vmovdqa	0x40(%[a]), %%ymm2\n\t"
		     "vmovdqa	0x60(%[a]), %%ymm3\n\t"
		     "vpxor	0x00(%[b]), %%ymm0, %%ymm0\n\t"
		     "vpxor	0x20(%[b]), %%ymm1, %%ymm1\n\t"
		     "vpxor	0x40(%[b]), %%ymm2, %%ymm2\n\t"
		     "vpxor	0x60(%[b]), %%ymm3, %%ymm3\n\t"
		     "vpor	%%ymm1, %%ymm0, %%ymm0\n\t"
		     "vpor	%%ymm3, %%ymm2, %%ymm2\n\t"
		     "vpor	%%ymm2, %%ymm0, %%ymm0\n\t"
		     "vptest	%%ymm0, %%ymm0\n\t"
		     : "=@ccnz" (differs)
		     : [a] "r" (a), [b] "r" (b), "m" (*a), "m" (*b));
	return differs;
}

static __always_inline bool has_a_bit(const struct row *a)
{
	bool has_one;

	asm volatile("vmovdqa	0x00(%[a]), %%ymm0\n\t"
		     "vpor	0x20(%[a]), %%ymm0, %%ymm0\n\t"
		     "vpor	0x40(%[a]), %%ymm0, %%ymm0\n\t"
		     "vpor	0x60(%[a]), %%ymm0, %%ymm0\n\t"
		     "vptest	%%ymm0, %%ymm0\n\t"
		     : "=@ccnz" (has_one)
		     : [a] "r" (a), "m" (*a));
	return has_one;
}

/* Returns to the state in which vectors of 16 bytes are fast, and says that registers may be saved whole. */
static __always_inline void vectors_end(void)
{
	asm volatile("vzeroupper");
	kernel_fpu_end();
}

bool ksm_v_vectors_same(const void *a, const void *b)
{
	const struct row *x = a, *y = b, *end = x + ROWS;

	kernel_fpu_begin();
	while (x < end && !differs(x, y)) {
		x++;
		y++;
	}
	vectors_end();
	return x == end;
}

bool ksm_v_vectors_zero(const void *a)
{
	const struct row *x = a, *end = x + ROWS;

	kernel_fpu_begin();
	while (x < end && !has_a_bit(x))
		x++;
	vectors_end();
	return x == end;
}

#else

bool ksm_v_has_vectors(void)
{
	return false;
}

bool ksm_v_vectors_same(const void *a, const void *b)
{
	return false;
}

bool ksm_v_vectors_zero(const void *a)
{
	return false;
}

#endif
