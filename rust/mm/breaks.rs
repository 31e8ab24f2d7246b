// SPDX-License-Identifier: GPL-2.0

//! Tells of merged pages that the kernel breaks apart, by its copy-on-write: `ksm_v_break`.
//!
//! C headers: [`include/linux/kprobes.h`](srctree/include/linux/kprobes.h),
//! [`include/linux/tracepoint.h`](srctree/include/linux/tracepoint.h)
//!
//! The kernel tells nobody, so a probe is put on `do_wp_page()` of `mm/memory.c`, for as long as
//! somebody traces the event. That function copies what a write, or a pin, finds in a read-only entry;
//! a merged page it always copies (`wp_can_reuse_anon_folio()`). At its entry the page table is locked.
//!
//! The event may be traced before the module has begun and after it has ended: nothing here uses what
//! either makes, such as the functions in `imports.c`.

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

/// What copies what is not to be written to.
const COPIER: &CStr = c"do_wp_page";

/// The probe, which is registered while the event is traced.
struct Probe(Opaque<shim::kprobe>);

// SAFETY: The kernel has the tracepoint's two functions below called one at a time.
unsafe impl Sync for Probe {}

static PROBE: Probe = Probe(Opaque::zeroed());

/// Has breaks told from now on. Where the kernel can't be probed there, nobody can trace the event.
///
/// # Safety
///
/// To be called by the tracepoint only.
#[no_mangle]
unsafe extern "C" fn ksm_v_break_reg() -> c_int {
    let probe = PROBE.0.get();
    // SAFETY: It is not registered, nor will it move.
    let armed = unsafe { entry_probe::register(probe, COPIER, enter) };
    armed.map_or_else(
        |error| {
            pr_err!("can't probe do_wp_page() ({error:?}): ksm_v_break can't be traced\n");
            error.to_errno()
        },
        |()| 0,
    )
}

/// Has breaks told no more.
///
/// # Safety
///
/// To be called by the tracepoint only, after `ksm_v_break_reg` has succeeded.
#[no_mangle]
unsafe extern "C" fn ksm_v_break_unreg() {
    // SAFETY: It is registered. Waits for calls of the handler to end.
    unsafe { shim::ksm_v_unregister_kprobe(PROBE.0.get()) };
}

/// # Safety
///
/// Called by kprobes, at the entry of `do_wp_page()`.
unsafe extern "C" fn enter(_probe: *mut shim::kprobe, regs: *mut bindings::pt_regs) -> c_int {
    // SAFETY: Its first argument is the fault, which is not being changed; NULL where the kernel
    // can't tell arguments.
    unsafe {
        let fault = entry_probe::argument(regs, 0) as *const bindings::vm_fault;
        fault.as_ref().inspect(|fault| tell(fault));
    }
    0
}

/// # Safety
///
/// As at the entry of `do_wp_page()`, the area and the page table must be locked.
unsafe fn tell(fault: &bindings::vm_fault) {
    // SAFETY: The fault is in place.
    let (vma, addr) = unsafe { (shim::ksm_v_vmf_vma(fault), shim::ksm_v_vmf_address(fault)) };
    let Some(vma) = NonNull::new(vma) else {
        return;
    };
    // SAFETY: Promised by the caller.
    let vma = unsafe { StableVma::from_raw(vma) };
    // SAFETY: The fault is about an entry of the lowest level.
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

/// The page table lock keeps the page there.
fn is_merged(frame: Frame) -> bool {
    PageRef::get(frame).is_some_and(|page| page.kind() == Kind::Merged)
}
