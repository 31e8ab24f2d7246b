// SPDX-License-Identifier: GPL-2.0

//! Traces merged pages that the kernel breaks apart by copy-on-write: the event `ksm_v_break`.
//!
//! C headers: [`include/linux/kprobes.h`](srctree/include/linux/kprobes.h),
//! [`include/linux/tracepoint.h`](srctree/include/linux/tracepoint.h)
//!
//! The kernel has no hook for that. So a probe is put on `do_wp_page()` in `mm/memory.c` while the event is
//! traced. That function handles a write to a read-only entry, or a pin that needs an exclusive page; it
//! always copies a merged page (`wp_can_reuse_anon_folio()`). The page table is locked at its entry.
//!
//! The event may be traced before the module has begun and after it has ended. So nothing here uses what
//! the module initialises or destroys, such as the functions in `imports.c`.

use crate::mm::page::Kind;
use crate::mm::page::PageRef;
use crate::mm::vma::StableVma;
use crate::shim;
use crate::sys::entry_probe;
use crate::trace;
use core::ptr::NonNull;
use engine::Frame;
use kernel::bindings;
use kernel::ffi::c_int;
use kernel::prelude::*;
use kernel::types::Opaque;

/// The kernel function that copies a page which must not be written to.
const COPIER: &CStr = c"do_wp_page";

/// The probe, registered while the event is traced.
struct Probe(Opaque<shim::kprobe>);

// SAFETY: Only the two functions of the tracepoint below use the probe, and the kernel calls them one at a
// time.
unsafe impl Sync for Probe {}

/// The probe on [`COPIER`].
static PROBE: Probe = Probe(Opaque::zeroed());

/// Begins to trace breaks. If the kernel can't be probed there, the event can't be traced.
///
/// # Safety
///
/// Must be called by the tracepoint only.
#[no_mangle]
unsafe extern "C" fn ksm_v_break_reg() -> c_int {
    let probe = PROBE.0.get();
    // SAFETY: The probe is not registered, and a static does not move.
    let armed = unsafe { entry_probe::register(probe, COPIER, enter) };
    armed.map_or_else(
        |error| {
            pr_err!("can't probe do_wp_page() ({error:?}): ksm_v_break can't be traced\n");
            error.to_errno()
        },
        |()| 0,
    )
}

/// Ends tracing of breaks.
///
/// # Safety
///
/// Must be called by the tracepoint only, after `ksm_v_break_reg` has succeeded.
#[no_mangle]
unsafe extern "C" fn ksm_v_break_unreg() {
    // SAFETY: The probe is registered. The function waits until all calls of the handler have ended.
    unsafe { shim::ksm_v_unregister_kprobe(PROBE.0.get()) };
}

/// # Safety
///
/// Must be called by kprobes, at the entry of `do_wp_page()`.
unsafe extern "C" fn enter(_probe: *mut shim::kprobe, regs: *mut bindings::pt_regs) -> c_int {
    // SAFETY: The first argument of `do_wp_page()` is the fault, which nobody changes now; it is null if
    // the kernel can't read arguments. At this point the VMA and the page table are locked.
    unsafe {
        let fault = entry_probe::argument(regs, 0) as *const bindings::vm_fault;
        fault.as_ref().inspect(|fault| tell(fault));
    }
    0
}

/// Hits the tracepoint, if the fault is about a merged page.
///
/// # Safety
///
/// The VMA and the page table of the fault must be locked, as at the entry of `do_wp_page()`.
unsafe fn tell(fault: &bindings::vm_fault) {
    // SAFETY: A reference to the fault is valid, so its fields may be read.
    let (vma, addr) = unsafe { (shim::ksm_v_vmf_vma(fault), shim::ksm_v_vmf_address(fault)) };
    let Some(vma) = NonNull::new(vma) else {
        return;
    };
    // SAFETY: The caller promises that the VMA is locked.
    let vma = unsafe { StableVma::from_raw(vma) };
    // SAFETY: The fault is about an entry of the lowest level, so `orig_pte` is set.
    let (pfn, is_zero) = unsafe {
        let pte = shim::ksm_v_vmf_orig_pte(fault);
        (shim::ksm_v_pte_pfn(pte), shim::ksm_v_is_ksm_zero_pte(pte))
    };
    let frame = Frame(pfn as u64);
    if vma.is_special() || !(is_zero || is_merged(frame)) {
        return;
    }
    let is_write = fault.flags & bindings::fault_flag_FAULT_FLAG_UNSHARE == 0;
    trace::break_apart(vma.mm(), addr, frame, is_zero, is_write);
}

/// Whether a merged page is on `frame`. The page table lock keeps the page there.
fn is_merged(frame: Frame) -> bool {
    PageRef::get(frame).is_some_and(|page| page.kind() == Kind::Merged)
}
