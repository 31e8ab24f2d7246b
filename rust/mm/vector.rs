// SPDX-License-Identifier: GPL-2.0

//! Whole pages compared 32 bytes at a time, where the processor can: a quarter of the instructions that
//! words take, most of them under the page table lock, where it is decided whether pages are equal.
//!
//! C header: [`arch/x86/include/asm/fpu/api.h`](srctree/arch/x86/include/asm/fpu/api.h)

use crate::mm::page::MappedPage;
use crate::shim;
use engine::content;

/// Whether two pages are equal, byte for byte.
#[inline]
pub(super) fn same(one: &MappedPage<'_>, other: &MappedPage<'_>) -> bool {
    if !is_available() {
        return content::same(one, other);
    }
    // SAFETY: Available, and called by threads only; by their invariants both pages are there. They may
    // be written to meanwhile.
    unsafe { shim::ksm_v_vectors_same(one.as_ptr(), other.as_ptr()) }
}

/// Whether every byte of a page is zero.
#[inline]
pub(super) fn is_zero(page: &MappedPage<'_>) -> bool {
    if !is_available() {
        return content::is_zero(page);
    }
    // SAFETY: As in `same`.
    unsafe { shim::ksm_v_vectors_zero(page.as_ptr()) }
}

#[inline]
fn is_available() -> bool {
    // SAFETY: Reads what was found at boot.
    unsafe { shim::ksm_v_has_vectors() }
}
