// SPDX-License-Identifier: GPL-2.0

/*
 * <asm/fpu/api.h>, <asm/extable.h>: reads whole pages by instructions from whose failure the kernel recovers.
 * If the memory that they read fails (a machine check), the handler continues at the label that the exception
 * table gives for the instruction. Such a page equals no other page.
 *
 * 32 bytes are read at a time if the processor has AVX2. Rust in the kernel can't use vector registers, and the
 * compilers must not use them on their own, so this is in assembly. Vector registers are not declared as
 * clobbered, as in lib/raid/raid6: between kernel_fpu_begin() and kernel_fpu_end() they hold nothing to preserve.
 */
#include "shim.h"

#ifdef CONFIG_X86_64
#include <asm/cpufeature.h>
#include <asm/fpu/api.h>

#ifdef CONFIG_X86_MCE
#include <asm/asm.h>

/* If the instruction at this label fails, execution continues at `other`. */
#define SAFE(from) _ASM_EXTABLE_TYPE(from, %l[other], EX_TYPE_DEFAULT_MCE_SAFE)
#else
#define SAFE(from)
#endif
#define SAFE4 SAFE(1b) SAFE(2b) SAFE(3b) SAFE(4b)
#define SAFE8 SAFE4 SAFE(5b) SAFE(6b) SAFE(7b) SAFE(8b)

/* Bytes that are read before a branch, with vectors and with words. */
#define ROW 128
#define SHORT_ROW 32

struct row {
	u8 bytes[ROW];
} __aligned(32);

struct short_row {
	u8 bytes[SHORT_ROW];
};

#define END(row) ((row) + PAGE_SIZE / sizeof(*(row)))

static __always_inline bool differs(const struct row *a, const struct row *b)
{
	asm goto("1: vmovdqa	0x00(%[a]), %%ymm0\n\t"
		 "2: vmovdqa	0x20(%[a]), %%ymm1\n\t"
		 "3: vmovdqa	0x40(%[a]), %%ymm2\n\t"
		 "4: vmovdqa	0x60(%[a]), %%ymm3\n\t"
		 "5: vpxor	0x00(%[b]), %%ymm0, %%ymm0\n\t"
		 "6: vpxor	0x20(%[b]), %%ymm1, %%ymm1\n\t"
		 "7: vpxor	0x40(%[b]), %%ymm2, %%ymm2\n\t"
		 "8: vpxor	0x60(%[b]), %%ymm3, %%ymm3\n\t"
		 "vpor	%%ymm1, %%ymm0, %%ymm0\n\t"
		 "vpor	%%ymm3, %%ymm2, %%ymm2\n\t"
		 "vpor	%%ymm2, %%ymm0, %%ymm0\n\t"
		 "vptest	%%ymm0, %%ymm0\n\t"
		 "jnz	%l[other]\n\t"
		 SAFE8
		 : : [a] "r" (a), [b] "r" (b), "m" (*a), "m" (*b) : "cc" : other);
	return false;
other:
	return true;
}

static __always_inline bool has_a_bit(const struct row *a)
{
	asm goto("1: vmovdqa	0x00(%[a]), %%ymm0\n\t"
		 "2: vpor	0x20(%[a]), %%ymm0, %%ymm0\n\t"
		 "3: vpor	0x40(%[a]), %%ymm0, %%ymm0\n\t"
		 "4: vpor	0x60(%[a]), %%ymm0, %%ymm0\n\t"
		 "vptest	%%ymm0, %%ymm0\n\t"
		 "jnz	%l[other]\n\t"
		 SAFE4
		 : : [a] "r" (a), "m" (*a) : "cc" : other);
	return false;
other:
	return true;
}

/* Clears the upper halves of the vector registers, so that 16-byte vectors are fast again, and ends their use. */
static __always_inline void vectors_end(void)
{
	asm volatile("vzeroupper");
	kernel_fpu_end();
}

