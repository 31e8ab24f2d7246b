// SPDX-License-Identifier: GPL-2.0

//! Reads and compares the contents of pages ([`crate::mm::content`]). The comparison that decides about a merge is
//! made in [`crate::mm::verify`].
//!
//! On x86, it reads 32 bytes at a time if the processor can. That takes a quarter of the instructions that
//! words take, and most comparisons run under the page table lock. It uses instructions whose machine
//! checks the kernel recovers from: hosts with much memory have some memory that has failed unnoticed, and
//! reading it must not crash the machine.
//!
//! C headers: [`arch/x86/include/asm/fpu/api.h`](srctree/arch/x86/include/asm/fpu/api.h),
//! [`arch/x86/include/asm/extable.h`](srctree/arch/x86/include/asm/extable.h)

use crate::mm::content::MappedPage;
use crate::mm::content::SampledPage;
#[cfg(CONFIG_X86_64)]
use crate::shim;
#[cfg(not(CONFIG_X86_64))]
use engine::content;
use engine::content::WORDS;
use engine::Content;

impl Content for MappedPage<'_> {
    #[inline]
    fn word(&self, index: usize) -> u64 {
        if index >= WORDS {
            return 0;
        }
        // SAFETY: By the type invariant the page is valid, and `index` is within it. The read is volatile
        // because user space may be writing.
        unsafe { self.words().add(index).read_volatile() }
    }

    #[inline]
    fn is_zero(&self) -> bool {
        is_zero(self)
    }
}

impl Content for SampledPage<'_> {
    #[inline]
    fn word(&self, index: usize) -> u64 {
        if index >= WORDS {
            return 0;
        }
        // SAFETY: By the invariant of `MappedPage` the page is valid, and `index` is within it.
        unsafe { read::<0>(self.0.words(), index) }
    }

    #[inline]
    fn pair(&self, index: u8) -> [u64; 2] {
        const _: () = assert!(2 * (u8::MAX as usize) + 1 < WORDS);
        let first = 2 * usize::from(index);
        // SAFETY: By the invariant of `MappedPage` the page is valid. It has 256 pairs of words, so both words are
        // within it.
        unsafe {
            [
                read::<0>(self.0.words(), first),
                read::<8>(self.0.words(), first),
            ]
        }
    }
}

impl MappedPage<'_> {
    /// Whether all of the page can be read, as far as the architecture can tell. Must be called before a
    /// read of many words: a load from failed memory crashes the machine.
    #[inline]
    pub(crate) fn is_readable(&self) -> bool {
        #[cfg(CONFIG_X86_MCE)]
        // SAFETY: By the type invariant the page is valid; the function recovers if its memory fails.
        let is_readable = unsafe { shim::ksm_v_page_is_readable(self.words().cast()) };
        #[cfg(not(CONFIG_X86_MCE))]
        let is_readable = true;
        is_readable
    }
}

/// Whether two pages are equal, byte for byte, as `pages_identical()` in `include/linux/mm.h` says. A page whose
/// memory fails equals no page.
#[cfg(CONFIG_X86_64)]
#[inline]
pub(super) fn same(one: &MappedPage<'_>, other: &MappedPage<'_>) -> bool {
    // SAFETY: Only threads call this, so vector registers may be used. By the invariant of `MappedPage`
    // both pages are valid. The function tolerates concurrent writes.
    unsafe { shim::ksm_v_pages_same(one.words().cast(), other.words().cast()) }
}

/// Whether every byte of a page is zero; false if its memory fails.
#[cfg(CONFIG_X86_64)]
#[inline]
pub(super) fn is_zero(page: &MappedPage<'_>) -> bool {
    // SAFETY: Only threads call this, so vector registers may be used. By the invariant of `MappedPage` the
    // page is valid. The function tolerates concurrent writes.
    unsafe { shim::ksm_v_page_is_zero(page.words().cast()) }
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

/// Reads the word `BEHIND` bytes behind the one at `index`; returns an arbitrary number if its memory fails.
///
/// # Safety
///
/// There must be such a word. Its memory may have failed, and it may be written to at the same time.
#[cfg(CONFIG_X86_MCE)]
#[inline]
unsafe fn read<const BEHIND: usize>(words: *const u64, index: usize) -> u64 {
    let value;
    // SAFETY: The instruction loads one word, which the caller promises to exist. After a machine check or
    // a fault, execution continues at the label behind the load, as this module's exception table says.
    unsafe {
        core::arch::asm!(
            "2: mov {value}, qword ptr [{words} + 8 * {index} + {behind}]",
            "3:",
            ".pushsection __ex_table, \"aM\", @progbits, {size}",
            ".balign 4",
            ".long 2b - .",
            ".long 3b - .",
            ".long {kind}",
            ".popsection",
            words = in(reg) words,
            index = in(reg) index,
            behind = const BEHIND,
            value = lateout(reg) value,
            size = const shim::KSM_V_EXTABLE_SIZE,
            kind = const shim::KSM_V_EX_TYPE_DEFAULT_MCE_SAFE,
            options(nostack, readonly, preserves_flags),
        );
    }
    value
}

/// Reads the word `BEHIND` bytes behind the one at `index`.
///
/// # Safety
///
/// There must be such a word. It may be written to at the same time.
#[cfg(not(CONFIG_X86_MCE))]
#[inline]
unsafe fn read<const BEHIND: usize>(words: *const u64, index: usize) -> u64 {
    // SAFETY: The caller promises that there is such a word. The read is volatile because of concurrent writes.
    unsafe { words.add(index).byte_add(BEHIND).read_volatile() }
}
