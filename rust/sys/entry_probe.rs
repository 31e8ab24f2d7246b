// SPDX-License-Identifier: GPL-2.0

//! Reports calls to a kernel function that has no hook.
//!
//! C headers: [`include/linux/kprobes.h`](srctree/include/linux/kprobes.h),
//! [`include/linux/irq_work.h`](srctree/include/linux/irq_work.h),
//! [`include/linux/workqueue.h`](srctree/include/linux/workqueue.h)
//!
//! A probe's handler may run in a context like an NMI, where it must not take locks or wake a thread. So it
//! stores the arguments in a slot and raises an interrupt. The interrupt queues a work item, in which the
//! watcher may sleep.

use crate::shim;
use core::mem::offset_of;
use engine::slots::Slots;
use engine::slots::Word;
use kernel::bindings;
use kernel::error::to_result;
use kernel::ffi::c_int;
use kernel::prelude::*;
use kernel::sync::atomic::Acquire;
use kernel::sync::atomic::Atomic;
use kernel::sync::atomic::Relaxed;
use kernel::sync::atomic::Release;
use kernel::types::Opaque;

/// The function that kprobes calls, in a context like an NMI.
pub(crate) type Handler = unsafe extern "C" fn(*mut shim::kprobe, *mut bindings::pt_regs) -> c_int;

/// Registers a probe that calls `handler` at each entry of the kernel function `symbol`, until it is
/// unregistered.
///
/// # Errors
///
/// The errors of `register_kprobe()`: `ENOENT` if there is no such function, `EOPNOTSUPP` if the kernel has
/// no kprobes.
///
/// # Safety
///
/// `probe` must be valid, pinned, and not registered. Once it is registered, it belongs to the kernel.
pub(crate) unsafe fn register(
    probe: *mut shim::kprobe,
    symbol: &'static CStr,
    handler: Handler,
) -> Result {
    // SAFETY: The caller promises that the probe is valid, pinned and not registered. A kprobe consists of
    // numbers, pointers and lists, so zeroes are valid; the kernel sets the remaining fields, and requires
    // them to be zero.
    unsafe {
        probe.write_bytes(0, 1);
        (*probe).symbol_name = symbol.as_char_ptr();
        (*probe).pre_handler = Some(handler);
        to_result(shim::ksm_v_register_kprobe(probe))
    }
}

/// The argument number `index` of the probed function; 0 if the kernel can't read arguments.
///
/// # Safety
///
/// Must be called by a [`Handler`], with the registers that it was given.
pub(crate) unsafe fn argument(regs: *mut bindings::pt_regs, index: u32) -> usize {
    // SAFETY: The caller passes the registers at the entry of a function, which are valid.
    unsafe { shim::ksm_v_regs_get_kernel_argument(regs, index) }
}

/// Most calls that can wait to be reported at a time; further calls are lost.
const SLOTS: usize = 32;

/// Receives calls of a function.
pub(crate) trait Watcher: Send + Sync {
    /// Selects what to report about a call with these first two arguments; `None` to report nothing.
    ///
    /// # Safety
    ///
    /// Must be called at the entry of the function, in the context of a [`Handler`]. The implementation
    /// must not lock, wake a thread, or wait.
    unsafe fn note(&self, arguments: [usize; 2]) -> Option<[usize; 2]> {
        Some(arguments)
    }

    /// Receives what was noted about a call, some time later. Concurrent calls are reported one after the
    /// other, in any order. May sleep.
    fn called(&self, note: [usize; 2]);
}

/// A word of a note.
struct Number(Atomic<usize>);

impl Word for Number {
    fn zero() -> Self {
        Number(Atomic::new(0))
    }

    fn load_acquire(&self) -> usize {
        self.0.load(Acquire)
    }

    fn load_relaxed(&self) -> usize {
        self.0.load(Relaxed)
    }

    fn store_release(&self, value: usize) {
        self.0.store(value, Release);
    }

    fn store_relaxed(&self, value: usize) {
        self.0.store(value, Relaxed);
    }

    fn exchange_acquire(&self, from: usize, to: usize) -> bool {
        self.0.cmpxchg(from, to, Acquire).is_ok()
    }
}

