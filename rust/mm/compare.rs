// SPDX-License-Identifier: GPL-2.0

//! Whole pages read and compared.
//!
//! On x86, 32 bytes at a time where the processor can: a quarter of the instructions that words take, most
//! of them under the page table lock, where it is decided whether pages are equal. And by instructions
//! whose machine checks the kernel recovers from: memory that has failed unnoticed, of which hosts with
//! much memory have some, must not end the machine because a scanner comes by.
//!
//! C headers: [`arch/x86/include/asm/fpu/api.h`](srctree/arch/x86/include/asm/fpu/api.h),
//! [`arch/x86/include/asm/extable.h`](srctree/arch/x86/include/asm/extable.h)

use crate::mm::page::MappedPage;
#[cfg(CONFIG_X86_64)]
use crate::shim;
#[cfg(not(CONFIG_X86_64))]
use engine::content;

/// Whether two pages are equal, byte for byte. One whose memory fails equals none.
#[cfg(CONFIG_X86_64)]
#[inline]
pub(super) fn same(one: &MappedPage<'_>, other: &MappedPage<'_>) -> bool {
    // SAFETY: Called by threads only; by their invariants both pages are there. They may be written to
    // meanwhile.
    unsafe { shim::ksm_v_pages_same(one.as_ptr(), other.as_ptr()) }
}

/// Whether every byte of a page is zero; false where its memory fails.
#[cfg(CONFIG_X86_64)]
#[inline]
pub(super) fn is_zero(page: &MappedPage<'_>) -> bool {
    // SAFETY: As in `same`.
    unsafe { shim::ksm_v_page_is_zero(page.as_ptr()) }
}

/// Whether two pages are equal, byte for byte.
#[cfg(not(CONFIG_X86_64))]
#[inline]
pub(super) fn same(one: &MappedPage<'_>, other: &MappedPage<'_>) -> bool {
    content::same(one, other)
}

/// Whether every byte of a page is zero.
#[cfg(not(CONFIG_X86_64))]
#[inline]
pub(super) fn is_zero(page: &MappedPage<'_>) -> bool {
    content::is_zero(page)
}

/// Whether all of a page can be read, as far as the architecture can tell.
#[inline]
pub(super) fn is_readable(page: &MappedPage<'_>) -> bool {
    #[cfg(CONFIG_X86_MCE)]
    // SAFETY: By its invariant the page is there.
    let is_readable = unsafe { shim::ksm_v_page_is_readable(page.as_ptr()) };
    #[cfg(not(CONFIG_X86_MCE))]
    let is_readable = {
        let _ = page;
        true
    };
    is_readable
}

/// Reads the word at `index`; some number where its memory fails.
///
/// # Safety
///
/// There must be a word, though its memory may have failed; it may be written to meanwhile.
#[cfg(CONFIG_X86_MCE)]
#[inline]
pub(super) unsafe fn read(words: *const u64, index: usize) -> u64 {
    let value;
    // SAFETY: A load, as the caller promises. A machine check or a fault goes on behind it, as the
    // exception table of this module says.
    unsafe {
        core::arch::asm!(
            "2: mov {value}, qword ptr [{words} + 8 * {index}]",
            "3:",
            ".pushsection __ex_table, \"aM\", @progbits, {size}",
            ".balign 4",
            ".long 2b - .",
            ".long 3b - .",
            ".long {kind}",
            ".popsection",
            words = in(reg) words,
            index = in(reg) index,
            value = lateout(reg) value,
            size = const shim::KSM_V_EXTABLE_SIZE,
            kind = const shim::KSM_V_EX_TYPE_DEFAULT_MCE_SAFE,
            options(nostack, readonly, preserves_flags),
        );
    }
    value
}

/// Reads the word at `index`.
///
/// # Safety
///
/// As above.
#[cfg(not(CONFIG_X86_MCE))]
#[inline]
pub(super) unsafe fn read(words: *const u64, index: usize) -> u64 {
    // SAFETY: Promised by the caller. Volatile: it may be written to.
    unsafe { words.add(index).read_volatile() }
}