static bool same_by_vectors(const struct row *a, const struct row *b)
{
	const struct row *end = END(a);

	kernel_fpu_begin();
	while (a < end && !differs(a, b)) {
		a++;
		b++;
	}
	vectors_end();
	return a == end;
}

static bool is_zero_by_vectors(const struct row *a)
{
	const struct row *end = END(a);

	kernel_fpu_begin();
	while (a < end && !has_a_bit(a))
		a++;
	vectors_end();
	return a == end;
}

static __always_inline bool words_differ(const struct short_row *a, const struct short_row *b)
{
	asm goto("1: movq	0x00(%[a]), %%rax\n\t"
		 "2: movq	0x08(%[a]), %%rcx\n\t"
		 "3: xorq	0x00(%[b]), %%rax\n\t"
		 "4: xorq	0x08(%[b]), %%rcx\n\t"
		 "orq	%%rcx, %%rax\n\t"
		 "5: movq	0x10(%[a]), %%rcx\n\t"
		 "6: movq	0x18(%[a]), %%rdx\n\t"
		 "7: xorq	0x10(%[b]), %%rcx\n\t"
		 "8: xorq	0x18(%[b]), %%rdx\n\t"
		 "orq	%%rcx, %%rax\n\t"
		 "orq	%%rdx, %%rax\n\t"
		 "jnz	%l[other]\n\t"
		 SAFE8
		 : : [a] "r" (a), [b] "r" (b), "m" (*a), "m" (*b) : "rax", "rcx", "rdx", "cc" : other);
	return false;
other:
	return true;
}

static __always_inline bool words_have_a_bit(const struct short_row *a)
{
	asm goto("1: movq	0x00(%[a]), %%rax\n\t"
		 "2: orq	0x08(%[a]), %%rax\n\t"
		 "3: orq	0x10(%[a]), %%rax\n\t"
		 "4: orq	0x18(%[a]), %%rax\n\t"
		 "jnz	%l[other]\n\t"
		 SAFE4
		 : : [a] "r" (a), "m" (*a) : "rax", "cc" : other);
	return false;
other:
	return true;
}

static bool same_by_words(const struct short_row *a, const struct short_row *b)
{
	const struct short_row *end = END(a);

	while (a < end && !words_differ(a, b)) {
		a++;
		b++;
	}
	return a == end;
}

static bool is_zero_by_words(const struct short_row *a)
{
	const struct short_row *end = END(a);

	while (a < end && !words_have_a_bit(a))
		a++;
	return a == end;
}

bool ksm_v_pages_same(const void *a, const void *b)
{
	return boot_cpu_has(X86_FEATURE_AVX2) ? same_by_vectors(a, b) : same_by_words(a, b);
}

bool ksm_v_page_is_zero(const void *a)
{
	return boot_cpu_has(X86_FEATURE_AVX2) ? is_zero_by_vectors(a) : is_zero_by_words(a);
}
#endif

#ifdef CONFIG_X86_MCE
#define LINE 64
#define LINES 8

/* Memory fails in units of a cache line, so a byte of each line is read. */
static __always_inline bool lines_fail(const u8 *line)
{
	asm goto("1: testb	$0, 0x000(%[line])\n\t"
		 "2: testb	$0, 0x040(%[line])\n\t"
		 "3: testb	$0, 0x080(%[line])\n\t"
		 "4: testb	$0, 0x0c0(%[line])\n\t"
		 "5: testb	$0, 0x100(%[line])\n\t"
		 "6: testb	$0, 0x140(%[line])\n\t"
		 "7: testb	$0, 0x180(%[line])\n\t"
		 "8: testb	$0, 0x1c0(%[line])\n\t"
		 SAFE8
		 : : [line] "r" (line) : "cc", "memory" : other);
	return false;
other:
	return true;
}

bool ksm_v_page_is_readable(const void *page)
{
	const u8 *line = page, *end = line + PAGE_SIZE;

	while (line < end && !lines_fail(line))
		line += LINES * LINE;
	return line == end;
}
#endif