#[pin_data]
struct Node<W> {
    #[pin]
    probe: Opaque<shim::kprobe>,
    #[pin]
    interrupt: Opaque<bindings::irq_work>,
    #[pin]
    work: Opaque<bindings::work_struct>,
    /// Notes about calls. Only the work item takes them, and it never runs twice at a time.
    slots: Slots<Number, SLOTS>,
    watcher: W,
}

/// A probe on the entry of a function. Dropping it removes the probe, after the last call of the watcher.
///
/// # Invariants
///
/// The probe of `node` is registered.
pub(crate) struct EntryProbe<W: Watcher + 'static> {
    node: Pin<KBox<Node<W>>>,
}

// SAFETY: Any thread may remove a probe. A `Watcher` is `Send`.
unsafe impl<W: Watcher> Send for EntryProbe<W> {}
// SAFETY: There are no methods on `&self`, so a shared reference gives access to nothing.
unsafe impl<W: Watcher> Sync for EntryProbe<W> {}

impl<W: Watcher + 'static> EntryProbe<W> {
    /// Watches the kernel function `symbol`.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, and the errors of [`register`].
    pub(crate) fn new(symbol: &'static CStr, watcher: W) -> Result<Self> {
        let node = KBox::pin_init(
            pin_init!(Node {
                // The kernel sets what is not set below.
                probe <- pin_init::init_zeroed(),
                interrupt <- pin_init::init_zeroed(),
                work <- pin_init::init_zeroed(),
                slots: Slots::new(),
                watcher,
            }),
            GFP_KERNEL,
        )?;
        // SAFETY: The node is pinned, zeroed, and known to nobody else yet, so its parts are not in use.
        unsafe {
            shim::ksm_v_init_irq_work(node.interrupt.get(), Some(Self::interrupt));
            shim::ksm_v_init_work(node.work.get(), Some(Self::work));
            register(node.probe.get(), symbol, Self::enter)?;
        }
        // INVARIANT: `register` has just registered the probe.
        Ok(EntryProbe { node })
    }

    /// # Safety
    ///
    /// Must be called by kprobes, with the probe of a node.
    unsafe extern "C" fn enter(probe: *mut shim::kprobe, regs: *mut bindings::pt_regs) -> c_int {
        // SAFETY: The caller passes the probe of a node, and the node lives until the probe is
        // unregistered.
        let node = unsafe { &*probe.byte_sub(offset_of!(Node<W>, probe)).cast::<Node<W>>() };
        // SAFETY: kprobes passes the registers at the entry of the function, and this runs in the context
        // of a handler.
        let note = unsafe {
            let arguments = [self::argument(regs, 0), self::argument(regs, 1)];
            node.watcher.note(arguments)
        };
        let is_noted = note.is_some_and(|note| node.slots.leave(note));
        if is_noted {
            // SAFETY: The interrupt was initialised, and may be queued in any context. If it is queued
            // already, it runs after this, and the work item after it.
            unsafe { bindings::irq_work_queue(node.interrupt.get()) };
        }
        0
    }

    /// # Safety
    ///
    /// Must be called by the kernel, with the `interrupt` of a node.
    unsafe extern "C" fn interrupt(interrupt: *mut bindings::irq_work) {
        // SAFETY: The caller passes the interrupt of a node. `drop` waits for this to return before it
        // frees the node.
        let node = unsafe {
            &*interrupt
                .byte_sub(offset_of!(Node<W>, interrupt))
                .cast::<Node<W>>()
        };
        // SAFETY: The work item was initialised, and the node is not freed before `drop` has waited for it.
        unsafe { shim::ksm_v_queue_work(bindings::system_dfl_wq, node.work.get()) };
    }

    /// # Safety
    ///
    /// Must be called by a workqueue, with the `work` of a node.
    unsafe extern "C" fn work(work: *mut bindings::work_struct) {
        // SAFETY: The caller passes the work item of a node. `drop` waits for this to return before it
        // frees the node.
        let node = unsafe { &*work.byte_sub(offset_of!(Node<W>, work)).cast::<Node<W>>() };
        for note in node.slots.take() {
            node.watcher.called(note);
        }
    }
}

impl<W: Watcher + 'static> Drop for EntryProbe<W> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the probe is registered. Each call waits for what could start the
        // next one, so in this order none of the three is started again after its call.
        unsafe {
            shim::ksm_v_unregister_kprobe(self.node.probe.get());
            bindings::irq_work_sync(self.node.interrupt.get());
            bindings::cancel_work_sync(self.node.work.get());
        }
    }
}
