// SPDX-License-Identifier: GPL-2.0

//! Tells of calls to a kernel function which tells nobody itself.
//!
//! C headers: [`include/linux/kprobes.h`](srctree/include/linux/kprobes.h),
//! [`include/linux/irq_work.h`](srctree/include/linux/irq_work.h),
//! [`include/linux/workqueue.h`](srctree/include/linux/workqueue.h)
//!
//! A probe's handler may run in a context like that of an NMI, where nothing can be locked or
//! woken. So it leaves a note of the arguments in a slot and raises an interrupt, which queues a work
//! item, in which the watcher may sleep.

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

/// What kprobes call, in a context like that of an NMI.
pub(crate) type Handler = unsafe extern "C" fn(*mut shim::kprobe, *mut bindings::pt_regs) -> c_int;

/// Has `handler` called at each entry of the kernel function `symbol`, until the probe is unregistered.
///
/// # Errors
///
/// Those of `register_kprobe()`: `ENOENT` where there is no such function, `EOPNOTSUPP` where the
/// kernel has no kprobes.
///
/// # Safety
///
/// `probe` must be valid, pinned, and not registered. Once it is, it belongs to the kernel.
pub(crate) unsafe fn register(
    probe: *mut shim::kprobe,
    symbol: &'static CStr,
    handler: Handler,
) -> Result {
    // SAFETY: Promised by the caller. All that is not set here is for the kernel to set, which wants
    // it to be zero: a kprobe consists of numbers, pointers and lists.
    unsafe {
        probe.write_bytes(0, 1);
        (*probe).symbol_name = symbol.as_char_ptr();
        (*probe).pre_handler = Some(handler);
        to_result(shim::ksm_v_register_kprobe(probe))
    }
}

/// The argument number `index` of the function; 0 where the kernel can't tell.
///
/// # Safety
///
/// To be called by a [`Handler`], with what it was given.
pub(crate) unsafe fn argument(regs: *mut bindings::pt_regs, index: u32) -> usize {
    // SAFETY: Promised by the caller.
    unsafe { shim::ksm_v_regs_get_kernel_argument(regs, index) }
}

/// Calls that may wait to be told at one time; further ones are not told.
const SLOTS: usize = 32;

/// Whoever wants to know of calls.
pub(crate) trait Watcher: Send + Sync {
    /// Picks what to tell of a call with these as its first two arguments; `None`: nothing.
    ///
    /// # Safety
    ///
    /// Called at the entry of the function, in the context of a [`Handler`]: must not lock, nor wake,
    /// nor wait.
    unsafe fn note(&self, arguments: [usize; 2]) -> Option<[usize; 2]> {
        Some(arguments)
    }

    /// Is told what was noted of a call, a moment later. Concurrent calls are told one after the
    /// other, in any order. May sleep.
    fn called(&self, note: [usize; 2]);
}

/// What notes consist of.
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
    /// What was noted of calls. Only the work item takes it, which never runs twice at a time.
    slots: Slots<Number, SLOTS>,
    watcher: W,
}

/// A probe on the entry of a function. Dropping it removes it, after the last call to the watcher.
///
/// # Invariants
///
/// The probe of `node` is registered.
pub(crate) struct EntryProbe<W: Watcher + 'static> {
    node: Pin<KBox<Node<W>>>,
}

// SAFETY: Probes may be removed from any thread.
unsafe impl<W: Watcher> Send for EntryProbe<W> {}
// SAFETY: There is nothing to reach through a shared reference.
unsafe impl<W: Watcher> Sync for EntryProbe<W> {}

impl<W: Watcher + 'static> EntryProbe<W> {
    /// Watches the kernel function `symbol`.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; those of [`register`].
    pub(crate) fn new(symbol: &'static CStr, watcher: W) -> Result<Self> {
        let node = KBox::pin_init(
            pin_init!(Node {
                // All that is not set below is for the kernel to set.
                probe <- pin_init::init_zeroed(),
                interrupt <- pin_init::init_zeroed(),
                work <- pin_init::init_zeroed(),
                slots: Slots::new(),
                watcher,
            }),
            GFP_KERNEL,
        )?;
        // SAFETY: The node is pinned and known to nobody else yet.
        unsafe {
            shim::ksm_v_init_irq_work(node.interrupt.get(), Some(Self::interrupt));
            shim::ksm_v_init_work(node.work.get(), Some(Self::work));
            register(node.probe.get(), symbol, Self::enter)?;
        }
        // INVARIANT: Just registered.
        Ok(EntryProbe { node })
    }

    /// # Safety
    ///
    /// Called by kprobes, with the probe of a node.
    unsafe extern "C" fn enter(probe: *mut shim::kprobe, regs: *mut bindings::pt_regs) -> c_int {
        // SAFETY: The node lives until the probe is removed.
        let node = unsafe { &*probe.byte_sub(offset_of!(Node<W>, probe)).cast::<Node<W>>() };
        // SAFETY: The registers are those at the entry of the function.
        let note = unsafe {
            let arguments = [self::argument(regs, 0), self::argument(regs, 1)];
            node.watcher.note(arguments)
        };
        let is_noted = note.is_some_and(|note| node.slots.leave(note));
        if is_noted {
            // SAFETY: It was initialised; may be called in any context. Where it is queued already, it
            // runs after this, and the work item after it.
            unsafe { bindings::irq_work_queue(node.interrupt.get()) };
        }
        0
    }

    /// # Safety
    ///
    /// Called by the kernel, with the `interrupt` of a node.
    unsafe extern "C" fn interrupt(interrupt: *mut bindings::irq_work) {
        // SAFETY: `drop` waits for this to return before the node goes.
        let node = unsafe {
            &*interrupt
                .byte_sub(offset_of!(Node<W>, interrupt))
                .cast::<Node<W>>()
        };
        // SAFETY: It was initialised.
        unsafe { shim::ksm_v_queue_work(bindings::system_dfl_wq, node.work.get()) };
    }

    /// # Safety
    ///
    /// Called by a workqueue, with the `work` of a node.
    unsafe extern "C" fn work(work: *mut bindings::work_struct) {
        // SAFETY: As above.
        let node = unsafe { &*work.byte_sub(offset_of!(Node<W>, work)).cast::<Node<W>>() };
        for note in node.slots.take() {
            node.watcher.called(note);
        }
    }
}

impl<W: Watcher + 'static> Drop for EntryProbe<W> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant it is registered. In this order none of the three can be
        // started anew once it has been waited for.
        unsafe {
            shim::ksm_v_unregister_kprobe(self.node.probe.get());
            bindings::irq_work_sync(self.node.interrupt.get());
            bindings::cancel_work_sync(self.node.work.get());
        }
    }
}
